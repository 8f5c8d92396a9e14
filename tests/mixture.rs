//! Dense models in, a mixture of experts out: experts that are one model make its logits, whatever the
//! gates and the family; names, config and lineage are what other programs read.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mixtures.rs"]
mod mixtures;
mod support;

use mixtures::{IDS, apart, edit, expert_tensors, logits, recipe, router, tiny, tuned};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use support::{Sandbox, accounted};

/// What the logits may differ by.
const TOLERANCE: f32 = 1e-4;

const MODES: [&str; 7] =
    ["hidden", "hidden_last", "hidden_avg", "cheap_embed", "random", "uniform_random", "ridge"];

/// Families: the tiny dense model, `architecture`, the mixture's `model_type`, a shared expert or none, and
/// whether one expert a token is weighed by 1.
const FAMILIES: [(&str, &str, &str, bool, bool); 9] = [
    ("llama", "mixtral", "mixtral", false, true),
    ("mistral", "mixtral", "mixtral", false, true),
    ("llama_tied_biased", "deepseek", "deepseek", false, false),
    ("llama_linear", "deepseek", "deepseek", false, false),
    ("llama_linear", "deepseek", "deepseek", true, false),
    ("qwen2", "qwen", "qwen2_moe", true, true),
    ("qwen2", "qwen2_moe", "qwen2_moe", true, true),
    ("qwen3", "qwen3", "qwen3_moe", false, true),
    ("qwen3", "Qwen", "qwen3_moe", false, true),
];

/// A shared expert that adds nothing.
const NOTHING: &str = "shared_experts: [{source_model: base, residual_scale: 0}]\n";

fn plain(_: &mut Value) {}

/// The tiny model of a family as `base`.
fn base(sandbox: &Sandbox, variant: &str, model_type: &str) {
    // Biases of the MLP are Llama's alone.
    tiny(sandbox, "base", variant, |config| {
        if variant == "llama_tied_biased" && model_type != "llama" {
            config["mlp_bias"] = json!(false);
        }
    });
    if variant == "llama_tied_biased" {
        let kept = sandbox.tensors("base").into_values();
        let kept: Vec<_> =
            kept.filter(|t| !(t.name.contains("mlp") && t.name.ends_with("bias"))).collect();
        sandbox.write("base/model.safetensors", support::shard(&kept));
    }
}

#[test]
fn experts_of_one_model_make_its_logits_in_every_family() {
    for (variant, architecture, model_type, shared, one) in FAMILIES {
        let sandbox = Sandbox::new();
        base(&sandbox, variant, model_type);
        let expected = logits(&sandbox, "base", &IDS);
        let mut worst = 0.0_f32;
        for chosen in if one { vec![1, 2, 3] } else { vec![2, 3] } {
            for (mode, attention) in [("hidden", "base"), ("ridge", "merge"), ("random", "merge")] {
                let keys = format!(
                    "base_model: base\narchitecture: {architecture}\ngate_mode: {mode}\nattention: {attention}\nexperts_per_token: {chosen}\n{}",
                    if shared { NOTHING } else { "" }
                );
                let text = recipe(&keys, &["base", "base", "base"]);
                sandbox.merge(&text, "out", &["--overwrite", "--no-eval"]);
                assert_eq!(sandbox.read_json("out/config.json")["model_type"], model_type);
                let found = apart(&logits(&sandbox, "out", &IDS), &expected);
                assert!(found <= TOLERANCE, "{variant} {architecture}: {found} apart\n{text}");
                worst = worst.max(found);
            }
        }
        println!("{variant:20} {model_type:10} {worst:.1e}");
    }
}

#[test]
fn experts_of_one_model_make_its_logits_with_every_gate() {
    let sandbox = Sandbox::new();
    tiny(&sandbox, "base", "llama", plain);
    let expected = logits(&sandbox, "base", &IDS);
    let mut routers = BTreeSet::new();
    for mode in MODES {
        for scale in ["", "gate_scale: 7\n"] {
            let keys = format!("base_model: base\ngate_mode: {mode}\n{scale}");
            sandbox.merge(&recipe(&keys, &["base"; 4]), "out", &["--overwrite", "--no-eval"]);
            let found = apart(&logits(&sandbox, "out", &IDS), &expected);
            assert!(found <= TOLERANCE, "{mode}: {found} apart");
            routers.insert(sandbox.tensors("out")[&router("mixtral", 1)].bytes.clone());
        }
    }
    // `hidden` is another word for `hidden_last`; all others give routers of their own.
    assert_eq!(routers.len(), 2 * (MODES.len() - 1));
}

