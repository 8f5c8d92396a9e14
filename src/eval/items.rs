//! A task's items: its rows with their prompts, the same for every model.

use super::dataset::{Access, Dataset, Document};
use super::prompt::{Item, Prompts};
use super::task::{ExampleSource, Task};
use crate::error::{Error, Result};

/// The items of a task.
pub struct Items<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its items, in the order of the split.
    pub items: Vec<Item>,
    /// Whether the first item has several right targets.
    pub multiple_targets: bool,
}

impl<'a> Items<'a> {
    /// Reads the dataset of a task and makes its first `limit` items, or all.
    ///
    /// # Errors
    /// The dataset cannot be read, a template fails, or there are too few examples.
    pub fn prepare(task: &'a Task, limit: Option<usize>, access: &Access<'_>) -> Result<Self> {
        let about = |e: Error| e.fact("task", &task.name);
        let mut dataset = Dataset::open(task.location.clone(), task.dataset_name.clone());
        let split = task.evaluated_split().ok_or_else(|| {
            about(Error::input("a task names no split to evaluate").key("test_split"))
        })?;
        let evaluated = dataset.split(split, access).map_err(about)?;
        let examples: Vec<Document> = match task.fewshot.source(task) {
            _ if task.fewshot.count == 0 => Vec::new(),
            None => Vec::new(),
            Some(ExampleSource::Samples(samples)) => samples.to_vec(),
            Some(ExampleSource::Split(name)) => {
                let rows = &dataset.split(name, access).map_err(about)?.rows;
                rows.get(task.fewshot.skip..).unwrap_or_default().to_vec()
            }
        };
        let mut prompts = Prompts::new(task, &evaluated, examples)?;
        let rows = evaluated.rows.iter().take(limit.unwrap_or(usize::MAX)).enumerate();
        let items = rows.map(|(id, row)| prompts.item(id, row)).collect::<Result<Vec<_>>>()?;
        if items.is_empty() {
            return Err(about(Error::input("there is nothing to evaluate").key("limit")));
        }
        Ok(Self { task, items, multiple_targets: prompts.multiple_targets })
    }
}
