//! The small language in which a family's description takes values from a config.
//!
//! ```text
//! num_key_value_heads | num_attention_heads      the first that is there (not absent, not null)
//! $hidden / $heads                               a value the description defined
//! layer_types[$layer] == 'sliding_attention'     keys are paths: rope_parameters.rope_theta
//! multi_query ? 1 : $heads                       also: or and not < <= > >= == != in + - * / % ^
//! sqrt(hidden_size)
//! ```
//!
//! A key that the config does not have is absent, and so is whatever is computed from it.

use crate::error::{Error, Result};
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};

/// A value of a config, or computed from some.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// The config does not say, or says null.
    Absent,
    /// True or false.
    Flag(bool),
    /// Any number.
    Number(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object.
    Object(Map<String, Json>),
}

impl Value {
    pub(crate) fn of(json: Option<&Json>) -> Self {
        match json {
            None | Some(Json::Null) => Self::Absent,
            Some(Json::Bool(flag)) => Self::Flag(*flag),
            Some(Json::Number(number)) => {
                // Numbers are kept as they were written.
                number.to_string().parse().map_or(Self::Absent, Self::Number)
            }
            Some(Json::String(text)) => Self::Text(text.clone()),
            Some(Json::Array(list)) => Self::List(list.clone()),
            Some(Json::Object(map)) => Self::Object(map.clone()),
        }
    }
}

