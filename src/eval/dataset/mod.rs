//! Datasets: what `dataset_path`, `dataset_name` and `dataset_kwargs` name → rows of named values.
//!
//! `dataset_path` is what the Python library `datasets` takes: the name of a format (`json`, `csv`,
//! `parquet`) with `data_files`, a local folder, or a dataset of the Hub. `read.rs` opens files,
//! `files.rs` finds out which ones belong to a split, `csv.rs`, `json.rs` and `parquet.rs` read one
//! format each, and `value.rs` and `literal.rs` hold what Python makes of the values.

mod csv;
mod files;
mod json;
mod literal;
mod parquet;
mod read;
mod value;

pub use files::{DataFiles, Location};
pub use literal::parse_literal;
pub use value::Value;

use crate::error::{Error, Result, list};
use crate::model::hub::{Settings, Watch};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A row of a dataset: its columns in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Document(pub Vec<(String, Value)>);

impl Document {
    /// The value of a column.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, value)| value)
    }

    /// Whether the two have the same columns and values, in whatever order.
    pub fn same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().all(|(name, value)| other.get(name) == Some(value))
    }

    /// The row as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Object(
            self.0.iter().map(|(name, value)| (name.clone(), value.to_json())).collect(),
        )
    }
}

/// The rows of a split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// Names of the columns; every row has all of them.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Document>,
}

impl Split {
    /// Puts the rows of several files together: every row gets every column, null where it has no
    /// value, and whole numbers of a column that holds others too become floats, as in a table of
    /// typed columns.
    fn of(rows: Vec<Document>) -> Self {
        let mut columns: Vec<String> = Vec::new();
        let mut floats: BTreeMap<String, bool> = BTreeMap::new();
        for (name, value) in rows.iter().flat_map(|row| &row.0) {
            let float = matches!(value, Value::Float(_));
            match floats.get_mut(name) {
                Some(known) => *known |= float,
                None => {
                    floats.insert(name.clone(), float);
                    columns.push(name.clone());
                }
            }
        }
        let typed = |name: &String, value: Value| match value {
            Value::Int(int) if floats.get(name) == Some(&true) => Value::Float(int as f64),
            value => value,
        };
        let complete = |row: Document| {
            let mut given: BTreeMap<String, Value> = row.0.into_iter().collect();
            let row = columns.iter().map(|name| {
                let value = given.remove(name).unwrap_or(Value::Null);
                (name.clone(), typed(name, value))
            });
            Document(row.collect())
        };
        let rows = rows.into_iter().map(complete).collect();
        Self { columns, rows }
    }
}

/// Where datasets come from.
pub struct Access<'a> {
    /// How to reach the Hub, and where its cache is.
    pub hub: &'a Settings,
    /// Told of downloads.
    pub watch: &'a dyn Watch,
}

/// A dataset; its splits are read when they are first asked for.
pub struct Dataset {
    location: Location,
    /// `dataset_name`.
    name: Option<String>,
    /// The files of each split, once they are known.
    files: BTreeMap<String, Vec<PathBuf>>,
    splits: BTreeMap<String, Arc<Split>>,
}

impl Dataset {
    /// A dataset at a place; nothing is read yet. `folder` is the task file's: paths that are
    /// relative are looked for there, then in the working directory.
    ///
    /// # Errors
    /// The place is no format, folder or name on the Hub.
    pub fn open(location: Location, name: Option<String>) -> Self {
        Self { location, name, files: BTreeMap::new(), splits: BTreeMap::new() }
    }

    /// The rows of a split.
    ///
    /// # Errors
    /// There is no such split, or its files cannot be fetched or read.
    pub fn split(&mut self, split: &str, access: &Access<'_>) -> Result<Arc<Split>> {
        if let Some(known) = self.splits.get(split) {
            return Ok(Arc::clone(known));
        }
        let paths = match self.files.get(split) {
            Some(paths) => paths.clone(),
            None => {
                let paths = self.location.files(self.name.as_deref(), split, access)?;
                self.files.insert(split.to_string(), paths.clone());
                paths
            }
        };
        let mut rows = Vec::new();
        for path in &paths {
            rows.extend(read::rows(path, &self.location)?);
        }
        if rows.is_empty() {
            return Err(Error::input("a split of the dataset holds no rows")
                .fact("split", split)
                .fact("files", list(paths.iter().filter_map(|path| path.to_str()))));
        }
        let read = Arc::new(Split::of(rows));
        self.splits.insert(split.to_string(), Arc::clone(&read));
        Ok(read)
    }
}

/// An error about a place in a data file.
fn bad_row(path: &Path, line: usize, reason: impl std::fmt::Display) -> Error {
    Error::input("a row of the dataset cannot be read")
        .fact("file", format!("{}:{line}", path.display()))
        .fact("reason", reason)
}

#[cfg(test)]
mod tests;
