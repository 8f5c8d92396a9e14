//! Attention over the segments of a slice.
//!
//! Queries, keys and values are one matrix for the whole slice. Each segment and key-value head is
//! then a task of its own: its queries, some positions at a time, against the keys they may see.

use super::sequences::Slice;
use super::tensors::{change, each_row, failed, matrix, with_elements};
use super::weights::{Finder, Linear, Norm};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::architectures as data;
use candle_core::Tensor;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// Scores that a task holds at a time: they stay in the second cache.
const SCORES: usize = 1 << 17;

/// Keys and values of one sequence, for each key-value head: positions × width.
#[derive(Default)]
pub(super) struct Past {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

pub(super) struct Attention {
    data: data::Attention,
    projections: Linear,
    output: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
}

/// Cosines and sines: a row of half the rotated elements for each position.
pub(super) struct Turns {
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

/// What the queries of one segment are held against, for one key-value head.
struct Seen<'a> {
    keys: &'a Tensor,
    values: &'a Tensor,
    /// The position of the first query.
    start: usize,
    /// The key-value head.
    head: usize,
}

impl Attention {
    pub(super) fn open(data: &data::Attention, finder: &mut Finder<'_>) -> Result<Self> {
        let norm = |norm: &Option<data::Norm>, finder: &mut Finder<'_>| {
            norm.as_ref().map(|norm| Norm::open(norm, finder)).transpose()
        };
        Ok(Self {
            data: data.clone(),
            projections: Linear::open(&data.projections, finder)?,
            output: Linear::open(&data.output, finder)?,
            query_norm: norm(&data.query_norm, finder)?,
            key_norm: norm(&data.key_norm, finder)?,
        })
    }

    pub(super) fn linears(&self) -> [&Linear; 2] {
        [&self.projections, &self.output]
    }

    /// Elements that a token takes meanwhile.
    pub(super) fn scratch(&self) -> usize {
        self.projections.outputs() + self.output.inputs() + self.output.outputs()
    }

    /// Elements that a token leaves in a [`Past`].
    pub(super) fn past(&self) -> usize {
        2 * self.data.kv_heads * self.data.head
    }

    /// The length beyond which the keys of a sequence depend on its length.
    pub(super) fn stretches_beyond(&self) -> Option<usize> {
        self.data.rotary.as_ref()?.stretches_beyond()
    }

    /// Attention of each row of `x` to the rows before it. With `past`, one entry a segment, each
    /// segment also sees what its entry holds, and is added to it.
    pub(super) fn apply(
        &self,
        x: &Tensor,
        slice: &Slice,
        past: Option<&mut [Past]>,
        block: u64,
    ) -> Result<Tensor> {
        let projected = self.projections.apply(x, block)?;
        self.prepare(&projected, slice)?;
        let data = &self.data;
        let width = data.heads * data.head;
        let mut mixed = vec![0.0; slice.tokens.len() * width];
        let mut outs = Vec::new();
        let mut rest = mixed.as_mut_slice();
        for segment in &slice.segments {
            let (out, behind) = rest.split_at_mut(segment.rows.len() * width);
            outs.push(out);
            rest = behind;
        }
        with_elements(&projected, |rows| match past {
            None => outs
                .into_par_iter()
                .enumerate()
                .try_for_each(|(number, out)| self.segment(rows, slice, number, None, out)),
            Some(past) => {
                outs.into_par_iter().zip(past).enumerate().try_for_each(|(number, (out, past))| {
                    self.segment(rows, slice, number, Some(past), out)
                })
            }
        })??;
        self.output.apply(&matrix(mixed, width)?, block)
    }

