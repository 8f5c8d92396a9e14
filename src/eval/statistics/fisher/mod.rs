//! The diagonal of the Fisher information of a model's weights.
//!
//! For every weight θ: the mean over documents of `(∂/∂θ Σₜ log p(yₜ | x₀…xₜ))²`, where the labels yₜ
//! are drawn from the model's own predictions (Matena and Raffel, *Merging Models with Fisher-Weighted
//! Averaging*, 2111.09832), or are the document's own next tokens (the *empirical* Fisher information).
//!
//! Forwards, the hidden states between all layers are kept; backwards, the weights of one part of the
//! model and its sums are in memory.

mod labels;
mod parts;

pub use crate::model::{FisherSettings as Settings, Labels};

use super::budget::{Sizes, attending, bytes};
use super::output::Output;
use super::walk::Walk;
use super::{Data, Kind, Resources, Summary, compute_kind};
use crate::error::Result;
use crate::eval::decoder::backward::Backward;
use crate::model::{Checkpoint, DocumentSettings, Statistics};
use parts::Pass;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The version of everything that decides the bytes of a result.
pub const NUMERICS: u32 = 1;

/// Bytes of logits and their gradients at a time, unless a row takes more.
const LOGITS: u64 = 64 << 20;

/// What only Fisher information can say of its computation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Labels of all documents.
    pub labels: usize,
    /// The mean log-likelihood of a label, in nats.
    pub nats: f64,
    /// The sum over all weights.
    pub total: f64,
}

/// Computes the diagonal Fisher information of a model's weights on documents, and writes it to the
/// file `out` (an earlier one is replaced if the second value says so): tensors of float32 with the
/// model's names and shapes. `progress` is told in words how far it is.
///
/// # Errors
/// The model's gradients cannot be taken, the data cannot be read, the memory is too small, or the
/// file cannot be written; it is not there then.
pub fn compute(
    checkpoint: &Checkpoint,
    data: Data<'_>,
    settings: &Settings,
    resources: &Resources,
    out: (&Path, bool),
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Summary<Found>> {
    compute_kind(&Fisher(settings), checkpoint, data, resources, out, progress)
}

/// Fisher information as a kind of statistics.
pub(super) struct Fisher<'a>(pub(super) &'a Settings);

/// Positions whose logits are computed at a time.
fn rows(model: &Backward<'_>) -> usize {
    (LOGITS / (8 * model.vocabulary().max(1)) as u64).clamp(16, 1 << 16) as usize
}

/// Head and embedding.
fn ends(model: &Backward<'_>, length: usize) -> Result<u64> {
    let head = bytes(model, model.head_name())?;
    let (table, positions) = model.tables();
    let positions = positions.map_or(Ok(0), |name| bytes(model, &name))?;
    let rows = 12 * (length * (model.hidden() + model.head_width())) as u64;
    let row = 8 * model.vocabulary() as u64;
    Ok((3 * head + row * 16).max(bytes(model, &table)? + positions) + rows + LOGITS)
}

impl Kind for Fisher<'_> {
    type Found = Found;
    const KIND: Statistics = Statistics::Fisher;
    const NUMERICS: u32 = NUMERICS;
    const PREDICTS: bool = true;

    fn documents(&self) -> &DocumentSettings {
        &self.0.documents
    }

    fn sizes(&self, model: &Backward<'_>, length: usize) -> Result<Sizes> {
        let (mut fixed, mut document) = (0, 0);
        for number in 0..model.layers() {
            let sizes: Result<Vec<u64>> =
                model.layer_names(number)?.iter().map(|name| bytes(model, name)).collect();
            let sizes = sizes?;
            let all: u64 = sizes.iter().sum();
            // A gradient is added to zeros before it is squared.
            let twice = 2 * sizes.iter().copied().max().unwrap_or(0);
            fixed = fixed.max(2 * all);
            document = document.max(all + twice);
        }
        let (table, _) = model.tables();
        if table == model.head_name() {
            // The sums of the head wait for those of the embedding.
            fixed += bytes(model, &table)?;
        }
        document += length as u64 * model.token_bytes()?;
        let kept = model.layers() as u64 + 3;
        Ok(Sizes { fixed, document, thread: attending(length), ends: ends(model, length)?, kept })
    }

    fn tensors(&self, model: &Backward<'_>) -> Result<BTreeMap<String, Vec<usize>>> {
        let floats = model.checkpoint().tensors().filter(|(_, own)| own.spec().float().is_some());
        Ok(floats.map(|(name, own)| (name.to_string(), own.spec().shape.clone())).collect())
    }

    fn metadata(&self, _: &Backward<'_>) -> Result<BTreeMap<String, String>> {
        let mut own = BTreeMap::from([("labels".to_string(), self.0.labels.name().to_string())]);
        if self.0.labels == Labels::Model {
            own.insert("seed".to_string(), self.0.seed.to_string());
        }
        Ok(own)
    }

    fn run(
        &self,
        walk: &Walk<'_>,
        output: &mut Output,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<Found> {
        let nats = Pass { walk, settings: self }.run(output, progress)?;
        let labels = walk.documents.labels();
        Ok(Found { labels, nats: nats / labels.max(1) as f64, total: output.total() })
    }
}
