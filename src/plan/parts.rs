//! From the tensors a merge sees to what belongs to them: the stored tensors they are made of, and the
//! statistics that a method reads beside them.

use super::{Input, Model};
use crate::error::{Error, Result};
use crate::methods::Method;
use crate::model::{Checkpoint, Source};
use crate::recipe::Recipe;
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of each stored tensor of a model, by the tensors that are `used` and the reasons
/// why the others are `dropped`.
pub(super) fn account<'a>(
    model: &Checkpoint,
    used: impl Iterator<Item = &'a str>,
    dropped: &BTreeMap<String, String>,
) -> Model {
    let mut made_of = BTreeMap::new();
    let mut read = BTreeSet::new();
    for name in used {
        let parts = model.tensor(name).map(Source::parts).unwrap_or_default();
        read.extend(parts.iter().copied());
        if parts[..] != [name] {
            let parts: Vec<String> = parts.into_iter().map(String::from).collect();
            made_of.insert(name.to_string(), parts);
        }
    }
    let mut left = model.unused().clone();
    for (name, reason) in dropped {
        let parts = model.tensor(name).map(Source::parts).unwrap_or_default();
        for part in parts.into_iter().filter(|part| !read.contains(part)) {
            left.insert(part.to_string(), reason.clone());
        }
    }
    Model {
        reference: model.reference.clone(),
        made_of,
        statistics: model.statistics().map(|found| found.to_string()),
        dropped: left,
    }
}

/// The statistics that a method reads of the models' tensors, in their order.
pub(super) fn statistics(
    recipe: &Recipe,
    method: &Method,
    inputs: &[Input],
    models: &[Checkpoint],
) -> Result<Vec<Input>> {
    let Some(kind) = method.statistics else { return Ok(Vec::new()) };
    let of = |input: &Input| -> Result<Input> {
        let tensor = models[input.model].statistics_of(kind, &input.tensor);
        let at = |e: Error| e.at(recipe.file.display()).key(kind.key());
        Ok(Input { model: input.model, tensor: tensor.map_err(at)? })
    };
    inputs.iter().map(of).collect()
}