/// Names and shapes are those that transformers saves for each family.
#[test]
fn names_and_shapes_are_the_families_own() {
    for (variant, architecture, model_type, shared, _) in FAMILIES {
        let sandbox = Sandbox::new();
        base(&sandbox, variant, model_type);
        for (seed, name) in ["one", "two"].into_iter().enumerate() {
            tuned(&sandbox, name, "base", seed as u64);
        }
        let shared_line = if shared { "shared_experts: [{source_model: base}]\n" } else { "" };
        let keys = format!(
            "base_model: base\narchitecture: {architecture}\ngate_mode: random\n{shared_line}"
        );
        sandbox.merge(&recipe(&keys, &["one", "two"]), "out", &["--no-eval"]);
        accounted(&sandbox, "out");
        let (dense, made) = (sandbox.tensors("base"), sandbox.tensors("out"));
        let experts = [sandbox.tensors("one"), sandbox.tensors("two")];
        let mut names: BTreeSet<String> =
            dense.keys().filter(|name| !name.contains(".mlp.")).cloned().collect();
        for name in &names {
            assert_eq!(made[name], dense[name]);
        }
        for layer in 0..2 {
            for (i, expert) in experts.iter().enumerate() {
                for [own, of] in expert_tensors(model_type, layer, i) {
                    assert_eq!(made[&own].bytes, expert[&of].bytes, "{own}");
                    assert_eq!(made[&own].shape, expert[&of].shape, "{own}");
                    names.insert(own);
                }
            }
            assert_eq!(made[&router(model_type, layer)].shape, [2, 24]);
            names.insert(router(model_type, layer));
            let part = if model_type == "qwen2_moe" { "shared_expert" } else { "shared_experts" };
            for map in ["gate_proj", "up_proj", "down_proj"].into_iter().filter(|_| shared) {
                let own = format!("model.layers.{layer}.mlp.{part}.{map}.weight");
                let of = &dense[&format!("model.layers.{layer}.mlp.{map}.weight")];
                assert_eq!(made[&own].bytes, of.bytes, "{own}");
                names.insert(own);
            }
            if model_type == "qwen2_moe" {
                let gate = format!("model.layers.{layer}.mlp.shared_expert_gate.weight");
                assert_eq!(made[&gate].shape, [1, 24]);
                names.insert(gate);
            }
        }
        assert_eq!(made.keys().cloned().collect::<BTreeSet<_>>(), names, "{variant} {model_type}");
    }
}

#[test]
fn attention_is_the_base_s_or_the_average_of_the_experts() {
    let sandbox = Sandbox::new();
    tiny(&sandbox, "base", "llama", plain);
    for (seed, name) in ["one", "two"].into_iter().enumerate() {
        tuned(&sandbox, name, "base", seed as u64);
    }
    let name = "model.layers.1.self_attn.q_proj.weight";
    let [dense, one, two] =
        ["base", "one", "two"].map(|model| sandbox.tensors(model)[name].values());
    for (attention, expected) in
        [("base", dense), ("merge", one.iter().zip(&two).map(|(x, y)| 0.5 * (x + y)).collect())]
    {
        let keys = format!("base_model: base\ngate_mode: random\nattention: {attention}\n");
        let out = format!("out-{attention}");
        sandbox.merge(&recipe(&keys, &["one", "two"]), &out, &["--no-eval"]);
        accounted(&sandbox, &out);
        assert!(apart(&sandbox.tensors(&out)[name].values(), &expected) < 1e-6, "{attention}");
    }
}

