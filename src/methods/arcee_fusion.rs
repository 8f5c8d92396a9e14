//! Arcee Fusion: takes the other model's elements where their difference matters most.

use super::threshold::{BINS, STRIDE, Search, narrow_all};
use super::{Inputs, Map, Method, Params, Reads, STREAMED, row_bytes};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::Kernels;

pub(super) const METHOD: Method = Method {
    name: "arcee_fusion",
    summary: "Takes the other model's elements whose importance stands out, and the base's elsewhere.",
    formula: "Iᵢ = |xᵢ − baseᵢ| · KL(softmax(x)+1e-8 ‖ softmax(base)+1e-8) of the element's row; out = x where I ≥ q½ + 1.5·(q¾ − q¼), else base",
    reference: "Arcee 2024, Arcee Fusion, https://arcee.ai",
    notes: include_str!("notes/arcee_fusion.md"),
    inputs: Inputs::Exactly(2),
    // Three searches over one set of values, as against one for each input.
    reads: Reads::Stream { passes: 4, bins: 3 * BINS / 2 + 2 },
    holds: |p, inputs, shape| {
        let rows = shape.split_last().map_or(1, |(_, rest)| rest.iter().product::<usize>());
        row_bytes(p, inputs, shape) + 8 * rows as u64
    },
    prepare,
    ..STREAMED
};

/// What is added to a softmax, so that its logarithm is finite.
const ROOM: f64 = 1e-8;
/// Interquartile ranges above the median from which on an importance stands out.
const SPREAD: f64 = 1.5;
/// How far below the threshold, relative to it, an importance still counts as equal to it. Differences
/// of models in bf16 are multiples of few values, so that many are equal to the threshold but for the
/// rounding of both, which is less than this.
const EQUAL: f64 = f32::EPSILON as f64 * 4.0;

fn prepare(io: &TensorIo<'_>, _: &Params) -> Result<Map> {
    let kernels = io.kernels();
    let base = io.base()?;
    let other = 1 - base;
    let columns = io.columns();
    let rows = io.row_values(columns, |inputs| {
        kernels.divergence(ROOM, &inputs[other], &inputs[base]) as f32
    })?;
    let importance = Importance { kernels, base, other, columns, rows };
    let threshold = threshold(io, &importance)?;
    Ok(Map::new(move |start, inputs, out| {
        out.copy_from_slice(&inputs[other]);
        importance.of(start, inputs);
        for ((out, base), importance) in out.iter_mut().zip(&inputs[base]).zip(&inputs[other]) {
            *out = if importance.abs() >= threshold { *out } else { *base };
        }
    }))
}

/// How much each element of a tile matters.
struct Importance {
    kernels: Kernels,
    base: usize,
    other: usize,
    columns: usize,
    /// The divergence of each row.
    rows: Vec<f32>,
}

impl Importance {
    /// Puts the importance of elements `start..` into the place of the other model, with the sign
    /// of the difference.
    fn of(&self, start: usize, inputs: &mut [Vec<f32>]) {
        let mut values = std::mem::take(&mut inputs[self.other]);
        self.kernels.subtract(&inputs[self.base], &mut values);
        let mut from = 0;
        while from < values.len() {
            let row = (start + from) / self.columns;
            let to = ((row + 1) * self.columns - start).min(values.len());
            let divergence = self.rows.get(row).copied().unwrap_or(0.0);
            self.kernels.multiply(divergence, &mut values[from..to]);
            from = to;
        }
        inputs[self.other] = values;
    }
}

/// The importance from which on an element stands out: the median and one and a half times the
/// distance between the quartiles, each the element of that rank.
fn threshold(io: &TensorIo<'_>, importance: &Importance) -> Result<f32> {
    let Some(last) = io.elements().checked_sub(1) else { return Ok(0.0) };
    let ranks = [last / 4, last / 2, last / 4 * 3 + last % 4 * 3 / 4];
    let mut searches = ranks.map(|rank| Search::new(io.elements() - rank));
    while searches.iter().any(|search| !search.done()) {
        let counts = io.counts(searches.len() * STRIDE, |start, inputs, counts| {
            importance.of(start, inputs);
            for (search, counts) in searches.iter().zip(counts.chunks_mut(STRIDE)) {
                search.count(io.kernels(), &inputs[importance.other], counts);
            }
        })?;
        narrow_all(&mut searches, &counts)?;
    }
    let [first, median, third] = searches.map(|search| f64::from(f32::from_bits(search.pattern())));
    Ok(((median + SPREAD * (third - first)) * (1.0 - EQUAL)) as f32)
}
