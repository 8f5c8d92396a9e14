//! Tensors that a method takes whole: how they are read, and how many are worked on at a time.

use super::tensor_io::{TensorIo, zero_nan};
use crate::error::{Error, Result};
use crate::model::{InputsAlong, Source};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

impl<'a> TensorIo<'a> {
    /// The same with Gram matrices, and the side of the inputs that they belong to.
    pub(crate) fn with_beside(
        mut self,
        beside: &'a [&'a dyn Source],
        inputs_along: Option<InputsAlong>,
    ) -> Self {
        (self.beside, self.inputs_along) = (beside, inputs_along);
        self
    }

    /// The same with other inputs in its place.
    fn with_inputs<'b>(&'b self, inputs: &'b [&'b dyn Source]) -> TensorIo<'b> {
        let elements = inputs.first().map_or(0, |input| input.spec().elements());
        let mut other: TensorIo<'b> = *self;
        (other.inputs, other.elements) = (inputs, elements);
        other
    }

    /// The side of the tensor that its Gram matrices belong to, where it has any.
    pub fn inputs_along(&self) -> Option<InputsAlong> {
        self.inputs_along
    }

    /// Rows and columns, where the tensor is a weight matrix of a layer.
    pub fn matrix(&self) -> Option<(usize, usize)> {
        self.inputs.first().and_then(|input| input.spec().matrix())
    }

    /// Rows and columns, where the tensor has two dimensions.
    pub fn rows_and_columns(&self) -> Option<(usize, usize)> {
        self.inputs.first().and_then(|input| input.spec().rows_and_columns())
    }

    /// Goes through some of the inputs once, in order, on the calling thread. The body gets
    /// `(start, inputs)` as for the reductions, with the inputs in the order they are named in.
    ///
    /// # Errors
    /// An input cannot be read, or holds a NaN that is refused.
    pub fn whole(
        &self,
        inputs: &[usize],
        mut body: impl FnMut(usize, &mut [Vec<f32>]),
    ) -> Result<()> {
        let inputs: Vec<&dyn Source> = inputs.iter().map(|input| self.inputs[*input]).collect();
        self.go_through(&inputs, |start, tiles, any_nan| {
            if any_nan {
                self.with_inputs(&inputs).find_nans(start, tiles)?;
                tiles.iter_mut().for_each(|tile| zero_nan(tile));
            }
            body(start, tiles);
            Ok(())
        })
    }

    /// Goes through the statistics beside an input once, in order, on the calling thread. The body gets
    /// `(start, values)`.
    ///
    /// # Errors
    /// There are none, they cannot be read, or hold a NaN, which no merge has a use for.
    pub fn whole_beside(&self, input: usize, mut body: impl FnMut(usize, &[f32])) -> Result<()> {
        let source = self.beside.get(input).ok_or_else(|| {
            Error::internal("a method reads statistics that the plan did not give")
        })?;
        self.go_through(&[*source], |start, inputs, any_nan| {
            if any_nan {
                let error = Error::input("statistics of a model hold a NaN");
                let error = match source.origin() {
                    Some(file) => error.file(file),
                    None => error,
                };
                return Err(error.tensor(&source.spec().name).hint("compute the file anew"));
            }
            inputs.iter().for_each(|values| body(start, values));
            Ok(())
        })
    }

    /// The name of the statistics beside an input.
    pub fn name_beside(&self, input: usize) -> &str {
        self.beside.get(input).map_or("", |source| &source.spec().name)
    }

    fn go_through(
        &self,
        inputs: &[&dyn Source],
        mut body: impl FnMut(usize, &mut [Vec<f32>], bool) -> Result<()>,
    ) -> Result<()> {
        let some = self.with_inputs(inputs);
        for chunk in 0..some.chunks() {
            some.prefetch_before(chunk);
            some.read_range(some.chunk_range(chunk), super::TILE, &mut body)?;
        }
        Ok(())
    }
}

