//! A model's tokenizer: its vocabulary, the union of several, and the settings beside it.

mod chat;
mod encode;
mod file;
mod settings;
mod union;

pub use chat::ChatTemplate;
pub(crate) use chat::chat_template;
pub(crate) use file::TokenizerFile;
pub(crate) use settings::TokenizerSettingsFile;
pub(crate) use union::{United, add_tokens, unite};

use crate::error::{Error, Result, list};
use file::Pieces;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file that holds everything about a tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// Files that hold a vocabulary in other formats, by the start and end of their names.
const OTHER_FORMATS: [(&str, &str); 9] = [
    ("tokenizer.model", ""),
    ("spiece", ".model"),
    ("sentencepiece", ".model"),
    ("", ".tiktoken"),
    ("tekken", ".json"),
    ("vocab", ".json"),
    ("vocab", ".txt"),
    ("source", ".spm"),
    ("bpe", ".codes"),
];

/// A model's tokenizer, read from `tokenizer.json` and what transformers adds to it from
/// `tokenizer_config.json` and `added_tokens.json`.
#[derive(Clone, Debug)]
pub(crate) struct Tokenizer {
    /// The folder it was read from.
    pub(crate) folder: PathBuf,
    /// Its contents; the ids of its added tokens are the ones that count.
    pub(crate) file: TokenizerFile,
    /// Tokens that stood beside `tokenizer.json` alone.
    pub(crate) from_beside: bool,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder; none where the folder has no tokenizer at all.
    ///
    /// # Errors
    /// There is a tokenizer in another format alone, or the files contradict each other.
    pub(crate) fn open(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(TOKENIZER);
        if !path.is_file() {
            return match other_format(folder)? {
                None => Ok(None),
                Some(other) => Err(Error::input("a model has no tokenizer.json")
                    .file(&path)
                    .fact("has", other)
                    .hint("only tokenizer.json is read; transformers writes it: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)")),
            };
        }
        let mut file = TokenizerFile::open(&path)?;
        let in_model: BTreeMap<String, u32> =
            file.model.ids().into_iter().map(|(token, id)| (token.to_string(), id)).collect();
        for token in &mut file.added {
            // The library goes by the model's id where a token has one there.
            if let Some(id) = in_model.get(&token.content) {
                token.id = *id;
            }
        }
        let mut tokenizer = Self { folder: folder.to_path_buf(), file, from_beside: false };
        let mut known = tokenizer.file.owned_vocabulary();
        let mut by_id: BTreeMap<u32, String> =
            known.iter().map(|(token, id)| (*id, token.clone())).collect();
        for (name, token) in settings::added_beside(folder)? {
            if known.contains_key(&token.content) {
                continue;
            }
            if let Some(other) = by_id.get(&token.id) {
                return Err(Error::input("two tokens of a model have one id")
                    .file(&folder.join(name))
                    .fact("token", format!("{:?} = {}", token.content, token.id))
                    .fact("also", format!("{other:?}"))
                    .hint("tokenizer.json and the file beside it disagree; save the tokenizer anew with transformers"));
            }
            known.insert(token.content.clone(), token.id);
            by_id.insert(token.id, token.content.clone());
            tokenizer.file.added.push(token);
            tokenizer.from_beside = true;
        }
        let vocabulary = tokenizer.vocabulary();
        let mut ids: Vec<(u32, &str)> =
            vocabulary.iter().map(|(token, id)| (*id, *token)).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::input("two tokens of a model have one id")
                .file(&path)
                .fact("token", format!("{:?} = {}", pair[0].1, pair[0].0))
                .fact("also", format!("{:?}", pair[1].1)));
        }
        Ok(Some(tokenizer))
    }

    /// Every token with its id.
    pub(crate) fn vocabulary(&self) -> BTreeMap<&str, u32> {
        self.file.vocabulary()
    }

    /// The first difference to another vocabulary, in words; none where they are the same.
    pub(crate) fn difference(&self, other: &Self) -> Option<(String, String)> {
        let by_id = |tokenizer: &Self| -> BTreeMap<u32, String> {
            let vocabulary = tokenizer.vocabulary();
            vocabulary.into_iter().map(|(token, id)| (id, token.to_string())).collect()
        };
        let (a, b) = (by_id(self), by_id(other));
        let words = |id: u32, token: Option<&String>| match token {
            Some(token) => format!("token {id} is {token:?}"),
            None => format!("no token {id}"),
        };
        let ids: std::collections::BTreeSet<u32> = a.keys().chain(b.keys()).copied().collect();
        let id = ids.into_iter().find(|id| a.get(id) != b.get(id))?;
        Some((words(id, a.get(&id)), words(id, b.get(&id))))
    }
}

