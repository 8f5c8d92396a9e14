//! The stages of a merge: which checkpoints each reads, and how one's output reaches the next.
//!
//! An intermediate model is computed where it is read (*streamed*), unless it would be computed
//! several times over: then it is written to a folder beside the output (*staged*), which goes away
//! at the end. Both give the same bytes.

use super::evaluate::Examination;
use super::step::{Examine, Route, Step};
use super::{Merge, WriteOptions, Written, mixture, parents, statistics};
use crate::engine::{DigestMode, Digests, NanPolicy, Outcome, PlannedTensor, sibling};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::lineage::{self, Declarations, Family};
use crate::methods::Reads;
use crate::model::{Checkpoint, Config, Finder, Source};
use crate::plan::{self, Plan, Vocabulary};
use crate::recipe::{Recipe, RecipeFile, StatisticsSource, stage_part};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A stage with the checkpoints it reads, in the order of [`Recipe::references`].
pub(super) struct Stage {
    pub(super) name: String,
    /// As the plan sees them: in the vocabulary of the output.
    pub(super) models: Vec<Checkpoint>,
    pub(super) plan: Plan,
    /// The parents of its output, through the stages it uses.
    pub(super) family: Family,
    pub(super) keep: Keep,
    /// The files beside the weights, where those of the config's model are not the stage's.
    files: Option<TempDir>,
}

/// What becomes of a stage's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is the output of the merge.
    Output,
    /// It is computed where a later stage reads it.
    Streamed,
    /// It is written to a folder that goes away at the end.
    Staged,
    /// It is written to a folder that stays.
    Saved(PathBuf),
}

impl Keep {
    /// Whether the folder is there in the end.
    fn stays(&self) -> bool {
        matches!(self, Self::Output | Self::Saved(_))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output => f.write_str("the output"),
            Self::Streamed => f.write_str("computed where it is read"),
            Self::Staged => f.write_str("written beside the output, removed at the end"),
            Self::Saved(folder) => write!(f, "saved to {}", folder.display()),
        }
    }
}

/// Opens the checkpoints of every stage and plans them all. No weight is read.
pub(super) fn open(
    file: &RecipeFile,
    options: &plan::Options,
    finder: &Finder<'_>,
) -> Result<Vec<Stage>> {
    let mut planned: BTreeMap<&str, Checkpoint> = BTreeMap::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut known = Declarations::default();
    for (i, recipe) in file.stages.iter().enumerate() {
        let opened = models(recipe, &planned, finder, options.seed)?;
        let opened = mixture::seen(recipe, opened, finder)?;
        let (models, vocabulary) = in_one_vocabulary(recipe, opened, &planned, finder)?;
        let mut plan = Plan::new(recipe, &models, vocabulary, options)?;
        let computing =
            statistics::check(&models, options).map_err(|e| e.at(recipe.file.display()))?;
        plan.totals.memory = plan.totals.memory.max(computing);
        let mut files = None;
        // What stages are computed of is read along with them.
        for stage in stages.iter().filter(|stage| stage.keep == Keep::Streamed) {
            if models.iter().any(|model| stage_part(&model.reference) == stage.name) {
                plan.totals.read += stage.plan.totals.read;
            }
        }
        if let Some(name) = &recipe.name {
            let tensors = planned_tensors(&plan, &models, NanPolicy::Refuse)?;
            files = files_beside(&plan, &models)?;
            let folder = files.as_ref().map_or(&*models[plan.donor].folder, TempDir::path);
            let checkpoint = as_checkpoint(&name.value, &plan, &models, folder, tensors)?;
            planned.insert(&name.value, checkpoint);
        }
        let keep = keep(file, i, &plan);
        let parents = parents::of(file, recipe, &models, &stages, &mut known);
        plan.warnings.extend(parents.own.notes());
        if keep.stays() {
            plan.warnings.extend(parents.family.license_warnings());
        }
        plan.label(lineage::label(file, &parents.recipes, plan.seed, &parents.family), options)?;
        let family = parents.family;
        let name = recipe.title().to_string();
        stages.push(Stage { name, models, plan, family, keep, files });
    }
    Ok(stages)
}

