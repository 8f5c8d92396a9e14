//! Which input tensors make which output tensor: whole models by name, or slices by layer.

use crate::error::{Error, Result};
use crate::model::{Checkpoint, Place, Stacks, gradient_position, split_layer, tied_to};
use crate::recipe::{Layout, Located, Parameters, Recipe};
use std::collections::BTreeMap;

/// An input group: the models that are merged into a run of output tensors.
pub(super) struct Group<'a> {
    /// The models, in recipe order; the base last unless it is listed.
    pub(super) members: Vec<Member<'a>>,
    /// Index of the base among the members.
    pub(super) base: Option<usize>,
    /// Parameters of the slice.
    pub(super) parameters: Option<&'a Parameters>,
    /// Where the group stands in the recipe.
    pub(super) at: Located<()>,
}

/// A model of a group.
pub(super) struct Member<'a> {
    /// Index of the model.
    pub(super) model: usize,
    /// Its own parameters.
    pub(super) parameters: Option<&'a Parameters>,
    /// Where the recipe names it.
    pub(super) at: &'a Located<String>,
    /// The first layer it gives; 0 for whole models.
    pub(super) first_layer: usize,
}

impl Group<'_> {
    /// The member whose names the output has: the base, or else the first.
    pub(super) fn lead(&self) -> &Member<'_> {
        &self.members[self.base.unwrap_or(0)]
    }
}

/// One output tensor and the tensors it is made of.
pub(super) struct Placement {
    /// Index of the group.
    pub(super) group: usize,
    /// The output's name.
    pub(super) output: String,
    /// For each member of the group, the name to look up in its model.
    pub(super) names: Vec<String>,
    /// The name that shared parameters' filters and random numbers go by: the output's, or, for a
    /// tied head that is stored all the same, its embedding's.
    pub(super) key: String,
    /// Position on the slice's gradient, 0 to 1.
    pub(super) t: f64,
}

/// Everything the recipe's layout says about tensors.
pub(super) struct Placements<'a> {
    pub(super) groups: Vec<Group<'a>>,
    pub(super) list: Vec<Placement>,
    /// For slices: which layer of the lead model each output layer was.
    pub(super) kept: Option<Vec<usize>>,
}

pub(super) fn place<'a>(recipe: &'a Recipe, models: &[Checkpoint]) -> Result<Placements<'a>> {
    let index: BTreeMap<&str, usize> =
        models.iter().enumerate().map(|(i, model)| (model.reference.as_str(), i)).collect();
    let find = |reference: &Located<String>| -> Result<usize> {
        let found = index.get(reference.value.as_str()).copied();
        found.ok_or_else(|| Error::internal("a model of the recipe was not opened"))
    };
    match &recipe.layout {
        Layout::Models(inputs) => {
            let mut members = Vec::new();
            for input in inputs {
                let model = find(&input.model)?;
                members.push(Member {
                    model,
                    parameters: Some(&input.parameters),
                    at: &input.model,
                    first_layer: 0,
                });
            }
            let mut base = None;
            if let Some(reference) = &recipe.base_model {
                let model = find(reference)?;
                base = members.iter().position(|member| member.model == model);
                if base.is_none() {
                    base = Some(members.len());
                    members.push(Member { model, parameters: None, at: reference, first_layer: 0 });
                }
            }
            let at = inputs[0].model.map(());
            let group = Group { members, base, parameters: None, at };
            let list = whole_models(&group, models);
            Ok(Placements { groups: vec![group], list, kept: None })
        }
        Layout::Slices(slices) => {
            let mut groups = Vec::new();
            for slice in slices {
                let mut members = Vec::new();
                for source in &slice.sources {
                    let model = find(&source.model)?;
                    members.push(Member {
                        model,
                        parameters: Some(&source.parameters),
                        at: &source.model,
                        first_layer: source.layers.value.start,
                    });
                }
                let base = match slice.base_model.as_ref().or(recipe.base_model.as_ref()) {
                    Some(reference) => {
                        let model = find(reference)?;
                        members.iter().position(|member| member.model == model)
                    }
                    None => None,
                };
                let at = slice.sources[0].model.map(());
                groups.push(Group { members, base, parameters: Some(&slice.parameters), at });
            }
            stacked(recipe, groups, models)
        }
    }
}

