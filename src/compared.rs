//! Models side by side, as `cognate eval` takes them: folders, files, names on the Hub, and recipes
//! whose merges were not written.

use crate::engine::Progress;
use crate::error::{Error, Result};
use crate::eval::compare::Against;
use crate::eval::items::Items;
use crate::eval::{Contender, Evaluation, Report, Settings, decoder};
use crate::lineage;
use crate::merge::Merge;
use crate::model::hub::Fetch;
use crate::model::{Checkpoint, Finder};
use crate::plan;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Models that are compared: the first with the others.
pub struct Compared {
    models: Vec<(String, Checkpoint)>,
    against: Against,
    /// What the recipe of the first asks.
    asked: Option<Settings>,
    /// Folders that hold the tokenizers of merges that were not written.
    _files: Vec<TempDir>,
}

/// Whether a reference is a recipe's file.
fn recipe(reference: &str) -> Option<&Path> {
    let path = Path::new(reference);
    let yaml = path.extension().is_some_and(|end| end == "yml" || end == "yaml");
    (yaml && !path.is_dir()).then_some(path)
}

impl Compared {
    /// Opens the models. `base` names the one that is the base; without it, the first model's lineage
    /// or recipe may know. All others are the first one's parents. A single recipe is compared with
    /// what its `evaluate` says: its parents as a rule. `set` overrides keys of recipes.
    ///
    /// # Errors
    /// A model cannot be opened, or is named twice.
    pub fn open(
        references: &[String],
        base: Option<&str>,
        set: &[String],
        fetch: Fetch<'_>,
    ) -> Result<Self> {
        let finder = Finder::new(Path::new(""), Some(fetch));
        let (mut models, mut files) = (Vec::<(String, Checkpoint)>::new(), Vec::new());
        let (mut asked, mut own, mut known_base) = (None, None, None);
        for (i, reference) in references.iter().enumerate() {
            if references[..i].contains(reference) {
                return Err(Error::input("a model is named twice").fact("model", reference));
            }
            let Some(file) = recipe(reference) else {
                models.push((reference.clone(), finder.open(reference)?));
                continue;
            };
            let options = plan::Options { set: set.to_vec(), ..plan::Options::default() };
            let merge = Merge::open_with(file, &options, fetch)?;
            let (output, folder) = merge.unwritten()?;
            models.push((reference.clone(), output));
            files.extend(folder);
            if i == 0 {
                asked = merge.asked();
                known_base = merge.recipe.last().base_model.as_ref().map(|base| base.value.clone());
                if references.len() == 1 {
                    own = Some((merge.rivals()?, merge.against(1)));
                }
            }
        }
        if let Some((rivals, against)) = own {
            models.extend(rivals);
            return Ok(Self { models, against, asked, _files: files });
        }
        let place = match base {
            Some(base) => match models.iter().position(|(name, _)| name == base) {
                Some(place) => Some(place),
                None => {
                    models.push((base.to_string(), finder.open(base)?));
                    Some(models.len() - 1)
                }
            },
            None => {
                let first = models.first().map(|(_, model)| &*model.folder);
                let known = known_base.or_else(|| recorded_base(first?));
                known.and_then(|known| {
                    let short = |name: &str| lineage::short_name(name).to_string();
                    let mut same =
                        (1..models.len()).filter(|i| short(&models[*i].0) == short(&known));
                    same.next().filter(|_| same.next().is_none())
                })
            }
        };
        let parents = (1..models.len()).filter(|i| Some(*i) != place).collect();
        let against = Against { parents, base: place.filter(|place| *place > 0) };
        Ok(Self { models, against, asked, _files: files })
    }

    /// What the first model's recipe asks, where it is a recipe that does.
    pub fn asked(&self) -> Option<Settings> {
        self.asked.clone()
    }

    /// Evaluates all models.
    ///
    /// # Errors
    /// As [`Evaluation::run`].
    pub fn evaluate(
        &self,
        evaluation: &Evaluation,
        items: &[Items<'_>],
        options: &decoder::Options,
        progress: &Progress,
    ) -> Result<Report> {
        let models: Vec<Contender<'_>> = self
            .models
            .iter()
            .map(|(name, checkpoint)| Contender { name: name.clone(), checkpoint })
            .collect();
        evaluation.run(items, &models, &self.against, options, progress)
    }

    /// Records a report in the first model's folder, where cognate wrote that; the folder if so.
    ///
    /// # Errors
    /// A file of the folder cannot be written.
    pub fn record(&self, report: &Report) -> Result<Option<PathBuf>> {
        let Some((name, model)) = self.models.first() else {
            return Ok(None);
        };
        // What is no folder of its own has none to record in.
        if recipe(name).is_some() || model.hub.is_some() || !model.adapters().is_empty() {
            return Ok(None);
        }
        Ok(lineage::record(&model.folder, report)?.then(|| model.folder.clone()))
    }
}

/// The base that a folder's lineage names.
fn recorded_base(folder: &Path) -> Option<String> {
    let text = std::fs::read(folder.join("lineage.json")).ok()?;
    let manifest: Value = serde_json::from_slice(&text).ok()?;
    manifest["recipe"]["resolved"]["base_model"].as_str().map(str::to_string)
}
