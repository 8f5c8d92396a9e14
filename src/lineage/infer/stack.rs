//! Layers of candidates stacked on each other: which layer of the child is which layer of whom.

use super::sample::{Names, rows_of};
use super::units::spread;
use crate::engine::Lanes;
use crate::error::Result;
use crate::model::{Checkpoint, Source, split_layer};
use std::collections::BTreeMap;

/// Elements of each tensor of a layer that are compared.
const LOOKED_AT: usize = 2048;

/// Where a layer of the child comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Origin {
    /// The candidate.
    pub candidate: usize,
    /// Its layer.
    pub layer: usize,
    /// How far the layer is from it: ‖y − x‖/‖y‖ over what was looked at; 0 for a copy.
    pub distance: f64,
}

/// A run of layers: from `layers.start` up to `layers.end` of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The candidate.
    pub candidate: usize,
    /// Its layers.
    pub layers: std::ops::Range<usize>,
}

/// Elements of a layer's tensors, by name within the layer.
type Looked = BTreeMap<String, Vec<f32>>;

/// The layers of the one stack of a model; none if it has no single stack.
fn layers(model: &Checkpoint) -> Option<(String, usize)> {
    model.stacks.single().ok().map(|(stack, count)| (stack.to_string(), count))
}

fn look(model: &Checkpoint, stack: &str, count: usize) -> Result<Vec<Looked>> {
    let mut found = vec![Looked::new(); count];
    let inside = model.tensors().filter_map(|(name, tensor)| {
        let split = split_layer(name)?;
        (split.stack == stack && tensor.spec().float().is_some()).then_some((split, tensor))
    });
    for (split, tensor) in inside {
        let spec = tensor.spec();
        let columns = spec.shape.last().copied().unwrap_or(1).max(1);
        let rows = spec.elements() / columns;
        let rows = spread(rows, LOOKED_AT.div_ceil(columns));
        if let Some(layer) = found.get_mut(split.layer) {
            layer.insert(split.rest.to_string(), rows_of(tensor, &rows, columns)?);
        }
    }
    Ok(found)
}

/// ‖y − x‖/‖y‖ of two layers; none if they do not have the same tensors.
fn distance(child: &Looked, other: &Looked) -> Option<f64> {
    let (mut off, mut own) = (0.0, 0.0);
    for (name, y) in child {
        let x = other.get(name).filter(|x| x.len() == y.len())?;
        for (y, x) in y.iter().zip(x) {
            let difference = f64::from(*y) - f64::from(*x);
            off += difference * difference;
            own += f64::from(*y) * f64::from(*y);
        }
    }
    (own > 0.0).then(|| (off / own).sqrt())
}

/// For each layer of the child the nearest layer of a candidate; none where the child's layers are not
/// numbered in one stack, or a layer's tensors have other shapes than those of every candidate.
///
/// Of layers that are equally near, the one that goes on where the layer below ended is taken.
///
/// # Errors
/// A tensor cannot be read.
pub(super) fn origins(
    child: &Checkpoint,
    candidates: &[&Checkpoint],
) -> Result<Option<Vec<Origin>>> {
    let Some((stack, count)) = layers(child) else { return Ok(None) };
    let own = look(child, &stack, count)?;
    let theirs = Lanes::Pool.collect(0..candidates.len(), |at| match layers(candidates[at]) {
        Some((stack, count)) => look(candidates[at], &stack, count),
        None => Ok(Vec::new()),
    })?;
    let mut origins: Vec<Origin> = Vec::new();
    for layer in &own {
        let all = theirs.iter().enumerate().flat_map(|(candidate, layers)| {
            layers.iter().enumerate().map(move |(at, looked)| (candidate, at, looked))
        });
        let all: Vec<Origin> = all
            .filter_map(|(candidate, at, looked)| {
                let distance = distance(layer, looked)?;
                Some(Origin { candidate, layer: at, distance })
            })
            .collect();
        let Some(least) = all.iter().map(|origin| origin.distance).min_by(f64::total_cmp) else {
            return Ok(None);
        };
        let below = origins.last().copied();
        let goes_on = |origin: &Origin| {
            below.is_some_and(|below| {
                below.candidate == origin.candidate && below.layer + 1 == origin.layer
            })
        };
        let same = |origin: &Origin| below.is_some_and(|below| below.candidate == origin.candidate);
        let nearest = all
            .iter()
            .filter(|origin| origin.distance <= least * (1.0 + 1e-9))
            .min_by_key(|origin| (!goes_on(origin), !same(origin), origin.candidate));
        origins.extend(nearest);
    }
    Ok(Some(origins))
}

/// Layers that follow each other in one candidate, together.
pub(super) fn runs(origins: &[Origin]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for origin in origins {
        match runs.last_mut() {
            Some(run) if run.candidate == origin.candidate && run.layers.end == origin.layer => {
                run.layers.end += 1;
            }
            _ => runs
                .push(Run { candidate: origin.candidate, layers: origin.layer..origin.layer + 1 }),
        }
    }
    runs
}

/// Whether every element of these layers, and of what stands outside them, is that of its origin; with
/// the tensors that are not.
///
/// # Errors
/// A tensor cannot be read.
pub(super) fn differing(
    child: &Checkpoint,
    candidates: &[&Checkpoint],
    origins: &[Origin],
) -> Result<Vec<String>> {
    let names: Vec<Names<'_>> = candidates.iter().map(|model| Names::new(model)).collect();
    let (Some(first), Some(last)) = (origins.first(), origins.last()) else {
        return Ok(Vec::new());
    };
    let tensors: Vec<(&str, &dyn Source)> = child.tensors().collect();
    let differs = Lanes::Pool.collect(0..tensors.len(), |at| {
        let (name, tensor) = tensors[at];
        let equal = |candidate: usize, name: &str| match names[candidate].find(name) {
            Some(other) => equal(tensor, other),
            None => Ok(false),
        };
        let same = match split_layer(name).and_then(|s| Some((s, *origins.get(s.layer)?))) {
            Some((split, origin)) => equal(origin.candidate, &split.renumbered(origin.layer))?,
            None => equal(first.candidate, name)? || equal(last.candidate, name)?,
        };
        Ok((!same).then(|| name.to_string()))
    })?;
    Ok(differs.into_iter().flatten().collect())
}

/// Whether two tensors have the same elements.
pub(super) fn equal(a: &dyn Source, b: &dyn Source) -> Result<bool> {
    const PART: usize = 1 << 14;
    if a.spec().shape != b.spec().shape {
        return Ok(false);
    }
    if let (Some(x), Some(y)) = (a.stored(), b.stored())
        && a.spec().dtype == b.spec().dtype
    {
        return Ok(x == y);
    }
    let elements = a.spec().elements();
    let (mut x, mut y) = (vec![0.0; PART.min(elements)], vec![0.0; PART.min(elements)]);
    let mut start = 0;
    while start < elements {
        let length = PART.min(elements - start);
        a.read(start, &mut x[..length])?;
        b.read(start, &mut y[..length])?;
        if x[..length] != y[..length] {
            return Ok(false);
        }
        start += length;
    }
    Ok(true)
}
