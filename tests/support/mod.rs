//! What the integration tests share: a folder of its own for each test, tiny checkpoints of random
//! numbers in it, and runs of the binary there. Every path handed to the binary is relative to that
//! folder, so that no output names the machine.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic)]

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name of the one file of a checkpoint that is not sharded.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The name of the index of a sharded checkpoint.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Averages the models `a` and `b`.
pub(crate) const LINEAR: &str = "\
merge_method: linear
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: 0.5}}
";

/// A folder that vanishes with the test, in which the binary runs.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

/// What a run of the binary left.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The JSON on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// With the trained models of `merge-configs` as `models/`, and its quickstart recipe.
    pub(crate) fn with_trained_models() -> Self {
        Self::new().trained_models()
    }

    /// In memory (a file's blocks there are the pages that were written or read).
    pub(crate) fn in_memory() -> Self {
        Self { folder: tempfile::tempdir_in("/dev/shm").unwrap() }
    }

    /// Adds what [`Sandbox::with_trained_models`] has.
    pub(crate) fn trained_models(self) -> Self {
        let sandbox = self;
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("merge-configs");
        for entry in std::fs::read_dir(configs.join("models")).unwrap() {
            let folder = entry.unwrap().path();
            let name = folder.file_name().unwrap().to_str().unwrap().to_string();
            for file in std::fs::read_dir(&folder).unwrap() {
                let file = file.unwrap().path();
                let bytes = std::fs::read(&file).unwrap();
                let file = file.file_name().unwrap().to_str().unwrap();
                sandbox.write(&format!("models/{name}/{file}"), bytes);
            }
        }
        sandbox.write("quickstart.yml", std::fs::read(configs.join("quickstart.yml")).unwrap());
        sandbox
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap()
    }

    pub(crate) fn read_json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.read(path)).unwrap()
    }

    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Writes an unsharded checkpoint.
    pub(crate) fn model(&self, name: &str, config: &Value, tensors: &[Tensor]) {
        self.write(&format!("{name}/config.json"), config.to_string());
        self.write(&format!("{name}/{SINGLE}"), shard(tensors));
    }

    /// Writes a checkpoint of several shards with an index of `weight_map`.
    pub(crate) fn sharded(&self, name: &str, shards: &[(&str, &[Tensor])], weight_map: &Value) {
        self.write(&format!("{name}/config.json"), config(2).to_string());
        for (file, tensors) in shards {
            self.write(&format!("{name}/{file}"), shard(tensors));
        }
        self.write(&format!("{name}/{INDEX}"), json!({"weight_map": weight_map}).to_string());
    }

    /// The binary, to be run in this folder with these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_cognate")), args)
    }

    /// Any program, to be run likewise.
    pub(crate) fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("COGNATE_CACHE", self.path(".cache"))
            .env("COLUMNS", "100")
            // Nothing is asked of the Hub, and no cache but the sandbox's own is looked into.
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", ".hf")
            .env_remove("HF_HUB_CACHE")
            .env_remove("HUGGINGFACE_HUB_CACHE")
            .env_remove("HF_TOKEN")
            .env_remove("HUGGING_FACE_HUB_TOKEN")
            .env_remove("COGNATE_ISA")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        finish(&mut self.command(args))
    }

    /// A run that is to succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "cognate {args:?}\n{}{}", run.stdout, run.stderr);
        run
    }

    /// A run that is to fail with this exit code, nothing on stdout and one screen on stderr.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        one_screen(self.run(args), code)
    }

    /// A merge by the recipe's text that is to succeed. Whatever it is of, what was written is what its
    /// lineage records, and what the record says of the inputs makes it again.
    pub(crate) fn merge(&self, recipe: &str, out: &str, more: &[&str]) -> Run {
        self.write("recipe.yml", recipe);
        let run = self.ok(&[&["merge", "recipe.yml", "-o", out, "--json"], more].concat());
        // Without digests there is nothing to hold it to.
        if !more.contains(&"--digests") {
            self.ok(&["verify", out, "--rederive", "all", "--quiet"]);
        }
        run
    }

    /// The tensors of a checkpoint, sharded or not.
    pub(crate) fn tensors(&self, model: &str) -> BTreeMap<String, Tensor> {
        let mut all = BTreeMap::new();
        for (path, bytes) in files(&self.path(model)) {
            if !path.ends_with(".safetensors") || path.contains('/') {
                continue;
            }
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                let tensor = Tensor {
                    name: name.clone(),
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().to_vec(),
                };
                assert!(all.insert(name, tensor).is_none(), "a tensor twice");
            }
        }
        all
    }
}

