//! Texts → token ids, as lm-eval's `HFLM` encodes them with transformers' tokenizer of a model.

use super::prompt::is_blank;
use crate::error::{Error, Result};
use crate::model::Tokenizer as Vocabulary;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The longest sequence of a model that says none (`DEFAULT_MAX_LENGTH` of lm-eval).
const DEFAULT_LENGTH: usize = 2048;

/// Lengths from here on stand for none (transformers writes 1e30).
const NO_LENGTH: f64 = 1e15;

/// A model's tokenizer.
pub struct TextEncoder {
    inner: tokenizers::Tokenizer,
    /// Ids before and behind every text, where `tokenizer_config.json` says so instead of
    /// `tokenizer.json`.
    around: Option<(Vec<u32>, Vec<u32>)>,
    /// What stands before a text without context: the first token of texts, or else the last.
    prefix: Option<Prefix>,
    settings: PathBuf,
    bos: Option<String>,
    eos: Option<(u32, String)>,
    length: Option<usize>,
    /// Ids that end a generated text.
    stops: Vec<u32>,
    template: Option<String>,
    digest: String,
}

/// A token that stands before a text.
struct Prefix {
    id: u32,
    text: String,
}

/// A context and what follows, as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What the model reads first.
    pub context: Vec<u32>,
    /// What is scored.
    pub continuation: Vec<u32>,
}

impl TextEncoder {
    /// Opens the tokenizer of a model folder, or the one beside a model of one file.
    ///
    /// # Errors
    /// There is none, or it is not valid.
    pub fn open(folder: &Path) -> Result<Self> {
        let beside = folder.parent().filter(|_| folder.is_file());
        let folder = match beside {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => folder,
        };
        let path = folder.join("tokenizer.json");
        let vocabulary = Vocabulary::open(folder)?.ok_or_else(|| {
            Error::input("a model without tokenizer cannot be evaluated").file(&path).hint(
                "put the tokenizer.json and the tokenizer_config.json of the model there; those in GGUF files are not read",
            )
        })?;
        let bytes = vocabulary.file.to_text()?;
        let refused = |e: tokenizers::Error| {
            Error::input("the tokenizer cannot be used").file(&path).fact("reason", e)
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(refused)?;
        inner.with_truncation(None).map_err(refused)?;
        inner.with_padding(None);
        let settings = object(folder, "tokenizer_config.json")?;
        let named = |key: &str| -> Option<(u32, String)> {
            let text = token_text(settings.get(key)?)?;
            Some((inner.token_to_id(&text)?, text))
        };
        let (bos, eos) = (named("bos_token"), named("eos_token"));
        let prefix = bos.as_ref().or(eos.as_ref()).map(|(id, _)| *id).map(|id| {
            let text = inner.decode(&[id], false).map_err(refused)?;
            Ok(Prefix { id, text })
        });
        let explicit =
            ["add_bos_token", "add_eos_token"].iter().any(|key| settings.contains_key(*key));
        let added = |key: &str, token: &Option<(u32, String)>| match settings.get(key) {
            Some(Value::Bool(true)) => token.iter().map(|(id, _)| *id).collect(),
            _ => Vec::new(),
        };
        let around = explicit.then(|| (added("add_bos_token", &bos), added("add_eos_token", &eos)));
        let length = settings.get("model_max_length").and_then(Value::as_f64);
        let length = length.filter(|length| *length >= 1.0 && *length < NO_LENGTH);
        let mut stops = stop_ids(folder)?;
        stops.extend(eos.iter().map(|(id, _)| *id));
        stops.sort_unstable();
        stops.dedup();
        Ok(Self {
            around,
            prefix: prefix.transpose()?,
            settings: folder.join("tokenizer_config.json"),
            bos: bos.map(|(_, text)| text),
            eos,
            length: length.map(|length| length as usize),
            stops,
            template: crate::model::chat_template(folder)?,
            // Of the file, so that others can check it; of what it stands for where there is none.
            digest: crate::engine::hex(
                &Sha256::digest(std::fs::read(&path).unwrap_or_else(|_| bytes.clone())).into(),
            ),
            inner,
        })
    }

    /// The SHA-256 of the tokenizer, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What stands before every text, in words: for the record of a score.
    pub fn bos_policy(&self) -> String {
        let first = self.encode("a", Some(true)).ok().and_then(|ids| ids.first().copied());
        match &self.prefix {
            None => "no token before texts".to_string(),
            Some(Prefix { id, text }) if first == Some(*id) => format!("{text} before every text"),
            Some(Prefix { text, .. }) => format!("{text} before texts without context only"),
        }
    }

    /// The chat template of the model.
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// The texts of the first and the last token, for chat templates.
    pub fn special(&self) -> (Option<&str>, Option<&str>) {
        (self.bos.as_deref(), self.eos.as_ref().map(|(_, text)| text.as_str()))
    }

    /// The longest sequence: the model's, or else the tokenizer's, or else 2048 tokens.
    pub fn max_length(&self, of_model: Option<usize>) -> usize {
        of_model.or(self.length).unwrap_or(DEFAULT_LENGTH).max(1)
    }

    /// Ids that end a generated text.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// The token that stands before a text without context.
    ///
    /// # Errors
    /// The tokenizer has neither a first nor a last token.
    pub fn prefix(&self) -> Result<u32> {
        self.prefix.as_ref().map(|prefix| prefix.id).ok_or_else(|| {
            Error::input("a tokenizer names no token that begins or ends a text")
                .file(&self.settings)
                .key("bos_token")
                .hint("set `bos_token` or `eos_token` there")
        })
    }

    /// The ids of a text. Without `special`, the tokens around a text are added as the tokenizer
    /// does, unless the text begins with the first one.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn encode(&self, text: &str, special: Option<bool>) -> Result<Vec<u32>> {
        let special = special.unwrap_or_else(|| {
            let begins = |prefix: &Prefix| text.starts_with(&prefix.text);
            !self.prefix.as_ref().is_some_and(begins)
        });
        let encoding = self.inner.encode_fast(text, special && self.around.is_none());
        let encoding = encoding.map_err(|e| {
            Error::input("a text cannot be encoded").fact("text", text).fact("reason", e)
        })?;
        let ids = encoding.get_ids();
        Ok(match &self.around {
            Some((before, behind)) if special => [before, ids, behind].concat(),
            _ => ids.to_vec(),
        })
    }

