//! Which method makes which tensor, and what is done behind it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use support::{Sandbox, config, llama};

/// Three models of three layers.
fn models() -> Sandbox {
    let sandbox = Sandbox::new();
    for (model, seed) in [("base", 1), ("a", 2), ("b", 3)] {
        sandbox.model(model, &config(3), &llama(3, seed));
    }
    sandbox
}

fn values(sandbox: &Sandbox, model: &str, name: &str) -> Vec<f32> {
    sandbox.tensors(model)[name].values()
}

const MODELS: &str = "base_model: base\nmodels: [{model: a}]\nparameters: {weight: 0.7, t: 0.4}\n";

#[test]
fn each_tensor_is_made_by_the_first_method_whose_filter_matches() {
    let sandbox = models();
    let list = "merge_method: [{filter: mlp, value: task_arithmetic}, {filter: '*', value: slerp}]";
    sandbox.merge(&format!("{list}\n{MODELS}"), "mixed", &[]);
    sandbox.merge(&format!("merge_method: task_arithmetic\n{MODELS}"), "sums", &[]);
    sandbox.merge(&format!("merge_method: slerp\n{MODELS}"), "spheres", &[]);
    let manifest = sandbox.read_json("mixed/lineage.json");
    assert_eq!(
        manifest["recipe"]["resolved"]["merge_method"],
        serde_json::json!([
            {"filter": "mlp", "value": "task_arithmetic"},
            {"filter": "*", "value": "slerp"},
        ]),
    );
    let mut seen = [0, 0];
    for tensor in manifest["output"]["tensors"].as_array().unwrap() {
        let name = tensor["name"].as_str().unwrap();
        let (other, method) =
            if name.contains("mlp") { ("sums", "task_arithmetic") } else { ("spheres", "slerp") };
        seen[usize::from(other == "sums")] += 1;
        assert_eq!(tensor["method"], method);
        assert!(values(&sandbox, "mixed", name) == values(&sandbox, other, name), "{name}");
    }
    assert!(seen[0] > 0 && seen[1] > 0);
    let card = String::from_utf8(sandbox.read("mixed/README.md")).unwrap();
    assert!(card.contains("by the methods `task_arithmetic` and `slerp`"), "{card}");
}

#[test]
fn a_value_must_be_admitted_by_every_method_that_has_the_parameter() {
    let sandbox = models();
    let methods = "merge_method: [{filter: mlp, value: linear}, {value: fisher}]";
    let models = "models: [{model: a, fisher: x}]";
    sandbox.write("recipe.yml", format!("{methods}\n{models}\nparameters: {{weight: -1}}\n"));
    let message = sandbox.fails(2, &["check", "recipe.yml"]);
    assert!(message.contains("parameters.weight") && message.contains("0 or more"), "{message}");
}

#[test]
fn lines_scales_by_the_depth_of_the_outputs_layers() {
    let sandbox = models();
    let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1}\n";
    sandbox.merge(&format!("{recipe}lines: {{alpha: 0.25, beta: 0.5}}\n"), "scaled", &[]);
    sandbox.merge(recipe, "plain", &[]);
    sandbox.merge(&format!("{recipe}lines: {{alpha: 1, beta: 0}}\n"), "same", &[]);
    sandbox.merge(&format!("{recipe}lines: {{alpha: 0, beta: 0}}\n"), "none", &[]);
    let mut layers = 0;
    for name in sandbox.tensors("plain").keys() {
        let factor = match name.split('.').nth(2).and_then(|part| part.parse::<f32>().ok()) {
            Some(layer) => 0.25 + 0.5 * layer / 2.0,
            None => 0.25,
        };
        layers += usize::from(factor != 0.25);
        let of = |model: &str| values(&sandbox, model, name);
        assert!(of("same") == of("plain"), "{name}");
        assert!(of("none") == of("base"), "{name}");
        let (scaled, plain, base) = (of("scaled"), of("plain"), of("base"));
        for ((scaled, plain), base) in scaled.iter().zip(plain).zip(base) {
            let wanted = base + factor * (plain - base);
            assert!(
                (scaled - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()),
                "{name}: {scaled} for {wanted}"
            );
        }
    }
    assert!(layers > 0);
    // The lineage says what was done, and a slice's layers count as the output has them.
    let step = |model: &str, name: &str| {
        let manifest = sandbox.read_json(&format!("{model}/lineage.json"));
        let tensors = manifest["output"]["tensors"].as_array().unwrap();
        tensors.iter().find(|tensor| tensor["name"] == name).unwrap()["then"][0].clone()
    };
    let name = "model.layers.1.mlp.up_proj.weight";
    assert_eq!(step("scaled", name)["step"], "lines");
    assert_eq!(step("scaled", name)["depth"], 0.5);
    let slices = "\
merge_method: task_arithmetic
base_model: base
slices:
  - sources: [{model: base, layer_range: [1, 3]}, {model: a, layer_range: [1, 3]}]
parameters: {weight: 1}
lines: {alpha: 0, beta: 1}
";
    sandbox.merge(slices, "sliced", &[]);
    assert_eq!(step("sliced", name)["depth"], 1.0);
    let plan = sandbox.ok(&["plan", "recipe.yml", "--tensor", name]).stdout;
    assert!(plan.contains("then lines  alpha=0  beta=1"), "{plan}");
}
