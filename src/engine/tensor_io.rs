//! `TensorIo`: what a merge method may do with the inputs of one tensor.

use super::{CHUNK, Lanes, TILE};
use crate::error::{Error, Result};
use crate::kernels::{Kernels, Stream};
use crate::methods::{Map, Surveyed};
use crate::model::{InputsAlong, Source, TensorSpec};
use std::ops::Range;

/// The inputs of one tensor, and the reductions a method can make over them.
///
/// Bodies get `(start, inputs)`: the index of the first element and one buffer of decoded f32 an
/// input, all of one length; buffers may be overwritten but must keep their place and length.
#[derive(Clone, Copy)]
pub struct TensorIo<'a> {
    pub(super) inputs: &'a [&'a dyn Source],
    /// Statistics that are read whole, one for each input; none where the tensor has none.
    pub(super) beside: &'a [&'a dyn Source],
    pub(super) inputs_along: Option<InputsAlong>,
    base: Option<usize>,
    streams: &'a [Stream],
    pub(super) elements: usize,
    pub(super) shape: &'a [usize],
    kernels: Kernels,
    lanes: Lanes,
    nan: NanPolicy,
    surveyed: Option<&'a Surveyed>,
}

/// What happens to a NaN in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NanPolicy {
    /// It is an error that names the tensor.
    Refuse,
    /// It makes its own element of the output NaN, and counts as 0 in reductions.
    Keep,
}

/// Chunks that are read ahead of the one being worked on, at least.
const AHEAD: usize = 8;

/// Positions a sample is taken from, and elements read at each.
const SAMPLE_RUNS: usize = 1024;
const SAMPLE_RUN: usize = 256;
/// Elements of a sample at most.
pub(super) const SAMPLE: usize = SAMPLE_RUNS * SAMPLE_RUN;