/// The checkpoints of a recipe's references: stages by their names, folders otherwise.
fn models(
    recipe: &Recipe,
    planned: &BTreeMap<&str, Checkpoint>,
    finder: &Finder<'_>,
    seed: Option<u64>,
) -> Result<Vec<Checkpoint>> {
    let mut models: Vec<Checkpoint> = Vec::new();
    let mut folders: Vec<(PathBuf, String)> = Vec::new();
    for reference in recipe.references() {
        let at = |e: Error| reference.at(e).key(recipe.key_of(reference));
        let (name, adapters) = finder.parts(&reference.value).map_err(at)?;
        let mut model = if let Some(stage) = planned.get(name) {
            stage.clone()
        } else {
            let found = finder.find(name).map_err(at)?;
            // The same commit may stand in two temporary folders.
            let real = match &found.hub {
                Some(hub) => PathBuf::from(format!("{}@{}", hub.reference.repo, hub.commit)),
                None => std::fs::canonicalize(&found.folder).unwrap_or(found.folder.clone()),
            };
            let plain = adapters.is_empty();
            if let Some((_, other)) = folders.iter().find(|(other, _)| plain && *other == real) {
                return Err(recipe
                    .error(reference, "two references name one model folder")
                    .fact("model", &reference.value)
                    .fact("also", other)
                    .hint("write the reference in the same way everywhere"));
            }
            if plain {
                folders.push((real, reference.value.clone()));
            }
            found.open(&reference.value)?
        };
        model = finder.with_adapters(model, &adapters).map_err(|e| match e.hint_text() {
            None => at(e).hint(
                "an adapter fits the model that it was trained on: name that one before the `+`",
            ),
            Some(_) => at(e),
        })?;
        model.reference.clone_from(&reference.value);
        model = mixture::with_routers(recipe, reference, model, finder, seed)?;
        models.push(statistics::open(recipe, reference, model, finder)?);
    }
    Ok(models)
}

/// The outputs of a plan as sources over the checkpoints it reads.
pub(super) fn planned_tensors(
    plan: &Plan,
    models: &[Checkpoint],
    nan: NanPolicy,
) -> Result<Vec<Arc<dyn Source>>> {
    let mut tensors: Vec<Arc<dyn Source>> = Vec::new();
    for job in &plan.jobs {
        let inputs = job.inputs.iter().map(|input| {
            let tensor = models[input.model].shared(&input.tensor).cloned();
            tensor.ok_or_else(|| Error::internal("a planned tensor is gone").tensor(&input.tensor))
        });
        let inputs = inputs.collect::<Result<_>>()?;
        tensors.push(Arc::new(PlannedTensor::new(job, inputs, plan.seed, Kernels::best(), nan)));
    }
    Ok(tensors)
}

/// A stage's output as a model that later stages read.
pub(super) fn as_checkpoint(
    name: &str,
    plan: &Plan,
    models: &[Checkpoint],
    folder: &Path,
    tensors: Vec<Arc<dyn Source>>,
) -> Result<Checkpoint> {
    let config = Config::parse(models[plan.donor].config.path(), &plan.config)?;
    Ok(Checkpoint::of_tensors(name, folder, config, tensors))
}

/// A folder with the files that the stage would write beside its weights, where it does not just
/// copy one model's: its readers look for the tokenizer there.
pub(super) fn files_beside(plan: &Plan, models: &[Checkpoint]) -> Result<Option<TempDir>> {
    if plan.files.is_empty() {
        return Ok(None);
    }
    let failed = |e: std::io::Error| Error::io("keep a stage's files", &std::env::temp_dir(), &e);
    let folder = TempDir::new().map_err(failed)?;
    let write = |path: &str, bytes: &[u8]| {
        let path = folder.path().join(path);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, bytes)
    };
    for sidecar in &plan.sidecars {
        let from = models[sidecar.model].folder.join(&sidecar.path);
        let bytes =
            std::fs::read(&from).map_err(|e| Error::io("read a file to copy", &from, &e))?;
        write(&sidecar.path, &bytes).map_err(failed)?;
    }
    for (path, bytes) in &plan.files {
        write(path, bytes).map_err(failed)?;
    }
    Ok(Some(folder))
}

/// The checkpoints with their embeddings in the vocabulary that the recipe asks for.
fn in_one_vocabulary(
    recipe: &Recipe,
    opened: Vec<Checkpoint>,
    planned: &BTreeMap<&str, Checkpoint>,
    finder: &Finder<'_>,
) -> Result<(Vec<Checkpoint>, Vocabulary)> {
    let donor = plan::donor(recipe, &opened);
    Vocabulary::resolve(recipe, opened, donor, |reference| {
        match planned.get(reference.value.as_str()) {
            Some(stage) => Ok(stage.folder.clone()),
            None => {
                finder.find(&reference.value).map(|found| found.folder).map_err(|e| reference.at(e))
            }
        }
    })
}

