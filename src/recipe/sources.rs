//! The files of a recipe: the recipe itself and what it includes, and the places in them.
//!
//! Lines are counted through all files of a recipe, as compilers do, so that the line of a value says
//! which file it stands in: each file is read behind as many empty lines as the files before it have.

use super::Located;
use crate::error::Result;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer};
use serde_yaml::{Location, Spanned};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A value with its place, lines counted through all files of the recipe; line 0 for no place.
#[derive(Clone, Copy)]
pub(super) struct At<T> {
    pub(super) value: T,
    line: u64,
    column: u64,
}

impl<T> At<T> {
    /// A value that stands in no file.
    pub(super) fn nowhere(value: T) -> Self {
        Self { value, line: 0, column: 0 }
    }

    /// The place alone.
    pub(super) fn place(&self) -> At<()> {
        At { value: (), line: self.line, column: self.column }
    }

    /// Another value at the same place.
    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { value: f(self.value), line: self.line, column: self.column }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self { value: spanned.value, line, column })
    }
}

/// A place is nothing that a schema speaks of.
impl<T: JsonSchema> JsonSchema for At<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A file that a recipe includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Included {
    /// Its path from the recipe's folder, made of the paths as they are written.
    pub path: String,
    /// Its text, as written.
    pub text: String,
}

/// The files that have been read so far; the first is the recipe.
pub(super) struct Sources {
    files: Vec<Source>,
    /// The files that the recipe included when it was recorded; none where they are read from the disk.
    recorded: Option<Vec<Included>>,
}

/// One of them.
pub(super) struct Source {
    /// As messages name it.
    pub(super) path: Arc<Path>,
    /// From the recipe's folder, as it is recorded.
    pub(super) name: String,
    /// Where it really is, to tell files from each other.
    pub(super) real: PathBuf,
    pub(super) text: String,
    /// How many lines the files before it have.
    lines_before: u64,
}

impl Sources {
    pub(super) fn new(recipe: &Path, text: String) -> Self {
        let name = recipe.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut sources = Self { files: Vec::new(), recorded: None };
        sources.add(recipe, name, text);
        sources
    }

    /// The same with the files that the recipe includes, as they were recorded.
    pub(super) fn recorded(recipe: &Path, text: String, includes: Vec<Included>) -> Self {
        Self { recorded: Some(includes), ..Self::new(recipe, text) }
    }

    /// The recorded text of an included file, where the recipe is one that was recorded; none within if
    /// there is no such file.
    pub(super) fn text_on_record(&self, name: &str) -> Option<Option<String>> {
        let all = self.recorded.as_ref()?;
        Some(all.iter().find(|file| file.path == name).map(|file| file.text.clone()))
    }

    /// Adds a file and says its number.
    pub(super) fn add(&mut self, path: &Path, name: String, text: String) -> usize {
        let lines_before = self.files.last().map_or(0, |last| {
            last.lines_before + last.text.matches(['\n', '\r']).count() as u64 + 1
        });
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        self.files.push(Source { path: Arc::from(path), name, real, text, lines_before });
        self.files.len() - 1
    }

    pub(super) fn get(&self, number: usize) -> &Source {
        &self.files[number]
    }

    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    /// The bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|source| source.text.len() as u64).sum()
    }

    /// A file's text, with its lines where [`Sources::locate`] looks for them.
    pub(super) fn numbered(&self, number: usize) -> String {
        let source = self.get(number);
        let mut text = "\n".repeat(source.lines_before as usize);
        text.push_str(source.text.strip_prefix('\u{feff}').unwrap_or(&source.text));
        text
    }

    /// A value with its place as the rest of the crate keeps it.
    pub(super) fn locate<T>(&self, at: At<T>) -> Located<T> {
        let holds = |source: &&Source| source.lines_before < at.line;
        let source = self.files.iter().rev().find(holds).unwrap_or(&self.files[0]);
        let line = at.line.saturating_sub(source.lines_before);
        Located { value: at.value, file: Arc::clone(&source.path), line, column: at.column }
    }

    /// The place of something in the YAML.
    pub(super) fn place(&self, location: Option<Location>) -> Located<()> {
        let (line, column) = location.map_or((0, 0), |place| (place.line(), place.column()));
        self.locate(At { value: (), line, column })
    }

    /// The text of the file that a place is in.
    pub(super) fn text_of(&self, place: &Located<()>) -> &str {
        let source =
            self.files.iter().find(|source| source.path == place.file).unwrap_or(&self.files[0]);
        &source.text
    }

    /// What remains of them once the recipe is read: its own text, and the files it includes, each
    /// once.
    pub(super) fn into_texts(self) -> (String, Vec<Included>) {
        let mut files = self.files.into_iter();
        let text = files.next().map(|recipe| recipe.text).unwrap_or_default();
        let mut included: Vec<Included> = Vec::new();
        for Source { name, text, .. } in files {
            if !included.iter().any(|other| other.path == name) {
                included.push(Included { path: name, text });
            }
        }
        (text, included)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lead_to_their_files() {
        let mut sources = Sources::new(Path::new("a/recipe.yml"), "one\r\ntwo".to_string());
        let second = sources.add(Path::new("a/b.yml"), "b.yml".into(), "\u{feff}one\n".into());
        let third = sources.add(Path::new("a/c.yml"), "c.yml".into(), String::new());
        let before = |number| sources.numbered(number).matches('\n').count() as u64;
        assert_eq!(sources.numbered(0), "one\r\ntwo");
        assert!(sources.numbered(second).ends_with("\n\none\n"));
        let place = |line| sources.locate(At { value: (), line, column: 1 }).place();
        assert_eq!(place(0), "a/recipe.yml");
        assert_eq!(place(2), "a/recipe.yml:2:1");
        assert_eq!(place(before(second)), "a/b.yml:1:1");
        assert_eq!(place(before(third) + 1), "a/c.yml:1:1");
    }
}
