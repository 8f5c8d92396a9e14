//! A parent's `lineage.json` in short form: without what is said per tensor, read in one pass that keeps
//! nothing of it.

use crate::engine::hex;
use crate::lineage::SCHEMA;
use crate::model::hub::is_sha256;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Read};

/// The short forms of a manifest and its ancestors, in bytes, at most.
const MAX_SHORT_BYTES: usize = 32 << 20;

/// A manifest that cognate wrote, without what it says per tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParentManifest {
    /// The SHA-256 of the file's bytes.
    pub sha256: String,
    /// The manifest without tensors, files, routing, ancestors and its digest of itself.
    pub short: Value,
    /// The manifests of its own ancestors in the same form, by the SHA-256 of their files.
    pub ancestors: BTreeMap<String, Value>,
    /// What of it was left out, in words.
    pub notes: Vec<String>,
}

/// Reads a manifest from bytes.
///
/// # Errors
/// It is no JSON, or not one of cognate's; in words.
pub fn parse_manifest(bytes: &[u8]) -> Result<ParentManifest, String> {
    read(bytes)
}

/// Reads a manifest to its end, without holding it.
pub(super) fn read(from: impl Read) -> Result<ParentManifest, String> {
    let mut hashed = BufReader::with_capacity(1 << 16, Hashed { from, hasher: Sha256::new() });
    let mut json = serde_json::Deserializer::from_reader(&mut hashed);
    let read = Part::Manifest.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    let mut short = read.map_err(|e| format!("it is no JSON object of cognate's ({e})"))?;
    if short.get("schema").and_then(Value::as_str) != Some(SCHEMA) {
        return Err(format!("it is not of the schema {SCHEMA}"));
    }
    let sha256 = hex(&hashed.into_inner().hasher.finalize().into());
    let mut notes = Vec::new();
    let mut ancestors = BTreeMap::new();
    if let Some(map) = short.as_object_mut()
        && let Some(Value::Object(found)) = map.shift_remove("ancestors")
    {
        let mut left = 0;
        for (key, mut value) in found {
            // They stand in this table, wherever they were found.
            value.as_object_mut().and_then(|map| map.shift_remove("ancestors"));
            let known = value.get("schema").and_then(Value::as_str) == Some(SCHEMA);
            if known && is_sha256(&key) {
                ancestors.insert(key, value);
            } else {
                left += 1;
            }
        }
        if left > 0 {
            notes.push(format!("{left} of its ancestors left out: no manifests of cognate's"));
        }
    }
    let bytes = |value: &Value| value.to_string().len();
    if bytes(&short) + ancestors.values().map(bytes).sum::<usize>() > MAX_SHORT_BYTES {
        return Err(format!("its short form has more than {MAX_SHORT_BYTES} bytes"));
    }
    Ok(ParentManifest { sha256, short, ancestors, notes })
}

struct Hashed<R> {
    from: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(into)?;
        self.hasher.update(into.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Which part of a manifest is read, and so which of its keys are passed over.
#[derive(Clone, Copy)]
enum Part {
    Manifest,
    Ancestors,
    Stages,
    Inputs,
    Input,
    Output,
}

impl Part {
    /// What stands under a key: another part, nothing that is kept, or a value that is kept whole.
    fn under(self, key: &str) -> Option<Option<Self>> {
        match (self, key) {
            (Self::Manifest, "routing" | "digest")
            | (Self::Input, "tensors" | "made_of" | "dropped")
            | (Self::Output, "tensors" | "files") => Some(None),
            (Self::Manifest, "inputs") => Some(Some(Self::Inputs)),
            (Self::Manifest, "stages") => Some(Some(Self::Stages)),
            (Self::Manifest, "output") => Some(Some(Self::Output)),
            (Self::Manifest, "ancestors") => Some(Some(Self::Ancestors)),
            (Self::Ancestors, _) => Some(Some(Self::Manifest)),
            _ => None,
        }
    }

    /// What the entries of a list are.
    fn entry(self) -> Option<Self> {
        match self {
            Self::Stages => Some(Self::Manifest),
            Self::Inputs => Some(Self::Input),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.entry().is_some() {
            deserializer.deserialize_seq(self)
        } else {
            deserializer.deserialize_map(self)
        }
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.entry().is_some() { "a list" } else { "an object" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = match self.under(&key) {
                Some(None) => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                Some(Some(part)) => map.next_value_seed(part)?,
                None => map.next_value_seed(Whole)?,
            };
            if kept.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        let Some(part) = self.entry() else { return Err(A::Error::custom("a list")) };
        while let Some(value) = seq.next_element_seed(part)? {
            kept.push(value);
        }
        Ok(Value::Array(kept))
    }
}

/// A value that is kept.
struct Whole;

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_short_form_says_nothing_per_tensor() {
        let sha = "a".repeat(64);
        let input =
            json!({"model": "a", "tensors": {"x": 1}, "made_of": {}, "dropped": {}, "digest": "d"});
        let own = json!({
            "schema": SCHEMA, "seed": 1, "routing": {"x": 1}, "inputs": [input],
            "stages": [{"name": "s", "inputs": [input], "output": {"digest": null, "tensors": [1]}}],
            "ancestors": {(sha.clone()): {"schema": SCHEMA, "seed": 2, "inputs": [input], "routing": 1}, "x": {"schema": SCHEMA}},
            "output": {"digest": "e", "tensors": [{"name": "x"}]},
        });
        let text = own.to_string();
        let read = parse_manifest(text.as_bytes()).unwrap();
        let input = json!({"model": "a", "digest": "d"});
        assert_eq!(
            read.short,
            json!({
                "schema": SCHEMA, "seed": 1, "inputs": [input],
                "stages": [{"name": "s", "inputs": [input], "output": {"digest": null}}],
                "output": {"digest": "e"},
            })
        );
        assert_eq!(
            read.ancestors,
            BTreeMap::from([(sha, json!({"schema": SCHEMA, "seed": 2, "inputs": [input]}))])
        );
        assert_eq!(read.sha256, hex(&Sha256::digest(text.as_bytes()).into()));
        assert_eq!(read.notes.len(), 1);
    }

    #[test]
    fn what_is_foreign_is_a_reason() {
        let deep = format!("{{\"schema\": \"{SCHEMA}\", \"a\": {}", "[".repeat(100_000));
        for text in [
            "",
            "{}",
            "[]",
            "null",
            "{\"schema\": \"cognate/lineage/2\"}",
            "{\"schema\": 1} x",
            &deep,
        ] {
            assert!(parse_manifest(text.as_bytes()).is_err(), "{text:.40}");
        }
    }
}
