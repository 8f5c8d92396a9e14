//! Mixtures of experts: the recipes of mergekit-moe, and surgery on mixtures.

mod raw;
mod reader;

use super::{Layout, Located, Recipe};
use crate::error::Result;
use crate::model::GateMode;

pub(super) use raw::{RawDrop, RawExpert, RawExtract, RawMixture};
pub(super) use reader::layout;

/// Dense models that become the experts of a mixture, or join one.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// The routed experts.
    pub experts: Vec<Expert>,
    /// The shared experts, which every token goes through.
    pub shared: Vec<Expert>,
    /// Where the list of experts stands.
    pub at: Located<()>,
    /// Whether the recipe's base is a mixture that the experts join.
    pub joins: bool,
    /// `gate_mode`.
    pub gates: Located<GateMode>,
    /// A factor on the routers' rows.
    pub gate_scale: f64,
    /// What ridge regression adds to the diagonal, by the mean of the diagonal.
    pub ridge: f64,
    /// `experts_per_token`.
    pub chosen: Option<Located<usize>>,
    /// `architecture`: the family, or the beginning of its name.
    pub architecture: Option<Located<String>>,
    /// Whether everything besides the MLPs is the average of the experts'; else it is the base's.
    pub average: bool,
}

/// A dense model that becomes an expert.
#[derive(Clone, Debug)]
pub struct Expert {
    /// The model.
    pub model: Located<String>,
    /// Texts of the kind that is to be routed to it.
    pub positive: Vec<Texts>,
    /// Texts of the kind that is not.
    pub negative: Vec<Texts>,
    /// The standard deviation of noise on its weights.
    pub noise_scale: Option<f64>,
    /// A factor on what it gives.
    pub residual_scale: Option<f64>,
}

/// Texts for a gate.
#[derive(Clone, Debug, PartialEq)]
pub enum Texts {
    /// They stand in the recipe.
    Here(Vec<String>),
    /// They stand in a file: texts, or JSON objects with a `text`, one a line.
    File(Located<String>),
}

/// What is made of a mixture, the recipe's base.
#[derive(Clone, Debug)]
pub enum Surgery {
    /// A dense model.
    Extract {
        /// Which experts it is made of; their average if they are several.
        experts: Located<Take>,
        /// `architecture`: the dense family, where it is not the usual one.
        architecture: Option<Located<String>>,
    },
    /// A mixture of fewer experts.
    Drop {
        /// Which are left out.
        experts: Located<Dropped>,
        /// Whether rows of routers are scaled to the length that they had on average.
        renormalise: bool,
        /// `experts_per_token`.
        chosen: Option<Located<usize>>,
    },
}

/// Experts that a dense model is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// These routed ones.
    Numbers(Vec<usize>),
    /// All routed ones.
    All,
    /// The shared one.
    Shared,
}

/// Experts that are left out of a mixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The same of every layer.
    Numbers(Vec<usize>),
    /// Those of each layer that the fewest tokens were routed to.
    LeastRouted {
        /// How many.
        count: usize,
        /// The routing: a report of `cognate route`, or a lineage; the mixture's own if none.
        routing: Option<String>,
    },
}

impl Mixture {
    /// The experts, routed and shared, each with its key.
    pub(super) fn entries(&self) -> impl Iterator<Item = (String, &Expert)> {
        let routed = self.experts.iter().enumerate();
        let shared = self.shared.iter().enumerate();
        let routed = routed.map(|(i, expert)| (format!("experts[{i}]"), expert));
        routed.chain(shared.map(|(i, expert)| (format!("shared_experts[{i}]"), expert)))
    }
}

impl Mixture {
    /// Checks that no two experts have the same texts, positive and negative, in whatever order; nor an expert
    /// the same texts as both.
    ///
    /// # Errors
    /// The gates could not tell them apart, or have no direction.
    pub(crate) fn distinct(&self, mut texts: Vec<[Vec<String>; 2]>) -> Result<()> {
        texts.iter_mut().flatten().for_each(|texts| texts.sort_unstable());
        for (i, [positive, negative]) in texts.iter().enumerate() {
            let model = &self.experts[i].model;
            if positive == negative {
                return Err(model
                    .error("an expert's positive and negative prompts are identical")
                    .key(format!("experts[{i}].negative_prompts"))
                    .hint("name what is not to be routed to it, or remove the key"));
            }
            let before = texts[..i].iter();
            if let Some(other) = before.clone().position(|[p, n]| (p, n) == (positive, negative)) {
                return Err(model
                    .error(
                        "two experts have identical prompts, so that no gate can tell them apart",
                    )
                    .key(format!("experts[{i}].positive_prompts"))
                    .fact("as", format!("experts[{other}].positive_prompts"))
                    .hint("give each expert texts of what is to be routed to it"));
            }
        }
        Ok(())
    }
}

impl Recipe {
    /// The mixture that is made, or that experts join.
    pub(crate) fn mixture(&self) -> Option<&Mixture> {
        match &self.layout {
            Layout::Mixture(mixture) => Some(mixture),
            _ => None,
        }
    }
}
