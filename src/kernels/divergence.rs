//! The Kullback-Leibler divergence of rows that are taken as logits, in f64.
//!
//! Nearly equal rows have a divergence many orders of magnitude below its terms `p·ln(p/q)`, which
//! alternate in sign; in float32 no digit of it is left. Both rows have the same sum, so that
//! `Σ p·ln(p/q) - p + q` is the same, and its terms are never negative. Exponential and logarithm are written out, so that every
//! machine gives the same bits: Taylor's series behind a reduction by powers of 2, exact to about
//! 1e-15 of the result.

use super::LANES;
use super::neural::max_of;
use super::reduce::fold;

/// High part of ln 2: the last 21 bits are 0, so that its product with an exponent is exact.
const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
/// ln 2 less the high part.
const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);
/// 1/k! from k = 13 down to 2.
const INVERSE_FACTORIALS: [f64; 12] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    1.0 / 2.0,
];

/// `e^x` for `x` up to 0; what is below -700 counts as -700.
#[inline(always)]
fn exp(x: f64) -> f64 {
    // Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // A comparison that is false for NaN, which thereby stays.
    let x = if x < -700.0 { -700.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut sum = 0.0;
    for coefficient in INVERSE_FACTORIALS {
        sum = sum * r + coefficient;
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023);
    (sum * (r * r) + r + 1.0) * f64::from_bits(exponent << 52)
}

/// `ln x` for a positive normal number; `distance` is `x - 1`, which may be known better than `x`.
#[inline(always)]
fn ln(x: f64, distance: f64) -> f64 {
    // A mantissa from √½ to √2: the exponent is that of x/√½.
    const ROOT_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    let offset = x.to_bits().wrapping_sub(ROOT_HALF);
    let exponent = (offset as i64) >> 52;
    let mantissa = f64::from_bits(x.to_bits().wrapping_sub((exponent as u64) << 52));
    let n = exponent as f64;
    let distance = if exponent == 0 { distance } else { mantissa - 1.0 };
    // ln m = 2·artanh s, and its series.
    let s = distance / (distance + 2.0);
    let square = s * s;
    let mut sum = 0.0;
    let mut k = 23.0;
    for _ in 0..11 {
        sum = sum * square + 1.0 / k;
        k -= 2.0;
    }
    n * LN2_HIGH + (2.0 * s + (2.0 * s * square * sum + n * LN2_LOW))
}

/// The maximum of a row, and `Σ e^(x - maximum)`.
#[inline(always)]
fn normaliser(x: &[f32]) -> (f64, f64) {
    let max = f64::from(max_of(x));
    let mut lanes = [0.0; LANES];
    for block in x.chunks(LANES) {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += exp(f64::from(*x) - max);
        }
    }
    (max, fold(lanes))
}

#[inline(always)]
pub(super) fn divergence(room: f64, x: &[f32], base: &[f32]) -> f64 {
    let (x_max, x_sum) = normaliser(x);
    let (base_max, base_sum) = normaliser(base);
    let mut lanes = [0.0; LANES];
    for (x, base) in x.chunks(LANES).zip(base.chunks(LANES)) {
        for ((lane, x), base) in lanes.iter_mut().zip(x).zip(base) {
            let p = exp(f64::from(*x) - x_max) / x_sum + room;
            let q = exp(f64::from(*base) - base_max) / base_sum + room;
            *lane += p * ln(p / q, (p - q) / q) - (p - q);
        }
    }
    let sum = fold(lanes);
    // NaN where there are infinities in a row.
    if sum > 0.0 { sum } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elementary_functions_are_those_of_the_standard_library() {
        for i in 0..70_001 {
            let x = f64::from(-i) / 100.0;
            assert!((exp(x) - x.exp()).abs() <= 1e-15 * x.exp(), "exp({x})");
            for y in [x.exp(), 1.0 / x.exp(), 1.0 + x / 1e6] {
                assert!((ln(y, y - 1.0) - y.ln()).abs() <= 4e-16 * y.ln().abs(), "ln({y})");
            }
        }
        assert_eq!(exp(f64::NEG_INFINITY), exp(-700.0));
        assert!(exp(f64::NAN).is_nan());
        assert!((ln(1.0, 1e-20) - 1e-20).abs() < 1e-35);
    }
}
