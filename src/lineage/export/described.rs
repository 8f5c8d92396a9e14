//! A model folder, read for an export.

use super::Options;
use super::ancestors::Ancestors;
use super::card::Card;
use crate::engine::hex;
use crate::error::{Error, Result};
use crate::lineage::files::{self, Seal};
use crate::lineage::{EVALUATION, FILE, SCHEMA, folder, short_name};
use rayon::prelude::*;
use serde_json::Value;
use std::path::Path;

/// A file.
pub(super) struct DescribedFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// A figure of the model's evaluation.
pub(super) struct Figure {
    pub(super) task: String,
    pub(super) metric: String,
    pub(super) value: String,
}

/// What is said of a model.
pub(super) struct Described {
    pub(super) name: String,
    /// In the order of [`folder::list`].
    pub(super) files: Vec<DescribedFile>,
    /// The lineage, where cognate wrote the folder.
    pub(super) manifest: Option<Value>,
    pub(super) card: Card,
    /// `architectures[0]` and `model_type` of the config.
    pub(super) architecture: Option<String>,
    pub(super) model_type: Option<String>,
    pub(super) ancestors: Ancestors,
    pub(super) figures: Vec<Figure>,
}

/// A card, a config, a lineage or an evaluation that is larger is not looked into.
const MAX_BYTES: u64 = 1 << 30;

impl Described {
    /// Reads a folder; with sentences about what is doubtful.
    pub(super) fn read(path: &Path, options: &Options<'_>) -> Result<(Self, Vec<String>)> {
        if !path.is_dir() {
            return Err(Error::input("what is exported is a model's folder")
                .fact("found", path.display())
                .hint("name a folder; `cognate merge -o` writes one"));
        }
        let names = folder::list(path)?;
        let files = hashed(path, &names, options)?;
        let mut warnings = Vec::new();
        let manifest = manifest(path)?;
        match &manifest {
            Some(manifest) => warnings.extend(differing(manifest, &files)),
            None => warnings.push(format!(
                "there is no {FILE} of cognate: the document has the files and what the card declares"
            )),
        }
        let text = |name: &str| match std::fs::metadata(path.join(name)) {
            Ok(metadata) if metadata.is_file() && metadata.len() < MAX_BYTES => {
                std::fs::read_to_string(path.join(name)).unwrap_or_default()
            }
            _ => String::new(),
        };
        let card = Card::parse(&text("README.md"));
        let config: Value = serde_json::from_str(&text("config.json")).unwrap_or_default();
        let evaluation: Value = serde_json::from_str(&text(EVALUATION)).unwrap_or_default();
        let ancestors = match &manifest {
            Some(manifest) => Ancestors::of_manifest(manifest),
            None => Ancestors::of_card(&card),
        };
        let name = match &options.name {
            Some(name) => name.clone(),
            None => {
                let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
                short_name(&real.to_string_lossy()).to_string()
            }
        };
        let described = Self {
            name,
            files,
            card,
            architecture: config["architectures"][0].as_str().map(str::to_string),
            model_type: config["model_type"].as_str().map(str::to_string),
            ancestors,
            figures: figures(&evaluation),
            manifest,
        };
        Ok((described, warnings))
    }

    /// A part of the lineage; null where there is none.
    pub(super) fn recorded(&self, pointer: &str) -> &Value {
        let found = self.manifest.as_ref().and_then(|manifest| manifest.pointer(pointer));
        found.unwrap_or(&Value::Null)
    }

    /// The digest of the model's weights, as the lineage records it.
    pub(super) fn digest(&self) -> Option<&str> {
        self.recorded("/output/digest").as_str()
    }

    /// The licence: as the card declares it, or else as the lineage found it.
    pub(super) fn license(&self) -> Option<&str> {
        self.card.license.as_deref().or_else(|| self.recorded("/license/license").as_str())
    }

    /// The datasets, likewise.
    pub(super) fn datasets(&self) -> Vec<String> {
        let recorded = self.recorded("/datasets").as_array().into_iter().flatten();
        let recorded = recorded.filter_map(|name| Some(name.as_str()?.to_string()));
        let mut all = self.card.datasets.clone();
        for name in recorded {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        all
    }

    /// The merge methods of the last stage, in words.
    pub(super) fn method(&self) -> Option<String> {
        match self.recorded("/recipe/resolved/merge_method") {
            Value::Null => None,
            Value::String(name) => Some(name.clone()),
            other => Some(other.to_string()),
        }
    }
}

fn hashed(path: &Path, names: &[String], options: &Options<'_>) -> Result<Vec<DescribedFile>> {
    let sizes = names.iter().map(|name| std::fs::metadata(path.join(name)).map_or(0, |m| m.len()));
    options.progress.begin(sizes.sum());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .thread_name(|i| format!("export-{i}"))
        .build()
        .map_err(|e| Error::internal(format!("cannot start threads: {e}")))?;
    let hash = |name: &String| {
        let read = |bytes| options.progress.advance(bytes);
        let (size, digest) = folder::digest(&path.join(name), read)?;
        Ok(DescribedFile { path: name.clone(), size, sha256: hex(&digest) })
    };
    let files = pool.install(|| names.par_iter().map(hash).collect());
    options.progress.end();
    files
}

/// The lineage of a folder that cognate wrote.
fn manifest(path: &Path) -> Result<Option<Value>> {
    let Ok(text) = std::fs::read(path.join(FILE)) else { return Ok(None) };
    if let Seal::Broken { recorded, found } = files::seal(&text) {
        return Err(Error::input("the lineage was changed since it was written")
            .file(&path.join(FILE))
            .expected(recorded, found)
            .hint("`cognate verify` says what else differs"));
    }
    let manifest = files::parse(&text).map(Value::from);
    Ok(manifest.filter(|manifest| manifest["schema"] == SCHEMA))
}

/// The files that are not as they were recorded, in a sentence each; of shards, the length is held against
/// the record.
fn differing(manifest: &Value, files: &[DescribedFile]) -> Vec<String> {
    let mut warnings = Vec::new();
    for recorded in manifest["output"]["files"].as_array().into_iter().flatten() {
        let path = recorded["path"].as_str().unwrap_or_default();
        let same = files.iter().find(|file| file.path == path).is_some_and(|file| {
            recorded["size"] == file.size
                && recorded["sha256"].as_str().is_none_or(|sha256| sha256 == file.sha256)
        });
        if !same {
            warnings.push(format!(
                "{path} is not as the lineage records it; `cognate verify` says what differs"
            ));
        }
    }
    warnings
}

/// The figures of the first model of an evaluation's report.
fn figures(report: &Value) -> Vec<Figure> {
    const CIRCUMSTANCES: [&str; 4] = ["n", "num_fewshot", "output_type", "version"];
    let mut all = Vec::new();
    for (task, figures) in report["results"][0]["tasks"].as_object().into_iter().flatten() {
        for (metric, figure) in figures.as_object().into_iter().flatten() {
            let value = if figure.is_object() { &figure["value"] } else { figure };
            if value.is_number() && !CIRCUMSTANCES.contains(&metric.as_str()) {
                let (task, metric) = (task.clone(), metric.clone());
                all.push(Figure { task, metric, value: value.to_string() });
            }
        }
    }
    all
}
