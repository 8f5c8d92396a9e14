//! TIES' sign election and disjoint merge (arXiv 2306.01708, §3): over deltas that are weighted
//! before the election, or (SCE, arXiv 2408.07990) after it.

/// Elements elected together.
const BLOCK: usize = 16;
type Block = [f32; BLOCK];

#[inline(always)]
pub(super) fn elect(
    deltas: &[Vec<f32>],
    base: &[f32],
    weights: Option<&[f32]>,
    lambda: f32,
    out: &mut [f32],
) {
    let divided =
        |merged: f32, divisor: f32| lambda * (merged / if divisor == 0.0 { 1.0 } else { divisor });
    let weight = |model: usize| weights.map_or(0.0, |weights| weights[model]);
    elect_all(deltas, base, weight, |delta, _| delta, divided, out);
}

#[inline(always)]
pub(super) fn elect_then_weigh(
    deltas: &[Vec<f32>],
    base: &[f32],
    weights: &[f32],
    least: f32,
    out: &mut [f32],
) {
    let weight = |model: usize| weights[model];
    let weigh = |delta: f32, weight: f32| delta * weight;
    let divided =
        |merged: f32, divisor: f32| merged / if divisor > least { divisor } else { least };
    elect_all(deltas, base, weight, weigh, divided, out);
}

/// Merges the deltas that agree with the elected sign: `value` of a delta and its model's weight is
/// what is summed, and `change` of the sum and the agreeing weights is what is added to the base.
#[inline(always)]
fn elect_all(
    deltas: &[Vec<f32>],
    base: &[f32],
    weight: impl Fn(usize) -> f32 + Copy,
    value: impl Fn(f32, f32) -> f32 + Copy,
    change: impl Fn(f32, f32) -> f32 + Copy,
    out: &mut [f32],
) {
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    for (at, out) in blocks.iter_mut().enumerate() {
        let block = |values: &[f32]| values.as_chunks::<BLOCK>().0[at];
        *out = elect_block(deltas, block, base, weight, value, change);
    }
    let at = BLOCK * blocks.len();
    let block = |values: &[f32]| {
        let mut block = [0.0; BLOCK];
        block[..values.len() - at].copy_from_slice(&values[at..]);
        block
    };
    if !rest.is_empty() {
        let result = elect_block(deltas, block, base, weight, value, change);
        rest.copy_from_slice(&result[..rest.len()]);
    }
}

/// Elects one block; `block` takes it from a slice. Sums go in the order of the models.
#[inline(always)]
fn elect_block(
    deltas: &[Vec<f32>],
    block: impl Fn(&[f32]) -> Block,
    base: &[f32],
    weight: impl Fn(usize) -> f32,
    value: impl Fn(f32, f32) -> f32,
    change: impl Fn(f32, f32) -> f32,
) -> Block {
    let mut sign = [0.0; BLOCK];
    for delta in deltas {
        let delta = block(delta);
        for i in 0..BLOCK {
            sign[i] += delta[i];
        }
    }
    for sign in &mut sign {
        *sign = if *sign >= 0.0 { 1.0 } else { -1.0 };
    }
    let mut merged = [0.0; BLOCK];
    let mut divisor = [0.0; BLOCK];
    for (model, delta) in deltas.iter().enumerate() {
        let delta = block(delta);
        let weight = weight(model);
        // Masks of bits, made first: a choice between values becomes a masked store that is waited for.
        let mut agrees = [0; BLOCK];
        for i in 0..BLOCK {
            agrees[i] = if delta[i] * sign[i] > 0.0 { u32::MAX } else { 0 };
        }
        for i in 0..BLOCK {
            merged[i] += f32::from_bits(value(delta[i], weight).to_bits() & agrees[i]);
            divisor[i] += f32::from_bits(weight.to_bits() & agrees[i]);
        }
    }
    let mut out = block(base);
    for i in 0..BLOCK {
        out[i] += change(merged[i], divisor[i]);
    }
    out
}
