//! Experts join a mixture, meet their counterparts in another one, and may come from stages and adapters.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mixtures.rs"]
mod mixtures;
mod support;

use mixtures::{
    IDS, MIXTURES, apart, changed, expert_tensors, is_mlp, logits, make, mean_norm, mixture, norm,
    recipe, router, rows, tuned,
};
use support::{Sandbox, Tensor, accounted};

#[test]
fn experts_join() {
    for (variant, architecture, model_type, shared) in MIXTURES {
        let sandbox = mixture(variant, architecture, shared, "gate_mode: hidden\ngate_scale: 3\n");
        tuned(&sandbox, "four", "base", 9);
        let before = sandbox.tensors("mixture");
        for mode in ["hidden", "random", "ridge", "cheap_embed"] {
            let keys = format!(
                "gate_mode: {mode}\nexperts:\n  - {{source_model: four, positive_prompts: [w50 w51]}}\n  - {{source_model: base, positive_prompts: [w52 w53]}}\n"
            );
            let out = format!("out-{mode}");
            let made = make(&sandbox, &keys, &out);
            let config = sandbox.read_json(&format!("{out}/config.json"));
            assert_eq!(config["num_experts_per_tok"], 2);
            for (name, tensor) in
                before.iter().filter(|(name, _)| !name.ends_with("mlp.gate.weight"))
            {
                if *name != router(model_type, 0) && *name != router(model_type, 1) {
                    assert_eq!(&made[name], tensor, "{variant}");
                }
            }
            let mut count = 0;
            for layer in 0..2 {
                for (i, of) in [(3, "four"), (4, "base")] {
                    let of = sandbox.tensors(of);
                    for [own, from] in expert_tensors(model_type, layer, i) {
                        assert_eq!(made[&own].bytes, of[&from].bytes, "{own}");
                        count += 1;
                    }
                }
                let name = router(model_type, layer);
                let (new, old) = (rows(&made[&name]), rows(&before[&name]));
                assert_eq!(new.len(), 5);
                assert_eq!(new[..3], old[..], "those that were there stay");
                for row in &new[3..] {
                    assert!((norm(row) / mean_norm(&old) - 1.0).abs() < 1e-5, "{variant} {mode}");
                }
                assert_ne!(new[3], new[4]);
            }
            assert_eq!(made.len(), before.len() + count);
            assert_eq!(logits(&sandbox, &out, &IDS).len(), IDS.len() * 67);
        }
    }
}

/// The mixture with its experts in another order, in every layer another one.
fn permuted(sandbox: &Sandbox, name: &str, of: &str, model_type: &str, orders: [[usize; 3]; 2]) {
    let tensors = sandbox.tensors(of);
    changed(sandbox, name, of, |tensor| {
        for (layer, order) in orders.iter().enumerate() {
            if tensor.name == router(model_type, layer) {
                let old = rows(&tensor);
                let values: Vec<f32> = order.iter().flat_map(|from| old[*from].clone()).collect();
                return Tensor::of(&tensor.name, tensor.dtype, &tensor.shape, &values);
            }
            for (to, from) in order.iter().enumerate() {
                let to = expert_tensors(model_type, layer, to);
                for ([to, _], [from, _]) in to.iter().zip(expert_tensors(model_type, layer, *from))
                {
                    if tensor.name == *to {
                        return Tensor { name: to.clone(), ..tensors[&from].clone() };
                    }
                }
            }
        }
        tensor
    });
}

