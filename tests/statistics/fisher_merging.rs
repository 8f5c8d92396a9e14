//! Merges by Fisher information, from files and computed on the way, and what is refused of them.

use super::support::{Sandbox, Tensor, shard};
use std::path::Path;

const RECIPE: &str = "merge_method: fisher
models:
  - {model: models/ft-prose, fisher: prose.safetensors}
  - {model: models/ft-code, fisher: code.safetensors, parameters: {weight: 0.5}}
";

/// The same with the information computed on the way.
const COMPUTED: &str = "merge_method: fisher
models:
  - model: models/ft-prose
    fisher: {data: prose.jsonl, samples: 3, length: 40, seed: 4}
  - model: models/ft-code
    fisher: {data: prose.jsonl, samples: 3, length: 40, seed: 4}
    parameters: {weight: 0.5}
";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_trained_models();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval/prose.jsonl");
    sandbox.write("prose.jsonl", std::fs::read(root).unwrap());
    sandbox
}

fn fisher(sandbox: &Sandbox, model: &str, out: &str, more: &[&str]) -> String {
    let model = format!("models/{model}");
    let fixed = ["fisher", &model, "--data", "prose.jsonl", "-o", out, "--samples", "3"];
    sandbox.ok(&[&fixed[..], &["--length", "40", "--seed", "4"], more].concat()).stdout
}

