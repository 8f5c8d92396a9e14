//! Do the configs of the models say the same of how the weights are to be read?

use crate::error::{Error, Result};
use crate::model::{Checkpoint, Config};
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

/// Checks every model against the one whose config the output gets.
///
/// # Errors
/// Two configs differ in a key that decides what the weights mean; the first such key is named.
pub(super) fn check(recipe: &Recipe, models: &[Checkpoint], donor: usize) -> Result<()> {
    let lead = &models[donor];
    for model in models {
        let Some((key, own, other)) = first_difference(&lead.config, &model.config) else {
            continue;
        };
        let at = recipe.references().into_iter().find(|at| at.value == model.reference);
        let error = match at {
            Some(at) => recipe.error(at, "the models' configs are incompatible"),
            None => Error::input("the models' configs are incompatible").file(&recipe.file),
        };
        return Err(error
            .key(&key)
            .fact("model", &model.reference)
            .expected(format!("{own} (as {})", lead.reference), other)
            .hint("models merge when they share an architecture"));
    }
    Ok(())
}

/// The first deciding key whose values differ, with both values.
fn first_difference(a: &Config, b: &Config) -> Option<(String, String, String)> {
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
