//! Lists and mappings of a task file: metrics, and how texts are generated.

use super::options::Options;
use super::settings::Setting;
use super::{Generation, MetricSetting, Output, SampleSettings};
use crate::error::{Result, nearest};
use crate::eval::metric::{Aggregation, ExactMatch, METRICS, Metric};

/// Reads `metric_list`.
pub(super) fn metrics(setting: Option<&Setting>, output: Output) -> Result<Vec<MetricSetting>> {
    let Some(setting) = setting else {
        let plain = |metric: &Metric| {
            METRICS.iter().find(|row| row.metric == *metric).map(|row| MetricSetting {
                metric: row.metric,
                aggregation: row.aggregation,
                higher_is_better: row.higher_is_better,
                exact: ExactMatch::default(),
                counted: None,
                labels: None,
            })
        };
        return Ok(Metric::defaults(output).iter().filter_map(plain).collect());
    };
    let mut metrics: Vec<MetricSetting> = Vec::new();
    for (i, map) in setting.maps()?.into_iter().enumerate() {
        let metric = metric(Options::new(setting, format!("metric_list[{i}]"), map), output)?;
        metrics.retain(|known| known.metric != metric.metric);
        metrics.push(metric);
    }
    // A task of generated texts may leave judging them to others.
    if metrics.is_empty() && output != Output::GenerateUntil {
        return Err(setting.error("`metric_list` is empty"));
    }
    Ok(metrics)
}

fn metric(mut options: Options<'_>, output: Output) -> Result<MetricSetting> {
    let name = options.text("metric")?.ok_or_else(|| {
        options
            .setting
            .error_at(&options.key("metric"), "an entry of `metric_list` has no `metric`")
    })?;
    let known = || METRICS.iter().filter(|row| row.outputs.contains(&output)).map(|row| row.name);
    let row =
        Metric::named(&name).filter(|row| row.outputs.contains(&output)).ok_or_else(|| {
            let what = match Metric::named(&name) {
                Some(_) => format!("the metric `{name}` is not defined for `{}`", output.name()),
                None => format!("the metric `{name}` is not supported"),
            };
            let error = options
                .setting
                .error_at(&options.key("metric"), what)
                .fact("expected", format!("one of {}", known().collect::<Vec<_>>().join(", ")));
            match nearest(&name, known()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            }
        })?;
    if options.flag("hf_evaluate")? == Some(true) && row.metric != Metric::ExactMatch {
        return Err(options
            .setting
            .error_at(
                &options.key("hf_evaluate"),
                "metrics of the library `evaluate` are not there",
            )
            .hint("leave `hf_evaluate` out to use the built-in metric of this name"));
    }
    let aggregation = match options.text("aggregation")? {
        None => row.aggregation,
        Some(name) => Aggregation::named(&name).ok_or_else(|| {
            options
                .setting
                .error_at(&options.key("aggregation"), format!("the aggregation `{name}` is not supported"))
                .fact("expected", "one of mean, nanmean, median, perplexity, weighted_perplexity, bits_per_byte, f1, matthews_corrcoef, brier_score")
        })?,
    };
    let setting = MetricSetting {
        metric: row.metric,
        aggregation,
        higher_is_better: options.flag("higher_is_better")?.unwrap_or(row.higher_is_better),
        exact: ExactMatch {
            regexes_to_ignore: options.patterns("regexes_to_ignore")?,
            ignore_case: options.flag("ignore_case")?.unwrap_or(false),
            ignore_punctuation: options.flag("ignore_punctuation")?.unwrap_or(false),
            ignore_numbers: options.flag("ignore_numbers")?.unwrap_or(false),
        },
        counted: options.text("counted")?,
        labels: options.text("labels")?,
    };
    if setting.labels.is_some() && (row.metric, output) != (Metric::Acc, Output::MultipleChoice) {
        return Err(options
            .setting
            .error_at(&options.key("labels"), "`labels` belongs to `acc` of `multiple_choice`"));
    }
    // lm-eval's files have it here, where it does nothing.
    options.flag("weight_by_size")?;
    options.finish(&[
        "metric",
        "aggregation",
        "higher_is_better",
        "ignore_case",
        "ignore_punctuation",
        "ignore_numbers",
        "regexes_to_ignore",
        "counted",
        "labels",
    ])?;
    Ok(setting)
}

/// New tokens at most, unless the task says otherwise (`DEFAULT_MAX_GEN_TOKS` of lm-eval).
const MAX_TOKENS: usize = 256;

/// Likeliest tokens that are drawn from, unless the task says otherwise (`top_k` of transformers'
/// `GenerationConfig`).
const TOP_K: usize = 50;

/// Reads `generation_kwargs`.
pub(super) fn generation(
    setting: Option<&Setting>,
    repeats: usize,
    delimiter: &str,
) -> Result<Generation> {
    let mut generation = Generation {
        until: vec![delimiter.to_string()],
        max_tokens: MAX_TOKENS,
        sample: None,
        repeats,
    };
    let Some(setting) = setting else {
        return Ok(generation);
    };
    let mut options = Options::new(setting, setting.key.clone(), setting.map()?);
    if let Some(until) = options.texts("until")? {
        generation.until = until;
    }
    let lengths = ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"];
    for name in lengths.into_iter().rev() {
        if let Some(length) = options.whole(name)? {
            let length = usize::try_from(length).ok().filter(|length| *length > 0);
            generation.max_tokens = length.ok_or_else(|| {
                setting.error_at(&options.key(name), "a text of no tokens cannot be generated")
            })?;
        }
    }
    let temperature = options.number("temperature")?.unwrap_or(0.0);
    let sampled = options.flag("do_sample")?.unwrap_or(temperature > 0.0);
    let top_k = options.whole("top_k")?.and_then(|k| usize::try_from(k).ok());
    let top_p = options.number("top_p")?;
    if sampled {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(setting
                .error_at(&options.key("temperature"), "sampling needs a temperature above 0")
                .expected("a number above 0", temperature));
        }
        if let Some(p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(setting
                .error_at(&options.key("top_p"), "the value of `top_p` is out of range")
                .expected("above 0, up to 1", p));
        }
        let top_k = Some(top_k.unwrap_or(TOP_K)).filter(|k| *k > 0);
        generation.sample =
            Some(SampleSettings { temperature, top_k, top_p: top_p.filter(|p| *p < 1.0) });
    }
    let mut known = vec!["until", "do_sample", "temperature", "top_k", "top_p"];
    known.extend(lengths);
    options.finish(&known)?;
    Ok(generation)
}
