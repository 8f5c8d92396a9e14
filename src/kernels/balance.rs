//! Scores of competing task vectors, and their means: PCB-Merging (arXiv 2410.02396).

use super::LANES;
use super::neural::exp;
use super::reduce::fold;

#[inline(always)]
pub(super) fn product_extent(a: &[f32], b: &[f32]) -> [f32; 2] {
    let (mut least, mut greatest) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut add = |lane: usize, product: f32| {
        // Comparisons that are false for NaN, which thereby counts as neither.
        least[lane] = if product < least[lane] { product } else { least[lane] };
        greatest[lane] = if product > greatest[lane] { product } else { greatest[lane] };
    };
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            add(lane, a[lane] * b[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        add(lane, a * b);
    }
    let least = least.into_iter().fold(f32::INFINITY, f32::min);
    [least, greatest.into_iter().fold(f32::NEG_INFINITY, f32::max)]
}

#[inline(always)]
pub(super) fn exp_sum(a: &[f32], b: &[f32], least: f32, scale: f32) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(exp((a[lane] * b[lane] - least) * scale));
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += f64::from(exp((a * b - least) * scale));
    }
    fold(lanes)
}

#[inline(always)]
pub(super) fn add_exp(a: &[f32], b: &[f32], least: f32, scale: f32, weight: f32, out: &mut [f32]) {
    for ((a, b), out) in a.iter().zip(b).zip(out) {
        *out += weight * exp((a * b - least) * scale);
    }
}

#[inline(always)]
pub(super) fn merge_scored(
    deltas: &[Vec<f32>],
    scores: &[Vec<f32>],
    base: &[f32],
    weights: &[f32],
    lambda: f32,
    out: &mut [f32],
) {
    for (at, (base, out)) in base.iter().zip(out).enumerate() {
        let (mut sum, mut total) = (0.0, 0.0);
        for ((delta, score), weight) in deltas.iter().zip(scores).zip(weights) {
            sum += score[at] * (weight * delta[at]);
            total += score[at];
        }
        *out = base + if total > 0.0 { lambda * (sum / total) } else { 0.0 };
    }
}
