//! `parameters` blocks and those of post-steps: names, types and ranges against the tables.

use super::raw::RawParameters;
use super::setting::Setting;
use super::sources::At;
use super::validate::{Context, Level};
use super::{Located, Parameters, PostSettings};
use crate::error::{Error, Result, nearest};
use crate::methods::{METHODS, Param, ParamKind, Post, Scope, Value};

impl Context<'_> {
    /// Checks names, types and ranges of a `parameters` block.
    pub(super) fn parameters(
        &mut self,
        path: &str,
        raw: RawParameters,
        level: Level,
    ) -> Result<Parameters> {
        let mut checked = Vec::new();
        for (name, mut setting) in raw.0 {
            let name = self.sources.locate(name);
            let key = format!("{path}.{}", name.value);
            let params: Vec<&Param> =
                self.methods.params(&name.value).into_iter().map(|(_, param)| param).collect();
            if params.is_empty() {
                self.not_a_parameter(&name, &key)?;
                continue;
            }
            // Each method that has the parameter must admit it.
            for param in &params {
                admit(param, &name, &key, &mut setting)?;
            }
            let ends = |value: &&mut Value| params.iter().find_map(|p| p.nearest_end(value));
            if let Some(beyond) =
                setting.values_mut().into_iter().find(|value| ends(value).is_some())
            {
                let end = Value::Number(ends(&beyond).unwrap_or_default());
                self.warnings.push(format!(
                    "{key} ({}) is {beyond}, which counts as {end}: the nearest that means something",
                    self.line(&name)
                ));
            }
            let shared = params.iter().all(|param| param.scope == Scope::Shared);
            if shared && level == Level::Model {
                self.warnings.push(format!(
                    "{key} ({}) has no effect: `{}` belongs to the whole tensor; set it under the slice or at the top",
                    self.line(&name), name.value
                ));
            }
            checked.push((name, setting));
        }
        Ok(Parameters(checked))
    }

    /// A parameter of another method is a warning, since mergekit's users leave such behind when
    /// they change the method; one of no method is an error.
    fn not_a_parameter(&mut self, name: &Located<String>, key: &str) -> Result<()> {
        let title = self.methods.title();
        if METHODS.iter().any(|other| other.param(&name.value).is_some()) {
            let line = self.line(name);
            self.warnings
                .push(format!("{key} ({line}) has no effect: `{title}` has no such parameter"));
            return Ok(());
        }
        let methods = self.methods.all();
        let names = methods.iter().flat_map(|method| method.params).map(|param| param.name);
        let hint = match &methods[..] {
            [method] => format!("`cognate methods {}` lists its parameters", method.name),
            _ => "`cognate methods` lists the parameters of each".to_string(),
        };
        Err(unknown(name, key, &format!("the method `{title}`"), names.collect(), hint))
    }

    /// The post-steps that are given, in the order of their table.
    pub(super) fn posts<const N: usize>(
        &mut self,
        given: [(&'static str, Option<At<RawParameters>>); N],
    ) -> Result<Vec<PostSettings>> {
        let mut found = Vec::new();
        for (key, raw) in given {
            let (Some(raw), Some(post)) = (raw, Post::named(key)) else { continue };
            let raw = self.sources.locate(raw);
            let at = raw.map(());
            let parameters = self.post(post, raw.value)?;
            found.push(PostSettings { post, at, parameters });
        }
        Ok(found)
    }

    fn post(&self, post: &'static Post, raw: RawParameters) -> Result<Parameters> {
        let mut checked = Vec::new();
        for (name, mut setting) in raw.0 {
            let name = self.sources.locate(name);
            let key = format!("{}.{}", post.name, name.value);
            let Some(param) = post.params.iter().find(|param| param.name == name.value) else {
                let names = post.params.iter().map(|param| param.name).collect();
                let hint = format!("`cognate methods {}` lists its parameters", post.name);
                return Err(unknown(&name, &key, &format!("`{}`", post.name), names, hint));
            };
            admit(param, &name, &key, &mut setting)?;
            checked.push((name, setting));
        }
        Ok(Parameters(checked))
    }
}

fn unknown(
    name: &Located<String>,
    key: &str,
    owner: &str,
    names: Vec<&str>,
    hint: String,
) -> Error {
    let unknown = name
        .error(format!("unknown parameter `{}` of {owner}", name.value))
        .key(key)
        .fact("expected", format!("one of {}", names.join(", ")));
    match nearest(&name.value, names) {
        Some(near) => unknown.hint(format!("did you mean `{near}`?")),
        None => unknown.hint(hint),
    }
}

/// Reads the values of a setting as the parameter's type and checks their range.
fn admit(param: &Param, name: &Located<String>, key: &str, setting: &mut Setting) -> Result<()> {
    for value in setting.values_mut() {
        coerce(param, value);
        param.admits(value).map_err(|expected| {
            name.error(format!(
                "the parameter `{}` is out of range or of the wrong type",
                name.value
            ))
            .key(key)
            .expected(expected, &*value)
            .hint(instead(param, value))
        })?;
    }
    Ok(())
}

/// What to write in place of a value that a parameter does not admit.
fn instead(param: &Param, value: &Value) -> String {
    let written = match (param.kind, value) {
        (ParamKind::Number { min, max }, Value::Number(x)) if x.is_finite() => {
            Value::Number(x.clamp(min, max))
        }
        (ParamKind::Number { min, max }, _) => Value::Number(0.5_f64.clamp(min, max)),
        (ParamKind::Bool, _) => Value::Bool(true),
        (ParamKind::Choice(words), Value::Text(word)) => match nearest(word, words.iter().copied())
        {
            Some(near) => return format!("did you mean `{near}`?"),
            None => Value::Text(words.join("` or `")),
        },
        (ParamKind::Choice(words), _) => Value::Text(words.join("` or `")),
    };
    match written {
        Value::Text(words) => format!("write `{words}`"),
        plain => format!("write `{}: {plain}`, say", param.name),
    }
}

/// Reads a value as the parameter's type where the spelling allows it, as mergekit does: a number
/// in quotes, 0 and 1 for false and true.
fn coerce(param: &Param, value: &mut Value) {
    let read = match (param.kind, &*value) {
        (ParamKind::Number { .. }, Value::Text(text)) => {
            text.trim().parse().ok().map(Value::Number)
        }
        (ParamKind::Bool, Value::Number(0.0)) => Some(Value::Bool(false)),
        (ParamKind::Bool, Value::Number(1.0)) => Some(Value::Bool(true)),
        (ParamKind::Bool, Value::Text(text)) => match text.to_lowercase().as_str() {
            "true" | "yes" | "on" => Some(Value::Bool(true)),
            "false" | "no" | "off" => Some(Value::Bool(false)),
            _ => None,
        },
        _ => None,
    };
    if let Some(read) = read {
        *value = read;
    }
}
