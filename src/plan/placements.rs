//! Which input tensors make which output tensor: whole models by name, or slices by layer.

use crate::error::{Error, Result};
use crate::model::{
    Checkpoint, Place, Stacks, gradient_position, known_modules, module_of, split_layer, tied_to,
};
use crate::recipe::{Layout, Located, ModelInput, Parameters, Recipe, Slice};
use std::collections::BTreeMap;

/// An input group: the models that are merged into a run of output tensors.
pub(super) struct Group<'a> {
    /// The models, in recipe order; the base last unless it is listed.
    pub(super) members: Vec<Member<'a>>,
    /// Index of the base among the members.
    pub(super) base: Option<usize>,
    /// Parameters of the slice and of the module.
    pub(super) parameters: Vec<&'a Parameters>,
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
    /// For each stack that is put together of slices: how many layers its lead model had, and which
    /// of them each output layer was.
    pub(super) kept: Vec<(usize, Vec<usize>)>,
}

/// One part of the model that is laid out by itself: all of it, or a module.
struct Part<'a> {
    layout: &'a Layout,
    parameters: Option<&'a Parameters>,
    /// The modules of the recipe and which of them it is; empty for the whole model.
    modules: Vec<&'a str>,
    own: usize,
}

impl Part<'_> {
    fn holds(&self, tensor: &str) -> bool {
        self.modules.is_empty() || module_of(&self.modules, tensor) == Some(self.own)
    }

    /// The stack of layers that slices of this part speak of.
    fn stack<'m>(&self, model: &'m Checkpoint) -> Result<(&'m str, usize)> {
        let holds = |stack: &str| self.holds(&format!("{stack}.0."));
        model.stacks.single_of(holds).map_err(|e| e.file(&model.folder))
    }
}

/// What placing needs to know of a recipe.
struct Placing<'a, 'm> {
    recipe: &'a Recipe,
    models: &'m [Checkpoint],
    index: BTreeMap<&'m str, usize>,
    placed: Placements<'a>,
}

pub(super) fn place<'a>(recipe: &'a Recipe, models: &[Checkpoint]) -> Result<Placements<'a>> {
    let index = models.iter().enumerate().map(|(i, model)| (model.reference.as_str(), i)).collect();
    let placed = Placements { groups: Vec::new(), list: Vec::new(), kept: Vec::new() };
    let mut placing = Placing { recipe, models, index, placed };
    match &recipe.layout {
        Layout::Modules(modules) => {
            let names: Vec<&str> =
                modules.iter().map(|module| module.name.value.as_str()).collect();
            for (own, module) in modules.iter().enumerate() {
                let before = placing.placed.list.len();
                placing.part(&Part {
                    layout: &module.layout,
                    parameters: Some(&module.parameters),
                    modules: names.clone(),
                    own,
                })?;
                if placing.placed.list.len() == before {
                    return Err(recipe
                        .error(&module.name, "a module has no tensors")
                        .key("modules")
                        .fact("module", &module.name.value)
                        .fact("known", known_modules().collect::<Vec<_>>().join(", "))
                        .hint("a module is one of the known names, or the beginning of its tensors' names"));
                }
            }
            placing.covers_everything(&names)?;
        }
        layout => {
            placing.part(&Part { layout, parameters: None, modules: Vec::new(), own: 0 })?;
        }
    }
    Ok(placing.placed)
}

