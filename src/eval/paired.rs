//! What is known about a difference between two models on the same items.
//!
//! Its interval is a bootstrap's over items (percentiles of resampled differences); whether it is
//! significant is McNemar's exact test where items are right or wrong, and a permutation test elsewhere,
//! which exchanges the two models' values of an item at random. The items of a group's tasks are drawn
//! task by task. Draws come from the counter-based generator with a fixed seed: the same results give
//! the same report.

use super::metric::{Aggregation, ItemValue};
use crate::error::Result;
use crate::kernels::Stream;
use rayon::prelude::*;

/// Resamples of an interval.
const RESAMPLES: u32 = 2_000;
/// Permutations of a test.
const PERMUTATIONS: u32 = 4_000;
/// What an interval covers, in hundredths.
pub const COVERAGE: u32 = 95;

/// The values of two models on the same items: of one task, or of the tasks of a group.
pub(super) struct Pair<'a> {
    pub(super) parts: Vec<Part<'a>>,
}

/// The values of two models on the items of a task.
pub(super) struct Part<'a> {
    pub(super) ours: Vec<&'a ItemValue>,
    pub(super) theirs: Vec<&'a ItemValue>,
    /// How they become a figure.
    pub(super) aggregation: Aggregation,
    /// What the figure counts in the mean over the parts.
    pub(super) weight: f64,
    pub(super) stream: Stream,
}

impl Part<'_> {
    fn difference(&self, ours: &[&ItemValue], theirs: &[&ItemValue]) -> Result<f64> {
        Ok(self.aggregation.value(ours)? - self.aggregation.value(theirs)?)
    }
}

impl Pair<'_> {
    /// The mean of something over the parts, by their weights.
    fn mean(&self, of: impl Fn(&Part<'_>) -> Result<f64>) -> Result<f64> {
        let mut sum = 0.0;
        for part in &self.parts {
            sum += part.weight * of(part)?;
        }
        Ok(sum / self.parts.iter().map(|part| part.weight).sum::<f64>())
    }

    /// Percentiles of the difference over resampled items.
    pub(super) fn interval(&self) -> Result<(f64, f64)> {
        let resample = |draw: u32| {
            self.mean(|part| {
                let n = part.ours.len();
                let numbers = part.stream.draw(draw, n).into_iter();
                let places: Vec<usize> =
                    numbers.map(|number| ((u64::from(number) * n as u64) >> 32) as usize).collect();
                let ours: Vec<&ItemValue> = places.iter().map(|i| part.ours[*i]).collect();
                let theirs: Vec<&ItemValue> = places.iter().map(|i| part.theirs[*i]).collect();
                part.difference(&ours, &theirs)
            })
        };
        let values: Result<Vec<f64>> = (0..RESAMPLES).into_par_iter().map(resample).collect();
        let mut values = values?;
        values.sort_by(f64::total_cmp);
        let tail = (100 - COVERAGE) as usize * values.len() / 200;
        Ok((values[tail], values[values.len() - 1 - tail]))
    }

    pub(super) fn p_value(&self, difference: f64) -> Result<f64> {
        if let Some(p) = self.mcnemar() {
            return Ok(p);
        }
        let permuted = |draw: u32| -> Result<bool> {
            let found = self.mean(|part| {
                let mut ours = Vec::with_capacity(part.ours.len());
                let mut theirs = Vec::with_capacity(part.ours.len());
                let numbers = part.stream.draw(RESAMPLES + draw, part.ours.len());
                for ((a, b), number) in part.ours.iter().zip(&part.theirs).zip(numbers) {
                    let (a, b) = if number >> 31 == 1 { (*b, *a) } else { (*a, *b) };
                    ours.push(a);
                    theirs.push(b);
                }
                part.difference(&ours, &theirs)
            })?;
            // What is equal but for rounding counts as equal.
            Ok(found.abs() >= difference.abs() * (1.0 - 1e-12))
        };
        let count: Result<Vec<bool>> = (0..PERMUTATIONS).into_par_iter().map(permuted).collect();
        let count = count?.into_iter().filter(|as_large| *as_large).count();
        Ok((1.0 + count as f64) / (1.0 + f64::from(PERMUTATIONS)))
    }

    /// McNemar's exact test, where every item is right or wrong.
    fn mcnemar(&self) -> Option<f64> {
        let side = |value: &ItemValue| match value {
            ItemValue::Number(1.0) => Some(true),
            ItemValue::Number(0.0) => Some(false),
            _ => None,
        };
        let [part] = &self.parts[..] else { return None };
        if part.aggregation != Aggregation::Mean {
            return None;
        }
        let (mut gained, mut lost) = (0_u32, 0_u32);
        for (ours, theirs) in part.ours.iter().zip(&part.theirs) {
            match (side(ours)?, side(theirs)?) {
                (true, false) => gained += 1,
                (false, true) => lost += 1,
                _ => {}
            }
        }
        Some(binomial(gained + lost, gained.min(lost)))
    }
}

