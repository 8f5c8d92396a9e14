//! Models from the Hugging Face Hub: `org/name` or `org/name@revision` → a folder.
//!
//! Files come through the cache that all Hugging Face tools share ([`Settings`] says where), so
//! that nothing is fetched twice. Only what a merge needs is fetched, from one commit, whose hash
//! is kept; a file whose SHA-256 the Hub knows is checked against it. For a plan, weights are not
//! fetched at all: their headers are.

mod cache;
mod client;
mod dataset;
mod download;
mod headers;
mod listing;
mod needed;
mod reference;
mod settings;
mod watch;

pub use dataset::dataset_files;
pub(crate) use listing::is_sha256;
pub use reference::{HubReference, RepoKind};
pub use settings::Settings;
pub use watch::{Unwatched, Watch};

use crate::error::{Error, Result};
use cache::RepoCache;
use client::Client;
use download::Download;
use listing::{Listing, Remote};
use needed::Needed;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// An index larger than this is refused, as when a folder is opened.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// How much of a model is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// All that a merge reads.
    Everything,
    /// All that a plan reads: everything but the weights, and the headers of those.
    Headers,
}

/// How models that are no folders are fetched from the Hub.
#[derive(Clone, Copy)]
pub struct Fetch<'a> {
    /// Whole models, or what a plan needs of them.
    pub want: Want,
    /// Who is told how far a download is.
    pub watch: &'a dyn Watch,
}

/// A file of a resolved model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Its path in the repository.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256 by the Hub, which only large (LFS) files have: the file's identity.
    pub sha256: Option<String>,
}

/// A model of the Hub, as a folder.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What was asked for.
    pub reference: HubReference,
    /// The folder: of the commit in the cache, or a temporary one without weights.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// The files a merge needs, sorted by path.
    pub files: Vec<HubFile>,
    /// Holds the temporary folder, which goes with the last copy of this.
    temporary: Option<Arc<TempDir>>,
}

impl Resolved {
    /// Whether the weights are there, and not their headers alone.
    pub fn has_weights(&self) -> bool {
        self.temporary.is_none()
    }
}

/// Finds a model of the Hub: in the cache if `settings` say offline, at the Hub otherwise, where
/// only what the cache lacks is fetched.
///
/// # Errors
/// There is no such model, revision or file; the Hub refuses it or cannot be reached; a file is not
/// the one the Hub has; the disk is full; the model holds no weights.
pub fn resolve(
    reference: &HubReference,
    want: Want,
    settings: &Settings,
    watch: &dyn Watch,
) -> Result<Resolved> {
    let cache = RepoCache::new(&settings.cache, reference);
    if settings.offline {
        return cached(reference, &cache);
    }
    let client = Client::new(settings);
    let listing = Listing::fetch(&client, reference)?;
    let needed = Needed::of(&listing.paths);
    if needed.is_empty() {
        return Err(no_weights(reference, &listing.paths));
    }
    let commit = listing.commit.clone();
    let download = Download { client: &client, cache: &cache, reference, commit: &commit, watch };
    let described = |paths: &[String]| -> Result<Vec<Remote>> {
        paths.iter().map(|path| listing.file(&client, reference, path)).collect()
    };
    let mut beside = described(&needed.beside)?;
    let mut weights = described(&needed.weights)?;
    if let Some(index) = &needed.index {
        let file = listing.file(&client, reference, index)?;
        download.fetch(&file)?;
        weights.extend(described(&shards(&cache.snapshot(&commit), index, &listing.paths)?)?);
        beside.push(file);
    }
    if want == Want::Headers {
        // Modules of sentence-transformers have weights of their own among the files beside.
        let (inner, rest) = beside.into_iter().partition(|file| is_weights(file, &needed));
        beside = rest;
        weights.extend::<Vec<Remote>>(inner);
    }
    let whole_weights = weights.iter().all(|file| download.is_cached(file));
    let headers = want == Want::Headers && !whole_weights;
    if headers {
        check_headers(&download, &weights)?;
    }
    if headers {
        fetch_all(&download, beside.iter())?;
    } else {
        fetch_all(&download, beside.iter().chain(&weights))?;
    }
    cache.set_commit(&commit)?;
    let temporary = headers.then(|| headers::folder(&download, &beside, &weights)).transpose()?;
    let mut files: Vec<HubFile> = beside.into_iter().chain(weights).map(HubFile::from).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let folder = match &temporary {
        Some(folder) => folder.path().to_path_buf(),
        None => cache.snapshot(&commit),
    };
    let temporary = temporary.map(Arc::new);
    Ok(Resolved { reference: reference.clone(), folder, commit, files, temporary })
}

/// The folder of a model in the cache and the commit it holds, with whatever of its files is there. The
/// Hub is not asked.
pub fn cached_folder(reference: &HubReference, settings: &Settings) -> Option<(PathBuf, String)> {
    let cache = RepoCache::new(&settings.cache, reference);
    let commit = cache.commit()?;
    let folder = cache.snapshot(&commit);
    folder.is_dir().then_some((folder, commit))
}

impl From<Remote> for HubFile {
    fn from(file: Remote) -> Self {
        Self { path: file.path, size: file.size, sha256: file.sha256 }
    }
}