impl<'a> TensorIo<'a> {
    pub(crate) fn new(
        inputs: &'a [&'a dyn Source],
        base: Option<usize>,
        streams: &'a [Stream],
        kernels: Kernels,
        lanes: Lanes,
        nan: NanPolicy,
    ) -> Self {
        let first = inputs.first().map(|input| input.spec());
        let elements = first.map_or(0, TensorSpec::elements);
        let shape = first.map_or(&[][..], |spec| &spec.shape);
        Self {
            inputs,
            beside: &[],
            inputs_along: None,
            base,
            streams,
            elements,
            shape,
            kernels,
            lanes,
            nan,
            surveyed: None,
        }
    }

    /// The same with what a survey of the whole model found for this tensor.
    pub(crate) fn with_survey(self, surveyed: Option<&'a Surveyed>) -> Self {
        Self { surveyed, ..self }
    }

    /// What the method's survey of the whole model found for this tensor.
    ///
    /// # Errors
    /// There was no survey (the engine makes one for methods that ask for it), or it is another method's.
    pub fn surveyed<T: 'static>(&self) -> Result<&'a T> {
        let found = self.surveyed.and_then(|found| found.downcast_ref());
        found.ok_or_else(|| Error::internal("a method needs a survey that was not made"))
    }

    /// Elements of the tensor.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The kernels to compute with.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Index of the base among the inputs.
    ///
    /// # Errors
    /// There is none (the plan guarantees one to methods that require it).
    pub fn base(&self) -> Result<usize> {
        self.base.ok_or_else(|| Error::internal("a method needs a base that the plan did not give"))
    }

    /// Index of the base among the inputs, where there is one.
    pub fn origin(&self) -> Option<usize> {
        self.base
    }

    /// Indices of the inputs but the base, in order.
    pub fn others(&self) -> Result<Vec<usize>> {
        let base = self.base()?;
        Ok((0..self.inputs.len()).filter(|input| *input != base).collect())
    }

    /// How many inputs there are besides a base.
    pub fn models(&self) -> usize {
        self.inputs.len() - usize::from(self.base.is_some())
    }

    /// The name of the tensor, as the first input has it.
    pub fn name(&self) -> &str {
        self.inputs.first().map_or("", |input| &input.spec().name)
    }

    /// The random words of an input for this tensor: a function of the seed, the model, the tensor's
    /// name and the element.
    pub fn stream(&self, input: usize) -> Stream {
        self.streams[input]
    }

    /// Sums of `width` f64 values. A chunk's values are added tile by tile into its own partial sum,
    /// and the chunks' partial sums are added in chunk order, so that threads do not matter.
    pub fn sums(
        &self,
        width: usize,
        body: impl Fn(usize, &mut [Vec<f32>], &mut [f64]) + Sync,
    ) -> Result<Vec<f64>> {
        self.folded(width, |chunk, sums| {
            self.reduce_chunk(chunk, |start, inputs| body(start, inputs, sums))
        })
    }

    /// Counts in `bins` bins over the whole tensor.
    pub fn counts(
        &self,
        bins: usize,
        body: impl Fn(usize, &mut [Vec<f32>], &mut [u64]) + Sync,
    ) -> Result<Vec<u64>> {
        self.lanes.count(0..self.chunks(), bins, |chunk, counts| {
            self.reduce_chunk(chunk, |start, inputs| body(start, inputs, counts))
        })
    }

    /// Adds counts or sums over the whole tensor to `counts`, on the calling thread.
    pub(super) fn count_into<T>(
        &self,
        counts: &mut [T],
        body: impl Fn(usize, &mut [Vec<f32>], &mut [T]),
    ) -> Result<()> {
        for chunk in 0..self.chunks() {
            self.reduce_chunk(chunk, |start, inputs| body(start, inputs, counts))?;
            let range = self.chunk_range(chunk);
            self.inputs.iter().for_each(|input| input.release(range.clone()));
        }
        Ok(())
    }

    /// Counts in `width` bins for each of the chunks, in chunk order.
    pub fn chunk_counts(
        &self,
        chunks: Range<usize>,
        width: usize,
        body: impl Fn(usize, &mut [Vec<f32>], &mut [u64]) + Sync,
    ) -> Result<Vec<Vec<u64>>> {
        self.lanes.collect(chunks, |chunk| {
            let mut counts = vec![0; width];
            self.reduce_chunk(chunk, |start, inputs| body(start, inputs, &mut counts))?;
            Ok(counts)
        })
    }

    /// The chunks from `next` on that are worked on at a time.
    ///
    /// # Errors
    /// There are no more chunks.
    pub fn window(&self, next: usize) -> Result<Range<usize>> {
        if next >= self.chunks() {
            return Err(Error::internal("a method looked for elements behind the last chunk"));
        }
        Ok(next..(next + self.lanes.window()).min(self.chunks()))
    }

    /// Goes through one chunk again.
    pub fn visit_chunk(
        &self,
        chunk: usize,
        body: impl FnMut(usize, &mut [Vec<f32>]),
    ) -> Result<()> {
        self.reduce_chunk(chunk, body)
    }

    /// Some elements of every input, from evenly spaced places; the same ones for each input.
    pub fn sample(&self) -> Result<Vec<Vec<f32>>> {
        let runs = SAMPLE_RUNS.min(self.elements.div_ceil(SAMPLE_RUN)).max(1);
        let stride = self.elements / runs;
        let mut samples = vec![Vec::new(); self.inputs.len()];
        for run in 0..runs {
            let start = run * stride;
            let length = SAMPLE_RUN.min(self.elements - start);
            for (input, sample) in self.inputs.iter().zip(&mut samples) {
                let at = sample.len();
                sample.resize(at + length, 0.0);
                if input.read(start, &mut sample[at..])? && self.nan == NanPolicy::Keep {
                    zero_nan(&mut sample[at..]);
                }
            }
        }
        Ok(samples)
    }

    /// Checks that all inputs are stored in the same dtype and the same bytes.
    ///
    /// # Errors
    /// They differ; the error names the tensor.
    pub fn identical_bytes(&self) -> Result<()> {
        let Some((first, rest)) = self.inputs.split_first() else {
            return Ok(());
        };
        for input in rest {
            let (a, b) = (first.spec(), input.spec());
            if a.dtype != b.dtype || first.stored() != input.stored() {
                return Err(Error::input("the models disagree on a tensor that is no float, so there is nothing to merge")
                    .tensor(&a.name)
                    .expected(format!("the same {} bytes in every model", a.dtype), format!("{} that differ", b.dtype)));
            }
        }
        Ok(())
    }

    /// Threads that share the tensor. What each of them may hold ([`crate::methods::Method::holds`]) they
    /// have together.
    pub fn threads(&self) -> usize {
        self.lanes.window()
    }

    pub(super) fn lanes(&self) -> Lanes {
        self.lanes
    }

    pub(super) fn nan_policy(&self) -> NanPolicy {
        self.nan
    }

    /// How many chunks the tensor has.
    pub(crate) fn chunks(&self) -> usize {
        self.elements.div_ceil(CHUNK)
    }

    /// The elements of a chunk.
    pub(crate) fn chunk_range(&self, chunk: usize) -> Range<usize> {
        chunk * CHUNK..((chunk + 1) * CHUNK).min(self.elements)
    }

    /// Reads a chunk tile by tile for a reduction.
    fn reduce_chunk(
        &self,
        chunk: usize,
        mut body: impl FnMut(usize, &mut [Vec<f32>]),
    ) -> Result<()> {
        // A kept NaN counts as 0. A refused one needs no care: the run fails when its element is
        // mapped.
        self.prefetch_before(chunk);
        self.read_range(self.chunk_range(chunk), TILE, |start, inputs, any_nan| {
            if any_nan && self.nan == NanPolicy::Keep {
                inputs.iter_mut().for_each(|input| zero_nan(input));
            }
            body(start, inputs);
            Ok(())
        })
    }

    /// What `map` makes of the whole tensor, tile by tile, on the calling thread.
    ///
    /// # Errors
    /// An input cannot be read, or holds a NaN that is refused.
    pub fn mapped(&self, map: &Map, mut sink: impl FnMut(usize, &[f32])) -> Result<()> {
        (0..self.chunks()).try_for_each(|chunk| {
            self.map_chunk(map, chunk, |start, values| {
                sink(start, values);
                Ok(())
            })
        })
    }

    /// Applies a map to a chunk tile by tile; `sink` gets the index of a tile's first element and
    /// its values. The one place where NaN in the inputs are dealt with.
    pub(crate) fn map_chunk(
        &self,
        map: &Map,
        chunk: usize,
        sink: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.prefetch_before(chunk);
        self.map_range(map, self.chunk_range(chunk), sink)
    }

    /// The same for any stretch of elements that begins at a multiple of 128.
    pub(crate) fn map_range(
        &self,
        map: &Map,
        range: Range<usize>,
        mut sink: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if let Map::Rows(map) = map {
            return self.map_rows(map, range, sink);
        }
        let mut out = vec![0.0; TILE.min(range.len())];
        self.read_range(range, TILE, |start, inputs, any_nan| {
            let out = &mut out[..inputs.first().map_or(0, Vec::len)];
            let nans = if any_nan { self.find_nans(start, inputs)? } else { Vec::new() };
            match map {
                Map::Copy(input) => out.copy_from_slice(&inputs[*input]),
                Map::Elements(map) => map(start, inputs, out),
                Map::Rows(_) => return Err(Error::internal("a map by rows was applied to a tile")),
            }
            for element in nans {
                out[element] = f32::NAN;
            }
            sink(start, out)
        })
    }

    /// Finds NaN in the inputs of a tile: refused by name, or returned as the elements of the output
    /// that become NaN.
    pub(super) fn find_nans(&self, start: usize, tiles: &[Vec<f32>]) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for (source, tile) in self.inputs.iter().zip(tiles) {
            let mut nans = tile.iter().enumerate().filter(|(_, x)| x.is_nan()).map(|(i, _)| i);
            if self.nan == NanPolicy::Keep {
                found.extend(nans);
                continue;
            }
            let Some(first) = nans.next() else { continue };
            let element = start + first;
            let error = Error::input("an input holds a NaN");
            let error = match source.origin() {
                Some(file) => error.file(file),
                None => error,
            };
            return Err(error.tensor(&source.spec().name).fact("element", element).hint(
                "the checkpoint is damaged or its training diverged; --allow-nan merges it all the same",
            ));
        }
        Ok(found)
    }

    /// Starts to read what the first chunks need, before any of them is worked on.
    pub(crate) fn prefetch_start(&self) {
        self.prefetch(0..AHEAD * CHUNK);
    }

    fn prefetch(&self, elements: Range<usize>) {
        let elements = elements.start..elements.end.min(self.elements);
        if !elements.is_empty() {
            self.inputs.iter().for_each(|input| input.prefetch(elements.clone()));
        }
    }

    /// Before a chunk is worked on, those that come later are read ahead, some at a time.
    pub(super) fn prefetch_before(&self, chunk: usize) {
        if chunk.is_multiple_of(AHEAD) {
            self.prefetch((chunk + AHEAD) * CHUNK..(chunk + 2 * AHEAD) * CHUNK);
        }
    }

    /// Reads a stretch of elements in tiles of `tile` elements; `body` also learns whether any input of the
    /// tile has a NaN.
    pub(super) fn read_range(
        &self,
        range: Range<usize>,
        tile: usize,
        mut body: impl FnMut(usize, &mut [Vec<f32>], bool) -> Result<()>,
    ) -> Result<()> {
        let mut buffers = vec![vec![0.0; tile.min(range.len())]; self.inputs.len()];
        let mut start = range.start;
        while start < range.end {
            let length = tile.min(range.end - start);
            let mut any_nan = false;
            for (input, buffer) in self.inputs.iter().zip(&mut buffers) {
                buffer.truncate(length);
                any_nan |= input.read(start, buffer)?;
            }
            body(start, &mut buffers, any_nan)?;
            start += length;
        }
        Ok(())
    }
}

pub(super) fn zero_nan(values: &mut [f32]) {
    values.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = 0.0);
}
