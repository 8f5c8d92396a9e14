//! What an evaluation found: figures of tasks and groups, and the items behind them.

use super::encode::TextEncoder;
use super::items::Items;
use super::metric::{Aggregation, Figure, ItemValue};
use super::model::LanguageModel;
use super::request::{self, Answer, Asking};
use super::score::{self, ItemScore, Key};
use super::task::{Group, Output, Selected};
use crate::error::Result;
use std::sync::Arc;

/// One figure of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFigure {
    /// Metric and filter.
    pub key: Key,
    /// Value and standard error.
    pub figure: Figure,
    /// How items became the figure.
    pub aggregation: Aggregation,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// One item of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The item's place in its split.
    pub doc_id: usize,
    /// What may or must follow.
    pub target: String,
    /// What the model answered.
    pub answer: Answer,
    /// What that gives to each metric.
    pub score: ItemScore,
}

/// A model's results on a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResult {
    /// The task's name.
    pub task: String,
    /// Its version.
    pub version: Option<String>,
    /// Examples before each item.
    pub fewshot: usize,
    /// What was asked for.
    pub output: Output,
    /// Its figures.
    pub figures: Vec<TaskFigure>,
    /// Its items, in order.
    pub samples: Vec<Sample>,
}

/// One figure of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupFigure {
    /// `acc`, or `exact_match,strict-match`.
    pub name: String,
    /// Value and standard error.
    pub figure: Figure,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// What it is the mean of.
    pub parts: Vec<GroupPart>,
}

/// A task's figure in that of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupPart {
    /// The task.
    pub task: String,
    /// Its figure.
    pub key: Key,
    /// What it counts.
    pub weight: f64,
}

/// A model's figures over the tasks of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupResult {
    /// The group's name.
    pub group: String,
    /// Its figures.
    pub figures: Vec<GroupFigure>,
    /// Items of all its tasks.
    pub n: usize,
}

/// What a score belongs to, besides model and task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// SHA-256 of the tokenizer.
    pub tokenizer: String,
    /// What stands before texts.
    pub bos: String,
    /// SHA-256 of the chat template that prompts were rendered with, where they were.
    pub chat_template: Option<String>,
    /// Whether each example was a question and its answer there.
    pub multiturn: bool,
    /// What stood before each task's description.
    pub system: Option<String>,
    /// Longest sequence, in tokens.
    pub max_length: usize,
}

/// All results of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelResult {
    /// The model, as it was named.
    pub model: String,
    /// How it was asked.
    pub circumstances: Circumstances,
    /// By task, in the order they were asked for.
    pub tasks: Vec<TaskResult>,
    /// Groups, outer ones first.
    pub groups: Vec<GroupResult>,
}

impl TaskResult {
    /// The values of the items for a figure.
    pub fn values(&self, key: &Key) -> Vec<&ItemValue> {
        let values = self.samples.iter().flat_map(|sample| &sample.score.values);
        values.filter(|(known, _)| known == key).map(|(_, value)| value).collect()
    }

    /// The figure of this name, or the only one of the metric of this name.
    pub fn figure(&self, name: &str) -> Option<&TaskFigure> {
        let exact = self.figures.iter().find(|figure| figure.key.name() == name);
        exact.or_else(|| {
            let mut of_metric =
                self.figures.iter().filter(|figure| figure.key.metric.name() == name);
            of_metric.next().filter(|_| of_metric.next().is_none())
        })
    }
}

/// Evaluates a model on a task.
///
/// # Errors
/// The model fails, a text does not fit, or a metric is not defined on the items.
pub fn evaluate(
    model: &dyn LanguageModel,
    encoder: &Arc<TextEncoder>,
    items: &Items<'_>,
    asking: Asking<'_>,
    progress: &dyn Fn(usize),
) -> Result<TaskResult> {
    let answers = request::ask(model, encoder, items, asking, progress)?;
    let samples = items.items.iter().zip(answers).map(|(item, answer)| {
        let score = score::item(items, item, &answer)?;
        Ok(Sample { doc_id: item.id, target: item.target.display(), answer, score })
    });
    let samples = samples.collect::<Result<Vec<Sample>>>()?;
    let task = items.task;
    let mut result = TaskResult {
        task: task.name.clone(),
        version: task.version.clone(),
        fewshot: task.fewshot.count,
        output: task.output,
        figures: Vec::new(),
        samples,
    };
    let keys = result.samples.first().map(|sample| sample.score.values.clone());
    for (key, _) in keys.unwrap_or_default() {
        let Some(setting) = task.metrics.iter().find(|setting| setting.metric == key.metric) else {
            continue;
        };
        let aggregation = setting.aggregation;
        let figure = aggregation
            .figure(&result.values(&key))
            .map_err(|e| e.fact("task", &task.name).fact("metric", key.name()))?;
        let higher_is_better = setting.higher_is_better;
        result.figures.push(TaskFigure { key, figure, aggregation, higher_is_better });
    }
    Ok(result)
}