/// Streamed, unless a later stage would compute it more than once or it cannot be computed in parts.
fn keep(file: &RecipeFile, index: usize, plan: &Plan) -> Keep {
    let recipe = &file.stages[index];
    if index + 1 == file.stages.len() {
        return Keep::Output;
    }
    if let Some(save) = &recipe.save {
        return Keep::Saved(file.folder().join(&save.value));
    }
    let name = recipe.name.as_ref().map_or("", |name| &name.value);
    let uses = |user: &&Recipe| {
        user.references().iter().any(|reference| stage_part(&reference.value) == name)
    };
    let users: Vec<&Recipe> = file.stages.iter().filter(uses).collect();
    let passes = |recipe: &Recipe| {
        let passes = recipe.methods.all().into_iter().map(|method| match method.reads {
            Reads::Stream { passes, .. } => passes,
        });
        passes.max().unwrap_or(1)
    };
    let passes = passes(users.first().map_or(recipe, |user| user));
    let whole = plan
        .jobs
        .iter()
        .any(|job| job.holds() + job.whole() > 0 || (job.method.survey)(&job.params).is_some());
    // Statistics take several passes over the whole model, and aligning experts looks at them all.
    let computed = users.iter().any(|user| {
        let gates = user.mixture().is_some_and(|mixture| !mixture.gates.value.is_random())
            && user.base_model.as_ref().is_some_and(|base| stage_part(&base.value) == name);
        gates
            || user.align_experts
            || user.references().iter().any(|reference| {
                let given = user.statistics_of(&reference.value).map(|given| &given.value.from);
                stage_part(&reference.value) == name
                    && matches!(given, Some(StatisticsSource::Computed { .. }))
            })
    });
    if users.len() == 1 && passes == 1 && !whole && !computed {
        Keep::Streamed
    } else {
        Keep::Staged
    }
}

impl Merge {
    /// Runs the stages and writes the output folder `target`, complete or not at all.
    ///
    /// # Errors
    /// The target may not be written, or the run fails; nothing is left at `target` then.
    pub fn write(&self, target: &Path, options: &WriteOptions) -> Result<Written> {
        let examination = self.examination(options.evaluate.as_ref())?;
        let mut folders = Vec::new();
        let examination = examination.as_ref();
        let result = self.run_stages(target, options, examination, &mut folders, true, |step| {
            let done = step.write(target, options)?;
            let report = done
                .report
                .transpose()
                .map_err(|e| e.fact("output", format!("{} is complete", target.display())))?;
            Ok(Written { outcome: done.outcome, report, routing: done.routing })
        });
        for folder in folders {
            // What is left over does no harm: it is checked before it is used again.
            let _ = std::fs::remove_dir_all(folder);
        }
        result
    }

