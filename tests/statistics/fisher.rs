//! The Fisher information of tiny checkpoints against PyTorch's (`tests/golden/make_fisher.py`), and
//! what must not show in it: threads, memory, instruction sets.

use super::{documents, golden, names, open, resources, tensors, up_to};
use cognate::eval::statistics::fisher::{Labels, Settings, compute};
use cognate::eval::statistics::{Data, Resources};
use cognate::model::Checkpoint;

const STRIDE: usize = 9;

/// Every element within 1e-3 of PyTorch's own, plus a millionth of the tensor's greatest (small
/// elements are squares of differences of large numbers), plus 1e-12: a bias of keys changes nothing,
/// and its gradient is the rounding of zero.
#[test]
fn the_empirical_fisher_information_is_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("f.safetensors");
    // Longer than the context that the dynamic rotary scaling stretches.
    let settings = Settings { labels: Labels::Data, documents: up_to(17), ..Settings::default() };
    let mut wrong = Vec::new();
    let mut compared = 0;
    for name in names() {
        let expected = tensors(&golden().join(&name).join("fisher.safetensors"));
        let model = open(&name);
        let documents = documents();
        let data = Data::Tokens(&documents);
        compute(&model, data, &settings, &resources(2), (&out, true), &|_| ())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = tensors(&out);
        let mut worst = (0.0, String::new());
        for (tensor, expected) in &expected {
            let Some(found) = found.get(tensor) else {
                wrong.push(format!("{name}: no {tensor}"));
                continue;
            };
            let found: Vec<f32> = found.iter().copied().step_by(STRIDE).collect();
            assert_eq!(found.len(), expected.len(), "{name} {tensor}");
            let most = expected.iter().copied().fold(0.0, f32::max);
            for (a, b) in found.iter().zip(expected) {
                compared += 1;
                let apart = (a - b).abs() / (1e-3 * b.abs() + 1e-6 * most + 1e-12);
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
    assert!(compared > 50_000, "{compared}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same bytes at any number of threads and with little memory.
#[test]
fn threads_and_memory_do_not_show() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { seed: 5, ..Settings::default() };
    let documents: Vec<Vec<u32>> =
        (0..7).map(|d| (0..9 + d * 3).map(|i| 3 + (i * 29 + d * 17) % 61).collect()).collect();
    for name in ["llama_tied_biased", "gemma2", "qwen2_moe", "gpt2"] {
        let model = open(name);
        let mut first: Option<Vec<u8>> = None;
        let mut labels = Vec::new();
        for (threads, memory) in [(1, 1 << 30), (2, 1 << 30), (3, 1 << 30), (8, 130 << 20)] {
            let out = folder.path().join("f.safetensors");
            let resources = Resources { memory, threads, cache: None };
            let data = Data::Tokens(&documents);
            let done = compute(&model, data, &settings, &resources, (&out, true), &|_| ()).unwrap();
            labels.push(done.of_kind.nats);
            let bytes = std::fs::read(&out).unwrap();
            assert!(first.get_or_insert(bytes.clone()) == &bytes, "{name} {threads}");
        }
        // Another seed draws other labels.
        let other = Settings { seed: 6, ..settings.clone() };
        let out = folder.path().join("g.safetensors");
        let data = Data::Tokens(&documents);
        let done = compute(&model, data, &other, &resources(1), (&out, true), &|_| ()).unwrap();
        assert_ne!(done.of_kind.nats, labels[0]);
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("f.safetensors");
    let documents = documents();
    let run = |name: &str, settings: Settings, memory: u64| {
        let resources = Resources { memory, threads: 1, cache: None };
        let model = open(name);
        compute(&model, Data::Tokens(&documents), &settings, &resources, (&out, false), &|_| ())
            .unwrap_err()
    };
    let default = Settings::default();
    let mut all = String::new();
    for error in [
        run("mamba", default.clone(), 1 << 30),
        run("llama", default.clone(), 1 << 20),
        run("llama", Settings { documents: up_to(1), ..default.clone() }, 1 << 30),
    ] {
        assert_eq!(error.exit_code(), 2);
        all += &format!("{error}\n\n");
    }
    // A file of the model is not replaced, whatever is asked for.
    let copy = folder.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden().join("llama").join(file), copy.join(file)).unwrap();
    }
    let model = Checkpoint::open("copy", &copy).unwrap();
    let weights = copy.join("model.safetensors");
    let data = Data::Tokens(&documents);
    let error = compute(&model, data, &default, &resources(1), (&weights, true), &|_| ());
    assert!(error.unwrap_err().message().contains("is read"));
    std::fs::remove_dir_all(&copy).unwrap();
    assert!(!out.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    insta::assert_snapshot!("refused", all);
}
