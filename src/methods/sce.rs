//! SCE: select by variance over the models, calculate shares, erase minority signs.

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
        .or(Default::Number(1.0)),
        INT8_MASK,
    ],
    reads: Reads::Stream { passes: 3, bins: BINS },
    prepare,
    ..STREAMED
};

/// Where the mean squares of all models add up to less than this, each has the same share.
const ZERO_SQUARES: f64 = 1e-6;
/// What the sum of the agreeing shares counts at least.
const LEAST_SHARE: f32 = 1e-6;

/// Which elements are merged.
#[derive(Clone, Copy)]
enum Select {
    All,
    Nothing,
    Varying(Threshold),
}

impl Select {
    /// Zeroes what is not selected of the deltas of elements `start..`; `variance` is overwritten.
    fn apply(self, kernels: Kernels, start: usize, deltas: &mut [Vec<f32>], variance: &mut [f32]) {
        let Self::Varying(threshold) = self else { return };
        kernels.variance(deltas, variance);
        kernels.trim(threshold.pattern, threshold.ties(start), variance);
        deltas.iter_mut().for_each(|delta| kernels.keep_where(variance, delta));
    }
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let base = io.base()?;
    let kernels = io.kernels();
    let select = select(io, p.number("select_topk")?)?;
    if matches!(select, Select::Nothing) || io.others()?.is_empty() {
        return Ok(Map::Copy(base));
    }
    let models = io.others()?.len();
    let squares = io.sums(models, |start, inputs, sums| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            select.apply(kernels, start, deltas, &mut vec![0.0; base.len()]);
            for (sum, delta) in sums.iter_mut().zip(deltas) {
                kernels.add_gram(std::slice::from_ref(delta), std::slice::from_mut(sum));
            }
        });
    })?;
    let shares = shares(&squares, io.elements());
    Ok(Map::new(move |start, inputs, out| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            select.apply(kernels, start, deltas, out);
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
