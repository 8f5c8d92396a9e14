//! What a model's folder says of its own origin: its card, mergekit's recipe, an earlier manifest, the
//! base that an adapter was trained on.
//!
//! All of it is foreign text. What cannot be read is left out, with a sentence that says so; it never
//! is an error.

mod adapter;
mod card;
mod label;
mod manifest;
mod mergekit;

pub use card::{Card, parse_card};
pub use label::parse_label;
pub use manifest::{ParentManifest, parse_manifest};
pub use mergekit::{Parents, parse_mergekit, recipe_in_card};

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The file of a model card.
pub(crate) const CARD: &str = "README.md";

/// The files that mergekit and mergekit-moe leave in an output; of two, the first is read.
pub(crate) const MERGEKIT: [&str; 2] = ["mergekit_config.yml", "mergekit_moe_config.yml"];

/// Where a shard's header stands.
pub(crate) const LABEL: &str = "the header of the weights";

/// The file of an adapter's config.
pub(crate) const ADAPTER: &str = "adapter_config.json";

/// Longer cards, mergekit configs and adapter configs, in bytes, are not read.
const MAX_TEXT_BYTES: u64 = 4 << 20;

/// A longer lineage.json, in bytes, is not read.
const MAX_MANIFEST_BYTES: u64 = 1 << 30;

/// Longer names, in bytes, are left out.
const MAX_NAME: usize = 500;

/// More names in one list are left out.
const MAX_NAMES: usize = 1000;

/// What a folder declares of its origin. Nothing in it was checked against weights.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// The front matter of its card, where there is one that declares anything.
    pub card: Option<Card>,
    /// The recipe in the body of a card that mergekit or cognate wrote.
    pub card_recipe: Option<Parents>,
    /// The text of the recipe that mergekit left in it.
    pub mergekit: Option<String>,
    /// The file of that text.
    pub mergekit_file: Option<&'static str>,
    /// The models that it names.
    pub mergekit_parents: Option<Parents>,
    /// Its `lineage.json`, if cognate wrote it.
    pub manifest: Option<ParentManifest>,
    /// `base_model_name_or_path` of its `adapter_config.json`.
    pub adapter_base: Option<String>,
    /// What the header of its weights says, where that was asked for.
    pub label: Option<Parents>,
    /// What was not read, each with its file and the reason.
    pub notes: Vec<String>,
}

impl Declared {
    /// Reads what the folder says. A model that is one file says nothing.
    pub fn read(folder: &Path) -> Self {
        let mut found = Self::default();
        if !folder.is_dir() {
            return found;
        }
        if let Some(text) = found.text(folder, CARD) {
            match parse_card(&text) {
                Ok((card, notes)) => {
                    found.card_recipe = recipe_in_card(&text, &card);
                    found.card = card.declares().then_some(card);
                    found.notes.extend(notes.into_iter().map(|note| format!("{CARD}: {note}")));
                }
                Err(reason) => found.not_read(CARD, &reason),
            }
        }
        for file in MERGEKIT {
            let Some(text) = found.text(folder, file) else { continue };
            match parse_mergekit(&text) {
                Ok(parents) => {
                    found.mergekit_parents = Some(parents);
                    found.mergekit = Some(text);
                    found.mergekit_file = Some(file);
                    break;
                }
                Err(reason) => found.not_read(file, &reason),
            }
        }
        if let Some(text) = found.text(folder, ADAPTER) {
            match adapter::base(&text) {
                Ok(base) => found.adapter_base = base,
                Err(reason) => found.not_read(ADAPTER, &reason),
            }
        }
        match opened(&folder.join(super::FILE), MAX_MANIFEST_BYTES) {
            Ok(None) => {}
            Ok(Some(file)) => match manifest::read(file) {
                Ok(read) => {
                    let notes = read.notes.iter().map(|note| format!("{}: {note}", super::FILE));
                    found.notes.extend(notes);
                    found.manifest = Some(read);
                }
                Err(reason) => found.not_read(super::FILE, &reason),
            },
            Err(reason) => found.not_read(super::FILE, &reason),
        }
        found
    }

    /// The text of a file of the folder, if there is one that can be read.
    fn text(&mut self, folder: &Path, name: &str) -> Option<String> {
        let read = || -> Result<Option<String>, String> {
            let Some(file) = opened(&folder.join(name), MAX_TEXT_BYTES)? else { return Ok(None) };
            let mut text = String::new();
            let mut file = file.take(MAX_TEXT_BYTES);
            file.read_to_string(&mut text).map_err(|e| plain_reason(&e))?;
            Ok(Some(text))
        };
        match read() {
            Ok(text) => text,
            Err(reason) => {
                self.not_read(name, &reason);
                None
            }
        }
    }

    fn not_read(&mut self, file: &str, reason: &str) {
        self.notes.push(format!("{file} was not read: {reason}"));
    }
}

/// A plain file of at most so many bytes, opened; none where there is nothing.
fn opened(path: &Path, most: u64) -> Result<Option<File>, String> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(plain_reason(&e)),
    };
    if !metadata.is_file() {
        return Err("it is not a file".to_string());
    }
    if metadata.len() > most {
        return Err(format!("it has {} bytes, and {most} are read at most", metadata.len()));
    }
    File::open(path).map(Some).map_err(|e| plain_reason(&e))
}

/// A reason without the system's numbers.
fn plain_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::InvalidData => "it is not UTF-8".to_string(),
        std::io::ErrorKind::PermissionDenied => "the permission is lacking".to_string(),
        kind => kind.to_string(),
    }
}

/// Whether a foreign name may go on into records: not empty, short, on one line.
fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

/// The options that foreign YAML is read with.
fn yaml_options() -> serde_yaml::Options {
    const NODES: usize = 100_000;
    serde_yaml::options! {
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::LastWins,
        budget: serde_yaml::budget! { max_nodes: NODES, max_depth: 64 },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: NODES },
    }
}

/// Why YAML was refused, on one line.
fn yaml_reason(error: &serde_yaml::Error) -> String {
    let reason = error.without_snippet().to_string();
    let reason = reason.lines().next().unwrap_or_default();
    reason.chars().filter(|c| !c.is_control()).take(300).collect()
}
