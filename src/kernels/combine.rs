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