fn is_weights(file: &Remote, needed: &Needed) -> bool {
    super::is_weight_file(&file.path) && needed.index.as_ref() != Some(&file.path)
}

/// Refuses weights that have no header to fetch instead of them.
fn check_headers(download: &Download<'_>, weights: &[Remote]) -> Result<()> {
    let of_model = |file: &&Remote| !file.path.contains('/') && !download.is_cached(file);
    match weights.iter().filter(of_model).find(|file| !file.path.ends_with(".safetensors")) {
        None => Ok(()),
        Some(file) => Err(Error::input("a model of pickled weights cannot be planned unfetched")
            .fact("model", download.reference)
            .expected("safetensors, whose headers can be fetched alone", &file.path)
            .hint("`cognate merge` fetches the weights; a plan can be made once they are cached")),
    }
}

/// Fetches what the cache lacks, with the disk's room checked before.
fn fetch_all<'a>(
    download: &Download<'_>,
    files: impl Iterator<Item = &'a Remote> + Clone,
) -> Result<()> {
    let missing = files.clone().filter(|file| !download.is_cached(file));
    let bytes = missing.clone().fold(0_u64, |sum, file| sum.saturating_add(file.size));
    let count = missing.clone().count();
    if count > 0 {
        check_space(download, missing.clone(), bytes)?;
        let plural = if count == 1 { "" } else { "s" };
        let what = format!("fetching {}: {count} file{plural}", download.reference);
        download.watch.begin(&what, bytes);
    }
    let done = files.map(|file| download.fetch(file)).collect::<Result<Vec<()>>>();
    if count > 0 {
        download.watch.end();
    }
    done.map(|_| ())
}

/// Refuses to start what cannot fit on the disk.
fn check_space<'a>(
    download: &Download<'_>,
    missing: impl Iterator<Item = &'a Remote>,
    bytes: u64,
) -> Result<()> {
    let folder = download.cache.folder();
    cache::create_parent(&folder.join("blobs"))?;
    let Ok(stat) = rustix::fs::statvfs(&folder) else {
        return Ok(());
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let started = missing
        .filter_map(|file| std::fs::metadata(download.cache.incomplete(&file.etag)).ok())
        .fold(0_u64, |sum, part| sum.saturating_add(part.len()));
    let need = bytes.saturating_sub(started);
    if free >= need {
        return Ok(());
    }
    let full = std::io::ErrorKind::StorageFull.into();
    Err(cache::failed("write to the Hub's cache", &folder, &full)
        .fact("model", &download.reference.repo)
        .expected(format!("{need} bytes free"), format!("{free} bytes free")))
}

/// The model as the cache has it; nothing is asked.
fn cached(reference: &HubReference, cache: &RepoCache) -> Result<Resolved> {
    let absent = |what: &str| {
        Error::input(what.to_string())
            .fact("model", &reference.repo)
            .fact("revision", reference.revision())
            .fact("cache", cache.folder().display())
            .hint("HF_HUB_OFFLINE is set; unset it to fetch the model, or fetch it before")
    };
    let commit = cache.commit().filter(|commit| cache.snapshot(commit).is_dir());
    let commit = commit.ok_or_else(|| absent("the model is not in the Hub's cache"))?;
    let folder = cache.snapshot(&commit);
    let paths = cache.paths(&commit);
    let needed = Needed::of(&paths);
    let incomplete = |missing: &str| {
        absent("the Hub's cache holds a part of the model").fact("missing", missing)
    };
    if needed.is_empty() {
        return Err(incomplete("weights"));
    }
    let mut all = needed.beside;
    if !all.iter().any(|path| path == "config.json" || path == "adapter_config.json") {
        return Err(incomplete("config.json"));
    }
    all.extend(needed.weights);
    if let Some(index) = needed.index {
        all.extend(shards(&folder, &index, &paths).map_err(|e| match e.get("missing") {
            Some(missing) => incomplete(missing),
            None => e,
        })?);
        all.push(index);
    }
    all.sort();
    let files = all.into_iter().filter_map(|path| {
        let (size, sha256) = cache.described(&commit, &path)?;
        Some(HubFile { path, size, sha256 })
    });
    let files = files.collect();
    Ok(Resolved { reference: reference.clone(), folder, commit, files, temporary: None })
}

/// The shards that the index in `folder` names.
fn shards(folder: &Path, index: &str, paths: &BTreeSet<String>) -> Result<Vec<String>> {
    let path = folder.join(index);
    let failed = |e| Error::io("read the index", &path, &e);
    let length = std::fs::metadata(&path).map_err(failed)?.len();
    if length > MAX_INDEX_BYTES {
        return Err(Error::input("the index is too large")
            .file(&path)
            .expected(format!("at most {MAX_INDEX_BYTES} bytes"), length));
    }
    let bytes = std::fs::read(&path).map_err(failed)?;
    needed::shards(&bytes, paths).map_err(|e| e.file(&path))
}

fn no_weights(reference: &HubReference, paths: &BTreeSet<String>) -> Error {
    Error::input("the model on the Hub holds no weights that can be merged")
        .fact("model", reference)
        .expected("safetensors, or pytorch_model.bin", needed::weights_among(paths))
}
