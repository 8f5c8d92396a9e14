//! Which files a split consists of: named ones, those of a folder, those of a dataset on the Hub.

use super::Access;
use crate::error::{Error, Result, list};
use crate::model::hub::{HubReference, dataset_files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A format of data files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
    Parquet,
}

impl Format {
    /// By the name the library `datasets` gives it.
    fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// The last part of a file's name, before `.gz`.
    pub(super) fn extension(path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        name.rsplit_once('.').map(|(_, extension)| extension.to_string())
    }

    /// By a file's name.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        match Self::extension(path)?.as_str() {
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "csv" | "tsv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Files by split, as `dataset_kwargs` names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataFiles {
    /// The files of each split; paths, the last part of which may hold `*`.
    pub splits: BTreeMap<String, Vec<String>>,
    /// The key of a JSON file that holds the rows.
    pub field: Option<String>,
    /// What separates the columns of a CSV file.
    pub delimiter: Option<u8>,
}

/// Where a dataset is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Files that the task names.
    Files {
        /// The format, where `dataset_path` is one's name.
        format: String,
        /// The files.
        files: DataFiles,
        /// The folder of the task file, which relative paths start from.
        folder: PathBuf,
    },
    /// A folder whose files' names say which split they belong to.
    Folder(PathBuf),
    /// A dataset on the Hub.
    Hub(HubReference),
}

/// Words in a file's name that stand for a split, as in the library `datasets`.
const SPLIT_WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files { files, .. } => {
                let names: Vec<&str> =
                    files.splits.values().flatten().map(String::as_str).collect();
                f.write_str(&names.join(", "))
            }
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Hub(reference) => write!(f, "{reference}"),
        }
    }
}

impl Location {
    /// Reads `dataset_path`. `folder` is the task file's, `files` what `data_files` names.
    ///
    /// # Errors
    /// It is no format with files, no folder and no name on the Hub.
    pub fn parse(path: &str, files: DataFiles, folder: &Path) -> Result<Self> {
        if Format::named(path).is_some() {
            if files.splits.is_empty() {
                return Err(Error::input("a dataset of files names none")
                    .key("dataset_kwargs.data_files")
                    .hint("for example `dataset_kwargs: {data_files: {test: items.jsonl}}`"));
            }
            return Ok(Self::Files {
                format: path.to_string(),
                files,
                folder: folder.to_path_buf(),
            });
        }
        if let Some(found) =
            [folder.join(path), PathBuf::from(path)].into_iter().find(|p| p.is_dir())
        {
            if files.splits.is_empty() {
                return Ok(Self::Folder(found));
            }
            return Ok(Self::Files { format: String::new(), files, folder: found });
        }
        let reference = HubReference::parse(path).filter(|r| r.revision.is_none());
        let reference = reference.ok_or_else(|| {
            Error::input("the dataset is not found")
                .key("dataset_path")
                .expected("`json`, `csv` or `parquet`, a folder, or ORG/NAME on the Hub", path)
        })?;
        if !files.splits.is_empty() {
            return Err(Error::input("files of a dataset on the Hub cannot be named one by one")
                .key("dataset_kwargs.data_files")
                .hint("fetch them, and name them with `dataset_path: json`"));
        }
        Ok(Self::Hub(reference))
    }

    /// The format, where the task names it.
    pub(super) fn format(&self) -> Option<Format> {
        match self {
            Self::Files { format, .. } => Format::named(format),
            _ => None,
        }
    }

    /// What the task says about its files.
    pub(super) fn data_files(&self) -> Option<&DataFiles> {
        match self {
            Self::Files { files, .. } => Some(files),
            _ => None,
        }
    }

    /// The files of a split, in order.
    pub(super) fn files(
        &self,
        name: Option<&str>,
        split: &str,
        access: &Access<'_>,
    ) -> Result<Vec<PathBuf>> {
        match self {
            Self::Files { files, folder, .. } => {
                let named = files.splits.get(split).ok_or_else(|| {
                    no_split(split, files.splits.keys().map(String::as_str))
                        .hint("a list of files without splits is called `train`")
                })?;
                let mut found = Vec::new();
                for path in named {
                    found.extend(local(path, folder)?);
                }
                Ok(found)
            }
            Self::Folder(folder) => {
                let by_split = by_split(folder, name)?;
                match by_split.get(split) {
                    Some(files) => Ok(files.clone()),
                    None => Err(no_split(split, by_split.keys().map(String::as_str))
                        .fact("folder", folder.display())),
                }
            }
            Self::Hub(reference) => dataset_files(reference, name, split, access.hub, access.watch),
        }
    }
}

fn no_split<'a>(split: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    Error::input("the dataset has no such split").expected(
        match list(known) {
            known if known.is_empty() => "a file whose name says the split".to_string(),
            known => format!("one of {known}"),
        },
        split,
    )
}

/// The files that a path of a task stands for.
fn local(path: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let candidates = [folder.join(path), PathBuf::from(path)];
    if let Some((first, last)) = path.rsplit_once('/').or(Some(("", path)))
        && last.contains('*')
    {
        for base in [folder.join(first), PathBuf::from(first)] {
            let found: Vec<PathBuf> =
                entries(&base).into_iter().filter(|path| matches_star(path, last)).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    } else if let Some(found) = candidates.iter().find(|path| path.is_file()) {
        return Ok(vec![found.clone()]);
    }
    Err(Error::input("a data file is not there")
        .fact("file", candidates[0].display())
        .hint("paths are relative to the task file's folder, then to the working directory"))
}

/// Whether a file's name fits a pattern in which `*` stands for anything.
fn matches_star(path: &Path, pattern: &str) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        if i + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

/// The files of a folder, sorted by name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The data files of a folder, by the splits that their names or their folders' names say. With a
/// `dataset_name`, those below the folder of that name.
fn by_split(folder: &Path, name: Option<&str>) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let root = match name.map(|name| folder.join(name)) {
        Some(inner) if inner.is_dir() => inner,
        Some(inner) if name != Some("default") => {
            return Err(Error::input("the dataset's folder has no such configuration")
                .key("dataset_name")
                .expected("a folder in it", inner.display()));
        }
        _ => folder.to_path_buf(),
    };
    let mut all = Vec::new();
    for path in entries(&root) {
        if path.is_dir() {
            all.extend(entries(&path).into_iter().filter(|inner| inner.is_file()));
        } else {
            all.push(path);
        }
    }
    all.retain(|path| Format::of_file(path).is_some());
    let mut splits: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in &all {
        let below = path.strip_prefix(&root).unwrap_or(path).to_string_lossy().to_lowercase();
        let words: Vec<&str> = below.split(|c: char| !c.is_ascii_alphabetic()).collect();
        let split = SPLIT_WORDS
            .iter()
            .find(|(_, names)| words.iter().any(|word| names.contains(word)))
            .map(|(split, _)| *split);
        if let Some(split) = split {
            splits.entry(split.to_string()).or_default().push(path.clone());
        }
    }
    if splits.is_empty() && !all.is_empty() {
        splits.insert("train".to_string(), all);
    }
    Ok(splits)
}
