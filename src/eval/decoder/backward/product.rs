//! Products of matrices that are the same on every machine.
//!
//! Candle's products choose their blocks by the processor's caches and fuse multiplications with
//! additions where it can; these here do neither (see [`Kernels::add_tile`]).

use crate::kernels::{Kernels, TILE_COLUMNS, TILE_ROWS};
use rayon::prelude::*;

/// Steps of the inner dimension, and columns, of a block that stays in the second cache.
const STEPS: usize = 256;
const COLUMNS: usize = 256;
/// Rows of the product that one task computes.
const ROWS: usize = 64;

/// A matrix as it stands in a slice: element (i, j) is at `i·strides.0 + j·strides.1`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// Rows one after the other, `columns` elements each.
    pub(super) fn new(values: &'a [f32], columns: usize) -> Self {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        Self { values, rows, columns, strides: (columns, 1) }
    }

    /// Its columns as rows.
    pub(super) fn t(self) -> Self {
        let Self { values, rows, columns, strides: (row, column) } = self;
        Self { values, rows: columns, columns: rows, strides: (column, row) }
    }

    /// Elements `(first.., step)` of `count` lines of width `width`, as they stand along the strides,
    /// packed step by step and filled up with zeros.
    fn pack(
        values: &[f32],
        (line, step): (usize, usize),
        lines: (usize, usize),
        steps: (usize, usize),
        width: usize,
        out: &mut Vec<f32>,
    ) {
        let ((first, count), (start, length)) = (lines, steps);
        out.clear();
        out.resize(length * width, 0.0);
        for (k, out) in out.chunks_exact_mut(width).enumerate() {
            let at = (start + k) * step + first * line;
            if line == 1 {
                out[..count].copy_from_slice(&values[at..at + count]);
            } else {
                for (l, out) in out[..count].iter_mut().enumerate() {
                    *out = values[at + l * line];
                }
            }
        }
    }
}

/// `out += a·b`, rows one after the other; each element in f32 in the order of the inner dimension.
pub(super) fn add_product(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    debug_assert_eq!((a.columns, a.rows * b.columns), (b.rows, out.len()));
    if b.columns == 0 {
        return;
    }
    out.par_chunks_mut(ROWS * b.columns).enumerate().for_each(|(task, out)| {
        let first = task * ROWS;
        rows(a, b, first, out);
    });
}

/// The product.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let mut out = vec![0.0; a.rows * b.columns];
    add_product(a, b, &mut out);
    out
}

/// Some rows of the product, from `first` on.
fn rows(a: Matrix<'_>, b: Matrix<'_>, first: usize, out: &mut [f32]) {
    let kernels = Kernels::best();
    let (width, count) = (b.columns, out.len() / b.columns);
    let mut packed_a = Vec::new();
    let mut packed_b: Vec<Vec<f32>> = vec![Vec::new(); COLUMNS / TILE_COLUMNS];
    let mut tile = [0.0_f32; TILE_ROWS * TILE_COLUMNS];
    for column in (0..width).step_by(COLUMNS) {
        let columns = COLUMNS.min(width - column);
        for step in (0..a.columns).step_by(STEPS) {
            let steps = (step, STEPS.min(a.columns - step));
            let strips = (0..columns).step_by(TILE_COLUMNS);
            for (strip, packed) in strips.clone().zip(&mut packed_b) {
                let lines = (column + strip, TILE_COLUMNS.min(columns - strip));
                let strides = (b.strides.1, b.strides.0);
                Matrix::pack(b.values, strides, lines, steps, TILE_COLUMNS, packed);
            }
            for row in (0..count).step_by(TILE_ROWS) {
                let height = TILE_ROWS.min(count - row);
                let lines = (first + row, height);
                Matrix::pack(a.values, a.strides, lines, steps, TILE_ROWS, &mut packed_a);
                for (strip, packed) in strips.clone().zip(&packed_b) {
                    let length = TILE_COLUMNS.min(columns - strip);
                    let at = |r: usize| (row + r) * width + column + strip;
                    for (r, tile) in tile.chunks_exact_mut(TILE_COLUMNS).take(height).enumerate() {
                        tile[..length].copy_from_slice(&out[at(r)..at(r) + length]);
                    }
                    kernels.add_tile(&packed_a, packed, &mut tile);
                    for (r, tile) in tile.chunks_exact(TILE_COLUMNS).take(height).enumerate() {
                        out[at(r)..at(r) + length].copy_from_slice(&tile[..length]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(length: usize) -> Vec<f32> {
        (0..length).map(|i| ((i * 7919 % 1009) as f32 - 504.3) / 97.0).collect()
    }

    /// Every element is the plain fold, whatever the shape, and however the matrices stand.
    #[test]
    fn products_are_folds_in_order() {
        for (m, k, n) in [(1, 1, 1), (5, 3, 17), (4, 600, 16), (131, 257, 300), (70, 30, 1)] {
            let (a, b) = (values(m * k), values(k * n));
            let transpose = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..columns)
                    .flat_map(|j| (0..rows).map(move |i| (i, j)))
                    .map(|(i, j)| x[i * columns + j])
                    .collect()
            };
            let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
            let found = [
                product(Matrix::new(&a, k), Matrix::new(&b, n)),
                product(Matrix::new(&at, m).t(), Matrix::new(&bt, k).t()),
            ];
            for i in 0..m {
                for j in 0..n {
                    let fold = (0..k).fold(0.0_f32, |sum, l| sum + a[i * k + l] * b[l * n + j]);
                    for found in &found {
                        assert_eq!(found[i * n + j].to_bits(), fold.to_bits(), "{m} {k} {n}");
                    }
                }
            }
        }
    }
}
