//! `cognate trace`: the ancestry of families that were merged here, of foreign ones, and of hostile ones.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use support::{SINGLE, Sandbox, config, llama};

fn linear(models: &[&str]) -> String {
    let models: Vec<String> = models
        .iter()
        .map(|model| format!("  - {{model: {model}, parameters: {{weight: 1}}}}\n"))
        .collect();
    format!("merge_method: linear\nmodels:\n{}", models.concat())
}

/// Four generations: `one` and `two` of the leaves `a`, `b` and `c`; `three`, in stages, of those; `four`.
fn family() -> Sandbox {
    let sandbox = Sandbox::new();
    for (seed, name) in ["a", "b", "c"].into_iter().enumerate() {
        sandbox.model(name, &config(2), &llama(2, seed as u64));
    }
    sandbox.write("a/README.md", "---\nlicense: apache-2.0\nbase_model: org/root\n---\n");
    sandbox.merge(&linear(&["a", "b"]), "one", &[]);
    let ties = "merge_method: ties\nbase_model: a\nmodels: [{model: c}]\nparameters: {weight: 1, density: 0.5}\n";
    sandbox.merge(ties, "two", &[]);
    let stages =
        format!("name: middle\n{}---\n{}", linear(&["one", "b"]), linear(&["middle", "two"]));
    sandbox.merge(&stages, "three", &[]);
    sandbox.merge(&linear(&["three", "one"]), "four", &[]);
    sandbox
}

fn text(sandbox: &Sandbox, args: &[&str]) -> String {
    let run = sandbox.ok(&[&["trace"], args].concat());
    assert_eq!(run.stderr, "");
    run.stdout
}

