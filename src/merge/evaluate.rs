//! The evaluation that a recipe asks for: of the staged output, or of a merge that was not written.

use super::stages::{Stage, as_checkpoint, planned_tensors};
use super::{EvaluateOptions, Merge};
use crate::engine::NanPolicy;
use crate::error::{Error, Result};
use crate::eval::compare::Against;
use crate::eval::dataset::Access;
use crate::eval::items::Items;
use crate::eval::{Contender, Evaluation, Report, Settings, decoder};
use crate::model::hub::{self, Unwatched};
use crate::model::{Checkpoint, Config, Finder};
use crate::recipe::{Evaluate, RecipeFile, Rivals, stage_part};
use std::collections::BTreeSet;
use std::path::Path;
use tempfile::TempDir;

/// How the merge is called in reports, whatever its folder is.
pub(crate) const NAME: &str = "merge";

/// What a recipe's `evaluate` asks, with paths of its files and folders as they are found: in the
/// recipe's folder, or else in the working directory.
pub(super) fn settings(recipe: &RecipeFile, evaluate: &Evaluate) -> Settings {
    let beside = |path: &str| {
        let beside = recipe.folder().join(path);
        if beside.exists() { beside } else { path.into() }
    };
    let tasks = evaluate.tasks.iter().map(|task| match Path::new(&task.value).extension() {
        Some(_) => beside(&task.value).display().to_string(),
        None => task.value.clone(),
    });
    Settings {
        tasks: tasks.collect(),
        folders: evaluate.folders.iter().map(|folder| beside(&folder.value)).collect(),
        limit: evaluate.limit,
        fewshot: evaluate.fewshot,
        chat_template: evaluate.chat_template,
        multiturn: evaluate.multiturn,
        system: evaluate.system.clone(),
        seed: recipe.last().seed.unwrap_or(0),
        gates: evaluate.gates.iter().map(|gate| gate.value.clone()).collect(),
    }
}

/// Finds the tasks of a recipe's `evaluate`, if it has one.
pub(super) fn evaluation(recipe: &RecipeFile) -> Result<Option<Evaluation>> {
    let Some(evaluate) = &recipe.last().evaluate else {
        return Ok(None);
    };
    let found = Evaluation::new(settings(recipe, evaluate));
    found.map(Some).map_err(|e| match e.get("gate") {
        _ if e.get("file").is_some() => e,
        _ => evaluate.tasks[0].at(e),
    })
}

/// The references of what the output is compared with, the base last, and whether that is one.
fn rivals(recipe: &RecipeFile) -> (Vec<&str>, bool) {
    let last = recipe.last();
    let stages = recipe.stages.iter().filter_map(|stage| Some(stage.name.as_ref()?.value.as_str()));
    let stages: Vec<&str> = stages.collect();
    let evaluate = last.evaluate.as_ref();
    let mut found: Vec<&str> = match evaluate.map(|evaluate| &evaluate.compare) {
        Some(Rivals::None) => Vec::new(),
        Some(Rivals::Models(models)) => models.iter().map(|model| &*model.value).collect(),
        Some(Rivals::Parents) | None => {
            let all = recipe.stages.iter().flat_map(|stage| stage.references());
            let mut all: Vec<&str> = all.map(|reference| &*reference.value).collect();
            all.retain(|reference| !stages.contains(&stage_part(reference)));
            all
        }
    };
    let mut seen = BTreeSet::new();
    found.retain(|reference| seen.insert(*reference));
    // The recipe's base counts where it is compared with; one that is named here always does.
    let named = evaluate.and_then(|evaluate| evaluate.base.as_ref()).map(|base| &*base.value);
    let own = last.base_model.as_ref().map(|base| &*base.value);
    let base = named.or(own.filter(|base| found.contains(base)));
    found.retain(|reference| Some(*reference) != base);
    found.extend(base);
    (found, base.is_some())
}

/// Looks for the models that the output is compared with, so that they are there in the end.
pub(super) fn find(recipe: &RecipeFile, finder: &Finder<'_>) -> Result<()> {
    let Some(evaluate) = &recipe.last().evaluate else {
        return Ok(());
    };
    let models = match &evaluate.compare {
        Rivals::Models(models) => &models[..],
        Rivals::None | Rivals::Parents => &[],
    };
    let compare = models.iter().map(|model| (model, "evaluate.compare"));
    for (model, key) in compare.chain(evaluate.base.iter().map(|base| (base, "evaluate.base"))) {
        let (name, adapters) = finder.parts(&model.value)?;
        for part in std::iter::once(name).chain(adapters) {
            finder.find(part).map_err(|e| model.at(e).key(key))?;
        }
    }
    Ok(())
}

