//! Statistics that come with a model: `fisher: FILE`, or how to compute them.

use super::Located;
use super::methods::Methods;
use super::schema;
use super::sources::{At, Sources};
use crate::error::{Error, Result};
use crate::model::{FisherSettings, Labels, Statistics};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;

/// What a recipe says of a model's statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct StatisticsInput {
    /// Which.
    pub kind: Statistics,
    /// Where they come from.
    pub from: StatisticsSource,
}

/// Where statistics come from.
#[derive(Clone, Debug, PartialEq)]
pub enum StatisticsSource {
    /// A file.
    File(String),
    /// They are computed on the documents of a file.
    Computed {
        /// The file.
        data: String,
        /// What decides the result.
        settings: FisherSettings,
    },
}

/// The value of `fisher`.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Fisher")]
pub(super) enum RawFisher {
    /// A safetensors file, as `cognate fisher` writes it.
    File(#[schemars(length(min = 1))] String),
    /// How to compute it when the merge is written.
    Data(Box<RawFisherData>),
}

/// How Fisher information is computed.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "FisherData")]
pub(super) struct RawFisherData {
    /// Documents: JSON objects, one a line (.jsonl), or texts, one a line (.txt).
    data: At<String>,
    /// Take the first documents only, as many as this; all by default.
    #[schemars(range(min = 1))]
    samples: Option<At<u64>>,
    /// Tokens of a document at most; the model's context by default, 2048 at most.
    #[schemars(range(min = 2))]
    length: Option<At<u64>>,
    /// What the labels are: drawn from the model's predictions (`model`), or the data's own next tokens
    /// (`data`).
    #[serde(default)]
    #[schemars(schema_with = "schema::labels")]
    labels: Option<At<String>>,
    /// Fixes the labels that are drawn; 0 by default.
    seed: Option<At<u64>>,
    /// The field of a JSON object that holds the text; `text` by default.
    field: Option<At<String>>,
}

impl<'de> Deserialize<'de> for RawFisher {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = RawFisher;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a mapping with `data`")
            }

            fn visit_str<E>(self, path: &str) -> Result<RawFisher, E> {
                Ok(RawFisher::File(path.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawFisher, A::Error> {
                let data = RawFisherData::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawFisher::Data(Box::new(data)))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// Checks a model's `fisher` key; `key` is where it stands.
pub(super) fn fisher(
    sources: &Sources,
    methods: &Methods,
    key: &str,
    raw: At<RawFisher>,
) -> Result<Located<StatisticsInput>> {
    let kind = Statistics::Fisher;
    let raw = sources.locate(raw);
    let at = raw.map(());
    if methods.all().iter().all(|method| method.statistics != Some(kind)) {
        return Err(at
            .error(format!("the method `{}` has no use for Fisher information", methods.title()))
            .key(key)
            .hint("remove the key, or choose `merge_method: fisher`"));
    }
    let from = match raw.value {
        RawFisher::File(path) if path.trim().is_empty() => {
            return Err(at.error("a path is empty").key(key).hint("name a safetensors file"));
        }
        RawFisher::File(path) => StatisticsSource::File(path),
        RawFisher::Data(data) => computed(sources, key, *data)?,
    };
    Ok(at.map(StatisticsInput { kind, from }))
}

fn computed(sources: &Sources, key: &str, raw: RawFisherData) -> Result<StatisticsSource> {
    let default = FisherSettings::default();
    let count = |name: &str, least: u64, given: Option<At<u64>>| -> Result<Option<usize>> {
        let Some(given) = given.map(|given| sources.locate(given)) else { return Ok(None) };
        if given.value < least {
            return Err(given
                .error("a number is too small")
                .key(format!("{key}.{name}"))
                .expected(format!("{least} or more"), given.value));
        }
        Ok(Some(usize::try_from(given.value).unwrap_or(usize::MAX)))
    };
    let labels = match raw.labels.map(|labels| sources.locate(labels)) {
        None => default.labels,
        Some(word) => Labels::parse(&word.value).ok_or_else(|| {
            word.error("labels are not of a known kind")
                .key(format!("{key}.labels"))
                .expected("model or data", &word.value)
        })?,
    };
    let data = sources.locate(raw.data);
    if data.value.trim().is_empty() {
        let empty: Error = data.error("a path is empty").key(format!("{key}.data"));
        return Err(empty.hint("name a file of documents"));
    }
    let settings = FisherSettings {
        samples: count("samples", 1, raw.samples)?,
        length: count("length", 2, raw.length)?,
        labels,
        seed: raw.seed.map_or(default.seed, |seed| seed.value),
        field: raw.field.map_or(default.field, |field| field.value),
    };
    Ok(StatisticsSource::Computed { data: data.value, settings })
}
