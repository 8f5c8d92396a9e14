//! Keeping elements at random by the rank of their magnitude in a row (DELLA, arXiv 2406.11617).
//!
//! Ranks are not sorted for: an element's magnitude tells its bucket, and with the counts of the
//! buckets a range of ranks, which nearly always decides whether its random number keeps it. Only
//! buckets with an element that is not decided are sorted.

use super::magnitude::pattern;
use super::random::{GROUP, Stream};

/// Probabilities to keep an element of a row by the rank of its magnitude, in equal steps; the mean
/// of both for a row of one element. Both lie between 0 and 1, neither included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Odds {
    /// Of the smallest magnitude; among equals, the one with the lowest index.
    pub lowest: f64,
    /// Of the largest magnitude.
    pub highest: f64,
}

/// What happens to the elements that are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rescale {
    /// Multiplied by this factor.
    By(f32),
    /// Multiplied by this factor and divided by their own probability.
    ByOdds(f64),
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
            return Self { lowest: (f64::midpoint(odds.lowest, odds.highest) * ONE) as u64, step: 0 };
        }
        let step = (odds.highest - odds.lowest) * ONE / (elements - 1) as f64;
        Self { lowest: (odds.lowest * ONE) as u64, step: step as u64 }
    }

    /// Numbers below this keep the element of rank `rank` (from 0).
    #[inline(always)]
    fn of(self, rank: u32) -> u32 {
        ((self.lowest + self.step * u64::from(rank)) >> FRACTION) as u32
    }

    fn probability(self, rank: u32) -> f64 {
        (self.lowest + self.step * u64::from(rank)) as f64 / ONE
    }
}

/// Rows shorter than this are sorted as one bucket.
const SHORT: usize = 256;
/// Buckets of the other rows: 128 for a factor of two, below the largest magnitude of the row.
const BUCKETS: u32 = 2048;
const SHIFT: u32 = 16;

/// Which bucket a magnitude belongs to: the order of the buckets is that of the magnitudes.
#[derive(Clone, Copy)]
struct Buckets {
    floor: u32,
    shift: u32,
    count: usize,
}

impl Buckets {
    #[inline(always)]
    fn new(x: &[f32]) -> Self {
        if x.len() < SHORT {
            return Self { floor: 0, shift: 31, count: 1 };
        }
        let mut top = 0;
        for x in x {
            top = top.max(pattern(*x));
        }
        let floor = top.saturating_sub((BUCKETS - 1) << SHIFT);
        Self { floor, shift: SHIFT, count: ((top - floor) >> SHIFT) as usize + 1 }
    }

    #[inline(always)]
    fn of(self, pattern: u32) -> usize {
        (pattern.saturating_sub(self.floor) >> self.shift) as usize
    }
}

/// A bucket of a row.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// The rank of its smallest magnitude.
    first: u32,
    elements: u32,
    /// The limits of its first and its last rank.
    limits: [u32; 2],
    /// Whether some element's number lies between these.
    sorted: bool,
}

