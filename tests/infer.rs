//! `cognate infer` on merges whose recipes are known, made by cognate from the trained models.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use safetensors::Dtype;
use serde_json::Value;
use std::path::Path;
use support::{Sandbox, Tensor};

const CANDIDATES: [&str; 5] =
    ["models/base", "models/ft-prose", "models/ft-code", "models/ft-math", "unrelated"];

/// The trained models, and one of the same shape from another initialisation.
fn family() -> Sandbox {
    let sandbox = Sandbox::with_trained_models();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/infer/unrelated");
    for file in ["config.json", "model.safetensors"] {
        sandbox.write(&format!("unrelated/{file}"), std::fs::read(from.join(file)).unwrap());
    }
    sandbox
}

/// Merges by a recipe and infers what was made.
fn inferred(sandbox: &Sandbox, recipe: &str, out: &str) -> Value {
    sandbox.merge(&format!("{recipe}\ndtype: bfloat16\n"), out, &["--no-eval"]);
    let args = [&["infer", out, "--json", "--candidates"], &CANDIDATES[..]].concat();
    let found = sandbox.ok(&args).json();
    for relation in found["related"].as_array().unwrap() {
        let unrelated = relation["path"] == "unrelated";
        assert_eq!(relation["related"], !unrelated, "{out}: {relation}");
    }
    found
}

/// The inferred parents with their weights, without the base.
fn weights(found: &Value) -> Vec<(String, f64)> {
    let parents = found["parents"].as_array().unwrap().iter();
    let weight = |parent: &Value| parent["coefficient"].as_f64().unwrap();
    parents.map(|parent| (parent["path"].as_str().unwrap().to_string(), weight(parent))).collect()
}

/// Asserts kind, base, parents and weights within 0.01.
fn is(found: &Value, kind: &str, base: Option<&str>, wanted: &[(&str, f64)]) {
    assert_eq!(found["method"], kind, "{found:#}");
    assert_eq!(found["base"].as_str(), base, "{found:#}");
    let weights = weights(found);
    assert_eq!(weights.len(), wanted.len(), "{found:#}");
    for ((model, weight), (name, value)) in weights.iter().zip(wanted) {
        assert_eq!(model, name);
        assert!((weight - value).abs() <= 0.01, "{name}: {weight}, not {value}");
    }
}

/// The recipe that is printed makes the same bytes.
fn made_again(sandbox: &Sandbox, found: &Value, out: &str) {
    let again = format!("{out}-again");
    sandbox.merge(found["recipe"].as_str().unwrap(), &again, &["--no-eval"]);
    let (first, second) = (sandbox.tensors(out), sandbox.tensors(&again));
    assert_eq!(first.len(), second.len());
    for (name, tensor) in first {
        assert!(tensor == second[&name], "{name} of {out} differs");
    }
}

/// A recipe of models with a line of parameters each.
fn recipe(method: &str, base: Option<&str>, models: &[(&str, &str)]) -> String {
    let base = base.map_or(String::new(), |base| format!("base_model: models/{base}\n"));
    let models: String = models
        .iter()
        .map(|(model, parameters)| {
            format!("  - {{model: models/{model}, parameters: {{{parameters}}}}}\n")
        })
        .collect();
    format!("merge_method: {method}\n{base}models:\n{models}")
}

const BASE: Option<&str> = Some("models/base");
const PROSE: &str = "models/ft-prose";
const CODE: &str = "models/ft-code";
const MATH: &str = "models/ft-math";

#[test]
fn merges_that_are_linear_are_made_again_byte_by_byte() {
    let sandbox = family();
    let text = recipe("linear", None, &[("ft-prose", "weight: 0.3"), ("ft-math", "weight: 0.7")]);
    let found = inferred(&sandbox, &text, "linear");
    is(&found, "linear", None, &[(PROSE, 0.3), (MATH, 0.7)]);
    made_again(&sandbox, &found, "linear");

    let models =
        [("ft-prose", "weight: 0.4"), ("ft-code", "weight: 0.3"), ("ft-math", "weight: 0.5")];
    let found = inferred(&sandbox, &recipe("task_arithmetic", Some("base"), &models), "ta");
    is(&found, "task_arithmetic", BASE, &[(PROSE, 0.4), (CODE, 0.3), (MATH, 0.5)]);
    made_again(&sandbox, &found, "ta");

    let models = [("ft-prose", "weight: [0.2, 0.8]"), ("ft-code", "weight: [0.8, 0.2]")];
    let found = inferred(&sandbox, &recipe("linear", None, &models), "gradient");
    assert_eq!(found["method"], "linear");
    let layers = &found["parents"][0]["parameters"]["weight"]["layers"];
    for (layer, wanted) in layers.as_array().unwrap().iter().zip([0.2, 0.4, 0.6, 0.8]) {
        assert!((layer["value"].as_f64().unwrap() - wanted).abs() <= 0.01, "{layers}");
    }
    made_again(&sandbox, &found, "gradient");
}

