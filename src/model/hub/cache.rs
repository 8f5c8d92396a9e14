//! The cache that all Hugging Face tools share:
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.
//!
//! ```text
//! models--ORG--NAME/blobs/ETAG              the bytes of a file
//! models--ORG--NAME/refs/REVISION           the commit a branch or tag was at
//! models--ORG--NAME/snapshots/COMMIT/PATH   a link to the blob
//! .locks/models--ORG--NAME/ETAG.lock        held while the blob is fetched
//! ```

use super::listing::is_sha256;
use super::reference::{HubReference, RepoKind, is_commit};
use crate::error::{Error, Result};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Folders within folders of a snapshot at most; a dataset has `CONFIGURATION/SPLIT/FILE`.
const MAX_FOLDERS: usize = 3;

/// A repository's folder in the cache.
pub(super) struct RepoCache {
    cache: PathBuf,
    name: String,
    layout: CacheRepo,
    revision: String,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, reference: &HubReference) -> Self {
        let revision = reference.revision().to_string();
        let kind = match reference.kind {
            RepoKind::Model => RepoType::Model,
            RepoKind::Dataset => RepoType::Dataset,
        };
        let repo = Repo::with_revision(reference.repo.clone(), kind, revision.clone());
        let name = repo.folder_name();
        let layout = Cache::new(cache.to_path_buf()).repo(repo);
        Self { cache: cache.to_path_buf(), name, layout, revision }
    }

    /// The repository's folder.
    pub(super) fn folder(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The bytes of a file with this tag.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// Where the bytes stand while they come in.
    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    /// The commit of the revision, when it was last asked for.
    pub(super) fn commit(&self) -> Option<String> {
        if is_commit(&self.revision) {
            return Some(self.revision.clone());
        }
        let file = self.folder().join("refs").join(&self.revision);
        let commit = std::fs::read_to_string(file).ok()?.trim().to_string();
        is_commit(&commit).then_some(commit)
    }

    /// Notes the commit that the revision is at.
    pub(super) fn set_commit(&self, commit: &str) -> Result<()> {
        if is_commit(&self.revision) || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        self.layout
            .create_ref(commit)
            .map_err(|e| failed("write to the Hub's cache", &self.folder(), &e))
    }

    /// Waits until no other process fetches the blob, and keeps others from it while the file lives.
    pub(super) fn lock(&self, etag: &str) -> Result<File> {
        let path = self.cache.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| failed("open the cache's lock", &path, &e))?;
        file.lock().map_err(|e| failed("take the cache's lock", &path, &e))?;
        Ok(file)
    }

    /// Links a path of the commit's folder to its blob.
    pub(super) fn link(&self, commit: &str, path: &str, etag: &str) -> Result<()> {
        let link = self.snapshot(commit).join(path);
        let up = "../".repeat(path.matches('/').count() + 2);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if std::fs::read_link(&link).is_ok_and(|found| found == target) {
            return Ok(());
        }
        create_parent(&link)?;
        let done = match std::fs::remove_file(&link) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => symlink(&target, &link),
        };
        match done {
            // Another process made it meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(|e| failed("link a file into the Hub's cache", &link, &e)),
        }
    }

    /// The paths that a commit's folder holds; of links that lead nowhere, none.
    pub(super) fn paths(&self, commit: &str) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        let mut folders = vec![(self.snapshot(commit), String::new(), 0)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            for (name, is_folder) in entries(&folder) {
                if !is_folder {
                    paths.insert(format!("{prefix}{name}"));
                } else if depth < MAX_FOLDERS {
                    folders.push((folder.join(&name), format!("{prefix}{name}/"), depth + 1));
                }
            }
        }
        paths
    }

    /// Size and, for a large file, SHA-256 of a cached path: its blob is called so.
    pub(super) fn described(&self, commit: &str, path: &str) -> Option<(u64, Option<String>)> {
        let path = self.snapshot(commit).join(path);
        let size = std::fs::metadata(&path).ok()?.len();
        let blob = std::fs::canonicalize(&path).ok()?;
        let name = blob.file_name()?.to_str()?;
        Some((size, is_sha256(name).then(|| name.to_string())))
    }
}

/// A failure to write to the cache.
pub(super) fn failed(doing: &str, path: &Path, source: &std::io::Error) -> Error {
    let error = Error::io(doing, path, source);
    match source.kind() {
        std::io::ErrorKind::StorageFull => error.hint(
            "the disk is full; free some space, or keep the cache elsewhere with HF_HUB_CACHE",
        ),
        _ => error,
    }
}

/// Makes the folder a file is to stand in.
pub(super) fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .map_err(|e| failed("make a folder of the Hub's cache", folder, &e))
}

fn entries(folder: &Path) -> Vec<(String, bool)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = entries.filter_map(|entry| {
        let metadata = std::fs::metadata(entry.path()).ok()?;
        Some((entry.file_name().into_string().ok()?, metadata.is_dir()))
    });
    entries.collect()
}

#[cfg(unix)]
pub(super) fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
pub(super) fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}
