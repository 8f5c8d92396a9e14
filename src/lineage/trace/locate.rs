//! Where a named parent is: in a folder beside its child, in the working directory, in the Hub's cache.

use crate::model::hub::{HubReference, Settings, cached_folder};
use std::path::{Path, PathBuf};

/// Looks for models, without asking the network.
pub(super) struct Places {
    hub: Option<Settings>,
}

/// A parent as a record names it.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    /// The reference.
    pub(super) reference: String,
    /// Its name on the Hub, where the record says that it came from there.
    pub(super) repo: Option<String>,
    /// The commit, likewise.
    pub(super) revision: Option<String>,
}

/// A place that may be the parent's.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    /// Of a folder in the Hub's cache: the commit.
    pub(super) commit: Option<String>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { hub: Settings::from_env().ok() }
    }

    /// The folders that may be meant; `near` is the folder of the child, or of the nearest descendant
    /// that has one.
    pub(super) fn candidates(&self, named: &Named, near: Option<&Path>) -> Vec<Place> {
        let mut found: Vec<Place> = Vec::new();
        let hub = match &named.repo {
            Some(repo) => {
                let exact = named.revision.as_ref().map(|commit| format!("{repo}@{commit}"));
                HubReference::parse(exact.as_deref().unwrap_or(repo))
            }
            None => {
                // As in a recipe: beside the file that names it, then in the working directory.
                let parent = near.and_then(Path::parent);
                let bases = [parent, near, Some(Path::new(""))];
                for base in bases.into_iter().flatten() {
                    let folder = base.join(&named.reference);
                    if folder.is_dir() || (folder.is_file() && is_weights(&folder)) {
                        found.push(Place { folder, commit: None });
                    }
                }
                HubReference::parse(&named.reference)
            }
        };
        if let (Some(hub), Some(settings)) = (hub, &self.hub)
            && let Some((folder, commit)) = cached_folder(&hub, settings)
        {
            found.push(Place { folder, commit: Some(commit) });
        }
        found
    }
}

fn is_weights(path: &Path) -> bool {
    let is = |end: &str| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(end));
    is("gguf") || is("safetensors")
}
