//! Tiny dense models of the families that mixtures are made of, and the logits of what is made of them.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::support::{SINGLE, Sandbox, Tensor, accounted, shard};
use cognate::eval::decoder::{Decoder, Options};
use cognate::model::Checkpoint;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Words of the tiny models' tokenizer: `w0` to `w66`.
const WORDS: usize = 67;

/// A text of tokens that no prompt of the tests begins with.
pub(crate) const IDS: [u32; 17] = [5, 41, 7, 66, 3, 3, 18, 29, 60, 2, 11, 50, 33, 8, 9, 21, 64];

/// Writes a tiny model of `tests/data/golden` under a name, with a tokenizer, its config changed by `edit`,
/// its weights in float32.
pub(crate) fn tiny(sandbox: &Sandbox, name: &str, variant: &str, edit: impl FnOnce(&mut Value)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(variant);
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    edit(&mut config);
    for key in ["torch_dtype", "dtype"] {
        if config.get(key).is_some() {
            config[key] = json!("float32");
        }
    }
    sandbox.write(&format!("{name}/config.json"), config.to_string());
    let bytes = std::fs::read(folder.join(SINGLE)).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = stored.tensors().into_iter().map(|(name, view)| {
        let (dtype, shape) = (view.dtype(), view.shape().to_vec());
        let stored = Tensor { name: name.clone(), dtype, shape, bytes: view.data().to_vec() };
        Tensor::of(&name, safetensors::Dtype::F32, &stored.shape, &stored.values())
    });
    sandbox.write(&format!("{name}/{SINGLE}"), shard(&tensors.collect::<Vec<_>>()));
    tokenizer(sandbox, name);
}

/// Writes a tokenizer of words.
pub(crate) fn tokenizer(sandbox: &Sandbox, name: &str) {
    let vocab: serde_json::Map<String, Value> =
        (0..WORDS).map(|id| (format!("w{id}"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    sandbox.write(&format!("{name}/tokenizer.json"), tokenizer.to_string());
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w0"});
    sandbox.write(&format!("{name}/tokenizer_config.json"), config.to_string());
}

/// Writes a model like another, every weight changed a little.
pub(crate) fn tuned(sandbox: &Sandbox, name: &str, of: &str, seed: u64) {
    changed(sandbox, name, of, |tensor| {
        let noise = Tensor::random(&tensor.name, tensor.dtype, &tensor.shape, seed).values();
        let values: Vec<f32> =
            tensor.values().iter().zip(noise).map(|(x, z)| x + 0.1 * x.abs() * z).collect();
        Tensor::of(&tensor.name, tensor.dtype, &tensor.shape, &values)
    });
}

/// Writes a model like another, every tensor changed by `change`.
pub(crate) fn changed(sandbox: &Sandbox, name: &str, of: &str, change: impl Fn(Tensor) -> Tensor) {
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        if sandbox.exists(&format!("{of}/{file}")) {
            sandbox.write(&format!("{name}/{file}"), sandbox.read(&format!("{of}/{file}")));
        }
    }
    let tensors: Vec<Tensor> = sandbox.tensors(of).into_values().map(change).collect();
    sandbox.write(&format!("{name}/{SINGLE}"), shard(&tensors));
}

/// Changes a model's config.
pub(crate) fn edit(sandbox: &Sandbox, model: &str, edit: impl FnOnce(&mut Value)) {
    let path = format!("{model}/config.json");
    let mut config = sandbox.read_json(&path);
    edit(&mut config);
    sandbox.write(&path, config.to_string());
}

/// The logits of a model.
pub(crate) fn logits(sandbox: &Sandbox, model: &str, ids: &[u32]) -> Vec<f32> {
    let checkpoint = Checkpoint::open(model, &sandbox.path(model)).unwrap();
    let options = Options { memory: 1 << 30, threads: 1, batch: None };
    let decoder = Decoder::open(&checkpoint, &options).unwrap_or_else(|e| panic!("{e}"));
    decoder.logits(ids).unwrap()
}

/// The largest difference.
pub(crate) fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let most = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // Not a number is as far apart as can be.
    most.fold(0.0, |most, x| if x <= most { most } else { x })
}

/// A recipe of a mixture: its keys besides `experts`, and the models, each with a text of its own.
pub(crate) fn recipe(keys: &str, experts: &[&str]) -> String {
    let mut text = format!("{keys}experts:\n");
    for (i, expert) in experts.iter().enumerate() {
        let own = [3 * i + 1, 7 * i + 2, 5 * i + 3].map(|id| format!("w{id}")).join(" ");
        text += &format!("  - {{source_model: {expert}, positive_prompts: [{own}]}}\n");
    }
    text
}

/// The name of a tensor of an expert in a mixture, and of the same in the dense model.
pub(crate) fn expert_tensors(model_type: &str, layer: usize, expert: usize) -> [[String; 2]; 3] {
    let maps = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];
    maps.map(|(short, long)| {
        let own = match model_type {
            "mixtral" => format!("block_sparse_moe.experts.{expert}.{short}"),
            _ => format!("mlp.experts.{expert}.{long}"),
        };
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        [name(&own), name(&format!("mlp.{long}"))]
    })
}

/// The name of a router.
pub(crate) fn router(model_type: &str, layer: usize) -> String {
    let part = if model_type == "mixtral" { "block_sparse_moe" } else { "mlp" };
    format!("model.layers.{layer}.{part}.gate.weight")
}

/// The tiny dense model, `architecture`, the mixture's `model_type`, and whether it has a shared expert.
pub(crate) const MIXTURES: [(&str, &str, &str, bool); 5] = [
    ("mistral", "mixtral", "mixtral", false),
    ("llama_linear", "deepseek", "deepseek", true),
    ("llama_linear", "deepseek", "deepseek", false),
    ("qwen2", "qwen", "qwen2_moe", true),
    ("qwen3", "qwen", "qwen3_moe", false),
];

/// The experts of [`mixture`].
pub(crate) const EXPERTS: [&str; 3] = ["one", "two", "three"];

/// A tiny model as `base`, three like it, and a mixture of those three as `mixture`.
pub(crate) fn mixture(variant: &str, architecture: &str, shared: bool, more: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    tiny(&sandbox, "base", variant, |_| ());
    for (seed, name) in EXPERTS.into_iter().enumerate() {
        tuned(&sandbox, name, "base", seed as u64);
    }
    let shared = if shared { "shared_experts: [{source_model: base}]\n" } else { "" };
    let keys = format!("base_model: base\narchitecture: {architecture}\n{shared}{more}");
    sandbox.merge(&recipe(&keys, &EXPERTS), "mixture", &[]);
    sandbox
}

/// A merge by a recipe about `mixture`, everything accounted for.
pub(crate) fn make(sandbox: &Sandbox, keys: &str, out: &str) -> BTreeMap<String, Tensor> {
    sandbox.merge(&format!("mixture: mixture\n{keys}"), out, &[]);
    accounted(sandbox, out);
    sandbox.tensors(out)
}

/// Whether a tensor belongs to an MLP or a mixture.
pub(crate) fn is_mlp(name: &str) -> bool {
    name.contains(".mlp.") || name.contains(".block_sparse_moe.")
}

/// The rows of a matrix.
pub(crate) fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.values().chunks(tensor.shape[1]).map(<[f32]>::to_vec).collect()
}

/// The length of a row.
pub(crate) fn norm(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// The mean length of rows.
pub(crate) fn mean_norm(rows: &[Vec<f32>]) -> f64 {
    rows.iter().map(|row| norm(row)).sum::<f64>() / rows.len() as f64
}
