//! Mixtures of experts taken apart: experts come out byte for byte, and are left out by number or by where
//! tokens go.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mixtures.rs"]
mod mixtures;
mod support;

use mixtures::{
    EXPERTS, IDS, MIXTURES, apart, edit, expert_tensors, is_mlp, logits, make, mean_norm, mixture,
    router, rows, tiny,
};
use serde_json::{Value, json};
use support::Sandbox;

#[test]
fn what_is_put_in_comes_out_byte_for_byte() {
    for (variant, architecture, model_type, shared) in MIXTURES {
        let sandbox = mixture(variant, architecture, shared, "gate_mode: random\n");
        let base = sandbox.tensors("base");
        for (i, name) in EXPERTS.iter().enumerate() {
            let out = format!("out-{i}");
            let made = make(&sandbox, &format!("extract: {i}\n"), &out);
            let expert = sandbox.tensors(name);
            assert!(made.keys().eq(base.keys()), "{variant} {model_type}");
            for (name, tensor) in &made {
                let from = if is_mlp(name) { &expert[name] } else { &base[name] };
                assert_eq!(tensor, from, "{variant} {model_type}: expert {i}");
            }
        }
        let keys: Vec<&str> = if shared { vec!["extract: shared\n"] } else { vec![] };
        for keys in keys {
            assert_eq!(make(&sandbox, keys, "shared"), base, "{variant} {model_type}");
            assert_eq!(logits(&sandbox, "shared", &IDS), logits(&sandbox, "base", &IDS));
        }
        // Nothing of the mixture is left in the config, and what the dense one said is there again.
        let (made, dense) =
            (sandbox.read_json("out-0/config.json"), sandbox.read_json("base/config.json"));
        for (key, value) in dense.as_object().unwrap() {
            // DeepSeek's config says the same of rotary embeddings under other keys.
            if model_type == "deepseek"
                && ["rope_parameters", "rope_scaling"].contains(&key.as_str())
            {
                continue;
            }
            // Where the dense family is told by the mixture's alone, it is the usual one.
            assert_eq!(made[key], *value, "{variant} {model_type}: {key}");
        }
        for key in made.as_object().unwrap().keys() {
            let spelled = ["layer_types", "sliding_window", "rope_theta"].contains(&key.as_str());
            assert!(spelled || dense.get(key).is_some(), "{variant} {model_type}: {key}");
        }
    }
}

#[test]
fn experts_of_a_mixtral_are_models_of_mistral_or_llama() {
    let sandbox = mixture("llama", "mixtral", false, "gate_mode: random\n");
    for (keys, model_type, class) in [
        ("extract: 1\n", "mistral", "MistralForCausalLM"),
        ("extract: 1\narchitecture: llama\n", "llama", "LlamaForCausalLM"),
        ("extract: 1\narchitecture: mistral\n", "mistral", "MistralForCausalLM"),
    ] {
        let out = format!("out-{model_type}-{}", keys.len());
        make(&sandbox, keys, &out);
        let config = sandbox.read_json(&format!("{out}/config.json"));
        assert_eq!(
            (&config["model_type"], &config["architectures"]),
            (&json!(model_type), &json!([class]))
        );
        assert_eq!(logits(&sandbox, &out, &IDS).len(), IDS.len() * 67);
    }
    let made = logits(&sandbox, "out-mistral-11", &IDS);
    assert_eq!(made, logits(&sandbox, "out-llama-31", &IDS));
    // Llama has no windows.
    edit(&sandbox, "mixture", |config| config["sliding_window"] = json!(4));
    sandbox.write("recipe.yml", "mixture: mixture\nextract: 1\narchitecture: llama\n");
    let windows = sandbox.fails(2, &["plan", "recipe.yml"]);
    sandbox.write("recipe.yml", "mixture: mixture\nextract: 1\narchitecture: qwen2\n");
    let other = sandbox.fails(2, &["plan", "recipe.yml"]);
    insta::assert_snapshot!("other_dense_families", [windows, other].join("\n"));
}

