//! The lists of a task file: metrics, filters, and how texts are generated.

use super::settings::Setting;
use super::{Generation, MetricSetting, Output, SampleSettings};
use crate::error::{Error, Result, nearest};
use crate::eval::filter::{Extract, Filter, MultiChoice, Pipeline};
use crate::eval::metric::{Aggregation, ExactMatch, METRICS, Metric};
use crate::eval::pattern::Pattern;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// A mapping within a setting, whose keys are taken out one by one; what is left is unknown.
struct Options<'a> {
    setting: &'a Setting,
    path: String,
    map: Map<String, Json>,
}

impl<'a> Options<'a> {
    fn new(setting: &'a Setting, path: String, map: &Map<String, Json>) -> Self {
        Self { setting, path, map: map.clone() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    fn wrong(&self, name: &str, expected: &str, found: &Json) -> Error {
        self.setting
            .error_at(&self.key(name), format!("the value of `{name}` has the wrong type"))
            .expected(expected, found)
    }

    fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&Json) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.map.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => match read(&value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.wrong(name, expected, &value)),
            },
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.take(name, "a text", |value| value.as_str().map(ToString::to_string))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.take(name, "true or false", |value| match value {
            Json::String(text) if ["true", "yes", "on"].contains(&text.to_lowercase().as_str()) => {
                Some(true)
            }
            Json::String(text)
                if ["false", "no", "off"].contains(&text.to_lowercase().as_str()) =>
            {
                Some(false)
            }
            value => value.as_bool(),
        })
    }

    fn whole(&mut self, name: &str) -> Result<Option<i64>> {
        self.take(name, "a whole number", Json::as_i64)
    }

    fn number(&mut self, name: &str) -> Result<Option<f64>> {
        self.take(name, "a number", |value| match value {
            Json::String(text) => text.trim().parse().ok(),
            value => value.as_f64(),
        })
    }

    fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        self.take(name, "a list of texts", |value| match value {
            Json::String(text) => Some(vec![text.clone()]),
            Json::Array(items) => {
                items.iter().map(|item| item.as_str().map(ToString::to_string)).collect()
            }
            _ => None,
        })
    }

    fn patterns(&mut self, name: &str) -> Result<Vec<Pattern>> {
        let texts = self.texts(name)?.unwrap_or_default();
        texts.iter().map(|text| self.pattern(name, text)).collect()
    }

    fn pattern(&self, name: &str, text: &str) -> Result<Pattern> {
        Pattern::new(text).map_err(|e| e.fact("file", &self.setting.place).key(self.key(name)))
    }

    /// Refuses what has not been taken.
    fn finish(self, known: &[&str]) -> Result<()> {
        let Some(name) = self.map.keys().next() else {
            return Ok(());
        };
        let unknown = self
            .setting
            .error_at(&self.key(name), format!("unknown key `{name}`"))
            .fact("expected", format!("one of {}", known.join(", ")));
        Err(match nearest(name, known.iter().copied()) {
            Some(near) => unknown.hint(format!("did you mean `{near}`?")),
            None => unknown,
        })
    }
}

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
    if metrics.is_empty() {
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
    };
    options.finish(&[
        "metric",
        "aggregation",
        "higher_is_better",
        "ignore_case",
        "ignore_punctuation",
        "ignore_numbers",
        "regexes_to_ignore",
        "counted",
    ])?;
    Ok(setting)
}