/// Every tensor of the lead model, by name.
fn whole_models(group: &Group<'_>, models: &[Checkpoint]) -> Vec<Placement> {
    let lead = &models[group.lead().model];
    lead.names_in_file_order()
        .map(|name| {
            let key = tied_key(lead, name);
            Placement {
                group: 0,
                output: name.to_string(),
                names: vec![key.to_string(); group.members.len()],
                key: key.to_string(),
                t: lead.stacks.position(key),
            }
        })
        .collect()
}

/// The tensor that `name` is made from: itself, or, for a head that is tied and stored all the same,
/// its embedding, so that the two stay equal whatever a method draws or a filter picks by name.
fn tied_key<'a>(lead: &Checkpoint, name: &'a str) -> &'a str {
    match lead.config.tied() {
        Some(true) => tied_to(name, |name| lead.tensor(name).is_some()).unwrap_or(name),
        _ => name,
    }
}

/// Slices stacked in order: embeddings from the first, final norm and head from the last.
fn stacked<'a>(
    recipe: &Recipe,
    groups: Vec<Group<'a>>,
    models: &[Checkpoint],
) -> Result<Placements<'a>> {
    let Layout::Slices(slices) = &recipe.layout else {
        return Err(Error::internal("slices were planned for a recipe without slices"));
    };
    let mut stacks = Vec::new();
    for model in models {
        stacks.push(model.stacks.single().map_err(|e| e.file(&model.folder)));
    }
    for (slice, group) in slices.iter().zip(&groups) {
        for (source, member) in slice.sources.iter().zip(&group.members) {
            let (_, count) = stacks[member.model].clone()?;
            if source.layers.value.end > count {
                return Err(recipe
                    .error(&source.layers, "a layer range goes past the model's last layer")
                    .key("layer_range")
                    .fact("model", &source.model.value)
                    .expected(format!("an end of at most {count}"), source.layers.value.end));
            }
        }
    }
    let mut list = Vec::new();
    let mut kept = Vec::new();
    let outside = |at: usize, wanted: Place, list: &mut Vec<Placement>| -> Result<()> {
        let group = &groups[at];
        let lead = &models[group.lead().model];
        let (stack, _) = stacks[group.lead().model].clone()?;
        for name in lead.names_in_file_order() {
            if Stacks::place(stack, name) == wanted {
                let key = tied_key(lead, name);
                // A tied head comes from where the embeddings come from: the first slice.
                let group = if key == name { at } else { 0 };
                list.push(Placement {
                    group,
                    output: name.to_string(),
                    names: vec![key.to_string(); groups[group].members.len()],
                    key: key.to_string(),
                    t: 0.0,
                });
            }
        }
        Ok(())
    };
    outside(0, Place::Before, &mut list)?;
    for (at, (slice, group)) in slices.iter().zip(&groups).enumerate() {
        let lead = &models[group.lead().model];
        let (stack, _) = stacks[group.lead().model].clone()?;
        let mut by_layer: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for name in lead.names_in_file_order() {
            if let Place::Layer(layer) = Stacks::place(stack, name) {
                by_layer.entry(layer).or_default().push(name);
            }
        }
        let length = slice.sources[0].layers.value.len();
        for i in 0..length {
            let source_layer = group.lead().first_layer + i;
            for name in by_layer.get(&source_layer).into_iter().flatten() {
                let Some(split) = split_layer(name) else { continue };
                let mut names = Vec::new();
                for member in &group.members {
                    let (stack, _) = stacks[member.model].clone()?;
                    let layer = member.first_layer + i;
                    names.push(crate::model::LayerName { stack, layer, ..split }.renumbered(layer));
                }
                let output = split.renumbered(kept.len());
                list.push(Placement {
                    group: at,
                    key: output.clone(),
                    output,
                    names,
                    t: gradient_position(i, length),
                });
            }
            kept.push(source_layer);
        }
    }
    outside(groups.len() - 1, Place::Behind, &mut list)?;
    Ok(Placements { groups, list, kept: Some(kept) })
}
