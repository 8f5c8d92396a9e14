//! One stage that is written: its plan run into a staged folder, which becomes the output.

use super::WriteOptions;
use super::folders::{check_space, check_target};
use crate::engine::{self, NUMERICS, Outcome, RunOptions, Staging, hex};
use crate::error::Result;
use crate::eval::Report;
use crate::eval::statistics::routing::Routing;
use crate::kernels::Kernels;
use crate::lineage::{self, Family};
use crate::model::Checkpoint;
use crate::plan::{self, Plan};
use crate::recipe::{Recipe, RecipeFile, stage_part};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// A plan with the checkpoints it reads.
pub(super) struct Step<'a> {
    pub(super) file: &'a RecipeFile,
    pub(super) recipe: &'a Recipe,
    pub(super) models: &'a [Checkpoint],
    pub(super) plan: &'a Plan,
    /// The parents of its output, through all stages.
    pub(super) family: &'a Family,
    /// What is recorded of the stages before this one, in order.
    pub(super) before: &'a [Value],
    /// The fingerprints of the stages that this one computes as it reads them.
    pub(super) streamed: &'a str,
    /// Evaluates the model in the staged folder.
    pub(super) examine: Option<&'a Examine<'a>>,
    /// Looks where the routers of the mixture in the staged folder send tokens.
    pub(super) routing: Option<&'a Route<'a>>,
}

/// Evaluates the model in a folder.
pub(super) type Examine<'a> = dyn Fn(&Path) -> Result<Report> + 'a;

/// Looks at the routers of the mixture in a folder, where it is one.
pub(super) type Route<'a> = dyn Fn(&Path) -> Result<Option<Routing>> + 'a;

/// What a step wrote.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) manifest: Value,
    /// What the evaluation found, or why it could not be finished.
    pub(super) report: Option<Result<Report>>,
    /// Where routers send tokens, or why that was not found.
    pub(super) routing: Option<Result<Routing>>,
}

