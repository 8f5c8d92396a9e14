//! Where the output came from: `lineage.json`, the model card, the shards' headers; and the ancestry that such
//! records tell of.

mod card;
pub mod declared;
mod evaluation;
mod family;
mod label;
mod licences;
mod manifest;
pub mod trace;

pub use card::card;
pub(crate) use card::short_name;
pub use evaluation::{EVALUATION, Evaluation, record};
pub(crate) use family::{Declarations, named_in};
pub use family::{Family, Member};
pub(crate) use label::label;
pub(crate) use manifest::digest;
pub use manifest::{FILE, SCHEMA, manifest};
