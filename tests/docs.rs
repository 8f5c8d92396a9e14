//! The documents are true: every recipe in them merges, every command runs and prints what stands
//! there, and every key of a recipe is described.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/hub.rs"]
mod hub_server;
mod support;

use cognate::model::Checkpoint;
use cognate::recipe::RecipeFile;
use hub_server::Hub;
use std::collections::BTreeSet;
use std::path::Path;
use support::{Run, SINGLE, Sandbox, Tensor, finish};

/// Documents with recipes or commands, and how many recipes and commands each has at least.
const DOCUMENTS: [(&str, &str, usize, usize); 5] = [
    ("docs/recipes.md", include_str!("../docs/recipes.md"), 25, 3),
    ("README.md", include_str!("../README.md"), 1, 3),
    ("docs/methods.md", include_str!("../docs/methods.md"), 0, 0),
    ("merge-configs/README.md", include_str!("../merge-configs/README.md"), 0, 2),
    ("docs/moe.md", include_str!("../docs/moe.md"), 0, 1),
];

#[test]
fn the_methods_page_is_what_the_tables_say() {
    let page = cognate::methods::page();
    assert!(
        page == include_str!("../docs/methods.md"),
        "run `cognate methods --markdown > docs/methods.md`"
    );
}

/// A fenced block: its language, the words behind it, the line it begins at, and its text.
struct Block<'a> {
    language: &'a str,
    marker: &'a str,
    line: usize,
    text: String,
}

fn blocks(document: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut open = false;
    for (i, line) in document.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                let (language, marker) = info.split_once(' ').unwrap_or((info, ""));
                blocks.push(Block { language, marker, line: i + 1, text: String::new() });
                open = true;
            }
            None if open => {
                let text = &mut blocks.last_mut().unwrap().text;
                *text += line;
                text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

/// A folder with every model that the documents name, and the example recipes.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_trained_models();
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::os::unix::fs::symlink(own.join("merge-configs"), sandbox.path("merge-configs")).unwrap();
    let gguf = std::fs::read(own.join("tests/data/gguf/llama_q8_0.gguf")).unwrap();
    sandbox.write("models/llama-q8_0.gguf", gguf);
    let prose = std::fs::read(own.join("tests/data/eval/prose.jsonl")).unwrap();
    sandbox.write("data/prose.jsonl", prose);
    for kind in ["fisher", "gram"] {
        std::fs::create_dir(sandbox.path(kind)).unwrap();
        for name in ["ft-prose", "ft-code"] {
            let (model, out) = (format!("models/{name}"), format!("{kind}/{name}.safetensors"));
            let data = ["--data", "data/prose.jsonl", "--samples", "2", "--length", "32"];
            sandbox.ok(&[&[kind, &model, "-o", &out], &data[..]].concat());
        }
    }
    chat(&sandbox);
    std::fs::create_dir(sandbox.path("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cognate"), sandbox.path("bin/cognate")).unwrap();
    sandbox
}

/// `models/chat`: a fine-tune with two tokens of its own.
fn chat(sandbox: &Sandbox) {
    let mut config = sandbox.read_json("models/ft-code/config.json");
    let mut tokenizer = sandbox.read_json("models/ft-code/tokenizer.json");
    let rows = config["vocab_size"].as_u64().unwrap();
    let mut tensors: Vec<Tensor> = sandbox.tensors("models/ft-code").into_values().collect();
    for tensor in tensors.iter_mut().filter(|t| t.shape[0] as u64 == rows) {
        tensor.shape[0] += 2;
        let row = tensor.bytes.len() / rows as usize;
        tensor.bytes.extend_from_within(..2 * row);
    }
    config["vocab_size"] = (rows + 2).into();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    for (i, content) in ["<|im_start|>", "<|im_end|>"].into_iter().enumerate() {
        let mut token = added[0].clone();
        token["id"] = (rows + i as u64).into();
        token["content"] = content.into();
        added.push(token);
    }
    sandbox.model("models/chat", &config, &tensors);
    sandbox.write("models/chat/tokenizer.json", tokenizer.to_string());
}

