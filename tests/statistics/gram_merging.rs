//! Merges by Gram matrices, from files and computed on the way, and what is refused of them.

use super::support::{Sandbox, Tensor, shard};
use std::path::Path;

const RECIPE: &str = "merge_method: regmean
models:
  - {model: models/ft-prose, gram: prose.safetensors}
  - {model: models/ft-code, gram: code.safetensors, parameters: {weight: 0.5}}
";

/// The same with the matrices computed on the way.
const COMPUTED: &str = "merge_method: regmean
models:
  - model: models/ft-prose
    gram: {data: prose.jsonl, samples: 3, length: 40}
  - model: models/ft-code
    gram: {data: prose.jsonl, samples: 3, length: 40}
    parameters: {weight: 0.5}
";

/// The first weight of three that read the same.
const FIRST: &str = "model.layers.0.self_attn.q_proj.weight";
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_trained_models();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval/prose.jsonl");
    sandbox.write("prose.jsonl", std::fs::read(root).unwrap());
    sandbox
}

fn gram(sandbox: &Sandbox, model: &str, out: &str, more: &[&str]) -> String {
    let model = format!("models/{model}");
    let fixed = ["gram", &model, "--data", "prose.jsonl", "-o", out, "--samples", "3"];
    sandbox.ok(&[&fixed[..], &["--length", "40"], more].concat()).stdout
}

#[test]
fn a_merge_by_files_is_one_that_computes_them() {
    let sandbox = sandbox();
    let said = gram(&sandbox, "ft-prose", "prose.safetensors", &["--threads", "1"]);
    insta::assert_snapshot!("command", said);
    gram(&sandbox, "ft-code", "code.safetensors", &[]);
    let first = sandbox.read("prose.safetensors");
    for (threads, isa) in [("2", "portable"), ("3", "")] {
        let fixed = ["gram", "models/ft-prose", "--data", "prose.jsonl", "-o", "again.safetensors"];
        let more = ["--samples", "3", "--length", "40", "--overwrite", "--threads", threads];
        let mut command = sandbox.command(&[&fixed[..], &more].concat());
        if !isa.is_empty() {
            command.env("COGNATE_ISA", isa);
        }
        assert!(command.status().unwrap().success());
        assert!(sandbox.read("again.safetensors") == first, "{threads} threads, {isa}");
    }
    sandbox.write("recipe.yml", COMPUTED);
    let plan = sandbox.ok(&["plan", "recipe.yml"]).stdout;
    insta::assert_snapshot!("plan", plan);
    sandbox.write("recipe.yml", RECIPE);
    for (out, recipe, threads, isa) in [
        ("by-files", RECIPE, "1", ""),
        ("portable", RECIPE, "3", "portable"),
        ("computed-1", COMPUTED, "1", ""),
        ("computed-2", COMPUTED, "2", ""),
    ] {
        sandbox.write("recipe.yml", recipe);
        let mut command =
            sandbox.command(&["merge", "recipe.yml", "-o", out, "--threads", threads]);
        if !isa.is_empty() {
            command.env("COGNATE_ISA", isa);
        }
        assert!(command.status().unwrap().success());
        assert!(sandbox.tensors("by-files") == sandbox.tensors(out), "{out}");
    }
    let plain = "merge_method: linear
models:
  - {model: models/ft-prose, parameters: {weight: 1}}
  - {model: models/ft-code, parameters: {weight: 0.5}}
";
    sandbox.merge(plain, "plain", &[]);
    // Norms and the embedding have no Gram matrices, and are averaged; all else is not.
    let (plain, merged) = (sandbox.tensors("plain"), sandbox.tensors("by-files"));
    for (name, tensor) in &plain {
        let averaged = name.contains("norm") || name.contains("embed");
        assert_eq!(tensor.bytes == merged[name].bytes, averaged, "{name}");
    }
    let inputs = |out: &str| sandbox.read_json(&format!("{out}/lineage.json"))["inputs"].clone();
    let (files, computed, plain) = (inputs("by-files"), inputs("computed-1"), inputs("plain"));
    for i in 0..2 {
        // A model's own digest does not cover what comes with it.
        assert_eq!(files[i]["digest"], plain[i]["digest"]);
        assert_eq!(files[i]["tensors"], plain[i]["tensors"]);
        assert_eq!(files[i]["statistics"]["kind"], "gram");
        assert_eq!(files[i]["statistics"]["metadata"]["model_digest"], files[i]["digest"]);
        assert_eq!(files[i]["statistics"]["digest"], computed[i]["statistics"]["digest"]);
        assert!(files[i]["statistics"]["digest"].is_string());
        assert_eq!(computed[i]["statistics"]["computed"]["settings"]["length"], 40);
    }
    let lineage = sandbox.read_json("by-files/lineage.json");
    let of = |name: &str| {
        let all = lineage["output"]["tensors"].as_array().unwrap().iter();
        all.filter(|tensor| tensor["name"] == name).map(|t| t["inputs"].clone()).next().unwrap()
    };
    let value = of("model.layers.0.self_attn.v_proj.weight");
    // Values read the same as queries.
    assert_eq!(value[2]["tensor"], format!("gram:{FIRST}"));
    assert_eq!(of("model.norm.weight").as_array().unwrap().len(), 2);
}

