//! What every builder of a plan ends with: shards, files, memory, totals.

use super::memory::memory;
use super::{Input, Job, Model, Options, Plan, Sidecar, Totals, Vocabulary, layout};
use crate::error::{Error, Result, list};
use crate::model::{Checkpoint, Config, Float, Sidecars, Source};
use crate::recipe::Recipe;
use std::collections::{BTreeMap, BTreeSet};

/// What a builder found out.
pub(super) struct Draft {
    /// The jobs, in output order; where their outputs go is not known yet.
    pub(super) jobs: Vec<Job>,
    /// The output's config.
    pub(super) config: Config,
    /// What was changed in it, in words.
    pub(super) edits: Vec<String>,
    /// The models, with what is not used of each.
    pub(super) accounts: Vec<Model>,
    /// The model whose files the output has.
    pub(super) donor: usize,
    /// Likely mistakes.
    pub(super) warnings: Vec<String>,
    /// More of them, which are said last.
    pub(super) advice: Vec<String>,
}

impl Draft {
    /// The plan.
    ///
    /// # Errors
    /// There is nothing to write, a folder cannot be read, or the memory is too small.
    pub(super) fn finish(
        mut self,
        recipe: &Recipe,
        models: &[Checkpoint],
        vocabulary: Vocabulary,
        options: &Options,
    ) -> Result<Plan> {
        let donor = &models[self.donor];
        if self.jobs.is_empty() {
            let error = Error::input("nothing to merge: the model has no tensors");
            return Err(error.file(&donor.folder));
        }
        // What else a header says is known once all stages are planned.
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let shards = layout::shards(&mut self.jobs, options.shard_size, &metadata)?;
        let mut sidecars = Sidecars::find(&donor.folder)?;
        sidecars.copied.retain(|path| vocabulary.keeps(path));
        let sidecar_bytes = sidecars
            .copied
            .iter()
            .filter_map(|path| std::fs::metadata(donor.folder.join(path)).ok())
            .map(|metadata| metadata.len())
            .chain(vocabulary.files.values().map(|bytes| bytes.len() as u64))
            .sum();
        if !sidecars.left.is_empty() {
            let left = list(sidecars.left.iter().map(String::as_str));
            self.warnings.push(format!("files of {} that are not copied: {left}", donor.reference));
        }
        self.warnings.extend(self.advice);
        let memory = memory(&self.jobs, models, options)?;
        let totals = Totals {
            read: read_bytes(&self.jobs, models),
            write: shards.iter().map(|shard| shard.size).sum(),
            sidecars: sidecar_bytes,
            memory: memory.total,
            parameters: self.jobs.iter().map(|job| job.output.elements() as u64).sum(),
        };
        let sidecar = |path| Sidecar { model: self.donor, path };
        Ok(Plan {
            models: self.accounts,
            donor: self.donor,
            jobs: self.jobs,
            shards,
            metadata,
            config: self.config.to_text(),
            config_edits: self.edits,
            sidecars: sidecars.copied.into_iter().map(sidecar).collect(),
            files: vocabulary.files,
            vocabulary: vocabulary.notes,
            vocabulary_lineage: vocabulary.lineage,
            seed: options.seed.or(recipe.seed).unwrap_or(0),
            lanes: memory.lanes,
            whole: memory.whole,
            totals,
            warnings: self.warnings,
        })
    }
}

/// Records the dtype that most bytes of the output have.
pub(super) fn set_dtype(config: &mut Config, jobs: &[Job], edits: &mut Vec<String>) {
    let mut by_float: BTreeMap<Float, u64> = BTreeMap::new();
    for job in jobs {
        if let Some(float) = job.output.float() {
            *by_float.entry(float).or_default() += job.output.bytes() as u64;
        }
    }
    if let Some((float, _)) = by_float.into_iter().max_by_key(|(_, bytes)| *bytes) {
        let before = config.to_text();
        config.set_dtype(float.name());
        if config.to_text() != before {
            edits.push(format!("dtype: {}", float.name()));
        }
    }
}

/// Bytes of the distinct stored tensors behind the inputs.
fn read_bytes(jobs: &[Job], models: &[Checkpoint]) -> u64 {
    let used: BTreeSet<&Input> = jobs.iter().flat_map(|job| &job.inputs).collect();
    let parts: BTreeSet<(usize, &str)> = used
        .iter()
        .filter_map(|input| Some((input.model, models[input.model].tensor(&input.tensor)?)))
        .flat_map(|(model, tensor)| tensor.parts().into_iter().map(move |part| (model, part)))
        .collect();
    parts
        .iter()
        .filter_map(|(model, part)| models[*model].stored().get(*part))
        .map(|tensor| tensor.spec().bytes() as u64)
        .sum()
}
