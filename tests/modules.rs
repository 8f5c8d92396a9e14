//! Recipes with `modules`: parts of a model with layouts of their own.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use safetensors::Dtype::F32;
use serde_json::json;
use support::{LINEAR, Sandbox, Tensor, accounted, config, llama};

/// A model with a text decoder of `layers` layers and a vision tower of two.
fn composed(sandbox: &Sandbox, name: &str, layers: usize, seed: u64) {
    let config = json!({
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": config(layers),
        "vision_config": {"num_hidden_layers": 2, "hidden_size": 4},
    });
    let mut tensors: Vec<Tensor> = Vec::new();
    for mut tensor in llama(layers, seed) {
        tensor.name = format!("language_model.{}", tensor.name);
        tensors.push(tensor);
    }
    for name in [
        "vision_tower.encoder.layers.0.mlp.weight",
        "vision_tower.encoder.layers.1.mlp.weight",
        "vision_tower.embeddings.weight",
        "multi_modal_projector.linear.weight",
    ] {
        tensors.push(Tensor::random(name, F32, &[4, 4], seed + 9));
    }
    sandbox.model(name, &config, &tensors);
}

#[test]
fn the_default_module_is_the_whole_model() {
    let sandbox = Sandbox::new();
    for (model, seed) in [("a", 1), ("b", 2)] {
        sandbox.model(model, &config(2), &llama(2, seed));
    }
    sandbox.merge(LINEAR, "plain", &[]);
    let module =
        "merge_method: linear\nmodules:\n  default:\n    models: [{model: a}, {model: b}]\n";
    sandbox.merge(&format!("{module}parameters: {{weight: 0.5}}\n"), "outer", &[]);
    let own = format!("{module}    parameters: {{weight: 0.5}}\nparameters: {{weight: 0.1}}\n");
    sandbox.merge(&own, "inner", &[]);
    for out in ["outer", "inner"] {
        assert!(sandbox.tensors(out) == sandbox.tensors("plain"));
        accounted(&sandbox, out);
    }
}

#[test]
fn modules_have_layouts_and_parameters_of_their_own() {
    let sandbox = Sandbox::new();
    composed(&sandbox, "a", 3, 1);
    composed(&sandbox, "b", 3, 5);
    let recipe = "\
merge_method: linear
parameters: {weight: 1}
modules:
  text_decoder:
    slices:
      - sources: [{model: a, layer_range: [0, 1]}]
      - sources: [{model: a, layer_range: [1, 3]}, {model: b, layer_range: [1, 3]}]
      - sources: [{model: b, layer_range: [0, 1]}]
  vision_tower:
    models: [{model: a}, {model: b, parameters: {weight: 3}}]
  multi_modal_projector:
    models: [{model: b}]
";
    sandbox.merge(recipe, "out", &[]);
    accounted(&sandbox, "out");
    let (a, b, out) = (sandbox.tensors("a"), sandbox.tensors("b"), sandbox.tensors("out"));
    let values =
        |model: &std::collections::BTreeMap<String, Tensor>, name: &str| model[name].values();
    let mix = |name: &str, other: f32| -> Vec<f32> {
        let pairs = values(&a, name).into_iter().zip(values(&b, name));
        pairs.map(|(x, y)| (x + other * y) / (1.0 + other)).collect()
    };
    let near = |found: Vec<f32>, wanted: Vec<f32>, name: &str| {
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!(
                (found - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()),
                "{name}: {found} {wanted}"
            );
        }
    };
    let layer = |n: usize| format!("language_model.model.layers.{n}.mlp.up_proj.weight");
    near(values(&out, &layer(0)), values(&a, &layer(0)), "the first slice");
    near(values(&out, &layer(2)), mix(&layer(2), 1.0), "the second slice");
    near(values(&out, &layer(3)), values(&b, &layer(0)), "the third slice");
    let tower = "vision_tower.encoder.layers.1.mlp.weight";
    near(values(&out, tower), mix(tower, 3.0), "the vision tower");
    let projector = "multi_modal_projector.linear.weight";
    near(values(&out, projector), values(&b, projector), "the projector");
    let config = sandbox.read_json("out/config.json");
    assert_eq!(config["text_config"]["num_hidden_layers"], 4);
    assert_eq!(config["vision_config"]["num_hidden_layers"], 2);
}
