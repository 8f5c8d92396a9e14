//! Counting magnitudes by their f32 bit patterns, which order like the magnitudes themselves.

use std::ops::Range;

/// Pattern of a magnitude: the bits without the sign.
#[inline(always)]
pub(super) fn pattern(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Elements whose offsets are gathered before they are counted.
const BLOCK: usize = 256;

#[inline(always)]
pub(super) fn count(x: &[f32], range: Range<u32>, shift: u32, bins: &mut [u64]) -> u64 {
    let width = range.end - range.start;
    let mut above = 0;
    for block in x.chunks(BLOCK) {
        let mut over = 0_u32;
        for x in block {
            over += u32::from(pattern(*x) >= range.end);
        }
        above += u64::from(over);
        // Gathers the offsets that lie in the range without a branch a processor could mispredict:
        // each is written, and the place moves on only if it is to stay.
        let mut inside = [0; BLOCK];
        let mut found = 0;
        for x in block {
            let offset = pattern(*x).wrapping_sub(range.start);
            inside[found % BLOCK] = offset;
            found += usize::from(offset < width);
        }
        for offset in &inside[..found] {
            if let Some(bin) = bins.get_mut((offset >> shift) as usize) {
                *bin += 1;
            }
        }
    }
    above
}

#[inline(always)]
pub(super) fn count_equal(x: &[f32], wanted: u32) -> u64 {
    let equal = |block: &[f32]| block.iter().map(|x| u32::from(pattern(*x) == wanted)).sum::<u32>();
    x.chunks(BLOCK).map(|block| u64::from(equal(block))).sum()
}
