//! Overrides: `KEY=VALUE` from the command line or the environment, in place of what a recipe says.
//!
//! A key is a path like those of messages: `dtype`, `parameters.weight`,
//! `models[1].parameters.density`, `stages[NAME].base_model`. The value is YAML: a number, a list, a
//! list of `{filter, value}`. The recipe's text stays as it is; overrides are recorded beside it.

use super::raw::{RawParameters, RawRecipe, RawSlice};
use super::setting::Setting;
use super::sources::At;
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;

/// One step of a key's path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step<'a> {
    Key(&'a str),
    At(&'a str),
}

/// Applies an override to the stages of a file.
///
/// # Errors
/// The override is no `KEY=VALUE`, the key leads nowhere, the value is not what stands there.
pub(super) fn apply(stages: &mut [At<RawRecipe>], text: &str) -> Result<()> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(Error::input("an override is not KEY=VALUE")
            .key("--set")
            .fact("found", text)
            .hint("write --set parameters.weight=0.5"));
    };
    let (key, value) = (key.trim(), value.trim());
    let target = Target { key, value };
    let path = steps(key).ok_or_else(|| target.leads_nowhere())?;
    match &path[..] {
        [Step::Key("stages"), Step::At(stage), rest @ ..] => {
            let named = |raw: &At<RawRecipe>| {
                raw.value.name.as_ref().is_some_and(|name| name.value == *stage)
            };
            let by_name = stages.iter().position(named);
            let at = by_name.or_else(|| stage.parse().ok()).filter(|at| *at < stages.len());
            let at = at.ok_or_else(|| target.leads_nowhere())?;
            target.recipe(&mut stages[at].value, rest)
        }
        path if stages.len() == 1 => target.recipe(&mut stages[0].value, path),
        _ => Err(target
            .leads_nowhere()
            .hint("the recipe has several stages: begin the key with stages[NAME] or stages[0]")),
    }
}

/// Splits `a.b[1].c` into its steps.
fn steps(key: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for part in key.split('.') {
        let (name, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
        if name.is_empty() {
            return None;
        }
        steps.push(Step::Key(name));
        while !rest.is_empty() {
            let (index, behind) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(Step::At(index));
            rest = behind;
        }
    }
    Some(steps)
}

/// An override on its way.
struct Target<'a> {
    key: &'a str,
    value: &'a str,
}

