//! Folders of a merge: where a model reference leads, where the output may go, room on the disk.

use super::Fetch;
use crate::error::{Error, Result};
use crate::model::hub::{self, HubReference, Resolved};
use crate::model::{Checkpoint, is_gguf};
use crate::recipe::{Located, Recipe};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An output must not touch an input: neither be one, nor hold one, nor lie in one.
pub(super) fn check_target(target: &Path, models: &[Checkpoint]) -> Result<()> {
    let Some(resolved) = resolve(target) else {
        return Err(Error::input("the folder to write into does not exist").file(target));
    };
    let own = models.iter().map(|model| (&model.reference, &model.folder));
    let adapters = models.iter().flat_map(Checkpoint::adapters);
    let adapters = adapters.map(|adapter| (&adapter.reference, &adapter.folder));
    for (reference, folder) in own.chain(adapters) {
        let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
        if resolved.starts_with(&folder) || folder.starts_with(&resolved) {
            return Err(Error::input(
                "the output folder holds, or lies in, a model that is merged",
            )
            .file(target)
            .fact("model", reference)
            .hint("choose another folder with -o"));
        }
    }
    Ok(())
}

/// Refuses to start what cannot fit on the disk: `need` bytes in a staging folder.
pub(super) fn check_space(folder: &Path, need: u64) -> Result<()> {
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        return Ok(());
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // A resumed merge has part of its space already.
    let staged: u64 = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| allocated(&metadata))
        .sum();
    if free.saturating_add(staged) < need {
        return Err(Error::io("write the output", folder, &std::io::ErrorKind::StorageFull.into())
            .expected(format!("{need} bytes free"), format!("{free} bytes free")));
    }
    Ok(())
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

/// What a model reference leads to.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) folder: PathBuf,
    /// Where on the Hub it comes from; the folder may go away with it.
    pub(super) hub: Option<Arc<Resolved>>,
}

/// Finds models, each once.
pub(super) struct Finder<'a> {
    fetch: Option<Fetch<'a>>,
    found: RefCell<BTreeMap<String, Found>>,
}

impl<'a> Finder<'a> {
    /// With what is known already; without `fetch`, nothing is looked for on the Hub.
    pub(super) fn new(fetch: Option<Fetch<'a>>, found: BTreeMap<String, Found>) -> Self {
        Self { fetch, found: RefCell::new(found) }
    }

    /// What has been found, by reference.
    pub(super) fn found(self) -> BTreeMap<String, Found> {
        self.found.into_inner()
    }

    /// The model of a reference: a folder, relative to the recipe's folder, then to the working
    /// directory; or else a model of the Hub.
    pub(super) fn find(&self, recipe: &Recipe, reference: &Located<String>) -> Result<Found> {
        if let Some(found) = self.found.borrow().get(&reference.value) {
            return Ok(found.clone());
        }
        let found = match local(recipe, reference) {
            Some(folder) => Found { folder, hub: None },
            None => self.fetched(recipe, reference)?,
        };
        self.found.borrow_mut().insert(reference.value.clone(), found.clone());
        Ok(found)
    }

    fn fetched(&self, recipe: &Recipe, reference: &Located<String>) -> Result<Found> {
        let tried = places(recipe, reference);
        let is_file = tried.iter().any(|path| path.is_file());
        let mut places = tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        places.dedup();
        if let Some(fetch) = &self.fetch
            && let Some(name) = HubReference::parse(&reference.value).filter(|_| !is_file)
        {
            let resolved = hub::Settings::from_env()
                .and_then(|settings| hub::resolve(&name, fetch.want, &settings, fetch.watch));
            let resolved = resolved.map_err(|e| {
                let place = recipe.error(reference, "");
                e.fact("folder", format!("{} (not there)", places.join(", ")))
                    .fact("recipe", place.get("file").unwrap_or_default())
            })?;
            return Ok(Found { folder: resolved.folder.clone(), hub: Some(Arc::new(resolved)) });
        }
        let error = recipe
            .error(reference, "a model folder does not exist")
            .fact("model", &reference.value)
            .fact("tried", places.join(", "));
        Err(if is_file {
            error.hint("a model is a folder with config.json and weights, or a GGUF file")
        } else {
            error.hint("paths are relative to the recipe's folder, then to the working directory")
        })
    }
}

/// Where a folder is looked for.
fn places(recipe: &Recipe, reference: &Located<String>) -> [PathBuf; 2] {
    let beside = recipe.file.parent().unwrap_or(Path::new("")).join(&reference.value);
    [beside, PathBuf::from(&reference.value)]
}

/// The folder or the GGUF file of a model reference, if there is one.
pub(super) fn local(recipe: &Recipe, reference: &Located<String>) -> Option<PathBuf> {
    places(recipe, reference).into_iter().find(|path| path.is_dir() || is_gguf(path))
}
