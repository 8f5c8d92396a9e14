//! Symmetric positive definite systems.

use super::{Matrix, View, add_rows};
use crate::error::{Error, Result};
use crate::kernels::Kernels;

/// Columns that are factored at a time.
const BLOCK: usize = 128;

/// `right · symmetric⁻¹` for a positive definite matrix, whose values are overwritten.
///
/// A blocked Cholesky factorisation: blocks on the diagonal are factored and inverted as they stand,
/// everything else is products.
///
/// # Errors
/// The matrix is not positive definite.
pub fn solve(kernels: Kernels, symmetric: Matrix, right: Matrix) -> Result<Matrix> {
    let mut a = symmetric;
    let mut x = right;
    let n = a.rows;
    let blocks: Vec<(usize, usize)> =
        (0..n).step_by(BLOCK).map(|start| (start, BLOCK.min(n - start))).collect();
    // A = L·Lᵀ. L stands below the diagonal; of the blocks on the diagonal, their inverses are kept.
    let mut inverses = Vec::new();
    for &(start, size) in &blocks {
        let end = start + size;
        // What is left of this block column: A − Σ over the columns before.
        let mut column = a.part((start, n), (start, end));
        let before = a.part((start, n), (0, start));
        let top = a.part((start, end), (0, start));
        subtract_product(kernels, before.view(), top.t(), &mut column);
        let inverse = inverse_factor(column.part((0, size), (0, size)))?;
        let below = column.part((size, n - start), (0, size));
        let below = super::product(kernels, below.view(), inverse.t());
        a.put((end, start), &below);
        inverses.push(inverse);
    }
    // X·A = R: Y·Lᵀ = R from the left on, then X·L = Y from the right on.
    let rows = x.rows;
    for (&(start, size), inverse) in blocks.iter().zip(&inverses) {
        let mut part = x.part((0, rows), (start, start + size));
        let done = x.part((0, rows), (0, start));
        let line = a.part((start, start + size), (0, start));
        subtract_product(kernels, done.view(), line.t(), &mut part);
        x.put((0, start), &super::product(kernels, part.view(), inverse.t()));
    }
    for (&(start, size), inverse) in blocks.iter().zip(&inverses).rev() {
        let end = start + size;
        let mut part = x.part((0, rows), (start, end));
        let done = x.part((0, rows), (end, n));
        let line = a.part((end, n), (start, end));
        subtract_product(kernels, done.view(), line.view(), &mut part);
        x.put((0, start), &super::product(kernels, part.view(), inverse.view()));
    }
    Ok(x)
}

/// L⁻¹ of a small matrix L·Lᵀ.
fn inverse_factor(block: Matrix) -> Result<Matrix> {
    let n = block.rows;
    let mut lower = block;
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| lower.row(i)[k] * lower.row(j)[k]).sum();
            let left = lower.row(i)[j] - dot;
            if i > j {
                let diagonal = lower.row(j)[j];
                lower.row_mut(i)[j] = left / diagonal;
            } else if left > 0.0 {
                lower.row_mut(i)[i] = left.sqrt();
            } else {
                return Err(Error::internal("a matrix to be solved with is not positive definite"));
            }
        }
    }
    let mut inverse = Matrix::zeros(n, n);
    for i in 0..n {
        let diagonal = lower.row(i)[i];
        for j in 0..i {
            let dot: f64 = (j..i).map(|k| lower.row(i)[k] * inverse.row(k)[j]).sum();
            inverse.row_mut(i)[j] = -dot / diagonal;
        }
        inverse.row_mut(i)[i] = 1.0 / diagonal;
    }
    Ok(inverse)
}

/// `out -= a·b`.
fn subtract_product(kernels: Kernels, a: View<'_, f64>, b: View<'_, f64>, out: &mut Matrix) {
    if a.shape().1 == 0 || out.values.is_empty() {
        return;
    }
    let mut sum = Matrix::zeros(out.rows, out.columns);
    let width = sum.columns;
    add_rows(kernels, (a, b), 0, width, &mut sum.values);
    out.values.iter_mut().zip(&sum.values).for_each(|(x, y)| *x -= y);
}

impl Matrix {
    /// The elements of some rows and columns.
    fn part(&self, rows: (usize, usize), columns: (usize, usize)) -> Self {
        let width = columns.1 - columns.0;
        let mut part = Self::zeros(rows.1 - rows.0, width);
        for (i, row) in (rows.0..rows.1).enumerate() {
            part.row_mut(i).copy_from_slice(&self.row(row)[columns.0..columns.1]);
        }
        part
    }

    /// Writes a part back.
    fn put(&mut self, at: (usize, usize), part: &Self) {
        for i in 0..part.rows {
            let row = self.row_mut(at.0 + i);
            row[at.1..at.1 + part.columns].copy_from_slice(part.row(i));
        }
    }
}
