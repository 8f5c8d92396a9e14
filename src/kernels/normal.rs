//! Normal random numbers as a function of (stream, element).
//!
//! The quantile of the element's 32-bit number: Wichura, "Algorithm AS 241: The Percentage Points of the
//! Normal Distribution", Applied Statistics 37 (1988), routine PPND16, good to one part in 10¹⁶. With 32
//! bits the numbers stay within 6.3 standard deviations.

use super::random::{GROUP, Stream};

/// Numerator and denominator of a rational function, the constant term first.
type Rational = ([f64; 8], [f64; 8]);

const CENTRE: Rational = (
    [
        3.387_132_872_796_366_6,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_659_7e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_854e3,
    ],
);
const NEAR: Rational = (
    [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ],
    [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ],
);
const FAR: Rational = (
    [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        2.965_605_718_285_048_7e-1,
        2.653_218_952_657_612_4e-2,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ],
    [
        1.0,
        5.998_322_065_558_88e-1,
        1.369_298_809_227_358e-1,
        1.487_536_129_085_061_5e-2,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ],
);

fn ratio((above, below): &Rational, x: f64) -> f64 {
    let sum = |terms: &[f64; 8]| terms.iter().rev().fold(0.0, |sum, term| sum * x + term);
    sum(above) / sum(below)
}

/// The quantile of the standard normal distribution at `p`, above 0 and below 1.
fn quantile(p: f64) -> f64 {
    let distance = p - 0.5;
    if distance.abs() <= 0.425 {
        return distance * ratio(&CENTRE, 0.180_625 - distance * distance);
    }
    let tail = if distance < 0.0 { p } else { 1.0 - p };
    let r = (-tail.ln()).sqrt();
    let magnitude = if r <= 5.0 { ratio(&NEAR, r - 1.6) } else { ratio(&FAR, r - 5.0) };
    magnitude.copysign(distance)
}

/// The uniform numbers of elements `start..`, above 0 and below 1, one after the other.
pub(crate) fn uniforms(stream: Stream, start: usize) -> impl Iterator<Item = f64> {
    let groups = (start / GROUP) as u64..;
    let numbers = groups.flat_map(move |group| stream.numbers(group)).skip(start % GROUP);
    numbers.map(|number| (f64::from(number) + 0.5) / 2.0_f64.powi(32))
}

/// The normal numbers of elements `start..`: mean 0, variance 1.
pub(crate) fn normals(stream: Stream, start: usize) -> impl Iterator<Item = f64> {
    uniforms(stream, start).map(quantile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // Python's statistics.NormalDist().inv_cdf.
        for (p, wanted) in [
            (0.5, 0.0),
            (0.025, -1.959_963_984_540_054),
            (0.9, 1.281_551_565_544_600_4),
            (0.99, 2.326_347_874_040_841),
            (1e-6, -4.753_424_308_822_899),
            (1e-12, -7.034_483_825_301_132),
        ] {
            assert!((quantile(p) - wanted).abs() <= 1e-13 * (1.0 + wanted.abs()), "{p}");
        }
    }

    #[test]
    fn numbers_belong_to_their_elements() {
        let stream = Stream { key: [3, 4], nonce: [5, 6] };
        let all: Vec<f64> = normals(stream, 0).take(1000).collect();
        for start in [1, 127, 128, 300] {
            assert!(normals(stream, start).take(500).eq(all[start..start + 500].iter().copied()));
        }
    }

    #[test]
    fn numbers_have_the_moments_of_a_normal_distribution() {
        let stream = Stream { key: [3, 4], nonce: [5, 6] };
        let count = 100_000;
        let mut moments = [0.0; 4];
        for x in normals(stream, 0).take(count) {
            moments.iter_mut().enumerate().for_each(|(k, m)| *m += x.powi(k as i32 + 1));
        }
        let [mean, square, cube, fourth] = moments.map(|m| m / f64::from(count as u32));
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.02, "{mean} {square}");
        assert!(cube.abs() < 0.06 && (fourth - 3.0).abs() < 0.15, "{cube} {fourth}");
    }
}
