//! WUDI-Merging: the task vector that disturbs each task least in the directions of its own inputs.

use super::task_matrix::{MATRICES, TaskMatrices, held};
use super::{Map, Method, Params, Reads};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::matrix::{Matrix, gram, product, solve};

pub(super) const METHOD: Method = Method {
    name: "wudi",
    summary: "Starts from the sum of the task vectors and takes back what disturbs the tasks.",
    formula: "τᵢ = wᵢ·δᵢ; τ = argmin Σ ‖(τ − τᵢ)·τᵢᵀ‖²/‖τᵢ‖² + ρ·‖τ − Σ τᵢ‖²; out = base + λ·τ; not a layer's matrix: base",
    reference: "Cheng et al. 2025, Whoever Started the Interference Should End It, arXiv 2503.08099",
    notes: include_str!("notes/wudi.md"),
    reads: Reads::Stream { passes: 4, bins: 0 },
    whole: |inputs, shape| {
        let stacked = inputs.saturating_sub(1) * shape.0;
        if shape.1 <= stacked {
            held(shape, 6, shape.1, 4)
        } else {
            held(shape, inputs as u64 + 5, stacked, 4)
        }
    },
    prepare,
    ..MATRICES
};

/// What keeps directions in which the tasks have few inputs at the sum, as a share of the mean eigenvalue
/// of what is solved with. Without it, the minimum goes far beyond the sum there, and is worse than the sum
/// on the trained family; the paper's descent stops before.
const RIDGE: f64 = 0.1;

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let Some(tasks) = TaskMatrices::new(io, p)? else { return Ok(Map::Copy(io.base()?)) };
    let sum = tasks.sum()?;
    let (rows, columns) = sum.shape();
    let change = if columns <= tasks.count() * rows {
        by_columns(&tasks, &sum)?
    } else {
        by_rows(&tasks, &sum)?
    };
    let mut merged = sum;
    add(&mut merged, &change);
    tasks.onto_base(&merged, p)
}

// With Bᵢ = τᵢ/‖τᵢ‖, Gᵢ = BᵢᵀBᵢ and τ = Σ τᵢ + X, the minimum is where X·(Σ Gᵢ + ρ) = −Σ (Σ τⱼ − τᵢ)·Gᵢ.
// Each Gᵢ has the trace 1, so that the mean eigenvalue is their number over the columns.

/// X from a system as large as the matrix has columns.
fn by_columns(tasks: &TaskMatrices<'_>, sum: &Matrix) -> Result<Matrix> {
    let (rows, columns) = sum.shape();
    let mut left = Matrix::zeros(columns, columns);
    let mut right = Matrix::zeros(rows, columns);
    let mut counted = 0;
    for task in 0..tasks.count() {
        let Some((mut others, norm)) = others(tasks, task, sum)? else { continue };
        let mut own = tasks.one(task)?;
        scale(&mut own, 1.0 / norm);
        counted += 1;
        let inputs = gram(tasks.kernels, own.t());
        add(&mut left, &inputs);
        scale(&mut others, -1.0);
        add(&mut right, &product(tasks.kernels, others.view(), inputs.view()));
    }
    ridge(&mut left, counted, columns);
    solve(tasks.kernels, left, right)
}

/// X from a system as large as all the tasks together have rows: with the Bᵢ one below the other and
/// the Cᵢ = −(Σ τⱼ − τᵢ)·Bᵢᵀ side by side, X = C·(B·Bᵀ + ρ)⁻¹·B.
fn by_rows(tasks: &TaskMatrices<'_>, sum: &Matrix) -> Result<Matrix> {
    let (rows, columns) = sum.shape();
    let mut all = Matrix::zeros(0, columns);
    let mut parts = Vec::new();
    for task in 0..tasks.count() {
        let Some((mut others, norm)) = others(tasks, task, sum)? else { continue };
        let mut own = tasks.one(task)?;
        scale(&mut own, 1.0 / norm);
        scale(&mut others, -1.0);
        parts.push(product(tasks.kernels, own.view(), others.t()));
        all = all.stacked(&own);
    }
    let right = parts.iter().fold(Matrix::zeros(0, rows), |all, part| all.stacked(part));
    let mut left = gram(tasks.kernels, all.view());
    ridge(&mut left, parts.len(), columns);
    let solved = solve(tasks.kernels, left, right.transposed())?;
    Ok(product(tasks.kernels, solved.view(), all.view()))
}

/// Σ τⱼ − τᵢ, and ‖τᵢ‖; none for a model that is the base.
fn others(tasks: &TaskMatrices<'_>, task: usize, sum: &Matrix) -> Result<Option<(Matrix, f64)>> {
    let mut own = tasks.one(task)?;
    let norm = own.norm();
    own.values_mut().iter_mut().zip(sum.values()).for_each(|(x, all)| *x = all - *x);
    Ok((norm > 0.0).then_some((own, norm)))
}

fn ridge(left: &mut Matrix, counted: usize, columns: usize) {
    let ridge = RIDGE * counted.max(1) as f64 / columns as f64;
    (0..left.shape().0).for_each(|i| left.row_mut(i)[i] += ridge);
}

fn add(sum: &mut Matrix, x: &Matrix) {
    sum.values_mut().iter_mut().zip(x.values()).for_each(|(sum, x)| *sum += x);
}

fn scale(matrix: &mut Matrix, factor: f64) {
    matrix.values_mut().iter_mut().for_each(|x| *x *= factor);
}
