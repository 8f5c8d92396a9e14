//! `tojson` of chat templates: Python's `json.dumps` with `ensure_ascii=False`.

use super::{ErrorKind, Value, from_template};
use minijinja::value::Kwargs;

/// The filter, with the options `indent`, `separators`, `sort_keys` and `ensure_ascii`; of the last two
/// only `false` is known.
pub(super) fn filter(
    value: &minijinja::Value,
    options: Kwargs,
) -> Result<String, minijinja::Error> {
    let wrong = |what: &'static str| minijinja::Error::new(ErrorKind::InvalidOperation, what);
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let refused = ["ensure_ascii", "sort_keys"].map(|name| options.get::<Option<bool>>(name));
    for option in refused {
        if option? == Some(true) {
            return Err(wrong("tojson does not sort keys, and escapes no characters"));
        }
    }
    options.assert_all_used()?;
    let value = from_template(value).ok_or_else(|| wrong("the value cannot be written as JSON"))?;
    let [between, behind_key] = match separators.as_deref() {
        None => [if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()],
        Some([between, behind_key]) => [between.clone(), behind_key.clone()],
        Some(_) => return Err(wrong("`separators` are two texts")),
    };
    let style = Style { indent, between, behind_key };
    let mut out = String::new();
    style.write(&mut out, &value, 1);
    Ok(out)
}

struct Style {
    indent: Option<usize>,
    between: String,
    behind_key: String,
}

impl Style {
    fn write(&self, out: &mut String, value: &Value, depth: usize) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Text(text) => out.push_str(&quoted(text)),
            Value::List(items) => self.within(out, ['[', ']'], items, depth, |out, item| {
                self.write(out, item, depth + 1);
            }),
            Value::Map(entries) => {
                self.within(out, ['{', '}'], entries, depth, |out, (key, value)| {
                    out.push_str(&quoted(key));
                    out.push_str(&self.behind_key);
                    self.write(out, value, depth + 1);
                });
            }
            number => out.push_str(&number.display()),
        }
    }

    fn within<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        write: impl Fn(&mut String, &T),
    ) {
        out.push(open);
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.push_str(&" ".repeat(indent * depth));
            }
        };
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.between);
            }
            line(out, depth);
            write(out, item);
        }
        if !items.is_empty() {
            line(out, depth - 1);
        }
        out.push(close);
    }
}

/// A text in quotes; serde_json escapes what Python does.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::Templates;

    /// The right sides are Python's `json.dumps(…, ensure_ascii=False)`.
    #[test]
    fn as_python_writes_it() {
        let templates = Templates::for_chats();
        for (source, expected) in [
            (
                r#"{{ {'a': [1, 2.5, none], "b'": "é\n\""}|tojson }}"#,
                r#"{"a": [1, 2.5, null], "b'": "é\n\""}"#,
            ),
            ("{{ [true, {}, []]|tojson }}", "[true, {}, []]"),
            ("{{ {'a': [1, {}]}|tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    {}\n  ]\n}"),
            ("{{ [1, 2]|tojson(separators=(',', ':')) }}", "[1,2]"),
            ("{{ true }}{{ none }}{{ nothing }}", "TrueNone"),
        ] {
            let found = templates.render_with(source, minijinja::Value::UNDEFINED).unwrap();
            assert_eq!(found, expected, "{source}");
        }
        assert!(templates.render_with("{{ 1|tojson(sort_keys=true) }}", ().into()).is_err());
    }
}
