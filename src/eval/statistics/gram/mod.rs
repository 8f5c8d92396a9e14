//! The Gram matrices of what goes into a model's linear maps.
//!
//! For every linear map that is applied to rows x: the mean of `xᵀ·x` over all tokens of the documents (Jin
//! et al., *Dataless Knowledge Fusion by Merging Weights of Language Models*, 2212.09849, sum it). An
//! expert's rows are the tokens that its router sends there, over the same number of tokens.
//!
//! Forwards only, one layer at a time: its weights and matrices are in memory.

mod sums;

pub use crate::model::DocumentSettings as Settings;

use super::budget::{Sizes, attending, bytes};
use super::output::Output;
use super::walk::Walk;
use super::{Data, Kind, Resources, Summary, compute_kind};
use crate::error::Result;
use crate::eval::decoder::backward::{Backward, Weights};
use crate::model::architectures::MapInput;
use crate::model::{Checkpoint, Statistics, gram};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use sums::Sums;

/// The version of everything that decides the bytes of a result.
pub const NUMERICS: u32 = 1;

/// What only Gram matrices can say of their computation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Tokens of all documents.
    pub tokens: usize,
    /// Weights that the matrices belong to.
    pub weights: usize,
}

/// Computes the Gram matrices of a model's linear maps on documents, and writes them to the file `out`
/// (an earlier one is replaced if the second value says so): a matrix of float32 for each distinct
/// input, under the name of the first weight that it goes into; `same_as` in the header leads the others
/// there. `progress` is told in words how far it is.
///
/// # Errors
/// The model is of a family that is not covered, the data cannot be read, the memory is too small, or
/// the file cannot be written; it is not there then.
pub fn compute(
    checkpoint: &Checkpoint,
    data: Data<'_>,
    settings: &Settings,
    resources: &Resources,
    out: (&Path, bool),
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Summary<Found>> {
    compute_kind(&Gram(settings), checkpoint, data, resources, out, progress)
}

/// Gram matrices as a kind of statistics.
pub(super) struct Gram<'a>(pub(super) &'a Settings);

/// Bytes of the matrices of some inputs, and of one more as large as the largest, for a document's own.
fn matrices(inputs: &[MapInput]) -> u64 {
    let bytes = |input: &MapInput| 4 * (input.width as u64).pow(2);
    inputs.iter().map(bytes).sum::<u64>() + inputs.iter().map(bytes).max().unwrap_or(0)
}

impl Kind for Gram<'_> {
    type Found = Found;
    const KIND: Statistics = Statistics::Gram;
    const NUMERICS: u32 = NUMERICS;
    const PREDICTS: bool = false;

    fn documents(&self) -> &Settings {
        self.0
    }

    fn sizes(&self, model: &Backward<'_>, length: usize) -> Result<Sizes> {
        let mut fixed = 0;
        for number in 0..model.layers() {
            let names = model.layer_names(number)?;
            let weights: Result<Vec<u64>> = names.iter().map(|name| bytes(model, name)).collect();
            let own = weights?.into_iter().sum::<u64>() + matrices(&model.layer_inputs(number)?);
            fixed = fixed.max(own);
        }
        let (first, last) = model.end_inputs();
        let names = [model.embedding_names(), model.final_names()].concat();
        let weights: Result<Vec<u64>> = names.iter().map(|name| bytes(model, name)).collect();
        let rows = 12 * (length * (model.hidden() + model.head_width())) as u64;
        let ends = weights?.into_iter().sum::<u64>() + matrices(&[first, last].concat()) + rows;
        let document = length as u64 * model.token_bytes()?;
        Ok(Sizes { fixed, document, thread: attending(length), ends, kept: 3 })
    }

    fn tensors(&self, model: &Backward<'_>) -> Result<BTreeMap<String, Vec<usize>>> {
        let all = model.inputs();
        Ok(all.iter().map(|input| (input.name().to_string(), vec![input.width; 2])).collect())
    }

    fn metadata(&self, model: &Backward<'_>) -> Result<BTreeMap<String, String>> {
        let all = model.inputs();
        let others = all.iter().flat_map(|input| {
            let others = input.weights.iter().skip(1);
            others.map(|weight| (weight.name.clone(), input.name().to_string()))
        });
        let same: BTreeMap<String, String> = others.collect();
        let weights = all.iter().flat_map(|input| &input.weights);
        let transposed = weights.filter(|weight| weight.transposed);
        let mut transposed: Vec<&String> = transposed.map(|weight| &weight.name).collect();
        transposed.sort_unstable();
        Ok(BTreeMap::from([
            (gram::SAME_AS.to_string(), json!(same).to_string()),
            (gram::TRANSPOSED.to_string(), json!(transposed).to_string()),
        ]))
    }

    fn run(
        &self,
        walk: &Walk<'_>,
        output: &mut Output,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<Found> {
        let model = walk.model;
        let (first, last) = model.end_inputs();
        let tokens = walk.documents.tokens.iter().map(Vec::len).sum();
        let listening = |names: &[String], inputs: &[MapInput]| -> Result<Weights> {
            Ok(model.weights(names, false)?.listening(inputs.iter().map(MapInput::name)))
        };
        let weights = listening(&model.embedding_names(), &first)?;
        let mut sums = Sums::new(&first);
        let mut before = walk.embedded(&weights, |heard| sums.add_all(heard))?;
        sums.finish(tokens, output)?;
        for number in 0..model.layers() {
            progress(&format!("layer {number}"));
            let inputs = model.layer_inputs(number)?;
            let weights = listening(&model.layer_names(number)?, &inputs)?;
            let mut sums = Sums::new(&inputs);
            before = walk.behind(number, &weights, &before, |heard| sums.add_all(heard))?;
            sums.finish(tokens, output)?;
        }
        if !last.is_empty() {
            progress("head");
            let weights = listening(&model.final_names(), &last)?;
            let mut sums = Sums::new(&last);
            let ready =
                |document: usize, weights: &Weights| model.ready(&before.get(document)?, weights);
            let head = model.head_name();
            let width = model.head_width();
            let ready = walk.step(width, &weights, ready, |heard| sums.add_all(heard))?;
            if last.iter().any(|input| input.name() == head) {
                for document in 0..walk.count() {
                    sums.add(head, &ready.get(document)?)?;
                }
            }
            sums.finish(tokens, output)?;
        }
        let weights = model.inputs().iter().map(|input| input.weights.len()).sum();
        Ok(Found { tokens, weights })
    }
}
