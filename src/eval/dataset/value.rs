//! Values of a dataset's columns, and how Python would write them.
//!
//! Task files are written for a program in Python, whose templates print values as `str()` does and
//! read lists back with `ast.literal_eval`. Both stand here.

use serde_json::Number;
use std::fmt::Write;

/// A value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Missing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A text.
    Text(String),
    /// Several values.
    List(Vec<Value>),
    /// Named values, in the order of the file.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// From JSON. Whole numbers beyond 64 bits become floats.
    pub fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => Self::from_number(number),
            serde_json::Value::String(text) => Self::Text(text.clone()),
            serde_json::Value::Array(items) => {
                Self::List(items.iter().map(Self::from_json).collect())
            }
            serde_json::Value::Object(map) => Self::Map(
                map.iter().map(|(name, value)| (name.clone(), Self::from_json(value))).collect(),
            ),
        }
    }

    fn from_number(number: &Number) -> Self {
        match number.as_i64() {
            Some(int) => Self::Int(int),
            None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
        }
    }

    /// To JSON; a number that is not finite becomes null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Float(value) => {
                Number::from_f64(*value).map_or(serde_json::Value::Null, Into::into)
            }
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(map) => serde_json::Value::Object(
                map.iter().map(|(name, value)| (name.clone(), value.to_json())).collect(),
            ),
        }
    }

    /// To a template's value.
    pub(crate) fn to_template(&self) -> minijinja::Value {
        match self {
            Self::Null => minijinja::Value::from(()),
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => {
                minijinja::Value::from(items.iter().map(Self::to_template).collect::<Vec<_>>())
            }
            Self::Map(map) => minijinja::Value::from_pairs(
                map.iter().map(|(name, value)| (name.as_str(), value.to_template())),
            ),
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What Python's `str()` makes of it.
    pub fn display(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => other.repr(),
        }
    }

    /// What Python's `repr()` makes of it.
    pub fn repr(&self) -> String {
        let mut out = String::new();
        self.write_repr(&mut out);
        out
    }

    fn write_repr(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("None"),
            Self::Bool(true) => out.push_str("True"),
            Self::Bool(false) => out.push_str("False"),
            Self::Int(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Float(value) => out.push_str(&float_repr(*value)),
            Self::Text(text) => text_repr(text, out),
            Self::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    item.write_repr(out);
                }
                out.push(']');
            }
            Self::Map(map) => {
                out.push('{');
                for (i, (name, value)) in map.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    text_repr(name, out);
                    out.push_str(": ");
                    value.write_repr(out);
                }
                out.push('}');
            }
        }
    }
}

/// A float as Python writes it: the shortest digits that read back the same, with an exponent below
/// 1e-4 and from 1e16 on.
fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// A text in quotes: single ones unless it holds such and no double ones.
fn text_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if u32::from(c) < 0x20 || (0x7f..0xa1).contains(&u32::from(c)) || c == '\u{ad}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            // The blanks and separators that Python does not count as printable.
            '\u{1680}'
            | '\u{2000}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}'
            | '\u{3000}'
            | '\u{feff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right side is what Python 3.11 prints.
    #[test]
    fn values_print_as_in_python() {
        for (value, python) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001234, "1.234e-05"),
            (-0.0, "-0.0"),
            (1e-300, "1e-300"),
        ] {
            assert_eq!(Value::Float(value).repr(), python);
        }
        let text = |text: &str| Value::Text(text.to_string()).repr();
        assert_eq!(text("it's"), r#""it's""#);
        assert_eq!(text(r#"it's "so""#), r#"'it\'s "so"'"#);
        assert_eq!(text("a\\b\n\u{a0}\u{7f}é\u{2028}"), r"'a\\b\n\xa0\x7fé\u2028'");
        let list = Value::List(vec![Value::Null, Value::Bool(true), Value::Int(-3)]);
        let map = Value::Map(vec![("a".into(), list), ("b".into(), Value::Text("x".into()))]);
        assert_eq!(map.repr(), "{'a': [None, True, -3], 'b': 'x'}");
        assert_eq!(Value::Text("x".into()).display(), "x");
    }

    #[test]
    fn json_there_and_back() {
        let json: serde_json::Value =
            serde_json::from_str(r#"{"a": [1, 2.5, null, true], "b": {"c": "d"}}"#).unwrap();
        assert_eq!(Value::from_json(&json).to_json(), json);
    }
}
