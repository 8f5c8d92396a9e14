//! A Hugging Face model folder, opened and checked; no weight is read.

use super::config::Config;
use super::gguf;
use super::layers::Stacks;
use super::shards::{Shard, StoredTensor};
use super::source::Source;
use super::tied::tied_to;
use super::weights;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened checkpoint: name → [`Source`], plus its config.
///
/// What its files store and what a merge sees are two things: a quantised weight is stored in
/// several packed tensors and seen as one of floats. For most checkpoints both are the same.
pub struct Checkpoint {
    /// How the recipe refers to it.
    pub reference: String,
    /// Its folder, or the one file that it is.
    pub folder: PathBuf,
    /// Its `config.json`.
    pub config: Config,
    /// Its stacks of layers.
    pub stacks: Stacks,
    /// What is lost where an output takes what it needs besides weights from this model.
    pub notes: Vec<String>,
    shards: Vec<Arc<Shard>>,
    stored: BTreeMap<String, StoredTensor>,
    tensors: BTreeMap<String, Arc<dyn Source>>,
    order: Vec<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`, or the GGUF file of that path.
    ///
    /// # Errors
    /// The folder is not a checkpoint, or its config, index and headers contradict each other.
    pub fn open(reference: &str, folder: &Path) -> Result<Self> {
        if let Some(file) = gguf::file(folder)? {
            let gguf::Opened { shard, stored, seen, config } = gguf::open(&file)?;
            let notes = vec![format!(
                "the tokenizer in {} is not converted; put tokenizer files beside the output",
                shard.file
            )];
            return Ok(
                Self::new(reference, folder, config, vec![shard], stored, notes).seen_as(seen)
            );
        }
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
        let (shards, stored) = weights::open(folder)?;
        let seen = shards
            .iter()
            .flat_map(|shard| &shard.tensors)
            .filter_map(|name| stored.get(name))
            .map(|tensor| Arc::new(tensor.clone()) as Arc<dyn Source>)
            .collect();
        Ok(Self::new(reference, folder, config, shards, stored, Vec::new()).seen_as(seen))
    }

    /// Of which nothing is seen yet.
    fn new(
        reference: &str,
        folder: &Path,
        config: Config,
        shards: Vec<Arc<Shard>>,
        stored: BTreeMap<String, StoredTensor>,
        notes: Vec<String>,
    ) -> Self {
        Self {
            reference: reference.to_string(),
            folder: folder.to_path_buf(),
            config,
            stacks: Stacks::default(),
            notes,
            shards,
            stored,
            tensors: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    /// The same files, seen as these tensors, in this order.
    fn seen_as(mut self, tensors: Vec<Arc<dyn Source>>) -> Self {
        self.order = tensors.iter().map(|tensor| tensor.spec().name.clone()).collect();
        self.tensors = self.order.iter().cloned().zip(tensors).collect();
        self.stacks = Stacks::find(self.tensors.keys().map(String::as_str), &self.config);
        self
    }

    /// The tensor of this name, as a merge sees it.
    pub fn tensor(&self, name: &str) -> Option<&dyn Source> {
        self.tensors.get(name).map(|tensor| &**tensor)
    }

    /// The tensor that stands for `name`: itself, or the embedding a tied head shares.
    pub fn tensor_or_tied(&self, name: &str) -> Option<(&str, &dyn Source)> {
        if let Some((found, tensor)) = self.tensors.get_key_value(name) {
            return Some((found, &**tensor));
        }
        if self.config.tied() == Some(false) {
            return None;
        }
        let shared = tied_to(name, |name| self.tensors.contains_key(name))?;
        self.tensors.get_key_value(shared).map(|(found, tensor)| (found.as_str(), &**tensor))
    }

    /// All tensors as a merge sees them, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &dyn Source)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), &**tensor))
    }

    /// All tensors as the files store them, by name.
    pub fn stored(&self) -> &BTreeMap<String, StoredTensor> {
        &self.stored
    }

    /// Its shards, by file name.
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The names of its tensors in the order they stand in the files.
    pub fn names_in_file_order(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }
}