#[test]
fn four_generations_with_a_folder_deleted() {
    let sandbox = family();
    insta::assert_snapshot!("whole", text(&sandbox, &["four"]));
    let names = |sandbox: &Sandbox| -> Vec<String> {
        let found = sandbox.ok(&["trace", "four", "--json"]).json();
        let nodes = found["nodes"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            nodes.map(|node| node["name"].as_str().unwrap().to_string()).collect();
        names.sort();
        names
    };
    let before = names(&sandbox);
    assert_eq!(before, ["a", "b", "c", "four", "middle", "one", "org/root", "three", "two"]);
    std::fs::remove_dir_all(sandbox.path("three")).unwrap();
    assert_eq!(names(&sandbox), before, "nothing is lost with the folder");
    for (name, format) in [
        ("text", "text"),
        ("json", "json"),
        ("mermaid", "mermaid"),
        ("dot", "dot"),
        ("html", "html"),
    ] {
        insta::assert_snapshot!(
            format!("deleted_{name}"),
            text(&sandbox, &["four", "--format", format])
        );
    }
    assert_eq!(text(&sandbox, &["four", "--format", "json"]), text(&sandbox, &["four", "--json"]));
    let shown = format!("$ cognate trace four\n{}", text(&sandbox, &["four"]));
    assert!(include_str!("../docs/lineage.md").contains(&shown), "docs/lineage.md shows another");
    // With all folders gone but the last, the tree is the same.
    for folder in ["one", "two", "a", "b", "c"] {
        std::fs::remove_dir_all(sandbox.path(folder)).unwrap();
    }
    assert_eq!(names(&sandbox), before);
    insta::assert_snapshot!("alone", text(&sandbox, &["four"]));
}

#[test]
fn changed_parents_are_shown() {
    let sandbox = family();
    // Made anew, of others: its manifest is another one now, and so are its weights.
    sandbox.merge(&linear(&["b", "c"]), "one", &["--overwrite"]);
    // A card that was written over by hand.
    let card = String::from_utf8(sandbox.read("three/README.md")).unwrap();
    sandbox.write("three/README.md", card.replace("- \"two\"\n", "- \"other/model\"\n"));
    // Weights that were changed behind the manifest's back.
    let mut bytes = sandbox.read(&format!("c/{SINGLE}"));
    *bytes.last_mut().unwrap() ^= 1;
    sandbox.write(&format!("c/{SINGLE}"), bytes);
    std::fs::remove_file(sandbox.path("two/lineage.json")).unwrap();
    insta::assert_snapshot!("changed", text(&sandbox, &["four"]));
    insta::assert_snapshot!("changed_verified", text(&sandbox, &["four", "--verify"]));
}

#[test]
fn digests_are_compared_where_they_are_known() {
    let sandbox = family();
    let agreement = |args: &[&str]| -> Vec<Value> {
        let found = sandbox.ok(&[&["trace", "one", "--json"], args].concat()).json();
        let edges = found["edges"].as_array().unwrap().iter();
        edges.filter(|e| e["evidence"] == "recorded").map(|e| e["digest_agrees"].clone()).collect()
    };
    // The merges left the digests of what they read in the cache.
    assert_eq!(agreement(&[]), [json!(true), json!(true)]);
    std::fs::remove_dir_all(sandbox.path(".cache")).unwrap();
    assert_eq!(agreement(&[]), [json!(null), json!(null)]);
    let mut bytes = sandbox.read(&format!("b/{SINGLE}"));
    *bytes.last_mut().unwrap() ^= 1;
    sandbox.write(&format!("b/{SINGLE}"), bytes);
    assert_eq!(agreement(&[]), [json!(null), json!(null)]);
    assert_eq!(agreement(&["--verify"]), [json!(true), json!(false)]);
}

#[test]
fn adapters_and_stages() {
    let sandbox = Sandbox::with_trained_models();
    let recipe = "name: middle\nmerge_method: linear\nmodels: [{model: models/base+models/lora-math, parameters: {weight: 1}}]\n---\nmerge_method: slerp\nbase_model: models/ft-code\nmodels: [{model: middle+models/lora-math}]\nparameters: {t: 0.5}\n";
    sandbox.merge(recipe, "out", &[]);
    insta::assert_snapshot!("adapters", text(&sandbox, &["out", "--verify"]));
    insta::assert_snapshot!("adapter", text(&sandbox, &["models/lora-math"]));
}

#[test]
fn what_other_tools_leave() {
    let sandbox = Sandbox::new();
    sandbox.write("b/config.json", "{}");
    sandbox.write("merged/mergekit_config.yml", "merge_method: dare_ties\nbase_model: {model: {path: org/base, revision: v2}}\nslices:\n- sources:\n  - {model: org/a+org/lora, layer_range: [0, 4]}\n  - {model: ./b, layer_range: [0, 4]}\n");
    sandbox.write(
        "merged/README.md",
        "---\nbase_model:\n- org/a\n- org/base\n- org/lora\n- b\ntags: [mergekit, merge]\n---\n",
    );
    insta::assert_snapshot!("mergekit", text(&sandbox, &["merged"]));
    // A card alone, as on the Hub.
    sandbox.write("card/README.md", "---\nlicense: mit\ntags: [mergekit]\n---\n# x\n\n```yaml\nbase_model: org/base\nexperts:\n- source_model: org/a\n  positive_prompts: [x]\n- source_model: ../merged\n```\n");
    insta::assert_snapshot!("card", text(&sandbox, &["card"]));
    // What mergekit-moe leaves.
    sandbox.write("moe/mergekit_moe_config.yml", "base_model: org/base\ngate_mode: random\nexperts:\n- source_model: org/a\n- source_model: ../b\n");
    insta::assert_snapshot!("mergekit_moe", text(&sandbox, &["moe"]));
    // A fine-tune whose two records disagree.
    sandbox.write("tuned/adapter_config.json", "{\"base_model_name_or_path\": \"org/a\"}");
    sandbox.write("tuned/README.md", "---\nbase_model: org/b\nlibrary_name: peft\n---\n");
    insta::assert_snapshot!("disagreeing", text(&sandbox, &["tuned"]));
}

#[test]
fn a_single_shard_still_tells() {
    let sandbox = family();
    std::fs::create_dir(sandbox.path("elsewhere")).unwrap();
    std::fs::rename(
        sandbox.path(&format!("two/{SINGLE}")),
        sandbox.path("elsewhere/x.safetensors"),
    )
    .unwrap();
    insta::assert_snapshot!("shard", text(&sandbox, &["elsewhere/x.safetensors"]));
    insta::assert_snapshot!("shard_in_folder", text(&sandbox, &["elsewhere"]));
}

#[test]
fn circles_are_shown() {
    let sandbox = Sandbox::new();
    for (name, base) in [("x", "../y"), ("y", "../z"), ("z", "../x"), ("self", "../self")] {
        sandbox.write(&format!("{name}/README.md"), format!("---\nbase_model: {base}\n---\n"));
    }
    insta::assert_snapshot!("circle", text(&sandbox, &["x"]));
    insta::assert_snapshot!("circle_of_one", text(&sandbox, &["self"]));
    let found = sandbox.ok(&["trace", "x", "--json"]).json();
    let closing: Vec<&Value> =
        found["edges"].as_array().unwrap().iter().filter(|edge| edge["cycle"] == true).collect();
    assert_eq!((closing.len(), &closing[0]["parent"]), (1, &json!("n0")));
}

#[test]
fn hostile_names_stay_names() {
    let sandbox = Sandbox::new();
    let name = "\"]<script>alert('x')</script>&\n\u{1b}[31m|--> #quot; \\\" ; n0";
    let manifest = json!({
        "schema": "cognate/lineage/1",
        "recipe": {"resolved": {"merge_method": "<b>", "base_model": name}},
        "inputs": [{"model": name, "digest": "d"}, {"model": 3}, {"model": name, "adapters": [3, {"adapter": "<i>"}]}],
        "stages": [{"name": 7}, {"name": "middle", "inputs": [{"model": "middle"}]}],
        "output": {"digest": ["x"]},
    });
    sandbox.write("out/lineage.json", manifest.to_string());
    for format in ["text", "mermaid", "dot", "html"] {
        let printed = text(&sandbox, &["out", "--format", format]);
        assert!(!printed.contains('\u{1b}'), "{printed}");
        let element = printed.contains("<script") || printed.contains("<i>");
        assert!(!element || format == "text" || format == "dot", "{printed}");
        insta::assert_snapshot!(format!("hostile_{format}"), printed);
    }
    let found = sandbox.ok(&["trace", "out", "--json"]).json();
    assert_eq!(found["nodes"][1]["name"], name);
}

#[test]
fn long_chains_end() {
    let sandbox = Sandbox::new();
    for i in 0..100 {
        let card = format!("---\nbase_model: [../m{}, ../m{}]\n---\n", i + 1, i + 2);
        sandbox.write(&format!("m{i}/README.md"), card);
    }
    let found = sandbox.ok(&["trace", "m0", "--json"]).json();
    assert_eq!(found["nodes"].as_array().unwrap().len(), 102);
    let many: Vec<String> = (0..999).map(|i| format!("- org/m{i}")).collect();
    for i in 0..4 {
        let card = format!(
            "---\nbase_model:\n- ../w{}\n{}\n---\n",
            i + 1,
            many.join("\n").replace("org", &format!("o{i}"))
        );
        sandbox.write(&format!("w{i}/README.md"), card);
    }
    let printed = text(&sandbox, &["w0"]);
    assert!(printed.lines().count() < 2010, "{}", printed.lines().count());
    assert!(printed.contains("note: not everything was followed"), "{printed:.200}");
    for i in 0..70 {
        sandbox.write(&format!("l{i}/README.md"), format!("---\nbase_model: ../l{}\n---\n", i + 1));
    }
    assert!(text(&sandbox, &["l0"]).contains("64 generations"));
}

#[test]
fn what_cannot_be_traced() {
    let sandbox = Sandbox::new();
    sandbox.write("plain/config.json", "{}");
    sandbox.write("damaged/lineage.json", "{");
    sandbox.write("damaged/README.md", "---\n");
    let mut all = String::new();
    for args in [&["nowhere"][..], &["org/unknown"], &["plain", "--format", "svg"]] {
        all += &sandbox.fails(2, &[&["trace"], args].concat());
    }
    for folder in ["plain", "damaged"] {
        all += &text(&sandbox, &[folder]);
    }
    insta::assert_snapshot!("wrong", all);
}

#[test]
fn where_no_record_tells_weights_are_asked() {
    let sandbox = Sandbox::with_trained_models();
    let merge = "merge_method: ties\nbase_model: models/base\nmodels: [{model: models/ft-prose}, {model: models/ft-code}]\nparameters: {weight: 0.5, density: 0.4}\ndtype: bfloat16\n";
    sandbox.merge(merge, "out", &["--no-eval"]);
    let candidates =
        ["--candidates", "models/base", "models/ft-prose", "models/ft-code", "models/ft-math"];
    // A record goes before weights.
    let recorded = text(&sandbox, &[&["out"], &candidates[..]].concat());
    assert!(!recorded.contains("inferred"), "{recorded}");
    let tensors: Vec<support::Tensor> = sandbox.tensors("out").into_values().collect();
    sandbox.model("bare", &sandbox.read_json("out/config.json"), &tensors);
    insta::assert_snapshot!("inferred", text(&sandbox, &[&["bare"], &candidates[..]].concat()));
    let found = sandbox.ok(&[&["trace", "bare", "--json"], &candidates[..]].concat()).json();
    let edges = found["edges"].as_array().unwrap();
    assert_eq!(edges.len(), 3, "{found:#}");
    assert!(edges.iter().all(|edge| edge["evidence"] == "inferred"), "{found:#}");
}
