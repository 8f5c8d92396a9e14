//! `filter_list` of a task file.

use super::options::Options;
use super::settings::Setting;
use crate::error::{Result, nearest};
use crate::eval::filter::{
    Extract, Filter, ListedWords, MapRegex, MultiChoice, NumberRegex, Pipeline, Reduction,
};
use serde_json::Value as Json;
use std::collections::BTreeMap;

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
    const FUNCTIONS: [&str; 12] = [
        "regex",
        "take_first",
        "take_first_k",
        "majority_vote",
        "remove_whitespace",
        "lowercase",
        "uppercase",
        "map",
        "multi_choice_regex",
        "map_regex",
        "number_regex",
        "listed_words",
    ];
    let name = options.text("function")?.unwrap_or_default();
    let mut known = vec!["function"];
    let step = match name.as_str() {
        "regex" | "number_regex" => {
            let source = options.text("regex_pattern")?;
            let extract = extract(&mut options, &mut known, source)?;
            match name.as_str() {
                "regex" => Filter::Regex(extract),
                _ => Filter::NumberRegex(NumberRegex { extract }),
            }
        }
        "multi_choice_regex" => {
            known.push("choices_from");
            let source = options.text("regex_pattern")?;
            Filter::MultiChoice(MultiChoice {
                extract: extract(&mut options, &mut known, source)?,
                reduction: reduction(&mut options, &mut known)?,
                column: options.text("choices_from")?,
            })
        }
        "map_regex" => {
            known.push("regex_pattern_to_value");
            let expected = "a mapping of patterns to texts";
            let map = options.take("regex_pattern_to_value", expected, |value| {
                let map = value.as_object()?.iter();
                map.map(|(pattern, value)| Some((pattern.clone(), value.as_str()?.to_string())))
                    .collect::<Option<Vec<_>>>()
            })?;
            let map = map.filter(|map| !map.is_empty()).ok_or_else(|| {
                options.setting.error_at(
                    &options.key("regex_pattern_to_value"),
                    "`map_regex` needs `regex_pattern_to_value`",
                )
            })?;
            let any: Vec<&str> = map.iter().map(|(pattern, _)| pattern.as_str()).collect();
            let any = Some(any.join("|"));
            let value = |(pattern, value): &(String, String)| {
                Ok((options.pattern("regex_pattern_to_value", pattern)?, value.clone()))
            };
            let values = map.iter().map(value).collect::<Result<_>>()?;
            Filter::MapRegex(MapRegex {
                any: extract(&mut options, &mut known, any)?,
                values,
                reduction: reduction(&mut options, &mut known)?,
            })
        }
        "listed_words" => {
            known.extend(["column", "after"]);
            Filter::ListedWords(ListedWords {
                column: options.text("column")?.unwrap_or_else(|| "input".to_string()),
                after: options.text("after")?.unwrap_or_else(|| "List:".to_string()),
            })
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

/// The keys of every filter that takes a match.
fn extract(
    options: &mut Options<'_>,
    known: &mut Vec<&str>,
    source: Option<String>,
) -> Result<Extract> {
    known.extend(["regex_pattern", "group_select", "fallback"]);
    let source = source.unwrap_or_else(|| r"#### (\-?[0-9\.\,]+)".to_string());
    Ok(Extract {
        pattern: options.pattern("regex_pattern", &source)?,
        select: options.whole("group_select")?.unwrap_or(0),
        fallback: options.text("fallback")?.unwrap_or_else(|| "[invalid]".to_string()),
    })
}

/// What a filter leaves out of account.
fn reduction(options: &mut Options<'_>, known: &mut Vec<&str>) -> Result<Reduction> {
    known.extend(["ignore_case", "ignore_punctuation", "regexes_to_ignore"]);
    Ok(Reduction {
        ignore_case: options.flag("ignore_case")?.unwrap_or(false),
        ignore_punctuation: options.flag("ignore_punctuation")?.unwrap_or(false),
        regexes_to_ignore: options.patterns("regexes_to_ignore")?,
    })
}
