//! From the values of all items to a figure with its standard error.
//!
//! Means have the error of a mean with Bessel's correction. Perplexity, F1, Matthews' coefficient and
//! the median have a bootstrap's: 100,000 resamples, drawn as lm-eval draws them (100 of Python's
//! generators, seeded 0 to 99, with 1,000 resamples each), so that the error is the same and not
//! only alike. Figures over words, bytes and tokens, and Brier scores, have none.

use super::ItemValue;
use crate::error::{Error, Result};
use crate::eval::python_random::PythonRandom;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// How the values of items become a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// The mean.
    Mean,
    /// The mean of what is a number.
    NanMean,
    /// The upper median.
    Median,
    /// `exp(−mean)`.
    Perplexity,
    /// `exp(−Σ log-likelihood / Σ weight)`.
    WeightedPerplexity,
    /// `−Σ log-likelihood / Σ bytes / ln 2`.
    BitsPerByte,
    /// F1 of the label 1.
    F1,
    /// Matthews' correlation coefficient over any number of labels (Gorodkin's R_K).
    Matthews,
    /// The mean squared distance of probabilities.
    Brier,
}

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Its value.
    pub value: f64,
    /// Its standard error; none where none is defined.
    pub stderr: Option<f64>,
}

/// Resamples of a bootstrap: so many generators, with so many resamples each.
const GENERATORS: u64 = 100;
const RESAMPLES: usize = 1_000;

impl Aggregation {
    /// By its name in task files.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "mean" => Self::Mean,
            "nanmean" => Self::NanMean,
            "median" => Self::Median,
            "perplexity" => Self::Perplexity,
            "weighted_perplexity" => Self::WeightedPerplexity,
            "bits_per_byte" => Self::BitsPerByte,
            "f1" => Self::F1,
            "matthews_corrcoef" => Self::Matthews,
            "brier_score" => Self::Brier,
            _ => return None,
        })
    }

    /// The figure of a task's items, without its error.
    ///
    /// # Errors
    /// There is no item, the values do not fit, or F1 has labels other than 0 and 1.
    pub fn value(self, items: &[&ItemValue]) -> Result<f64> {
        Ok(Prepared::of(self, items)?.value(&(0..items.len()).collect::<Vec<_>>()))
    }

    /// The figure with its standard error.
    ///
    /// # Errors
    /// As for [`Aggregation::value`].
    pub fn figure(self, items: &[&ItemValue]) -> Result<Figure> {
        let prepared = Prepared::of(self, items)?;
        let all: Vec<usize> = (0..items.len()).collect();
        let value = prepared.value(&all);
        if items.len() < 2 {
            return Ok(Figure { value, stderr: None });
        }
        let stderr = match (self, &prepared) {
            (Self::Mean, Prepared::Numbers(_, numbers)) => {
                Some(deviation(numbers) / (numbers.len() as f64).sqrt())
            }
            (Self::WeightedPerplexity | Self::BitsPerByte | Self::Brier, _) => None,
            _ => Some(prepared.bootstrap(items.len())),
        };
        Ok(Figure { value, stderr })
    }
}

/// The standard deviation of a sample, with Bessel's correction.
pub(super) fn deviation(numbers: &[f64]) -> f64 {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let squares: f64 = numbers.iter().map(|x| (x - mean) * (x - mean)).sum();
    (squares / (n - 1.0)).sqrt()
}

/// Values of items, ready to be aggregated over any selection of them.
enum Prepared {
    Numbers(Aggregation, Vec<f64>),
    Weighted(Aggregation, Vec<(f64, f64)>),
    Labels(Vec<(bool, bool)>),
    Classes(usize, Vec<(usize, usize)>),
}

