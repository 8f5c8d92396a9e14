//! The documents of a data file, as tokens.

use crate::engine::hex;
use crate::error::{Error, Result, list};
use crate::eval::encode::TextEncoder;
use crate::model::{Checkpoint, DocumentSettings};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Where documents come from.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// A file: JSON objects (`.jsonl`, `.json`) or texts (`.txt`), one a line.
    File(&'a Path),
    /// Tokens.
    Tokens(&'a [Vec<u32>]),
}

impl<'a> Data<'a> {
    /// The file, if it is one.
    pub(super) fn file(self) -> Option<&'a Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Tokens(_) => None,
        }
    }
}

/// Where the text of a document stands in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field<'a> {
    /// The line is a JSON object with this field.
    Of(&'a str),
    /// The line is the text.
    Line,
}

/// The texts of a file: JSON objects with `field`, or texts, one a line; empty lines are none.
///
/// # Errors
/// The file cannot be read, or a line is not what it must be.
pub(super) fn lines(path: &Path, field: &str) -> Result<Vec<String>> {
    let kind = Field::of_file(path, field)?;
    let bytes = std::fs::read(path).map_err(|e| Error::io("read the data", path, &e))?;
    numbered(path, kind, &text_of(path, bytes)?).map(|line| line.map(|(_, text)| text)).collect()
}

/// What the file holds, as text.
fn text_of(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::input("the data is not UTF-8 text").file(path).fact("line", line)
    })
}

/// The texts of the lines that hold any, with the lines' numbers from 0.
fn numbered<'a>(
    path: &'a Path,
    field: Field<'a>,
    text: &'a str,
) -> impl Iterator<Item = Result<(usize, String)>> + 'a {
    // Empty lines stand between documents, and are none.
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(move |(number, line)| {
        let located = |e: Error| e.file(path).fact("line", number + 1);
        Ok((number, field.text(line).map_err(located)?))
    })
}

/// Documents, cut to their length.
pub struct Documents {
    /// Two tokens or more each.
    pub tokens: Vec<Vec<u32>>,
    /// The number of each, counted in the file's lines from 0; draws are keyed by it.
    pub(super) lines: Vec<u64>,
    /// How many had fewer than two tokens.
    pub left_out: usize,
    /// The SHA-256 of the file in hexadecimal, or of the tokens' little-endian words, each document
    /// behind its length.
    pub digest: String,
    /// The SHA-256 of the tokenizer that was used.
    pub tokenizer: Option<String>,
}

impl<'a> Field<'a> {
    /// `.jsonl` and `.json` hold a JSON object a line, `.txt` a text a line.
    ///
    /// # Errors
    /// The suffix is another.
    fn of_file(path: &Path, field: &'a str) -> Result<Self> {
        let suffix = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match suffix.as_str() {
            "jsonl" | "json" | "ndjson" => Ok(Self::Of(field)),
            "txt" | "text" => Ok(Self::Line),
            _ => Err(Error::input("the data file is of no known kind")
                .file(path)
                .expected("a name that ends in .jsonl or .txt", format!("`.{suffix}`"))
                .hint("write one JSON object with a `text` a line, or one text a line")),
        }
    }
}

impl Documents {
    /// The first documents, as many as the settings say, cut to `length` tokens.
    ///
    /// # Errors
    /// The file cannot be read, a line is not what it must be, or there is no document.
    pub(super) fn read(
        data: Data<'_>,
        checkpoint: &Checkpoint,
        settings: &DocumentSettings,
        length: usize,
    ) -> Result<Self> {
        match data {
            Data::File(path) => Self::of_file(path, checkpoint, settings, length),
            Data::Tokens(documents) => Self::of_tokens(documents, settings, length),
        }
    }

    /// No document at all, for what needs none.
    pub(super) fn none() -> Self {
        Self::empty(String::new(), None)
    }

    /// Texts that were encoded elsewhere.
    pub(super) fn of_texts(tokens: Vec<Vec<u32>>, digest: String, tokenizer: String) -> Self {
        let lines = (0..tokens.len() as u64).collect();
        Self { tokens, lines, ..Self::empty(digest, Some(tokenizer)) }
    }

