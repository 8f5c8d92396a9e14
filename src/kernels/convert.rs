//! Stored floats to f32 and back. bf16 is the upper half of a binary32; f16 is IEEE binary16.

use super::LANES;
use super::dispatch::prefetch;
use super::magnitude::pattern;
use crate::model::Float;

#[inline(always)]
pub(super) fn decode(float: Float, bytes: &[u8], next: &[u8], out: &mut [f32]) -> bool {
    match float {
        Float::F32 => decode_lines::<4, 16>(bytes, next, out, f32::from_le_bytes),
        Float::BF16 => decode_lines::<2, 32>(bytes, next, out, from_bf16),
        Float::F16 => decode_lines::<2, 32>(bytes, next, out, from_f16),
    }
}

/// Decodes a cache line at a time, and asks for one of `next` with each: the inputs are read tile
/// by tile in turn, which is too short a run for the processor to see ahead by itself.
#[inline(always)]
fn decode_lines<const SIZE: usize, const PER_LINE: usize>(
    bytes: &[u8],
    next: &[u8],
    out: &mut [f32],
    from: impl Fn([u8; SIZE]) -> f32,
) -> bool {
    // The largest magnitude pattern of each lane: that of a NaN is above that of infinity.
    let mut largest = [0; LANES];
    let (elements, _) = bytes.as_chunks::<SIZE>();
    let (lines, rest) = out.as_chunks_mut::<PER_LINE>();
    let (stored, stored_rest) = elements.as_chunks::<PER_LINE>();
    for (line, (out, stored)) in lines.iter_mut().zip(stored).enumerate() {
        if let Some(byte) = next.get(line * SIZE * PER_LINE) {
            prefetch(byte);
        }
        let mut values = [0.0; PER_LINE];
        for i in 0..PER_LINE {
            values[i] = from(stored[i]);
        }
        for row in values.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                largest[lane] = pattern(row[lane]).max(largest[lane]);
            }
        }
        *out = values;
    }
    for (i, (out, stored)) in rest.iter_mut().zip(stored_rest).enumerate() {
        *out = from(*stored);
        largest[i % LANES] = pattern(*out).max(largest[i % LANES]);
    }
    largest.into_iter().any(|pattern| pattern > f32::INFINITY.to_bits())
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
fn from_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// Exponent and mantissa move into place, and one exact multiplication by 2^112 rebiases the
/// exponent, for subnormals too.
#[inline(always)]
fn from_f16(bytes: [u8; 2]) -> f32 {
    let half = u16::from_le_bytes(bytes);
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
