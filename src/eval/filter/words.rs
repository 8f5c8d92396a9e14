//! `listed_words`: which words of a list a response has, in its order (`WordSortFilter` of lm-eval's
//! BIG-Bench Hard).

use crate::error::{Error, Result};
use crate::eval::dataset::{Document, Value};
use crate::eval::pattern::Pattern;

/// Takes the words of a list that stand in the response, each where it stands last.
#[derive(Clone, Debug)]
pub struct ListedWords {
    /// The column whose text holds the list.
    pub column: String,
    /// The words stand behind this text.
    pub after: String,
}

impl ListedWords {
    pub(super) fn find(&self, text: &str, document: &Document) -> Result<String> {
        let listed = match document.get(&self.column) {
            Some(Value::Text(text)) => text.split(&self.after).nth(1),
            _ => None,
        };
        let listed = listed.ok_or_else(|| {
            Error::input(format!("the column `{}` holds no list of words", self.column))
                .key("filter_list")
                .expected(format!("words behind `{}`", self.after), "none")
        })?;
        let words: Vec<String> =
            listed.split_whitespace().map(|word| format!(r"\b{word}\b")).collect();
        if words.is_empty() {
            return Ok(String::new());
        }
        let found = Pattern::new(&words.join("|"))?.find_all(text)?;
        let found: Vec<String> =
            found.into_iter().filter_map(|all| all.into_iter().next()).collect();
        let last = |(i, word): &(usize, &String)| !found[i + 1..].contains(word);
        let kept = found.iter().enumerate().filter(last).map(|(_, word)| word.as_str());
        Ok(kept.collect::<Vec<_>>().join(" "))
    }
}
