//! Families of sparse mixtures that dense models can be put together into, and taken apart again;
//! `families.json` is the table of what their configs say.
//!
//! Which tensors there are follows from the descriptions in `model/architectures/`: a dense model's
//! linear maps and an expert's are the same, one by one. What the mixture's description does not know of
//! the dense model's config, or understands in another way, is found by comparing both.
//!
//! Keys and their defaults: the `configuration_*.py` of transformers 5.23, and
//! `configuration_deepseek.py` of deepseek-ai/deepseek-moe-16b-base.

mod config;
mod parts;
mod router;
mod same;
mod view;

pub(crate) use parts::{DenseParts, MixtureLayer, MixtureParts, MlpTensor, dense};
pub(crate) use same::converted;
pub(crate) use view::{Kept, Opened};

use super::architectures::{self, Value as Evaluated};
use crate::error::{Error, Result, list, nearest};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// A family of mixtures.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Family {
    /// Its name in recipes; the beginning of it is enough.
    pub(crate) name: String,
    /// Its `model_type`.
    pub(crate) model_type: String,
    /// Its entry of `architectures`.
    class: String,
    /// The `model_type`s of the dense models that it is made from.
    pub(crate) from: Vec<String>,
    /// How many shared experts it has.
    pub(crate) shared: SharedExperts,
    /// What its config says besides the dense model's: JSON, or expressions over the dense config and
    /// `$experts`, `$chosen`, `$shared`.
    config: Map<String, Value>,
    /// Keys that must be written where the dense config leaves them out, since their defaults differ.
    spelled_out: Map<String, Value>,
    /// Keys that are written where an expression over the dense config holds, and left out otherwise.
    #[serde(default)]
    conditional: BTreeMap<String, Conditional>,
    /// Keys of dense configs that the family's own config class does not read: they are left out, so that
    /// what they say is compared with what the family then does.
    #[serde(default)]
    unknown: Vec<String>,
    /// Where this holds of the dense config, `layer_types` is written out: the families count the layers
    /// with windows in two ways.
    #[serde(default)]
    layer_types: Option<String>,
    /// Other names under which configs have keys of `config`.
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// What a dense model taken out of it is.
    dense: Dense,
    /// Keys that a dense model's config does not have, besides those of `config`.
    only_here: Vec<String>,
}

/// A value of a mixture's config that it has where `when` holds of the dense config.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Conditional {
    when: String,
    value: Value,
}

/// The shared experts that a family can have: every token goes through them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedExperts {
    /// As many at least.
    pub(crate) least: usize,
    /// As many at most.
    pub(crate) most: usize,
    /// Whether a gate of its own weighs what they give.
    pub(crate) gated: bool,
}

/// The dense models that experts are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dense {
    model_type: String,
    class: String,
    config: Map<String, Value>,
}

/// How many experts a mixture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Routed experts.
    pub(crate) experts: usize,
    /// Experts that a token goes to.
    pub(crate) chosen: usize,
    /// Shared experts.
    pub(crate) shared: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} experts, {} a token, {} shared", self.experts, self.chosen, self.shared)
    }
}

/// All families.
///
/// # Errors
/// The table is not valid.
pub(crate) fn families() -> Result<Vec<Family>> {
    serde_json::from_str(include_str!("families.json"))
        .map_err(|e| Error::internal("the table of mixtures is not valid").fact("reason", e))
}

fn names(families: &[Family]) -> String {
    families.iter().map(|family| family.name.as_str()).collect::<Vec<_>>().join(", ")
}

impl Family {
    /// The family that a recipe names: by the beginning of its name, or by its `model_type`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(name: &str) -> Result<Vec<Self>> {
        let all = families()?;
        let wanted = name.to_lowercase();
        let is = |family: &&Family| {
            family.name.to_lowercase().starts_with(&wanted) || family.model_type == wanted
        };
        let found: Vec<Self> = all.iter().filter(is).cloned().collect();
        if !found.is_empty() && !wanted.trim().is_empty() {
            return Ok(found);
        }
        let error = Error::input("no family of mixtures has this name")
            .key("architecture")
            .expected(format!("one of {}", names(&all)), name);
        Err(match nearest(name, all.iter().map(|family| family.name.as_str())) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("remove the key: the family is chosen from the models"),
        })
    }

    /// The family to make of dense models of this `model_type` with so many shared experts: the first of
    /// `among` that can be.
    ///
    /// # Errors
    /// None can.
    pub(crate) fn of_dense(model_type: &str, shared: usize, among: Vec<Self>) -> Result<Self> {
        let made: Vec<&Family> =
            among.iter().filter(|f| f.from.iter().any(|from| from == model_type)).collect();
        if made.is_empty() {
            let from = families()?;
            let from = from.iter().map(|f| format!("{} (from {})", f.name, f.from.join(", ")));
            return Err(Error::input("no mixture can be made of models of this family")
                .key("model_type")
                .expected(from.collect::<Vec<_>>().join(", "), model_type)
                .hint("choose models of one of these families, or another `architecture`"));
        }
        let fits = |f: &&&Family| (f.shared.least..=f.shared.most).contains(&shared);
        if let Some(found) = made.iter().find(fits) {
            return Ok((**found).clone());
        }
        let counts = made.iter().map(|f| match (f.shared.least, f.shared.most) {
            (least, most) if least == most => format!("{least} ({})", f.name),
            (least, most) => format!("{least} to {most} ({})", f.name),
        });
        let counts: Vec<String> = counts.collect();
        let error = Error::input("the family has another number of shared experts")
            .key("shared_experts")
            .expected(list(counts.iter().map(String::as_str)), shared);
        Err(match shared {
            0 => error
                .hint("add `shared_experts: [{source_model: MODEL}]`: every token goes through it"),
            _ => error.hint("remove `shared_experts`, or some of them"),
        })
    }

    /// The family of a mixture's `model_type`.
    pub(crate) fn of_mixture(model_type: &str) -> Result<Self> {
        let all = families()?;
        let found = all.iter().find(|family| family.model_type == model_type);
        found.cloned().ok_or_else(|| {
            let known = all.iter().map(|f| format!("{} ({})", f.model_type, f.name));
            Error::input("the model is not a mixture of a known family")
                .key("model_type")
                .expected(known.collect::<Vec<_>>().join(", "), model_type)
        })
    }
}
