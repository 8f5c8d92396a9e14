//! Spherical linear interpolation between two models.

use super::linear::weighted_sum;
use super::params::{ANY, Param};
use super::{Inputs, Map, Method, Params, Reads, STREAMED};
use crate::engine::TensorIo;
use crate::error::Result;

pub(super) const METHOD: Method = Method {
    name: "slerp",
    summary: "Spherical interpolation from the base (t = 0) to the other model (t = 1).",
    formula: "θ = acos(cos∠(a, b)); out = sin((1−t)θ)/sin θ · a + sin(tθ)/sin θ · b; lerp where |cos θ| > 0.9995",
    reference: "Shoemake 1985, Animating rotation with quaternion curves",
    notes: include_str!("notes/slerp.md"),
    inputs: Inputs::Exactly(2),
    params: &[Param::shared("t", ANY, "how far to go from the base to the other model")],
    reads: Reads::Stream { passes: 2, bins: 0 },
    prepare,
    ..STREAMED
};

/// Above this |cos θ| the vectors count as collinear, and the interpolation is linear.
const COLLINEAR: f64 = 0.9995;
/// A vector with a norm up to this has no direction; its cosine with anything counts as 0.
const ZERO_NORM: f64 = 1e-8;

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let kernels = io.kernels();
    let t = p.number("t")?;
    let base = io.base()?;
    let (from, to) = (base, 1 - base);
    let gram = io.sums(3, |_, inputs, sums| {
        let tile = kernels.gram(&inputs[from], &inputs[to]);
        sums.iter_mut().zip(tile).for_each(|(sum, part)| *sum += part);
    })?;
    let [w_from, w_to] = slerp_weights(&gram, t);
    let mut weights = [0.0; 2];
    weights[from] = w_from;
    weights[to] = w_to;
    Ok(weighted_sum(io, &weights))
}

/// The weights of both ends from the Gram matrix `[a·a, a·b, b·b]`.
fn slerp_weights(gram: &[f64], t: f64) -> [f64; 2] {
    let norm = |square: f64| {
        let norm = square.sqrt();
        if norm > ZERO_NORM { norm } else { 1.0 }
    };
    let cos = (gram[1] / (norm(gram[0]) * norm(gram[2]))).clamp(-1.0, 1.0);
    if cos.abs() > COLLINEAR {
        return [1.0 - t, t];
    }
    let theta = cos.acos();
    [((1.0 - t) * theta).sin() / theta.sin(), (t * theta).sin() / theta.sin()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_at_the_ends_and_in_between() {
        assert_eq!(slerp_weights(&[1.0, 0.0, 1.0], 0.0), [1.0, 0.0]);
        let [a, b] = slerp_weights(&[4.0, 0.0, 9.0], 0.5);
        assert!((a - 0.5_f64.sqrt()).abs() < 1e-15 && (a - b).abs() < 1e-15);
    }

    #[test]
    fn collinear_and_antiparallel_vectors_are_interpolated_linearly() {
        assert_eq!(slerp_weights(&[1.0, 1.0, 1.0], 0.25), [0.75, 0.25]);
        assert_eq!(slerp_weights(&[1.0, -1.0, 1.0], 0.25), [0.75, 0.25]);
    }

    #[test]
    fn a_zero_vector_is_at_right_angles_to_everything() {
        let [a, b] = slerp_weights(&[0.0, 0.0, 4.0], 0.5);
        assert!((a - 0.5_f64.sqrt()).abs() < 1e-15 && (b - 0.5_f64.sqrt()).abs() < 1e-15);
    }
}
