//! Requests to the Hub: who asks, what an answer means, and when to ask again.
//!
//! API: <https://huggingface.co/docs/hub/api>; the headers `X-Repo-Commit`, `X-Linked-Etag`,
//! `X-Linked-Size`, `X-Error-Code` and `X-Error-Message` as huggingface_hub 2.4 reads them.

use super::reference::HubReference;
use super::settings::Settings;
use crate::error::{Error, Result};
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// Times a request is made before its failure is reported.
const ATTEMPTS: u32 = 5;
/// The longest wait a busy server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Redirects followed within the Hub to reach a file's metadata.
const MAX_REDIRECTS: usize = 5;

/// What a request is about, for messages.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    /// The repository.
    pub(super) reference: &'a HubReference,
    /// The file.
    pub(super) file: Option<&'a str>,
}

impl About<'_> {
    /// The error with the facts of the request.
    pub(super) fn error(&self, error: Error) -> Error {
        let error = error.fact(self.reference.kind.noun(), &self.reference.repo);
        let error = match &self.reference.revision {
            Some(revision) => error.fact("revision", revision),
            None => error,
        };
        match self.file {
            Some(file) => error.fact("file", file),
            None => error,
        }
    }
}

/// A failed attempt.
pub(super) enum Failure {
    /// Asking again may help; the wait, where the server asks for one.
    Passing(Error, Option<Duration>),
    /// It will not.
    Final(Error),
}

/// Counts the attempts at one thing and waits between them.
pub(super) struct Attempts {
    failed: u32,
    wait: Duration,
}

impl Attempts {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { failed: 0, wait: settings.retry_wait }
    }

    /// Something was gained: the count starts anew.
    pub(super) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt, or gives up with the error.
    pub(super) fn failed(&mut self, failure: Failure) -> Result<()> {
        let (error, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error, asked) => (error, asked),
        };
        self.failed += 1;
        if self.failed >= ATTEMPTS {
            return Err(error.fact("attempts", self.failed));
        }
        let wait = self.wait * (1 << (self.failed - 1));
        std::thread::sleep(asked.unwrap_or(wait).min(MAX_WAIT));
        Ok(())
    }
}

