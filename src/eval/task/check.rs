//! From settings to a checked [`Task`].

use super::settings::{Setting, Settings};
use super::{Fewshot, Format, Output, Part, Sampler, Task, filters, parts};
use crate::error::{Error, Result, nearest};
use crate::eval::dataset::{DataFiles, Document, Location, Value};
use crate::eval::template::Templates;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Keys of `fewshot_config`.
const FEWSHOT_KEYS: [&str; 11] = [
    "sampler",
    "split",
    "samples",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "gen_prefix",
    "target_delimiter",
    "fewshot_delimiter",
    "fewshot_indices",
    "skip",
];

/// Keys of `dataset_kwargs` that change nothing here.
const IGNORED_KWARGS: [&str; 3] = ["trust_remote_code", "streaming", "token"];

/// Makes a task of a file's settings.
pub(super) fn task(settings: &Settings) -> Result<Task> {
    settings.refuse()?;
    let name = required(settings, "task")?.text()?;
    let text = |key: &str| settings.get(key).map(Setting::text).transpose();
    let output = output(settings)?;
    let format = Format {
        text: settings.get("doc_to_text").map(part).transpose()?,
        target: settings.get("doc_to_target").map(part).transpose()?,
        choice: settings.get("doc_to_choice").map(part).transpose()?,
        prefix: text("gen_prefix")?,
        target_delimiter: text("target_delimiter")?.unwrap_or_else(|| " ".to_string()),
        fewshot_delimiter: text("fewshot_delimiter")?.unwrap_or_else(|| "\n\n".to_string()),
    };
    complete(settings, output, &format)?;
    let (location, dataset_name) = dataset(settings)?;
    let repeats = settings.get("repeats").map(Setting::count).transpose()?.unwrap_or(1).max(1);
    let version = settings.get("metadata").and_then(|metadata| match &metadata.value {
        Json::Object(map) => map.get("version").map(|version| Value::from_json(version).display()),
        _ => None,
    });
    let mut tags = Vec::new();
    for key in ["tag", "group"] {
        tags.extend(settings.get(key).map(Setting::texts).transpose()?.unwrap_or_default());
    }
    let task = Task {
        name,
        file: settings.file.clone(),
        version,
        tags,
        location,
        dataset_name,
        training_split: text("training_split")?,
        validation_split: text("validation_split")?,
        test_split: text("test_split")?,
        output,
        description: text("description")?.unwrap_or_default(),
        fewshot: fewshot(settings, &format)?,
        metrics: parts::metrics(settings.get("metric_list"), output)?,
        filters: filters::filters(settings.get("filter_list"))?,
        generation: parts::generation(
            settings.get("generation_kwargs").filter(|_| output == Output::GenerateUntil),
            repeats,
            &format.fewshot_delimiter,
        )?,
        format,
    };
    if task.evaluated_split().is_none() {
        return Err(Error::input("a task names no split to evaluate")
            .file(&settings.file)
            .key("test_split")
            .hint("set `test_split` or `validation_split`"));
    }
    templates(settings, &task)?;
    Ok(task)
}

fn required<'a>(settings: &'a Settings, key: &str) -> Result<&'a Setting> {
    settings.get(key).ok_or_else(|| {
        Error::input(format!("the key `{key}` is missing")).file(&settings.file).key(key)
    })
}

fn output(settings: &Settings) -> Result<Output> {
    let Some(setting) = settings.get("output_type") else {
        return Ok(Output::GenerateUntil);
    };
    let all =
        [Output::MultipleChoice, Output::LogLikelihood, Output::Rolling, Output::GenerateUntil];
    let name = setting.text()?;
    all.into_iter().find(|output| output.name() == name).ok_or_else(|| {
        let names = all.map(Output::name);
        let error = setting
            .error(format!("unknown output type `{name}`"))
            .fact("expected", format!("one of {}", names.join(", ")));
        match nearest(&name, names) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error,
        }
    })
}

/// Refuses a task that lacks what its output type needs.
fn complete(settings: &Settings, output: Output, format: &Format) -> Result<()> {
    let need = |key: &str, there: bool| match there {
        true => Ok(()),
        false => Err(Error::input(format!("a task of `{}` needs `{key}`", output.name()))
            .file(&settings.file)
            .key(key)),
    };
    need("doc_to_target", format.target.is_some())?;
    if output != Output::Rolling {
        need("doc_to_text", format.text.is_some())?;
    }
    if output == Output::MultipleChoice {
        need("doc_to_choice", format.choice.is_some())?;
    }
    Ok(())
}

fn part(setting: &Setting) -> Result<Part> {
    part_of(&setting.value).ok_or_else(|| {
        setting
            .error(format!("the value of `{}` has the wrong type", setting.key))
            .expected("a column, a template, a number, a list or a mapping", &setting.value)
    })
}

fn part_of(value: &Json) -> Option<Part> {
    match value {
        Json::String(text) => Some(Part::Text(text.clone())),
        Json::Number(_) | Json::Array(_) => Some(Part::Value(Value::from_json(value))),
        // Of a mapping, the values are the choices.
        Json::Object(map) => {
            Some(Part::Value(Value::List(map.values().map(Value::from_json).collect())))
        }
        Json::Null | Json::Bool(_) => None,
    }
}

