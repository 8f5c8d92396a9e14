//! `tokenizer`, `tokenizer_source` and `chat_template`: where the output's tokenizer comes from, and
//! what the rows of its tokens are. The meaning is mergekit's.

use super::Located;
use super::raw::located;
use super::validate::error;
use crate::error::{Error, Result, nearest};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_yaml::Spanned;
use std::fmt;
use std::path::Path;

/// The checked settings of the output's tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerSettings {
    /// Whose vocabulary the output has.
    pub source: Located<TokenizerSource>,
    /// Tokens whose rows the recipe decides, or that it adds.
    pub tokens: Vec<TokenSetting>,
    /// The embedding has a multiple of this many rows, filled up with the mean of the others.
    pub pad_to_multiple_of: Option<Located<u32>>,
}

/// Whose vocabulary the output has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// That of every model together.
    Union,
    /// That of the base, or of the first model.
    Base,
    /// That of this model or folder.
    Model(String),
}

/// What the recipe says about one token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSetting {
    /// The token.
    pub token: Located<String>,
    /// Its row for the models that lack it; where none is given, the ordinary rule decides.
    pub row: Option<TokenRow>,
    /// The row is for the models that have the token, too.
    pub force: bool,
}

/// Where the row of a token comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenRow {
    /// Zeros.
    Zero,
    /// The token's own row in this model.
    Model(Located<String>),
    /// The row of another token in this model.
    ModelToken(Located<String>, TokenKey),
}

/// A token by its text or id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKey {
    /// Its text.
    Text(String),
    /// Its id.
    Id(u32),
}

/// The keys as written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTokenizer {
    source: Option<Spanned<String>>,
    tokens: Option<RawTokens>,
    pad_to_multiple_of: Option<Spanned<i64>>,
}

struct RawTokens(Vec<(Spanned<String>, RawToken)>);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    source: Option<Spanned<RawRow>>,
    #[serde(default)]
    force: bool,
}

