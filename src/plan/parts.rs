//! From the tensors a merge sees to what belongs to them: the stored tensors they are made of, and the
//! statistics that a method reads beside them.

use super::{Input, Model};
use crate::error::{Error, Result};
use crate::methods::Method;
use crate::model::{Checkpoint, InputsAlong, Source};
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

/// The statistics that a method reads of the models' tensors, in their order, and the side of the
/// tensors that Gram matrices belong to. Tensors of a kind that may be without have them in all models or
/// in none.
pub(super) fn statistics(
    recipe: &Recipe,
    method: &Method,
    inputs: &[Input],
    models: &[Checkpoint],
) -> Result<(Vec<Input>, Option<InputsAlong>)> {
    let Some(kind) = method.statistics else { return Ok((Vec::new(), None)) };
    let at = |e: Error| e.at(recipe.file.display()).key(kind.key());
    let of = |input: &Input| -> Result<Option<Input>> {
        let tensor = models[input.model].statistics_of(kind, &input.tensor).map_err(at)?;
        Ok(tensor.map(|tensor| Input { model: input.model, tensor }))
    };
    let all = inputs.iter().map(of).collect::<Result<Vec<_>>>()?;
    let sides: Vec<_> =
        inputs.iter().map(|input| models[input.model].inputs_along(&input.tensor)).collect();
    let found: Vec<Input> = all.iter().flatten().cloned().collect();
    if !found.is_empty()
        && let Some(without) = all.iter().position(Option::is_none)
    {
        let (lacks, has) = (&inputs[without], &found[0]);
        return Err(at(Error::input(format!(
            "one model has {} of a tensor, and another has none",
            kind.title()
        ))
        .tensor(&lacks.tensor)
        .fact("with", &models[has.model].reference)
        .fact("without", &models[lacks.model].reference)
        .hint(format!("compute both files with `cognate {}`", kind.key()))));
    }
    let along = sides.first().copied().flatten();
    if let Some(odd) = sides.iter().position(|side| *side != along) {
        return Err(at(Error::input("the models store a linear map in two ways")
            .tensor(&inputs[odd].tensor)
            .fact("one", &models[inputs[0].model].reference)
            .fact("other", &models[inputs[odd].model].reference)
            .hint("merge models of one family")));
    }
    Ok((found, along))
}
