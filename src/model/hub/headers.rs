//! A model without its weights: a temporary folder with everything that a plan reads, and weight
//! files that have their length and, of safetensors, their header; the rest of them is a hole.

use super::cache::symlink;
use super::client::{About, Failure};
use super::download::{Download, starts_at};
use super::listing::{Remote, broken};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;

/// Bytes asked for first: most headers are no longer, and a longer one tells its length here.
const FIRST: u64 = 64 << 10;
/// A header longer than this is invalid (the limit of the safetensors format), and not fetched.
const MAX_HEADER: u64 = 100_000_000;
/// Requests under way at a time.
const AT_A_TIME: usize = 8;

/// Makes the folder: `whole` files are links into the cache, which has them; of `weights` the
/// cache has some, and the Hub is asked for the headers of the others.
///
/// # Errors
/// The Hub cannot be reached, or the temporary folder cannot be written.
pub(super) fn folder(
    download: &Download<'_>,
    whole: &[Remote],
    weights: &[Remote],
) -> Result<TempDir> {
    let made = tempfile::Builder::new().prefix("cognate-plan-").tempdir();
    let folder = made.map_err(|e| {
        Error::io("make a temporary folder", &std::env::temp_dir(), &e)
            .hint("set TMPDIR to a folder that can be written")
    })?;
    let (cached, missing): (Vec<&Remote>, Vec<&Remote>) =
        weights.iter().partition(|file| download.is_cached(file));
    for file in whole.iter().chain(cached) {
        download.cache.link(download.commit, &file.path, &file.etag)?;
        let path = folder.path().join(&file.path);
        let blob = download.cache.blob(&file.etag);
        let link = || {
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            symlink(&std::fs::canonicalize(&blob)?, &path)
        };
        link().map_err(|e| Error::io("link a file into a temporary folder", &path, &e))?;
    }
    let queue = Mutex::new(missing.into_iter());
    let first_error = Mutex::new(None);
    let work = || {
        while let Some(file) = queue.lock().ok().and_then(|mut queue| queue.next()) {
            if let Err(error) = sparse(download, folder.path(), file) {
                // The others have nothing left to do.
                while queue.lock().ok().and_then(|mut queue| queue.next()).is_some() {}
                if let Ok(mut first) = first_error.lock() {
                    first.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(work);
        }
    });
    match first_error.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(folder),
    }
}

/// Makes a file of the real length that holds no more than the header.
fn sparse(download: &Download<'_>, folder: &Path, file: &Remote) -> Result<()> {
    let header = match file.path.ends_with(".safetensors") {
        true => fetch_header(download, file)?,
        false => Vec::new(),
    };
    let path = folder.join(&file.path);
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        let mut made = File::create(&path)?;
        made.write_all(&header)?;
        made.set_len(file.size)
    };
    write().map_err(|e| Error::io("write a header to a temporary folder", &path, &e))
}

/// The header of a safetensors file with its length before it; the first bytes alone, if that
/// length cannot be right, which whoever opens the file will say.
fn fetch_header(download: &Download<'_>, file: &Remote) -> Result<Vec<u8>> {
    let mut bytes = fetch(download, file, 0, FIRST.min(file.size))?;
    let declared = bytes.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    let end = declared.saturating_add(8);
    let have = bytes.len() as u64;
    if end > have && end <= file.size && declared <= MAX_HEADER {
        bytes.extend(fetch(download, file, have, end)?);
    }
    bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    Ok(bytes)
}

/// The bytes `first..end` of a file.
fn fetch(download: &Download<'_>, file: &Remote, first: u64, end: u64) -> Result<Vec<u8>> {
    if first >= end {
        return Ok(Vec::new());
    }
    let about = About { reference: download.reference, file: Some(&file.path) };
    let url = download.client.file_url(download.reference, download.commit, &file.path);
    download.client.retrying(|| {
        let mut response = download.client.get(about, &url, Some((first, Some(end))))?;
        // A server that knows no ranges sends the file from its start; no more of it is read.
        let start = starts_at(&response).unwrap_or(0);
        if start != first {
            let error = about.error(Error::network("the Hub does not send parts of files"));
            let error = error.fact("url", &url).hint("check HF_ENDPOINT, and proxies on the way");
            return Err(Failure::Final(error));
        }
        let mut bytes = Vec::new();
        let body = response.body_mut().with_config().limit(u64::MAX).reader();
        let read = body.take(end - first).read_to_end(&mut bytes);
        read.map_err(|e| broken(about, &e.to_string()))?;
        if (bytes.len() as u64) < end - first {
            let reason = format!("{} of {} bytes came", bytes.len(), end - first);
            return Err(broken(about, &reason));
        }
        Ok(bytes)
    })
}