/// What an expression is evaluated in.
pub(crate) struct Scope<'a> {
    /// The config.
    pub(crate) config: &'a Map<String, Json>,
    /// What the description defined, without the dollar sign.
    pub(crate) defined: BTreeMap<String, Value>,
}

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expression {
    Constant(Value),
    Config(Vec<String>),
    Defined(String),
    Index(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Negative(Box<Expression>),
    Root(Box<Expression>),
    Binary(&'static str, Box<Expression>, Box<Expression>),
    Choice(Box<Expression>, Box<Expression>, Box<Expression>),
}

/// Binary operators by how loosely they bind.
const LEVELS: [&[&str]; 7] = [
    &["|"],
    &["or"],
    &["and"],
    &["==", "!=", "<=", ">=", "<", ">", "in"],
    &["+", "-"],
    &["*", "/", "%"],
    &["^"],
];

impl Expression {
    /// Parses an expression of a description.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let parsed = parser.choice();
        match parsed {
            Some(parsed) if parser.at == parser.tokens.len() => Ok(parsed),
            _ => Err(Error::internal("an expression of an architecture cannot be read")
                .fact("text", text)),
        }
    }

    /// The keys of the config's top level that it looks at.
    pub(crate) fn keys(&self, found: &mut BTreeSet<String>) {
        match self {
            Self::Constant(_) | Self::Defined(_) => {}
            Self::Config(path) => found.extend(path.first().cloned()),
            Self::Not(a) | Self::Negative(a) | Self::Root(a) => a.keys(found),
            Self::Index(a, b) | Self::Binary(_, a, b) => {
                a.keys(found);
                b.keys(found);
            }
            Self::Choice(a, b, c) => [a, b, c].into_iter().for_each(|e| e.keys(found)),
        }
    }

    /// Its value.
    pub(crate) fn value(&self, scope: &Scope<'_>) -> Value {
        match self {
            Self::Constant(value) => value.clone(),
            Self::Config(path) => {
                let mut keys = path.iter();
                let first = keys.next().and_then(|key| scope.config.get(key));
                Value::of(keys.fold(first, |found, key| found?.get(key)))
            }
            Self::Defined(name) => scope.defined.get(name).cloned().unwrap_or(Value::Absent),
            Self::Index(list, index) => match (list.value(scope), index.value(scope)) {
                (Value::List(list), Value::Number(index)) => Value::of(list.get(index as usize)),
                (Value::Object(map), Value::Text(key)) => Value::of(map.get(&key)),
                _ => Value::Absent,
            },
            Self::Not(a) => match a.value(scope) {
                Value::Flag(flag) => Value::Flag(!flag),
                _ => Value::Absent,
            },
            Self::Negative(a) => number(a.value(scope), |x| -x),
            Self::Root(a) => number(a.value(scope), f64::sqrt),
            Self::Choice(condition, yes, no) => match condition.value(scope) {
                Value::Flag(true) => yes.value(scope),
                Value::Flag(false) => no.value(scope),
                _ => Value::Absent,
            },
            Self::Binary("|", a, b) => match a.value(scope) {
                Value::Absent => b.value(scope),
                value => value,
            },
            Self::Binary(operator, a, b) => binary(operator, a.value(scope), b.value(scope)),
        }
    }
}

fn number(value: Value, f: impl Fn(f64) -> f64) -> Value {
    match value {
        Value::Number(x) => Value::Number(f(x)),
        _ => Value::Absent,
    }
}

fn binary(operator: &str, a: Value, b: Value) -> Value {
    match (operator, &a, &b) {
        (_, Value::Absent, _) | (_, _, Value::Absent) => Value::Absent,
        ("==", ..) => Value::Flag(a == b),
        ("!=", ..) => Value::Flag(a != b),
        ("in", _, Value::List(list)) => {
            Value::Flag(list.iter().any(|entry| Value::of(Some(entry)) == a))
        }
        ("and", Value::Flag(a), Value::Flag(b)) => Value::Flag(*a && *b),
        ("or", Value::Flag(a), Value::Flag(b)) => Value::Flag(*a || *b),
        (_, Value::Number(a), Value::Number(b)) => match operator {
            "+" => Value::Number(a + b),
            "-" => Value::Number(a - b),
            "*" => Value::Number(a * b),
            "/" => Value::Number(a / b),
            "%" => Value::Number(a % b),
            "^" => Value::Number(a.powf(*b)),
            "<" => Value::Flag(a < b),
            "<=" => Value::Flag(a <= b),
            ">" => Value::Flag(a > b),
            ">=" => Value::Flag(a >= b),
            _ => Value::Absent,
        },
        _ => Value::Absent,
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(f64),
    Text(String),
    Word(String),
    Sign(&'static str),
}

/// Signs, longer ones first.
const SIGNS: [&str; 20] = [
    "==", "!=", "<=", ">=", "<", ">", "|", "+", "-", "*", "/", "%", "^", "(", ")", "[", "]", "?",
    ":", "$",
];

fn tokens(text: &str) -> Result<Vec<Token>> {
    let unread = || Error::internal("an expression of an architecture cannot be read");
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let length = if first == '\'' {
            let (inside, _) =
                rest[1..].split_once('\'').ok_or_else(|| unread().fact("text", text))?;
            tokens.push(Token::Text(inside.to_string()));
            inside.len() + 2
        } else if first.is_ascii_digit() {
            let mut length = rest.find(|c: char| !word(c)).unwrap_or(rest.len());
            // The exponent's sign.
            if rest[..length].ends_with('e') && rest[length..].starts_with('-') {
                let behind = &rest[length + 1..];
                length += 1 + behind.find(|c: char| !word(c)).unwrap_or(behind.len());
            }
            let number = rest[..length].parse().map_err(|_| unread().fact("text", text))?;
            tokens.push(Token::Number(number));
            length
        } else if word(first) {
            let length = rest.find(|c: char| !word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..length].to_string()));
            length
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| unread().fact("text", text))?;
            tokens.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    /// Takes the next token if it is this sign or word.
    fn takes(&mut self, sign: &str) -> bool {
        let found = match self.tokens.get(self.at) {
            Some(Token::Sign(found)) => *found == sign,
            Some(Token::Word(found)) => found == sign,
            _ => false,
        };
        self.at += usize::from(found);
        found
    }

    fn choice(&mut self) -> Option<Expression> {
        let condition = self.binary(0)?;
        if !self.takes("?") {
            return Some(condition);
        }
        let yes = self.choice()?;
        let no = if self.takes(":") { self.choice()? } else { return None };
        Some(Expression::Choice(Box::new(condition), Box::new(yes), Box::new(no)))
    }

    fn binary(&mut self, level: usize) -> Option<Expression> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = operators.iter().find(|operator| self.takes(operator)) {
            let right = self.binary(level + 1)?;
            left = Expression::Binary(operator, Box::new(left), Box::new(right));
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<Expression> {
        if self.takes("not") {
            return Some(Expression::Not(Box::new(self.binary(3)?)));
        }
        if self.takes("-") {
            return Some(Expression::Negative(Box::new(self.unary()?)));
        }
        let mut found = self.atom()?;
        while self.takes("[") {
            let index = self.choice()?;
            if !self.takes("]") {
                return None;
            }
            found = Expression::Index(Box::new(found), Box::new(index));
        }
        Some(found)
    }

    fn atom(&mut self) -> Option<Expression> {
        if self.takes("(") {
            let inside = self.choice()?;
            return self.takes(")").then_some(inside);
        }
        if self.takes("$") {
            let Some(Token::Word(name)) = self.tokens.get(self.at).cloned() else { return None };
            self.at += 1;
            return Some(Expression::Defined(name));
        }
        let token = self.tokens.get(self.at).cloned()?;
        self.at += 1;
        match token {
            Token::Number(number) => Some(Expression::Constant(Value::Number(number))),
            Token::Text(text) => Some(Expression::Constant(Value::Text(text))),
            Token::Word(word) => Some(match word.as_str() {
                "true" => Expression::Constant(Value::Flag(true)),
                "false" => Expression::Constant(Value::Flag(false)),
                "none" => Expression::Constant(Value::Absent),
                "sqrt" => Expression::Root(Box::new(self.atom()?)),
                path => Expression::Config(path.split('.').map(String::from).collect()),
            }),
            Token::Sign(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_mean_what_the_module_says() {
        let config = json!({
            "a": 6, "b": 2, "flag": true, "kind": ["x", "y"], "nothing": null,
            "deep": {"er": 0.5}, "some": [1, 3],
        });
        let config = config.as_object().unwrap();
        let defined = BTreeMap::from([("layer".to_string(), Value::Number(1.0))]);
        let scope = Scope { config, defined };
        let value = |text: &str| Expression::parse(text).unwrap().value(&scope);
        for (text, expected) in [
            ("a / b + 1", 4.0),
            ("a - b - 1", 3.0),
            ("missing | nothing | b", 2.0),
            ("missing * 2 | 7", 7.0),
            ("flag ? a : b", 6.0),
            ("not flag ? a : flag and a < b ? 1 : 9", 9.0),
            ("b ^ -1 * 4", 2.0),
            ("sqrt(a + 3) * deep.er", 1.5),
            ("-(a % 4)", -2.0),
            ("missing | 2.5e-1", 0.25),
        ] {
            assert_eq!(value(text), Value::Number(expected), "{text}");
        }
        assert_eq!(value("kind[$layer] == 'y'"), Value::Flag(true));
        assert_eq!(value("kind[2] == 'y' | false"), Value::Flag(false));
        assert_eq!(value("not ($layer in some) | true"), Value::Flag(false));
        assert_eq!(value("2 in some"), Value::Flag(false));
        assert_eq!(value("none"), Value::Absent);
        for wrong in ["a +", "(a", "a b", "$", "a ? b", "'x"] {
            assert!(Expression::parse(wrong).is_err(), "{wrong}");
        }
        let mut keys = BTreeSet::new();
        Expression::parse("deep.er | $x[a] | not b").unwrap().keys(&mut keys);
        assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["a", "b", "deep"]);
    }
}
