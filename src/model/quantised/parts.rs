//! The stored tensors that a quantised weight is made of: finding and checking them, and reading
//! numbers out of them.

use crate::error::{Error, Result};
use crate::model::shards::{StoredTensor, Tensors};
use crate::model::source::{Float, Source};
use safetensors::Dtype;

/// The stored tensors of a checkpoint, to look parts up in.
pub(super) struct Parts<'a> {
    stored: &'a Tensors,
    /// The dtype of the weights that the config names.
    dtype: Option<Float>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(stored: &'a Tensors, dtype: Option<Float>) -> Self {
        Self { stored, dtype }
    }

    /// The dtype a weight is seen in: the config's, or else the scheme's own.
    pub(super) fn dtype_or(&self, otherwise: Float) -> Dtype {
        self.dtype.unwrap_or(otherwise).dtype()
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a StoredTensor> {
        self.stored.get(name)
    }

    /// A part that the weight of `main` cannot do without.
    pub(super) fn required(&self, main: &StoredTensor, name: &str) -> Result<&'a StoredTensor> {
        self.get(name).ok_or_else(|| {
            self.error(main, "a quantised weight lacks a part").fact("missing", name).hint(
                "the checkpoint is incomplete, or quantised in another way than its config says",
            )
        })
    }

    /// An error about a stored tensor.
    pub(super) fn error(&self, tensor: &StoredTensor, message: &str) -> Error {
        Error::input(message).file(tensor.shard().mapping.path()).tensor(&tensor.spec().name)
    }

    /// Checks a part's dtype and shape.
    pub(super) fn check(
        &self,
        part: &StoredTensor,
        dtypes: &[Dtype],
        shape: &[usize],
    ) -> Result<()> {
        let spec = part.spec();
        if dtypes.contains(&spec.dtype) && spec.shape == shape {
            return Ok(());
        }
        let names: Vec<String> = dtypes.iter().map(Dtype::to_string).collect();
        Err(self.error(part, "a part of a quantised weight has another dtype or shape").expected(
            format!("{} {shape:?}", names.join(" or ")),
            format!("{} {:?}", spec.dtype, spec.shape),
        ))
    }
}

/// The dtypes that scales are stored in.
pub(super) const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// The stored bytes of a tensor.
pub(super) fn bytes(tensor: &StoredTensor) -> &[u8] {
    tensor.stored().unwrap_or_default()
}

/// A 32-bit word of a tensor of packed integers; 0 behind its end, which checked shapes exclude.
pub(super) fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(index).map_or(0, |word| u32::from_le_bytes(*word))
}

/// One number of a tensor of scales: a float, or an 8-bit power of two (F8_E8M0 of the OCP
/// Microscaling Formats specification 1.0: `2^(byte − 127)`, and NaN for 255).
pub(super) fn number(tensor: &StoredTensor, index: usize) -> Result<f32> {
    if tensor.spec().dtype == Dtype::F8_E8M0 {
        let byte = bytes(tensor).get(index).copied().unwrap_or(u8::MAX);
        return Ok(match byte {
            0 => f32::from_bits(1 << 22),
            255 => f32::NAN,
            exponent => f32::from_bits(u32::from(exponent) << 23),
        });
    }
    let mut value = [0.0];
    tensor.read(index, &mut value)?;
    Ok(value[0])
}

/// `length` divided by `by`, rounded up; `by` is not 0.
pub(super) fn blocks(length: usize, by: usize) -> usize {
    length.div_ceil(by.max(1))
}
