//! Models side by side, on identical items: differences with what is known about their certainty
//! (see `paired.rs`).

use super::metric::Figure;
use super::paired::{Pair, Part};
use super::results::{GroupFigure, ModelResult, TaskFigure, TaskResult};
use crate::error::{Error, Result};
use crate::kernels::Stream;

pub use super::paired::COVERAGE;

/// A difference with a smaller p-value is called significant.
pub const SIGNIFICANT: f64 = 0.05;

/// Which models the others are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Against {
    /// Places of the parents among the results.
    pub parents: Vec<usize>,
    /// Place of the base.
    pub base: Option<usize>,
}

/// A difference between two models on a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Place of the other model among the results.
    pub to: usize,
    /// This model's value less the other's.
    pub value: f64,
    /// The interval that covers it.
    pub interval: (f64, f64),
    /// How likely a difference as large is, if there is none.
    pub p_value: f64,
    /// Whether this model is better, by the metric's direction.
    pub better: bool,
}

impl Difference {
    /// Whether it is more than chance.
    pub fn significant(&self) -> bool {
        self.p_value < SIGNIFICANT
    }

    /// Whether the model is worse, and that is more than chance.
    pub fn regression(&self) -> bool {
        self.significant() && !self.better && self.value != 0.0
    }
}

/// A model's figure with its differences.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// To the best parent.
    pub to_parent: Option<Difference>,
    /// To the base.
    pub to_base: Option<Difference>,
}

/// A figure of all models.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The task or group.
    pub task: String,
    /// Metric and filter, as reports call them.
    pub metric: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Items.
    pub n: usize,
    /// By model, in their order.
    pub cells: Vec<Cell>,
}

/// Compares all models on all figures.
///
/// # Errors
/// The models were not asked the same.
pub fn compare(results: &[ModelResult], against: &Against) -> Result<Vec<Comparison>> {
    let Some(first) = results.first() else {
        return Ok(Vec::new());
    };
    let mut rows = Vec::new();
    for (t, task) in first.tasks.iter().enumerate() {
        let of = results.iter().map(|model| same_task(model, t, task));
        let of = of.collect::<Result<Vec<&TaskResult>>>()?;
        for figure in &task.figures {
            let rivals = of.iter().map(|task| Rival::of_task(task, figure));
            let rivals = rivals.collect::<Result<Vec<_>>>()?;
            let metric = figure.key.name();
            rows.push(row(&task.task, &metric, figure.higher_is_better, &rivals, against)?);
        }
    }
    for (g, group) in first.groups.iter().enumerate() {
        for (f, figure) in group.figures.iter().enumerate() {
            let rivals = results.iter().map(|model| {
                let same = model.groups.get(g).and_then(|group| group.figures.get(f));
                Rival::of_group(model, same.ok_or_else(lacks)?)
            });
            let rivals = rivals.collect::<Result<Vec<_>>>()?;
            rows.push(row(&group.group, &figure.name, figure.higher_is_better, &rivals, against)?);
        }
    }
    Ok(rows)
}

fn lacks() -> Error {
    Error::internal("a model lacks a figure that another has")
}

/// The same task of another model.
fn same_task<'a>(
    model: &'a ModelResult,
    place: usize,
    task: &TaskResult,
) -> Result<&'a TaskResult> {
    let ids = |task: &TaskResult| task.samples.iter().map(|s| s.doc_id).collect::<Vec<_>>();
    let found = model.tasks.get(place).filter(|other| {
        other.task == task.task && other.fewshot == task.fewshot && ids(other) == ids(task)
    });
    found.ok_or_else(|| {
        Error::input("the models were not asked the same items")
            .fact("model", &model.model)
            .fact("task", &task.task)
    })
}

/// A model's figure, with the task figures it is the mean of.
struct Rival<'a> {
    figure: Figure,
    parts: Vec<(&'a TaskResult, &'a TaskFigure, f64)>,
}

impl<'a> Rival<'a> {
    fn of_task(task: &'a TaskResult, figure: &TaskFigure) -> Result<Self> {
        let own = task.figures.iter().find(|other| other.key == figure.key).ok_or_else(lacks)?;
        Ok(Self { figure: own.figure, parts: vec![(task, own, 1.0)] })
    }

    fn of_group(model: &'a ModelResult, figure: &'a GroupFigure) -> Result<Self> {
        let parts = figure.parts.iter().map(|part| {
            let task = model.tasks.iter().find(|task| task.task == part.task);
            let task = task.ok_or_else(lacks)?;
            let own = task.figures.iter().find(|own| own.key == part.key).ok_or_else(lacks)?;
            Ok((task, own, part.weight))
        });
        Ok(Self { figure: figure.figure, parts: parts.collect::<Result<_>>()? })
    }
}

fn row(
    name: &str,
    metric: &str,
    higher_is_better: bool,
    rivals: &[Rival<'_>],
    against: &Against,
) -> Result<Comparison> {
    let value = |model: usize| rivals[model].figure.value;
    let better = |a: f64, b: f64| if higher_is_better { a > b } else { a < b };
    let best = |but: usize| {
        let parents = against.parents.iter().copied().filter(|parent| *parent != but);
        parents.reduce(|best, other| if better(value(other), value(best)) { other } else { best })
    };
    let difference = |model: usize, to: usize| -> Result<Difference> {
        let parts = rivals[model].parts.iter().zip(&rivals[to].parts);
        let parts = parts.map(|((task, figure, weight), (other, ..))| Part {
            ours: task.values(&figure.key),
            theirs: other.values(&figure.key),
            aggregation: figure.aggregation,
            weight: *weight,
            stream: Stream::named(&format!("{}\0{}\0{model}\0{to}", task.task, figure.key.name())),
        });
        let pair = Pair { parts: parts.collect() };
        let value = value(model) - value(to);
        Ok(Difference {
            to,
            value,
            interval: pair.interval()?,
            p_value: pair.p_value(value)?,
            better: if higher_is_better { value > 0.0 } else { value < 0.0 },
        })
    };
    let cell = |model: usize| -> Result<Cell> {
        // A parent is held against the base alone, and the base against nothing.
        let parent = against.parents.contains(&model) || against.base == Some(model);
        let to_parent = if parent { None } else { best(model) };
        let to_base = against.base.filter(|base| *base != model);
        Ok(Cell {
            value: value(model),
            stderr: rivals[model].figure.stderr,
            to_parent: to_parent.map(|to| difference(model, to)).transpose()?,
            to_base: to_base.map(|to| difference(model, to)).transpose()?,
        })
    };
    let items = rivals.first().map(|rival| &rival.parts[..]).unwrap_or_default();
    Ok(Comparison {
        task: name.to_string(),
        metric: metric.to_string(),
        higher_is_better,
        n: items.iter().map(|(task, ..)| task.samples.len()).sum(),
        cells: (0..rivals.len()).map(cell).collect::<Result<_>>()?,
    })
}
