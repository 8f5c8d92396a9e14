//! The front matter of a model card, as the Hub reads it:
//! <https://huggingface.co/docs/hub/model-cards>.

use super::{MAX_NAMES, is_name, yaml_options, yaml_reason};
use crate::lineage::licences;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a card declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Card {
    /// The licence, as the Hub spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// The name of a licence that the Hub has no identifier for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license_name: Option<String>,
    /// Where its text stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license_link: Option<String>,
    /// The datasets it was trained on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<String>,
    /// The models it was made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub base_model: Vec<String>,
    /// How: `adapter`, `merge`, `quantized` or `finetune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model_relation: Option<String>,
    /// Its tags, which say what wrote the card; not recorded.
    #[serde(skip)]
    pub tags: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Front {
    license: Value,
    license_name: Value,
    license_link: Value,
    datasets: Value,
    base_model: Value,
    base_model_relation: Value,
    tags: Value,
}

impl Card {
    /// Whether it says anything that is recorded.
    pub fn declares(&self) -> bool {
        *self != Self { tags: self.tags.clone(), ..Self::default() }
    }
}

/// Reads a card's front matter; with sentences about what of it was left out. A text without front
/// matter declares nothing.
///
/// # Errors
/// The front matter is no mapping in YAML, or too large; in words.
pub fn parse_card(text: &str) -> Result<(Card, Vec<String>), String> {
    let Some(front) = front_matter(text)? else { return Ok((Card::default(), Vec::new())) };
    let front: Option<Front> = serde_yaml::from_str_with_options(front, yaml_options())
        .map_err(|e| format!("its front matter is no mapping in YAML ({})", yaml_reason(&e)))?;
    let front = front.unwrap_or_default();
    let mut notes = Vec::new();
    let card = Card {
        license: license(front.license, &mut notes),
        license_name: one("license_name", front.license_name, &mut notes),
        license_link: one("license_link", front.license_link, &mut notes),
        datasets: several("datasets", front.datasets, &mut notes),
        base_model: several("base_model", front.base_model, &mut notes),
        base_model_relation: one("base_model_relation", front.base_model_relation, &mut notes),
        // Tags only say who wrote the card.
        tags: several("tags", front.tags, &mut Vec::new()),
    };
    Ok((card, notes))
}

/// What stands between the first line, if that is `---`, and the next such line.
fn front_matter(text: &str) -> Result<Option<&str>, String> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let Some(rest) = text.strip_prefix("---") else { return Ok(None) };
    let Some((opening, rest)) = rest.split_once('\n') else { return Ok(None) };
    if !opening.trim_end().is_empty() {
        return Ok(None);
    }
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Ok(Some(rest.get(..at).unwrap_or_default()));
        }
        at += line.len();
    }
    Err("its front matter has no end".to_string())
}

/// A licence; of several the most restrictive, since the card does not say which holds for what.
fn license(value: Value, notes: &mut Vec<String>) -> Option<String> {
    let found: Vec<String> = several("license", value, notes);
    if found.len() > 1 {
        notes.push(format!(
            "`license` names several ({}); the most restrictive counts",
            found.join(", ")
        ));
    }
    licences::most_restrictive(found.iter().map(|id| Some(id.as_str()))).map(str::to_string)
}

fn one(key: &str, value: Value, notes: &mut Vec<String>) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if is_name(&text) => Some(text),
        _ => {
            notes.push(format!("`{key}` is left out: it is no short text on one line"));
            None
        }
    }
}

/// A text, or a list of texts, each once.
fn several(key: &str, value: Value, notes: &mut Vec<String>) -> Vec<String> {
    let all = match value {
        Value::Null => return Vec::new(),
        Value::Array(all) => all,
        single => vec![single],
    };
    let mut found: Vec<String> = Vec::new();
    let mut left = 0;
    for value in all {
        match value {
            Value::String(text) if found.contains(&text) => {}
            Value::String(text) if is_name(&text) && found.len() < MAX_NAMES => found.push(text),
            _ => left += 1,
        }
    }
    if left > 0 {
        notes.push(format!("{left} of `{key}` left out: no short text on one line, or too many"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Card, Vec<String>) {
        parse_card(text).unwrap()
    }

    #[test]
    fn front_matter_is_read_as_the_hub_reads_it() {
        let text = "\u{feff}---\r\nlicense: llama3.1\r\nbase_model: org/a\r\ndatasets:\r\n- org/d\r\n- org/d\r\nmodel-index: [{name: x, 1: 2}]\r\n---\r\n# Title\r\n";
        let (card, notes) = read(text);
        assert_eq!(card.license.as_deref(), Some("llama3.1"));
        assert_eq!((card.base_model, card.datasets), (vec!["org/a".into()], vec!["org/d".into()]));
        assert_eq!(notes, Vec::<String>::new());
        for text in ["", "# Title\n---\nlicense: mit\n---\n", "--- x\nlicense: mit\n---\n", "---"] {
            assert!(!read(text).0.declares(), "{text:?}");
        }
        assert!(!read("---\ntags: [merge]\n---\n").0.declares());
        assert_eq!(read("---\n---\n").0, Card::default());
    }

    #[test]
    fn several_licences_and_odd_values() {
        let (card, notes) =
            read("---\nlicense: [mit, gpl-3.0]\nbase_model: [a, 3, \"b\\nc\"]\n---\n");
        assert_eq!(card.license.as_deref(), Some("gpl-3.0"));
        assert_eq!(card.base_model, ["a"]);
        assert_eq!(notes.len(), 2, "{notes:?}");
        let (card, notes) = read(&format!("---\nlicense_name: {}\n---\n", "x".repeat(501)));
        assert!(!card.declares() && notes.len() == 1);
    }

    #[test]
    fn damaged_front_matter_is_a_reason() {
        for text in
            ["---\nlicense: mit\n", "---\n- a\n---\n", "---\na: [\n---\n", "---\na: b: c\n---\n"]
        {
            assert!(parse_card(text).is_err(), "{text:?}");
        }
        let deep = format!("---\na: {}\n---\n", "[".repeat(10_000));
        assert!(parse_card(&deep).is_err());
        let bomb = format!(
            "---\na: &a [x, x]\n{}\n---\n",
            (0..20)
                .map(|i| {
                    let before = if i == 0 { "a".to_string() } else { format!("a{}", i - 1) };
                    format!("a{i}: &a{i} [*{before}, *{before}, *{before}, *{before}]")
                })
                .collect::<Vec<_>>()
                .join("\n")
        );
        assert!(parse_card(&bomb).is_err());
    }
}
