//! A merge from end to end: recipe and checkpoints → plan → staged output → finished folder.

use crate::engine::{self, DigestMode, NUMERICS, Outcome, Progress, RunOptions, Staging, hex};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::lineage;
use crate::model::{Checkpoint, is_gguf};
use crate::plan::{self, Plan};
use crate::recipe::Recipe;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A recipe, the checkpoints it names, and the plan made of them.
pub struct Merge {
    /// The recipe.
    pub recipe: Recipe,
    /// The checkpoints, in the order of [`Recipe::references`].
    pub models: Vec<Checkpoint>,
    /// What will be done.
    pub plan: Plan,
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
}

impl Merge {
    /// Opens the recipe and its models and plans the merge. No weight is read.
    ///
    /// # Errors
    /// The recipe is wrong, a model cannot be opened, or they do not fit together.
    pub fn open(recipe: &Path, options: &plan::Options) -> Result<Self> {
        let recipe = Recipe::open(recipe)?;
        let mut models: Vec<Checkpoint> = Vec::new();
        for reference in recipe.references() {
            let folder = find(&recipe, reference)?;
            let same = |other: &&Checkpoint| {
                std::fs::canonicalize(&other.folder).ok() == std::fs::canonicalize(&folder).ok()
            };
            if let Some(other) = models.iter().find(same) {
                return Err(recipe
                    .error(reference, "two references name one model folder")
                    .fact("model", &reference.value)
                    .fact("also", &other.reference)
                    .hint("write the reference in the same way everywhere"));
            }
            models.push(Checkpoint::open(&reference.value, &folder)?);
        }
        let plan = Plan::new(&recipe, &models, options)?;
        Ok(Self { recipe, models, plan })
    }

    /// Runs the plan and writes the output folder `target`, complete or not at all.
    ///
    /// # Errors
    /// The target may not be written, or the run fails; nothing is left at `target` then.
    pub fn write(&self, target: &Path, options: WriteOptions) -> Result<Outcome> {
        self.check_target(target)?;
        let fingerprint = self.fingerprint(options.digests, options.allow_nan);
        let staging = Staging::begin(target, &fingerprint, options.overwrite)?;
        let run = RunOptions {
            digests: options.digests,
            cache: options.cache,
            allow_nan: options.allow_nan,
            kernels: Kernels::best(),
            progress: options.progress,
        };
        match self.fill(&staging, &run) {
            Ok(outcome) => {
                staging.commit()?;
                Ok(outcome)
            }
            Err(error) => {
                staging.abandon();
                Err(error)
            }
        }
    }

    fn fill(&self, staging: &Staging, run: &RunOptions) -> Result<Outcome> {
        let plan = &self.plan;
        self.check_space(staging.folder())?;
        let outcome = engine::run(plan, &self.models, staging, run)?;
        for sidecar in &plan.sidecars {
            staging.copy(&self.models[sidecar.model].folder.join(&sidecar.path), &sidecar.path)?;
        }
        if let Some(index) = plan::index(&plan.jobs, &plan.shards) {
            staging.write("model.safetensors.index.json", index.as_bytes())?;
        }
        staging.write("config.json", plan.config.as_bytes())?;
        staging.write("README.md", lineage::card(&self.recipe, plan).as_bytes())?;
        let manifest = lineage::manifest(&self.recipe, plan, &self.models, &outcome);
        staging.write("lineage.json", format!("{manifest:#}\n").as_bytes())?;
        Ok(outcome)
    }

    /// An output must not touch an input: neither be one, nor hold one, nor lie in one.
    fn check_target(&self, target: &Path) -> Result<()> {
        let Some(resolved) = resolve(target) else {
            return Err(Error::input("the folder to write into does not exist").file(target));
        };
        for model in &self.models {
            let folder =
                std::fs::canonicalize(&model.folder).unwrap_or_else(|_| model.folder.clone());
            if resolved.starts_with(&folder) || folder.starts_with(&resolved) {
                return Err(Error::input(
                    "the output folder holds, or lies in, a model that is merged",
                )
                .file(target)
                .fact("model", &model.reference)
                .hint("choose another folder with -o"));
            }
        }
        Ok(())
    }

    /// Refuses to start what cannot fit on the disk.
    fn check_space(&self, folder: &Path) -> Result<()> {
        let Ok(stat) = rustix::fs::statvfs(folder) else {
            return Ok(());
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let need = self.plan.totals.disk();
        // A resumed merge has part of its space already.
        let staged: u64 = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| allocated(&metadata))
            .sum();
        if free.saturating_add(staged) < need {
            return Err(Error::io(
                "write the output",
                folder,
                &std::io::ErrorKind::StorageFull.into(),
            )
            .expected(format!("{need} bytes free"), format!("{free} bytes free")));
        }
        Ok(())
    }

    /// What tells this merge from any other: what decides the bytes it writes and whether it may
    /// write them. Threads and memory do not.
    fn fingerprint(&self, digests: DigestMode, allow_nan: bool) -> String {
        let mut plan = self.plan.json();
        if let Some(plan) = plan.as_object_mut() {
            plan.retain(|key, _| !["threads", "totals", "warnings"].contains(&key.as_str()));
        }
        let mut hasher = Sha256::new();
        let version = env!("CARGO_PKG_VERSION");
        hasher.update(format!("{version} {NUMERICS} {digests:?} {allow_nan}\n{plan}"));
        for shard in self.models.iter().flat_map(Checkpoint::shards) {
            let (path, identity) = (shard.mapping.path().display(), shard.mapping.identity());
            hasher.update(format!("\n{path} {} {}", identity.size, identity.stamp));
        }
        hex(&hasher.finalize().into())
    }
}

#[cfg(unix)]
fn allocated(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

/// The absolute path of a target that may not exist yet, in a folder that does.
fn resolve(target: &Path) -> Option<PathBuf> {
    if let Ok(path) = std::fs::canonicalize(target) {
        return Some(path);
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = std::fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
    Some(parent.join(target.file_name()?))
}

/// The folder of a model reference: relative to the recipe's folder, then to the working directory.
fn find(recipe: &Recipe, reference: &crate::recipe::Located<String>) -> Result<PathBuf> {
    let beside = recipe.file.parent().unwrap_or(Path::new("")).join(&reference.value);
    let here = PathBuf::from(&reference.value);
    let tried = [beside, here];
    if let Some(found) = tried.iter().find(|path| path.is_dir() || is_gguf(path)) {
        return Ok(found.clone());
    }
    let mut places = tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    places.dedup();
    let error = recipe
        .error(reference, "a model folder does not exist")
        .fact("model", &reference.value)
        .fact("tried", places.join(", "));
    Err(if tried.iter().any(|path| path.is_file()) {
        error.hint("a model is a folder with config.json and weights, or a GGUF file")
    } else {
        error.hint("paths are relative to the recipe's folder, then to the working directory")
    })
}
