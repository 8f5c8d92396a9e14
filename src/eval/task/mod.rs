//! Tasks as data: lm-evaluation-harness' YAML → checked [`Task`]s and [`Group`]s.
//!
//! `settings.rs` reads keys with their places and includes, `table.rs` makes several tasks of a file
//! with a table, `check.rs` makes a task of them with
//! `parts.rs` (metrics, generation) and `filters.rs`, `group.rs` a group, and `catalog.rs` finds tasks by
//! name.

mod catalog;
mod check;
mod filters;
mod group;
mod options;
mod parts;
mod settings;
mod table;
#[cfg(test)]
mod tests;

pub use catalog::{BUILT_IN, Catalog, Entry};
pub use group::{Group, GroupMetric, Selected};

use super::dataset::{Document, Location, Value};
use super::filter::Pipeline;
use super::metric::{Aggregation, ExactMatch, Metric};
use std::path::PathBuf;

/// What a model is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The log-likelihood of each choice.
    MultipleChoice,
    /// The log-likelihood of a continuation.
    LogLikelihood,
    /// The log-likelihood of a whole text.
    Rolling,
    /// A text, up to a stop.
    GenerateUntil,
}

impl Output {
    /// Its name in task files.
    pub fn name(self) -> &'static str {
        match self {
            Self::MultipleChoice => "multiple_choice",
            Self::LogLikelihood => "loglikelihood",
            Self::Rolling => "loglikelihood_rolling",
            Self::GenerateUntil => "generate_until",
        }
    }
}

/// A part of a prompt: a column, a template, or a value that stands in the task itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// The name of a column, or a template over columns.
    Text(String),
    /// A value that is the same for all items.
    Value(Value),
}

/// A task, checked.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// The file it was read from.
    pub file: PathBuf,
    /// `metadata.version`, as text.
    pub version: Option<String>,
    /// Other names under which it is found with others.
    pub tags: Vec<String>,
    /// Where its items are.
    pub location: Location,
    /// `dataset_name`.
    pub dataset_name: Option<String>,
    /// `training_split`.
    pub training_split: Option<String>,
    /// `validation_split`.
    pub validation_split: Option<String>,
    /// `test_split`.
    pub test_split: Option<String>,
    /// What a model is asked for.
    pub output: Output,
    /// Stands before everything: a column or a template.
    pub description: String,
    /// The parts of an item's prompt.
    pub format: Format,
    /// The same for examples.
    pub fewshot: Fewshot,
    /// What is measured.
    pub metrics: Vec<MetricSetting>,
    /// What is taken out of generated texts.
    pub filters: Vec<Pipeline>,
    /// How texts are generated.
    pub generation: Generation,
}

impl Task {
    /// The split whose items are evaluated.
    pub fn evaluated_split(&self) -> Option<&str> {
        self.test_split.as_deref().or(self.validation_split.as_deref())
    }

    /// Where its items are, in words: files, a folder, or a dataset's name and configuration.
    pub fn dataset(&self) -> String {
        match &self.dataset_name {
            Some(name) => format!("{}, {name}", self.location),
            None => self.location.to_string(),
        }
    }
}

/// How an item becomes text.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    /// `doc_to_text`.
    pub text: Option<Part>,
    /// `doc_to_target`.
    pub target: Option<Part>,
    /// `doc_to_choice`.
    pub choice: Option<Part>,
    /// `gen_prefix`: what an answer begins with.
    pub prefix: Option<String>,
    /// Stands between text and target.
    pub target_delimiter: String,
    /// Stands behind an example.
    pub fewshot_delimiter: String,
}

/// Examples before an item.
#[derive(Clone, Debug)]
pub struct Fewshot {
    /// How many.
    pub count: usize,
    /// The task says that there are none, which an evaluation's own number does not change.
    pub never: bool,
    /// How they are chosen.
    pub sampler: Sampler,
    /// The split they come from; the rule of [`Fewshot::source`] where there is none.
    pub split: Option<String>,
    /// So many rows at the beginning of the split are no examples.
    pub skip: usize,
    /// Examples that stand in the task itself.
    pub samples: Option<Vec<Document>>,
    /// How an example becomes text.
    pub format: Format,
}

/// Where examples come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ExampleSource<'a> {
    /// A split of the dataset.
    Split(&'a str),
    /// The task itself.
    Samples(&'a [Document]),
}

impl Fewshot {
    /// Where the examples of a task come from: the split it names, the samples it holds, or else its
    /// training, validation or test split.
    pub fn source<'a>(&'a self, task: &'a Task) -> Option<ExampleSource<'a>> {
        if let Some(split) = &self.split {
            return Some(ExampleSource::Split(split));
        }
        if let Some(samples) = &self.samples {
            return Some(ExampleSource::Samples(samples));
        }
        let splits = [&task.training_split, &task.validation_split, &task.test_split];
        splits.into_iter().flatten().next().map(|split| ExampleSource::Split(split))
    }
}

/// How examples are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// Drawn anew for each item, as Python's `random.sample` draws.
    Random,
    /// The first ones of their split.
    FirstN,
}

/// A metric with its options.
#[derive(Clone, Debug)]
pub struct MetricSetting {
    /// The metric.
    pub metric: Metric,
    /// How items become a figure.
    pub aggregation: Aggregation,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// What `exact_match` leaves out of account.
    pub exact: ExactMatch,
    /// The text (a column or a template) whose words or bytes are counted instead of the target's.
    pub counted: Option<String>,
    /// A list (a column or a template) that holds 1 for each true choice: `acc` then is the share of
    /// the choices' probability that the true ones have.
    pub labels: Option<String>,
}

/// How texts are generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Texts that end an answer.
    pub until: Vec<String>,
    /// New tokens at most.
    pub max_tokens: usize,
    /// Settings of sampling; greedy where there are none.
    pub sample: Option<SampleSettings>,
    /// Answers an item.
    pub repeats: usize,
}

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleSettings {
    /// Divides the logits.
    pub temperature: f64,
    /// Draw among so many likeliest tokens only.
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens whose probabilities reach this sum.
    pub top_p: Option<f64>,
}