#[test]
fn several_experts_come_out_as_their_average() {
    let sandbox = mixture("qwen3", "qwen", false, "gate_mode: random\n");
    for (take, experts) in [("all", &EXPERTS[..]), ("[0, 2]", &["one", "three"])] {
        let out = format!("out-{}", experts.len());
        let made = make(&sandbox, &format!("extract: {take}\n"), &out);
        let models = experts.iter().map(|name| format!("{{model: {name}}}"));
        let linear = format!(
            "merge_method: linear\nmodels: [{}]\nparameters: {{weight: 1}}\n",
            models.collect::<Vec<_>>().join(", ")
        );
        sandbox.merge(&linear, &format!("{out}-linear"), &[]);
        let (linear, base) = (sandbox.tensors(&format!("{out}-linear")), sandbox.tensors("base"));
        for (name, tensor) in &made {
            let from = if is_mlp(name) { &linear[name] } else { &base[name] };
            assert_eq!(tensor, from, "{take}");
        }
    }
}

/// Mixtures as transformers saves them: experts under another key, windows by the family's own rule, shared
/// experts of another width than the routed ones.
#[test]
fn mixtures_of_other_programs_are_taken_apart() {
    for (variant, model_type, experts) in [
        ("mixtral", "mixtral", "num_local_experts"),
        ("qwen2_moe_windows", "qwen2_moe", "num_experts"),
        ("qwen3_moe_windows", "qwen3_moe", "num_local_experts"),
    ] {
        let sandbox = Sandbox::new();
        tiny(&sandbox, "mixture", variant, |_| ());
        let before = sandbox.tensors("mixture");
        let made = make(&sandbox, "extract: 4\n", "extracted");
        for layer in 0..2 {
            for [own, of] in expert_tensors(model_type, layer, 4) {
                assert_eq!(made[&of].bytes, before[&own].bytes, "{of}");
            }
        }
        // The expert alone is what is left of the mixture without the others.
        make(&sandbox, "drop: [0, 1, 2, 3]\nrenormalise: false\n", "alone");
        let config = sandbox.read_json("alone/config.json");
        assert_eq!((&config[experts], &config["num_experts_per_tok"]), (&json!(1), &json!(1)));
        let counts = ["num_experts", "num_local_experts"].map(|key| config.get(key).is_some());
        assert_eq!(counts.into_iter().filter(|there| *there).count(), 1, "{variant}: {config}");
        if model_type == "qwen2_moe" {
            // The shared expert takes part there, and only there.
            continue;
        }
        // Without `norm_topk_prob` the weight of one expert of one is 1, too.
        let found = apart(&logits(&sandbox, "alone", &IDS), &logits(&sandbox, "extracted", &IDS));
        assert!(found < 1e-4, "{variant}: {found}");
    }
    let sandbox = Sandbox::new();
    tiny(&sandbox, "mixture", "qwen2_moe_windows", |_| ());
    let made = make(&sandbox, "extract: shared\n", "shared");
    let config = sandbox.read_json("shared/config.json");
    assert_eq!(
        (&config["intermediate_size"], &made["model.layers.0.mlp.up_proj.weight"].shape),
        (&json!(28), &vec![28, 24])
    );
    assert_eq!(config["layer_types"], json!(["sliding_attention", "full_attention"]));
    assert_eq!(logits(&sandbox, "shared", &IDS).len(), IDS.len() * 67);
    // Layers with an MLP of another width have no place in a dense model.
    tiny(&sandbox, "mixture", "qwen2_moe", |_| ());
    sandbox.write("recipe.yml", "mixture: mixture\nextract: 0\n");
    assert!(sandbox.fails(2, &["plan", "recipe.yml"]).contains("intermediate_size"));
}

