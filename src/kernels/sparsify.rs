//! Keeping part of a task vector: by magnitude (TIES) or at random (DARE).

use super::magnitude::pattern;
use super::random::{GROUP, Stream};
use super::reduce::fold;
use super::LANES;

#[inline(always)]
pub(super) fn trim(threshold: u32, ties: usize, x: &mut [f32]) {
    let ties = ties.min(x.len());
    let (first, rest) = x.split_at_mut(ties);
    for x in first {
        *x = if pattern(*x) >= threshold { *x } else { 0.0 };
    }
    for x in rest {
        *x = if pattern(*x) > threshold { *x } else { 0.0 };
    }
}

#[inline(always)]
pub(super) fn drop_random(stream: Stream, start: usize, keep: u32, rescale: f32, x: &mut [f32]) {
    let mut at = start;
    let mut rest = x;
    while !rest.is_empty() {
        let skip = at % GROUP;
        let words = stream.words((at / GROUP) as u64);
        let count = (GROUP - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        for (x, word) in now.iter_mut().zip(&words[skip..]) {
            *x = if *word < keep { *x * rescale } else { 0.0 };
        }
        rest = later;
        at += count;
    }
}

#[inline(always)]
pub(super) fn kept_l1(stream: Stream, start: usize, keep: u32, x: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    let mut at = start;
    let mut rest = x;
    while !rest.is_empty() {
        let skip = at % GROUP;
        let words = stream.words((at / GROUP) as u64);
        let count = (GROUP - skip).min(rest.len());
        let (now, later) = rest.split_at(count);
        // The lane is that of the element within its group, so that a full group is four rows of
        // sixteen; a group cut by the slice's ends adds zeros for what lies outside.
        let mut block = [0.0; GROUP];
        for ((value, x), word) in block[skip..].iter_mut().zip(now).zip(&words[skip..]) {
            *value = if *word < keep { x.abs() } else { 0.0 };
        }
        for row in block.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                lanes[lane] += f64::from(row[lane]);
            }
        }
        rest = later;
        at += count;
    }
    fold(lanes)
}
