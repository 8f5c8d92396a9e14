//! A merge that reads through an adapter, and what it records.

use super::support::{Sandbox, Tensor, files, sha256};
use super::{data, whole};
use cognate::engine::{DigestMode, Digests, Progress, hex};
use cognate::model::{Checkpoint, Source};
use cognate::plan::Options;
use cognate::{Merge, WriteOptions};
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
        };
        merge.write(&sandbox.path(out), &options).unwrap();
        let base = Checkpoint::open("base", &data("base")).unwrap();
        base.with_adapter(reference, &data(case)).unwrap()
    };
    // `saved` replaces tensors of the same name and dtype, whose bytes must not pass for the base's.
    for case in ["saved", "dora", "embedding_saved"] {
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
            for (prefix, folder) in [(String::new(), "base"), (format!("{reference}:"), case)] {
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
