//! Eigenvalues and eigenvectors of symmetric matrices: Householder reflections to a tridiagonal matrix,
//! then QL with implicit shifts (Golub and Van Loan, *Matrix Computations*, 8.3; Wilkinson and Reinsch,
//! *Handbook for Automatic Computation* II/2 and II/3).
//!
//! The order of every sum follows from the size alone, and nothing is fused: the bits are the same
//! everywhere, which those of crates that choose blocks by the caches and instructions by the processor
//! are not.

use super::Matrix;
use crate::error::{Error, Result};
use crate::kernels::{Kernels, PANEL, Sweep};

/// What a symmetric matrix is made of: A = Σ `values[i]` · `vectors.row(i)ᵀ · vectors.row(i)`.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// The eigenvalues, the largest first.
    pub values: Vec<f64>,
    /// The eigenvectors, one a row.
    pub vectors: Matrix,
}

/// Sweeps that are enough for each eigenvalue; one or two are usual.
const SWEEPS: usize = 64;
/// Turns that are collected before they are applied, for each row of the matrix.
const COLLECTED: usize = 32;

/// Takes a symmetric matrix apart. What lies above the diagonal is not looked at.
///
/// # Errors
/// An element is not finite.
pub fn eigen(kernels: Kernels, symmetric: Matrix) -> Result<Eigen> {
    let n = symmetric.rows;
    let failed = || Error::internal("the eigenvalues of a matrix do not converge");
    if !symmetric.is_finite() {
        return Err(failed());
    }
    let mut matrix = symmetric;
    let scale = matrix.values.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    if scale > 0.0 {
        matrix.values.iter_mut().for_each(|x| *x /= scale);
    }
    let mut tridiagonal = reduce(kernels, &mut matrix);
    let turned = diagonalise(kernels, &mut tridiagonal).ok_or_else(failed)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| tridiagonal.diagonal[*b].total_cmp(&tridiagonal.diagonal[*a]));
    // From panels of rows to panels of columns, in the order of the eigenvalues.
    let mut vectors = Matrix::zeros(n, n);
    let mut panel = vec![0.0; n * PANEL];
    for (first, columns) in order.chunks(PANEL).enumerate() {
        panel.fill(0.0);
        for (lane, column) in columns.iter().enumerate() {
            for row in 0..n {
                panel[row * PANEL + lane] = turned[place(n, row, *column)];
            }
        }
        kernels.reflect(&matrix.values, &tridiagonal.factors, &mut panel);
        for lane in 0..columns.len() {
            let vector = vectors.row_mut(first * PANEL + lane);
            vector
                .iter_mut()
                .zip(panel.iter().skip(lane).step_by(PANEL))
                .for_each(|(x, y)| *x = *y);
        }
    }
    let values = order.iter().map(|at| tridiagonal.diagonal[*at] * scale).collect();
    Ok(Eigen { values, vectors })
}

struct Tridiagonal {
    diagonal: Vec<f64>,
    /// Beside the diagonal; one longer than it has to be.
    beside: Vec<f64>,
    /// The factors of the reflections.
    factors: Vec<f64>,
}

/// Reflects a symmetric matrix to a tridiagonal one. The axis of reflection k, which begins with a 1,
/// stands right of the diagonal in row k then.
fn reduce(kernels: Kernels, matrix: &mut Matrix) -> Tridiagonal {
    let n = matrix.rows;
    let mut out =
        Tridiagonal { diagonal: vec![0.0; n], beside: vec![0.0; n], factors: vec![0.0; n] };
    // The last reflection takes v·wᵀ + w·vᵀ off what is left, which is done while the product of what is
    // left with the next axis x is made.
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    let (mut x, mut product) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n {
        out.diagonal[k] = matrix.row(k)[k] - 2.0 * v[k] * w[k];
        x[k] = 0.0;
        for i in k + 1..n {
            x[i] = matrix.row(i)[k] - (v[i] * w[k] + w[i] * v[k]);
        }
        (out.beside[k], out.factors[k]) = axis(&mut x[k + 1..]);
        product.fill(0.0);
        for i in k + 1..n {
            let row = &mut matrix.row_mut(i)[k + 1..=i];
            let Some((diagonal, row)) = row.split_last_mut() else { continue };
            let (along, sums) = ([v[i], w[i], x[i]], &mut product[k + 1..]);
            let sum = kernels.reduce_row(row, along, [&v[k + 1..], &w[k + 1..], &x[k + 1..]], sums);
            *diagonal -= 2.0 * v[i] * w[i];
            product[i] += sum + *diagonal * x[i];
        }
        matrix.row_mut(k)[k + 1..].copy_from_slice(&x[k + 1..]);
        let factor = out.factors[k];
        let dot: f64 = product[k + 1..].iter().zip(&x[k + 1..]).map(|(p, x)| p * x).sum();
        v.copy_from_slice(&x);
        w.fill(0.0);
        for i in k + 1..n {
            w[i] = factor * product[i] - 0.5 * factor * factor * dot * x[i];
        }
    }
    out
}

