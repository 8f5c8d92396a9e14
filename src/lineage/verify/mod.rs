//! Holds the files of a folder that cognate wrote against the digests of its `lineage.json`.
//!
//! Every file is read once, on all threads. Digests say that nothing was changed by accident, or by
//! somebody who did not know of them; they say nothing about who wrote the folder, since whoever changes a
//! file can write the lineage anew.

mod recorded;
mod report;
mod shards;

use super::{EVALUATION, FILE, folder};
use crate::engine::{Digest, Progress, hex, model_digest};
use crate::error::{Error, Result, list};
use crate::model::{TensorSpec, belongs, is_weight_file};
use rayon::prelude::*;
use recorded::{Recorded, RecordedTensor};
use serde_json::Value;
use shards::{FoundShard, FoundTensor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// How to verify.
pub struct Options<'a> {
    /// Worker threads.
    pub threads: usize,
    /// Who is told how far it is.
    pub progress: &'a Progress,
}

/// What a verification found.
pub struct Verification {
    /// The manifest, where it can be read.
    pub manifest: Option<Value>,
    /// The digest of the model as it lies there, where all its shards could be read.
    pub digest: Option<Digest>,
    /// The digests of the tensors that were read, by name.
    pub digests: BTreeMap<String, Digest>,
    /// How many tensors were held against a recorded digest.
    pub tensors: usize,
    /// How many files were held against a recorded digest; of shards, their headers.
    pub files: usize,
    /// How many bytes were read.
    pub bytes: u64,
    /// What differs, by file and tensor.
    pub differences: Vec<Difference>,
    /// What could not be checked because nothing is recorded of it, in words.
    pub unchecked: Vec<String>,
    /// Files in the folder that are neither recorded nor part of a model.
    pub unlisted: Vec<String>,
}

/// One thing that is not as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The file, by its path from the folder.
    pub file: String,
    /// The tensor, where it is one.
    pub tensor: Option<String>,
    /// In what way it differs.
    pub what: What,
    /// What is recorded.
    pub expected: Option<String>,
    /// What is there instead.
    pub found: Option<String>,
}

/// In what way something differs from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Other bytes: the digests differ.
    Bytes,
    /// The tensor has another dtype.
    Dtype,
    /// The tensor has another shape.
    Shape,
    /// The tensor or file is not there.
    Missing,
    /// The tensor or file is not recorded.
    Extra,
    /// The file ends too early, or the tensor lies beyond its end.
    Short,
    /// The file goes on behind its end.
    Long,
    /// The header of a shard has other bytes.
    Header,
    /// The file cannot be read as what it is.
    Unreadable,
    /// The lineage itself was changed.
    Manifest,
    /// The digest of the whole model is another one.
    Model,
    /// Computed again from the recipe and the inputs, the tensor has other bytes.
    Rederived,
}

impl What {
    /// The word that JSON has for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Dtype => "dtype",
            Self::Shape => "shape",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Short => "short",
            Self::Long => "long",
            Self::Header => "header",
            Self::Unreadable => "unreadable",
            Self::Manifest => "manifest",
            Self::Model => "model",
            Self::Rederived => "rederived",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "other bytes",
            Self::Dtype => "another dtype",
            Self::Shape => "another shape",
            Self::Missing => "missing",
            Self::Extra => "not recorded",
            Self::Short => "cut short",
            Self::Long => "longer than it was",
            Self::Header => "another header",
            Self::Unreadable => "not readable",
            Self::Manifest => "changed since it was written",
            Self::Model => "another digest of the model",
            Self::Rederived => "other bytes than recipe and inputs give",
        })
    }
}

/// Holds a folder against its lineage.
///
/// # Errors
/// The folder has no lineage that can be read here, or a file cannot be read. What differs is no error.
pub fn verify(folder: &Path, options: &Options<'_>) -> Result<Verification> {
    let (recorded, manifest, differences) = recorded::read(folder)?;
    let mut found = Verification {
        manifest,
        digest: None,
        digests: BTreeMap::new(),
        tensors: 0,
        files: 0,
        bytes: 0,
        differences,
        unchecked: Vec::new(),
        unlisted: Vec::new(),
    };
    if found.manifest.is_none() {
        found.unchecked.push(format!("anything else: {FILE} cannot be read"));
        return Ok(found);
    }
    let there = folder::list(folder)?;
    let shards = open_shards(folder, &recorded, &there, &mut found);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .thread_name(|i| format!("verify-{i}"))
        .build()
        .map_err(|e| Error::internal(format!("cannot start threads: {e}")))?;
    let files = digested_files(&recorded, &there);
    let sizes = files
        .iter()
        .map(|path| std::fs::metadata(folder.join(path)).map_or(0, |metadata| metadata.len()));
    let total = sizes.sum::<u64>() + shards.iter().map(FoundShard::bytes).sum::<u64>();
    options.progress.begin(total);
    let (tensors, digests) = pool.install(|| {
        rayon::join(
            || shards::digests(&shards, options.progress),
            || {
                let digest = |path: &&String| {
                    let read = |bytes| options.progress.advance(bytes);
                    Ok(((*path).clone(), folder::digest(&folder.join(path), read)?))
                };
                files.par_iter().map(digest).collect::<Result<BTreeMap<_, _>>>()
            },
        )
    });
    options.progress.end();
    let digests = digests?;
    found.bytes = total;
    compare_files(&recorded, &there, &digests, &mut found);
    compare_tensors(&recorded, &shards, &tensors, &mut found);
    found.differences.sort_by(|a, b| (&a.file, &a.tensor).cmp(&(&b.file, &b.tensor)));
    for shard in &shards {
        shard.unchanged()?;
    }
    Ok(found)
}

