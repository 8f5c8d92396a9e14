//! Weights of 8-bit floats with scales: `fp8` and the float formats of `compressed-tensors`.
//!
//! Weight = number · scale. One scale serves the whole tensor, a row, or a block of rows and
//! columns (DeepSeek-V3 technical report, §3.3.2; stored as `weight_scale_inv`, which is multiplied
//! with all the same). The numbers are E4M3 or E5M2 of Micikevicius et al., *FP8 Formats for Deep
//! Learning*, 2022.

use super::parts::{FLOATS, Parts, blocks, bytes, number};
use super::weight::{Decode, Weight};
use super::{Settings, UNQUANTISED};
use crate::error::Result;
use crate::model::shards::StoredTensor;
use crate::model::source::{Float, Source};
use safetensors::Dtype;
use serde_json::Value;

/// What follows a weight's name in the name of its scales.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// Whether a name is that of the scales or zero points of a weight. (A model may have scales of its
/// own, `logit_scale`.)
pub(super) fn is_scale(name: &str, parts: &Parts<'_>) -> bool {
    ["weight_scale", "_scale_inv", "weight_zero_point"].iter().any(|end| name.ends_with(end))
        || name.strip_suffix("_scale").is_some_and(|weight| parts.get(weight).is_some())
}

/// The blocks that a checkpoint's scales may serve, besides whole tensors and rows.
pub(super) struct Blocks {
    block: Option<(usize, usize)>,
}

impl Blocks {
    /// By the config of transformers' `fp8`.
    pub(super) fn of_fp8(settings: &Settings<'_>) -> Result<Self> {
        let key = "weight_block_size";
        Ok(Self { block: settings.block(key, settings.map.get(key))? })
    }

    /// By the config of `compressed-tensors`, of which float weights of 8 bits are read.
    pub(super) fn of_compressed_tensors(settings: &Settings<'_>) -> Result<Self> {
        const READ: [&str; 2] = ["float-quantized", "naive-quantized"];
        let refused = "a checkpoint that is quantised in this way cannot be merged";
        let format = settings.text("format").unwrap_or("no format");
        if !READ.contains(&format) {
            return Err(settings.error(refused, "format", "float-quantized", format));
        }
        let object = |key: &str| settings.map.get(key).and_then(Value::as_object);
        let sparse = object("sparsity_config").and_then(|config| config.get("format")?.as_str());
        if let Some(sparse) = sparse.filter(|format| *format != "dense") {
            return Err(settings.error(refused, "sparsity_config.format", "dense", sparse));
        }
        if object("transform_config").is_some_and(|config| !config.is_empty()) {
            let found = "transforms of the weights";
            return Err(settings.error(refused, "transform_config", "none", found));
        }
        let mut block = None;
        for (group, scheme) in object("config_groups").into_iter().flatten() {
            let Some(weights) = scheme.get("weights").filter(|weights| !weights.is_null()) else {
                continue;
            };
            let key = |key: &str| format!("config_groups.{group}.weights.{key}");
            let text = |key: &str| weights.get(key).and_then(Value::as_str);
            let bits = weights.get("num_bits").and_then(Value::as_u64);
            let of_type = text("type").unwrap_or("int");
            if (of_type, bits) != ("float", Some(8)) {
                let found = format!("{of_type}, {} bits", bits.unwrap_or(0));
                return Err(settings.error(refused, &key("type"), "float, 8 bits", found));
            }
            if weights.get("symmetric").and_then(Value::as_bool) == Some(false) {
                return Err(settings.error(refused, &key("symmetric"), "true", "false"));
            }
            let strategy = text("strategy").unwrap_or("tensor");
            if !["tensor", "channel", "block"].contains(&strategy) {
                let read = "tensor, channel or block";
                return Err(settings.error(refused, &key("strategy"), read, strategy));
            }
            let found = settings.block(&key("block_structure"), weights.get("block_structure"))?;
            if let Some(found) = found {
                if block.is_some_and(|other| other != found) {
                    let key = key("block_structure");
                    let found = format!("{found:?}");
                    return Err(settings.error(refused, &key, "one size of blocks", found));
                }
                block = Some(found);
            }
        }
        Ok(Self { block })
    }

