//! WUDI-Merging: the task vector that disturbs each task least in the directions of its own inputs.

use super::task_matrix::{MATRICES, TaskMatrices, held};
use super::{Map, Method, Params};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::matrix::{Matrix, gram, product, solve};

pub(super) const METHOD: Method = Method {
    name: "wudi",
    summary: "Starts from the sum of the task vectors and takes back what disturbs the tasks.",
    formula: "τᵢ = wᵢ·δᵢ; τ = argmin Σ ‖(τ − τᵢ)·τᵢᵀ‖²/‖τᵢ‖² + ρ·‖τ − Σ τᵢ‖²; out = base + λ·τ; not a layer's matrix: base",
    reference: "Cheng et al. 2025, Whoever Started the Interference Should End It, arXiv 2503.08099",
    notes: include_str!("notes/wudi.md"),
    whole: |_, shape| held(shape, 5, shape.1, 3),
    prepare,
    ..MATRICES
};

/// What keeps directions in which no task has inputs at the sum, as a share of the mean eigenvalue of
/// what is solved with.
const RIDGE: f64 = 1e-6;

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let Some(tasks) = TaskMatrices::new(io, p)? else { return Ok(Map::Copy(io.base()?)) };
    let kernels = tasks.kernels;
    let mut merged = tasks.sum()?;
    let (rows, columns) = merged.shape();
    // With Gᵢ = τᵢᵀτᵢ/‖τᵢ‖² and τ = Σ τᵢ + X: X·(Σ Gᵢ + ρ) = −Σ (Σ τⱼ − τᵢ)·Gᵢ.
    let mut left = Matrix::zeros(columns, columns);
    let mut right = Matrix::zeros(rows, columns);
    let mut counted = 0;
    for task in 0..tasks.count() {
        let own = tasks.one(task)?;
        let square: f64 = own.values().iter().map(|x| x * x).sum();
        if square == 0.0 {
            continue;
        }
        counted += 1;
        let mut inputs = gram(kernels, own.t());
        inputs.values_mut().iter_mut().for_each(|x| *x /= square);
        add(&mut left, &inputs, 1.0);
        let mut others = own;
        others.values_mut().iter_mut().zip(merged.values()).for_each(|(x, all)| *x = all - *x);
        add(&mut right, &product(kernels, others.view(), inputs.view()), -1.0);
    }
    if counted > 0 {
        // Each Gᵢ has the trace 1.
        let ridge = RIDGE * f64::from(counted) / columns as f64;
        (0..columns).for_each(|i| left.row_mut(i)[i] += ridge);
        add(&mut merged, &solve(kernels, left, right)?, 1.0);
    }
    tasks.onto_base(&merged, p)
}

fn add(sum: &mut Matrix, x: &Matrix, factor: f64) {
    sum.values_mut().iter_mut().zip(x.values()).for_each(|(sum, x)| *sum += factor * x);
}
