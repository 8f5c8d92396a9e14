//! `ModelIo`: what a method may do over all tensors of a merge before the first is made.

use super::{Lanes, TensorIo};
use crate::error::Result;

/// The inputs of every tensor that takes part in a survey of the whole model. Each tensor is gone
/// through by one thread; counts are integers, so their order does not matter.
pub struct ModelIo<'a> {
    tensors: Vec<TensorIo<'a>>,
}

impl<'a> ModelIo<'a> {
    pub(crate) fn new(tensors: Vec<TensorIo<'a>>) -> Self {
        Self { tensors }
    }

    /// The tensors, in output order.
    pub fn tensors(&self) -> &[TensorIo<'a>] {
        &self.tensors
    }

    /// Counts in `bins` bins over all tensors. The body gets the tensor's place and its tiles.
    pub fn counts(
        &self,
        bins: usize,
        body: impl Fn(usize, &TensorIo<'a>, &mut [Vec<f32>], &mut [u64]) + Sync,
    ) -> Result<Vec<u64>> {
        Lanes::Pool.count(0..self.tensors.len(), bins, |at, counts| {
            let tensor = &self.tensors[at];
            tensor.count_into(counts, |_, inputs, counts| body(at, tensor, inputs, counts))
        })
    }

    /// Counts in `width` bins for each tensor, in output order.
    pub fn tensor_counts(
        &self,
        width: usize,
        body: impl Fn(usize, &TensorIo<'a>, &mut [Vec<f32>], &mut [u64]) + Sync,
    ) -> Result<Vec<Vec<u64>>> {
        Lanes::Pool.collect(0..self.tensors.len(), |at| {
            let tensor = &self.tensors[at];
            let mut counts = vec![0; width];
            tensor.count_into(&mut counts, |_, inputs, counts| body(at, tensor, inputs, counts))?;
            Ok(counts)
        })
    }

    /// Sums of `width` f64 values for each tensor, in output order; a tensor's are added in the order of
    /// its tiles.
    pub fn tensor_sums(
        &self,
        width: usize,
        body: impl Fn(usize, &TensorIo<'a>, &mut [Vec<f32>], &mut [f64]) + Sync,
    ) -> Result<Vec<Vec<f64>>> {
        Lanes::Pool.collect(0..self.tensors.len(), |at| {
            let tensor = &self.tensors[at];
            let mut sums = vec![0.0; width];
            tensor.count_into(&mut sums, |_, inputs, sums| body(at, tensor, inputs, sums))?;
            Ok(sums)
        })
    }
}
