//! Methods on task vectors, δᵢ = xᵢ − base: sparsify each, then merge them onto the base.
//!
//! One family: how a delta is sparsified (not, by magnitude, at random) times how the deltas are
//! merged (summed, or with elected signs).

use super::params::{ANY, Default, FRACTION, Param, ParamKind};
use super::threshold::{BINS, Threshold, thresholds};
use super::{Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::{Kernels, Stream};

const WEIGHT: Param = Param::non_base("weight", ANY, "factor on the model's task vector");
const DENSITY: Param =
    Param::non_base("density", FRACTION, "share of the task vector that is kept")
        .or(Default::Number(1.0));
const LAMBDA: Param =
    Param::shared("lambda", ANY, "factor on the merged task vector").or(Default::Number(1.0));
const INT8_MASK: Param = Param::shared(
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
const VARIANTS: ParamKind = ParamKind::Choice(&["mergekit", "paper"]);
const DARE_VARIANT: Param = Param::shared(
    "variant",
    VARIANTS,
    "`paper`: rescale by exactly 1/density instead of to the L1 norm",
)
.or(Default::Choice("mergekit"));
const TIES_VARIANT: Param =
    Param::shared("variant", VARIANTS, "`paper`: trim over the whole model instead of per tensor")
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
    notes: include_str!("notes/task_arithmetic.md"),
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
    notes: include_str!("notes/ties.md"),
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
    trims_model: |p| p.chose("variant", "paper"),
    prepare: |io, p| prepare(io, p, Sparsify::Magnitude, Merge::Elect),
    ..STREAMED
};

pub(super) const DARE_LINEAR: Method = Method {
    name: "dare_linear",
    summary: "Drops elements of each task vector at random, rescales the rest, and adds them up.",
    formula: "δ̂ᵢ = mᵢ∘δᵢ·‖δᵢ‖₁/‖mᵢ∘δᵢ‖₁, mᵢ ~ Bernoulli(density); out = base + λ·Σ wᵢ·δ̂ᵢ",
    reference: "Yu et al. 2023, Language models are super Mario, arXiv 2311.03099",
    notes: include_str!("notes/dare_linear.md"),
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
    notes: include_str!("notes/dare_ties.md"),
    prepare: |io, p| prepare(io, p, Sparsify::Random, Merge::Elect),
    ..DARE_LINEAR
};

/// How a task vector is sparsified.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sparsify {
    Not,
    Magnitude,
    Random,
}

/// How sparse task vectors are merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merge {
    Sum,
    Elect,
}

/// What happens to one task vector: some elements become 0, the rest are multiplied by `factor`.
#[derive(Clone, Copy, Debug)]
struct Sparse {
    keep: Keep,
    factor: f32,
}

#[derive(Clone, Copy, Debug)]
enum Keep {
    All,
    Nothing,
    Largest(Threshold),
    Random { stream: Stream, below: u32 },
}

impl Sparse {
    /// Turns the delta of elements `start..` into its sparse, weighted form.
    fn apply(self, kernels: Kernels, start: usize, delta: &mut [f32]) {
        match self.keep {
            Keep::All => {}
            Keep::Nothing => return delta.fill(0.0),
            Keep::Largest(threshold) => {
                kernels.trim(threshold.pattern, threshold.ties_end.saturating_sub(start), delta);
            }
            Keep::Random { stream, below } => {
                return kernels.drop_random(stream, start, below, self.factor, delta);
            }
        }
        if self.factor != 1.0 {
            kernels.multiply(self.factor, delta);
        }
    }
}

fn prepare(io: &TensorIo<'_>, p: &Params, sparsify: Sparsify, merge: Merge) -> Result<Map> {
    let base = io.base()?;
    let weights = p.each("weight");
    let sparse = sparse_deltas(io, p, sparsify, &weights)?;
    let lambda = p.number("lambda")?;
    let normalize = p.flag("normalize")?;
    let kernels = io.kernels();
    let make_deltas = move |start: usize, inputs: &mut [Vec<f32>]| {
        // The base goes first, so that the deltas are one slice.
        inputs[..=base].rotate_right(1);
        if let Some((base, deltas)) = inputs.split_first_mut() {
            for (delta, sparse) in deltas.iter_mut().zip(&sparse) {
                kernels.subtract(base, delta);
                sparse.apply(kernels, start, delta);
            }
        }
    };
    Ok(match merge {
        Merge::Sum => {
            let total: f64 = weights.iter().sum();
            let divisor = if normalize && total.abs() >= 1e-8 { total } else { 1.0 };
            let factor = (lambda / divisor) as f32;
            Map::new(move |start, inputs, out| {
                make_deltas(start, inputs);
                out.fill(0.0);
                for delta in &inputs[1..] {
                    kernels.add_scaled(1.0, delta, out);
                }
                kernels.add_to_base(&inputs[0], factor, out);
                restore(inputs, base);
            })
        }
        Merge::Elect => {
            let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
            let lambda = lambda as f32;
            Map::new(move |start, inputs, out| {
                make_deltas(start, inputs);
                let divide_by = normalize.then_some(weights.as_slice());
                kernels.elect(&inputs[1..], &inputs[0], divide_by, lambda, out);
                restore(inputs, base);
            })
        }
    })
}

