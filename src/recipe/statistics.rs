//! Statistics that come with a model: `fisher: FILE` or `gram: FILE`, or how to compute them.

use super::Located;
use super::methods::Methods;
use super::schema;
use super::sources::{At, Sources};
use crate::error::{Error, Result};
use crate::methods::METHODS;
use crate::model::{DocumentSettings, FisherSettings, Labels, Statistics, StatisticsSettings};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

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
        settings: StatisticsSettings,
    },
}

/// The value of `fisher` or `gram`; `D` says how to compute them.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "FileOr{D}")]
pub(super) enum RawStatistics<D> {
    /// A safetensors file, as the command of the key's name writes it.
    File(#[schemars(length(min = 1))] String),
    /// How to compute it when the merge is written.
    Data(Box<D>),
}

/// What is said of how statistics are computed.
pub(super) trait RawData: Sized {
    /// Checked: the documents' file, and what decides the result.
    fn checked(self, sources: &Sources, key: &str) -> Result<(String, StatisticsSettings)>;
    /// The kind.
    const KIND: Statistics;
}

/// How Gram matrices are computed.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GramData")]
pub(super) struct RawGramData {
    /// Documents: JSON objects, one a line (.jsonl), or texts, one a line (.txt).
    data: At<String>,
    /// Take the first documents only, as many as this; all by default.
    #[schemars(range(min = 1))]
    samples: Option<At<u64>>,
    /// Tokens of a document at most; the model's context by default, 2048 at most.
    #[schemars(range(min = 2))]
    length: Option<At<u64>>,
    /// The field of a JSON object that holds the text; `text` by default.
    field: Option<At<String>>,
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

impl<'de, D: Deserialize<'de>> Deserialize<'de> for RawStatistics<D> {
    fn deserialize<T: Deserializer<'de>>(deserializer: T) -> Result<Self, T::Error> {
        struct Form<D>(PhantomData<D>);
        impl<'de, D: Deserialize<'de>> Visitor<'de> for Form<D> {
            type Value = RawStatistics<D>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a mapping with `data`")
            }

            fn visit_str<E>(self, path: &str) -> Result<RawStatistics<D>, E> {
                Ok(RawStatistics::File(path.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawStatistics<D>, A::Error> {
                let data = D::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawStatistics::Data(Box::new(data)))
            }
        }
        deserializer.deserialize_any(Form(PhantomData))
    }
}

/// Checks what a model at `path` says of its statistics of one kind.
pub(super) fn statistics<D: RawData>(
    sources: &Sources,
    methods: &Methods,
    path: &str,
    raw: At<RawStatistics<D>>,
) -> Result<Located<StatisticsInput>> {
    let kind = D::KIND;
    let key = format!("{path}.{}", kind.key());
    let raw = sources.locate(raw);
    let at = raw.map(());
    if methods.all().iter().all(|method| method.statistics != Some(kind)) {
        let readers = METHODS.iter().filter(|method| method.statistics == Some(kind));
        let readers: Vec<String> =
            readers.map(|method| format!("`merge_method: {}`", method.name)).collect();
        let title = kind.title();
        return Err(at
            .error(format!("the method `{}` has no use for {title}", methods.title()))
            .key(key)
            .hint(format!("remove the key, or choose {}", readers.join(" or "))));
    }
    let from = match raw.value {
        RawStatistics::File(path) if path.trim().is_empty() => {
            return Err(at.error("a path is empty").key(key).hint("name a safetensors file"));
        }
        RawStatistics::File(path) => StatisticsSource::File(path),
        RawStatistics::Data(data) => {
            let (data, settings) = data.checked(sources, &key)?;
            StatisticsSource::Computed { data, settings }
        }
    };
    Ok(at.map(StatisticsInput { kind, from }))
}

impl RawData for RawFisherData {
    const KIND: Statistics = Statistics::Fisher;

    fn checked(self, sources: &Sources, key: &str) -> Result<(String, StatisticsSettings)> {
        let default = FisherSettings::default();
        let labels = match self.labels.map(|labels| sources.locate(labels)) {
            None => default.labels,
            Some(word) => Labels::parse(&word.value).ok_or_else(|| {
                word.error("labels are not of a known kind")
                    .key(format!("{key}.labels"))
                    .expected("model or data", &word.value)
            })?,
        };
        let documents = documents(sources, key, self.samples, self.length, self.field)?;
        let seed = self.seed.map_or(default.seed, |seed| seed.value);
        let settings = FisherSettings { documents, labels, seed };
        Ok((file(sources, key, self.data)?, StatisticsSettings::Fisher(settings)))
    }
}

impl RawData for RawGramData {
    const KIND: Statistics = Statistics::Gram;

    fn checked(self, sources: &Sources, key: &str) -> Result<(String, StatisticsSettings)> {
        let documents = documents(sources, key, self.samples, self.length, self.field)?;
        Ok((file(sources, key, self.data)?, StatisticsSettings::Gram(documents)))
    }
}

/// The file of documents.
fn file(sources: &Sources, key: &str, raw: At<String>) -> Result<String> {
    let data = sources.locate(raw);
    if data.value.trim().is_empty() {
        let empty: Error = data.error("a path is empty").key(format!("{key}.data"));
        return Err(empty.hint("name a file of documents"));
    }
    Ok(data.value)
}

/// Which documents are taken.
fn documents(
    sources: &Sources,
    key: &str,
    samples: Option<At<u64>>,
    length: Option<At<u64>>,
    field: Option<At<String>>,
) -> Result<DocumentSettings> {
    let default = DocumentSettings::default();
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
    Ok(DocumentSettings {
        samples: count("samples", 1, samples)?,
        length: count("length", 2, length)?,
        field: field.map_or(default.field, |field| field.value),
    })
}
