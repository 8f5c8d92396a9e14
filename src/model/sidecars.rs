//! The files beside the weights that belong to a model: tokenizer, templates, processor settings,
//! sentence-transformers modules, custom code, licences.

use crate::error::{Error, Result};
use std::path::Path;

/// Endings of files that hold weights or training state; never copied.
pub const WEIGHT_FILES: [&str; 14] = [
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".ot",
    ".npz",
];

/// Whether a file name is one of weights.
pub fn is_weight_file(name: &str) -> bool {
    WEIGHT_FILES.iter().any(|ending| name.ends_with(ending))
}

/// Files that belong to a tokenizer (and not to the model as a whole), by the start and end of their
/// names; either may be empty.
const OF_TOKENIZERS: [(&str, &str); 20] = [
    ("tokenizer", ".json"),
    ("tokenizer", ".model"),
    ("tokenizer.model.v", ""),
    ("tekken", ".json"),
    ("special_tokens_map", ".json"),
    ("added_tokens", ".json"),
    ("vocab", ".json"),
    ("vocab", ".txt"),
    ("vocab", ".bpe"),
    ("merges", ".txt"),
    ("normalizer", ".json"),
    ("bpe", ".codes"),
    ("dict", ".txt"),
    ("spiece", ".model"),
    ("spm", ".model"),
    ("source", ".spm"),
    ("target", ".spm"),
    ("sentencepiece", ".model"),
    ("", ".tiktoken"),
    ("chat_template", ".jinja"),
];

/// The other files of a model's folder that belong to the model; `config.json` itself is written anew.
const BELONGS: [(&str, &str); 11] = [
    ("", "tokenizer.py"),
    ("chat_template", ""),
    ("generation_config", ".json"),
    ("", "processor_config.json"),
    ("modules", ".json"),
    ("sentence_", "_config.json"),
    ("config_sentence_transformers", ".json"),
    ("", ".py"),
    ("LICENSE", ""),
    ("NOTICE", ""),
    ("USE_POLICY", ""),
];

/// Folders that belong to the model: chat templates, and sentence-transformers modules (`1_Pooling`).
fn folder_belongs(name: &str) -> bool {
    let module = name.split_once('_').is_some_and(|(number, kind)| {
        !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && kind.starts_with(|c: char| c.is_ascii_uppercase())
    });
    module || name == "additional_chat_templates"
}

fn listed(name: &str, files: &[(&str, &str)]) -> bool {
    files.iter().any(|(start, end)| name.starts_with(start) && name.ends_with(end))
}

fn file_belongs(name: &str) -> bool {
    (is_tokenizer_file(name) || listed(name, &BELONGS)) && !is_weight_file(name)
}

/// Whether a file beside the weights belongs to the tokenizer.
pub(crate) fn is_tokenizer_file(name: &str) -> bool {
    listed(name, &OF_TOKENIZERS)
}

/// Whether the file at this path of a model's folder belongs to the model.
pub(crate) fn belongs(path: &str) -> bool {
    match path.split_once('/') {
        Some((folder, inner)) => folder_belongs(folder) && !inner.contains('/'),
        None => file_belongs(path),
    }
}

/// What stands beside the weights in a model folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecars {
    /// Paths relative to the folder that belong to the model, sorted.
    pub copied: Vec<String>,
    /// Paths that are left behind, sorted.
    pub left: Vec<String>,
}

impl Sidecars {
    /// Sorts the entries of a model folder. A model that is one file has nothing beside it.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn find(folder: &Path) -> Result<Self> {
        let mut found = Self::default();
        if folder.is_file() {
            return Ok(found);
        }
        for (name, is_folder) in list(folder)? {
            // Written anew for the merge, or no part of a model.
            let own = [
                "config.json",
                "README.md",
                "lineage.json",
                "eval.json",
                "mergekit_config.yml",
                "mergekit_moe_config.yml",
            ];
            if own.contains(&name.as_str()) || is_weight_file(&name) || name.starts_with('.') {
                continue;
            }
            if is_folder && folder_belongs(&name) {
                // A module's own weights (2_Dense/model.safetensors) belong to it.
                for (inner, nested) in list(&folder.join(&name))? {
                    if !nested {
                        found.copied.push(format!("{name}/{inner}"));
                    }
                }
            } else if !is_folder && file_belongs(&name) {
                found.copied.push(name);
            } else {
                found.left.push(name);
            }
        }
        found.copied.sort();
        found.left.sort();
        Ok(found)
    }
}

/// The entries of a folder with whether each is a folder itself; links are followed, since the Hub
/// cache is made of them.
fn list(folder: &Path) -> Result<Vec<(String, bool)>> {
    let failed = |e: std::io::Error| Error::io("list the model folder", folder, &e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_folder = std::fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
        entries.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
    }
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_tokenizer_belong() {
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "tokenizer.model",
            "tokenizer.model.v3",
            "vocab.json",
            "merges.txt",
            "vocab.txt",
            "spiece.model",
            "sentencepiece.bpe.model",
            "qwen.tiktoken",
            "tekken.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "chat_template.jinja",
            "chat_template.json",
            "generation_config.json",
            "preprocessor_config.json",
            "processor_config.json",
            "video_preprocessor_config.json",
            "modules.json",
            "sentence_bert_config.json",
            "config_sentence_transformers.json",
            "modeling_custom.py",
            "LICENSE",
            "normalizer.json",
        ] {
            assert!(file_belongs(name), "{name}");
        }
        for name in [
            "training_args.json",
            "optimizer.pt",
            "rng_state.pth",
            "trainer_state.json",
            "events.out",
        ] {
            assert!(!file_belongs(name), "{name}");
        }
        assert!(folder_belongs("1_Pooling") && folder_belongs("2_Dense"));
        assert!(!folder_belongs("onnx") && !folder_belongs("runs"));
    }
}
