//! Looks for the simplest explanation of a child: what is exact comes before what is near, and fewer
//! parents before more.

use super::distances::{self, Distances};
use super::explanation::{Explanation, Kind, Parent};
use super::low_rank::{self, Change};
use super::masks;
use super::sample::Sample;
use super::setting::{Estimate, Setting};
use super::squares::Squares;
use super::stack::{self, Run};
use super::weights::{self, Given};
use super::{Settings, sample::Names};
use crate::engine::Lanes;
use crate::error::Result;
use crate::model::{Checkpoint, Float};
use std::collections::BTreeMap;

/// Parents of a merge by elements that are tried at once.
const MOST_PARENTS: usize = 4;
/// Bases that are tried: the likeliest, and those that have most elements in common with the child. A parent
/// whose elements are averaged with none may have more of them than the base.
const BASES: usize = 3;
/// A candidate that adds less than this share of what the first one adds, in a least squares fit, is not
/// tried as a parent of a merge by elements.
const LITTLE: f64 = 0.12;
/// The share of the elements within the rounding that a merge by magnitudes has to reach.
const REPRODUCED: f64 = 0.9;
/// From this share on no other set of parents is tried.
const CERTAIN: f64 = 0.985;
/// What a combination may leave of the squared distance to the nearest candidate.
const MOST_LEFT: f64 = 0.2;

/// What was found.
pub(super) struct Found {
    pub(super) explanation: Explanation,
    /// The layers of a stack.
    pub(super) runs: Vec<Run>,
    /// The changes of low rank.
    pub(super) changes: Vec<Change>,
    /// The child's tensors that were not looked at, with the reason.
    pub(super) left_out: BTreeMap<String, String>,
    /// The share of the elements that was read.
    pub(super) share: f64,
    /// The residual of the best fit in roundings, and the distance to the nearest candidate likewise.
    pub(super) rest: Option<(f64, f64)>,
    /// The nearest candidate.
    pub(super) nearest: Option<usize>,
}

impl Found {
    fn new(explanation: Explanation) -> Self {
        Self {
            explanation,
            runs: Vec::new(),
            changes: Vec::new(),
            left_out: BTreeMap::new(),
            share: 1.0,
            rest: None,
            nearest: None,
        }
    }
}

/// The explanation of a child by the candidates that are considered.
pub(super) fn search(
    child: &Checkpoint,
    candidates: &[&Checkpoint],
    considered: &[usize],
    base: Option<usize>,
    settings: &Settings,
) -> Result<Found> {
    if considered.is_empty() {
        let mut none = Explanation::new(Kind::Unexplained);
        none.notes.push("no candidate is related to the model".to_string());
        return Ok(Found::new(none));
    }
    if let Some(stacked) = stacked(child, candidates, considered)? {
        return Ok(stacked);
    }
    let fitting: Vec<usize> =
        considered.iter().copied().filter(|at| fits(child, candidates[*at])).collect();
    if fitting.is_empty() {
        let mut none = Explanation::new(Kind::Unexplained);
        none.notes.push("no related candidate has the model's layers".to_string());
        return Ok(Found::new(none));
    }
    let models: Vec<&Checkpoint> = fitting.iter().map(|at| candidates[*at]).collect();
    let mut sample = Sample::read(child, &models, settings.sample, settings.held())?;
    let base = base.and_then(|base| fitting.iter().position(|at| *at == base));
    let mut found = of_sample(child, &sample, models.len(), base)?;
    found.left_out = std::mem::take(&mut sample.left_out);
    found.share = sample.share;
    // From places in the sample to places among the candidates.
    let place = |at: &mut usize| *at = fitting[*at];
    found.explanation.base.as_mut().into_iter().for_each(place);
    found.explanation.parents.iter_mut().for_each(|parent| place(&mut parent.candidate));
    found.nearest.as_mut().into_iter().for_each(place);
    Ok(found)
}

