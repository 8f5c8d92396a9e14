//! Threads and matrices that fit the memory budget.

use super::{Input, Job, Options};
use crate::engine;
use crate::error::{Error, Result};
use crate::model::{ADAPTER_THREAD_BYTES, Checkpoint, Source};
use std::cmp::Reverse;

/// How the memory is shared out.
pub(super) struct Memory {
    /// Threads to run with.
    pub(super) lanes: usize,
    /// Bytes for tensors that are taken whole, all threads together.
    pub(super) whole: u64,
    /// Bytes of everything.
    pub(super) total: u64,
}

/// Threads that fit the memory budget, and what is left for tensors that are taken whole: at least
/// the largest, at most one for each thread.
pub(super) fn memory(jobs: &[Job], models: &[Checkpoint], options: &Options) -> Result<Memory> {
    let scratch = |job: &Job| -> u64 {
        let tensor = |input: &Input| models[input.model].tensor(&input.tensor);
        job.inputs.iter().filter_map(tensor).map(Source::scratch).sum()
    };
    let adapted = models.iter().any(|model| !model.adapters().is_empty());
    let adapters = if adapted { ADAPTER_THREAD_BYTES } else { 0 };
    let lane = jobs.iter().map(|job| engine::lane_bytes(job) + scratch(job)).max().unwrap_or(0);
    let lane = lane + adapters;
    let mut whole: Vec<&Job> = jobs.iter().filter(|job| job.whole() > 0).collect();
    whole.sort_by_key(|job| Reverse(job.whole()));
    let largest = whole.first().map_or(0, |job| job.whole());
    let fixed = engine::FIXED_BYTES + largest;
    let lanes = (options.memory.saturating_sub(fixed) / lane.max(1)).min(options.threads as u64);
    if lanes == 0 {
        let least = format!("at least {} bytes", fixed + lane);
        let Some(job) = whole.first() else {
            return Err(Error::input("the memory budget is too small for one thread")
                .key("--memory")
                .expected(least, options.memory)
                .hint("raise --memory; it does not depend on the size of the models"));
        };
        return Err(Error::input(
            "the memory budget is too small for a matrix that is taken whole",
        )
        .key("--memory")
        .tensor(&job.output.name)
        .fact("shape", format!("{:?}", job.output.shape))
        .fact("steps", job.steps())
        .expected(least, options.memory)
        .hint("raise --memory; it depends on the largest matrix, not on the number of layers"));
    }
    let streams = engine::FIXED_BYTES + lanes * lane;
    let one_a_lane = whole.iter().take(lanes as usize).map(|job| job.whole()).sum::<u64>();
    let whole = one_a_lane.min(options.memory.saturating_sub(streams));
    Ok(Memory { lanes: lanes as usize, whole, total: streams + whole })
}
