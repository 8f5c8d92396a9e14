//! The formats weights come in, and which of them a folder holds.

use super::pytorch;
use super::shards::{self, Parse, Shard, Tensors};
use super::sidecars::is_weight_file;
use crate::error::{Error, Result, list};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A format whose files hold tensors as plain bytes: what its files are called, and how to find
/// the tensors in one.
pub(super) struct Format {
    /// The one file of a checkpoint that is not sharded.
    pub(super) single: &'static str,
    /// The index that names the shard of every tensor.
    pub(super) index: &'static str,
    /// What the names of its files start and end with.
    pub(super) stem: &'static str,
    /// See `stem`.
    pub(super) ending: &'static str,
    /// The tensors of a file that is given whole, with the range of each one's bytes.
    pub(super) parse: Parse,
}

/// The formats, the preferred one first.
pub(super) const FORMATS: [Format; 2] = [
    Format {
        single: "model.safetensors",
        index: "model.safetensors.index.json",
        stem: "",
        ending: ".safetensors",
        parse: shards::parse_header,
    },
    Format {
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
        // Others, such as training_args.bin, hold no weights.
        stem: "pytorch_model",
        ending: ".bin",
        parse: pytorch::parse_pytorch,
    },
];

/// Opens the weights of the checkpoint in `folder`, in the first format it has them in.
pub(super) fn open(folder: &Path) -> Result<(Vec<Arc<Shard>>, Tensors)> {
    for format in &FORMATS {
        if let Some(opened) = shards::open(folder, format)? {
            return Ok(opened);
        }
    }
    let found = names(folder)?.into_iter().filter(|name| is_weight_file(name));
    let found: Vec<String> = found.collect();
    let error = Error::input("no weights in the model folder that can be read").file(folder);
    let expected = FORMATS.map(|format| format.single).join(", ") + " or an index of shards";
    if found.is_empty() {
        return Err(error.expected(expected, "neither"));
    }
    Err(error
        .expected(expected, list(found.iter().map(String::as_str)))
        .hint("save the model with transformers' save_pretrained, which writes safetensors"))
}

impl Format {
    /// The files of a folder without an index: the single one, the only one of the format, or a
    /// complete set `NAME-00001-of-0000N`. None if there is no such thing.
    pub(super) fn unindexed_files(&self, folder: &Path) -> Result<Option<BTreeSet<String>>> {
        if folder.join(self.single).exists() {
            return Ok(Some(BTreeSet::from([self.single.to_string()])));
        }
        let mut found = names(folder)?;
        found.retain(|name| self.is_shard(name));
        Ok(Some(found).filter(|found| found.len() == 1 || self.numbered_set(found)))
    }

    /// Whether a name may be that of a file of this format.
    pub(super) fn is_shard(&self, name: &str) -> bool {
        name.starts_with(self.stem) && name.ends_with(self.ending)
    }

    /// Whether the files are exactly shards 1 to N of one set of N.
    pub(super) fn numbered_set(&self, files: &BTreeSet<String>) -> bool {
        let expected = |stem: &str| {
            (1..=files.len())
                .map(|i| format!("{stem}-{i:05}-of-{:05}{}", files.len(), self.ending))
                .collect::<BTreeSet<_>>()
        };
        let stem = files.first().and_then(|first| first.split_once("-00001-of-"));
        stem.is_some_and(|(stem, _)| expected(stem) == *files)
    }
}

/// The names of a folder's entries.
pub(super) fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let failed = |e: std::io::Error| Error::io("list the model folder", folder, &e);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries
        .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
        .collect()
}
