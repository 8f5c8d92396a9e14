//! Model references as recipes write them: a text, or mergekit's mapping of its parts, which means
//! the same (`{model: {path: base, revision: v1}, lora: adapter}` is `base@v1+adapter`).

use super::sources::At;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;

/// A model reference; `+ADAPTER` behind a model adds a LoRA adapter.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Reference")]
#[allow(dead_code, reason = "the variants describe to editors what the visitor reads")]
pub(super) enum RawReference {
    /// A folder, a GGUF file, `owner/name` on the Hub, or the name of a stage.
    Text(#[schemars(length(min = 1))] String),
    /// The same in parts.
    Parts(Parts),
}

/// A model and its adapter.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ReferenceParts")]
pub(super) struct Parts {
    /// The model.
    #[serde(deserialize_with = "path")]
    #[schemars(with = "RawPath")]
    model: String,
    /// A LoRA adapter on top of it.
    #[serde(default, deserialize_with = "optional_path")]
    #[schemars(with = "Option<RawPath>")]
    lora: Option<String>,
}

/// A folder or a name on the Hub.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Path")]
#[allow(dead_code, reason = "the variants describe to editors what the visitor reads")]
enum RawPath {
    /// With the revision behind an `@`.
    Text(String),
    /// With the revision apart.
    Parts(PathParts),
}

/// A path and a revision.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PathParts")]
struct PathParts {
    /// A folder or a name on the Hub.
    path: String,
    /// The revision of a model on the Hub.
    revision: Option<String>,
}

impl From<Parts> for String {
    fn from(parts: Parts) -> Self {
        match parts.lora {
            Some(lora) => format!("{}+{lora}", parts.model),
            None => parts.model,
        }
    }
}

impl From<PathParts> for String {
    fn from(parts: PathParts) -> Self {
        match parts.revision {
            Some(revision) => format!("{}@{revision}", parts.path),
            None => parts.path,
        }
    }
}

/// A text, or a mapping that stands for one.
struct Text<T>(&'static str, std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de> + Into<String>> Visitor<'de> for Text<T> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<String, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
    }
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = Text::<PathParts>("a path, or a mapping of path and revision", Default::default());
    deserializer.deserialize_any(text)
}

fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Path(String);
    impl<'de> Deserialize<'de> for Path {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            path(deserializer).map(Self)
        }
    }
    Ok(Option::<Path>::deserialize(deserializer)?.map(|path| path.0))
}

/// A reference put into one text.
struct Joined(String);

impl<'de> Deserialize<'de> for Joined {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::<Parts>("a model, or a mapping of model and lora", Default::default());
        deserializer.deserialize_any(text).map(Self)
    }
}

/// Reads a reference with its place.
pub(super) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<At<String>, D::Error> {
    At::<Joined>::deserialize(deserializer).map(|at| at.map(|joined| joined.0))
}

/// The same where it may be missing.
pub(super) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<At<String>>, D::Error> {
    let found = Option::<At<Joined>>::deserialize(deserializer)?;
    Ok(found.map(|at| at.map(|joined| joined.0)))
}
