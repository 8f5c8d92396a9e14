//! What an architecture's JSON file says. A leaf is a constant, or an [`Expression`] over the config.

mod layer;

pub(crate) use layer::{
    AttentionSection, ExpertsSection, LayerSection, MlpSection, Projections, StateSpaceSection,
};

use super::expression::{Expression, Value};
use crate::error::Result;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;

/// A constant (a number, true, false, null), or a string that holds an expression.
#[derive(Clone, Debug)]
pub(crate) struct Leaf(pub(super) Expression);

impl Leaf {
    fn of(json: &Json) -> Result<Self> {
        match json {
            Json::String(text) => Expression::parse(text).map(Self),
            other => Ok(Self(Expression::Constant(Value::of(Some(other))))),
        }
    }
}

impl<'de> Deserialize<'de> for Leaf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        Self::of(&json).map_err(serde::de::Error::custom)
    }
}

/// Names and what they stand for, in order: later ones may use earlier ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Definitions(pub(super) Vec<(String, Leaf)>);

impl<'de> Deserialize<'de> for Definitions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(deserializer)?;
        let leaf = |(name, json): (String, Json)| Ok((name, Leaf::of(&json)?));
        let leaves: Result<Vec<_>> = map.into_iter().map(leaf).collect();
        leaves.map(Self).map_err(serde::de::Error::custom)
    }
}

/// A family of models.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Family {
    /// The `model_type`s it covers; looked at before the rest is read.
    pub(super) model_types: Vec<String>,
    /// The object of the config that describes the model, in composed models.
    #[serde(default)]
    pub(super) nested: Option<String>,
    /// What tensor names begin with: the first under which the embedding is stored.
    pub(super) prefixes: Vec<String>,
    /// Named values: `hidden`, `layers`, `vocabulary`, `context` and others of its own.
    pub(super) define: Definitions,
    /// Named values that may differ from layer to layer; `$layer` is the layer's number.
    #[serde(default)]
    pub(super) define_layer: Definitions,
    /// Conditions that the config must meet, with what is missing where it does not.
    #[serde(default)]
    pub(super) refuse: Vec<Refusal>,
    /// Keys of the config that do not change the logits of this family.
    #[serde(default)]
    pub(super) ignored: Vec<String>,
    /// Ends of the names of tensors that are stored and not needed.
    #[serde(default)]
    pub(super) buffers: Vec<String>,
    /// Beginnings of the names of tensors that belong to other parts of a composed model.
    #[serde(default)]
    pub(super) other_parts: Vec<String>,
    /// What the norms of this family are like.
    pub(super) norm: NormStyle,
    pub(super) embedding: EmbeddingSection,
    #[serde(default)]
    pub(super) rotary: Option<RotarySection>,
    #[serde(default)]
    pub(super) alibi: Option<AlibiSection>,
    pub(super) layer: LayerSection,
    #[serde(default)]
    pub(super) final_norm: Places,
    pub(super) head: HeadSection,
}

/// Something the family's models may say that the decoder cannot do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    pub(super) when: Leaf,
    pub(super) key: String,
    pub(super) missing: String,
}

/// Which norm.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NormKind {
    /// By the root of the mean square.
    Rms,
    /// By mean and variance.
    Layer,
}

/// What norms are like, unless a place says otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NormStyle {
    pub(super) kind: NormKind,
    pub(super) eps: Leaf,
    #[serde(default)]
    pub(super) weight: Option<Leaf>,
    #[serde(default)]
    pub(super) bias: Option<Leaf>,
    /// What is added to the stored weight.
    #[serde(default)]
    pub(super) offset: f32,
}

/// Where a norm stands: the first place whose condition holds; no norm if there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(pub(super) Vec<NormPlace>);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NormPlace {
    /// The tensor's name without `.weight`.
    pub(super) tensor: String,
    #[serde(default)]
    pub(super) when: Option<Leaf>,
    #[serde(default)]
    pub(super) style: Option<NormStyle>,
    /// What one norm goes over; only for those of queries and keys.
    #[serde(default)]
    pub(super) over: Over,
}

