//! Masks of decisions: bit `i % 64` of word `i / 64` stands for element `i`.

use super::LANES;
use super::reduce::fold;

/// Elements of a word.
pub(super) const WORD: usize = 64;

/// 64 bytes, each 0 or 1, as bits.
#[inline(always)]
pub(super) fn packed(bytes: &[u8; WORD]) -> u64 {
    let mut word = 0;
    for (i, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
        // Brings the lowest bit of byte i to bit 56 + i; no two products meet.
        let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        word |= bits << (8 * i);
    }
    word
}

#[inline(always)]
pub(super) fn mark_nonzero(x: &[f32], mask: &mut [u64]) {
    let (full, rest) = x.as_chunks::<WORD>();
    let mark = |x: &[f32; WORD]| packed(&x.map(|x| u8::from(x != 0.0)));
    for (word, x) in mask.iter_mut().zip(full) {
        *word = mark(x);
    }
    if !rest.is_empty() {
        let mut padded = [0.0; WORD];
        padded[..rest.len()].copy_from_slice(rest);
        mask[full.len()] = mark(&padded);
    }
}

/// By value, so that the lanes become one vector.
#[inline(always)]
fn multiply_lanes(bits: u32, factor: f32, x: [f32; LANES]) -> [f32; LANES] {
    let mut lanes = [0; LANES];
    for i in 0..LANES {
        lanes[i] = if bits & (1 << i) != 0 { u32::MAX } else { 0 };
    }
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = f32::from_bits((x[i] * factor).to_bits() & lanes[i]);
    }
    out
}

#[inline(always)]
pub(super) fn multiply_kept(mask: &[u64], factor: f32, x: &mut [f32]) {
    if factor == 0.0 {
        return x.fill(0.0);
    }
    let (blocks, rest) = x.as_chunks_mut::<LANES>();
    let full = LANES * blocks.len();
    let word = |at: usize| mask[at / WORD] >> (at % WORD);
    for (k, x) in blocks.iter_mut().enumerate() {
        *x = multiply_lanes(word(LANES * k) as u32, factor, *x);
    }
    for (at, x) in (full..).zip(rest) {
        *x = if word(at) & 1 != 0 { *x * factor } else { 0.0 };
    }
}

#[inline(always)]
pub(super) fn l1_of_kept(mask: &[u64], x: &[f32]) -> [f64; 2] {
    let (mut all, mut of_kept) = ([0.0; LANES], [0.0; LANES]);
    for (word, x) in mask.iter().zip(x.chunks(WORD)) {
        let (blocks, rest) = x.as_chunks::<LANES>();
        for (k, x) in blocks.iter().enumerate() {
            let bits = (word >> (LANES * k)) as u32;
            for lane in 0..LANES {
                let size = f64::from(x[lane].abs());
                all[lane] += size;
                of_kept[lane] += if bits & (1 << lane) != 0 { size } else { 0.0 };
            }
        }
        for (lane, x) in rest.iter().enumerate() {
            let size = f64::from(x.abs());
            all[lane] += size;
            let kept = word >> (LANES * blocks.len() + lane) & 1 != 0;
            of_kept[lane] += if kept { size } else { 0.0 };
        }
    }
    [fold(all), fold(of_kept)]
}
