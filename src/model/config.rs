//! `config.json`: the facts that a merge needs from it, and the edits that a merge makes to it.

mod dtype;
mod quantization;

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Keys under which configurations keep a layer count, in the order they are looked for.
const LAYER_COUNT_KEYS: [&str; 9] = [
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_decoder_layers",
    "decoder_layers",
    "encoder_layers",
    "num_encoder_layers",
    "depth",
];

/// Nested objects that describe one part of a composed model.
pub(super) const NESTED: [&str; 8] = [
    "text_config",
    "llm_config",
    "language_config",
    "decoder",
    "encoder",
    "vision_config",
    "audio_config",
    "thinker_config",
];

/// Lists with the indices of certain layers (not one entry a layer).
const LAYER_INDEX_LISTS: [&str; 6] = [
    "mlp_only_layers",
    "full_attn_idxs",
    "attn_layer_indices",
    "global_attn_layers",
    "cross_attention_layers",
    "kv_shared_layers",
];

/// Lists that are never one entry a layer, however long they happen to be.
const NOT_PER_LAYER: [&str; 8] = [
    "architectures",
    "eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "mrope_section",
    "time_step_limit",
    "rope_sections",
];

/// Numbers whose meaning depends on the position of a layer, which a layer edit may disturb.
const POSITIONAL_NUMBERS: [&str; 6] = [
    "max_window_layers",
    "first_k_dense_replace",
    "decoder_sparse_step",
    "sliding_window_pattern",
    "attn_layer_offset",
    "moe_layer_start_index",
];

/// A config larger than this is refused unread.
const MAX_BYTES: u64 = 64 << 20;

/// A per-layer list of the config that was rewritten to follow the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerListEdit {
    /// The key of the list.
    pub key: String,
    /// Its length before and after.
    pub lengths: (usize, usize),
}

