//! Recipes: YAML in mergekit's language → [`RecipeFile`], a list of [`Recipe`]s, one a stage. No file
//! but the recipe and what it includes is opened here.
//!
//! `raw.rs` holds the shape of the YAML (unknown keys are refused there), `setting.rs` what a
//! parameter may be, `include.rs` reads the files that a recipe includes and `defaults.rs` puts a
//! recipe's keys over theirs, `validate.rs` turns one into the other with the methods' table in hand,
//! and `stages.rs` puts the stages of a file in order. `schema.rs` describes the same types to editors.

mod defaults;
mod evaluate;
mod include;
mod methods;
mod mixture;
mod nearby;
mod overrides;
mod parameters;
mod parse;
mod raw;
mod reference;
mod schema;
mod setting;
mod sources;
mod stages;
mod statistics;
mod tokenizer;
mod validate;

pub use evaluate::{Evaluate, Rivals};
pub use methods::Methods;
pub use mixture::{Dropped, Expert, Mixture, Surgery, Take, Texts};
pub use schema::schema;
pub use setting::{Filtered, Gradient, Setting};
pub use sources::Included;
pub use stages::RecipeFile;
pub(crate) use stages::stage_part;
pub use statistics::{StatisticsInput, StatisticsSource};
pub use tokenizer::{TokenKey, TokenRow, TokenSetting, TokenizerSettings, TokenizerSource};

use crate::error::{Error, Result};
use crate::methods::Post;
use crate::model::{ChatTemplate, Float};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A value with the file, line and column it stands at (the last two from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its file: the recipe, or one that the recipe includes.
    pub file: Arc<Path>,
    /// Its line; 0 where it stands in no file, but in an override.
    pub line: u64,
    /// Its column.
    pub column: u64,
}

impl<T> Located<T> {
    /// The same place with another value.
    pub fn map<U>(&self, value: U) -> Located<U> {
        Located { value, file: Arc::clone(&self.file), line: self.line, column: self.column }
    }

    /// An error about what stands here.
    pub(crate) fn error(&self, message: impl Into<String>) -> Error {
        Error::input(message).fact("file", self.place())
    }

    /// An error that what stands here led to.
    pub(crate) fn at(&self, error: Error) -> Error {
        error.at(self.place())
    }

    /// `file:line:column`, or the file alone where the line is not known.
    fn place(&self) -> String {
        match self.line {
            0 => self.file.display().to_string(),
            line => format!("{}:{line}:{}", self.file.display(), self.column),
        }
    }
}

/// A checked recipe: one stage of a recipe file.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The file it was read from.
    pub file: PathBuf,
    /// The name by which other stages use its output.
    pub name: Option<Located<String>>,
    /// Where the output of a stage is kept.
    pub save: Option<Located<String>>,
    /// Where it stands in the file.
    pub at: Located<()>,
    /// The merge methods; none where no models are merged.
    pub methods: Methods,
    /// Whether the experts of mixtures are put in the order of the base's.
    pub align_experts: bool,
    /// What is done to the merged task vectors, in the order of `POSTS`.
    pub posts: Vec<PostSettings>,
    /// The models or slices to merge.
    pub layout: Layout,
    /// The base model.
    pub base_model: Option<Located<String>>,
    /// Parameters of the whole recipe.
    pub parameters: Parameters,
    /// `dtype`: the dtype of the output, unless `out_dtype` is given.
    pub dtype: Option<Float>,
    /// `out_dtype`: the dtype of the output.
    pub out_dtype: Option<Float>,
    /// `tokenizer` or `tokenizer_source`.
    pub tokenizer: Option<TokenizerSettings>,
    /// `chat_template`.
    pub chat_template: Option<ChatTemplate>,
    /// `random_seed`.
    pub seed: Option<u64>,
    /// `evaluate`.
    pub evaluate: Option<Evaluate>,
    /// Likely mistakes that do not stop the recipe.
    pub warnings: Vec<String>,
}

