//! What a repository holds at a revision: its commit, its files, their sizes and hashes.

use super::client::{About, Client, Failure, escape, header};
use super::reference::{HubReference, is_commit};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use ureq::Body;
use ureq::http::Response;

/// A listing larger than this is refused.
const MAX_LISTING_BYTES: u64 = 64 << 20;

/// A file as the Hub describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// Its path in the repository.
    pub(super) path: String,
    /// Its length in bytes.
    pub(super) size: u64,
    /// What its blob is called in the cache: the SHA-256 of a large file, Git's object id of
    /// another.
    pub(super) etag: String,
    /// The SHA-256 of a large (LFS) file.
    pub(super) sha256: Option<String>,
}

/// The files of a repository at a commit.
pub(super) struct Listing {
    /// The commit's hash.
    pub(super) commit: String,
    /// The paths of all files.
    pub(super) paths: BTreeSet<String>,
    /// The files that the listing describes; others are asked for one by one.
    described: BTreeMap<String, Remote>,
}

/// `GET /api/{models|datasets}/{repo}/revision/{revision}?blobs=true`.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Asks the Hub.
    pub(super) fn fetch(client: &Client<'_>, reference: &HubReference) -> Result<Self> {
        let about = About { reference, file: None };
        let url = format!(
            "{}/api/{}/{}/revision/{}?blobs=true",
            client.settings.endpoint,
            reference.kind.api(),
            reference.repo,
            escape(reference.revision(), false)
        );
        let bytes = client.retrying(|| {
            let mut response = client.get(about, &url, None)?;
            let mut bytes = Vec::new();
            let read =
                response.body_mut().as_reader().take(MAX_LISTING_BYTES).read_to_end(&mut bytes);
            read.map_err(|e| broken(about, &e.to_string()))?;
            Ok(bytes)
        })?;
        let wrong = |reason: String| {
            about
                .error(Error::network("the Hub's list of the files is not valid"))
                .fact("url", &url)
                .fact("reason", reason)
                .hint("check HF_ENDPOINT")
        };
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if !is_commit(&answer.sha) {
            return Err(wrong(format!("no commit hash: {}", answer.sha)));
        }
        let paths = answer.siblings.iter().map(|file| file.rfilename.clone()).collect();
        let described = answer.siblings.into_iter().filter_map(Sibling::remote);
        let described = described.map(|file| (file.path.clone(), file)).collect();
        Ok(Self { commit: answer.sha, paths, described })
    }

    /// What the Hub says of a file: in the listing, or else in the headers of the file itself.
    pub(super) fn file(
        &self,
        client: &Client<'_>,
        reference: &HubReference,
        path: &str,
    ) -> Result<Remote> {
        if let Some(file) = self.described.get(path) {
            return Ok(file.clone());
        }
        let about = About { reference, file: Some(path) };
        let url = client.file_url(reference, &self.commit, path);
        let response = client.retrying(|| client.head(about, &url))?;
        described_by(path, &response).ok_or_else(|| {
            about
                .error(Error::network("the Hub does not describe a file"))
                .fact("url", &url)
                .expected("an ETag and a length", "headers without them")
                .hint("check HF_ENDPOINT; a proxy may have changed the answer")
        })
    }
}

impl Sibling {
    fn remote(self) -> Option<Remote> {
        let path = self.rfilename;
        match (self.lfs, self.blob_id, self.size) {
            (Some(lfs), ..) if is_sha256(&lfs.sha256) => Some(Remote {
                path,
                size: lfs.size,
                etag: lfs.sha256.clone(),
                sha256: Some(lfs.sha256),
            }),
            (None, Some(etag), Some(size)) if is_etag(&etag) => {
                Some(Remote { path, size, etag, sha256: None })
            }
            _ => None,
        }
    }
}

/// A file as the headers of an answer describe it.
fn described_by(path: &str, response: &Response<Body>) -> Option<Remote> {
    let linked = header(response, "x-linked-etag");
    let etag = linked.or_else(|| header(response, "etag"))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
    let size = header(response, "x-linked-size").or_else(|| header(response, "content-length"))?;
    let size = size.parse().ok()?;
    let sha256 = (linked.is_some() && is_sha256(&etag)).then(|| etag.clone());
    is_etag(&etag).then(|| Remote { path: path.to_string(), size, etag, sha256 })
}

/// Whether this is a SHA-256 in lowercase hexadecimal.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a tag of the server's may be the name of a file in the cache.
fn is_etag(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=128).contains(&text.len()) && text.bytes().all(plain)
}

/// The connection broke off.
pub(super) fn broken(about: About<'_>, reason: &str) -> Failure {
    let error = about
        .error(Error::network("the connection to the Hub broke off"))
        .fact("reason", reason)
        .hint("run the same command again: it goes on where it stopped");
    Failure::Passing(error, None)
}
