//! Bad input ends with exit code 2, soon, before any weight is read, and with a message that names
//! the place, the key, and what to write instead.
//!
//! The weights are holes in files in memory, where a page that is read takes a block: no block more
//! after a run means that no weight was read. A merge that does read some shows that it would be
//! seen.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use safetensors::Dtype::F32;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{Run, SINGLE, Sandbox, Tensor, config, corpus, llama, one_screen};

/// What a refusal may take.
const LIMIT: Duration = Duration::from_secs(2);

/// A run that is stopped at the limit. A machine that is busy with other things gets two more tries.
fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    for _ in 0..3 {
        let start = Instant::now();
        let mut command = assert_cmd::Command::from_std(sandbox.command(args));
        let output = command.timeout(LIMIT).output().unwrap();
        if output.status.code().is_some() && start.elapsed() < LIMIT {
            return Run {
                code: output.status.code(),
                stdout: String::from_utf8(output.stdout).unwrap(),
                stderr: String::from_utf8(output.stderr).unwrap(),
            };
        }
    }
    panic!("{args:?} took more than {LIMIT:?} three times");
}

/// The trained models with others that do not fit them, and adapters.
fn models() -> Sandbox {
    let sandbox = Sandbox::in_memory().trained_models();
    let copy = |name: &str| {
        for file in ["config.json", "tokenizer.json", SINGLE] {
            sandbox
                .write(&format!("{name}/{file}"), sandbox.read(&format!("models/ft-code/{file}")));
        }
    };
    copy("models/odd");
    copy("models/renumbered");
    let mut tokenizer = sandbox.read_json("models/renumbered/tokenizer.json");
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let [a, b] = ["a", "b"].map(|token| vocabulary[token].clone());
    vocabulary.insert("a".into(), b);
    vocabulary.insert("b".into(), a);
    sandbox.write("models/renumbered/tokenizer.json", tokenizer.to_string());
    let mut config = sandbox.read_json("models/base/config.json");
    config["num_hidden_layers"] = 2.into();
    let mut tensors: Vec<Tensor> = sandbox.tensors("models/base").into_values().collect();
    tensors.retain(|t| !t.name.contains("layers.2.") && !t.name.contains("layers.3."));
    sandbox.model("models/short", &config, &tensors);
    let config = json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 1});
    let names = ["transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"];
    let tensors = names.map(|name| Tensor::random(name, F32, &[128, 128], 1));
    sandbox.model("models/gpt2", &config, &tensors);
    adapter(&sandbox, "gpt2", json!("openai-community/gpt2"), "transformer.h.0.attn.c_attn", 128);
    adapter(&sandbox, "wide", Value::Null, "model.layers.0.self_attn.q_proj", 256);
    sandbox
}

/// A LoRA adapter of rank 3 for one module with so many inputs and 128 outputs.
fn adapter(sandbox: &Sandbox, name: &str, base: Value, module: &str, inputs: usize) {
    let config = json!({
        "peft_type": "LORA", "base_model_name_or_path": base, "r": 3, "lora_alpha": 6,
        "target_modules": [module.rsplit('.').next()], "bias": "none", "fan_in_fan_out": false,
    });
    let part = |end: &str, shape: [usize; 2]| {
        Tensor::random(&format!("base_model.model.{module}.{end}.weight"), F32, &shape, 1)
    };
    let parts = [part("lora_A", [3, inputs]), part("lora_B", [128, 3])];
    sandbox.write(&format!("adapters/{name}/adapter_config.json"), config.to_string());
    sandbox.write(&format!("adapters/{name}/adapter_model.safetensors"), support::shard(&parts));
}

/// Weight files whose weights are holes, with the blocks they take.
struct Holes(BTreeMap<PathBuf, u64>);

impl Holes {
    /// Makes holes of all weights below a folder; headers stay.
    fn make(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        for path in support::files(folder).into_keys() {
            let path = folder.join(path);
            if path.extension().is_none_or(|ending| ending != "safetensors") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(header).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            files.insert(path.clone(), path.metadata().unwrap().blocks());
        }
        assert!(!files.is_empty());
        Self(files)
    }

    /// The files of which a weight was read.
    fn read(&self) -> Vec<&Path> {
        let grown =
            self.0.iter().filter(|(path, blocks)| path.metadata().unwrap().blocks() != **blocks);
        grown.map(|(path, _)| path.as_path()).collect()
    }
}

