//! Exact match of texts, with what is to be left out of account.

use crate::error::Result;
use crate::eval::pattern::Pattern;

/// What `exact_match` takes no account of.
#[derive(Clone, Debug, Default)]
pub struct ExactMatch {
    /// What these match is removed, one after the other.
    pub regexes_to_ignore: Vec<Pattern>,
    /// Both texts are put in lower case.
    pub ignore_case: bool,
    /// ASCII punctuation is removed.
    pub ignore_punctuation: bool,
    /// ASCII digits are removed.
    pub ignore_numbers: bool,
}

impl ExactMatch {
    /// Whether the two are the same.
    ///
    /// # Errors
    /// A pattern takes too long.
    pub fn same(&self, one: &str, other: &str) -> Result<bool> {
        Ok(self.reduced(one)? == self.reduced(other)?)
    }

    fn reduced(&self, text: &str) -> Result<String> {
        let mut text = Pattern::remove_all(&self.regexes_to_ignore, text)?;
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        Ok(text)
    }
}
