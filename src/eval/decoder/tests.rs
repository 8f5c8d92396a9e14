//! Whatever stays in memory, the scores are the same: every budget by hand, on every family.

use super::budget::Keep;
use super::{Activations, Decoder, Observer, Options, Point};
use crate::error::Result;
use crate::eval::model::{GenerateRequest, LanguageModel, ScoreRequest};
use crate::model::Checkpoint;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn open(folder: &Path) -> Decoder {
    let checkpoint = Checkpoint::open(&folder.to_string_lossy(), folder).unwrap();
    Decoder::open(&checkpoint, &Options { memory: 1 << 30, threads: 2, batch: None }).unwrap()
}

fn requests() -> Vec<ScoreRequest> {
    let ids: Vec<u32> = (0..21).map(|i| 3 + i * 37 % 61).collect();
    [(4, 9), (4, 18), (1, 21), (20, 21)]
        .map(|(split, end)| ScoreRequest {
            context: ids[..split].to_vec(),
            continuation: ids[split..end].to_vec(),
        })
        .to_vec()
}

#[test]
fn scores_do_not_depend_on_what_stays_in_memory() {
    let requests = requests();
    let prompt = || GenerateRequest {
        prompt: requests[2].continuation[..7].to_vec(),
        max_new_tokens: 3,
        stop: Vec::new(),
        until: None,
        sample: None,
    };
    for folder in folders() {
        let mut decoder = open(&folder);
        assert_eq!(decoder.budget.keep, Keep::Model);
        let expected = decoder.score(&requests, &|_| ()).unwrap();
        let continued = decoder.generate(&[prompt()], &|_| ()).unwrap();
        // Layer by layer, with hidden states on the disk; nothing kept, a few rows at a time.
        for (keep, block, inner, waiting) in
            [(Keep::Layer, 1 << 20, 1 << 20, 0), (Keep::Nothing, 1 << 11, 1 << 12, 0)]
        {
            decoder = open(&folder);
            decoder.budget.keep = keep;
            decoder.budget.keep_head = keep == Keep::Layer;
            decoder.budget.limits.block = block;
            decoder.budget.limits.inner = inner;
            decoder.budget.waiting = waiting;
            decoder.budget.rows = 16;
            let found = decoder.score(&requests, &|_| ()).unwrap();
            for (a, b) in expected.iter().zip(&found) {
                let apart = (a.log_likelihood - b.log_likelihood).abs();
                assert!(apart < 1e-5, "{} {keep:?}: {apart}", folder.display());
                assert_eq!(a.greedy, b.greedy);
            }
            decoder.budget.waiting = 1 << 20;
            assert_eq!(decoder.generate(&[prompt()], &|_| ()).unwrap(), continued);
        }
    }
}

/// Adds up what it sees.
struct Sums(Mutex<Vec<(usize, f64)>>);

impl Observer for Sums {
    fn wants(&self, layer: usize, point: Point) -> bool {
        layer == 1 && point == Point::MlpInput
    }

    fn see(&self, seen: &Activations<'_>) -> Result<()> {
        assert_eq!((seen.layer, seen.point), (1, Point::MlpInput));
        for (number, rows) in seen.sequences.iter().enumerate() {
            let values = &seen.values[rows.start * seen.width..rows.end * seen.width];
            let sum = values.iter().map(|x| f64::from(*x)).sum();
            self.0.lock().unwrap().push((seen.first_sequence + number, sum));
        }
        Ok(())
    }
}

#[test]
fn observers_see_every_sequence_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let decoder = open(&root.join("mixtral"));
    let sequences: Vec<Vec<u32>> = (1..80).map(|i| vec![5 + i % 50, 7, 9, 3 + i % 7]).collect();
    let look = |sequences: &[Vec<u32>]| {
        let sums = Sums(Mutex::default());
        decoder.observe(sequences, &sums).unwrap();
        let mut seen = sums.0.into_inner().unwrap();
        seen.sort_by_key(|(number, _)| *number);
        seen
    };
    let seen = look(&sequences);
    assert_eq!(seen.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..79).collect::<Vec<_>>());
    let alone = look(&sequences[41..42]);
    assert!((alone[0].1 - seen[41].1).abs() < 1e-4);
}

#[test]
fn a_broken_layer_is_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/llama");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(root.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(root.join("model.safetensors")).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let broken = parsed.tensor("model.layers.1.mlp.down_proj.weight").unwrap().data();
    let at = broken.as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[at..at + 2].copy_from_slice(&[0x80, 0x7f]); // bfloat16's infinity
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let decoder = open(folder.path());
    let error = decoder.score(&requests(), &|_| ()).unwrap_err();
    assert_eq!(error.get("layer"), Some("1"));
    assert_eq!(error.exit_code(), 2);
}
