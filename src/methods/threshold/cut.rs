//! Where to cut the elements that equal a threshold: those with the lowest indices are kept.

use super::Scores;
use crate::engine::TensorIo;
use crate::error::{Error, Result};

/// To be cut behind the `nth` element (from 1) whose score has this pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) score: usize,
    pub(super) pattern: u32,
    pub(super) nth: u64,
}

/// For each cut, the index behind its element. Chunks are gone through in order, and no further
/// than to the last of these indices.
pub(super) fn cut_ends(io: &TensorIo<'_>, scores: &Scores<'_>, cuts: &[Cut]) -> Result<Vec<usize>> {
    let mut left: Vec<u64> = cuts.iter().map(|cut| cut.nth).collect();
    let mut ends = vec![0; cuts.len()];
    let mut next = 0;
    while left.iter().any(|left| *left > 0) {
        let chunks = io.window(next)?;
        next = chunks.end;
        let open: Vec<bool> = left.iter().map(|left| *left > 0).collect();
        let counts = io.chunk_counts(chunks.clone(), cuts.len(), |_, inputs, counts| {
            scores(inputs, &mut |score, values| {
                for ((cut, open), count) in cuts.iter().zip(&open).zip(&mut *counts) {
                    if *open && cut.score == score {
                        *count += io.kernels().count_equal(values, cut.pattern);
                    }
                }
            });
        })?;
        for (chunk, counts) in chunks.zip(counts) {
            for i in 0..cuts.len() {
                if left[i] > 0 && counts[i] >= left[i] {
                    ends[i] = nth_equal(io, scores, cuts[i], chunk, left[i])?;
                }
                left[i] = left[i].saturating_sub(counts[i]);
            }
        }
    }
    Ok(ends)
}

/// The index behind the `nth` element (from 1) of a chunk that equals the cut's pattern.
fn nth_equal(
    io: &TensorIo<'_>,
    scores: &Scores<'_>,
    cut: Cut,
    chunk: usize,
    nth: u64,
) -> Result<usize> {
    let mut left = nth;
    let mut end = None;
    io.visit_chunk(chunk, |start, inputs| {
        scores(inputs, &mut |score, values| {
            if score != cut.score || end.is_some() {
                return;
            }
            for (index, x) in values.iter().enumerate() {
                if x.to_bits() & 0x7fff_ffff == cut.pattern {
                    left = left.saturating_sub(1);
                    if left == 0 {
                        end = Some(start + index + 1);
                        return;
                    }
                }
            }
        });
    })?;
    end.ok_or_else(|| Error::internal("the elements equal to a threshold were lost"))
}
