//! What a child is made of, in the terms of recipes.

use super::forward::{Check, Forward};
use super::sample::Sample;
use super::setting::Setting;
use crate::engine::Lanes;
use crate::error::Result;
use crate::methods::{Params, Value};
use crate::model::Float;
use std::collections::BTreeMap;

/// What a child is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The weights of one candidate.
    Copy,
    /// A merge by the method of this name.
    Merge(&'static str),
    /// Layers of candidates, stacked.
    Stack,
    /// One candidate and a change of low rank in every tensor that changed.
    Lora {
        /// The largest rank of a tensor's change.
        rank: usize,
    },
    /// A candidate, trained on.
    FineTune,
    /// A merge, trained on.
    FineTuneOfMerge,
    /// None of these.
    Unexplained,
}

impl Kind {
    /// A word for it: the merge method's name where it is a merge, `passthrough` for a stack.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Merge(method) => method,
            Self::Stack => "passthrough",
            Self::Lora { .. } => "lora",
            Self::FineTune => "fine-tune",
            Self::FineTuneOfMerge => "fine-tune of a merge",
            Self::Unexplained => "unexplained",
        }
    }
}

/// A candidate that the child is made of.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its place among the candidates.
    pub candidate: usize,
    /// The parameters that belong to it, the factor called `weight` among them.
    pub parameters: BTreeMap<&'static str, Setting>,
}

/// An explanation of the child.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What it is.
    pub kind: Kind,
    /// The base, by its place among the candidates.
    pub base: Option<usize>,
    /// What it is made of besides the base, in the order of the recipe.
    pub parents: Vec<Parent>,
    /// Parameters of the whole merge.
    pub shared: BTreeMap<&'static str, Setting>,
    /// Switches of the whole merge.
    pub switches: BTreeMap<&'static str, bool>,
    /// Other methods whose recipe would make the same model, up to rounding.
    pub same_map: Vec<&'static str>,
    /// How well it explains the child.
    pub check: Check,
    /// Where masks were drawn at random, which nobody can draw again: the share of the elements that are
    /// sums of the parents' elements times one factor each.
    pub drawn: Option<f64>,
    /// Remarks on what is not explained, or not certain.
    pub notes: Vec<String>,
}

impl Explanation {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            base: None,
            parents: Vec::new(),
            shared: BTreeMap::new(),
            switches: BTreeMap::new(),
            same_map: Vec::new(),
            check: Check::default(),
            drawn: None,
            notes: Vec::new(),
        }
    }

    /// The candidates in the recipe's order: the parents, and the base behind them unless it is one.
    pub(super) fn models(&self) -> Vec<usize> {
        let mut models: Vec<usize> = self.parents.iter().map(|parent| parent.candidate).collect();
        models.extend(self.base.filter(|base| !models.contains(base)));
        models
    }

    /// The same with every value as short as its error allows.
    pub(super) fn shortened(&self) -> Self {
        let short = |all: &BTreeMap<&'static str, Setting>| {
            all.iter().map(|(name, setting)| (*name, setting.shortened())).collect()
        };
        let parents = self.parents.iter().map(|parent| Parent {
            candidate: parent.candidate,
            parameters: short(&parent.parameters),
        });
        Self { parents: parents.collect(), shared: short(&self.shared), ..self.clone() }
    }

    /// The merge method that makes it, by the engine.
    fn forward(&self) -> Result<Option<Forward>> {
        let Kind::Merge(method) = self.kind else { return Ok(None) };
        let models = self.models();
        let base = self.base.and_then(|base| models.iter().position(|model| *model == base));
        Forward::new(method, models, base).map(Some)
    }

    /// Runs the engine's own method on the sample and compares the result with the child; none where the
    /// explanation is no merge.
    ///
    /// # Errors
    /// The method fails.
    pub(super) fn checked(&self, sample: &Sample, float: Float) -> Result<Option<Check>> {
        let Some(forward) = self.forward()? else { return Ok(None) };
        let checks = Lanes::Pool.collect(0..sample.slabs.len(), |at| {
            let slab = &sample.slabs[at];
            let params = self.params(&forward, &slab.name, slab.place().0);
            let made = forward.made(slab, &params, float, 0)?;
            Ok(Check::of(slab, &made))
        })?;
        let mut all = Check::default();
        checks.iter().for_each(|check| all.add(check));
        Ok(Some(all))
    }

    fn params(&self, forward: &Forward, name: &str, layer: Option<usize>) -> Params {
        let values = |settings: &BTreeMap<&'static str, Setting>| {
            let value = |(key, setting): (&&'static str, &Setting)| {
                (*key, Value::Number(setting.at(name, layer).value))
            };
            settings.iter().map(value).collect::<BTreeMap<_, _>>()
        };
        let mut shared = values(&self.shared);
        shared.extend(self.switches.iter().map(|(key, on)| (*key, Value::Bool(*on))));
        let models: Vec<_> = self.parents.iter().map(|p| values(&p.parameters)).collect();
        forward.params(&shared, &models)
    }
}

impl Explanation {
    /// Σ|weight| over the parents and the base, where it has weights; 1 for a copy, a stack and what lies
    /// between two models. Of explanations that follow from each other the least is the likeliest.
    pub(super) fn size(&self) -> f64 {
        let weight = |parent: &Parent| parent.parameters.get("weight").map(Setting::middle);
        let weights: Vec<f64> = self.parents.iter().filter_map(weight).collect();
        if weights.is_empty() {
            return 1.0;
        }
        let outside = match self.kind {
            Kind::Merge("task_arithmetic") => (1.0 - weights.iter().sum::<f64>()).abs(),
            _ => 0.0,
        };
        weights.iter().map(|weight| weight.abs()).sum::<f64>() + outside
    }

    /// The share of the elements that it explains.
    pub(super) fn certainty(&self) -> f64 {
        match self.drawn {
            Some(explained) => explained,
            None => self.check.share_near(),
        }
    }
}
