//! What a model's card declares in its front matter
//! (<https://huggingface.co/docs/hub/model-cards#model-card-metadata>).

use serde::Deserialize;
use serde_json::Value;

/// What is taken from a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) license: Option<String>,
    pub(super) license_name: Option<String>,
    pub(super) license_link: Option<String>,
    pub(super) datasets: Vec<String>,
    pub(super) base_model: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Front {
    license: Value,
    license_name: Value,
    license_link: Value,
    datasets: Value,
    base_model: Value,
}

impl Card {
    /// Reads a card. What is damaged or of another form declares nothing.
    pub(super) fn parse(text: &str) -> Self {
        let front = text.strip_prefix("---").and_then(|rest| rest.split_once("\n---"));
        let front: Front =
            front.and_then(|(front, _)| serde_yaml::from_str(front).ok()).unwrap_or_default();
        Self {
            license: one(&front.license),
            license_name: one(&front.license_name),
            license_link: one(&front.license_link),
            datasets: several(&front.datasets),
            base_model: several(&front.base_model),
        }
    }

    /// What a lineage records of a card.
    pub(super) fn of_record(record: &Value) -> Self {
        Self {
            license: one(&record["license"]),
            license_name: one(&record["license_name"]),
            license_link: one(&record["license_link"]),
            datasets: several(&record["datasets"]),
            base_model: several(&record["base_model"]),
        }
    }
}

fn one(value: &Value) -> Option<String> {
    several(value).into_iter().next()
}

/// A text, or the texts of a list.
fn several(value: &Value) -> Vec<String> {
    let texts = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    texts.iter().filter_map(|text| Some(text.as_str()?.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_is_read() {
        let card =
            Card::parse("---\nlicense: mit\ndatasets:\n- a/b\nbase_model: c/d\n---\n# Title\n");
        assert_eq!(card.license.as_deref(), Some("mit"));
        assert_eq!((card.datasets, card.base_model), (vec!["a/b".into()], vec!["c/d".into()]));
        for text in
            ["", "# Title", "---\nlicense: [\n---\n", "---\n- a\n---\n", "---\nlicense: mit"]
        {
            assert_eq!(Card::parse(text), Card::default(), "{text}");
        }
    }
}