    /// Limits, norms and rotations, in place.
    fn prepare(&self, projected: &Tensor, slice: &Slice) -> Result<()> {
        let data = &self.data;
        let (places, turns) = turns(data, slice)?;
        each_row(projected, |number, row| {
            if let Some(clip) = data.clip {
                row.iter_mut().for_each(|x| *x = x.clamp(-clip, clip));
            }
            let queries = (0..data.heads).map(|h| data.query(h));
            let keys = (0..data.kv_heads).map(|j| data.key(j));
            for (norm, heads) in [
                (&self.query_norm, queries.clone().collect::<Vec<_>>()),
                (&self.key_norm, keys.clone().collect()),
            ] {
                let Some(norm) = norm else { continue };
                // One norm over all heads is one over neighbours.
                let width = norm.width();
                for (head, first) in heads.into_iter().step_by(width / data.head).enumerate() {
                    norm.normalise(head, &mut row[first..first + width]);
                }
            }
            let (Some(rotary), Some((table, position))) = (&data.rotary, places.get(number)) else {
                return;
            };
            let turns = &turns[*table];
            rotate(rotary, [&turns.cos, &turns.sin], *position, row, queries.chain(keys));
        })
    }

    /// One segment: every key-value head, into the segment's rows of the output.
    fn segment(
        &self,
        rows: &[f32],
        slice: &Slice,
        number: usize,
        past: Option<&mut Past>,
        out: &mut [f32],
    ) -> Result<()> {
        let data = &self.data;
        let width = self.projections.outputs();
        let segment =
            slice.segments.get(number).ok_or_else(|| Error::internal("a lost segment"))?;
        let column = |ranges: &[Range<usize>], first: usize, to: &mut Vec<f32>| {
            for row in ranges.iter().cloned().flatten() {
                to.extend_from_slice(&rows[row * width + first..row * width + first + data.head]);
            }
        };
        type Cached<'a> = Option<(&'a mut Vec<f32>, &'a mut Vec<f32>)>;
        let heads: Vec<(usize, Cached<'_>)> = match past {
            None => (0..data.kv_heads).map(|j| (j, None)).collect(),
            Some(past) => {
                past.keys.resize_with(data.kv_heads, Vec::new);
                past.values.resize_with(data.kv_heads, Vec::new);
                past.keys.iter_mut().zip(&mut past.values).map(Some).enumerate().collect()
            }
        };
        let mixed: Result<Vec<Vec<f32>>> = heads
            .into_par_iter()
            .map(|(j, past)| {
                let (keys, values) = match past {
                    None => {
                        let seen = slice.seen(number);
                        let (mut keys, mut values) = (Vec::new(), Vec::new());
                        column(&seen, data.key(j), &mut keys);
                        column(&seen, data.value(j), &mut values);
                        (matrix(keys, data.head)?, matrix(values, data.head)?)
                    }
                    Some((keys, values)) => {
                        let own = [segment.rows.clone()];
                        column(&own, data.key(j), keys);
                        column(&own, data.value(j), values);
                        (matrix(keys.clone(), data.head)?, matrix(values.clone(), data.head)?)
                    }
                };
                let seen = Seen { keys: &keys, values: &values, start: segment.start, head: j };
                self.head(rows, segment.rows.clone(), &seen)
            })
            .collect();
        // A key-value head's queries are neighbours in the output.
        let part = data.heads / data.kv_heads * data.head;
        for (j, mixed) in mixed?.into_iter().enumerate() {
            for (out, mixed) in out.chunks_mut(part * data.kv_heads).zip(mixed.chunks(part)) {
                out[j * part..(j + 1) * part].copy_from_slice(mixed);
            }
        }
        Ok(())
    }

    /// One key-value head of one segment: positions × its queries × width.
    fn head(&self, rows: &[f32], own: Range<usize>, seen: &Seen<'_>) -> Result<Vec<f32>> {
        let data = &self.data;
        let group = data.heads / data.kv_heads;
        let width = self.projections.outputs();
        let total = seen.start + own.len();
        let mut mixed = Vec::with_capacity(own.len() * group * data.head);
        let step = (SCORES / (group * total)).clamp(16, 128);
        for first in (0..own.len()).step_by(step) {
            let count = step.min(own.len() - first);
            let mut queries = Vec::with_capacity(count * group * data.head);
            for row in own.start + first..own.start + first + count {
                for h in seen.head * group..(seen.head + 1) * group {
                    let at = row * width + data.query(h);
                    queries.extend(rows[at..at + data.head].iter().map(|x| x * data.scale));
                }
            }
            // The keys that any of these queries sees.
            let position = seen.start + first;
            let from = data.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let keys = seen.keys.narrow(0, from, position + count - from).map_err(failed)?;
            let values = seen.values.narrow(0, from, position + count - from).map_err(failed)?;
            let queries = matrix(queries, data.head)?;
            let scores = queries.matmul(&keys.t().map_err(failed)?).map_err(failed)?;
            let width = position + count - from;
            change(&scores, |scores| {
                for (number, row) in scores.chunks_mut(width).enumerate() {
                    let query = position + number / group;
                    weigh(data, seen.head * group + number % group, query, from, row);
                }
            })?;
            let part = scores.matmul(&values).map_err(failed)?;
            with_elements(&part, |part| mixed.extend_from_slice(part))?;
        }
        Ok(mixed)
    }
}

