//! How the memory is shared out.

use super::{Documents, Resources};
use crate::error::{Error, Result};
use crate::eval::decoder::backward::Backward;

/// What is not counted piece by piece: headers, norms, the tokenizer, buffers.
const FIXED: u64 = 64 << 20;

/// Bytes of logits and their gradients at a time, unless a row takes more.
const LOGITS: u64 = 64 << 20;

/// Shares of the memory.
pub(super) struct Budget {
    /// Threads to compute with.
    pub(super) threads: usize,
    /// Documents that a layer works on at a time.
    pub(super) tasks: usize,
    /// Positions whose logits are computed at a time.
    pub(super) rows: usize,
    /// Bytes of hidden states between two layers that stay in memory.
    pub(super) waiting: u64,
}

/// What the parts of a model take, in bytes.
struct Sizes {
    /// The weights and sums of a part, whatever is worked on.
    fixed: u64,
    /// Each document that is worked on.
    document: u64,
    /// Each thread: the scores of a head, their weights and gradients.
    thread: u64,
}

impl Sizes {
    fn least(&self) -> u64 {
        self.fixed + self.document + self.thread
    }
}

fn bytes(model: &Backward<'_>, name: &str) -> Result<u64> {
    Ok(4 * model.source(name)?.spec().elements() as u64)
}

/// The layer that takes most.
fn layers(model: &Backward<'_>, length: usize) -> Result<Sizes> {
    let length = length as u64;
    let mut most = Sizes { fixed: 0, document: 0, thread: 16 * length * length };
    for number in 0..model.layers() {
        let sizes: Result<Vec<u64>> =
            model.layer_names(number)?.iter().map(|name| bytes(model, name)).collect();
        let sizes = sizes?;
        let all: u64 = sizes.iter().sum();
        // A gradient is added to zeros before it is squared.
        let twice = 2 * sizes.iter().copied().max().unwrap_or(0);
        most.fixed = most.fixed.max(2 * all);
        most.document = most.document.max(all + twice);
    }
    let (table, _) = model.tables();
    if table == model.head_name() {
        // The sums of the head wait for those of the embedding.
        most.fixed += bytes(model, &table)?;
    }
    most.document += length * model.token_bytes()?;
    Ok(most)
}

/// Head and embedding: one document at a time, by all threads.
fn ends(model: &Backward<'_>, length: usize) -> Result<u64> {
    let head = bytes(model, model.head_name())?;
    let (table, positions) = model.tables();
    let positions = positions.map_or(Ok(0), |name| bytes(model, &name))?;
    let rows = 12 * (length * (model.hidden() + model.head_width())) as u64;
    let row = 8 * model.vocabulary() as u64;
    Ok((3 * head + row * 16).max(bytes(model, &table)? + positions) + rows + LOGITS)
}

impl Budget {
    /// The memory that it takes with one document at a time and everything else in files.
    pub(super) fn least(model: &Backward<'_>, length: usize) -> Result<u64> {
        Ok(FIXED + layers(model, length)?.least().max(ends(model, length)?))
    }

    pub(super) fn new(
        model: &Backward<'_>,
        resources: &Resources,
        length: usize,
        documents: &Documents,
    ) -> Result<Self> {
        let longest = documents.tokens.iter().map(Vec::len).max().unwrap_or(0).min(length);
        let least = Self::least(model, longest)?;
        if least > resources.memory {
            return Err(too_small(least, resources.memory));
        }
        let layers = layers(model, longest)?;
        let left = resources.memory - FIXED - layers.least();
        let most = resources.threads.max(1) as u64;
        let threads = (1 + left / layers.thread.max(1)).min(most);
        let left = left - (threads - 1) * layers.thread;
        let tasks = (1 + left / layers.document.max(1)).min(threads);
        let tasks = tasks.min(documents.tokens.len() as u64).max(1);
        let used = layers.fixed + tasks * layers.document + threads * layers.thread;
        let used = used.max(ends(model, longest)?);
        let waiting = resources.memory - (FIXED + used).min(resources.memory);
        let rows = (LOGITS / (8 * model.vocabulary().max(1)) as u64).clamp(16, 1 << 16);
        Ok(Self {
            threads: threads as usize,
            tasks: tasks as usize,
            rows: rows as usize,
            waiting: waiting / (model.layers() as u64 + 3),
        })
    }
}

/// The error for a budget that is not enough.
pub(crate) fn too_small(least: u64, given: u64) -> Error {
    Error::input("the memory budget is too small for the Fisher information of this model")
        .key("--memory")
        .expected(
            format!("about {} MiB or more", least.div_ceil(1 << 20)),
            format!("{} MiB", given >> 20),
        )
        .hint("raise --memory, or take shorter documents")
}