/// Slices, stages and adapters; what is merged with itself stays what it is.
#[test]
fn matrices_follow_their_weights() {
    let sandbox = sandbox();
    gram(&sandbox, "ft-prose", "prose.safetensors", &[]);
    gram(&sandbox, "ft-code", "code.safetensors", &[]);
    let slices = "merge_method: regmean
slices:
  - sources:
      - {model: models/ft-prose, layer_range: [1, 2], gram: prose.safetensors}
      - {model: models/ft-code, layer_range: [0, 1], gram: code.safetensors}
";
    sandbox.merge(slices, "sliced", &[]);
    let lineage = sandbox.read_json("sliced/lineage.json");
    let of_layer = lineage["output"]["tensors"].as_array().unwrap().iter();
    let mut of_layer = of_layer.filter(|t| t["name"] == DOWN);
    let inputs = &of_layer.next().unwrap()["inputs"];
    assert_eq!(inputs[2]["tensor"], "gram:model.layers.1.mlp.down_proj.weight");
    assert_eq!(inputs[3]["tensor"], format!("gram:{DOWN}"));
    let staged = "name: middle
merge_method: regmean
models:
  - {model: models/ft-prose, gram: prose.safetensors}
  - {model: models/ft-code, gram: code.safetensors}
---
merge_method: regmean
models:
  - {model: middle, gram: {data: prose.jsonl, samples: 2, length: 20}}
  - {model: models/base+models/lora-math, gram: {data: prose.jsonl, samples: 2, length: 20}}
";
    sandbox.merge(staged, "staged", &[]);
    let same = "merge_method: regmean
models:
  - {model: models/ft-code, gram: code.safetensors}
";
    sandbox.merge(same, "same", &[]);
    for (name, tensor) in sandbox.tensors("same") {
        assert!(tensor.bytes == sandbox.tensors("models/ft-code")[&name].bytes, "{name}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let sandbox = sandbox();
    gram(&sandbox, "ft-prose", "prose.safetensors", &[]);
    gram(&sandbox, "ft-code", "code.safetensors", &[]);
    // Files as somebody else may write them, with the first of several weights alone.
    sandbox.write("own/code.safetensors", sandbox.read("code.safetensors"));
    sandbox.write("other/prose.safetensors", sandbox.read("prose.safetensors"));
    let prose: Vec<Tensor> = sandbox.tensors("other").into_values().collect();
    sandbox.write("prose.safetensors", shard(&prose));
    let write = |name: &str, change: &dyn Fn(&mut Tensor)| {
        let mut tensors: Vec<Tensor> = sandbox.tensors("own").into_values().collect();
        change(tensors.iter_mut().find(|tensor| tensor.name == DOWN).unwrap());
        tensors.retain(|tensor| !tensor.name.is_empty());
        sandbox.write(name, shard(&tensors));
    };
    write("lacks.safetensors", &|tensor| tensor.name.clear());
    write("extra.safetensors", &|tensor| tensor.name = "other.weight".to_string());
    write("norm.safetensors", &|tensor| tensor.name = "model.norm.weight".to_string());
    write("side.safetensors", &|tensor| {
        tensor.shape = vec![128, 128];
        tensor.bytes.truncate(4 * 128 * 128);
    });
    write("nan.safetensors", &|tensor| {
        tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    write("negative.safetensors", &|tensor| {
        tensor.bytes[..4].copy_from_slice(&(-1.0_f32).to_le_bytes());
    });
    write("indefinite.safetensors", &|tensor| {
        for at in [1, tensor.shape[0]] {
            tensor.bytes[4 * at..4 * at + 4].copy_from_slice(&1e9_f32.to_le_bytes());
        }
    });
    let two = |gram: &str| {
        format!(
            "merge_method: regmean\nmodels: [{{model: models/ft-prose, gram: prose.safetensors}}, {{model: models/ft-code, gram: {gram}}}]\n"
        )
    };
    let recipes = [
        two("lacks.safetensors"),
        two("extra.safetensors"),
        two("norm.safetensors"),
        two("side.safetensors"),
        two("nan.safetensors"),
        two("negative.safetensors"),
        two("indefinite.safetensors"),
        two("nowhere.safetensors"),
        two("models/base/config.json"),
        two("{data: nowhere.jsonl}"),
        two("{data: prose.jsonl, labels: data}"),
        two("{data: prose.jsonl, length: 1}"),
        two("[1]"),
        two("code.safetensors"),
        two("code.safetensors, fisher: code.safetensors"),
        two("code.safetensors").replace("method: regmean", "method: linear"),
        two("code.safetensors").replace("method: regmean", "method: fisher"),
        "merge_method: regmean\nmodels: [{model: models/ft-prose}]\n".to_string(),
        format!("base_model: models/base\n{}", two("code.safetensors")),
        format!("{}parameters: {{weight: 0}}\n", two("code.safetensors")),
        format!("{}parameters: {{reduce_non_diag: 1.5}}\n", two("code.safetensors")),
    ];
    let mut all = String::new();
    for recipe in recipes {
        sandbox.write("recipe.yml", &recipe);
        let run = sandbox.run(&["merge", "recipe.yml", "-o", "out"]);
        assert_eq!(run.code, Some(2), "{recipe}\n{}", run.stderr);
        assert!(!sandbox.exists("out"));
        all += &format!("{recipe}{}\n\n", run.stderr);
    }
    let little = sandbox.run(&["merge", "recipe.yml", "-o", "out", "--memory", "49MiB"]);
    assert_eq!(little.code, Some(2));
    insta::assert_snapshot!("refused_merges", all);
}
