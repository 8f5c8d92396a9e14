//! `cognate tasks`

use super::{print, print_json};
use clap::Args as ClapArgs;
use cognate::Result;
use cognate::eval::task::{Catalog, Entry, ExampleSource, Group, Selected, Task};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Show one task, group or tag only, with what it holds
    name: Option<String>,
    /// Add the tasks of a folder; may be repeated
    #[arg(long, value_name = "FOLDER")]
    tasks_dir: Vec<PathBuf>,
    /// Print JSON, members of groups included
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let mut catalog = Catalog::built_in();
        for folder in &self.tasks_dir {
            catalog.add_folder(folder)?;
        }
        let mut text = String::new();
        if let Some(name) = &self.name {
            let selected = catalog.select(name)?;
            if self.json {
                return print_json(&selected.iter().map(selected_row).collect());
            }
            for (i, selected) in selected.iter().enumerate() {
                if i > 0 {
                    text.push('\n');
                }
                let _ = match selected {
                    Selected::Task(task) => describe(&mut text, task),
                    Selected::Group(group) => tree(&mut text, group, 0),
                };
            }
            return print(&text);
        }
        if self.json {
            return print_json(&catalog.entries().map(|entry| row(&catalog, entry)).collect());
        }
        let listed = catalog.outermost();
        let width = listed.iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0);
        for entry in listed {
            let what = match (&entry.broken, &entry.members) {
                (Some(error), _) => format!("cannot be used: {}", error.message()),
                (None, Some(_)) => format!("group of {} tasks", catalog.tasks_within(entry).len()),
                (None, None) => entry.tags.join(", "),
            };
            let line = format!("{:<width$}  {what}", entry.name);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        print(&text)
    }
}

/// A group with what it holds, each inner one two blanks further in.
fn tree(text: &mut String, group: &Group, depth: usize) -> std::fmt::Result {
    let indent = "  ".repeat(depth);
    let figures: Vec<String> = group
        .metrics
        .iter()
        .map(|figure| {
            let weight = if figure.weight_by_size { "over all items" } else { "over tasks" };
            let filters = figure.filters.iter().flatten().map(|filter| format!(",{filter}"));
            format!("{}{} {weight}", figure.metric, filters.collect::<String>())
        })
        .collect();
    let figures = match figures.as_slice() {
        [] => String::new(),
        some => format!("  ({})", some.join("; ")),
    };
    writeln!(text, "{indent}{}{figures}", group.name)?;
    for member in &group.members {
        match member {
            Selected::Group(inner) => tree(text, inner, depth + 1)?,
            Selected::Task(task) => writeln!(text, "{indent}  {}", task.name)?,
        }
    }
    Ok(())
}

/// What there is to know about a task, a line each.
fn describe(text: &mut String, task: &Task) -> std::fmt::Result {
    writeln!(text, "{}", task.name)?;
    let mut line = |name: &str, value: String| match value.as_str() {
        "" => Ok(()),
        value => writeln!(text, "  {name:<9} {value}"),
    };
    let split = task.evaluated_split().unwrap_or_default();
    let examples = match (task.fewshot.count, task.fewshot.source(task)) {
        (0, _) | (_, None) => "none".to_string(),
        (n, Some(ExampleSource::Split(split))) => format!("{n}, of the split {split}"),
        (n, Some(ExampleSource::Samples(_))) => format!("{n}, of the task itself"),
    };
    let metrics: Vec<&str> = task.metrics.iter().map(|setting| setting.metric.name()).collect();
    let metrics = match metrics.as_slice() {
        [] => "none: what is generated is in the samples".to_string(),
        some => some.join(", "),
    };
    let filters = task.filters.iter().map(|filter| filter.name.as_str());
    let filters: Vec<&str> = filters.filter(|name| *name != "none").collect();
    line("version", task.version.clone().unwrap_or_default())?;
    line("tags", task.tags.join(", "))?;
    line("file", task.file.display().to_string())?;
    line("dataset", task.dataset())?;
    line("split", split.to_string())?;
    line("asks for", task.output.name().to_string())?;
    line("examples", examples)?;
    line("metrics", metrics)?;
    line("filters", filters.join(", "))
}

fn selected_row(selected: &Selected) -> Value {
    match selected {
        Selected::Task(task) => json!({
            "name": task.name,
            "version": task.version,
            "tags": task.tags,
            "file": task.file,
            "dataset": task.dataset(),
            "split": task.evaluated_split(),
            "output_type": task.output.name(),
            "num_fewshot": task.fewshot.count,
            "metrics": task.metrics.iter().map(|setting| setting.metric.name()).collect::<Vec<_>>(),
            "filters": task.filters.iter().map(|filter| &filter.name).collect::<Vec<_>>(),
        }),
        Selected::Group(group) => json!({
            "name": group.name,
            "metrics": group.metrics.iter().map(|figure| json!({
                "metric": figure.metric,
                "filters": figure.filters,
                "weight_by_size": figure.weight_by_size,
            })).collect::<Vec<_>>(),
            "members": group.members.iter().map(selected_row).collect::<Vec<_>>(),
        }),
    }
}

/// An entry, and why it cannot be used, where that is so.
fn row(catalog: &Catalog, entry: &Entry) -> Value {
    let error = catalog.select(&entry.name).err();
    json!({
        "name": entry.name,
        "file": entry.file,
        "group": entry.members.is_some(),
        "members": entry.members,
        "tags": entry.tags,
        "error": error.map(|e| json!({
            "message": e.message(),
            "key": e.get("key"),
            "file": e.get("file"),
            "expected": e.get("expected"),
            "found": e.get("found"),
            "reason": e.get("reason"),
        })),
    })
}
