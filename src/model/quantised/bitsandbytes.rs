//! The formats of bitsandbytes: 4-bit codes with a scale for each block (NF4 and FP4 of Dettmers et
//! al., *QLoRA*, 2023), and 8-bit integers with a scale for each row (Dettmers et al., *LLM.int8()*,
//! 2022).
//!
//! How they are stored: `bitsandbytes.functional.QuantState.as_dict(packed=True)` and
//! `bitsandbytes.nn.Linear8bitLt`.

use super::UNQUANTISED;
use super::parts::{FLOATS, Parts, blocks, bytes, number};
use super::weight::{Decode, Weight};
use crate::error::Result;
use crate::model::shards::StoredTensor;
use crate::model::source::{Float, Source};
use safetensors::Dtype;
use serde::Deserialize;

/// The kinds of 4-bit codes; their tables are stored beside the weight.
const KINDS: [&str; 2] = ["nf4", "fp4"];

/// A description of a weight larger than this is refused unread.
const MAX_STATE: usize = 1 << 16;

/// Whether a name is that of a part beside a packed weight.
pub(super) fn is_part(name: &str) -> bool {
    const ENDS: [&str; 6] =
        [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format"];
    ENDS.iter().any(|end| name.ends_with(end)) || name.contains(".quant_state.")
}

/// The weight whose packed numbers `tensor` holds, where it does.
pub(super) fn weight(tensor: &StoredTensor, parts: &Parts<'_>) -> Result<Option<Weight>> {
    let name = &tensor.spec().name;
    for kind in KINDS {
        if let Some(state) = parts.get(&format!("{name}.quant_state.bitsandbytes__{kind}")) {
            return four_bit(tensor, state, kind, parts).map(Some);
        }
    }
    if let Some(part) = parts.get(&format!("{name}.absmax")) {
        return Err(parts
            .error(tensor, "a quantised weight lacks a part")
            .fact("missing", format!("{name}.quant_state.bitsandbytes__nf4 (or __fp4)"))
            .fact("has", &part.spec().name)
            .hint("save the model with bitsandbytes 0.41.3 or newer, which stores it"));
    }
    let Some(module) = name.strip_suffix(".weight") else {
        return Ok(None);
    };
    if tensor.spec().dtype != Dtype::I8 && parts.get(&format!("{module}.SCB")).is_none() {
        return Ok(None);
    }
    eight_bit(tensor, module, parts).map(Some)
}

/// The description that is stored as JSON beside a 4-bit weight.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

fn four_bit(
    tensor: &StoredTensor,
    state_part: &StoredTensor,
    kind: &str,
    parts: &Parts<'_>,
) -> Result<Weight> {
    let name = &tensor.spec().name;
    let json = bytes(state_part);
    let refused = || parts.error(state_part, "the description of a quantised weight is not valid");
    if state_part.spec().dtype != Dtype::U8 || json.len() > MAX_STATE {
        return Err(refused().expected(
            format!("U8, at most {MAX_STATE} bytes"),
            format!("{}, {} bytes", state_part.spec().dtype, json.len()),
        ));
    }
    let state: State =
        serde_json::from_slice(json).map_err(|error| refused().fact("reason", error))?;
    if state.quant_type != kind {
        return Err(refused().fact("key", "quant_type").expected(kind, &state.quant_type));
    }
    if state.blocksize == 0 || state.nested_blocksize == Some(0) {
        return Err(refused().fact("key", "blocksize").expected("at least 1", 0));
    }
    let elements = state.shape.iter().try_fold(1_usize, |n, side| n.checked_mul(*side));
    let packed = bytes(tensor);
    // The codes may be stored as another dtype (`bnb_4bit_quant_storage`); their bytes are the same.
    let Some(elements) = elements.filter(|n| n.div_ceil(2) == packed.len()) else {
        return Err(parts
            .error(tensor, "a quantised weight has another length than its description says")
            .expected(format!("two codes a byte for {:?}", state.shape), {
                format!("{} bytes", packed.len())
            }));
    };
    let scales = blocks(elements, state.blocksize);
    let absmax = parts.required(tensor, &format!("{name}.absmax"))?;
    let map = parts.required(tensor, &format!("{name}.quant_map"))?;
    parts.check(map, &[Dtype::F32], &[16])?;
    let mut used = vec![tensor.clone(), absmax.clone(), map.clone(), state_part.clone()];
    let absmax = if absmax.spec().dtype == Dtype::U8 {
        parts.check(absmax, &[Dtype::U8], &[scales])?;
        let factors = parts.required(tensor, &format!("{name}.nested_absmax"))?;
        let map = parts.required(tensor, &format!("{name}.nested_quant_map"))?;
        let (Some(block), Some(offset)) = (state.nested_blocksize, state.nested_offset) else {
            return Err(refused().fact("missing", "nested_blocksize or nested_offset"));
        };
        parts.check(factors, &[Dtype::F32], &[blocks(scales, block)])?;
        parts.check(map, &[Dtype::F32], &[256])?;
        used.extend([factors.clone(), map.clone()]);
        let (codes, factors, map) = (absmax.clone(), factors.clone(), map.clone());
        Absmax::Nested { codes, factors, map, block, offset: offset as f32 }
    } else {
        parts.check(absmax, &[Dtype::F32], &[scales])?;
        Absmax::Plain(absmax.clone())
    };
    let mut code = [0.0; 16];
    map.read(0, &mut code)?;
    let decode = FourBit { packed: tensor.clone(), code, absmax, block: state.blocksize };
    let dtype = parts.dtype_or(Float::parse(&state.dtype).unwrap_or(Float::F16));
    Ok(Weight::new(name, dtype, &state.shape, used, decode))
}

/// The scales of blocks of codes: the largest magnitude of each.
enum Absmax {
    Plain(StoredTensor),
    /// Quantised themselves: `map[code] · factor + offset`.
    Nested {
        codes: StoredTensor,
        factors: StoredTensor,
        map: StoredTensor,
        block: usize,
        offset: f32,
    },
}

impl Absmax {
    fn at(&self, index: usize) -> Result<f32> {
        match self {
            Self::Plain(scales) => number(scales, index),
            Self::Nested { codes, factors, map, block, offset } => {
                let code = bytes(codes).get(index).copied().unwrap_or_default();
                Ok(number(map, code.into())? * number(factors, index / block)? + offset)
            }
        }
    }
}

struct FourBit {
    /// Two codes a byte, the first in the upper half.
    packed: StoredTensor,
    code: [f32; 16],
    absmax: Absmax,
    block: usize,
}

impl Decode for FourBit {
    fn decode(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let packed = bytes(&self.packed);
        let mut done = 0;
        while done < out.len() {
            let first = start + done;
            let run = (self.block - first % self.block).min(out.len() - done);
            let scale = self.absmax.at(first / self.block)?;
            for (i, value) in (first..).zip(&mut out[done..done + run]) {
                let pair = packed[i / 2];
                let code = if i.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
                *value = self.code[usize::from(code)] * scale;
            }
            done += run;
        }
        Ok(())
    }
}

fn eight_bit(tensor: &StoredTensor, module: &str, parts: &Parts<'_>) -> Result<Weight> {
    let spec = tensor.spec();
    let scales = parts.required(tensor, &format!("{module}.SCB"))?;
    let [rows, columns] = spec.shape[..] else {
        return Err(parts
            .error(tensor, "a quantised weight is no matrix")
            .expected("I8 [rows, columns]", format!("{} {:?}", spec.dtype, spec.shape)));
    };
    parts.check(tensor, &[Dtype::I8], &[rows, columns])?;
    parts.check(scales, &FLOATS, &[rows])?;
    let mut used = vec![tensor.clone(), scales.clone()];
    if let Some(format) = parts.get(&format!("{module}.weight_format")) {
        // 0 is `row`; the others are tilings for certain GPUs, which are no longer written.
        if bytes(format).iter().any(|byte| *byte != 0) {
            return Err(parts
                .error(format, "an 8-bit weight is stored in a layout that is not read")
                .expected("0 (row)", bytes(format).first().copied().unwrap_or_default())
                .hint(UNQUANTISED));
        }
        used.push(format.clone());
    }
    let decode = EightBit { integers: tensor.clone(), scales: scales.clone(), columns };
    Ok(Weight::new(&spec.name, parts.dtype_or(Float::F16), &spec.shape, used, decode))
}

struct EightBit {
    integers: StoredTensor,
    /// The largest magnitude of each row.
    scales: StoredTensor,
    columns: usize,
}

impl Decode for EightBit {
    fn decode(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let stored = &bytes(&self.integers)[start..start + out.len()];
        let mut done = 0;
        while done < out.len() {
            let first = start + done;
            let run = (self.columns - first % self.columns).min(out.len() - done);
            let scale = number(&self.scales, first / self.columns)?;
            for (value, byte) in out[done..].iter_mut().zip(&stored[done..done + run]) {
                // In the order in which bitsandbytes multiplies.
                *value = f32::from(byte.cast_signed()) * scale * (1.0 / 127.0);
            }
            done += run;
        }
        Ok(())
    }
}
