//! Decisions on elements, a bit each, that a reduction makes and the map behind it needs again.
//!
//! They are kept up to a bound. What lies beyond is not, and is decided a second time, to the same end.

use crate::engine::TensorIo;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are kept for a tensor by each of the threads that share it. Few enough that a machine of
/// sixteen cores need not lower its threads for them; for tests so few that some decisions are made anew.
const KEPT: u64 = if cfg!(test) { 32 << 10 } else { 8 << 20 };
/// Elements of a word.
const WORD: usize = 64;

/// Bytes kept for a tensor of this many runs, for each of which so many elements are decided on; for
/// [`super::Method::holds`].
pub(super) fn decision_bytes(runs: usize, elements: usize) -> u64 {
    (8 * runs as u64 * elements.div_ceil(WORD) as u64).min(KEPT)
}

/// Decisions while they are made: runs of elements (rows, stretches) may come in any order.
pub(super) struct Deciding {
    run: usize,
    words: Vec<AtomicU64>,
}

/// Decisions that have been made, of the runs that were kept.
pub(super) struct Decisions {
    run: usize,
    words: Vec<u64>,
}

impl Deciding {
    /// For a tensor of this many runs of this many elements.
    pub(super) fn new(io: &TensorIo<'_>, runs: usize, elements: usize) -> Self {
        let run = elements.div_ceil(WORD).max(1);
        // A tensor that threads share has what each of them may hold.
        let most = io.threads() * KEPT as usize / 8 / run;
        let words = (0..runs.min(most) * run).map(|_| AtomicU64::new(0)).collect();
        Self { run, words }
    }

    /// Keeps the mask of a run, or of several from `run` on, if there is room for it.
    pub(super) fn set(&self, run: usize, mask: &[u64]) {
        let words = self.words.iter().skip(run * self.run);
        words.zip(mask).for_each(|(word, mask)| word.store(*mask, Ordering::Relaxed));
    }

    /// What has been decided.
    pub(super) fn done(self) -> Decisions {
        let words = self.words.into_iter().map(AtomicU64::into_inner).collect();
        Decisions { run: self.run, words }
    }
}

impl Decisions {
    /// The mask of some runs, if all of them were kept.
    pub(super) fn get(&self, runs: Range<usize>) -> Option<&[u64]> {
        self.words.get(runs.start * self.run..runs.end * self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Lanes, NanPolicy};
    use crate::kernels::Kernels;

    #[test]
    fn runs_are_kept_up_to_the_bound() {
        let io = TensorIo::new(&[], None, &[], Kernels::best(), Lanes::One, NanPolicy::Refuse);
        // 65 elements take two words: 2048 runs fill the bound.
        assert_eq!(decision_bytes(100, 65), 1600);
        assert_eq!(decision_bytes(5000, 65), KEPT);
        let deciding = Deciding::new(&io, 5000, 65);
        for run in [4999, 2048, 2047, 7, 2046] {
            deciding.set(run, &[run as u64, 1]);
        }
        deciding.set(2, &[1, 2, 3, 4]);
        let decided = deciding.done();
        assert_eq!(decided.get(7..8), Some(&[7, 1][..]));
        assert_eq!(decided.get(2046..2048), Some(&[2046, 1, 2047, 1][..]));
        assert_eq!(decided.get(2..4), Some(&[1, 2, 3, 4][..]));
        assert_eq!(decided.get(2047..2049), None);
        assert_eq!(decided.get(4999..5000), None);
        let none = Deciding::new(&io, 0, 65).done();
        assert_eq!(none.get(0..1), None);
    }
}