#[test]
fn experts_of_two_mixtures_meet_their_counterparts() {
    for (variant, architecture, model_type, shared) in MIXTURES {
        let sandbox = mixture(variant, architecture, shared, "gate_mode: hidden\n");
        permuted(&sandbox, "other", "mixture", model_type, [[2, 0, 1], [1, 0, 2]]);
        // The order of experts does not matter to what a mixture computes.
        let found = apart(&logits(&sandbox, "other", &IDS), &logits(&sandbox, "mixture", &IDS));
        assert!(found < 1e-4, "{variant}: {found}");
        let linear = "merge_method: linear\nmodels: [{model: mixture}, {model: other}]\nparameters: {weight: 0.5}\n";
        sandbox.merge(&format!("{linear}align_experts: true\n"), "aligned", &[]);
        sandbox.merge(linear, "plain", &[]);
        accounted(&sandbox, "aligned");
        let (first, aligned) = (sandbox.tensors("mixture"), sandbox.tensors("aligned"));
        assert_eq!(aligned, first, "{variant} {model_type}");
        assert_ne!(sandbox.tensors("plain"), first);
    }
    // Counterparts that are no longer the same are found too.
    let sandbox = mixture("mistral", "mixtral", false, "gate_mode: hidden\n");
    permuted(&sandbox, "moved", "mixture", "mixtral", [[1, 2, 0], [0, 2, 1]]);
    changed(&sandbox, "other", "moved", |tensor| {
        let noise = Tensor::random(&tensor.name, tensor.dtype, &tensor.shape, 77).values();
        let values: Vec<f32> =
            tensor.values().iter().zip(noise).map(|(x, z)| x + 1e-3 * z).collect();
        Tensor::of(&tensor.name, tensor.dtype, &tensor.shape, &values)
    });
    let slerp = "merge_method: slerp\nbase_model: mixture\nmodels: [{model: other}]\nparameters: {t: 0.5}\nalign_experts: true\n";
    sandbox.merge(slerp, "slerp", &[]);
    let (first, made) = (sandbox.tensors("mixture"), sandbox.tensors("slerp"));
    for (name, tensor) in &made {
        let found = apart(&tensor.values(), &first[name].values());
        assert!(found < 2e-3, "{name}: {found}");
    }
}

#[test]
fn mixtures_and_experts_may_be_stages() {
    let sandbox = mixture("mistral", "mixtral", false, "gate_mode: hidden\n");
    let stage = "name: middle\nmerge_method: linear\nmodels: [{model: one}, {model: two}]\nparameters: {weight: 0.5}\n";
    let build = recipe("base_model: base\ngate_mode: hidden\n", &["middle", "three"]);
    sandbox.merge(&format!("{stage}---\n{build}"), "in-stages", &[]);
    let by_hand = stage.replace("name: middle\n", "");
    sandbox.merge(&by_hand, "middle", &[]);
    sandbox.merge(&build, "by-hand", &[]);
    let bytes = |out: &str| sandbox.tensors(out);
    assert!(bytes("in-stages") == bytes("by-hand"));
    // The base as a stage: the gates are found from it.
    let of_stage = recipe("base_model: middle\ngate_mode: ridge\n", &["one", "three"]);
    sandbox.merge(&of_stage, "base-by-hand", &[]);
    std::fs::remove_dir_all(sandbox.path("middle")).unwrap();
    sandbox.merge(&format!("{stage}---\n{of_stage}"), "base-in-stages", &[]);
    assert!(bytes("base-in-stages") == bytes("base-by-hand"));
    // What is extracted, left out or joined may be a stage's.
    let built =
        recipe("name: built\nbase_model: base\ngate_mode: hidden\n", &["one", "two", "three"]);
    for (keys, out) in [
        ("extract: 1\n", "extracted"),
        ("extract: all\n", "averaged"),
        ("drop: [0]\n", "dropped"),
        (
            "gate_mode: hidden\nexperts: [{source_model: base, positive_prompts: [w9 w8]}]\n",
            "joined",
        ),
    ] {
        sandbox.merge(&format!("mixture: mixture\n{keys}"), out, &[]);
        let stages = format!("{out}-in-stages");
        sandbox.merge(&format!("{built}---\nmixture: built\n{keys}"), &stages, &[]);
        assert!(bytes(&stages) == bytes(out), "{keys}");
        assert_eq!(
            sandbox.read_json(&format!("{stages}/config.json")),
            sandbox.read_json(&format!("{out}/config.json"))
        );
    }
}

#[test]
fn a_model_with_an_adapter_may_be_an_expert() {
    let sandbox = Sandbox::with_trained_models();
    let experts = "experts:\n  - {source_model: models/base+models/lora-math}\n  - {source_model: models/ft-code}\n";
    sandbox.merge(&format!("base_model: models/base\ngate_mode: random\n{experts}"), "out", &[]);
    let alone = "merge_method: passthrough\nmodels: [{model: models/base+models/lora-math}]\n";
    sandbox.merge(alone, "alone", &[]);
    sandbox.merge("mixture: out\nextract: 0\n", "extracted", &[]);
    let (extracted, alone) = (sandbox.tensors("extracted"), sandbox.tensors("alone"));
    let base = sandbox.tensors("models/base");
    let mut differ = 0;
    for (name, tensor) in extracted.iter().filter(|(name, _)| is_mlp(name)) {
        assert_eq!(*tensor, alone[name]);
        differ += usize::from(*tensor != base[name]);
    }
    assert!(differ > 0, "the adapter changes no MLP");
}
