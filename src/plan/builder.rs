//! Builds a plan from a merge recipe and the opened checkpoints.

use super::draft::{Draft, set_dtype};
use super::methods::{Depths, check_group, check_surveys, method, posts};
use super::placements::{Group, Placement, Placements, place};
use super::{Input, Job, Model, Options, Plan, Vocabulary, donor, params, parts};
use crate::error::{Error, Result};
use crate::methods::{COPY, Params};
use crate::model::{Checkpoint, Config, Float, Place, Stacks, TensorSpec, split_layer, tied_to};
use crate::recipe::Recipe;
use std::collections::{BTreeMap, BTreeSet};

/// Buffers that models recompute and therefore often do not store; where a model lacks one, the
/// others' is copied.
const DERIVED: [&str; 6] = [
    "rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    "position_ids",
];

pub(super) fn build(
    recipe: &Recipe,
    models: &[Checkpoint],
    vocabulary: Vocabulary,
    options: &Options,
) -> Result<Plan> {
    let donor = donor(recipe, models);
    super::compatible::check(recipe, models, donor)?;
    let placements = place(recipe, models)?;
    let mut checked = BTreeSet::new();
    for placement in &placements.list {
        let (group, method) = (&placements.groups[placement.group], method(recipe, placement)?);
        if checked.insert((placement.group, method.name)) {
            check_group(recipe, group, method, models)?;
        }
    }
    let mut warnings = recipe.warnings.clone();
    warnings.extend(super::compatible::differences(models, donor));
    warnings.extend(vocabulary.warnings.iter().cloned());
    warn_of_mixtures(models, donor, &mut warnings);
    let mut jobs = Vec::new();
    let depths = Depths::new(&placements);
    for placement in &placements.list {
        let group = &placements.groups[placement.group];
        let depth = depths.of(&placement.output);
        jobs.push(job(recipe, group, placement, depth, models, &mut warnings)?);
    }
    if jobs.is_empty() {
        return Err(
            Error::input("nothing to merge: the model has no tensors").file(&models[donor].folder)
        );
    }
    check_surveys(recipe, models, &jobs)?;
    let (config, edits) = config(models, donor, &vocabulary, &placements, &jobs, &mut warnings)?;
    warnings.extend(models[donor].notes.iter().cloned());
    let advice = super::advice::advice(recipe, models, &placements, &jobs);
    let accounts = dropped(recipe, models, &placements, &jobs)?;
    let draft = Draft { jobs, config, edits, accounts, donor, warnings, advice };
    draft.finish(recipe, models, vocabulary, options)
}

fn warn_of_mixtures(models: &[Checkpoint], donor: usize, warnings: &mut Vec<String>) {
    let lead = &models[donor];
    for model in models {
        if model.config.model_type() != lead.config.model_type() {
            warnings.push(format!(
                "{} is a {}, {} a {}: they are merged because their tensors match by name and shape",
                model.reference,
                model.config.model_type().unwrap_or("model without a type"),
                lead.reference,
                lead.config.model_type().unwrap_or("model without a type"),
            ));
        }
    }
}

