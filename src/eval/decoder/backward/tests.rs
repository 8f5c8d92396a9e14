//! The differentiable model computes what the decoder does, on every golden checkpoint.

use super::Backward;
use crate::eval::decoder::{Decoder, Options};
use crate::model::Checkpoint;
use std::path::{Path, PathBuf};

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

#[test]
fn logits_are_those_of_the_decoder() {
    let tokens: Vec<u32> = (0..21).map(|i| 3 + i * 37 % 61).collect();
    let mut refused = Vec::new();
    for folder in folders() {
        let checkpoint = Checkpoint::open(&folder.to_string_lossy(), &folder).unwrap();
        let model = match Backward::open(&checkpoint) {
            Ok(model) => model,
            Err(error) => {
                assert!(error.get("missing").is_some(), "{error}");
                refused.push(folder.file_name().unwrap().to_string_lossy().into_owned());
                continue;
            }
        };
        let weights = model.weights(&model.embedding_names(), false).unwrap();
        let mut x = model.embed(&tokens, &weights, false).unwrap().x;
        for layer in 0..model.layers() {
            let weights = model.weights(&model.layer_names(layer).unwrap(), false).unwrap();
            x = model.layer(layer, &weights, &x).unwrap();
        }
        let weights = model.weights(&model.final_names(), false).unwrap();
        let found = model.all_logits(&x, &weights).unwrap();
        let decoder = Decoder::open(&checkpoint, &Options::default()).unwrap();
        let expected = decoder.logits(&tokens).unwrap();
        assert_eq!(found.len(), expected.len());
        let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let most = apart.fold(0.0, f32::max);
        assert!(most < 2e-5, "{}: {most}", folder.display());
    }
    assert_eq!(refused, ["mamba"]);
}