    /// The weight whose numbers `tensor` holds, if they are of 8 bits.
    pub(super) fn weight(
        &self,
        tensor: &StoredTensor,
        parts: &Parts<'_>,
    ) -> Result<Option<Weight>> {
        let name = &tensor.spec().name;
        let Some(values) = values(tensor.spec().dtype) else {
            return Ok(None);
        };
        if is_scale(name, parts) {
            return Ok(None);
        }
        let found: Vec<&StoredTensor> =
            SCALES.iter().filter_map(|end| parts.get(&format!("{name}{end}"))).collect();
        let scales = match found[..] {
            [] => parts.required(tensor, &format!("{name}_scale"))?,
            [scales] => scales,
            _ => {
                return Err(parts
                    .error(tensor, "a quantised weight has scales under two names")
                    .expected(format!("{name}_scale or {name}_scale_inv"), "both"));
            }
        };
        let mut used = vec![tensor.clone(), scales.clone()];
        // Symmetric schemes have none, but some writers store the zeros.
        if let Some(zeros) = parts.get(&format!("{name}_zero_point")) {
            if bytes(zeros).iter().any(|byte| *byte != 0) {
                return Err(parts
                    .error(zeros, "zero points of 8-bit floats are not read")
                    .expected("zeros", "others")
                    .hint(UNQUANTISED));
            }
            used.push(zeros.clone());
        }
        let scale = self.scale(tensor, scales, parts)?;
        let dtype = parts.dtype_or(Float::BF16);
        let numbers = tensor.clone();
        let decode = Fp8 { numbers, values, scale: Some(scale) };
        Ok(Some(Weight::new(name, dtype, &tensor.spec().shape, used, decode)))
    }

    /// Which elements each of the scales serves.
    fn scale(
        &self,
        tensor: &StoredTensor,
        scales: &StoredTensor,
        parts: &Parts<'_>,
    ) -> Result<Scale> {
        let shape = &tensor.spec().shape;
        let stored = scales.spec();
        let mut served: Vec<(Vec<usize>, (usize, usize), usize)> = Vec::new();
        let all: usize = tensor.spec().elements();
        let columns = shape.last().copied().unwrap_or(1);
        if stored.elements() == 1 {
            let rows = all / columns.max(1);
            served.push((stored.shape.clone(), (rows.max(1), columns.max(1)), rows));
        } else if let [outer @ .., rows, columns] = &shape[..] {
            let grid = |more: &[usize]| [outer, more].concat();
            served.push((grid(&[*rows]), (1, *columns), *rows));
            served.push((grid(&[*rows, 1]), (1, *columns), *rows));
            served.push((grid(&[1, 1]), (*rows, *columns), *rows));
            if let Some((high, wide)) = self.block {
                let sides = [blocks(*rows, high), blocks(*columns, wide)];
                served.push((grid(&sides), (high, wide), *rows));
            }
        }
        let dtypes = [&FLOATS[..], &[Dtype::F8_E8M0]].concat();
        let fits = served.iter().find(|(shape, ..)| *shape == stored.shape);
        let Some((_, block, rows)) = fits.filter(|_| dtypes.contains(&stored.dtype)) else {
            let shapes: Vec<String> = served.iter().map(|(s, ..)| format!("{s:?}")).collect();
            return Err(parts
                .error(scales, "the scales do not fit the weight they belong to")
                .fact("weight", format!("{shape:?}"))
                .expected(
                    format!("F32, F16, BF16 or F8_E8M0 [1] or {}", shapes.join(" or ")),
                    format!("{} {:?}", stored.dtype, stored.shape),
                ));
        };
        Ok(Scale { scales: scales.clone(), block: *block, rows: *rows, columns })
    }
}

