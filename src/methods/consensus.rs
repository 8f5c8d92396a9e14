//! Consensus Merging: task arithmetic where enough models need the merged change.

use super::deltas::with_deltas;
use super::params::{Default, Param, ParamKind};
use super::task_vectors::{LAMBDA, WEIGHT};
use super::{Map, Method, Params, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

/// Numbers from 0 on.
const SIZE: ParamKind = ParamKind::Number { min: 0.0, max: f64::MAX };

pub(super) const METHOD: Method = Method {
    name: "consensus",
    summary: "Adds up the task vectors where at least k models need the sum, by their TALL masks.",
    formula: "τ = Σ wᵢ·δᵢ; mᵢ = |wᵢ·δᵢ| ≥ tall_lambdaᵢ·|τ − wᵢ·δᵢ|; out = base + λ·τ where Σ mᵢ ≥ k, base elsewhere",
    reference: "Wang et al. 2024, Localizing Task Information for Improved Model Merging and Compression, arXiv 2405.07813",
    notes: include_str!("notes/consensus.md"),
    params: &[
        WEIGHT.or(Default::Number(1.0)),
        Param::non_base(
            "tall_lambda",
            SIZE,
            "how much of the other models' change an element of the model has to match to be needed",
        )
        .or(Default::Number(0.4)),
        Param::shared("k", SIZE, "how many models have to need an element; a whole number")
            .or(Default::Number(2.0)),
        LAMBDA,
    ],
    check,
    prepare,
    ..STREAMED
};

fn check(p: &Params) -> std::result::Result<(), String> {
    match p.number("k") {
        Ok(k) if k.fract() != 0.0 => Err(format!("`k` counts models, so {k} is not possible")),
        _ => Ok(()),
    }
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let (base, kernels) = (io.base()?, io.kernels());
    let weights: Vec<f32> = p.each("weight").iter().map(|weight| *weight as f32).collect();
    let limits: Vec<f32> = p.each("tall_lambda").iter().map(|limit| *limit as f32).collect();
    let (k, lambda) = (p.number("k")? as f32, p.number("lambda")? as f32);
    Ok(Map::new(move |_, inputs, out| {
        with_deltas(kernels, base, inputs, |base, deltas| {
            for (weight, delta) in weights.iter().zip(&mut *deltas) {
                kernels.multiply(*weight, delta);
            }
            kernels.merge_agreed(deltas, base, &limits, k, lambda, out);
        });
    }))
}