    /// Runs the stages, each with what the ones before it left, and hands the last to `finish`. What has to be
    /// on disk for it goes to folders beside `target`, as do the stages that a recipe saves unless `saves`.
    pub(super) fn run_stages<T>(
        &self,
        target: &Path,
        options: &WriteOptions,
        examination: Option<&Examination<'_>>,
        folders: &mut Vec<PathBuf>,
        saves: bool,
        finish: impl FnOnce(&Step<'_>) -> Result<T>,
    ) -> Result<T> {
        let headers =
            |model: &&Checkpoint| model.hub.as_ref().is_some_and(|hub| !hub.has_weights());
        let mut opened = self.stages.iter().flat_map(|stage| &stage.models);
        if let Some(model) = opened.find(headers) {
            return Err(Error::internal("a merge was opened without its weights")
                .fact("model", &model.reference));
        }
        let finder = Finder::new(self.recipe.folder(), None).knowing(self.found.clone());
        let nan = if options.allow_nan { NanPolicy::Keep } else { NanPolicy::Refuse };
        let mut ready: BTreeMap<&str, Checkpoint> = BTreeMap::new();
        let mut before: Vec<Value> = Vec::new();
        let mut streamed: Vec<String> = Vec::new();
        for (stage, recipe) in self.stages.iter().zip(&self.recipe.stages) {
            // What joins a mixture is computed of it before it is seen with room for it.
            let joins = recipe.mixture().is_some_and(|mixture| mixture.joins);
            let folder = sibling(target, &format!("statistics-{}", recipe.title()))?;
            folders.push(folder.clone());
            let compute = |models| statistics::compute(models, &folder, &self.options, options);
            let models = if ready.is_empty() && !joins {
                compute(stage.models.clone())?
            } else {
                let opened = models(recipe, &ready, &finder, self.options.seed)?;
                let opened = if joins { compute(opened)? } else { opened };
                let opened = mixture::seen(recipe, opened, &finder)?;
                let models = in_one_vocabulary(recipe, opened, &ready, &finder)?.0;
                if joins { models } else { compute(models)? }
            };
            let report = options.evaluate.as_ref().filter(|_| stage.keep.stays());
            let routing = report.map(|report| {
                let (plan, models, cache) = (&stage.plan, &models, options.cache.clone());
                move |folder: &Path| {
                    Self::routing(recipe, plan, models, folder, report, cache.clone())
                }
            });
            let examine = examination.map(|examination| |folder: &Path| examination.run(folder));
            let examine = examine.as_ref().filter(|_| stage.keep == Keep::Output);
            let step = Step {
                file: &self.recipe,
                recipe,
                models: &models,
                plan: &stage.plan,
                family: &stage.family,
                before: &before,
                streamed: &streamed.concat(),
                examine: examine.map(|examine| examine as &Examine<'_>),
                routing: routing.as_ref().map(|routing| routing as &Route<'_>),
            };
            let name = recipe.name.as_ref().map_or("", |name| &name.value);
            let (checkpoint, mut record) = match &stage.keep {
                Keep::Output => return finish(&step),
                Keep::Streamed => {
                    let fingerprint = step.fingerprint(options);
                    let tensors = planned_tensors(&stage.plan, &models, nan)?;
                    let record = streamed_record(&step, options)?;
                    streamed.push(fingerprint);
                    let folder = stage.files.as_ref();
                    let folder = folder.map_or(&*models[stage.plan.donor].folder, TempDir::path);
                    (as_checkpoint(name, &stage.plan, &models, folder, tensors)?, record)
                }
                Keep::Saved(folder) if saves => {
                    let record = step.write(folder, options)?.manifest;
                    (Checkpoint::open(name, folder)?, record)
                }
                Keep::Staged | Keep::Saved(_) => {
                    let folder = sibling(target, &format!("stage-{name}"))?;
                    folders.push(folder.clone());
                    let record = staged(&step, &folder, options)?;
                    (Checkpoint::open(name, &folder)?, record)
                }
            };
            // They stand in the output's own table, once.
            record.as_object_mut().and_then(|record| record.shift_remove("ancestors"));
            record["name"] = name.into();
            record["kept"] = stage.keep.to_string().into();
            before.push(record);
            ready.insert(name, checkpoint);
        }
        Err(Error::internal("a recipe without an output was planned"))
    }
}

/// The file in a staged stage's folder that says which merge it is the whole output of.
const FINGERPRINT: &str = ".fingerprint";

/// Writes a stage to a folder beside the output; one that a killed merge left behind whole is used.
fn staged(step: &Step<'_>, folder: &Path, options: &WriteOptions) -> Result<Value> {
    let fingerprint = step.fingerprint(options);
    let mark = folder.join(FINGERPRINT);
    let manifest = folder.join("lineage.json");
    if std::fs::read_to_string(&mark).is_ok_and(|found| found == fingerprint)
        && let Ok(text) = std::fs::read(&manifest)
        && let Some(record) = lineage::parse(&text)
    {
        return Ok(record.into());
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .map_err(|e| Error::io("empty the folder of a stage", folder, &e))?;
    }
    let record = step.write(folder, options)?.manifest;
    std::fs::write(&mark, fingerprint).map_err(|e| Error::io("mark a stage", &mark, &e))?;
    Ok(record)
}

/// What is recorded of a stage that is never written: its recipe and inputs, no digests of outputs.
fn streamed_record(step: &Step<'_>, options: &WriteOptions) -> Result<Value> {
    let mut inputs = vec![BTreeMap::new(); step.models.len()];
    if options.digests == DigestMode::Full {
        let digests = Digests::new(step.models, options.cache.as_deref());
        digests.complete(step.models)?;
        if let Some(cache) = &options.cache {
            digests.save(step.models, cache);
        }
        for (i, found) in inputs.iter_mut().enumerate() {
            let of_model = digests.of_model(i).into_iter();
            *found = of_model.map(|(name, digest)| (name.to_string(), digest)).collect();
        }
    }
    let outputs = vec![None; step.plan.jobs.len()];
    let outcome = Outcome { outputs, inputs, resumed: 0 };
    Ok(lineage::manifest(step.file, step.recipe, step.plan, step.models, &outcome, step.family))
}
