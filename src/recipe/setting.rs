//! What a parameter may be in a recipe: a scalar, a gradient over layers, or filtered values.

use crate::methods::Value;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A parameter's setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// The same for every tensor, or a gradient over the layers.
    Plain(Gradient),
    /// The value of the first filter that matches the tensor's name.
    Filtered(Vec<Filtered>),
}

/// Values spread evenly over the layers of a slice; one value is a scalar.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient(pub Vec<Value>);

/// A value for tensors whose name contains the filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filtered {
    /// Part of a tensor name; none and `*` match every name.
    pub filter: Option<String>,
    /// The value.
    pub value: Gradient,
}

impl Setting {
    /// The value for the tensor `name` at position `t` (0 to 1) of its slice; none where no filter
    /// matches. Filters match by substring, as in mergekit.
    pub fn value(&self, name: &str, t: f64) -> Option<Value> {
        match self {
            Self::Plain(gradient) => gradient.at(t),
            Self::Filtered(filtered) => filtered
                .iter()
                .find(|entry| matches(entry.filter.as_deref(), name))
                .and_then(|entry| entry.value.at(t)),
        }
    }

    /// Whether any of it changes over the layers.
    pub fn has_gradient(&self) -> bool {
        match self {
            Self::Plain(gradient) => gradient.0.len() > 1,
            Self::Filtered(filtered) => filtered.iter().any(|entry| entry.value.0.len() > 1),
        }
    }

    /// Every value that is written in the setting.
    pub fn values_mut(&mut self) -> Vec<&mut Value> {
        match self {
            Self::Plain(gradient) => gradient.0.iter_mut().collect(),
            Self::Filtered(filtered) => {
                filtered.iter_mut().flat_map(|entry| &mut entry.value.0).collect()
            }
        }
    }
}

/// Whether a filter matches a tensor's name.
pub(super) fn matches(filter: Option<&str>, name: &str) -> bool {
    filter.is_none_or(|part| part == "*" || name.contains(part))
}

impl Gradient {
    /// Numbers are interpolated linearly; other values are steps.
    fn at(&self, t: f64) -> Option<Value> {
        let last = self.0.len().checked_sub(1)?;
        let scaled = t * last as f64;
        let low = (scaled as usize).min(last);
        let high = (low + 1).min(last);
        let fraction = scaled - low as f64;
        match (&self.0[low], &self.0[high]) {
            (Value::Number(a), Value::Number(b)) => {
                Some(Value::Number((1.0 - fraction) * a + fraction * b))
            }
            (value, _) => Some(value.clone()),
        }
    }
}

/// What stands for a setting while it is read.
enum Part {
    Value(Value),
    List(Vec<Part>),
    Filtered(Filtered),
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(PartVisitor)? {
            Part::Value(value) => Ok(Self::Plain(Gradient(vec![value]))),
            Part::Filtered(filtered) => Ok(Self::Filtered(vec![filtered])),
            Part::List(parts) if parts.is_empty() => {
                Err(de::Error::custom("an empty list is no parameter value"))
            }
            Part::List(parts) if matches!(parts[0], Part::Filtered(_)) => {
                let filtered = parts.into_iter().map(|part| match part {
                    Part::Filtered(filtered) => Ok(filtered),
                    Part::Value(_) | Part::List(_) => {
                        Err(de::Error::custom("a list of {filter, value} holds something else too"))
                    }
                });
                filtered.collect::<Result<_, _>>().map(Self::Filtered)
            }
            Part::List(parts) => gradient(parts).map(Self::Plain),
        }
    }
}

fn gradient<E: de::Error>(parts: Vec<Part>) -> Result<Gradient, E> {
    let values = parts.into_iter().map(|part| match part {
        Part::Value(value) => Ok(value),
        Part::List(_) | Part::Filtered(_) => Err(E::custom("a gradient is a list of plain values")),
    });
    values.collect::<Result<_, _>>().map(Gradient)
}

struct PartVisitor;

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, true or false, a word, a list of them, or a list of {filter, value}")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Part, E> {
        Ok(Part::Value(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Part, E> {
        Ok(Part::Value(Value::Number(value as f64)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Part, E> {
        Ok(Part::Value(Value::Number(value as f64)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Part, E> {
        Ok(Part::Value(Value::Number(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Part, E> {
        Ok(Part::Value(Value::Text(value.to_string())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Part, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = seq.next_element()? {
            parts.push(part);
        }
        Ok(Part::List(parts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
        let mut filter: Option<Option<String>> = None;
        let mut value = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "filter" => filter = Some(map.next_value()?),
                "value" => {
                    let parts = match map.next_value()? {
                        Part::List(parts) if !parts.is_empty() => parts,
                        part => vec![part],
                    };
                    value = Some(gradient(parts)?);
                }
                _ => return Err(de::Error::unknown_field(&key, &["filter", "value"])),
            }
        }
        let value = value.ok_or_else(|| de::Error::missing_field("value"))?;
        Ok(Part::Filtered(Filtered { filter: filter.flatten(), value }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[f64]) -> Gradient {
        Gradient(values.iter().copied().map(Value::Number).collect())
    }

    #[test]
    fn gradients_interpolate() {
        let setting = Setting::Plain(numbers(&[0.0, 1.0, 0.5]));
        let at = |t| match setting.value("x", t) {
            Some(Value::Number(x)) => x,
            other => unreachable!("{other:?}"),
        };
        assert_eq!(at(0.0), 0.0);
        assert_eq!(at(0.25), 0.5);
        assert_eq!(at(0.5), 1.0);
        assert_eq!(at(1.0), 0.5);
    }

    #[test]
    fn filters_match_by_substring_and_fall_through() {
        let setting = Setting::Filtered(vec![
            Filtered { filter: Some("self_attn".into()), value: numbers(&[0.1]) },
            Filtered { filter: Some("mlp".into()), value: numbers(&[0.2]) },
        ]);
        let name = |part: &str| format!("model.layers.0.{part}.weight");
        assert_eq!(setting.value(&name("self_attn.q_proj"), 0.0), Some(Value::Number(0.1)));
        assert_eq!(setting.value(&name("mlp.up_proj"), 0.0), Some(Value::Number(0.2)));
        assert_eq!(setting.value("lm_head.weight", 0.0), None);
    }

    #[test]
    fn steps_take_the_value_below() {
        let words = Gradient(vec![Value::Bool(true), Value::Bool(false)]);
        assert_eq!(words.at(0.99), Some(Value::Bool(true)));
        assert_eq!(words.at(1.0), Some(Value::Bool(false)));
    }
}
