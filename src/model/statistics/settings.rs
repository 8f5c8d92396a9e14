//! What decides statistics, besides model and data: plain data that recipes, lineage and the
//! computation share.

use super::Statistics;
use serde::{Serialize, Serializer};
use std::path::PathBuf;

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
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum StatisticsSettings {
    /// Fisher information.
    Fisher(FisherSettings),
    /// Gram matrices.
    Gram(DocumentSettings),
    /// Rows of routers.
    Routers(Box<RouterSettings>),
}

impl StatisticsSettings {
    /// The kind.
    pub fn kind(&self) -> Statistics {
        match self {
            Self::Fisher(_) => Statistics::Fisher,
            Self::Gram(_) => Statistics::Gram,
            Self::Routers(_) => Statistics::Routers,
        }
    }

    /// The documents.
    pub fn documents(&self) -> &DocumentSettings {
        match self {
            Self::Fisher(settings) => &settings.documents,
            Self::Gram(documents) => documents,
            Self::Routers(settings) => &settings.documents,
        }
    }
}

/// How the rows of routers are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateMode {
    /// From what the router reads behind the last token of each prompt.
    HiddenLast,
    /// From the mean of what the router reads over the tokens of each prompt.
    HiddenMean,
    /// From the sum of the embeddings of the prompts' tokens, the same in every layer.
    CheapEmbed,
    /// From normal random numbers.
    Random,
    /// From uniform random numbers, as linear maps are initialised.
    UniformRandom,
    /// By ridge regression of the experts on what the router reads of each token.
    Ridge,
}

impl GateMode {
    /// The words for them in recipes; `hidden` is mergekit's, and means the last token there.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("hidden", Self::HiddenLast),
        ("hidden_last", Self::HiddenLast),
        ("hidden_avg", Self::HiddenMean),
        ("cheap_embed", Self::CheapEmbed),
        ("random", Self::Random),
        ("uniform_random", Self::UniformRandom),
        ("ridge", Self::Ridge),
    ];

    /// What ridge regression adds to the diagonal unless a recipe says otherwise, by the diagonal's mean.
    pub const RIDGE: f64 = 0.01;

    /// What a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| *name == word).map(|(_, mode)| *mode)
    }

    /// The first word for it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| *name)
    }

    /// Whether it looks at no prompt.
    pub fn is_random(self) -> bool {
        matches!(self, Self::Random | Self::UniformRandom)
    }
}

impl Serialize for GateMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PromptSource {
    /// They stand in the recipe.
    Here(Vec<String>),
    /// They stand in a file, texts or JSON objects, one a line.
    File {
        /// As the recipe names it.
        file: String,
        /// Where it is.
        #[serde(skip)]
        path: PathBuf,
    },
}

/// The texts of one expert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Prompts {
    /// Of the kind that is to be routed to it.
    pub positive: Vec<PromptSource>,
    /// Of the kind that is not.
    pub negative: Vec<PromptSource>,
}

/// What decides the rows of routers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouterSettings {
    /// How they are found.
    pub mode: GateMode,
    /// The texts of the routed experts.
    pub experts: Vec<Prompts>,
    /// The texts of the shared expert, if a gate of its own weighs what it gives.
    pub shared: Option<Prompts>,
    /// A factor on the rows of the routed experts.
    pub scale: f64,
    /// What a regression adds to the diagonal, by the diagonal's mean.
    pub ridge: f64,
    /// The seed of random rows.
    pub seed: u64,
    /// How much of a text is taken.
    #[serde(flatten)]
    pub documents: DocumentSettings,
}

impl RouterSettings {
    /// Where the rows of the routed experts in layer `layer` stand among the statistics.
    pub fn rows(layer: usize) -> String {
        format!("layers.{layer}.router")
    }

    /// Where the row of the shared expert's gate stands.
    pub fn shared_row(layer: usize) -> String {
        format!("layers.{layer}.shared_gate")
    }

    /// Names and shapes of the statistics of a model.
    pub fn shapes(&self, layers: usize, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let of_layer = |layer: usize| {
            let routed = (Self::rows(layer), vec![self.experts.len(), hidden]);
            let shared = self.shared.as_ref().map(|_| (Self::shared_row(layer), vec![1, hidden]));
            std::iter::once(routed).chain(shared)
        };
        (0..layers).flat_map(of_layer).collect()
    }
}
