//! GGUF files: written by the `gguf` package (tests/data/make_gguf.py), which also dequantised the
//! values they are checked against, and converted as llama.cpp converts checkpoints.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use cognate::model::{Checkpoint, parse_gguf};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use std::path::{Path, PathBuf};
use support::{LINEAR, Sandbox};

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(file)
}

fn data(file: &str) -> Vec<u8> {
    std::fs::read(path(file)).unwrap()
}

fn open(file: &str) -> Checkpoint {
    Checkpoint::open(file, &path(file)).unwrap()
}

/// The values of a stored tensor as f32.
fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => {
            bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
        }
        other => panic!("no values of {other}"),
    }
}

/// The largest difference between a GGUF file and the safetensors beside it.
fn difference(name: &str) -> f32 {
    let model = open(&format!("{name}.gguf"));
    let bytes = data(&format!("{name}.safetensors"));
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(model.tensors().count(), expected.len());
    let mut largest = 0.0_f32;
    for (name, view) in expected.tensors() {
        let tensor = model.tensor(&name).unwrap();
        assert_eq!(tensor.spec().shape, view.shape(), "{name}");
        let mut found = vec![0.0; tensor.spec().elements()];
        assert!(!tensor.read(0, &mut found).unwrap());
        let expected = values(view.dtype(), view.data());
        assert!(name.contains("embed") || expected.iter().filter(|x| **x != 0.0).count() > 6);
        let pairs = found.iter().zip(&expected);
        largest = pairs.map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
        // Any way of reading gives the same bits.
        for length in [1, 7, 31, 33, 255, 300] {
            let mut parts = vec![0.0; found.len()];
            for (i, part) in parts.chunks_mut(length).enumerate() {
                tensor.read(i * length, part).unwrap();
            }
            assert!(found.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        }
        assert!(tensor.read(found.len(), &mut [0.0]).is_err());
    }
    largest
}

#[test]
fn blocks_decode_to_what_the_gguf_package_gives() {
    assert_eq!(difference("blocks"), 0.0);
}

#[test]
fn models_are_seen_as_they_were_before_the_conversion() {
    assert_eq!(difference("llama_f16"), 0.0);
    assert_eq!(difference("llama_q8_0"), 0.0);
    assert_eq!(difference("llama_q4_0"), 0.0);
    for family in ["qwen2", "gemma", "gemma2"] {
        assert_eq!(difference(family), 0.0, "{family}");
    }
}

#[test]
fn quantised_tensors_are_stored_as_bytes_and_seen_as_floats() {
    let model = open("llama_q8_0.gguf");
    let stored = &model.stored()["blk.0.attn_q.weight"];
    let bytes = 32 * 34;
    assert_eq!(
        (cognate::model::Source::spec(stored).dtype, stored.range().len()),
        (Dtype::U8, bytes)
    );
    let seen = model.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!((seen.spec().dtype, &seen.spec().shape[..]), (Dtype::F16, &[32, 32][..]));
    assert_eq!(seen.parts(), ["blk.0.attn_q.weight"]);
    assert!(seen.stored().is_none());
    // What nothing was done to is copied.
    let plain = open("llama_f16.gguf");
    assert!(plain.tensor("model.layers.0.mlp.up_proj.weight").unwrap().stored().is_some());
    assert!(plain.tensor("model.layers.0.self_attn.k_proj.weight").unwrap().stored().is_none());
    assert!(open("gemma.gguf").tensor("model.norm.weight").unwrap().stored().is_none());
}

#[test]
fn the_config_follows_from_the_metadata() {
    let model = open("llama_q8_0.gguf");
    let config: serde_json::Value = serde_json::from_str(&model.config.to_text()).unwrap();
    assert_eq!(
        config,
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": 32, "intermediate_size": 32, "max_position_embeddings": 8192,
            "num_attention_heads": 4, "num_hidden_layers": 1, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5, "head_dim": 8, "vocab_size": 8, "tie_word_embeddings": true,
            "bos_token_id": 1, "rope_theta": 500000.0, "torch_dtype": "float16",
        })
    );
    // Llama 3's scaling is found again in its factors.
    let scaled = open("llama_q4_0.gguf");
    assert_eq!(
        scaled.config.get("rope_scaling"),
        Some(&json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }))
    );
    assert_eq!(scaled.config.tied(), Some(false));
    assert!(scaled.tensor("rope_freqs.weight").is_none());
    assert_eq!(open("gemma.gguf").config.get("head_dim"), Some(&json!(16)));
    let gemma2 = open("gemma2.gguf").config;
    assert_eq!(gemma2.get("final_logit_softcapping"), Some(&json!(30.0)));
    assert_eq!(gemma2.get("sliding_window"), Some(&json!(4096)));
    assert_eq!(gemma2.get("query_pre_attn_scalar"), Some(&json!(256)));
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let mut all = String::new();
    for name in ["architecture", "type", "tensor", "rope"] {
        let file = path(&format!("refused_{name}.gguf"));
        let error = Checkpoint::open(name, &file).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string().replace(file.parent().unwrap().to_str().unwrap(), "…");
        all += &format!("--- {name}\n{text}\n");
    }
    let whole = data("llama_f16.gguf");
    let mut spoil = |name: &str, at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        all += &format!("--- {name}\n{}\n", parse_gguf(&file).unwrap_err());
    };
    spoil("not GGUF", 0, b"GGML");
    spoil("version 1", 4, &1_u32.to_le_bytes());
    spoil("big-endian", 4, &3_u32.to_be_bytes());
    spoil("tensors without end", 8, &u64::MAX.to_le_bytes());
    spoil("metadata without end", 16, &1_000_000_u64.to_le_bytes());
    spoil("key without end", 24, &u64::MAX.to_le_bytes());
    all += &format!("--- truncated\n{}\n", parse_gguf(&whole[..whole.len() - 40]).unwrap_err());
    insta::assert_snapshot!("gguf_refused", all);
}

