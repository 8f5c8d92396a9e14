//! DoRA: rows or columns of a changed weight brought to trained lengths (Liu et al. 2024,
//! <https://arxiv.org/abs/2402.09353>).
//!
//! `W' = m / ‖W + scale·B·A‖ · (W + scale·B·A)`, with one length m and one norm for each output of
//! the layer: each row of a linear layer or convolution, each column of what is stored transposed and
//! of an embedding.
//!
//! Numerics: the norm is the root of a sum of squares in f64 over the f32 elements, in the order they
//! are stored (along a row in blocks from its start, each block by the 16 lanes of
//! [`Kernels::gram`]); the quotient is taken in f64 and rounded once to f32; the product is f32.
//! A norm of 0 under a length that is not gives an infinity times 0, which is NaN, as in PEFT.

use super::low_rank::{BLOCK, LowRank};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::shards::StoredTensor;
use crate::model::source::Source;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The trained lengths, and the factors that follow from them and from the weight.
pub(super) struct Magnitude {
    stored: StoredTensor,
    by_row: bool,
    rows: usize,
    columns: usize,
    /// Found when they are first needed, forgotten when the tensor has been read.
    factors: Mutex<Option<Arc<Factors>>>,
}

/// What rows or columns are multiplied with: 4 bytes for each.
enum Factors {
    /// Found row by row, as f32 patterns; [`UNKNOWN`] where not yet found.
    Rows(Vec<AtomicU32>),
    /// Found in one pass over the tensor.
    Columns(Vec<f32>),
}

/// A NaN that no arithmetic makes.
const UNKNOWN: u32 = u32::MAX;

impl Magnitude {
    /// For a weight stored as `rows × columns`; `stored` has one element for each row or for each
    /// column, which the caller has checked.
    pub(super) fn new(stored: StoredTensor, by_row: bool, rows: usize, columns: usize) -> Self {
        Self { stored, by_row, rows, columns, factors: Mutex::new(None) }
    }

    /// The name its lengths are stored under.
    pub(super) fn name(&self) -> &str {
        &self.stored.spec().name
    }

    /// Multiplies elements of the sum with their factors.
    pub(super) fn apply(&self, sum: &LowRank, start: usize, out: &mut [f32]) -> Result<()> {
        let factors = self.factors(sum)?;
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let (row, column) = (at / self.columns, at % self.columns);
            let length = rest.len().min(self.columns - column);
            let (part, behind) = rest.split_at_mut(length);
            match &*factors {
                Factors::Rows(rows) => {
                    let factor = self.row_factor(sum, row, &rows[row])?;
                    part.iter_mut().for_each(|value| *value *= factor);
                }
                Factors::Columns(factors) => {
                    let factors = &factors[column..column + length];
                    part.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
                }
            }
            at += length;
            rest = behind;
        }
        Ok(())
    }

    /// Forgets the factors; they are found again if they are needed again.
    pub(super) fn forget(&self) {
        *self.factors.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn factors(&self, sum: &LowRank) -> Result<Arc<Factors>> {
        // Held while the columns are summed: other threads need the result too.
        let mut known = self.factors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(factors) = &*known {
            return Ok(Arc::clone(factors));
        }
        let found = Arc::new(if self.by_row {
            Factors::Rows((0..self.rows).map(|_| AtomicU32::new(UNKNOWN)).collect())
        } else {
            Factors::Columns(self.column_factors(sum)?)
        });
        *known = Some(Arc::clone(&found));
        Ok(found)
    }

    /// The factor of a row; the row is read once for it. Whoever finds it finds the same.
    fn row_factor(&self, sum: &LowRank, row: usize, known: &AtomicU32) -> Result<f32> {
        let pattern = known.load(Ordering::Relaxed);
        if pattern != UNKNOWN {
            return Ok(f32::from_bits(pattern));
        }
        let mut buffer = vec![0.0; BLOCK.min(self.columns)];
        let mut squares = 0.0;
        for column in (0..self.columns).step_by(BLOCK) {
            let part = &mut buffer[..BLOCK.min(self.columns - column)];
            sum.read_sum(row * self.columns + column, part)?;
            squares += Kernels::best().gram(part, part)[0];
        }
        let mut length = [0.0];
        self.stored.read(row, &mut length)?;
        let factor = (f64::from(length[0]) / squares.sqrt()) as f32;
        known.store(factor.to_bits(), Ordering::Relaxed);
        Ok(factor)
    }

    fn column_factors(&self, sum: &LowRank) -> Result<Vec<f32>> {
        let mut squares = vec![0.0_f64; self.columns];
        let mut buffer = vec![0.0; BLOCK.min(self.columns)];
        for row in 0..self.rows {
            for column in (0..self.columns).step_by(BLOCK) {
                let part = &mut buffer[..BLOCK.min(self.columns - column)];
                sum.read_sum(row * self.columns + column, part)?;
                for (square, value) in squares[column..].iter_mut().zip(part) {
                    *square += f64::from(*value) * f64::from(*value);
                }
            }
        }
        let mut factors = vec![0.0; self.columns];
        self.stored.read(0, &mut factors)?;
        for (factor, square) in factors.iter_mut().zip(&squares) {
            *factor = (f64::from(*factor) / square.sqrt()) as f32;
        }
        Ok(factors)
    }
}
