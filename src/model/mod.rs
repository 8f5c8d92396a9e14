//! A checkpoint on disk: its shards of weights, its `config.json`, and the files that belong to it.
//!
//! Everything here treats the folder as untrusted: header lengths, offsets, shapes and index paths
//! are checked before a byte of a tensor is read.

mod checkpoint;
mod config;
mod gguf;
mod layers;
mod mapping;
mod pytorch;
mod shards;
mod sidecars;
mod source;
mod tied;
mod weights;

pub use checkpoint::Checkpoint;
pub(crate) use config::config_value;
pub use config::{Config, LayerListEdit, parse_config};
pub use gguf::{is_gguf, parse_gguf};
pub(crate) use layers::gradient_position;
pub use layers::{LayerName, Place, Stacks, split_layer};
pub use mapping::{FileIdentity, Mapping};
pub use pytorch::{PickledTensor, parse_pickle, parse_pytorch};
pub use shards::{Shard, StoredTensor, parse_header, parse_index};
pub use sidecars::{Sidecars, WEIGHT_FILES, is_weight_file};
pub use source::{Float, Source, TensorSpec};
pub use tied::tied_to;
