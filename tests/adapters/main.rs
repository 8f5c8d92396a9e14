//! LoRA adapters: against what PEFT merges them to (tests/data/make_adapters.py), by whole reads and
//! by any reads, through a merge with its digests, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic)]

mod merging;
mod refused;
#[path = "../support/mod.rs"]
mod support;

use cognate::model::{Checkpoint, Source};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{Sandbox, Tensor, shard};

/// The cases of make_adapters.py that are merged onto its base.
const CASES: [&str; 17] = [
    "plain",
    "rslora",
    "patterns",
    "conv1d",
    "embedding",
    "embedding_saved",
    "conv",
    "dora",
    "dora_conv1d",
    "dora_embedding",
    "dora_conv",
    "saved",
    "bias_all",
    "bias_lora_only",
    "lora_bias",
    "f16",
    "bf16",
];
/// The largest difference to PEFT, relative to the largest element of the tensor.
const TOLERANCE: f32 = 1e-6;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/adapters").join(path)
}

fn model(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("merge-configs/models").join(path)
}

/// The golden base with these adapters.
fn adapted(cases: &[&str]) -> Checkpoint {
    let base = Checkpoint::open("base", &data("base")).unwrap();
    cases.iter().fold(base, |model, case| model.with_adapter(case, &data(case)).unwrap())
}

fn whole(source: &dyn Source) -> Vec<f32> {
    let mut values = vec![0.0; source.spec().elements()];
    assert!(!source.read(0, &mut values).unwrap(), "{} has a NaN", source.spec().name);
    values
}

/// The floats of a safetensors file.
fn floats(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        assert_eq!(view.dtype(), Dtype::F32);
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        (name, values.collect())
    };
    tensors.tensors().into_iter().map(read).collect()
}

/// The largest difference, relative to the largest element.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let far = ours.iter().zip(theirs).fold(0.0_f32, |far, (a, b)| far.max((a - b).abs()));
    far / largest
}

#[test]
fn every_kind_of_adapter_merges_as_peft_merges_it() {
    let base = adapted(&[]);
    let mut cases: Vec<(Vec<&str>, &str)> = CASES.iter().map(|case| (vec![*case], *case)).collect();
    cases.push((vec!["plain", "stacked"], "stacked"));
    for (adapters, case) in cases {
        let ours = adapted(&adapters);
        let theirs = floats(&data(case).join("merged.safetensors"));
        assert!(theirs.keys().all(|name| ours.tensor(name).is_some()));
        let before = adapted(&adapters[..adapters.len() - 1]);
        for (name, source) in ours.tensors() {
            assert_eq!(source.spec(), base.tensor(name).unwrap().spec());
            match theirs.get(name) {
                Some(theirs) => {
                    let far = difference(&whole(source), theirs);
                    println!("{case} {name}: {far:.1e}");
                    assert!(far <= TOLERANCE, "{case} {name}: {far:e}");
                }
                None => {
                    assert_eq!(whole(source), whole(before.tensor(name).unwrap()), "{case} {name}")
                }
            }
        }
        // Every stored tensor is a part of one that is seen, or of the base and replaced whole.
        let seen: Vec<&str> = ours.tensors().flat_map(|(_, source)| source.parts()).collect();
        for name in ours.stored().keys() {
            let replaced = ours.unused().contains_key(name);
            assert!(!replaced || base.tensor(name).is_some(), "{case}: {name} is not applied");
            assert_ne!(replaced, seen.contains(&name.as_str()), "{case}: {name}");
        }
    }
}

#[test]
fn a_trained_adapter_merges_as_peft_merges_it() {
    let base = Checkpoint::open("base", &model("base")).unwrap();
    let ours = base.with_adapter("lora-math", &model("lora-math")).unwrap();
    let theirs = floats(&data("lora-math.safetensors"));
    assert_eq!(theirs.len(), 16);
    for (name, theirs) in theirs {
        let all = whole(ours.tensor(&name).unwrap());
        let sampled = (0..theirs.len()).map(|i| all[i * all.len() / theirs.len()]);
        let far = difference(&sampled.collect::<Vec<_>>(), &theirs);
        println!("{name}: {far:.1e}");
        assert!(far <= TOLERANCE, "{name}: {far:e}");
    }
}