/// A Hub with the models that the documents name.
fn hub(sandbox: &Sandbox) -> Hub {
    let hub = Hub::start();
    for (name, folder) in [("acme/base-7b", "models/base"), ("acme/chat-7b", "models/ft-prose")] {
        for file in ["config.json", "tokenizer.json", SINGLE] {
            hub.put(name, file, sandbox.read(&format!("{folder}/{file}")));
        }
    }
    hub
}

#[test]
fn every_recipe_merges() {
    let sandbox = sandbox();
    let hub = hub(&sandbox);
    for (name, document, least, _) in DOCUMENTS {
        let mut count = 0;
        for block in blocks(document).iter().filter(|block| block.language == "yaml") {
            let at = format!("{name}:{}", block.line);
            sandbox.write("recipe.yml", &block.text);
            count += 1;
            if block.marker.ends_with(".yml") {
                sandbox.write(block.marker, &block.text);
                continue;
            }
            let args = ["merge", "recipe.yml", "-o", "out", "--overwrite"];
            let run = match block.marker {
                "" | "warns" => sandbox.run(&args),
                "hub" => hub_server::run(&sandbox, &hub, &args),
                other => panic!("{at}: unknown marker {other:?}"),
            };
            assert_eq!(run.code, Some(0), "{at}\n{}", run.stderr);
            check_words(&at, block.marker, &run);
            check_output(&sandbox, &at, &block.text);
        }
        assert!(count >= least, "{name} has {count} recipes");
    }
    assert!(sandbox.exists("blend/lineage.json"), "`save` of an example left nothing");
}

/// Only an example that is marked so is warned of; only the Hub's say that they fetch.
fn check_words(at: &str, marker: &str, run: &Run) {
    // An evaluation says how far it is, on a slow machine.
    let lines = || run.stderr.lines().filter(|line| !line.contains(" items  "));
    match marker {
        "warns" => {
            assert!(lines().all(|line| line.starts_with("warning: ")), "{at}\n{}", run.stderr)
        }
        "hub" => assert!(lines().all(|line| line.starts_with("fetch")), "{at}\n{}", run.stderr),
        _ => assert_eq!(lines().collect::<String>(), "", "{at}"),
    }
    assert_eq!(lines().next().is_none(), marker.is_empty(), "{at}");
}

/// The output opens, has what its plan says, and no tensor of it is empty or the same as all others.
fn check_output(sandbox: &Sandbox, at: &str, recipe: &str) {
    let out = Checkpoint::open("out", &sandbox.path("out")).unwrap();
    assert!(out.tensors().count() > 5, "{at}");
    let lineage = sandbox.read_json("out/lineage.json");
    assert_eq!(lineage["recipe"]["text"], recipe, "{at}");
    let made = lineage["output"]["tensors"].as_array().unwrap();
    assert_eq!(made.len(), out.tensors().count(), "{at}");
    for tensor in made {
        let (name, spec) = (tensor["name"].as_str().unwrap(), &tensor["shape"]);
        let found = out.tensor(name).unwrap();
        assert_eq!(spec, &serde_json::json!(found.spec().shape), "{at}: {name}");
        assert!(tensor["sha256"].is_string(), "{at}: {name}");
    }
}

#[test]
fn every_command_prints_what_stands_there() {
    let sandbox = sandbox();
    for (name, document, _, least) in DOCUMENTS {
        let mut count = 0;
        for block in blocks(document) {
            match block.language {
                // A command of a page works on the recipe before it.
                "yaml" if block.marker.ends_with(".yml") => {
                    sandbox.write(block.marker, &block.text)
                }
                "yaml" => sandbox.write("recipe.yml", &block.text),
                "console" => {
                    for example in block.text.split("$ ").skip(1) {
                        let (line, printed) = example.split_once('\n').unwrap();
                        check_command(&sandbox, &format!("{name}:{}", block.line), line, printed);
                        count += 1;
                    }
                }
                "json" => drop(serde_json::from_str::<serde_json::Value>(&block.text).unwrap()),
                // Formulas and layouts; the quickstart's commands, which `.ci/run` runs.
                "text" => {}
                "sh" if name == "README.md" => {}
                other => panic!("{name}:{}: unknown language {other:?}", block.line),
            }
        }
        assert!(count >= least, "{name} has {count} commands");
    }
}

