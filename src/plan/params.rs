//! Resolves a method's parameters for one tensor: model or slice source, then slice,
//! then module, then global.

use super::placements::{Group, Placement};
use crate::error::{Error, Result};
use crate::methods::{Default, Method, Param, Params, Scope, Value};
use crate::recipe::{Parameters, PostSettings, Recipe};

/// The parameters of `method` for a placement; `names` are the members' tensor names.
pub(super) fn resolve(
    recipe: &Recipe,
    method: &'static Method,
    group: &Group<'_>,
    placement: &Placement,
) -> Result<Params> {
    let mut params = Params::default();
    let shared: Vec<&Parameters> =
        group.parameters.iter().copied().chain([&recipe.parameters]).collect();
    for param in method.params.iter().filter(|param| param.scope == Scope::Shared) {
        let missing = || unset(recipe, method, group, param, placement);
        if let Some(value) = resolve_one(param, &shared, &placement.key, placement.t, missing)? {
            params.shared.insert(param.name, value);
        }
    }
    for (i, (member, name)) in group.members.iter().zip(&placement.names).enumerate() {
        let levels: Vec<&Parameters> =
            member.parameters.into_iter().chain(shared.iter().copied()).collect();
        let mut values = std::collections::BTreeMap::new();
        for param in method.params {
            if param.scope == Scope::Shared
                || (param.scope == Scope::NonBase && group.base == Some(i))
            {
                continue;
            }
            let missing = || {
                let key = recipe.key_of(member.at);
                let key = key.strip_suffix(".model").map_or(String::new(), |key| format!("{key}."));
                let error = recipe
                    .error(
                        member.at,
                        format!("the parameter `{}` is not set for a model", param.name),
                    )
                    .key(format!("{key}parameters.{}", param.name))
                    .fact("model", &member.at.value)
                    .tensor(name);
                if member.parameters.is_none() {
                    return error.hint(format!(
                        "base_model joins the merged models; list it under `models` with its own `{}`, or set a global one",
                        param.name
                    ));
                }
                error.hint(format!(
                    "set `{}` under the model's `parameters`, or globally",
                    param.name
                ))
            };
            if let Some(value) = resolve_one(param, &levels, name, placement.t, missing)? {
                values.insert(param.name, value);
            }
        }
        params.inputs.push(values);
    }
    Ok(params)
}

/// The parameters of a post-step for a placement.
pub(super) fn resolve_post(
    recipe: &Recipe,
    given: &PostSettings,
    placement: &Placement,
) -> Result<Params> {
    let (post, mut params) = (given.post, Params::default());
    for param in post.params {
        let missing = || {
            let name = param.name;
            recipe
                .error(&given.at, format!("`{}` needs its `{name}`", post.name))
                .key(format!("{}.{name}", post.name))
                .tensor(&placement.output)
                .fact("expected", param.expectation())
                .hint(format!("write `{}: {{{name}: …}}`", post.name))
        };
        let levels = [&given.parameters];
        if let Some(value) = resolve_one(param, &levels, &placement.key, placement.t, missing)? {
            params.shared.insert(param.name, value);
        }
    }
    Ok(params)
}

fn unset(
    recipe: &Recipe,
    method: &Method,
    group: &Group<'_>,
    param: &Param,
    placement: &Placement,
) -> Error {
    let method = method.name;
    recipe
        .error(&group.at, format!("the parameter `{}` of `{method}` is not set", param.name))
        .key(format!("parameters.{}", param.name))
        .tensor(&placement.output)
        .fact("expected", param.expectation())
        .hint(format!("set `{}` under `parameters` of the recipe or the slice", param.name))
}

fn resolve_one(
    param: &Param,
    levels: &[&Parameters],
    name: &str,
    t: f64,
    missing: impl FnOnce() -> Error,
) -> Result<Option<Value>> {
    let mut settings = levels.iter().filter_map(|level| level.get(param.name));
    if let Some(value) = settings.find_map(|setting| setting.value(name, t)) {
        return Ok(Some(param.nearest_end(&value).map_or(value, Value::Number)));
    }
    match param.default {
        Default::Required => Err(missing()),
        _ => Ok(param.default_value()),
    }
}
