//! One row of a product of two thin matrices, added to a row of weights.

/// Columns that are computed side by side.
const WIDTH: usize = 64;

/// `out[j] += scale · Σ_k weights[k] · rows[k·stride + j]`. The sum is f32, from 0 on in the order
/// of k; each operation is rounded once.
#[inline(always)]
pub(super) fn add_product(
    weights: &[f32],
    rows: &[f32],
    stride: usize,
    scale: f32,
    out: &mut [f32],
) {
    let (blocks, rest) = out.as_chunks_mut::<WIDTH>();
    let end = blocks.len() * WIDTH;
    for (block, out) in blocks.iter_mut().enumerate() {
        let mut sums = [0.0; WIDTH];
        for (weight, row) in weights.iter().zip(rows.chunks(stride)) {
            if let Some(row) = row[block * WIDTH..].first_chunk::<WIDTH>() {
                for j in 0..WIDTH {
                    sums[j] += weight * row[j];
                }
            }
        }
        for j in 0..WIDTH {
            out[j] += scale * sums[j];
        }
    }
    for (j, out) in rest.iter_mut().enumerate() {
        let mut sum = 0.0;
        for (weight, row) in weights.iter().zip(rows.chunks(stride)) {
            sum += weight * row[end + j];
        }
        *out += scale * sum;
    }
}
