//! `multi_choice_regex`: takes `(A)` and the like.

use super::{Extract, Reduction};
use crate::error::{Error, Result};
use crate::eval::dataset::{Document, Value};
use crate::eval::pattern::Pattern;

/// Takes the match of a pattern, else the letter of a choice that is named, else a letter behind a
/// colon.
#[derive(Clone, Debug)]
pub struct MultiChoice {
    /// The pattern that is tried first.
    pub extract: Extract,
    /// What is left out of account where choices are compared.
    pub reduction: Reduction,
    /// The column whose text holds the choices, each behind its letter in parentheses, as BIG-Bench
    /// Hard has them; where there is none, they are the list `choices`.
    pub column: Option<String>,
}

impl MultiChoice {
    pub(super) fn find(&self, text: &str, document: &Document) -> Result<String> {
        let given = |found: Option<String>| found.filter(|text| !text.is_empty());
        if let Some(found) = given(self.extract.find(text)?) {
            return Ok(found);
        }
        let choices = self.choices(document)?;
        let letters = || ('A'..).map(String::from);
        let mut named: Vec<(String, String)> = Vec::new();
        for (choice, letter) in choices.iter().zip(letters()) {
            let choice = self.reduction.apply(choice.trim())?;
            named.retain(|(known, _)| *known != choice);
            named.push((choice, format!("({letter})")));
        }
        let find = |alternatives: &str, text: &str| {
            let extract = Extract { pattern: Pattern::new(alternatives)?, ..self.extract.clone() };
            extract.find(text)
        };
        // Longer ones first: of alternatives that begin alike the first would be taken.
        let mut texts: Vec<String> = named.iter().map(|(choice, _)| escaped(choice)).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
        if let Some(found) = given(find(&texts.join("|"), &self.reduction.apply(text)?)?) {
            let letter = named.iter().find(|(choice, _)| *choice == found);
            return Ok(letter.map_or(found, |(_, letter)| letter.clone()));
        }
        let alternatives: Vec<String> = letters().take(choices.len()).collect();
        let after_colon = format!(r":[\s]*({})", alternatives.join("|"));
        Ok(match given(find(&after_colon, text)?) {
            Some(letter) if alternatives.contains(&letter) => format!("({letter})"),
            Some(other) => other,
            None => self.extract.fallback.clone(),
        })
    }

    fn choices(&self, document: &Document) -> Result<Vec<String>> {
        let name = self.column.as_deref().unwrap_or("choices");
        match (document.get(name), &self.column) {
            (Some(Value::List(choices)), None) => Ok(choices.iter().map(Value::display).collect()),
            (Some(Value::Text(text)), Some(_)) => {
                let found = Pattern::new(r"\([A-Z]\)([^\n^(]*)")?.find_all(text)?;
                Ok(found.into_iter().filter_map(|groups| groups.into_iter().next()).collect())
            }
            _ => Err(Error::input(format!("multi_choice_regex needs the column `{name}`"))
                .key("filter_list")
                .hint("use `regex`")),
        }
    }
}

/// A text as a pattern that matches it alone.
fn escaped(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$#&-~".contains(c);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if special(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(column: Option<&str>, ignore: bool, response: &str) -> String {
        let texts = ["Guilty", "Guilty of Romance"];
        let document = Document(vec![
            (
                "choices".to_string(),
                Value::List(texts.iter().map(|text| Value::Text(text.to_string())).collect()),
            ),
            (
                "input".to_string(),
                Value::Text("Which?\nOptions:\n(A) red\n(B) red, then (C) blue\n".to_string()),
            ),
        ]);
        let filter = MultiChoice {
            extract: Extract {
                pattern: Pattern::new(r"(\([A-Z]\))").unwrap(),
                select: 0,
                fallback: "[invalid]".into(),
            },
            reduction: Reduction {
                ignore_case: ignore,
                ignore_punctuation: ignore,
                regexes_to_ignore: vec![],
            },
            column: column.map(ToString::to_string),
        };
        filter.find(response, &document).unwrap()
    }

    #[test]
    fn choices_are_found_by_letter_or_text() {
        assert_eq!(found(None, false, "I say (B)."), "(B)");
        assert_eq!(found(None, false, "I say Guilty of Romance"), "(B)");
        assert_eq!(found(None, true, "guilty!"), "(A)");
        assert_eq!(found(None, false, "answer: B"), "(B)");
        assert_eq!(found(None, false, "what?"), "[invalid]");
    }

    #[test]
    fn choices_within_a_text() {
        assert_eq!(found(Some("input"), true, "It is Red then"), "(B)");
        assert_eq!(found(Some("input"), true, "It is Red, blue"), "(A)");
        assert_eq!(found(Some("input"), true, "BLUE"), "(C)");
        assert_eq!(found(Some("input"), true, "So: C"), "(C)");
        assert_eq!(found(Some("input"), true, "So: D"), "[invalid]");
    }
}
