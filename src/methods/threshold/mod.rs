//! The exact magnitude of the k-th largest element of a score, by counting.
//!
//! A score is a value for each element that is computed from the inputs: a task vector, a variance.
//! Magnitudes are counted by their f32 bit patterns, which order like the magnitudes. A pass counts
//! the patterns of a range into at most 2^19 bins and keeps the bin that holds the k-th largest as
//! the next range; a range of one pattern is the answer. Over one tensor the first range is a
//! bracket around the k-th largest of a small sample, which usually leaves one pass; where the
//! sample misleads, the counts say so and the search goes on outside the bracket.

mod cut;
mod search;
mod survey;

pub(super) use search::{BINS, STRIDE, Search, Wanted, narrow_all};
pub(super) use survey::{THRESHOLDS, largest_of_model};

use crate::engine::TensorIo;
use crate::error::Result;
use cut::{Cut, cut_ends};

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

impl Threshold {
    /// Of a slice that begins at element `start`, how many of the first positions are below
    /// `ties_end`.
    pub(super) fn ties(self, start: usize) -> usize {
        self.ties_end.saturating_sub(start)
    }
}

/// Computes scores from the inputs of a tile (which may be overwritten) and hands out each with its
/// number: one value an element, of which the magnitude counts.
pub(super) type Scores<'a> = dyn Fn(&mut [Vec<f32>], &mut dyn FnMut(usize, &[f32])) + Sync + 'a;

/// For each pair of a score and how many of its largest values are wanted, which elements these
/// are.
pub(super) fn largest(
    io: &TensorIo<'_>,
    wanted: &[(usize, Wanted)],
    scores: &Scores<'_>,
) -> Result<Vec<Threshold>> {
    let new = |(_, wanted): &(usize, Wanted)| Search::new(*wanted, io.elements());
    let mut searches: Vec<Search> = wanted.iter().map(new).collect();
    if io.elements() >= SAMPLED_FROM && !searches.is_empty() {
        scores(&mut io.sample()?, &mut |score, values| {
            let mut patterns: Vec<u32> = values.iter().map(|x| x.to_bits() & 0x7fff_ffff).collect();
            let looking = searches.iter_mut().zip(wanted).filter(|(_, wanted)| wanted.0 == score);
            looking.for_each(|(search, _)| search.bracket(&mut patterns));
        });
    }
    while searches.iter().any(|search| !search.done()) {
        let counts = io.counts(searches.len() * STRIDE, |_, inputs, counts| {
            scores(inputs, &mut |score, values| {
                let each = searches.iter().zip(wanted).zip(counts.chunks_mut(STRIDE));
                for ((search, _), counts) in
                    each.filter(|((search, wanted), _)| wanted.0 == score && !search.done())
                {
                    search.count(io.kernels(), values, counts);
                }
            });
        })?;
        narrow_all(&mut searches, &counts)?;
    }
    let cutting = searches.iter().zip(wanted).filter(|(search, _)| search.cuts_ties());
    let cuts: Vec<Cut> = cutting
        .map(|(search, (score, _))| Cut {
            score: *score,
            pattern: search.range.start,
            nth: search.ties,
        })
        .collect();
    let mut ends = cut_ends(io, scores, &cuts)?.into_iter();
    let found = searches.iter().map(|search| match (search.keeps_nothing(), search.cuts_ties()) {
        (true, _) => Threshold { pattern: u32::MAX, ties_end: 0 },
        (_, false) => Threshold { pattern: search.range.start, ties_end: io.elements() },
        (_, true) => Threshold { pattern: search.range.start, ties_end: ends.next().unwrap_or(0) },
    });
    Ok(found.collect())
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
    let keeps: Vec<Option<usize>> =
        densities.iter().map(|density| kept(*density, io.elements())).collect();
    let trimmed = io.others()?.into_iter().zip(&keeps).filter(|(_, keep)| keep.is_some());
    let trimmed: Vec<usize> = trimmed.map(|(input, _)| input).collect();
    let wanted: Vec<(usize, Wanted)> =
        keeps.iter().flatten().enumerate().map(|(i, keep)| (i, Wanted::Count(*keep))).collect();
    let mut found = largest(io, &wanted, &*deltas(io, trimmed))?.into_iter();
    Ok(keeps.iter().map(|keep| keep.and_then(|_| found.next())).collect())
}

/// As scores, the deltas of these inputs.
pub(super) fn deltas<'a>(io: &'a TensorIo<'_>, looked_at: Vec<usize>) -> Box<Scores<'a>> {
    Box::new(move |inputs, visit| for_deltas(io, &looked_at, inputs, visit))
}

/// Turns some inputs of a tile into deltas and hands them out, each with its place in `looked_at`.
fn for_deltas(
    io: &TensorIo<'_>,
    looked_at: &[usize],
    inputs: &mut [Vec<f32>],
    mut body: impl FnMut(usize, &[f32]),
) {
    let Ok(base) = io.base() else { return };
    let origin = std::mem::take(&mut inputs[base]);
    for (i, input) in looked_at.iter().enumerate() {
        io.kernels().subtract(&origin, &mut inputs[*input]);
        body(i, &inputs[*input]);
    }
    inputs[base] = origin;
}
