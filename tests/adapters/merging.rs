//! A merge that reads through an adapter, and what it records.

use super::support::{Sandbox, Tensor, files, sha256};
use super::{data, whole};
use cognate::engine::{DigestMode, Digests, Progress, hex};
use cognate::model::{Checkpoint, Source};
use cognate::plan::Options;
use cognate::{Merge, WriteOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[test]
fn a_merge_reads_through_the_adapter_and_records_its_file() {
    let sandbox = Sandbox::new();
    let copy = |case: &str, to: &str| {
        for (file, bytes) in files(&data(case)) {
            sandbox.write(&format!("{to}/{file}"), bytes);
        }
    };
    copy("base", "base");
    let cache = sandbox.path("cache");
    let run = |case: &str, reference: &str, out: &str, cache: Option<PathBuf>| {
        copy(case, reference);
        let recipe = format!(
            "merge_method: linear\nmodels: [{{model: base+{reference}, parameters: {{weight: 1}}}}]\n"
        );
        sandbox.write("recipe.yml", recipe);
        let merge = Merge::open(&sandbox.path("recipe.yml"), &Options::default()).unwrap();
        let options = WriteOptions {
            overwrite: false,
            digests: DigestMode::Full,
            cache,
            allow_nan: false,
            progress: Progress::silent(),
            evaluate: None,
        };
        merge.write(&sandbox.path(out), &options).unwrap();
        let base = Checkpoint::open("base", &data("base")).unwrap();
        base.with_adapter(reference, &data(case)).unwrap()
    };
    // `saved` replaces tensors of the same name and dtype, whose bytes must not pass for the base's.
    for case in ["saved", "dora", "embedding_saved"] {
        let mut digest = None;
        let outs =
            [("first", None), ("first", Some(cache.clone())), ("other", Some(cache.clone()))];
        for (i, (reference, cache)) in outs.into_iter().enumerate() {
            let out = format!("{case}{i}");
            let model = run(case, reference, &out, cache);
            for (name, tensor) in sandbox.tensors(&out) {
                let (spec, expected) = {
                    let source = model.tensor(&name).unwrap();
                    (source.spec().clone(), whole(source))
                };
                assert_eq!((tensor.dtype, &tensor.shape), (spec.dtype, &spec.shape));
                let expected = Tensor::of(&name, spec.dtype, &spec.shape, &expected);
                assert_eq!(tensor.bytes, expected.bytes, "{case} {name}");
            }
            let lineage = sandbox.read_json(&format!("{out}/lineage.json"));
            let recorded = lineage["inputs"][0]["tensors"].as_object().unwrap();
            let mut stored: BTreeMap<String, String> = BTreeMap::new();
            for (prefix, folder) in [("", "base"), ("adapter 1:", case)] {
                for (file, bytes) in files(&data(folder)) {
                    if file == "model.safetensors" || file == "adapter_model.safetensors" {
                        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                        let tensors = tensors.tensors().into_iter();
                        stored.extend(
                            tensors.map(|(name, view)| {
                                (format!("{prefix}{name}"), sha256(view.data()))
                            }),
                        );
                    }
                }
            }
            let found: BTreeMap<String, String> = recorded
                .iter()
                .map(|(name, tensor)| {
                    (name.clone(), tensor["sha256"].as_str().unwrap().to_string())
                })
                .collect();
            assert_eq!(found, stored, "{case} {i}");
            // The digest as docs/lineage.md describes it; the reference does not come into it.
            let input = &lineage["inputs"][0];
            let config = std::fs::read(data(case).join("adapter_config.json")).unwrap();
            let mut lines: BTreeMap<&str, String> = recorded
                .iter()
                .map(|(name, t)| {
                    let shape: Vec<u64> = serde_json::from_value(t["shape"].clone()).unwrap();
                    let (dtype, sha256) =
                        (t["dtype"].as_str().unwrap(), t["sha256"].as_str().unwrap());
                    (name.as_str(), format!("\"{name}\" {dtype} {shape:?} {sha256}\n"))
                })
                .collect();
            let name = "adapter 1:adapter_config.json";
            let line = format!("\"{name}\" U8 [{}] {}\n", config.len(), sha256(&config));
            lines.insert(name, line);
            let expected = sha256(lines.into_values().collect::<String>().as_bytes());
            assert_eq!(input["digest"], expected, "{case} {i}");
            assert_eq!(*digest.get_or_insert(expected.clone()), expected, "{case} {i}");
            assert_eq!(
                input["adapters"],
                json!([{
                    "adapter": reference,
                    "prefix": "adapter 1:",
                    "config_sha256": sha256(&config),
                    "settings": {
                        "alpha_pattern": {},
                        "fan_in_fan_out": false,
                        "lora_alpha": 8,
                        "r": 2,
                        "rank_pattern": {},
                        "use_dora": case == "dora",
                        "use_rslora": false,
                    },
                }])
            );
            let whole: &[&str] = match case {
                "saved" => &["head.weight", "norm.bias", "norm.weight"],
                "embedding_saved" => &["embed.weight", "head.weight"],
                _ => &[],
            };
            let dropped = input["dropped"].as_object().unwrap();
            assert_eq!(dropped.keys().collect::<Vec<_>>(), whole, "{case}");
            let reason = format!("{reference} replaces it whole");
            assert!(dropped.values().all(|found| *found == reason), "{case}");
        }
        // Known from the cache under any reference.
        let base = Checkpoint::open("base", &sandbox.path("base")).unwrap();
        let models = [base.with_adapter("third", &sandbox.path("other")).unwrap()];
        let digests = Digests::new(&models, Some(&cache));
        let known = digests.of_model(0);
        assert_eq!(known.len(), models[0].stored().len());
        for (name, tensor) in models[0].stored() {
            assert_eq!(hex(&known[name.as_str()]), sha256(tensor.stored().unwrap()), "{name}");
        }
    }
}

/// A merge of `base+REFERENCE` alone; returns the bytes of its weights and its lineage.
fn merged(sandbox: &Sandbox, reference: &str, out: &str) -> (BTreeMap<String, Tensor>, Value) {
    sandbox.write(
        "recipe.yml",
        format!(
            "merge_method: linear\nmodels: [{{model: {reference}, parameters: {{weight: 1}}}}]\n"
        ),
    );
    let merge = Merge::open(&sandbox.path("recipe.yml"), &Options::default()).unwrap();
    let options = WriteOptions {
        overwrite: false,
        digests: DigestMode::Full,
        cache: None,
        allow_nan: false,
        progress: Progress::silent(),
        evaluate: None,
    };
    merge.write(&sandbox.path(out), &options).unwrap();
    let weights = sandbox.tensors(out);
    (weights, sandbox.read_json(&format!("{out}/lineage.json")))
}

#[test]
fn a_pickled_adapter_gives_the_bytes_of_the_same_one_in_safetensors() {
    let sandbox = Sandbox::new();
    for (case, to) in [("base", "base"), ("saved", "loras/saved"), ("pickled", "loras/pickled")] {
        for (file, bytes) in files(&data(case)) {
            sandbox.write(&format!("{to}/{file}"), bytes);
        }
    }
    assert!(!sandbox.path("loras/pickled/adapter_model.safetensors").exists());
    let (ours, of_pickled) = merged(&sandbox, "base+loras/pickled", "out-pickled");
    let (theirs, of_safetensors) = merged(&sandbox, "base + loras/saved", "out-saved");
    let (base, _) = merged(&sandbox, "base", "out-base");
    assert!(ours == theirs && ours != base);
    let digest = |lineage: &Value| lineage["inputs"][0]["digest"].as_str().unwrap().to_string();
    assert_eq!(digest(&of_pickled), digest(&of_safetensors));
    // Another factor makes another model of the same tensors.
    let config = std::fs::read_to_string(data("saved").join("adapter_config.json")).unwrap();
    let other = config.replace("\"lora_alpha\": 8", "\"lora_alpha\": 4");
    assert_ne!(other, config);
    sandbox.write("loras/saved/adapter_config.json", other);
    let (weights, changed) = merged(&sandbox, "base+loras/saved", "out-changed");
    assert!(weights != ours);
    assert_ne!(digest(&changed), digest(&of_pickled));
    // The card names base and adapter each by itself.
    let card = std::fs::read_to_string(sandbox.path("out-pickled/README.md")).unwrap();
    assert!(card.contains("base_model:\n- \"base\"\n- \"pickled\"\n"), "{card}");
}