/// 8-bit floats without scales: plain numbers.
///
/// # Errors
/// There are scales, but no config says how they serve.
pub(super) fn plain(tensor: &StoredTensor, parts: &Parts<'_>) -> Result<Option<Weight>> {
    let spec = tensor.spec();
    let Some(values) = values(spec.dtype) else {
        return Ok(None);
    };
    let scales = SCALES.iter().map(|end| format!("{}{end}", spec.name));
    if let Some(scales) = scales.into_iter().find(|name| parts.get(name).is_some()) {
        return Err(parts
            .error(tensor, "a weight has scales, but config.json has no quantization_config")
            .fact("scales", scales)
            .hint("the config belongs to other weights; fetch the model again"));
    }
    let decode = Fp8 { numbers: tensor.clone(), values, scale: None };
    let dtype = parts.dtype_or(Float::BF16);
    Ok(Some(Weight::new(&spec.name, dtype, &spec.shape, vec![tensor.clone()], decode)))
}

/// The scales of a weight.
struct Scale {
    scales: StoredTensor,
    /// Rows and columns that one scale serves.
    block: (usize, usize),
    /// Rows and columns of the weight's matrices; more than one are stacked (experts).
    rows: usize,
    columns: usize,
}

impl Scale {
    /// The scale of an element, and how many elements from it on share it for certain.
    fn at(&self, element: usize) -> Result<(f32, usize)> {
        let (row, column) = (element / self.columns, element % self.columns);
        let (matrix, row) = (row / self.rows, row % self.rows);
        let (high, wide) = self.block;
        let (down, across) = (blocks(self.rows, high), blocks(self.columns, wide));
        let index = (matrix * down + row / high) * across + column / wide;
        let run = (wide - column % wide).min(self.columns - column);
        Ok((number(&self.scales, index)?, run))
    }
}

struct Fp8 {
    numbers: StoredTensor,
    values: &'static [f32; 256],
    scale: Option<Scale>,
}

impl Decode for Fp8 {
    fn decode(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let stored = &bytes(&self.numbers)[start..start + out.len()];
        for (value, byte) in out.iter_mut().zip(stored) {
            *value = self.values[usize::from(*byte)];
        }
        let Some(scale) = &self.scale else {
            return Ok(());
        };
        let mut done = 0;
        while done < out.len() {
            let (factor, run) = scale.at(start + done)?;
            let end = (done + run).min(out.len());
            out[done..end].iter_mut().for_each(|value| *value *= factor);
            done = end;
        }
        Ok(())
    }
}

/// The values of an 8-bit float type, by its bits.
pub(super) fn values(dtype: Dtype) -> Option<&'static [f32; 256]> {
    static E4M3: [f32; 256] = table(true);
    static E5M2: [f32; 256] = table(false);
    match dtype {
        Dtype::F8_E4M3 => Some(&E4M3),
        Dtype::F8_E5M2 => Some(&E5M2),
        _ => None,
    }
}

const fn table(e4m3: bool) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = if e4m3 { from_e4m3(byte as u32) } else { from_e5m2(byte as u32) };
        byte += 1;
    }
    table
}

/// Exponent bias 7; no infinities, and one pattern of NaN.
const fn from_e4m3(byte: u32) -> f32 {
    let (sign, exponent, mantissa) = ((byte & 0x80) << 24, (byte >> 3) & 15, byte & 7);
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN.to_bits(),
        (0, _) => (mantissa as f32 / 512.0).to_bits(),
        _ => ((exponent + 120) << 23) | (mantissa << 20),
    };
    f32::from_bits(sign | magnitude)
}

/// The upper byte of an IEEE binary16.
const fn from_e5m2(byte: u32) -> f32 {
    let (sign, exponent, mantissa) = ((byte & 0x80) << 24, (byte >> 2) & 31, byte & 3);
    let magnitude = match (exponent, mantissa) {
        (31, 0) => f32::INFINITY.to_bits(),
        (31, _) => f32::NAN.to_bits(),
        (0, _) => (mantissa as f32 / 65536.0).to_bits(),
        _ => ((exponent + 112) << 23) | (mantissa << 21),
    };
    f32::from_bits(sign | magnitude)
}
