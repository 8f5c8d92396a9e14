//! A file mapped into memory for reading. One of the two places with `unsafe` code.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Size in bytes.
    pub size: u64,
    /// Device, inode, modification and change time, as the platform gives them.
    pub stamp: String,
}

impl FileIdentity {
    fn of(metadata: &std::fs::Metadata) -> Self {
        #[cfg(unix)]
        let stamp = {
            use std::os::unix::fs::MetadataExt;
            format!(
                "{}:{}:{}.{:09}:{}.{:09}",
                metadata.dev(),
                metadata.ino(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec()
            )
        };
        #[cfg(not(unix))]
        let stamp = format!("{:?}:{:?}", metadata.modified().ok(), metadata.created().ok());
        Self { size: metadata.len(), stamp }
    }
}

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub struct Mapping {
    path: PathBuf,
    identity: FileIdentity,
    map: Mmap,
}

impl Mapping {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened or mapped, or is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        // Looked at before it is opened, since opening a pipe waits for its other end.
        let looked = std::fs::metadata(path).map_err(|e| Error::io("open the file", path, &e))?;
        if !looked.is_file() {
            return Err(Error::input("not a regular file").file(path));
        }
        let file = File::open(path).map_err(|e| Error::io("open the file", path, &e))?;
        let metadata = file.metadata().map_err(|e| Error::io("read the file's size", path, &e))?;
        // SAFETY: the mapping is read-only and private to this value. Another process that writes
        // to the file while it is mapped could change the bytes under us: `unchanged` finds that
        // out after the work, and every bound is taken from the mapping's own length, so changed
        // bytes can give wrong numbers (which are then reported), not out-of-bounds reads.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map the file", path, &e))?;
        Ok(Self { path: path.to_path_buf(), identity: FileIdentity::of(&metadata), map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size and stamp at the time it was opened.
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// Checks that the file still is what was mapped.
    ///
    /// # Errors
    /// The file was replaced, changed or removed since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        let metadata = std::fs::metadata(&self.path)
            .map_err(|e| Error::io("look at an input again", &self.path, &e))?;
        if FileIdentity::of(&metadata) == self.identity {
            return Ok(());
        }
        Err(Error::input("an input file changed while it was read")
            .file(&self.path)
            .hint("run again once nothing writes to the model"))
    }

    /// Starts reading the byte range ahead.
    pub fn prefetch(&self, range: Range<usize>) {
        // Only a hint: where it fails, the pages come in one by one.
        #[cfg(unix)]
        let _ = self.map.advise_range(Advice::WillNeed, range.start, range.len());
    }

    /// Gives the pages of the byte range back; they are read anew if they are touched again.
    pub fn release(&self, range: Range<usize>) {
        // SAFETY: MADV_DONTNEED on a shared, read-only file mapping discards no data: a later
        // access reads the page from the file again. No reference is invalidated, since the
        // addresses stay mapped.
        #[cfg(unix)]
        let _ = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
    }
}
