//! Going through the inputs of a tensor row by row.
//!
//! A row belongs to the chunk that it begins in. Reductions add a chunk's rows in order and the
//! chunks in order, so that threads do not matter.

use super::NanPolicy;
use super::tensor_io::{TensorIo, zero_nan};
use crate::error::Result;
use crate::methods::RowMap;
use std::ops::Range;

/// Values of partial sums that are kept at a time, over all chunks.
const PARTIALS: usize = 1 << 16;

impl TensorIo<'_> {
    /// The shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        self.shape
    }

    /// Elements of a row: the last dimension; a tensor of one dimension is one row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1).max(1)
    }

    /// Rows of the tensor.
    pub fn rows(&self) -> usize {
        self.elements() / self.columns()
    }

    /// Sums of `width` f64 values over runs of `length` elements (whole rows, or rows of a slice of
    /// the first dimension), of which the tensor is made up. The body gets `(run, inputs, sums)`.
    pub fn row_sums(
        &self,
        length: usize,
        width: usize,
        body: impl Fn(usize, &mut [Vec<f32>], &mut [f64]) + Sync,
    ) -> Result<Vec<f64>> {
        self.folded(width, |chunk, sums| {
            self.reduce_rows(length, chunk, |row, inputs| body(row, inputs, sums))
        })
    }

    /// Counts in `bins` bins over runs of `length` elements; the body gets `(run, inputs, counts)`.
    pub fn row_counts(
        &self,
        length: usize,
        bins: usize,
        body: impl Fn(usize, &mut [Vec<f32>], &mut [u64]) + Sync,
    ) -> Result<Vec<u64>> {
        self.lanes().count(0..self.chunks(), bins, |chunk, counts| {
            self.reduce_rows(length, chunk, |row, inputs| body(row, inputs, counts))
        })
    }

    /// A value for each run of `length` elements, in order.
    pub fn row_values<T: Send>(
        &self,
        length: usize,
        body: impl Fn(&mut [Vec<f32>]) -> T + Sync,
    ) -> Result<Vec<T>> {
        let parts = self.lanes().collect(0..self.chunks(), |chunk| {
            let mut values = Vec::new();
            self.reduce_rows(length, chunk, |_, inputs| values.push(body(inputs)))?;
            Ok(values)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Sums of `width` values: each chunk's own, added in chunk order. Only some chunks' sums are
    /// kept at a time.
    pub(super) fn folded(
        &self,
        width: usize,
        body: impl Fn(usize, &mut [f64]) -> Result<()> + Sync,
    ) -> Result<Vec<f64>> {
        let window = self.lanes().window().max(PARTIALS / width.max(1));
        let mut sums = vec![0.0; width];
        let mut next = 0;
        while next < self.chunks() {
            let chunks = next..(next + window).min(self.chunks());
            next = chunks.end;
            let partials = self.lanes().collect(chunks, |chunk| {
                let mut partial = vec![0.0; width];
                body(chunk, &mut partial)?;
                Ok(partial)
            })?;
            for partial in partials {
                sums.iter_mut().zip(partial).for_each(|(sum, part)| *sum += part);
            }
        }
        Ok(sums)
    }

    /// Goes through the runs of `length` elements that begin in a chunk. A kept NaN counts as 0.
    fn reduce_rows(
        &self,
        length: usize,
        chunk: usize,
        mut body: impl FnMut(usize, &mut [Vec<f32>]),
    ) -> Result<()> {
        self.prefetch_before(chunk);
        let elements = self.chunk_range(chunk);
        let rows = elements.start.div_ceil(length)..elements.end.div_ceil(length);
        let elements = rows.start * length..(rows.end * length).min(self.elements());
        self.read_range(elements, length, |start, inputs, any_nan| {
            if any_nan && self.nan_policy() == NanPolicy::Keep {
                inputs.iter_mut().for_each(|input| zero_nan(input));
            }
            body(start / length, inputs);
            Ok(())
        })
    }

    /// Applies a map to every row that a stretch of elements touches; `sink` gets what lies in the
    /// stretch.
    pub(super) fn map_rows(
        &self,
        map: &RowMap,
        range: Range<usize>,
        mut sink: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let columns = self.columns();
        let rows = range.start / columns * columns..range.end.div_ceil(columns) * columns;
        let mut out = vec![0.0; columns];
        self.read_range(rows, columns, |start, inputs, any_nan| {
            let nans = if any_nan { self.find_nans(start, inputs)? } else { Vec::new() };
            if any_nan {
                // A NaN makes its own element NaN, not its row.
                inputs.iter_mut().for_each(|input| zero_nan(input));
            }
            map(start / columns, inputs, &mut out);
            for element in nans {
                out[element] = f32::NAN;
            }
            let (from, to) = (start.max(range.start), (start + columns).min(range.end));
            sink(from, &out[from - start..to - start])
        })
    }
}
