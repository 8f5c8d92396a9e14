//! Elementwise sums and products, each operation rounded once to f32.

#[inline(always)]
pub(super) fn scale(weight: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = weight * x;
    }
}

#[inline(always)]
pub(super) fn add_scaled(weight: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += weight * x;
    }
}

#[inline(always)]
pub(super) fn subtract(base: &[f32], x: &mut [f32]) {
    for (x, base) in x.iter_mut().zip(base) {
        *x -= base;
    }
}

#[inline(always)]
pub(super) fn multiply(weight: f32, x: &mut [f32]) {
    for x in x {
        *x *= weight;
    }
}

#[inline(always)]
pub(super) fn add_to_base(base: &[f32], weight: f32, out: &mut [f32]) {
    for (out, base) in out.iter_mut().zip(base) {
        *out = base + weight * *out;
    }
}

/// How far apart two elements count as at least.
const NEAREST: f32 = 1e-6;

#[inline(always)]
pub(super) fn swap_near(t: f32, base: &[f32], x: &[f32], out: &mut [f32]) {
    for ((out, x), base) in out.iter_mut().zip(x).zip(base) {
        let distance = (base - x).abs();
        // Comparisons that are false for NaN: the difference of two infinities counts as near.
        let distance = if distance > NEAREST { distance } else { NEAREST };
        let weight = t / distance;
        let weight = if weight > 0.0 { weight } else { 0.0 };
        let weight = if weight < 1.0 { weight } else { 1.0 };
        *out = weight * x + (1.0 - weight) * base;
    }
}
