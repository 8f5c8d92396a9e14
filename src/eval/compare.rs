//! Models side by side, on identical items: differences with what is known about their certainty.
//!
//! A difference is taken between a model and another on the same items. Its interval is a bootstrap's
//! over items (percentiles of resampled differences); whether it is significant is McNemar's exact
//! test where items are right or wrong, and a permutation test elsewhere, which exchanges the two
//! models' values of an item at random. Draws come from the counter-based generator with a fixed
//! seed: the same results give the same report.

use super::metric::{Aggregation, ItemValue};
use super::results::{ModelResult, TaskFigure, TaskResult};
use super::score::Key;
use crate::error::{Error, Result};
use crate::kernels::Stream;
use rayon::prelude::*;

/// Resamples of an interval.
const RESAMPLES: u32 = 2_000;
/// Permutations of a test.
const PERMUTATIONS: u32 = 4_000;
/// What an interval covers, in hundredths.
pub const COVERAGE: u32 = 95;
/// A difference with a smaller p-value is called significant.
pub const SIGNIFICANT: f64 = 0.05;

/// Which models the others are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Against {
    /// Places of the parents among the results.
    pub parents: Vec<usize>,
    /// Place of the base.
    pub base: Option<usize>,
}

/// A difference between two models on a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Place of the other model among the results.
    pub to: usize,
    /// This model's value less the other's.
    pub value: f64,
    /// The interval that covers it.
    pub interval: (f64, f64),
    /// How likely a difference as large is, if there is none.
    pub p_value: f64,
    /// Whether this model is better, by the metric's direction.
    pub better: bool,
}

impl Difference {
    /// Whether it is more than chance.
    pub fn significant(&self) -> bool {
        self.p_value < SIGNIFICANT
    }

    /// Whether the model is worse, and that is more than chance.
    pub fn regression(&self) -> bool {
        self.significant() && !self.better && self.value != 0.0
    }
}

/// A model's figure with its differences.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// To the best parent.
    pub to_parent: Option<Difference>,
    /// To the base.
    pub to_base: Option<Difference>,
}

/// A figure of all models.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// Metric and filter.
    pub key: Key,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Items.
    pub n: usize,
    /// By model, in their order.
    pub cells: Vec<Cell>,
}

/// Compares all models on all figures.
///
/// # Errors
/// The models were not asked the same.
pub fn compare(results: &[ModelResult], against: &Against) -> Result<Vec<Comparison>> {
    let Some(first) = results.first() else {
        return Ok(Vec::new());
    };
    let mut rows = Vec::new();
    for (t, task) in first.tasks.iter().enumerate() {
        for figure in &task.figures {
            let of = results.iter().map(|model| same_task(model, t, task));
            let of = of.collect::<Result<Vec<&TaskResult>>>()?;
            rows.push(row(&of, figure, against)?);
        }
    }
    Ok(rows)
}

/// The same task of another model.
fn same_task<'a>(
    model: &'a ModelResult,
    place: usize,
    task: &TaskResult,
) -> Result<&'a TaskResult> {
    let ids = |task: &TaskResult| task.samples.iter().map(|s| s.doc_id).collect::<Vec<_>>();
    let found = model.tasks.get(place).filter(|other| {
        other.task == task.task && other.fewshot == task.fewshot && ids(other) == ids(task)
    });
    found.ok_or_else(|| {
        Error::input("the models were not asked the same items")
            .fact("model", &model.model)
            .fact("task", &task.task)
    })
}

