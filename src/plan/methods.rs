//! Which method and post-steps make a tensor, and what they demand of its models.

use super::placements::{Group, Placement, Placements};
use super::{Job, params};
use crate::error::{Error, Result, list};
use crate::methods::{Base, Method, Params, Step, Value};
use crate::model::{Checkpoint, split_layer};
use crate::recipe::{PostSettings, Recipe};
use std::collections::{BTreeMap, BTreeSet};

/// The method of a tensor.
pub(super) fn method(recipe: &Recipe, placement: &Placement) -> Result<&'static Method> {
    recipe.methods.of(&placement.key).ok_or_else(|| {
        recipe
            .error(&recipe.at, "no filter of `merge_method` matches a tensor")
            .key("merge_method")
            .tensor(&placement.output)
            .hint("end the list with an entry without filter: `- value: linear`, say")
    })
}

/// The post-steps of a tensor.
pub(super) fn posts(
    recipe: &Recipe,
    group: &Group<'_>,
    placement: &Placement,
    resolved: &Params,
    depth: Option<f64>,
) -> Result<Vec<Step>> {
    let step = |given: &PostSettings| {
        if group.base.is_none() {
            let name = given.post.name;
            let error = recipe.error(&given.at, format!("`{name}` needs a base model"));
            return Err(error.key(name).hint(
                "it changes what the merge adds to the base: name the base with `base_model:`",
            ));
        }
        let params = params::resolve_post(recipe, given, placement)?;
        Ok(Step { post: given.post, params, tasks: tasks(group, resolved), depth })
    };
    recipe.posts.iter().map(step).collect()
}

/// The inputs but the base whose weight is not 0.
fn tasks(group: &Group<'_>, resolved: &Params) -> Vec<usize> {
    let left_out = |i: usize| {
        let weight = resolved.inputs.get(i).and_then(|values| values.get("weight"));
        weight == Some(&Value::Number(0.0))
    };
    let others = (0..group.members.len()).filter(|i| group.base != Some(*i));
    others.filter(|i| !left_out(*i)).collect()
}

/// How many layers each stack of the output has.
pub(super) struct Depths<'a>(BTreeMap<&'a str, usize>);

impl<'a> Depths<'a> {
    pub(super) fn new(placements: &'a Placements<'_>) -> Self {
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for layer in placements.list.iter().filter_map(|placed| split_layer(&placed.output)) {
            let known = last.entry(layer.stack).or_default();
            *known = (*known).max(layer.layer);
        }
        Self(last)
    }

    /// Where a tensor's layer stands, from 0 to 1.
    pub(super) fn of(&self, name: &str) -> Option<f64> {
        let layer = split_layer(name)?;
        let last = *self.0.get(layer.stack)?;
        Some(if last > 0 { layer.layer as f64 / last as f64 } else { 0.0 })
    }
}

/// The method's demands on a group: a base, a number of models, no model twice.
pub(super) fn check_group(
    recipe: &Recipe,
    group: &Group<'_>,
    method: &'static Method,
    models: &[Checkpoint],
) -> Result<()> {
    let names = |without: Option<usize>| {
        let members = group.members.iter().enumerate().filter(|(i, _)| Some(*i) != without);
        list(members.map(|(_, member)| models[member.model].reference.as_str()))
    };
    let mut seen = BTreeSet::new();
    if let Some(twice) = group.members.iter().find(|member| !seen.insert(member.model)) {
        return Err(recipe
            .model_error(twice.at, "a model is merged with itself")
            .fact("model", &twice.at.value)
            .hint("list each model once; raise its weight instead"));
    }
    if method.base == Base::Required && group.base.is_none() {
        let error = recipe
            .error(&group.at, format!("the method `{}` needs a base model", method.name))
            .key("base_model");
        return Err(match &recipe.base_model {
            None => error.hint("name it with `base_model:`"),
            Some(_) => error
                .fact("models", names(None))
                .hint("with `slices`, the base model must be one of each slice's sources"),
        });
    }
    // An optional base is not one of the models.
    let apart = group.base.filter(|_| method.base == Base::Optional);
    let count = group.members.len() - usize::from(apart.is_some());
    if !method.inputs.allows(count) {
        let unlisted = group.members.iter().find(|member| member.parameters.is_none());
        let hint = match unlisted {
            Some(base) if apart.is_none() && method.inputs.is_below(count) => format!(
                "base_model joins the merged models: leave out `base_model: {}`, or the others",
                base.at.value
            ),
            _ if apart.is_none() => format!("list {}, or choose another method", method.inputs),
            _ => format!("list {} besides the base, or choose another method", method.inputs),
        };
        return Err(recipe
            .error(
                &group.at,
                format!("the method `{}` does not take this many models", method.name),
            )
            .key("merge_method")
            .hint(hint)
            .expected(
                match method.base {
                    Base::Optional => format!("{} besides the base", method.inputs),
                    _ => format!("{}, the base included", method.inputs),
                },
                format!("{count} ({})", names(apart)),
            ));
    }
    Ok(())
}

/// What a survey of whole models takes for a whole model is the same for all of the model's tensors.
pub(super) fn check_surveys(recipe: &Recipe, models: &[Checkpoint], jobs: &[Job]) -> Result<()> {
    let mut firsts: BTreeMap<(&str, &str, Option<usize>), &Value> = BTreeMap::new();
    for job in jobs {
        let Some(survey) = (job.method.survey)(&job.params) else { continue };
        for name in survey.whole {
            let shared = job.params.shared.get(name).map(|value| (None, value));
            let each = job.inputs.iter().zip(&job.params.inputs);
            let each =
                each.filter_map(|(input, values)| Some((Some(input.model), values.get(name)?)));
            for (model, value) in shared.into_iter().chain(each) {
                let first = *firsts.entry((job.method.name, name, model)).or_insert(value);
                if first == value {
                    continue;
                }
                let mut error = Error::input(format!(
                    "`{name}` has several values, but `{}` takes the model as a whole here",
                    job.method.name
                ))
                .file(&recipe.file)
                .key(*name);
                if let Some(model) = model {
                    error = error.fact("model", &models[model].reference);
                }
                return Err(error.tensor(&job.output.name).expected(first, value).hint(format!(
                    "with `variant: paper` give `{name}` one value, or leave the variant out"
                )));
            }
        }
    }
    Ok(())
}