/// A parsed `config.json`. Keys keep their order.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    pub(super) map: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` from a model folder.
    ///
    /// # Errors
    /// The file is missing, unreadable or not a JSON object.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if let Ok(metadata) = std::fs::metadata(&path)
            && (!metadata.is_file() || metadata.len() > MAX_BYTES)
        {
            return Err(Error::input("config.json is no file, or too large for one")
                .file(&path)
                .expected(format!("a file of at most {MAX_BYTES} bytes"), metadata.len()));
        }
        let text = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::input("the model folder has no config.json")
                .file(&path)
                .hint("a model is a Hugging Face folder with config.json and safetensors weights"),
            _ => Error::io("read the config", &path, &e),
        })?;
        let map = parse_config(&text).map_err(|e| e.file(&path))?;
        Ok(Self { path, map })
    }

    /// A config that stands in no file yet; `path` names it in messages.
    ///
    /// # Errors
    /// The text is not a JSON object.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let map = parse_config(text.as_bytes()).map_err(|e| e.file(path))?;
        Ok(Self::made(path, map))
    }

    /// A config made from what another file says.
    pub(super) fn made(path: &Path, map: Map<String, Value>) -> Self {
        Self { path: path.to_path_buf(), map }
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A value of the top level.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// The first entry of `architectures`.
    pub fn architecture(&self) -> Option<&str> {
        self.map.get("architectures")?.get(0)?.as_str()
    }

    /// The `model_type`.
    pub fn model_type(&self) -> Option<&str> {
        self.map.get("model_type")?.as_str()
    }

    /// Whether the output head shares the input embedding, where the config says so.
    pub fn tied(&self) -> Option<bool> {
        self.objects().find_map(|(_, object)| object.get("tie_word_embeddings")?.as_bool())
    }

    /// The layer counts it declares, with the path of each key.
    pub fn layer_counts(&self) -> Vec<(String, usize)> {
        let mut counts = Vec::new();
        for (prefix, object) in self.objects() {
            for key in LAYER_COUNT_KEYS {
                if let Some(count) = object.get(key).and_then(Value::as_u64) {
                    counts.push((format!("{prefix}{key}"), count as usize));
                }
            }
        }
        counts
    }

    /// The top level and the nested objects of composed models, with the path prefix of each.
    pub(crate) fn objects(&self) -> impl Iterator<Item = (String, &Map<String, Value>)> {
        let nested = NESTED.iter().filter_map(|key| {
            let object = self.map.get(*key)?.as_object()?;
            Some((format!("{key}."), object))
        });
        std::iter::once((String::new(), &self.map)).chain(nested)
    }

    /// Records the dtype of the weights under the key the config already uses
    /// (`dtype`, or `torch_dtype` before transformers 4.56), in every object that has one.
    pub fn set_dtype(&mut self, name: &str) {
        let mut found = false;
        let nested = NESTED.iter().map(|key| Some(*key));
        for place in std::iter::once(None).chain(nested) {
            let object = match place {
                None => Some(&mut self.map),
                Some(key) => self.map.get_mut(key).and_then(Value::as_object_mut),
            };
            let Some(object) = object else { continue };
            for key in ["dtype", "torch_dtype"] {
                if let Some(value) = object.get_mut(key).filter(|v| !v.is_null()) {
                    *value = Value::from(name);
                    found = true;
                }
            }
        }
        if !found {
            // Older readers know only this spelling, and newer ones read it too.
            self.map.insert("torch_dtype".to_string(), Value::from(name));
        }
    }

    /// Follows a layer edit: the output's layer `i` was the layer `kept[i]` of this config, which
    /// had `old` layers. Sets the layer count and rewrites the lists with one entry a layer.
    ///
    /// # Errors
    /// The config declares no layer count of `old`, or a list has no entry for a layer that comes
    /// from a deeper model.
    pub fn follow_layers(&mut self, old: usize, kept: &[usize]) -> Result<Vec<LayerListEdit>> {
        let prefix = self
            .layer_counts()
            .into_iter()
            .find(|(_, count)| *count == old)
            .map(|(path, _)| path.split_once('.').map(|(nested, _)| nested.to_string()))
            .ok_or_else(|| {
                Error::input("the config does not say how many layers the model has")
                    .file(&self.path)
                    .expected(
                        format!("{old} layers under one of {}", LAYER_COUNT_KEYS.join(", ")),
                        "none",
                    )
            })?;
        let object = match &prefix {
            None => &mut self.map,
            Some(nested) => match self.map.get_mut(nested).and_then(Value::as_object_mut) {
                Some(object) => object,
                None => return Err(Error::internal("a nested config vanished")),
            },
        };
        let beyond = |key: &str| match kept.iter().find(|layer| **layer >= old) {
            None => Ok(()),
            Some(layer) => Err(Error::input(
                "the config cannot follow the layers: one comes from a deeper model",
            )
            .file(&self.path)
            .key(key)
            .expected(format!("layers below {old}"), layer)
            .hint("name the deepest model as base_model, since the config is the base's")),
        };
        let mut edits = Vec::new();
        for (key, value) in object.iter_mut() {
            if LAYER_COUNT_KEYS.contains(&key.as_str()) && value.as_u64() == Some(old as u64) {
                *value = Value::from(kept.len());
            }
            let Some(list) = value.as_array_mut() else { continue };
            let before = list.len();
            if key == "attention_types" {
                // GPT-Neo's run lengths: [[["global", "local"], 12]] for 24 layers.
                let Some(kinds) = expand_runs(list).filter(|kinds| kinds.len() == old) else {
                    continue;
                };
                beyond(key)?;
                *list = kept.iter().map(|layer| json!([[kinds[*layer]], 1])).collect();
                edits.push(LayerListEdit { key: key.clone(), lengths: (old, kept.len()) });
                continue;
            }
            if LAYER_INDEX_LISTS.contains(&key.as_str()) {
                beyond(key)?;
                let has = |layer: usize| list.iter().any(|v| v.as_u64() == Some(layer as u64));
                let moved: Vec<Value> =
                    (0..kept.len()).filter(|i| has(kept[*i])).map(Value::from).collect();
                *list = moved;
            } else if before == old && !NOT_PER_LAYER.contains(&key.as_str()) {
                beyond(key)?;
                *list = kept.iter().map(|layer| list[*layer].clone()).collect();
            } else {
                continue;
            }
            edits.push(LayerListEdit { key: key.clone(), lengths: (before, list.len()) });
        }
        Ok(edits)
    }

    /// Keys whose numbers depend on layer positions and that a layer edit therefore may disturb.
    pub fn positional_keys(&self) -> Vec<String> {
        self.objects()
            .flat_map(|(prefix, object)| {
                POSITIONAL_NUMBERS
                    .iter()
                    .filter(|key| object.get(**key).is_some_and(Value::is_number))
                    .map(move |key| format!("{prefix}{key}"))
            })
            .collect()
    }

    /// The text to write, with a newline at its end. Numbers stand as they were written.
    pub fn to_text(&self) -> String {
        let text = format!("{:#}\n", Value::Object(self.map.clone()));
        NOT_JSON.iter().fold(text, |text, word| text.replace(&marked(word), word))
    }
}

/// One entry a layer from a list of `[[kinds…], repetitions]`.
fn expand_runs(runs: &[Value]) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for run in runs {
        let kinds = run.get(0)?.as_array()?;
        let times = usize::try_from(run.get(1)?.as_u64()?).ok().filter(|n| *n <= 10_000)?;
        (0..times).for_each(|_| all.extend(kinds.iter().cloned()));
    }
    Some(all)
}

