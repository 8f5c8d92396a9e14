//! Which key an error of the YAML reader is about, and what to write instead: the reader itself tells
//! the place and a reason.

/// The key whose value the place (from 1) lies in: the last one before it that is less indented, or
/// that stands on the same line and is not closed again. None where no key is found.
pub(super) fn key_before(text: &str, line: u64, column: u64) -> Option<String> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    let lines: Vec<&str> = text.lines().take(line + 1).collect();
    let own: String = lines.get(line)?.chars().take(column).collect();
    if let Some(key) = open_key(&own) {
        return Some(key);
    }
    let before = lines.iter().rev().skip(1);
    let indented =
        before.map(|line| (line, line.chars().take_while(|c| " -".contains(*c)).count()));
    let key = |line: &str| line.split_once(':').map(|(key, _)| word(key));
    indented.filter(|(_, indent)| *indent < column).find_map(|(line, _)| key(line)).flatten()
}

/// The last key of a piece of a line that is not within brackets that are closed again.
fn open_key(piece: &str) -> Option<String> {
    let mut closed = 0_usize;
    for (at, c) in piece.char_indices().rev() {
        match c {
            ']' | '}' => closed += 1,
            '[' | '{' => closed = closed.saturating_sub(1),
            ':' if closed == 0 => {
                let before = piece.get(..at)?;
                let start = before.rfind(['{', '[', ',', ' ']).map_or(0, |at| at + 1);
                return word(before.get(start..)?);
            }
            _ => {}
        }
    }
    None
}

/// What is left of a key without quotes, dashes and spaces; none of something that is no key.
fn word(key: &str) -> Option<String> {
    let key = key.trim_matches([' ', '-', '"', '\'']);
    let plain = !key.is_empty() && key.len() <= 64 && !key.contains(['#', '{', '[']);
    plain.then(|| key.to_string())
}

/// Reasons by their beginnings, and what to write instead.
const HINTS: [(&str, &str); 16] = [
    ("expected sequence start", "a list belongs here: `[a, b]`, or lines that begin with `- `"),
    ("expected mapping start", "keys with values belong here, as in `merge_method: linear`"),
    ("expected string scalar", "a single word belongs here"),
    ("unexpected sequence", "a single value belongs here"),
    ("invalid u64", "write a whole number from 0 to 18446744073709551615"),
    ("invalid i64", "write a whole number, as in `layer_range: [0, 4]`"),
    ("invalid bool", "write true or false"),
    ("recursion limit", "no recipe nests lists this deep; a list is closed by `]`"),
    ("budget breached", "no recipe has so many values; are they repeated by aliases?"),
    ("invalid type", "write one of those in its place"),
    ("alias replay", "write the values where they are used, instead of repeating them by aliases"),
    ("alias", "write the value itself: an alias `*name` needs an `&name` before it"),
    ("recursive references", "an alias cannot stand within what it repeats"),
    ("unclosed bracket", "close it with `]` or `}`"),
    ("tabs disallowed", "indent with spaces"),
    ("unexpected character", "put the value in quotes, or remove the character"),
];

/// What to write instead, by the reader's reason.
pub(super) fn hint(reason: &str) -> &'static str {
    let known = HINTS.iter().find(|(start, _)| reason.starts_with(start));
    known.map_or("docs/recipes.md has an example of every key", |(_, hint)| *hint)
}

/// What to add where a key is missing.
pub(super) fn addition(field: &str) -> String {
    let example = match field {
        "layer_range" => "[0, 4]",
        "sources" => "[{model: FOLDER, layer_range: [0, 4]}]",
        "data" => "FILE.jsonl",
        "value" => "0.5",
        "kind" => "zero",
        _ => "FOLDER",
    };
    format!("add `{field}: {example}`, with your own value")
}

#[cfg(test)]
mod tests {
    use super::key_before;

    #[test]
    fn the_key_around_a_place() {
        let text = "a: 1\nmodels:\n  - model: {x: [1], y: 2}\n  - 3\nb: [1, {c: 2}, 4]\n";
        let key = |line, column| key_before(text, line, column).unwrap_or_default();
        assert_eq!(key(1, 4), "a");
        assert_eq!(key(3, 15), "x");
        assert_eq!(key(3, 23), "y");
        assert_eq!(key(4, 5), "models");
        assert_eq!(key(5, 16), "b");
        assert_eq!(key_before(text, 1, 1), None);
        assert_eq!(key_before(text, 9, 9), None);
    }
}
