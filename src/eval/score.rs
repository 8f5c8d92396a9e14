//! From a model's answers to the values of metrics, item by item
//! (`ConfigurableTask.process_results` of lm-eval 0.4.13).

use super::dataset::Value;
use super::items::Items;
use super::metric::{ItemValue, Metric};
use super::prompt::{Item, is_blank};
use super::request::Answer;
use super::task::{MetricSetting, Output};
use crate::error::{Error, Result};

/// The values of one item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemScore {
    /// By metric and filter.
    pub values: Vec<(Key, ItemValue)>,
    /// The text after each filter.
    pub filtered: Vec<(String, String)>,
}

/// A metric after a filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The metric.
    pub metric: Metric,
    /// The filter's name; `none` without one.
    pub filter: String,
}

impl Key {
    /// As it stands in reports: `acc`, or `exact_match,strict-match`.
    pub fn name(&self) -> String {
        match self.filter.as_str() {
            "none" => self.metric.name().to_string(),
            filter => format!("{},{filter}", self.metric.name()),
        }
    }
}

/// The values of an item.
///
/// # Errors
/// A filter fails, or the right choice cannot be made out.
pub fn item(items: &Items<'_>, item: &Item, answer: &Answer) -> Result<ItemScore> {
    let located = |e: Error| e.fact("task", &items.task.name).fact("item", item.id);
    if items.task.output == Output::GenerateUntil {
        return generated(items, item, answer).map_err(located);
    }
    let mut score = ItemScore::default();
    for (i, setting) in items.task.metrics.iter().enumerate() {
        let value = match items.task.output {
            Output::Rolling => {
                let counted = item.counted.get(i).and_then(Option::as_deref);
                rolling(setting.metric, item, answer, counted)
            }
            Output::LogLikelihood => continuation(setting.metric, answer),
            _ => match item.labels.get(i).and_then(Option::as_deref) {
                Some(labels) => share(labels, &answer.log_likelihoods),
                None => choice(items, setting.metric, item, answer),
            },
        };
        let value = value.ok_or_else(|| {
            located(Error::internal("a metric stands in a task it is not defined for"))
        })?;
        let key = Key { metric: setting.metric, filter: first_filter(items) };
        score.values.push((key, value));
    }
    Ok(score)
}

/// Log-likelihoods pass every filter as they are.
fn first_filter(items: &Items<'_>) -> String {
    items.task.filters.first().map_or_else(|| "none".to_string(), |filter| filter.name.clone())
}

fn continuation(metric: Metric, answer: &Answer) -> Option<ItemValue> {
    let number = match metric {
        Metric::Perplexity => *answer.log_likelihoods.first()?,
        Metric::Acc => f64::from(u8::from(*answer.greedy.first()?)),
        _ => return None,
    };
    Some(ItemValue::Number(number))
}

fn rolling(
    metric: Metric,
    item: &Item,
    answer: &Answer,
    counted: Option<&str>,
) -> Option<ItemValue> {
    let target = item.target.display();
    let text = counted.unwrap_or(&target);
    let weight = match metric {
        Metric::WordPerplexity => words(text),
        Metric::BytePerplexity | Metric::BitsPerByte => text.len(),
        Metric::TokenPerplexity => answer.tokens,
        _ => return None,
    };
    Some(ItemValue::Weighted(*answer.log_likelihoods.first()?, weight as f64))
}

/// Parts between runs of blanks, as `re.split(r"\s+", text)` counts them: empty ones at the ends too.
fn words(text: &str) -> usize {
    let mut words = 1;
    let mut blank = false;
    for c in text.chars() {
        words += usize::from(is_blank(c) && !blank);
        blank = is_blank(c);
    }
    words
}

/// Which choices are right; −100 stands for one that is none of them.
fn gold(item: &Item) -> Vec<i64> {
    let count = i64::try_from(item.choices.len()).unwrap_or(i64::MAX);
    let known = |label: i64| if label < count { label } else { -100 };
    let one = |value: &Value| match value {
        Value::Int(label) => known(*label),
        Value::Bool(label) => known(i64::from(*label)),
        Value::Text(text) => {
            let found = item.choices.iter().position(|choice| choice == text);
            found.and_then(|place| i64::try_from(place).ok()).unwrap_or(-100)
        }
        _ => -100,
    };
    match (item.text_label, &item.target) {
        (Some(label), _) => vec![known(label)],
        (None, Value::List(labels)) => labels.iter().map(one).collect(),
        (None, value) => vec![one(value)],
    }
}

/// The place of the largest number, the first of equal ones; of NaN, if there is one.
fn largest(numbers: &[f64]) -> i64 {
    let mut best = 0;
    for (i, number) in numbers.iter().enumerate() {
        if number.is_nan() {
            best = i;
            break;
        }
        if *number > numbers[best] {
            best = i;
        }
    }
    i64::try_from(best).unwrap_or(i64::MAX)
}