#[test]
fn experts_are_left_out_by_number() {
    for (variant, architecture, model_type, shared) in MIXTURES {
        let sandbox =
            mixture(variant, architecture, shared, "gate_mode: random\ngate_scale: 0.3\n");
        let before = sandbox.tensors("mixture");
        for (renormalise, line) in [(true, ""), (false, "renormalise: false\n")] {
            let out = format!("out-{renormalise}");
            let made = make(&sandbox, &format!("drop: [1]\n{line}"), &out);
            let config = sandbox.read_json(&format!("{out}/config.json"));
            assert_eq!(config["num_experts_per_tok"], 2);
            for layer in 0..2 {
                for (new, old) in [(0, 0), (1, 2)] {
                    let new = expert_tensors(model_type, layer, new);
                    for ([new, _], [old, _]) in
                        new.iter().zip(expert_tensors(model_type, layer, old))
                    {
                        assert_eq!(made[new].bytes, before[&old].bytes, "{new}");
                    }
                }
                let [third, _] = &expert_tensors(model_type, layer, 2)[0];
                assert!(!made.contains_key(third));
                let name = router(model_type, layer);
                let (new, old) = (rows(&made[&name]), rows(&before[&name]));
                let kept = [old[0].clone(), old[2].clone()];
                if !renormalise {
                    assert_eq!(new, kept, "{variant}");
                    continue;
                }
                // Both are scaled alike, to the mean length that there was.
                let factor = mean_norm(&old) / mean_norm(&kept);
                assert!((factor - 1.0).abs() > 1e-3, "nothing is scaled");
                for (new, old) in new.iter().flatten().zip(kept.iter().flatten()) {
                    assert!((f64::from(*new) - factor * f64::from(*old)).abs() < 1e-6, "{variant}");
                }
            }
            assert_eq!(logits(&sandbox, &out, &IDS).len(), IDS.len() * 67);
        }
    }
    // One is left: tokens go to no more than there are.
    let sandbox = mixture("mistral", "mixtral", false, "gate_mode: random\n");
    make(&sandbox, "drop: [0, 2]\n", "one-left");
    assert_eq!(sandbox.read_json("one-left/config.json")["num_experts_per_tok"], 1);
    make(&sandbox, "extract: 1\n", "alone");
    let found = apart(&logits(&sandbox, "one-left", &IDS), &logits(&sandbox, "alone", &IDS));
    assert!(found < 1e-4, "{found}");
}

/// The expert of each layer with the smallest share of tokens, each set counting alike.
fn least(routing: &Value, layers: usize) -> Vec<usize> {
    let share = |layer: usize, expert: usize| -> f64 {
        let sets = routing["sets"].as_array().unwrap().iter();
        sets.map(|set| {
            let received = set["layers"][layer]["received"][expert].as_f64().unwrap();
            received / set["tokens"].as_f64().unwrap()
        })
        .sum()
    };
    let of = |layer| (0..3).min_by(|a, b| share(layer, *a).total_cmp(&share(layer, *b))).unwrap();
    (0..layers).map(of).collect()
}

#[test]
fn experts_are_left_out_by_routing() {
    let sandbox = mixture("qwen3", "qwen", false, "gate_mode: hidden\nexperts_per_token: 1\n");
    let before = sandbox.tensors("mixture");
    sandbox.write("texts.txt", "w9 w8 w7 w6 w5 w4 w33 w34\nw20 w21 w22 w23\nw60 w9 w61 w5 w62\n");
    let own = sandbox.read_json("mixture/lineage.json")["routing"].clone();
    let args = ["route", "mixture", "--data", "some=texts.txt", "--json"];
    let routed = sandbox.ok(&args);
    sandbox.write("routing.json", &routed.stdout);
    for (routing, keys, out) in [
        (own, "drop: {least_routed: 1}\nrenormalise: false\n", "by-lineage"),
        (
            routed.json(),
            "drop: {least_routed: 1, routing: routing.json}\nrenormalise: false\n",
            "by-file",
        ),
    ] {
        let made = make(&sandbox, keys, out);
        for (layer, gone) in least(&routing, 2).into_iter().enumerate() {
            let stay: Vec<usize> = (0..3).filter(|expert| *expert != gone).collect();
            for (new, old) in stay.iter().enumerate() {
                let new = expert_tensors("qwen3_moe", layer, new);
                for ([new, _], [old, _]) in new.iter().zip(expert_tensors("qwen3_moe", layer, *old))
                {
                    assert_eq!(made[new].bytes, before[&old].bytes, "{out}: {new}");
                }
            }
            let name = router("qwen3_moe", layer);
            let old = rows(&before[&name]);
            let kept: Vec<Vec<f32>> = stay.iter().map(|expert| old[*expert].clone()).collect();
            assert_eq!(rows(&made[&name]), kept, "{out}");
        }
    }
}

