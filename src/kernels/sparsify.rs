//! Keeping part of a task vector: by magnitude (TIES, Breadcrumbs), by another score, or at random
//! (DARE).

use super::LANES;
use super::magnitude::pattern;
use super::random::{GROUP, Stream};
use super::reduce::fold;

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

/// The complement of [`trim`].
#[inline(always)]
pub(super) fn trim_largest(threshold: u32, ties: usize, x: &mut [f32]) {
    let ties = ties.min(x.len());
    let (first, rest) = x.split_at_mut(ties);
    for x in first {
        *x = if pattern(*x) >= threshold { 0.0 } else { *x };
    }
    for x in rest {
        *x = if pattern(*x) > threshold { 0.0 } else { *x };
    }
}

#[inline(always)]
pub(super) fn drop_random(stream: Stream, start: usize, keep: u32, rescale: f32, x: &mut [f32]) {
    debug_assert!(start.is_multiple_of(GROUP));
    let first = (start / GROUP) as u64;
    let (full, rest) = x.as_chunks_mut::<GROUP>();
    let count = full.len() as u64;
    for (group, x) in (first..).zip(full) {
        drop_group(stream, group, keep, rescale, x);
    }
    if !rest.is_empty() {
        let mut last = padded(rest);
        drop_group(stream, first + count, keep, rescale, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[inline(always)]
fn drop_group(stream: Stream, group: u64, keep: u32, rescale: f32, x: &mut [f32; GROUP]) {
    match stream.upper_halves(group, keep) {
        Some(halves) => select(&halves, keep >> 16, rescale, x),
        None => drop_undecided(stream, group, keep, rescale, x),
    }
}

/// Rare, and apart, so that the common case stays in registers.
#[cold]
#[inline(never)]
fn drop_undecided(stream: Stream, group: u64, keep: u32, rescale: f32, x: &mut [f32; GROUP]) {
    select(&stream.numbers(group), keep, rescale, x);
}

#[inline(always)]
fn select(numbers: &[u32; GROUP], limit: u32, rescale: f32, x: &mut [f32; GROUP]) {
    for i in 0..GROUP {
        x[i] = if numbers[i] < limit { x[i] * rescale } else { 0.0 };
    }
}

#[inline(always)]
pub(super) fn l1_and_kept(stream: Stream, start: usize, keep: u32, x: &[f32]) -> [f64; 2] {
    debug_assert!(start.is_multiple_of(GROUP));
    let first = (start / GROUP) as u64;
    let mut sums = [[0.0; LANES]; 2];
    let (full, rest) = x.as_chunks::<GROUP>();
    for (group, x) in (first..).zip(full) {
        add_group(stream, group, keep, x, &mut sums);
    }
    if !rest.is_empty() {
        add_group(stream, first + full.len() as u64, keep, &padded(rest), &mut sums);
    }
    [fold(sums[0]), fold(sums[1])]
}

#[inline(always)]
fn add_group(
    stream: Stream,
    group: u64,
    keep: u32,
    x: &[f32; GROUP],
    [all, kept]: &mut [[f64; LANES]; 2],
) {
    let mut left = *x;
    drop_group(stream, group, keep, 1.0, &mut left);
    add_magnitudes(x, all);
    add_magnitudes(&left, kept);
}

/// A group is eight rows of sixteen lanes.
#[inline(always)]
fn add_magnitudes(x: &[f32; GROUP], lanes: &mut [f64; LANES]) {
    for row in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            lanes[lane] += f64::from(row[lane].abs());
        }
    }
}

/// The end of a slice, filled with zeros to a whole group.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; GROUP] {
    let mut group = [0.0; GROUP];
    group[..rest.len()].copy_from_slice(rest);
    group
}
