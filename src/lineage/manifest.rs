//! `lineage.json`: the recipe, every input and every output tensor with its digest.
//!
//! Nothing in it depends on the time, the machine or the folder, so that the same merge gives the
//! same file.

use super::Family;
use crate::engine::{Digest, NUMERICS, Outcome, hex, model_digest};
use crate::model::hub::Resolved;
use crate::model::{Checkpoint, OfModel, Source, TensorSpec};
use crate::plan::{Job, Plan};
use crate::recipe::{Recipe, RecipeFile, stage_part};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Name and version of the manifest's schema.
pub const SCHEMA: &str = "cognate/lineage/1";

/// The file of an output that the manifest is written to.
pub const FILE: &str = "lineage.json";

/// The manifest of a merge that has run, whose parents, through all stages, are `family`.
pub fn manifest(
    file: &RecipeFile,
    recipe: &Recipe,
    plan: &Plan,
    models: &[Checkpoint],
    outcome: &Outcome,
    family: &Family,
) -> Value {
    let outputs = plan.jobs.iter().zip(&outcome.outputs);
    let model = model_digest(
        outputs.clone().filter_map(|(job, digest)| Some((&job.output, digest.as_ref()?))),
    );
    let known = outcome.outputs.iter().all(Option::is_some);
    let mut manifest = json!({
        "schema": SCHEMA,
        "tool": {"name": "cognate", "version": env!("CARGO_PKG_VERSION")},
        "numerics": NUMERICS,
        "seed": plan.seed,
        "recipe": {
            "text": file.text,
            "resolved": {
                "merge_method": recipe.methods.json(),
                "base_model": recipe.base_model.as_ref().map(|base| &base.value),
                "models": plan.models.iter().map(|model| &model.reference).collect::<Vec<_>>(),
                "dtype": recipe.dtype.map(|dtype| dtype.name()),
                "out_dtype": recipe.out_dtype.map(|dtype| dtype.name()),
                "random_seed": plan.seed,
            },
        },
        "inputs": (0..models.len()).map(|i| input(plan, models, outcome, family, i)).collect::<Vec<_>>(),
        "license": family.license_json(),
        "datasets": family.datasets(),
        "ancestors": family.manifests(),
        "output": {
            "digest": known.then(|| hex(&model)),
            "parameters": plan.totals.parameters,
            "config_from": plan.models[plan.donor].reference,
            "config_edits": plan.config_edits,
            "sidecars": plan.sidecars.iter().map(|sidecar| json!({
                "path": sidecar.path,
                "model": plan.models[sidecar.model].reference,
            })).collect::<Vec<_>>(),
            "tensors": outputs.map(|(job, digest)| tensor(plan, job, digest)).collect::<Vec<_>>(),
        },
    });
    if family.manifests().is_empty()
        && let Some(manifest) = manifest.as_object_mut()
    {
        manifest.shift_remove("ancestors");
    }
    if !file.includes.is_empty() {
        let includes = file.includes.iter();
        let includes = includes.map(|file| json!({"path": file.path, "text": file.text}));
        manifest["recipe"]["includes"] = includes.collect();
    }
    if !file.overrides.is_empty() {
        manifest["recipe"]["overrides"] = file.overrides.clone().into();
    }
    if let (Some(output), Some(vocabulary)) =
        (manifest["output"].as_object_mut(), plan.vocabulary_json())
    {
        output.insert("vocabulary".to_string(), vocabulary);
    }
    manifest
}

/// One output tensor: what it is and how it was made.
fn tensor(plan: &Plan, job: &Job, digest: &Option<Digest>) -> Value {
    let mut entry = json!({
        "name": job.output.name,
        "dtype": job.output.dtype.to_string(),
        "shape": job.output.shape,
        "sha256": digest.as_ref().map(hex),
        "method": job.method.name,
        "parameters": job.params,
        "inputs": plan.inputs_json(job),
        "base": job.base,
    });
    if !job.posts.is_empty() {
        entry["then"] = job.posts_json();
    }
    entry
}

/// One input: its digest, its tensors, and what became of those that are not used.
fn input(
    plan: &Plan,
    models: &[Checkpoint],
    outcome: &Outcome,
    family: &Family,
    index: usize,
) -> Value {
    let checkpoint = &models[index];
    let digests = &outcome.inputs[index];
    let tensors: Map<String, Value> = weights(checkpoint)
        .map(|(name, spec)| {
            let entry = json!({
                "dtype": spec.dtype.to_string(),
                "shape": spec.shape,
                "sha256": digests.get(name).map(hex),
            });
            (name.to_string(), entry)
        })
        .collect();
    let mut entry = origin(checkpoint, family);
    let described = json!({
        "digest": digest(checkpoint, digests).as_ref().map(hex),
        "architecture": checkpoint.config.architecture(),
        "tensors": tensors,
        "made_of": plan.models[index].made_of,
        "dropped": plan.models[index].dropped,
    });
    if let (Some(entry), Value::Object(described)) = (entry.as_object_mut(), described) {
        entry.extend(described);
        if let Some(found) = checkpoint.statistics() {
            entry.insert("statistics".to_string(), statistics(found, checkpoint, digests));
        }
    }
    entry
}

