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
            return Self {
                lowest: (f64::midpoint(odds.lowest, odds.highest) * ONE) as u64,
                step: 0,
            };
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
const BUCKETS: usize = 2048;
const SHIFT: u32 = 16;

/// The elements of a row by their bucket: the order of the buckets is that of the magnitudes.
struct Buckets {
    /// The bucket of each element.
    of: Vec<u16>,
    /// The rank of each bucket's smallest magnitude.
    first: [u32; BUCKETS],
    /// How many elements it has.
    elements: [u32; BUCKETS],
    /// How many buckets there are.
    count: usize,
}

impl Buckets {
    #[inline(always)]
    fn new(x: &[f32]) -> Self {
        let mut made =
            Self { of: vec![0; x.len()], first: [0; BUCKETS], elements: [0; BUCKETS], count: 1 };
        if x.len() < SHORT {
            made.elements[0] = x.len() as u32;
            return made;
        }
        let mut top = 0;
        for x in x {
            top = top.max(pattern(*x));
        }
        let floor = top.saturating_sub(((BUCKETS - 1) as u32) << SHIFT);
        for (of, x) in made.of.iter_mut().zip(x) {
            *of = ((pattern(*x).max(floor) - floor) >> SHIFT) as u16;
        }
        // Two counts by turns, so that equal magnitudes do not wait for each other.
        let (pairs, rest) = made.of.as_chunks::<2>();
        for [a, b] in pairs {
            made.elements[*a as usize % BUCKETS] += 1;
            made.first[*b as usize % BUCKETS] += 1;
        }
        for of in rest {
            made.elements[*of as usize % BUCKETS] += 1;
        }
        made.count = ((top - floor) >> SHIFT) as usize + 1;
        let mut next = 0;
        for (first, elements) in made.first.iter_mut().zip(&mut made.elements) {
            *elements += *first;
            *first = next;
            next += *elements;
        }
        made
    }
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
    let (plain, by_odds) = match rescale {
        Rescale::By(factor) => (factor, None),
        Rescale::ByOdds(factor) => (1.0, Some(factor)),
    };
    let mut row =
        Row { numbers: vec![0; x.len()], factors: vec![0.0; x.len()], undecided: vec![0; x.len()] };
    row.decide(stream, start, &buckets, limits, plain, x);
    row.refine(stream, start);
    let mut sorted = [by_odds.is_some(); BUCKETS];
    for element in &row.undecided {
        sorted[buckets.of[*element as usize] as usize % BUCKETS] = true;
    }
    let mut keys = keys_by_bucket(&buckets, &sorted, x);
    let mut left = &mut keys[..];
    for bucket in (0..buckets.count).filter(|bucket| sorted[*bucket]) {
        let elements = buckets.elements[bucket] as usize;
        let (own, rest) = std::mem::take(&mut left).split_at_mut(elements);
        left = rest;
        // Equal magnitudes stand in the order of their index already.
        if !own.is_sorted() {
            own.sort_unstable();
        }
        for (rank, key) in (buckets.first[bucket]..).zip(own) {
            let element = (*key & 0xffff_ffff) as usize;
            let kept = match by_odds {
                None => plain,
                Some(factor) => (factor / limits.probability(rank)) as f32,
            };
            row.factors[element] = if row.numbers[element] < limits.of(rank) { kept } else { 0.0 };
        }
    }
    for (x, factor) in x.iter_mut().zip(&row.factors) {
        *x = if *factor == 0.0 { 0.0 } else { *x * factor };
    }
}

/// What becomes of the elements of a row.
struct Row {
    /// The random numbers, or the least that their upper halves allow where that decides.
    numbers: Vec<u32>,
    /// The factors of those that are kept; 0 for the others.
    factors: Vec<f32>,
    /// The elements whose bucket does not decide.
    undecided: Vec<u32>,
}

impl Row {
    /// Decides what the upper halves of the numbers and the buckets can: the factor of a kept
    /// element is `factor`. Elements that are 0 stay 0 either way, and are never left undecided.
    #[inline(always)]
    fn decide(
        &mut self,
        stream: Stream,
        start: usize,
        buckets: &Buckets,
        limits: Limits,
        factor: f32,
        x: &[f32],
    ) {
        // The upper halves below which all ranks of a bucket are kept, and above which none is.
        let mut halves = [[0; 2]; BUCKETS];
        let ranks = buckets.first.iter().zip(&buckets.elements);
        for (halves, (first, elements)) in halves.iter_mut().zip(ranks).take(buckets.count) {
            let last = (first + elements).saturating_sub(1);
            *halves = [limits.of(*first) >> 16, limits.of(last) >> 16];
        }
        let (mut found, mut from) = (0, 0);
        while from < x.len() {
            let (group, skipped) = ((start + from) / GROUP, (start + from) % GROUP);
            let to = (from + GROUP - skipped).min(x.len());
            let drawn = stream.all_upper_halves(group as u64);
            let row = x[from..to].iter().zip(&buckets.of[from..to]).zip(&drawn[skipped..]);
            let made = self.numbers[from..to].iter_mut().zip(&mut self.factors[from..to]);
            for (element, (((x, bucket), half), (number, kept))) in
                (from as u32..).zip(row.zip(made))
            {
                let [low, high] = halves[*bucket as usize % BUCKETS];
                *number = half << 16;
                *kept = if *half < low { factor } else { 0.0 };
                self.undecided[found] = element;
                found += usize::from((*half >= low) & (*half <= high) & (*x != 0.0));
            }
            from = to;
        }
        self.undecided.truncate(found);
    }

    /// Makes the numbers of the undecided elements exact.
    fn refine(&mut self, stream: Stream, start: usize) {
        let group = |element: u32| (start + element as usize) / GROUP;
        for elements in self.undecided.chunk_by(|a, b| group(*a) == group(*b)) {
            let Some(first) = elements.first() else { continue };
            let exact = stream.numbers(group(*first) as u64);
            for element in elements {
                let element = *element as usize;
                self.numbers[element] = exact[(start + element) % GROUP];
            }
        }
    }
}

/// The elements of the buckets that are to be sorted, bucket by bucket in the order of their index:
/// magnitude and index as one number.
#[inline(always)]
fn keys_by_bucket(buckets: &Buckets, sorted: &[bool; BUCKETS], x: &[f32]) -> Vec<u64> {
    let mut places = [0_u32; BUCKETS];
    let mut next = 0;
    for bucket in 0..buckets.count {
        places[bucket] = next;
        next += if sorted[bucket] { buckets.elements[bucket] } else { 0 };
    }
    let mut keys = vec![0; next as usize];
    if next == 0 {
        return keys;
    }
    for (element, (x, bucket)) in x.iter().zip(&buckets.of).enumerate() {
        let bucket = *bucket as usize % BUCKETS;
        if sorted[bucket] {
            keys[places[bucket] as usize] = u64::from(pattern(*x)) << 32 | element as u64;
            places[bucket] += 1;
        }
    }
    keys
}