/// A model as a file, as a folder with that file, and as safetensors merge to the same weights.
#[test]
fn a_merge_takes_files_and_folders() {
    let sandbox = Sandbox::new();
    for model in ["a", "b"] {
        sandbox.write(&format!("{model}.gguf"), data("llama_f16.gguf"));
        sandbox.write(&format!("{model}/any.gguf"), data("llama_f16.gguf"));
        sandbox.write(&format!("s{model}/model.safetensors"), data("llama_f16.safetensors"));
        let config = open("llama_f16.gguf").config.to_text();
        sandbox.write(&format!("s{model}/config.json"), config);
    }
    let folders = sandbox.merge(LINEAR, "out", &[]);
    assert!(
        folders.stdout.contains("the tokenizer in any.gguf is not converted"),
        "{}",
        folders.stdout
    );
    let files = LINEAR.replace("model: a", "model: a.gguf").replace("model: b", "model: b.gguf");
    sandbox.merge(&files, "from_files", &[]);
    let plain = LINEAR.replace("model: a", "model: sa").replace("model: b", "model: sb");
    sandbox.merge(&plain, "from_safetensors", &[]);
    let merged = sandbox.tensors("from_safetensors");
    assert_eq!(merged.len(), 12);
    assert!(sandbox.tensors("out") == merged && sandbox.tensors("from_files") == merged);
    assert_eq!(sandbox.read("out/config.json"), sandbox.read("from_safetensors/config.json"));
    let lineage = sandbox.read_json("out/lineage.json");
    let digest = &lineage["inputs"][0]["tensors"]["blk.0.attn_q.weight"]["sha256"];
    assert!(digest.is_string(), "{lineage}");
}

#[test]
fn several_files_in_a_folder_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("m/1.gguf", data("llama_f16.gguf"));
    sandbox.write("m/2.gguf", data("llama_f16.gguf"));
    let message = sandbox.fails(2, &["inspect", "m"]);
    assert!(message.contains("several") && message.contains("1.gguf, 2.gguf"), "{message}");
    sandbox.ok(&["inspect", "m/1.gguf", "--tensors", "--digests"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_headers_do_no_harm(
        edits in prop::collection::vec((0_usize..1600, any::<u8>()), 0..8),
        end in prop::option::of(0_usize..1600),
    ) {
        let mut bytes = data("llama_q8_0.gguf");
        edits.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes.truncate(end.unwrap_or(bytes.len()));
        match parse_gguf(&bytes) {
            Ok(tensors) => for (spec, range) in tensors {
                prop_assert!(range.end <= bytes.len());
                prop_assert_eq!(spec.bytes(), range.len());
            },
            Err(error) => prop_assert_eq!(error.exit_code(), 2),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Blocks of any bytes decode without a panic.
    #[test]
    fn any_block_decodes(seed in any::<[u8; 32]>()) {
        let mut bytes = data("blocks.gguf");
        let tensors = parse_gguf(&bytes).unwrap();
        for (i, byte) in bytes[tensors[0].1.start..].iter_mut().enumerate() {
            *byte = seed[i % 32].wrapping_mul(i as u8 | 1).wrapping_add((i >> 5) as u8);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        std::fs::write(&file, &bytes).unwrap();
        for (_, tensor) in Checkpoint::open("m", &file).unwrap().tensors() {
            tensor.read(0, &mut vec![0.0; tensor.spec().elements()]).unwrap();
        }
    }
}
