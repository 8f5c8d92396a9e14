//! Isotropic merging: the singular values of the merged task matrix are made equal.

use super::params::{Default, FRACTION, Param};
use super::task_matrix::{MATRICES, PARAMS, TaskMatrices, held, mean};
use super::{Map, Method, Params, Reads};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::matrix::{Matrix, RANK, Svd, polar, product, svd};

pub(super) const COMMON: Method = Method {
    name: "iso_c",
    summary: "Sums the task vectors and makes all singular values of the sum equal.",
    formula: "UΣVᵀ = Σ wᵢ·δᵢ; out = base + λ·mean(Σ)·UVᵀ; not a layer's matrix: base + λ·mean(wᵢ·δᵢ)",
    reference: "Marczak et al. 2025, No Task Left Behind, arXiv 2502.04959",
    notes: include_str!("notes/iso_c.md"),
    reads: Reads::Stream { passes: 2, bins: 0 },
    whole: |_, shape| held(shape, 3, shape.0.min(shape.1), 5),
    prepare: common,
    ..MATRICES
};

pub(super) const COMMON_AND_TASKS: Method = Method {
    name: "iso_cts",
    summary: "As iso_c, with the least directions of the sum replaced by each task's own.",
    formula: "Uᶜ, Vᶜ = the first of Σ wᵢ·δᵢ; Uⁱ, Vⁱ = the first of wᵢδᵢ − UᶜUᶜᵀwᵢδᵢ; out = base + λ·mean(σ)·polar([U¹ … Uᶜ])·polar([V¹ … Vᶜ])ᵀ",
    notes: include_str!("notes/iso_cts.md"),
    params: &[PARAMS[0], PARAMS[1], FRACTION_OF_COMMON],
    reads: Reads::Stream { passes: 3, bins: 0 },
    whole: |_, shape| held(shape, 7, shape.0.min(shape.1), 5),
    prepare: common_and_tasks,
    ..COMMON
};

const FRACTION_OF_COMMON: Param = Param::shared(
    "common_space_fraction",
    FRACTION,
    "share of the directions that are those of the sum",
)
.or(Default::Number(0.8));

fn common(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let Some(tasks) = TaskMatrices::new(io, p)? else { return mean(io, p) };
    let (mut merged, values) = polar(tasks.kernels, tasks.sum()?.view())?;
    let level = values.iter().sum::<f64>() / tasks.side() as f64;
    merged.values_mut().iter_mut().for_each(|x| *x *= level);
    tasks.onto_base(&merged, p)
}

/// How many directions the sum has, and how many each task has, out of `side`: the tasks' are equal in
/// number, and rounded as the authors round them (half to even).
fn directions(side: usize, fraction: f64, tasks: usize) -> (usize, usize) {
    let common = (side as f64 * fraction) as usize;
    let each = ((side - common) as f64 / tasks as f64).round_ties_even() as usize;
    let each = each.min(side / tasks);
    (side - each * tasks, each)
}

fn common_and_tasks(io: &TensorIo<'_>, p: &Params) -> Result<Map> {
    let Some(tasks) = TaskMatrices::new(io, p)? else { return mean(io, p) };
    let kernels = tasks.kernels;
    let (of_sum, of_each) =
        directions(tasks.side(), p.number("common_space_fraction")?, tasks.count());
    let common = svd(kernels, tasks.sum()?.view(), of_sum)?;
    let mut all = Directions::new(&common);
    for task in 0..tasks.count() {
        let mut own = tasks.one(task)?;
        let norm = own.norm();
        let along = product(kernels, common.left.view(), own.view());
        let along = product(kernels, common.left.t(), along.view());
        own.values_mut().iter_mut().zip(along.values()).for_each(|(x, y)| *x -= y);
        // A task that lies in the common directions leaves nothing but rounding.
        all.add(svd(kernels, own.view(), of_each)?.above(norm * RANK));
    }
    all.add(common);
    let level = all.values.iter().sum::<f64>() / tasks.side() as f64;
    all.values.fill(level);
    tasks.onto_base(&all.orthogonal(kernels)?, p)
}

/// Singular vectors of several matrices, one a row, with their values.
pub(super) struct Directions {
    left: Matrix,
    right: Matrix,
    pub(super) values: Vec<f64>,
}

impl Directions {
    /// None yet, of the shape of these.
    pub(super) fn new(like: &Svd) -> Self {
        let empty = |vectors: &Matrix| Matrix::zeros(0, vectors.shape().1);
        Self { left: empty(&like.left), right: empty(&like.right), values: Vec::new() }
    }

    pub(super) fn add(&mut self, found: Svd) {
        let stack = |all: &mut Matrix, new: &Matrix| {
            let old = std::mem::replace(all, Matrix::zeros(0, 0));
            *all = old.stacked(new);
        };
        stack(&mut self.left, &found.left);
        stack(&mut self.right, &found.right);
        self.values.extend(found.values);
    }

    /// Both sides made orthonormal, each by its polar factor, and put together with the values.
    pub(super) fn orthogonal(self, kernels: Kernels) -> Result<Matrix> {
        let Self { left, right, values } = self;
        // Each side is given back before the next is begun.
        let orthonormal = |vectors: Matrix| polar(kernels, vectors.view()).map(|(found, _)| found);
        let left = orthonormal(left)?;
        let mut right = orthonormal(right)?;
        right.scale_rows(&values);
        Ok(product(kernels, left.t(), right.view()))
    }
}

#[cfg(test)]
mod tests {
    use super::directions;

    #[test]
    fn directions_are_counted_as_the_authors_count() {
        // (side, fraction, tasks): what their lines give.
        assert_eq!(directions(768, 0.8, 8), (616, 19));
        assert_eq!(directions(512, 0.8, 3), (410, 34));
        assert_eq!(directions(10, 0.8, 4), (10, 0));
        assert_eq!(directions(7, 0.0, 2), (1, 3));
        assert_eq!(directions(1, 0.0, 3), (1, 0));
        assert_eq!(directions(5, 1.0, 3), (5, 0));
    }
}
