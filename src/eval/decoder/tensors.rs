//! Candle's tensors as rows of f32: a matrix with one row a token.

use crate::error::{Error, Result};
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, Tensor};
use rayon::prelude::*;

/// Rows that one task works on at least, in elements, so that small matrices are not shared out.
const TASK: usize = 1 << 14;

/// An error of candle's, which no input can cause.
pub(in crate::eval) fn failed(error: candle_core::Error) -> Error {
    Error::internal("a tensor operation failed").fact("reason", error)
}

/// A matrix from its rows.
pub(in crate::eval) fn matrix(values: Vec<f32>, width: usize) -> Result<Tensor> {
    let rows = values.len() / width.max(1);
    Tensor::from_vec(values, (rows, width), &Device::Cpu).map_err(failed)
}

/// The number of rows of a matrix.
pub(in crate::eval) fn rows(tensor: &Tensor) -> usize {
    tensor.dims().first().copied().unwrap_or(0)
}

/// The width of a matrix.
pub(in crate::eval) fn width(tensor: &Tensor) -> usize {
    tensor.dims().last().copied().unwrap_or(0)
}

/// Looks at the elements of a contiguous tensor.
pub(in crate::eval) fn with_elements<T>(
    tensor: &Tensor,
    work: impl FnOnce(&[f32]) -> T,
) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Ok(work(&values[start..end]))
        }
        _ => Err(Error::internal("a tensor is not a contiguous matrix of f32")),
    }
}

struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) => {
                (self.0)(&mut values[start..end]);
                Ok(())
            }
            _ => candle_core::bail!("not a contiguous tensor of f32"),
        }
    }
}

/// Changes the elements of a contiguous tensor in place.
pub(super) fn change(tensor: &Tensor, work: impl Fn(&mut [f32])) -> Result<()> {
    tensor.inplace_op1(&InPlace(work)).map_err(failed)
}

/// Changes each row in place, given its number; rows are shared out among threads.
pub(super) fn each_row(tensor: &Tensor, work: impl Fn(usize, &mut [f32]) + Sync) -> Result<()> {
    let width = width(tensor).max(1);
    change(tensor, |values| {
        values
            .par_chunks_mut(width)
            .with_min_len(TASK.div_ceil(width))
            .enumerate()
            .for_each(|(row, values)| work(row, values));
    })
}

/// Changes each row of `tensor` in place, given the same row of `other`.
pub(super) fn each_row_with(
    tensor: &Tensor,
    other: &Tensor,
    work: impl Fn(&[f32], &mut [f32]) + Sync,
) -> Result<()> {
    let width = width(other).max(1);
    with_elements(other, |other| {
        each_row(tensor, |row, values| work(&other[row * width..(row + 1) * width], values))
    })?
}

/// Some rows of a matrix, in this order.
pub(super) fn gather(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let width = width(tensor);
    let gathered = with_elements(tensor, |values| {
        let mut gathered = Vec::with_capacity(rows.len() * width);
        for row in rows {
            gathered.extend_from_slice(&values[row * width..(row + 1) * width]);
        }
        gathered
    })?;
    matrix(gathered, width)
}
