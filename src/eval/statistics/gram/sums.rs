//! Sums of products of rows with themselves.

use crate::error::{Error, Result};
use crate::eval::decoder::backward::{Weights, gram};
use crate::eval::decoder::tensors::{failed, width, with_elements};
use crate::eval::statistics::output::Output;
use crate::model::architectures::MapInput;
use candle_core::Tensor;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Elements that one task adds.
const PIECE: usize = 1 << 16;

/// Σ xᵀ·x by the names of the inputs: in f32, a product for each document, in their order.
pub(super) struct Sums(BTreeMap<String, Vec<f32>>);

impl Sums {
    /// Zeros for these inputs.
    pub(super) fn new(inputs: &[MapInput]) -> Self {
        let zeros = |input: &MapInput| (input.name().to_string(), vec![0.0; input.width.pow(2)]);
        Self(inputs.iter().map(zeros).collect())
    }

    /// Adds what a document's weights heard.
    pub(super) fn add_all(&mut self, heard: Weights) -> Result<()> {
        heard.heard().iter().try_for_each(|(name, rows)| self.add(name, rows))
    }

    /// Adds the product of a document's rows.
    pub(super) fn add(&mut self, name: &str, rows: &Tensor) -> Result<()> {
        let rows = rows.contiguous().map_err(failed)?;
        let own = with_elements(&rows, |values| gram(values, width(&rows)))?;
        let sums = self.0.get_mut(name).filter(|sums| sums.len() == own.len());
        let sums = sums.ok_or_else(|| {
            Error::internal("a linear map has other inputs than its family says").tensor(name)
        })?;
        let pieces = sums.par_chunks_mut(PIECE).zip(own.par_chunks(PIECE));
        pieces.for_each(|(sums, own)| sums.iter_mut().zip(own).for_each(|(sum, x)| *sum += x));
        Ok(())
    }

    /// Divides by the tokens and puts the means into the file.
    pub(super) fn finish(self, tokens: usize, output: &mut Output) -> Result<()> {
        let count = tokens as f32;
        for (name, mut sums) in self.0 {
            sums.par_chunks_mut(PIECE).for_each(|sums| sums.iter_mut().for_each(|x| *x /= count));
            output.put(&name, &sums)?;
        }
        Ok(())
    }
}
