//! `Source`: a tensor that can be read by element range as f32.

use crate::error::{Error, Result};
use safetensors::Dtype;
use std::ops::Range;
use std::path::Path;

/// Name, dtype and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name it is stored under.
    pub name: String,
    /// The dtype it is stored in.
    pub dtype: Dtype,
    /// Its shape, outermost dimension first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// The number of elements (1 for a scalar). Checked against overflow when the header was read.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The number of bytes the tensor takes in a file.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bitsize() / 8
    }

    /// Rows and columns, where it is a weight matrix of a layer: of two dimensions, under a layer's
    /// number. Embeddings, positions, heads and poolers stand outside the layers.
    pub fn matrix(&self) -> Option<(usize, usize)> {
        self.rows_and_columns().filter(|_| super::split_layer(&self.name).is_some())
    }

    /// Rows and columns, where it has two dimensions.
    pub fn rows_and_columns(&self) -> Option<(usize, usize)> {
        match self.shape[..] {
            [rows, columns] if rows > 0 && columns > 0 => Some((rows, columns)),
            _ => None,
        }
    }

    /// Checks that a read of `count` elements from `start` stays in the tensor.
    pub(super) fn check_read(&self, start: usize, count: usize) -> Result<()> {
        match start.checked_add(count) {
            Some(end) if end <= self.elements() => Ok(()),
            _ => Err(Error::internal("a read past the end of a tensor").tensor(&self.name)),
        }
    }

    /// The float type of the tensor, where arithmetic on it is possible.
    pub fn float(&self) -> Option<Float> {
        Float::of(self.dtype)
    }
}

/// The float types that merge arithmetic reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Float {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl Float {
    /// The names that recipes and `config.json` use, each type's first one first.
    pub(crate) const NAMES: [(&str, Self); 9] = [
        ("float32", Self::F32),
        ("float16", Self::F16),
        ("bfloat16", Self::BF16),
        ("f32", Self::F32),
        ("fp32", Self::F32),
        ("f16", Self::F16),
        ("fp16", Self::F16),
        ("half", Self::F16),
        ("bf16", Self::BF16),
    ];

    /// The float type behind a safetensors dtype, if it is one of the three.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// The name recipes and `config.json` use, or a short form of it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, float)| *float)
    }

    /// The name as `config.json` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// The safetensors dtype.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// A tensor that can be read by element range as f32.
///
/// A stored tensor decodes its bytes; other sources compute their elements on demand. Merge methods
/// see nothing but this trait.
pub trait Source: Send + Sync {
    /// Name, dtype and shape.
    fn spec(&self) -> &TensorSpec;

    /// Decodes `out.len()` elements from element `start` on, and says whether any of them is NaN.
    ///
    /// # Errors
    /// The range leaves the tensor, or the tensor's dtype has no f32 reading.
    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool>;

    /// The stored bytes, where the tensor is stored as it is read.
    fn stored(&self) -> Option<&[u8]> {
        None
    }

    /// Where the stored bytes begin: the file, and the place in it.
    fn stored_at(&self) -> Option<(&Path, u64)> {
        None
    }

    /// The stored tensors it is made of, by the names the checkpoint's files store them under.
    fn parts(&self) -> Vec<&str> {
        vec![&self.spec().name]
    }

    /// Anonymous memory in bytes that reading takes at most, on each thread that reads.
    fn scratch(&self) -> u64 {
        0
    }

    /// The file it is stored in, for messages.
    fn origin(&self) -> Option<&Path> {
        None
    }

    /// Says that the elements are read soon; a hint to start reading ahead.
    fn prefetch(&self, _elements: Range<usize>) {}

    /// Says that the elements are not read again soon; a hint to give their memory back.
    fn release(&self, _elements: Range<usize>) {}
}
