//! The exact magnitude of the k-th largest element of task vectors, by counting.
//!
//! Magnitudes are counted by their f32 bit patterns, which order like the magnitudes. A pass counts
//! the patterns of a range into at most 2^19 bins and keeps the bin that holds the k-th largest as
//! the next range; a range of one pattern is the answer. Over one tensor the first range is a
//! bracket around the k-th largest of a small sample, which usually leaves one pass; where the
//! sample misleads, the counts say so and the search goes on outside the bracket.

use crate::engine::{ModelIo, TensorIo};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bins of one counting pass.
pub(super) const BINS: usize = 1 << 19;
/// A search's counts in a pass: the bins, and how many elements lie above the range.
pub(super) const STRIDE: usize = BINS + 1;
/// One past the largest pattern of a magnitude.
const PATTERNS: u32 = 1 << 31;
/// Tensors smaller than this are counted without a sample.
const SAMPLED_FROM: usize = 1 << 20;

/// Which elements count as the k largest: those above `pattern`, and those equal to it whose index
/// is below `ties_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// The f32 pattern of the k-th largest magnitude.
    pub(super) pattern: u32,
    /// Where the elements equal to it stop to count.
    pub(super) ties_end: usize,
}

/// A search under way for the k-th largest of some magnitudes, those of a model's task vector for
/// one.
#[derive(Debug)]
pub(super) struct Search {
    /// How many elements to keep, at least 1.
    keep: u64,
    /// Where the pattern lies.
    range: Range<u32>,
    /// Elements equal to the pattern that are kept, once the range is one pattern.
    ties: u64,
    /// Elements equal to the pattern, likewise.
    equal: u64,
}

/// A search and the input of a tensor that it looks at.
#[derive(Clone, Copy, Debug)]
struct Look {
    search: usize,
    input: usize,
}

impl Search {
    /// A search for the `keep`-th largest, from 1.
    pub(super) fn new(keep: usize) -> Self {
        Self { keep: keep as u64, range: 0..PATTERNS, ties: 0, equal: 0 }
    }

    /// Whether the magnitude is found.
    pub(super) fn done(&self) -> bool {
        self.equal > 0
    }

    /// The f32 pattern of the magnitude, once it is found.
    pub(super) fn pattern(&self) -> u32 {
        self.range.start
    }

    /// Counts a tile in the search's own bins, unless it is done.
    pub(super) fn count(&self, kernels: Kernels, values: &[f32], counts: &mut [u64]) {
        if self.done() {
            return;
        }
        let (bins, above) = counts.split_at_mut(BINS);
        above[0] += kernels.count_magnitudes(values, self.range.clone(), self.shift(), bins);
    }

    /// Whether only some of the elements equal to the pattern are kept. Zeros add nothing whether
    /// they are kept or not.
    fn cuts_ties(&self) -> bool {
        self.ties < self.equal && self.range.start > 0
    }

    /// Binary shift of a pattern's offset to its bin.
    fn shift(&self) -> u32 {
        let width = self.range.end - self.range.start;
        width.div_ceil(BINS as u32).next_power_of_two().trailing_zeros()
    }

    /// Narrows the range by what a pass found in it and above it.
    fn narrow(&mut self, counts: &[u64]) -> Result<()> {
        let (bins, above) = (&counts[..BINS], counts[BINS]);
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
            if end - start == 1 {
                self.ties = self.keep - over;
                self.equal = *count;
            }
            return Ok(());
        }
        Err(Error::internal("a threshold search lost its elements"))
    }
}

/// How many of `elements` a density keeps; none where it keeps all or nothing, or where there are
/// no elements.
pub(super) fn kept(density: f64, elements: usize) -> Option<usize> {
    let some = density > 0.0 && density < 1.0 && elements > 0;
    some.then(|| ((density * elements as f64) as usize).max(1))
}

