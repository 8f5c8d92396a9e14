//! Methods that take matrices whole, from recipe to output: memory, threads, and which tensors they
//! take for matrices.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use support::{Sandbox, config, llama};

fn models() -> Sandbox {
    let sandbox = Sandbox::new();
    for (model, seed) in [("base", 1), ("a", 2), ("b", 3)] {
        sandbox.model(model, &config(3), &llama(3, seed));
    }
    sandbox
}

const MODELS: &str = "base_model: base\nmodels: [{model: a}, {model: b}]\n";

#[test]
fn threads_and_memory_do_not_show_in_the_bytes() {
    let sandbox = models();
    for method in ["iso_c", "iso_cts", "tsv_m", "wudi"] {
        let recipe =
            format!("merge_method: {method}\n{MODELS}subspace_boosting: {{}}\nsvc: {{}}\n");
        let mut first = None;
        for (threads, memory) in [("1", "64MiB"), ("2", "96MiB"), ("8", "1GiB")] {
            let more = ["--threads", threads, "--memory", memory, "--overwrite"];
            sandbox.merge(&recipe, "out", &more);
            let bytes = sandbox.read("out/model.safetensors");
            assert!(first.get_or_insert(bytes.clone()) == &bytes, "{method} at {threads}");
        }
    }
}

#[test]
fn the_plan_says_what_matrices_need_and_refuses_a_budget_below_it() {
    let sandbox = models();
    sandbox.write("recipe.yml", format!("merge_method: tsv_m\n{MODELS}svc: {{}}\n"));
    let plan = sandbox.ok(&["plan", "recipe.yml", "--threads", "2"]).stdout;
    assert!(plan.contains("for tensors that are taken whole"), "{plan}");
    let message = sandbox.fails(2, &["plan", "recipe.yml", "--memory", "48MiB"]);
    insta::assert_snapshot!(message);
    // What the message asks for is enough.
    let least = message.split("at least ").nth(1).unwrap().split(' ').next().unwrap();
    let json = sandbox.ok(&["plan", "recipe.yml", "--memory", least, "--json"]).json();
    let totals = &json["totals"];
    assert_eq!(totals["memory_bytes"].to_string(), least);
    assert!(totals["whole_bytes"].as_u64().unwrap() > 0);
    assert_eq!(json["threads"], 1);
}

#[test]
fn embeddings_heads_and_norms_are_averaged_or_stay() {
    let sandbox = models();
    sandbox.merge(&format!("merge_method: iso_c\n{MODELS}"), "iso", &[]);
    sandbox.merge(&format!("merge_method: wudi\n{MODELS}"), "wudi", &[]);
    let [base, a, b, iso, wudi] =
        ["base", "a", "b", "iso", "wudi"].map(|model| sandbox.tensors(model));
    let mut seen = [0, 0];
    for (name, tensor) in &base {
        let matrix = name.contains(".layers.") && !name.contains("norm");
        seen[usize::from(matrix)] += 1;
        let base = tensor.values();
        let (a, b) = (a[name].values(), b[name].values());
        let mean = a
            .iter()
            .zip(&b)
            .zip(&base)
            .map(|((a, b), base)| base + 0.5 * ((a - base) + (b - base)));
        let near = |(x, y): (&f32, f32)| (x - y).abs() <= 0.01 * (1.0 + y.abs());
        assert_eq!(iso[name].values().iter().zip(mean).all(near), !matrix, "{name}");
        assert_eq!(wudi[name].values() == base, !matrix, "{name}");
    }
    assert!(seen[0] > 2 && seen[1] > 2);
}

#[test]
fn a_stage_of_matrices_is_written_before_it_is_read() {
    let sandbox = models();
    let recipe = "\
stages:
  - name: first
    merge_method: iso_c
    base_model: base
    models: [{model: a}, {model: b}]
  - merge_method: linear
    models: [{model: first, parameters: {weight: 1}}, {model: a, parameters: {weight: 0}}]
";
    sandbox.merge(recipe, "staged", &[]);
    sandbox.merge(&format!("merge_method: iso_c\n{MODELS}"), "plain", &[]);
    assert!(sandbox.tensors("staged") == sandbox.tensors("plain"));
}
