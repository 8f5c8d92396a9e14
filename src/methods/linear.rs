//! Weighted average of models.

use super::params::{ANY, Default, Param, ParamKind};
use super::{Base, Map, Method, Params, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::Kernels;

pub(super) const METHOD: Method = Method {
    name: "linear",
    summary: "Weighted average of the models.",
    formula: "out = Σ wᵢ·xᵢ / Σ wᵢ; with normalize: false, Σ wᵢ·xᵢ",
    reference: "Wortsman et al. 2022, Model soups, arXiv 2203.05482",
    notes: include_str!("notes/linear.md"),
    base: Base::Plain,
    params: &[
        Param::input("weight", ANY, "the model's share"),
        Param::shared("normalize", ParamKind::Bool, "divide by the sum of the weights")
            .or(Default::Bool(true)),
    ],
    check,
    prepare,
    ..STREAMED
};

fn check(p: &Params) -> Result<(), String> {
    let total: f64 = p.each("weight").iter().sum();
    if p.flag("normalize").unwrap_or(true) && total == 0.0 {
        return Err("the weights sum to 0, so they cannot be normalised".to_string());
    }
    Ok(())
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let mut weights = p.each("weight");
    if p.flag("normalize")? {
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= total);
    }
    Ok(weighted_sum(io, &weights))
}

/// `Σ wᵢ·xᵢ` in input order, the weights rounded once to f32.
pub(super) fn weighted_sum(io: &TensorIo<'_>, weights: &[f64]) -> Map {
    let kernels = io.kernels();
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    Map::new(move |_, inputs, out| add_up(kernels, &weights, inputs, out))
}

/// `out = Σ wᵢ·xᵢ` in input order, each operation rounded to f32.
pub(super) fn add_up(kernels: Kernels, weights: &[f32], inputs: &[Vec<f32>], out: &mut [f32]) {
    for (i, (weight, input)) in weights.iter().zip(inputs).enumerate() {
        match i {
            0 => kernels.scale(*weight, input, out),
            _ => kernels.add_scaled(*weight, input, out),
        }
    }
}