/// Rotates the heads that begin at `starts` by the angles of a position, of which the tables hold
/// cosines and sines.
pub(super) fn rotate(
    rotary: &data::Rotary,
    tables: [&[f32]; 2],
    position: usize,
    row: &mut [f32],
    starts: impl Iterator<Item = usize>,
) {
    let kernels = Kernels::best();
    let half = rotary.dims / 2;
    let [cos, sin] = tables.map(|table| &table[position * half..(position + 1) * half]);
    for first in starts {
        let head = &mut row[first..first + rotary.dims];
        if rotary.interleaved {
            for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = pair.split_at_mut(1);
                kernels.rotate(&[*cos], &[*sin], a, b);
            }
        } else {
            let (a, b) = head.split_at_mut(half);
            kernels.rotate(cos, sin, a, b);
        }
    }
}

/// For each row a table and its position, and the tables: one for all sequences that are not
/// stretched, and one for each length of those that are.
#[allow(clippy::type_complexity)]
pub(super) fn turns(
    data: &data::Attention,
    slice: &Slice,
) -> Result<(Vec<(usize, usize)>, Vec<Turns>)> {
    let Some(rotary) = &data.rotary else { return Ok(Default::default()) };
    let limit = rotary.stretches_beyond().unwrap_or(usize::MAX);
    let mut lengths: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let mut places = Vec::with_capacity(slice.tokens.len());
    for segment in &slice.segments {
        let class = if segment.length > limit { segment.length } else { 0 };
        let end = segment.start + segment.rows.len();
        let next = lengths.len();
        let (table, positions) = lengths.entry(class).or_insert((next, 0));
        *positions = end.max(*positions);
        places.extend((segment.start..end).map(|position| (*table, position)));
    }
    let mut tables: Vec<(usize, Turns)> = Vec::new();
    for (class, (table, positions)) in lengths {
        let frequencies = rotary.frequencies(class);
        let angles = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        let (sin, cos) = angles
            // Rounded from f64, so that it does not matter whose mathematical functions these are.
            .map(|angle| f64::from(angle).sin_cos())
            .map(|(sin, cos)| (sin as f32 * rotary.magnitude, cos as f32 * rotary.magnitude))
            .unzip();
        tables.push((table, Turns { cos, sin }));
    }
    tables.sort_by_key(|(table, _)| *table);
    Ok((places, tables.into_iter().map(|(_, turns)| turns).collect()))
}

/// Turns the scores of one query, for keys from position `from` on, into weights.
pub(super) fn weigh(
    data: &data::Attention,
    head: usize,
    query: usize,
    from: usize,
    row: &mut [f32],
) {
    let kernels = Kernels::best();
    let first = data.window.map_or(from, |window| (query + 1).saturating_sub(window).max(from));
    let (hidden, rest) = row.split_at_mut(first - from);
    let (visible, later) = rest.split_at_mut(query + 1 - first);
    hidden.fill(0.0);
    later.fill(0.0);
    if let Some(cap) = data.soft_cap {
        kernels.soft_cap(cap, visible);
    }
    if let Some(alibi) = &data.alibi {
        let slope = alibi.slopes.get(head).copied().unwrap_or(0.0);
        for (key, score) in (first..).zip(visible.iter_mut()) {
            *score += match alibi.rounded {
                None => -slope * (query - key) as f32,
                Some(scale) => scale * bf16(bf16(slope) * bf16(key as f32)),
            };
        }
    }
    kernels.softmax(visible);
}

/// Rounded to bfloat16, to nearest even.
fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    f32::from_bits(rounded & 0xffff_0000)
}