/// Whether a candidate has all of the child's layers, in their shapes.
fn fits(child: &Checkpoint, candidate: &Checkpoint) -> bool {
    let names = Names::new(candidate);
    let mut layers =
        child.tensors().filter(|(name, _)| crate::model::split_layer(name).is_some()).peekable();
    layers.peek().is_some()
        && layers.all(|(name, tensor)| {
            names.find(name).is_some_and(|found| found.spec().shape == tensor.spec().shape)
        })
}

/// A stack of layers, if the child is one.
fn stacked(
    child: &Checkpoint,
    candidates: &[&Checkpoint],
    considered: &[usize],
) -> Result<Option<Found>> {
    let models: Vec<&Checkpoint> = considered.iter().map(|at| candidates[*at]).collect();
    let Some(mut origins) = stack::origins(child, &models)? else { return Ok(None) };
    let runs = stack::runs(&origins);
    let exact = origins.iter().all(|origin| origin.distance == 0.0);
    let depth = |model: &Checkpoint| model.stacks.single().map_or(0, |(_, count)| count);
    let straight = origins.iter().enumerate().all(|(at, origin)| origin.layer == at);
    let same_depth = models.iter().any(|model| depth(model) == origins.len());
    let whole = |run: &Run| depth(models[run.candidate]) == run.layers.len();
    if matches!(&runs[..], [run] if whole(run)) || (straight && same_depth && !exact) {
        return Ok(None);
    }
    let mut found = Explanation::new(Kind::Stack);
    let mut parents: Vec<usize> = runs.iter().map(|run| considered[run.candidate]).collect();
    parents.sort_unstable();
    parents.dedup();
    let parent = |candidate| Parent { candidate, parameters: BTreeMap::new() };
    found.parents = parents.into_iter().map(parent).collect();
    let differing = stack::differing(child, &models, &origins)?;
    let (all, bad) = (child.tensors().count(), differing.len());
    found.check.elements = child.tensors().map(|(_, tensor)| tensor.spec().elements()).sum();
    let tensor = |name: &String| child.tensor(name).map_or(0, |t| t.spec().elements());
    found.check.equal = found.check.elements - differing.iter().map(tensor).sum::<usize>();
    found.check.near = found.check.equal;
    if bad > 0 {
        let furthest = origins.iter().map(|origin| origin.distance).fold(0.0, f64::max);
        found.notes.push(format!(
            "{bad} of {all} tensors are not those of the layers named, which are only nearest (up to {furthest:.3} of a layer's norm away)"
        ));
    }
    origins.iter_mut().for_each(|origin| origin.candidate = considered[origin.candidate]);
    let runs = stack::runs(&origins);
    Ok(Some(Found { runs, ..Found::new(found) }))
}

/// The dtype that most of the child's elements have.
pub(super) fn float(child: &Checkpoint) -> Float {
    let mut elements: BTreeMap<Float, usize> = BTreeMap::new();
    for (_, tensor) in child.tensors() {
        let spec = tensor.spec();
        if let Some(float) = spec.float() {
            *elements.entry(float).or_default() += spec.elements();
        }
    }
    elements.into_iter().max_by_key(|(_, count)| *count).map_or(Float::F32, |(float, _)| float)
}

