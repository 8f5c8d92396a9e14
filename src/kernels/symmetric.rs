//! What the eigenvalues of a symmetric matrix are found with, in f64.

/// Vectors that are turned together: a panel has this many elements for each place of theirs.
pub const PANEL: usize = 16;

/// A run of turns: each turns place `i` with place `i + 1`, from `last − 1` down to `first`.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The lowest place.
    pub first: usize,
    /// The highest place.
    pub last: usize,
    /// Where its turns begin.
    pub turns: usize,
}

#[inline(always)]
pub(super) fn reduce_row(
    row: &mut [f64],
    [vi, wi, xi]: [f64; 3],
    [v, w, x]: [&[f64]; 3],
    sums: &mut [f64],
) -> f64 {
    let length = row.len();
    let (row, row_rest) = row.as_chunks_mut::<PANEL>();
    let (v, v_rest) = v[..length].as_chunks::<PANEL>();
    let (w, w_rest) = w[..length].as_chunks::<PANEL>();
    let (x, x_rest) = x[..length].as_chunks::<PANEL>();
    let (sums, sums_rest) = sums[..length].as_chunks_mut::<PANEL>();
    let mut lanes = [0.0; PANEL];
    for ((((row, v), w), x), sums) in row.iter_mut().zip(v).zip(w).zip(x).zip(sums) {
        for l in 0..PANEL {
            let y = row[l] - (vi * w[l] + wi * v[l]);
            row[l] = y;
            lanes[l] += y * x[l];
            sums[l] += xi * y;
        }
    }
    let mut rest = 0.0;
    for k in 0..row_rest.len() {
        let y = row_rest[k] - (vi * w_rest[k] + wi * v_rest[k]);
        row_rest[k] = y;
        rest += y * x_rest[k];
        sums_rest[k] += xi * y;
    }
    let mut half = PANEL / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0] + rest
}

#[inline(always)]
pub(super) fn turn(sweeps: &[Sweep], turns: &[[f64; 2]], panel: &mut [f64]) {
    let panel = panel.as_chunks_mut::<PANEL>().0;
    for &Sweep { first, last, turns: at } in sweeps {
        let mut carry = panel[last];
        for (place, [c, s]) in (first..last).rev().zip(&turns[at..]) {
            let x = panel[place];
            let out = &mut panel[place + 1];
            for l in 0..PANEL {
                out[l] = s * x[l] + c * carry[l];
            }
            for l in 0..PANEL {
                carry[l] = c * x[l] - s * carry[l];
            }
        }
        panel[first] = carry;
    }
}

#[inline(always)]
pub(super) fn reflect(matrix: &[f64], factors: &[f64], panel: &mut [f64]) {
    let n = factors.len();
    let panel = panel.as_chunks_mut::<PANEL>().0;
    // What a reflection takes off is taken off by the pass of the next one.
    let mut shares = [0.0; PANEL];
    let axis = |k: usize| &matrix[k * n + k + 1..(k + 1) * n];
    for k in (0..n.saturating_sub(1)).rev() {
        let (Some((lead, axis)), Some((first, rest))) =
            (axis(k).split_first(), panel[k + 1..n].split_first_mut())
        else {
            continue;
        };
        let before: &[f64] =
            if k + 2 < n { &matrix[(k + 1) * n + k + 2..(k + 2) * n] } else { &[] };
        let mut sums = [0.0; PANEL];
        for l in 0..PANEL {
            sums[l] = lead * first[l];
        }
        for ((row, v), before) in rest.iter_mut().zip(axis).zip(before) {
            for l in 0..PANEL {
                let x = row[l] - before * shares[l];
                row[l] = x;
                sums[l] += v * x;
            }
        }
        for l in 0..PANEL {
            shares[l] = sums[l] * factors[k];
        }
    }
    if n > 1 {
        for (row, v) in panel[1..n].iter_mut().zip(axis(0)) {
            for l in 0..PANEL {
                row[l] -= v * shares[l];
            }
        }
    }
}
