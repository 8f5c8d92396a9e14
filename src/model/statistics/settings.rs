//! What decides statistics, besides model and data: plain data that recipes, lineage and the
//! computation share.

use super::Statistics;
use serde::Serialize;

/// What the labels of a document are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// Drawn at each position from the model's own prediction: the Fisher information.
    Model,
    /// The document's own next tokens: the empirical Fisher information.
    Data,
}

impl Labels {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Model, Self::Data];

    /// The word for it in recipes and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Data => "data",
        }
    }

    /// What a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|labels| labels.name() == word)
    }
}

/// Which documents are taken, and how much of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DocumentSettings {
    /// How many documents; all if none.
    pub samples: Option<usize>,
    /// Tokens of a document at most; the model's context, or 2048 if that is less, if none.
    pub length: Option<usize>,
    /// The field of a JSON object that holds the text.
    pub field: String,
}

impl Default for DocumentSettings {
    fn default() -> Self {
        Self { samples: None, length: None, field: "text".to_string() }
    }
}

/// What decides Fisher information.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FisherSettings {
    /// The documents.
    #[serde(flatten)]
    pub documents: DocumentSettings,
    /// What the labels are.
    pub labels: Labels,
    /// The seed of drawn labels.
    pub seed: u64,
}

impl Default for FisherSettings {
    fn default() -> Self {
        Self { documents: DocumentSettings::default(), labels: Labels::Model, seed: 0 }
    }
}

/// What decides statistics of some kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum StatisticsSettings {
    /// Fisher information.
    Fisher(FisherSettings),
    /// Gram matrices.
    Gram(DocumentSettings),
}

impl StatisticsSettings {
    /// The kind.
    pub fn kind(&self) -> Statistics {
        match self {
            Self::Fisher(_) => Statistics::Fisher,
            Self::Gram(_) => Statistics::Gram,
        }
    }

    /// The documents.
    pub fn documents(&self) -> &DocumentSettings {
        match self {
            Self::Fisher(settings) => &settings.documents,
            Self::Gram(documents) => documents,
        }
    }
}
