//! What the header of a shard says of the merge that wrote it.

use super::{MAX_NAMES, Parents, is_name};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Take};
use std::path::{Path, PathBuf};

/// The longest header that safetensors files may have, in bytes.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Header {
    #[serde(default, rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
}

/// What the header of a safetensors file, or of the first in a folder, says: methods, models, base. None
/// where it says nothing.
pub fn parse_label(path: &Path) -> Option<Parents> {
    let mut file = File::open(first(path)?).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return None;
    }
    let header: Take<File> = file.take(length);
    let mut text = Vec::new();
    std::io::BufReader::new(header).read_to_end(&mut text).ok()?;
    let header: Header = serde_json::from_slice(&text).ok()?;
    let names = |key: &str| -> Vec<String> {
        let value = header.metadata.get(key).map(String::as_str).unwrap_or_default();
        let names = value.split(", ").filter(|name| is_name(name));
        // A list that was cut says how many it lacks.
        let names = names.filter(|name| !(name.starts_with("and ") && name.ends_with(" more")));
        names.take(MAX_NAMES).map(str::to_string).collect()
    };
    let models = names("cognate.models");
    let (methods, bases) = (names("cognate.methods"), names("cognate.base_model"));
    (!models.is_empty()).then_some(Parents { methods, models, bases })
}

/// The file itself, or the first safetensors file of a folder by name.
fn first(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_path_buf());
    }
    let entries = std::fs::read_dir(path).ok()?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let files = files.filter(|file| file.extension().is_some_and(|end| end == "safetensors"));
    files.filter(|file| file.is_file()).min()
}
