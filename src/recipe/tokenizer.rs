//! `tokenizer`, `tokenizer_source` and `chat_template`: where the output's tokenizer comes from, and
//! what the rows of its tokens are. The meaning is mergekit's.

use super::reference::{self, RawReference};
use super::sources::{At, Sources};
use super::{Located, defaults, schema};
use crate::error::{Error, Result, nearest};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

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

/// Whose vocabulary the output has, and what the rows of its tokens are.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Tokenizer")]
pub(super) struct RawTokenizer {
    /// Whose vocabulary: that of all models, of the base, or of a model.
    #[serde(default)]
    #[schemars(schema_with = "schema::tokenizer_source")]
    pub(super) source: Option<At<String>>,
    /// Tokens whose rows the recipe decides, or that it adds.
    #[schemars(with = "Option<BTreeMap<String, RawToken>>")]
    tokens: Option<RawTokens>,
    /// Give the embeddings a multiple of this many rows.
    #[schemars(range(min = 1, max = 1_048_576))]
    pad_to_multiple_of: Option<At<i64>>,
}

impl RawTokenizer {
    /// These keys and tokens, and those of `below` where they are silent.
    pub(super) fn over(self, below: Self) -> Self {
        let tokens = match (self.tokens, below.tokens) {
            (Some(own), Some(below)) => {
                Some(RawTokens(defaults::entries(own.0, below.0, |own, _| own)))
            }
            (own, below) => own.or(below),
        };
        Self {
            source: self.source.or(below.source),
            tokens,
            pad_to_multiple_of: self.pad_to_multiple_of.or(below.pad_to_multiple_of),
        }
    }
}

struct RawTokens(Vec<(At<String>, RawToken)>);

/// What the recipe says about one token.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Token")]
struct RawToken {
    /// The token's row for the models that lack it.
    source: Option<At<RawRow>>,
    /// The row is for the models that have the token, too.
    #[serde(default)]
    force: bool,
}

/// Where the row of a token comes from: a model that has the token, or a mapping.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Row")]
enum RawRow {
    Model(String),
    Map(RawRowMap),
}

/// A row of zeros, or that of another token.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RowOf")]
struct RawRowMap {
    /// `zero`, or `model_token` with `model` and either `token` or `token_id`.
    #[schemars(schema_with = "schema::row_kind")]
    kind: At<String>,
    /// The model whose row it is.
    #[serde(default, deserialize_with = "reference::optional")]
    #[schemars(with = "Option<RawReference>")]
    model: Option<At<String>>,
    /// The token whose row it is, by its text.
    token: Option<String>,
    /// The token whose row it is, by its id.
    #[schemars(range(min = 0))]
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
                while let Some(token) = map.next_key::<At<String>>()? {
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

/// What a row may be.
pub(super) const ROW_KINDS: [&str; 2] = ["model_token", "zero"];

/// Checks `tokenizer_source` and `tokenizer`, of which a recipe has one at most.
pub(super) fn settings(
    sources: &Sources,
    old: Option<At<String>>,
    new: Option<At<RawTokenizer>>,
) -> Result<Option<TokenizerSettings>> {
    match (old.map(|old| sources.locate(old)), new.map(|new| sources.locate(new))) {
        (None, None) => Ok(None),
        (Some(_), Some(new)) => Err(new
            .error("a recipe has `tokenizer` and `tokenizer_source`")
            .key("tokenizer")
            .hint("keep `tokenizer`, with the other's value as its `source`")),
        (Some(old), None) => Ok(Some(TokenizerSettings {
            source: source("tokenizer_source", old)?,
            tokens: Vec::new(),
            pad_to_multiple_of: None,
        })),
        (None, Some(raw)) => {
            let at = raw.map(());
            let source = match raw.value.source {
                Some(written) => source("tokenizer.source", sources.locate(written))?,
                None => at.map(TokenizerSource::Union),
            };
            let tokens = raw.value.tokens.map(|tokens| tokens.0).unwrap_or_default();
            let tokens =
                tokens.into_iter().map(|(name, raw)| token(sources, sources.locate(name), raw));
            let pad_to_multiple_of = raw
                .value
                .pad_to_multiple_of
                .map(|pad| multiple(&sources.locate(pad)))
                .transpose()?;
            Ok(Some(TokenizerSettings {
                source,
                tokens: tokens.collect::<Result<_>>()?,
                pad_to_multiple_of,
            }))
        }
    }
}

fn source(key: &str, written: Located<String>) -> Result<Located<TokenizerSource>> {
    if written.value.trim().is_empty() {
        return Err(written
            .error("the tokenizer's source is empty")
            .key(key)
            .fact("expected", "union, base or a model"));
    }
    Ok(written.map(match written.value.as_str() {
        "union" => TokenizerSource::Union,
        "base" => TokenizerSource::Base,
        _ => TokenizerSource::Model(written.value.clone()),
    }))
}

fn multiple(written: &Located<i64>) -> Result<Located<u32>> {
    match u32::try_from(written.value).ok().filter(|n| (1..=1 << 20).contains(n)) {
        Some(n) => Ok(written.map(n)),
        None => Err(written
            .error("the rows cannot be a multiple of this")
            .key("tokenizer.pad_to_multiple_of")
            .expected("a whole number from 1 to 1048576", written.value)),
    }
}

fn token(sources: &Sources, token: Located<String>, raw: RawToken) -> Result<TokenSetting> {
    let key = format!("tokenizer.tokens.{}", token.value);
    if token.value.is_empty() {
        return Err(token.error("a token is empty").key("tokenizer.tokens"));
    }
    let row = raw.source.map(|source| row(sources, &key, sources.locate(source))).transpose()?;
    if raw.force && row.is_none() {
        return Err(token
            .error("a token is forced to no row")
            .key(&key)
            .hint("`force: true` needs a `source`"));
    }
    Ok(TokenSetting { token, row, force: raw.force })
}

fn row(sources: &Sources, key: &str, raw: Located<RawRow>) -> Result<TokenRow> {
    let at = raw.map(());
    let map = match raw.value {
        RawRow::Model(model) if model.trim().is_empty() => {
            return Err(at.error("a model reference is empty").key(format!("{key}.source")));
        }
        RawRow::Model(model) => return Ok(TokenRow::Model(at.map(model))),
        RawRow::Map(map) => map,
    };
    let kind = sources.locate(map.kind);
    match kind.value.as_str() {
        "zero" if map.model.is_none() && map.token.is_none() && map.token_id.is_none() => {
            Ok(TokenRow::Zero)
        }
        "zero" => {
            Err(kind.error("a row of zeros has no model and no token").key(format!("{key}.source")))
        }
        "model_token" => {
            let wrong = |message: &str| {
                let error: Error = kind.error(message);
                error
                    .key(format!("{key}.source"))
                    .fact("expected", "`model`, and either `token` or `token_id`")
            };
            let model =
                sources.locate(map.model.ok_or_else(|| wrong("a token's row names no model"))?);
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
            let known = ROW_KINDS;
            let unknown = kind
                .error(format!("unknown kind of row `{other}`"))
                .key(format!("{key}.source.kind"))
                .fact("expected", format!("one of {}", known.join(", ")));
            Err(match nearest(other, known) {
                Some(near) => unknown.hint(format!("did you mean `{near}`?")),
                None => unknown,
            })
        }
    }
}
