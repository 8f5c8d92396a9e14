//! Thresholds over whole models: the magnitude of the k-th largest value of all tensors together.

use super::cut::{Cut, cut_ends};
use super::search::{STRIDE, Search, Wanted, narrow_all};
use super::{Threshold, for_deltas, kept};
use crate::engine::{ModelIo, TensorIo};
use crate::error::{Error, Result};
use crate::methods::survey::{Part, Survey, Surveyed, surveyed};
use std::collections::BTreeMap;

/// Thresholds over the task vectors of whole models, as the TIES paper trims: for each tensor, one
/// for each of its inputs but the base, or none where the density keeps all or nothing.
pub(in crate::methods) const THRESHOLDS: Survey =
    Survey { whole: &["density"], make: thresholds_of_model };

/// Computes a tensor's scores from the inputs of a tile and hands them out by their place among the
/// tensor's scores: `(tensor's place, tensor, inputs, visit)`.
pub(in crate::methods) type ModelScores<'a> =
    dyn Fn(usize, &TensorIo<'_>, &mut [Vec<f32>], &mut dyn FnMut(usize, &[f32])) + Sync + 'a;

fn thresholds_of_model(io: &ModelIo<'_>, parts: &[Part<'_>]) -> Result<Vec<Surveyed>> {
    let mut totals: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    let mut tensors = Vec::new();
    for (part, tensor) in parts.iter().zip(io.tensors()) {
        let others = tensor.others()?;
        for (input, density) in others.iter().zip(part.params.each("density")) {
            totals.entry(part.models[*input]).or_insert((density, 0)).1 += tensor.elements();
        }
        tensors.push(others);
    }
    let mut wanted = Vec::new();
    let mut place = BTreeMap::new();
    for (model, (density, elements)) in totals {
        if let Some(keep) = kept(density, elements) {
            place.insert(model, wanted.len());
            wanted.push((keep, elements));
        }
    }
    let trimmed = |(part, inputs): (&Part<'_>, &Vec<usize>)| -> (Vec<usize>, Vec<usize>) {
        let looked = inputs.iter().filter_map(|i| Some((*i, *place.get(&part.models[*i])?)));
        looked.unzip()
    };
    let (inputs, searches): (Vec<_>, Vec<_>) = parts.iter().zip(&tensors).map(trimmed).unzip();
    let found = largest_of_model(io, &wanted, &searches, &|at, tensor, tile, visit| {
        for_deltas(tensor, &inputs[at], tile, visit);
    })?;
    let all = tensors.iter().zip(&inputs).zip(found).map(|((others, inputs), found)| {
        let of = |other: &usize| inputs.iter().position(|input| input == other).map(|i| found[i]);
        others.iter().map(of).collect::<Vec<Option<Threshold>>>()
    });
    Ok(surveyed(all.collect()))
}

/// For each tensor and each of its scores, which elements are among the largest of the whole model.
/// `wanted` has a pair for each search, how many of how many elements, and `searches` for each score of
/// a tensor the search that it belongs to. Ties are broken by tensor, then by element.
pub(in crate::methods) fn largest_of_model(
    io: &ModelIo<'_>,
    wanted: &[(usize, usize)],
    searches: &[Vec<usize>],
    scores: &ModelScores<'_>,
) -> Result<Vec<Vec<Threshold>>> {
    let new = |(keep, elements): &(usize, usize)| Search::new(Wanted::Count(*keep), *elements);
    let mut states: Vec<Search> = wanted.iter().map(new).collect();
    while states.iter().any(|state| !state.done()) {
        let counts = io.counts(states.len() * STRIDE, |at, tensor, inputs, counts| {
            scores(at, tensor, inputs, &mut |score, values| {
                let search = searches[at][score];
                if !states[search].done() {
                    let counts = &mut counts[search * STRIDE..(search + 1) * STRIDE];
                    states[search].count(tensor.kernels(), values, counts);
                }
            });
        })?;
        narrow_all(&mut states, &counts)?;
    }
    let equal = io.of_tensors::<u64>(states.len(), |at, tensor, inputs, counts| {
        scores(at, tensor, inputs, &mut |score, values| {
            let search = searches[at][score];
            counts[search] += tensor.kernels().count_equal(values, states[search].range.start);
        });
    })?;
    let mut left: Vec<u64> = states.iter().map(|search| search.ties).collect();
    let mut all = Vec::new();
    for (at, (tensor, equal)) in io.tensors().iter().zip(equal).enumerate() {
        let mut found = Vec::new();
        for (score, search) in searches[at].iter().enumerate() {
            let (state, equal, left) = (&states[*search], equal[*search], &mut left[*search]);
            let pattern = state.range.start;
            let ties_end = match (state.cuts_ties(), *left) {
                (false, _) => tensor.elements(),
                (true, 0) => 0,
                (true, left) if left >= equal => tensor.elements(),
                (true, nth) => {
                    let one = |inputs: &mut [Vec<f32>], visit: &mut dyn FnMut(usize, &[f32])| {
                        scores(at, tensor, inputs, &mut |i, values| {
                            if i == score {
                                visit(0, values);
                            }
                        });
                    };
                    let ends = cut_ends(tensor, &one, &[Cut { score: 0, pattern, nth }])?;
                    let lost = || Error::internal("a model's tensor was lost");
                    ends.first().copied().ok_or_else(lost)?
                }
            };
            *left = left.saturating_sub(equal);
            found.push(Threshold { pattern, ties_end });
        }
        all.push(found);
    }
    Ok(all)
}
