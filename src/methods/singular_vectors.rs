//! Merging by task singular vectors.

use super::isotropic::Directions;
use super::task_matrix::{MATRICES, TaskMatrices, held, mean};
use super::{Map, Method, Params, Reads};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::matrix::svd;

pub(super) const METHOD: Method = Method {
    name: "tsv_m",
    summary: "Keeps each task's largest singular directions and makes those of all tasks orthogonal.",
    formula: "Uⁱ, Σⁱ, Vⁱ = the ⌊r/K⌋ first of wᵢ·δᵢ; out = base + λ·polar([U¹ … Uᴷ])·Σ·polar([V¹ … Vᴷ])ᵀ; not a layer's matrix: base + λ·mean(wᵢ·δᵢ)",
    reference: "Gargiulo et al. 2025, Task Singular Vectors, arXiv 2412.00081",
    notes: include_str!("notes/tsv_m.md"),
    reads: Reads::Stream { passes: 2, bins: 0 },
    whole: |_, shape| held(shape, 5, shape.0.min(shape.1), 5),
    prepare,
    ..MATRICES
};

fn prepare(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let Some(tasks) = TaskMatrices::new(io, p)? else { return mean(io, p) };
    let each = tasks.side() / tasks.count();
    let mut all = None;
    for task in 0..tasks.count() {
        let found = svd(tasks.kernels, tasks.one(task)?.view(), each)?;
        all.get_or_insert_with(|| Directions::new(&found)).add(found);
    }
    let Some(all) = all else { return mean(io, p) };
    tasks.onto_base(&all.orthogonal(tasks.kernels)?, p)
}