/// A connection to the Hub.
pub(super) struct Client<'a> {
    pub(super) settings: &'a Settings,
    /// Follows redirects; the token goes to the Hub's own host alone.
    following: Agent,
    /// Gives redirects back, since their headers describe the file.
    stopping: Agent,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let agent = |redirects: u32| {
            Agent::config_builder()
                .user_agent(concat!("cognate/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .http_status_as_error(false)
                .max_redirects(redirects)
                .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
                .timeout_connect(Some(Duration::from_secs(15)))
                .timeout_recv_response(Some(Duration::from_secs(60)))
                .timeout_per_read(Some(Duration::from_secs(60)))
                .build()
                .new_agent()
        };
        Self { settings, following: agent(10), stopping: agent(0) }
    }

    /// The address of a file at a commit.
    pub(super) fn file_url(&self, reference: &HubReference, commit: &str, file: &str) -> String {
        let (kind, repo) = (reference.kind.prefix(), &reference.repo);
        let endpoint = &self.settings.endpoint;
        format!("{endpoint}/{kind}{repo}/resolve/{commit}/{}", escape(file, true))
    }

    /// Gets `url`, from the byte `range.0` on up to and without `range.1`; the answer is 200 or 206.
    pub(super) fn get(
        &self,
        about: About<'_>,
        url: &str,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = self.following.get(url);
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some((first, end)) = range {
            let last = end.map(|end| end.saturating_sub(1).to_string()).unwrap_or_default();
            request = request.header("Range", format!("bytes={first}-{last}"));
        }
        let response = request.call().map_err(|e| self.unreachable(about, &e))?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            _ => Err(self.refused(about, url, &response)),
        }
    }

    /// Asks for the headers of `url`, at the Hub itself and not where it redirects to.
    pub(super) fn head(&self, about: About<'_>, url: &str) -> Result<Response<Body>, Failure> {
        let mut at = url.to_string();
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.stopping.head(&at);
            if let Some(token) = &self.settings.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| self.unreachable(about, &e))?;
            if response.status().is_success() {
                return Ok(response);
            }
            if !response.status().is_redirection() {
                return Err(self.refused(about, url, &response));
            }
            // A path leads to another place of the Hub (a renamed repository, a small file); an
            // address leads to the storage, which knows nothing of the repository.
            match header(&response, "location") {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    at = format!("{}{path}", origin(&self.settings.endpoint));
                }
                _ => return Ok(response),
            }
        }
        let error = about.error(Error::network("the Hub redirects in circles")).fact("url", url);
        Err(Failure::Final(error))
    }

    /// Makes an attempt until it succeeds, fails for good, or has failed too often.
    pub(super) fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut attempts = Attempts::new(self.settings);
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => attempts.failed(failure)?,
            }
        }
    }

    /// No answer came.
    fn unreachable(&self, about: About<'_>, error: &ureq::Error) -> Failure {
        let endpoint = &self.settings.endpoint;
        if matches!(error, ureq::Error::BadUri(_) | ureq::Error::Http(_)) {
            let error = about
                .error(Error::input("the Hub's address is not valid"))
                .expected("https://HOST", endpoint)
                .hint("check HF_ENDPOINT");
            return Failure::Final(error);
        }
        let error = about
            .error(Error::network("the Hub cannot be reached"))
            .fact("endpoint", endpoint)
            .fact("reason", error)
            .hint("check the network and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses what is cached");
        Failure::Passing(error, None)
    }

    /// An answer came, and it is no.
    fn refused(&self, about: About<'_>, url: &str, response: &Response<Body>) -> Failure {
        let status = response.status();
        let code = header(response, "x-error-code").unwrap_or_default();
        let asked = header(response, "retry-after").and_then(|seconds| seconds.parse().ok());
        let known = self.settings.token.is_some();
        let what = about.reference.kind.noun();
        let name = format!(
            "check the name; a private {what} needs a token in HF_TOKEN, or `hf auth login`"
        );
        let hinted = match (code, status.as_u16()) {
            ("RevisionNotFound", _) => Error::input(format!("the {what} has no such revision on the Hub"))
                .hint("name a branch, a tag or a full commit hash behind the `@`"),
            ("EntryNotFound", _) => Error::input(format!("the {what} has no such file on the Hub")),
            ("GatedRepo", _) if known => Error::network(format!("the Hub refuses a gated {what}"))
                .hint(format!("the token has no access yet; accept the {what}'s conditions on its page")),
            ("GatedRepo", _) => Error::network(format!("the Hub refuses a gated {what}")).hint(
                format!("accept the {what}'s conditions on its page, then set HF_TOKEN to a token of yours"),
            ),
            ("RepoNotFound", _) => Error::input(format!("the Hub shows no such {what}")).hint(name),
            (_, 401) => Error::network("the Hub asks who you are").hint(if known {
                "the token is not valid; check HF_TOKEN, or log in again with `hf auth login`"
                    .to_string()
            } else {
                format!("the {what} is private, gated or not there; set HF_TOKEN or run `hf auth login`")
            }),
            (_, 403) => Error::network(format!("the Hub gives no access to the {what}")).hint(if known {
                format!("the token in HF_TOKEN lacks the right; accept the {what}'s conditions on its page")
            } else {
                format!("accept the {what}'s conditions on its page, then set HF_TOKEN to a token of yours")
            }),
            (_, 404) if about.file.is_some() => {
                Error::input(format!("the {what} has no such file on the Hub"))
            }
            (_, 404) => Error::input(format!("the Hub has no such {what} or revision")).hint(name),
            (_, 429) => Error::network("the Hub is asked too often")
                .hint("wait a few minutes; a token in HF_TOKEN allows more requests"),
            (_, 500..) => {
                Error::network("the Hub has a failure of its own").hint("try again later")
            }
            _ => Error::network("the Hub gives an unexpected answer").hint("check HF_ENDPOINT"),
        };
        let mut error = about.error(hinted).fact("url", url).fact("status", status);
        if let Some(message) = header(response, "x-error-message") {
            error = error.fact("answer", message);
        }
        match status.as_u16() {
            408 | 429 | 500.. => Failure::Passing(error, asked.map(Duration::from_secs)),
            _ => Failure::Final(error),
        }
    }
}

/// A header's value.
pub(super) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Scheme and host of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Writes what may not stand in an address as `%XX` (RFC 3986); slashes too unless `slashes` stay.
pub(super) fn escape(text: &str, slashes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            b'/' if slashes => escaped.push('/'),
            _ if byte.is_ascii_alphanumeric() => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(escape("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(escape("1_Pooling/a b?ü.json", true), "1_Pooling/a%20b%3F%C3%BC.json");
        assert_eq!(origin("https://hub.example:8080/a/b"), "https://hub.example:8080");
        assert_eq!(origin("http://127.0.0.1:80"), "http://127.0.0.1:80");
    }
}
