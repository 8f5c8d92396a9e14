//! Tokenizers trained on a text by the tokenizers crate.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;
use std::collections::BTreeMap;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, Trainer};

fn words(text: &str, start: &str) -> Vec<String> {
    text.split(' ').map(|word| format!("{start}{word}")).collect()
}

/// A byte-level BPE trained on a text, with special tokens behind its vocabulary.
pub(crate) fn byte_level(text: &str, special: &[&str]) -> Tokenizer {
    let mut model = BPE::default();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(290)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    trainer.feed(words(text, "Ġ").iter(), |word| Ok(vec![word.to_string()])).unwrap();
    trainer.train(&mut model).unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    add(tokenizer, special)
}

/// A BPE as sentencepiece's are converted: `▁` for spaces, tokens for bytes, control tokens first.
pub(crate) fn sentencepiece(text: &str, special: &[&str]) -> Tokenizer {
    let mut model = BPE::default();
    let mut trainer = BpeTrainer::builder().vocab_size(60).show_progress(false).build();
    trainer.feed(words(text, "▁").iter(), |word| Ok(vec![word.to_string()])).unwrap();
    trainer.train(&mut model).unwrap();
    let trained = serde_json::to_value(&model).unwrap();
    let mut vocab: BTreeMap<String, usize> = BTreeMap::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.to_string(), vocab.len());
    }
    for byte in 0..256 {
        vocab.insert(format!("<0x{byte:02X}>"), 3 + byte);
    }
    for (token, id) in trained["vocab"].as_object().unwrap() {
        vocab.insert(token.clone(), 259 + id.as_u64().unwrap() as usize);
    }
    let control = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let made = json!({
        "version": "1.0",
        "added_tokens": [control(0, "<unk>"), control(1, "<s>"), control(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": trained["merges"]},
    });
    add(made.to_string().parse().unwrap(), special)
}

/// A Unigram model with `▁` for spaces.
pub(crate) fn unigram(text: &str, special: &[&str]) -> Tokenizer {
    let mut model = Unigram::default();
    let mut trainer = UnigramTrainer::builder()
        .vocab_size(40)
        .show_progress(false)
        .unk_token(Some("<unk>".to_string()))
        .special_tokens(vec![AddedToken::from("<unk>", true)])
        .build()
        .unwrap();
    trainer.feed(words(text, "▁").iter(), |word| Ok(vec![word.to_string()])).unwrap();
    Trainer::train(&trainer, &mut model).unwrap();
    let made = json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": model,
    });
    add(made.to_string().parse().unwrap(), special)
}

fn add(mut tokenizer: Tokenizer, special: &[&str]) -> Tokenizer {
    let special = special.iter().map(|token| AddedToken::from(*token, true));
    tokenizer.add_special_tokens(special).unwrap();
    tokenizer
}
