//! Does a mixture compute what its dense models do, but for the experts?

use super::Family;
use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::architectures::{
    self, Architecture, Attention, Dense, Layer, Linear, Mixer, Mlp,
};
use std::fmt::Debug;

/// What differs: the key that says it as a rule, and what it is in each model.
type Difference = (&'static str, String, String);

fn differs<T: PartialEq + Debug>(key: &'static str, dense: &T, mixed: &T) -> Option<Difference> {
    (dense != mixed).then(|| (key, format!("{dense:?}"), format!("{mixed:?}")))
}

/// The architecture of a config that was made of another family's, of a model whose tensors `stored` knows.
///
/// # Errors
/// The config says what its new family cannot express, by the key.
pub(crate) fn converted(config: &Config, stored: impl Fn(&str) -> bool) -> Result<Architecture> {
    let found = architectures::find(config, stored).map_err(|e| match e.get("key") {
        Some(key) if e.get("missing") == Some(architectures::MEANING) => {
            Error::input("models of this family cannot be what the config says")
                .key(key)
                .fact("family", config.model_type().unwrap_or("none"))
                .file(config.path())
                .hint("choose another `architecture`, or models that do without")
        }
        _ => e,
    });
    Ok(found?.architecture)
}

impl Family {
    /// Checks that everything but the MLPs is the same in a mixture and a dense model, and each expert
    /// what the dense MLP is; or only the shared one, if it is `shared` that matters.
    ///
    /// # Errors
    /// Something is not: the family cannot express it.
    pub(crate) fn expresses(
        &self,
        dense: &Architecture,
        mixed: &Architecture,
        shared: bool,
    ) -> Result<()> {
        let Some((key, dense, mixed)) = difference(dense, mixed, shared) else { return Ok(()) };
        Err(Error::input("a mixture of this family cannot be what its dense models are")
            .key(key)
            .fact("family", &self.name)
            .fact("dense model", dense)
            .fact("mixture", mixed)
            .hint("choose another `architecture`, or dense models that do without"))
    }
}

fn difference(dense: &Architecture, mixed: &Architecture, shared: bool) -> Option<Difference> {
    let ends = differs("hidden_size", &dense.hidden, &mixed.hidden)
        .or_else(|| differs("vocab_size", &dense.vocabulary, &mixed.vocabulary))
        // Where the dense config leaves it to the default, the mixture's spells that out.
        .or_else(|| {
            dense
                .context
                .and_then(|_| differs("max_position_embeddings", &dense.context, &mixed.context))
        })
        .or_else(|| differs("the embedding", &dense.embedding, &mixed.embedding))
        .or_else(|| differs("the head", &dense.head, &mixed.head))
        .or_else(|| differs("the last norm", &dense.final_norm, &mixed.final_norm))
        .or_else(|| differs("num_hidden_layers", &dense.layers.len(), &mixed.layers.len()));
    let layers = || dense.layers.iter().zip(&mixed.layers);
    ends.or_else(|| layers().find_map(|(dense, mixed)| of_layer(dense, mixed, shared)))
}

fn of_layer(dense: &Layer, mixed: &Layer, shared: bool) -> Option<Difference> {
    let norms = |layer: &Layer| {
        [
            &layer.attention_input,
            &layer.attention_output,
            &layer.attention_sum,
            &layer.mlp_input,
            &layer.mlp_output,
            &layer.mlp_sum,
        ]
        .map(Clone::clone)
    };
    let (Mixer::Attention(a), Mixer::Attention(b)) = (&dense.mixer, &mixed.mixer) else {
        return Some(("attention", "a state space".into(), "attention".into()));
    };
    differs("a norm", &norms(dense), &norms(mixed))
        .or_else(|| differs("parallel layers", &dense.parallel, &mixed.parallel))
        .or_else(|| differs("residual_multiplier", &dense.residual_scale, &mixed.residual_scale))
        .or_else(|| of_attention(a, b))
        .or_else(|| {
            let Some(Mlp::Dense(own)) = &dense.mlp else { return None };
            match &mixed.mlp {
                Some(Mlp::Dense(other)) => of_mlp(own, other),
                Some(Mlp::Experts(of)) if shared => {
                    of.shared.iter().find_map(|other| of_mlp(own, other))
                }
                Some(Mlp::Experts(of)) => of.experts.iter().find_map(|other| of_mlp(own, other)),
                None => None,
            }
        })
}

fn biases(linear: &Linear) -> Vec<bool> {
    linear.parts.iter().map(|part| part.bias.is_some()).collect()
}

fn of_attention(dense: &Attention, mixed: &Attention) -> Option<Difference> {
    let bias = |of: &Attention| (biases(&of.projections), biases(&of.output));
    let heads = |of: &Attention| (of.heads, of.kv_heads, of.head);
    let window = |of: &Attention| of.window;
    differs("attention_bias", &bias(dense), &bias(mixed))
        .or_else(|| differs("num_attention_heads", &heads(dense), &heads(mixed)))
        .or_else(|| differs("sliding_window", &window(dense), &window(mixed)))
        .or_else(|| differs("rope_parameters", &dense.rotary, &mixed.rotary))
        .or_else(|| differs("the attention", dense, mixed))
}

fn of_mlp(dense: &Dense, mixed: &Dense) -> Option<Difference> {
    let bias = |of: &Dense| (biases(&of.up), biases(&of.down));
    differs("mlp_bias", &bias(dense), &bias(mixed))
        .or_else(|| differs("hidden_act", &dense.activation, &mixed.activation))
        .or_else(|| differs("intermediate_size", &dense.width, &mixed.width))
        .or_else(|| differs("a gate of the MLP", &dense.gated, &mixed.gated))
}
