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
use super::pytorch::parse_pytorch;
use super::shards::{self, Parse, Shard, StoredTensor};
use super::source::Source;
use crate::error::{Error, Result};
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
    /// The bytes of its `adapter_config.json`, which decides what its tensors are multiplied with.
    pub config: Vec<u8>,
}

/// An opened adapter.
pub(super) struct Adapter {
    /// Reference, folder and config.
    pub(super) applied: Applied,
    /// Its file.
    pub(super) shard: Arc<Shard>,
    /// Its tensors, named `reference:NAME`.
    pub(super) tensors: Vec<StoredTensor>,
    settings: Settings,
}

impl Adapter {
    /// Opens the adapter in `folder`.
    ///
    /// # Errors
    /// A file is missing or malformed, or the adapter is of a kind that cannot be applied.
    pub(super) fn open(reference: &str, folder: &Path) -> Result<Self> {
        let settings = Settings::open(folder)?;
        let found = WEIGHTS.iter().find(|(file, _)| folder.join(file).exists());
        let Some((file, parse)) = found else {
            return Err(Error::input("the adapter has no weights that can be read")
                .file(folder)
                .expected(WEIGHTS.map(|(file, _)| file).join(" or "), "neither"));
        };
        let path = folder.join(file);
        let (shard, tensors) = shards::open_beside(&path, *parse, &format!("{reference}:"))?;
        if tensors.is_empty() {
            return Err(Error::input("the adapter holds no tensors").file(&path));
        }
        let applied = Applied {
            reference: reference.to_string(),
            folder: folder.to_path_buf(),
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
