//! `tokenizer.json`: read into what a merge edits (tokens, merges, added tokens), the rest kept as
//! it stands.
//!
//! Format: what the `tokenizers` library of Hugging Face serialises,
//! <https://huggingface.co/docs/tokenizers>. Ids, merges and scores are the library's; nothing is
//! encoded here.

mod read;

use crate::error::{Error, Result};
use read::RawFile;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

/// A `tokenizer.json` larger than this is refused unread.
const MAX_BYTES: u64 = 256 << 20;
/// Ids at or above this are refused: tables over tokens are indexed by id.
const MAX_ID: u32 = 1 << 24;

/// A token of `added_tokens`: matched as a whole before the model sees the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddedToken {
    #[serde(default)]
    pub(crate) id: u32,
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) single_word: bool,
    #[serde(default)]
    pub(crate) lstrip: bool,
    #[serde(default)]
    pub(crate) rstrip: bool,
    #[serde(default)]
    pub(crate) normalized: bool,
    #[serde(default)]
    pub(crate) special: bool,
}

impl AddedToken {
    /// A token that is added by its text alone, with the defaults of transformers.
    pub(crate) fn plain(content: &str, id: u32) -> Self {
        Self {
            id,
            content: content.to_string(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: true,
            special: false,
        }
    }

    /// Whether the two are matched in the same way.
    pub(crate) fn same_settings(&self, other: &Self) -> bool {
        Self { id: other.id, ..self.clone() } == *other
    }
}

/// The kind of a tokenizer's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bpe,
    Unigram,
    WordPiece,
    WordLevel,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bpe => "BPE",
            Self::Unigram => "Unigram",
            Self::WordPiece => "WordPiece",
            Self::WordLevel => "WordLevel",
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Self::Bpe, Self::Unigram, Self::WordPiece, Self::WordLevel]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// The tokens of a model: by id, or, for Unigram, with scores in the order of their ids.
#[derive(Clone, Debug)]
pub(crate) enum Pieces {
    Ids(Vec<(String, u32)>),
    Scores(Vec<(String, f64)>),
}

/// The `model` of a tokenizer.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) kind: Kind,
    pub(crate) pieces: Pieces,
    /// BPE's merges, the first to be applied first.
    pub(crate) merges: Vec<(String, String)>,
    /// Every other key.
    pub(crate) rest: Map<String, Value>,
}

impl Model {
    /// The tokens with their ids.
    pub(crate) fn ids(&self) -> Vec<(&str, u32)> {
        match &self.pieces {
            Pieces::Ids(ids) => ids.iter().map(|(token, id)| (token.as_str(), *id)).collect(),
            Pieces::Scores(scores) => {
                (0..).zip(scores).map(|(id, (token, _))| (token.as_str(), id)).collect()
            }
        }
    }
}

impl Serialize for Model {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.kind.name())?;
        for (key, value) in &self.rest {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("vocab", &self.pieces)?;
        if self.kind == Kind::Bpe {
            map.serialize_entry("merges", &self.merges)?;
        }
        map.end()
    }
}

impl Serialize for Pieces {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Ids(ids) => serializer.collect_map(ids.iter().map(|(token, id)| (token, id))),
            Self::Scores(scores) => serializer.collect_seq(scores),
        }
    }
}

/// A parsed `tokenizer.json`.
#[derive(Clone, Debug)]
pub(crate) struct TokenizerFile {
    pub(crate) added: Vec<AddedToken>,
    pub(crate) model: Model,
    /// Normalizer, pre-tokenizer, post-processor, decoder, truncation, padding, version.
    pub(crate) rest: Map<String, Value>,
}

