//! Whether entries of a vocabulary still encode to themselves, by the tokenizers crate.
//!
//! The model alone is asked, about one piece at a time and without normalizer and pre-tokenizer:
//! what a piece of text turns into once it reached the model.

use super::file::{Kind, Model, Pieces};
use crate::error::{Error, Result};
use serde_json::Value;
use tokenizers::Model as _;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;

/// A model that can encode.
pub(super) enum Encoder {
    Bpe(Box<BPE>),
    Unigram(Box<Unigram>),
    /// Words are looked up whole; WordPiece too takes the longest entry first.
    Whole,
}

impl Encoder {
    /// Makes the encoder of a model.
    ///
    /// # Errors
    /// The library refuses the model: a merge of tokens that are not there, no unknown token.
    pub(super) fn new(model: &Model) -> Result<Self> {
        let refused = |e: tokenizers::Error| {
            Error::input("the tokenizer's model is not valid").fact("reason", e)
        };
        let flag = |key: &str| model.rest.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| model.rest.get(key).and_then(Value::as_str).map(str::to_string);
        Ok(match (&model.pieces, model.kind) {
            (Pieces::Ids(ids), Kind::Bpe) => {
                let vocab = ids.iter().cloned().collect();
                let mut builder = BPE::builder()
                    .vocab_and_merges::<tokenizers::models::bpe::Vocab>(vocab, model.merges.clone())
                    .cache_capacity(0)
                    .fuse_unk(flag("fuse_unk"))
                    .byte_fallback(flag("byte_fallback"))
                    .ignore_merges(flag("ignore_merges"));
                if let Some(unk) = text("unk_token") {
                    builder = builder.unk_token(unk);
                }
                if let Some(prefix) = text("continuing_subword_prefix") {
                    builder = builder.continuing_subword_prefix(prefix);
                }
                if let Some(suffix) = text("end_of_word_suffix") {
                    builder = builder.end_of_word_suffix(suffix);
                }
                Self::Bpe(Box::new(builder.build().map_err(refused)?))
            }
            (Pieces::Scores(scores), _) => {
                let unk = model.rest.get("unk_id").and_then(Value::as_u64).map(|id| id as usize);
                let unigram =
                    Unigram::from(scores.clone(), unk, flag("byte_fallback")).map_err(|e| {
                        Error::input("the tokenizer's model is not valid").fact("reason", e)
                    })?;
                Self::Unigram(Box::new(unigram))
            }
            _ => Self::Whole,
        })
    }

    /// The tokens of a piece of text; none where the model cannot encode it.
    pub(super) fn tokens(&self, piece: &str) -> Option<Vec<String>> {
        let tokens = match self {
            Self::Bpe(model) => model.tokenize(piece),
            Self::Unigram(model) => model.tokenize(piece),
            Self::Whole => return Some(vec![piece.to_string()]),
        };
        Some(tokens.ok()?.into_iter().map(|token| token.value).collect())
    }

    /// Whether an entry encodes to itself.
    pub(super) fn whole(&self, entry: &str) -> bool {
        self.tokens(entry).is_some_and(|tokens| tokens == [entry])
    }
}
