//! LoRA adapters as PEFT stores them, applied while the base's tensors are read.
//!
//! A folder with `adapter_config.json` and `adapter_model.safetensors` (or `.bin`)
//! (<https://huggingface.co/docs/peft/developer_guides/checkpoint>). Every tensor of the file is
//! applied, or opening fails with its name. Nothing is written and no weight is read until a merge
//! reads it.

mod decoded;
mod fit;
mod low_rank;
mod magnitude;
mod modules;
mod names;
mod settings;
mod whole;

pub(crate) use decoded::THREAD_BYTES;

use super::checkpoint::Checkpoint;
use super::hub::Resolved;
use super::pytorch::parse_pytorch;
use super::shards::{self, Parse, Shard, StoredTensor};
use super::source::{Source, TensorSpec};
use crate::error::{Error, Result};
use safetensors::Dtype;
use serde_json::{Map, Value};
use settings::Settings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files an adapter's weights stand in, the preferred one first, and how each is read.
const WEIGHTS: [(&str, Parse); 2] =
    [("adapter_model.safetensors", shards::parse_header), ("adapter_model.bin", parse_pytorch)];

/// An adapter that was applied to a checkpoint.
#[derive(Clone, Debug)]
pub struct Applied {
    /// How the recipe refers to it.
    pub reference: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Where on the Hub it comes from; none if it was given as a folder.
    pub hub: Option<Arc<Resolved>>,
    /// What the names of its tensors begin with among the stored ones: `adapter 1:` for the first
    /// adapter of a model.
    pub prefix: String,
    /// The bytes of its `adapter_config.json`, which decides what its tensors are multiplied with.
    pub config: Vec<u8>,
}

impl Applied {
    /// Its config as a tensor of bytes, which a model's digest covers besides the tensors.
    pub fn config_spec(&self) -> TensorSpec {
        TensorSpec {
            name: format!("{}{}", self.prefix, settings::FILE),
            dtype: Dtype::U8,
            shape: vec![self.config.len()],
        }
    }

    /// The settings that decide what its tensors are multiplied with, as its config states them.
    pub fn settings(&self) -> Map<String, Value> {
        let stated: Map<String, Value> = serde_json::from_slice(&self.config).unwrap_or_default();
        let factors = settings::FACTORS.iter();
        factors.filter_map(|key| Some(((*key).to_string(), stated.get(*key)?.clone()))).collect()
    }
}

/// An opened adapter.
pub(super) struct Adapter {
    /// Reference, folder and config.
    pub(super) applied: Applied,
    /// Its file.
    pub(super) shard: Arc<Shard>,
    /// Its tensors, named [`Applied::prefix`] and the name in the file.
    pub(super) tensors: Vec<StoredTensor>,
    settings: Settings,
}

impl Adapter {
    /// Opens the adapter in `folder`, to be applied as a model's `number`-th one (from 1).
    ///
    /// # Errors
    /// A file is missing or malformed, or the adapter is of a kind that cannot be applied.
    pub(super) fn open(reference: &str, folder: &Path, number: usize) -> Result<Self> {
        // By place, since a reference may be spelt in several ways and the model stays the same.
        let prefix = format!("adapter {number}:");
        let settings = Settings::open(folder)?;
        let found = WEIGHTS.iter().find(|(file, _)| folder.join(file).exists());
        let Some((file, parse)) = found else {
            return Err(Error::input("the adapter has no weights that can be read")
                .file(folder)
                .expected(WEIGHTS.map(|(file, _)| file).join(" or "), "neither"));
        };
        let path = folder.join(file);
        let (shard, tensors) = shards::open_beside(&path, *parse, &prefix)?;
        if tensors.is_empty() {
            return Err(Error::input("the adapter holds no tensors").file(&path));
        }
        let applied = Applied {
            reference: reference.to_string(),
            folder: folder.to_path_buf(),
            hub: None,
            prefix,
            config: settings.text.clone(),
        };
        Ok(Self { applied, shard, tensors, settings })
    }

    /// The tensors of the model that the adapter changes, by name.
    ///
    /// # Errors
    /// A tensor of the adapter does not fit the model.
    pub(super) fn change(&self, model: &Checkpoint) -> Result<BTreeMap<String, Arc<dyn Source>>> {
        let (wholes, modules) = modules::read(self)?;
        fit::fit(self, model, wholes, modules)
    }

    /// The name a tensor has in the adapter's file.
    fn in_file<'a>(&self, tensor: &'a StoredTensor) -> &'a str {
        let name = tensor.spec().name.as_str();
        name.strip_prefix(&self.shard.prefix).unwrap_or(name)
    }

    /// An error about a tensor of the adapter.
    fn error(&self, message: &str, tensor: &StoredTensor) -> Error {
        Error::input(message).file(self.shard.mapping.path()).tensor(self.in_file(tensor))
    }
}
