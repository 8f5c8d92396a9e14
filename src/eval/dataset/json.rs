//! JSON: one object a line, or an array of objects.

use super::{Document, Value, bad_row};
use crate::error::{Error, Result};
use serde_json::Value as Json;
use std::path::Path;

/// Reads the rows of a text. `field` names the key that holds them, in a file of one object.
pub(super) fn rows(path: &Path, text: &str, field: Option<&str>) -> Result<Vec<Document>> {
    let text = text.trim_start_matches('\u{feff}');
    if let Some(field) = field {
        let whole: Json =
            serde_json::from_str(text).map_err(|e| bad_row(path, e.line().max(1), e))?;
        let items = whole.get(field).and_then(Json::as_array).ok_or_else(|| {
            Error::input("the data file has no list under the field that was named")
                .file(path)
                .key(field)
        })?;
        return items.iter().enumerate().map(|(i, item)| row(path, i + 1, item)).collect();
    }
    if text.trim_start().starts_with('[') {
        let items: Vec<Json> =
            serde_json::from_str(text).map_err(|e| bad_row(path, e.line().max(1), e))?;
        return items.iter().enumerate().map(|(i, item)| row(path, i + 1, item)).collect();
    }
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let value: Json = serde_json::from_str(line).map_err(|e| {
            // The place in the line is the reader's; the line is ours.
            let reason = e.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default().to_string();
            bad_row(path, i + 1, format!("{reason}, at column {}", e.column()))
                .hint("a JSON file holds one object a line, or one array of objects")
        })?;
        rows.push(row(path, i + 1, &value)?);
    }
    Ok(rows)
}

fn row(path: &Path, line: usize, value: &Json) -> Result<Document> {
    match Value::from_json(value) {
        Value::Map(map) => Ok(Document(map)),
        other => Err(bad_row(path, line, "a row is an object of columns")
            .expected("an object", other.repr())),
    }
}