impl Prepared {
    fn of(aggregation: Aggregation, items: &[&ItemValue]) -> Result<Self> {
        if items.is_empty() {
            return Err(Error::input("a metric has no items"));
        }
        let unfit = || {
            Error::input("an aggregation does not fit the values of its metric")
                .key("aggregation")
                .fact("found", format!("{aggregation:?}"))
        };
        type A = Aggregation;
        match aggregation {
            A::Mean | A::NanMean | A::Median | A::Perplexity => {
                let numbers = items.iter().map(|item| match item {
                    ItemValue::Number(number) => Some(*number),
                    _ => None,
                });
                let numbers = numbers.collect::<Option<_>>().ok_or_else(unfit)?;
                Ok(Self::Numbers(aggregation, numbers))
            }
            A::WeightedPerplexity | A::BitsPerByte => {
                let pairs = items.iter().map(|item| match item {
                    ItemValue::Weighted(sum, weight) => Some((*sum, *weight)),
                    _ => None,
                });
                Ok(Self::Weighted(aggregation, pairs.collect::<Option<_>>().ok_or_else(unfit)?))
            }
            A::Brier => {
                let distance = |item: &&ItemValue| match item {
                    ItemValue::Probabilities(gold, probabilities) => {
                        let hit = |i: usize| if i64::try_from(i) == Ok(*gold) { 1.0 } else { 0.0 };
                        let squares = probabilities.iter().enumerate();
                        Some(squares.map(|(i, p)| (p - hit(i)).powi(2)).sum::<f64>())
                    }
                    _ => None,
                };
                let numbers = items.iter().map(distance);
                let numbers = numbers.collect::<Option<_>>().ok_or_else(unfit)?;
                Ok(Self::Numbers(A::Mean, numbers))
            }
            A::F1 | A::Matthews => {
                let pairs = items.iter().map(|item| match item {
                    ItemValue::Labels(gold, chosen) => Some((*gold, *chosen)),
                    _ => None,
                });
                let pairs: Vec<(i64, i64)> = pairs.collect::<Option<_>>().ok_or_else(unfit)?;
                if aggregation == A::F1 {
                    return Self::labels(&pairs);
                }
                let mut classes = BTreeMap::new();
                for label in pairs.iter().flat_map(|(gold, chosen)| [*gold, *chosen]) {
                    let next = classes.len();
                    classes.entry(label).or_insert(next);
                }
                let class = |label: i64| classes.get(&label).copied().unwrap_or_default();
                let pairs = pairs.iter().map(|(gold, chosen)| (class(*gold), class(*chosen)));
                Ok(Self::Classes(classes.len(), pairs.collect()))
            }
        }
    }

    fn labels(pairs: &[(i64, i64)]) -> Result<Self> {
        let odd = pairs.iter().flat_map(|(gold, chosen)| [*gold, *chosen]);
        if let Some(odd) = odd.into_iter().find(|label| ![0, 1].contains(label)) {
            return Err(Error::input("F1 is defined for two choices only")
                .expected("the labels 0 and 1", odd)
                .hint("use acc, or mcc, which takes any number of choices"));
        }
        Ok(Self::Labels(pairs.iter().map(|(gold, chosen)| (*gold == 1, *chosen == 1)).collect()))
    }

    /// The figure over the items at these places.
    fn value(&self, places: &[usize]) -> f64 {
        let n = places.len() as f64;
        match self {
            Self::Numbers(Aggregation::Median, numbers) => {
                let mut sorted: Vec<f64> = places.iter().map(|i| numbers[*i]).collect();
                sorted.sort_by(f64::total_cmp);
                sorted[sorted.len() / 2]
            }
            Self::Numbers(Aggregation::NanMean, numbers) => {
                let given = places.iter().map(|i| numbers[*i]).filter(|x| !x.is_nan());
                let (sum, count) = given.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
                sum / count
            }
            Self::Numbers(aggregation, numbers) => {
                let mean = places.iter().map(|i| numbers[*i]).sum::<f64>() / n;
                if *aggregation == Aggregation::Perplexity { (-mean).exp() } else { mean }
            }
            Self::Weighted(aggregation, pairs) => {
                let (sum, weight) = places
                    .iter()
                    .fold((0.0, 0.0), |(sum, weight), i| (sum + pairs[*i].0, weight + pairs[*i].1));
                match aggregation {
                    Aggregation::BitsPerByte => -(sum / weight) / std::f64::consts::LN_2,
                    _ => (-(sum / weight)).exp(),
                }
            }
            Self::Labels(pairs) => {
                let mut counts = [0_u32; 4];
                for i in places {
                    let (gold, chosen) = pairs[*i];
                    counts[usize::from(gold) * 2 + usize::from(chosen)] += 1;
                }
                let [_, false_ones, missed, hits] = counts.map(f64::from);
                let all = 2.0 * hits + false_ones + missed;
                if all == 0.0 { 0.0 } else { 2.0 * hits / all }
            }
            Self::Classes(classes, pairs) => matthews(*classes, places.iter().map(|i| pairs[*i])),
        }
    }