fn choice(items: &Items<'_>, metric: Metric, item: &Item, answer: &Answer) -> Option<ItemValue> {
    let lls = &answer.log_likelihoods;
    if lls.is_empty() || lls.len() != item.choices.len() {
        return None;
    }
    let over = |length: fn(&String) -> usize| -> Vec<f64> {
        let lengths = item.choices.iter().map(length);
        lls.iter().zip(lengths).map(|(ll, length)| ll / length as f64).collect()
    };
    let gold = gold(item);
    let first = gold.first().copied().unwrap_or(-100);
    let right = |chosen: i64| match items.multiple_targets {
        true => gold.contains(&chosen),
        false => first == chosen,
    };
    let hit = |chosen: i64| ItemValue::Number(f64::from(u8::from(right(chosen))));
    Some(match metric {
        Metric::Acc => hit(largest(lls)),
        Metric::AccNorm => hit(largest(&over(|choice| choice.chars().count()))),
        Metric::AccBytes => hit(largest(&over(String::len))),
        Metric::AccMutualInfo => {
            let pairs = lls.iter().zip(&answer.unconditional);
            let gained: Vec<f64> = pairs.map(|(with, without)| with - without).collect();
            ItemValue::Number(f64::from(u8::from(largest(&gained) == first)))
        }
        Metric::ExactMatch => {
            let greedy = |label: &i64| {
                usize::try_from(*label).is_ok_and(|label| answer.greedy.get(label) == Some(&true))
            };
            ItemValue::Number(f64::from(u8::from(gold.iter().any(greedy))))
        }
        Metric::F1 | Metric::Mcc => ItemValue::Labels(first, largest(lls)),
        Metric::BrierScore => ItemValue::Probabilities(first, softmax(lls)),
        _ => return None,
    })
}

/// The share of the choices' probability that the true ones have (`process_results_mc2` of lm-eval's
/// truthfulqa).
fn share(labels: &[bool], lls: &[f64]) -> Option<ItemValue> {
    if labels.len() != lls.len() || lls.is_empty() {
        return None;
    }
    let all = softmax(lls).into_iter().zip(labels);
    Some(ItemValue::Number(all.filter(|(_, label)| **label).map(|(share, _)| share).sum()))
}

fn softmax(lls: &[f64]) -> Vec<f64> {
    let most = lls.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = lls.iter().map(|ll| (ll - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// The texts that a generated one may be.
fn right_texts(items: &Items<'_>, item: &Item) -> Result<Vec<String>> {
    if items.task.format.choice.is_some() {
        let label = match &item.target {
            Value::Int(label) => usize::try_from(*label).ok(),
            _ => None,
        };
        let text = label.and_then(|label| item.choices.get(label)).ok_or_else(|| {
            Error::input("the target of a generated answer is not the number of a choice")
                .key("doc_to_target")
                .fact("found", item.target.repr())
        })?;
        return Ok(vec![text.clone()]);
    }
    Ok(match &item.target {
        Value::List(all) if items.multiple_targets => all.iter().map(Value::display).collect(),
        one => vec![one.display()],
    })
}

fn generated(items: &Items<'_>, item: &Item, answer: &Answer) -> Result<ItemScore> {
    let right = right_texts(items, item)?;
    let mut score = ItemScore::default();
    for filter in &items.task.filters {
        let text = filter.apply(&answer.texts, &item.document)?;
        for setting in &items.task.metrics {
            let same = matches(setting, &right, &text)?;
            let key = Key { metric: setting.metric, filter: filter.name.clone() };
            score.values.push((key, ItemValue::Number(f64::from(u8::from(same)))));
        }
        score.filtered.push((filter.name.clone(), text));
    }
    Ok(score)
}

fn matches(setting: &MetricSetting, right: &[String], text: &str) -> Result<bool> {
    for one in right {
        if setting.exact.same(text, one)? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right sides are Python's `len(re.split(r"\s+", text))`.
    #[test]
    fn words_are_counted_as_in_python() {
        for (text, count) in [("", 1), ("a", 1), (" a  b\n", 4), ("a\u{a0}b\u{1c}c", 3), ("\n", 2)]
        {
            assert_eq!(words(text), count, "{text:?}");
        }
    }

    /// The right sides are what `process_results_mc2` of lm-eval 0.4.13 gives.
    #[test]
    fn the_share_of_true_choices() {
        let found = |labels: &[bool], lls: &[f64]| match share(labels, lls) {
            Some(ItemValue::Number(share)) => share,
            other => panic!("{other:?}"),
        };
        let lls = [-3.25, -1.5, -7.0, -2.0];
        assert!((found(&[true, false, false, true], &lls) - 0.43729453878206614).abs() < 1e-15);
        assert!((found(&[true; 4], &lls) - 1.0).abs() < 1e-15);
        // Far below what f64 can hold as probabilities lm-eval divides by zero.
        assert!((found(&[true, false], &[-1000.0, -1000.0]) - 0.5).abs() < 1e-15);
        assert_eq!(share(&[true], &lls), None);
    }

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(largest(&[-2.0, -1.0, -1.0]), 1);
        assert_eq!(largest(&[-2.0, f64::NAN, -1.0, f64::NAN]), 1);
        assert_eq!(largest(&[f64::NEG_INFINITY, f64::NEG_INFINITY]), 0);
    }
}