fn of_sample(
    child: &Checkpoint,
    sample: &Sample,
    models: usize,
    base: Option<usize>,
) -> Result<Found> {
    let float = float(child);
    let all: Vec<usize> = (0..models).collect();
    let squares =
        Lanes::Pool.collect(0..sample.slabs.len(), |at| Ok(Squares::of(&sample.slabs[at])))?;
    let total = Squares::sum(models, &squares);
    let alone = |at: &usize| total.rest(&one(models, *at));
    let nearest = all.iter().copied().min_by(|a, b| alone(a).total_cmp(&alone(b)));
    let distances = Distances::of(sample, models);
    let centre = distances::centre(&distances.all(), &all, models);
    let given = Given { sample, squares: &squares, base: base.or(centre) };
    let mut found = Found { nearest, ..Found::new(Explanation::new(Kind::Unexplained)) };
    let in_roundings = |rest: f64| (rest / total.elements.max(1.0)).sqrt();
    let fit = total.fit(&all);
    let near = nearest.map_or(f64::MAX, |at| alone(&at));
    found.rest = Some((in_roundings(fit.rest), in_roundings(near)));
    if let Some(exact) = weights::exact(&squares, &all) {
        let explanation = given.explain(&exact);
        found.explanation = confirmed(explanation, sample, float)?;
        if found.explanation.kind == Kind::Copy {
            let elements = sample.elements();
            let check = &mut found.explanation.check;
            (check.elements, check.equal, check.near) = (elements, elements, elements);
        }
        return Ok(found);
    }
    for candidate in
        nearest.into_iter().chain(all.iter().copied().filter(|at| Some(*at) != nearest))
    {
        if let Some(changes) = low_rank::changes(sample, candidate)? {
            let rank = changes.iter().map(|change| change.rank).max().unwrap_or(0);
            let mut lora = Explanation::new(Kind::Lora { rank });
            lora.base = Some(candidate);
            lora.parents = vec![Parent { candidate, parameters: BTreeMap::new() }];
            (found.explanation, found.changes) = (lora, changes);
            return Ok(found);
        }
    }
    let squares = distances.all();
    if let Some(explanation) = by_elements(sample, (&total, &squares), given.base, &all, float)? {
        found.explanation = explanation;
        return Ok(found);
    }
    found.explanation = trained(&total, nearest, &all, given.base, near);
    Ok(found)
}

/// A coefficient of 1 for one candidate.
fn one(models: usize, at: usize) -> Vec<f64> {
    (0..models).map(|other| f64::from(u8::from(other == at))).collect()
}

/// With the engine's word on it: values as short as their errors allow, where that explains the child
/// no worse.
fn confirmed(explanation: Explanation, sample: &Sample, float: Float) -> Result<Explanation> {
    if explanation.drawn.is_some() {
        return Ok(explanation.shortened());
    }
    let Some(check) = explanation.checked(sample, float)? else { return Ok(explanation) };
    let short = explanation.shortened();
    let short_check = short.checked(sample, float)?.unwrap_or_default();
    // What is not longer than it has to be is what somebody wrote.
    let no_worse = short_check.rest <= 1.1 * check.rest + 0.05 * check.elements as f64
        || short_check.equal >= check.equal;
    Ok(match no_worse {
        true => Explanation { check: short_check, ..short },
        false => Explanation { check, ..explanation },
    })
}

/// Sets of parents that are tried, the likeliest first: the first few of those that add most, then pairs and
/// single ones. (What one parent adds in least squares may be another's that is like it.)
fn sets(parents: &[usize]) -> Vec<Vec<usize>> {
    let first = (1..=parents.len().min(MOST_PARENTS)).rev().map(|count| parents[..count].to_vec());
    let near = &parents[..parents.len().min(MOST_PARENTS + 1)];
    let pairs = (0..near.len()).flat_map(|i| (0..i).map(move |j| vec![near[j], near[i]]));
    let mut all: Vec<Vec<usize>> = first.collect();
    for set in pairs.chain(near.iter().map(|one| vec![*one])) {
        if !all.contains(&set) {
            all.push(set);
        }
    }
    all
}

