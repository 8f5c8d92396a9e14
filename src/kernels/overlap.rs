//! Merging by how many task vectors change an element: RAM (arXiv 2601.13572) and Consensus Merging
//! (arXiv 2405.07813).

use super::LANES;

type Block = [f32; LANES];

/// The block of a slice that begins at `at`, filled with zeros to its length.
#[inline(always)]
fn block(values: &[f32], at: usize) -> Block {
    if let Some(block) = values[at..].first_chunk() {
        return *block;
    }
    let mut block = [0.0; LANES];
    block[..values.len() - at].copy_from_slice(&values[at..]);
    block
}

/// How many deltas exceed `epsilon` in magnitude, element by element.
#[inline(always)]
fn changing(deltas: &[Vec<f32>], at: usize, epsilon: f32) -> Block {
    let mut models = [0.0; LANES];
    for delta in deltas {
        let delta = block(delta, at);
        for i in 0..LANES {
            models[i] += if delta[i].abs() > epsilon { 1.0 } else { 0.0 };
        }
    }
    models
}

#[inline(always)]
pub(super) fn count_overlaps(deltas: &[Vec<f32>], epsilon: f32, counts: &mut [u64]) {
    let length = deltas.first().map_or(0, Vec::len);
    for at in (0..length).step_by(LANES) {
        let models = changing(deltas, at, epsilon);
        for (delta, counts) in deltas.iter().zip(counts.as_chunks_mut::<2>().0) {
            let delta = block(delta, at);
            let (mut shared, mut own) = (0, 0);
            for i in 0..LANES {
                let changes = delta[i].abs() > epsilon;
                shared += u32::from(changes && models[i] > 1.0);
                own += u32::from(changes && models[i] == 1.0);
            }
            // Below an epsilon of 0 the zeros behind the end of the slice would count as changed.
            if epsilon < 0.0 {
                let behind = (at + LANES).saturating_sub(length) as u32;
                let counted = if deltas.len() > 1 { &mut shared } else { &mut own };
                *counted -= behind;
            }
            counts[0] += u64::from(shared);
            counts[1] += u64::from(own);
        }
    }
}

#[inline(always)]
pub(super) fn merge_overlaps(
    deltas: &[Vec<f32>],
    base: &[f32],
    epsilon: f32,
    factors: &[f32],
    out: &mut [f32],
) {
    for (chunk, out) in out.chunks_mut(LANES).enumerate() {
        let at = LANES * chunk;
        let models = changing(deltas, at, epsilon);
        let mut merged = [0.0; LANES];
        for (delta, factor) in deltas.iter().zip(factors) {
            let delta = block(delta, at);
            for i in 0..LANES {
                let part = if models[i] > 1.0 { delta[i] / models[i] } else { delta[i] * factor };
                merged[i] += if delta[i].abs() > epsilon { part } else { 0.0 };
            }
        }
        let base = block(base, at);
        for (i, out) in out.iter_mut().enumerate() {
            *out = base[i] + merged[i];
        }
    }
}

#[inline(always)]
pub(super) fn merge_agreed(
    deltas: &[Vec<f32>],
    base: &[f32],
    limits: &[f32],
    needed: f32,
    lambda: f32,
    out: &mut [f32],
) {
    for (chunk, out) in out.chunks_mut(LANES).enumerate() {
        let at = LANES * chunk;
        let mut sum = [0.0; LANES];
        for delta in deltas {
            let delta = block(delta, at);
            for i in 0..LANES {
                sum[i] += delta[i];
            }
        }
        let mut models = [0.0; LANES];
        for (delta, limit) in deltas.iter().zip(limits) {
            let delta = block(delta, at);
            for i in 0..LANES {
                let needs = delta[i].abs() >= limit * (sum[i] - delta[i]).abs();
                models[i] += if needs { 1.0 } else { 0.0 };
            }
        }
        let base = block(base, at);
        for (i, out) in out.iter_mut().enumerate() {
            *out = base[i] + if models[i] >= needed { lambda * sum[i] } else { 0.0 };
        }
    }
}
