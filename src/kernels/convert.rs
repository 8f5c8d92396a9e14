//! Stored floats to f32 and back. bf16 is the upper half of a binary32; f16 is IEEE binary16.

use crate::model::Float;

#[inline(always)]
pub(super) fn decode(float: Float, bytes: &[u8], out: &mut [f32]) {
    match float {
        Float::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        Float::BF16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        Float::F16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = from_f16(u16::from_le_bytes(*bytes));
            }
        }
    }
}

#[inline(always)]
pub(super) fn encode(float: Float, values: &[f32], bytes: &mut [u8]) {
    match float {
        Float::F32 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
                let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
                *bytes = bits.to_le_bytes();
            }
        }
        Float::BF16 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *bytes = to_bf16(*value).to_le_bytes();
            }
        }
        Float::F16 => {
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *bytes = to_f16(*value).to_le_bytes();
            }
        }
    }
}

#[inline(always)]
pub(super) fn has_nan(values: &[f32]) -> bool {
    values.iter().fold(0, |any, x| any | u32::from(x.is_nan())) != 0
}

/// Exponent and mantissa move into place, and one exact multiplication by 2^112 rebiases the
/// exponent, for subnormals too.
#[inline(always)]
fn from_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let rest = u32::from(half & 0x7fff) << 13;
    let finite = (f32::from_bits(rest) * f32::from_bits(0x7780_0000)).to_bits();
    let special = rest | 0x7f80_0000;
    let magnitude = if rest >= 0x0f80_0000 { special } else { finite };
    f32::from_bits(sign | magnitude)
}

#[inline(always)]
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { 0x7fc0 } else { rounded as u16 }
}

/// Three cases, all computed and one selected: subnormal results round in the adder against 0.5,
/// whose last place is the smallest f16; normal ones round in integers; the rest is infinite or NaN.
#[inline(always)]
fn to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let rounded = magnitude.wrapping_add(0xfff + ((magnitude >> 13) & 1));
    let normal = rounded.wrapping_sub(112 << 23) >> 13;
    let half = if magnitude < 0x3880_0000 {
        subnormal
    } else if magnitude < 0x4780_0000 {
        normal
    } else {
        0x7c00
    };
    if magnitude > 0x7f80_0000 { 0x7e00 } else { (sign | half) as u16 }
}
