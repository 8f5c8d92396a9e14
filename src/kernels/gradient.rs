//! The derivatives of what `neural.rs` computes. Sums as there.

use super::neural::{Activation, dot, exp, normal, sigmoid_of, sum_of, tanh};

#[inline(always)]
fn times(x: &[f32], gradient: &mut [f32], slope: impl Fn(f32) -> f32) {
    for (gradient, x) in gradient.iter_mut().zip(x) {
        *gradient *= slope(*x);
    }
}

#[inline(always)]
pub(super) fn activate(activation: Activation, x: &[f32], gradient: &mut [f32]) {
    match activation {
        Activation::Silu => times(x, gradient, |x| {
            let s = sigmoid_of(x);
            s * (1.0 + x * (1.0 - s))
        }),
        Activation::Gelu => {
            // The density of the normal distribution: e^(-x²/2) / √(2π).
            times(x, gradient, |x| normal(x) + x * 0.398_942_3 * exp(-0.5 * x * x));
        }
        Activation::GeluTanh => times(x, gradient, |x| {
            let t = tanh(0.797_884_6 * (x + 0.044_715 * x * x * x));
            let inner = 0.797_884_6 * (1.0 + 0.134_145 * x * x);
            0.5 + 0.5 * t + 0.5 * x * (1.0 - t * t) * inner
        }),
        Activation::GeluSigmoid => times(x, gradient, |x| {
            let s = sigmoid_of(1.702 * x);
            s * (1.0 + 1.702 * x * (1.0 - s))
        }),
        Activation::Relu => times(x, gradient, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::ReluSquared => times(x, gradient, |x| if x > 0.0 { 2.0 * x } else { 0.0 }),
    }
}

#[inline(always)]
pub(super) fn softmax(y: &[f32], gradient: &mut [f32]) {
    let mean = dot(y, gradient);
    for (gradient, y) in gradient.iter_mut().zip(y) {
        *gradient = y * (*gradient - mean);
    }
}

#[inline(always)]
pub(super) fn sigmoid(y: &[f32], gradient: &mut [f32]) {
    times(y, gradient, |y| y * (1.0 - y));
}

#[inline(always)]
pub(super) fn soft_cap(cap: f32, y: &[f32], gradient: &mut [f32]) {
    times(y, gradient, |y| 1.0 - (y / cap) * (y / cap));
}

#[inline(always)]
pub(super) fn rms_norm(
    eps: f64,
    weight: &[f32],
    x: &[f32],
    gradient: &mut [f32],
    weight_gradient: &mut [f32],
) {
    let length = x.len() as f64;
    let scale = 1.0 / (sum_of(x, |x| x * x) / length + eps).sqrt();
    let factor = scale as f32;
    for i in 0..x.len().min(weight.len()).min(gradient.len()).min(weight_gradient.len()) {
        weight_gradient[i] += gradient[i] * (x[i] * factor);
        gradient[i] *= weight[i];
    }
    let along = (f64::from(dot(gradient, x)) * scale * scale * scale / length) as f32;
    for (gradient, x) in gradient.iter_mut().zip(x) {
        *gradient = *gradient * factor - x * along;
    }
}

#[inline(always)]
pub(super) fn layer_norm(
    eps: f64,
    weight: &[f32],
    x: &[f32],
    gradient: &mut [f32],
    weight_gradient: &mut [f32],
) {
    let length = x.len() as f64;
    let mean = (sum_of(x, |x| x) / length) as f32;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / length;
    let factor = (1.0 / (variance + eps).sqrt()) as f32;
    let mut along = 0.0_f64;
    for i in 0..x.len().min(weight.len()).min(gradient.len()).min(weight_gradient.len()) {
        let normed = (x[i] - mean) * factor;
        weight_gradient[i] += gradient[i] * normed;
        gradient[i] *= weight[i];
        along += f64::from(gradient[i] * normed);
    }
    let shift = (sum_of(gradient, |x| x) / length) as f32;
    let along = (along / length) as f32;
    for (gradient, x) in gradient.iter_mut().zip(x) {
        let normed = (x - mean) * factor;
        *gradient = factor * (*gradient - shift - normed * along);
    }
}

#[cfg(test)]
mod tests {
    use super::super::neural;
    use super::*;

    /// A derivative by central differences, in f32.
    fn slope(f: impl Fn(&[f32]) -> f64, x: &[f32], i: usize) -> f64 {
        let mut moved = x.to_vec();
        moved[i] = x[i] + 4e-3;
        let up = f(&moved);
        let high = moved[i];
        moved[i] = x[i] - 4e-3;
        (up - f(&moved)) / f64::from(high - moved[i])
    }

    fn values(length: usize, factor: f32) -> Vec<f32> {
        (0..length).map(|i| ((i * 37 % 23) as f32 - 11.3) * factor).collect()
    }

    #[test]
    fn derivatives_are_slopes() {
        let (x, weight, upstream) = (values(21, 0.17), values(21, 0.1), values(21, -0.06));
        let through = |y: &[f32]| -> f64 {
            y.iter().zip(&upstream).map(|(y, u)| f64::from(*y) * f64::from(*u)).sum()
        };
        type Forward<'a> = Box<dyn Fn(&mut [f32]) + 'a>;
        type Backward<'a> = Box<dyn Fn(&[f32], &[f32], &mut [f32]) + 'a>;
        let mut cases: Vec<(String, Forward<'_>, Backward<'_>)> = vec![
            (
                "softmax".to_string(),
                Box::new(neural::softmax),
                Box::new(|_, y, gradient| softmax(y, gradient)),
            ),
            (
                "sigmoid".to_string(),
                Box::new(neural::sigmoid),
                Box::new(|_, y, gradient| sigmoid(y, gradient)),
            ),
            (
                "soft cap".to_string(),
                Box::new(|x| neural::soft_cap(2.0, x)),
                Box::new(|_, y, gradient| soft_cap(2.0, y, gradient)),
            ),
            (
                "rms".to_string(),
                Box::new(|x| neural::rms_norm(1e-5, &weight, x)),
                Box::new(|x, _, g| rms_norm(1e-5, &weight, x, g, &mut [0.0; 21])),
            ),
            (
                "layer".to_string(),
                Box::new(|x| neural::layer_norm(1e-5, &weight, x)),
                Box::new(|x, _, g| layer_norm(1e-5, &weight, x, g, &mut [0.0; 21])),
            ),
        ];
        for activation in [
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::GeluSigmoid,
            Activation::Relu,
            Activation::ReluSquared,
        ] {
            cases.push((
                format!("{activation:?}"),
                Box::new(move |x| neural::activate(activation, x)),
                Box::new(move |x, _, gradient| activate(activation, x, gradient)),
            ));
        }
        for (name, forward, backward) in cases {
            let apply = |x: &[f32]| {
                let mut y = x.to_vec();
                forward(&mut y);
                y
            };
            let mut gradient = upstream.clone();
            backward(&x, &apply(&x), &mut gradient);
            for i in 0..x.len() {
                let expected = slope(|x| through(&apply(x)), &x, i);
                let found = f64::from(gradient[i]);
                assert!((found - expected).abs() < 2e-3, "{name} {i}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn norms_are_differentiated_by_their_weights() {
        let (x, weight, upstream) = (values(21, 0.17), values(21, 0.1), values(21, -0.06));
        type Norm = fn(f64, &[f32], &mut [f32]);
        type Gradient = fn(f64, &[f32], &[f32], &mut [f32], &mut [f32]);
        for (norm, gradient) in [
            (neural::rms_norm as Norm, rms_norm as Gradient),
            (neural::layer_norm as Norm, layer_norm as Gradient),
        ] {
            let (mut own, mut by_weight) = (upstream.clone(), vec![0.0; 21]);
            gradient(1e-5, &weight, &x, &mut own, &mut by_weight);
            let through = |weight: &[f32]| -> f64 {
                let mut y = x.clone();
                norm(1e-5, weight, &mut y);
                y.iter().zip(&upstream).map(|(y, u)| f64::from(*y) * f64::from(*u)).sum()
            };
            for i in 0..x.len() {
                let expected = slope(through, &weight, i);
                assert!((f64::from(by_weight[i]) - expected).abs() < 1e-3);
            }
        }
    }
}
