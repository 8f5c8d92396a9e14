//! How a memory budget is shared out.

use super::mlp::Limits;
use crate::error::{Error, Result};

/// What the program takes besides weights and activations.
const FIXED: u64 = 64 << 20;
/// Rows of a slice beyond which products of matrices do not get faster.
const ENOUGH_ROWS: usize = 1024;
/// Rows of a slice below which a budget is refused.
const FEWEST_ROWS: usize = 16;

/// Which weights stay in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// All, once they were read.
    Model,
    /// Those of one layer at a time.
    Layer,
    /// None: each is read, some rows at a time, for every slice.
    Nothing,
}

/// Sizes of a model, in bytes unless said otherwise.
pub(super) struct Sizes {
    /// All weights, as f32.
    pub(super) model: u64,
    /// Those of the largest layer.
    pub(super) layer: u64,
    /// Those of the head.
    pub(super) head: u64,
    /// What a token takes while a layer is applied, without the inside of the MLP.
    pub(super) token: u64,
    /// What a token takes inside of the MLP.
    pub(super) inner: u64,
}

/// What may be in memory at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) keep: Keep,
    /// Whether the head is loaded as a whole.
    pub(super) keep_head: bool,
    pub(super) limits: Limits,
    /// Rows of a slice, as a rule.
    pub(super) rows: usize,
    /// Bytes that the slices being worked on may take together.
    pub(super) working: u64,
    /// Bytes of hidden states that wait for their layer, or of the past of sequences that go on.
    pub(super) waiting: u64,
}

impl Budget {
    /// Shares out `memory` bytes for `threads` threads.
    pub(super) fn new(memory: u64, threads: usize, sizes: &Sizes) -> Result<Self> {
        let available = memory.saturating_sub(FIXED);
        let keep = if sizes.model <= available / 10 * 6 {
            Keep::Model
        } else if sizes.layer <= available / 2 {
            Keep::Layer
        } else {
            Keep::Nothing
        };
        let kept = match keep {
            Keep::Model => sizes.model,
            Keep::Layer => sizes.layer,
            Keep::Nothing => 0,
        };
        let rest = available - kept;
        let keep_head = keep == Keep::Model || sizes.head <= available / 2;
        // Where the head is loaded in place of a layer, it may be the larger of both.
        let spare = if keep == Keep::Layer && keep_head {
            rest.saturating_sub(sizes.head.saturating_sub(sizes.layer))
        } else {
            rest
        };
        let block = (spare / 4).min(1 << 30);
        let waiting = spare / 4;
        let working = spare / 2;
        let tasks = if keep == Keep::Nothing { 1 } else { threads.max(1) as u64 };
        // Where weights are read for every slice, the MLP takes all rows of the slice at once.
        let (token, most, inner) = if keep == Keep::Nothing {
            (sizes.token + sizes.inner, usize::MAX, u64::MAX)
        } else {
            (2 * sizes.token, ENOUGH_ROWS, (working / tasks / 2).min(64 << 20))
        };
        let rows = ((working / tasks / token.max(1)) as usize).min(most);
        if rows < FEWEST_ROWS {
            let needed = FIXED + 4 * tasks * FEWEST_ROWS as u64 * token;
            return Err(Error::input("the memory budget is too small for this model")
                .key("--memory")
                .expected(
                    format!("about {} MiB or more", needed.div_ceil(1 << 20)),
                    format!("{} MiB", memory >> 20),
                ));
        }
        let limits = Limits { block, inner: inner.min(rows as u64 * sizes.inner) };
        Ok(Self { keep, keep_head, limits, rows, working, waiting })
    }

    /// How many slices of at most `rows` rows are worked on at a time.
    pub(super) fn tasks(&self, rows: usize, token: u64, threads: usize) -> Result<usize> {
        let slice = rows as u64 * token + self.limits.inner.min(self.working / 2);
        if slice > self.working {
            return Err(Error::input("a sequence does not fit the memory budget")
                .key("--memory")
                .fact("tokens", rows)
                .expected(
                    format!("at most {} MiB", self.working >> 20),
                    format!("{} MiB", slice >> 20),
                )
                .hint("give more memory, or shorter texts"));
        }
        let most = if self.keep == Keep::Nothing { 1 } else { threads as u64 };
        Ok((self.working / slice).clamp(1, most.max(1)) as usize)
    }
}
