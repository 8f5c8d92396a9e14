//! What a decoder needs to know about one model: every size a number, every tensor a full name.

pub(crate) use super::description::NormKind;
pub(super) use super::description::Over;
pub(crate) use super::rotary::Rotary;
use crate::kernels::Activation;

/// One model, as its family's description and its config give it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Architecture {
    /// Width of the hidden states.
    pub(crate) hidden: usize,
    /// Rows of the head.
    pub(crate) vocabulary: usize,
    /// The longest sequence it was made for.
    pub(crate) context: Option<usize>,
    /// The longest sequence it can take at all, because positions are rows of a table.
    pub(crate) positions: Option<usize>,
    pub(crate) embedding: Embedding,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Option<Norm>,
    pub(crate) head: Head,
}

impl Architecture {
    /// How far each layer's attention reaches back, where it does not reach everything.
    pub(crate) fn windows(&self) -> Vec<Option<usize>> {
        let window = |layer: &Layer| match &layer.mixer {
            Mixer::Attention(attention) => attention.window,
            Mixer::StateSpace(_) => None,
        };
        self.layers.iter().map(window).collect()
    }
}

/// The embedding of tokens and learned positions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Embedding {
    pub(crate) tensor: String,
    pub(crate) width: usize,
    pub(crate) scale: f32,
    pub(crate) norm: Option<Norm>,
    pub(crate) positions: Option<Positions>,
    pub(crate) projection: Option<Linear>,
}

/// A table of learned positions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Positions {
    pub(crate) tensor: String,
    pub(crate) rows: usize,
    /// The row of position 0.
    pub(crate) offset: usize,
}

/// The projection from hidden states to logits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) tensor: String,
    /// Whether the tensor is the embedding's.
    pub(crate) bias: Option<String>,
    pub(crate) width: usize,
    pub(crate) scale: f32,
    pub(crate) soft_cap: Option<f32>,
    pub(crate) projection: Option<Linear>,
}

/// A norm over rows of `width` elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) eps: f64,
    /// Tensors whose elements stand for the weights one after the other; none for weights of 1.
    pub(crate) weights: Vec<String>,
    pub(crate) bias: Option<String>,
    /// What is added to the stored weights.
    pub(crate) offset: f32,
    /// Elements that are normalised together.
    pub(crate) width: usize,
    /// Rows of weights: 1, or the number of heads if each has its own.
    pub(crate) rows: usize,
}

/// `y = x·Wᵀ + b`, whose outputs may come from several tensors one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Linear {
    pub(crate) parts: Vec<LinearPart>,
    pub(crate) inputs: usize,
    /// Whether weights are stored as inputs × outputs.
    pub(crate) transposed: bool,
}

/// One tensor of a [`Linear`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearPart {
    pub(crate) weight: String,
    pub(crate) bias: Option<String>,
    pub(crate) outputs: usize,
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    /// Whether mixer and MLP read the same input and are added together.
    pub(crate) parallel: bool,
    pub(crate) residual_scale: f32,
    pub(crate) attention_input: Option<Norm>,
    pub(crate) attention_output: Option<Norm>,
    pub(crate) attention_sum: Option<Norm>,
    pub(crate) mlp_input: Option<Norm>,
    pub(crate) mlp_output: Option<Norm>,
    pub(crate) mlp_sum: Option<Norm>,
    pub(crate) mixer: Mixer,
    pub(crate) mlp: Option<Mlp>,
}

/// What mixes the positions of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mixer {
    Attention(Box<Attention>),
    StateSpace(Box<StateSpace>),
}

/// Attention with grouped queries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// Width of a head.
    pub(crate) head: usize,
    /// Queries, keys and values in one.
    pub(crate) projections: Linear,
    /// Whether each key-value head's queries, key and value stand together.
    pub(crate) grouped: bool,
    pub(crate) output: Linear,
    pub(crate) scale: f32,
    pub(crate) soft_cap: Option<f32>,
    pub(crate) window: Option<usize>,
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    pub(crate) clip: Option<f32>,
    pub(crate) rotary: Option<Rotary>,
    pub(crate) alibi: Option<Alibi>,
}

impl Attention {
    /// Where the query of head `h` begins in a row of projections.
    pub(crate) fn query(&self, h: usize) -> usize {
        let group = self.heads / self.kv_heads;
        if self.grouped { (h / group * (group + 2) + h % group) * self.head } else { h * self.head }
    }

    /// Where the key of key-value head `j` begins.
    pub(crate) fn key(&self, j: usize) -> usize {
        let group = self.heads / self.kv_heads;
        if self.grouped {
            (j * (group + 2) + group) * self.head
        } else {
            (self.heads + j) * self.head
        }
    }

    /// Where the value of key-value head `j` begins.
    pub(crate) fn value(&self, j: usize) -> usize {
        let stride = if self.grouped { 1 } else { self.kv_heads };
        self.key(j) + stride * self.head
    }
}

/// Biases that grow with the distance of a key (Press et al. 2022).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alibi {
    /// One a head, times what biases are multiplied by.
    pub(crate) slopes: Vec<f32>,
    /// See the description.
    pub(crate) rounded: Option<f32>,
}

/// What stands behind the mixer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mlp {
    Dense(Dense),
    Experts(Box<Experts>),
}

/// `down(act(gate(x)) · up(x))`, or `down(act(up(x)))` without a gate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dense {
    /// Gate and first half in one.
    pub(crate) up: Linear,
    pub(crate) gated: bool,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
    pub(crate) width: usize,
}

/// How a router's logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scores {
    Softmax,
    Sigmoid,
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Experts {
    pub(crate) router: Linear,
    pub(crate) choice_bias: Option<String>,
    pub(crate) experts: Vec<Dense>,
    /// How many experts a token goes to.
    pub(crate) chosen: usize,
    pub(crate) scores: Scores,
    pub(crate) normalise: bool,
    pub(crate) scale: f32,
    pub(crate) shared: Option<Dense>,
    /// One output, whose sigmoid weighs the shared experts.
    pub(crate) shared_gate: Option<Linear>,
}

/// A selective state space (Gu and Dao, *Mamba*, 2023).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StateSpace {
    pub(crate) inner: usize,
    pub(crate) state: usize,
    pub(crate) rank: usize,
    pub(crate) kernel: usize,
    pub(crate) activation: Activation,
    pub(crate) input: Linear,
    /// Weights of the convolution: inner × 1 × kernel.
    pub(crate) convolution: String,
    pub(crate) convolution_bias: Option<String>,
    pub(crate) parameters: Linear,
    pub(crate) step: Linear,
    /// Logarithm of minus the decay: inner × state.
    pub(crate) decay: String,
    pub(crate) skip: String,
    pub(crate) output: Linear,
}
