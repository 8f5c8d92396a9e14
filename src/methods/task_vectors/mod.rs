//! Methods on task vectors, δᵢ = xᵢ − base: sparsify each, then merge them onto the base.
//!
//! One family: how a delta is sparsified (not, by magnitude, at random) times how the deltas are
//! merged (summed, or with elected signs).

mod sparse;

use super::decisions::decision_bytes;
use super::deltas::with_deltas;
use super::params::{ANY, Default, FRACTION, Param, ParamKind};
use super::threshold::{BINS, THRESHOLDS};
use super::{Map, Method, Params, Reads, STREAMED, row_bytes};
use crate::engine::TensorIo;
use crate::error::Result;
use sparse::{Sparsify, sparse_deltas};

pub(super) const WEIGHT: Param =
    Param::non_base("weight", ANY, "factor on the model's task vector");
const DENSITY: Param =
    Param::non_base("density", FRACTION, "share of the task vector that is kept")
        .or(Default::Number(1.0))
        .clamped();
pub(super) const LAMBDA: Param =
    Param::shared("lambda", ANY, "factor on the merged task vector").or(Default::Number(1.0));
pub(super) const INT8_MASK: Param = Param::shared(
    "int8_mask",
    ParamKind::Bool,
    "accepted for mergekit's recipes; masks take no memory here",
)
.or(Default::Bool(false));
const NORMALIZE: Param = Param::shared(
    "normalize",
    ParamKind::Bool,
    "divide by the sum of the weights (where signs are elected: of those that agree)",
);
const RESCALE: Param = Param::shared(
    "rescale",
    ParamKind::Bool,
    "restore the task vector's L1 norm after sparsifying",
);
pub(super) const VARIANTS: ParamKind = ParamKind::Choice(&["mergekit", "paper"]);
const DARE_VARIANT: Param = Param::shared(
    "variant",
    VARIANTS,
    "`paper`: rescale by exactly 1/density instead of to the L1 norm",
)
.or(Default::Choice("mergekit"));
const TIES_VARIANT: Param =
    Param::shared("variant", VARIANTS, "`paper`: trim over the whole model instead of per tensor")
        .or(Default::Choice("mergekit"));

const GAMMA: Param =
    Param::non_base("gamma", FRACTION, "share of the task vector, its largest, that is dropped")
        .or(Default::Number(0.01))
        .clamped();
const EPSILON: Param = Param::non_base(
    "epsilon",
    ANY,
    "how far the probability to keep an element may lie from the density",
)
.or(Default::Number(0.15));
const BREADCRUMBS_VARIANT: Param = Param::shared(
    "variant",
    VARIANTS,
    "`paper`: drop the largest share also where it and the density exceed 1",
)
.or(Default::Choice("mergekit"));
const DELLA_VARIANT: Param = Param::shared(
    "variant",
    VARIANTS,
    "`paper`: divide each element by its own probability instead of rescaling to the L1 norm",
)
.or(Default::Choice("mergekit"));

/// Parameters that mergekit's task arithmetic has, too, and that do nothing there either.
const IGNORED_DENSITY: Param =
    Param { doc: "accepted for mergekit's recipes; has no effect here", ..DENSITY };
const IGNORED_RESCALE: Param = Param {
    doc: "accepted for mergekit's recipes; has no effect here",
    ..RESCALE.or(Default::Bool(false))
};

pub(super) const TASK_ARITHMETIC: Method = Method {
    name: "task_arithmetic",
    summary: "Adds the weighted task vectors to the base.",
    formula: "out = base + λ·Σ wᵢ·δᵢ; with normalize, divided by Σ wᵢ",
    reference: "Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089",
    notes: include_str!("../notes/task_arithmetic.md"),
    params: &[
        WEIGHT,
        IGNORED_DENSITY,
        LAMBDA,
        NORMALIZE.or(Default::Bool(false)),
        IGNORED_RESCALE,
        INT8_MASK,
    ],
    prepare: |io, p| prepare(io, p, Sparsify::Not, Merge::Sum),
    ..STREAMED
};

