//! The exact magnitude of the k-th largest element of each task vector, by counting.
//!
//! Magnitudes are counted by their f32 bit patterns, which order like the magnitudes. A pass counts
//! the patterns of a range into at most 2^19 bins and keeps the bin that holds the k-th largest as
//! the next range; a range of one pattern is the answer. The first range is a bracket around the
//! k-th largest of a small sample, which usually leaves one pass; where the sample misleads, the
//! counts say so and the search goes on outside the bracket.

use crate::engine::TensorIo;
use crate::error::{Error, Result};
use std::ops::Range;

/// Bins of one counting pass.
pub(super) const BINS: usize = 1 << 19;
/// One past the largest pattern of a magnitude.
const PATTERNS: u32 = 1 << 31;
/// Tensors smaller than this are counted without a sample.
const SAMPLED_FROM: usize = 1 << 20;

/// Which elements count as the k largest: those above `pattern`, and those equal to it whose index
/// is below `ties_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Threshold {
    /// The f32 pattern of the k-th largest magnitude.
    pub(super) pattern: u32,
    /// Where the elements equal to it stop to count.
    pub(super) ties_end: usize,
}

/// A search under way for one model.
struct Search {
    /// The input whose delta is searched.
    input: usize,
    /// How many elements to keep, at least 1.
    keep: u64,
    /// Where the pattern lies.
    range: Range<u32>,
    /// Elements above the range.
    above: u64,
    /// Elements equal to the pattern that are kept, once the range is one pattern.
    ties: u64,
    /// Elements equal to the pattern, likewise.
    equal: u64,
}

impl Search {
    fn done(&self) -> bool {
        self.equal > 0
    }

    /// Binary shift of a pattern's offset to its bin.
    fn shift(&self) -> u32 {
        let width = self.range.end - self.range.start;
        width.div_ceil(BINS as u32).next_power_of_two().trailing_zeros()
    }

    /// Narrows the range by what a pass found in it and above it.
    fn narrow(&mut self, bins: &[u64], above: u64) -> Result<()> {
        let inside: u64 = bins.iter().sum();
        if above >= self.keep {
            // The sample was too low: everything wanted lies above the range.
            self.range = self.range.end..PATTERNS;
            return Ok(());
        }
        if above + inside < self.keep {
            self.range = 0..self.range.start;
            return Ok(());
        }
        let mut over = above;
        let shift = self.shift();
        for (bin, count) in bins.iter().enumerate().rev() {
            if over + count < self.keep {
                over += count;
                continue;
            }
            let start = self.range.start + ((bin as u32) << shift);
            let end = start.saturating_add(1 << shift).min(self.range.end);
            self.range = start..end;
            self.above = over;
            if end - start == 1 {
                self.ties = self.keep - over;
                self.equal = *count;
            }
            return Ok(());
        }
        Err(Error::internal("a threshold search lost its elements"))
    }
}

/// For each input but the base, the threshold of its `wanted` largest deltas; none where none is
/// asked for.
pub(super) fn thresholds(
    io: &TensorIo<'_>,
    wanted: &[Option<usize>],
) -> Result<Vec<Option<Threshold>>> {
    let others = io.others()?;
    let mut searches: Vec<Search> = others
        .iter()
        .zip(wanted)
        .filter_map(|(input, keep)| keep.map(|keep| (input, keep)))
        .map(|(input, keep)| Search {
            input: *input,
            keep: keep as u64,
            range: 0..PATTERNS,
            above: 0,
            ties: 0,
            equal: 0,
        })
        .collect();
    if io.elements() >= SAMPLED_FROM && !searches.is_empty() {
        bracket(io, &mut searches)?;
    }
    while searches.iter().any(|search| !search.done()) {
        count_pass(io, &mut searches)?;
    }
    let ends = tie_ends(io, &searches)?;
    let mut found = searches
        .iter()
        .zip(ends)
        .map(|(search, ties_end)| Threshold { pattern: search.range.start, ties_end });
    Ok(wanted.iter().map(|keep| keep.and_then(|_| found.next())).collect())
}