/// Merges every recipe of a corpus, which is to be refused, and collects the messages. The line
/// behind a name says `LINE | KEY | TEXT …`; a first line `# MODEL: JSON` of a recipe edits a config.
fn refused(text: &str) -> String {
    let sandbox = models();
    let whole = sandbox.read_json("models/odd/config.json");
    let holes = Holes::make(&sandbox.path(""));
    let mut all = String::new();
    let mut wrong = Vec::new();
    for (name, rest) in corpus(text) {
        let (expected, recipe) = rest.split_once('\n').unwrap();
        let (line, says) = expected.split_once(" | ").unwrap();
        let mut edited = whole.clone();
        if let Some((model, edit)) = recipe.strip_prefix("# ").and_then(|r| r.split_once(": ")) {
            assert_eq!(model, "models/odd");
            let edit: Value = serde_json::from_str(edit.lines().next().unwrap()).unwrap();
            edited.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        }
        sandbox.write("models/odd/config.json", edited.to_string());
        sandbox.write("recipe.yml", recipe);
        if line == "warning" {
            let run = run(&sandbox, &["merge", "recipe.yml", "-o", "out", "--dry-run"]);
            assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
            let warnings = run.stdout.lines().chain(run.stderr.lines());
            let warnings: Vec<&str> = warnings.filter(|line| says_all(line, says)).collect();
            assert_eq!(warnings.len(), 1, "{name}: {}{}", run.stdout, run.stderr);
            writeln!(all, "## {name}\n{}\n", warnings[0]).unwrap();
            continue;
        }
        let message = one_screen(run(&sandbox, &["merge", "recipe.yml", "-o", "out"]), 2);
        let key = says.split(" | ").next().unwrap();
        let place = format!("recipe.yml:{line}:");
        let key = format!("\n  key       {key}\n");
        for part in [&place, &key, "\nhint: "] {
            if !message.contains(part) {
                wrong.push(format!("{name}: no {part:?}\n{message}"));
            }
        }
        if !says_all(&message, says) {
            wrong.push(format!("{name}: not all of {says:?}\n{message}"));
        }
        writeln!(all, "## {name}\n{message}").unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(holes.read(), Vec::<&Path>::new(), "weights were read");
    assert!(!sandbox.exists("out") && !sandbox.exists(".out.cognate-partial"));
    all
}

fn says_all(message: &str, says: &str) -> bool {
    says.split(" | ").all(|part| message.contains(part))
}

#[test]
fn recipes_that_are_refused() {
    insta::assert_snapshot!("refused", refused(include_str!("data/recipes/refused.txt")));
}

#[test]
fn models_that_are_incompatible() {
    insta::assert_snapshot!("incompatible", refused(include_str!("data/recipes/incompatible.txt")));
}

/// The measure of the tests above: a plan that samples weights is seen to have read them.
#[test]
fn weights_that_are_read_are_seen() {
    let sandbox = models();
    let holes = Holes::make(&sandbox.path(""));
    assert_eq!(holes.read(), Vec::<&Path>::new());
    sandbox.ok(&["plan", "quickstart.yml"]);
    let read: Vec<String> = holes.read().iter().map(|path| path.display().to_string()).collect();
    for model in ["base", "ft-code", "ft-prose"] {
        assert!(read.iter().any(|path| path.contains(&format!("models/{model}/"))), "{read:?}");
    }
}

/// Recipes of at most 1 MiB that are made to cost time, memory or stack.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let recipe = "merge_method: linear\nmodels: [{model: models/base}]\nparameters:\n";
    let tens = |of: &str| [of; 10].join(",");
    let mut laughs = format!("{recipe}  weight:\n    - &a0 [{}]\n", tens("1"));
    for i in 1..12 {
        laughs += &format!("    - &a{i} [{}]\n", tens(&format!("*a{}", i - 1)));
    }
    let ones = vec!["1"; 60_000].join(",");
    let aliases = vec!["*a"; 60_000].join(",");
    let keys =
        |indent: &str| -> String { (0..60_000).map(|i| format!("{indent}k{i}: 1\n")).collect() };
    let mib = (1 << 20) - 100;
    let text: Vec<(&str, String)> = vec![
        ("nested anchors", laughs),
        (
            "one anchor many times",
            format!("{recipe}  weight: &a [{ones}]\n  normalize: [{aliases}]\n"),
        ),
        ("an anchor in itself", "merge_method: linear\nmodels: &a [*a]\n".into()),
        ("an alias without an anchor", "merge_method: linear\nmodels: *a\n".into()),
        ("open lists", format!("merge_method: linear\nmodels: {}", "[".repeat(100_000))),
        ("open lists alone", "[".repeat(mib)),
        ("open mappings", "{a: ".repeat(mib / 4)),
        ("lists on lists", format!("{recipe}  weight:\n{}", "- ".repeat(mib / 2 - 60))),
        ("deeper lines", (0..1400).map(|i| format!("{}a:\n", " ".repeat(i))).collect()),
        ("spaces", " ".repeat(mib)),
        ("line ends", "\n".repeat(mib)),
        ("comments", "# x\n".repeat(mib / 4)),
        ("one long word", format!("merge_method: {}", "a".repeat(mib))),
        ("one long key", format!("{}: 1\n", "a".repeat(mib))),
        ("many keys", format!("merge_method: linear\n{}", keys(""))),
        ("many parameters", format!("{recipe}{}", keys("  "))),
        ("a key many times", "merge_method: linear\n".repeat(mib / 21)),
        ("documents", "---\n".repeat(mib / 4)),
        ("ends of documents", "...\n".repeat(mib / 4)),
        ("a byte of zero", "merge_method: linear\0\nmodels: [{model: models/base}]\n".into()),
        (
            "an escaped byte of zero",
            "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: \"a\\0b\"}]\n".into(),
        ),
        ("words", "merge these two models\n".into()),
        ("a number", "3\n".into()),
        ("a list", "- a\n- b\n".into()),
        ("nothing", String::new()),
        ("tabs", "merge_method: linear\nmodels:\n\t- model: models/base\n".into()),
        ("a tag", "merge_method: !!int linear\nmodels: [{model: models/base}]\n".into()),
        ("HTML", "<!DOCTYPE html>\n<html><body>404: not found</body></html>\n".into()),
        ("a config", config(2).to_string()),
    ];
    let mut bombs: Vec<(&str, Vec<u8>)> =
        text.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    bombs.push(("Latin-1", b"merge_method: linear\n# caf\xe9\n".to_vec()));
    bombs.push(("UTF-16", b"\xff\xfem\0e\0r\0g\0e\0".to_vec()));
    bombs.push(("weights", support::shard(&llama(2, 1))));
    bombs
}

