//! Likely mistakes that a plan shows by itself: weights that cancel everything, gradients that find no
//! layers.

use super::Job;
use super::placements::{Group, Placements};
use crate::model::Checkpoint;
use crate::recipe::{Parameters, Recipe};
use std::collections::BTreeSet;

/// Warnings about the jobs of a recipe.
pub(super) fn advice(
    recipe: &Recipe,
    models: &[Checkpoint],
    placements: &Placements<'_>,
    jobs: &[Job],
) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(zero_weights(jobs));
    warnings.extend(gradients_without_layers(recipe, models, placements));
    warnings
}

/// Tensors whose models all weigh nothing: they become the base, or zero.
fn zero_weights(jobs: &[Job]) -> Option<String> {
    let weightless = |job: &&Job| {
        let weights = job.params.each("weight");
        !weights.is_empty() && weights.iter().all(|weight| *weight == 0.0)
    };
    let first = jobs.iter().find(weightless)?;
    let count = jobs.iter().filter(weightless).count();
    let plural = if count == 1 { "" } else { "s" };
    Some(format!(
        "every weight is 0 for {count} tensor{plural}, {} the first: nothing of the models reaches it",
        first.output.name
    ))
}

/// Gradients over a model that has no layers they could run over.
fn gradients_without_layers(
    recipe: &Recipe,
    models: &[Checkpoint],
    placements: &Placements<'_>,
) -> Vec<String> {
    let flat = |group: &&Group<'_>| models[group.lead().model].stacks.is_empty();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for group in placements.groups.iter().filter(flat) {
        let own = group.members.iter().filter_map(|member| member.parameters);
        let levels = own.chain(group.parameters.iter().copied()).chain([&recipe.parameters]);
        names.extend(levels.flat_map(gradients));
    }
    let sentence = |name: &str| {
        format!(
            "`{name}` is a gradient, but the model has no layers: its first value holds everywhere"
        )
    };
    names.into_iter().map(sentence).collect()
}

/// The parameters that are set by a gradient.
fn gradients(parameters: &Parameters) -> impl Iterator<Item = &str> {
    let graded = parameters.0.iter().filter(|(_, setting)| setting.has_gradient());
    graded.map(|(name, _)| name.value.as_str())
}
