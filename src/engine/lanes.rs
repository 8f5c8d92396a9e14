//! How the chunks of one tensor are spread over threads.

use crate::error::Result;
use rayon::prelude::*;

/// Either one thread goes through a tensor's chunks in order (other threads have other tensors), or
/// all threads share them. Results come back in chunk order both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// The calling thread alone.
    One,
    /// Every thread of the current rayon pool.
    Pool,
}

impl Lanes {
    /// Runs `work` on each index; the results are in index order.
    pub(crate) fn collect<T: Send>(
        self,
        indices: std::ops::Range<usize>,
        work: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        match self {
            Self::One => indices.map(work).collect(),
            Self::Pool => indices.into_par_iter().map(&work).collect(),
        }
    }

    /// Adds up integers counted by chunk; any order gives the same sums.
    pub(crate) fn count(
        self,
        indices: std::ops::Range<usize>,
        bins: usize,
        work: impl Fn(usize, &mut [u64]) -> Result<()> + Sync,
    ) -> Result<Vec<u64>> {
        match self {
            Self::One => {
                let mut counts = vec![0; bins];
                for index in indices {
                    work(index, &mut counts)?;
                }
                Ok(counts)
            }
            Self::Pool => {
                // One histogram a thread: chunks are dealt out in as many runs as there are threads.
                let runs = rayon::current_num_threads().min(indices.len()).max(1);
                let per_run = indices.len().div_ceil(runs).max(1);
                let partial = (0..runs)
                    .into_par_iter()
                    .map(|run| {
                        let mut counts = vec![0; bins];
                        let first = indices.start + run * per_run;
                        for index in first..(first + per_run).min(indices.end) {
                            work(index, &mut counts)?;
                        }
                        Ok(counts)
                    })
                    .collect::<Result<Vec<Vec<u64>>>>()?;
                let mut partial = partial.into_iter();
                let mut total = partial.next().unwrap_or_else(|| vec![0; bins]);
                for counts in partial {
                    total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
                }
                Ok(total)
            }
        }
    }

    /// Does something to each item.
    pub(crate) fn each<T: Send>(self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        match self {
            Self::One => items.iter_mut().for_each(work),
            Self::Pool => items.par_iter_mut().for_each(&work),
        }
    }

    /// Chunks worked on before their bytes are hashed.
    pub(crate) fn window(self) -> usize {
        match self {
            Self::One => 1,
            Self::Pool => rayon::current_num_threads(),
        }
    }

    /// Runs both, at the same time where there are threads for it, and `b` first where not.
    pub(crate) fn both<A: Send, B: Send>(
        self,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        match self {
            Self::One => {
                let b = b();
                (a(), b)
            }
            Self::Pool => rayon::join(a, b),
        }
    }
}
