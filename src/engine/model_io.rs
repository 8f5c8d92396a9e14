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

    /// Counts, or sums, of `width` values for each tensor, in output order; a tensor's are added in the order
    /// of its tiles.
    pub fn of_tensors<T: Copy + Default + Send>(
        &self,
        width: usize,
        body: impl Fn(usize, &TensorIo<'a>, &mut [Vec<f32>], &mut [T]) + Sync,
    ) -> Result<Vec<Vec<T>>> {
        Lanes::Pool.collect(0..self.tensors.len(), |at| {
            let tensor = &self.tensors[at];
            let mut values = vec![T::default(); width];
            tensor.count_into(&mut values, |_, inputs, values| body(at, tensor, inputs, values))?;
            Ok(values)
        })
    }
}