/// Puts the buffers back in input order.
fn restore(inputs: &mut [Vec<f32>], base: usize) {
    inputs[..=base].rotate_left(1);
}

/// What to keep of each model's delta, and the factor on it: its weight times the rescaling.
fn sparse_deltas(
    io: &TensorIo<'_>,
    p: &Params,
    sparsify: Sparsify,
    weights: &[f64],
) -> Result<Vec<Sparse>> {
    let others = io.others()?;
    let densities = p.each("density");
    let mut keeps = Vec::new();
    for (input, density) in others.iter().zip(&densities) {
        keeps.push(match sparsify {
            Sparsify::Not => Keep::All,
            _ if *density >= 1.0 => Keep::All,
            _ if *density <= 0.0 => Keep::Nothing,
            Sparsify::Magnitude => Keep::All, // replaced below, once counted
            Sparsify::Random => Keep::Random {
                stream: io.stream(*input),
                below: (density * 4_294_967_296.0) as u32,
            },
        });
    }
    if sparsify == Sparsify::Magnitude {
        let found = if p.chose("variant", "paper") {
            io.model_thresholds()?.to_vec()
        } else {
            thresholds(io, &densities)?
        };
        for (keep, threshold) in keeps.iter_mut().zip(found) {
            if let Some(threshold) = threshold {
                *keep = Keep::Largest(threshold);
            }
        }
    }
    let rescales = rescales(io, p, &keeps, &densities)?;
    let factors = weights.iter().zip(&rescales).map(|(weight, rescale)| (weight * rescale) as f32);
    Ok(keeps.into_iter().zip(factors).map(|(keep, factor)| Sparse { keep, factor }).collect())
}

/// Norms below this are not rescaled to.
const ZERO_NORM: f64 = 1e-7;

/// The factor that restores what sparsifying took away: the ratio of L1 norms, or 1/density.
fn rescales(io: &TensorIo<'_>, p: &Params, keeps: &[Keep], densities: &[f64]) -> Result<Vec<f64>> {
    let sparse = |keep: &Keep| !matches!(keep, Keep::All | Keep::Nothing);
    if !p.flag("rescale")? || !keeps.iter().any(sparse) {
        return Ok(vec![1.0; keeps.len()]);
    }
    let random = keeps.iter().any(|keep| matches!(keep, Keep::Random { .. }));
    if random && p.chose("variant", "paper") {
        let inverse =
            |(keep, density): (&Keep, &f64)| if sparse(keep) { 1.0 / density } else { 1.0 };
        return Ok(keeps.iter().zip(densities).map(inverse).collect());
    }
    let base = io.base()?;
    let others = io.others()?;
    let kernels = io.kernels();
    let norms = io.sums(2 * keeps.len(), |start, inputs, sums| {
        let origin = std::mem::take(&mut inputs[base]);
        for (i, (input, keep)) in others.iter().zip(keeps).enumerate() {
            if !sparse(keep) {
                continue;
            }
            let delta = &mut inputs[*input];
            kernels.subtract(&origin, delta);
            let [all, kept] = match keep {
                Keep::Random { stream, below } => {
                    kernels.l1_and_kept(*stream, start, *below, delta)
                }
                keep => {
                    let all = kernels.l1(delta);
                    Sparse { keep: *keep, factor: 1.0 }.apply(kernels, start, delta);
                    [all, kernels.l1(delta)]
                }
            };
            sums[2 * i] += all;
            sums[2 * i + 1] += kept;
        }
        inputs[base] = origin;
    })?;
    let ratio = |norms: &[f64]| match norms {
        [before, after] if *before >= ZERO_NORM && *after >= ZERO_NORM => before / after,
        _ => 1.0,
    };
    Ok(norms.chunks(2).map(ratio).collect())
}
