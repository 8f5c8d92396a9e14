//! A weight with a product of two thin matrices added to it while it is read: LoRA (Hu et al. 2021,
//! <https://arxiv.org/abs/2106.09685>).
//!
//! The weight is taken as the matrix it is stored as: `rows × columns`, where what follows the first
//! dimension (the kernel of a convolution) counts as columns. The change is `scale · L·R` with `L`
//! `rows × rank` and `R` `rank × columns`. For a linear layer `L` is B and `R` is A; where the weight
//! is stored transposed (`Conv1D`, embeddings), `L` is Aᵀ and `R` is Bᵀ.
//!
//! Numerics: `L·R` is summed in f32 over the rank in order, from 0 on; then `W + scale·(L·R)` in f32,
//! each operation rounded once. (PEFT rounds the change and the result to the base's dtype; here the
//! result stays f32 until a merge's output is rounded.) An element does not depend on where a read
//! starts.

use super::decoded::{Id, LARGEST, decoded};
use super::magnitude::Magnitude;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::shards::StoredTensor;
use crate::model::source::{Source, TensorSpec};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Elements that are computed at a time.
pub(super) const BLOCK: usize = 4096;
/// Elements of a longer `R` that are decoded at a time, so that they stay in the second cache.
const TILE: usize = 1 << 16;
/// Columns of such a tile at most and at least.
const WIDTH: Range<usize> = 64..1024;

/// One of the two factors: a vector of `rank` numbers for each of `length` rows or columns of the
/// weight.
pub(super) struct Factor {
    tensor: StoredTensor,
    rank: usize,
    length: usize,
    /// Whether the numbers of one rank stand together in the file (A), or those of one row or
    /// column (B).
    by_rank: bool,
    id: Id,
}

impl Factor {
    /// A factor stored as `rank × length`.
    pub(super) fn by_rank(tensor: StoredTensor, rank: usize, length: usize) -> Self {
        Self { tensor, rank, length, by_rank: true, id: Id::new() }
    }

    /// A factor stored as `length × rank`.
    pub(super) fn by_element(tensor: StoredTensor, rank: usize, length: usize) -> Self {
        Self { tensor, rank, length, by_rank: false, id: Id::new() }
    }

    /// All of it by rank, where it is short enough to be kept.
    fn kept(&self) -> Result<Option<Rc<[f32]>>> {
        if self.rank * self.length > LARGEST {
            return Ok(None);
        }
        decoded(self.id, || self.decode(0..self.length, true)).map(Some)
    }

    /// Its vectors for these rows or columns: the numbers of one rank together if `by_rank`, those of
    /// one row or column otherwise.
    fn decode(&self, range: Range<usize>, by_rank: bool) -> Result<Vec<f32>> {
        let width = range.len();
        let mut stored = vec![0.0; width * self.rank];
        if self.by_rank {
            for (rank, out) in stored.chunks_mut(width.max(1)).enumerate() {
                self.tensor.read(rank * self.length + range.start, out)?;
            }
        } else {
            self.tensor.read(range.start * self.rank, &mut stored)?;
        }
        if self.by_rank == by_rank {
            return Ok(stored);
        }
        let (outer, inner) = if by_rank { (self.rank, width) } else { (width, self.rank) };
        let mut turned = Vec::with_capacity(stored.len());
        for i in 0..outer {
            turned.extend((0..inner).map(|j| stored[j * outer + i]));
        }
        Ok(turned)
    }
}

/// A weight, the factors of its change, and what follows from them.
pub(super) struct LowRank {
    base: Arc<dyn Source>,
    left: Factor,
    right: Factor,
    scale: f32,
    columns: usize,
    magnitude: Option<Magnitude>,
}

impl LowRank {
    /// `base + scale · left·right`, and with a magnitude its rows or columns brought to it (DoRA).
    /// The caller has checked that the lengths of the factors are the rows and columns of the base
    /// and their ranks the same.
    pub(super) fn new(
        base: Arc<dyn Source>,
        left: Factor,
        right: Factor,
        scale: f32,
        magnitude: Option<Magnitude>,
    ) -> Self {
        Self { columns: right.length, base, left, right, scale, magnitude }
    }

    /// Reads the sum of weight and change, before any magnitude.
    pub(super) fn read_sum(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.base.read(start, out)?;
        for (i, block) in out.chunks_mut(BLOCK).enumerate() {
            self.add(start + i * BLOCK, block)?;
        }
        Ok(())
    }

    /// Adds the change to these elements.
    fn add(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let end = start + out.len();
        let rows = start / self.columns..end.div_ceil(self.columns);
        let left = self.left.decode(rows.clone(), false)?;
        let kept = self.right.kept()?;
        let width = match &kept {
            Some(_) => self.columns,
            None => (TILE / self.right.rank).clamp(WIDTH.start, WIDTH.end),
        };
        // All of the columns, unless the elements are a part of one row.
        let first = if rows.len() == 1 { start - rows.start * self.columns } else { 0 };
        let last = if rows.len() == 1 { first + out.len() } else { self.columns };
        for tile in (first..last).step_by(width) {
            let tile = tile..(tile + width).min(last);
            // Two rows may be touched at their ends alone, with columns between that nobody reads.
            let touched = |row: usize| {
                let at = row * self.columns;
                (at + tile.start).max(start)..(at + tile.end).min(end)
            };
            if rows.clone().all(|row| touched(row).is_empty()) {
                continue;
            }
            let part = if kept.is_none() { self.right.decode(tile.clone(), true)? } else { vec![] };
            // What is decoded of R: the column it begins with, and how many it has.
            let (right, from, stride) = match &kept {
                Some(kept) => (&kept[..], 0, self.columns),
                None => (&part[..], tile.start, tile.len()),
            };
            for (row, weights) in rows.clone().zip(left.chunks(self.left.rank)) {
                let elements = touched(row);
                if elements.is_empty() {
                    continue;
                }
                // Skipping columns shifts every row of R alike.
                let right = &right[elements.start - row * self.columns - from..];
                let out = &mut out[elements.start - start..elements.end - start];
                Kernels::best().add_product(weights, right, stride, self.scale, out);
            }
        }
        Ok(())
    }
}

impl Source for LowRank {
    fn spec(&self) -> &TensorSpec {
        self.base.spec()
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        self.read_sum(start, out)?;
        if let Some(magnitude) = &self.magnitude {
            magnitude.apply(self, start, out)?;
        }
        Ok(out.iter().fold(false, |any, value| any | value.is_nan()))
    }

    fn parts(&self) -> Vec<&str> {
        let mut parts = self.base.parts();
        parts.extend([&self.left, &self.right].map(|factor| factor.tensor.spec().name.as_str()));
        parts.extend(self.magnitude.as_ref().map(Magnitude::name));
        parts
    }

    fn origin(&self) -> Option<&Path> {
        self.base.origin()
    }

    fn prefetch(&self, elements: Range<usize>) {
        if elements.start == 0 {
            for factor in [&self.left, &self.right] {
                factor.tensor.prefetch(0..factor.tensor.spec().elements());
            }
        }
        self.base.prefetch(elements);
    }

    fn release(&self, elements: Range<usize>) {
        if elements.end >= self.spec().elements() {
            if let Some(magnitude) = &self.magnitude {
                magnitude.forget();
            }
            for factor in [&self.left, &self.right] {
                factor.tensor.release(0..factor.tensor.spec().elements());
            }
        }
        self.base.release(elements);
    }
}
