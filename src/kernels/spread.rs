//! How far models lie apart, element by element.

/// Elements computed side by side: as many f64 as the widest vectors hold.
const BLOCK: usize = 8;

type Block = [f32; BLOCK];

#[inline(always)]
pub(super) fn variance(deltas: &[Vec<f32>], out: &mut [f32]) {
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    for (at, out) in blocks.iter_mut().enumerate() {
        *out = variance_block(deltas, |delta| delta.as_chunks::<BLOCK>().0[at]);
    }
    let at = BLOCK * blocks.len();
    if !rest.is_empty() {
        let block = |delta: &[f32]| {
            let mut block = [0.0; BLOCK];
            block[..delta.len() - at].copy_from_slice(&delta[at..]);
            block
        };
        rest.copy_from_slice(&variance_block(deltas, block)[..rest.len()]);
    }
}

/// The variances of one block, in f64, the models in their order; `block` takes it from a slice.
#[inline(always)]
fn variance_block(deltas: &[Vec<f32>], block: impl Fn(&[f32]) -> Block) -> Block {
    let models = deltas.len() as f64;
    let mut mean = [0.0_f64; BLOCK];
    for delta in deltas {
        let delta = block(delta);
        for i in 0..BLOCK {
            mean[i] += f64::from(delta[i]);
        }
    }
    for mean in &mut mean {
        *mean /= models;
    }
    let mut squares = [0.0_f64; BLOCK];
    for delta in deltas {
        let delta = block(delta);
        for i in 0..BLOCK {
            let distance = f64::from(delta[i]) - mean[i];
            squares[i] += distance * distance;
        }
    }
    let mut out = [0.0; BLOCK];
    for i in 0..BLOCK {
        let variance = (squares[i] / models) as f32;
        out[i] = if variance.is_nan() { f32::INFINITY } else { variance };
    }
    out
}
