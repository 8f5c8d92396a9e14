//! CSV, with types found out column by column, as pandas does for the Python library `datasets`.

use super::{Document, Value, bad_row};
use crate::error::Result;
use std::path::Path;

/// Texts that stand for a missing value (`pandas.read_csv`, `na_values`).
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// What all values of a column can be read as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Float,
    Text,
}

/// Reads the rows of a text whose first line names the columns.
pub(super) fn rows(path: &Path, text: &str, delimiter: u8) -> Result<Vec<Document>> {
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = ::csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(false)
        .from_reader(text.as_bytes());
    let failed = |e: ::csv::Error| {
        let line = e.position().map_or(1, |place| place.line() as usize);
        bad_row(path, line, e)
    };
    let columns: Vec<String> =
        reader.headers().map_err(failed)?.iter().map(ToString::to_string).collect();
    let records = reader.records().collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
    let kinds: Vec<Kind> = (0..columns.len())
        .map(|column| {
            let values = records.iter().filter_map(|record| record.get(column));
            kind(values)
        })
        .collect();
    let row = |record: &::csv::StringRecord| {
        let values = columns.iter().zip(&kinds).enumerate().map(|(i, (name, kind))| {
            (name.clone(), typed(record.get(i).unwrap_or_default(), *kind))
        });
        Document(values.collect())
    };
    Ok(records.iter().map(row).collect())
}

fn kind<'a>(values: impl Iterator<Item = &'a str> + Clone) -> Kind {
    let missing = values.clone().any(|text| MISSING.contains(&text));
    let mut given = values.filter(|text| !MISSING.contains(text)).peekable();
    if given.peek().is_none() {
        return Kind::Float;
    }
    let given = given.collect::<Vec<_>>();
    let all = |test: fn(&str) -> bool| given.iter().all(|text| test(text));
    if all(|text| bool(text).is_some()) {
        // A column of truth values with gaps stays one of texts' objects, which print the same.
        return Kind::Bool;
    }
    if all(|text| text.trim().parse::<i64>().is_ok()) {
        // A gap is a float's NaN, and makes the column one of floats.
        return if missing { Kind::Float } else { Kind::Int };
    }
    if all(|text| text.trim().parse::<f64>().is_ok()) {
        return Kind::Float;
    }
    Kind::Text
}

fn bool(text: &str) -> Option<bool> {
    match text {
        "True" | "TRUE" | "true" => Some(true),
        "False" | "FALSE" | "false" => Some(false),
        _ => None,
    }
}

fn typed(text: &str, kind: Kind) -> Value {
    if MISSING.contains(&text) {
        return Value::Null;
    }
    let value = match kind {
        Kind::Bool => bool(text).map(Value::Bool),
        Kind::Int => text.trim().parse().ok().map(Value::Int),
        Kind::Float => text.trim().parse().ok().map(Value::Float),
        Kind::Text => None,
    };
    value.unwrap_or_else(|| Value::Text(text.to_string()))
}
