//! What GPTQ and AWQ share: integers of a few bits, packed into 32-bit words and stored transposed
//! (inputs × outputs), with a scale and a zero point for each output and each group of inputs.
//!
//! Weight = (integer − zero point) · scale.

use super::Settings;
use super::bands::{self, Bands, MAX_COLUMNS};
use super::parts::{FLOATS, Parts, blocks, bytes, word};
use super::weight::{Decode, Weight};
use crate::error::{Error, Result};
use crate::model::shards::StoredTensor;
use crate::model::source::{Float, Source};
use safetensors::Dtype;
use std::sync::Arc;

/// How the integers are packed into words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layout {
    /// A column of words is the bits of one output's integers, lowest first, without a gap; a row
    /// of zero points likewise, over the outputs.
    Gptq {
        /// Bits of an integer.
        bits: usize,
        /// What is added to a stored zero point: 1 in the first version of the format.
        add: u32,
    },
    /// A word holds 4 bits each of 8 neighbouring outputs, in the order of [`AWQ_ORDER`]; zero
    /// points likewise.
    Awq,
}

/// Which 4 bits of a word belong to its outputs 0 to 7: the inverse of 0, 2, 4, 6, 1, 3, 5, 7.
const AWQ_ORDER: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Layout {
    fn bits(self) -> usize {
        match self {
            Self::Gptq { bits, .. } => bits,
            Self::Awq => 4,
        }
    }

    /// The inputs that so many rows of words hold at most.
    fn inputs(self, rows: usize) -> usize {
        match self {
            Self::Gptq { bits, .. } => rows.saturating_mul(32) / bits,
            Self::Awq => rows,
        }
    }

    /// The words that hold so many integers in a row.
    fn words(self, integers: usize) -> usize {
        blocks(integers.saturating_mul(self.bits()), 32)
    }

    /// The shape of the words of all integers.
    fn shape(self, inputs: usize, outputs: usize) -> [usize; 2] {
        match self {
            Self::Gptq { .. } => [self.words(inputs), outputs],
            Self::Awq => [inputs, self.words(outputs)],
        }
    }

    fn integer(self, words: &[u8], input: usize, output: usize, outputs: usize) -> u32 {
        match self {
            Self::Gptq { bits, .. } => {
                run_of_bits(bits, input, |at| word(words, at * outputs + output))
            }
            Self::Awq => self.zero(words, input, output, outputs),
        }
    }

    fn zero(self, words: &[u8], group: usize, output: usize, outputs: usize) -> u32 {
        let row = group * self.words(outputs);
        match self {
            Self::Gptq { bits, add } => {
                let stored = run_of_bits(bits, output, |at| word(words, row + at));
                stored.wrapping_add(add) & mask(bits)
            }
            Self::Awq => (word(words, row + output / 8) >> (4 * AWQ_ORDER[output % 8])) & 15,
        }
    }
}

fn mask(bits: usize) -> u32 {
    (1 << bits) - 1
}

/// Integer `index` of those that stand one after the other in the bits of some words. One of 3 bits
/// may begin in a word and end in the next.
fn run_of_bits(bits: usize, index: usize, word: impl Fn(usize) -> u32) -> u32 {
    let (at, bit) = (index * bits / 32, index * bits % 32);
    let low = word(at) >> bit;
    let high = if bit + bits > 32 { word(at + 1) << (32 - bit) } else { 0 };
    (low | high) & mask(bits)
}

/// The `group_size` setting: inputs that share a scale; none for all of them (-1).
pub(super) fn group_size(settings: &Settings<'_>) -> Result<Option<usize>> {
    match settings.integer("group_size")? {
        Some(-1) => Ok(None),
        Some(size) if size > 0 => Ok(usize::try_from(size).ok()),
        other => Err(settings.error(
            "a quantisation setting is missing or out of range",
            "group_size",
            "-1 or a positive integer",
            other.map_or("none".to_string(), |size| size.to_string()),
        )),
    }
}