/// The recipes of a corpus (see `tests/recipes.rs`): the name of each, and what follows it.
pub(crate) fn corpus(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("=== ").skip(1).map(|entry| entry.split_once('\n').unwrap())
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The message of a failed run, once its form is checked.
pub(crate) fn one_screen(run: Run, code: i32) -> String {
    assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    assert!(run.stderr.lines().count() <= 16, "more than a screen: {}", run.stderr);
    run.stderr
}

/// Every file below a folder with its bytes, by relative path.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Every digest in the lineage is that of the stored bytes, and every input tensor is used or
/// dropped with a reason.
pub(crate) fn accounted(sandbox: &Sandbox, out: &str) {
    let lineage = sandbox.read_json(&format!("{out}/lineage.json"));
    let stored = sandbox.tensors(out);
    let made = lineage["output"]["tensors"].as_array().unwrap();
    assert_eq!(made.len(), stored.len());
    for tensor in made {
        let bytes = &stored[tensor["name"].as_str().unwrap()].bytes;
        assert_eq!(tensor["sha256"], sha256(bytes), "{tensor}");
    }
    let used: BTreeSet<(String, String)> = made
        .iter()
        .flat_map(|tensor| tensor["inputs"].as_array().unwrap())
        .map(|input| (input["model"].to_string(), input["tensor"].to_string()))
        .collect();
    for input in lineage["inputs"].as_array().unwrap() {
        let stored = sandbox.tensors(input["model"].as_str().unwrap());
        assert_eq!(input["tensors"].as_object().unwrap().len(), stored.len());
        let parts: BTreeSet<&str> = input["made_of"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| {
                used.contains(&(input["model"].to_string(), json!(name).to_string()))
            })
            .flat_map(|(_, parts)| parts.as_array().unwrap())
            .map(|part| part.as_str().unwrap())
            .collect();
        for (name, tensor) in &stored {
            assert_eq!(input["tensors"][name]["sha256"], sha256(&tensor.bytes), "{name}");
            // A tensor may be seen under the name of another.
            let used = used.contains(&(input["model"].to_string(), json!(name).to_string()))
                && input["made_of"].get(name).is_none();
            let used = used || parts.contains(name.as_str());
            let reason = input["dropped"][name].as_str().is_some_and(|reason| !reason.is_empty());
            assert!(used != reason, "{name}: used {used}, dropped {reason}");
        }
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small `config.json`.
pub(crate) fn config(layers: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "torch_dtype": "float32",
    })
}

/// A tensor to store, or as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    /// Floats between -1 and 1 that follow from the name and the seed.
    pub(crate) fn random(name: &str, dtype: Dtype, shape: &[usize], seed: u64) -> Self {
        let mut state = name.bytes().fold(seed + 1, |state, byte| mix(state ^ u64::from(byte)));
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                (mix(state) >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        Self::of(name, dtype, shape, &values)
    }

    /// These values, rounded to the dtype.
    pub(crate) fn of(name: &str, dtype: Dtype, shape: &[usize], values: &[f32]) -> Self {
        let bytes = match dtype {
            Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::I64 => values.iter().flat_map(|x| (*x as i64).to_le_bytes()).collect(),
            other => panic!("no values of {other}"),
        };
        Self { name: name.to_string(), dtype, shape: shape.to_vec(), bytes }
    }

    /// The values of a float tensor.
    pub(crate) fn values(&self) -> Vec<f32> {
        let pair = |b: &[u8]| [b[0], b[1]];
        match self.dtype {
            Dtype::F32 => {
                self.bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            Dtype::F16 => {
                self.bytes.chunks(2).map(|b| f16::from_le_bytes(pair(b)).to_f32()).collect()
            }
            Dtype::BF16 => {
                self.bytes.chunks(2).map(|b| bf16::from_le_bytes(pair(b)).to_f32()).collect()
            }
            other => panic!("no values of {other}"),
        }
    }
}

/// The finaliser of SplitMix64.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The tensors of a tiny Llama.
pub(crate) fn llama(layers: usize, seed: u64) -> Vec<Tensor> {
    let mut tensors = vec![
        Tensor::random("lm_head.weight", Dtype::F32, &[16, 8], seed),
        Tensor::random("model.embed_tokens.weight", Dtype::F32, &[16, 8], seed),
        Tensor::random("model.norm.weight", Dtype::F32, &[8], seed),
    ];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.push(Tensor::random(&name("input_layernorm"), Dtype::F32, &[8], seed));
        tensors.push(Tensor::random(&name("mlp.up_proj"), Dtype::F32, &[12, 8], seed));
    }
    tensors
}

/// The bytes of a safetensors file.
pub(crate) fn shard(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap();
        (tensor.name.as_str(), view)
    });
    safetensors::serialize(views, None).unwrap()
}