/// Two-sided: how likely at most `k` of `n` fair coins show one side, or at most `k` the other.
fn binomial(n: u32, k: u32) -> f64 {
    let mut log_choose = 0.0;
    let mut sum = 0.0;
    let halves = f64::from(n) * std::f64::consts::LN_2;
    for i in 0..=k {
        sum += f64::exp(log_choose - halves);
        log_choose += f64::ln(f64::from(n - i)) - f64::ln(f64::from(i + 1));
    }
    f64::min(2.0 * sum, 1.0)
}

impl Stream {
    /// The stream of a comparison.
    pub(super) fn named(what: &str) -> Self {
        use sha2::{Digest, Sha256};
        let hash: [u8; 32] = Sha256::digest(format!("cognate eval\0{what}")).into();
        let word = |i: usize| u32::from_le_bytes([hash[i], hash[i + 1], hash[i + 2], hash[i + 3]]);
        Self { key: [word(0), word(4)], nonce: [word(8), word(12)] }
    }

    /// The first `n` numbers of draw `draw`.
    fn draw(self, draw: u32, n: usize) -> Vec<u32> {
        let stream = Self { nonce: [self.nonce[0], self.nonce[1] ^ draw], ..self };
        (0..).flat_map(|group| stream.numbers(group)).take(n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right sides are `scipy.stats.binomtest(k, n, 0.5).pvalue` of SciPy 1.17.
    #[test]
    fn mcnemar_is_the_binomial_test() {
        for (n, k, p) in [
            (1, 0, 1.0),
            (5, 1, 0.375),
            (9, 4, 1.0),
            (20, 3, 0.0025768280029296875),
            (60, 20, 0.01348929373119186),
            (200, 90, 0.17896403953325155),
            (2000, 900, 8.45708953550381e-06),
        ] {
            assert!((binomial(n, k) - p).abs() < 1e-12, "{n} {k} {}", binomial(n, k));
        }
        assert_eq!(binomial(0, 0), 1.0);
    }

    fn pair<'a>(
        ours: &'a [ItemValue],
        theirs: &'a [ItemValue],
        aggregation: Aggregation,
    ) -> Pair<'a> {
        let stream = Stream::named("test");
        let (ours, theirs) = (ours.iter().collect(), theirs.iter().collect());
        Pair { parts: vec![Part { ours, theirs, aggregation, weight: 1.0, stream }] }
    }

    #[test]
    fn a_sure_difference_and_a_doubtful_one() {
        let values = |shift: f64, noise: f64| -> Vec<ItemValue> {
            let value = |i: u32| f64::from(i % 7) + shift + noise * f64::from(i * 37 % 11);
            (0..60).map(|i| ItemValue::Weighted(-value(i), 2.0)).collect()
        };
        let (sure, doubtful, base) = (values(-0.5, 0.01), values(-0.5, 0.1), values(0.0, 0.0));
        let ppl = Aggregation::WeightedPerplexity;
        let found = pair(&sure, &base, ppl);
        let (low, high) = found.interval().unwrap();
        assert!(low < high && high < 0.0, "{low} {high}");
        let all = |values: &[ItemValue]| ppl.value(&values.iter().collect::<Vec<_>>()).unwrap();
        assert!(low <= all(&sure) - all(&base) && all(&sure) - all(&base) <= high);
        assert!(found.p_value(all(&sure) - all(&base)).unwrap() < 0.001);
        let found = pair(&doubtful, &base, ppl);
        assert!(found.p_value(all(&doubtful) - all(&base)).unwrap() > 0.5);
        let (low, high) = found.interval().unwrap();
        assert!(low < 0.0 && high > 0.0, "{low} {high}");
    }

    #[test]
    fn the_same_results_give_the_same_report() {
        let value = |i: u32| ItemValue::Number(f64::from(i * 31 % 17));
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..40).map(|i| (value(i), value(i + 3))).unzip();
        let found = || pair(&ours, &theirs, Aggregation::Mean).interval().unwrap();
        assert_eq!(found(), found());
        assert_ne!(Stream::named("a").draw(0, 4), Stream::named("a").draw(1, 4));
    }
}