/// Opens the recorded shards, and files of weights that are not recorded, and notes what is wrong with them.
fn open_shards(
    folder: &Path,
    recorded: &Recorded,
    there: &[String],
    found: &mut Verification,
) -> Vec<FoundShard> {
    let mut shards = Vec::new();
    let names: BTreeSet<&String> = match &recorded.files {
        Some(files) => {
            let shards = files.iter().filter(|(_, file)| file.header_sha256.is_some());
            let extra = there.iter().filter(|path| is_shard(path) && !files.contains_key(*path));
            shards.map(|(path, _)| path).chain(extra).collect()
        }
        None => there.iter().filter(|path| is_shard(path)).collect(),
    };
    for name in names {
        let file = recorded.files.as_ref().and_then(|files| files.get(name));
        if !there.contains(name) {
            let held = recorded.tensors.iter().filter(|tensor| tensor.file.as_ref() == Some(name));
            let held: Vec<&str> = held.map(|tensor| tensor.name.as_str()).collect();
            let lost = format!(
                "no such file; it held {} tensors: {}",
                held.len(),
                list(held.iter().copied())
            );
            found.differ(name, None, What::Missing, None, Some(lost));
            continue;
        }
        let shard = FoundShard::open(folder, name, file, found);
        found.files += usize::from(file.is_some());
        shards.extend(shard);
    }
    shards
}

/// Whether a file of the folder is a shard of the model: one of a module's own folder is not.
fn is_shard(path: &str) -> bool {
    path.ends_with(".safetensors") && !path.contains('/')
}

/// The files to be hashed whole: those there with a recorded digest.
fn digested_files<'a>(recorded: &'a Recorded, there: &[String]) -> BTreeSet<&'a String> {
    let files = recorded.files.iter().flatten().filter(|(_, file)| file.header_sha256.is_none());
    let files = files.map(|(path, _)| path);
    let all = files.chain(recorded.besides.iter().map(|(path, _)| path));
    all.filter(|path| there.binary_search_by(|other| other.split('/').cmp(path.split('/'))).is_ok())
        .collect()
}

/// Holds whole files against what is recorded of them, and looks for files that are not recorded.
fn compare_files(
    recorded: &Recorded,
    there: &[String],
    digests: &BTreeMap<String, (u64, Digest)>,
    found: &mut Verification,
) {
    let Some(files) = &recorded.files else {
        found
            .unchecked
            .push("headers and the files beside the weights: none is recorded".to_string());
        return;
    };
    let whole = files.iter().filter(|(_, file)| file.header_sha256.is_none());
    let whole = whole.map(|(path, file)| (path, file.size, file.sha256.as_ref()));
    let besides = recorded.besides.iter().map(|(path, sha256)| (path, None, Some(sha256)));
    let mut seen = BTreeSet::new();
    for (path, size, expected) in whole.chain(besides) {
        let Some(expected) = expected.filter(|expected| seen.insert((path, *expected))) else {
            continue;
        };
        let Some((length, digest)) = digests.get(path) else {
            found.differ(path, None, What::Missing, Some(expected.clone()), None);
            continue;
        };
        found.files += 1;
        let digest = hex(digest);
        if digest != *expected {
            let what = match size {
                Some(size) if *length < size => What::Short,
                Some(size) if *length > size => What::Long,
                _ => What::Bytes,
            };
            found.differ(path, None, what, Some(expected.clone()), Some(digest));
        }
    }
    for path in there {
        let known =
            files.contains_key(path) || recorded.besides.iter().any(|(other, _)| other == path);
        if known || path == FILE {
            continue;
        }
        if belongs(path) || is_weight_file(path) || is_loaded(path) {
            found.differ(
                path,
                None,
                What::Extra,
                None,
                Some("a file that may change the model".to_string()),
            );
        } else {
            found.unlisted.push(path.clone());
        }
    }
}

