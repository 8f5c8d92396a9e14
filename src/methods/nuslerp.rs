//! Spherical interpolation between two models, or between their task vectors.

use super::gram::{Gram, Vectors, collinear, row_bytes_if};
use super::params::{ANY, Default, Param, ParamKind};
use super::{Base, Inputs, Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

pub(super) const METHOD: Method = Method {
    name: "nuslerp",
    summary: "Spherical interpolation between two models, or their task vectors, by weight; of tensors, rows or columns.",
    formula: "t = w₂/(w₁+w₂); θ = acos(cos∠(v₁, v₂)); out = sin((1−t)θ)/sin θ · v₁ + sin(tθ)/sin θ · v₂, vᵢ = xᵢ or, with a base, out = base + …, vᵢ = xᵢ − base; lerp where sin θ ≈ 0",
    reference: "Shoemake 1985, Animating rotation with quaternion curves; mergekit's NuSLERP",
    notes: include_str!("notes/nuslerp.md"),
    inputs: Inputs::Exactly(2),
    base: Base::Optional,
    params: &[
        Param::non_base("weight", ANY, "the model's share; the second's of both is t"),
        Param::shared(
            "nuslerp_flatten",
            ParamKind::Bool,
            "take each tensor as one vector; otherwise by rows or columns",
        )
        .or(Default::Bool(true)),
        Param::shared(
            "nuslerp_row_wise",
            ParamKind::Bool,
            "without nuslerp_flatten: take the vectors along the first dimension (columns) instead of the last (rows)",
        )
        .or(Default::Bool(false)),
    ],
    reads: Reads::Stream { passes: 2, bins: 0 },
    holds,
    prepare,
    ..STREAMED
};

/// Weights whose sum is below this count as equal.
const ZERO_SUM: f64 = 1e-6;
/// What a norm is divided by at least.
const LEAST_NORM: f64 = 1e-7;

/// What the vectors are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Along {
    Tensor,
    Rows,
    Columns,
}

fn along(p: &Params) -> Result<Along> {
    Ok(match (p.flag("nuslerp_flatten")?, p.flag("nuslerp_row_wise")?) {
        (true, _) => Along::Tensor,
        (false, false) => Along::Rows,
        (false, true) => Along::Columns,
    })
}

/// Elements of a slice of the first dimension; a tensor of one dimension is one vector either way.
fn columns(shape: &[usize]) -> usize {
    match shape {
        [] | [_] => 1,
        [_, rest @ ..] => rest.iter().product(),
    }
}

fn holds(p: &Params, inputs: usize, shape: &[usize]) -> u64 {
    match along(p) {
        Ok(Along::Columns) if shape.len() > 1 => {
            // The sums and a part of them, rows of the inputs, and the weights.
            (columns(shape) * (2 * 24 + 4 * inputs + 8)) as u64
        }
        along => row_bytes_if(along.is_ok_and(|along| along == Along::Rows), p, inputs, shape),
    }
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let vectors = Vectors::relative(io);
    let t = share(&p.each("weight"));
    let along = along(p)?;
    if along != Along::Columns || io.shape().len() < 2 {
        return vectors.merge(io, along == Along::Rows, move |gram| weights(gram, t).to_vec());
    }
    vectors.merge_columns(io, columns(io.shape()).max(1), |gram| weights(gram, t))
}

/// The second model's share of the weights.
fn share(weights: &[f64]) -> f64 {
    let total: f64 = weights.iter().sum();
    match weights {
        [_, second] if total.abs() >= ZERO_SUM => second / total,
        _ => 0.5,
    }
}

/// The weights of both vectors.
fn weights(gram: &Gram, t: f64) -> [f64; 2] {
    let norm = |i| gram.norm(i).max(LEAST_NORM);
    let cos = (gram.product(0, 1) / (norm(0) * norm(1))).clamp(-1.0, 1.0);
    if collinear(cos) {
        return [1.0 - t, t];
    }
    let theta = cos.acos();
    [((1.0 - t) * theta).sin() / theta.sin(), (t * theta).sin() / theta.sin()]
}