/// What is merged.
#[derive(Clone, Debug)]
pub enum Layout {
    /// Whole models.
    Models(Vec<ModelInput>),
    /// Slices of layers, stacked in order.
    Slices(Vec<Slice>),
    /// Parts of a model of several stacks (text decoder, vision tower), each with its own layout.
    Modules(Vec<Module>),
    /// Dense models that become the experts of a mixture, or join one.
    Mixture(Box<Mixture>),
    /// What is made of a mixture.
    Surgery(Box<Surgery>),
}

/// An entry of `modules:`.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name: one of a model family's, or the beginning of its tensors' names.
    pub name: Located<String>,
    /// What is merged: models or slices.
    pub layout: Layout,
    /// Parameters of the module.
    pub parameters: Parameters,
}

impl Layout {
    /// The references of the layout, in order, as often as they stand there.
    fn references(&self) -> Vec<&Located<String>> {
        match self {
            Self::Models(models) => models.iter().map(|input| &input.model).collect(),
            Self::Slices(slices) => slices
                .iter()
                .flat_map(|slice| {
                    let sources = slice.sources.iter().map(|source| &source.model);
                    sources.chain(&slice.base_model)
                })
                .collect(),
            Self::Modules(modules) => {
                modules.iter().flat_map(|module| module.layout.references()).collect()
            }
            Self::Mixture(mixture) => mixture.entries().map(|(_, expert)| &expert.model).collect(),
            Self::Surgery(_) => Vec::new(),
        }
    }
}

impl Layout {
    /// The references of the layout with their keys; `path` is what stands before these.
    fn keys(&self, path: &str) -> Vec<(String, &Located<String>)> {
        let mut keys = Vec::new();
        match self {
            Self::Models(models) => {
                for (i, input) in models.iter().enumerate() {
                    keys.push((format!("{path}models[{i}].model"), &input.model));
                }
            }
            Self::Slices(slices) => {
                for (i, slice) in slices.iter().enumerate() {
                    for (j, source) in slice.sources.iter().enumerate() {
                        keys.push((format!("{path}slices[{i}].sources[{j}].model"), &source.model));
                    }
                    let base = slice.base_model.iter();
                    keys.extend(base.map(|base| (format!("{path}slices[{i}].base_model"), base)));
                }
            }
            Self::Modules(modules) => {
                for module in modules {
                    keys.extend(
                        module.layout.keys(&format!("{path}modules.{}.", module.name.value)),
                    );
                }
            }
            Self::Mixture(mixture) => {
                let entries = mixture.entries();
                keys.extend(
                    entries.map(|(key, expert)| (format!("{key}.source_model"), &expert.model)),
                );
            }
            Self::Surgery(_) => {}
        }
        keys
    }
}

impl Layout {
    /// The statistics that the layout gives, each with its model.
    fn statistics(&self) -> Vec<(&Located<String>, &Located<StatisticsInput>)> {
        match self {
            Self::Models(models) => {
                models.iter().filter_map(|m| Some((&m.model, m.statistics.as_ref()?))).collect()
            }
            Self::Slices(slices) => slices
                .iter()
                .flat_map(|slice| &slice.sources)
                .filter_map(|source| Some((&source.model, source.statistics.as_ref()?)))
                .collect(),
            Self::Modules(modules) => {
                modules.iter().flat_map(|module| module.layout.statistics()).collect()
            }
            Self::Mixture(_) | Self::Surgery(_) => Vec::new(),
        }
    }
}

/// A whole model of `models:`.
#[derive(Clone, Debug)]
pub struct ModelInput {
    /// The reference.
    pub model: Located<String>,
    /// What the method reads of it besides its weights.
    pub statistics: Option<Located<StatisticsInput>>,
    /// Its own parameters.
    pub parameters: Parameters,
}

/// An entry of `slices:`.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The layers that are merged into the slice, one range a model.
    pub sources: Vec<SliceSource>,
    /// The base model of this slice, where it differs from the recipe's.
    pub base_model: Option<Located<String>>,
    /// Parameters of the slice.
    pub parameters: Parameters,
}