    /// The ids of a text behind the first token of texts, if the tokenizer has one, and with nothing else
    /// around.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn encode_from_first(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode(text, Some(false))?;
        let first = self.prefix.as_ref().filter(|_| self.bos.is_some()).map(|prefix| prefix.id);
        Ok(first.into_iter().chain(ids).collect())
    }

    /// The text of ids.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = self.inner.decode(ids, skip_special);
        text.map_err(|e| Error::input("tokens cannot be decoded").fact("reason", e))
    }

    /// A context and its continuation. Blanks at the end of the context belong to the continuation;
    /// both are encoded together, and cut where the context alone ends.
    ///
    /// # Errors
    /// The continuation has no tokens.
    pub fn pair(&self, context: &str, continuation: &str) -> Result<Pair> {
        let kept = context.trim_end_matches(is_blank);
        let moved = format!("{}{continuation}", &context[kept.len()..]);
        let pair = if kept.is_empty() {
            self.without_context(&moved)?
        } else {
            let whole = self.encode(&format!("{kept}{moved}"), None)?;
            let context = self.encode(kept, None)?;
            let continuation = whole.get(context.len()..).unwrap_or_default().to_vec();
            let context = if context.is_empty() { vec![self.prefix()?] } else { context };
            Pair { context, continuation }
        };
        if pair.continuation.is_empty() {
            return Err(Error::input("a continuation has no tokens of its own")
                .fact("text", format!("{moved:?}")));
        }
        Ok(pair)
    }

    fn without_context(&self, continuation: &str) -> Result<Pair> {
        let prefix = self.prefix()?;
        let ids = self.encode(continuation, Some(false))?;
        Ok(match ids.split_first() {
            Some((first, rest)) if *first == prefix => {
                Pair { context: vec![*first], continuation: rest.to_vec() }
            }
            _ => Pair { context: vec![prefix], continuation: ids },
        })
    }

    /// The windows of a text that is scored whole: each token once, in windows of at most
    /// `max_length`, the first one behind the prefix, every other one behind one token at least.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn windows(&self, text: &str, max_length: usize) -> Result<Vec<Pair>> {
        Ok(windows(&self.encode(text, None)?, self.prefix()?, max_length))
    }

    /// A prompt to continue: its last tokens, so that `new` more fit into `max_length`.
    ///
    /// # Errors
    /// There is no room for a prompt.
    pub fn prompt(&self, text: &str, new: usize, max_length: usize) -> Result<Vec<u32>> {
        let room = max_length.checked_sub(new).filter(|room| *room > 0).ok_or_else(|| {
            Error::input("a task generates more tokens than the model has places")
                .key("generation_kwargs.max_gen_toks")
                .expected(format!("below {max_length}"), new)
        })?;
        let special = self.bos.as_ref().is_some_and(|bos| text.starts_with(bos));
        let mut ids = self.encode(text, if special { Some(false) } else { Some(true) })?;
        if ids.is_empty() {
            ids.push(self.prefix()?);
        }
        Ok(ids.split_off(ids.len().saturating_sub(room)))
    }

    /// The text that ends every answer: the last token's.
    pub fn eos_text(&self) -> Option<String> {
        let (id, _) = self.eos.as_ref()?;
        self.inner.decode(&[*id], false).ok().filter(|text| !text.is_empty())
    }
}