/// Makes a column the axis of the reflection that leaves only its first element, and returns that
/// element and the reflection's factor (0 and zeros where nothing is to be done).
fn axis(x: &mut [f64]) -> (f64, f64) {
    let Some((lead, rest)) = x.split_first_mut() else { return (0.0, 0.0) };
    let largest = rest.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    let first = *lead;
    if largest == 0.0 {
        *lead = 0.0;
        return (first, 0.0);
    }
    let scale = largest.max(first.abs());
    let squares = rest
        .iter()
        .fold((first / scale) * (first / scale), |sum, x| sum + (x / scale) * (x / scale));
    let norm = scale * squares.sqrt();
    let left = if first > 0.0 { -norm } else { norm };
    rest.iter_mut().for_each(|x| *x /= first - left);
    *lead = 1.0;
    (left, (left - first) / left)
}

/// Where element (row, column) stands in panels of rows.
fn place(n: usize, row: usize, column: usize) -> usize {
    (row / PANEL * n + column) * PANEL + row % PANEL
}

/// Turns the tridiagonal matrix until nothing is left beside the diagonal; what the turns make of the
/// identity, in panels of rows. None if that takes too long.
fn diagonalise(kernels: Kernels, matrix: &mut Tridiagonal) -> Option<Vec<f64>> {
    let n = matrix.diagonal.len();
    let mut turned = vec![0.0; n.div_ceil(PANEL) * n * PANEL];
    (0..n).for_each(|i| turned[place(n, i, i)] = 1.0);
    let (mut sweeps, mut turns) = (Vec::new(), Vec::new());
    let mut apply = |sweeps: &mut Vec<Sweep>, turns: &mut Vec<[f64; 2]>| {
        turned.chunks_mut(n.max(1) * PANEL).for_each(|panel| kernels.turn(sweeps, turns, panel));
        sweeps.clear();
        turns.clear();
    };
    // What is lost against the largest entries was lost when they were reflected.
    let entries = matrix.diagonal.iter().chain(&matrix.beside);
    let floor = f64::EPSILON * entries.fold(0.0_f64, |most, x| most.max(x.abs()));
    for first in 0..n {
        let mut left = SWEEPS;
        loop {
            let (d, e) = (&matrix.diagonal, &matrix.beside);
            let parts = |m: &usize| {
                let own = f64::EPSILON * (d[*m].abs() + d[*m + 1].abs());
                e[*m].abs() <= own.max(floor)
            };
            let last = (first..n - 1).find(parts).unwrap_or(n - 1);
            if last == first {
                break;
            }
            left = left.checked_sub(1)?;
            sweeps.push(sweep(matrix, first, last, &mut turns));
            if turns.len() > COLLECTED * n {
                apply(&mut sweeps, &mut turns);
            }
        }
    }
    apply(&mut sweeps, &mut turns);
    Some(turned)
}

/// One QL step with Wilkinson's shift on the block from `first` to `last`.
fn sweep(matrix: &mut Tridiagonal, first: usize, last: usize, turns: &mut Vec<[f64; 2]>) -> Sweep {
    let (d, e) = (&mut matrix.diagonal, &mut matrix.beside);
    let mut done = Sweep { first, last, turns: turns.len() };
    let ratio = (d[first + 1] - d[first]) / (2.0 * e[first]);
    let root = (ratio * ratio + 1.0).sqrt();
    let shift = ratio + if ratio >= 0.0 { root } else { -root };
    let mut g = d[last] - d[first] + e[first] / shift;
    let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
    for i in (first..last).rev() {
        let (f, b) = (s * e[i], c * e[i]);
        let length = (f * f + g * g).sqrt();
        e[i + 1] = length;
        if length == 0.0 {
            // The block has come apart here.
            d[i + 1] -= p;
            e[last] = 0.0;
            done.first = i + 1;
            return done;
        }
        (s, c) = (f / length, g / length);
        g = d[i + 1] - p;
        let r = (d[i] - g) * s + 2.0 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        turns.push([c, s]);
    }
    d[first] -= p;
    e[first] = g;
    e[last] = 0.0;
    done
}