/// An entry of a slice's `sources:`.
#[derive(Clone, Debug)]
pub struct SliceSource {
    /// The reference.
    pub model: Located<String>,
    /// The layers it gives, the end not included.
    pub layers: Located<Range<usize>>,
    /// What the method reads of the model besides its weights.
    pub statistics: Option<Located<StatisticsInput>>,
    /// Its own parameters.
    pub parameters: Parameters,
}

/// Parameters of one level of a recipe.
#[derive(Clone, Debug, Default)]
pub struct Parameters(pub(crate) Vec<(Located<String>, Setting)>);

impl Parameters {
    /// The setting of the parameter `name`.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        let found = self.0.iter().find(|(key, _)| key.value == name);
        found.map(|(_, setting)| setting)
    }
}

/// A post-step of a recipe.
#[derive(Clone, Debug)]
pub struct PostSettings {
    /// What it is.
    pub post: &'static Post,
    /// Where it stands in the recipe.
    pub at: Located<()>,
    /// Its parameters.
    pub parameters: Parameters,
}

impl Recipe {
    /// Every model reference, in the order of first mention, the base last unless mentioned before.
    pub fn references(&self) -> Vec<&Located<String>> {
        let mut all = self.layout.references();
        all.extend(&self.base_model);
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|reference| seen.insert(reference.value.as_str()));
        all
    }

    /// The statistics of a model, wherever the recipe gives them.
    pub fn statistics_of(&self, reference: &str) -> Option<&Located<StatisticsInput>> {
        let mut all = self.layout.statistics().into_iter();
        all.find(|(model, _)| model.value == reference).map(|(_, statistics)| statistics)
    }

    /// Every model has the statistics that the method reads, and no two.
    ///
    /// # Errors
    /// One has none, or has others elsewhere in the recipe.
    pub(crate) fn check_statistics(&self) -> Result<()> {
        for (model, given) in self.layout.statistics() {
            let first = self.statistics_of(&model.value).map(|first| &first.value);
            if first != Some(&given.value) {
                let key = given.value.kind.key();
                return Err(given
                    .error(format!("a model has a different `{key}` elsewhere in the recipe"))
                    .key(key)
                    .fact("model", &model.value)
                    .hint("give it once, or the same everywhere"));
            }
        }
        let methods = self.methods.all();
        let reader = methods.iter().find_map(|method| Some((method.name, method.statistics?)));
        let Some((reader, kind)) = reader else { return Ok(()) };
        for model in self.references() {
            if self.statistics_of(&model.value).is_none() {
                let (key, title) = (kind.key(), kind.title());
                return Err(self
                    .model_error(
                        model,
                        format!("the method `{reader}` needs the {title} of every model"),
                    )
                    .fact("model", &model.value)
                    .hint(format!("add `{key}: FILE` to the model's entry under `models`; `cognate {key}` writes such files")));
            }
        }
        Ok(())
    }

    /// The key at which a model reference stands, as messages spell it.
    pub(crate) fn key_of(&self, reference: &Located<String>) -> String {
        let base = match &self.layout {
            Layout::Surgery(_) => "mixture",
            Layout::Mixture(mixture) if mixture.joins => "mixture",
            _ => "base_model",
        };
        let base = self.base_model.iter().map(|model| (base.to_string(), model));
        let mut all = self.layout.keys("").into_iter().chain(base);
        let found = all.find(|(_, other)| *other == reference);
        found.map_or_else(|| "model".to_string(), |(key, _)| key)
    }

    /// An error about a model, at the place and key where the recipe names it.
    pub(crate) fn model_error(&self, at: &Located<String>, message: impl Into<String>) -> Error {
        self.error(at, message).key(self.key_of(at))
    }

    /// The name of the stage, for messages.
    pub fn title(&self) -> &str {
        self.name.as_ref().map_or("(the output)", |name| &name.value)
    }

    /// An error about something at a place of this recipe.
    pub(crate) fn error<T>(&self, at: &Located<T>, message: impl Into<String>) -> Error {
        at.error(message)
    }
}
