//! Statistics of models: Fisher information and Gram matrices, as files, and the merges by them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod fisher;
mod fisher_merging;
mod gram;
mod gram_merging;
#[path = "../support/mod.rs"]
mod support;

use cognate::eval::statistics::Resources;
use cognate::model::{Checkpoint, DocumentSettings};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

/// The golden checkpoints that statistics are computed for.
fn names() -> Vec<String> {
    let folders = std::fs::read_dir(golden()).unwrap();
    let names = folders.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "mamba").collect();
    names.sort();
    names
}

fn documents() -> Vec<Vec<u32>> {
    (0..3).map(|d| (0..17).map(|i| 3 + (i * 37 + d * 11) % 61).collect()).collect()
}

fn up_to(length: usize) -> DocumentSettings {
    DocumentSettings { length: Some(length), ..DocumentSettings::default() }
}

fn resources(threads: usize) -> Resources {
    Resources { memory: 1 << 30, threads, cache: None }
}

fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| {
        data.chunks(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    parsed.iter().map(|(name, view)| (name.to_string(), values(view.data()))).collect()
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(name, &golden().join(name)).unwrap()
}
