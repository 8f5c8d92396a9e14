//! Sequences of tokens, packed into slices without padding.
//!
//! A slice is what one task works on: the tokens of some sequences one after the other, so that every
//! linear map is one product of matrices. A segment is a run of tokens of one sequence. Requests with
//! the same context share the segment of the context; each continuation is a segment behind it.

use crate::eval::model::ScoreRequest;
use std::collections::BTreeMap;
use std::ops::Range;

/// A run of tokens of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its rows in the slice.
    pub(super) rows: Range<usize>,
    /// The position of its first token.
    pub(super) start: usize,
    /// Positions of the whole sequence.
    pub(super) length: usize,
    /// The segment of the same slice that stands before it.
    pub(super) parent: Option<usize>,
}

/// A token whose likelihood is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The row whose logits say so.
    pub(super) row: usize,
    /// The token.
    pub(super) token: u32,
    /// The number of the request, and of the token in its continuation.
    pub(super) place: (usize, usize),
}

/// What one task works on.
#[derive(Clone, Debug, Default)]
pub(super) struct Slice {
    pub(super) tokens: Vec<u32>,
    pub(super) segments: Vec<Segment>,
    pub(super) wanted: Vec<Wanted>,
}

impl Slice {
    /// Adds a segment; its number.
    pub(super) fn push(
        &mut self,
        tokens: &[u32],
        start: usize,
        length: usize,
        parent: Option<usize>,
    ) -> usize {
        let first = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.segments.push(Segment { rows: first..self.tokens.len(), start, length, parent });
        self.segments.len() - 1
    }

    /// The rows a segment sees: those of the segments before it, then its own.
    pub(super) fn seen(&self, segment: usize) -> Vec<Range<usize>> {
        let parent = |number: &usize| self.segments.get(*number)?.parent;
        let mut seen: Vec<Range<usize>> = std::iter::successors(Some(segment), parent)
            .filter_map(|number| Some(self.segments.get(number)?.rows.clone()))
            .collect();
        seen.reverse();
        seen
    }

    /// The position of every row.
    pub(super) fn positions(&self) -> Vec<usize> {
        let run = |segment: &Segment| segment.start..segment.start + segment.rows.len();
        self.segments.iter().flat_map(run).collect()
    }
}

/// Packs requests, whose contexts are not empty, into slices of about `rows` tokens, longest first. Requests with the same context
/// share it, unless `share` says that a sequence of this length must stay by itself.
pub(super) fn pack(
    requests: &[ScoreRequest],
    rows: usize,
    share: impl Fn(usize) -> bool,
) -> Vec<Slice> {
    let mut groups: BTreeMap<&[u32], Vec<usize>> = BTreeMap::new();
    for (number, request) in requests.iter().enumerate() {
        if !request.continuation.is_empty() {
            groups.entry(&request.context).or_default().push(number);
        }
    }
    let length = |number: &usize| {
        let request = &requests[*number];
        request.context.len() + request.continuation.len() - 1
    };
    let mut units: Vec<(usize, &[u32], Vec<usize>)> = Vec::new();
    for (context, members) in groups {
        let longest = members.iter().map(length).max().unwrap_or(0);
        if share(longest) {
            let tails: usize = members.iter().map(|number| length(number) - context.len()).sum();
            units.push((context.len() + tails, context, members));
        } else {
            units
                .extend(members.into_iter().map(|number| (length(&number), context, vec![number])));
        }
    }
    units.sort_by_key(|(size, ..)| std::cmp::Reverse(*size));
    let mut slices: Vec<Slice> = Vec::new();
    let mut slice = Slice::default();
    for (size, context, members) in units {
        if !slice.tokens.is_empty() && slice.tokens.len() + size > rows {
            slices.push(std::mem::take(&mut slice));
        }
        add(&mut slice, requests, context, &members, length);
    }
    slices.extend((!slice.tokens.is_empty()).then_some(slice));
    slices
}

fn add(
    slice: &mut Slice,
    requests: &[ScoreRequest],
    context: &[u32],
    members: &[usize],
    length: impl Fn(&usize) -> usize,
) {
    // One alone is one segment.
    if let [number] = members {
        let continuation = &requests[*number].continuation;
        let mut tokens = context.to_vec();
        tokens.extend_from_slice(&continuation[..continuation.len() - 1]);
        let segment = slice.push(&tokens, 0, tokens.len(), None);
        let first = slice.segments[segment].rows.start + context.len() - 1;
        for (i, token) in continuation.iter().enumerate() {
            slice.wanted.push(Wanted { row: first + i, token: *token, place: (*number, i) });
        }
        return;
    }
    let trunk = slice.push(context, 0, context.len(), None);
    let last = slice.segments[trunk].rows.end - 1;
    for number in members {
        let continuation = &requests[*number].continuation;
        slice.wanted.push(Wanted { row: last, token: continuation[0], place: (*number, 0) });
        if continuation.len() == 1 {
            continue;
        }
        let tokens = &continuation[..continuation.len() - 1];
        let segment = slice.push(tokens, context.len(), length(number), Some(trunk));
        let first = slice.segments[segment].rows.start;
        for (i, token) in continuation.iter().enumerate().skip(1) {
            slice.wanted.push(Wanted { row: first + i - 1, token: *token, place: (*number, i) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_shared_and_every_token_is_wanted_once() {
        let request = |context: &[u32], continuation: &[u32]| ScoreRequest {
            context: context.to_vec(),
            continuation: continuation.to_vec(),
        };
        let requests = [
            request(&[1, 2, 3], &[4, 5]),
            request(&[1, 2, 3], &[6]),
            request(&[1, 2], &[3, 4]),
            request(&[1, 2, 3], &[7, 8, 9]),
            request(&[1], &[]),
        ];
        let slices = pack(&requests, 100, |_| true);
        assert_eq!(slices.len(), 1);
        let slice = &slices[0];
        assert_eq!(slice.tokens, [1, 2, 3, 4, 7, 8, 1, 2, 3]);
        assert_eq!(slice.seen(2), [0..3, 4..6]);
        assert_eq!(slice.positions(), [0, 1, 2, 3, 3, 4, 0, 1, 2]);
        let mut places: Vec<_> = slice.wanted.iter().map(|wanted| wanted.place).collect();
        places.sort_unstable();
        let all = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)];
        assert_eq!(places, all);
        let row = |place| slice.wanted.iter().find(|wanted| wanted.place == place).unwrap().row;
        assert_eq!(
            [row((0, 0)), row((1, 0)), row((0, 1)), row((3, 2)), row((2, 1))],
            [2, 2, 3, 5, 8]
        );

        let alone = pack(&requests, 4, |_| false);
        assert_eq!(alone.iter().map(|slice| slice.tokens.len()).collect::<Vec<_>>(), [5, 4, 3, 3]);
    }
}