/// What the norm of queries or keys goes over.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Over {
    /// Each head by itself, with the same weights.
    #[default]
    Head,
    /// Each head by itself, with weights of its own: one tensor of heads × width, or (with
    /// `{head}` in the name) one tensor a head.
    Heads,
    /// All heads as one row.
    All,
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        #[allow(clippy::large_enum_variant)] // read once, and taken apart at once
        enum Form {
            Name(String),
            One(NormPlace),
            Several(Vec<NormPlace>),
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::Name(tensor) => {
                vec![NormPlace { tensor, when: None, style: None, over: Over::Head }]
            }
            Form::One(place) => vec![place],
            Form::Several(places) => places,
        }))
    }
}

/// The embedding of tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingSection {
    pub(super) tensor: String,
    /// Its width, if not the hidden one.
    #[serde(default)]
    pub(super) width: Option<Leaf>,
    #[serde(default)]
    pub(super) scale: Option<Leaf>,
    #[serde(default)]
    pub(super) norm: Places,
    #[serde(default)]
    pub(super) positions: Option<PositionsSection>,
    /// From the embedding's width to the hidden one, where they differ.
    #[serde(default)]
    pub(super) projection: Option<String>,
}

/// Learned positions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PositionsSection {
    pub(super) tensor: String,
    #[serde(default)]
    pub(super) when: Option<Leaf>,
    /// How many positions the table holds.
    pub(super) count: Leaf,
    /// The row of position 0.
    #[serde(default)]
    pub(super) offset: usize,
}

/// Rotary positions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotarySection {
    #[serde(default)]
    pub(super) when: Option<Leaf>,
    pub(super) theta: Leaf,
    /// How many elements of a head are rotated.
    pub(super) dims: Leaf,
    /// Whether element 2i goes with 2i+1, and not i with i + dims/2.
    #[serde(default)]
    pub(super) interleaved: bool,
    /// The object with `rope_type`.
    pub(super) scaling: Leaf,
}

/// Attention with linear biases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlibiSection {
    #[serde(default)]
    pub(super) when: Option<Leaf>,
    /// The exponent of the last head's slope is minus this.
    #[serde(default)]
    pub(super) greatest: Option<Leaf>,
    /// What the biases are multiplied by.
    #[serde(default)]
    pub(super) scale: Option<Leaf>,
    /// Whether slopes and biases are rounded to bfloat16, with biases counted from position 0.
    #[serde(default)]
    pub(super) rounded: bool,
}

/// The head.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadSection {
    /// The tensor's full name, with `.weight`.
    pub(super) tensor: String,
    #[serde(default)]
    pub(super) bias: Option<Leaf>,
    pub(super) tied: Leaf,
    #[serde(default)]
    pub(super) scale: Option<Leaf>,
    #[serde(default)]
    pub(super) soft_cap: Option<Leaf>,
    /// From the hidden width to the embedding's, where they differ.
    #[serde(default)]
    pub(super) projection: Option<String>,
}

/// Fields that hold names of tensors and the like where others hold expressions.
const NAMES: [&str; 31] = [
    "model_types",
    "nested",
    "prefixes",
    "ignored",
    "buffers",
    "other_parts",
    "key",
    "missing",
    "kind",
    "over",
    "tensor",
    "projection",
    "prefix",
    "projections",
    "output",
    "input",
    "gate",
    "up",
    "down",
    "router",
    "choice_bias",
    "convolution",
    "parameters",
    "decay",
    "skip",
    "attention_input",
    "attention_output",
    "attention_sum",
    "mlp_input",
    "mlp_output",
    "mlp_sum",
];

/// The keys of the config that any expression of a description looks at: found in its JSON, so that
/// no section can be forgotten.
pub(crate) fn keys(description: &Json, found: &mut BTreeSet<String>) {
    match description {
        Json::String(text) => {
            if let Ok(expression) = Expression::parse(text) {
                expression.keys(found);
            }
        }
        Json::Array(list) => list.iter().for_each(|entry| keys(entry, found)),
        Json::Object(map) => {
            let holds_name = |name: &str| {
                NAMES.contains(&name) || name == "step" || name == "norm" || name.ends_with("_norm")
            };
            let expressions = |(name, value): &(&String, &Json)| {
                !(holds_name(name) && (value.is_string() || value.is_array()))
                    || (value.is_array() && value.get(0).is_some_and(Json::is_object))
            };
            map.iter().filter(expressions).for_each(|(_, value)| keys(value, found));
        }
        _ => {}
    }
}