/// An evaluation of an output, ready to run.
pub(super) struct Examination<'a> {
    evaluation: &'a Evaluation,
    items: Vec<Items<'a>>,
    rivals: Vec<(String, Checkpoint)>,
    against: Against,
    options: &'a EvaluateOptions,
}

impl Examination<'_> {
    /// Evaluates the model in a folder.
    pub(super) fn run(&self, folder: &Path) -> Result<Report> {
        let output = Checkpoint::open(NAME, folder)?;
        let first = Contender { name: NAME.to_string(), checkpoint: &output };
        let rivals = self.rivals.iter();
        let rivals = rivals.map(|(name, checkpoint)| Contender { name: name.clone(), checkpoint });
        let models: Vec<Contender<'_>> = std::iter::once(first).chain(rivals).collect();
        let EvaluateOptions { decoder, progress } = self.options;
        self.evaluation.run(&self.items, &models, &self.against, decoder, progress)
    }
}

impl Merge {
    /// Makes the evaluation ready that the recipe asks for, so that what is wrong with it is known
    /// before anything is written.
    pub(super) fn examination<'a>(
        &'a self,
        options: Option<&'a EvaluateOptions>,
    ) -> Result<Option<Examination<'a>>> {
        let (Some(evaluation), Some(options)) = (&self.evaluation, options) else {
            return Ok(None);
        };
        let plan = self.plan();
        let config = &self.stages[self.stages.len() - 1].models[plan.donor].config;
        let config = Config::parse(config.path(), &plan.config)?;
        let written = |name: &str| plan.jobs.iter().any(|job| job.output.name == name);
        decoder::supports(&config, written)?;
        let rivals = self.rivals()?;
        let against = self.against(1);
        evaluation.check(&against)?;
        let hub = hub::Settings::from_env()?;
        let items = evaluation.items(&Access { hub: &hub, watch: &Unwatched })?;
        Ok(Some(Examination { evaluation, items, rivals, against, options }))
    }

    /// The models that the output is compared with, in their own vocabularies.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub(crate) fn rivals(&self) -> Result<Vec<(String, Checkpoint)>> {
        let finder = Finder::new(self.recipe.folder(), None).knowing(self.found.clone());
        let (references, _) = rivals(&self.recipe);
        let open = |reference: &str| Ok((reference.to_string(), finder.open(reference)?));
        references.into_iter().map(open).collect()
    }

    /// Which of these are parents and which the base, the first one standing at place `first`.
    pub(crate) fn against(&self, first: usize) -> Against {
        let (references, has_base) = rivals(&self.recipe);
        let parents = references.len() - usize::from(has_base);
        Against {
            parents: (first..first + parents).collect(),
            base: has_base.then_some(first + parents),
        }
    }

    /// What the recipe's `evaluate` asks, if it has one.
    pub(crate) fn asked(&self) -> Option<Settings> {
        Some(settings(&self.recipe, self.recipe.last().evaluate.as_ref()?))
    }

    /// The output as a model whose weights are computed as they are read, with the folder that holds
    /// its tokenizer where that is no input's.
    ///
    /// # Errors
    /// A stage cannot be computed in parts.
    pub(crate) fn unwritten(&self) -> Result<(Checkpoint, Option<TempDir>)> {
        let whole = |stage: &&Stage| {
            stage.plan.jobs.iter().any(|job| (job.method.survey)(&job.params).is_some())
        };
        if let Some(stage) = self.stages.iter().find(whole) {
            return Err(Error::input(
                "a merge that looks at whole models cannot be scored unwritten",
            )
            .fact("stage", &stage.name)
            .hint("write it with `cognate merge` and evaluate the output"));
        }
        let computed = |model: &'_ Checkpoint| {
            let found = model.statistics().filter(|found| found.computed.is_some())?;
            Some((model.reference.clone(), found.kind.key()))
        };
        let mut models = self.stages.iter().flat_map(|stage| &stage.models);
        if let Some((model, key)) = models.find_map(computed) {
            return Err(Error::input(
                "a merge by statistics that are computed on the way cannot be scored unwritten",
            )
            .fact("model", model)
            .hint(match key {
                "routers" => "write it with `cognate merge`, and evaluate the output".to_string(),
                _ => format!("compute them before with `cognate {key}`, or write the merge"),
            }));
        }
        let stage = &self.stages[self.stages.len() - 1];
        let files = super::stages::files_beside(&stage.plan, &stage.models)?;
        let donor = &stage.models[stage.plan.donor];
        let folder = files.as_ref().map_or(&*donor.folder, TempDir::path);
        let tensors = planned_tensors(&stage.plan, &stage.models, NanPolicy::Refuse)?;
        let output = as_checkpoint(NAME, &stage.plan, &stage.models, folder, tensors)?;
        Ok((output, files))
    }
}
