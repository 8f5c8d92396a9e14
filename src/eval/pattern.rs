//! Regular expressions as Python's `re` reads and applies them, over `fancy_regex`.
//!
//! What is spelt alike but means something else is translated: `$` (in Python also before a last line
//! feed), `\Z`, a brace that counts nothing, a bracket or `&&` within a class.

use crate::error::{Error, Result};
use fancy_regex::{Captures, Regex};

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles a pattern written for Python.
    ///
    /// # Errors
    /// It is no regular expression, or one that is not supported.
    pub fn new(source: &str) -> Result<Self> {
        let regex = Regex::new(&translated(source)).map_err(|e| {
            Error::input("a regular expression cannot be read")
                .fact("pattern", source)
                .fact("reason", e)
        })?;
        Ok(Self { source: source.to_string(), regex })
    }

    /// The pattern as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// `re.findall`: of each match the whole of it, or its groups where there are any; a group that
    /// took no part is empty.
    ///
    /// # Errors
    /// The search takes too many steps.
    pub fn find_all(&self, text: &str) -> Result<Vec<Vec<String>>> {
        let mut found = Vec::new();
        self.each(text, |captures| {
            let group = |i: usize| captures.get(i).map_or("", |m| m.as_str()).to_string();
            found.push(match captures.len() {
                1 => vec![group(0)],
                groups => (1..groups).map(group).collect(),
            });
        })?;
        Ok(found)
    }

    /// `re.sub`: every match (or the first `count`, if that is not 0) replaced. `\1` and `\g<name>`
    /// stand for groups, `\n` and `\t` for themselves.
    ///
    /// # Errors
    /// The search takes too many steps, or the replacement names no group.
    pub fn replace_all(&self, text: &str, replacement: &str, count: usize) -> Result<String> {
        let mut out = String::with_capacity(text.len());
        let (mut end, mut done, mut failure) = (0, 0, None);
        self.each(text, |captures| {
            let Some(whole) = captures.get(0) else { return };
            if failure.is_some() || (count > 0 && done == count) {
                return;
            }
            done += 1;
            out.push_str(&text[end..whole.start()]);
            failure = expand(replacement, captures, &mut out).err();
            end = whole.end();
        })?;
        out.push_str(&text[end..]);
        failure.map_or(Ok(out), Err)
    }

    /// A text without what patterns match, one after the other.
    ///
    /// # Errors
    /// A search takes too many steps.
    pub fn remove_all(patterns: &[Self], text: &str) -> Result<String> {
        patterns.iter().try_fold(text.to_string(), |text, own| own.replace_all(&text, "", 0))
    }

    /// Calls back for each match, in the order of Python's scanner: a match may be empty beside the
    /// one before, but not at the place of an empty one.
    fn each(&self, text: &str, mut found: impl FnMut(&Captures<'_>)) -> Result<()> {
        let mut from = 0;
        let mut last_empty = None;
        while from <= text.len() {
            let captures = self.regex.captures_from_pos(text, from).map_err(|e| {
                Error::input("a regular expression takes too long")
                    .fact("pattern", &self.source)
                    .fact("reason", e)
            })?;
            let Some(captures) = captures else { break };
            let Some(whole) = captures.get(0) else { break };
            let step = |at: usize| at + text[at..].chars().next().map_or(1, char::len_utf8);
            if whole.start() == whole.end() {
                if last_empty != Some(whole.start()) {
                    found(&captures);
                }
                last_empty = Some(whole.start());
                from = step(whole.end());
            } else {
                found(&captures);
                from = whole.end();
            }
        }
        Ok(())
    }
}

/// The pattern in the syntax of `fancy_regex`.
fn translated(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let lines =
        source.starts_with("(?") && source.find(')').is_some_and(|end| source[..end].contains('m'));
    let mut out = String::with_capacity(source.len() + 8);
    let mut class = None;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let next = chars.get(i + 1).copied();
        match c {
            '\\' => {
                match next {
                    Some('Z') => out.push_str("\\z"),
                    // A class of characters by name, which Python does not have, with its braces.
                    Some('p' | 'P') if chars.get(i + 2) == Some(&'{') => {
                        let end = chars[i..].iter().position(|c| *c == '}').unwrap_or(1);
                        out.extend(&chars[i..=i + end]);
                        i += end + 1;
                        continue;
                    }
                    // A group by number beside a digit, or an escape of what needs none.
                    Some(escaped) if !escaped.is_alphanumeric() && !escaped.is_ascii() => {
                        out.push(escaped);
                    }
                    Some(
                        escaped @ (' ' | '"' | '\'' | '<' | '>' | '/' | ',' | ':' | ';' | '=' | '!'
                        | '@' | '`' | '%' | '_'),
                    ) => {
                        out.push(escaped);
                    }
                    Some(escaped) => out.extend(['\\', escaped]),
                    None => out.push('\\'),
                }
                i += 2;
                continue;
            }
            '[' if class.is_none() => {
                class = Some(i);
                out.push('[');
                if next == Some('^') {
                    out.push('^');
                    i += 1;
                }
                // A bracket that comes first belongs to the class.
                if chars.get(i + 1) == Some(&']') {
                    out.push_str("\\]");
                    i += 1;
                }
            }
            ']' if class.is_some() => {
                class = None;
                out.push(']');
            }
            '[' => out.push_str("\\["),
            '&' | '~' if class.is_some() => out.extend(['\\', c]),
            '-' if class.is_some() && next == Some('-') => out.push_str("\\-"),
            '$' if class.is_none() && !lines => out.push_str("(?=\\n?\\z)"),
            '{' if class.is_none() && !counts(&chars[i..]) => out.push_str("\\{"),
            c => out.push(c),
        }
        i += 1;
    }
    out
}

