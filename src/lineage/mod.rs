//! Where the output came from: `lineage.json` and the model card.

mod card;
mod manifest;

pub use card::card;
pub(crate) use card::short_name;
pub use manifest::{SCHEMA, manifest};
pub(crate) use manifest::{digest, origin};