/// Jobs that run side by side, a thread each: some take a tensor whole and need memory for it, others
/// stream. Which thread takes which job when does not show in the result.
pub(super) struct SideBySide {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Jobs with the bytes each holds, those that hold most first.
    whole: VecDeque<(usize, u64)>,
    streaming: VecDeque<usize>,
    /// Bytes that no job holds.
    free: u64,
    failed: bool,
}

/// A job that a thread took; what it holds is free again when this is dropped.
struct Taken<'a> {
    from: &'a SideBySide,
    job: usize,
    bytes: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.from.lock();
        state.free += self.bytes;
        // A job that panicked ends the others, too.
        state.failed |= std::thread::panicking();
        self.from.changed.notify_all();
    }
}

impl SideBySide {
    /// `whole` are jobs with the bytes that each holds, none more than `memory`.
    pub(super) fn new(mut whole: Vec<(usize, u64)>, streaming: Vec<usize>, memory: u64) -> Self {
        whole.sort_by_key(|(job, bytes)| (std::cmp::Reverse(*bytes), *job));
        let state =
            State { whole: whole.into(), streaming: streaming.into(), free: memory, failed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Runs all jobs on the threads of the current pool. `work` gets a job, and the streaming job that
    /// is next in line for the same thread.
    pub(super) fn run(
        &self,
        work: impl Fn(usize, Option<usize>) -> Result<()> + Sync,
    ) -> Result<()> {
        let done = rayon::broadcast(|thread| {
            while let Some((taken, upcoming)) = self.take(thread.num_threads()) {
                if let Err(error) = work(taken.job, upcoming) {
                    self.lock().failed = true;
                    return Err(error);
                }
            }
            Ok(())
        });
        done.into_iter().collect()
    }

    /// The next job: one that is taken whole where its bytes are free, one that streams where not.
    fn take(&self, threads: usize) -> Option<(Taken<'_>, Option<usize>)> {
        let mut state = self.lock();
        loop {
            if state.failed {
                return None;
            }
            if let Some(at) = state.whole.iter().position(|(_, bytes)| *bytes <= state.free) {
                let (job, bytes) = state.whole.remove(at)?;
                state.free -= bytes;
                return Some((Taken { from: self, job, bytes }, None));
            }
            if let Some(job) = state.streaming.pop_front() {
                let upcoming = state.streaming.get(threads.saturating_sub(1)).copied();
                return Some((Taken { from: self, job, bytes: 0 }, upcoming));
            }
            if state.whole.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn no_more_is_held_than_there_is_memory_and_every_job_runs_once() {
        let bytes = |job: usize| [70, 40, 30, 100, 1, 60][job % 6];
        let whole: Vec<(usize, u64)> = (0..60).map(|job| (job, bytes(job))).collect();
        for threads in [1, 2, 8] {
            let jobs = SideBySide::new(whole.clone(), (60..100).collect(), 100);
            let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
            let runs: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            let work = |job: usize, _| {
                let mine = if job < 60 { bytes(job) } else { 0 };
                let now = held.fetch_add(mine, Ordering::SeqCst) + mine;
                most.fetch_max(now, Ordering::SeqCst);
                std::thread::yield_now();
                runs[job].fetch_add(1, Ordering::SeqCst);
                held.fetch_sub(mine, Ordering::SeqCst);
                Ok(())
            };
            pool(threads).install(|| jobs.run(work)).unwrap();
            assert!(runs.iter().all(|runs| runs.load(Ordering::SeqCst) == 1));
            assert!(most.load(Ordering::SeqCst) <= 100);
        }
    }

    #[test]
    fn an_error_ends_the_others() {
        let jobs = SideBySide::new(vec![(0, 10), (1, 10)], (2..1000).collect(), 10);
        let ran = AtomicUsize::new(0);
        let work = |job: usize, _| {
            ran.fetch_add(1, Ordering::SeqCst);
            if job == 0 { Err(Error::input("no")) } else { Ok(()) }
        };
        assert!(pool(2).install(|| jobs.run(work)).is_err());
        assert!(ran.load(Ordering::SeqCst) < 1000);
    }
}
