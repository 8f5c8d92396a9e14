//! A mixture in; a dense model, or a mixture of fewer experts, out.

use super::super::draft::{Draft, set_dtype};
use super::super::{Model, Options, Plan, Vocabulary, donor, parts};
use super::{Jobs, architecture};
use crate::error::{Error, Result};
use crate::model::architectures::{Architecture, Mlp};
use crate::model::mixture::{MixtureLayer, MixtureParts, MlpTensor, Opened, converted, dense};
use crate::model::{Checkpoint, Config};
use crate::recipe::{Located, Recipe, Surgery, Take};
use std::collections::{BTreeMap, BTreeSet};

/// Plans what is made of a mixture. Experts that are left out are no longer seen in it.
pub(in crate::plan) fn change(
    recipe: &Recipe,
    surgery: &Surgery,
    models: &[Checkpoint],
    vocabulary: Vocabulary,
    options: &Options,
) -> Result<Plan> {
    let base = donor(recipe, models);
    let mut jobs = Jobs::new(recipe, models);
    let (mut config, mut edits) = match surgery {
        Surgery::Extract { experts, architecture } => {
            let at = |e: Error| experts.at(e);
            extract(&mut jobs, base, experts, architecture.as_ref()).map_err(at)?
        }
        Surgery::Drop { .. } => {
            for name in models[base].names_in_file_order() {
                jobs.copy(name, base, name)?;
            }
            (models[base].config.clone(), models[base].edits.clone())
        }
    };
    edits.extend(vocabulary.edit(&mut config));
    set_dtype(&mut config, &jobs.list, &mut edits);
    let mut warnings = recipe.warnings.clone();
    warnings.extend(vocabulary.warnings.iter().cloned());
    warnings.extend(models[base].notes.iter().cloned());
    let jobs = jobs.list;
    let accounts = models.iter().enumerate().map(|(i, model)| account(i, model, &jobs)).collect();
    let draft = Draft { jobs, config, edits, accounts, donor: base, warnings, advice: Vec::new() };
    draft.finish(recipe, models, vocabulary, options)
}

/// What is not used of the mixture.
fn account(index: usize, model: &Checkpoint, jobs: &[super::Job]) -> Model {
    let inputs = jobs.iter().flat_map(|job| &job.inputs);
    let used: BTreeSet<&str> =
        inputs.filter(|input| input.model == index).map(|input| input.tensor.as_str()).collect();
    let dropped = model.tensors().filter(|(name, _)| !used.contains(name));
    let dropped: BTreeMap<String, String> = dropped
        .map(|(name, _)| (name.to_string(), "the dense model has no place for it".to_string()))
        .collect();
    parts::account(model, used.into_iter(), &dropped)
}

/// The jobs of a dense model whose MLPs are experts, and its config.
fn extract(
    jobs: &mut Jobs<'_>,
    base: usize,
    take: &Located<Take>,
    like: Option<&Located<String>>,
) -> Result<(Config, Vec<String>)> {
    let model = &jobs.models[base];
    let Opened { family, parts, .. } = model.as_mixture()?;
    let name = like.map(|like| like.value.as_str());
    let mixed = architecture(model)?;
    let shared = take.value == Take::Shared;
    let width = shared.then(|| shared_width(&mixed)).flatten();
    let (config, edits) = family.dense_config(&model.config, &mixed.windows(), width, name)?;
    let stored = |name: &str| model.tensor(name).is_some();
    let of_dense = converted(&config, stored)?;
    family.expresses(&of_dense, &mixed, shared).map_err(|e| {
        e.model(&model.reference)
            .hint("extract into a dense family that can be what the experts are: `architecture`")
    })?;
    let tensors = dense(&of_dense)?;
    let first_of: BTreeMap<&str, &MixtureLayer> = first_tensors(model, &parts);
    let of_mixtures: BTreeSet<&str> = parts.layers.iter().flat_map(names).collect();
    for name in model.names_in_file_order() {
        if let Some(layer) = first_of.get(name) {
            let experts = taken(&take.value, layer)?;
            for (place, tensor) in tensors[layer.number].iter().enumerate() {
                let from: Vec<(usize, &str)> =
                    experts.iter().map(|expert| (base, expert[place].name.as_str())).collect();
                jobs.average(&tensor.name, &from)?;
            }
        } else if !of_mixtures.contains(name) {
            jobs.copy(name, base, name)?;
        }
    }
    Ok((config, edits))
}

/// The width of the shared experts, which are stored as one.
fn shared_width(mixed: &Architecture) -> Option<usize> {
    mixed.layers.iter().find_map(|layer| match &layer.mlp {
        Some(Mlp::Experts(of)) => of.shared.as_ref().map(|shared| shared.width),
        _ => None,
    })
}

/// The names of all tensors of a layer's mixture.
fn names(layer: &MixtureLayer) -> impl Iterator<Item = &str> {
    let experts = layer.experts.iter().chain(&layer.shared).flatten();
    let others = [Some(&layer.router), layer.choice_bias.as_ref(), layer.shared_gate.as_ref()];
    experts
        .map(|tensor| tensor.name.as_str())
        .chain(others.into_iter().flatten().map(String::as_str))
}

/// The layers by the first tensor of their mixtures in the order of the files.
fn first_tensors<'a>(
    model: &'a Checkpoint,
    parts: &'a MixtureParts,
) -> BTreeMap<&'a str, &'a MixtureLayer> {
    let mut layer_of: BTreeMap<&str, &MixtureLayer> = BTreeMap::new();
    for layer in &parts.layers {
        layer_of.extend(names(layer).map(|name| (name, layer)));
    }
    let mut seen = BTreeSet::new();
    let ordered = model.names_in_file_order().filter_map(|name| Some((name, *layer_of.get(name)?)));
    ordered.filter(|(_, layer)| seen.insert(layer.number)).collect()
}

/// The experts of a layer that are taken.
fn taken<'a>(take: &Take, layer: &'a MixtureLayer) -> Result<Vec<&'a Vec<MlpTensor>>> {
    let count = layer.experts.len();
    match take {
        Take::All => Ok(layer.experts.iter().collect()),
        Take::Numbers(numbers) => {
            let find = |number: &usize| {
                layer.experts.get(*number).ok_or_else(|| {
                    Error::input("the mixture has no such expert")
                        .key("extract")
                        .expected(format!("a number below {count}"), number)
                })
            };
            numbers.iter().map(find).collect()
        }
        Take::Shared => {
            let shared = layer.shared.as_ref().ok_or_else(|| {
                Error::input("the mixture has no shared expert")
                    .key("extract")
                    .hint("take a routed one: `extract: 0`")
            })?;
            Ok(vec![shared])
        }
    }
}