fn row(tasks: &[&TaskResult], figure: &TaskFigure, against: &Against) -> Result<Comparison> {
    let figures = tasks.iter().map(|task| {
        let found = task.figures.iter().find(|other| other.key == figure.key);
        found.ok_or_else(|| Error::internal("a model lacks a figure that another has"))
    });
    let figures = figures.collect::<Result<Vec<&TaskFigure>>>()?;
    let value = |model: usize| figures[model].figure.value;
    let better = |a: f64, b: f64| if figure.higher_is_better { a > b } else { a < b };
    let best = |but: usize| {
        let parents = against.parents.iter().copied().filter(|parent| *parent != but);
        parents.reduce(|best, other| if better(value(other), value(best)) { other } else { best })
    };
    let name = figure.key.name();
    let difference = |model: usize, to: usize| -> Result<Difference> {
        let stream = Stream::named(&format!("{}\0{name}\0{model}\0{to}", tasks[model].task));
        let pair = Pair {
            ours: tasks[model].values(&figure.key),
            theirs: tasks[to].values(&figure.key),
            aggregation: figure.aggregation,
            stream,
        };
        let value = value(model) - value(to);
        Ok(Difference {
            to,
            value,
            interval: pair.interval()?,
            p_value: pair.p_value(value)?,
            better: if figure.higher_is_better { value > 0.0 } else { value < 0.0 },
        })
    };
    let cell = |model: usize| -> Result<Cell> {
        // A parent is held against the base alone, and the base against nothing.
        let parent = against.parents.contains(&model) || against.base == Some(model);
        let to_parent = if parent { None } else { best(model) };
        let to_base = against.base.filter(|base| *base != model);
        Ok(Cell {
            value: value(model),
            stderr: figures[model].figure.stderr,
            to_parent: to_parent.map(|to| difference(model, to)).transpose()?,
            to_base: to_base.map(|to| difference(model, to)).transpose()?,
        })
    };
    Ok(Comparison {
        task: tasks[0].task.clone(),
        key: figure.key.clone(),
        higher_is_better: figure.higher_is_better,
        n: tasks[0].samples.len(),
        cells: (0..tasks.len()).map(cell).collect::<Result<_>>()?,
    })
}

/// The values of two models on the same items.
struct Pair<'a> {
    ours: Vec<&'a ItemValue>,
    theirs: Vec<&'a ItemValue>,
    aggregation: Aggregation,
    stream: Stream,
}

impl Pair<'_> {
    /// Percentiles of the difference over resampled items.
    fn interval(&self) -> Result<(f64, f64)> {
        let n = self.ours.len();
        let resample = |draw: u32| -> Result<f64> {
            let numbers = self.stream.draw(draw, n).into_iter();
            let places: Vec<usize> =
                numbers.map(|number| ((u64::from(number) * n as u64) >> 32) as usize).collect();
            let ours: Vec<&ItemValue> = places.iter().map(|i| self.ours[*i]).collect();
            let theirs: Vec<&ItemValue> = places.iter().map(|i| self.theirs[*i]).collect();
            Ok(self.aggregation.value(&ours)? - self.aggregation.value(&theirs)?)
        };
        let values: Result<Vec<f64>> = (0..RESAMPLES).into_par_iter().map(resample).collect();
        let mut values = values?;
        values.sort_by(f64::total_cmp);
        let tail = (100 - COVERAGE) as usize * values.len() / 200;
        Ok((values[tail], values[values.len() - 1 - tail]))
    }

    fn p_value(&self, difference: f64) -> Result<f64> {
        if let Some(p) = self.mcnemar() {
            return Ok(p);
        }
        let permuted = |draw: u32| -> Result<bool> {
            let mut ours = Vec::with_capacity(self.ours.len());
            let mut theirs = Vec::with_capacity(self.ours.len());
            let numbers = self.stream.draw(RESAMPLES + draw, self.ours.len());
            for ((a, b), number) in self.ours.iter().zip(&self.theirs).zip(numbers) {
                let (a, b) = if number >> 31 == 1 { (*b, *a) } else { (*a, *b) };
                ours.push(a);
                theirs.push(b);
            }
            let found = self.aggregation.value(&ours)? - self.aggregation.value(&theirs)?;
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
        if self.aggregation != Aggregation::Mean {
            return None;
        }
        let (mut gained, mut lost) = (0_u32, 0_u32);
        for (ours, theirs) in self.ours.iter().zip(&self.theirs) {
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
    fn named(what: &str) -> Self {
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
        Pair { ours: ours.iter().collect(), theirs: theirs.iter().collect(), aggregation, stream }
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
