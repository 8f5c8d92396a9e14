//! A model folder in the formats of others: an in-toto statement, a CycloneDX ML-BOM, an SPDX 3 document.
//!
//! Of a folder that cognate wrote, they say what `lineage.json` does; of any other, its files and what its
//! card declares. Nothing in them depends on time or chance: identifiers follow from digests, and where a
//! format asks for a time, it is the one that was given.

mod ancestors;
mod card;
mod cyclonedx;
mod described;
mod in_toto;
mod licence;
mod spdx;

use crate::engine::Progress;
use crate::error::{Error, Result};
use chrono::{DateTime, NaiveDateTime};
use described::Described;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// A format to export to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// An in-toto statement, version 1, about the files.
    InToto,
    /// A CycloneDX 1.6 bill of materials.
    #[value(name = "cyclonedx")]
    CycloneDx,
    /// An SPDX 3.0.1 document in JSON-LD, with the AI profile.
    Spdx,
}

/// A moment, as exports write it: `2026-01-31T12:00:00Z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment(String);

/// What a moment looks like.
const MOMENT: &str = "%Y-%m-%dT%H:%M:%SZ";

impl Moment {
    /// Reads `2026-01-31T12:00:00Z`.
    ///
    /// # Errors
    /// It is no moment of that form.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        match NaiveDateTime::parse_from_str(text, MOMENT) {
            Ok(moment) => Ok(Self(moment.format(MOMENT).to_string())),
            Err(_) => Err("expected a time in UTC like 2026-01-31T12:00:00Z".to_string()),
        }
    }

    /// So many seconds after the beginning of 1970, as `SOURCE_DATE_EPOCH` has them
    /// (<https://reproducible-builds.org/specs/source-date-epoch/>).
    ///
    /// # Errors
    /// It is no such number.
    pub fn of_epoch(text: &str) -> Result<Self> {
        let seconds = text.trim().parse().ok();
        let moment = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        moment.map(|moment| Self(moment.format(MOMENT).to_string())).ok_or_else(|| {
            Error::input("SOURCE_DATE_EPOCH is no time")
                .expected("seconds since the beginning of 1970", format!("{text:?}"))
        })
    }
}

/// What the command line adds to an export.
pub struct Options<'a> {
    /// The model's name; none for that of its folder.
    pub name: Option<String>,
    /// Who supplies the model.
    pub supplier: Option<String>,
    /// When the document was made; the beginning of 1970 stands where a format must have a time.
    pub created: Option<Moment>,
    /// Worker threads.
    pub threads: usize,
    /// Who is told how far the hashing is.
    pub progress: &'a Progress,
}

/// A document, and what the user should know of it.
pub struct Exported {
    /// The document.
    pub document: Value,
    /// Sentences about what is doubtful.
    pub warnings: Vec<String>,
}

/// Describes a model folder. Every file in it is read once, on all threads.
///
/// # Errors
/// It is no folder, a file cannot be read, or its lineage was changed since it was written.
pub fn export(folder: &Path, format: Format, options: &Options<'_>) -> Result<Exported> {
    let (model, warnings) = Described::read(folder, options)?;
    let document = match format {
        Format::InToto => in_toto::statement(&model),
        Format::CycloneDx => cyclonedx::bom(&model, options),
        Format::Spdx => spdx::document(&model, options),
    };
    Ok(Exported { document, warnings })
}

/// The program as a package URL, which names it in documents.
fn tool() -> String {
    format!("pkg:cargo/cognate@{}", env!("CARGO_PKG_VERSION"))
}

/// A UUID that follows from the files of a model and from what else the document says: version 8 of RFC 9562,
/// of a SHA-256.
fn uuid(model: &Described, what: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("cognate export\0{what}\0{}\n", model.name));
    for file in &model.files {
        hasher.update(format!("{} {}\n", file.sha256, file.path));
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let of = |text| Moment::of_epoch(text).unwrap().0;
        assert_eq!(of("0"), "1970-01-01T00:00:00Z");
        assert_eq!(of("1769860800\n"), "2026-01-31T12:00:00Z");
        assert!(Moment::of_epoch("now").is_err() && Moment::of_epoch("9e99").is_err());
        assert_eq!(Moment::parse("2024-02-29T23:59:59Z").unwrap().0, "2024-02-29T23:59:59Z");
        for wrong in ["2023-02-29T00:00:00Z", "2024-01-01", "2024-01-01T00:00:00+01:00", ""] {
            assert!(Moment::parse(wrong).is_err(), "{wrong}");
        }
    }
}
