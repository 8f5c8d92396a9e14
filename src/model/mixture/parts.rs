//! The tensors of MLPs and mixtures, by what they are for.

use crate::error::{Error, Result};
use crate::model::architectures::{Architecture, Dense, Experts, Linear, Mlp};

/// One tensor of an MLP or of an expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MlpTensor {
    /// Its name.
    pub(crate) name: String,
    /// Whether it belongs to the map whose outputs are added to the hidden states.
    pub(crate) residual: bool,
}

/// The tensors of a dense MLP, those of its first maps before those of the last. The same place stands
/// for the same thing in a dense model and in an expert.
pub(crate) type DenseParts = Vec<MlpTensor>;

/// The tensors of one layer's mixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MixtureLayer {
    /// The layer's number.
    pub(crate) number: usize,
    /// The router: experts × hidden.
    pub(crate) router: String,
    /// The biases of the router's choice, one an expert.
    pub(crate) choice_bias: Option<String>,
    /// The routed experts.
    pub(crate) experts: Vec<DenseParts>,
    /// The shared experts, which are stored as one.
    pub(crate) shared: Option<DenseParts>,
    /// The gate of the shared experts: 1 × hidden.
    pub(crate) shared_gate: Option<String>,
}

/// The mixtures of a model, layer by layer; a layer may have an MLP instead.
#[derive(Clone, Debug)]
pub(crate) struct MixtureParts {
    /// The layers that have one.
    pub(crate) layers: Vec<MixtureLayer>,
    /// Experts that a token goes to.
    pub(crate) chosen: usize,
}

fn tensors(of: &Dense) -> DenseParts {
    let names = |linear: &Linear, residual: bool| {
        let parts =
            linear.parts.iter().flat_map(|part| std::iter::once(&part.weight).chain(&part.bias));
        parts.map(|name| MlpTensor { name: name.clone(), residual }).collect::<Vec<_>>()
    };
    [names(&of.up, false), names(&of.down, true)].concat()
}

fn of_experts(number: usize, of: &Experts) -> MixtureLayer {
    let first = |linear: &Linear| linear.parts.first().map(|part| part.weight.clone());
    MixtureLayer {
        number,
        router: first(&of.router).unwrap_or_default(),
        choice_bias: of.choice_bias.clone(),
        experts: of.experts.iter().map(tensors).collect(),
        shared: of.shared.as_ref().map(tensors),
        shared_gate: of.shared_gate.as_ref().and_then(first),
    }
}

/// The tensors of the MLPs of a dense model, layer by layer.
///
/// # Errors
/// A layer has none, or a mixture.
pub(crate) fn dense(architecture: &Architecture) -> Result<Vec<DenseParts>> {
    let layers = architecture.layers.iter().enumerate();
    let of = layers.map(|(number, layer)| match &layer.mlp {
        Some(Mlp::Dense(of)) => Ok(tensors(of)),
        _ => Err(Error::input("an expert is not a dense model").fact("layer", number)),
    });
    of.collect()
}

impl MixtureParts {
    /// The mixtures of a model.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn of(architecture: &Architecture) -> Result<Self> {
        let layers = architecture.layers.iter().enumerate();
        let mixed = layers.filter_map(|(number, layer)| match &layer.mlp {
            Some(Mlp::Experts(of)) => Some((number, of)),
            _ => None,
        });
        let mixed: Vec<_> = mixed.collect();
        let Some((_, first)) = mixed.first() else {
            return Err(Error::input("the model has no mixture of experts"));
        };
        Ok(Self {
            chosen: first.chosen,
            layers: mixed.iter().map(|(number, of)| of_experts(*number, of)).collect(),
        })
    }

    /// How many experts a router chooses from.
    pub(crate) fn experts(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.experts.len())
    }
}
