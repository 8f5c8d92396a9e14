//! Filters: what is taken out of a generated text before it is compared.
//!
//! A pipeline has a name (`strict-match`, `flexible-extract`) and steps, each of which is given all
//! responses to one item.

mod choices;
mod mapped;
mod numbers;
mod words;

pub use choices::MultiChoice;
pub use mapped::MapRegex;
pub use numbers::NumberRegex;
pub use words::ListedWords;

use super::dataset::Document;
use super::pattern::Pattern;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// A named pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name; `none` where a task names no filters.
    pub name: String,
    /// Its steps, in order.
    pub steps: Vec<Filter>,
}

/// A step of a pipeline.
#[derive(Clone, Debug)]
pub enum Filter {
    /// The match of a pattern.
    Regex(Extract),
    /// The match of a pattern, else a choice that is named in the text, else a letter after a colon.
    MultiChoice(MultiChoice),
    /// What the first of some patterns to match stands for.
    MapRegex(MapRegex),
    /// The match of a pattern, else a number in words.
    NumberRegex(NumberRegex),
    /// The words of a list in the item, in the response's order.
    ListedWords(ListedWords),
    /// The first response.
    TakeFirst,
    /// The first responses.
    TakeFirstK(usize),
    /// The most frequent response.
    MajorityVote,
    /// Blanks at both ends removed.
    RemoveWhitespace,
    /// In lower case.
    Lowercase,
    /// In upper case.
    Uppercase,
    /// Texts replaced by others.
    Map {
        /// What each text becomes.
        mapping: BTreeMap<String, String>,
        /// What every other text becomes.
        default: String,
    },
}

/// Takes one match of a pattern.
#[derive(Clone, Debug)]
pub struct Extract {
    /// The pattern.
    pub pattern: Pattern,
    /// Which match: 0 is the first, −1 the last.
    pub select: i64,
    /// The text where there is no match.
    pub fallback: String,
}

/// What is left out of account in a response before a pattern is looked for.
#[derive(Clone, Debug, Default)]
pub struct Reduction {
    /// It is put in lower case.
    pub ignore_case: bool,
    /// Punctuation is removed.
    pub ignore_punctuation: bool,
    /// What these match is removed before.
    pub regexes_to_ignore: Vec<Pattern>,
}

impl Reduction {
    fn apply(&self, text: &str) -> Result<String> {
        let mut text = Pattern::remove_all(&self.regexes_to_ignore, text)?;
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            text = Pattern::new(r"\p{P}")?.replace_all(&text, "", 0)?;
        }
        Ok(text)
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self { name: "none".to_string(), steps: vec![Filter::TakeFirst] }
    }
}

impl Pipeline {
    /// Filters the responses to an item down to one.
    ///
    /// # Errors
    /// A pattern takes too long, or the item has no `choices` that a step needs.
    pub fn apply(&self, responses: &[String], document: &Document) -> Result<String> {
        let mut responses = responses.to_vec();
        for step in &self.steps {
            responses = step.apply(responses, document)?;
        }
        responses.into_iter().next().ok_or_else(|| Error::input("an item has no response"))
    }
}

impl Filter {
    fn apply(&self, mut responses: Vec<String>, document: &Document) -> Result<Vec<String>> {
        let each = |responses: Vec<String>, change: &dyn Fn(&str) -> String| {
            responses.iter().map(|text| change(text)).collect()
        };
        Ok(match self {
            Self::Regex(extract) => responses
                .iter()
                .map(|text| Ok(extract.find(text)?.unwrap_or_else(|| extract.fallback.clone())))
                .collect::<Result<_>>()?,
            Self::MultiChoice(filter) => {
                responses.iter().map(|text| filter.find(text, document)).collect::<Result<_>>()?
            }
            Self::MapRegex(filter) => {
                responses.iter().map(|text| filter.find(text)).collect::<Result<_>>()?
            }
            Self::NumberRegex(filter) => {
                responses.iter().map(|text| filter.find(text)).collect::<Result<_>>()?
            }
            Self::ListedWords(filter) => {
                responses.iter().map(|text| filter.find(text, document)).collect::<Result<_>>()?
            }
            Self::TakeFirst => {
                responses.truncate(1);
                responses
            }
            Self::TakeFirstK(k) => {
                responses.truncate(*k);
                responses
            }
            Self::MajorityVote => majority(&responses).into_iter().collect(),
            Self::RemoveWhitespace => each(responses, &|text| text.trim().to_string()),
            Self::Lowercase => each(responses, &str::to_lowercase),
            Self::Uppercase => each(responses, &str::to_uppercase),
            Self::Map { mapping, default } => {
                each(responses, &|text| mapping.get(text).unwrap_or(default).clone())
            }
        })
    }
}

/// The most frequent text; of those that are equally so, the one that came first.
fn majority(responses: &[String]) -> Option<String> {
    let count = |text: &String| responses.iter().filter(|other| *other == text).count();
    let most = responses.iter().map(count).max()?;
    responses.iter().find(|text| count(text) == most).cloned()
}

/// The item of a list by Python's index.
fn select<T>(items: &[T], index: i64) -> Option<&T> {
    let length = i64::try_from(items.len()).ok()?;
    let place = if index < 0 { index + length } else { index };
    items.get(usize::try_from(place).ok()?)
}

impl Extract {
    /// The selected match: its first group that took part, or the whole of it, without blanks at
    /// both ends.
    pub fn find(&self, text: &str) -> Result<Option<String>> {
        let found = self.pattern.find_all(text)?;
        let Some(groups) = select(&found, self.select) else {
            return Ok(None);
        };
        let taken = match groups.as_slice() {
            // A pattern of one group gives that, even where it is empty.
            [only] => Some(only),
            several => several.iter().find(|group| !group.is_empty()),
        };
        Ok(taken.map(|group| group.trim().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(steps: Vec<Filter>, responses: &[&str]) -> String {
        let document = Document(Vec::new());
        let responses: Vec<String> = responses.iter().map(ToString::to_string).collect();
        Pipeline { name: "x".into(), steps }.apply(&responses, &document).unwrap()
    }

    fn regex(pattern: &str, select: i64) -> Extract {
        Extract { pattern: Pattern::new(pattern).unwrap(), select, fallback: "[invalid]".into() }
    }

    #[test]
    fn matches_are_taken() {
        let strict = || Filter::Regex(regex(r"#### (\-?[0-9\.\,]+)", 0));
        let flexible = || Filter::Regex(regex(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1));
        assert_eq!(apply(vec![strict()], &["3 and 4 is\n#### 7 \n#### 8"]), "7");
        assert_eq!(apply(vec![strict()], &["7"]), "[invalid]");
        assert_eq!(apply(vec![flexible(), Filter::TakeFirst], &["$12.50, then 7"]), "7");
        assert_eq!(apply(vec![flexible()], &["none"]), "[invalid]");
        assert_eq!(
            apply(
                vec![strict(), Filter::MajorityVote, Filter::TakeFirst],
                &["#### 1", "#### 2", "#### 2"]
            ),
            "2"
        );
        assert_eq!(apply(vec![Filter::RemoveWhitespace, Filter::Uppercase], &[" a "]), "A");
        let mapping = [("a".to_string(), "1".to_string())].into();
        assert_eq!(apply(vec![Filter::Map { mapping, default: "0".into() }], &["a"]), "1");
    }
}
