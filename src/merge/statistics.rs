//! Statistics that come with models: opened with them, or computed before a stage is run.

use super::WriteOptions;
use crate::error::{Error, Result};
use crate::eval::decoder;
use crate::eval::statistics::{self, Resources};
use crate::model::{Checkpoint, DataFile, Finder, Statistics, ToCompute};
use crate::plan;
use crate::recipe::{Located, Recipe, StatisticsSource};
use std::path::Path;

/// A model with the statistics that the recipe gives it. No weight is read.
pub(super) fn open(
    recipe: &Recipe,
    reference: &Located<String>,
    model: Checkpoint,
    finder: &Finder<'_>,
) -> Result<Checkpoint> {
    let Some(given) = recipe.statistics_of(&reference.value) else { return Ok(model) };
    let kind = given.value.kind;
    let at = |e: Error| given.at(e).key(kind.key());
    match &given.value.from {
        StatisticsSource::File(file) => {
            let path = finder.file(file).map_err(at)?;
            model.with_statistics(kind, file, &path).map_err(at)
        }
        StatisticsSource::Computed { data, settings } => {
            let path = finder.file(data).map_err(at)?;
            let data = Some(DataFile { path, reference: data.clone() });
            let computed = ToCompute { data, settings: settings.clone() };
            Ok(model.with_statistics_to_compute(computed))
        }
    }
}

/// The memory to run models within.
fn memory(options: &plan::Options) -> u64 {
    options.passes.unwrap_or_else(|| decoder::Options::default().memory)
}

/// Refuses to plan what could not be computed: a model whose gradients cannot be taken, or too little
/// memory. Raises the memory that the plan counts to what it takes.
pub(super) fn check(models: &[Checkpoint], options: &plan::Options) -> Result<u64> {
    let mut most = 0;
    for model in models {
        let computed = model.statistics().and_then(|found| found.computed.as_ref());
        let Some(computed) = computed else { continue };
        let kind = computed.settings.kind();
        let least = statistics::least_memory(model, &computed.settings)?;
        let memory = memory(options);
        if least > memory {
            let error = statistics::too_small(kind, least, memory).fact("model", &model.reference);
            return Err(match kind {
                Statistics::Routers => {
                    error.hint("raise --memory, take shorter prompts, or choose random gates")
                }
                _ => error.hint(format!("raise --memory, take shorter documents, or compute the file before with `cognate {}`", kind.key())),
            });
        }
        most = most.max(least);
    }
    Ok(most)
}

/// Computes what is to be computed, each into a file of `folder`, and opens it.
pub(super) fn compute(
    models: Vec<Checkpoint>,
    folder: &Path,
    resources: &plan::Options,
    options: &WriteOptions,
) -> Result<Vec<Checkpoint>> {
    let all = models.into_iter().enumerate().map(|(number, model)| {
        let Some(found) = model.statistics() else { return Ok(model) };
        let Some(computed) = found.computed.clone() else { return Ok(model) };
        let kind = found.kind;
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::io("make a folder for statistics", folder, &e))?;
        let file = folder.join(format!("{}-{number}.safetensors", kind.key()));
        let resources = Resources {
            memory: memory(resources),
            threads: resources.threads,
            cache: options.cache.clone(),
        };
        let progress = |line: &str| {
            options.progress.line(&format!("{} of {}: {line}", kind.title(), model.reference))
        };
        statistics::compute(&model, &computed, &resources, (&file, true), &progress)?;
        let reference = computed.data.as_ref().map_or("", |data| &data.reference).to_string();
        model.with_statistics(kind, &reference, &file).map(|model| model.computed_by(computed))
    });
    all.collect()
}