enum RawRow {
    Model(String),
    Map(RawRowMap),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRowMap {
    kind: Spanned<String>,
    model: Option<Spanned<String>>,
    token: Option<String>,
    token_id: Option<i64>,
}

impl<'de> Deserialize<'de> for RawTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawTokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of tokens to {source, force}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTokens, A::Error> {
                let mut entries = Vec::new();
                while let Some(token) = map.next_key::<Spanned<String>>()? {
                    entries.push((token, map.next_value()?));
                }
                Ok(RawTokens(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for RawRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Row;
        impl<'de> Visitor<'de> for Row {
            type Value = RawRow;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model, or a mapping with a kind")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawRow, E> {
                Ok(RawRow::Model(text.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawRow, A::Error> {
                RawRowMap::deserialize(MapAccessDeserializer::new(map)).map(RawRow::Map)
            }
        }
        deserializer.deserialize_any(Row)
    }
}

/// Checks `tokenizer_source` and `tokenizer`, of which a recipe has one at most.
pub(super) fn settings(
    file: &Path,
    old: Option<Spanned<String>>,
    new: Option<Spanned<RawTokenizer>>,
) -> Result<Option<TokenizerSettings>> {
    match (old.map(located), new.map(located)) {
        (None, None) => Ok(None),
        (Some(_), Some(new)) => {
            Err(error(file, &new, "a recipe has `tokenizer` and `tokenizer_source`")
                .key("tokenizer")
                .hint("keep `tokenizer`, with the other's value as its `source`"))
        }
        (Some(old), None) => Ok(Some(TokenizerSettings {
            source: source(file, "tokenizer_source", old)?,
            tokens: Vec::new(),
            pad_to_multiple_of: None,
        })),
        (None, Some(raw)) => {
            let at = raw.map(());
            let source = match raw.value.source {
                Some(written) => source(file, "tokenizer.source", located(written))?,
                None => at.map(TokenizerSource::Union),
            };
            let tokens = raw.value.tokens.map(|tokens| tokens.0).unwrap_or_default();
            let tokens = tokens.into_iter().map(|(name, raw)| token(file, located(name), raw));
            let pad_to_multiple_of = raw
                .value
                .pad_to_multiple_of
                .map(|pad| multiple(file, &located(pad)))
                .transpose()?;
            Ok(Some(TokenizerSettings {
                source,
                tokens: tokens.collect::<Result<_>>()?,
                pad_to_multiple_of,
            }))
        }
    }
}

fn source(file: &Path, key: &str, written: Located<String>) -> Result<Located<TokenizerSource>> {
    if written.value.trim().is_empty() {
        return Err(error(file, &written, "the tokenizer's source is empty")
            .key(key)
            .fact("expected", "union, base or a model"));
    }
    Ok(written.map(match written.value.as_str() {
        "union" => TokenizerSource::Union,
        "base" => TokenizerSource::Base,
        _ => TokenizerSource::Model(written.value.clone()),
    }))
}

fn multiple(file: &Path, written: &Located<i64>) -> Result<Located<u32>> {
    match u32::try_from(written.value).ok().filter(|n| (1..=1 << 20).contains(n)) {
        Some(n) => Ok(written.map(n)),
        None => Err(error(file, written, "the rows cannot be a multiple of this")
            .key("tokenizer.pad_to_multiple_of")
            .expected("a whole number from 1 to 1048576", written.value)),
    }
}

fn token(file: &Path, token: Located<String>, raw: RawToken) -> Result<TokenSetting> {
    let key = format!("tokenizer.tokens.{}", token.value);
    if token.value.is_empty() {
        return Err(error(file, &token, "a token is empty").key("tokenizer.tokens"));
    }
    let row = raw.source.map(|source| row(file, &key, located(source))).transpose()?;
    if raw.force && row.is_none() {
        return Err(error(file, &token, "a token is forced to no row")
            .key(&key)
            .hint("`force: true` needs a `source`"));
    }
    Ok(TokenSetting { token, row, force: raw.force })
}

fn row(file: &Path, key: &str, raw: Located<RawRow>) -> Result<TokenRow> {
    let at = raw.map(());
    let map = match raw.value {
        RawRow::Model(model) if model.trim().is_empty() => {
            return Err(error(file, &at, "a model reference is empty").key(format!("{key}.source")));
        }
        RawRow::Model(model) => return Ok(TokenRow::Model(at.map(model))),
        RawRow::Map(map) => map,
    };
    let kind = located(map.kind);
    match kind.value.as_str() {
        "zero" if map.model.is_none() && map.token.is_none() && map.token_id.is_none() => {
            Ok(TokenRow::Zero)
        }
        "zero" => Err(error(file, &kind, "a row of zeros has no model and no token")
            .key(format!("{key}.source"))),
        "model_token" => {
            let wrong = |message: &str| {
                let error: Error = error(file, &kind, message);
                error
                    .key(format!("{key}.source"))
                    .fact("expected", "`model`, and either `token` or `token_id`")
            };
            let model = located(map.model.ok_or_else(|| wrong("a token's row names no model"))?);
            let token = match (map.token, map.token_id) {
                (Some(text), None) => TokenKey::Text(text),
                (None, Some(id)) => TokenKey::Id(
                    u32::try_from(id).map_err(|_| wrong("a token id is out of range"))?,
                ),
                (None, None) => return Err(wrong("a token's row names no token")),
                (Some(_), Some(_)) => return Err(wrong("a token's row names two tokens")),
            };
            Ok(TokenRow::ModelToken(model, token))
        }
        other => {
            let known = ["model_token", "zero"];
            let unknown = error(file, &kind, format!("unknown kind of row `{other}`"))
                .key(format!("{key}.source.kind"))
                .fact("expected", format!("one of {}", known.join(", ")));
            Err(match nearest(other, known) {
                Some(near) => unknown.hint(format!("did you mean `{near}`?")),
                None => unknown,
            })
        }
    }
}
