//! Eigenvalues and eigenvectors of symmetric matrices.

use super::Matrix;
use crate::error::{Error, Result};
use nalgebra::{DMatrix, SymmetricEigen};

/// What a symmetric matrix is made of: A = Σ `values[i]` · `vectors.row(i)ᵀ · vectors.row(i)`.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// The eigenvalues, the largest first.
    pub values: Vec<f64>,
    /// The eigenvectors, one a row.
    pub vectors: Matrix,
}

/// Steps of the QR iteration that are enough for each eigenvalue; two or three are usual.
const STEPS: usize = 64;

/// Takes a symmetric matrix apart.
///
/// # Errors
/// The iteration does not converge. With finite elements it does.
pub fn eigen(symmetric: Matrix) -> Result<Eigen> {
    let n = symmetric.rows;
    if n == 0 {
        return Ok(Eigen { values: Vec::new(), vectors: symmetric });
    }
    let failed = || Error::internal("the eigenvalues of a matrix do not converge");
    if !symmetric.is_finite() {
        return Err(failed());
    }
    let matrix = DMatrix::from_vec(n, n, symmetric.values);
    let found = SymmetricEigen::try_new(matrix, f64::EPSILON, STEPS * n).ok_or_else(failed)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| found.eigenvalues[*b].total_cmp(&found.eigenvalues[*a]));
    let mut vectors = Matrix::zeros(n, n);
    for (row, at) in order.iter().enumerate() {
        vectors.row_mut(row).copy_from_slice(&found.eigenvectors.as_slice()[at * n..(at + 1) * n]);
    }
    Ok(Eigen { values: order.iter().map(|at| found.eigenvalues[*at]).collect(), vectors })
}