/// The weight `MODULE.weight` of a module whose packed integers `MODULE.qweight` are.
pub(super) fn weight(
    layout: Layout,
    group_size: Option<usize>,
    packed: &StoredTensor,
    parts: &Parts<'_>,
    bands: &Arc<Bands>,
) -> Result<Option<Weight>> {
    let Some(module) = packed.spec().name.strip_suffix(".qweight") else {
        return Ok(None);
    };
    let scales = parts.required(packed, &format!("{module}.scales"))?;
    let zeros = parts.required(packed, &format!("{module}.qzeros"))?;
    let order = match layout {
        Layout::Gptq { .. } => parts.get(&format!("{module}.g_idx")),
        Layout::Awq => None,
    };
    let ([rows, _], [groups, outputs]) = (&packed.spec().shape[..], &scales.spec().shape[..])
    else {
        return Err(parts
            .error(packed, "the parts of a quantised weight are no matrices")
            .expected(
                "qweight and scales of two dimensions",
                format!("{:?} and {:?}", packed.spec().shape, scales.spec().shape),
            ));
    };
    let (groups, outputs) = (*groups, *outputs);
    // Where the integers do not fill the last word, only the list of groups tells their number.
    let inputs = order.map_or(layout.inputs(*rows), |order| order.spec().elements());
    if inputs > MAX_COLUMNS {
        return Err(parts
            .error(packed, "a quantised weight has longer rows than are read")
            .expected(format!("at most {MAX_COLUMNS} inputs"), inputs));
    }
    parts.check(packed, &[Dtype::I32], &layout.shape(inputs, outputs))?;
    parts.check(zeros, &[Dtype::I32], &[groups, layout.words(outputs)])?;
    let size = group_size.unwrap_or(inputs).max(1);
    let mut used = vec![packed.clone(), zeros.clone(), scales.clone()];
    match order {
        Some(order) => {
            parts.check(order, &[Dtype::I32], &[inputs])?;
            parts.check(scales, &FLOATS, &[groups, outputs])?;
            used.push(order.clone());
        }
        None => parts.check(scales, &FLOATS, &[blocks(inputs, size), outputs])?,
    }
    let own = Float::of(scales.spec().dtype).unwrap_or(Float::F16);
    let decode = Grouped {
        layout,
        packed: packed.clone(),
        zeros: zeros.clone(),
        scales: scales.clone(),
        order: order.cloned(),
        size,
        groups,
        inputs,
        outputs,
        number: bands.number(),
        bands: Arc::clone(bands),
    };
    let name = format!("{module}.weight");
    let weight = Weight::new(&name, parts.dtype_or(own), &[outputs, inputs], used, decode);
    Ok(Some(weight.out_of_order()))
}

struct Grouped {
    layout: Layout,
    packed: StoredTensor,
    zeros: StoredTensor,
    scales: StoredTensor,
    /// The group of each input; without it, groups are runs of `size` inputs.
    order: Option<StoredTensor>,
    size: usize,
    groups: usize,
    inputs: usize,
    outputs: usize,
    /// The weight's number in the cache of bands.
    number: usize,
    bands: Arc<Bands>,
}

impl Grouped {
    fn group(&self, input: usize) -> Result<usize> {
        let Some(order) = &self.order else {
            return Ok(input / self.size);
        };
        let stored = word(bytes(order), input);
        let group = usize::try_from(stored).ok().filter(|group| *group < self.groups);
        group.ok_or_else(|| {
            Error::input("an input of a quantised weight is in a group that does not exist")
                .file(order.shard().mapping.path())
                .tensor(&order.spec().name)
                .fact("element", input)
                .expected(format!("0 to {}", self.groups.saturating_sub(1)), stored.cast_signed())
        })
    }

    /// Rows `first` to `first + count` of the weight: outputs, each over all inputs.
    fn rows(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        let (packed, zero_words) = (bytes(&self.packed), bytes(&self.zeros));
        let mut values = vec![0.0; count * self.inputs];
        let mut scales = vec![0.0; count];
        let mut zeros = vec![0; count];
        let mut current = None;
        for input in 0..self.inputs {
            let group = self.group(input)?;
            if current != Some(group) {
                current = Some(group);
                self.scales.read(group * self.outputs + first, &mut scales)?;
                for (output, zero) in (first..).zip(&mut zeros) {
                    *zero = self.layout.zero(zero_words, group, output, self.outputs).cast_signed();
                }
            }
            for i in 0..count {
                let integer = self.layout.integer(packed, input, first + i, self.outputs);
                let steps = integer.cast_signed() - zeros[i];
                values[i * self.inputs + input] = steps as f32 * scales[i];
            }
        }
        Ok(values)
    }
}

impl Decode for Grouped {
    fn decode(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let height = bands::rows(self.inputs);
        let length = height * self.inputs;
        let mut done = 0;
        while done < out.len() {
            let (band, at) = ((start + done) / length, (start + done) % length);
            let first = band * height;
            let count = height.min(self.outputs - first);
            let rows = self.bands.get(self.number, band, || self.rows(first, count))?;
            let run = (rows.len() - at).min(out.len() - done);
            out[done..done + run].copy_from_slice(&rows[at..at + run]);
            done += run;
        }
        Ok(())
    }

    fn forget(&self) {
        self.bands.forget(self.number);
    }
}
