//! Products of matrices over the threads of the current pool.
//!
//! Candle's products choose their blocks by the processor's caches and fuse multiplications with
//! additions where it can; these here do neither (see [`crate::matrix::add_rows`]).

use crate::kernels::Kernels;
use crate::matrix::{View, add_rows};
use rayon::prelude::*;

/// Rows of the product that one task computes.
const ROWS: usize = 64;

/// A matrix in f32 as it stands in a slice.
pub(super) type Matrix<'a> = View<'a, f32>;

/// `out += a·b`, rows one after the other; each element in f32 in the order of the inner dimension.
pub(super) fn add_product(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    let ((rows, inner), (steps, columns)) = (a.shape(), b.shape());
    debug_assert_eq!((inner, rows * columns), (steps, out.len()));
    if columns == 0 {
        return;
    }
    out.par_chunks_mut(ROWS * columns).enumerate().for_each(|(task, out)| {
        let first = task * ROWS;
        add_rows(Kernels::best(), (a, b), first, columns, out);
    });
}

/// The product.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let mut out = vec![0.0; a.shape().0 * b.shape().1];
    add_product(a, b, &mut out);
    out
}

/// xᵀ·x of rows of `width` elements: what lies below the diagonal is computed, and mirrored.
pub(crate) fn gram(x: &[f32], width: usize) -> Vec<f32> {
    let x = Matrix::new(x, width);
    let mut out = vec![0.0; width * width];
    if width == 0 {
        return out;
    }
    out.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, out)| {
        let first = task * ROWS;
        add_rows(Kernels::best(), (x.t(), x), first, (first + ROWS).min(width), out);
    });
    for i in 0..width {
        for j in 0..i {
            out[j * width + i] = out[i * width + j];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(length: usize) -> Vec<f32> {
        (0..length).map(|i| ((i * 7919 % 1009) as f32 - 504.3) / 97.0).collect()
    }

    #[test]
    fn gram_matrices_are_products() {
        for (rows, width) in [(1, 1), (7, 63), (300, 64), (40, 200)] {
            let x = values(rows * width);
            let whole = product(Matrix::new(&x, width).t(), Matrix::new(&x, width));
            assert_eq!(gram(&x, width), whole, "{rows} {width}");
        }
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
