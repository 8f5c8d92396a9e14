//! The sections that describe a layer.

use super::{Leaf, Places};
use serde::Deserialize;

/// One layer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerSection {
    /// What the names of its tensors begin with, behind the model's prefix.
    pub(in super::super) prefix: String,
    /// Whether attention and MLP read the same input and are added together.
    #[serde(default)]
    pub(in super::super) parallel: Option<Leaf>,
    /// What attention and MLP are multiplied by before they are added.
    #[serde(default)]
    pub(in super::super) residual_scale: Option<Leaf>,
    #[serde(default)]
    pub(in super::super) norms: LayerNorms,
    #[serde(default)]
    pub(in super::super) attention: Option<AttentionSection>,
    #[serde(default)]
    pub(in super::super) state_space: Option<StateSpaceSection>,
    #[serde(default)]
    pub(in super::super) mlp: Option<MlpSection>,
    #[serde(default)]
    pub(in super::super) experts: Option<ExpertsSection>,
}

/// The norms of a layer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LayerNorms {
    /// Of what attention reads; of what both read in a parallel layer without `mlp_input`.
    pub(in super::super) attention_input: Places,
    /// Of what attention gives, before it is added.
    pub(in super::super) attention_output: Places,
    /// Of the sum behind attention.
    pub(in super::super) attention_sum: Places,
    pub(in super::super) mlp_input: Places,
    pub(in super::super) mlp_output: Places,
    pub(in super::super) mlp_sum: Places,
}

/// How queries, keys and values are stored.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(crate) enum Projections {
    /// Three tensors: of queries, keys and values.
    Separate([String; 3]),
    /// One tensor: all queries, all keys, all values.
    Concatenated(String),
    /// One tensor: for each key-value head its queries, its key, its value.
    Grouped(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttentionSection {
    pub(in super::super) projections: Projections,
    #[serde(default)]
    pub(in super::super) bias: Option<Leaf>,
    pub(in super::super) output: String,
    #[serde(default)]
    pub(in super::super) output_bias: Option<Leaf>,
    /// Whether weights are stored as inputs × outputs.
    #[serde(default)]
    pub(in super::super) transposed: bool,
    /// What products of queries and keys are multiplied by; 1/√head if it does not say.
    #[serde(default)]
    pub(in super::super) scale: Option<Leaf>,
    #[serde(default)]
    pub(in super::super) soft_cap: Option<Leaf>,
    /// How many positions, its own included, a query sees; all before it if absent.
    #[serde(default)]
    pub(in super::super) window: Option<Leaf>,
    #[serde(default)]
    pub(in super::super) query_norm: Places,
    #[serde(default)]
    pub(in super::super) key_norm: Places,
    /// Queries, keys and values are limited to this magnitude.
    #[serde(default)]
    pub(in super::super) clip: Option<Leaf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MlpSection {
    /// The gate's tensor, where there is one of its own.
    #[serde(default)]
    pub(in super::super) gate: Option<String>,
    /// The tensor of the first half; of gate and first half, where `fused`.
    pub(in super::super) up: String,
    #[serde(default)]
    pub(in super::super) fused: bool,
    pub(in super::super) down: String,
    /// The name of the function as configs spell it.
    pub(in super::super) activation: Leaf,
    #[serde(default)]
    pub(in super::super) bias: Option<Leaf>,
    pub(in super::super) width: Leaf,
    #[serde(default)]
    pub(in super::super) transposed: bool,
}

/// A mixture of experts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpertsSection {
    /// Which layers have one in place of the MLP.
    #[serde(default)]
    pub(in super::super) when: Option<Leaf>,
    pub(in super::super) router: String,
    /// A tensor added to the scores where experts are chosen, not where they are weighed.
    #[serde(default)]
    pub(in super::super) choice_bias: Option<String>,
    pub(in super::super) count: Leaf,
    pub(in super::super) chosen: Leaf,
    /// `softmax` or `sigmoid`.
    pub(in super::super) scores: Leaf,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub(in super::super) normalise: Leaf,
    #[serde(default)]
    pub(in super::super) scale: Option<Leaf>,
    /// Names with `{expert}`.
    pub(in super::super) expert: MlpSection,
    #[serde(default)]
    pub(in super::super) shared: Option<SharedSection>,
}

/// Experts that see every token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedSection {
    #[serde(default)]
    pub(in super::super) when: Option<Leaf>,
    pub(in super::super) mlp: MlpSection,
    /// Its output is multiplied by the sigmoid of this projection.
    #[serde(default)]
    pub(in super::super) gate: Option<String>,
}

/// A selective state space (Mamba).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateSpaceSection {
    /// The width inside.
    pub(in super::super) inner: Leaf,
    /// Elements of the state for each channel.
    pub(in super::super) state: Leaf,
    /// The rank of the step's projection.
    pub(in super::super) rank: Leaf,
    /// How many positions the convolution sees.
    pub(in super::super) kernel: Leaf,
    pub(in super::super) bias: Leaf,
    pub(in super::super) convolution_bias: Leaf,
    pub(in super::super) activation: Leaf,
    pub(in super::super) input: String,
    pub(in super::super) convolution: String,
    pub(in super::super) parameters: String,
    pub(in super::super) step: String,
    pub(in super::super) decay: String,
    pub(in super::super) skip: String,
    pub(in super::super) output: String,
}
