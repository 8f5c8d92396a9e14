//! What a `lineage.json` records of the folder it stands in.

use crate::error::{Error, Result};
use crate::lineage::files::{self, Seal};
use crate::lineage::verify::{Difference, What};
use crate::lineage::{FILE, SCHEMA, folder};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A tensor of the output, as it is recorded.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RecordedTensor {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) sha256: Option<String>,
    /// The shard that it stands in; not in older records.
    pub(super) file: Option<String>,
}

/// A file of the output, as it is recorded: one of them is a shard if its header has a digest.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RecordedFile {
    #[serde(default)]
    path: String,
    pub(super) size: Option<u64>,
    pub(super) sha256: Option<String>,
    pub(super) header_sha256: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    output: Output,
    evaluation: Option<Digested>,
}

#[derive(Deserialize)]
struct Output {
    digest: Option<String>,
    files: Option<Vec<RecordedFile>>,
    tensors: Vec<RecordedTensor>,
    vocabulary: Option<Vocabulary>,
}

#[derive(Deserialize)]
struct Vocabulary {
    #[serde(default)]
    files: Vec<Digested>,
}

/// A file of which the digest is recorded besides.
#[derive(Deserialize)]
struct Digested {
    #[serde(alias = "file")]
    path: String,
    sha256: String,
}

/// What is recorded.
#[derive(Default)]
pub(super) struct Recorded {
    /// The model's digest.
    pub(super) digest: Option<String>,
    pub(super) tensors: Vec<RecordedTensor>,
    /// The files by path; none in older records.
    pub(super) files: Option<BTreeMap<String, RecordedFile>>,
    /// Digests of files that are recorded besides, by path.
    pub(super) besides: Vec<(String, String)>,
}

/// Reads the manifest of a folder: what it records, the manifest itself, and what is wrong with it. Nothing
/// is recorded by one that cannot be read.
///
/// # Errors
/// There is none, or it is of another version.
pub(super) fn read(folder: &Path) -> Result<(Recorded, Option<Value>, Vec<Difference>)> {
    let path = folder.join(FILE);
    let text = std::fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            Error::input("the model has no lineage to be verified by")
                .fact("model", folder.display())
                .fact("missing", FILE)
                .hint("cognate verifies the folders that it writes; name the folder that `cognate merge -o` wrote")
        }
        _ => Error::io("read the lineage", &path, &e),
    })?;
    let mut wrong = Vec::new();
    let mut changed = |expected: Option<String>, found: String| {
        let found = Some(found);
        let (file, tensor, what) = (FILE.to_string(), None, What::Manifest);
        wrong.push(Difference { file, tensor, what, expected, found });
    };
    let seal = files::seal(&text);
    if let Seal::Broken { recorded, found } = &seal {
        changed(Some(recorded.clone()), found.clone());
    }
    let Some(manifest) = files::parse(&text).map(Value::from) else {
        if seal == Seal::Missing {
            changed(None, "what is no JSON object".to_string());
        }
        return Ok((Recorded::default(), None, wrong));
    };
    if manifest["schema"] != SCHEMA && seal == Seal::Intact {
        return Err(Error::input("the lineage is not of a version that is known here")
            .file(&path)
            .key("schema")
            .expected(SCHEMA, &manifest["schema"])
            .hint("verify it with the version of cognate that wrote it"));
    }
    if seal == Seal::Missing && manifest["output"]["files"].is_array() {
        changed(None, "no digest of itself in the last line".to_string());
    }
    let document = match Document::deserialize(&manifest) {
        Ok(document) => document,
        Err(e) => {
            if wrong.is_empty() {
                return Err(Error::input("the lineage does not say what is to be verified")
                    .file(&path)
                    .fact("reason", e));
            }
            return Ok((Recorded::default(), None, wrong));
        }
    };
    let output = document.output;
    let besides = output.vocabulary.into_iter().flat_map(|vocabulary| vocabulary.files);
    let besides = besides.chain(document.evaluation);
    let besides: Vec<_> = besides.map(|file| (file.path, file.sha256)).collect();
    let files: Option<BTreeMap<String, RecordedFile>> =
        output.files.map(|files| files.into_iter().map(|file| (file.path.clone(), file)).collect());
    let paths = files.iter().flat_map(BTreeMap::keys).chain(besides.iter().map(|(path, _)| path));
    if let Some(outside) = paths.into_iter().find(|path| !folder::is_inside(path)) {
        return Err(Error::input("the lineage names a file outside its folder")
            .file(&path)
            .expected("a path within the folder", format!("{outside:?}")));
    }
    let recorded = Recorded { digest: output.digest, tensors: output.tensors, files, besides };
    Ok((recorded, Some(manifest), wrong))
}
