//! TIES' sign election and disjoint merge (arXiv 2306.01708, §3), over weighted deltas.

/// Elements elected together.
const BLOCK: usize = 16;

#[inline(always)]
pub(super) fn elect(
    deltas: &[Vec<f32>],
    base: &[f32],
    weights: Option<&[f32]>,
    lambda: f32,
    out: &mut [f32],
) {
    let length = out.len().min(base.len());
    let mut at = 0;
    while at < length {
        let count = BLOCK.min(length - at);
        let mut total = [0.0_f32; BLOCK];
        for delta in deltas {
            let delta = block(delta, at, count);
            for i in 0..BLOCK {
                total[i] += delta[i];
            }
        }
        let mut merged = [0.0_f32; BLOCK];
        let mut divisor = [0.0_f32; BLOCK];
        for (model, delta) in deltas.iter().enumerate() {
            let delta = block(delta, at, count);
            let weight = weights.map_or(0.0, |weights| weights[model]);
            for i in 0..BLOCK {
                let positive = total[i] >= 0.0;
                let agrees = if positive { delta[i] > 0.0 } else { delta[i] < 0.0 };
                merged[i] += if agrees { delta[i] } else { 0.0 };
                divisor[i] += if agrees { weight } else { 0.0 };
            }
        }
        let base = block(base, at, count);
        let mut result = [0.0_f32; BLOCK];
        for i in 0..BLOCK {
            let divisor = if divisor[i] == 0.0 { 1.0 } else { divisor[i] };
            result[i] = base[i] + lambda * (merged[i] / divisor);
        }
        out[at..at + count].copy_from_slice(&result[..count]);
        at += count;
    }
}

/// The block at `at`, filled with zeros behind the end.
#[inline(always)]
fn block(values: &[f32], at: usize, count: usize) -> [f32; BLOCK] {
    if let Some(full) = values[at..].first_chunk::<BLOCK>() {
        return *full;
    }
    let mut block = [0.0; BLOCK];
    block[..count].copy_from_slice(&values[at..at + count]);
    block
}
