//! A checkpoint on disk: its shards of weights, its `config.json`, and the files that belong to it.
//!
//! Everything here treats the folder as untrusted: header lengths, offsets, shapes and index paths
//! are checked before a byte of a tensor is read.

mod adapter;
pub(crate) mod architectures;
mod checkpoint;
mod config;
mod config_vocabulary;
mod embeddings;
mod finder;
mod gguf;
pub mod hub;
mod layers;
mod mapping;
pub(crate) mod mixture;
mod modules;
mod pytorch;
mod quantised;
mod remapped;
mod shards;
mod sidecars;
mod source;
mod statistics;
mod tied;
mod tokenizer;
mod weights;

pub use adapter::Applied;
pub(crate) use adapter::THREAD_BYTES as ADAPTER_THREAD_BYTES;
pub use checkpoint::Checkpoint;
pub(crate) use config::config_value;
pub use config::{Config, LayerListEdit, parse_config};
pub(crate) use config_vocabulary::move_token_ids;
pub(crate) use embeddings::{input_embedding, is_vocabulary_tensor};
pub use finder::{Finder, Found};
pub use gguf::{is_gguf, parse_gguf};
pub(crate) use layers::gradient_position;
pub use layers::{LayerName, Place, Stacks, split_layer};
pub use mapping::{FileIdentity, Mapping};
pub use modules::{known_modules, module_of};
pub use pytorch::{PickledTensor, parse_pickle, parse_pytorch};
pub(crate) use remapped::{Missing, NONE, RemappedRows, Rows};
pub use shards::{Shard, StoredTensor, parse_header, parse_index};
pub(crate) use shards::{header_bytes, open_beside, parse_header_alone};
pub use sidecars::{Sidecars, WEIGHT_FILES, is_weight_file};
pub(crate) use sidecars::{belongs, is_tokenizer_file};
pub use source::{Float, Source, TensorSpec};
pub(crate) use statistics::gram;
pub use statistics::{
    DataFile, DocumentSettings, FisherSettings, GateMode, InputsAlong, Labels, OfModel,
    PromptSource, Prompts, RouterSettings, Statistics, StatisticsSettings, ToCompute,
};
pub use tied::tied_to;
pub use tokenizer::ChatTemplate;
pub(crate) use tokenizer::{
    TOKENIZER, Tokenizer, TokenizerFile, TokenizerSettingsFile, United, add_tokens, chat_template,
    unite,
};
