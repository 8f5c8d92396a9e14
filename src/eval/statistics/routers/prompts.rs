//! The texts that gates are found from, as tokens.

use crate::engine::hex;
use crate::error::{Error, Result};
use crate::eval::encode::TextEncoder;
use crate::eval::statistics::documents::{Documents, lines};
use crate::model::{Checkpoint, DocumentSettings, PromptSource, Prompts};
use sha2::{Digest, Sha256};

/// Whose a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Role {
    /// The number of the expert.
    pub(super) expert: usize,
    /// Whether the text is of the kind that is not to be routed to it.
    pub(super) negative: bool,
}

/// Texts as tokens, and whose each is.
pub(super) struct Labelled {
    pub(super) documents: Documents,
    pub(super) roles: Vec<Role>,
}

/// The texts of a source.
fn texts(source: &PromptSource, field: &str) -> Result<Vec<String>> {
    match source {
        PromptSource::Here(texts) => Ok(texts.clone()),
        PromptSource::File { path, .. } => {
            let texts = lines(path, field).map_err(|e| match e.get("key") {
                Some(key) if key == field => e.hint(format!(
                    "give every object a `{field}`, or name a file of plain texts (.txt)"
                )),
                _ => e,
            })?;
            if texts.is_empty() {
                return Err(Error::input("a file of prompts holds no text").file(path));
            }
            Ok(texts)
        }
    }
}

/// What an expert is told apart by: its positive texts and its negative ones, without the space around them.
///
/// # Errors
/// A file cannot be read, or is not what it must be.
pub fn told(prompts: &Prompts, settings: &DocumentSettings) -> Result<[Vec<String>; 2]> {
    let all = |sources: &[PromptSource]| -> Result<Vec<String>> {
        let each = sources.iter().map(|source| texts(source, &settings.field));
        let each = each.collect::<Result<Vec<_>>>()?;
        Ok(each.into_iter().flatten().map(|text| text.trim().to_string()).collect())
    };
    Ok([all(&prompts.positive)?, all(&prompts.negative)?])
}

/// The texts of all experts, in their order, cut to `length` tokens. Each begins with the tokenizer's
/// first token, where it has one, as mergekit-moe has it.
///
/// # Errors
/// A file cannot be read, or a text has no tokens.
pub(super) fn read<'a>(
    prompts: impl Iterator<Item = &'a Prompts>,
    checkpoint: &Checkpoint,
    settings: &DocumentSettings,
    length: usize,
) -> Result<Labelled> {
    let encoder = TextEncoder::open(&checkpoint.folder)?;
    let mut hasher = Sha256::new();
    let mut all = Vec::new();
    let mut roles = Vec::new();
    for (expert, prompts) in prompts.enumerate() {
        for (negative, sources) in [(false, &prompts.positive), (true, &prompts.negative)] {
            for source in sources {
                for text in texts(source, &settings.field)? {
                    let mut tokens = encoder.encode_from_first(&text)?;
                    tokens.truncate(length);
                    if tokens.is_empty() {
                        return Err(Error::input("a prompt has no tokens")
                            .fact("expert", expert)
                            .hint("remove it"));
                    }
                    hasher.update([u8::from(negative)]);
                    for number in [expert, tokens.len()] {
                        hasher.update((number as u64).to_le_bytes());
                    }
                    tokens.iter().for_each(|token| hasher.update(token.to_le_bytes()));
                    all.push(tokens);
                    roles.push(Role { expert, negative });
                }
            }
        }
    }
    let digest = hex(&hasher.finalize().into());
    let documents = Documents::of_texts(all, digest, encoder.digest().to_string());
    Ok(Labelled { documents, roles })
}
