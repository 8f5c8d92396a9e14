//! A merge from end to end: recipe and checkpoints → plans → staged output → finished folder.

mod evaluate;
mod folders;
mod mixture;
mod parents;
mod rederive;
mod relation;
mod stages;
mod statistics;
mod step;

use crate::engine::{DigestMode, Outcome, Progress};
use crate::error::{Error, Result};
use crate::eval::statistics::routing::Routing;
use crate::eval::{Evaluation, Report, decoder};
use crate::model::hub::{Fetch, Unwatched, Want};
use crate::model::{Finder, Found};
use crate::plan::{self, Plan};
use crate::recipe::RecipeFile;
pub use rederive::{Rederive, Rederived, Sample};
use serde_json::{Value, json};
use stages::Stage;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A recipe, the checkpoints it names, and the plans made of them.
pub struct Merge {
    /// The recipe.
    pub recipe: RecipeFile,
    /// Its stages in order; the last makes the output.
    stages: Vec<Stage>,
    /// What the merge may use.
    options: plan::Options,
    /// What each model reference leads to.
    found: BTreeMap<String, Found>,
    /// What the recipe asks of the output.
    evaluation: Option<Evaluation>,
}

/// What was written.
pub struct Written {
    /// What the engine did.
    pub outcome: Outcome,
    /// What the evaluation found that the recipe asks for. Its gates may have failed.
    pub report: Option<Report>,
    /// Where the routers of a mixture send the texts of its experts; or why that was not found.
    pub routing: Option<Result<Routing>>,
}

/// How to write a merge.
pub struct WriteOptions {
    /// Replace an earlier output.
    pub overwrite: bool,
    /// Which digests to compute.
    pub digests: DigestMode,
    /// Folder of the digest cache; none to do without.
    pub cache: Option<PathBuf>,
    /// Let NaN in an input stay in its element.
    pub allow_nan: bool,
    /// Who is told how far the run is.
    pub progress: Progress,
    /// Evaluate the output, where the recipe asks for it.
    pub evaluate: Option<EvaluateOptions>,
}

/// How to evaluate a merge that was written.
pub struct EvaluateOptions {
    /// How the decoder may use the machine.
    pub decoder: decoder::Options,
    /// Who is told how far it is.
    pub progress: Progress,
}

impl Merge {
    /// Opens the recipe and its models and plans the merge. No weight is read, but for a small sample
    /// that tells whether the models are related to their base. Models of the Hub are fetched whole,
    /// and silently; see [`Merge::open_with`].
    ///
    /// # Errors
    /// The recipe is wrong, a model cannot be opened, or they do not fit together.
    pub fn open(recipe: &Path, options: &plan::Options) -> Result<Self> {
        Self::open_with(recipe, options, Fetch { want: Want::Everything, watch: &Unwatched })
    }

    /// The same, with a say in what is fetched from the Hub. A merge opened with
    /// [`Want::Headers`] can be looked at, but not written.
    ///
    /// # Errors
    /// As [`Merge::open`].
    pub fn open_with(recipe: &Path, options: &plan::Options, fetch: Fetch<'_>) -> Result<Self> {
        let recipe = RecipeFile::open(recipe, &options.set)?;
        let finder = Finder::new(recipe.folder(), Some(fetch));
        let mut stages = stages::open(&recipe, options, &finder)?;
        for stage in &mut stages {
            let unrelated = relation::unrelated(stage)?;
            stage.plan.warnings.extend(unrelated);
        }
        evaluate::find(&recipe, &finder)?;
        let evaluation = evaluate::evaluation(&recipe)?;
        Ok(Self { recipe, stages, options: options.clone(), found: finder.found(), evaluation })
    }

    /// The plan of the output.
    pub fn plan(&self) -> &Plan {
        &self.stages[self.stages.len() - 1].plan
    }

    /// The likely mistakes of all stages.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (stage, recipe) in self.stages.iter().zip(&self.recipe.stages) {
            let prefix = match self.stages.len() {
                1 => String::new(),
                _ => format!("{}: ", recipe.title()),
            };
            all.extend(stage.plan.warnings.iter().map(|warning| format!("{prefix}{warning}")));
        }
        all
    }

    /// All plans for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (stage, recipe) in self.stages.iter().zip(&self.recipe.stages) {
            if self.stages.len() > 1 {
                let _ = writeln!(text, "stage {}: {}", recipe.title(), stage.keep);
            }
            text += &stage.plan.text();
        }
        text
    }

    /// For people: the tensors of every stage whose names contain `pattern` (`*` stands for anything),
    /// with their parameters.
    ///
    /// # Errors
    /// There is none.
    pub fn tensors_text(&self, pattern: &str) -> Result<String> {
        let mut text = String::new();
        for (stage, recipe) in self.stages.iter().zip(&self.recipe.stages) {
            let tensors = stage.plan.tensors_text(pattern);
            if self.stages.len() > 1 && !tensors.is_empty() {
                let _ = writeln!(text, "stage {}", recipe.title());
            }
            text += &tensors;
        }
        if text.is_empty() {
            let first = self.plan().jobs.first().map_or("", |job| &job.output.name);
            return Err(Error::input("no output tensor has this in its name")
                .key("--tensor")
                .fact("found", pattern)
                .fact("first tensor", first));
        }
        Ok(text)
    }

    /// The plan of the output as JSON, with those of the stages before it.
    pub fn json(&self) -> Value {
        let mut value = self.plan().json();
        let before = self.stages.iter().zip(&self.recipe.stages).take(self.stages.len() - 1);
        let before: Vec<Value> = before
            .map(|(stage, recipe)| {
                json!({
                    "name": recipe.title(),
                    "keep": stage.keep.to_string(),
                    "plan": stage.plan.json(),
                })
            })
            .collect();
        if !before.is_empty() {
            value["stages"] = before.into();
        }
        value
    }
}