/// Words that Python writes for numbers that JSON does not have (`time_step_limit` of Mamba 2).
const NOT_JSON: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// A code point that no text holds.
const MARK: char = '\u{fdd0}';

/// What stands for such a word while the config is in memory: a string no config holds.
fn marked(word: &str) -> String {
    format!("\"{MARK}{word}\"")
}

/// Parses a `config.json`, Python's non-finite numbers included.
///
/// # Errors
/// The text is not a JSON object.
pub fn parse_config(text: &[u8]) -> Result<Map<String, Value>> {
    let text = std::str::from_utf8(text).map_err(|_| Error::input("config.json is not UTF-8"))?;
    match serde_json::from_str(&mark_not_json(text)) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::input("config.json is not a JSON object")),
        Err(e) => Err(Error::input("config.json is not valid JSON").fact("reason", e)),
    }
}

/// A written config as a JSON value; Python's non-finite numbers become strings.
pub(crate) fn config_value(text: &str) -> Value {
    let text = mark_not_json(text).replace(MARK, "");
    serde_json::from_str(&text).unwrap_or_default()
}

/// Marks the words of [`NOT_JSON`] that stand outside of strings.
fn mark_not_json(text: &str) -> String {
    let mut marked_text = String::with_capacity(text.len());
    let mut rest = text;
    let (mut in_string, mut escaped) = (false, false);
    while let Some(next) = rest.chars().next() {
        let word = NOT_JSON.iter().find(|word| !in_string && rest.starts_with(**word));
        if let Some(word) = word {
            marked_text.push_str(&marked(word));
            rest = &rest[word.len()..];
            continue;
        }
        in_string ^= next == '"' && !escaped;
        escaped = in_string && next == '\\' && !escaped;
        marked_text.push(next);
        rest = &rest[next.len_utf8()..];
    }
    marked_text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(value: Value) -> Config {
        Config::made(Path::new("config.json"), value.as_object().cloned().unwrap_or_default())
    }

    #[test]
    fn layer_lists_follow_the_layers() {
        let mut config = config(json!({
            "architectures": ["A", "B", "C", "D"],
            "num_hidden_layers": 4,
            "layer_types": ["full", "sliding", "full", "linear"],
            "mlp_only_layers": [0, 3],
            "attention_types": [[["global", "local"], 2]],
            "vocab_size": 10,
        }));
        let edits = config.follow_layers(4, &[0, 1, 1, 3, 3]).unwrap();
        assert_eq!(edits.len(), 3);
        let kinds = config.get("attention_types").unwrap().as_array().unwrap();
        let kinds: Vec<&str> = kinds.iter().map(|run| run[0][0].as_str().unwrap()).collect();
        assert_eq!(kinds, ["global", "local", "local", "local", "local"]);
        assert_eq!(config.get("num_hidden_layers"), Some(&json!(5)));
        assert_eq!(
            config.get("layer_types"),
            Some(&json!(["full", "sliding", "sliding", "linear", "linear"]))
        );
        assert_eq!(config.get("mlp_only_layers"), Some(&json!([0, 3, 4])));
        assert_eq!(config.get("architectures"), Some(&json!(["A", "B", "C", "D"])));
    }

    #[test]
    fn what_is_not_edited_stands_as_written() {
        let text = r#"{
  "eps": 1e-05,
  "theta": 10000.0,
  "limits": [
    -Infinity,
    Infinity,
    NaN
  ],
  "note": "NaN \" Infinity"
}
"#;
        let map = parse_config(text.as_bytes()).unwrap();
        assert_eq!(Config::made(Path::new(""), map).to_text(), text);
        assert!(parse_config(b"[1]").is_err() && parse_config(b"{").is_err());
    }

    #[test]
    fn nested_counts_are_found_and_followed() {
        let mut config = config(json!({
            "text_config": {"num_hidden_layers": 2, "dtype": "float32"},
            "vision_config": {"depth": 3},
        }));
        assert_eq!(config.layer_counts().len(), 2);
        config.follow_layers(2, &[0]).unwrap();
        assert_eq!(config.get("text_config").unwrap()["num_hidden_layers"], 1);
        config.set_dtype("bfloat16");
        assert_eq!(config.get("text_config").unwrap()["dtype"], "bfloat16");
        assert!(config.get("torch_dtype").is_none());
    }

    #[test]
    fn dtype_keeps_the_spelling_of_the_input() {
        let mut old = config(json!({"torch_dtype": "float32"}));
        old.set_dtype("float16");
        assert_eq!(old.get("torch_dtype"), Some(&json!("float16")));
        let mut none = config(json!({"dtype": null}));
        none.set_dtype("float16");
        assert_eq!(none.get("torch_dtype"), Some(&json!("float16")));
    }
}
