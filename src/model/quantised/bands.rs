//! A small cache of decoded rows, for schemes that store a weight transposed.
//!
//! A row of such a weight lies across all of its packed words, and each word holds parts of several
//! rows; so a *band* of a few rows is decoded at once, and kept while reads go through it.

use crate::error::Result;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Elements that a band should have at most; it has at least 8 rows.
const BAND: usize = 1 << 16;

/// Elements that are kept at most for all weights of a checkpoint (8 MiB).
const KEPT: usize = 1 << 21;

/// Columns of a weight at most, so that a band fits the cache. The widest layers of published
/// models have about 53 000.
pub(super) const MAX_COLUMNS: usize = 1 << 17;

/// Rows in a band of a weight with this many columns: a multiple of 8, which is how many rows the
/// words of AWQ hold.
pub(super) fn rows(columns: usize) -> usize {
    (BAND / columns.max(1)).clamp(8, 64) / 8 * 8
}

/// The bands that were decoded last.
#[derive(Default)]
pub(super) struct Bands {
    weights: AtomicUsize,
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    weight: usize,
    band: usize,
    values: Arc<[f32]>,
}

impl Bands {
    /// A number for one more weight.
    pub(super) fn number(&self) -> usize {
        self.weights.fetch_add(1, Ordering::Relaxed)
    }

    /// A band of a weight, made by `make` unless it is kept. Threads that miss the same band both
    /// make it; none waits for another.
    pub(super) fn get(
        &self,
        weight: usize,
        band: usize,
        make: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Arc<[f32]>> {
        let found = self.kept().iter().find(|k| k.weight == weight && k.band == band).map(values);
        if let Some(values) = found {
            return Ok(values);
        }
        let values: Arc<[f32]> = make()?.into();
        let mut kept = self.kept();
        kept.push_back(Kept { weight, band, values: Arc::clone(&values) });
        let mut total: usize = kept.iter().map(|kept| kept.values.len()).sum();
        while total > KEPT {
            total -= kept.pop_front().map_or(total, |oldest| oldest.values.len());
        }
        Ok(values)
    }

    /// Lets go of the bands of a weight.
    pub(super) fn forget(&self, weight: usize) {
        self.kept().retain(|kept| kept.weight != weight);
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // What is kept is whole even if a thread panicked beside it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn values(kept: &Kept) -> Arc<[f32]> {
    Arc::clone(&kept.values)
}