pub(super) const TIES: Method = Method {
    name: "ties",
    summary: "Keeps the largest part of each task vector, elects a sign per element, averages those that agree.",
    formula: "δ̂ᵢ = the int(density·n) largest of δᵢ (at least 1 where density > 0); s = sign Σ wᵢδ̂ᵢ; out = base + λ·Σ_{agree} wᵢδ̂ᵢ / Σ_{agree} wᵢ",
    reference: "Yadav et al. 2023, TIES-Merging, arXiv 2306.01708",
    notes: include_str!("../notes/ties.md"),
    params: &[
        WEIGHT,
        DENSITY,
        LAMBDA,
        NORMALIZE.or(Default::Bool(true)),
        RESCALE.or(Default::Bool(false)),
        INT8_MASK,
        TIES_VARIANT,
    ],
    reads: Reads::Stream { passes: 3, bins: BINS },
    survey: |p| p.chose("variant", "paper").then_some(&THRESHOLDS),
    prepare: |io, p| prepare(io, p, Sparsify::Magnitude, Merge::Elect),
    ..STREAMED
};

pub(super) const DARE_LINEAR: Method = Method {
    name: "dare_linear",
    summary: "Drops elements of each task vector at random, rescales the rest, and adds them up.",
    formula: "δ̂ᵢ = mᵢ∘δᵢ·‖δᵢ‖₁/‖mᵢ∘δᵢ‖₁, mᵢ ~ Bernoulli(density); out = base + λ·Σ wᵢ·δ̂ᵢ",
    reference: "Yu et al. 2023, Language models are super Mario, arXiv 2311.03099",
    notes: include_str!("../notes/dare_linear.md"),
    params: &[
        WEIGHT,
        DENSITY,
        LAMBDA,
        NORMALIZE.or(Default::Bool(false)),
        RESCALE.or(Default::Bool(true)),
        INT8_MASK,
        DARE_VARIANT,
    ],
    reads: Reads::Stream { passes: 2, bins: 0 },
    prepare: |io, p| prepare(io, p, Sparsify::Random, Merge::Sum),
    ..STREAMED
};

pub(super) const DARE_TIES: Method = Method {
    name: "dare_ties",
    summary: "Drops elements of each task vector at random, rescales the rest, and merges with elected signs.",
    formula: "δ̂ᵢ as in dare_linear; s = sign Σ wᵢδ̂ᵢ; out = base + λ·Σ_{agree} wᵢδ̂ᵢ; with normalize, divided by Σ_{agree} wᵢ",
    notes: include_str!("../notes/dare_ties.md"),
    prepare: |io, p| prepare(io, p, Sparsify::Random, Merge::Elect),
    ..DARE_LINEAR
};

pub(super) const BREADCRUMBS: Method = Method {
    name: "breadcrumbs",
    summary: "Drops the largest and the smallest part of each task vector, and adds up the rest.",
    formula: "δ̂ᵢ = δᵢ without its int(γ·n) largest, of the rest the int(density·n) largest; out = base + λ·Σ wᵢ·δ̂ᵢ",
    reference: "Davari and Belilovsky 2023, Model Breadcrumbs, arXiv 2312.06795",
    notes: include_str!("../notes/breadcrumbs.md"),
    params: &[
        WEIGHT,
        DENSITY,
        GAMMA,
        LAMBDA,
        NORMALIZE.or(Default::Bool(false)),
        RESCALE.or(Default::Bool(false)),
        INT8_MASK,
        BREADCRUMBS_VARIANT,
    ],
    // Two thresholds of each task vector.
    reads: Reads::Stream { passes: 3, bins: 2 * BINS + 3 },
    prepare: |io, p| prepare(io, p, Sparsify::Band, Merge::Sum),
    ..STREAMED
};

pub(super) const BREADCRUMBS_TIES: Method = Method {
    name: "breadcrumbs_ties",
    summary: "Drops the largest and the smallest part of each task vector, and merges with elected signs.",
    formula: "δ̂ᵢ as in breadcrumbs; s = sign Σ wᵢδ̂ᵢ; out = base + λ·Σ_{agree} wᵢδ̂ᵢ; with normalize, divided by Σ_{agree} wᵢ",
    notes: include_str!("../notes/breadcrumbs_ties.md"),
    prepare: |io, p| prepare(io, p, Sparsify::Band, Merge::Elect),
    ..BREADCRUMBS
};

