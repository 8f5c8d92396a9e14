//! A verification for people and for programs, and whether it failed.

use super::{Difference, FILE, Verification};
use crate::engine::hex;
use crate::error::{Error, list};
use crate::plan::bytes;
use serde_json::{Value, json};
use std::fmt;

/// Differences that are printed; JSON has all.
const SHOWN: usize = 20;

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if let Some(tensor) = &self.tensor {
            write!(f, "{tensor}: ")?;
        }
        write!(f, "{}", self.what)?;
        if let Some(expected) = &self.expected {
            write!(f, "\n  expected {expected}")?;
        }
        match &self.found {
            Some(found) => write!(f, "\n  found    {found}"),
            None => Ok(()),
        }
    }
}

impl Difference {
    /// As JSON: `file`, `tensor`, `what`, `expected` and `found`, null where there is nothing to say.
    pub fn json(&self) -> Value {
        json!({
            "file": self.file,
            "tensor": self.tensor,
            "what": self.what.word(),
            "expected": self.expected,
            "found": self.found,
        })
    }
}

impl Verification {
    /// For people.
    pub fn text(&self) -> String {
        let digest = self.digest.as_ref().map_or("not known".to_string(), hex);
        let mut text = format!(
            "digest    {digest}\ncompared  {} tensors, {} files, {}\n",
            self.tensors,
            self.files,
            bytes(self.bytes)
        );
        for line in &self.unchecked {
            text += &format!("unchecked {line}\n");
        }
        if !self.unlisted.is_empty() {
            text += &format!("unlisted  {}\n", list(self.unlisted.iter().map(String::as_str)));
        }
        match self.differences.len() {
            0 => text += "differs   nothing\n",
            count => text += &format!("differs   {count}\n"),
        }
        for difference in self.differences.iter().take(SHOWN) {
            text += &format!("{difference}\n");
        }
        if let Some(more) = self.differences.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            text += &format!("… and {more} more (--json has all)\n");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "ok": self.differences.is_empty() && self.unchecked.is_empty(),
            "digest": self.digest.as_ref().map(hex),
            "tensors": self.tensors,
            "files": self.files,
            "bytes": self.bytes,
            "differences": self.differences.iter().map(Difference::json).collect::<Vec<_>>(),
            "unchecked": self.unchecked,
            "unlisted": self.unlisted,
        })
    }

    /// The failure that it is: of the check where something differs, of the input where something could not
    /// be checked.
    pub fn failed(&self) -> Option<Error> {
        if let Some(first) = self.differences.first() {
            let error =
                Error::check("the model is not what its lineage records").fact("file", &first.file);
            let error = match &first.tensor {
                Some(tensor) => error.tensor(tensor),
                None => error,
            };
            let error = error.fact("differs", first.what);
            return Some(match self.differences.len() {
                1 => error,
                count => error.fact("in all", format!("{count} differences")),
            });
        }
        let first = self.unchecked.first()?;
        Some(
            Error::input("not all of the model could be verified")
                .fact("unchecked", first)
                .hint(format!("what differs is only found where {FILE} has a digest: merge with `--digests outputs` or `full`")),
        )
    }
}