/// Whether other programs read a file of this name in a model's folder, though a merge does not take it
/// over: with an `adapter_config.json`, transformers loads another model altogether.
fn is_loaded(path: &str) -> bool {
    const NAMES: [&str; 8] = [
        EVALUATION,
        "README.md",
        "config.json",
        "adapter_config.json",
        "hf_quant_config.json",
        "quantization_config.json",
        "quantize_config.json",
        "tiktoken.model",
    ];
    let name = path.rsplit('/').next().unwrap_or(path);
    NAMES.contains(&name) || name.ends_with(".py")
}

/// Holds the tensors against what is recorded of them.
fn compare_tensors(
    recorded: &Recorded,
    shards: &[FoundShard],
    digests: &[Vec<Digest>],
    found: &mut Verification,
) {
    let mut all: BTreeMap<&str, (&FoundShard, &FoundTensor, Digest)> = BTreeMap::new();
    for (shard, digests) in shards.iter().zip(digests) {
        for (tensor, digest) in shard.tensors.iter().zip(digests) {
            let name = tensor.spec.name.as_str();
            if let Some((other, ..)) = all.insert(name, (shard, tensor, *digest)) {
                let also = format!("also in {}", other.name);
                found.differ(&shard.name, Some(name), What::Extra, None, Some(also));
            }
        }
    }
    let mut unknown = 0;
    let opened = |name: &String| shards.iter().any(|shard| shard.name == *name);
    let files = recorded.files.iter().flatten();
    let whole = shards.iter().all(|shard| shard.whole)
        && files.filter(|(_, file)| file.header_sha256.is_some()).all(|(name, _)| opened(name));
    for tensor in &recorded.tensors {
        let Some((shard, there, digest)) = all.get(tensor.name.as_str()) else {
            missing(tensor, shards, found);
            continue;
        };
        compare_tensor(tensor, shard, there, found);
        match &tensor.sha256 {
            None => unknown += 1,
            Some(expected) => {
                found.tensors += 1;
                let digest = hex(digest);
                if digest != *expected {
                    let (expected, digest) = (Some(expected.clone()), Some(digest));
                    found.differ(&shard.name, Some(&tensor.name), What::Bytes, expected, digest);
                }
            }
        }
    }
    let names: BTreeSet<&str> = recorded.tensors.iter().map(|tensor| &*tensor.name).collect();
    for (name, (shard, there, _)) in &all {
        if !names.contains(name) {
            let spec = format!("{} {:?}", there.spec.dtype, there.spec.shape);
            found.differ(&shard.name, Some(name), What::Extra, None, Some(spec));
        }
    }
    if unknown > 0 {
        found.unchecked.push(format!(
            "the bytes of {unknown} tensors: no digests of them are recorded (`--digests none`)"
        ));
    }
    let specs: Vec<(&TensorSpec, &Digest)> =
        all.values().map(|(_, tensor, digest)| (&tensor.spec, digest)).collect();
    let own = model_digest(specs);
    found.digest = whole.then_some(own);
    if let Some(expected) = recorded.digest.as_ref().filter(|expected| **expected != hex(&own)) {
        found.differ(FILE, None, What::Model, Some(expected.clone()), Some(hex(&own)));
    }
    found.digests =
        all.into_iter().map(|(name, (.., digest))| (name.to_string(), digest)).collect();
}

/// Notes a recorded tensor that is nowhere, unless its file is gone or not readable, which is noted already.
fn missing(tensor: &RecordedTensor, shards: &[FoundShard], found: &mut Verification) {
    let shard = match &tensor.file {
        None => None,
        Some(file) => match shards.iter().find(|shard| shard.name == *file) {
            Some(shard) => Some(shard),
            None => return,
        },
    };
    let file = tensor.file.as_deref().unwrap_or("*.safetensors");
    let cut = shard.is_some_and(|shard| shard.beyond.contains(&tensor.name));
    let what = if cut { What::Short } else { What::Missing };
    let expected = format!("{} {:?}", tensor.dtype, tensor.shape);
    found.differ(file, Some(&tensor.name), what, Some(expected), None);
}

fn compare_tensor(
    tensor: &RecordedTensor,
    shard: &FoundShard,
    there: &FoundTensor,
    found: &mut Verification,
) {
    let (name, dtype) = (Some(&*tensor.name), there.spec.dtype.to_string());
    if dtype != tensor.dtype {
        let expected = Some(tensor.dtype.clone());
        found.differ(&shard.name, name, What::Dtype, expected, Some(dtype));
    }
    if there.spec.shape != tensor.shape {
        let (expected, is) = (format!("{:?}", tensor.shape), format!("{:?}", there.spec.shape));
        found.differ(&shard.name, name, What::Shape, Some(expected), Some(is));
    }
}

impl Verification {
    /// Notes a difference.
    pub(crate) fn differ(
        &mut self,
        file: &str,
        tensor: Option<&str>,
        what: What,
        expected: Option<String>,
        found: Option<String>,
    ) {
        let (file, tensor) = (file.to_string(), tensor.map(str::to_string));
        self.differences.push(Difference { file, tensor, what, expected, found });
    }
}