#[test]
fn interpolation_on_the_sphere_is_told_from_a_straight_line() {
    let sandbox = family();
    let text = "merge_method: slerp\nbase_model: models/ft-prose\nmodels:\n  - model: models/ft-prose\n  - model: models/ft-code\nparameters: {t: 0.3}";
    let found = inferred(&sandbox, text, "slerp");
    assert_eq!(found["method"], "slerp", "{found:#}");
    let t = found["parameters"]["t"]["value"].as_f64().unwrap();
    let turned = found["base"] == CODE;
    assert!((t - if turned { 0.7 } else { 0.3 }).abs() <= 0.01, "{t}");
    made_again(&sandbox, &found, "slerp");
}

#[test]
fn what_was_trimmed_and_elected_is_found_with_its_densities() {
    let sandbox = family();
    let models =
        [("ft-prose", "weight: 0.7, density: 0.3"), ("ft-math", "weight: 0.3, density: 0.6")];
    let found = inferred(&sandbox, &recipe("ties", Some("base"), &models), "ties");
    is(&found, "ties", BASE, &[(PROSE, 0.7), (MATH, 0.3)]);
    for (parent, density) in found["parents"].as_array().unwrap().iter().zip([0.3, 0.6]) {
        let value = parent["parameters"]["density"]["value"].as_f64().unwrap();
        assert!((value - density).abs() <= 0.01, "{parent}");
    }
    made_again(&sandbox, &found, "ties");

    let models = [
        ("ft-prose", "weight: 0.6, density: 0.6, gamma: 0.05"),
        ("ft-code", "weight: 0.6, density: 0.6, gamma: 0.05"),
    ];
    let found = inferred(&sandbox, &recipe("breadcrumbs", Some("base"), &models), "crumbs");
    is(&found, "breadcrumbs", BASE, &[(PROSE, 0.6), (CODE, 0.6)]);
}

#[test]
fn what_was_dropped_at_random_is_found_with_its_densities() {
    let sandbox = family();
    let cases = [
        (
            "dare_linear",
            [("ft-prose", "weight: 0.4, density: 0.3"), ("ft-math", "weight: 0.7, density: 0.7")],
            [0.4, 0.7],
        ),
        (
            "dare_ties",
            [("ft-prose", "weight: 0.6, density: 0.5"), ("ft-math", "weight: 0.4, density: 0.5")],
            [0.6, 0.4],
        ),
        (
            "della_linear",
            [
                ("ft-prose", "weight: 0.6, density: 0.5, epsilon: 0.25"),
                ("ft-math", "weight: 0.6, density: 0.5, epsilon: 0.25"),
            ],
            [0.6, 0.6],
        ),
        (
            "della",
            [
                ("ft-prose", "weight: 0.7, density: 0.5, epsilon: 0.2"),
                ("ft-math", "weight: 0.3, density: 0.5, epsilon: 0.2"),
            ],
            [0.7, 0.3],
        ),
    ];
    for (method, models, wanted) in cases {
        let found = inferred(&sandbox, &recipe(method, Some("base"), &models), method);
        is(&found, method, BASE, &[(PROSE, wanted[0]), (MATH, wanted[1])]);
        // The same averaged over the parents that agree: shares of weights are found.
        if method == "dare_ties" {
            let text = recipe(method, Some("base"), &models) + "parameters: {normalize: true}\n";
            let found = inferred(&sandbox, &text, "averaged");
            is(&found, method, BASE, &[(PROSE, wanted[0]), (MATH, wanted[1])]);
            assert_eq!(found["switches"]["normalize"], true, "{found:#}");
        }
        // Another seed makes another model of the same kind.
        sandbox.write("again.yml", found["recipe"].as_str().unwrap());
        sandbox.ok(&["plan", "again.yml"]);
    }
}

