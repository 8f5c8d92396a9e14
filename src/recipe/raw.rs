//! The shape of a recipe's YAML. Unknown keys are refused here, with the nearest known one.

use super::nearby::{addition, hint, key_before};
use super::setting::Setting;
use super::{Located, place};
use crate::error::{Error, Result, nearest};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_yaml::options::NonFiniteFloatPolicy;
use serde_yaml::{Location, Spanned};
use std::fmt;
use std::path::Path;

/// One YAML document, or one entry of `stages`, as written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRecipe {
    pub(super) merge_method: Option<Spanned<String>>,
    pub(super) stages: Option<Spanned<Vec<Spanned<RawRecipe>>>>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) save: Option<Spanned<String>>,
    pub(super) models: Option<Spanned<Vec<RawModel>>>,
    pub(super) slices: Option<Spanned<Vec<RawSlice>>>,
    pub(super) base_model: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) parameters: RawParameters,
    pub(super) dtype: Option<Spanned<String>>,
    pub(super) out_dtype: Option<Spanned<String>>,
    pub(super) random_seed: Option<Spanned<u64>>,
    pub(super) modules: Option<Spanned<RawModules>>,
    pub(super) tokenizer_source: Option<Spanned<String>>,
    pub(super) tokenizer: Option<Spanned<super::tokenizer::RawTokenizer>>,
    pub(super) chat_template: Option<Spanned<String>>,
}

impl RawRecipe {
    /// Whether no key of a stage is given.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            merge_method,
            stages: _,
            name,
            save,
            models,
            slices,
            base_model,
            parameters,
            dtype,
            out_dtype,
            random_seed,
            modules,
            tokenizer_source,
            tokenizer,
            chat_template,
        } = self;
        let words = [
            dtype,
            out_dtype,
            name,
            save,
            merge_method,
            base_model,
            tokenizer_source,
            chat_template,
        ];
        words.iter().all(|key| key.is_none())
            && tokenizer.is_none()
            && models.is_none()
            && modules.is_none()
            && slices.is_none()
            && parameters.0.is_empty()
            && random_seed.is_none()
    }
}

/// An entry of `models`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) model: Spanned<String>,
    #[serde(default)]
    pub(super) parameters: RawParameters,
}

/// An entry of `slices`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSlice {
    pub(super) sources: Spanned<Vec<RawSource>>,
    pub(super) base_model: Option<Spanned<String>>,
    pub(super) residual_weight: Option<Spanned<f64>>,
    #[serde(default)]
    pub(super) parameters: RawParameters,
}

/// An entry of a slice's `sources`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub(super) model: Spanned<String>,
    pub(super) layer_range: Spanned<Vec<i64>>,
    #[serde(default)]
    pub(super) parameters: RawParameters,
}

/// An entry of `modules`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModule {
    pub(super) models: Option<Spanned<Vec<RawModel>>>,
    pub(super) slices: Option<Spanned<Vec<RawSlice>>>,
    #[serde(default)]
    pub(super) parameters: RawParameters,
}

/// The `modules` block: names with their places, in the order of the file.
pub(super) struct RawModules(pub(super) Vec<(Spanned<String>, RawModule)>);

impl<'de> Deserialize<'de> for RawModules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawModules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of module names to `models` or `slices`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawModules, A::Error> {
                entries(map).map(RawModules)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The entries of a mapping whose keys keep their places and order.
fn entries<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    mut map: A,
) -> Result<Vec<(Spanned<String>, T)>, A::Error> {
    let mut entries = Vec::new();
    while let Some(name) = map.next_key::<Spanned<String>>()? {
        entries.push((name, map.next_value()?));
    }
    Ok(entries)
}

/// A `parameters` block: names with their places, and settings.
#[derive(Default)]
pub(super) struct RawParameters(pub(super) Vec<(Spanned<String>, Setting)>);

impl<'de> Deserialize<'de> for RawParameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawParameters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of parameter names to values")
            }

            fn visit_unit<E>(self) -> Result<RawParameters, E> {
                Ok(RawParameters::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawParameters, A::Error> {
                entries(map).map(RawParameters)
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// Scalars, lists and mappings of a file at most, those repeated by aliases included.
const MAX_NODES: usize = 100_000;

/// Parses the YAML documents of a file.
pub(super) fn parse(file: &Path, text: &str) -> Result<Vec<Spanned<RawRecipe>>> {
    // A number that is not finite is let through, so that it is refused with its key and range.
    let options = serde_yaml::options! {
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // Far above what a recipe needs, and read in a moment.
        budget: serde_yaml::budget! { max_nodes: MAX_NODES },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: MAX_NODES },
    };
    serde_yaml::from_multiple_with_options(text, options)
        .map_err(|e| yaml_error(file, text, e.without_snippet()))
}

/// A value with its place, as the rest of the crate keeps it.
pub(super) fn located<T>(spanned: Spanned<T>) -> Located<T> {
    let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
    Located { value: spanned.value, line, column }
}

fn at(file: &Path, location: Option<Location>) -> String {
    location.map_or_else(|| place(file, 0, 0), |l| place(file, l.line(), l.column()))
}

/// Restates an error of the YAML reader in this crate's terms.
fn yaml_error(file: &Path, text: &str, error: &serde_yaml::Error) -> Error {
    let place = at(file, error.location());
    match error {
        serde_yaml::Error::SerdeUnknownField { field, expected, .. } => {
            let known = Error::input(format!("unknown key `{field}`"))
                .fact("file", place)
                .key(field)
                .fact("expected", format!("one of {}", expected.join(", ")));
            match nearest(field, expected.iter().copied()) {
                Some(near) => known.hint(format!("did you mean `{near}`?")),
                None => known.hint("remove it, or write one of the keys that may stand here"),
            }
        }
        serde_yaml::Error::SerdeMissingField { field, .. } => {
            Error::input(format!("the key `{field}` is missing"))
                .fact("file", place)
                .key(field)
                .hint(addition(field))
        }
        serde_yaml::Error::DuplicateMappingKey { key, .. } => {
            let error = Error::input("a key stands twice")
                .fact("file", place)
                .hint("remove one of the two");
            match key {
                Some(key) => error.key(key),
                None => error,
            }
        }
        other => {
            let reason = other.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            // The place stands in a fact of its own.
            let reason = reason.split(" at line ").next().unwrap_or(reason);
            let wrong = Error::input("the recipe is not what a recipe must be").fact("file", place);
            let key = error.location().and_then(|at| key_before(text, at.line(), at.column()));
            let wrong = match key {
                Some(key) => wrong.key(key),
                None => wrong,
            };
            wrong.fact("reason", reason).hint(hint(reason))
        }
    }
}
