//! One data file → its rows, by the format that its name or the task says.

use super::files::{Format, Location};
use super::{Document, csv, json, parquet};
use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;

/// Bytes of a text file at most, unpacked.
const MAX_TEXT: u64 = 8 << 30;

/// Reads the rows of a file.
pub(super) fn rows(path: &Path, location: &Location) -> Result<Vec<Document>> {
    let named = Format::of_file(path);
    let format = location.format().or(named).ok_or_else(|| {
        Error::input("the format of a data file is not known")
            .file(path)
            .fact("expected", "a name ending in .jsonl, .json, .csv, .tsv or .parquet")
            .hint("name the format: `dataset_path: json`, with the file under `data_files`")
    })?;
    let files = location.data_files();
    match format {
        Format::Parquet => parquet::rows(path),
        Format::Json => json::rows(path, &text(path)?, files.and_then(|f| f.field.as_deref())),
        Format::Csv => {
            let tabs = Format::extension(path).as_deref() == Some("tsv");
            let given = files.and_then(|files| files.delimiter);
            csv::rows(path, &text(path)?, given.unwrap_or(if tabs { b'\t' } else { b',' }))
        }
    }
}

/// The text of a file; one packed with gzip is unpacked.
fn text(path: &Path) -> Result<String> {
    let failed = |e| Error::io("read the data file", path, &e);
    let bytes = std::fs::read(path).map_err(failed)?;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let reader = flate2::read::MultiGzDecoder::new(bytes.as_slice());
        reader.take(MAX_TEXT).read_to_end(&mut unpacked).map_err(failed)?;
        unpacked
    } else {
        bytes
    };
    String::from_utf8(bytes).map_err(|e| {
        Error::input("a data file is not UTF-8")
            .file(path)
            .fact("byte", e.utf8_error().valid_up_to())
    })
}
