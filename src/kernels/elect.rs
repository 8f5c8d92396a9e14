//! TIES' sign election and disjoint merge (arXiv 2306.01708, §3), over weighted deltas.

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
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    for (at, out) in blocks.iter_mut().enumerate() {
        let block = |values: &[f32]| values.as_chunks::<BLOCK>().0[at];
        *out = elect_block(deltas, block, base, weights, lambda);
    }
    let at = BLOCK * blocks.len();
    let block = |values: &[f32]| {
        let mut block = [0.0; BLOCK];
        block[..values.len() - at].copy_from_slice(&values[at..]);
        block
    };
    if !rest.is_empty() {
        let result = elect_block(deltas, block, base, weights, lambda);
        rest.copy_from_slice(&result[..rest.len()]);
    }
}

/// Elects one block; `block` takes it from a slice. Sums go in the order of the models.
#[inline(always)]
fn elect_block(
    deltas: &[Vec<f32>],
    block: impl Fn(&[f32]) -> Block,
    base: &[f32],
    weights: Option<&[f32]>,
    lambda: f32,
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
        let weight = weights.map_or(0.0, |weights| weights[model]);
        for i in 0..BLOCK {
            let agrees = delta[i] * sign[i] > 0.0;
            merged[i] += if agrees { delta[i] } else { 0.0 };
            divisor[i] += if agrees { weight } else { 0.0 };
        }
    }
    let mut out = block(base);
    for i in 0..BLOCK {
        let divisor = if divisor[i] == 0.0 { 1.0 } else { divisor[i] };
        out[i] += lambda * (merged[i] / divisor);
    }
    out
}
