//! Output tensors computed again from what a lineage records: the recipe, its overrides and includes, the
//! seed, and the inputs, which must be what they were.
//!
//! It is the same merge: the same plan, the same engine, whose blocks go nowhere but into their digests.

use super::stages::{self, Keep, Stage};
use super::step::Step;
use super::{Merge, WriteOptions};
use crate::engine::{
    self, Asked, DigestMode, Digests, NUMERICS, Outcome, Progress, RunOptions, hex,
};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::lineage::{self, verify};
use crate::model::hub::{Fetch, Want};
use crate::model::{Checkpoint, Finder};
use crate::plan;
use crate::recipe::{RecipeFile, stage_part};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How many output tensors to compute again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// Every one.
    All,
    /// So many, chosen by the seed; every one where there are fewer.
    Some(usize),
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(count)) if count > 0 => Ok(Self::Some(count)),
            _ => Err("expected a number from 1, or `all`".to_string()),
        }
    }
}

/// How to compute output tensors again.
pub struct Rederive {
    /// How many.
    pub sample: Sample,
    /// Which: the same seed chooses the same tensors of a model.
    pub seed: u64,
    /// Where the recipe lay; none for the folder that the model lies in.
    pub recipe_folder: Option<PathBuf>,
    /// Worker threads.
    pub threads: usize,
    /// Anonymous memory to stay within, in bytes; the defaults of a merge if none.
    pub memory: Option<u64>,
    /// Folder of the digest cache; none to do without.
    pub cache: Option<PathBuf>,
    /// Who is told how far it is.
    pub progress: Progress,
}

/// What was computed again.
pub struct Rederived {
    /// The names of the tensors, in output order.
    pub tensors: Vec<String>,
}

/// What stands in the way of computing a tensor again, in front of what is wrong.
fn impossible(error: Error) -> Error {
    error.under("the output cannot be computed again from its record")
}

impl Rederive {
    /// Computes tensors of the output in `folder` again, and adds those whose bytes differ from the folder's
    /// to the differences of its verification.
    ///
    /// # Errors
    /// They cannot be computed: the record is of another version of the arithmetic, an input is not there or is
    /// not what it was.
    pub fn run(self, folder: &Path, found: &mut verify::Verification) -> Result<Rederived> {
        let Some(record) = found.manifest.take() else {
            return Err(impossible(
                Error::input("the lineage cannot be read").file(&folder.join(lineage::FILE)),
            ));
        };
        let done = self.compute(folder, &record, found).map_err(impossible);
        found.manifest = Some(record);
        done
    }

    fn compute(
        self,
        folder: &Path,
        record: &Value,
        found: &mut verify::Verification,
    ) -> Result<Rederived> {
        if record["numerics"] != NUMERICS {
            return Err(Error::input("it was made with another version of the arithmetic")
                .fact("made with", format!("cognate {}", text(&record["tool"]["version"])))
                .key("numerics")
                .expected(NUMERICS, &record["numerics"])
                .hint("verify it with the version that made it"));
        }
        let merge = self.open(folder, record)?;
        let plan = merge.plan();
        same_outputs(plan, record)?;
        let sample = self.choose(plan);
        let asked = asked(&merge.stages, &sample);
        for (i, stage) in merge.stages.iter().enumerate().take(merge.stages.len() - 1) {
            let stage_record = stage_of(record, &stage.name);
            if asked[i].jobs.is_empty() {
                continue;
            }
            let digests = Digests::new(&stage.models, self.cache.as_deref());
            digests.complete_those(&stage.models, |model, tensor| {
                asked[i].inputs.contains(&(model, tensor.to_string()))
            })?;
            let known = (0..stage.models.len()).map(|model| digests.of_model(model));
            let known: Vec<_> = known.map(|known| owned(&known)).collect();
            same_inputs(stage_record, &stage.models, &known)?;
        }
        let place = tempfile::tempdir()
            .map_err(|e| Error::io("make a folder for stages", &std::env::temp_dir(), &e))?;
        let options = WriteOptions {
            overwrite: false,
            digests: DigestMode::Full,
            cache: self.cache.clone(),
            // Where an input has no NaN, this decides nothing; where one has, it was allowed.
            allow_nan: true,
            progress: self.progress,
            evaluate: None,
        };
        let last = &asked[asked.len() - 1];
        let target = place.path().join("model");
        let outcome =
            merge.run_stages(&target, &options, None, &mut Vec::new(), false, |step| {
                let outcome = recompute(step, last, &options)?;
                same_inputs(record, step.models, &outcome.inputs)?;
                Ok(outcome)
            })?;
        let (mut tensors, mut differ) = (Vec::new(), Vec::new());
        for at in &last.jobs {
            let name = &plan.jobs[*at].output.name;
            let made = outcome.outputs[*at]
                .ok_or_else(|| Error::internal("a tensor was not computed again").tensor(name))?;
            if let Some(there) = found.digests.get(name).filter(|there| **there != made) {
                differ.push((name.clone(), hex(&made), hex(there), *at));
            }
            tensors.push(name.clone());
        }
        if !differ.is_empty() {
            // An input that was changed where no tensor of the sample shows it may decide on all of them.
            whole_inputs(&merge, record, self.cache.as_deref())?;
        }
        for (name, made, there, at) in differ {
            let recorded = record["output"]["tensors"][at]["file"].as_str();
            let file = recorded.unwrap_or(lineage::FILE).to_string();
            found.differ(&file, Some(&name), verify::What::Rederived, Some(made), Some(there));
        }
        Ok(Rederived { tensors })
    }

