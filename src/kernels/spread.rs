//! How far models lie apart, element by element.

/// Elements computed side by side.
const BLOCK: usize = 16;

#[inline(always)]
pub(super) fn variance(deltas: &[Vec<f32>], out: &mut [f32]) {
    let models = deltas.len() as f64;
    for (at, out) in out.chunks_mut(BLOCK).enumerate() {
        let block = |delta: &'_ [f32]| {
            let mut block = [0.0_f64; BLOCK];
            for (wide, x) in block.iter_mut().zip(&delta[BLOCK * at..]) {
                *wide = f64::from(*x);
            }
            block
        };
        let mut mean = [0.0; BLOCK];
        for delta in deltas {
            let delta = block(delta);
            for i in 0..BLOCK {
                mean[i] += delta[i];
            }
        }
        for mean in &mut mean {
            *mean /= models;
        }
        let mut squares = [0.0; BLOCK];
        for delta in deltas {
            let delta = block(delta);
            for i in 0..BLOCK {
                let distance = delta[i] - mean[i];
                squares[i] += distance * distance;
            }
        }
        for (out, squares) in out.iter_mut().zip(squares) {
            let variance = (squares / models) as f32;
            *out = if variance.is_nan() { f32::INFINITY } else { variance };
        }
    }
}