impl Step<'_> {
    /// Runs the plan and writes the output folder `target`, complete or not at all.
    pub(super) fn write(&self, target: &Path, options: &WriteOptions) -> Result<Done> {
        check_target(target, self.models)?;
        let staging = Staging::begin(target, &self.fingerprint(options), options.overwrite)?;
        match self.fill(&staging, options) {
            Ok(written) => {
                staging.commit()?;
                Ok(written)
            }
            Err(error) => {
                staging.abandon();
                Err(error)
            }
        }
    }

    fn fill(&self, staging: &Staging, options: &WriteOptions) -> Result<Done> {
        let plan = self.plan;
        check_space(staging.folder(), plan.totals.disk())?;
        let run = RunOptions {
            digests: options.digests,
            cache: options.cache.clone(),
            allow_nan: options.allow_nan,
            kernels: Kernels::best(),
            progress: &options.progress,
        };
        let outcome = engine::run(plan, self.models, staging, &run)?;
        for sidecar in &plan.sidecars {
            staging.copy(&self.models[sidecar.model].folder.join(&sidecar.path), &sidecar.path)?;
        }
        for (path, bytes) in &plan.files {
            staging.write(path, bytes)?;
        }
        if let Some(index) = plan::index(&plan.jobs, &plan.shards) {
            staging.write("model.safetensors.index.json", index.as_bytes())?;
        }
        staging.write("config.json", plan.config.as_bytes())?;
        // A failed evaluation is no reason to lose the merge.
        let routing = self.routing.and_then(|route| route(staging.folder()).transpose());
        let report = self.examine.map(|examine| examine(staging.folder()));
        let evaluation = report.as_ref().and_then(|report| report.as_ref().ok());
        let evaluation = evaluation.map(lineage::Evaluation::new);
        let before = self.used();
        let (file, recipe, models, family) = (self.file, self.recipe, self.models, self.family);
        let mut card = lineage::card(file, recipe, plan, models, family);
        let mut manifest = lineage::manifest(file, recipe, plan, models, &outcome, family);
        if let Some(Ok(routing)) = &routing {
            manifest["routing"] = routing.json();
        }
        if !before.is_empty() {
            manifest["stages"] = before.into_iter().cloned().collect();
        }
        if let Some(evaluation) = evaluation {
            staging.write(lineage::EVALUATION, evaluation.json.as_bytes())?;
            card = evaluation.in_card(&card);
            evaluation.in_manifest(&mut manifest);
        }
        staging.write("README.md", card.as_bytes())?;
        lineage::record_files(&mut manifest, plan, &staging.written());
        staging.write(lineage::FILE, lineage::text(&manifest).as_bytes())?;
        Ok(Done { outcome, manifest, report, routing })
    }

    /// The stages before that this one uses, or that those use.
    fn used(&self) -> Vec<&Value> {
        let mut names: BTreeSet<&str> =
            self.plan.models.iter().map(|model| stage_part(&model.reference)).collect();
        let mut used = Vec::new();
        for stage in self.before.iter().rev() {
            if stage["name"].as_str().is_some_and(|name| names.contains(name)) {
                names.extend(inputs(stage));
                used.push(stage);
            }
        }
        used.reverse();
        used
    }

    /// What tells this merge from any other: what decides the bytes it writes and whether it may
    /// write them. Threads and memory do not.
    pub(super) fn fingerprint(&self, options: &WriteOptions) -> String {
        let (digests, allow_nan) = (options.digests, options.allow_nan);
        let mut plan = self.plan.json();
        if let Some(plan) = plan.as_object_mut() {
            plan.retain(|key, _| !["threads", "totals", "warnings"].contains(&key.as_str()));
        }
        let mut hasher = Sha256::new();
        let version = env!("CARGO_PKG_VERSION");
        hasher.update(format!("{version} {NUMERICS} {digests:?} {allow_nan}\n{plan}"));
        // What was computed is the same file again, but for its times.
        let computed = |model: &Checkpoint| {
            let found = model.statistics().filter(|found| found.computed.is_some());
            found.and_then(|found| found.file.clone())
        };
        for model in self.models {
            if let Some(found) = model.statistics().filter(|found| found.computed.is_some()) {
                let settings = found.computed.as_ref().map(|computed| &computed.settings);
                let said = serde_json::json!({"metadata": found.metadata, "settings": settings});
                hasher.update(format!("\ncomputed {said}"));
            }
        }
        let shards = self.models.iter().flat_map(|model| {
            let computed = computed(model);
            let is_input = move |path: &Path| computed.as_deref() != Some(path);
            model.shards().iter().filter(move |shard| is_input(shard.mapping.path()))
        });
        for shard in shards {
            let (path, identity) = (shard.mapping.path().display(), shard.mapping.identity());
            hasher.update(format!("\n{path} {} {}", identity.size, identity.stamp));
        }
        for adapter in self.models.iter().flat_map(|model| model.adapters()) {
            hasher.update(format!("\nadapter {}\n", adapter.config.len()));
            hasher.update(&adapter.config);
        }
        for file in &self.file.includes {
            let (path, bytes) = (&file.path, file.text.len());
            hasher.update(format!("\nincluded {path} {bytes}\n{}", file.text));
        }
        // What parents declare goes into the record.
        for member in self.family.members() {
            let lineage::Member { reference, hub, declared } = member;
            let manifest = declared.manifest.as_ref().map(|manifest| &manifest.sha256);
            let said = (&declared.card, &declared.mergekit, &declared.adapter_base, manifest);
            hasher.update(format!("\ndeclared {reference:?} {hub:?} {said:?}"));
        }
        hasher.update(self.streamed);
        hex(&hasher.finalize().into())
    }
}

/// The references of a recorded stage's inputs.
fn inputs(stage: &Value) -> impl Iterator<Item = &str> {
    let inputs = stage["inputs"].as_array().into_iter().flatten();
    inputs.filter_map(|input| input["model"].as_str()).map(stage_part)
}