#[inline(always)]
pub(super) fn drop_by_rank(
    stream: Stream,
    start: usize,
    odds: Odds,
    rescale: Rescale,
    x: &mut [f32],
) {
    let limits = Limits::new(odds, x.len());
    let buckets = Buckets::new(x);
    let mut table = ranked(buckets, limits, x);
    let (plain, by_odds) = match rescale {
        Rescale::By(factor) => (factor, None),
        Rescale::ByOdds(factor) => (1.0, Some(factor)),
    };
    let mut numbers = vec![0; x.len()];
    let mut factors = vec![0.0; x.len()];
    let undecided = decide(stream, start, buckets, &table, plain, x, &mut numbers, &mut factors);
    refine(stream, start, &undecided, &mut numbers);
    for element in &undecided {
        table[buckets.of(pattern(x[*element as usize]))].sorted = true;
    }
    if by_odds.is_some() {
        table.iter_mut().for_each(|bucket| bucket.sorted = true);
    }
    let mut keys = Vec::new();
    if table.iter().any(|bucket| bucket.sorted) {
        for (element, x) in x.iter().enumerate() {
            let pattern = pattern(*x);
            if table[buckets.of(pattern)].sorted {
                keys.push(u64::from(pattern) << 32 | element as u64);
            }
        }
        keys.sort_unstable();
    }
    let mut left = &keys[..];
    while let Some(first) = left.first() {
        let bucket = table[buckets.of((first >> 32) as u32)];
        let (own, rest) = left.split_at((bucket.elements as usize).min(left.len()));
        for (rank, key) in (bucket.first..).zip(own) {
            let element = (key & 0xffff_ffff) as usize;
            let kept = match by_odds {
                None => plain,
                Some(factor) => (factor / limits.probability(rank)) as f32,
            };
            factors[element] = if numbers[element] < limits.of(rank) { kept } else { 0.0 };
        }
        left = rest;
    }
    for (x, factor) in x.iter_mut().zip(&factors) {
        *x = if *factor == 0.0 { 0.0 } else { *x * factor };
    }
}

/// The buckets of a row with their ranks and limits.
#[inline(always)]
fn ranked(buckets: Buckets, limits: Limits, x: &[f32]) -> Vec<Bucket> {
    let mut counts = vec![0_u32; buckets.count];
    for x in x {
        counts[buckets.of(pattern(*x))] += 1;
    }
    let mut first = 0;
    let bucket = |elements: u32| {
        let last = (first + elements).saturating_sub(1);
        let limits = [limits.of(first), limits.of(last)];
        let bucket = Bucket { first, elements, limits, sorted: false };
        first += elements;
        bucket
    };
    counts.into_iter().map(bucket).collect()
}

/// Decides by the upper halves of the numbers what these and the buckets can decide: the factor of a
/// kept element is `factor`. Returns the elements that are left; those that are 0 stay 0 either way,
/// and never are. `numbers` are the least that the upper halves allow.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one loop over a row")]
fn decide(
    stream: Stream,
    start: usize,
    buckets: Buckets,
    table: &[Bucket],
    factor: f32,
    x: &[f32],
    numbers: &mut [u32],
    factors: &mut [f32],
) -> Vec<u32> {
    let mut undecided = vec![0; x.len()];
    let mut found = 0;
    let mut from = 0;
    while from < x.len() {
        let (group, skipped) = ((start + from) / GROUP, (start + from) % GROUP);
        let to = (from + GROUP - skipped).min(x.len());
        let halves = stream.all_upper_halves(group as u64);
        let row = x[from..to].iter().zip(&halves[skipped..]);
        let made = numbers[from..to].iter_mut().zip(&mut factors[from..to]);
        for (element, ((x, half), (number, kept))) in (from as u32..).zip(row.zip(made)) {
            let pattern = pattern(*x);
            let [low, high] = table[buckets.of(pattern)].limits;
            let (least, greatest) = (half << 16, half << 16 | 0xffff);
            *number = least;
            *kept = if greatest < low { factor } else { 0.0 };
            undecided[found] = element;
            found += usize::from(greatest >= low && least < high && pattern != 0);
        }
        from = to;
    }
    undecided.truncate(found);
    undecided
}

/// Makes the numbers of these elements, which are in order, exact.
fn refine(stream: Stream, start: usize, elements: &[u32], numbers: &mut [u32]) {
    for elements in elements.chunk_by(|a, b| {
        (start + *a as usize) / GROUP == (start + *b as usize) / GROUP
    }) {
        let Some(first) = elements.first() else { continue };
        let exact = stream.numbers(((start + *first as usize) / GROUP) as u64);
        for element in elements {
            let element = *element as usize;
            numbers[element] = exact[(start + element) % GROUP];
        }
    }
}
