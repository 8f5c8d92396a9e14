//! Gates: what a merge has to reach, `{arc_easy.acc: ">= best_parent - 0.01"}`.

use super::compare::{Against, Comparison};
use super::results::ModelResult;
use super::task::Selected;
use crate::error::{Error, Result, list, nearest};
use std::fmt;

/// A condition on a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// The task or group.
    pub task: String,
    /// The metric, with its filter where it has one.
    pub metric: String,
    /// How the figure is to stand to the bound.
    pub relation: Relation,
    /// The bound, as terms to be added.
    pub bound: Vec<Term>,
}

/// How two numbers stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `>=`
    AtLeast,
    /// `>`
    Above,
    /// `<=`
    AtMost,
    /// `<`
    Below,
}

/// A part of a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// What it is multiplied with; negative where it is taken away.
    pub factor: f64,
    /// The figure; 1 where there is none.
    pub of: Option<Reference>,
}

/// Whose figure a bound goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The best of the parents', by the metric's direction.
    BestParent,
    /// The worst of the parents'.
    WorstParent,
    /// The mean of the parents'.
    MeanParent,
    /// The base's.
    Base,
}

/// The names of references.
const REFERENCES: [(&str, Reference); 4] = [
    ("best_parent", Reference::BestParent),
    ("worst_parent", Reference::WorstParent),
    ("mean_parent", Reference::MeanParent),
    ("base", Reference::Base),
];

/// What became of a gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The gate, as it was written.
    pub gate: String,
    /// The figure.
    pub value: f64,
    /// The bound.
    pub bound: f64,
    /// Whether it holds.
    pub passed: bool,
}

impl Gate {
    /// Reads a gate: `key` is `task.metric`, `condition` a relation and a bound.
    ///
    /// # Errors
    /// It cannot be read; the error says what is expected.
    pub fn parse(key: &str, condition: &str) -> Result<Self> {
        let wrong = |expected: &str, found: &str| {
            Error::input("a gate cannot be read")
                .key(format!("gate.{key}"))
                .expected(expected, found)
                .hint("for example `arc_easy.acc: \">= best_parent - 0.01\"`")
        };
        let (task, metric) = key
            .rsplit_once('.')
            .filter(|(task, metric)| !task.is_empty() && !metric.is_empty())
            .ok_or_else(|| wrong("TASK.METRIC", key))?;
        let text = condition.trim();
        let relations = [
            (">=", Relation::AtLeast),
            ("<=", Relation::AtMost),
            (">", Relation::Above),
            ("<", Relation::Below),
        ];
        let (rest, relation) = relations
            .iter()
            .find_map(|(sign, relation)| Some((text.strip_prefix(sign)?, *relation)))
            .ok_or_else(|| wrong("one of >=, >, <=, <, and a bound", condition))?;
        let bound = bound(rest).map_err(|found| {
            wrong(
                "numbers, best_parent, worst_parent, mean_parent and base, with +, - and *",
                &found,
            )
        })?;
        Ok(Self { task: task.to_string(), metric: metric.to_string(), relation, bound })
    }

    /// Holds a model's figure to the bound.
    ///
    /// # Errors
    /// There is no such figure, or no model the bound goes by.
    pub fn check(
        &self,
        model: usize,
        results: &[ModelResult],
        against: &Against,
    ) -> Result<Outcome> {
        let value = self.figure(&results[model])?;
        let higher = self.higher_is_better(&results[model]);
        let parents = || -> Result<Vec<f64>> {
            let figures = against.parents.iter().map(|parent| self.figure(&results[*parent]));
            let figures = figures.collect::<Result<Vec<f64>>>()?;
            if figures.is_empty() {
                Err(self.lacks("no parents were evaluated"))
            } else {
                Ok(figures)
            }
        };
        let reference = |of: Reference| -> Result<f64> {
            let most = |of: Vec<f64>| of.into_iter().fold(f64::NEG_INFINITY, f64::max);
            let least = |of: Vec<f64>| of.into_iter().fold(f64::INFINITY, f64::min);
            Ok(match of {
                Reference::BestParent if higher => most(parents()?),
                Reference::BestParent => least(parents()?),
                Reference::WorstParent if higher => least(parents()?),
                Reference::WorstParent => most(parents()?),
                Reference::MeanParent => {
                    let all = parents()?;
                    all.iter().sum::<f64>() / all.len() as f64
                }
                Reference::Base => {
                    let base = against.base.ok_or_else(|| self.lacks("no base was evaluated"))?;
                    self.figure(&results[base])?
                }
            })
        };
        let mut bound = 0.0;
        for term in &self.bound {
            bound += term.factor * term.of.map_or(Ok(1.0), reference)?;
        }
        let passed = match self.relation {
            Relation::AtLeast => value >= bound,
            Relation::Above => value > bound,
            Relation::AtMost => value <= bound,
            Relation::Below => value < bound,
        };
        Ok(Outcome { gate: self.to_string(), value, bound, passed })
    }

