//! Where a mixture's routers send tokens: for each layer and set of texts, the tokens that each expert
//! receives.

use super::budget::forwards;
use super::walk::unheard;
use super::{Documents, Resources, with_walk};
use crate::error::{Error, Result};
use crate::eval::decoder::backward::Backward;
use crate::model::architectures::{Experts, Mlp};
use crate::model::{Checkpoint, Statistics};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Texts as tokens, under a name.
pub struct Set {
    /// Its name.
    pub name: String,
    /// The expert whose texts they are.
    pub expert: Option<usize>,
    /// The texts.
    pub tokens: Vec<Vec<u32>>,
}

/// A routing report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token goes to.
    pub experts_per_token: usize,
    /// The sets of texts.
    pub sets: Vec<OfSet>,
}

/// The routing of one set of texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfSet {
    /// Its name.
    pub name: String,
    /// The expert whose texts they are.
    pub expert: Option<usize>,
    /// Its texts.
    pub documents: usize,
    /// Their tokens.
    pub tokens: u64,
    /// Each layer with a mixture.
    pub layers: Vec<OfLayer>,
}

/// The routing of one set of texts in one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfLayer {
    /// The layer's number.
    pub layer: usize,
    /// The tokens that each expert receives.
    pub received: Vec<u64>,
    /// The tokens whose first choice each expert is.
    pub first: Vec<u64>,
}

/// An expert that gets next to nothing, or too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// Less than a tenth of its even share.
    Dead,
    /// More than twice its even share, or than what lies halfway between that and everything.
    Overloaded,
}

/// An expert of a layer with an odd load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Odd {
    /// The layer.
    pub layer: usize,
    /// The expert.
    pub expert: usize,
    /// What is odd.
    pub load: Load,
    /// The share of the tokens that it receives, the mean over the sets.
    pub share: f64,
}

/// Runs a mixture over sets of texts and counts where its routers send their tokens.
///
/// # Errors
/// The model is no mixture, or of a family that is not covered; the memory is too small; a text has tokens
/// that the model has no embedding for.
pub fn routing(
    checkpoint: &Checkpoint,
    sets: &[Set],
    resources: &Resources,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Routing> {
    let model = Backward::open(checkpoint)?;
    let layers = routed(&model);
    let Some((_, first)) = layers.first() else {
        return Err(
            Error::input("the model has no mixture of experts").model(&checkpoint.reference)
        );
    };
    let tokens = sets.iter().flat_map(|set| set.tokens.iter().cloned()).collect();
    let documents = Documents::of_texts(tokens, String::new(), String::new());
    let owner = sets.iter().enumerate().flat_map(|(i, set)| vec![i; set.tokens.len()]);
    let owner: Vec<usize> = owner.collect();
    let sizes = forwards(&model, documents.longest(), 0)?;
    let mut found: Vec<OfSet> = sets.iter().map(OfSet::empty).collect();
    let kind = (Statistics::Routers, false);
    with_walk(kind, &model, &documents, &sizes, resources, |walk| {
        let weights = model.weights(&model.embedding_names(), false)?;
        let mut before = walk.embedded(&weights, unheard)?;
        drop(weights);
        for number in 0..model.layers() {
            progress(&format!("layer {number}"));
            let weights = model.weights(&model.layer_names(number)?, false)?;
            let Some((_, of)) = layers.iter().find(|(layer, _)| *layer == number) else {
                before = walk.behind(number, &weights, &before, unheard)?;
                continue;
            };
            let router = model.router_input(number)?;
            let weights = weights.listening(std::iter::once(router));
            let mut counts = vec![OfLayer::empty(number, of.experts.len()); sets.len()];
            let mut owners = owner.iter();
            before = walk.behind(number, &weights, &before, |heard| {
                let Some(set) = owners.next() else { return Ok(()) };
                for choice in heard.choices(of)? {
                    counts[*set].add(&choice);
                }
                Ok(())
            })?;
            found.iter_mut().zip(counts).for_each(|(set, counts)| set.layers.push(counts));
        }
        Ok(())
    })?;
    Ok(Routing { experts: first.experts.len(), experts_per_token: first.chosen, sets: found })
}

/// The layers that have a mixture.
fn routed<'a>(model: &'a Backward<'_>) -> Vec<(usize, &'a Experts)> {
    let layers = model.architecture().layers.iter().enumerate();
    let mixed = layers.filter_map(|(number, layer)| match &layer.mlp {
        Some(Mlp::Experts(of)) => Some((number, &**of)),
        _ => None,
    });
    mixed.collect()
}

impl OfSet {
    fn empty(set: &Set) -> Self {
        Self {
            name: set.name.clone(),
            expert: set.expert,
            documents: set.tokens.len(),
            tokens: set.tokens.iter().map(|tokens| tokens.len() as u64).sum(),
            layers: Vec::new(),
        }
    }

    /// The share of the tokens that an expert receives in a layer.
    fn share(&self, layer: usize, expert: usize) -> f64 {
        self.layers[layer].received[expert] as f64 / (self.tokens.max(1)) as f64
    }
}

impl OfLayer {
    fn empty(layer: usize, experts: usize) -> Self {
        Self { layer, received: vec![0; experts], first: vec![0; experts] }
    }

