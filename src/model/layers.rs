//! Which layer a tensor belongs to, read from its name.
//!
//! Every decoder family numbers its layers as `CONTAINER.N.rest` (`model.layers.0…`,
//! `transformer.h.0…`, `gpt_neox.layers.0…`, `encoder.layer.0…`). The first number of a name is the
//! layer; later numbers are experts or the like.

use super::config::Config;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// A tensor name split at its layer number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerName<'a> {
    /// The container before the number, without the dot (`model.layers`).
    pub stack: &'a str,
    /// The layer's number.
    pub layer: usize,
    /// What follows the number, with the dot (`.mlp.up_proj.weight`).
    pub rest: &'a str,
}

impl LayerName<'_> {
    /// The same tensor in another layer.
    pub fn renumbered(&self, layer: usize) -> String {
        format!("{}.{layer}{}", self.stack, self.rest)
    }
}

/// Splits a name at its first number, if it has one with a name before and after it.
pub fn split_layer(name: &str) -> Option<LayerName<'_>> {
    let mut start = 0;
    for part in name.split('.') {
        let end = start + part.len();
        let number =
            !part.is_empty() && part.len() <= 6 && part.bytes().all(|b| b.is_ascii_digit());
        if number && start > 0 && end < name.len() {
            return Some(LayerName {
                stack: &name[..start - 1],
                layer: part.parse().ok()?,
                rest: &name[end..],
            });
        }
        start = end + 1;
    }
    None
}

/// Parts of names that mark a tensor as standing before the layers. Everything else outside the
/// layers (final norm, head, pooler) stands behind them.
const BEFORE_LAYERS: [&str; 12] = [
    "embed_tokens",
    "embed_in.",
    "embed_positions",
    "wte.",
    "wpe.",
    "word_embeddings",
    "tok_embeddings",
    "position_embedding",
    "token_type_embeddings",
    "embeddings.",
    "project_in",
    "shared.weight",
];

/// Where a tensor stands relative to a stack of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the layers: embeddings.
    Before,
    /// In this layer of the stack.
    Layer(usize),
    /// Behind the layers: final norm, head, and whatever else has no layer number.
    Behind,
}

/// The stacks of layers of a model: container name → number of layers.
#[derive(Clone, Debug, Default)]
pub struct Stacks {
    stacks: BTreeMap<String, usize>,
}

impl Stacks {
    /// Finds the stacks among tensor names. A container counts if its numbers run from 0 without a
    /// hole, and, where the config declares layer counts, if one of them is its length.
    pub fn find<'a>(names: impl IntoIterator<Item = &'a str>, config: &Config) -> Self {
        let mut layers: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for name in names {
            if let Some(split) = split_layer(name) {
                layers.entry(split.stack).or_default().insert(split.layer);
            }
        }
        let counts: BTreeSet<usize> = config.layer_counts().iter().map(|(_, n)| *n).collect();
        let stacks = layers
            .into_iter()
            .filter(|(_, set)| set.last() == Some(&(set.len() - 1)))
            .filter(|(_, set)| counts.is_empty() || counts.contains(&set.len()))
            .map(|(stack, set)| (stack.to_string(), set.len()))
            .collect();
        Self { stacks }
    }

    /// The gradient position of a tensor: 0 at the first layer of its stack, 1 at the last, 1 in a
    /// stack of one layer, 0 outside the layers (mergekit's convention).
    pub fn position(&self, name: &str) -> f64 {
        split_layer(name)
            .and_then(|split| Some((split.layer, *self.stacks.get(split.stack)?)))
            .map_or(0.0, |(layer, count)| gradient_position(layer, count))
    }

    /// Whether there is any layer.
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    /// The one stack that layer ranges speak of, with its number of layers.
    ///
    /// # Errors
    /// The model has no numbered layers, or several stacks.
    pub fn single(&self) -> Result<(&str, usize)> {
        self.single_of(|_| true)
    }

    /// The one stack among those that `belongs` takes by their names.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn single_of(&self, belongs: impl Fn(&str) -> bool) -> Result<(&str, usize)> {
        let mut stacks = self.stacks.iter().filter(|(stack, _)| belongs(stack));
        match (stacks.next(), stacks.next()) {
            (Some((stack, count)), None) => Ok((stack, *count)),
            (None, _) => Err(Error::input(
                "layer ranges need numbered layers whose count the config declares",
            )),
            (Some(_), Some(_)) => {
                let names = self.stacks.keys().map(String::as_str).collect::<Vec<_>>();
                Err(Error::input(
                    "layer ranges are ambiguous: the model has several stacks of layers",
                )
                .fact("stacks", names.join(", "))
                .hint("merge the whole model with `models:` instead of `slices:`"))
            }
        }
    }

    /// Where a tensor stands relative to the stack `stack`.
    pub fn place(stack: &str, name: &str) -> Place {
        match split_layer(name) {
            Some(split) if split.stack == stack => Place::Layer(split.layer),
            _ if BEFORE_LAYERS.iter().any(|part| name.contains(part)) => Place::Before,
            _ => Place::Behind,
        }
    }
}

/// The gradient position of layer `index` among `count` layers of a slice.
pub(crate) fn gradient_position(index: usize, count: usize) -> f64 {
    if count > 1 { index as f64 / (count - 1) as f64 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_numberings_are_split() {
        for (name, stack, layer, rest) in [
            ("model.layers.11.mlp.up_proj.weight", "model.layers", 11, ".mlp.up_proj.weight"),
            ("transformer.h.0.attn.c_attn.bias", "transformer.h", 0, ".attn.c_attn.bias"),
            ("h.3.ln_1.weight", "h", 3, ".ln_1.weight"),
            (
                "gpt_neox.layers.5.attention.dense.bias",
                "gpt_neox.layers",
                5,
                ".attention.dense.bias",
            ),
            ("transformer.blocks.7.norm_1.weight", "transformer.blocks", 7, ".norm_1.weight"),
            ("model.decoder.layers.2.fc1.weight", "model.decoder.layers", 2, ".fc1.weight"),
            ("backbone.layers.1.mixer.A_log", "backbone.layers", 1, ".mixer.A_log"),
            ("encoder.layer.9.output.dense.bias", "encoder.layer", 9, ".output.dense.bias"),
            (
                "model.layers.2.block_sparse_moe.experts.7.w1.weight",
                "model.layers",
                2,
                ".block_sparse_moe.experts.7.w1.weight",
            ),
        ] {
            assert_eq!(split_layer(name), Some(LayerName { stack, layer, rest }));
        }
        for name in ["lm_head.weight", "model.norm.weight", "0.weight", "classifier.3", "a.b"] {
            assert_eq!(split_layer(name), None, "{name}");
        }
    }

    #[test]
    fn places_outside_the_layers() {
        let place = |name| Stacks::place("model.layers", name);
        assert_eq!(place("model.embed_tokens.weight"), Place::Before);
        assert_eq!(place("transformer.wte.weight"), Place::Before);
        assert_eq!(place("gpt_neox.embed_in.weight"), Place::Before);
        assert_eq!(place("embed_out.weight"), Place::Behind);
        assert_eq!(place("lm_head.weight"), Place::Behind);
        assert_eq!(place("model.norm.weight"), Place::Behind);
        assert_eq!(place("model.layers.4.mlp.weight"), Place::Layer(4));
    }

    #[test]
    fn gradients_end_at_one() {
        assert_eq!(gradient_position(0, 4), 0.0);
        assert_eq!(gradient_position(3, 4), 1.0);
        assert_eq!(gradient_position(0, 1), 1.0);
    }
}
