//! Interpolation of any number of models on a sphere.

use super::gram::{Gram, Vectors};
use super::params::{ANY, Default, Param, ParamKind};
use super::{Base, Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::{Error, Result};

pub(super) const METHOD: Method = Method {
    name: "multislerp",
    summary: "Weighted mean of the models' directions (or of their task vectors') at their mean length.",
    formula: "uᵢ = vᵢ/(‖vᵢ‖+ε); m = Σ wᵢ·uᵢ; out = (Σ wᵢ·‖vᵢ‖)·cos ε · m/‖m‖, vᵢ = xᵢ or, with a base, out = base + …, vᵢ = xᵢ − base",
    reference: "Goddard 2025, Multi-SLERP, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    notes: include_str!("notes/multislerp.md"),
    base: Base::Optional,
    params: &[
        Param::non_base("weight", ANY, "the model's share"),
        Param::shared("normalize_weights", ParamKind::Bool, "divide the weights by their sum")
            .or(Default::Bool(true)),
        Param::shared("eps", POSITIVE, "a length that counts as 0, and is added to every length")
            .or(Default::Number(1e-8))
            .clamped(),
    ],
    reads: Reads::Stream { passes: 2, bins: 0 },
    check,
    prepare,
    ..STREAMED
};

/// Numbers from 0 on.
const POSITIVE: ParamKind = ParamKind::Number { min: 0.0, max: f64::MAX };
/// A mean of directions counts as 0 where it is this far below the weights: there it is rounding.
const ROUNDING: f64 = 1e-7;

fn check(p: &Params) -> Result<(), String> {
    let weights = p.each("weight");
    let normalize = p.flag("normalize_weights").unwrap_or(true);
    if weights.len() > 1 && normalize && weights.iter().sum::<f64>() == 0.0 {
        return Err("the weights sum to 0, so they cannot be normalised".to_string());
    }
    Ok(())
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let vectors = Vectors::relative(io);
    if vectors.size() == 1 {
        return Ok(Map::Copy(usize::from(io.origin() == Some(0))));
    }
    let mut weights = p.each("weight");
    if p.flag("normalize_weights")? {
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= total);
    }
    let factors = factors(&vectors.gram(io)?, &weights, p.number("eps")?);
    factors.map(|factors| vectors.combine(&factors)).map_err(|length| {
        Error::input(
            "the weighted directions of the models cancel out, so they have no mean on a sphere",
        )
        .tensor(io.name())
        .fact("weights", format!("{weights:?}"))
        .fact("length", format!("{length:.1e}"))
        .hint("give the models other weights, or merge with `linear` or `task_arithmetic`")
    })
}

/// The factor on each vector, or the length of a mean that is 0.
///
/// At the weighted mean m of the directions, the weighted sum of their tangents is 0:
/// `Σ wᵢ(uᵢ − (uᵢ·m̂)m̂) = m − (m·m̂)m̂`. So the exponential map goes nowhere but by ε, which is part
/// of the tangent's length in the method's definition.
fn factors(gram: &Gram, weights: &[f64], eps: f64) -> Result<Vec<f64>, f64> {
    let norms: Vec<f64> = (0..gram.size()).map(|i| gram.norm(i)).collect();
    let unit = |(weight, norm): (&f64, &f64)| if *norm > 0.0 { weight / (norm + eps) } else { 0.0 };
    let mean: Vec<f64> = weights.iter().zip(&norms).map(unit).collect();
    let length = gram.norm_of(&mean);
    let total: f64 = weights.iter().map(|weight| weight.abs()).sum();
    if length < eps.max(ROUNDING * total) {
        let zero = norms.iter().all(|norm| *norm == 0.0);
        return if gram.size() == 2 || zero { Ok(weights.to_vec()) } else { Err(length) };
    }
    let mean_norm: f64 = weights.iter().zip(&norms).map(|(weight, norm)| weight * norm).sum();
    Ok(mean.into_iter().map(|part| mean_norm * eps.cos() * part / length).collect())
}
