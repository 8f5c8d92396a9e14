//! Singular value decompositions, and functions of singular values.

use super::{Eigen, Matrix, View, eigen, gram, product};
use crate::error::Result;
use crate::kernels::Kernels;

/// Singular values up to this share of the largest one count as 0: what stands in their directions
/// is the rounding of weights stored in f32, and no direction of theirs is determined.
pub const RANK: f64 = 1.0 / (1 << 20) as f64;

/// The largest singular values of a matrix with their vectors: A ≈ Σ `values[i]` · `left.row(i)ᵀ · right.row(i)`.
#[derive(Clone, Debug)]
pub struct Svd {
    /// The singular values, the largest first; those that count as 0 are left out.
    pub values: Vec<f64>,
    /// The left singular vectors, one a row.
    pub left: Matrix,
    /// The right singular vectors, one a row.
    pub right: Matrix,
}

impl Svd {
    /// Without the directions whose singular values are `floor` or less.
    pub fn above(self, floor: f64) -> Self {
        let count = self.values.iter().take_while(|value| **value > floor).count();
        let Self { mut values, left, right } = self;
        values.truncate(count);
        Self { values, left: left.truncated(count), right: right.truncated(count) }
    }
}

/// How many singular values do not count as 0, given the eigenvalues of the Gram matrix in
/// descending order.
pub fn rank(eigenvalues: &[f64]) -> usize {
    let floor = eigenvalues.first().map_or(0.0, |largest| largest * RANK * RANK);
    eigenvalues.iter().take_while(|value| **value > floor.max(0.0)).count()
}

/// The Gram matrix of the shorter side, taken apart.
fn spectrum(kernels: Kernels, a: View<'_, f64>) -> Result<Eigen> {
    let (rows, columns) = a.shape();
    eigen(kernels, gram(kernels, if rows <= columns { a } else { a.t() }))
}

/// The `count` largest singular values of `a` with their vectors, or as many as do not count as 0.
///
/// # Errors
/// An element is not finite.
pub fn svd(kernels: Kernels, a: View<'_, f64>, count: usize) -> Result<Svd> {
    let (rows, columns) = a.shape();
    let Eigen { values, vectors } = spectrum(kernels, a)?;
    let near = vectors.truncated(count.min(rank(&values)));
    let mut far = if rows <= columns {
        product(kernels, near.view(), a)
    } else {
        product(kernels, near.view(), a.t())
    };
    // The vectors of the other side have the singular values for their lengths.
    let norm = |i: usize| far.row(i).iter().map(|x| x * x).sum::<f64>().sqrt();
    let values: Vec<f64> = (0..near.shape().0).map(norm).collect();
    let inverse: Vec<f64> = values.iter().map(|value| 1.0 / value).collect();
    far.scale_rows(&inverse);
    let (left, right) = if rows <= columns { (near, far) } else { (far, near) };
    Ok(Svd { values, left, right })
}

/// The symmetric matrix with the same eigenvectors and the eigenvalues `f` makes of the old ones;
/// `f` gives no negative ones, and is not asked for those that count as 0, which stay 0.
fn function(kernels: Kernels, spectrum: Eigen, f: impl Fn(f64) -> f64) -> Matrix {
    let Eigen { values, vectors } = spectrum;
    let rank = rank(&values);
    let roots: Vec<f64> = values[..rank].iter().map(|value| f(*value).sqrt()).collect();
    let mut vectors = vectors.truncated(rank);
    vectors.scale_rows(&roots);
    gram(kernels, vectors.t())
}

/// Multiplies each singular value σ of `a` by `factor(σ)`, which is positive; those that count as 0
/// become 0. `factor` is made of all the singular values that do not count as 0, the largest first.
///
/// # Errors
/// An element is not finite.
pub fn rescale<F: Fn(f64) -> f64>(
    kernels: Kernels,
    a: View<'_, f64>,
    factor: impl FnOnce(&[f64]) -> F,
) -> Result<Matrix> {
    let (rows, columns) = a.shape();
    let spectrum = spectrum(kernels, a)?;
    let rank = rank(&spectrum.values);
    let singular: Vec<f64> = spectrum.values[..rank].iter().map(|value| value.sqrt()).collect();
    let factor = factor(&singular);
    let by = function(kernels, spectrum, |value| factor(value.sqrt()));
    Ok(if rows <= columns {
        product(kernels, by.view(), a)
    } else {
        product(kernels, a, by.view())
    })
}

/// The matrix with the singular vectors of `a` and all its singular values 1 (its polar factor), with
/// the singular values it had; those that count as 0 stay 0, and are left out.
///
/// # Errors
/// An element is not finite.
pub fn polar(kernels: Kernels, a: View<'_, f64>) -> Result<(Matrix, Vec<f64>)> {
    let (rows, columns) = a.shape();
    let mut values = Vec::new();
    let near = rescale(kernels, a, |found| {
        values = found.to_vec();
        |value: f64| 1.0 / value
    })?;
    // What the Gram matrix lost of small singular values: a step of Newton and Schulz squares the error,
    // X ← (3X − XXᵀX)/2.
    let cubed = if rows <= columns {
        product(kernels, gram(kernels, near.view()).view(), near.view())
    } else {
        product(kernels, near.view(), gram(kernels, near.t()).view())
    };
    let mut out = near;
    for (x, cubed) in out.values.iter_mut().zip(&cubed.values) {
        *x = 1.5 * *x - 0.5 * cubed;
    }
    Ok((out, values))
}