    /// The merge that the lineage records.
    fn open(&self, folder: &Path, record: &Value) -> Result<Merge> {
        let folder = lineage::with_name(folder);
        let beside = folder.parent().unwrap_or(Path::new(""));
        let recipe_folder = self.recipe_folder.as_deref().unwrap_or(beside);
        let recipe =
            RecipeFile::recorded(&recipe_folder.join("recorded recipe"), &record["recipe"])?;
        let seed = seed(&recipe, record);
        let default = plan::Options::default();
        let options = plan::Options {
            set: recipe.overrides.clone(),
            seed,
            threads: self.threads,
            memory: self.memory.unwrap_or(default.memory),
            passes: self.memory,
            ..default
        };
        let fetch = Fetch { want: Want::Everything, watch: &self.progress };
        let hub = Finder::new(recipe_folder, Some(fetch));
        for input in inputs(record) {
            let reference = text(&input["model"]);
            pin(&hub, hub.parts(reference)?.0, input)?;
            for adapter in input["adapters"].as_array().into_iter().flatten() {
                pin(&hub, text(&adapter["adapter"]), adapter)?;
            }
        }
        // What did not come from the Hub then does not come from there now.
        let finder = Finder::new(recipe_folder, None).knowing(hub.found());
        let stages = stages::open(&recipe, &options, &finder)?;
        let found = finder.found();
        Ok(Merge { recipe, stages, options, found, evaluation: None })
    }

    /// The jobs of the sample: those whose names have the least hashes.
    fn choose(&self, plan: &plan::Plan) -> BTreeSet<usize> {
        let Sample::Some(count) = self.sample else { return (0..plan.jobs.len()).collect() };
        let rank = |at: &usize| {
            let mut hasher = Sha256::new();
            hasher.update(b"cognate sample of tensors\0");
            hasher.update(self.seed.to_le_bytes());
            hasher.update(plan.jobs[*at].output.name.as_bytes());
            engine::Digest::from(hasher.finalize())
        };
        let mut all: Vec<usize> = (0..plan.jobs.len()).collect();
        all.sort_by_cached_key(rank);
        all.into_iter().take(count).collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Has a reference to the Hub mean the commit that is recorded for it.
fn pin(finder: &Finder<'_>, reference: &str, recorded: &Value) -> Result<()> {
    match (recorded["repo"].as_str(), recorded["revision"].as_str()) {
        (Some(repo), Some(revision)) => finder.pin(reference, repo, revision),
        _ => Ok(()),
    }
}

fn owned(digests: &BTreeMap<&str, engine::Digest>) -> BTreeMap<String, engine::Digest> {
    digests.iter().map(|(name, digest)| ((*name).to_string(), *digest)).collect()
}

/// The recorded inputs of all stages.
fn inputs(record: &Value) -> impl Iterator<Item = &Value> {
    let stages = record["stages"].as_array().into_iter().flatten().chain([record]);
    stages.flat_map(|stage| stage["inputs"].as_array().into_iter().flatten())
}

/// The record of a stage before the last one.
fn stage_of<'a>(record: &'a Value, name: &str) -> &'a Value {
    let mut stages = record["stages"].as_array().into_iter().flatten();
    stages.find(|stage| stage["name"] == name).unwrap_or(&Value::Null)
}

/// The seed from the command line of the merge: none where the recipe's own seeds are the recorded ones.
fn seed(recipe: &RecipeFile, record: &Value) -> Option<u64> {
    let (last, before) = recipe.stages.split_last()?;
    let own = |stage: &crate::recipe::Recipe, record: &Value| {
        record["seed"].is_null() || record["seed"] == stage.seed.unwrap_or(0)
    };
    let same =
        own(last, record) && before.iter().all(|stage| own(stage, stage_of(record, stage.title())));
    if same { None } else { record["seed"].as_u64() }
}