/// Reads `filter_list`.
pub(super) fn filters(setting: Option<&Setting>) -> Result<Vec<Pipeline>> {
    let Some(setting) = setting else {
        return Ok(vec![Pipeline::default()]);
    };
    let mut pipelines: Vec<Pipeline> = Vec::new();
    for (i, map) in setting.maps()?.into_iter().enumerate() {
        let path = format!("filter_list[{i}]");
        let mut options = Options::new(setting, path.clone(), map);
        let name = options.text("name")?.ok_or_else(|| {
            setting.error_at(&options.key("name"), "an entry of `filter_list` has no `name`")
        })?;
        if pipelines.iter().any(|known| known.name == name) {
            return Err(
                setting.error_at(&options.key("name"), format!("two filters are called `{name}`"))
            );
        }
        let steps = options.take("filter", "a list of mappings", |value| match value {
            Json::Array(steps) => {
                steps.iter().map(|step| step.as_object().cloned()).collect::<Option<Vec<_>>>()
            }
            _ => None,
        })?;
        let steps = steps.unwrap_or_default();
        let steps = steps
            .iter()
            .enumerate()
            .map(|(j, step)| filter(Options::new(setting, format!("{path}.filter[{j}]"), step)));
        let steps = steps.collect::<Result<_>>()?;
        options.finish(&["name", "filter"])?;
        pipelines.push(Pipeline { name, steps });
    }
    Ok(pipelines)
}

fn filter(mut options: Options<'_>) -> Result<Filter> {
    const FUNCTIONS: [&str; 9] = [
        "regex",
        "take_first",
        "take_first_k",
        "majority_vote",
        "remove_whitespace",
        "lowercase",
        "uppercase",
        "map",
        "multi_choice_regex",
    ];
    let name = options.text("function")?.unwrap_or_default();
    let mut known = vec!["function"];
    let step = match name.as_str() {
        "regex" | "multi_choice_regex" => {
            let source = options.text("regex_pattern")?;
            let source = source.unwrap_or_else(|| r"#### (\-?[0-9\.\,]+)".to_string());
            let extract = Extract {
                pattern: options.pattern("regex_pattern", &source)?,
                select: options.whole("group_select")?.unwrap_or(0),
                fallback: options.text("fallback")?.unwrap_or_else(|| "[invalid]".to_string()),
            };
            known.extend(["regex_pattern", "group_select", "fallback"]);
            if name == "regex" {
                Filter::Regex(extract)
            } else {
                known.extend(["ignore_case", "ignore_punctuation", "regexes_to_ignore"]);
                Filter::MultiChoice(MultiChoice {
                    extract,
                    ignore_case: options.flag("ignore_case")?.unwrap_or(false),
                    ignore_punctuation: options.flag("ignore_punctuation")?.unwrap_or(false),
                    regexes_to_ignore: options.patterns("regexes_to_ignore")?,
                })
            }
        }
        "take_first" => Filter::TakeFirst,
        "take_first_k" => {
            known.push("k");
            let k = options.whole("k")?.and_then(|k| usize::try_from(k).ok()).filter(|k| *k > 0);
            Filter::TakeFirstK(k.ok_or_else(|| {
                options.setting.error_at(&options.key("k"), "`take_first_k` needs `k`, from 1 on")
            })?)
        }
        "majority_vote" => Filter::MajorityVote,
        "remove_whitespace" => Filter::RemoveWhitespace,
        "lowercase" => Filter::Lowercase,
        "uppercase" => Filter::Uppercase,
        "map" => {
            known.extend(["mapping_dict", "default_value"]);
            let text = |value: &Json| match value {
                Json::String(text) => Some(text.clone()),
                Json::Number(number) => Some(number.to_string()),
                _ => None,
            };
            let mapping = options.take("mapping_dict", "a mapping of texts", |value| {
                let map = value.as_object()?.iter();
                map.map(|(from, to)| Some((from.clone(), text(to)?)))
                    .collect::<Option<BTreeMap<_, _>>>()
            })?;
            let default = options.take("default_value", "a text", text)?;
            Filter::Map {
                mapping: mapping.unwrap_or_default(),
                default: default.unwrap_or_else(|| "None".to_string()),
            }
        }
        other => {
            let error = options
                .setting
                .error_at(
                    &options.key("function"),
                    format!("the filter `{other}` is not supported"),
                )
                .fact("expected", format!("one of {}", FUNCTIONS.join(", ")));
            return Err(match nearest(other, FUNCTIONS) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            });
        }
    };
    options.finish(&known)?;
    Ok(step)
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