/// For each input but the base, the threshold of its largest deltas in this tensor; none where the
/// density keeps all or nothing.
pub(super) fn thresholds(io: &TensorIo<'_>, densities: &[f64]) -> Result<Vec<Option<Threshold>>> {
    let mut searches = Vec::new();
    let mut looks = Vec::new();
    for (input, density) in io.others()?.into_iter().zip(densities) {
        if let Some(keep) = kept(*density, io.elements()) {
            looks.push(Look { search: searches.len(), input });
            searches.push(Search::new(keep));
        }
    }
    if io.elements() >= SAMPLED_FROM && !searches.is_empty() {
        bracket(io, &looks, &mut searches)?;
    }
    while searches.iter().any(|search| !search.done()) {
        let counts = io.counts(searches.len() * STRIDE, |_, inputs, counts| {
            count_tile(io, &searches, &looks, inputs, counts);
        })?;
        narrow_all(&mut searches, &counts)?;
    }
    let cuts: Vec<Cut> = looks
        .iter()
        .map(|look| &searches[look.search])
        .zip(&looks)
        .filter(|(search, _)| search.cuts_ties())
        .map(|(search, look)| Cut::new(search, *look, search.ties))
        .collect();
    let mut ends = cut_ends(io, &cuts)?.into_iter();
    let mut found = searches.iter().map(|search| Threshold {
        pattern: search.range.start,
        ties_end: if search.cuts_ties() { ends.next().unwrap_or(0) } else { io.elements() },
    });
    Ok(densities
        .iter()
        .map(|density| kept(*density, io.elements()).and_then(|_| found.next()))
        .collect())
}

/// One tensor of a whole model: the models behind its inputs but the base, and their densities.
pub struct Part {
    /// For each input but the base, its model.
    pub models: Vec<usize>,
    /// For each input but the base, the share of its task vector that is kept.
    pub densities: Vec<f64>,
}

/// Thresholds over whole models, as the TIES paper trims: for each tensor and each of its inputs but
/// the base. A model has one density; ties are broken by tensor, then by element.
pub fn model_thresholds(io: &ModelIo<'_>, parts: &[Part]) -> Result<Vec<Vec<Option<Threshold>>>> {
    let mut totals: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    for (part, tensor) in parts.iter().zip(io.tensors()) {
        for (model, density) in part.models.iter().zip(&part.densities) {
            let total = totals.entry(*model).or_insert((*density, 0));
            total.1 += tensor.elements();
        }
    }
    let mut searches = Vec::new();
    let mut place = BTreeMap::new();
    for (model, (density, elements)) in totals {
        if let Some(keep) = kept(density, elements) {
            place.insert(model, searches.len());
            searches.push(Search::new(keep));
        }
    }
    let mut looks: Vec<Vec<Look>> = Vec::new();
    for (part, tensor) in parts.iter().zip(io.tensors()) {
        let pairs = part.models.iter().zip(tensor.others()?);
        looks.push(
            pairs
                .filter_map(|(model, input)| Some(Look { search: *place.get(model)?, input }))
                .collect(),
        );
    }
    while searches.iter().any(|search| !search.done()) {
        let counts = io.counts(searches.len() * STRIDE, |at, tensor, inputs, counts| {
            count_tile(tensor, &searches, &looks[at], inputs, counts);
        })?;
        narrow_all(&mut searches, &counts)?;
    }
    let equal = io.tensor_counts(searches.len(), |at, tensor, inputs, counts| {
        for_deltas(tensor, &looks[at], inputs, |look, delta| {
            let pattern = searches[look.search].range.start;
            counts[look.search] += tensor.kernels().count_equal(delta, pattern);
        });
    })?;
    let mut left: Vec<u64> = searches.iter().map(|search| search.ties).collect();
    let mut all = Vec::new();
    for (((part, tensor), looks), equal) in parts.iter().zip(io.tensors()).zip(&looks).zip(equal) {
        let mut found = vec![None; part.models.len()];
        for (slot, model) in found.iter_mut().zip(&part.models) {
            let Some(search) = place.get(model).copied() else { continue };
            let state = &searches[search];
            let ties_end = match (state.cuts_ties(), left[search]) {
                (false, _) => tensor.elements(),
                (true, 0) => 0,
                (true, left) if left >= equal[search] => tensor.elements(),
                (true, left) => {
                    let look = looks.iter().find(|look| look.search == search).copied();
                    let look = look.ok_or_else(|| Error::internal("a model's tensor was lost"))?;
                    cut_ends(tensor, &[Cut::new(state, look, left)])?.first().copied().unwrap_or(0)
                }
            };
            left[search] = left[search].saturating_sub(equal[search]);
            *slot = Some(Threshold { pattern: state.range.start, ties_end });
        }
        all.push(found);
    }
    Ok(all)
}

