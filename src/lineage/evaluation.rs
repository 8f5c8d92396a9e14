//! An evaluation on record: `eval.json` beside the weights, its table in the model card, its digest in
//! the lineage.

use super::files::{self, Seal};
use super::{FILE, SCHEMA, short_name};
use crate::engine::hex;
use crate::error::{Error, Result};
use crate::eval::Report;
use crate::eval::report::Style;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;

/// The file that holds an evaluation's report.
pub const EVALUATION: &str = "eval.json";

/// The card's part about the evaluation stands between these lines.
const BEGIN: &str = "<!-- evaluation of cognate -->";
const END: &str = "<!-- end of the evaluation -->";

/// An evaluation as it is recorded.
pub struct Evaluation {
    /// The text of [`EVALUATION`].
    pub json: String,
    table: String,
}

impl Evaluation {
    /// What is recorded of a report. Of models that are folders, the last part of the path names them:
    /// records are not about machines.
    pub fn new(report: &Report) -> Self {
        let mut report = report.clone();
        let short: Vec<String> =
            report.results.iter().map(|result| short_name(&result.model).to_string()).collect();
        let mut different = short.clone();
        different.sort();
        different.dedup();
        if different.len() == short.len() {
            for (result, name) in report.results.iter_mut().zip(short) {
                result.model = name;
            }
        }
        Self { json: format!("{:#}\n", report.json()), table: report.table(Style::Markdown) }
    }

    /// A card with the evaluation's table, in place of an earlier one.
    pub fn in_card(&self, card: &str) -> String {
        let part = format!("{BEGIN}\n## Evaluation\n\n{}\n{END}\n", self.table.trim_end());
        if let Some((before, rest)) = card.split_once(BEGIN)
            && let Some((_, after)) = rest.split_once(END)
        {
            return format!("{before}{}{after}", part.trim_end());
        }
        format!("{}\n\n{part}", card.trim_end())
    }

    /// Notes the report's digest.
    pub fn in_manifest(&self, manifest: &mut Value) {
        manifest["evaluation"] = json!({
            "file": EVALUATION,
            "sha256": hex(&Sha256::digest(self.json.as_bytes()).into()),
        });
    }
}

/// Records an evaluation in a folder that cognate wrote; whether it is one.
///
/// # Errors
/// A file of the folder cannot be read or written, or its lineage was changed since it was written: a
/// new digest would hide that.
pub fn record(folder: &Path, report: &Report) -> Result<bool> {
    let path = folder.join(FILE);
    let Ok(text) = std::fs::read(&path) else {
        return Ok(false);
    };
    let Some(mut manifest) = files::parse(&text).map(Value::from) else {
        return Ok(false);
    };
    if manifest["schema"] != SCHEMA {
        return Ok(false);
    }
    if let Seal::Broken { recorded, found } = files::seal(&text) {
        return Err(Error::input(
            "the lineage was changed since it was written; the evaluation is not recorded",
        )
        .file(&path)
        .expected(recorded, found)
        .hint("`cognate verify` says what else differs"));
    }
    let evaluation = Evaluation::new(report);
    let card = folder.join("README.md");
    let card_text = std::fs::read_to_string(&card).unwrap_or_default();
    evaluation.in_manifest(&mut manifest);
    let card_text = evaluation.in_card(&card_text);
    files::record_file(&mut manifest, EVALUATION, evaluation.json.as_bytes());
    files::record_file(&mut manifest, "README.md", card_text.as_bytes());
    replace(&folder.join(EVALUATION), &evaluation.json)?;
    replace(&card, &card_text)?;
    replace(&path, &files::text(&manifest))?;
    Ok(true)
}

/// Replaces a file at once: with another that was written beside it.
fn replace(path: &Path, text: &str) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("record the evaluation", path, &e);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    // A temporary file is its owner's alone; an output's files are like others.
    if let Ok(metadata) = std::fs::metadata(folder.join("lineage.json")) {
        file.as_file().set_permissions(metadata.permissions()).map_err(failed)?;
    }
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}