/// Whether a brace says how often something is repeated.
fn counts(chars: &[char]) -> bool {
    let Some(end) = chars.iter().position(|c| *c == '}') else {
        return false;
    };
    let inner = &chars[1..end];
    inner.iter().any(char::is_ascii_digit)
        && inner.iter().all(|c| c.is_ascii_digit() || *c == ',')
        && inner.iter().filter(|c| **c == ',').count() <= 1
}

/// Writes a replacement.
fn expand(replacement: &str, captures: &Captures<'_>, out: &mut String) -> Result<()> {
    let unknown = |name: &str| {
        Error::input("a replacement names a group that is not there")
            .fact("group", name)
            .fact("replacement", replacement)
    };
    let mut rest = replacement;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        if let Some(named) = rest.strip_prefix("g<") {
            let (name, after) = named.split_once('>').ok_or_else(|| unknown(named))?;
            let group = match name.parse::<usize>() {
                Ok(number) if number < captures.len() => captures.get(number),
                Ok(_) => return Err(unknown(name)),
                Err(_) => captures.name(name),
            };
            out.push_str(group.map_or("", |m| m.as_str()));
            rest = after;
            continue;
        }
        let digits: String = rest.chars().take(2).take_while(char::is_ascii_digit).collect();
        if !digits.is_empty() && c != '0' {
            let number: usize = digits.parse().unwrap_or(usize::MAX);
            if number >= captures.len() {
                return Err(unknown(&digits));
            }
            out.push_str(captures.get(number).map_or("", |m| m.as_str()));
            rest = &rest[digits.len()..];
            continue;
        }
        match c {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            '\\' => out.push('\\'),
            other => out.extend(['\\', other]),
        }
        rest = &rest[c.len_utf8()..];
    }
    out.push_str(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right sides are what `re.findall` of Python 3.11 gives, a match without groups as a list
    /// of one.
    #[test]
    fn findall_as_in_python() {
        check("#### (\\-?[0-9\\.\\,]+)", "so it is #### 1,234.", vec![vec!["1,234."]]);
        check(
            "(-?[$0-9.,]{2,})|(-?[0-9]+)",
            "He pays $12.50, then 7 and -3.",
            vec![vec!["$12.50,", ""], vec!["", "7"], vec!["-3.", ""]],
        );
        check("(?<=the answer is )(.*)(?=.)", "Well, the answer is (B).", vec![vec!["(B)"]]);
        check("\\$", "costs $5", vec![vec!["$"]]);
        check("a$", "a\n", vec![vec!["a"]]);
        check(".*", "ab", vec![vec!["ab"], vec![""]]);
        check("x*", "axb", vec![vec![""], vec!["x"], vec![""], vec![""]]);
        check("\\boxed{(.*?)}", "oxed{4}", vec![vec!["4"]]);
        check("\\\\boxed{([^{}]*)}", "is \\boxed{4} or \\boxed{5}", vec![vec!["4"], vec!["5"]]);
        check("[[(]([A-D])[])]", "[A] (B)", vec![vec!["A"], vec!["B"]]);
        check("\\([A-Z]\\)", "(A) (B)", vec![vec!["(A)"], vec!["(B)"]]);
        check("(?i)answer:\\s*([a-d])", "Answer: c ANSWER:D", vec![vec!["c"], vec!["D"]]);
        check("[\\w&&-]+", "a&&b-c", vec![vec!["a&&b-c"]]);
        check("end\\Z", "the end", vec![vec!["end"]]);
        check("(a)|(b)", "ab", vec![vec!["a", ""], vec!["", "b"]]);
        check("\\d{1,2}", "1234é٣", vec![vec!["12"], vec!["34"], vec!["٣"]]);
        check("^x|y$", "xy\n", vec![vec!["x"], vec!["y"]]);
    }

    fn check(pattern: &str, text: &str, expected: Vec<Vec<&str>>) {
        let found = Pattern::new(pattern).unwrap().find_all(text).unwrap();
        assert_eq!(found, expected, "{pattern}");
    }

    #[test]
    fn sub_as_in_python() {
        let sub = |pattern: &str, by: &str, text: &str| {
            Pattern::new(pattern).unwrap().replace_all(text, by, 0).unwrap()
        };
        assert_eq!(sub("\\[.*?\\]", "", "a [x] b [y]"), "a  b ");
        assert_eq!(sub("(\\w+) (\\w+)", "\\2 \\1", "a b c d"), "b a d c");
        assert_eq!(sub(" ([.,])", "\\g<1>", "so , it ."), "so, it.");
        assert_eq!(sub("x*", "-", "axb"), "-a--b-");
        assert_eq!(sub("(?s).*#### ", "", "a\nb #### 7"), "7");
        assert_eq!(sub("\\.$", "", "3.\n"), "3\n");
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new("a").unwrap().replace_all("a", r"\1", 0).is_err());
    }
}
