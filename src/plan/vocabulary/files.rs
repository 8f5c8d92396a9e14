//! The files that follow a new vocabulary: tokenizer, configs, chat template.

use super::{Chosen, Vocabulary};
use crate::error::{Error, Result, list};
use crate::model::{
    ChatTemplate, Checkpoint, Config, TOKENIZER, TokenizerSettingsFile, chat_template,
    is_tokenizer_file, move_token_ids,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

impl Vocabulary {
    /// The files of the output's tokenizer, where they are not the donor's as they stand.
    pub(super) fn write_tokenizer(&mut self, chosen: &Chosen, donor: &Path) -> Result<()> {
        if !chosen.edited && chosen.folder == donor {
            return Ok(());
        }
        self.replaced = true;
        let mut left = Vec::new();
        for name in tokenizer_files(&chosen.folder)? {
            let follows =
                ["special_tokens_map.json", "chat_template.jinja"].contains(&name.as_str());
            if chosen.edited && !follows {
                if ![TOKENIZER, "tokenizer_config.json", "added_tokens.json"]
                    .contains(&name.as_str())
                {
                    left.push(name);
                }
                continue;
            }
            let path = chosen.folder.join(&name);
            let bytes = std::fs::read(&path)
                .map_err(|e| Error::io("read a tokenizer's file", &path, &e))?;
            self.files.insert(name, bytes);
        }
        if chosen.edited {
            self.files.insert(TOKENIZER.to_string(), chosen.file.to_text()?);
            let mut settings = TokenizerSettingsFile::open(&chosen.folder)?;
            if !settings.is_empty() {
                settings.set_added(&chosen.file.added);
                self.files.insert("tokenizer_config.json".to_string(), settings.to_text());
            }
        }
        if !left.is_empty() {
            self.notes.push(format!(
                "left out, since they hold the old vocabulary: {}",
                list(left.iter().map(String::as_str))
            ));
        }
        Ok(())
    }

    /// `generation_config.json` in the output's ids.
    pub(super) fn move_generation_ids(&mut self, donor: &Path) -> Result<()> {
        const FILE: &str = "generation_config.json";
        let Some(moved) = &self.moved else { return Ok(()) };
        let path = donor.join(FILE);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
        let mut map = match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => map,
            _ => {
                return Err(Error::input("generation_config.json is not a JSON object").file(&path));
            }
        };
        let lines = move_token_ids(&mut map, &|id| moved.get(&id).copied());
        if !lines.is_empty() {
            self.notes.extend(lines.into_iter().map(|line| format!("{FILE}: {line}")));
            let text = format!("{:#}\n", Value::Object(map));
            self.files.insert(FILE.to_string(), text.into_bytes());
        }
        Ok(())
    }

    pub(super) fn chat_template(
        &mut self,
        wanted: &ChatTemplate,
        models: &[Checkpoint],
        donor: usize,
    ) -> Result<()> {
        let text = match wanted {
            ChatTemplate::Text(text) => text.clone(),
            ChatTemplate::Auto => {
                let mut counts: Vec<(String, usize)> = Vec::new();
                for model in models {
                    let Some(template) = chat_template(&model.folder)? else { continue };
                    let template = template.trim();
                    match counts.iter_mut().find(|(known, _)| known == template) {
                        _ if template.is_empty() => {}
                        Some((_, count)) => *count += 1,
                        None => counts.push((template.to_string(), 1)),
                    }
                }
                // The first of those that are equally common.
                let best = counts.iter().rev().max_by_key(|(_, count)| *count);
                let Some((text, count)) = best else {
                    self.warnings.push("chat_template: no model has one".to_string());
                    return Ok(());
                };
                self.notes.push(format!("chat template: that of {count} of the models"));
                text.clone()
            }
        };
        const CONFIG: &str = "tokenizer_config.json";
        let mut settings = match self.files.get(CONFIG) {
            Some(bytes) => TokenizerSettingsFile::parse(bytes)?,
            None if self.replaced => TokenizerSettingsFile::default(),
            None => TokenizerSettingsFile::open(&models[donor].folder)?,
        };
        if settings.is_empty() {
            self.warnings.push(
                "chat_template: there is no tokenizer_config.json, so only chat_template.jinja is written"
                    .to_string(),
            );
        } else {
            settings.set_chat_template(&text);
            self.files.insert(CONFIG.to_string(), settings.to_text());
        }
        self.files.insert("chat_template.jinja".to_string(), text.into_bytes());
        Ok(())
    }

    /// Whether the donor's file of this name is copied.
    pub(in crate::plan) fn keeps(&self, name: &str) -> bool {
        !(self.files.contains_key(name) || self.replaced && is_tokenizer_file(name))
    }

    /// Edits the donor's config; returns the edits in words.
    pub(in crate::plan) fn edit(&self, config: &mut Config) -> Vec<String> {
        let mut edits = Vec::new();
        if let Some((old, new)) = self.rows.filter(|(old, new)| old != new) {
            for key in config.set_vocabulary_size(old, new) {
                edits.push(format!("{key}: {old} → {new}"));
            }
        }
        if let Some(moved) = &self.moved {
            edits.extend(config.move_token_ids(&|id| moved.get(&id).copied()));
        }
        edits
    }
}

/// The names of a folder's tokenizer files, sorted.
fn tokenizer_files(folder: &Path) -> Result<BTreeSet<String>> {
    let failed = |e: std::io::Error| Error::io("list the model folder", folder, &e);
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_tokenizer_file(&name) && entry.path().is_file() {
            names.insert(name);
        }
    }
    Ok(names)
}
