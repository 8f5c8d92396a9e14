//! Does a mixture compute what its dense models do, but for the experts?

use super::Family;
use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::architectures::{
    self, Architecture, Attention, Dense, Layer, Linear, Mixer, Mlp,
};

/// What differs: the key that says it as a rule, and what it is in the dense model and the mixture, where
/// a few words can say that.
struct Difference {
    key: &'static str,
    found: Option<(String, String)>,
}

/// A difference of values that have words.
fn differs<T: PartialEq>(
    key: &'static str,
    dense: &T,
    mixed: &T,
    words: impl Fn(&T) -> String,
) -> Option<Difference> {
    let found = || Some((words(dense), words(mixed)));
    (dense != mixed).then(|| Difference { key, found: found() })
}

fn numbers(key: &'static str, dense: usize, mixed: usize) -> Option<Difference> {
    differs(key, &dense, &mixed, usize::to_string)
}

fn maybe(key: &'static str, dense: Option<usize>, mixed: Option<usize>) -> Option<Difference> {
    let words = |number: &Option<usize>| number.map_or("none".into(), |number| number.to_string());
    differs(key, &dense, &mixed, words)
}

fn flags(key: &'static str, dense: bool, mixed: bool) -> Option<Difference> {
    differs(key, &dense, &mixed, |flag| if *flag { "yes" } else { "no" }.to_string())
}

/// A difference of what takes more than a few words.
fn unlike<T: PartialEq>(key: &'static str, dense: &T, mixed: &T) -> Option<Difference> {
    (dense != mixed).then_some(Difference { key, found: None })
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
    /// Something is not: the family cannot express it. The message leaves it to the caller to name the
    /// dense model.
    pub(crate) fn expresses(
        &self,
        dense: &Architecture,
        mixed: &Architecture,
        shared: bool,
    ) -> Result<()> {
        let Some(Difference { key, found }) = difference(dense, mixed, shared) else {
            return Ok(());
        };
        let error =
            Error::input("a mixture of this family and a dense model differ in more than experts")
                .key(key)
                .fact("family", &self.name);
        Err(match found {
            Some((dense, mixed)) => error.fact("dense", dense).fact("mixture", mixed),
            None => error,
        }
        .hint("choose another `architecture`, or dense models that do without"))
    }
}

fn difference(dense: &Architecture, mixed: &Architecture, shared: bool) -> Option<Difference> {
    let ends = numbers("hidden_size", dense.hidden, mixed.hidden)
        .or_else(|| numbers("vocab_size", dense.vocabulary, mixed.vocabulary))
        // Where the dense config leaves it to the default, the mixture's spells that out.
        .or_else(|| {
            dense
                .context
                .and_then(|_| maybe("max_position_embeddings", dense.context, mixed.context))
        })
        .or_else(|| unlike("the embedding", &dense.embedding, &mixed.embedding))
        .or_else(|| unlike("the head", &dense.head, &mixed.head))
        .or_else(|| unlike("the last norm", &dense.final_norm, &mixed.final_norm))
        .or_else(|| numbers("num_hidden_layers", dense.layers.len(), mixed.layers.len()));
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
        return Some(Difference {
            key: "attention",
            found: Some(("a state space".into(), "attention".into())),
        });
    };
    unlike("a norm", &norms(dense), &norms(mixed))
        .or_else(|| flags("parallel layers", dense.parallel, mixed.parallel))
        .or_else(|| unlike("residual_multiplier", &dense.residual_scale, &mixed.residual_scale))
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

/// Which of several linear maps have a bias, by what they make.
fn with_bias(names: &'static [&'static str]) -> impl Fn(&Vec<bool>) -> String {
    move |flags| {
        // A projection of one part makes all that others make in several.
        let all = [*names.first().unwrap_or(&"")];
        let names = if flags.len() == names.len() { names } else { &all[..] };
        let biased = names.iter().zip(flags).filter(|(_, flag)| **flag).map(|(name, _)| *name);
        let biased: Vec<&str> = biased.collect();
        if biased.is_empty() { "none".to_string() } else { biased.join(", ") }
    }
}

fn of_attention(dense: &Attention, mixed: &Attention) -> Option<Difference> {
    let of_both = |of: &Attention| [biases(&of.projections), biases(&of.output)].concat();
    let heads = |of: &Attention| (of.heads, of.kv_heads, of.head);
    differs(
        "attention_bias",
        &of_both(dense),
        &of_both(mixed),
        with_bias(&["query", "key", "value", "output"]),
    )
    .or_else(|| {
        let same = (dense.heads, dense.kv_heads) == (mixed.heads, mixed.kv_heads);
        let width = || numbers("head_dim", dense.head, mixed.head);
        same.then(width).flatten()
    })
    .or_else(|| {
        differs("num_attention_heads", &heads(dense), &heads(mixed), |(heads, of_keys, width)| {
            format!("{heads}, {of_keys} of keys, {width} wide")
        })
    })
    .or_else(|| maybe("sliding_window", dense.window, mixed.window))
    .or_else(|| unlike("rope_parameters", &dense.rotary, &mixed.rotary))
    .or_else(|| unlike("the attention", dense, mixed))
}

fn of_mlp(dense: &Dense, mixed: &Dense) -> Option<Difference> {
    let bias = |of: &Dense| [biases(&of.up), biases(&of.down)].concat();
    differs("mlp_bias", &bias(dense), &bias(mixed), with_bias(&["gate", "up", "down"]))
        .or_else(|| {
            differs("hidden_act", &dense.activation, &mixed.activation, |of| {
                format!("{of:?}").to_lowercase()
            })
        })
        .or_else(|| numbers("intermediate_size", dense.width, mixed.width))
        .or_else(|| flags("a gate of the MLP", dense.gated, mixed.gated))
}