pub(super) const DELLA_LINEAR: Method = Method {
    name: "della_linear",
    summary: "Drops elements of each task vector at random, small ones more often, rescales the rest, and adds them up.",
    formula: "δ̂ᵢ = mᵢ∘δᵢ·‖δᵢ‖₁/‖mᵢ∘δᵢ‖₁, mᵢ ~ Bernoulli(p), p from density − ε to density + ε by rank in the row; out = base + λ·Σ wᵢ·δ̂ᵢ",
    reference: "Deep et al. 2024, DELLA-Merging, arXiv 2406.11617",
    notes: include_str!("../notes/della_linear.md"),
    params: &[
        WEIGHT,
        DENSITY,
        EPSILON,
        LAMBDA,
        NORMALIZE.or(Default::Bool(false)),
        RESCALE.or(Default::Bool(true)),
        INT8_MASK,
        DELLA_VARIANT,
    ],
    reads: Reads::Stream { passes: 2, bins: 0 },
    holds: ranked_row_bytes,
    check: odds_lie_within,
    prepare: |io, p| prepare(io, p, Sparsify::Ranked, Merge::Sum),
    ..STREAMED
};

pub(super) const DELLA: Method = Method {
    name: "della",
    summary: "Drops elements of each task vector at random, small ones more often, rescales the rest, and merges with elected signs.",
    formula: "δ̂ᵢ as in della_linear; s = sign Σ wᵢδ̂ᵢ; out = base + λ·Σ_{agree} wᵢδ̂ᵢ / Σ_{agree} wᵢ",
    notes: include_str!("../notes/della.md"),
    params: &[
        WEIGHT,
        DENSITY,
        EPSILON,
        LAMBDA,
        NORMALIZE.or(Default::Bool(true)),
        RESCALE.or(Default::Bool(true)),
        INT8_MASK,
        DELLA_VARIANT,
    ],
    prepare: |io, p| prepare(io, p, Sparsify::Ranked, Merge::Elect),
    ..DELLA_LINEAR
};

/// Rows; for one of them buckets, halves of numbers, undecided elements, keys and ranks for sorting; and
/// decisions on all, where they are made before the map.
fn ranked_row_bytes(p: &Params, inputs: usize, shape: &[usize]) -> u64 {
    let columns = shape.last().copied().unwrap_or(1).max(1);
    let rows = shape.iter().product::<usize>() / columns;
    let decides = p.flag("rescale").unwrap_or(true) && !p.chose("variant", "paper");
    let decided = if decides { decision_bytes(rows * inputs, columns) } else { 0 };
    row_bytes(p, inputs, shape) + 24 * columns as u64 + decided
}

/// What DELLA's probabilities must be where anything is dropped.
fn odds_lie_within(p: &Params) -> std::result::Result<(), String> {
    for (density, epsilon) in p.each("density").into_iter().zip(p.each("epsilon")) {
        let (least, most) = (density - epsilon.abs(), density + epsilon.abs());
        if density > 0.0 && density < 1.0 && (least <= 0.0 || most >= 1.0) {
            return Err(format!(
                "`density` {density} with `epsilon` {epsilon} keeps elements with probabilities from {least} to {most}; they have to be above 0 and below 1"
            ));
        }
    }
    Ok(())
}

/// How sparse task vectors are merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merge {
    Sum,
    Elect,
}

fn prepare(io: &TensorIo<'_>, p: &Params, sparsify: Sparsify, merge: Merge) -> Result<Map> {
    let base = io.base()?;
    let weights = p.each("weight");
    let sparse = sparse_deltas(io, p, sparsify, &weights)?;
    let lambda = p.number("lambda")?;
    let normalize = p.flag("normalize")?;
    let kernels = io.kernels();
    let total: f64 = weights.iter().sum();
    let divisor = if normalize && total.abs() >= 1e-8 { total } else { 1.0 };
    let factor = (lambda / divisor) as f32;
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let map = move |start: usize, inputs: &mut [Vec<f32>], out: &mut [f32]| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            for (delta, sparse) in deltas.iter_mut().zip(&sparse) {
                sparse.apply(kernels, start, delta);
            }
            match merge {
                Merge::Sum => {
                    out.fill(0.0);
                    for delta in &*deltas {
                        kernels.add_scaled(1.0, delta, out);
                    }
                    kernels.add_to_base(base, factor, out);
                }
                Merge::Elect => {
                    let divide_by = normalize.then_some(weights.as_slice());
                    kernels.elect(deltas, base, divide_by, lambda as f32, out);
                }
            }
        });
    };
    if sparsify != Sparsify::Ranked {
        return Ok(Map::new(map));
    }
    let columns = io.columns();
    Ok(Map::rows(move |row, inputs, out| map(row * columns, inputs, out)))
}
