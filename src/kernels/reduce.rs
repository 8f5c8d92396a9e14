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

/// `Σ with·other` for each of the others.
#[inline(always)]
fn products<const N: usize>(with: &[f32], others: [&[f32]; N]) -> [f64; N] {
    let (blocks, rest) = with.as_chunks::<LANES>();
    let other_blocks = others.map(|other| other.as_chunks::<LANES>().0);
    let mut sums = [[0.0; LANES]; N];
    for (at, block) in blocks.iter().enumerate() {
        for (sums, other) in sums.iter_mut().zip(&other_blocks) {
            for lane in 0..LANES {
                sums[lane] += f64::from(block[lane]) * f64::from(other[at][lane]);
            }
        }
    }
    let done = blocks.len() * LANES;
    for (sums, other) in sums.iter_mut().zip(&others) {
        for ((sum, x), other) in sums.iter_mut().zip(rest).zip(&other[done..]) {
            *sum += f64::from(*x) * f64::from(*other);
        }
    }
    sums.map(fold)
}

/// Two vectors at a time: their own three products, then those with each of the later ones.
#[inline(always)]
pub(super) fn add_gram(vectors: &[Vec<f32>], sums: &mut [f64]) {
    // Where row `i` of the upper triangle has column `i`.
    let diagonal = |i: usize| i * vectors.len() - i * i.saturating_sub(1) / 2;
    for (pair, ab) in vectors.chunks(2).enumerate() {
        let at = 2 * pair;
        let first = diagonal(at);
        let [a, b] = ab else {
            sums[first] += products(&ab[0], [&ab[0]])[0];
            continue;
        };
        let second = diagonal(at + 1);
        let [aa, a_b, bb] = gram(a, b);
        sums[first] += aa;
        sums[first + 1] += a_b;
        sums[second] += bb;
        for (k, c) in vectors.iter().enumerate().skip(at + 2) {
            let [ac, bc] = products(c, [a, b]);
            sums[first + k - at] += ac;
            sums[second + k - at - 1] += bc;
        }
    }
}

#[inline(always)]
pub(super) fn add_products(a: &[f32], b: &[f32], sums: &mut [f64]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum += f64::from(*a) * f64::from(*b);
    }
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
