//! Families of models the evaluator knows: one JSON file each, data for the one decoder.

mod architecture;
mod description;
mod expression;
mod inputs;
mod resolve;
mod rotary;

pub(crate) use architecture::{
    Architecture, Attention, Dense, Experts, Layer, Linear, Mixer, Mlp, Norm, NormKind, Rotary,
    Scores, StateSpace,
};

pub(crate) use expression::Value;
pub(crate) use inputs::MapInput;

use super::config::Config;
use crate::error::{Error, Result, list};
use description::Family;
use expression::{Expression, Scope};
use resolve::Resolver;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};

macro_rules! families {
    ($($name:literal)*) => {
        /// A family's name, and its file's text.
        const FAMILIES: &[(&str, &str)] = &[$(($name, include_str!(concat!($name, ".json")))),*];
    };
}

families! {
    "bloom" "cohere" "deepseek" "falcon" "gemma" "gemma2"
    "gemma3" "gemma3_multimodal" "gpt2" "gpt_neox" "granite" "llama"
    "mamba" "mistral" "mixtral" "mpt" "olmo2" "opt"
    "phi" "phi3" "qwen2" "qwen2_moe" "qwen3" "qwen3_moe"
    "stablelm" "starcoder2"
}

/// Keys of configs that do not change the logits, whatever the family: what training used, how
/// text is generated, and what software wrote the file.
const NEUTRAL: &[&str] = &[
    "architectures",
    "auto_map",
    "bad_words_ids",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "initializer_factor",
    "label2id",
    "language",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pretraining_tp",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "task_specific_params",
    "temperature",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attn",
    "xla_device",
];

/// A family, as it is listed.
pub struct Listed {
    /// Its name.
    pub name: &'static str,
    /// The `model_type`s of the configs that it describes.
    pub model_types: Vec<String>,
}

/// All families.
///
/// # Errors
/// A description is not valid.
pub fn families() -> Result<Vec<Listed>> {
    let listed = FAMILIES.iter().map(|(name, text)| {
        let family: Family = serde_json::from_str(text).map_err(|e| invalid(name, &e))?;
        Ok(Listed { name, model_types: family.model_types })
    });
    listed.collect()
}

/// The names of the families.
fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

/// The value of an expression over a config, with what is `defined` besides.
///
/// # Errors
/// The text is no expression.
pub(crate) fn evaluate(
    text: &str,
    config: &Map<String, Json>,
    defined: BTreeMap<String, Value>,
) -> Result<Value> {
    Ok(Expression::parse(text)?.value(&Scope { config, defined }))
}

/// A model's architecture, and what its checkpoint may hold besides.
pub(crate) struct Found {
    /// The family's name.
    pub(crate) family: &'static str,
    /// What the decoder needs.
    pub(crate) architecture: Architecture,
    /// Whether the head is the embedding, if it is not stored.
    pub(crate) tied: bool,
    buffers: Vec<String>,
    other_parts: Vec<String>,
}

impl Found {
    /// Whether a stored tensor of this name is known not to be needed.
    pub(crate) fn needless(&self, name: &str) -> bool {
        self.buffers.iter().any(|end| name.ends_with(end.as_str()))
            || self.other_parts.iter().any(|start| name.starts_with(start.as_str()))
    }
}

/// The architecture of the model with this config, whose stored tensors `stored` knows by name.
///
/// # Errors
/// No family covers the model, or the config says what the family's description does not know.
pub(crate) fn find(config: &Config, stored: impl Fn(&str) -> bool) -> Result<Found> {
    let located = |error: Error| match error.get("file") {
        Some(_) => error,
        None => error.file(config.path()),
    };
    find_in(config, &stored).map_err(located)
}

fn find_in(config: &Config, stored: &impl Fn(&str) -> bool) -> Result<Found> {
    let model_type = config.model_type().unwrap_or("none");
    for (name, text) in FAMILIES {
        let json: Json = serde_json::from_str(text).map_err(|e| invalid(name, &e))?;
        let covers = json.get("model_types").and_then(Json::as_array);
        if !covers.is_some_and(|types| types.iter().any(|entry| entry == model_type)) {
            continue;
        }
        let family: Family = serde_json::from_str(text).map_err(|e| invalid(name, &e))?;
        let map = match &family.nested {
            None => &config.map,
            Some(key) => config.get(key).and_then(Json::as_object).ok_or_else(|| {
                Error::input("the config lacks the part that describes the language model").key(key)
            })?,
        };
        check_keys(&json, &family, map)?;
        let embedding =
            |prefix: &&String| stored(&format!("{prefix}{}.weight", family.embedding.tensor));
        let prefix = family.prefixes.iter().find(embedding).or(family.prefixes.first());
        let prefix = prefix.map_or("", String::as_str);
        let resolver = Resolver::new(&family, map, prefix);
        let tied = resolver.tied()?;
        let architecture = resolver.architecture()?;
        let Family { buffers, other_parts, .. } = family;
        return Ok(Found { family: name, architecture, tied, buffers, other_parts });
    }
    Err(Error::input("the evaluator does not know this family of models")
        .fact("missing", format!("a description of model_type `{model_type}`"))
        .fact("families", names().collect::<Vec<_>>().join(", ")))
}

fn invalid(name: &str, error: &serde_json::Error) -> Error {
    Error::internal("the description of an architecture is not valid")
        .fact("family", name)
        .fact("reason", error)
}

/// What is missing where a config has a key that its family's description does not know.
pub(crate) const MEANING: &str = "what the key means for the logits";

/// Refuses keys that could change the logits in a way the description does not know of.
fn check_keys(json: &Json, family: &Family, config: &Map<String, Json>) -> Result<()> {
    let mut known = BTreeSet::new();
    description::keys(json, &mut known);
    let neutral = |key: &str| {
        NEUTRAL.contains(&key)
            || known.contains(key)
            || family.ignored.iter().any(|ignored| ignored == key)
            || key.starts_with('_')
            || key.contains("dropout")
            || key.ends_with("_token_index")
            || key.starts_with("initializer")
    };
    let says = |value: &Json| match value {
        Json::Null | Json::Bool(false) => false,
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
        Json::String(text) => !text.is_empty(),
        _ => true,
    };
    let unknown: Vec<&str> = config
        .iter()
        .filter(|(key, value)| says(value) && !neutral(key))
        .map(|(key, _)| key.as_str())
        .collect();
    if unknown.is_empty() {
        return check_layer_types(config);
    }
    Err(Error::input("the config says what the evaluator does not know of this family of models")
        .key(list(unknown.iter().copied()))
        .fact("missing", MEANING)
        .hint(
            "if it does not change them, remove the key from a copy of the config, and report it",
        ))
}

/// Refuses layers of a kind that no description knows.
fn check_layer_types(config: &Map<String, Json>) -> Result<()> {
    let kinds = config.get("layer_types").and_then(Json::as_array).into_iter().flatten();
    let known =
        |kind: &&Json| matches!(kind.as_str(), Some("full_attention" | "sliding_attention"));
    match kinds.into_iter().find(|kind| !known(kind)) {
        None => Ok(()),
        Some(kind) => Err(Error::input("the evaluator does not know this kind of layer")
            .key("layer_types")
            .expected("full_attention or sliding_attention", kind)),
    }
}
