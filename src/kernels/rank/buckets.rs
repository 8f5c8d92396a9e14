//! The magnitudes of a row, counted: where in the order of all of them each may stand.

use crate::kernels::magnitude::pattern;

/// Rows shorter than this are one bucket.
const SHORT: usize = 256;
/// Buckets of the other rows. A fifteenth of the largest magnitude is added to each before its pattern
/// is taken, so that what is small falls into buckets of equal width and the rest into 128 for a factor
/// of two, which is four factors of two in all.
pub(super) const BUCKETS: usize = 512;
const SHIFT: u32 = 16;
const ADDED: f32 = 15.0;
/// Pattern of the infinity; whatever is larger is no number.
const INFINITY: u32 = 0x7f80_0000;

/// The elements of a row by their bucket: the order of the buckets is that of the magnitudes.
pub(super) struct Buckets {
    /// The bucket of each element.
    pub(super) of: Vec<u16>,
    /// The rank of each bucket's smallest magnitude.
    pub(super) first: [u32; BUCKETS],
    /// How many elements it has.
    pub(super) elements: [u32; BUCKETS],
    /// How many buckets there are.
    pub(super) count: usize,
}

impl Buckets {
    #[inline(always)]
    pub(super) fn new(x: &[f32]) -> Self {
        let mut made =
            Self { of: vec![0; x.len()], first: [0; BUCKETS], elements: [0; BUCKETS], count: 1 };
        let mut top = 0;
        for x in x {
            top = top.max(pattern(*x));
        }
        if x.len() < SHORT || top >= INFINITY {
            made.elements[0] = x.len() as u32;
            return made;
        }
        let added = f32::from_bits(top) / ADDED;
        let floor = added.to_bits();
        for (of, x) in made.of.iter_mut().zip(x) {
            // Rounding keeps the order of sums, and a pattern that of what is not negative.
            let bucket = (x.abs() + added).to_bits().saturating_sub(floor) >> SHIFT;
            *of = bucket.min(BUCKETS as u32 - 1) as u16;
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
        made.count = BUCKETS;
        let mut next = 0;
        for (first, elements) in made.first.iter_mut().zip(&mut made.elements) {
            *elements += *first;
            *first = next;
            next += *elements;
        }
        made
    }

    /// The ranks of the elements of some buckets (0 for the others), by sorting these.
    #[inline(always)]
    pub(super) fn ranks(&self, wanted: &[bool; BUCKETS], x: &[f32]) -> Vec<u32> {
        let mut ranks = vec![0; x.len()];
        let mut keys = self.keys(wanted, x);
        let mut left = &mut keys[..];
        for bucket in (0..self.count).filter(|bucket| wanted[*bucket]) {
            let elements = self.elements[bucket] as usize;
            let (own, rest) = std::mem::take(&mut left).split_at_mut(elements);
            left = rest;
            // Equal magnitudes stand in the order of their index already.
            if !own.is_sorted() {
                own.sort_unstable();
            }
            for (rank, key) in (self.first[bucket]..).zip(own) {
                ranks[(*key & 0xffff_ffff) as usize] = rank;
            }
        }
        ranks
    }

    /// The elements of some buckets, bucket by bucket in the order of their index: magnitude and index
    /// as one number.
    #[inline(always)]
    fn keys(&self, wanted: &[bool; BUCKETS], x: &[f32]) -> Vec<u64> {
        let mut places = [0_u32; BUCKETS];
        let mut next = 0;
        for bucket in 0..self.count {
            places[bucket] = next;
            next += if wanted[bucket] { self.elements[bucket] } else { 0 };
        }
        let mut keys = vec![0; next as usize];
        for (element, (x, bucket)) in x.iter().zip(&self.of).enumerate() {
            let bucket = *bucket as usize % BUCKETS;
            if wanted[bucket] {
                keys[places[bucket] as usize] = u64::from(pattern(*x)) << 32 | element as u64;
                places[bucket] += 1;
            }
        }
        keys
    }
}

/// The rank of one element of a row, by comparing it with all.
#[inline(always)]
pub(super) fn rank(x: &[f32], element: usize) -> u32 {
    let own = pattern(x[element]);
    let (before, behind) = x.split_at(element);
    let mut below = 0;
    for x in before {
        below += u32::from(pattern(*x) <= own);
    }
    for x in behind {
        below += u32::from(pattern(*x) < own);
    }
    below
}
