//! Model Stock: how far to go from the base to the mean of its fine-tunes.

use super::gram::{Gram, Vectors, row_bytes_if};
use super::params::{Default, Param, ParamKind};
use super::{Inputs, Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

pub(super) const METHOD: Method = Method {
    name: "model_stock",
    summary: "Goes from the base towards the mean of its fine-tunes, as far as the angles between them say.",
    formula: "c = mean over i<j of cos∠(δᵢ, δⱼ); t = k·c / (1 + (k−1)·c), k fine-tunes; out = t·mean(xᵢ) + (1−t)·base",
    reference: "Jang et al. 2024, Model Stock: All we need is just a few fine-tuned models, arXiv 2403.19522",
    notes: include_str!("notes/model_stock.md"),
    inputs: Inputs::AtLeast(3),
    params: &[Param::shared(
        "filter_wise",
        ParamKind::Bool,
        "find the angles for each row of a tensor instead of the whole",
    )
    .or(Default::Bool(false))],
    reads: Reads::Stream { passes: 2, bins: 0 },
    holds: |p, inputs, shape| {
        row_bytes_if(p.flag("filter_wise").unwrap_or(false), p, inputs, shape)
    },
    prepare,
    ..STREAMED
};

/// What a product of norms is divided by at least.
const LEAST_PRODUCT: f64 = 1e-6;
/// Below this, the ratio's denominator counts as 0.
const SINGULAR: f64 = 1e-6;

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    io.base()?;
    Vectors::relative(io).merge(io, p.flag("filter_wise")?, |gram| {
        let count = gram.size();
        vec![ratio(count, mean_cosine(gram)) / count as f64; count]
    })
}

/// The mean of the cosines of all pairs.
fn mean_cosine(gram: &Gram) -> f64 {
    let (mut sum, mut pairs) = (0.0, 0.0);
    for j in 1..gram.size() {
        for i in 0..j {
            let norms = (gram.norm(i) * gram.norm(j)).max(LEAST_PRODUCT);
            sum += (gram.product(i, j) / norms).clamp(-1.0, 1.0);
            pairs += 1.0;
        }
    }
    sum / pairs
}

/// How far to go from the base to the mean of `count` fine-tunes, the paper's interpolation ratio;
/// not at all where it has no finite answer.
fn ratio(count: usize, cos: f64) -> f64 {
    let count = count as f64;
    let denominator = 1.0 + (count - 1.0) * cos;
    if denominator.abs() < SINGULAR { 0.0 } else { count * cos / denominator }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_follows_the_angle() {
        assert_eq!(ratio(2, 1.0), 1.0);
        assert_eq!(ratio(2, 0.0), 0.0);
        assert_eq!(ratio(2, 0.5), 1.0 / 1.5);
        assert_eq!(ratio(5, 0.5), 2.5 / 3.0);
        assert_eq!(ratio(3, -0.25), -1.5);
    }

    #[test]
    fn where_there_is_no_finite_ratio_the_base_stays() {
        assert_eq!(ratio(2, -1.0), 0.0);
        assert_eq!(ratio(3, -0.5), 0.0);
    }
}
