//! Thresholds over the task vectors of whole models, as the TIES paper trims.

use super::cut::{Cut, cut_ends};
use super::search::{STRIDE, Search, Wanted, narrow_all};
use super::{Threshold, for_deltas, kept};
use crate::engine::ModelIo;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// One tensor of a whole model: the models behind its inputs but the base, and their densities.
pub struct Part {
    /// For each input but the base, its model.
    pub models: Vec<usize>,
    /// For each input but the base, the share of its task vector that is kept.
    pub densities: Vec<f64>,
}

/// A search and the input of a tensor that it looks at.
#[derive(Clone, Copy, Debug)]
struct Look {
    search: usize,
    input: usize,
}

/// Thresholds over whole models: for each tensor and each of its inputs but the base. A model has
/// one density; ties are broken by tensor, then by element.
pub fn model_thresholds(io: &ModelIo<'_>, parts: &[Part]) -> Result<Vec<Vec<Option<Threshold>>>> {
    let mut totals: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    for (part, tensor) in parts.iter().zip(io.tensors()) {
        for (model, density) in part.models.iter().zip(&part.densities) {
            let total = totals.entry(*model).or_insert((*density, 0));
            total.1 += tensor.elements();
        }
    }
    let mut searches = Vec::new();
    let mut place = BTreeMap::new();
    for (model, (density, elements)) in totals {
        if let Some(keep) = kept(density, elements) {
            place.insert(model, searches.len());
            searches.push(Search::new(Wanted::Count(keep), elements));
        }
    }
    let mut looks: Vec<Vec<Look>> = Vec::new();
    for (part, tensor) in parts.iter().zip(io.tensors()) {
        let pairs = part.models.iter().zip(tensor.others()?);
        looks.push(
            pairs
                .filter_map(|(model, input)| Some(Look { search: *place.get(model)?, input }))
                .collect(),
        );
    }
    let inputs_of = |at: usize| -> Vec<usize> { looks[at].iter().map(|look| look.input).collect() };
    while searches.iter().any(|search| !search.done()) {
        let counts = io.counts(searches.len() * STRIDE, |at, tensor, inputs, counts| {
            for_deltas(tensor, &inputs_of(at), inputs, |i, delta| {
                let search = looks[at][i].search;
                if !searches[search].done() {
                    let counts = &mut counts[search * STRIDE..(search + 1) * STRIDE];
                    searches[search].count(tensor.kernels(), delta, counts);
                }
            });
        })?;
        narrow_all(&mut searches, &counts)?;
    }
    let equal = io.tensor_counts(searches.len(), |at, tensor, inputs, counts| {
        for_deltas(tensor, &inputs_of(at), inputs, |i, delta| {
            let search = looks[at][i].search;
            counts[search] += tensor.kernels().count_equal(delta, searches[search].range.start);
        });
    })?;
    let mut left: Vec<u64> = searches.iter().map(|search| search.ties).collect();
    let mut all = Vec::new();
    for (((part, tensor), looks), equal) in parts.iter().zip(io.tensors()).zip(&looks).zip(equal) {
        let mut found = vec![None; part.models.len()];
        for (slot, model) in found.iter_mut().zip(&part.models) {
            let Some(search) = place.get(model).copied() else { continue };
            let state = &searches[search];
            let ties_end = match (state.cuts_ties(), left[search]) {
                (false, _) => tensor.elements(),
                (true, 0) => 0,
                (true, left) if left >= equal[search] => tensor.elements(),
                (true, left) => {
                    let look = looks.iter().find(|look| look.search == search).copied();
                    let look = look.ok_or_else(|| Error::internal("a model's tensor was lost"))?;
                    let cut = Cut { score: 0, pattern: state.range.start, nth: left };
                    let deltas = super::deltas(tensor, vec![look.input]);
                    cut_ends(tensor, &*deltas, &[cut])?.first().copied().unwrap_or(0)
                }
            };
            left[search] = left[search].saturating_sub(equal[search]);
            *slot = Some(Threshold { pattern: state.range.start, ties_end });
        }
        all.push(found);
    }
    Ok(all)
}