#[test]
fn a_merge_by_files_is_one_that_computes_them() {
    let sandbox = sandbox();
    let said = fisher(&sandbox, "ft-prose", "prose.safetensors", &["--threads", "1"]);
    insta::assert_snapshot!("command", said);
    fisher(&sandbox, "ft-code", "code.safetensors", &[]);
    let first = sandbox.read("prose.safetensors");
    for (threads, isa) in [("2", "portable"), ("3", "portable"), ("3", "")] {
        let mut command = sandbox.command(&[
            "fisher",
            "models/ft-prose",
            "--data",
            "prose.jsonl",
            "-o",
            "again.safetensors",
            "--samples",
            "3",
            "--length",
            "40",
            "--seed",
            "4",
            "--threads",
            threads,
            "--overwrite",
        ]);
        if !isa.is_empty() {
            command.env("COGNATE_ISA", isa);
        }
        assert!(command.status().unwrap().success());
        assert!(sandbox.read("again.safetensors") == first, "{threads} threads, {isa}");
    }
    sandbox.merge(RECIPE, "by-files", &["--threads", "1"]);
    sandbox.write("recipe.yml", COMPUTED);
    let plan = sandbox.ok(&["plan", "recipe.yml"]).stdout;
    insta::assert_snapshot!("plan", plan.lines().take(5).collect::<Vec<_>>().join("\n"));
    for threads in ["1", "2", "3"] {
        let out = format!("computed-{threads}");
        sandbox.merge(COMPUTED, &out, &["--threads", threads]);
        assert!(sandbox.tensors("by-files") == sandbox.tensors(&out), "{threads} threads");
    }
    // Fisher information moves the result away from the plain mean.
    let plain = "merge_method: linear
models:
  - {model: models/ft-prose, parameters: {weight: 1}}
  - {model: models/ft-code, parameters: {weight: 0.5}}
";
    sandbox.merge(plain, "plain", &[]);
    assert!(sandbox.tensors("plain") != sandbox.tensors("by-files"));
    let inputs = |out: &str| sandbox.read_json(&format!("{out}/lineage.json"))["inputs"].clone();
    let (files, computed, plain) = (inputs("by-files"), inputs("computed-1"), inputs("plain"));
    for i in 0..2 {
        // A model's own digest does not cover what comes with it.
        assert_eq!(files[i]["digest"], plain[i]["digest"]);
        assert_eq!(files[i]["tensors"], plain[i]["tensors"]);
        assert_eq!(files[i]["statistics"]["metadata"]["model_digest"], files[i]["digest"]);
        assert_eq!(files[i]["statistics"]["digest"], computed[i]["statistics"]["digest"]);
        assert!(files[i]["statistics"]["digest"].is_string());
        assert_eq!(computed[i]["statistics"]["computed"]["settings"]["seed"], 4);
    }
    assert_eq!(files[0]["statistics"]["file"], "prose.safetensors");
    let left = std::fs::read_dir(sandbox.path(".")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    assert_eq!(left.filter(|name| name.contains("cognate")).collect::<Vec<_>>(), [""; 0]);
}

/// Stages, slices and adapters: each tensor is weighed by the information of the tensor it comes from.
#[test]
fn information_follows_its_tensor() {
    let sandbox = sandbox();
    fisher(&sandbox, "ft-prose", "prose.safetensors", &[]);
    fisher(&sandbox, "ft-code", "code.safetensors", &[]);
    let slices = "merge_method: fisher
slices:
  - sources:
      - {model: models/ft-prose, layer_range: [1, 2], fisher: prose.safetensors}
      - {model: models/ft-code, layer_range: [0, 1], fisher: code.safetensors}
";
    sandbox.merge(slices, "sliced", &[]);
    let lineage = sandbox.read_json("sliced/lineage.json");
    let of_layer = lineage["output"]["tensors"].as_array().unwrap().iter();
    let mut of_layer = of_layer.filter(|t| t["name"] == "model.layers.0.mlp.up_proj.weight");
    let inputs = &of_layer.next().unwrap()["inputs"];
    assert_eq!(inputs[2]["tensor"], "fisher:model.layers.1.mlp.up_proj.weight");
    assert_eq!(inputs[3]["tensor"], "fisher:model.layers.0.mlp.up_proj.weight");
    let staged = "name: middle
merge_method: linear
models: [{model: models/ft-math}, {model: models/base+models/lora-math}]
parameters: {weight: 1}
---
merge_method: fisher
models:
  - {model: middle, fisher: {data: prose.jsonl, samples: 2, length: 20, labels: data}}
  - {model: models/ft-code, fisher: code.safetensors}
";
    sandbox.write("recipe.yml", staged);
    let plan = sandbox.ok(&["plan", "recipe.yml"]).stdout;
    assert!(plan.contains("stage middle: written beside the output"), "{plan}");
    sandbox.merge(staged, "staged", &[]);
    // What is merged with itself by any information stays what it is, up to a rounding.
    let same = "merge_method: fisher
models:
  - {model: models/ft-code, fisher: code.safetensors}
";
    sandbox.merge(same, "same", &[]);
    for (name, tensor) in sandbox.tensors("same") {
        assert!(tensor.bytes == sandbox.tensors("models/ft-code")[&name].bytes, "{name}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let sandbox = sandbox();
    fisher(&sandbox, "ft-prose", "prose.safetensors", &[]);
    sandbox.write("own/prose.safetensors", sandbox.read("prose.safetensors"));
    let write = |name: &str, change: &dyn Fn(&mut Tensor)| {
        let mut tensors: Vec<Tensor> = sandbox.tensors("own").into_values().collect();
        let up = |tensor: &&mut Tensor| tensor.name == "model.layers.0.mlp.up_proj.weight";
        change(tensors.iter_mut().find(up).unwrap());
        tensors.retain(|tensor| !tensor.name.is_empty());
        sandbox.write(name, shard(&tensors));
    };
    write("lacks.safetensors", &|tensor| tensor.name.clear());
    write("shape.safetensors", &|tensor| tensor.shape.reverse());
    write("extra.safetensors", &|tensor| tensor.name = "other.weight".to_string());
    write("nan.safetensors", &|tensor| {
        tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    sandbox.write("broken.jsonl", "{\"text\": \"a b c d\"}\n{\"body\": \"a b\"}\n");
    sandbox.write("empty.txt", "\n\n");
    let one = |fisher: &str| {
        format!("merge_method: fisher\nmodels: [{{model: models/ft-prose, fisher: {fisher}}}]\n")
    };
    let recipes = [
        one("lacks.safetensors"),
        one("shape.safetensors"),
        one("extra.safetensors"),
        one("nan.safetensors"),
        one("nowhere.safetensors"),
        one("models/base/config.json"),
        one("{data: nowhere.jsonl}"),
        one("{data: broken.jsonl}"),
        one("{data: empty.txt}"),
        one("{data: models/base/model.safetensors}"),
        one("{data: prose.jsonl, sample: 3}"),
        one("{data: prose.jsonl, samples: 0}"),
        one("{data: prose.jsonl, labels: own}"),
        one("{samples: 3}"),
        one("[1]"),
        "merge_method: fisher\nmodels: [{model: models/ft-prose}]\n".to_string(),
        format!("base_model: models/base\n{}", one("prose.safetensors")),
        one("prose.safetensors").replace("method: fisher", "method: passthrough"),
        format!("{}parameters: {{weight: 0}}\n", one("prose.safetensors")),
        format!("{}parameters: {{weight: -1}}\n", one("prose.safetensors")),
    ];
    let mut all = String::new();
    for recipe in recipes {
        sandbox.write("recipe.yml", &recipe);
        let run = sandbox.run(&["merge", "recipe.yml", "-o", "out"]);
        assert_eq!(run.code, Some(2), "{recipe}\n{}", run.stderr);
        assert!(!sandbox.exists("out"));
        let changed = if recipe.lines().count() > 2 { recipe.lines().last() } else { None };
        let shown = recipe.lines().nth(1).unwrap_or_default();
        all += &format!("{shown} {}\n{}\n\n", changed.unwrap_or_default(), run.stderr);
    }
    insta::assert_snapshot!("refused_merges", all);
}
