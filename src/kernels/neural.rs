//! What a decoder computes between its matrix products: norms, activations, softmax.
//!
//! All of it in f32, with 16 lanes by position for sums over a row, folded in f64. The exponential
//! is a polynomial (Cody and Waite's reduction; coefficients of Cephes' `expf`, error below 2 ulp);
//! the error function is formula 7.1.26 of Abramowitz and Stegun (absolute error below 1.5e-7).

use super::LANES;

/// The functions between the two halves of a multilayer perceptron.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)` with the error function.
    Gelu,
    /// `x · Φ(x)` by its approximation with a hyperbolic tangent.
    GeluTanh,
    /// `x · σ(1.702 x)`.
    GeluSigmoid,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
}

/// `e^x`; 0 or infinity (up to rounding) beyond what f32 holds, NaN for NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // The high part of ln 2 has few bits, so that its product with an integer is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons that are false for NaN, which thereby stays.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    p * f32::from_bits(exponent << 23)
}

#[inline(always)]
pub(super) fn sigmoid_of(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent with an absolute error of about 1e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// The standard normal distribution function.
#[inline(always)]
pub(super) fn normal(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * exp(-z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

#[inline(always)]
pub(super) fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => map(x, |x| x * sigmoid_of(x)),
        Activation::Gelu => map(x, |x| x * normal(x)),
        Activation::GeluTanh => map(x, |x| {
            let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
            x * (0.5 + 0.5 * tanh(inner))
        }),
        Activation::GeluSigmoid => map(x, |x| x * sigmoid_of(1.702 * x)),
        Activation::Relu => map(x, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::ReluSquared => map(x, |x| if x < 0.0 { 0.0 } else { x * x }),
    }
}

#[inline(always)]
pub(super) fn sigmoid(x: &mut [f32]) {
    map(x, sigmoid_of);
}

#[inline(always)]
pub(super) fn softplus(x: &mut [f32]) {
    // ln(1 + e^x), which is x where adding 1 is lost.
    map(x, |x| if x > 20.0 { x } else { f64::from(exp(x)).ln_1p() as f32 });
}

#[inline(always)]
pub(super) fn soft_cap(cap: f32, x: &mut [f32]) {
    map(x, |x| cap * tanh(x / cap));
}

#[inline(always)]
pub(super) fn times(by: &[f32], x: &mut [f32]) {
    for (x, by) in x.iter_mut().zip(by) {
        *x *= by;
    }
}

#[inline(always)]
pub(super) fn plus(other: &[f32], x: &mut [f32]) {
    for (x, other) in x.iter_mut().zip(other) {
        *x += other;
    }
}

#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, others) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = chunks.remainder().iter().zip(others.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in chunks.zip(others) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    (lanes.iter().map(|x| f64::from(*x)).sum::<f64>() + f64::from(tail)) as f32
}

#[inline(always)]
pub(super) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f64 = chunks.remainder().iter().map(|x| f64::from(f(*x))).sum();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    lanes.iter().map(|x| f64::from(*x)).sum::<f64>() + tail
}

#[inline(always)]
pub(super) fn rms_norm(eps: f64, weight: &[f32], x: &mut [f32]) {
    let mean = sum_of(x, |x| x * x) / x.len() as f64;
    let scale = (1.0 / (mean + eps).sqrt()) as f32;
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

#[inline(always)]
pub(super) fn layer_norm(eps: f64, weight: &[f32], x: &mut [f32]) {
    let mean = (sum_of(x, |x| x) / x.len() as f64) as f32;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / x.len() as f64;
    let scale = (1.0 / (variance + eps).sqrt()) as f32;
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = (*x - mean) * scale * weight;
    }
}

#[inline(always)]
pub(super) fn max_of(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().copied().fold(tail, f32::max)
}

#[inline(always)]
pub(super) fn softmax(x: &mut [f32]) {
    let max = max_of(x);
    map(x, |x| exp(x - max));
    let scale = (1.0 / sum_of(x, |x| x)) as f32;
    map(x, |x| x * scale);
}

#[inline(always)]
pub(super) fn max_and_exp_sum(x: &[f32]) -> (f32, f64) {
    let max = max_of(x);
    (max, sum_of(x, |x| exp(x - max)))
}

#[inline(always)]
#[allow(clippy::eq_op)]
pub(super) fn all_finite(x: &[f32]) -> bool {
    // A difference with itself is 0 for finite numbers and NaN for all others.
    sum_of(x, |x| x - x) == 0.0
}

#[inline(always)]
pub(super) fn rotate(cos: &[f32], sin: &[f32], first: &mut [f32], second: &mut [f32]) {
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x * cos - y * sin;
        *b = y * cos + x * sin;
    }
}

#[inline(always)]
pub(super) fn scan(
    decay: &[f32],
    input: &[f32],
    step: f32,
    x: f32,
    output: &[f32],
    state: &mut [f32],
) -> f32 {
    let mut sum = 0.0;
    for i in 0..state.len().min(decay.len()).min(input.len()).min(output.len()) {
        state[i] = exp(step * decay[i]) * state[i] + step * input[i] * x;
        sum += state[i] * output[i];
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elementary_functions_are_those_of_the_standard_library() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) - expected).abs() <= 2.5e-7 * expected, "exp({x})");
            assert!((tanh(x) - x.tanh()).abs() < 2e-7, "tanh({x})");
        }
        assert!(exp(f32::NAN).is_nan() && exp(f32::NEG_INFINITY) < 1e-37);
        // Φ(1), Φ(-2.5): tables of the normal distribution.
        assert!((normal(1.0) - 0.841_344_8).abs() < 2e-7);
        assert!((normal(-2.5) - 0.006_209_7).abs() < 2e-7);
    }

    #[test]
    fn what_is_not_finite_is_noticed() {
        for at in [0, 15, 16, 33] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![1.0; 34];
                assert!(all_finite(&x));
                x[at] = bad;
                assert!(!all_finite(&x));
            }
        }
    }
}