/// The figures of the groups in what was asked for, from the results of their tasks.
pub fn groups(selected: &[Selected], tasks: &[TaskResult]) -> Vec<GroupResult> {
    let all = selected.iter().flat_map(Selected::groups);
    all.filter(|group| !group.metrics.is_empty()).map(|group| of_group(group, tasks)).collect()
}

fn of_group(group: &Group, tasks: &[TaskResult]) -> GroupResult {
    let leaves: Vec<&str> =
        group.members.iter().flat_map(Selected::tasks).map(|task| task.name.as_str()).collect();
    let results: Vec<&TaskResult> =
        tasks.iter().filter(|result| leaves.contains(&result.task.as_str())).collect();
    let n = results.iter().map(|result| result.samples.len()).sum();
    let mut figures = Vec::new();
    for metric in &group.metrics {
        let filters = metric.filters.clone().unwrap_or_else(|| {
            let keys = results.iter().flat_map(|result| &result.figures).map(|figure| &figure.key);
            let keys = keys.filter(|key| key.metric.name() == metric.metric);
            let mut filters: Vec<String> = keys.map(|key| key.filter.clone()).collect();
            filters.sort();
            filters.dedup();
            filters
        });
        for filter in filters {
            let of_filter = |result: &&'_ TaskResult| {
                let mut all = result.figures.iter();
                let found = all.find(|figure| {
                    figure.key.metric.name() == metric.metric && figure.key.filter == filter
                })?;
                Some((result.task.clone(), found.clone(), result.samples.len() as f64))
            };
            let found: Vec<(String, TaskFigure, f64)> =
                results.iter().filter_map(of_filter).collect();
            let Some((_, first, _)) = found.first() else { continue };
            let sizes: Vec<(f64, Figure)> =
                found.iter().map(|(_, figure, n)| (*n, figure.figure)).collect();
            figures.push(GroupFigure {
                name: first.key.name(),
                figure: pooled(&sizes, metric.weight_by_size),
                higher_is_better: first.higher_is_better,
                parts: found
                    .iter()
                    .map(|(task, figure, n)| GroupPart {
                        task: task.clone(),
                        key: figure.key.clone(),
                        weight: if metric.weight_by_size { *n } else { 1.0 },
                    })
                    .collect(),
            });
        }
    }
    GroupResult { group: group.name.clone(), figures, n }
}

/// The mean of figures, weighted by size or not, with the standard error lm-eval 0.4.13 gives it
/// (`pooled_sample_stderr`, `unweighted_mean_stderr`).
fn pooled(figures: &[(f64, Figure)], by_size: bool) -> Figure {
    let weight = |size: f64| if by_size { size } else { 1.0 };
    let count = figures.len() as f64;
    let all: f64 = figures.iter().map(|(size, _)| weight(*size)).sum();
    let value =
        figures.iter().map(|(size, figure)| weight(*size) * figure.value).sum::<f64>() / all;
    let errors: Option<Vec<(f64, f64)>> =
        figures.iter().map(|(size, figure)| Some((*size, figure.stderr?))).collect();
    let stderr = errors.map(|errors| {
        if !by_size {
            let squares: f64 = errors.iter().map(|(_, error)| error * error).sum();
            return squares.sqrt() / count;
        }
        let sizes: f64 = errors.iter().map(|(size, _)| size).sum();
        let squares = errors.iter().map(|(size, error)| (size - 1.0) * error * error * size);
        (squares.sum::<f64>() / (sizes - count) / sizes).sqrt()
    });
    Figure { value, stderr }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of lm-eval 0.4.13's `aggregate_subtask_metrics`, `pooled_sample_stderr` and
    /// `unweighted_mean_stderr`.
    #[test]
    fn pooled_as_in_lm_eval() {
        let figure = |value, stderr| Figure { value, stderr: Some(stderr) };
        let figures =
            [(10.0, figure(0.5, 0.1)), (40.0, figure(0.75, 0.05)), (7.0, figure(0.25, 0.2))];
        let found = pooled(&figures, true);
        assert!((found.value - 0.6447368421052632).abs() < 1e-12);
        assert!((found.stderr.unwrap() - 0.04588314677411236).abs() < 1e-12);
        let found = pooled(&figures, false);
        assert!((found.value - 0.5).abs() < 1e-12);
        assert!((found.stderr.unwrap() - 0.07637626158259735).abs() < 1e-12);
        let without = [(10.0, figure(0.5, 0.1)), (4.0, Figure { value: 1.0, stderr: None })];
        assert_eq!(pooled(&without, true).stderr, None);
    }
}
