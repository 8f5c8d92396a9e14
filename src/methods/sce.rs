//! SCE: select by variance over the models, calculate shares, erase minority signs.

use super::decisions::{Deciding, decision_bytes};
use super::deltas::with_deltas;
use super::params::{Default, FRACTION, Param};
use super::task_vectors::INT8_MASK;
use super::threshold::{BINS, Threshold, Wanted, largest};
use super::{Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::Kernels;

pub(super) const METHOD: Method = Method {
    name: "sce",
    summary: "Keeps the elements in which the models vary most, weighs models by what is left, and merges with elected signs.",
    formula: "δ̂ᵢ = δᵢ at the int(select_topk·n) largest variances, n those above 0; ηᵢ = ‖δ̂ᵢ‖² / Σ ‖δ̂ⱼ‖²; s = sign Σ δ̂ᵢ; out = base + Σ_{agree} ηᵢδ̂ᵢ / Σ_{agree} ηᵢ",
    reference: "Wan et al. 2024, FuseChat, arXiv 2408.07990",
    notes: include_str!("notes/sce.md"),
    params: &[
        Param::shared(
            "select_topk",
            FRACTION,
            "share of the elements that is kept: those with the largest variance over the models",
        )
        .or(Default::Number(1.0))
        .clamped(),
        INT8_MASK,
    ],
    reads: Reads::Stream { passes: 3, bins: BINS },
    holds: selected_bytes,
    prepare,
    ..STREAMED
};

/// Where the mean squares of all models add up to less than this, each has the same share.
const ZERO_SQUARES: f64 = 1e-6;
/// What the sum of the agreeing shares counts at least.
const LEAST_SHARE: f32 = 1e-6;

/// Which elements are merged.
enum Select {
    All,
    Nothing,
    Varying(Threshold),
}

/// Elements of a run of decisions: tiles begin at multiples of it.
const RUN: usize = 128;

/// Which elements are selected, a bit each, where that is neither all nor none.
fn selected_bytes(p: &Params, _: usize, shape: &[usize]) -> u64 {
    let share = p.number("select_topk").unwrap_or(1.0);
    let some = share > 0.0 && share < 1.0;
    if some { decision_bytes(shape.iter().product::<usize>().div_ceil(RUN), RUN) } else { 0 }
}

/// The mask of the selected elements of a tile; `variance` is overwritten.
fn mask(
    kernels: Kernels,
    threshold: Threshold,
    start: usize,
    deltas: &[Vec<f32>],
    variance: &mut [f32],
) -> Vec<u64> {
    kernels.variance(deltas, variance);
    kernels.trim(threshold.pattern, threshold.ties(start), variance);
    let mut mask = vec![0; variance.len().div_ceil(64)];
    kernels.mark_nonzero(variance, &mut mask);
    mask
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let base = io.base()?;
    let kernels = io.kernels();
    let select = select(io, p.number("select_topk")?)?;
    let threshold = match select {
        _ if io.others()?.is_empty() => return Ok(Map::Copy(base)),
        Select::Nothing => return Ok(Map::Copy(base)),
        Select::All => None,
        Select::Varying(threshold) => Some(threshold),
    };
    let keep = move |mask: &[u64], deltas: &mut [Vec<f32>]| {
        deltas.iter_mut().for_each(|delta| kernels.multiply_kept(mask, 1.0, delta));
    };
    let runs = if threshold.is_some() { io.elements().div_ceil(RUN) } else { 0 };
    let deciding = Deciding::new(io, runs, RUN);
    let squares = io.sums(io.others()?.len(), |start, inputs, sums| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            if let Some(threshold) = threshold {
                let mask = mask(kernels, threshold, start, deltas, &mut vec![0.0; base.len()]);
                deciding.set(start / RUN, &mask);
                keep(&mask, deltas);
            }
            for (sum, delta) in sums.iter_mut().zip(deltas) {
                kernels.add_gram(std::slice::from_ref(delta), std::slice::from_mut(sum));
            }
        });
    })?;
    let shares = shares(&squares, io.elements());
    let decided = deciding.done();
    Ok(Map::new(move |start, inputs, out| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            let runs = start / RUN..(start + base.len()).div_ceil(RUN);
            match (threshold, decided.get(runs)) {
                (None, _) => {}
                (Some(_), Some(mask)) => keep(mask, deltas),
                (Some(threshold), None) => {
                    keep(&mask(kernels, threshold, start, deltas, out), deltas);
                }
            }
            kernels.elect_then_weigh(deltas, base, &shares, LEAST_SHARE, out);
        });
    }))
}

/// The elements with the largest variance over the models.
fn select(io: &TensorIo<'_>, share: f64) -> Result<Select> {
    if share >= 1.0 {
        return Ok(Select::All);
    }
    if share <= 0.0 || io.elements() == 0 {
        return Ok(Select::Nothing);
    }
    let (base, kernels) = (io.base()?, io.kernels());
    let found = largest(io, &[(0, Wanted::OfNonzero(share))], &|inputs, visit| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            let mut variance = vec![0.0; base.len()];
            kernels.variance(deltas, &mut variance);
            visit(0, &variance);
        });
    })?;
    Ok(found.first().map_or(Select::Nothing, |threshold| Select::Varying(*threshold)))
}

/// Each model's share of the squares.
fn shares(squares: &[f64], elements: usize) -> Vec<f32> {
    let total: f64 = squares.iter().sum();
    if total.abs() < ZERO_SQUARES * elements as f64 {
        return vec![(1.0 / squares.len() as f64) as f32; squares.len()];
    }
    squares.iter().map(|square| (square / total) as f32).collect()
}