    /// The standard deviation of the figure over resamples of `n` items.
    fn bootstrap(&self, n: usize) -> f64 {
        let resample = |seed: u64| {
            let mut random = PythonRandom::new(seed);
            let mut places = vec![0; n];
            let mut values = Vec::with_capacity(RESAMPLES);
            for _ in 0..RESAMPLES {
                places.iter_mut().for_each(|place| *place = random.choice(n));
                values.push(self.value(&places));
            }
            values
        };
        let values: Vec<Vec<f64>> = (0..GENERATORS).into_par_iter().map(resample).collect();
        deviation(&values.concat())
    }
}

/// Matthews' coefficient from the confusion matrix, 0 where one side has one class only.
fn matthews(classes: usize, pairs: impl Iterator<Item = (usize, usize)>) -> f64 {
    let (mut gold, mut chosen) = (vec![0.0; classes], vec![0.0; classes]);
    let (mut right, mut n) = (0.0, 0.0);
    for (of_gold, of_chosen) in pairs {
        gold[of_gold] += 1.0;
        chosen[of_chosen] += 1.0;
        right += if of_gold == of_chosen { 1.0 } else { 0.0 };
        n += 1.0;
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let covariance = right * n - dot(&gold, &chosen);
    let spread = (n * n - dot(&gold, &gold)) * (n * n - dot(&chosen, &chosen));
    if spread == 0.0 { 0.0 } else { covariance / spread.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0), "{found} {expected}");
    }

    fn figure(aggregation: Aggregation, items: &[ItemValue]) -> Figure {
        aggregation.figure(&items.iter().collect::<Vec<_>>()).unwrap()
    }

    /// Figures of lm-eval 0.4.13 on the same values; the resampled F1 and Matthews' coefficients by
    /// scikit-learn's formulas, the values by scikit-learn 1.9.
    #[test]
    fn figures_of_lm_eval() {
        use ItemValue::{Labels, Number, Probabilities, Weighted};
        let found = figure(
            Aggregation::Mean,
            &[
                Number(1.0),
                Number(0.0),
                Number(1.0),
                Number(1.0),
                Number(0.0),
                Number(1.0),
                Number(0.0),
            ],
        );
        close(found.value, 0.5714285714285714);
        close(found.stderr.unwrap(), 0.20203050891044214);
        let found = figure(
            Aggregation::Perplexity,
            &[Number(-3.25), Number(-0.5), Number(-7.125), Number(-1.0), Number(-2.5)],
        );
        close(found.value, 17.725424121461643);
        close(found.stderr.unwrap(), 55.41789717296897);
        let found = figure(
            Aggregation::Median,
            &[Number(-3.25), Number(-0.5), Number(-7.125), Number(-1.0), Number(-2.5)],
        );
        close(found.value, -2.5);
        close(found.stderr.unwrap(), 1.4847483173150449);
        let found = figure(
            Aggregation::F1,
            &[Labels(1, 1), Labels(0, 1), Labels(1, 0), Labels(1, 1), Labels(0, 0), Labels(1, 1)],
        );
        close(found.value, 0.75);
        close(found.stderr.unwrap(), 0.19503345809573888);
        let found = figure(
            Aggregation::Matthews,
            &[
                Labels(0, 0),
                Labels(1, 2),
                Labels(2, 2),
                Labels(3, 0),
                Labels(1, 1),
                Labels(2, 1),
                Labels(0, 0),
            ],
        );
        close(found.value, 0.41247895569215276);
        close(found.stderr.unwrap(), 0.2601746809653626);
        let found = figure(
            Aggregation::WeightedPerplexity,
            &[Weighted(-12.5, 3.0), Weighted(-30.25, 9.0), Weighted(-7.0, 4.0)],
        );
        close(found.value, 22.40703562619394);
        assert_eq!(found.stderr, None);
        let found = figure(
            Aggregation::BitsPerByte,
            &[Weighted(-12.5, 3.0), Weighted(-30.25, 9.0), Weighted(-7.0, 4.0)],
        );
        close(found.value, 4.485879892764121);
        assert_eq!(found.stderr, None);
        let found = figure(
            Aggregation::Brier,
            &[Probabilities(0, vec![0.5, 0.25, 0.25]), Probabilities(2, vec![0.125, 0.125, 0.75])],
        );
        close(found.value, 0.234375);
        assert_eq!(found.stderr, None);
    }

    #[test]
    fn what_cannot_be_aggregated() {
        let number = ItemValue::Number(1.0);
        assert!(Aggregation::Mean.value(&[]).is_err());
        assert!(Aggregation::F1.value(&[&number]).is_err());
        assert!(Aggregation::F1.value(&[&ItemValue::Labels(2, 1)]).is_err());
        assert_eq!(figure(Aggregation::Mean, &[number]).stderr, None);
    }
}
