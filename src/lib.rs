//! cognate merges language models that share an ancestor, and says where every weight came from.
//!
//! The way of the data, each arrow one way:
//!
//! ```text
//! recipe.yml ──recipe──▶ Recipe ──plan──▶ Plan ──engine──▶ shards ──lineage──▶ lineage.json, README.md
//!                           ▲                 │ (methods + kernels)
//!              model/ (headers, config, sidecars)
//! ```
//!
//! * [`recipe`] reads YAML, and opens nothing but the recipe and what it includes.
//! * [`model`] opens checkpoints: headers, config, what belongs to them. [`model::Source`] is the
//!   one abstraction tensors are read through.
//! * [`plan`] turns both into plain data: every job, byte offset and parameter. It reads no weight.
//! * [`methods`] is the table of merge methods, [`kernels`] the loops they are made of.
//! * [`engine`] runs a plan in constant memory; [`lineage`] records what it did, and traces what
//!   others did before.
//! * [`eval`] scores models: one decoder for all families.
//! * [`Merge`] is all of it in two calls.
//!
//! ```no_run
//! use cognate::{Merge, WriteOptions, engine, plan};
//! # fn main() -> cognate::Result<()> {
//! let merge = Merge::open("recipe.yml".as_ref(), &plan::Options::default())?;
//! merge.write("out".as_ref(), &WriteOptions {
//!     overwrite: false,
//!     digests: engine::DigestMode::Full,
//!     cache: None,
//!     allow_nan: false,
//!     progress: engine::Progress::silent(),
//!     evaluate: None,
//! })?;
//! # Ok(())
//! # }
//! ```

mod compared;
pub mod engine;
pub mod error;
pub mod eval;
pub mod kernels;
pub mod lineage;
pub mod matrix;
mod merge;
pub mod methods;
pub mod model;
pub mod plan;
pub mod recipe;

pub use compared::Compared;
pub use error::{Error, Result};
pub use merge::{EvaluateOptions, Merge, Rederive, Rederived, Sample, WriteOptions, Written};
pub use model::hub::Fetch;
