//! How the memory is shared out.

use super::{Documents, Resources};
use crate::error::{Error, Result};
use crate::eval::decoder::backward::Backward;
use crate::model::Statistics;

/// What is not counted piece by piece: headers, norms, the tokenizer, buffers.
const FIXED: u64 = 64 << 20;

/// Shares of the memory.
pub(super) struct Budget {
    /// Threads to compute with.
    pub(super) threads: usize,
    /// Documents that a layer works on at a time.
    pub(super) tasks: usize,
    /// Bytes of hidden states between two layers that stay in memory.
    pub(super) waiting: u64,
}

/// What a computation takes, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The weights and sums of a layer, whatever is worked on.
    pub(super) fixed: u64,
    /// Each document that is worked on.
    pub(super) document: u64,
    /// Each thread: the scores of a head, their weights and gradients.
    pub(super) thread: u64,
    /// What comes before the first layer and behind the last: one document at a time, by all threads.
    pub(super) ends: u64,
    /// Between how many layers the hidden states of all documents wait at a time.
    pub(super) kept: u64,
}

impl Sizes {
    fn of_layers(&self) -> u64 {
        self.fixed + self.document + self.thread
    }

    /// The memory that it takes with one document at a time and everything else in files.
    pub(super) fn least(&self) -> u64 {
        FIXED + self.of_layers().max(self.ends)
    }
}

/// The bytes of a tensor in f32.
pub(super) fn bytes(model: &Backward<'_>, name: &str) -> Result<u64> {
    Ok(4 * model.source(name)?.spec().elements() as u64)
}

/// What it takes to go through a model forwards with documents of `length` tokens, one layer at a time,
/// beside `sums` of some kind.
pub(super) fn forwards(model: &Backward<'_>, length: usize, sums: u64) -> Result<Sizes> {
    let weights = |names: &[String]| -> Result<u64> {
        let all: Result<Vec<u64>> = names.iter().map(|name| bytes(model, name)).collect();
        Ok(all?.into_iter().sum())
    };
    let mut layer = 0;
    for number in 0..model.layers() {
        layer = layer.max(weights(&model.layer_names(number)?)?);
    }
    Ok(Sizes {
        fixed: layer + sums,
        document: length as u64 * model.token_bytes()?,
        thread: attending(length),
        ends: weights(&model.embedding_names())? + 12 * (length * model.hidden()) as u64,
        kept: 3,
    })
}

/// Bytes of a thread that attends over a document.
pub(super) fn attending(length: usize) -> u64 {
    16 * (length as u64).pow(2)
}

impl Budget {
    pub(super) fn new(
        kind: Statistics,
        sizes: &Sizes,
        resources: &Resources,
        documents: &Documents,
    ) -> Result<Self> {
        let least = sizes.least();
        if least > resources.memory {
            return Err(too_small(kind, least, resources.memory));
        }
        let left = resources.memory - FIXED - sizes.of_layers();
        let most = resources.threads.max(1) as u64;
        let threads = (1 + left / sizes.thread.max(1)).min(most);
        let left = left - (threads - 1) * sizes.thread;
        let tasks = (1 + left / sizes.document.max(1)).min(threads);
        let tasks = tasks.min(documents.tokens.len() as u64).max(1);
        let used = sizes.fixed + tasks * sizes.document + threads * sizes.thread;
        let used = used.max(sizes.ends);
        let waiting = resources.memory - (FIXED + used).min(resources.memory);
        Ok(Self {
            threads: threads as usize,
            tasks: tasks as usize,
            waiting: waiting / sizes.kept.max(1),
        })
    }
}

/// The error for a budget that is not enough.
pub(crate) fn too_small(kind: Statistics, least: u64, given: u64) -> Error {
    let title = kind.title();
    Error::input(format!("the memory budget is too small for the {title} of this model"))
        .key("--memory")
        .expected(
            format!("about {} MiB or more", least.div_ceil(1 << 20)),
            format!("{} MiB", given >> 20),
        )
        .hint("raise --memory, or take shorter documents")
}