impl TokenizerFile {
    /// Every token with its id.
    pub(crate) fn vocabulary(&self) -> BTreeMap<&str, u32> {
        let mut all: BTreeMap<&str, u32> = self.model.ids().into_iter().collect();
        for token in &self.added {
            all.entry(&token.content).or_insert(token.id);
        }
        all
    }

    /// The same, to be kept while the file changes.
    pub(crate) fn owned_vocabulary(&self) -> BTreeMap<String, u32> {
        self.vocabulary().into_iter().map(|(token, id)| (token.to_string(), id)).collect()
    }

    /// Gives every added token its id in the model's own vocabulary too: the library numbers added
    /// tokens by the size of that vocabulary otherwise, whatever `added_tokens` says.
    fn pin_ids(&mut self) -> Result<()> {
        let known: BTreeMap<&str, u32> = self.model.ids().into_iter().collect();
        let mut missing: Vec<(String, u32)> = self
            .added
            .iter()
            .filter(|token| !known.contains_key(token.content.as_str()))
            .map(|token| (token.content.clone(), token.id))
            .collect();
        missing.sort_by_key(|(_, id)| *id);
        match &mut self.model.pieces {
            Pieces::Ids(ids) => {
                ids.extend(missing);
                ids.sort_by_key(|(_, id)| *id);
            }
            Pieces::Scores(scores) => {
                let lowest = scores.iter().map(|(_, score)| *score).fold(0.0, f64::min);
                for (token, id) in missing {
                    if id as usize != scores.len() {
                        return Err(Error::input("the ids of a Unigram tokenizer have a hole")
                            .fact("token", format!("{token:?}"))
                            .expected(format!("the id {}", scores.len()), id));
                    }
                    scores.push((token, lowest));
                }
            }
        }
        Ok(())
    }
}

/// Files of another tokenizer format in a folder.
fn other_format(folder: &Path) -> Result<Option<String>> {
    let failed = |e: std::io::Error| Error::io("list the model folder", folder, &e);
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if OTHER_FORMATS.iter().any(|(start, end)| name.starts_with(start) && name.ends_with(end)) {
            found.insert(name);
        }
    }
    Ok((!found.is_empty()).then(|| list(found.iter().map(String::as_str))))
}

/// Reads a JSON object beside the weights; none where the file does not exist.
fn read_object(folder: &Path, name: &str) -> Result<Option<serde_json::Map<String, Value>>> {
    const MAX_BYTES: u64 = 64 << 20;
    let path = folder.join(name);
    let metadata = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open a tokenizer's file", &path, &e)),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(Error::input("a tokenizer's file is no file, or too large for one")
            .file(&path)
            .expected(format!("a file of at most {MAX_BYTES} bytes"), metadata.len()));
    }
    let bytes =
        std::fs::read(&path).map_err(|e| Error::io("read a tokenizer's file", &path, &e))?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(Error::input("a tokenizer's file is not a JSON object").file(&path)),
        Err(e) => {
            Err(Error::input("a tokenizer's file is not valid JSON").file(&path).fact("reason", e))
        }
    }
}