impl<'a> Placing<'a, '_> {
    fn find(&self, reference: &Located<String>) -> Result<usize> {
        let found = self.index.get(reference.value.as_str()).copied();
        found.ok_or_else(|| Error::internal("a model of the recipe was not opened"))
    }

    fn part(&mut self, part: &Part<'a>) -> Result<()> {
        match part.layout {
            Layout::Models(inputs) => self.whole(part, inputs),
            Layout::Slices(slices) => self.slices(part, slices),
            Layout::Modules(_) => Err(Error::internal("modules were planned within a module")),
            Layout::Mixture(_) | Layout::Surgery(_) => {
                Err(Error::internal("a mixture was planned as a merge"))
            }
        }
    }

    /// Modules must not leave out tensors of the model: they would silently be missing.
    fn covers_everything(&self, modules: &[&str]) -> Result<()> {
        let lead = &self.models[self.placed.groups[0].lead().model];
        let Some(name) = lead.names_in_file_order().find(|name| module_of(modules, name).is_none())
        else {
            return Ok(());
        };
        Err(Error::input("a tensor belongs to no module of the recipe")
            .file(&self.recipe.file)
            .key("modules")
            .tensor(name)
            .fact("modules", modules.join(", "))
            .hint("add the module it belongs to, or `default` for everything else"))
    }

    /// Every tensor of the part, by name.
    fn whole(&mut self, part: &Part<'a>, inputs: &'a [ModelInput]) -> Result<()> {
        let mut members = Vec::new();
        for input in inputs {
            members.push(Member {
                model: self.find(&input.model)?,
                parameters: Some(&input.parameters),
                at: &input.model,
                first_layer: 0,
            });
        }
        let mut base = None;
        if let Some(reference) = &self.recipe.base_model {
            let model = self.find(reference)?;
            base = members.iter().position(|member| member.model == model);
            if base.is_none() {
                base = Some(members.len());
                members.push(Member { model, parameters: None, at: reference, first_layer: 0 });
            }
        }
        let at = inputs[0].model.map(());
        let group = Group { members, base, parameters: part.parameters.into_iter().collect(), at };
        let lead = &self.models[group.lead().model];
        for name in lead.names_in_file_order().filter(|name| part.holds(name)) {
            let key = tied_key(lead, name);
            self.placed.list.push(Placement {
                group: self.placed.groups.len(),
                output: name.to_string(),
                names: vec![key.to_string(); group.members.len()],
                key: key.to_string(),
                t: lead.stacks.position(key),
            });
        }
        self.placed.groups.push(group);
        Ok(())
    }

    /// Slices stacked in order: embeddings from the first, final norm and head from the last.
    fn slices(&mut self, part: &Part<'a>, slices: &'a [Slice]) -> Result<()> {
        let first_group = self.placed.groups.len();
        for slice in slices {
            let group = self.slice_group(part, slice)?;
            self.placed.groups.push(group);
        }
        let last_group = self.placed.groups.len() - 1;
        self.outside(part, first_group, first_group, Place::Before)?;
        let mut kept = Vec::new();
        for (at, slice) in (first_group..).zip(slices) {
            self.layers(part, at, slice, &mut kept)?;
        }
        self.outside(part, last_group, first_group, Place::Behind)?;
        // The config is the base's, or else the first model's.
        let donor = self.recipe.base_model.as_ref().map(|base| self.find(base)).transpose()?;
        let (_, old) = part.stack(&self.models[donor.unwrap_or(0)])?;
        self.placed.kept.push((old, kept));
        Ok(())
    }

    /// The models of a slice, whose layers must be there.
    fn slice_group(&self, part: &Part<'a>, slice: &'a Slice) -> Result<Group<'a>> {
        let mut members = Vec::new();
        for source in &slice.sources {
            let model = self.find(&source.model)?;
            let (_, count) = part.stack(&self.models[model])?;
            if source.layers.value.end > count {
                let key = self.recipe.key_of(&source.model);
                let start = source.layers.value.start;
                return Err(self
                    .recipe
                    .error(&source.layers, "a layer range goes past the model's last layer")
                    .key(format!("{}layer_range", key.strip_suffix("model").unwrap_or("")))
                    .fact("model", &source.model.value)
                    .expected(format!("an end of at most {count}"), source.layers.value.end)
                    .hint(match start < count {
                        true => format!("the model has {count} layers: write [{start}, {count}]"),
                        false => format!(
                            "the model has {count} layers, counted from 0: [0, {count}] are all"
                        ),
                    }));
            }
            members.push(Member {
                model,
                parameters: Some(&source.parameters),
                at: &source.model,
                first_layer: source.layers.value.start,
            });
        }
        let base = match slice.base_model.as_ref().or(self.recipe.base_model.as_ref()) {
            Some(reference) => {
                let model = self.find(reference)?;
                members.iter().position(|member| member.model == model)
            }
            None => None,
        };
        let at = slice.sources[0].model.map(());
        let parameters = std::iter::once(&slice.parameters).chain(part.parameters).collect();
        Ok(Group { members, base, parameters, at })
    }

    /// The tensors before or behind the layers, from the slice `at`; a tied head comes from where
    /// the embeddings come from, the slice `first`.
    fn outside(&mut self, part: &Part<'a>, at: usize, first: usize, wanted: Place) -> Result<()> {
        let lead = &self.models[self.placed.groups[at].lead().model];
        let (stack, _) = part.stack(lead)?;
        for name in lead.names_in_file_order().filter(|name| part.holds(name)) {
            if Stacks::place(stack, name) == wanted {
                let key = tied_key(lead, name);
                let group = if key == name { at } else { first };
                self.placed.list.push(Placement {
                    group,
                    output: name.to_string(),
                    names: vec![key.to_string(); self.placed.groups[group].members.len()],
                    key: key.to_string(),
                    t: 0.0,
                });
            }
        }
        Ok(())
    }

    /// The layers of a slice, numbered on from those in `kept`.
    fn layers(
        &mut self,
        part: &Part<'a>,
        at: usize,
        slice: &Slice,
        kept: &mut Vec<usize>,
    ) -> Result<()> {
        let group = &self.placed.groups[at];
        let lead = &self.models[group.lead().model];
        let (stack, _) = part.stack(lead)?;
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
                    let (stack, _) = part.stack(&self.models[member.model])?;
                    let layer = member.first_layer + i;
                    names.push(crate::model::LayerName { stack, layer, ..split }.renumbered(layer));
                }
                let output = split.renumbered(kept.len());
                self.placed.list.push(Placement {
                    group: at,
                    key: output.clone(),
                    output,
                    names,
                    t: gradient_position(i, length),
                });
            }
            kept.push(source_layer);
        }
        Ok(())
    }
}

/// The tensor that `name` is made from: itself, or, for a head that is tied and stored all the same,
/// its embedding, so that the two stay equal whatever a method draws or a filter picks by name.
fn tied_key<'a>(lead: &Checkpoint, name: &'a str) -> &'a str {
    match lead.config.tied() {
        Some(true) => tied_to(name, |name| lead.tensor(name).is_some()).unwrap_or(name),
        _ => name,
    }
}
