//! Where the output came from: `lineage.json` and the model card.

mod card;
mod evaluation;
mod manifest;

pub use card::card;
pub(crate) use card::short_name;
pub use evaluation::{EVALUATION, Evaluation, record};
pub use manifest::{FILE, SCHEMA, manifest};
pub(crate) use manifest::{digest, origin};
