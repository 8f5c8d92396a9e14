//! Where the output came from: `lineage.json` and the model card.

mod card;
mod evaluation;
pub mod export;
mod files;
mod folder;
mod manifest;
pub mod verify;

pub use card::card;
pub(crate) use card::short_name;
pub use evaluation::{EVALUATION, Evaluation, record};
pub(crate) use files::{parse, record_files, text};
pub use manifest::{FILE, SCHEMA, manifest};
pub(crate) use manifest::{digest, origin, statistics};