/// Reads at any place, of any length, give the bits of one whole read.
fn any_range_reads_alike(model: &Checkpoint, cases: u32) {
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, cases, ..Default::default() });
    for (name, source) in model.tensors() {
        let all = whole(source);
        let ranges = (0..all.len(), 0..all.len());
        runner
            .run(&ranges, |(a, b)| {
                let (start, end) = (a.min(b), a.max(b) + 1);
                let mut part = vec![f32::NAN; end - start];
                source.read(start, &mut part).unwrap();
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&part), bits(&all[start..end]), "{} {}..{}", name, start, end);
                // What was found out on the way may be forgotten at any time.
                if start % 3 == 0 {
                    source.release(0..all.len());
                }
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn a_read_of_any_range_gives_the_bits_of_a_whole_read() {
    CASES.iter().for_each(|case| any_range_reads_alike(&adapted(&[case]), 24));
    any_range_reads_alike(&adapted(&["plain", "stacked"]), 24);
}

/// A LoRA's config with these keys.
fn lora(keys: Value) -> Value {
    let mut config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6});
    let entries = keys.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(entries);
    config
}

fn write_adapter(sandbox: &Sandbox, name: &str, config: &Value, tensors: &[Tensor]) {
    sandbox.write(&format!("{name}/adapter_config.json"), config.to_string());
    sandbox.write(&format!("{name}/adapter_model.safetensors"), shard(tensors));
}

/// A random tensor of an adapter.
fn part(name: &str, shape: &[usize]) -> Tensor {
    Tensor::random(&format!("base_model.model.{name}"), Dtype::F32, shape, 7)
}

/// `W + scale·L·R` in f64; L is `rows × rank`, R is `rank × columns`, each given as a function.
fn reference(
    weight: &[f32],
    columns: usize,
    scale: f64,
    rank: usize,
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let element = |(i, w): (usize, &f32)| {
        let (row, column) = (i / columns, i % columns);
        let terms = (0..rank).map(|k| f64::from(left(row, k)) * f64::from(right(k, column)));
        f64::from(*w) + scale * terms.sum::<f64>()
    };
    weight.iter().enumerate().map(element).collect()
}

#[test]
fn wide_and_tall_weights_are_read_in_tiles() {
    let sandbox = Sandbox::new();
    let shapes = [("wide", [3, 9001]), ("tall", [9001, 3]), ("middle", [130, 1111])];
    let tensors: Vec<Tensor> = shapes
        .iter()
        .flat_map(|(name, shape)| {
            ["", "_turned"]
                .map(|kind| Tensor::random(&format!("{name}{kind}.weight"), Dtype::BF16, shape, 1))
        })
        .collect();
    sandbox.model("base", &json!({"tie_word_embeddings": false}), &tensors);
    let rank = 70;
    let mut parts = Vec::new();
    for (name, [rows, columns]) in shapes {
        parts.push(part(&format!("{name}.lora_A.weight"), &[rank, columns]));
        parts.push(part(&format!("{name}.lora_B.weight"), &[rows, rank]));
        parts.push(part(&format!("{name}_turned.lora_A.weight"), &[rank, rows]));
        parts.push(part(&format!("{name}_turned.lora_B.weight"), &[columns, rank]));
    }
    let config = lora(json!({"r": rank, "lora_alpha": 7}));
    write_adapter(&sandbox, "plain", &config, &parts);
    let magnitudes = shapes.iter().flat_map(|(name, [rows, columns])| {
        [(name.to_string(), *rows), (format!("{name}_turned"), *columns)]
            .map(|(name, length)| part(&format!("{name}.lora_magnitude_vector"), &[length]))
    });
    parts.extend(magnitudes);
    write_adapter(
        &sandbox,
        "dora",
        &lora(json!({"r": rank, "lora_alpha": 7, "use_dora": true})),
        &parts,
    );
    let base = || Checkpoint::open("base", &sandbox.path("base")).unwrap();
    let plain = base().with_adapter("plain", &sandbox.path("plain")).unwrap();
    let dora = base().with_adapter("dora", &sandbox.path("dora")).unwrap();
    let values = |name: String| {
        let found = parts.iter().find(|part| part.name == format!("base_model.model.{name}"));
        found.unwrap().values()
    };
    for tensor in &tensors {
        let module = tensor.name.strip_suffix(".weight").unwrap();
        let turned = module.ends_with("_turned");
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        let (a, b) =
            (values(format!("{module}.lora_A.weight")), values(format!("{module}.lora_B.weight")));
        let left = |i: usize, k: usize| if turned { a[k * rows + i] } else { b[i * rank + k] };
        let right = |k: usize, j: usize| if turned { b[j * rank + k] } else { a[k * columns + j] };
        let mut sum = reference(&tensor.values(), columns, 0.1, rank, left, right);
        let close = |found: &[f32], sum: &[f64]| {
            let theirs: Vec<f32> = sum.iter().map(|x| *x as f32).collect();
            let far = difference(found, &theirs);
            assert!(far <= TOLERANCE, "{}: {far:e}", tensor.name);
        };
        close(&whole(plain.tensor(&tensor.name).unwrap()), &sum);
        // DoRA: each row of an untransposed weight, each column of a transposed one.
        let lengths = values(format!("{module}.lora_magnitude_vector"));
        let output = |i: usize| if turned { i % columns } else { i / columns };
        let mut squares = vec![0.0; lengths.len()];
        sum.iter().enumerate().for_each(|(i, x)| squares[output(i)] += x * x);
        for (i, x) in sum.iter_mut().enumerate() {
            *x *= f64::from(lengths[output(i)]) / squares[output(i)].sqrt();
        }
        close(&whole(dora.tensor(&tensor.name).unwrap()), &sum);
    }
    any_range_reads_alike(&plain, 24);
    any_range_reads_alike(&dora, 8);
}