/// Sets each search's first range around the sampled quantile.
fn bracket(io: &TensorIo<'_>, searches: &mut [Search]) -> Result<()> {
    let base = io.base()?;
    let sample = io.sample()?;
    for search in searches {
        let mut patterns: Vec<u32> = sample[search.input]
            .iter()
            .zip(&sample[base])
            .map(|(x, base)| (x - base).to_bits() & 0x7fff_ffff)
            .collect();
        let size = patterns.len() as f64;
        let share = search.keep as f64 / io.elements() as f64;
        // Four standard deviations of the sampled rank to both sides, and a little more for rows
        // that differ from each other.
        let spread = 4.0 * (share * (1.0 - share) * size).sqrt() + 16.0;
        let rank = (1.0 - share) * size;
        let mut at = |rank: f64| *patterns.select_nth_unstable(rank as usize).1;
        let low = if rank > spread { at(rank - spread) } else { 0 };
        let high =
            if rank + spread + 1.0 < size { at(rank + spread).saturating_add(1) } else { PATTERNS };
        search.range = low..high.clamp(low + 1, PATTERNS);
    }
    Ok(())
}

/// One pass over the inputs: counts for every search that is not done.
fn count_pass(io: &TensorIo<'_>, searches: &mut [Search]) -> Result<()> {
    let kernels = io.kernels();
    let base = io.base()?;
    let stride = BINS + 1;
    let counts = {
        let searches = &*searches;
        io.counts(searches.len() * stride, |_, inputs, counts| {
            let origin = std::mem::take(&mut inputs[base]);
            for (search, counts) in searches.iter().zip(counts.chunks_mut(stride)) {
                if search.done() {
                    continue;
                }
                let (bins, above) = counts.split_at_mut(BINS);
                let delta = &mut inputs[search.input];
                kernels.subtract(&origin, delta);
                above[0] +=
                    kernels.count_magnitudes(delta, search.range.clone(), search.shift(), bins);
            }
            inputs[base] = origin;
        })?
    };
    for (search, counts) in searches.iter_mut().zip(counts.chunks(stride)) {
        if !search.done() {
            search.narrow(&counts[..BINS], counts[BINS])?;
        }
    }
    Ok(())
}

/// For each search, the index behind the last element equal to the threshold that is kept. Chunks
/// are gone through in order, and no further than to the last of these indices.
fn tie_ends(io: &TensorIo<'_>, searches: &[Search]) -> Result<Vec<usize>> {
    // Zeros add nothing whether they are kept or not.
    let cut = |search: &Search| search.ties < search.equal && search.range.start > 0;
    let mut left: Vec<u64> =
        searches.iter().map(|search| if cut(search) { search.ties } else { 0 }).collect();
    let mut ends = vec![io.elements(); searches.len()];
    let kernels = io.kernels();
    let base = io.base()?;
    let mut next = 0;
    while left.iter().any(|left| *left > 0) {
        let chunks = io.window(next)?;
        next = chunks.end;
        let open = &left;
        let counts = io.chunk_counts(chunks.clone(), searches.len(), |_, inputs, counts| {
            let origin = std::mem::take(&mut inputs[base]);
            for ((search, count), open) in searches.iter().zip(counts).zip(open) {
                if *open > 0 {
                    let delta = &mut inputs[search.input];
                    kernels.subtract(&origin, delta);
                    *count += kernels.count_equal(delta, search.range.start);
                }
            }
            inputs[base] = origin;
        })?;
        for (chunk, counts) in chunks.zip(counts) {
            for (i, search) in searches.iter().enumerate() {
                if left[i] > 0 && counts[i] >= left[i] {
                    ends[i] = nth_equal(io, search, chunk, left[i])?;
                }
                left[i] = left[i].saturating_sub(counts[i]);
            }
        }
    }
    Ok(ends)
}

/// The index behind the `nth` element (from 1) of a chunk that equals the threshold.
fn nth_equal(io: &TensorIo<'_>, search: &Search, chunk: usize, nth: u64) -> Result<usize> {
    let base = io.base()?;
    let mut left = nth;
    let mut end = None;
    io.visit_chunk(chunk, |start, inputs| {
        for (index, (x, base)) in inputs[search.input].iter().zip(&inputs[base]).enumerate() {
            if (x - base).to_bits() & 0x7fff_ffff == search.range.start {
                left = left.saturating_sub(1);
                if left == 0 && end.is_none() {
                    end = Some(start + index + 1);
                }
            }
        }
    })?;
    end.ok_or_else(|| Error::internal("the elements equal to a threshold were lost"))
}