impl TokenizerFile {
    /// Reads the file.
    ///
    /// # Errors
    /// It is missing, too large, or no tokenizer.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let metadata =
            std::fs::metadata(path).map_err(|e| Error::io("open the tokenizer", path, &e))?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(Error::input("tokenizer.json is no file, or too large for one")
                .file(path)
                .expected(format!("a file of at most {MAX_BYTES} bytes"), metadata.len()));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io("read the tokenizer", path, &e))?;
        Self::parse(&bytes).map_err(|e| e.file(path))
    }

    /// Parses the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// It is no tokenizer: no JSON, no model, an unknown kind of model, two tokens with one id.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let invalid = |reason: String| {
            Error::input("tokenizer.json is not a tokenizer").fact("reason", reason)
        };
        let raw: RawFile = serde_json::from_slice(bytes).map_err(|e| invalid(format!("{e}")))?;
        let model = raw.model.ok_or_else(|| invalid("it has no model".to_string()))?;
        let model = model.checked().map_err(invalid)?;
        let file = Self { added: raw.added, model, rest: raw.rest };
        let ids = file.model.ids().into_iter().map(|(_, id)| id);
        if let Some(id) =
            ids.chain(file.added.iter().map(|token| token.id)).find(|id| *id >= MAX_ID)
        {
            return Err(invalid(format!("the token id {id} is not below {MAX_ID}")));
        }
        Ok(file)
    }

    /// The text to write.
    pub(crate) fn to_text(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal(format!("a tokenizer cannot be written: {e}")))?;
        text.push(b'\n');
        Ok(text)
    }

    /// Takes out the tokens whose ids are not below `rows`, as a model of that many rows has no use
    /// for them, and the merges that need them. Returns their texts.
    pub(crate) fn strip(&mut self, rows: u32) -> Vec<String> {
        let mut gone: BTreeSet<String> = BTreeSet::new();
        let ids = self.model.ids().into_iter();
        gone.extend(ids.filter(|(_, id)| *id >= rows).map(|(token, _)| token.to_string()));
        let added = self.added.iter().filter(|token| token.id >= rows);
        gone.extend(added.map(|token| token.content.clone()));
        if gone.is_empty() {
            return Vec::new();
        }
        self.added.retain(|token| token.id < rows);
        match &mut self.model.pieces {
            Pieces::Ids(ids) => ids.retain(|(_, id)| *id < rows),
            Pieces::Scores(scores) => scores.truncate(rows as usize),
        }
        self.model.merges.retain(|(a, b)| {
            !gone.contains(a) && !gone.contains(b) && !gone.contains(&format!("{a}{b}"))
        });
        gone.into_iter().collect()
    }
}

impl Serialize for TokenizerFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let first = ["version", "truncation", "padding"];
        let mut map = serializer.serialize_map(None)?;
        for key in first {
            map.serialize_entry(key, &self.rest.get(key))?;
        }
        map.serialize_entry("added_tokens", &self.added)?;
        for (key, value) in self.rest.iter().filter(|(key, _)| !first.contains(&key.as_str())) {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("model", &self.model)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_merges_are_read() {
        let text = |merges: &str| {
            format!(
                r#"{{"version":"1.0","added_tokens":[{{"id":3,"content":"<s>","special":true}}],
                "model":{{"type":"BPE","unk_token":null,"vocab":{{"a":0,"b":1,"ab":2}},"merges":{merges}}}}}"#
            )
        };
        for merges in [r#"["a b"]"#, r#"[["a","b"]]"#] {
            let file = TokenizerFile::parse(text(merges).as_bytes()).unwrap();
            assert_eq!(file.model.merges, [("a".to_string(), "b".to_string())]);
            assert_eq!(file.model.ids(), [("a", 0), ("b", 1), ("ab", 2)]);
            let again = TokenizerFile::parse(&file.to_text().unwrap()).unwrap();
            assert_eq!(again.added, file.added);
            assert_eq!(again.model.rest, file.model.rest);
        }
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        for (text, reason) in [
            ("[]", "a tokenizer"),
            ("{}", "no model"),
            (r#"{"model":{"type":"BPE"}}"#, "no vocab"),
            (r#"{"model":{"type":"Magic","vocab":{}}}"#, "its model is a Magic"),
            (r#"{"model":{"type":"BPE","vocab":{"a":1,"b":1},"merges":[]}}"#, "have the id 1"),
            (r#"{"model":{"type":"BPE","vocab":{"a":16777216},"merges":[]}}"#, "not below"),
            (r#"{"model":{"type":"BPE","vocab":[["a",1.0]],"merges":[]}}"#, "not that of a BPE"),
            (r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":["a"]}}"#, "not two tokens"),
        ] {
            let error = TokenizerFile::parse(text.as_bytes()).unwrap_err();
            assert!(error.get("reason").unwrap().contains(reason), "{text}: {error}");
        }
    }
}