#[test]
fn stacks_copies_and_adapters_are_recovered() {
    let sandbox = family();
    let slices = |parts: &[(&str, usize, usize)]| -> String {
        let part = |(model, start, end): &(&str, usize, usize)| {
            format!("  - sources: [{{model: models/{model}, layer_range: [{start}, {end}]}}]\n")
        };
        format!(
            "merge_method: passthrough\nslices:\n{}",
            parts.iter().map(part).collect::<String>()
        )
    };
    for (out, parts) in [
        ("deeper", &[("ft-prose", 0, 3), ("ft-code", 1, 4)][..]),
        ("repeated", &[("ft-math", 0, 3), ("ft-math", 1, 4)]),
        ("mixed", &[("ft-prose", 0, 2), ("ft-math", 2, 4)]),
        ("shorter", &[("ft-code", 0, 1), ("ft-code", 3, 4)]),
    ] {
        let found = inferred(&sandbox, &slices(parts), out);
        assert_eq!(found["method"], "passthrough", "{found:#}");
        let wanted: Vec<Value> = parts
            .iter()
            .map(|(model, start, end)| serde_json::json!({"path": format!("models/{model}"), "layer_range": [start, end]}))
            .collect();
        assert_eq!(found["slices"], Value::from(wanted));
        made_again(&sandbox, &found, out);
    }
    let copy =
        inferred(&sandbox, "merge_method: passthrough\nmodels: [{model: models/ft-code}]", "copy");
    assert_eq!(copy["method"], "copy");
    assert_eq!(copy["parents"][0]["path"], CODE);
    let lora = "merge_method: passthrough\nmodels: [{model: models/base+models/lora-math}]";
    let found = inferred(&sandbox, lora, "lora");
    assert_eq!(found["method"], "lora", "{found:#}");
    assert_eq!((&found["rank"], &found["base"]), (&8.into(), &"models/base".into()));
    assert_eq!(found["changes"].as_array().unwrap().len(), 16);
}

/// A model's tensors, changed one by one and stored as they were.
fn changed(sandbox: &Sandbox, from: &str, to: &str, change: impl Fn(&str, Vec<f32>) -> Vec<f32>) {
    let tensors: Vec<Tensor> = sandbox
        .tensors(from)
        .into_iter()
        .map(|(name, tensor)| {
            Tensor::of(&name, Dtype::BF16, &tensor.shape, &change(&name, tensor.values()))
        })
        .collect();
    sandbox.model(to, &sandbox.read_json(&format!("{from}/config.json")), &tensors);
}

