//! Linear algebra in f64 that gives the same bits on every machine and at any number of threads.
//!
//! Products are folds in a fixed order ([`add_rows`]); factorisations are plain loops over values,
//! without blocks that depend on caches, and without fused operations. Everything runs on the calling
//! thread: other threads have other tensors.
//!
//! Singular values are taken as roots of the eigenvalues of the smaller Gram matrix. In f64 they are
//! exact to about 10⁻⁸ of the largest one; entries that are stored in f32 determine no more.

mod assign;
mod cholesky;
mod eigen;
mod product;
mod spectral;

pub use assign::assign;
pub use cholesky::solve;
pub use eigen::{Eigen, eigen};
pub use product::{Element, View, add_rows};
pub use spectral::{RANK, Svd, polar, rank, rescale, svd};

use crate::kernels::Kernels;

/// Rows that are computed at a time where only the columns up to the diagonal are needed.
const SYMMETRIC_ROWS: usize = 192;

/// A matrix in f64, rows one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    values: Vec<f64>,
    rows: usize,
    columns: usize,
}

impl Matrix {
    /// All zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { values: vec![0.0; rows * columns], rows, columns }
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The elements, rows one after the other.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The elements, to be changed.
    pub fn values_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    /// A row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// A row, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// As a factor of a product.
    pub fn view(&self) -> View<'_, f64> {
        View::of(&self.values, self.rows, self.columns)
    }

    /// Its transpose, as a factor of a product.
    pub fn t(&self) -> View<'_, f64> {
        self.view().t()
    }

    /// The transpose.
    pub fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.columns, self.rows);
        for (i, row) in self.values.chunks(self.columns.max(1)).enumerate() {
            row.iter().enumerate().for_each(|(j, x)| out.values[j * self.rows + i] = *x);
        }
        out
    }

    /// The first rows.
    pub fn truncated(mut self, rows: usize) -> Self {
        self.rows = rows.min(self.rows);
        self.values.truncate(self.rows * self.columns);
        self
    }

    /// The rows of both.
    pub fn stacked(mut self, below: &Self) -> Self {
        self.values.extend_from_slice(&below.values);
        self.rows += below.rows;
        self
    }

    /// √Σ x².
    pub fn norm(&self) -> f64 {
        self.values.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// Whether every element is a finite number.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|x| x.is_finite())
    }

    /// Multiplies each row by its factor.
    pub fn scale_rows(&mut self, factors: &[f64]) {
        for (row, factor) in factors.iter().enumerate() {
            self.row_mut(row).iter_mut().for_each(|x| *x *= factor);
        }
    }
}

/// a·b.
pub fn product(kernels: Kernels, a: View<'_, f64>, b: View<'_, f64>) -> Matrix {
    let mut out = Matrix::zeros(a.shape().0, b.shape().1);
    let width = out.columns;
    add_rows(kernels, (a, b), 0, width, &mut out.values);
    out
}

/// a·b where that is symmetric: what lies below the diagonal is computed, and mirrored.
pub fn symmetric_product(kernels: Kernels, a: View<'_, f64>, b: View<'_, f64>) -> Matrix {
    let n = a.shape().0;
    let mut out = Matrix::zeros(n, n);
    for first in (0..n).step_by(SYMMETRIC_ROWS) {
        let end = (first + SYMMETRIC_ROWS).min(n);
        add_rows(kernels, (a, b), first, end, &mut out.values[first * n..end * n]);
    }
    for i in 0..n {
        for j in 0..i {
            out.values[j * n + i] = out.values[i * n + j];
        }
    }
    out
}

/// a·aᵀ.
pub fn gram(kernels: Kernels, a: View<'_, f64>) -> Matrix {
    symmetric_product(kernels, a, a.t())
}

#[cfg(test)]
mod tests;
