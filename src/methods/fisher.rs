//! Averages in which each element counts by its Fisher information.

use super::params::{Default, Param, ParamKind};
use super::{Base, Map, Method, Params, STREAMED, Statistics};
use crate::engine::TensorIo;
use crate::error::Result;

/// Weights from 0 on.
pub(super) const SHARE: ParamKind = ParamKind::Number { min: 0.0, max: f64::MAX };

pub(super) const METHOD: Method = Method {
    name: "fisher",
    summary: "Average in which each element counts by its model's Fisher information.",
    formula: "out = Σ wᵢ·Fᵢ·xᵢ / Σ wᵢ·Fᵢ; where the divisor is 0, Σ wᵢ·xᵢ / Σ wᵢ",
    reference: "Matena and Raffel 2022, Merging Models with Fisher-Weighted Averaging, arXiv 2111.09832",
    notes: include_str!("notes/fisher.md"),
    base: Base::Plain,
    statistics: Some(Statistics::Fisher),
    params: &[
        Param::input("weight", SHARE, "the model's share").or(Default::Number(1.0)),
        Param::shared("floor", SHARE, "what Fisher information counts at least")
            .or(Default::Number(0.0)),
    ],
    check,
    prepare,
    ..STREAMED
};

/// Some model must count.
pub(super) fn check(p: &Params) -> Result<(), String> {
    if p.each("weight").iter().sum::<f64>() > 0.0 {
        return Ok(());
    }
    Err("the weights are all 0".to_string())
}

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let kernels = io.kernels();
    let (weights, floor) = (p.each("weight"), p.number("floor")? as f32);
    let models = weights.len();
    Ok(Map::new(move |_, inputs, out| {
        let (values, information) = inputs.split_at(models.min(inputs.len()));
        kernels.weighted_means(&weights, floor, values, information, out);
    }))
}
