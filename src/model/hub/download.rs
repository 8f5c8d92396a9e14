//! Fetches a file into the cache: resumed where it stopped, and kept only if its hash is the Hub's.

use super::cache::{RepoCache, create_parent, failed};
use super::client::{About, Attempts, Client, Failure, header};
use super::listing::{Remote, broken};
use super::reference::HubReference;
use super::watch::Watch;
use crate::engine::hex;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use ureq::Body;
use ureq::http::{Response, StatusCode};

/// Bytes that make an attempt one that gained something.
const PROGRESS: u64 = 1 << 20;

/// A repository at a commit, about to be fetched.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) cache: &'a RepoCache,
    pub(super) reference: &'a HubReference,
    pub(super) commit: &'a str,
    pub(super) watch: &'a dyn Watch,
}

impl Download<'_> {
    /// Whether the cache holds the file's bytes.
    pub(super) fn is_cached(&self, file: &Remote) -> bool {
        let blob = std::fs::metadata(self.cache.blob(&file.etag));
        blob.is_ok_and(|blob| blob.is_file() && blob.len() == file.size)
    }

    /// Fetches the file unless the cache has it, and links it into the commit's folder.
    ///
    /// # Errors
    /// The Hub cannot be reached, the hash differs, the disk is full.
    pub(super) fn fetch(&self, file: &Remote) -> Result<()> {
        if !self.is_cached(file) {
            let blob = self.cache.blob(&file.etag);
            create_parent(&blob)?;
            let _lock = self.cache.lock(&file.etag)?;
            // Another process may have fetched it meanwhile.
            if self.is_cached(file) {
                self.watch.advance(file.size);
            } else {
                let path = self.cache.incomplete(&file.etag);
                let mut part = Part::open(path, file.sha256.is_some())?;
                self.fill(&mut part, file)?;
                part.finish(&blob, file, self.about(file))?;
            }
        }
        self.cache.link(self.commit, &file.path, &file.etag)
    }

    fn about<'b>(&'b self, file: &'b Remote) -> About<'b> {
        About { reference: self.reference, file: Some(&file.path) }
    }

    /// Fetches what is missing, in as many requests as it takes.
    fn fill(&self, part: &mut Part, file: &Remote) -> Result<()> {
        if part.length > file.size {
            part.restart()?;
        }
        self.watch.advance(part.length);
        let mut shown = part.length;
        let mut attempts = Attempts::new(self.client.settings);
        while part.length < file.size {
            let before = part.length;
            if let Err(failure) = self.request(part, file, &mut shown) {
                if part.length >= before.saturating_add(PROGRESS) {
                    attempts.progressed();
                }
                attempts.failed(failure)?;
            }
        }
        Ok(())
    }

    /// One request for everything that is missing. `shown` are the bytes that progress has seen.
    fn request(&self, part: &mut Part, file: &Remote, shown: &mut u64) -> Result<(), Failure> {
        let about = self.about(file);
        let url = self.client.file_url(self.reference, self.commit, &file.path);
        let range = (part.length > 0).then_some((part.length, None));
        let mut response = self.client.get(about, &url, range)?;
        let wrong = |what: &str, expected: String, found: String| {
            let error = about.error(Error::network(what)).fact("url", &url);
            Failure::Final(error.expected(expected, found).hint("check HF_ENDPOINT"))
        };
        match (range, starts_at(&response)) {
            // The server knows no ranges, and sends the file anew.
            (Some(_), None) => part.restart().map_err(Failure::Final)?,
            (Some((first, _)), Some(start)) if start != first => {
                let (expected, found) = (format!("byte {first}"), format!("byte {start}"));
                return Err(wrong("the Hub sends another part than asked for", expected, found));
            }
            _ => {}
        }
        let mut buffer = vec![0; 1 << 18];
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) if part.length < file.size => {
                    let reason = format!("{} of {} bytes came", part.length, file.size);
                    return Err(broken(about, &reason));
                }
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(broken(about, &e.to_string())),
            };
            let length = part.length + read as u64;
            if length > file.size {
                let expected = format!("{} bytes", file.size);
                return Err(wrong(
                    "the Hub sends more than the file holds",
                    expected,
                    "more".into(),
                ));
            }
            part.append(&buffer[..read]).map_err(Failure::Final)?;
            self.watch.advance(length.saturating_sub(*shown));
            *shown = length.max(*shown);
        }
    }
}

/// The first byte of a partial answer; none of a whole one.
pub(super) fn starts_at(response: &Response<Body>) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    // `bytes FIRST-LAST/LENGTH` (RFC 9110, 14.4); what is unreadable starts nowhere.
    let range = header(response, "content-range").and_then(|range| range.strip_prefix("bytes "));
    let first =
        range.and_then(|range| range.split_once('-')).and_then(|(first, _)| first.parse().ok());
    Some(first.unwrap_or(u64::MAX))
}

/// A file that is coming in.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    /// The hash of what is there; none where the Hub gives none to compare with.
    hash: Option<Sha256>,
}

impl Part {
    /// Opens what an earlier run left, or begins anew.
    fn open(path: PathBuf, hashed: bool) -> Result<Self> {
        let open = || {
            let mut options = File::options();
            let mut file =
                options.read(true).write(true).create(true).truncate(false).open(&path)?;
            let length = file.metadata()?.len();
            let mut hash = hashed.then(Sha256::new);
            if let Some(hash) = &mut hash {
                let mut buffer = vec![0; 1 << 20];
                let mut left = length;
                while left > 0 {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    file.read_exact(&mut buffer[..now])?;
                    hash.update(&buffer[..now]);
                    left -= now as u64;
                }
            }
            file.seek(SeekFrom::Start(length))?;
            Ok((file, length, hash))
        };
        let opened = open().map_err(|e| failed("open a file of the Hub's cache", &path, &e));
        let (file, length, hash) = opened?;
        Ok(Self { path, file, length, hash })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| failed("write to the Hub's cache", &self.path, &e))?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        let empty = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))
        };
        empty(&mut self.file).map_err(|e| failed("write to the Hub's cache", &self.path, &e))?;
        self.length = 0;
        self.hash = self.hash.take().map(|_| Sha256::new());
        Ok(())
    }

    /// Gives the file its name, if its bytes are the Hub's; removes it otherwise.
    fn finish(self, blob: &Path, file: &Remote, about: About<'_>) -> Result<()> {
        if let (Some(hash), Some(expected)) = (self.hash, &file.sha256) {
            let found = hex(&hash.finalize().into());
            if found != *expected {
                let _ = std::fs::remove_file(&self.path);
                return Err(about
                    .error(Error::network("a downloaded file is not the one the Hub has"))
                    .expected(format!("SHA-256 {expected}"), format!("SHA-256 {found}"))
                    .hint("nothing of it was kept; run the same command again"));
            }
        }
        let done = self.file.sync_all().and_then(|()| std::fs::rename(&self.path, blob));
        done.map_err(|e| failed("write to the Hub's cache", blob, &e))
    }
}
