//! `map_regex`: patterns and what each stands for (`MapRegexFilter` of lm-eval's BIG-Bench Hard).

use super::{Extract, Reduction};
use crate::error::Result;
use crate::eval::pattern::Pattern;

/// Takes the match of any pattern, and gives what the first pattern that matches it stands for.
#[derive(Clone, Debug)]
pub struct MapRegex {
    /// All patterns as alternatives.
    pub any: Extract,
    /// Each pattern with what it stands for.
    pub values: Vec<(Pattern, String)>,
    /// What is left out of account in the response, and in the match.
    pub reduction: Reduction,
}

impl MapRegex {
    pub(super) fn find(&self, text: &str) -> Result<String> {
        let given = |found: Option<String>| found.filter(|text| !text.is_empty());
        let Some(whole) = given(self.any.find(&self.reduction.apply(text)?)?) else {
            return Ok(self.any.fallback.clone());
        };
        let whole = self.reduction.apply(&whole)?;
        for (pattern, value) in &self.values {
            let extract = Extract { pattern: pattern.clone(), ..self.any.clone() };
            if given(extract.find(&whole)?).is_some() {
                return Ok(value.clone());
            }
        }
        Ok(self.any.fallback.clone())
    }
}
