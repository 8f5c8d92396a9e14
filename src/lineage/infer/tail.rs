//! The upper tail of the normal distribution, as a logarithm that no z makes underflow.

use std::f64::consts::{LN_10, PI};

/// From here on the continued fraction is used.
const FAR: f64 = 3.0;
/// Terms of the continued fraction; at z = 3 it has converged to the last digits by then.
const TERMS: u32 = 200;

/// log₁₀ P(Z > z) for a standard normal Z.
///
/// Below 3 the power series of the distribution function, above it Laplace's continued fraction
/// (Abramowitz and Stegun, *Handbook of Mathematical Functions*, 26.2.11 and 26.2.14).
pub(super) fn log10_upper(z: f64) -> f64 {
    if z < 0.0 {
        // log(1 − Q(−z))
        return (-(10.0_f64.powf(log10_upper(-z)))).ln_1p() / LN_10;
    }
    let log_density = -0.5 * z * z - 0.5 * (2.0 * PI).ln();
    if z < FAR {
        let (mut term, mut sum, mut k) = (z, z, 1.0);
        while term > 1e-18 * sum {
            k += 2.0;
            term *= z * z / k;
            sum += term;
        }
        return (0.5 - log_density.exp() * sum).log10();
    }
    let fraction = (1..=TERMS).rev().fold(z, |below, k| z + f64::from(k) / below);
    (log_density - fraction.ln()) / LN_10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_tables() {
        // scipy.stats.norm.logsf(z) / ln 10.
        for (z, wanted) in [
            (-3.0, -0.000_586_649_313_790_066),
            (0.0, -0.301_029_995_663_981_14),
            (1.0, -0.799_545_541_491_970_3),
            (2.999, -2.868_273_406_123_219),
            (3.001, -2.871_125_069_386_535_3),
            (6.0, -9.005_864_327_476_706),
            (40.0, -349.437_006_459_345_87),
            (1000.0, -217_150.640_041_994_37),
        ] {
            let found = log10_upper(z);
            assert!((found - wanted).abs() <= 1e-9 * (1.0 + wanted.abs()), "{z}: {found}");
        }
    }
}
