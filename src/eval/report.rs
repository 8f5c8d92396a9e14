//! Reports: JSON, one line an item, and a table in text or Markdown.

use super::compare::{COVERAGE, Cell, Comparison, Difference};
use super::metric::Figure;
use super::results::{ModelResult, Sample, TaskResult};
use serde_json::{Map, Number, Value, json};
use std::fmt::Write as _;

/// A number of JSON; null where it is not finite.
pub(super) fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn figure(figure: Figure) -> Value {
    json!({"value": number(figure.value), "stderr": figure.stderr.map_or(Value::Null, number)})
}

/// The results as JSON: of each model its tasks, of each task its figures and number of items, and
/// what the scores belong to. With more than one model, the differences too.
pub fn json(results: &[ModelResult], rows: &[Comparison]) -> Value {
    let model = |result: &ModelResult| {
        let mut tasks = Map::new();
        for task in &result.tasks {
            let mut figures = Map::new();
            for found in &task.figures {
                figures.insert(found.key.name(), figure(found.figure));
            }
            figures.insert("n".to_string(), task.samples.len().into());
            figures.insert("num_fewshot".to_string(), task.fewshot.into());
            figures.insert("output_type".to_string(), task.output.name().into());
            figures.insert("version".to_string(), task.version.clone().into());
            tasks.insert(task.task.clone(), figures.into());
        }
        let mut groups = Map::new();
        for group in &result.groups {
            let mut figures = Map::new();
            for found in &group.figures {
                figures.insert(found.name.clone(), figure(found.figure));
            }
            figures.insert("n".to_string(), group.n.into());
            groups.insert(group.group.clone(), figures.into());
        }
        let of = &result.circumstances;
        json!({
            "model": result.model,
            "tokenizer_sha256": of.tokenizer,
            "bos": of.bos,
            "chat_template_sha256": of.chat_template,
            "fewshot_as_multiturn": of.multiturn,
            "system_instruction": of.system,
            "max_length": of.max_length,
            "tasks": tasks,
            "groups": groups,
        })
    };
    let mut report = json!({"results": results.iter().map(model).collect::<Vec<_>>()});
    if results.len() > 1 {
        let difference = |difference: &Difference| {
            json!({
                "to": results.get(difference.to).map(|result| result.model.as_str()),
                "value": number(difference.value),
                "interval": [number(difference.interval.0), number(difference.interval.1)],
                "p_value": number(difference.p_value),
                "significant": difference.significant(),
                "regression": difference.regression(),
            })
        };
        let cell = |(cell, result): (&Cell, &ModelResult)| {
            json!({
                "model": result.model,
                "value": number(cell.value),
                "stderr": cell.stderr.map_or(Value::Null, number),
                "to_best_parent": cell.to_parent.as_ref().map(difference),
                "to_base": cell.to_base.as_ref().map(difference),
            })
        };
        let row = |row: &Comparison| {
            json!({
                "task": row.task,
                "metric": row.metric,
                "higher_is_better": row.higher_is_better,
                "n": row.n,
                "models": row.cells.iter().zip(results).map(cell).collect::<Vec<_>>(),
            })
        };
        report["comparison"] = rows.iter().map(row).collect();
        report["interval_percent"] = COVERAGE.into();
    }
    report
}

/// One line of JSON for each item of a model.
pub fn samples(result: &ModelResult) -> String {
    let mut lines = String::new();
    for task in &result.tasks {
        for sample in &task.samples {
            let _ = writeln!(lines, "{}", sample_json(result, task, sample));
        }
    }
    lines
}

fn sample_json(result: &ModelResult, task: &TaskResult, sample: &Sample) -> Value {
    let mut line = json!({
        "model": result.model,
        "task": task.task,
        "doc_id": sample.doc_id,
        "lls": sample.answer.log_likelihoods.iter().map(|ll| number(*ll)).collect::<Vec<_>>(),
        "greedy": sample.answer.greedy,
        "target": sample.target,
        "tokens": sample.answer.tokens,
    });
    match sample.answer.texts.as_slice() {
        [] => {}
        [text] => line["output"] = text.as_str().into(),
        texts => line["output"] = texts.into(),
    }
    if !sample.score.filtered.is_empty() {
        let filtered = sample.score.filtered.iter();
        let filtered = filtered.map(|(name, text)| (name.clone(), text.as_str().into()));
        line["filtered"] = Value::Object(filtered.collect());
    }
    line
}

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Columns of equal width.
    Text,
    /// A table of Markdown.
    Markdown,
}

/// The table of all models and figures.
pub fn table(results: &[ModelResult], rows: &[Comparison], style: Style) -> String {
    let compared = |of: fn(&Cell) -> bool| rows.iter().flat_map(|row| &row.cells).any(of);
    let to_parent = compared(|cell| cell.to_parent.is_some());
    let to_base = compared(|cell| cell.to_base.is_some());
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut head: Vec<String> = ["task", "metric", "n", "model", "value"].map(String::from).into();
    if to_parent {
        head.push("to the best parent".to_string());
    }
    if to_base {
        head.push("to the base".to_string());
    }
    lines.push(head);
    for row in rows {
        let arrow = if row.higher_is_better { "↑" } else { "↓" };
        for (i, (cell, result)) in row.cells.iter().zip(results).enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            let mut line = vec![
                first(row.task.clone()),
                first(format!("{} {arrow}", row.metric)),
                first(row.n.to_string()),
                result.model.clone(),
                with_error(cell.value, cell.stderr),
            ];
            for (shown, difference) in [(to_parent, cell.to_parent), (to_base, cell.to_base)] {
                if shown {
                    line.push(difference.map(|found| difference_text(&found)).unwrap_or_default());
                }
            }
            lines.push(line);
        }
    }
    let mut text = laid_out(&lines, style);
    if to_parent || to_base {
        let _ = writeln!(
            text,
            "\nIn brackets the {COVERAGE} % interval over items; `*` significant at 5 %; `!` so, and worse"
        );
    }
    text
}

/// A value with as many digits as its size asks for.
fn rounded(value: f64) -> String {
    if !value.is_finite() || value.abs() < 10.0 {
        format!("{value:.4}")
    } else {
        format!("{value:.3}")
    }
}

fn with_error(value: f64, stderr: Option<f64>) -> String {
    match stderr {
        Some(error) => format!("{} ± {}", rounded(value), rounded(error)),
        None => rounded(value),
    }
}

fn difference_text(difference: &Difference) -> String {
    let sign = |value: f64| if value < 0.0 { "−" } else { "+" };
    let signed = |value: f64| format!("{}{}", sign(value), rounded(value.abs()));
    let (low, high) = difference.interval;
    let mark = match (difference.significant(), difference.regression()) {
        (_, true) => " !",
        (true, _) => " *",
        _ => "",
    };
    format!("{} [{}, {}]{mark}", signed(difference.value), signed(low), signed(high))
}

fn laid_out(lines: &[Vec<String>], style: Style) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (i, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).map(|(cell, width)| match style {
            Style::Text => format!("{cell:<width$}"),
            Style::Markdown => format!("{:<width$}", cell.replace('|', "\\|")),
        });
        let cells: Vec<String> = cells.collect();
        match style {
            Style::Text => {
                let _ = writeln!(text, "{}", cells.join("  ").trim_end());
            }
            Style::Markdown => {
                let _ = writeln!(text, "| {} |", cells.join(" | "));
                if i == 0 {
                    let rules = widths.iter().map(|width| "-".repeat((*width).max(3)));
                    let _ = writeln!(text, "| {} |", rules.collect::<Vec<_>>().join(" | "));
                }
            }
        }
    }
    text
}
