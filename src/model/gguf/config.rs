//! `config.json` from the metadata of a GGUF file.

use super::families::Family;
use super::header::{Header, Value};
use super::rope;
use crate::error::{Error, Result};
use crate::model::{StoredTensor, TensorSpec};
use serde_json::{Map, Value as Json, json};

/// The metadata of a file. Keys are given without the architecture in front.
pub(super) struct Metadata<'h, 'a> {
    header: &'h Header<'a>,
    pub(super) architecture: &'a str,
}

impl<'h, 'a> Metadata<'h, 'a> {
    pub(super) fn new(header: &'h Header<'a>) -> Result<Self> {
        let Some(Value::Text(architecture)) = header.metadata.get("general.architecture") else {
            return Err(Error::input("the GGUF file does not say what its architecture is")
                .key("general.architecture"));
        };
        let metadata = Self { header, architecture };
        if let Some(Value::Integer(count)) = metadata.any("split.count")
            && count > 1
        {
            return Err(Error::input("a GGUF model split into several files is not read")
                .key("split.count")
                .expected(1, count)
                .hint("merge the files with llama-gguf-split --merge"));
        }
        Ok(metadata)
    }

    /// A value under its whole key.
    fn any(&self, key: &str) -> Option<Value<'a>> {
        self.header.metadata.get(key).copied()
    }

    /// A value of the architecture.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.any(&self.key(key))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A whole number of the architecture.
    pub(super) fn number(&self, key: &str) -> Result<u64> {
        let found = self.get(key);
        let number = match found {
            Some(Value::Integer(number)) => u64::try_from(number).ok(),
            _ => None,
        };
        number.ok_or_else(|| self.wrong(key, "a whole number", found))
    }

    /// A number of the architecture as JSON writes it.
    fn json(&self, key: &str) -> Result<Json> {
        let found = self.get(key);
        let number = match found {
            Some(Value::Integer(_)) => self.number(key).ok().map(Json::from),
            Some(Value::Single(x)) => shortest(x),
            Some(Value::Double(x)) => serde_json::Number::from_f64(x).map(Json::Number),
            _ => None,
        };
        number.ok_or_else(|| self.wrong(key, "a number", found))
    }

    fn wrong(&self, key: &str, expected: &str, found: Option<Value<'a>>) -> Error {
        let found = match found {
            None => "nothing".to_string(),
            Some(Value::Array(length)) => format!("an array of {length}"),
            Some(other) => format!("{other:?}"),
        };
        Error::input("the metadata of the GGUF file lack what the config needs")
            .key(self.key(key))
            .expected(expected, found)
    }
}

/// The shortest decimal that is read as this f32: 1e-5, not 9.999999747378752e-6.
fn shortest(number: f32) -> Option<Json> {
    let decimal: f64 = number.to_string().parse().ok()?;
    serde_json::Number::from_f64(decimal).map(Json::Number)
}

/// The config of the model. What its metadata do not hold takes the place that transformers gives
/// it; what a config could not say is refused.
pub(super) fn config(
    family: &Family,
    metadata: &Metadata<'_, '_>,
    tensors: &[&TensorSpec],
    rope_freqs: Option<&StoredTensor>,
) -> Result<Map<String, Json>> {
    for key in &family.refused_keys {
        let found = metadata.get(key);
        if !matches!(found, None | Some(Value::Integer(0))) {
            return Err(Error::input("GGUF files of this kind of model are not read")
                .key(metadata.key(key))
                .fact("found", format!("{found:?}"))
                .hint("use the model's safetensors instead"));
        }
    }
    for (key, expected) in &family.required_values {
        let found = metadata.number(key)?;
        if found != *expected {
            return Err(Error::input(
                "the GGUF file leaves out what the config of this model needs",
            )
            .key(metadata.key(key))
            .expected(expected, found)
            .hint("use the model's safetensors instead"));
        }
    }
    let named = |name: &str| tensors.iter().find(|spec| spec.name == name);
    let embedding = named("model.embed_tokens.weight").ok_or_else(|| {
        Error::input("the GGUF file has no embedding").expected("token_embd.weight", "none")
    })?;
    let mut map = Map::new();
    let mut set = |key: &str, value: Json| _ = map.insert(key.to_string(), value);
    set("architectures", json!([family.architecture]));
    set("model_type", json!(family.model_type));
    for (key, value) in &family.constants {
        set(key, value.clone());
    }
    for (key, source) in &family.config {
        set(key, metadata.json(source)?);
    }
    let heads = metadata.number("attention.head_count")?;
    let key_value = metadata.get("attention.head_count_kv");
    let key_value = key_value.map(|_| metadata.number("attention.head_count_kv"));
    set("num_key_value_heads", json!(key_value.transpose()?.unwrap_or(heads)));
    let head = match metadata.get("attention.key_length") {
        Some(_) => metadata.number("attention.key_length")?,
        None => metadata.number("embedding_length")?.checked_div(heads).unwrap_or(0),
    };
    set("head_dim", json!(head));
    set("vocab_size", json!(embedding.shape.first()));
    set("tie_word_embeddings", json!(named("lm_head.weight").is_none()));
    if tensors.iter().any(|spec| spec.name.ends_with(".q_proj.bias")) {
        set("attention_bias", json!(true));
    }
    for (key, source) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(Value::Integer(id)) = metadata.any(source) {
            set(key, json!(u32::try_from(id).ok()));
        }
    }
    let theta = match metadata.get("rope.freq_base") {
        Some(_) => metadata.json("rope.freq_base")?,
        None => json!(10000.0),
    };
    let scaling = match rope_freqs {
        Some(factors) => Some(rope::llama3(factors, theta.as_f64().unwrap_or(0.0), head)?),
        None => scaling(metadata)?,
    };
    set("rope_theta", theta);
    if let Some(scaling) = scaling {
        set("rope_scaling", scaling);
    }
    if let Some(float) = embedding.float() {
        set("torch_dtype", json!(float.name()));
    }
    Ok(map)
}

/// The scaling of the rotary embedding, as older configs spell it.
fn scaling(metadata: &Metadata<'_, '_>) -> Result<Option<Json>> {
    match metadata.get("rope.scaling.type") {
        None | Some(Value::Text("none")) => Ok(None),
        Some(Value::Text("linear")) => {
            let factor = metadata.json("rope.scaling.factor")?;
            Ok(Some(json!({"rope_type": "linear", "factor": factor})))
        }
        found => Err(metadata.wrong("rope.scaling.type", "none or linear", found)),
    }
}