/// The stored tensors of a model without those of its statistics.
fn weights(checkpoint: &Checkpoint) -> impl Iterator<Item = (&str, &TensorSpec)> {
    let prefix = checkpoint.statistics().map(|found| found.kind.name_of(""));
    let all = checkpoint.stored().iter().map(|(name, tensor)| (name.as_str(), tensor.spec()));
    all.filter(move |(name, _)| prefix.as_ref().is_none_or(|prefix| !name.starts_with(prefix)))
}

/// The statistics of a model: their file or how they were computed, their digest (as a model's, by the
/// names in the file), and what the file says of itself.
pub(crate) fn statistics(
    found: &OfModel,
    checkpoint: &Checkpoint,
    digests: &BTreeMap<String, Digest>,
) -> Value {
    let prefix = found.kind.name_of("");
    let stored = checkpoint.stored().iter();
    let stored =
        stored.filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, name, tensor)));
    let tensors: Option<Vec<(TensorSpec, Digest)>> = stored
        .map(|(own, name, tensor)| {
            let spec = TensorSpec { name: own.to_string(), ..tensor.spec().clone() };
            Some((spec, *digests.get(name)?))
        })
        .collect();
    let digest = tensors.map(|all| hex(&model_digest(all.iter().map(|(spec, own)| (spec, own)))));
    let mut entry = json!({
        "kind": found.kind.key(),
        "digest": digest,
        "metadata": found.metadata,
    });
    match &found.computed {
        Some(computed) => {
            let data = computed.data.as_ref().map(|data| &data.reference);
            entry["computed"] = json!({"data": data, "settings": computed.settings});
        }
        None => entry["file"] = json!(found.reference),
    }
    entry
}

/// The digest of a model as its files store it, given those of its tensors; none unless all are known.
/// An adapter's config decides on the weights as much as its tensors do, and counts as one.
pub(crate) fn digest(
    checkpoint: &Checkpoint,
    digests: &BTreeMap<String, Digest>,
) -> Option<Digest> {
    let configs: Vec<(TensorSpec, Digest)> = checkpoint
        .adapters()
        .iter()
        .map(|adapter| (adapter.config_spec(), Sha256::digest(&adapter.config).into()))
        .collect();
    let pairs = weights(checkpoint).map(|(name, spec)| (spec, digests.get(name)));
    let pairs: Option<Vec<_>> = pairs.map(|(spec, digest)| Some((spec, digest?))).collect();
    let configs = configs.iter().map(|(spec, digest)| (spec, digest));
    Some(model_digest(pairs?.into_iter().chain(configs)))
}

/// What an input is: the model as the recipe names it, its commit on the Hub, its adapters; and what
/// their folders declare of their origin.
fn origin(checkpoint: &Checkpoint, family: &Family) -> Value {
    let mut entry = json!({"model": checkpoint.reference});
    record_hub(&mut entry, checkpoint.hub.as_deref());
    let own = match checkpoint.adapters() {
        [] => checkpoint.reference.as_str(),
        _ => stage_part(&checkpoint.reference),
    };
    record_declared(&mut entry, own, family);
    let adapters = checkpoint.adapters().iter().map(|adapter| {
        let mut entry = json!({
            "adapter": adapter.reference,
            "prefix": adapter.prefix,
            "config_sha256": hex(&Sha256::digest(&adapter.config).into()),
            "settings": adapter.settings(),
        });
        record_hub(&mut entry, adapter.hub.as_deref());
        record_declared(&mut entry, &adapter.reference, family);
        entry
    });
    let adapters: Vec<Value> = adapters.collect();
    if !adapters.is_empty() {
        entry["adapters"] = adapters.into();
    }
    entry
}

/// Where on the Hub something comes from, and the SHA-256 of its large files.
fn record_hub(entry: &mut Value, hub: Option<&Resolved>) {
    let Some(hub) = hub else { return };
    entry["repo"] = hub.reference.repo.clone().into();
    entry["revision"] = hub.commit.clone().into();
    let large =
        hub.files.iter().filter_map(|file| Some((file.path.clone(), file.sha256.clone()?.into())));
    entry["files"] = Value::Object(large.collect());
}

/// What a model's or an adapter's folder declares of its origin. A stage has nothing but its record.
fn record_declared(entry: &mut Value, reference: &str, family: &Family) {
    let Some(declared) = family.member(reference).map(|member| &member.declared) else { return };
    if let Some(card) = &declared.card {
        entry["card"] = json!(card);
    }
    if let Some(base) = &declared.adapter_base {
        entry["base_model_name_or_path"] = base.clone().into();
    }
    if let Some(text) = &declared.mergekit {
        entry["mergekit"] = text.clone().into();
    }
    if let Some(manifest) = &declared.manifest {
        entry["lineage"] = json!({"sha256": manifest.sha256});
    }
}
