//! A task file as it is written: keys with their places, what it includes laid under it.
//!
//! Keys are checked against the list of known ones here; what stands under them in `check.rs`.

use crate::error::{Error, Result, nearest};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;
use serde_yaml::{DuplicateKeyPolicy, Spanned};
use std::fmt;
use std::path::{Path, PathBuf};

/// Files that include files at most, one in the other.
const MAX_INCLUDES: usize = 16;

/// The largest task file that is read.
const MAX_BYTES: u64 = 16 << 20;

/// Keys of a task or a group.
const KEYS: [&str; 42] = [
    "aggregate_metric_list",
    "dataset_kwargs",
    "dataset_name",
    "dataset_path",
    "description",
    "doc_to_choice",
    "doc_to_decontamination_query",
    "doc_to_target",
    "doc_to_text",
    "fewshot_config",
    "fewshot_delimiter",
    "fewshot_split",
    "filter_list",
    "gen_prefix",
    "generation_kwargs",
    "group",
    "group_alias",
    "include",
    "metadata",
    "metric_list",
    "num_fewshot",
    "output_type",
    "repeats",
    "should_decontaminate",
    "table",
    "tag",
    "target_delimiter",
    "task",
    "task_alias",
    "test_split",
    "training_split",
    "unsafe_code",
    "validation_split",
    "variables",
    // Known, and refused with what to do instead.
    "class",
    "custom_dataset",
    "doc_to_audio",
    "doc_to_image",
    "process_docs",
    "process_results",
    "task_list",
    "use_prompt",
];

/// Keys that cannot work here, and what to write instead.
const REFUSED: [(&str, &str); 8] = [
    ("class", "a task written as a Python class cannot be run; write it as YAML"),
    (
        "custom_dataset",
        "write the rows to a JSONL file, and name it: `dataset_path: json`, `dataset_kwargs: {data_files: {test: FILE}}`",
    ),
    ("doc_to_audio", "only text is evaluated"),
    ("doc_to_image", "only text is evaluated"),
    (
        "process_docs",
        "change the rows in the templates (Jinja with regex_replace), or write the changed rows to a JSONL file and name it under `dataset_kwargs.data_files`",
    ),
    ("process_results", "use `metric_list` and `filter_list`"),
    ("task_list", "write one file a task, with `include` for what they share"),
    ("use_prompt", "write the prompt into doc_to_text and doc_to_target"),
];

/// What to write instead of a Python function under a key.
fn instead_of_function(key: &str) -> String {
    if let Some((_, hint)) = REFUSED.iter().find(|(known, _)| *known == key) {
        return (*hint).to_string();
    }
    match key {
        "doc_to_text" | "doc_to_target" | "doc_to_choice" | "description" => format!(
            "write `{key}` as a Jinja template over the columns, or as a column's name"
        ),
        "aggregation" => "use one of mean, median, perplexity, weighted_perplexity, bits_per_byte, f1, matthews_corrcoef, brier_score".to_string(),
        "metric" => "use one of the built-in metrics".to_string(),
        "function" => "use regex, take_first, remove_whitespace, lowercase, uppercase, map, multi_choice_regex, map_regex, number_regex, listed_words, majority_vote or take_first_k".to_string(),
        "sampler" => "use `default` or `first_n`".to_string(),
        "samples" => "list the samples in the file, each a mapping of columns to values".to_string(),
        _ => "write data in its place".to_string(),
    }
}

/// A key of a task file with its value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Json,
    /// `file:line:column` of the value.
    pub(super) place: String,
    /// The folder of the file it stands in, which paths start from.
    pub(super) folder: PathBuf,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// What cannot work is an error.
    Checked,
    /// To know what a file that cannot work would have been called, and belonged to.
    Names,
}

/// The settings of a task or group.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) file: PathBuf,
    pub(super) all: Vec<Setting>,
}