    fn empty(digest: String, tokenizer: Option<String>) -> Self {
        Self { tokens: Vec::new(), lines: Vec::new(), left_out: 0, digest, tokenizer }
    }

    /// Adds a document, unless it has nothing to predict.
    fn add(&mut self, line: usize, mut tokens: Vec<u32>, length: usize) {
        tokens.truncate(length);
        if tokens.len() < 2 {
            self.left_out += 1;
            return;
        }
        self.tokens.push(tokens);
        self.lines.push(line as u64);
    }

    fn is_full(&self, settings: &DocumentSettings) -> bool {
        settings.samples.is_some_and(|samples| self.tokens.len() >= samples)
    }

    fn of_tokens(
        documents: &[Vec<u32>],
        settings: &DocumentSettings,
        length: usize,
    ) -> Result<Self> {
        let mut hasher = Sha256::new();
        for tokens in documents {
            hasher.update((tokens.len() as u64).to_le_bytes());
            tokens.iter().for_each(|token| hasher.update(token.to_le_bytes()));
        }
        let mut found = Self::empty(hex(&hasher.finalize().into()), None);
        for (number, tokens) in documents.iter().enumerate() {
            if !found.is_full(settings) {
                found.add(number, tokens.clone(), length);
            }
        }
        found.checked()
    }

    fn of_file(
        path: &Path,
        checkpoint: &Checkpoint,
        settings: &DocumentSettings,
        length: usize,
    ) -> Result<Self> {
        let field = Field::of_file(path, &settings.field)?;
        let bytes = std::fs::read(path).map_err(|e| Error::io("read the data", path, &e))?;
        let digest = hex(&Sha256::digest(&bytes).into());
        let text = text_of(path, bytes)?;
        let encoder = TextEncoder::open(&checkpoint.folder)?;
        let mut found = Self::empty(digest, Some(encoder.digest().to_string()));
        for line in numbered(path, field, &text) {
            if found.is_full(settings) {
                break;
            }
            let (number, text) = line?;
            let located = |e: Error| e.file(path).fact("line", number + 1);
            let tokens = encoder.encode(&text, None).map_err(located)?;
            found.add(number, tokens, length);
        }
        found.checked().map_err(|e| e.file(path))
    }

    fn checked(self) -> Result<Self> {
        if self.tokens.is_empty() {
            return Err(Error::input("the data holds no document of two tokens or more")
                .fact("left out", self.left_out));
        }
        Ok(self)
    }

    /// Tokens of the longest document.
    pub(super) fn longest(&self) -> usize {
        self.tokens.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Labels of all documents: each token but the first of a document.
    pub fn labels(&self) -> usize {
        self.tokens.iter().map(|tokens| tokens.len() - 1).sum()
    }
}

impl Field<'_> {
    /// The text of a line.
    fn text(self, line: &str) -> Result<String> {
        let Self::Of(field) = self else { return Ok(line.to_string()) };
        let object: Value = serde_json::from_str(line)
            .map_err(|e| Error::input("a line of the data is not JSON").fact("reason", e))?;
        match object.get(field) {
            Some(Value::String(text)) => Ok(text.clone()),
            other => {
                let keys = object.as_object().map(|map| list(map.keys().map(String::as_str)));
                let found = match other {
                    None => keys.map_or("no object".to_string(), |keys| format!("fields {keys}")),
                    Some(_) => "a value that is no text".to_string(),
                };
                Err(Error::input("a line of the data has no text")
                    .key(field)
                    .fact("found", found)
                    .hint("choose the field with --field, or `field:` in a recipe"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_says_what_a_line_is() {
        let of = |name: &str| Field::of_file(Path::new(name), "text");
        assert_eq!(of("a/b.JSONL").unwrap(), Field::Of("text"));
        assert_eq!(of("b.txt").unwrap(), Field::Line);
        assert_eq!(of("b.parquet").unwrap_err().exit_code(), 2);
        assert_eq!(Field::Of("body").text(r#"{"body": "é"}"#).unwrap(), "é");
        let error = Field::Of("text").text(r#"{"body": "é"}"#).unwrap_err();
        assert_eq!(error.get("found"), Some("fields body"));
        assert!(Field::Of("text").text("[").is_err());
    }
}
