//! The types of GGUF tensors: how many elements and bytes a block has, and who decodes it.
//!
//! Numbers: ggml's `enum ggml_type` and its table of type traits. The decoding of blocks is that of
//! candle-core.

use crate::error::{Error, Result};
use crate::model::Float;
use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use std::borrow::Cow;

/// A type of tensors that is read.
#[derive(Debug)]
pub(super) struct BlockType {
    /// Its number in files.
    number: u32,
    /// Its name in ggml.
    pub(super) name: &'static str,
    /// Elements of a block.
    pub(super) elements: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// How its elements are stored.
    pub(super) coding: Coding,
}

/// How the elements of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Coding {
    /// As floats, one an element.
    Plain(Float),
    /// Quantised.
    Quantised(GgmlDType),
}

const fn plain(number: u32, name: &'static str, bytes: usize, float: Float) -> BlockType {
    BlockType { number, name, elements: 1, bytes, coding: Coding::Plain(float) }
}

const fn quantised(
    number: u32,
    name: &'static str,
    elements: usize,
    bytes: usize,
    dtype: GgmlDType,
) -> BlockType {
    BlockType { number, name, elements, bytes, coding: Coding::Quantised(dtype) }
}

static TYPES: [BlockType; 14] = [
    plain(0, "F32", 4, Float::F32),
    plain(1, "F16", 2, Float::F16),
    plain(30, "BF16", 2, Float::BF16),
    quantised(2, "Q4_0", 32, 18, GgmlDType::Q4_0),
    quantised(3, "Q4_1", 32, 20, GgmlDType::Q4_1),
    quantised(6, "Q5_0", 32, 22, GgmlDType::Q5_0),
    quantised(7, "Q5_1", 32, 24, GgmlDType::Q5_1),
    quantised(8, "Q8_0", 32, 34, GgmlDType::Q8_0),
    quantised(10, "Q2_K", 256, 84, GgmlDType::Q2K),
    quantised(11, "Q3_K", 256, 110, GgmlDType::Q3K),
    quantised(12, "Q4_K", 256, 144, GgmlDType::Q4K),
    quantised(13, "Q5_K", 256, 176, GgmlDType::Q5K),
    quantised(14, "Q6_K", 256, 210, GgmlDType::Q6K),
    quantised(15, "Q8_K", 256, 292, GgmlDType::Q8K),
];

/// Types that are known by name and not read.
const REFUSED: [(u32, &str); 20] = [
    (9, "Q8_1"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl BlockType {
    /// The type of this number.
    pub(super) fn find(number: u32) -> Result<&'static Self> {
        TYPES.iter().find(|block| block.number == number).ok_or_else(|| {
            let name = REFUSED.iter().find(|(refused, _)| *refused == number);
            let name = name.map_or(format!("type {number}"), |(_, name)| (*name).to_string());
            let read: Vec<&str> = TYPES.iter().map(|block| block.name).collect();
            Error::input("a tensor of the GGUF file has a type that is not read")
                .expected(read.join(", "), name)
        })
    }
}

/// Decodes whole quantised blocks, whose first byte stands at an even address (for Q8_K, one that
/// four divides).
pub(super) fn decode(dtype: GgmlDType, blocks: &[u8], elements: usize) -> Result<Vec<f32>> {
    let wrong = || Error::internal("the blocks of a GGUF tensor could not be decoded");
    match dtype.from_data(Cow::Borrowed(blocks)).dequantize(elements) {
        Ok(CpuStorage::F32(values)) if values.len() == elements => Ok(values),
        _ => Err(wrong()),
    }
}