impl Settings {
    /// Reads a file and what it includes. Of a key that stands in both, the file's own counts;
    /// values are replaced whole.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let read = |file: &Path| -> Result<String> {
            let failed = |e| Error::io("read the task file", file, &e);
            if std::fs::metadata(file).map_err(failed)?.len() > MAX_BYTES {
                return Err(Error::input("the task file is too large")
                    .file(file)
                    .expected(format!("at most {MAX_BYTES} bytes"), "more"));
            }
            std::fs::read_to_string(file).map_err(failed)
        };
        Self::with_includes(file, &read, Strictness::Checked, &mut Vec::new())
    }

    /// The same for files that come from wherever `read` has them.
    pub(super) fn with_includes(
        file: &Path,
        read: &dyn Fn(&Path) -> Result<String>,
        strictness: Strictness,
        open: &mut Vec<PathBuf>,
    ) -> Result<Self> {
        if open.iter().any(|other| other == file) || open.len() >= MAX_INCLUDES {
            return Err(Error::input("task files include each other in a circle")
                .file(file)
                .key("include"));
        }
        open.push(file.to_path_buf());
        let mut own = Self::parse(file, &read(file)?, strictness)?;
        let mut merged = Self { file: file.to_path_buf(), all: Vec::new() };
        if let Some(include) = own.take("include") {
            for path in include.texts()? {
                let path = include.folder.join(path);
                let mut included = Self::with_includes(&path, read, strictness, open)?;
                included.take("task_list");
                merged.lay_over(included.all);
            }
        }
        merged.lay_over(own.all);
        open.pop();
        Ok(merged)
    }

    /// Parses one file.
    fn parse(file: &Path, text: &str, strictness: Strictness) -> Result<Self> {
        // `y` and `no` are texts, as choices often are.
        let mut options = serde_yaml::options! { strict_booleans: true };
        match strictness {
            Strictness::Checked => refuse_functions(file, text)?,
            Strictness::Names => options.duplicate_keys = DuplicateKeyPolicy::LastWins,
        }
        let entries: Entries =
            serde_yaml::from_str_with_options(text, options).map_err(|e| yaml_error(file, &e))?;
        let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
        let setting = |(key, value): (Spanned<String>, Spanned<Json>)| {
            let key_place = at(file, key.referenced.line(), key.referenced.column());
            if strictness == Strictness::Checked {
                known(&key.value).map_err(|e| e.fact("file", &key_place))?;
            }
            Ok(Setting {
                key: key.value,
                value: value.value,
                place: at(file, key.referenced.line(), key.referenced.column()),
                folder: folder.clone(),
            })
        };
        let all = entries.0.into_iter().map(setting).collect::<Result<_>>()?;
        Ok(Self { file: file.to_path_buf(), all })
    }

    /// Replaces keys by others' values, and adds those that are not there.
    pub(super) fn lay_over(&mut self, over: impl IntoIterator<Item = Setting>) {
        for setting in over {
            self.all.retain(|known| known.key != setting.key);
            self.all.push(setting);
        }
    }

    /// The setting of a key, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.all.iter().find(|setting| setting.key == key && !setting.value.is_null())
    }

    /// The same, taken out.
    pub(super) fn take(&mut self, key: &str) -> Option<Setting> {
        let found = self.all.iter().position(|setting| setting.key == key)?;
        Some(self.all.remove(found)).filter(|setting| !setting.value.is_null())
    }

    /// Refuses keys that cannot work here.
    pub(super) fn refuse(&self) -> Result<()> {
        for (key, hint) in REFUSED {
            if let Some(setting) = self.get(key) {
                return Err(setting.error(format!("`{key}` is not supported")).hint(hint));
            }
        }
        Ok(())
    }
}

