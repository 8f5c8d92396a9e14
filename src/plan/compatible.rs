//! Do the configs of the models say the same of how the weights are to be read?

use crate::error::{Error, Result};
use crate::model::{Checkpoint, Config, Place, Stacks, TensorSpec};
use crate::recipe::Recipe;

/// Keys that decide what a weight means, whatever its shape: models that differ in one cannot be
/// averaged. Spelled as the families' configs spell them.
const DECIDE: [&str; 24] = [
    "hidden_size",
    "n_embd",
    "d_model",
    "dim",
    "intermediate_size",
    "ffn_dim",
    "d_ff",
    "n_inner",
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "num_key_value_heads",
    "num_kv_heads",
    "head_dim",
    "d_kv",
    "kv_lora_rank",
    "q_lora_rank",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_intermediate_size",
    "state_size",
    "conv_kernel",
];

/// Keys that decide how the weights are used: models that differ in one can be averaged, but the
/// output is run as the config's model says.
const USED_AS: [&str; 5] =
    ["rope_theta", "hidden_act", "hidden_activation", "activation_function", "sliding_window"];

/// Where the keys of the rotary embedding stand since transformers 5.
const ROPE: &str = "rope_parameters";

/// Checks every model against the one whose config the output gets.
///
/// # Errors
/// Two configs differ in a key that decides what the weights mean; the first such key is named.
pub(super) fn check(recipe: &Recipe, models: &[Checkpoint], donor: usize) -> Result<()> {
    let lead = &models[donor];
    for model in models {
        if let Some(difference) = first_difference(&lead.config, &model.config) {
            return Err(error(recipe, lead, model, difference));
        }
    }
    Ok(())
}

/// A key of two configs, and its value in each.
type Difference = (String, String, String);

/// An error about a model, where the recipe names it.
pub(super) fn at(recipe: &Recipe, model: &Checkpoint, message: &str) -> Error {
    match recipe.references().into_iter().find(|at| at.value == model.reference) {
        Some(at) => recipe.error(at, message),
        None => Error::input(message).file(&recipe.file),
    }
}

/// The error about a key in which `model` differs from `lead`.
pub(super) fn error(
    recipe: &Recipe,
    lead: &Checkpoint,
    model: &Checkpoint,
    (key, own, other): Difference,
) -> Error {
    at(recipe, model, "the models' configs are incompatible")
        .key(&key)
        .fact("model", &model.reference)
        .expected(format!("{own} (as {})", lead.reference), other)
        .hint("models merge when they share an architecture; leave this model out")
}

/// The error about a head that `model` stores although `lead` ties its own to the embeddings.
pub(super) fn tied(recipe: &Recipe, lead: &Checkpoint, model: &Checkpoint, head: &str) -> Error {
    let difference = ("tie_word_embeddings".into(), "true".into(), "false".into());
    error(recipe, lead, model, difference)
        .tensor(head)
        .hint("name the untied model as base_model, so that the output keeps a head of its own")
}

/// The error about a tensor whose shapes differ, the lead's model and shape first.
pub(super) fn shapes(
    recipe: &Recipe,
    tensor: &str,
    [lead, model]: [&Checkpoint; 2],
    [own, other]: [&TensorSpec; 2],
) -> Error {
    let rows = own.shape.len() == other.shape.len() && own.shape.get(1..) == other.shape.get(1..);
    let vocabulary = rows && Stacks::place("", tensor) == Place::Before;
    if let Some(difference) = structure(lead, model).filter(|_| !vocabulary) {
        return error(recipe, lead, model, difference).tensor(tensor);
    }
    let named = recipe.references().into_iter().find(|at| at.value == model.reference);
    let error = at(recipe, model, "the models disagree on the shape of a tensor")
        .key(named.map_or_else(|| "models".to_string(), |named| recipe.key_of(named)))
        .tensor(tensor)
        .fact("model", &model.reference)
        .expected(format!("{:?}", own.shape), format!("{:?}", other.shape));
    error.hint(match vocabulary {
        true => "the vocabularies have different sizes; say whose the output has: `tokenizer_source: union`, `base` or a model",
        false => "models merge when they share an architecture: the same tensors, by name and shape",
    })
}

/// The model type or the layer count, where two models differ in it: what explains that one lacks
/// tensors of the other.
pub(super) fn structure(lead: &Checkpoint, model: &Checkpoint) -> Option<Difference> {
    let (own, other) = (lead.config.model_type()?, model.config.model_type()?);
    if own != other {
        return Some(("model_type".to_string(), own.to_string(), other.to_string()));
    }
    let counts = model.config.layer_counts();
    lead.config.layer_counts().into_iter().find_map(|(key, own)| {
        let (_, other) = counts.iter().find(|(found, other)| *found == key && *other != own)?;
        Some((key, own.to_string(), other.to_string()))
    })
}

/// Warnings about models whose weights are used in another way than the output's will be.
pub(super) fn differences(models: &[Checkpoint], donor: usize) -> Vec<String> {
    let lead = &models[donor];
    let mut warnings = Vec::new();
    for (model, key) in models.iter().flat_map(|model| USED_AS.map(|key| (model, key))) {
        if let (Some(own), Some(other)) = (used_as(&lead.config, key), used_as(&model.config, key))
            && own != other
        {
            warnings.push(format!(
                "{key} is {own} in {} and {other} in {}: the output is run with {own}",
                lead.reference, model.reference
            ));
        }
    }
    warnings
}

/// The first value of a key, at the top, in a part of the model, or with the rotary embedding's.
fn used_as<'a>(config: &'a Config, key: &str) -> Option<&'a serde_json::Value> {
    config.objects().find_map(|(_, object)| {
        let value = object.get(key).or_else(|| object.get(ROPE)?.get(key))?;
        (!value.is_null()).then_some(value)
    })
}

/// The first deciding key whose values differ, with both values.
fn first_difference(a: &Config, b: &Config) -> Option<Difference> {
    for (prefix, object) in a.objects() {
        let other = b.objects().find(|(found, _)| *found == prefix);
        let Some((_, other)) = other else { continue };
        for key in DECIDE {
            if let (Some(own), Some(found)) = (object.get(key), other.get(key))
                && own != found
                && !own.is_null()
                && !found.is_null()
            {
                return Some((format!("{prefix}{key}"), own.to_string(), found.to_string()));
            }
        }
    }
    None
}
