//! Gram matrices: which weight has which, and which side of the weight it belongs to.
//!
//! A file has a square matrix under a weight's name. Weights that read the same input have one matrix,
//! under the first one's name; `same_as` in the header leads the others there. `transposed` in the header
//! lists the weights that are stored as inputs × outputs.

use super::{Checkpoint, InputsAlong, Statistics};
use crate::error::{Error, Result};
use crate::model::architectures::{self, MapInput};
use crate::model::{Source, StoredTensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// The keys of a file's header.
pub(crate) const SAME_AS: &str = "same_as";
pub(crate) const TRANSPOSED: &str = "transposed";

/// Matrices by the weights they belong to.
#[derive(Default)]
pub(super) struct Matrices {
    pub(super) tensors: BTreeMap<String, Arc<dyn Source>>,
    pub(super) along: BTreeMap<String, InputsAlong>,
}

/// The inputs of a model's linear maps, where its family is known.
pub(super) fn inputs(model: &Checkpoint) -> Option<Vec<MapInput>> {
    let stored = |name: &str| model.tensor(name).is_some();
    let found = architectures::find(&model.config, stored).ok()?;
    Some(found.architecture.inputs(stored))
}

/// What a weight's storage says of its inputs.
pub(super) fn along(transposed: bool) -> InputsAlong {
    if transposed { InputsAlong::Rows } else { InputsAlong::Columns }
}

/// A file of Gram matrices, as it is read for a model.
struct Reader<'a> {
    model: &'a Checkpoint,
    file: &'a Path,
    /// The weights that the header calls transposed; none where it says nothing.
    transposed: Option<BTreeSet<String>>,
    /// What the model's family says of its weights.
    family: BTreeMap<String, bool>,
}

/// The matrices of a file by the weights that they belong to.
///
/// # Errors
/// One does not fit its weight, or the header is not what it must be.
pub(super) fn read(
    model: &Checkpoint,
    file: &Path,
    stored: &[(String, &StoredTensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<Matrices> {
    let header = |key: &str| metadata.get(key).map(String::as_str);
    let invalid = |key: &'static str| {
        move |e: serde_json::Error| {
            Error::input("the header of a file of Gram matrices is not valid")
                .file(file)
                .key(key)
                .fact("reason", e)
        }
    };
    let transposed: Option<BTreeSet<String>> =
        header(TRANSPOSED).map(serde_json::from_str).transpose().map_err(invalid(TRANSPOSED))?;
    let same: Option<BTreeMap<String, String>> =
        header(SAME_AS).map(serde_json::from_str).transpose().map_err(invalid(SAME_AS))?;
    let family = inputs(model).into_iter().flatten().flat_map(|input| input.weights);
    let family = family.map(|weight| (weight.name, weight.transposed)).collect();
    let reader = Reader { model, file, transposed, family };
    let mut found = Matrices::default();
    for (name, tensor) in stored {
        reader.add(name, tensor, &mut found)?;
    }
    for (name, first) in same.into_iter().flatten() {
        let Some((_, tensor)) = stored.iter().find(|(own, _)| *own == first) else {
            return Err(reader
                .wrong(&name, "the Gram matrix of a weight is said to be one that is not there")
                .fact("same_as", first));
        };
        if !found.tensors.contains_key(&name) {
            reader.add(&name, tensor, &mut found)?;
        }
    }
    Ok(found)
}

impl Reader<'_> {
    fn wrong(&self, name: &str, message: &str) -> Error {
        Error::input(message).file(self.file).tensor(name).fact("model", &self.model.reference)
    }

    /// Adds a weight's matrix.
    fn add(&self, name: &str, tensor: &StoredTensor, found: &mut Matrices) -> Result<()> {
        let weight = super::tensor_of(self.model, Statistics::Gram, self.file, name)?;
        let [rows, columns] = weight.spec().shape[..] else {
            return Err(self
                .wrong(name, "the Gram matrix of a tensor that is no matrix")
                .fact("shape", format!("{:?}", weight.spec().shape))
                .hint("weights of several experts in one tensor have none; leave it out"));
        };
        let along = self.side(name, rows, columns, &tensor.spec().shape);
        let inputs = if along == InputsAlong::Rows { rows } else { columns };
        if tensor.spec().shape != [inputs, inputs] {
            return Err(self
                .wrong(name, "a Gram matrix of another shape")
                .expected(format!("{:?}", [inputs, inputs]), format!("{:?}", tensor.spec().shape))
                .hint("it has as many rows and columns as the weight has inputs"));
        }
        found.tensors.insert(name.to_string(), Arc::new(tensor.clone()));
        found.along.insert(name.to_string(), along);
        Ok(())
    }

    /// Which side of a weight its inputs lie along: what the header says, or the family, or the shapes.
    fn side(&self, name: &str, rows: usize, columns: usize, matrix: &[usize]) -> InputsAlong {
        if let Some(transposed) = &self.transposed {
            return along(transposed.contains(name));
        }
        match self.family.get(name) {
            Some(transposed) => along(*transposed),
            None => along(rows != columns && matrix == [rows, rows]),
        }
    }
}