fn check_command(sandbox: &Sandbox, at: &str, line: &str, printed: &str) {
    if sandbox.exists("out") {
        std::fs::remove_dir_all(sandbox.path("out")).unwrap();
    }
    assert!(line.contains("cognate "), "{at}: {line}");
    let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = sandbox.command_of(Path::new("sh"), &["-c", line]);
    let run = finish(command.env("PATH", path));
    assert_eq!(run.code, Some(0), "{at}: {line}\n{}", run.stderr);
    assert_eq!(run.stderr, "", "{at}: {line}");
    assert!(!run.stdout.is_empty(), "{at}: {line}");
    if !printed.is_empty() {
        assert_eq!(run.stdout.trim_end(), printed.trim_end(), "{at}: {line}");
    }
}

/// Every key that the language takes is described in docs/recipes.md or docs/moe.md. The keys are what the recipe's
/// own reader says that it expects in place of an unknown one.
#[test]
fn every_key_is_described() {
    let mut known = BTreeSet::new();
    keys(&|inner| inner.to_string(), &mut BTreeSet::new(), &mut known);
    for key in ["merge_method", "layer_range", "filter", "pad_to_multiple_of", "token_id", "save"] {
        assert!(known.contains(key), "{key} was not found: {known:?}");
    }
    let pages = [DOCUMENTS[0].1, DOCUMENTS[4].1];
    let described = |key: &String| pages.iter().any(|page| page.contains(&format!("`{key}`")));
    let missing: Vec<&String> = known.iter().filter(|key| !described(key)).collect();
    assert!(missing.is_empty(), "docs/recipes.md and docs/moe.md do not describe {missing:?}");
    for method in &cognate::methods::METHODS {
        for param in method.params {
            let described = DOCUMENTS[2].1.contains(&format!("`{}`", param.name));
            assert!(described, "docs/methods.md does not describe {}", param.name);
        }
    }
}

/// Collects the keys that may stand in a mapping, and in those within it. `frame` puts a mapping
/// where it belongs.
fn keys(
    frame: &dyn Fn(&str) -> String,
    levels: &mut BTreeSet<String>,
    known: &mut BTreeSet<String>,
) {
    const UNKNOWN: &str = "no_such_key";
    let text = frame(&format!("{{{UNKNOWN}: 1}}"));
    let Err(error) = RecipeFile::parse(Path::new("recipe.yml"), text, &[]) else { return };
    let Some(expected) = error.get("expected").filter(|_| error.get("key") == Some(UNKNOWN)) else {
        return;
    };
    let Some(own) = expected.strip_prefix("one of ") else { return };
    if !levels.insert(own.to_string()) {
        return;
    }
    for key in own.split(", ") {
        known.insert(key.to_string());
        // A mapping, a list of mappings, or a mapping of names to mappings or lists of them.
        keys(&|inner| frame(&format!("{{{key}: {inner}}}")), levels, known);
        keys(&|inner| frame(&format!("{{{key}: [{inner}]}}")), levels, known);
        keys(&|inner| frame(&format!("{{{key}: {{name: {inner}}}}}")), levels, known);
        keys(&|inner| frame(&format!("{{{key}: {{name: [{inner}]}}}}")), levels, known);
    }
}

/// No block is passed over because a fence is missing.
#[test]
fn an_unclosed_block_is_seen() {
    assert_eq!(blocks("```yaml hub\na: 1\n```\n")[0].marker, "hub");
    assert!(std::panic::catch_unwind(|| blocks("```yaml\n")).is_err());
}
