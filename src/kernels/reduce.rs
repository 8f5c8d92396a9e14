//! Sums in f64. Element `i` goes to lane `i % 16`; the lanes are folded in halves (16, 8, 4, 2, 1).

use super::LANES;

/// Folds the lanes in halves.
#[inline(always)]
pub(super) fn fold(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub(super) fn gram(a: &[f32], b: &[f32]) -> [f64; 3] {
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [[0.0; LANES]; 3];
    let mut add = |a: &[f32; LANES], b: &[f32; LANES]| {
        for lane in 0..LANES {
            let (a, b) = (f64::from(a[lane]), f64::from(b[lane]));
            sums[0][lane] += a * a;
            sums[1][lane] += a * b;
            sums[2][lane] += b * b;
        }
    };
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        add(a, b);
    }
    let padded = |rest: &[f32]| {
        let mut block = [0.0; LANES];
        block[..rest.len()].copy_from_slice(rest);
        block
    };
    add(&padded(a_rest), &padded(b_rest));
    sums.map(fold)
}

#[inline(always)]
pub(super) fn l1(x: &[f32]) -> f64 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += f64::from(block[lane].abs());
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x.abs());
    }
    fold(lanes)
}
