//! The parents of a stage's output: through the stages it uses, down to models that are none.

use super::stages::Stage;
use crate::lineage::{Declarations, Family};
use crate::model::Checkpoint;
use crate::recipe::{Recipe, RecipeFile, stage_part};
use std::collections::BTreeSet;

/// What a stage's output is made of.
pub(super) struct Parents<'a> {
    /// The models and adapters that the stage itself reads.
    pub(super) own: Family,
    /// Those of the stages that it uses, and its own.
    pub(super) family: Family,
    /// The stages that it uses, in order, and itself.
    pub(super) recipes: Vec<&'a Recipe>,
}

/// The parents of a stage that reads these models; `before` are the stages before it.
pub(super) fn of<'a>(
    file: &'a RecipeFile,
    recipe: &'a Recipe,
    models: &[Checkpoint],
    before: &[Stage],
    known: &mut Declarations,
) -> Parents<'a> {
    let names: Vec<&str> = file.stages.iter().map(Recipe::title).collect();
    let own = Family::of(models, &names, known);
    let mut family = Family::default();
    let used = used(models, before);
    used.iter().for_each(|stage| family.join(&stage.family));
    family.join(&own);
    let is_used = |other: &&Recipe| used.iter().any(|stage| stage.name == other.title());
    let recipes = file.stages.iter().filter(is_used).chain([recipe]).collect();
    Parents { own, family, recipes }
}

/// The stages that these models come from, or that those come from, in order.
fn used<'a>(models: &[Checkpoint], before: &'a [Stage]) -> Vec<&'a Stage> {
    let part = |model: &Checkpoint| stage_part(&model.reference).to_string();
    let mut names: BTreeSet<String> = models.iter().map(part).collect();
    let mut found = Vec::new();
    for stage in before.iter().rev() {
        if names.contains(&stage.name) {
            names.extend(stage.models.iter().map(part));
            found.push(stage);
        }
    }
    found.reverse();
    found
}