/// A config with everything that the family can express makes the same logits, and the keys stand in it.
#[test]
fn the_config_carries_what_the_dense_one_says() {
    let scaled = |kind: &str, more: Value| {
        let mut scaling = json!({"rope_type": kind, "factor": 2.0});
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        scaling
    };
    let scalings = [
        scaled("linear", json!({})),
        scaled("dynamic", json!({})),
        scaled("yarn", json!({"original_max_position_embeddings": 16, "beta_fast": 4.0})),
        scaled(
            "llama3",
            json!({"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}),
        ),
    ];
    let long: Vec<u32> = IDS.iter().cycle().take(80).copied().collect();
    for (variant, architecture) in [
        ("llama", "mixtral"),
        ("mistral", "mixtral"),
        ("llama_linear", "deepseek"),
        ("qwen2", "qwen"),
        ("qwen3", "qwen"),
    ] {
        let mut cases: Vec<(String, Value)> = scalings
            .iter()
            .map(|scaling| ("rope_scaling".to_string(), scaling.clone()))
            .chain([
                ("rope_theta".to_string(), json!(54321.0)),
                ("rms_norm_eps".to_string(), json!(0.01)),
                ("hidden_act".to_string(), json!("gelu")),
            ])
            .collect();
        if variant == "mistral" {
            cases.push(("sliding_window".to_string(), json!(3)));
            cases.push(("sliding_window".to_string(), Value::Null));
        }
        // DeepSeek's class knows two scalings, and calls them `type`.
        let deepseek = architecture == "deepseek";
        let known =
            |value: &Value| ["linear", "dynamic"].map(Some).contains(&value["rope_type"].as_str());
        cases.retain(|(key, value)| !deepseek || key != "rope_scaling" || known(value));
        for (key, value) in cases {
            let sandbox = Sandbox::new();
            tiny(&sandbox, "base", variant, |config| {
                config.as_object_mut().unwrap().remove("rope_parameters");
                config["rope_theta"] = json!(10000.0);
                config[&key] = value.clone();
            });
            let shared = if variant == "qwen2" { NOTHING } else { "" };
            let keys = format!(
                "base_model: base\ngate_mode: random\narchitecture: {architecture}\n{shared}"
            );
            sandbox.merge(&recipe(&keys, &["base", "base"]), "out", &["--no-eval"]);
            let wanted = match deepseek && key == "rope_scaling" {
                true => json!({"type": value["rope_type"], "factor": value["factor"]}),
                false => value.clone(),
            };
            assert_eq!(sandbox.read_json("out/config.json")[&key], wanted, "{variant}");
            let (made, dense) = (logits(&sandbox, "out", &long), logits(&sandbox, "base", &long));
            let found = apart(&made, &dense);
            assert!(found <= TOLERANCE, "{variant} {key} {value}: {found} apart");
        }
    }
}

/// Where the families' defaults differ, the mixture's config says what the dense one left out.
#[test]
fn what_a_config_leaves_to_defaults_is_spelled_out() {
    for (variant, architecture, gone) in [
        ("llama", "mixtral", &["rms_norm_eps", "rope_theta", "max_position_embeddings"][..]),
        ("qwen2", "qwen", &["rms_norm_eps", "rope_theta"]),
        ("llama_linear", "deepseek", &["rms_norm_eps", "rope_theta"]),
    ] {
        let sandbox = Sandbox::new();
        tiny(&sandbox, "base", variant, |config| {
            for key in gone {
                config.as_object_mut().unwrap().remove(*key);
            }
        });
        let shared = if variant == "qwen2" { NOTHING } else { "" };
        let keys =
            format!("base_model: base\ngate_mode: random\narchitecture: {architecture}\n{shared}");
        sandbox.merge(&recipe(&keys, &["base", "base"]), "out", &["--no-eval"]);
        let config = sandbox.read_json("out/config.json");
        for key in gone {
            assert!(config[*key].is_number(), "{variant}: {key}");
        }
        let found = apart(&logits(&sandbox, "out", &IDS), &logits(&sandbox, "base", &IDS));
        assert!(found <= TOLERANCE, "{variant}: {found} apart");
    }
}

/// The families count the layers with windows in ways of their own.
#[test]
fn windows_of_some_layers_are_carried_or_refused() {
    let sandbox = Sandbox::new();
    let keys = |architecture: &str, shared: &str| {
        let keys = format!("base_model: base\ngate_mode: random\narchitecture: {architecture}\n");
        recipe(&format!("{keys}{shared}"), &["base", "base"])
    };
    let window = |config: &mut Value, from: usize| {
        config["use_sliding_window"] = json!(true);
        config["sliding_window"] = json!(4);
        config["max_window_layers"] = json!(from);
        config.as_object_mut().unwrap().remove("layer_types");
    };
    for from in [0, 1, 2] {
        tiny(&sandbox, "base", "qwen2", |config| window(config, from));
        sandbox.merge(&keys("qwen", NOTHING), "out", &["--overwrite", "--no-eval"]);
        let kinds = sandbox.read_json("out/config.json")["layer_types"].clone();
        let kind = |layer| if layer >= from { "sliding_attention" } else { "full_attention" };
        assert_eq!(kinds, json!([kind(0), kind(1)]));
        let found = apart(&logits(&sandbox, "out", &IDS), &logits(&sandbox, "base", &IDS));
        assert!(found <= TOLERANCE, "from layer {from}: {found} apart");
    }
    // Qwen3-MoE has one rule for all layers.
    tiny(&sandbox, "base", "qwen3", |config| window(config, 0));
    sandbox.merge(&keys("qwen", ""), "out", &["--overwrite", "--no-eval"]);
    let found = apart(&logits(&sandbox, "out", &IDS), &logits(&sandbox, "base", &IDS));
    assert!(found <= TOLERANCE, "{found} apart");
    for (variant, architecture, from) in [("qwen3", "qwen", 1), ("qwen3", "qwen", 2)] {
        tiny(&sandbox, "base", variant, |config| window(config, from));
        sandbox.write("recipe.yml", keys(architecture, ""));
        let message = sandbox.fails(2, &["plan", "recipe.yml"]);
        assert!(message.contains("sliding_window"), "{message}");
    }
    edit(&sandbox, "base", |config| {
        config["layer_types"] = json!(["sliding_attention", "sliding_attention"])
    });
    sandbox.ok(&["plan", "recipe.yml"]);
}