    /// Whether the models are there that its bound is about.
    ///
    /// # Errors
    /// They are not.
    pub fn possible(&self, against: &Against) -> Result<()> {
        for of in self.bound.iter().filter_map(|term| term.of) {
            match of {
                Reference::Base if against.base.is_none() => {
                    return Err(self.lacks("no base is evaluated"));
                }
                Reference::BestParent | Reference::WorstParent | Reference::MeanParent
                    if against.parents.is_empty() =>
                {
                    return Err(self.lacks("no parents are evaluated"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it is about one of the tasks and one of its metrics.
    ///
    /// # Errors
    /// It is not.
    pub fn known_to(&self, selected: &[Selected]) -> Result<()> {
        let groups = || selected.iter().flat_map(Selected::groups);
        let tasks = || selected.iter().flat_map(Selected::tasks);
        let own = self.metric.split(',').next().unwrap_or_default();
        let metrics: Vec<&str> = match (
            groups().find(|group| group.name == self.task),
            tasks().find(|task| task.name == self.task),
        ) {
            (Some(group), _) => group.metrics.iter().map(|metric| &*metric.metric).collect(),
            (None, Some(task)) => {
                task.metrics.iter().map(|setting| setting.metric.name()).collect()
            }
            (None, None) => {
                let names: Vec<&str> = groups()
                    .map(|group| group.name.as_str())
                    .chain(tasks().map(|task| task.name.as_str()))
                    .collect();
                let error = self
                    .lacks("the task is not evaluated")
                    .fact("tasks", list(names.iter().copied()));
                return Err(match nearest(&self.task, names) {
                    Some(near) => error.hint(format!("did you mean `{near}.{}`?", self.metric)),
                    None => error,
                });
            }
        };
        if metrics.contains(&own) {
            return Ok(());
        }
        let error =
            self.lacks("there is no such figure").fact("figures", list(metrics.iter().copied()));
        Err(match nearest(own, metrics) {
            Some(near) => error.hint(format!("did you mean `{}.{near}`?", self.task)),
            None => error,
        })
    }

    fn lacks(&self, what: &str) -> Error {
        Error::input("a gate cannot be checked")
            .key(format!("gate.{}.{}", self.task, self.metric))
            .fact("reason", what)
    }

    fn figure(&self, model: &ModelResult) -> Result<f64> {
        if let Some(group) = model.groups.iter().find(|group| group.group == self.task) {
            let found = group.figures.iter().find(|figure| figure.name == self.metric);
            return found
                .map(|figure| figure.figure.value)
                .ok_or_else(|| self.lacks("the group has no such figure"));
        }
        let task = model.tasks.iter().find(|task| task.task == self.task);
        let task = task.ok_or_else(|| {
            let known = model.tasks.iter().map(|task| task.task.as_str());
            self.lacks("the task was not evaluated").fact("tasks", list(known))
        })?;
        let found = task.figure(&self.metric).ok_or_else(|| {
            let known: Vec<String> = task.figures.iter().map(|figure| figure.key.name()).collect();
            self.lacks("the task has no such figure")
                .fact("figures", list(known.iter().map(String::as_str)))
        })?;
        Ok(found.figure.value)
    }

    fn higher_is_better(&self, model: &ModelResult) -> bool {
        let task = model.tasks.iter().find(|task| task.task == self.task);
        let own = task.and_then(|task| Some(task.figure(&self.metric)?.higher_is_better));
        let groups = model.groups.iter().filter(|group| group.group == self.task);
        let mut figures = groups.flat_map(|group| &group.figures);
        let of_group = figures.find(|figure| figure.name == self.metric);
        own.or(of_group.map(|figure| figure.higher_is_better)).unwrap_or(true)
    }
}

/// The terms of a bound; the part that cannot be read where one cannot.
fn bound(text: &str) -> Result<Vec<Term>, String> {
    let mut rest = text.trim();
    let mut terms: Vec<Term> = Vec::new();
    loop {
        let mut term = Term { factor: 1.0, of: None };
        // Signs before a term; the one between two terms is among them.
        while let Some((sign, after)) = signed(rest) {
            term.factor *= sign;
            rest = after;
        }
        loop {
            let end = end_of_word(rest);
            let (word, after) = rest.split_at(end);
            match REFERENCES.iter().find(|(name, _)| *name == word) {
                Some((_, of)) if term.of.is_none() => term.of = Some(*of),
                Some(_) => return Err(word.to_string()),
                None => {
                    let number = word.parse::<f64>().ok().filter(|number| number.is_finite());
                    term.factor *= number.ok_or_else(|| match word {
                        "" => text.trim().to_string(),
                        word => word.to_string(),
                    })?;
                }
            }
            rest = after.trim_start();
            match rest.strip_prefix('*') {
                Some(after) => rest = after.trim_start(),
                None => break,
            }
        }
        terms.push(term);
        if rest.is_empty() {
            return Ok(terms);
        }
        if signed(rest).is_none() {
            return Err(rest.to_string());
        }
    }
}

/// A sign at the start of a text, and what follows.
fn signed(text: &str) -> Option<(f64, &str)> {
    let sign = match text.chars().next()? {
        '+' => 1.0,
        '-' => -1.0,
        _ => return None,
    };
    Some((sign, text[1..].trim_start()))
}

/// Where the name or number at the start of a text ends. A sign belongs to it behind an exponent's
/// letter only.
fn end_of_word(text: &str) -> usize {
    let number = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let exponent = number && ['e', 'E'].contains(&before) && ['+', '-'].contains(&c);
        if !(c.is_alphanumeric() || c == '_' || c == '.' || exponent) {
            return at;
        }
        before = c;
    }
    text.len()
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.relation {
            Relation::AtLeast => ">=",
            Relation::Above => ">",
            Relation::AtMost => "<=",
            Relation::Below => "<",
        };
        write!(f, "{}.{} {sign}", self.task, self.metric)?;
        for (i, term) in self.bound.iter().enumerate() {
            let size = term.factor.abs();
            match (i, term.factor < 0.0) {
                (0, true) => write!(f, " -")?,
                (0, false) => write!(f, " ")?,
                (_, true) => write!(f, " - ")?,
                (_, false) => write!(f, " + ")?,
            }
            let of = REFERENCES.iter().find(|(_, of)| Some(*of) == term.of).map(|(name, _)| name);
            match of {
                Some(name) if size == 1.0 => f.write_str(name)?,
                Some(name) => write!(f, "{size} * {name}")?,
                None => write!(f, "{size}")?,
            }
        }
        Ok(())
    }
}

/// The error of gates that do not hold; none where all do.
pub fn failed(outcomes: &[Outcome]) -> Option<Error> {
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.passed).collect();
    failed.first()?;
    let mut error = Error::check(match failed.len() {
        1 => "a gate of the evaluation does not hold".to_string(),
        n => format!("{n} gates of the evaluation do not hold"),
    });
    for outcome in &failed {
        let figures = format!("{:.4}, the bound is {:.4}", outcome.value, outcome.bound);
        error = error.fact("gate", &outcome.gate).fact("found", figures);
    }
    Some(error)
}

/// Rows that got worse, and not by chance.
pub fn regressions(rows: &[Comparison], model: usize) -> Vec<&Comparison> {
    let worse = |row: &&Comparison| {
        row.cells.get(model).is_some_and(|cell| {
            [cell.to_parent, cell.to_base].into_iter().flatten().any(|d| d.regression())
        })
    };
    rows.iter().filter(worse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read_and_written() {
        for (condition, written) in [
            (">= best_parent - 0.01", "t.acc >= best_parent - 0.01"),
            (">=best_parent-0.01", "t.acc >= best_parent - 0.01"),
            ("<  1.02*base", "t.acc < 1.02 * base"),
            (
                "> 0.5 * best_parent + 0.5 * worst_parent",
                "t.acc > 0.5 * best_parent + 0.5 * worst_parent",
            ),
            ("<= -1e-3", "t.acc <= -0.001"),
            ("> 1e-3+base*1e+1", "t.acc > 0.001 + 10 * base"),
            (">= - 2 * base + 1", "t.acc >= -2 * base + 1"),
            (">= mean_parent * 0.5", "t.acc >= 0.5 * mean_parent"),
            (">= best", "error best"),
            (">= ", "error "),
            (">= base base", "error base"),
            (">= base 2", "error 2"),
            (">= base +", "error base +"),
            (">= base * base", "error base"),
        ] {
            let found = match Gate::parse("t.acc", condition) {
                Ok(gate) => gate.to_string(),
                Err(e) => format!("error {}", e.get("found").unwrap_or_default()),
            };
            assert_eq!(found, written, "{condition}");
        }
        assert!(Gate::parse("acc", "> 1").is_err());
        let gate = Gate::parse("gsm8k.exact_match,strict-match", "> 0").unwrap();
        assert_eq!(gate.metric, "exact_match,strict-match");
    }
}