fn job(
    recipe: &Recipe,
    group: &Group<'_>,
    placement: &Placement,
    depth: Option<f64>,
    models: &[Checkpoint],
    warnings: &mut Vec<String>,
) -> Result<Job> {
    let lead_at = group.base.unwrap_or(0);
    let mut inputs = Vec::new();
    let mut specs: Vec<&TensorSpec> = Vec::new();
    let mut missing = Vec::new();
    for (member, name) in group.members.iter().zip(&placement.names) {
        match models[member.model].tensor_or_tied(name) {
            Some((stored, tensor)) => {
                inputs.push(Input { model: member.model, tensor: stored.to_string() });
                specs.push(tensor.spec());
            }
            None => missing.push((member, name)),
        }
    }
    let lead_name = &placement.names[lead_at];
    let lead = models[group.members[lead_at].model]
        .tensor_or_tied(lead_name)
        .map(|(_, tensor)| tensor.spec())
        .ok_or_else(|| Error::internal("a planned tensor is not there").tensor(lead_name))?;
    let derived = DERIVED.iter().any(|ending| placement.output.ends_with(ending));
    if let Some((member, name)) = missing.first().filter(|_| !derived) {
        let lead = &models[group.lead().model];
        if let Some(other) = super::compatible::structure(lead, &models[member.model]) {
            return Err(
                super::compatible::error(recipe, lead, &models[member.model], other).tensor(name)
            );
        }
        return Err(recipe
            .model_error(member.at, "a model lacks a tensor that the others have")
            .tensor(name)
            .fact("model", &member.at.value)
            .fact("has it", &models[group.lead().model].reference)
            .hint(
                "models merge when they share an architecture: the same tensors, by name and shape",
            ));
    }
    for (input, spec) in inputs.iter().zip(&specs) {
        if spec.shape != lead.shape {
            let pair = [&models[group.lead().model], &models[input.model]];
            return Err(super::compatible::shapes(recipe, &placement.output, pair, [lead, spec]));
        }
    }
    if let Some(odd) = specs.iter().find(|spec| spec.float().is_none() && spec.dtype != lead.dtype)
    {
        return Err(recipe
            .error(&group.at, "the models store a tensor in dtypes that cannot be merged")
            .tensor(&placement.output)
            .expected(lead.dtype, odd.dtype));
    }
    let arithmetic = missing.is_empty() && specs.iter().all(|spec| spec.float().is_some());
    if let Some((member, _)) = missing.first() {
        warnings.push(format!(
            "{} does not store {}; it is copied from the models that do",
            models[member.model].reference, placement.output
        ));
    }
    let float = lead.float().map(|kept| recipe.out_dtype.or(recipe.dtype).unwrap_or(kept));
    let dtype = float.filter(|_| arithmetic).map_or(lead.dtype, Float::dtype);
    let (method, resolved, posts) = if arithmetic {
        let method = method(recipe, placement)?;
        let resolved = params::resolve(recipe, method, group, placement)?;
        let posts = posts(recipe, group, placement, &resolved, depth)?;
        (method, resolved, posts)
    } else {
        (&COPY, Params::default(), Vec::new())
    };
    (method.check)(&resolved).map_err(|reason| {
        let wrong = recipe.error(&group.at, reason).key("parameters");
        wrong
            .tensor(&placement.output)
            .fact("method", method.name)
            .hint("change the parameters, or choose another method")
    })?;
    let models_read = inputs.len();
    let (statistics, inputs_along) = parts::statistics(recipe, method, &inputs, models)?;
    inputs.extend(statistics);
    Ok(Job {
        output: TensorSpec { name: placement.output.clone(), dtype, shape: lead.shape.clone() },
        method,
        inputs,
        models: models_read,
        inputs_along,
        base: group.base.filter(|_| arithmetic),
        params: resolved,
        posts,
        random_key: placement.key.clone(),
        shard: 0,
        offset: 0,
    })
}

/// The output's config and what was changed in it.
fn config(
    models: &[Checkpoint],
    donor: usize,
    vocabulary: &Vocabulary,
    placements: &Placements<'_>,
    jobs: &[Job],
    warnings: &mut Vec<String>,
) -> Result<(Config, Vec<String>)> {
    let mut config = models[donor].config.clone();
    let mut edits = vocabulary.edit(&mut config);
    if let Some(scheme) = models[donor].quantisation() {
        edits.push(format!("quantization_config: removed ({scheme} is undone)"));
    }
    set_dtype(&mut config, jobs, &mut edits);
    for (old, kept) in &placements.kept {
        let same = kept.iter().copied().eq(0..*old);
        if !same {
            edits.push(format!("layers: {old} → {}", kept.len()));
            for edit in config.follow_layers(*old, kept)? {
                edits
                    .push(format!("{}: {} → {} entries", edit.key, edit.lengths.0, edit.lengths.1));
            }
            for key in config.positional_keys() {
                warnings.push(format!(
                    "config key {key} depends on layer positions; check it after the layer edit"
                ));
            }
        }
    }
    Ok((config, edits))
}

/// For each model, its tensors that no job reads, with the reason.
fn dropped(
    recipe: &Recipe,
    models: &[Checkpoint],
    placements: &Placements<'_>,
    jobs: &[Job],
) -> Result<Vec<Model>> {
    let used: BTreeSet<(usize, &str)> = jobs
        .iter()
        .flat_map(|job| &job.inputs)
        .map(|input| (input.model, input.tensor.as_str()))
        .collect();
    let lead_model = placements.groups[0].lead().model;
    let lead = &models[lead_model];
    let mut all = Vec::new();
    for (i, model) in models.iter().enumerate() {
        let mut dropped = BTreeMap::new();
        for (name, _) in model.tensors() {
            if used.contains(&(i, name)) {
                continue;
            }
            let tied = tied_to(name, |name| model.tensor(name).is_some());
            let sliced = !placements.kept.is_empty();
            let reason = match tied {
                Some(embedding) if !sliced => {
                    if lead.config.tied() == Some(true) && model.config.tied() == Some(false) {
                        return Err(super::compatible::tied(recipe, lead, model, name));
                    }
                    format!("tied to {embedding}")
                }
                _ if !sliced => format!("{} has no such tensor", lead.reference),
                _ => match split_layer(name) {
                    Some(_) => "its layer is in no slice".to_string(),
                    None if Stacks::place("", name) == Place::Before => {
                        "the first slice gives the embeddings".to_string()
                    }
                    None => "the last slice gives what follows the layers".to_string(),
                },
            };
            dropped.insert(name.to_string(), reason);
        }
        let used = used.iter().filter(|(of, _)| *of == i).map(|(_, name)| *name);
        all.push(parts::account(model, used, &dropped));
    }
    Ok(all)
}
