//! Groups: tasks that are evaluated together, with figures over all of them.

use super::Task;
use super::settings::{Setting, Settings};
use crate::error::{Error, Result};
use serde_json::Value as Json;

/// What was asked for: a task, or a group of them.
#[derive(Clone, Debug)]
pub enum Selected {
    /// A task.
    Task(Box<Task>),
    /// A group.
    Group(Group),
}

/// A group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its figures over the tasks in it.
    pub metrics: Vec<GroupMetric>,
    /// Tasks and groups in it.
    pub members: Vec<Selected>,
}

/// A figure of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetric {
    /// The metric's name.
    pub metric: String,
    /// The filters after which it is taken; all that the tasks have, if none is named.
    pub filters: Option<Vec<String>>,
    /// Whether a task counts by its number of items, or each as much as the others.
    pub weight_by_size: bool,
}

impl Selected {
    /// The tasks in it, in order.
    pub fn tasks(&self) -> Vec<&Task> {
        match self {
            Self::Task(task) => vec![task],
            Self::Group(group) => group.members.iter().flat_map(Self::tasks).collect(),
        }
    }

    /// The groups in it, itself included, outer ones first.
    pub fn groups(&self) -> Vec<&Group> {
        match self {
            Self::Task(_) => Vec::new(),
            Self::Group(group) => {
                let inner = group.members.iter().flat_map(Self::groups);
                std::iter::once(group).chain(inner).collect()
            }
        }
    }

    /// Sets the number of examples before each item, but of tasks that are to have none: those that
    /// say `num_fewshot: 0`, as in lm-eval.
    pub fn set_fewshot(&mut self, count: usize) {
        match self {
            Self::Task(task) if task.fewshot.never => {}
            Self::Task(task) => task.fewshot.count = count,
            Self::Group(group) => {
                group.members.iter_mut().for_each(|member| member.set_fewshot(count));
            }
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Task(task) => &task.name,
            Self::Group(group) => &group.name,
        }
    }
}

/// Keys that describe a group itself; all others hold for its members.
const OWN: [&str; 7] =
    ["group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag", "task_alias"];

/// Whether settings describe a group: `group` with a list of members.
pub(super) fn is_group(settings: &Settings) -> bool {
    settings.get("group").is_some()
        && settings.get("task").is_none_or(|task| matches!(task.value, Json::Array(_)))
}

/// The names of a group's members.
pub(super) fn member_names(settings: &Settings) -> Vec<String> {
    let members = settings.get("task").and_then(|members| members.value.as_array());
    let name = |member: &Json| match member {
        Json::String(name) => Some(name.clone()),
        member => Some(member.get("group").or_else(|| member.get("task"))?.as_str()?.to_string()),
    };
    members.into_iter().flatten().filter_map(name).collect()
}

/// The settings that a group gives to its members.
pub(super) fn for_members(settings: &Settings) -> Vec<Setting> {
    let shared = settings.all.iter().filter(|setting| !OWN.contains(&setting.key.as_str()));
    shared.cloned().collect()
}

/// Reads `aggregate_metric_list`.
pub(super) fn metrics(settings: &Settings) -> Result<Vec<GroupMetric>> {
    let Some(setting) = settings.get("aggregate_metric_list") else {
        return Ok(Vec::new());
    };
    let read = |(i, map): (usize, &serde_json::Map<String, Json>)| {
        let key = |name: &str| format!("aggregate_metric_list[{i}].{name}");
        let wrong = |name: &str, expected: &str, found: &Json| -> Error {
            setting
                .error_at(&key(name), format!("the value of `{name}` is not supported"))
                .expected(expected, found)
        };
        let mut metric = GroupMetric { metric: String::new(), filters: None, weight_by_size: true };
        for (name, value) in map {
            match (name.as_str(), value) {
                ("metric", Json::String(text)) => metric.metric.clone_from(text),
                ("aggregation", Json::String(text)) if text == "mean" => {}
                ("aggregation", found) => return Err(wrong(name, "`mean`", found)),
                ("weight_by_size", Json::Bool(weight)) => metric.weight_by_size = *weight,
                ("filter_list", Json::Null) => {}
                ("filter_list", Json::String(text)) => metric.filters = Some(vec![text.clone()]),
                ("filter_list", Json::Array(names)) => {
                    let names = names.iter().map(|name| name.as_str().map(ToString::to_string));
                    metric.filters = Some(
                        names
                            .collect::<Option<_>>()
                            .ok_or_else(|| wrong(name, "names of filters", value))?,
                    );
                }
                ("metric" | "weight_by_size" | "filter_list", found) => {
                    return Err(wrong(name, "a text, true or false, or names", found));
                }
                _ => {
                    return Err(setting
                        .error_at(&key(name), format!("unknown key `{name}`"))
                        .fact("expected", "metric, aggregation, weight_by_size or filter_list"));
                }
            }
        }
        if metric.metric.is_empty() {
            return Err(setting.error_at(&key("metric"), "a figure of a group names no metric"));
        }
        Ok(metric)
    };
    setting.maps()?.into_iter().enumerate().map(read).collect()
}
