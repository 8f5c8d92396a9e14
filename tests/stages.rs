//! Recipes of several stages give the bytes of the same merges made one after the other, whether an
//! intermediate model is computed where it is read, staged beside the output, or saved.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{SINGLE, Sandbox, accounted};

/// A stage over two models: `METHOD`, models `A` and `B`, with what such methods take.
fn merge_of(method: &str, a: &str, b: &str) -> String {
    match method {
        "slerp" => format!(
            "merge_method: slerp\nbase_model: {a}\nmodels: [{{model: {b}}}]\nparameters: {{t: 0.3}}\n"
        ),
        "linear" => format!(
            "merge_method: linear\nmodels: [{{model: {a}}}, {{model: {b}}}]\nparameters: {{weight: 0.7}}\n"
        ),
        _ => format!(
            "merge_method: {method}\nbase_model: {a}\nmodels: [{{model: {b}}}]\nparameters: {{weight: 0.7, density: 0.4}}\nrandom_seed: 3\n"
        ),
    }
}

/// Stages of each kind, the ways their outputs go, and the same made by hand.
#[test]
fn stages_are_merges_one_after_the_other() {
    let sandbox = Sandbox::with_trained_models();
    let ways = [("linear", "computed where it is read"), ("slerp", "written beside the output")];
    for first in ["linear", "slerp", "ties", "dare_ties"] {
        let stage = merge_of(first, "models/base", "models/ft-code");
        let middle = format!("by-hand-{first}");
        sandbox.merge(&stage, &middle, &[]);
        for (second, way) in ways {
            let by_hand = format!("{middle}-{second}");
            sandbox.merge(&merge_of(second, &middle, "models/ft-math"), &by_hand, &[]);
            let last = merge_of(second, "middle", "models/ft-math");
            let recipe = format!("name: middle\n{stage}---\n{last}");
            sandbox.write("recipe.yml", &recipe);
            let plan = sandbox.ok(&["plan", "recipe.yml"]).stdout;
            assert!(plan.contains(&format!("stage middle: {way}")), "{plan}");
            let out = format!("{by_hand}-stages");
            sandbox.merge(&recipe, &out, &["--threads", "2"]);
            let same = sandbox.tensors(&out) == sandbox.tensors(&by_hand);
            assert!(same, "{first}, then {second}");
            accounted_stages(&sandbox, &out);
        }
    }
    let left: Vec<String> = std::fs::read_dir(sandbox.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("cognate"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "folders of stages stay behind");
}

/// The lineage records the stages, and the real models with their digests.
fn accounted_stages(sandbox: &Sandbox, out: &str) {
    let lineage = sandbox.read_json(&format!("{out}/lineage.json"));
    let stages = lineage["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 1);
    assert_eq!(stages[0]["name"], "middle");
    let inputs = stages[0]["inputs"].as_array().unwrap();
    let names: Vec<&str> = inputs.iter().map(|input| input["model"].as_str().unwrap()).collect();
    assert!(names.contains(&"models/base") && names.contains(&"models/ft-code"), "{names:?}");
    assert!(inputs.iter().all(|input| input["digest"].is_string()), "{inputs:?}");
    let card = String::from_utf8(sandbox.read(&format!("{out}/README.md"))).unwrap();
    for model in ["base", "ft-code", "ft-math"] {
        assert!(card.contains(&format!("- \"{model}\"\n")), "{card}");
    }
    assert!(!card.contains("- \"middle\"\n"), "a stage is no ancestor by itself: {card}");
}

#[test]
fn a_list_of_stages_is_the_same_as_several_documents() {
    let sandbox = Sandbox::with_trained_models();
    let (a, b) = (
        merge_of("linear", "models/base", "models/ft-code"),
        merge_of("linear", "one", "models/ft-math"),
    );
    sandbox.merge(&format!("name: one\n{a}---\n{b}"), "documents", &[]);
    let indent = |text: &str| text.replace('\n', "\n    ").trim_end().to_string();
    let list = format!("stages:\n  - name: one\n    {}\n  - {}\n", indent(&a), indent(&b));
    sandbox.merge(&list, "list", &[]);
    assert!(sandbox.tensors("documents") == sandbox.tensors("list"));
    // The order in the file does not matter, and a stage may stand on another.
    let c = merge_of("linear", "two", "models/ft-prose");
    let b = b.replace("merge_method", "name: two\nmerge_method");
    sandbox.merge(&format!("{c}---\n{b}---\nname: one\n{a}"), "three", &[]);
    sandbox.merge(&c.replace("model: two", "model: list"), "by-hand", &[]);
    assert!(sandbox.tensors("three") == sandbox.tensors("by-hand"));
}

#[test]
fn a_saved_stage_is_a_model_of_its_own() {
    let sandbox = Sandbox::with_trained_models();
    let stage = merge_of("ties", "models/base", "models/ft-code");
    let last = merge_of("linear", "kept", "models/ft-math");
    let recipe = format!("name: kept\nsave: kept-model\n{stage}---\n{last}");
    sandbox.merge(&recipe, "out", &[]);
    sandbox.merge(&stage, "alone", &[]);
    let shard = |folder: &str| sandbox.tensors(folder);
    assert!(shard("kept-model") == shard("alone"));
    accounted(&sandbox, "kept-model");
    sandbox.write("recipe.yml", &recipe);
    // What is there is not written over without being asked.
    let message = sandbox.fails(2, &["merge", "recipe.yml", "-o", "again", "--quiet"]);
    assert!(message.contains("kept-model") && message.contains("--overwrite"), "{message}");
    assert!(!sandbox.exists("again"));
}

#[test]
fn a_failed_stage_leaves_nothing_behind() {
    let sandbox = Sandbox::with_trained_models();
    let mut bytes = sandbox.read(&format!("models/ft-code/{SINGLE}"));
    let last = bytes.len();
    bytes[last - 2..].copy_from_slice(&0x7fc1_u16.to_le_bytes());
    sandbox.write(&format!("models/ft-code/{SINGLE}"), bytes);
    for (first, second) in [("linear", "linear"), ("linear", "slerp"), ("ties", "linear")] {
        let stage = merge_of(first, "models/base", "models/ft-code");
        let last = merge_of(second, "middle", "models/ft-math");
        sandbox.write("recipe.yml", format!("name: middle\n{stage}---\n{last}"));
        let message = sandbox.fails(2, &["merge", "recipe.yml", "-o", "out", "--quiet"]);
        assert!(message.contains("NaN") && message.contains("ft-code"), "{message}");
        let left: Vec<String> = std::fs::read_dir(sandbox.path("."))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("cognate") || name == "out")
            .collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[test]
fn the_plan_tells_of_every_stage() {
    let sandbox = Sandbox::with_trained_models();
    let stage = merge_of("linear", "models/base", "models/ft-code");
    let last = merge_of("linear", "middle", "models/ft-math");
    sandbox.write("recipe.yml", format!("name: middle\n{stage}---\n{last}"));
    let plan: Value = sandbox.ok(&["plan", "recipe.yml", "--json"]).json();
    assert_eq!(plan["stages"][0]["name"], "middle");
    assert_eq!(plan["stages"][0]["plan"]["models"][1]["model"], "models/ft-code");
    assert_eq!(plan["models"][0]["model"], "middle");
    // What a stage reads as it is computed is read for the output.
    let read = |plan: &Value| plan["totals"]["read_bytes"].as_u64().unwrap();
    assert_eq!(read(&plan), 3 * read(&plan["stages"][0]["plan"]) / 2);
}
