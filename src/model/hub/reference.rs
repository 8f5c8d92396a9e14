//! How a model or a dataset on the Hub is named: `org/name` or `org/name@revision`.

use std::fmt;

/// What a repository on the Hub holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A dataset.
    Dataset,
}

impl RepoKind {
    /// The word for it in messages.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// Where the Hub's API lists such repositories.
    pub(super) fn api(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// What stands before the name in the address of a file.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// A repository on the Hub, and which revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubReference {
    /// What it holds.
    pub kind: RepoKind,
    /// `org/name`.
    pub repo: String,
    /// A branch, a tag, a commit or `refs/…`; none for the default branch.
    pub revision: Option<String>,
}

/// The branch that stands for a repository without a revision.
const DEFAULT_BRANCH: &str = "main";

impl HubReference {
    /// Reads a reference; `None` if it is none of the Hub's, for example because it looks like a
    /// path: it starts with `.`, `/` or `~`, or has more than one slash before the revision.
    ///
    /// The rules for names are the Hub's (`validate_repo_id` of huggingface_hub 2.4): letters,
    /// digits, `-`, `_` and `.`, each part with at most 96 characters and no `-` or `.` at either
    /// end, no `--` or `..`, and no `.git` at the end. A revision is a Git ref name of letters,
    /// digits, `-`, `_` and `.`; slashes stand in `refs/…` alone.
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = repo.split_once('/')?;
        let valid = is_name(owner)
            && is_name(name)
            && !repo.contains("--")
            && !repo.contains("..")
            && !repo.ends_with(".git")
            && revision.is_none_or(is_revision);
        valid.then(|| Self {
            kind: RepoKind::Model,
            repo: repo.to_string(),
            revision: revision.map(ToString::to_string),
        })
    }

    /// The same name as that of a dataset, at a revision.
    #[must_use]
    pub fn of_dataset(self, revision: &str) -> Self {
        Self { kind: RepoKind::Dataset, revision: Some(revision.to_string()), ..self }
    }

    /// The revision asked for: its own, or the default branch.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_BRANCH)
    }
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.repo),
            None => f.write_str(&self.repo),
        }
    }
}

/// Whether this is a full commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = text.as_bytes();
    text.len() <= 96 && bytes.iter().all(|b| inner(*b)) && end(bytes.first()) && end(bytes.last())
}

/// Ref names as Git allows them, less the characters nobody uses in a model's revision.
fn is_revision(text: &str) -> bool {
    let plain = |part: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !part.is_empty()
            && part.bytes().all(inner)
            && !part.starts_with(['.', '-'])
            && !part.ends_with('.')
            && !part.ends_with(".lock")
            && !part.contains("..")
    };
    let slashes = !text.contains('/') || text.starts_with("refs/");
    text.len() <= 255 && slashes && text.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_read() {
        for (text, repo, revision) in [
            ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B", "main"),
            ("Qwen/Qwen3-0.6B@main", "Qwen/Qwen3-0.6B", "main"),
            ("_a/b_@v1.0", "_a/b_", "v1.0"),
            ("a/b@refs/pr/12", "a/b", "refs/pr/12"),
            (
                "a/b@0123456789abcdef0123456789abcdef01234567",
                "a/b",
                "0123456789abcdef0123456789abcdef01234567",
            ),
        ] {
            let found = HubReference::parse(text).unwrap();
            assert_eq!((found.repo.as_str(), found.revision()), (repo, revision), "{text}");
            assert_eq!(found.to_string(), text);
        }
    }

    #[test]
    fn paths_and_wrong_names_are_not() {
        let long = format!("a/{}", "b".repeat(97));
        for text in [
            "",
            "gpt2",
            "/a/b",
            "./a/b",
            "../a",
            "~/models",
            "~a/b",
            "a/b/c",
            "a/",
            "/b",
            "a//b",
            "a/b/",
            "a\\b/c",
            "a b/c",
            "a/b--c",
            "a/b..c",
            "a/b.git",
            "-a/b",
            "a/b-",
            ".a/b",
            "a/b.",
            "ä/b",
            "a/b@",
            "a/b@/x",
            "a/b@x/y",
            "a/b@refs/../x",
            "a/b@..",
            "a/b@-x",
            "a/b@x@y",
            "a/b@refs/pr/",
            "a/b@x.lock",
            "a/b+c/d",
            "a/b\n",
            "C:/models",
            &long,
        ] {
            assert_eq!(HubReference::parse(text), None, "{text:?}");
        }
        assert!(is_commit(&"a1".repeat(20)) && !is_commit(&"A1".repeat(20)) && !is_commit("main"));
    }
}
