//! Keeping elements at random by the rank of their magnitude in a row (DELLA, arXiv 2406.11617).
//!
//! A rank is needed only where the random number lies between the least and the greatest probability,
//! and it is not sorted for even there: an element's magnitude tells its bucket, and with the counts of
//! the buckets a range of ranks, which nearly always decides. The few elements that are left are
//! compared with all of their row; where they are many, their buckets are sorted.

mod buckets;

use super::mask::{WORD, packed};
use super::random::{GROUP, Stream};
use buckets::{BUCKETS, Buckets, rank};

/// Probabilities to keep an element of a row by the rank of its magnitude, in equal steps; the mean
/// of both for a row of one element. Both lie between 0 and 1, neither included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Odds {
    /// Of the smallest magnitude; among equals, the one with the lowest index.
    pub lowest: f64,
    /// Of the largest magnitude.
    pub highest: f64,
}

/// Binary digits of the fixed-point limits behind those of a random number.
const FRACTION: u32 = 24;
/// 2^(32 + [`FRACTION`]).
const ONE: f64 = (1_u64 << (32 + FRACTION)) as f64;

/// The limits that the random numbers of a row are compared with, by rank.
#[derive(Clone, Copy)]
struct Limits {
    lowest: u64,
    step: u64,
}

impl Limits {
    fn new(odds: Odds, elements: usize) -> Self {
        if elements < 2 {
            return Self {
                lowest: (f64::midpoint(odds.lowest, odds.highest) * ONE) as u64,
                step: 0,
            };
        }
        let step = (odds.highest - odds.lowest) * ONE / (elements - 1) as f64;
        // Odds may fall with the rank: such a step wraps.
        Self { lowest: (odds.lowest * ONE) as u64, step: step as i64 as u64 }
    }

    #[inline(always)]
    fn fixed(self, rank: u32) -> u64 {
        self.lowest.wrapping_add(self.step.wrapping_mul(u64::from(rank)))
    }

    /// Numbers below this keep the element of rank `rank` (from 0).
    #[inline(always)]
    fn of(self, rank: u32) -> u32 {
        (self.fixed(rank) >> FRACTION) as u32
    }

    /// The upper half of that: upper halves below it keep the element, those above it do not.
    #[inline(always)]
    fn half(self, rank: u32) -> u16 {
        (self.of(rank) >> 16) as u16
    }

    /// The least and the greatest of those of the ranks from `first` to `last`.
    #[inline(always)]
    fn halves(self, first: u32, last: u32) -> [u16; 2] {
        let (first, last) = (self.half(first), self.half(last));
        [first.min(last), first.max(last)]
    }

    /// Whether the element of rank `rank` is kept, given the upper half of its number, and the number
    /// where that is not enough.
    #[inline(always)]
    fn keep(self, rank: u32, half: u16, number: impl FnOnce() -> u32) -> bool {
        let limit = self.half(rank);
        half < limit || half == limit && number() < self.of(rank)
    }

    fn probability(self, rank: u32) -> f64 {
        self.fixed(rank) as f64 / ONE
    }
}

/// Undecided elements of a row up to which each is compared with all others: each costs as much as 32
/// elements of a pass over the row that sorts buckets would for each of them.
const FEW: usize = 128;

#[inline(always)]
pub(super) fn keep_by_rank(stream: Stream, start: usize, odds: Odds, x: &[f32], mask: &mut [u64]) {
    let (limits, buckets) = (Limits::new(odds, x.len()), Buckets::new(x));
    let halves = upper_halves(stream, start, x.len());
    let undecided = decide(limits, &buckets, &halves, x, mask);
    let mut resolve = |element: usize, rank: u32| {
        let kept = limits.keep(rank, halves[element], || number(stream, start + element));
        mask[element / WORD] |= u64::from(kept) << (element % WORD);
    };
    if undecided.len() <= FEW {
        for element in undecided {
            resolve(element as usize, rank(x, element as usize));
        }
        return;
    }
    let mut wanted = [false; BUCKETS];
    for element in &undecided {
        wanted[buckets.of[*element as usize] as usize % BUCKETS] = true;
    }
    let ranks = buckets.ranks(&wanted, x);
    for element in undecided {
        resolve(element as usize, ranks[element as usize]);
    }
}

