//! An evaluation from end to end: several models on identical items.

use super::dataset::Access;
use super::encode::TextEncoder;
use super::items::Items;
use super::model::LanguageModel;
use super::request::Asking;
use super::results::{Circumstances, ModelResult, evaluate, groups};
use super::task::{Selected, Task};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A model to be evaluated.
pub struct Candidate<'a> {
    /// How it is called in reports.
    pub name: String,
    /// The model.
    pub model: &'a dyn LanguageModel,
    /// Its tokenizer.
    pub encoder: Arc<TextEncoder>,
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The model.
    pub model: &'a str,
    /// The task.
    pub task: &'a str,
    /// Items done, and of how many.
    pub done: usize,
    /// Items of the task.
    pub total: usize,
}

/// The tasks of what was asked for, each once.
///
/// # Errors
/// Two different tasks have the same name.
pub fn tasks(selected: &[Selected]) -> Result<Vec<&Task>> {
    let mut seen = BTreeSet::new();
    let mut tasks: Vec<&Task> = Vec::new();
    for task in selected.iter().flat_map(Selected::tasks) {
        if seen.insert(task.name.as_str()) {
            tasks.push(task);
        } else if let Some(other) = tasks.iter().find(|other| other.name == task.name)
            && (other.file != task.file || other.fewshot.count != task.fewshot.count)
        {
            return Err(Error::input("two tasks have the same name")
                .fact("task", &task.name)
                .file(&task.file)
                .fact("and", other.file.display()));
        }
    }
    Ok(tasks)
}

/// Reads the items of all tasks.
///
/// # Errors
/// A dataset cannot be read, or an item cannot be made.
pub fn prepare<'a>(
    tasks: &[&'a Task],
    limit: Option<usize>,
    access: &Access<'_>,
) -> Result<Vec<Items<'a>>> {
    tasks.iter().map(|task| Items::prepare(task, limit, access)).collect()
}

/// Evaluates a model on all items. `progress` is told of each step.
///
/// # Errors
/// The model fails, or an item does not fit it.
pub fn model(
    candidate: &Candidate<'_>,
    selected: &[Selected],
    items: &[Items<'_>],
    asking: Asking<'_>,
    progress: &dyn Fn(Step<'_>),
) -> Result<ModelResult> {
    let Candidate { name, model, encoder } = candidate;
    let of_task = |items: &Items<'_>| {
        let total = items.items.len();
        let step = |done| progress(Step { model: name, task: &items.task.name, done, total });
        evaluate(*model, encoder, items, asking, &step).map_err(|e| e.model(name))
    };
    let results = items.iter().map(of_task).collect::<Result<Vec<_>>>()?;
    let template = encoder.chat_template().filter(|_| asking.chat_template);
    let digest = |text: &str| crate::engine::hex(&Sha256::digest(text.as_bytes()).into());
    Ok(ModelResult {
        model: name.clone(),
        circumstances: Circumstances {
            tokenizer: encoder.digest().to_string(),
            bos: encoder.bos_policy(),
            chat_template: template.map(digest),
            multiturn: asking.multiturn,
            system: asking.system.map(str::to_string),
            max_length: encoder.max_length(model.context_length()),
        },
        groups: groups(selected, &results),
        tasks: results,
    })
}
