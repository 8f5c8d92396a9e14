//! An evaluation as users ask for it: tasks by name, models by reference, gates; and its report.

use super::chat;
use super::compare::{Against, Comparison, compare};
use super::dataset::Access;
use super::decoder::{self, Decoder};
use super::encode::TextEncoder;
use super::gate::{self, Gate};
use super::items::Items;
use super::probe::{Probe, probe};
use super::report::{self, Style};
use super::request::Asking;
use super::results::ModelResult;
use super::run::{self, Candidate};
use super::task::{Catalog, Selected};
use crate::engine::Progress;
use crate::error::{Error, Result};
use crate::model::Checkpoint;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// What models are asked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Tasks, groups and tags by name, and files of tasks.
    pub tasks: Vec<String>,
    /// Folders whose tasks are known by name, besides the built-in ones.
    pub folders: Vec<PathBuf>,
    /// The first so many items of each task; all if none.
    pub limit: Option<usize>,
    /// Examples before each item, instead of what the tasks say.
    pub fewshot: Option<usize>,
    /// Prompts are rendered with each model's chat template.
    pub chat_template: bool,
    /// In a chat template, each example is a question and its answer; so if none.
    pub multiturn: Option<bool>,
    /// Stands before each task's description.
    pub system: Option<String>,
    /// Seed of sampled texts.
    pub seed: u64,
    /// What the first model has to reach.
    pub gates: Vec<Gate>,
}

/// An evaluation whose tasks were found and checked.
#[derive(Clone, Debug)]
pub struct Evaluation {
    selected: Vec<Selected>,
    settings: Settings,
}

/// A model to be evaluated.
pub struct Contender<'a> {
    /// How it is called in the report.
    pub name: String,
    /// The model.
    pub checkpoint: &'a Checkpoint,
}

/// What an evaluation found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The results of each model.
    pub results: Vec<ModelResult>,
    /// The figures of all models, and their differences.
    pub rows: Vec<Comparison>,
    /// Which of the models are parents, which the base.
    pub against: Against,
    /// What the sanity probes found wrong: the model's place, and what it is.
    pub warnings: Vec<(usize, String)>,
    /// The gates, checked.
    pub gates: Vec<gate::Outcome>,
}

impl Evaluation {
    /// Finds and checks the tasks, and that the gates are about them.
    ///
    /// # Errors
    /// A task is not known or cannot be used, or a gate is about something else.
    pub fn new(settings: Settings) -> Result<Self> {
        let mut catalog = Catalog::built_in();
        for folder in &settings.folders {
            catalog.add_folder(folder)?;
        }
        let mut selected = Vec::new();
        for name in &settings.tasks {
            selected.extend(catalog.select(name)?);
        }
        if let Some(count) = settings.fewshot {
            selected.iter_mut().for_each(|selected| selected.set_fewshot(count));
        }
        for gate in &settings.gates {
            gate.known_to(&selected)?;
        }
        run::tasks(&selected)?;
        Ok(Self { selected, settings })
    }