impl Target<'_> {
    fn leads_nowhere(&self) -> Error {
        Error::input("an override's key leads nowhere in the recipe")
            .key("--set")
            .fact("found", self.key)
    }

    /// The value as what stands at the key.
    fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_yaml::from_str(self.value).map_err(|e| {
            let reason = e.without_snippet().to_string();
            let reason = reason.lines().next().unwrap_or_default().to_string();
            Error::input("an override's value is not what its key takes")
                .key("--set")
                .fact("found", format!("{}={}", self.key, self.value))
                .fact("reason", reason.split(" at line ").next().unwrap_or_default())
        })
    }

    fn word(&self) -> At<String> {
        At::nowhere(self.value.to_string())
    }

    fn recipe(&self, raw: &mut RawRecipe, path: &[Step<'_>]) -> Result<()> {
        match path {
            [Step::Key("merge_method")] => raw.merge_method = Some(At::nowhere(self.read()?)),
            [Step::Key("base_model")] => raw.base_model = Some(self.word()),
            [Step::Key("dtype")] => raw.dtype = Some(self.word()),
            [Step::Key("out_dtype")] => raw.out_dtype = Some(self.word()),
            [Step::Key("tokenizer_source")] => raw.tokenizer_source = Some(self.word()),
            [Step::Key("chat_template")] => raw.chat_template = Some(self.word()),
            [Step::Key("save")] => raw.save = Some(self.word()),
            [Step::Key("gate_mode")] => raw.gate_mode = Some(self.word()),
            [Step::Key("architecture")] => raw.architecture = Some(self.word()),
            [Step::Key("attention")] => raw.attention = Some(self.word()),
            [Step::Key("mixture")] => raw.mixture = Some(self.word()),
            [Step::Key("gate_scale")] => raw.gate_scale = Some(At::nowhere(self.read()?)),
            [Step::Key("gate_ridge")] => raw.gate_ridge = Some(At::nowhere(self.read()?)),
            [Step::Key("renormalise")] => raw.renormalise = Some(At::nowhere(self.read()?)),
            [Step::Key("align_experts")] => raw.align_experts = Some(At::nowhere(self.read()?)),
            [Step::Key("experts_per_token")] => {
                raw.experts_per_token = Some(At::nowhere(self.read()?));
            }
            [Step::Key("extract")] => raw.extract = Some(At::nowhere(self.read()?)),
            [Step::Key("drop")] => raw.drop = Some(At::nowhere(self.read()?)),
            [Step::Key("random_seed")] => raw.random_seed = Some(At::nowhere(self.read()?)),
            [Step::Key("evaluate"), Step::Key("limit")] if raw.evaluate.is_some() => {
                if let Some(evaluate) = &mut raw.evaluate {
                    evaluate.value.limit = Some(At::nowhere(self.read()?));
                }
            }
            [Step::Key("evaluate")] => raw.evaluate = Some(At::nowhere(self.read()?)),
            [Step::Key("parameters"), Step::Key(name)] => {
                self.parameter(&mut raw.parameters, name)?;
            }
            [Step::Key(post @ ("subspace_boosting" | "svc" | "lines")), Step::Key(name)] => {
                let raw = match *post {
                    "subspace_boosting" => &mut raw.subspace_boosting,
                    "svc" => &mut raw.svc,
                    _ => &mut raw.lines,
                };
                let post = raw.get_or_insert_with(|| At::nowhere(RawParameters::default()));
                self.parameter(&mut post.value, name)?;
            }
            [Step::Key("models"), Step::At(at), rest @ ..] => {
                let models = raw.models.as_mut().map(|models| &mut models.value);
                let model = models.and_then(|models| models.get_mut(at.parse::<usize>().ok()?));
                let model = model.ok_or_else(|| self.leads_nowhere())?;
                self.input(&mut model.model, &mut model.parameters, rest)?;
            }
            [Step::Key("slices"), Step::At(at), rest @ ..] => {
                let slices = raw.slices.as_mut().map(|slices| &mut slices.value);
                let slice = slices.and_then(|slices| slices.get_mut(at.parse::<usize>().ok()?));
                self.slice(slice.ok_or_else(|| self.leads_nowhere())?, rest)?;
            }
            _ => return Err(self.leads_nowhere()),
        }
        Ok(())
    }

    fn slice(&self, slice: &mut RawSlice, path: &[Step<'_>]) -> Result<()> {
        match path {
            [Step::Key("base_model")] => slice.base_model = Some(self.word()),
            [Step::Key("parameters"), Step::Key(name)] => {
                self.parameter(&mut slice.parameters, name)?;
            }
            [Step::Key("sources"), Step::At(at), rest @ ..] => {
                let sources = &mut slice.sources.value;
                let source = at.parse::<usize>().ok().and_then(|at| sources.get_mut(at));
                let source = source.ok_or_else(|| self.leads_nowhere())?;
                if let [Step::Key("layer_range")] = rest {
                    source.layer_range = At::nowhere(self.read()?);
                    return Ok(());
                }
                self.input(&mut source.model, &mut source.parameters, rest)?;
            }
            _ => return Err(self.leads_nowhere()),
        }
        Ok(())
    }

    /// A model with its parameters: an entry of `models` or of `sources`.
    fn input(
        &self,
        model: &mut At<String>,
        parameters: &mut RawParameters,
        path: &[Step<'_>],
    ) -> Result<()> {
        match path {
            [Step::Key("model")] => {
                *model = self.word();
                Ok(())
            }
            [Step::Key("parameters"), Step::Key(name)] => self.parameter(parameters, name),
            _ => Err(self.leads_nowhere()),
        }
    }

    fn parameter(&self, parameters: &mut RawParameters, name: &str) -> Result<()> {
        let setting: Setting = self.read()?;
        match parameters.0.iter_mut().find(|(known, _)| known.value == name) {
            Some((_, known)) => *known = setting,
            None => parameters.0.push((At::nowhere(name.to_string()), setting)),
        }
        Ok(())
    }
}
