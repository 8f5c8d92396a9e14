//! Where the output came from: `lineage.json`, the model card, the shards' headers; the ancestry that such
//! records tell of; whether a folder is what its record says; the record in others' formats; and
//! what weights tell where nothing was recorded.

mod card;
pub mod declared;
mod evaluation;
pub mod export;
mod family;
mod files;
mod folder;
pub mod infer;
mod label;
mod licences;
mod manifest;
pub mod trace;
pub mod verify;

pub use card::card;
pub(crate) use card::short_name;
pub use evaluation::{EVALUATION, Evaluation, record};
pub(crate) use family::{Declarations, named_in};
pub use family::{Family, Member};
pub(crate) use files::{parse, record_files, text};
pub(crate) use folder::with_name;
pub(crate) use label::label;
pub use manifest::{FILE, SCHEMA, manifest};
pub(crate) use manifest::{digest, statistics};
