//! Jinja templates over the columns of a document, printing what Python would print.
//!
//! lm-eval renders with Jinja2, `StrictUndefined`, `keep_trailing_newline=True` and one filter of its
//! own, `regex_replace`. Values come out as Python's `str()` writes them, and the methods that
//! templates call on Python's strings, lists and mappings are there.

mod day;
mod python_json;

use super::dataset::{Document, Value};
use super::pattern::Pattern;
use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, State, UndefinedBehavior};

/// Renders templates of one task.
pub struct Templates {
    environment: Environment<'static>,
}

impl Default for Templates {
    fn default() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        if let Ok(syntax) = syntax {
            environment.set_syntax(syntax);
        }
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(method);
        environment.set_formatter(|out, _, value| {
            if value.is_undefined() {
                return Err(ErrorKind::UndefinedError.into());
            }
            out.write_str(&display(value)).map_err(minijinja::Error::from)
        });
        environment.add_filter("regex_replace", regex_replace);
        Self { environment }
    }
}

impl Templates {
    /// Renders chat templates instead, as transformers does: blocks take their line, what is not
    /// there is empty and false, `tojson` writes as Python's `json.dumps`, and `raise_exception`
    /// refuses. `strftime_now` always gives the same day, so that a score does not depend on when it
    /// was taken.
    pub fn for_chats() -> Self {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(method);
        environment.set_formatter(|out, _, value| {
            let text = if value.is_undefined() { String::new() } else { display(value) };
            out.write_str(&text).map_err(minijinja::Error::from)
        });
        environment.add_filter("tojson", python_json::filter);
        environment.add_function("strftime_now", |format: String| day::formatted(&format));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        if let Ok(syntax) = syntax {
            environment.set_syntax(syntax);
        }
        environment.add_function("raise_exception", |reason: String| {
            Err::<(), _>(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
        });
        Self { environment }
    }

    /// Checks that a text is a template.
    ///
    /// # Errors
    /// It is none; the error says why.
    pub fn check(&self, source: &str) -> Result<()> {
        self.environment.template_from_str(source).map(|_| ()).map_err(|e| failed(source, &e))
    }

    /// Renders a template with a document's columns.
    ///
    /// # Errors
    /// The template is wrong, or names what the document does not have.
    pub fn render(&self, source: &str, document: &Document) -> Result<String> {
        // Most templates name a few columns, and many texts are no templates at all.
        if !source.contains('{') {
            return Ok(source.to_string());
        }
        let columns = document.0.iter().map(|(name, value)| (name.as_str(), value.to_template()));
        self.render_with(source, minijinja::Value::from_pairs(columns))
    }

    /// Renders a template with any values.
    ///
    /// # Errors
    /// As for [`Templates::render`].
    pub fn render_with(&self, source: &str, values: minijinja::Value) -> Result<String> {
        let template = self.environment.template_from_str(source);
        let template = template.map_err(|e| failed(source, &e))?;
        template.render(values).map_err(|e| failed(source, &e))
    }
}

fn failed(source: &str, error: &minijinja::Error) -> Error {
    let failed = Error::input("a template cannot be rendered")
        .fact("template", source)
        .fact("reason", error);
    match error.kind() {
        ErrorKind::UndefinedError => failed.hint("a template may use the dataset's columns alone"),
        ErrorKind::UnknownFilter | ErrorKind::UnknownMethod | ErrorKind::UnknownFunction => {
            failed.hint("Jinja's filters, Python's common methods and `regex_replace` are there")
        }
        _ => failed,
    }
}

/// What Python's `str()` makes of a template's value.
fn display(value: &minijinja::Value) -> String {
    match value.as_str() {
        Some(text) => text.to_string(),
        None => from_template(value).map_or_else(|| value.to_string(), |value| value.display()),
    }
}

/// A template's value as one of a document; none for functions and the like.
fn from_template(value: &minijinja::Value) -> Option<Value> {
    Some(match value.kind() {
        ValueKind::Undefined | ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => Value::Int(value.as_i64()?),
        ValueKind::Number => Value::Float(f64::try_from(value.clone()).ok()?),
        ValueKind::String => Value::Text(value.as_str()?.to_string()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().ok()?;
            Value::List(items.map(|item| from_template(&item)).collect::<Option<_>>()?)
        }
        ValueKind::Map => {
            let keys = value.try_iter().ok()?;
            let entry = |key: minijinja::Value| {
                Some((display(&key), from_template(&value.get_item(&key).ok()?)?))
            };
            Value::Map(keys.map(entry).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// Methods of Python's values.
fn method(
    state: &mut State<'_, '_>,
    value: &minijinja::Value,
    name: &str,
    args: &[minijinja::Value],
) -> std::result::Result<minijinja::Value, minijinja::Error> {
    let wrong = |what: &'static str| minijinja::Error::new(ErrorKind::InvalidOperation, what);
    let text = || {
        let text = args.first().and_then(|arg| arg.as_str());
        text.ok_or_else(|| wrong("the argument is no text"))
    };
    match (value.kind(), name) {
        (ValueKind::Seq, "index") => {
            let wanted = args.first().ok_or_else(|| wrong("index() takes a value"))?;
            let found = value.try_iter()?.position(|item| item == *wanted);
            found.map(Into::into).ok_or_else(|| wrong("the value is not in the list"))
        }
        (ValueKind::String, "index") => {
            let own = value.as_str().unwrap_or_default();
            let at = own.find(text()?).ok_or_else(|| wrong("substring not found"))?;
            Ok(own[..at].chars().count().into())
        }
        (ValueKind::String, "removeprefix") => {
            let own = value.as_str().unwrap_or_default();
            Ok(own.strip_prefix(text()?).unwrap_or(own).into())
        }
        (ValueKind::String, "removesuffix") => {
            let own = value.as_str().unwrap_or_default();
            Ok(own.strip_suffix(text()?).unwrap_or(own).into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// `regex_replace(string, pattern, repl, count=0)`: Python's `re.sub`.
fn regex_replace(
    text: &str,
    pattern: &str,
    replacement: &str,
    count: Option<usize>,
) -> std::result::Result<String, minijinja::Error> {
    let failed = |e: Error| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string());
    let pattern = Pattern::new(pattern).map_err(failed)?;
    pattern.replace_all(text, replacement, count.unwrap_or(0)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let json = r#"{"q": " what? ", "n": 3, "x": 1.0, "yes": true, "none": null,
            "choices": {"text": ["it's", "b"], "label": ["A", "B"]}, "key": "B"}"#;
        match Value::from_json(&serde_json::from_str(json).unwrap()) {
            Value::Map(map) => Document(map),
            _ => unreachable!(),
        }
    }

    /// The right sides are what lm-eval 0.4.13's `apply_template` gives.
    #[test]
    fn rendered_as_in_python() {
        let templates = Templates::default();
        for (source, expected) in [
            ("{{q}}\n", " what? \n"),
            ("{{q.strip()}}|{{ q|trim }}|{{q.split('h')}}", "what?|what?|[' w', 'at? ']"),
            ("{{n}} {{x}} {{yes}} {{none}}", "3 1.0 True None"),
            ("{{choices.text}}", r#"["it's", 'b']"#),
            ("{{choices.label.index(key)}}", "1"),
            ("{{choices['text'][1]}} {{choices.label[-1]}} {{choices.text[1:]}}", "b B ['b']"),
            ("{{[q.strip(), 'x']}}", "['what?', 'x']"),
            ("{{ 'a' if n == 3 else 'b' }}{{n // 2}}{{n / 2}}", "a11.5"),
            ("{% for c in choices.text %}{{loop.index}}. {{c}}\n{% endfor %}", "1. it's\n2. b\n"),
            ("{{q|regex_replace('\\\\s+', '')}}", "what?"),
            ("{% set a = q.strip() %}{{a[0]|upper + a[1:]}}", "What?"),
            ("{{ {'a': n, 'b': [yes]} }}", "{'a': 3, 'b': [True]}"),
            ("{{ choices.text|join(', ') }} {{ choices.text|length }}", "it's, b 2"),
            ("{{ 'none' if none is none else 'some' }} {{ q is string }}", "none True"),
            ("{{ q.replace('w', 'W').removeprefix(' ') }}", "What? "),
            ("no template", "no template"),
        ] {
            assert_eq!(templates.render(source, &document()).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let templates = Templates::default();
        let error = templates.render("{{answer}}", &document()).unwrap_err();
        assert_eq!(error.hint_text(), Some("a template may use the dataset's columns alone"));
        assert!(templates.check("{{ q").is_err() && templates.check("{{ q }}").is_ok());
        assert!(templates.render("{{ q.frobnicate() }}", &document()).is_err());
    }
}
