//! Parameters of merge methods: what a method declares, and the values resolved for one tensor.

use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;

/// A parameter that a method declares.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name in recipes.
    pub name: &'static str,
    /// Its type and range.
    pub kind: ParamKind,
    /// What it belongs to.
    pub scope: Scope,
    /// What holds where the recipe is silent.
    pub default: Default,
    /// Whether a number beyond the range counts as the range's nearest end, with a warning, as mergekit's
    /// formulas have it; otherwise it is refused.
    pub clamped: bool,
    /// One line on its meaning.
    pub doc: &'static str,
}

/// Type and range of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamKind {
    /// True or false.
    Bool,
    /// A finite number within the range, both ends included.
    Number {
        /// The least value.
        min: f64,
        /// The greatest value.
        max: f64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// What a parameter's value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One value for the tensor.
    Shared,
    /// One value for each model, the base included.
    Input,
    /// One value for each model but the base.
    NonBase,
}

/// What holds where a recipe does not set a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// The recipe must set it.
    Required,
    /// It has no value.
    Absent,
    /// This truth value.
    Bool(bool),
    /// This number.
    Number(f64),
    /// This word.
    Choice(&'static str),
}

/// Any finite number.
pub(crate) const ANY: ParamKind = ParamKind::Number { min: f64::MIN, max: f64::MAX };
/// A number from 0 to 1.
pub(crate) const FRACTION: ParamKind = ParamKind::Number { min: 0.0, max: 1.0 };

impl Param {
    /// A parameter with one value for the tensor; required unless a default is given.
    pub(crate) const fn shared(name: &'static str, kind: ParamKind, doc: &'static str) -> Self {
        Self { name, kind, scope: Scope::Shared, default: Default::Required, clamped: false, doc }
    }

    /// A parameter with a value for each model.
    pub(crate) const fn input(name: &'static str, kind: ParamKind, doc: &'static str) -> Self {
        Self { name, kind, scope: Scope::Input, default: Default::Required, clamped: false, doc }
    }

    /// A parameter with a value for each model but the base.
    pub(crate) const fn non_base(name: &'static str, kind: ParamKind, doc: &'static str) -> Self {
        Self { name, kind, scope: Scope::NonBase, default: Default::Required, clamped: false, doc }
    }

    /// The same with a default.
    pub(crate) const fn or(self, default: Default) -> Self {
        Self { default, ..self }
    }

    /// The same, where numbers beyond the range count as its nearest end.
    pub(crate) const fn clamped(self) -> Self {
        Self { clamped: true, ..self }
    }

    /// The number that a value beyond the range counts as, where there is one.
    pub fn nearest_end(&self, value: &Value) -> Option<f64> {
        match (self.kind, value) {
            (ParamKind::Number { min, max }, Value::Number(x)) if self.clamped && x.is_finite() => {
                Some(x.clamp(min, max)).filter(|end| end != x)
            }
            _ => None,
        }
    }

    /// Whether `value` has the right type and lies in the range; otherwise what was expected.
    pub fn admits(&self, value: &Value) -> std::result::Result<(), String> {
        let fits = match (self.kind, value) {
            (ParamKind::Bool, Value::Bool(_)) => true,
            (ParamKind::Number { min, max }, Value::Number(x)) => {
                x.is_finite() && (min..=max).contains(x)
            }
            (ParamKind::Choice(words), Value::Text(word)) => words.contains(&word.as_str()),
            _ => false,
        };
        if fits || self.nearest_end(value).is_some() { Ok(()) } else { Err(self.expectation()) }
    }

    /// The type and range in words.
    pub fn expectation(&self) -> String {
        match self.kind {
            ParamKind::Bool => "true or false".to_string(),
            ParamKind::Number { min, max } if min == f64::MIN && max == f64::MAX => {
                "a finite number".to_string()
            }
            ParamKind::Number { min, max: f64::MAX } => format!("a number, {min} or more"),
            ParamKind::Number { min, max } => format!("a number from {min} to {max}"),
            ParamKind::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }

    /// The default in words.
    pub fn default_text(&self) -> String {
        match self.default {
            Default::Required => "required".to_string(),
            Default::Absent => "none".to_string(),
            Default::Bool(value) => value.to_string(),
            Default::Number(value) => value.to_string(),
            Default::Choice(word) => word.to_string(),
        }
    }

    /// The default as a value, where there is one.
    pub fn default_value(&self) -> Option<Value> {
        match self.default {
            Default::Required | Default::Absent => None,
            Default::Bool(value) => Some(Value::Bool(value)),
            Default::Number(value) => Some(Value::Number(value)),
            Default::Choice(word) => Some(Value::Text(word.to_string())),
        }
    }
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(value) => write!(f, "`{value}`"),
        }
    }
}

/// The values resolved for one tensor.
#[derive(Clone, Debug, PartialEq, std::default::Default, Serialize)]
pub struct Params {
    /// Values of the shared parameters.
    pub shared: BTreeMap<&'static str, Value>,
    /// Values of the per-model parameters, one map for each input in input order.
    pub inputs: Vec<BTreeMap<&'static str, Value>>,
}

impl Params {
    /// A shared number.
    pub fn number(&self, name: &str) -> Result<f64> {
        match self.shared.get(name) {
            Some(Value::Number(value)) => Ok(*value),
            _ => Err(missing(name)),
        }
    }

    /// A shared truth value.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.shared.get(name) {
            Some(Value::Bool(value)) => Ok(*value),
            _ => Err(missing(name)),
        }
    }

    /// Whether a shared choice is `word`.
    pub fn chose(&self, name: &str, word: &str) -> bool {
        matches!(self.shared.get(name), Some(Value::Text(value)) if value == word)
    }

    /// The numbers of a per-model parameter, in input order, of those inputs that have it.
    pub fn each(&self, name: &str) -> Vec<f64> {
        let values = self.inputs.iter().filter_map(|input| input.get(name));
        values
            .filter_map(|value| match value {
                Value::Number(value) => Some(*value),
                Value::Bool(_) | Value::Text(_) => None,
            })
            .collect()
    }
}

fn missing(name: &str) -> Error {
    Error::internal("a method asked for a parameter that the plan did not resolve").key(name)
}
