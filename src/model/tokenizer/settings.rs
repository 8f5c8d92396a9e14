//! `tokenizer_config.json` and the small files beside it: what transformers reads besides
//! `tokenizer.json`.

use super::file::AddedToken;
use super::read_object;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const CONFIG: &str = "tokenizer_config.json";
const ADDED: &str = "added_tokens.json";

/// The added tokens that stand in `tokenizer_config.json` or `added_tokens.json`, by id, with the
/// file of each. Transformers adds those that `tokenizer.json` lacks.
pub(super) fn added_beside(folder: &Path) -> Result<Vec<(&'static str, AddedToken)>> {
    let mut found: BTreeMap<u32, (&'static str, AddedToken)> = BTreeMap::new();
    let wrong = |file: &str, what: String| {
        Error::input("an added token is not valid").file(&folder.join(file)).fact("token", what)
    };
    if let Some(map) = read_object(folder, ADDED)? {
        for (content, id) in &map {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id < 1 << 24);
            let id = id.ok_or_else(|| wrong(ADDED, content.clone()))?;
            found.insert(id, (ADDED, AddedToken::plain(content, id)));
        }
    }
    let config = read_object(folder, CONFIG)?.unwrap_or_default();
    let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
    for (key, value) in decoder.into_iter().flatten() {
        let id = key.parse::<u32>().ok().filter(|id| *id < 1 << 24);
        let token = serde_json::from_value::<AddedToken>(value.clone()).ok();
        let (Some(id), Some(token)) = (id, token) else {
            return Err(wrong(CONFIG, format!("{key}: {value}")));
        };
        found.insert(id, (CONFIG, AddedToken { id, ..token }));
    }
    Ok(found.into_values().collect())
}

/// A `tokenizer_config.json` that is edited.
#[derive(Default)]
pub(crate) struct TokenizerSettingsFile(Map<String, Value>);

impl TokenizerSettingsFile {
    /// Reads it from a folder; empty where there is none.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self(read_object(folder, CONFIG)?.unwrap_or_default()))
    }

    /// Reads what [`TokenizerSettingsFile::to_text`] wrote.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map(Self).map_err(|e| {
            Error::input("tokenizer_config.json is not a JSON object").fact("reason", e)
        })
    }

    /// Whether there is anything in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lists these added tokens, where the file lists any.
    pub(crate) fn set_added(&mut self, added: &[AddedToken]) {
        let Some(decoder) = self.0.get_mut("added_tokens_decoder") else { return };
        let mut sorted: Vec<&AddedToken> = added.iter().collect();
        sorted.sort_by_key(|token| token.id);
        let entries = sorted.into_iter().map(|token| {
            let entry = json!({
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            });
            (token.id.to_string(), entry)
        });
        *decoder = Value::Object(entries.collect());
    }

    /// Sets the chat template.
    pub(crate) fn set_chat_template(&mut self, template: &str) {
        self.0.insert("chat_template".to_string(), Value::from(template));
    }

    /// The chat template; of several named ones, the default.
    pub(super) fn chat_template(&self) -> Option<&str> {
        match self.0.get("chat_template")? {
            Value::String(text) => Some(text),
            Value::Array(named) => named
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?
                .get("template")?
                .as_str(),
            _ => None,
        }
    }

    /// The text to write.
    pub(crate) fn to_text(&self) -> Vec<u8> {
        format!("{:#}\n", Value::Object(self.0.clone())).into_bytes()
    }
}