#[test]
fn recipes_that_are_bombs() {
    let sandbox = Sandbox::with_trained_models();
    let mut all = String::new();
    for (name, bytes) in bombs() {
        assert!(bytes.len() <= 1 << 20, "{name}");
        sandbox.write("recipe.yml", bytes);
        let message = one_screen(run(&sandbox, &["merge", "recipe.yml", "-o", "out"]), 2);
        assert!(
            message.contains("recipe.yml") && message.contains("\nhint: "),
            "{name}: {message}"
        );
        writeln!(all, "## {name}\n{message}").unwrap();
    }
    assert!(!sandbox.exists("out"));
    insta::assert_snapshot!("bombs", all);
}

/// 100 MB of anything are refused unread.
#[test]
fn recipes_of_100_mb() {
    const LENGTH: usize = 100_000_000;
    let sandbox = Sandbox::new();
    for unit in [" ", "\n", "# a comment\n", "a", "merge_method: linear\n", "---\n", "\0", "["] {
        let mut file = File::create(sandbox.path("recipe.yml")).unwrap();
        file.write_all(unit.repeat(LENGTH / unit.len()).as_bytes()).unwrap();
        let message = one_screen(run(&sandbox, &["merge", "recipe.yml", "-o", "out"]), 2);
        assert!(message.starts_with("error: the recipe is too large\n"), "{unit:?}: {message}");
        assert!(message.contains("recipe.yml\n") && message.contains("\nhint: "), "{message}");
    }
}

/// What is no file at all.
#[test]
fn recipes_that_are_no_files() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("folder.yml")).unwrap();
    std::os::unix::fs::symlink("loop.yml", sandbox.path("loop.yml")).unwrap();
    std::os::unix::fs::symlink("nothing.yml", sandbox.path("dangling.yml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", sandbox.path("zero.yml")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(sandbox.path("pipe.yml")).status();
    assert!(made.unwrap().success());
    sandbox.write("recipe.yml", "merge_method: linear\n");
    let mut all = String::new();
    for recipe in [
        "folder.yml",
        "loop.yml",
        "dangling.yml",
        "zero.yml",
        "/dev/zero",
        "/dev/null",
        "pipe.yml",
        "nothing.yml",
        "recipe.yml/recipe.yml",
    ] {
        let message = one_screen(run(&sandbox, &["merge", recipe, "-o", "out"]), 2);
        assert!(message.contains(recipe) && message.contains("\nhint: "), "{recipe}: {message}");
        writeln!(all, "## {recipe}\n{message}").unwrap();
    }
    insta::assert_snapshot!("no_files", all);
}
