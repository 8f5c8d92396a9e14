//! Recipes: YAML in mergekit's language → [`Recipe`]. No file but the recipe is opened here.
//!
//! `raw.rs` holds the shape of the YAML (unknown keys are refused there), `setting.rs` what a
//! parameter may be, and `validate.rs` turns one into the other with the methods' table in hand.

mod raw;
mod setting;
mod tokenizer;
mod validate;

pub use setting::{Filtered, Gradient, Setting};
pub use tokenizer::{TokenKey, TokenRow, TokenSetting, TokenizerSettings, TokenizerSource};

use crate::error::{Error, Result};
use crate::methods::Method;
use crate::model::{ChatTemplate, Float};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A recipe larger than this is refused unread.
const MAX_BYTES: u64 = 1 << 20;

/// A value with the line and column it stands at (both from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its line.
    pub line: u64,
    /// Its column.
    pub column: u64,
}

impl<T> Located<T> {
    /// The same place with another value.
    pub fn map<U>(&self, value: U) -> Located<U> {
        Located { value, line: self.line, column: self.column }
    }
}

/// A checked recipe.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The file it was read from.
    pub file: PathBuf,
    /// Its text, as written.
    pub text: String,
    /// The merge method.
    pub method: &'static Method,
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
}

/// A whole model of `models:`.
#[derive(Clone, Debug)]
pub struct ModelInput {
    /// The reference.
    pub model: Located<String>,
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

impl Recipe {
    /// Reads and checks the recipe in `file`.
    ///
    /// # Errors
    /// The file cannot be read, or the recipe is wrong; the error names key, file and line.
    pub fn open(file: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::input("the recipe does not exist").file(file),
            _ => Error::io("read the recipe", file, &e),
        })?;
        if !metadata.is_file() {
            return Err(Error::input("the recipe is not a file").file(file));
        }
        if metadata.len() > MAX_BYTES {
            return Err(Error::input("the recipe is too large")
                .file(file)
                .expected(format!("at most {MAX_BYTES} bytes"), metadata.len()));
        }
        let bytes = std::fs::read(file).map_err(|e| Error::io("read the recipe", file, &e))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::input("the recipe is not UTF-8 text").file(file))?;
        Self::parse(file, text)
    }

    /// Checks a recipe's text; `file` names it in messages.
    ///
    /// # Errors
    /// The recipe is wrong.
    pub fn parse(file: &Path, text: String) -> Result<Self> {
        let raw = raw::parse(file, &text)?;
        validate::recipe(file, text, raw)
    }

    /// Every model reference, in the order of first mention, the base last unless mentioned before.
    pub fn references(&self) -> Vec<&Located<String>> {
        let mut all: Vec<&Located<String>> = match &self.layout {
            Layout::Models(models) => models.iter().map(|input| &input.model).collect(),
            Layout::Slices(slices) => slices
                .iter()
                .flat_map(|slice| {
                    let sources = slice.sources.iter().map(|source| &source.model);
                    sources.chain(&slice.base_model)
                })
                .collect(),
        };
        all.extend(&self.base_model);
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|reference| seen.insert(reference.value.as_str()));
        all
    }

    /// An error about something at a place of this recipe.
    pub(crate) fn error<T>(&self, at: &Located<T>, message: impl Into<String>) -> Error {
        Error::input(message).fact("file", place(&self.file, at.line, at.column))
    }
}

/// `file:line:column`, or the file alone where the place is not known.
fn place(file: &Path, line: u64, column: u64) -> String {
    match line {
        0 => file.display().to_string(),
        _ => format!("{}:{line}:{column}", file.display()),
    }
}