fn fewshot(settings: &Settings, format: &Format) -> Result<Fewshot> {
    let count = settings.get("num_fewshot").map(Setting::count).transpose()?;
    let mut fewshot = Fewshot {
        count: count.unwrap_or(0),
        never: count == Some(0),
        sampler: Sampler::Random,
        split: settings.get("fewshot_split").map(Setting::text).transpose()?,
        skip: 0,
        samples: None,
        format: format.clone(),
    };
    let Some(setting) = settings.get("fewshot_config") else {
        return Ok(fewshot);
    };
    for (name, value) in setting.map()?.iter().filter(|(_, value)| !value.is_null()) {
        let key = format!("fewshot_config.{name}");
        let wrong = |expected: &str| {
            setting
                .error_at(&key, format!("the value of `{name}` has the wrong type"))
                .expected(expected, value)
        };
        let text = || value.as_str().map(ToString::to_string).ok_or_else(|| wrong("a text"));
        let part =
            || part_of(value).ok_or_else(|| wrong("a column, a template or a list")).map(Some);
        match name.as_str() {
            "sampler" => {
                fewshot.sampler = match text()?.as_str() {
                    "default" => Sampler::Random,
                    "first_n" => Sampler::FirstN,
                    other => {
                        return Err(setting
                            .error_at(&key, format!("unknown sampler `{other}`"))
                            .fact("expected", "`default` or `first_n`"));
                    }
                };
            }
            "split" => fewshot.split = Some(text()?),
            "samples" => {
                let rows = value.as_array().map(|rows| rows.iter().map(row).collect());
                let rows: Option<Option<Vec<Document>>> = rows;
                fewshot.samples = Some(rows.flatten().ok_or_else(|| wrong("a list of mappings"))?);
            }
            "skip" => {
                let skip = value.as_u64().and_then(|skip| usize::try_from(skip).ok());
                fewshot.skip = skip.ok_or_else(|| wrong("a whole number from 0 on"))?;
            }
            "doc_to_text" => fewshot.format.text = part()?,
            "doc_to_target" => fewshot.format.target = part()?,
            "doc_to_choice" => fewshot.format.choice = part()?,
            "gen_prefix" => fewshot.format.prefix = Some(text()?),
            "target_delimiter" => fewshot.format.target_delimiter = text()?,
            "fewshot_delimiter" => fewshot.format.fewshot_delimiter = text()?,
            "fewshot_indices" => {
                return Err(setting
                    .error_at(&key, "`fewshot_indices` is not supported")
                    .hint("lm-eval 0.4.13 reads it and does not use it; list the examples under `samples`"));
            }
            _ => {
                let error = setting
                    .error_at(&key, format!("unknown key `{name}`"))
                    .fact("expected", format!("one of {}", FEWSHOT_KEYS.join(", ")));
                return Err(match nearest(name, FEWSHOT_KEYS) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                });
            }
        }
    }
    Ok(fewshot)
}

fn row(value: &Json) -> Option<Document> {
    match Value::from_json(value) {
        Value::Map(map) => Some(Document(map)),
        _ => None,
    }
}

fn dataset(settings: &Settings) -> Result<(Location, Option<String>)> {
    let path = required(settings, "dataset_path")?;
    let name = settings.get("dataset_name").map(Setting::text).transpose()?;
    let (files, kwargs) = match settings.get("dataset_kwargs") {
        Some(kwargs) => (data_files(kwargs)?, kwargs),
        None => (DataFiles::default(), path),
    };
    let location = Location::parse(&path.text()?, files, &kwargs.folder)
        .map_err(|e| e.fact("file", &path.place))?;
    Ok((location, name))
}

fn data_files(setting: &Setting) -> Result<DataFiles> {
    let mut files = DataFiles::default();
    for (name, value) in setting.map()? {
        let key = format!("dataset_kwargs.{name}");
        let wrong = |expected: &str| {
            setting
                .error_at(&key, format!("the value of `{name}` has the wrong type"))
                .expected(expected, value)
        };
        let paths = |value: &Json| match value {
            Json::String(path) => Some(vec![path.clone()]),
            Json::Array(paths) => {
                paths.iter().map(|path| path.as_str().map(ToString::to_string)).collect()
            }
            _ => None,
        };
        match name.as_str() {
            "data_files" => {
                let by_split: Option<BTreeMap<String, Vec<String>>> = match value {
                    Json::Object(map) => map
                        .iter()
                        .map(|(split, value)| Some((split.clone(), paths(value)?)))
                        .collect(),
                    value => paths(value).map(|paths| [("train".to_string(), paths)].into()),
                };
                files.splits =
                    by_split.ok_or_else(|| wrong("a path, a list of them, or these by split"))?;
            }
            "field" => {
                let field = value.as_str().ok_or_else(|| wrong("a text"))?;
                files.field = Some(field.to_string());
            }
            "delimiter" | "sep" => match value.as_str().map(str::as_bytes) {
                Some([byte]) => files.delimiter = Some(*byte),
                _ => return Err(wrong("one character")),
            },
            other if IGNORED_KWARGS.contains(&other) => {}
            _ => {
                return Err(setting
                    .error_at(&key, format!("`{name}` is not supported"))
                    .fact("expected", "data_files, field or delimiter"));
            }
        }
    }
    Ok(files)
}

/// Checks the syntax of every template of the task.
fn templates(settings: &Settings, task: &Task) -> Result<()> {
    let templates = Templates::default();
    for key in ["description", "doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix"] {
        if let Some(setting) = settings.get(key)
            && let Json::String(source) = &setting.value
        {
            templates
                .check(source)
                .map_err(|e| e.fact("file", &setting.place).key(&setting.key))?;
        }
    }
    let sources = task.metrics.iter().flat_map(|metric| [&metric.counted, &metric.labels]);
    for source in sources.flatten() {
        templates.check(source).map_err(|e| e.file(&settings.file).key("metric_list"))?;
    }
    Ok(())
}