impl Setting {
    /// An error about the setting.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::input(message).fact("file", &self.place).key(&self.key)
    }

    /// An error about a part of the setting, which `key` names in full.
    pub(super) fn error_at(&self, key: &str, message: impl Into<String>) -> Error {
        Error::input(message).fact("file", &self.place).key(key)
    }

    fn wrong(&self, expected: &str) -> Error {
        self.error(format!("the value of `{}` has the wrong type", self.key))
            .expected(expected, &self.value)
    }

    /// The value as text.
    pub(super) fn text(&self) -> Result<String> {
        match &self.value {
            Json::String(text) => Ok(text.clone()),
            Json::Number(number) => Ok(number.to_string()),
            _ => Err(self.wrong("a text")),
        }
    }

    /// The value as a list of texts; one text is a list of it.
    pub(super) fn texts(&self) -> Result<Vec<String>> {
        match &self.value {
            Json::String(text) => Ok(vec![text.clone()]),
            Json::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(ToString::to_string))
                .collect::<Option<_>>()
                .ok_or_else(|| self.wrong("a text or a list of texts")),
            _ => Err(self.wrong("a text or a list of texts")),
        }
    }

    /// The value as a whole number from 0 on.
    pub(super) fn count(&self) -> Result<usize> {
        let count = self.value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.wrong("a whole number from 0 on"))
    }

    /// The value as a mapping.
    pub(super) fn map(&self) -> Result<&serde_json::Map<String, Json>> {
        self.value.as_object().ok_or_else(|| self.wrong("a mapping"))
    }

    /// The value as a list of mappings.
    pub(super) fn maps(&self) -> Result<Vec<&serde_json::Map<String, Json>>> {
        let items = match &self.value {
            Json::Array(items) => items.iter().collect(),
            one => vec![one],
        };
        let maps: Option<Vec<_>> = items.into_iter().map(Json::as_object).collect();
        maps.ok_or_else(|| self.wrong("a list of mappings"))
    }
}

/// The keys and values of a document, with their places.
struct Entries(Vec<(Spanned<String>, Spanned<Json>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of keys to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

fn at(file: &Path, line: u64, column: u64) -> String {
    format!("{}:{line}:{column}", file.display())
}

/// Whether a task or a group has a key of this name.
pub(super) fn is_key(key: &str) -> bool {
    KEYS.contains(&key)
}

fn known(key: &str) -> Result<()> {
    if is_key(key) {
        return Ok(());
    }
    let unknown = Error::input(format!("unknown key `{key}`")).key(key);
    Err(match nearest(key, KEYS) {
        Some(near) => unknown.hint(format!("did you mean `{near}`?")),
        None => unknown.hint("docs/evaluator.md lists the keys of a task"),
    })
}

/// Finds `!function` in a file's text: tags are gone once it is parsed.
fn refuse_functions(file: &Path, text: &str) -> Result<()> {
    for (i, line) in text.lines().enumerate() {
        let Some(at) = line.find("!function") else {
            continue;
        };
        let before = &line[..at];
        if before.trim_start().starts_with('#') || before.contains(" #") {
            continue;
        }
        let Some(key) = before.trim_end().strip_suffix(':') else {
            continue;
        };
        let key = key.trim_start_matches(|c: char| c.is_whitespace() || c == '-');
        let key = key.trim_matches(['"', '\'']);
        let function = line[at + "!function".len()..].trim();
        return Err(Error::input("a task calls a Python function, and cognate runs no Python")
            .fact("file", format!("{}:{}:{}", file.display(), i + 1, at + 1))
            .key(key)
            .fact("function", function)
            .hint(instead_of_function(key)));
    }
    Ok(())
}

fn yaml_error(file: &Path, error: &serde_yaml::Error) -> Error {
    let error = error.without_snippet();
    let place = match error.location() {
        Some(place) => at(file, place.line(), place.column()),
        None => file.display().to_string(),
    };
    if let serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } = error {
        return Error::input("a key stands twice").fact("file", place).key(key);
    }
    let reason = error.to_string();
    let reason = reason.lines().next().unwrap_or_default();
    let reason = reason.split(" at line ").next().unwrap_or(reason);
    Error::input("the task file is not what one must be").fact("file", place).fact("reason", reason)
}
