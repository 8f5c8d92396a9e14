//! `merge_method`: one method for every tensor, or a list of filters that choose one for each.

use super::sources::{At, Sources};
use super::{Located, Setting};
use crate::error::{Error, Result};
use crate::methods::{METHODS, Method, Param, Value};

/// Which method makes which tensor.
#[derive(Clone, Debug)]
pub struct Methods(Vec<Choice>);

/// A method, and the tensors that it is for.
#[derive(Clone, Debug)]
struct Choice {
    /// Part of a tensor name; none and `*` match every name.
    filter: Option<String>,
    method: &'static Method,
}

impl Methods {
    /// Of a recipe that merges nothing.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// The method of the tensor `name`: that of the first filter that matches, by substring, as for
    /// parameters. None where no filter does.
    pub fn of(&self, name: &str) -> Option<&'static Method> {
        let matches = |choice: &&Choice| super::setting::matches(choice.filter.as_deref(), name);
        self.0.iter().find(matches).map(|choice| choice.method)
    }

    /// The distinct methods, in the order of the recipe.
    pub fn all(&self) -> Vec<&'static Method> {
        let mut all: Vec<&'static Method> = Vec::new();
        for choice in &self.0 {
            if !all.iter().any(|known| known.name == choice.method.name) {
                all.push(choice.method);
            }
        }
        all
    }

    /// The names of the methods, for people.
    pub fn title(&self) -> String {
        match &self.0[..] {
            [] => "mixture of experts".to_string(),
            _ => self.all().iter().map(|method| method.name).collect::<Vec<_>>().join(", "),
        }
    }

    /// As the recipe has it: a name, or a list of `{filter, value}`.
    pub fn json(&self) -> serde_json::Value {
        match &self.0[..] {
            [] => serde_json::Value::Null,
            [Choice { filter: None, method }] => method.name.into(),
            choices => choices
                .iter()
                .map(|choice| match &choice.filter {
                    Some(filter) => {
                        serde_json::json!({"filter": filter, "value": choice.method.name})
                    }
                    None => serde_json::json!({"value": choice.method.name}),
                })
                .collect(),
        }
    }

    /// What the methods declare of the parameter `name`, each with its method.
    pub(super) fn params(&self, name: &str) -> Vec<(&'static Method, &'static Param)> {
        self.all().into_iter().filter_map(|method| Some((method, method.param(name)?))).collect()
    }
}

/// The methods that a setting names.
///
/// # Errors
/// A name is unknown or no text, or a gradient was written.
pub(super) fn methods(sources: &Sources, setting: At<Setting>) -> Result<(Methods, Located<()>)> {
    let setting = sources.locate(setting);
    let at = setting.map(());
    let choices = match setting.value {
        Setting::Plain(gradient) => vec![(None, gradient)],
        Setting::Filtered(entries) => {
            entries.into_iter().map(|entry| (entry.filter, entry.value)).collect()
        }
    };
    let mut found = Vec::new();
    for (filter, value) in choices {
        let [Value::Text(name)] = &value.0[..] else {
            return Err(at.error("a merge method is not a name").key("merge_method").hint(
                "write `merge_method: linear`, or a list of {filter: PART_OF_NAME, value: METHOD}",
            ));
        };
        let method = Method::named(name).ok_or_else(|| unknown(&at, name))?;
        found.push(Choice { filter, method });
    }
    Ok((Methods(found), at))
}

fn unknown(at: &Located<()>, name: &str) -> Error {
    let names = METHODS.iter().map(|method| method.name).collect::<Vec<_>>();
    let (message, hint) = Method::unknown(name);
    at.error(message)
        .key("merge_method")
        .fact("expected", format!("one of {}", names.join(", ")))
        .hint(hint)
}
