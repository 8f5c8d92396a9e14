//! The staged output: a sibling folder that becomes the output by one rename, once it is complete.
//!
//! A journal in it lists the tensors that are written, with their digests. A merge that was killed
//! leaves the folder behind; the same merge, run again, checks the journalled tensors against their
//! digests and goes on from there.

use super::digests::{Digest, hex, unhex};
use crate::error::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Files of the staging folder that are no part of the output.
const LOCK: &str = ".lock";
const JOURNAL: &str = ".journal";

/// A file that was written whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrittenFile {
    /// Its bytes.
    pub(crate) size: u64,
    /// Its SHA-256.
    pub(crate) sha256: Digest,
}

/// A staged output folder.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    folder: PathBuf,
    _lock: File,
    journal: Mutex<File>,
    done: BTreeMap<String, Digest>,
    /// By path.
    written: Mutex<BTreeMap<String, WrittenFile>>,
}

impl Staging {
    /// Makes or takes over the staging folder of `target`. A folder left by the same merge (the
    /// same `fingerprint`) is resumed, any other is emptied.
    ///
    /// # Errors
    /// The target exists and may not be overwritten, or another merge writes to it.
    pub fn begin(target: &Path, fingerprint: &str, overwrite: bool) -> Result<Self> {
        check_target(target, overwrite)?;
        let folder = sibling(target, "partial")?;
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::io("create the output's staging folder", &folder, &e))?;
        let lock_path = folder.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| Error::io("create the lock file", &lock_path, &e))?;
        if lock.try_lock().is_err() {
            return Err(Error::input("another merge is writing to this output")
                .file(target)
                .fact("lock", lock_path.display()));
        }
        let done = resume(&folder, fingerprint).unwrap_or_default();
        let journal_path = folder.join(JOURNAL);
        let failed = |e: std::io::Error| Error::io("write the journal", &journal_path, &e);
        if done.is_empty() {
            empty(&folder)?;
        }
        let mut journal = File::create(&journal_path).map_err(failed)?;
        journal.write_all(format!("{fingerprint}\n").as_bytes()).map_err(failed)?;
        let staging = Self {
            target: target.to_path_buf(),
            folder,
            _lock: lock,
            journal: Mutex::new(journal),
            done: BTreeMap::new(),
            written: Mutex::default(),
        };
        for (tensor, digest) in &done {
            staging.record(tensor, digest)?;
        }
        Ok(Self { done, ..staging })
    }

    /// The staging folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tensors an interrupted merge had written, with their digests; yet to be checked.
    pub(super) fn done(&self) -> &BTreeMap<String, Digest> {
        &self.done
    }

    /// Notes that a tensor is written.
    pub(super) fn record(&self, tensor: &str, digest: &Digest) -> Result<()> {
        let line = format!("{} {}\n", hex(digest), serde_json::Value::from(tensor));
        let mut journal =
            self.journal.lock().map_err(|_| Error::internal("the journal is poisoned"))?;
        journal
            .write_all(line.as_bytes())
            .map_err(|e| Error::io("write the journal", &self.folder.join(JOURNAL), &e))
    }

    /// Writes a whole file, with its folders, and syncs it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        let failed = |e: std::io::Error| Error::io("write an output file", &path, &e);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = File::create(&path).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let written =
            WrittenFile { size: bytes.len() as u64, sha256: Sha256::digest(bytes).into() };
        let mut all = self
            .written
            .lock()
            .map_err(|_| Error::internal("the list of written files is poisoned"))?;
        all.insert(name.to_string(), written);
        Ok(())
    }

    /// The files that were written whole, by path: all of the output but its shards.
    pub(crate) fn written(&self) -> BTreeMap<String, WrittenFile> {
        self.written.lock().map(|written| written.clone()).unwrap_or_default()
    }

    /// Copies a file from elsewhere into the output.
    pub fn copy(&self, from: &Path, path: &str) -> Result<()> {
        let bytes = std::fs::read(from).map_err(|e| Error::io("read a file to copy", from, &e))?;
        self.write(path, &bytes)
    }

    /// Makes the staged folder the output: sync, rename, sync.
    pub fn commit(self) -> Result<()> {
        for name in [JOURNAL, LOCK] {
            let path = self.folder.join(name);
            std::fs::remove_file(&path)
                .map_err(|e| Error::io("remove a staging file", &path, &e))?;
        }
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                sync_folder(&entry.path())?;
            }
        }
        sync_folder(&self.folder)?;
        let failed =
            |e: std::io::Error| Error::io("move the finished output into place", &self.target, &e);
        if self.target.exists() && exchange(&self.folder, &self.target)? {
            // What is staged now is the old output.
            std::fs::remove_dir_all(&self.folder).map_err(failed)?;
        } else if self.target.exists() {
            let old = sibling(&self.target, "old")?;
            std::fs::rename(&self.target, &old).map_err(failed)?;
            std::fs::rename(&self.folder, &self.target).map_err(failed)?;
            std::fs::remove_dir_all(&old).map_err(failed)?;
        } else {
            std::fs::rename(&self.folder, &self.target).map_err(failed)?;
        }
        sync_folder(parent(&self.target))
    }

    /// Removes the staged folder after a failure.
    pub fn abandon(self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A target may be absent, an empty folder, or, with `overwrite`, an earlier output.
fn check_target(target: &Path, overwrite: bool) -> Result<()> {
    if target.is_file() {
        return Err(Error::input("the output is a file, not a folder")
            .file(target)
            .hint("choose another path with -o"));
    }
    let entries = match std::fs::read_dir(target) {
        Ok(entries) => entries.count(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("look at the output folder", target, &e)),
    };
    if entries == 0 {
        return Ok(());
    }
    let exists = Error::input("the output folder exists").file(target);
    if !overwrite {
        return Err(exists.hint("choose another with -o, or replace it with --overwrite"));
    }
    if !target.join("lineage.json").is_file() {
        return Err(exists.hint("it was not written by cognate (it has no lineage.json), so --overwrite does not replace it; remove it yourself"));
    }
    Ok(())
}

/// `.NAME.cognate-KIND` beside the target.
pub(crate) fn sibling(target: &Path, kind: &str) -> Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| Error::input("the output path has no name").file(target))?;
    Ok(parent(target).join(format!(".{}.cognate-{kind}", name.to_string_lossy())))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| Error::io("sync a folder", folder, &e))
}

/// Swaps two folders at once, where the system can.
fn exchange(a: &Path, b: &Path) -> Result<bool> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            Err(e) => return Err(Error::io("swap the old output for the new", b, &e.into())),
        }
    }
    let _ = (a, b);
    Ok(false)
}

/// The journal of an interrupted run of the same merge. Lines that were cut short are left out.
fn resume(folder: &Path, fingerprint: &str) -> Option<BTreeMap<String, Digest>> {
    let mut text = String::new();
    File::open(folder.join(JOURNAL)).ok()?.read_to_string(&mut text).ok()?;
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    if lines.next() != Some(fingerprint) {
        return None;
    }
    let mut done = BTreeMap::new();
    for line in lines {
        let (digest, name) = line.split_once(' ')?;
        done.insert(serde_json::from_str(name).ok()?, unhex(digest)?);
    }
    Some(done)
}

fn empty(folder: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("empty the staging folder", folder, &e);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_name().is_some_and(|name| name == LOCK) {
            continue;
        }
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.map_err(failed)?;
    }
    Ok(())
}
