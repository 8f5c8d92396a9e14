//! The Gram matrices of tiny checkpoints against PyTorch's (`tests/golden/make_gram.py`), and what must
//! not show in them: threads, memory.

use super::{documents, golden, names, open, resources, tensors, up_to};
use cognate::eval::statistics::gram::{Settings, compute};
use cognate::eval::statistics::{Data, Resources};
use cognate::model::{Checkpoint, InputsAlong, Statistics};
use std::collections::BTreeMap;
use std::path::Path;

const STRIDE: usize = 61;

/// The matrices of a file by every weight that they belong to.
fn by_weight(path: &Path, metadata: &BTreeMap<String, String>) -> BTreeMap<String, Vec<f32>> {
    let mut found = tensors(path);
    let same: BTreeMap<String, String> = serde_json::from_str(&metadata["same_as"]).unwrap();
    for (name, first) in same {
        let matrix = found[&first].clone();
        assert!(found.insert(name, matrix).is_none());
    }
    found
}

/// Every element within 1e-4 of the greatest of PyTorch's matrix, on every family; for the same weights.
#[test]
fn gram_matrices_are_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("g.safetensors");
    let settings = up_to(17);
    let mut wrong = Vec::new();
    let mut compared = 0;
    for name in names() {
        let expected = tensors(&golden().join(&name).join("gram.safetensors"));
        let documents = documents();
        let data = Data::Tokens(&documents);
        let done = compute(&open(&name), data, &settings, &resources(2), (&out, true), &|_| ())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(done.of_kind.tokens, 51);
        let found = by_weight(&out, &done.metadata);
        assert_eq!(found.len(), done.of_kind.weights, "{name}");
        let keys = |of: &BTreeMap<String, Vec<f32>>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&found), keys(&expected), "{name}");
        let mut worst = (0.0, String::new());
        for (tensor, expected) in &expected {
            let all = &found[tensor];
            let found: Vec<f32> = all.iter().copied().step_by(STRIDE).collect();
            assert_eq!(found.len(), expected.len(), "{name} {tensor}");
            // The diagonal holds the greatest element, which may not be among those that are stored.
            let most = all.iter().copied().fold(0.0, f32::max);
            for (a, b) in found.iter().zip(expected) {
                compared += 1;
                let apart = (a - b).abs() / (1e-4 * most).max(f32::MIN_POSITIVE);
                if apart > worst.0 || apart.is_nan() {
                    worst = (apart, format!("{tensor}: {a} for {b}, the greatest {most}"));
                }
            }
        }
        println!("{name:20} {:.2e} {}", worst.0, worst.1);
        if worst.0 > 1.0 || worst.0.is_nan() {
            wrong.push(format!("{name}: {} {}", worst.0, worst.1));
        }
    }
    assert!(compared > 10_000, "{compared}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same bytes at any number of threads and with little memory.
#[test]
fn threads_and_memory_do_not_show() {
    let folder = tempfile::tempdir().unwrap();
    let documents: Vec<Vec<u32>> =
        (0..7).map(|d| (0..9 + d * 3).map(|i| 3 + (i * 29 + d * 17) % 61).collect()).collect();
    for name in ["llama", "phi", "qwen2_moe", "gpt2"] {
        let model = open(name);
        let mut first: Option<Vec<u8>> = None;
        for (threads, memory) in [(1, 1 << 30), (2, 1 << 30), (3, 1 << 30), (8, 66 << 20)] {
            let out = folder.path().join("g.safetensors");
            let resources = Resources { memory, threads, cache: None };
            let data = Data::Tokens(&documents);
            let settings = Settings::default();
            compute(&model, data, &settings, &resources, (&out, true), &|_| ()).unwrap();
            let bytes = std::fs::read(&out).unwrap();
            assert!(first.get_or_insert(bytes.clone()) == &bytes, "{name} {threads}");
        }
    }
}

/// What a file says of the side that a matrix belongs to, and what the family says where it says nothing.
#[test]
fn matrices_belong_to_the_side_of_the_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("g.safetensors");
    let documents = documents();
    for (name, square, side) in [
        ("gpt2", "transformer.h.0.attn.c_proj.weight", InputsAlong::Rows),
        ("qwen2", "model.layers.0.self_attn.q_proj.weight", InputsAlong::Columns),
    ] {
        let data = Data::Tokens(&documents);
        compute(&open(name), data, &Settings::default(), &resources(1), (&out, true), &|_| ())
            .unwrap();
        let with = open(name).with_statistics(Statistics::Gram, "g", &out).unwrap();
        let shape = &open(name).tensor(square).unwrap().spec().shape.clone();
        assert_eq!(shape[0], shape[1], "{name}");
        assert_eq!(with.inputs_along(square), Some(side));
        // A file without a header, as somebody else may write one.
        let found = tensors(&out);
        let bytes: Vec<u8> = found[square].iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            vec![shape[0], shape[0]],
            &bytes,
        );
        let plain = safetensors::serialize([(square, view.unwrap())], None).unwrap();
        let own = folder.path().join("own.safetensors");
        std::fs::write(&own, plain).unwrap();
        let with = open(name).with_statistics(Statistics::Gram, "own", &own).unwrap();
        assert_eq!(with.inputs_along(square), Some(side));
        assert_eq!(with.inputs_along("other"), None);
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("g.safetensors");
    let documents = documents();
    let run = |model: &Checkpoint, memory: u64| {
        let resources = Resources { memory, threads: 1, cache: None };
        let data = Data::Tokens(&documents);
        compute(model, data, &Settings::default(), &resources, (&out, false), &|_| ()).unwrap_err()
    };
    let mut all = String::new();
    for error in [run(&open("mamba"), 1 << 30), run(&open("llama"), 1 << 20)] {
        assert_eq!(error.exit_code(), 2);
        all += &format!("{error}\n\n");
    }
    assert!(!out.exists());
    insta::assert_snapshot!("refused", all);
}
