//! How the JSON of a tokenizer is read.

use super::{AddedToken, Kind, Model, Pieces};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The file with its large parts read straight into lists: as JSON values they would take several
/// times the memory.
pub(super) struct RawFile {
    pub(super) added: Vec<AddedToken>,
    pub(super) model: Option<RawModel>,
    pub(super) rest: Map<String, Value>,
}

#[derive(Default)]
pub(super) struct RawModel {
    kind: Option<String>,
    pieces: Option<Pieces>,
    merges: Option<Vec<(String, String)>>,
    rest: Map<String, Value>,
}

impl RawModel {
    pub(super) fn checked(self) -> Result<Model, String> {
        let pieces = self.pieces.ok_or("its model has no vocab")?;
        let kind = match (&self.kind, &pieces) {
            (Some(name), _) => Kind::of(name).ok_or(format!("its model is a {name}"))?,
            // Files of old versions do not name the kind.
            (None, Pieces::Scores(_)) => Kind::Unigram,
            (None, _) if self.merges.is_some() => Kind::Bpe,
            (None, _) if self.rest.contains_key("continuing_subword_prefix") => Kind::WordPiece,
            (None, _) => Kind::WordLevel,
        };
        if matches!(pieces, Pieces::Scores(_)) != (kind == Kind::Unigram) {
            return Err(format!("the vocab is not that of a {} model", kind.name()));
        }
        let model =
            Model { kind, pieces, merges: self.merges.unwrap_or_default(), rest: self.rest };
        let mut ids: Vec<u32> = model.ids().into_iter().map(|(_, id)| id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two tokens have the id {}", pair[0]));
        }
        Ok(model)
    }
}

impl<'de> Deserialize<'de> for RawFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct File;
        impl<'de> Visitor<'de> for File {
            type Value = RawFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tokenizer")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawFile, A::Error> {
                let mut file = RawFile { added: Vec::new(), model: None, rest: Map::new() };
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "added_tokens" => {
                            file.added = map.next_value::<Option<_>>()?.unwrap_or_default();
                        }
                        "model" => file.model = map.next_value()?,
                        _ => {
                            file.rest.insert(key, map.next_value()?);
                        }
                    }
                }
                Ok(file)
            }
        }
        deserializer.deserialize_map(File)
    }
}

impl<'de> Deserialize<'de> for RawModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = RawModel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tokenizer's model")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawModel, A::Error> {
                let mut model = RawModel::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "type" => model.kind = map.next_value()?,
                        "vocab" => model.pieces = Some(map.next_value()?),
                        "merges" => {
                            let merges: Vec<RawMerge> = map.next_value()?;
                            model.merges = Some(merges.into_iter().map(|merge| merge.0).collect());
                        }
                        _ => {
                            model.rest.insert(key, map.next_value()?);
                        }
                    }
                }
                Ok(model)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pieces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tokens to ids, or a list of tokens and scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pieces, A::Error> {
                let mut ids = Vec::new();
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    ids.push((token, id));
                }
                ids.sort_by_key(|(_, id)| *id);
                Ok(Pieces::Ids(ids))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Pieces, A::Error> {
                let mut scores = Vec::new();
                while let Some(piece) = seq.next_element::<(String, f64)>()? {
                    scores.push(piece);
                }
                Ok(Pieces::Scores(scores))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// A merge: `"a b"` in files of old versions, `["a", "b"]` in newer ones.
struct RawMerge((String, String));

impl<'de> Deserialize<'de> for RawMerge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = RawMerge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge of two tokens")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawMerge, E> {
                match text.split_once(' ') {
                    Some((a, b)) if !b.contains(' ') => Ok(RawMerge((a.into(), b.into()))),
                    _ => Err(E::custom(format!("a merge is not two tokens: {text:?}"))),
                }
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<RawMerge, A::Error> {
                let pair = (seq.next_element()?, seq.next_element()?);
                match (pair, seq.next_element::<IgnoredAny>()?) {
                    ((Some(a), Some(b)), None) => Ok(RawMerge((a, b))),
                    _ => Err(de::Error::custom("a merge is not two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}
