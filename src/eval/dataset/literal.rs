//! Python literals, as `ast.literal_eval` reads them: what a template prints for a list of choices.

use super::Value;

/// Reads a literal: numbers, texts, `True`, `False`, `None`, lists, tuples (as lists) and
/// dictionaries with texts for keys. None where the text is no such literal.
pub fn parse_literal(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim_start_matches([' ', '\t']), depth: 0 };
    let value = reader.value()?;
    reader.blank();
    if reader.rest.starts_with(',') {
        // A tuple without parentheses.
        let mut items = vec![value];
        while reader.take(',') {
            reader.blank();
            if reader.rest.is_empty() {
                break;
            }
            items.push(reader.value()?);
        }
        return reader.rest.is_empty().then_some(Value::List(items));
    }
    reader.rest.is_empty().then_some(value)
}

/// Brackets within brackets at most.
const MAX_DEPTH: usize = 64;

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Skips blanks and, if it comes next, the character.
    fn take(&mut self, wanted: char) -> bool {
        self.blank();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Option<Value> {
        self.blank();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = match self.rest.chars().next()? {
            '[' => {
                self.take('[');
                Value::List(self.items(']')?.0)
            }
            '(' => {
                self.take('(');
                let (mut items, comma) = self.items(')')?;
                // Parentheses around one value are no tuple.
                match items.pop() {
                    Some(only) if items.is_empty() && !comma => only,
                    Some(last) => {
                        items.push(last);
                        Value::List(items)
                    }
                    None => Value::List(items),
                }
            }
            '{' => self.map()?,
            '\'' | '"' | 'r' | 'u' | 'b' | 'R' | 'U' => self.texts()?,
            _ => self.word()?,
        };
        self.depth -= 1;
        Some(value)
    }

    /// Values up to the closing bracket, and whether a comma stood before it.
    fn items(&mut self, close: char) -> Option<(Vec<Value>, bool)> {
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            if self.take(close) {
                return Some((items, comma));
            }
            if !items.is_empty() && !comma {
                return None;
            }
            items.push(self.value()?);
            comma = self.take(',');
        }
    }

    fn map(&mut self) -> Option<Value> {
        self.take('{');
        let mut map: Vec<(String, Value)> = Vec::new();
        let mut comma = true;
        loop {
            if self.take('}') {
                return Some(Value::Map(map));
            }
            if !comma {
                return None;
            }
            let Value::Text(name) = self.value()? else {
                return None;
            };
            if !self.take(':') {
                return None;
            }
            let value = self.value()?;
            map.retain(|(known, _)| *known != name);
            map.push((name, value));
            comma = self.take(',');
        }
    }

    /// One text, or several that stand side by side and are joined.
    fn texts(&mut self) -> Option<Value> {
        let mut joined = self.text()?;
        loop {
            self.blank();
            match self.rest.chars().next() {
                Some('\'' | '"') => joined.push_str(&self.text()?),
                _ => return Some(Value::Text(joined)),
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        let raw = self.rest.starts_with(['r', 'R']);
        if raw || self.rest.starts_with(['u', 'U']) {
            self.rest = &self.rest[1..];
        }
        let quote = self.rest.chars().next().filter(|c| ['\'', '"'].contains(c))?;
        let triple: String = std::iter::repeat_n(quote, 3).collect();
        let close = if self.rest.starts_with(&triple) { triple } else { quote.to_string() };
        self.rest = &self.rest[close.len()..];
        let mut text = String::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix(close.as_str()) {
                self.rest = rest;
                return Some(text);
            }
            let c = self.next()?;
            match c {
                '\n' if close.len() == 1 => return None,
                '\\' if raw => {
                    text.push('\\');
                    text.push(self.next()?);
                }
                '\\' => self.escape(&mut text)?,
                c => text.push(c),
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let c = self.next()?;
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => text.push(c),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'a' => text.push('\u{7}'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'v' => text.push('\u{b}'),
            'x' => text.push(self.code(2)?),
            'u' => text.push(self.code(4)?),
            'U' => text.push(self.code(8)?),
            '0'..='7' => {
                let mut code = c.to_digit(8)?;
                for _ in 0..2 {
                    match self.rest.chars().next().and_then(|c| c.to_digit(8)) {
                        Some(digit) => {
                            code = code * 8 + digit;
                            self.next();
                        }
                        None => break,
                    }
                }
                text.push(char::from_u32(code)?);
            }
            // Python keeps what it does not know.
            other => {
                text.push('\\');
                text.push(other);
            }
        }
        Some(())
    }

    fn code(&mut self, digits: usize) -> Option<char> {
        let code = u32::from_str_radix(self.rest.get(..digits)?, 16).ok()?;
        self.rest = &self.rest[digits..];
        char::from_u32(code)
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._+-".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let value = match word {
            "None" => Value::Null,
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            number => {
                let digits = number.trim_start_matches(['+', '-']);
                if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
                    return None;
                }
                let plain = number.replace('_', "");
                let leading_zero = digits.len() > 1
                    && digits.bytes().all(|b| b.is_ascii_digit())
                    && digits.starts_with('0')
                    && digits.bytes().any(|b| b != b'0');
                match plain.parse::<i64>() {
                    Ok(_) if leading_zero => return None,
                    Ok(int) => Value::Int(int),
                    Err(_) => Value::Float(plain.parse().ok()?),
                }
            }
        };
        self.rest = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_reads() {
        for (text, repr) in [
            ("['a', 'b']", "['a', 'b']"),
            (r#"["it's", 'a "b"']"#, r#"["it's", 'a "b"']"#),
            (" [1, -2, 3.5, 1e3,]", "[1, -2, 3.5, 1000.0]"),
            ("('a', 'b')", "['a', 'b']"),
            ("('a')", "'a'"),
            ("('a',)", "['a']"),
            ("'a', 'b'", "['a', 'b']"),
            ("{'a': [None, True], 'b': {}}", "{'a': [None, True], 'b': {}}"),
            (r"'\x41é\n\'\d'", r#""Aé\n'\\d""#),
            (r"r'\d'", r"'\\d'"),
            ("'a' 'b'", "'ab'"),
            ("'''a'b'''", r#""a'b""#),
            ("[]", "[]"),
            ("7", "7"),
        ] {
            assert_eq!(parse_literal(text).map(|v| v.repr()).as_deref(), Some(repr), "{text}");
        }
    }

    #[test]
    fn what_python_does_not_read() {
        for text in
            ["", "a", "[a]", "[1 2]", "['a", "[1,,2]", "{1: 2}", "007", "f(1)", "1 + 1", "['a']x"]
        {
            assert_eq!(parse_literal(text), None, "{text}");
        }
        assert_eq!(parse_literal(&"[".repeat(10_000)), None);
    }
}