/// Values with noise of a share of their size.
fn noisy(name: &str, values: Vec<f32>, share: f32, seed: u64) -> Vec<f32> {
    let noise = Tensor::random(name, Dtype::F32, &[values.len()], seed).values();
    let size = (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
    values.iter().zip(noise).map(|(x, noise)| x + share * size * noise).collect()
}

/// Where one parent was trained on from the other, hardly an element is decided by one of them alone.
#[test]
fn random_masks_are_read_where_parents_are_alike() {
    let sandbox = family();
    changed(&sandbox, MATH, "models/math-on", |name, values| noisy(name, values, 0.3, 3));
    let models =
        [("ft-math", "weight: 0.5, density: 0.6"), ("math-on", "weight: 0.4, density: 0.5")];
    let text = recipe("dare_linear", Some("base"), &models);
    sandbox.merge(&format!("{text}dtype: bfloat16\n"), "alike", &["--no-eval"]);
    let candidates = ["models/base", CODE, MATH, "models/math-on"];
    let args = [&["infer", "alike", "--json", "--candidates"], &candidates[..]].concat();
    let found = sandbox.ok(&args).json();
    is(&found, "dare_linear", BASE, &[(MATH, 0.5), ("models/math-on", 0.4)]);
}

#[test]
fn training_after_a_merge_is_told_from_training() {
    let sandbox = family();
    let text = recipe("linear", None, &[("ft-prose", "weight: 0.6"), ("ft-code", "weight: 0.4")]);
    sandbox.merge(&text, "merge", &["--no-eval"]);
    changed(&sandbox, "merge", "on-merge", |name, values| noisy(name, values, 0.02, 1));
    changed(&sandbox, "models/ft-math", "on-math", |name, values| noisy(name, values, 0.1, 2));
    let infer = |model: &str| {
        let args = [&["infer", model, "--json", "--candidates"], &CANDIDATES[..]].concat();
        sandbox.ok(&args).json()
    };
    is(&infer("on-merge"), "fine-tune of a merge", None, &[(PROSE, 0.6), (CODE, 0.4)]);
    let found = infer("on-math");
    assert_eq!(found["method"], "fine-tune", "{found:#}");
    assert_eq!(weights(&found), [(MATH.to_string(), 1.0)]);
}

/// The hidden units of every MLP in another order: the same function, other weights.
fn permuted(sandbox: &Sandbox, from: &str, to: &str) {
    let order: Vec<usize> = (0..344).map(|i| (i * 157 + 11) % 344).collect();
    changed(sandbox, from, to, |name, values| {
        let pick = |row: &[f32]| order.iter().map(|i| row[*i]).collect::<Vec<f32>>();
        if name.contains("gate_proj") || name.contains("up_proj") {
            let rows: Vec<&[f32]> = values.chunks(128).collect();
            order.iter().flat_map(|i| rows[*i].to_vec()).collect()
        } else if name.contains("down_proj") {
            values.chunks(344).flat_map(pick).collect()
        } else {
            values
        }
    });
}

#[test]
fn permuted_hidden_units_are_suspected() {
    let sandbox = family();
    permuted(&sandbox, "models/base", "permuted");
    let args = ["infer", "permuted", "--json", "--candidates", "models/base", "unrelated"];
    let found = sandbox.ok(&args).json();
    let (base, unrelated) = (&found["related"][0], &found["related"][1]);
    assert_eq!(base["permuted_units_suspected"], true, "{found:#}");
    assert_eq!(base["related"], true);
    assert!(base["aligned"]["log10_p"].as_f64().unwrap() > -6.0, "{base}");
    assert_eq!(unrelated["permuted_units_suspected"], false, "{found:#}");
    assert_eq!(unrelated["related"], false);
}

#[test]
fn a_family_is_a_tree_with_its_merges() {
    let sandbox = family();
    let text = recipe("linear", None, &[("ft-prose", "weight: 0.5"), ("ft-code", "weight: 0.5")]);
    sandbox.merge(&text, "merge", &["--no-eval"]);
    changed(&sandbox, "models/ft-math", "models/ft-more", |name, values| {
        noisy(name, values, 0.05, 3)
    });
    let args =
        [&["infer", "--json", "--candidates", "merge", "models/ft-more"], &CANDIDATES[..]].concat();
    let found = sandbox.ok(&args).json();
    let edge = |parent: &str, child: &str| {
        let edges = found["edges"].as_array().unwrap().iter();
        edges.filter(|edge| edge["parent"] == parent && edge["child"] == child).count()
    };
    for (parent, child) in [
        ("models/base", PROSE),
        ("models/base", CODE),
        ("models/base", MATH),
        (MATH, "models/ft-more"),
        (PROSE, "merge"),
        (CODE, "merge"),
    ] {
        assert_eq!(edge(parent, child), 1, "{parent} → {child}: {found:#}");
    }
    assert_eq!(found["edges"].as_array().unwrap().len(), 6);
    assert_eq!(found["roots"], serde_json::json!(["models/base", "unrelated"]));
    // A folder is read as the models in it.
    let text = sandbox.ok(&["infer", "--family", "models"]).stdout;
    assert!(text.starts_with("models/base\n  models/ft-code"), "{text}");
}

#[test]
fn a_sample_of_the_rows_is_enough() {
    let sandbox = family();
    let text = recipe(
        "task_arithmetic",
        Some("base"),
        &[("ft-prose", "weight: 0.5"), ("ft-math", "weight: 0.8")],
    );
    sandbox.merge(&text, "out", &["--no-eval"]);
    let args =
        [&["infer", "out", "--json", "--sample", "0.05", "--candidates"], &CANDIDATES[..]].concat();
    let found = sandbox.ok(&args).json();
    is(&found, "task_arithmetic", BASE, &[(PROSE, 0.5), (MATH, 0.8)]);
    assert!(found["read"].as_f64().unwrap() < 0.2, "{found:#}");
}

#[test]
fn wrong_input_is_refused_with_its_facts() {
    let sandbox = family();
    sandbox.model("small", &support::config(2), &support::llama(2, 1));
    sandbox.write("empty/readme.txt", "nothing");
    let mut messages = String::new();
    for args in [
        &["infer", "models/base"][..],
        &["infer"],
        &["infer", "models/base", "--candidates", "small"],
        &["infer", "models/base", "--candidates", "models/base"],
        &["infer", "models/base", "--candidates", "models/ft-code", "models/ft-code"],
        &["infer", "models/base", "--candidates", "models/ft-cod"],
        &["infer", "models/base", "--candidates", "models/ft-code", "--base", "models/ft-cod"],
        &["infer", "models/base", "--candidates", "models/ft-code", "--sample", "0"],
        &["infer", "models/base", "--candidates", "models/ft-code", "--memory", "1MB"],
        &["infer", "models/base", "--family", "empty"],
    ] {
        messages += &format!("$ cognate {}\n{}\n", args.join(" "), sandbox.fails(2, args));
    }
    insta::assert_snapshot!("refused", messages);
}

#[test]
fn the_report_for_people() {
    let sandbox = family();
    let models =
        [("ft-prose", "weight: 0.7, density: 0.3"), ("ft-math", "weight: 0.3, density: 0.6")];
    sandbox.merge(&recipe("ties", Some("base"), &models), "out", &["--no-eval"]);
    let args = [&["infer", "out", "--candidates"], &CANDIDATES[..]].concat();
    insta::assert_snapshot!("report", sandbox.ok(&args).stdout);
}
