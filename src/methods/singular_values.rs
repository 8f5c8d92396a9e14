//! Post-steps on the singular values of the merged task matrix.

use super::Map;
use super::params::{Default, FRACTION, Param, ParamKind};
use super::posts::{PLAIN, Post, Step};
use super::task_matrix::{held, onto_base};
use crate::engine::TensorIo;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Svd, product, rescale, svd};

pub(super) const SUBSPACE_BOOSTING: Post = Post {
    name: "subspace_boosting",
    summary: "Raises the least singular values of the merged task matrix to a common level.",
    formula: "UΣVᵀ = merged − base; σ̂ⱼ = max(σⱼ, σ_c), c the first with σ₁ + … + σ_c ≥ β·Σ σⱼ; out = base + U·Σ̂·Vᵀ in layers' matrices",
    reference: "Skorobogat et al. 2025, Subspace-Boosted Model Merging, arXiv 2506.16506",
    notes: include_str!("notes/subspace_boosting.md"),
    params: &[Param::shared(
        "beta",
        FRACTION,
        "share of the singular values' sum at which those that follow are raised",
    )
    .or(Default::Number(0.01))],
    whole: |_, shape| held(shape, 4, shape.0.min(shape.1), 5),
    prepare: boost,
    ..PLAIN
};

pub(super) const SVC: Post = Post {
    name: "svc",
    summary: "Shrinks the directions of the merged task matrix that several tasks share and that add up.",
    formula: "UΣVᵀ = merged − base; sⱼⁱ = ⟨uⱼᵀ(merged − base), uⱼᵀδᵢ⟩/‖uⱼᵀδᵢ‖²; σ̂ⱼ = σⱼ·K/Σᵢ max(α, sⱼⁱ); out = base + U·Σ̂·Vᵀ in layers' matrices",
    reference: "Li et al. 2026, When Shared Knowledge Hurts, arXiv 2602.05536",
    notes: include_str!("notes/svc.md"),
    params: &[Param::shared(
        "alpha",
        ParamKind::Number { min: 0.0, max: f64::MAX },
        "what a task counts at least in the mean that a direction is divided by",
    )
    .or(Default::Number(0.1))],
    whole: |_, shape| held(shape, 6, shape.0.min(shape.1), 5),
    prepare: calibrate,
    ..PLAIN
};

/// merged − base, in f32, of a weight matrix of a layer.
fn merged(io: &TensorIo<'_>, map: &Map, shape: (usize, usize)) -> Result<Matrix> {
    let mut merged = Matrix::zeros(shape.0, shape.1);
    io.mapped(map, |start, values| {
        let merged = &mut merged.values_mut()[start..start + values.len()];
        // A NaN that is kept counts as 0, and is put back by the map.
        let number = |x: &f32| if x.is_nan() { 0.0 } else { f64::from(*x) };
        merged.iter_mut().zip(values).for_each(|(merged, x)| *merged = number(x));
    })?;
    io.whole(&[io.base()?], |start, inputs| {
        let base = &inputs[0];
        let merged = &mut merged.values_mut()[start..start + base.len()];
        for (merged, base) in merged.iter_mut().zip(base) {
            *merged = f64::from(*merged as f32 - base);
        }
    })?;
    if merged.is_finite() {
        return Ok(merged);
    }
    Err(Error::input("what was merged is not finite, so that its matrix cannot be taken apart")
        .hint("an input holds an infinity, or a factor is too large"))
}

fn boost(io: &TensorIo<'_>, map: Map, step: &Step) -> Result<Map> {
    let Some(shape) = io.matrix() else { return Ok(map) };
    let beta = step.params.number("beta")?;
    let merged = merged(io, &map, shape)?;
    let raised = rescale(io.kernels(), merged.view(), |values| {
        let level = level(values, beta);
        move |value: f64| (level / value).max(1.0)
    })?;
    onto_base(io, &raised, 1.0)
}

/// The first singular value at which the sum reaches its share.
fn level(values: &[f64], beta: f64) -> f64 {
    let total: f64 = values.iter().sum();
    let mut sum = 0.0;
    let reached = values.iter().find(|value| {
        sum += **value;
        sum >= beta * total
    });
    reached.or(values.last()).copied().unwrap_or(0.0)
}

fn calibrate(io: &TensorIo<'_>, map: Map, step: &Step) -> Result<Map> {
    let Some(shape) = io.matrix().filter(|_| !step.tasks.is_empty()) else { return Ok(map) };
    let (alpha, base, kernels) = (step.params.number("alpha")?, io.base()?, io.kernels());
    let mut merged = merged(io, &map, shape)?;
    let Svd { left, .. } = svd(kernels, merged.view(), usize::MAX)?;
    let mut along = product(kernels, left.view(), merged.view());
    let mut divisors = vec![0.0; along.shape().0];
    for task in &step.tasks {
        let mut delta = Matrix::zeros(shape.0, shape.1);
        io.whole(&[base, *task], |start, inputs| {
            if let [base, own] = inputs {
                kernels.subtract(base, own);
                let delta = &mut delta.values_mut()[start..start + own.len()];
                delta.iter_mut().zip(&*own).for_each(|(delta, x)| *delta = f64::from(*x));
            }
        })?;
        let own = product(kernels, left.view(), delta.view());
        for (j, divisor) in divisors.iter_mut().enumerate() {
            let dot: f64 = along.row(j).iter().zip(own.row(j)).map(|(a, b)| a * b).sum();
            let square: f64 = own.row(j).iter().map(|x| x * x).sum();
            *divisor += alpha.max(if square > 0.0 { dot / square } else { 0.0 });
        }
    }
    // A direction that no task has stays as it is where alpha is 0.
    let count = step.tasks.len() as f64;
    let change = |divisor: &f64| if *divisor > 0.0 { count / divisor - 1.0 } else { 0.0 };
    let changes: Vec<f64> = divisors.iter().map(change).collect();
    along.scale_rows(&changes);
    let change = product(kernels, left.t(), along.view());
    merged.values_mut().iter_mut().zip(change.values()).for_each(|(x, change)| *x += change);
    onto_base(io, &merged, 1.0)
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn the_level_is_where_the_sum_reaches_its_share() {
        let values = [5.0, 3.0, 1.0, 1.0];
        for (beta, wanted) in
            [(0.0, 5.0), (0.5, 5.0), (0.51, 3.0), (0.8, 3.0), (0.85, 1.0), (1.0, 1.0)]
        {
            assert_eq!(level(&values, beta), wanted, "{beta}");
        }
        assert_eq!(level(&[], 0.5), 0.0);
    }
}