/// Sets what the upper halves and the buckets decide, and returns the elements that they leave open.
/// Elements that are 0 stay 0 either way, and are never left open.
#[inline(always)]
fn decide(
    limits: Limits,
    buckets: &Buckets,
    halves: &[u16],
    x: &[f32],
    mask: &mut [u64],
) -> Vec<u32> {
    // The upper halves below which all ranks of a bucket are kept, and above which none is.
    let mut ranges = [[0; 2]; BUCKETS];
    let ranks = buckets.first.iter().zip(&buckets.elements);
    for (range, (first, elements)) in ranges.iter_mut().zip(ranks).take(buckets.count) {
        let last = (first + elements).saturating_sub(1);
        *range = limits.halves(*first, last);
    }
    let between = limits.halves(0, (x.len() as u32).saturating_sub(1));
    let mut undecided = vec![0; x.len()];
    let mut found = 0;
    let blocks = x.chunks(WORD).zip(halves.chunks(WORD)).zip(buckets.of.chunks(WORD));
    for (at, (((x, halves), of), word)) in blocks.zip(mask).enumerate() {
        let [mut kept, mut open] = match (x.as_array(), halves.as_array()) {
            (Some(x), Some(halves)) => decide_word(between, x, halves),
            _ => {
                let (mut padded, mut drawn) = ([0.0; WORD], [u16::MAX; WORD]);
                padded[..x.len()].copy_from_slice(x);
                drawn[..x.len()].copy_from_slice(halves);
                decide_word(between, &padded, &drawn)
            }
        };
        while open != 0 {
            let i = open.trailing_zeros() as usize % WORD;
            open &= open - 1;
            let [low, high] = ranges[of[i] as usize % BUCKETS];
            let half = halves[i];
            kept |= u64::from(half < low) << i;
            undecided[found] = (at * WORD + i) as u32;
            found += usize::from((half >= low) & (half <= high));
        }
        *word = kept;
    }
    undecided.truncate(found);
    undecided
}

/// Of 64 elements, those whose upper halves are below the limits of all ranks, and those whose halves lie
/// between the limits.
#[inline(always)]
fn decide_word([least, most]: [u16; 2], x: &[f32; WORD], halves: &[u16; WORD]) -> [u64; 2] {
    let (mut kept, mut open) = ([0; WORD], [0; WORD]);
    for i in 0..WORD {
        kept[i] = u8::from(halves[i] < least);
        open[i] = u8::from((halves[i] >= least) & (halves[i] <= most)) & u8::from(x[i] != 0.0);
    }
    [packed(&kept), packed(&open)]
}

/// The upper halves of the numbers of a row.
#[inline(always)]
fn upper_halves(stream: Stream, start: usize, elements: usize) -> Vec<u16> {
    let mut halves = vec![0; elements];
    let mut rest = &mut halves[..];
    let mut from = start;
    while !rest.is_empty() {
        let (group, skipped) = ((from / GROUP) as u64, from % GROUP);
        let drawn = stream.all_upper_halves(group).map(|half| half as u16);
        let (own, later) = rest.split_at_mut((GROUP - skipped).min(rest.len()));
        own.copy_from_slice(&drawn[skipped..skipped + own.len()]);
        from += own.len();
        rest = later;
    }
    halves
}

/// The random number of an element. Seldom needed.
#[cold]
#[inline(never)]
fn number(stream: Stream, element: usize) -> u32 {
    stream.numbers((element / GROUP) as u64)[element % GROUP]
}

#[inline(always)]
pub(super) fn divide_by_rank(stream: Stream, start: usize, odds: Odds, factor: f64, x: &mut [f32]) {
    let limits = Limits::new(odds, x.len());
    let ranks = Buckets::new(x).ranks(&[true; BUCKETS], x);
    let halves = upper_halves(stream, start, x.len());
    for (i, (x, (rank, half))) in x.iter_mut().zip(ranks.iter().zip(halves)).enumerate() {
        let kept = limits.keep(*rank, half, || number(stream, start + i));
        *x = if kept { *x * (factor / limits.probability(*rank)) as f32 } else { 0.0 };
    }
}