/// Sets each search's first range around the sampled quantile.
fn bracket(io: &TensorIo<'_>, looks: &[Look], searches: &mut [Search]) -> Result<()> {
    let base = io.base()?;
    let sample = io.sample()?;
    for look in looks {
        let mut patterns: Vec<u32> = sample[look.input]
            .iter()
            .zip(&sample[base])
            .map(|(x, base)| (x - base).to_bits() & 0x7fff_ffff)
            .collect();
        let search = &mut searches[look.search];
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
        search.range = low.min(PATTERNS - 1)..high.clamp(low.min(PATTERNS - 1) + 1, PATTERNS);
    }
    Ok(())
}

/// Turns the looked-at inputs of a tile into deltas and hands them out.
fn for_deltas(
    io: &TensorIo<'_>,
    looks: &[Look],
    inputs: &mut [Vec<f32>],
    mut body: impl FnMut(Look, &[f32]),
) {
    let Ok(base) = io.base() else { return };
    let origin = std::mem::take(&mut inputs[base]);
    for look in looks {
        io.kernels().subtract(&origin, &mut inputs[look.input]);
        body(*look, &inputs[look.input]);
    }
    inputs[base] = origin;
}

/// Counts a tile for every search that is not done.
fn count_tile(
    io: &TensorIo<'_>,
    searches: &[Search],
    looks: &[Look],
    inputs: &mut [Vec<f32>],
    counts: &mut [u64],
) {
    for_deltas(io, looks, inputs, |look, delta| {
        let counts = &mut counts[look.search * STRIDE..(look.search + 1) * STRIDE];
        searches[look.search].count(io.kernels(), delta, counts);
    });
}

/// Narrows the searches that are not done by what a pass counted.
pub(super) fn narrow_all(searches: &mut [Search], counts: &[u64]) -> Result<()> {
    let open = searches.iter_mut().zip(counts.chunks(STRIDE)).filter(|(search, _)| !search.done());
    open.into_iter().try_for_each(|(search, counts)| search.narrow(counts))
}

/// Where to cut the elements equal to a pattern: behind the `nth` of them (from 1).
struct Cut {
    look: Look,
    pattern: u32,
    nth: u64,
}

impl Cut {
    fn new(search: &Search, look: Look, nth: u64) -> Self {
        Self { look, pattern: search.range.start, nth }
    }
}

/// For each cut, the index behind its element. Chunks are gone through in order, and no further
/// than to the last of these indices.
fn cut_ends(io: &TensorIo<'_>, cuts: &[Cut]) -> Result<Vec<usize>> {
    let mut left: Vec<u64> = cuts.iter().map(|cut| cut.nth).collect();
    let mut ends = vec![0; cuts.len()];
    let mut next = 0;
    while left.iter().any(|left| *left > 0) {
        let chunks = io.window(next)?;
        next = chunks.end;
        let open: Vec<usize> = (0..cuts.len()).filter(|i| left[*i] > 0).collect();
        let looks: Vec<Look> = open.iter().map(|i| Look { search: *i, ..cuts[*i].look }).collect();
        let counts = io.chunk_counts(chunks.clone(), cuts.len(), |_, inputs, counts| {
            for_deltas(io, &looks, inputs, |look, delta| {
                counts[look.search] += io.kernels().count_equal(delta, cuts[look.search].pattern);
            });
        })?;
        for (chunk, counts) in chunks.zip(counts) {
            for i in 0..cuts.len() {
                if left[i] > 0 && counts[i] >= left[i] {
                    ends[i] = nth_equal(io, &cuts[i], chunk, left[i])?;
                }
                left[i] = left[i].saturating_sub(counts[i]);
            }
        }
    }
    Ok(ends)
}

/// The index behind the `nth` element (from 1) of a chunk that equals the cut's pattern.
fn nth_equal(io: &TensorIo<'_>, cut: &Cut, chunk: usize, nth: u64) -> Result<usize> {
    let mut left = nth;
    let mut end = None;
    io.visit_chunk(chunk, |start, inputs| {
        for_deltas(io, &[cut.look], inputs, |_, delta| {
            for (index, x) in delta.iter().enumerate() {
                if x.to_bits() & 0x7fff_ffff == cut.pattern {
                    left = left.saturating_sub(1);
                    if left == 0 && end.is_none() {
                        end = Some(start + index + 1);
                    }
                }
            }
        });
    })?;
    end.ok_or_else(|| Error::internal("the elements equal to a threshold were lost"))
}