    /// Adds the experts of a token, the first choice first.
    fn add(&mut self, chosen: &[usize]) {
        chosen.iter().for_each(|expert| self.received[*expert] += 1);
        if let Some(first) = chosen.first() {
            self.first[*first] += 1;
        }
    }
}

impl Routing {
    /// The share of all tokens that each expert of a layer receives, each set counting alike.
    fn shares(&self, layer: usize) -> Vec<f64> {
        let of = |expert: usize| {
            let sum: f64 = self.sets.iter().map(|set| set.share(layer, expert)).sum();
            sum / self.sets.len().max(1) as f64
        };
        (0..self.experts).map(of).collect()
    }

    fn layers(&self) -> &[OfLayer] {
        self.sets.first().map_or(&[], |set| &set.layers)
    }

    /// The experts that get next to nothing, or too much.
    pub fn odd(&self) -> Vec<Odd> {
        let even = self.experts_per_token as f64 / self.experts as f64;
        let much = (2.0 * even).min(f64::midpoint(even, 1.0));
        let mut odd = Vec::new();
        for (at, layer) in self.layers().iter().enumerate() {
            for (expert, share) in self.shares(at).into_iter().enumerate() {
                let load = match share {
                    // Where every token goes to every expert, nothing is odd.
                    _ if self.experts_per_token >= self.experts => continue,
                    share if share < even / 10.0 => Load::Dead,
                    share if share > much => Load::Overloaded,
                    _ => continue,
                };
                odd.push(Odd { layer: layer.layer, expert, load, share });
            }
        }
        odd
    }

    /// The `count` experts of each of these layers that the fewest tokens go to; of equal ones, the later.
    ///
    /// # Errors
    /// The report is of another mixture.
    pub(crate) fn least(
        &self,
        layers: impl Iterator<Item = usize>,
        experts: usize,
        count: usize,
    ) -> Result<Vec<Vec<usize>>> {
        let other = |what: &str| {
            Error::input("the routing is that of another mixture").fact("differs", what)
        };
        if self.experts != experts {
            return Err(other("the number of experts").expected(experts, self.experts));
        }
        let numbers = |set: &OfSet| set.layers.iter().map(|of| of.layer).collect::<Vec<_>>();
        let whole = |set: &OfSet| {
            set.layers.iter().all(|of| of.received.len() == experts)
                && self.sets.first().is_some_and(|first| numbers(first) == numbers(set))
        };
        if let Some(set) = self.sets.iter().find(|set| !whole(set)) {
            return Err(Error::input("a report of routing is damaged")
                .fact("texts", &set.name)
                .expected(format!("{experts} numbers for each of the same layers"), "others")
                .hint("make it again: cognate route MODEL --data NAME=FILE --json"));
        }
        let of = |layer: usize| {
            let at = self.layers().iter().position(|of| of.layer == layer);
            let shares = self.shares(at.ok_or_else(|| other("the layers"))?);
            let mut order: Vec<usize> = (0..experts).rev().collect();
            order.sort_by(|a, b| shares[*a].total_cmp(&shares[*b]));
            order.truncate(count);
            Ok(order)
        };
        layers.map(of).collect()
    }

    /// Of the texts of expert `expert`, the share of tokens that it receives, the mean over the layers.
    pub fn own_share(&self, expert: usize) -> Option<f64> {
        let set = self.sets.iter().find(|set| set.expert == Some(expert))?;
        let layers = set.layers.len();
        let sum: f64 = (0..layers).map(|layer| set.share(layer, expert)).sum();
        (layers > 0).then(|| sum / layers as f64)
    }

    /// As JSON, with the odd experts.
    pub fn json(&self) -> serde_json::Value {
        let mut value = serde_json::json!(self);
        value["odd"] = serde_json::json!(self.odd());
        value
    }

    /// As a table for people: for each layer and set, the share of tokens that each expert receives.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let width = self.sets.iter().map(|set| set.name.chars().count()).max().unwrap_or(0).max(5);
        let _ = write!(out, "layer  {:<width$}", "texts");
        for expert in 0..self.experts {
            let _ = write!(out, "  {:>6}", format!("#{expert}"));
        }
        out.push('\n');
        let odd = self.odd();
        for (at, layer) in self.layers().iter().enumerate() {
            for (i, set) in self.sets.iter().enumerate() {
                let number = if i == 0 { layer.layer.to_string() } else { String::new() };
                let _ = write!(out, "{number:>5}  {:<width$}", set.name);
                for expert in 0..self.experts {
                    let own = if set.expert == Some(expert) { "*" } else { " " };
                    let _ = write!(out, "  {:>5.1}{own}", 100.0 * set.share(at, expert));
                }
                out.push('\n');
            }
        }
        let _ = writeln!(
            out,
            "percent of the tokens that an expert receives ({} of {} a token); * its own texts",
            self.experts_per_token, self.experts
        );
        for odd in odd {
            let load = match odd.load {
                Load::Dead => "receives next to nothing",
                Load::Overloaded => "is overloaded",
            };
            let (layer, expert, share) = (odd.layer, odd.expert, 100.0 * odd.share);
            let _ = writeln!(out, "layer {layer}: expert {expert} {load} ({share:.1} %)");
        }
        out
    }
}