#[test]
fn names_of_older_files_and_of_the_base_model_alone_are_found() {
    let sandbox = Sandbox::new();
    let weight = Tensor::random("h.0.q.weight", Dtype::F32, &[4, 6], 1);
    sandbox.model("base", &json!({"tie_word_embeddings": false}), std::slice::from_ref(&weight));
    let head = Tensor { name: "transformer.h.0.q.weight".into(), ..weight.clone() };
    sandbox.model("whole", &json!({"tie_word_embeddings": false}), &[head]);
    let new = [part("h.0.q.lora_A.weight", &[3, 6]), part("h.0.q.lora_B.weight", &[4, 3])];
    let renamed = |from: &str, to: &str| {
        let rename = |part: &Tensor| Tensor { name: part.name.replace(from, to), ..part.clone() };
        new.each_ref().map(rename)
    };
    write_adapter(&sandbox, "new", &lora(json!({})), &new);
    write_adapter(&sandbox, "old", &lora(json!({})), &renamed(".weight", ".default.weight"));
    write_adapter(&sandbox, "longer", &lora(json!({})), &renamed("model.h", "model.transformer.h"));
    let read = |model: &str, name: &str, adapter: &str| {
        let model = Checkpoint::open(model, &sandbox.path(model)).unwrap();
        whole(model.with_adapter(adapter, &sandbox.path(adapter)).unwrap().tensor(name).unwrap())
    };
    let expected = read("base", "h.0.q.weight", "new");
    assert_ne!(expected, weight.values());
    assert_eq!(read("base", "h.0.q.weight", "old"), expected);
    assert_eq!(read("base", "h.0.q.weight", "longer"), expected);
    assert_eq!(read("whole", "transformer.h.0.q.weight", "new"), expected);
}

#[test]
fn a_square_weight_lies_as_its_model_type_says() {
    let sandbox = Sandbox::new();
    let weight = Tensor::random("q.weight", Dtype::F32, &[5, 5], 1);
    let parts = [part("q.lora_A.weight", &[3, 5]), part("q.lora_B.weight", &[5, 3])];
    let read = |kind: &str, flag: bool| {
        sandbox.model("base", &json!({"model_type": kind}), std::slice::from_ref(&weight));
        write_adapter(&sandbox, "adapter", &lora(json!({"fan_in_fan_out": flag})), &parts);
        let model = Checkpoint::open("base", &sandbox.path("base")).unwrap();
        let model = model.with_adapter("adapter", &sandbox.path("adapter")).unwrap();
        whole(model.tensor("q.weight").unwrap())
    };
    let (plain, turned) = (read("llama", false), read("llama", true));
    assert_ne!(plain, turned);
    assert_eq!(read("gpt2", false), turned);
    assert_eq!(read("gpt2", true), turned);
}
