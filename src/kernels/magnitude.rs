//! Counting magnitudes by their f32 bit patterns, which order like the magnitudes themselves.

use std::ops::Range;

/// Pattern of a magnitude: the bits without the sign.
#[inline(always)]
pub(super) fn pattern(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Elements looked at with vector compares before any of them is counted by itself. A narrow range
/// holds few elements, so most blocks need no scattered increment at all.
const BLOCK: usize = 32;

#[inline(always)]
pub(super) fn count(x: &[f32], range: Range<u32>, shift: u32, bins: &mut [u64]) -> u64 {
    let width = range.end - range.start;
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    let mut above = 0;
    for block in blocks {
        let mut offsets = [0; BLOCK];
        let (mut inside, mut over) = (0_u32, 0_u32);
        for i in 0..BLOCK {
            let pattern = pattern(block[i]);
            offsets[i] = pattern.wrapping_sub(range.start);
            inside += u32::from(offsets[i] < width);
            over += u32::from(pattern >= range.end);
        }
        above += u64::from(over);
        if inside > 0 {
            scatter(&offsets, width, shift, bins);
        }
    }
    for x in rest {
        let pattern = pattern(*x);
        above += u64::from(pattern >= range.end);
        scatter(&[pattern.wrapping_sub(range.start)], width, shift, bins);
    }
    above
}

/// Adds the offsets that lie below `width` to their bins.
#[inline(always)]
fn scatter(offsets: &[u32], width: u32, shift: u32, bins: &mut [u64]) {
    for offset in offsets {
        if *offset < width
            && let Some(bin) = bins.get_mut((offset >> shift) as usize)
        {
            *bin += 1;
        }
    }
}

#[inline(always)]
pub(super) fn count_equal(x: &[f32], wanted: u32) -> u64 {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    let mut total = 0;
    for block in blocks {
        let mut equal = 0_u32;
        for x in block {
            equal += u32::from(pattern(*x) == wanted);
        }
        total += u64::from(equal);
    }
    total + rest.iter().filter(|x| pattern(**x) == wanted).count() as u64
}
