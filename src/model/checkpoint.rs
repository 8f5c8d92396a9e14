//! A Hugging Face model folder, opened and checked; no weight is read.

use super::config::Config;
use super::layers::Stacks;
use super::shards::{self, Shard, StoredTensor};
use super::tied::tied_to;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened checkpoint: name → stored tensor, plus its config.
#[derive(Debug)]
pub struct Checkpoint {
    /// How the recipe refers to it.
    pub reference: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its `config.json`.
    pub config: Config,
    /// Its stacks of layers.
    pub stacks: Stacks,
    shards: Vec<Arc<Shard>>,
    tensors: BTreeMap<String, StoredTensor>,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`.
    ///
    /// # Errors
    /// The folder is not a checkpoint, or its config, index and headers contradict each other.
    pub fn open(reference: &str, folder: &Path) -> Result<Self> {
        let config = Config::open(folder)?;
        if let Some(method) = config.quantization() {
            return Err(Error::input("a quantised checkpoint cannot be merged")
                .file(config.path())
                .key("quantization_config")
                .fact("found", method)
                .hint(
                    "use the model's unquantised weights: packed values have no meaningful average",
                ));
        }
        let (shards, tensors) = shards::open(folder)?;
        let stacks = Stacks::find(tensors.keys().map(String::as_str), &config);
        Ok(Self {
            reference: reference.to_string(),
            folder: folder.to_path_buf(),
            config,
            stacks,
            shards,
            tensors,
        })
    }

    /// The tensor stored under `name`.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// The stored tensor that stands for `name`: itself, or the embedding a tied head shares.
    pub fn tensor_or_tied(&self, name: &str) -> Option<(&str, &StoredTensor)> {
        if let Some((stored, tensor)) = self.tensors.get_key_value(name) {
            return Some((stored, tensor));
        }
        if self.config.tied() == Some(false) {
            return None;
        }
        let shared = tied_to(name, |name| self.tensors.contains_key(name))?;
        self.tensors.get_key_value(shared).map(|(stored, tensor)| (stored.as_str(), tensor))
    }

    /// All stored tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// Its shards, by file name.
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The names of its tensors in the order they stand in the files.
    pub fn names_in_file_order(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().flat_map(|shard| shard.tensors.iter().map(String::as_str))
    }
}
