//! A search for the pattern of the k-th largest value, narrowed by what counting passes find.

use crate::error::{Error, Result};
use crate::kernels::Kernels;
use std::ops::Range;

/// Bins of one counting pass.
pub(in crate::methods) const BINS: usize = 1 << 19;
/// A search's counts in a pass: the bins, how many values lie above the range, how many are 0.
pub(in crate::methods) const STRIDE: usize = BINS + 2;
/// One past the largest pattern of a magnitude.
pub(super) const PATTERNS: u32 = 1 << 31;

/// How many of the largest values are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::methods) enum Wanted {
    /// This many, at least 1.
    Count(usize),
    /// This share of those that are not 0, rounded down; that may be none.
    OfNonzero(f64),
}

/// A search under way over the values of one score.
#[derive(Debug)]
pub(in crate::methods) struct Search {
    wanted: Wanted,
    /// How many values there are.
    elements: usize,
    /// How many of the largest are kept; none until a pass has counted what that depends on.
    keep: Option<u64>,
    /// Where the pattern lies.
    pub(super) range: Range<u32>,
    /// Values equal to the pattern that are kept, once the range is one pattern.
    pub(super) ties: u64,
    /// Values equal to the pattern, likewise.
    equal: u64,
}

impl Search {
    /// A search for the smallest of the wanted among `elements` values.
    pub(in crate::methods) fn new(wanted: Wanted, elements: usize) -> Self {
        let keep = match wanted {
            Wanted::Count(keep) => Some(keep as u64),
            Wanted::OfNonzero(_) if elements == 0 => Some(0),
            Wanted::OfNonzero(_) => None,
        };
        Self { wanted, elements, keep, range: 0..PATTERNS, ties: 0, equal: 0 }
    }

    /// Whether the value is found.
    pub(in crate::methods) fn done(&self) -> bool {
        self.equal > 0 || self.keeps_nothing()
    }

    /// The f32 pattern of the value, once it is found.
    pub(in crate::methods) fn pattern(&self) -> u32 {
        self.range.start
    }

    pub(super) fn keeps_nothing(&self) -> bool {
        self.keep == Some(0)
    }

    /// Whether only some of the values equal to the pattern are kept. Zeros add nothing whether they
    /// are kept or not.
    pub(super) fn cuts_ties(&self) -> bool {
        self.ties < self.equal && self.range.start > 0
    }

    /// Sets the first range around the quantile of a sample of the values, which is reordered.
    pub(super) fn bracket(&mut self, sample: &mut [u32]) {
        let size = sample.len() as f64;
        let share = match self.wanted {
            Wanted::Count(keep) => keep as f64 / self.elements as f64,
            Wanted::OfNonzero(share) => {
                share * sample.iter().filter(|pattern| **pattern > 0).count() as f64 / size
            }
        };
        // Four standard deviations of the sampled rank to both sides, and a little more for rows
        // that differ from each other.
        let spread = 4.0 * (share * (1.0 - share) * size).sqrt() + 16.0;
        let rank = (1.0 - share) * size;
        let mut at = |rank: f64| *sample.select_nth_unstable(rank as usize).1;
        let low = if rank > spread { at(rank - spread) } else { 0 };
        let high =
            if rank + spread + 1.0 < size { at(rank + spread).saturating_add(1) } else { PATTERNS };
        self.range = low.min(PATTERNS - 1)..high.clamp(low.min(PATTERNS - 1) + 1, PATTERNS);
    }

    /// Counts some of the values into this search's counts of a pass.
    pub(in crate::methods) fn count(&self, kernels: Kernels, values: &[f32], counts: &mut [u64]) {
        let (bins, rest) = counts.split_at_mut(BINS);
        rest[0] += kernels.count_magnitudes(values, self.range.clone(), self.shift(), bins);
        if self.keep.is_none() {
            rest[1] += kernels.count_equal(values, 0);
        }
    }

    /// Narrows the range by what a pass over all values found in it and above it.
    pub(super) fn narrow(&mut self, counts: &[u64]) -> Result<()> {
        let (bins, above, zeros) = (&counts[..BINS], counts[BINS], counts[BINS + 1]);
        let keep = match (self.keep, self.wanted) {
            (None, Wanted::OfNonzero(share)) => {
                (share * (self.elements as u64).saturating_sub(zeros) as f64) as u64
            }
            (keep, _) => keep.unwrap_or(0),
        };
        self.keep = Some(keep);
        if keep == 0 {
            return Ok(());
        }
        let inside: u64 = bins.iter().sum();
        if above >= keep {
            // The sample was too low: everything wanted lies above the range.
            self.range = self.range.end..PATTERNS;
            return Ok(());
        }
        if above + inside < keep {
            self.range = 0..self.range.start;
            return Ok(());
        }
        let mut over = above;
        let shift = self.shift();
        for (bin, count) in bins.iter().enumerate().rev() {
            if over + count < keep {
                over += count;
                continue;
            }
            let start = self.range.start + ((bin as u32) << shift);
            let end = start.saturating_add(1 << shift).min(self.range.end);
            self.range = start..end;
            if end - start == 1 {
                self.ties = keep - over;
                self.equal = *count;
            }
            return Ok(());
        }
        Err(Error::internal("a threshold search lost its elements"))
    }

    /// Binary shift of a pattern's offset to its bin.
    fn shift(&self) -> u32 {
        let width = self.range.end - self.range.start;
        width.div_ceil(BINS as u32).next_power_of_two().trailing_zeros()
    }
}

/// Narrows those searches that are not done by the counts of a pass.
pub(in crate::methods) fn narrow_all(searches: &mut [Search], counts: &[u64]) -> Result<()> {
    let open = searches.iter_mut().zip(counts.chunks(STRIDE)).filter(|(search, _)| !search.done());
    open.into_iter().try_for_each(|(search, counts)| search.narrow(counts))
}