/// A merge that decides element by element.
fn by_elements(
    sample: &Sample,
    (total, distances): (&Squares, &[f64]),
    base: Option<usize>,
    all: &[usize],
    float: Float,
) -> Result<Option<Explanation>> {
    let fit = total.fit(all);
    let mut bases: Vec<usize> = all.to_vec();
    let equal = |at: &usize| -> usize {
        let same = |slab: &super::sample::Slab| {
            slab.child.iter().zip(&slab.of[*at]).filter(|(y, x)| y == x).count()
        };
        sample.slabs.iter().map(same).sum()
    };
    bases.sort_by_key(|at| std::cmp::Reverse((Some(*at) == base, equal(at))));
    let mut best: Option<(f64, Explanation)> = None;
    for base in bases.into_iter().take(BASES) {
        let mut parents: Vec<usize> = all.iter().copied().filter(|at| *at != base).collect();
        // What a parent adds: the coefficient of one that lies beside the base is large and says nothing.
        let size =
            |at: &usize| fit.coefficients[*at].abs() * distances[base * all.len() + *at].sqrt();
        parents.sort_by(|a, b| size(b).total_cmp(&size(a)));
        let most = parents.first().map_or(0.0, size);
        let likely = parents.iter().take_while(|at| size(at) >= LITTLE * most).count();
        for mut chosen in sets(&parents[..likely]) {
            if best.as_ref().is_some_and(|(score, _)| *score >= CERTAIN) {
                break;
            }
            let count = chosen.len();
            chosen.sort_unstable();
            let Some(tried) = masks::explain(sample, base, &chosen) else { continue };
            let checked = confirmed(tried.explanation.clone(), sample, float)?;
            let score = match checked.drawn {
                // Made again by the engine.
                None => checked.check.share_near(),
                Some(explained) if tried.holds() => explained,
                Some(_) => 0.0,
            };
            let score = score - 0.005 * count as f64;
            if best.as_ref().is_none_or(|(other, _)| score > *other) {
                best = Some((score, checked));
            }
        }
    }
    Ok(best.filter(|(score, _)| *score >= REPRODUCED).map(|(_, explanation)| explanation))
}

/// A candidate whose coefficient is smaller is not taken for a parent of what was trained on: directions of
/// training have something in common, whoever is trained.
const LEAST_SHARE: f64 = 0.06;

/// A candidate, or a merge of candidates, trained on.
fn trained(
    total: &Squares,
    nearest: Option<usize>,
    all: &[usize],
    base: Option<usize>,
    near: f64,
) -> Explanation {
    let mut parents = all.to_vec();
    let signed = loop {
        let signed = total.fit(&parents);
        let size = |at: &usize| signed.coefficients[*at].abs();
        let least = parents.iter().copied().min_by(|a, b| size(a).total_cmp(&size(b)));
        match least {
            Some(least) if size(&least) < LEAST_SHARE && parents.len() > 1 => {
                parents.retain(|at| *at != least);
            }
            _ => break signed,
        }
    };
    // A base may have been taken off, nobody else.
    let plain = parents.iter().all(|at| signed.coefficients[*at] >= 0.0 || Some(*at) == base);
    let fit = if plain { signed } else { total.fit_non_negative(&parents) };
    parents.retain(|at| fit.coefficients[*at] != 0.0);
    if fit.rest > MOST_LEFT * near || parents.len() < 2 {
        let mut found = Explanation::new(Kind::FineTune);
        found.parents = nearest
            .into_iter()
            .map(|candidate| Parent { candidate, parameters: BTreeMap::new() })
            .collect();
        return found;
    }
    let noise = (fit.rest / total.elements.max(1.0)).sqrt();
    let mut found = Explanation::new(Kind::FineTuneOfMerge);
    let sum: f64 = fit.coefficients.iter().sum();
    found.base = base.filter(|base| parents.contains(base) && (sum - 1.0).abs() < 0.02);
    let weight = |at: usize| {
        let estimate = Estimate { value: fit.coefficients[at], error: noise * fit.errors[at] };
        BTreeMap::from([("weight", Setting::Constant(estimate))])
    };
    let others = parents.iter().copied().filter(|at| Some(*at) != found.base);
    found.parents =
        others.map(|candidate| Parent { candidate, parameters: weight(candidate) }).collect();
    let left = 100.0 * (fit.rest / near).sqrt();
    found.notes.push(format!(
        "{left:.1} % of the distance to the nearest candidate is left, {noise:.1} times the rounding: trained on, or changed otherwise, after the merge"
    ));
    found
}
