//! Where a model reference leads: a folder, a GGUF file, or a model of the Hub; with adapters on top.

use super::checkpoint::Checkpoint;
use super::gguf::is_gguf;
use super::hub::{self, Fetch, HubReference, Resolved};
use crate::error::{Error, Result, nearest};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a model reference without adapters leads to.
#[derive(Clone, Debug)]
pub struct Found {
    /// The model's folder, or its one file.
    pub folder: PathBuf,
    /// Where on the Hub it comes from; the folder may go away with it.
    pub hub: Option<Arc<Resolved>>,
}

/// Finds models, each once.
pub struct Finder<'a> {
    /// The folder that relative paths are looked up in first.
    beside: PathBuf,
    fetch: Option<Fetch<'a>>,
    found: RefCell<BTreeMap<String, Found>>,
}

impl<'a> Finder<'a> {
    /// Looks up relative paths in `beside`, then in the working directory. Without `fetch`, nothing
    /// is looked for on the Hub.
    pub fn new(beside: &Path, fetch: Option<Fetch<'a>>) -> Self {
        Self { beside: beside.to_path_buf(), fetch, found: RefCell::default() }
    }

    /// The same with what is known already.
    pub(crate) fn knowing(self, found: BTreeMap<String, Found>) -> Self {
        Self { found: RefCell::new(found), ..self }
    }

    /// What has been found, by reference.
    pub(crate) fn found(self) -> BTreeMap<String, Found> {
        self.found.into_inner()
    }

    /// Opens the model of a reference, `MODEL` or `MODEL+ADAPTER`.
    ///
    /// # Errors
    /// There is no such model or adapter, it cannot be fetched, or it is damaged.
    pub fn open(&self, reference: &str) -> Result<Checkpoint> {
        let (model, adapters) = self.parts(reference)?;
        let model = self.find(model)?.open(reference)?;
        self.with_adapters(model, &adapters)
    }

    /// Applies adapters to a model, the first one first.
    pub(crate) fn with_adapters(&self, model: Checkpoint, adapters: &[&str]) -> Result<Checkpoint> {
        adapters.iter().try_fold(model, |model, adapter| {
            let found = self.find(adapter)?;
            match found.hub {
                Some(resolved) => model.with_resolved_adapter(adapter, resolved),
                None => model.with_adapter(adapter, &found.folder),
            }
        })
    }

    /// The folder, the file or the model of the Hub that a reference without adapters names.
    ///
    /// # Errors
    /// There is no such model, or it cannot be fetched.
    pub fn find(&self, reference: &str) -> Result<Found> {
        if let Some(found) = self.found.borrow().get(reference) {
            return Ok(found.clone());
        }
        let found = match self.local(reference) {
            Some(folder) => Found { folder, hub: None },
            None => self.fetched(reference)?,
        };
        self.found.borrow_mut().insert(reference.to_string(), found.clone());
        Ok(found)
    }

    /// Has a reference mean a model of the Hub at a commit, from now on.
    ///
    /// # Errors
    /// It cannot be fetched.
    pub(crate) fn pin(&self, reference: &str, repo: &str, commit: &str) -> Result<()> {
        let found = self.fetched(&format!("{repo}@{commit}"))?;
        self.found.borrow_mut().insert(reference.to_string(), found);
        Ok(())
    }

    /// A reference taken apart: the model, and the adapters on top of it. A folder whose own name
    /// holds a `+` is a model by itself.
    pub(crate) fn parts<'r>(&self, reference: &'r str) -> Result<(&'r str, Vec<&'r str>)> {
        if !reference.contains('+') || self.local(reference).is_some() {
            return Ok((reference, Vec::new()));
        }
        let parts: Vec<&str> = reference.split('+').map(str::trim).collect();
        match parts.split_first() {
            Some((model, adapters)) if !parts.contains(&"") => Ok((model, adapters.to_vec())),
            _ => Err(Error::input("a part of a model reference is empty")
                .fact("model", reference)
                .hint("write MODEL+ADAPTER")),
        }
    }

    fn fetched(&self, reference: &str) -> Result<Found> {
        let tried = self.places(reference);
        let is_file = tried.iter().any(|path| path.is_file());
        let mut places = tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        places.dedup();
        let places = places.join(", ");
        if let Some(fetch) = &self.fetch
            && let Some(name) = HubReference::parse(reference).filter(|_| !is_file)
        {
            let resolved = hub::Settings::from_env()
                .and_then(|settings| hub::resolve(&name, fetch.want, &settings, fetch.watch));
            let resolved = resolved.map_err(|e| {
                let e = e.fact("folder", format!("{places} (not there)"));
                match self.near(reference) {
                    Some(near) => e.hint(format!("did you mean `{near}`?")),
                    None => e,
                }
            })?;
            return Ok(Found { folder: resolved.folder.clone(), hub: Some(Arc::new(resolved)) });
        }
        let error = Error::input("a model folder does not exist")
            .fact("model", reference)
            .fact("tried", places);
        Err(if let Some(near) = self.near(reference) {
            error.hint(format!("did you mean `{near}`?"))
        } else if is_file {
            error.hint("a model is a folder with config.json and weights, or a GGUF file")
        } else if self.beside.as_os_str().is_empty() {
            error.hint("paths are relative to the working directory")
        } else {
            error.hint("paths are relative to the recipe's folder, then to the working directory")
        })
    }

    /// The model beside the place of a misspelt one.
    fn near(&self, reference: &str) -> Option<String> {
        self.places(reference).iter().find_map(|path| {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
            let names: Vec<String> = entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| self.local(&path.with_file_name(name).to_string_lossy()).is_some())
                .collect();
            let name = nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
            Some(Path::new(reference).with_file_name(name).display().to_string())
        })
    }

    /// A file beside the recipe, or else in the working directory.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn file(&self, path: &str) -> Result<PathBuf> {
        let places = self.places(path);
        places.iter().find(|place| place.is_file()).cloned().ok_or_else(|| {
            let tried = places.iter().map(|place| place.display().to_string());
            let mut tried: Vec<String> = tried.collect();
            tried.dedup();
            Error::input("a file does not exist")
                .fact("tried", tried.join(", "))
                .hint("paths are relative to the recipe's folder, then to the working directory")
        })
    }

    /// Where a reference is looked for.
    fn places(&self, reference: &str) -> [PathBuf; 2] {
        [self.beside.join(reference), PathBuf::from(reference)]
    }

    /// The folder or the GGUF file of a reference, if there is one.
    fn local(&self, reference: &str) -> Option<PathBuf> {
        self.places(reference).into_iter().find(|path| path.is_dir() || is_gguf(path))
    }
}

impl Found {
    /// Opens the model.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self, reference: &str) -> Result<Checkpoint> {
        let mut model = Checkpoint::open(reference, &self.folder)?;
        model.hub.clone_from(&self.hub);
        Ok(model)
    }
}