/// Cuts a pair from the left, so that all but its last token fit into `max_length`.
///
/// # Errors
/// The continuation alone is longer.
pub fn truncated(mut pair: Pair, max_length: usize) -> Result<Pair> {
    let length = pair.continuation.len();
    if length > max_length {
        return Err(Error::input("a continuation is longer than the model's context")
            .expected(format!("at most {max_length} tokens"), length));
    }
    let room = max_length + 1 - length;
    let surplus = pair.context.len().saturating_sub(room);
    pair.context.drain(..surplus);
    Ok(pair)
}

/// [`TextEncoder::windows`] of tokens.
fn windows(tokens: &[u32], prefix: u32, max_length: usize) -> Vec<Pair> {
    let Some(first) = tokens.get(..max_length.min(tokens.len())).filter(|first| !first.is_empty())
    else {
        return Vec::new();
    };
    let mut all = vec![Pair { context: vec![prefix], continuation: first.to_vec() }];
    let mut done = first.len();
    while done < tokens.len() {
        let end = (done + max_length).min(tokens.len());
        // The window is filled up with what comes before.
        let start = end - max_length - 1;
        all.push(Pair {
            context: tokens[start..done].to_vec(),
            continuation: tokens[done..end].to_vec(),
        });
        done = end;
    }
    all
}

/// A JSON object beside the model; empty where there is none.
fn object(folder: &Path, name: &str) -> Result<Map<String, Value>> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(Map::new());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read the file", &path, &e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::input("a file is not a JSON object").file(&path).fact("reason", e))
}

/// The text of a token that stands as text or as an object.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    text.map(ToString::to_string)
}

/// The ids that end a text, by `generation_config.json`, or else `config.json`.
fn stop_ids(folder: &Path) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let found = object(folder, name)?;
        let ids = match found.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(Value::Null) | None => continue,
            Some(id) => vec![id.clone()],
        };
        let ids = ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok());
        return Ok(ids.collect());
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right sides are what lm-eval 0.4.13's `get_rolling_token_windows(…, context_len=1)` and
    /// `make_disjoint_window` give.
    #[test]
    fn windows_of_lm_eval() {
        let found = |n: u32, max: usize| {
            let tokens: Vec<u32> = (1..=n).collect();
            let all = windows(&tokens, 0, max).into_iter();
            all.map(|pair| (pair.context, pair.continuation)).collect::<Vec<_>>()
        };
        assert_eq!(found(0, 4), [] as [(Vec<u32>, Vec<u32>); 0]);
        assert_eq!(found(3, 4), [(vec![0], vec![1, 2, 3])]);
        assert_eq!(found(4, 4), [(vec![0], vec![1, 2, 3, 4])]);
        assert_eq!(found(5, 4), [(vec![0], vec![1, 2, 3, 4]), (vec![1, 2, 3, 4], vec![5])]);
        assert_eq!(found(8, 4), [(vec![0], vec![1, 2, 3, 4]), (vec![4], vec![5, 6, 7, 8])]);
        assert_eq!(
            found(11, 4),
            [
                (vec![0], vec![1, 2, 3, 4]),
                (vec![4], vec![5, 6, 7, 8]),
                (vec![7, 8], vec![9, 10, 11])
            ]
        );
        assert_eq!(found(3, 1), [(vec![0], vec![1]), (vec![1], vec![2]), (vec![2], vec![3])]);
    }

    #[test]
    fn truncation_keeps_the_end() {
        let pair = |context: std::ops::Range<u32>, n: u32| Pair {
            context: context.collect(),
            continuation: (100..100 + n).collect(),
        };
        assert_eq!(truncated(pair(0..5, 2), 6).unwrap(), pair(0..5, 2));
        assert_eq!(truncated(pair(0..5, 2), 5).unwrap(), pair(1..5, 2));
        assert_eq!(truncated(pair(0..5, 5), 5).unwrap(), pair(4..5, 5));
        assert!(truncated(pair(0..5, 6), 5).is_err());
    }
}
