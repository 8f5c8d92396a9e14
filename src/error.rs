//! One error type: a sentence, the facts around it, and a hint that stands apart.
//!
//! An [`Error`] says what is wrong in one line, lists the facts a user needs to act on (file, key,
//! tensor, expected, found), and may carry a hint. Its [`Kind`] decides the exit code of the program.

use std::fmt;
use std::path::Path;

/// The result of anything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is; fixes the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reading or writing failed, or an internal check did (exit code 1).
    Io,
    /// The recipe, a checkpoint or the command line is wrong (exit code 2).
    Input,
    /// A check that the user asked for failed (exit code 3).
    Check,
}

/// A failure with its facts. Built with [`Error::input`] or [`Error::io`] and the fact methods.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    message: String,
    facts: Vec<(&'static str, String)>,
    hint: Option<String>,
}

/// Lines of facts printed at most, so that an error stays on one screen.
const MAX_FACTS: usize = 12;

impl Error {
    /// A wrong recipe, checkpoint or command line.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// A failed check that was asked for.
    pub fn check(message: impl Into<String>) -> Self {
        Self::new(Kind::Check, message)
    }

    /// A failed read, write or other system call on `path`.
    pub fn io(doing: &str, path: &Path, source: &std::io::Error) -> Self {
        let error = Self::new(Kind::Io, format!("cannot {doing}"))
            .file(path)
            .fact("reason", source.to_string());
        match source.kind() {
            std::io::ErrorKind::StorageFull => {
                error.hint("the disk is full; free some space or write elsewhere with -o")
            }
            std::io::ErrorKind::PermissionDenied => error.hint("check the permissions of the path"),
            _ => error,
        }
    }

    /// A server that cannot be reached, refuses, or answers what it should not.
    pub fn network(message: impl Into<String>) -> Self {
        Self::new(Kind::Io, message)
    }

    /// Something that cannot happen unless the program itself is wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Io, message)
            .hint("this is a bug in cognate; please report it with the recipe")
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), facts: Vec::new(), hint: None }))
    }

    /// Adds a fact; facts are printed in the order they were added.
    #[must_use]
    pub fn fact(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.facts.push((name, value.to_string()));
        self
    }

    /// Adds the file the error is about.
    #[must_use]
    pub fn file(self, path: &Path) -> Self {
        self.fact("file", path.display())
    }

    /// Puts the place of a recipe that led to the error before its other facts.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        let name = if self.get("file").is_some() { "recipe" } else { "file" };
        self.0.facts.insert(0, (name, place.to_string()));
        self
    }

    /// Adds the model the error is about, unless it names one.
    #[must_use]
    pub fn model(self, reference: &str) -> Self {
        match self.get("model") {
            Some(_) => self,
            None => self.fact("model", reference),
        }
    }

    /// Adds the tensor the error is about.
    #[must_use]
    pub fn tensor(self, name: &str) -> Self {
        self.fact("tensor", name)
    }

    /// Adds the recipe key the error is about.
    #[must_use]
    pub fn key(self, key: impl fmt::Display) -> Self {
        self.fact("key", key)
    }

    /// Adds what was expected and what stands there instead.
    #[must_use]
    pub fn expected(self, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        self.fact("expected", expected).fact("found", found)
    }

    /// Puts a sentence before it, of which it is the reason.
    #[must_use]
    pub(crate) fn under(mut self, message: impl Into<String>) -> Self {
        let reason = std::mem::replace(&mut self.0.message, message.into());
        self.0.facts.insert(0, ("reason", reason));
        self
    }

    /// Sets the hint: what the user may do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The sentence, without facts and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The value of a fact, where the error carries it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.facts.iter().find(|(fact, _)| *fact == name);
        found.map(|(_, value)| value.as_str())
    }

    /// What the user may do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The program's exit code for this failure: 1, 2 or 3.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Io => 1,
            Kind::Input => 2,
            Kind::Check => 3,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", shorten(&self.0.message))?;
        let shown = self.0.facts.len().min(MAX_FACTS);
        for (name, value) in &self.0.facts[..shown] {
            write!(f, "\n  {name:<9} {}", shorten(value))?;
        }
        if shown < self.0.facts.len() {
            write!(f, "\n  … and {} more", self.0.facts.len() - shown)?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\nhint: {}", shorten(hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Keeps a fact to one line of bounded length.
fn shorten(value: &str) -> String {
    const MAX: usize = 240;
    let line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= MAX {
        return line;
    }
    let mut short: String = line.chars().take(MAX).collect();
    short.push('…');
    short
}

/// The candidate nearest to `word`, if it is near enough to be a likely misspelling.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // No name is as long; and the distance takes memory by the square of the length.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A list of names for a message: the first few, and how many more there are.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    first(5, names)
}

/// The first `count` of some names, and how many more there are.
pub(crate) fn first<'a>(count: usize, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.iter().take(count).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(count) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_and_hint_are_printed_in_order() {
        let error = Error::input("unknown key `wieght`")
            .file(Path::new("recipe.yml"))
            .key("parameters.wieght")
            .hint("did you mean `weight`?");
        assert_eq!(
            error.to_string(),
            "unknown key `wieght`\n  file      recipe.yml\n  key       parameters.wieght\nhint: did you mean `weight`?"
        );
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.get("key"), Some("parameters.wieght"));
    }

    #[test]
    fn nearest_suggests_only_what_is_near() {
        let names = ["linear", "slerp", "ties", "task_arithmetic"];
        assert_eq!(nearest("tise", names), Some("ties"));
        assert_eq!(nearest("Slerp", names), Some("slerp"));
        assert_eq!(nearest("task_arithmatic", names), Some("task_arithmetic"));
        assert_eq!(nearest("frobnicate", names), None);
    }

    #[test]
    fn an_error_stays_on_one_screen() {
        let mut error = Error::input("many");
        for _ in 0..100 {
            error = error.fact("tensor", "x".repeat(10_000));
        }
        assert!(error.to_string().lines().count() <= 16);
        assert!(error.to_string().len() < 5_000);
    }
}