    /// How models are asked.
    fn asking(&self) -> Asking<'_> {
        let Settings { chat_template, multiturn, ref system, seed, .. } = self.settings;
        Asking {
            chat_template,
            multiturn: chat_template && multiturn.unwrap_or(true),
            system: system.as_deref(),
            seed,
        }
    }

    /// Whether the gates can be checked with these models.
    ///
    /// # Errors
    /// One is about a base or parents that are not there.
    pub fn check(&self, against: &Against) -> Result<()> {
        self.settings.gates.iter().try_for_each(|gate| gate.possible(against))
    }

    /// Whether prompts in a chat template begin with a system message.
    fn speaks_as_system(&self, items: &[Items<'_>]) -> bool {
        let described = items.iter().any(|items| !items.task.description.is_empty());
        self.settings.chat_template && (described || self.settings.system.is_some())
    }

    /// Reads the items of all tasks.
    ///
    /// # Errors
    /// A dataset cannot be read, or an item cannot be made.
    pub fn items(&self, access: &Access<'_>) -> Result<Vec<Items<'_>>> {
        run::prepare(&run::tasks(&self.selected)?, self.settings.limit, access)
    }

    /// Evaluates all models on the same items, one after the other; the first is the one in question.
    ///
    /// # Errors
    /// A model or its tokenizer cannot be used or fails, an item does not fit, or a gate cannot be
    /// checked. A gate that does not hold is none: see [`Report::failed`].
    pub fn run(
        &self,
        items: &[Items<'_>],
        models: &[Contender<'_>],
        against: &Against,
        options: &decoder::Options,
        progress: &Progress,
    ) -> Result<Report> {
        self.check(against)?;
        let counts = items.iter().map(|items| items.items.len());
        progress.begin((models.len() * counts.sum::<usize>()) as u64);
        let mut probes = Vec::new();
        let mut deaf = Vec::new();
        for (i, contender) in models.iter().enumerate() {
            progress.say(&format!("{}: probing", contender.name));
            let (decoder, encoder) = contender.open(options)?;
            let about = |e: Error| e.model(&contender.name);
            probes.push(probe(&decoder, &encoder, items).map_err(about)?);
            if self.speaks_as_system(items) && chat::refuses_system(&encoder).map_err(about)? {
                deaf.push((i, DEAF.to_string()));
            }
        }
        let mut warnings = warnings(&probes, against);
        warnings.extend(deaf);
        let results = models.iter().map(|contender| {
            let (decoder, encoder) = contender.open(options)?;
            let name = contender.name.clone();
            let candidate = Candidate { name, model: &decoder, encoder: Arc::new(encoder) };
            let done = std::cell::Cell::new(0);
            let task = std::cell::RefCell::new(String::new());
            let step = |step: run::Step<'_>| {
                if *task.borrow() != step.task {
                    done.set(0);
                    step.task.clone_into(&mut task.borrow_mut());
                    progress.say(&format!("{}: {}", step.model, step.task));
                }
                // What is done may be told in any order.
                let more = step.done.saturating_sub(done.get());
                done.set(done.get() + more);
                progress.advance(more as u64);
            };
            run::model(&candidate, &self.selected, items, self.asking(), &step)
        });
        let results = results.collect::<Result<Vec<ModelResult>>>();
        progress.end();
        let results = results?;
        let rows = compare(&results, against)?;
        let gates = self.settings.gates.iter().map(|gate| gate.check(0, &results, against));
        let gates = gates.collect::<Result<_>>()?;
        Ok(Report { results, rows, against: against.clone(), warnings, gates })
    }
}

/// What is wrong with a chat template without system messages.
const DEAF: &str = "its chat template takes no system message: descriptions and the system instruction are left out of its prompts";

impl Contender<'_> {
    fn open(&self, options: &decoder::Options) -> Result<(Decoder, TextEncoder)> {
        let about = |e: Error| e.model(&self.name);
        let encoder = TextEncoder::open(&self.checkpoint.folder).map_err(about)?;
        // Without it no text could be scored; said before the first task runs.
        encoder.prefix().map_err(about)?;
        Ok((Decoder::open(self.checkpoint, options).map_err(about)?, encoder))
    }
}

/// What is wrong with each model, seen beside the others: the first one beside all that it is held
/// against, every other one by itself.
fn warnings(probes: &[Probe], against: &Against) -> Vec<(usize, String)> {
    let parents: Vec<Probe> =
        against.parents.iter().chain(&against.base).map(|i| probes[*i]).collect();
    let of = |(i, probe): (usize, &Probe)| {
        let others = if i == 0 { &*parents } else { &[] };
        probe.warnings(others).into_iter().map(move |text| (i, text)).collect::<Vec<_>>()
    };
    probes.iter().enumerate().flat_map(of).collect()
}

impl Report {
    /// The error of gates that do not hold; none where all do.
    pub fn failed(&self) -> Option<Error> {
        gate::failed(&self.gates)
    }

    /// The report as JSON.
    pub fn json(&self) -> Value {
        let mut report = report::json(&self.results, &self.rows);
        let name = |i: &usize| self.results[*i].model.as_str();
        report["parents"] = self.against.parents.iter().map(name).collect();
        report["base"] = self.against.base.as_ref().map(name).into();
        let warnings = self.warnings.iter();
        let warnings = warnings.map(|(i, text)| json!({"model": name(i), "warning": text}));
        report["warnings"] = warnings.collect();
        let gates = self.gates.iter().map(|gate| {
            json!({
                "gate": gate.gate,
                "value": report::number(gate.value),
                "bound": report::number(gate.bound),
                "passed": gate.passed,
            })
        });
        report["gates"] = gates.collect();
        report
    }

    /// The table, the regressions and the gates, for people.
    pub fn table(&self, style: Style) -> String {
        let mut text = report::table(&self.results, &self.rows, style);
        let mut lines = Vec::new();
        for row in gate::regressions(&self.rows, 0) {
            let Some(cell) = row.cells.first() else { continue };
            for to in [cell.to_parent, cell.to_base].into_iter().flatten() {
                if to.regression() {
                    let (model, other) = (&self.results[0].model, &self.results[to.to].model);
                    let (task, metric) = (&row.task, &row.metric);
                    lines.push(format!(
                        "regression: {model} is worse than {other} in {task} {metric}"
                    ));
                }
            }
        }
        for task in
            self.results.iter().flat_map(|result| &result.tasks).filter(|t| t.figures.is_empty())
        {
            lines.push(format!(
                "{}: {} texts, no figure; --samples writes them",
                task.task,
                task.samples.len()
            ));
        }
        lines.dedup();
        for gate in &self.gates {
            let sign = if gate.passed { "holds" } else { "FAILS" };
            lines.push(format!(
                "gate {sign}: {} (found {:.4}, bound {:.4})",
                gate.gate, gate.value, gate.bound
            ));
        }
        for (i, line) in lines.iter().enumerate() {
            let bullet = if style == Style::Markdown { "- " } else { "" };
            let gap = if i == 0 { "\n" } else { "" };
            text += &format!("{gap}{bullet}{line}\n");
        }
        text
    }

    /// One line of JSON for each item and model.
    pub fn samples(&self) -> String {
        self.results.iter().map(report::samples).collect()
    }
}