#[test]
fn a_report_counts_every_token() {
    let sandbox = mixture("mistral", "mixtral", false, "gate_mode: hidden\n");
    sandbox.write("one.txt", "w9 w8 w7 w6 w5\nw20 w21 w22 w23\n");
    sandbox.write("two.jsonl", "{\"body\": \"w1 w2 w3\"}\n");
    let args = ["route", "mixture", "--data", "one=one.txt", "--json"];
    let report = sandbox.ok(&args).json();
    assert_eq!((&report["experts"], &report["experts_per_token"]), (&json!(3), &json!(2)));
    let set = &report["sets"][0];
    assert_eq!(
        (&set["name"], &set["documents"], &set["tokens"]),
        (&json!("one"), &json!(2), &json!(9))
    );
    for layer in set["layers"].as_array().unwrap() {
        let sum = |key: &str| -> u64 {
            layer[key].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum()
        };
        assert_eq!((sum("received"), sum("first")), (18, 9));
    }
    // The routers' own choice at the first layer, from what they read there.
    let two = ["route", "mixture", "--data", "two=two.jsonl", "--field", "body", "--json"];
    assert_eq!(sandbox.ok(&two).json()["sets"][0]["tokens"], 3);
    let both = ["route", "mixture", "--data", "one=one.txt", "--data", "again=one.txt"];
    insta::assert_snapshot!("route", sandbox.ok(&both).stdout);
    let samples =
        ["route", "mixture", "--data", "a=one.txt", "--samples", "1", "--length", "3", "--json"];
    assert_eq!(sandbox.ok(&samples).json()["sets"][0]["tokens"], 3);
    for threads in ["1", "3"] {
        let again = [&args[..], &["--threads", threads, "--memory", "100MiB"]].concat();
        assert_eq!(sandbox.ok(&again).json(), report);
    }
}

/// The lineage of a mixture says where its experts' own texts go.
#[test]
fn the_routing_of_a_new_mixture_is_in_its_lineage() {
    let sandbox = mixture("mistral", "mixtral", false, "gate_mode: hidden\nexperts_per_token: 1\n");
    let routing = sandbox.read_json("mixture/lineage.json")["routing"].clone();
    assert_eq!((&routing["experts"], &routing["experts_per_token"]), (&json!(3), &json!(1)));
    for (i, set) in routing["sets"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&set["name"], &set["expert"]), (&json!(EXPERTS[i]), &json!(i)));
        assert_eq!((&set["documents"], &set["tokens"]), (&json!(1), &json!(3)));
        // The first router reads what the gates were found from, and each prompt's last token points
        // along its own row.
        let first = set["layers"][0]["received"][i].as_u64().unwrap();
        assert!(first >= 1, "expert {i} gets none of its own: {set}");
        for layer in set["layers"].as_array().unwrap() {
            let received = layer["received"].as_array().unwrap();
            assert_eq!(received.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 3);
        }
    }
    // The odd ones are those that get almost nothing of all texts, or almost everything.
    for odd in routing["odd"].as_array().unwrap() {
        let (layer, expert) = (odd["layer"].as_u64().unwrap(), odd["expert"].as_u64().unwrap());
        let sets = routing["sets"].as_array().unwrap();
        let of = |set: &Value| set["layers"][layer as usize]["received"][expert as usize].as_f64();
        let share = sets.iter().map(|set| of(set).unwrap() / 3.0).sum::<f64>() / 3.0;
        assert!((share - odd["share"].as_f64().unwrap()).abs() < 1e-12);
        assert_eq!(odd["load"], if share < 1.0 / 30.0 { "dead" } else { "overloaded" });
    }
    // Nothing of the kind without an evaluation, nor without texts.
    let keys = "base_model: base\ngate_mode: random\nexperts: [{source_model: one}, {source_model: two}]\n";
    for (out, more) in [("silent", &["--no-eval"][..]), ("textless", &[])] {
        sandbox.merge(keys, out, more);
        assert_eq!(sandbox.read_json(&format!("{out}/lineage.json")).get("routing"), None);
    }
}
