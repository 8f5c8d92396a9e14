//! Changes of low rank: what a LoRA adapter leaves when it is added to a weight.

use super::sample::{Sample, Slab};
use super::units::spread;
use crate::engine::Lanes;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::matrix::{Matrix, svd};

/// Rows and columns of a matrix that are looked at: a part of a matrix of low rank has that rank.
const SIDE: usize = 384;
/// Singular values up to this many times the largest that rounding alone leaves are rounding.
const FLOOR: f64 = 1.3;
/// A change of more than this share of the full rank is not low.
const LOW: f64 = 0.25;

/// The change of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The tensor.
    pub tensor: String,
    /// Singular values of the change that stand out of the rounding.
    pub rank: usize,
    /// The side of what was looked at: the greatest rank there can be.
    pub full: usize,
}

/// The changes of all matrices from a candidate: none if any tensor changed whose change is not of low
/// rank.
///
/// # Errors
/// A matrix has no singular values.
pub(super) fn changes(sample: &Sample, candidate: usize) -> Result<Option<Vec<Change>>> {
    let slabs: Vec<&Slab> = sample.slabs.iter().filter(|slab| !slab.copies(candidate)).collect();
    if slabs.iter().any(|slab| slab.shape.len() != 2) {
        return Ok(None);
    }
    let changes = Lanes::Pool.collect(0..slabs.len(), |at| change(slabs[at], candidate))?;
    let low = |change: &Change| change.rank > 0 && change.rank as f64 <= LOW * change.full as f64;
    Ok((!changes.is_empty() && changes.iter().all(low)).then_some(changes))
}

fn change(slab: &Slab, candidate: usize) -> Result<Change> {
    let rows = spread(slab.rows.len(), SIDE);
    let columns = spread(slab.columns, SIDE);
    let mut delta = Matrix::zeros(rows.len(), columns.len());
    let mut noise = 0.0;
    let mut largest_row = 0.0_f64;
    for (at, row) in rows.iter().enumerate() {
        let mut of_row = 0.0;
        for (x, column) in delta.row_mut(at).iter_mut().zip(&columns) {
            let e = row * slab.columns + column;
            *x = f64::from(slab.child[e]) - f64::from(slab.of[candidate][e]);
            of_row += f64::from(slab.sigma[e]) * f64::from(slab.sigma[e]);
        }
        noise += of_row;
        largest_row = largest_row.max(of_row / columns.len() as f64);
    }
    // The largest singular value of a matrix of independent entries is σ(√m + √n) (Bai and Yin 1988).
    let (m, n) = (rows.len() as f64, columns.len() as f64);
    let sigma = (noise / (m * n)).sqrt();
    let floor = FLOOR * sigma * (m.sqrt() + n.sqrt());
    let full = rows.len().min(columns.len());
    let found = svd(Kernels::best(), delta.view(), full)?.above(floor);
    Ok(Change { tensor: slab.name.clone(), rank: found.values.len(), full })
}
