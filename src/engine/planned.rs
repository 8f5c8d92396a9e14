//! A tensor of a plan that has not been run, computed where it is read.

use super::job::stream;
use super::{Lanes, NanPolicy, TensorIo};
use crate::error::Result;
use crate::kernels::{Kernels, Stream};
use crate::methods::Map;
use crate::model::{Float, Source, TensorSpec};
use crate::plan::Job;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The output of a job as a [`Source`]. It reads as if the job's output had been written and opened
/// again: what it gives went through the output's dtype.
pub(crate) struct PlannedTensor {
    job: Job,
    inputs: Vec<Arc<dyn Source>>,
    streams: Vec<Stream>,
    kernels: Kernels,
    nan: NanPolicy,
    /// Made when the tensor is first read, since a method may have to look at its inputs for it.
    map: OnceLock<Result<Map>>,
}

/// What the first element of a stretch that a map is applied to must be a multiple of.
const ALIGN: usize = 128;

impl PlannedTensor {
    /// The output of `job`, whose inputs are given in its order; `seed` is the plan's.
    pub(crate) fn new(
        job: &Job,
        inputs: Vec<Arc<dyn Source>>,
        seed: u64,
        kernels: Kernels,
        nan: NanPolicy,
    ) -> Self {
        let streams = job.inputs.iter().map(|input| stream(seed, input.model, &job.random_key));
        let streams = streams.collect();
        Self { job: job.clone(), inputs, streams, kernels, nan, map: OnceLock::new() }
    }

    /// The inputs that are read along with it.
    fn streamed(&self) -> &[Arc<dyn Source>] {
        &self.inputs[..self.job.streamed()]
    }

    /// Calls `work` with the inputs as the method sees them and the job's map.
    fn with_map<T>(&self, work: impl FnOnce(&TensorIo<'_>, &Map) -> Result<T>) -> Result<T> {
        let all: Vec<&dyn Source> = self.inputs.iter().map(|input| &**input).collect();
        let (inputs, beside) = all.split_at(self.job.streamed());
        let (base, kernels) = (self.job.base, self.kernels);
        let io = TensorIo::new(inputs, base, &self.streams, kernels, Lanes::One, self.nan)
            .with_beside(beside, self.job.inputs_along);
        let map = self.map.get_or_init(|| self.job.map(&io));
        work(&io, map.as_ref().map_err(Clone::clone)?)
    }

    /// Passes values through the output's dtype; whether any is NaN.
    fn round(&self, float: Float, values: &[f32], out: &mut [f32]) -> bool {
        let mut bytes = vec![0; values.len() * float.size()];
        self.kernels.encode(float, values, &mut bytes);
        self.kernels.decode(float, &bytes, &[], out)
    }
}

impl Source for PlannedTensor {
    fn spec(&self) -> &TensorSpec {
        &self.job.output
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        let end = start + out.len();
        let float = self.job.output.float().unwrap_or(Float::F32);
        let mut any_nan = false;
        self.with_map(|io, map| {
            io.map_range(map, start / ALIGN * ALIGN..end, |at, values| {
                let skip = start.saturating_sub(at);
                let wanted = &values[skip..];
                let to = at + skip - start;
                any_nan |= self.round(float, wanted, &mut out[to..to + wanted.len()]);
                Ok(())
            })
        })
        .map_err(|error| match error.get("tensor") {
            Some(_) => error,
            None => error.tensor(&self.job.output.name),
        })?;
        Ok(any_nan)
    }

    fn stored(&self) -> Option<&[u8]> {
        let copied = self.with_map(|_, map| match map {
            Map::Copy(input) => Ok(Some(*input)),
            Map::Elements(_) | Map::Rows(_) => Ok(None),
        });
        let input = &self.inputs[copied.ok()??];
        input.stored().filter(|_| input.spec().dtype == self.job.output.dtype)
    }

    fn scratch(&self) -> u64 {
        super::lane_bytes(&self.job) + self.inputs.iter().map(|input| input.scratch()).sum::<u64>()
    }

    fn origin(&self) -> Option<&Path> {
        self.inputs.first().and_then(|input| input.origin())
    }

    fn prefetch(&self, elements: Range<usize>) {
        self.streamed().iter().for_each(|input| input.prefetch(elements.clone()));
    }

    fn release(&self, elements: Range<usize>) {
        self.streamed().iter().for_each(|input| input.release(elements.clone()));
    }
}
