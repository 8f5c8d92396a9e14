//! What `cognate plan` says of likely mistakes, and of single tensors.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use safetensors::Dtype::F32;
use serde_json::json;
use support::{Sandbox, Tensor};

/// The warnings of a recipe's plan.
fn warnings(sandbox: &Sandbox, recipe: &str) -> Vec<String> {
    sandbox.write("recipe.yml", recipe);
    let plan = sandbox.ok(&["plan", "recipe.yml", "--json"]).json();
    let warnings = plan["warnings"].as_array().unwrap();
    warnings.iter().map(|warning| warning.as_str().unwrap().to_string()).collect()
}

const TASK: &str = "\
merge_method: task_arithmetic
base_model: models/base
models: [{model: models/ft-code}, {model: models/ft-math}]
";

#[test]
fn weights_that_all_are_zero() {
    let sandbox = Sandbox::with_trained_models();
    let found = warnings(&sandbox, &format!("{TASK}parameters: {{weight: 0}}\n"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("every weight is 0 for 39 tensors"), "{found:?}");
    let mlp = "parameters: {weight: [{filter: mlp, value: 0}, {value: 1}]}\n";
    let found = warnings(&sandbox, &format!("{TASK}{mlp}"));
    assert!(found[0].contains("every weight is 0 for 12 tensors"), "{found:?}");
    let one = "parameters: {weight: 1}\n".to_string();
    assert_eq!(warnings(&sandbox, &format!("{TASK}{one}")), Vec::<String>::new());
}

#[test]
fn numbers_beyond_what_means_something() {
    let sandbox = Sandbox::with_trained_models();
    let ties = |density: &str| {
        let ties = TASK.replace("task_arithmetic", "ties");
        format!("{ties}parameters: {{weight: 1, density: {density}}}\n")
    };
    let said = |key: &str, value: &str, end: &str| {
        format!(
            "parameters.{key} (line 4) is {value}, which counts as {end}: the nearest that means something"
        )
    };
    assert_eq!(warnings(&sandbox, &ties("1.5")), [said("density", "1.5", "1")]);
    assert_eq!(warnings(&sandbox, &ties("[0.5, -1]")), [said("density", "-1", "0")]);
    assert_eq!(warnings(&sandbox, &ties("1")), Vec::<String>::new());
    // Between the values of a gradient the number itself is interpolated, as mergekit does: the last layer
    // but one of four has 1.5 - 2/3·1, the second 1.5 - 1/3·1.
    for (name, density) in [("beyond", "[1.5, 0.5]"), ("within", "[1, 1, 0.8333333333333334, 0.5]")]
    {
        sandbox.merge(&ties(density), name, &[]);
    }
    assert_eq!(sandbox.tensors("beyond"), sandbox.tensors("within"));
}

#[test]
fn a_base_that_is_unrelated() {
    let sandbox = Sandbox::with_trained_models();
    // The same weights in another order have the same sizes and nothing in common.
    let tensors: Vec<Tensor> = sandbox.tensors("models/ft-code").into_values().collect();
    let shuffled: Vec<Tensor> = tensors
        .into_iter()
        .map(|mut tensor| {
            let mut elements: Vec<[u8; 2]> =
                tensor.bytes.chunks(2).map(|pair| [pair[0], pair[1]]).collect();
            elements.rotate_left(tensor.bytes.len() / 6);
            tensor.bytes = elements.concat();
            tensor
        })
        .collect();
    let config = sandbox.read_json("models/ft-code/config.json");
    sandbox.model("stranger", &config, &shuffled);
    let recipe = TASK.replace("models/ft-code", "stranger") + "parameters: {weight: 1}\n";
    let found = warnings(&sandbox, &recipe);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("stranger does not look like a fine-tune of models/base"),
        "{found:?}"
    );
}

#[test]
fn a_gradient_without_layers() {
    let sandbox = Sandbox::new();
    for (model, seed) in [("a", 1), ("b", 1)] {
        let tensors = [Tensor::random("weight", F32, &[8, 8], seed)];
        sandbox.model(model, &json!({"model_type": "mlp"}), &tensors);
    }
    let recipe = "\
merge_method: linear
models: [{model: a, parameters: {weight: [0.2, 0.8]}}, {model: b, parameters: {weight: 0.5}}]
";
    let found = warnings(&sandbox, recipe);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`weight` is a gradient, but the model has no layers"), "{found:?}");
}

#[test]
fn a_parameter_that_the_method_lacks() {
    let sandbox = Sandbox::with_trained_models();
    let recipe = "\
merge_method: linear
models: [{model: models/base}, {model: models/ft-code}]
parameters: {weight: 1, density: 0.5}
";
    let found = warnings(&sandbox, recipe);
    assert!(found[0].contains("`linear` has no such parameter"), "{found:?}");
}

#[test]
fn single_tensors() {
    let sandbox = Sandbox::with_trained_models();
    let recipe = "\
merge_method: ties
base_model: models/base
models:
  - model: models/ft-code
    parameters: {weight: [0, 1], density: [{filter: mlp, value: 0.25}, {value: 0.5}]}
  - {model: models/ft-math, parameters: {weight: 0.5, density: 1}}
";
    sandbox.write("recipe.yml", recipe);
    let text = sandbox.ok(&["plan", "recipe.yml", "--tensor", "layers.1.mlp.up"]).stdout;
    insta::assert_snapshot!("single_tensors", text);
    assert_eq!(sandbox.ok(&["plan", "recipe.yml", "--tensor", "s.1*up"]).stdout, text);
    let all = sandbox.ok(&["plan", "recipe.yml", "--tensor", ""]).stdout;
    assert_eq!(all.matches("\n  ties  ").count(), 39);
    let message = sandbox.fails(2, &["plan", "recipe.yml", "--tensor", "layer.1"]);
    assert!(message.contains("--tensor") && message.contains("layer.1"), "{message}");
}