/// Checks that the plan makes the tensors that are recorded.
fn same_outputs(plan: &plan::Plan, record: &Value) -> Result<()> {
    let recorded = record["output"]["tensors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let changed =
        |e: Error| e.hint("the config, the tokenizer or the weights of an input have changed");
    if recorded.len() != plan.jobs.len() {
        return Err(changed(
            Error::input("recipe and inputs give another number of tensors")
                .expected(recorded.len(), plan.jobs.len()),
        ));
    }
    for (job, recorded) in plan.jobs.iter().zip(recorded) {
        let spec = &job.output;
        let planned = serde_json::json!({
            "name": spec.name, "dtype": spec.dtype.to_string(), "shape": spec.shape,
        });
        let said = |value: &Value| {
            format!("{} {} {}", text(&value["name"]), text(&value["dtype"]), value["shape"])
        };
        if ["name", "dtype", "shape"].iter().any(|key| planned[key] != recorded[key]) {
            return Err(changed(
                Error::input("recipe and inputs give another tensor")
                    .expected(said(recorded), said(&planned)),
            ));
        }
    }
    Ok(())
}

/// What of every stage the sample of the last one needs.
fn asked(stages: &[Stage], sample: &BTreeSet<usize>) -> Vec<Asked> {
    let all = |stage: &Stage| (0..stage.plan.jobs.len()).collect::<BTreeSet<usize>>();
    let empty = || Asked { jobs: BTreeSet::new(), inputs: BTreeSet::new() };
    let mut asked: Vec<Asked> = stages.iter().map(|_| empty()).collect();
    for (at, stage) in stages.iter().enumerate().rev() {
        if stage.keep == Keep::Output {
            asked[at].jobs = sample.clone();
        } else if stage.keep != Keep::Streamed && !asked[at].jobs.is_empty() {
            // It is written whole before it is read.
            asked[at].jobs = all(stage);
        }
        let inputs = asked[at].jobs.iter().flat_map(|job| &stage.plan.jobs[*job].inputs);
        let mut parts: BTreeSet<(usize, String)> = BTreeSet::new();
        for input in inputs {
            let model = &stage.models[input.model];
            let source = model.shared(&input.tensor);
            let own = source.iter().flat_map(|source| source.parts()).map(str::to_string);
            parts.extend(own.map(|part| (input.model, part)));
            // What was rearranged may be filled up from other models' rows.
            let statistics = model.statistics().map(|found| found.kind.name_of(""));
            if statistics.is_some_and(|prefix| input.tensor.starts_with(&prefix)) {
                parts.extend(model.stored().keys().map(|name| (input.model, name.clone())));
            }
        }
        for (model, part) in &parts {
            let name = stage_part(&stage.models[*model].reference);
            let Some(other) = stages[..at].iter().position(|other| other.name == name) else {
                continue;
            };
            let jobs = stages[other].plan.jobs.iter();
            let made = jobs.enumerate().filter(|(_, job)| job.output.name == *part);
            asked[other].jobs.extend(made.map(|(job, _)| job));
        }
        asked[at].inputs = parts;
    }
    asked
}

fn recompute(step: &Step<'_>, asked: &Asked, options: &WriteOptions) -> Result<Outcome> {
    let run = RunOptions {
        digests: options.digests,
        cache: options.cache.clone(),
        allow_nan: options.allow_nan,
        kernels: Kernels::best(),
        progress: &options.progress,
    };
    engine::recompute(step.plan, step.models, asked, &run)
}

/// Checks that the inputs of a stage are those that are recorded, as far as their digests are known.
fn same_inputs(
    record: &Value,
    models: &[Checkpoint],
    digests: &[BTreeMap<String, engine::Digest>],
) -> Result<()> {
    for (i, model) in models.iter().enumerate() {
        let recorded = &record["inputs"][i];
        let changed = |what: String, expected: &str, found: String| {
            Error::input("an input is not what it was")
                .fact("model", &model.reference)
                .fact("changed", what)
                .expected(expected, found)
                .hint("put the recorded version back, or name the folder where it lies with --recipe-dir")
        };
        for (k, adapter) in model.adapters().iter().enumerate() {
            let found = hex(&Sha256::digest(&adapter.config).into());
            if let Some(expected) = recorded["adapters"][k]["config_sha256"].as_str()
                && expected != found
            {
                return Err(changed(
                    format!("the config of {}", adapter.reference),
                    expected,
                    found,
                ));
            }
        }
        for (name, digest) in &digests[i] {
            let found = hex(digest);
            if let Some(expected) = recorded["tensors"][name]["sha256"].as_str()
                && expected != found
            {
                return Err(changed(format!("tensor {name}"), expected, found));
            }
        }
        // What is yet to be computed has no file.
        let Some(found) = model.statistics().filter(|found| found.file.is_some()) else { continue };
        let statistics = lineage::statistics(found, model, &digests[i]);
        for key in ["digest", "metadata"] {
            let (expected, now) = (&recorded["statistics"][key], &statistics[key]);
            if !expected.is_null() && !now.is_null() && expected != now {
                let what = format!("{} of its {} statistics", key, found.kind.key());
                return Err(changed(what, &expected.to_string(), now.to_string()));
            }
        }
    }
    Ok(())
}

/// Checks the inputs of all stages as a whole.
fn whole_inputs(merge: &Merge, record: &Value, cache: Option<&Path>) -> Result<()> {
    for (i, stage) in merge.stages.iter().enumerate() {
        let record = match i + 1 == merge.stages.len() {
            true => record,
            false => stage_of(record, &stage.name),
        };
        let digests = Digests::new(&stage.models, cache);
        digests.complete(&stage.models)?;
        let known: Vec<_> =
            (0..stage.models.len()).map(|model| owned(&digests.of_model(model))).collect();
        same_inputs(record, &stage.models, &known)?;
    }
    Ok(())
}
