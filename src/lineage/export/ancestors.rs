//! The models that a model was made of, and those that these were made of, as far as the lineage has them.

use super::card::Card;
use crate::lineage::short_name;
use crate::recipe::stage_part;
use serde_json::Value;
use std::collections::BTreeSet;

/// A model that went in, or an adapter.
#[derive(Clone, Debug, Default)]
pub(super) struct Ancestor {
    /// Its name on the Hub, or the last part of how the recipe refers to it.
    pub(super) name: String,
    /// Its name on the Hub.
    pub(super) repo: Option<String>,
    /// The commit of that.
    pub(super) revision: Option<String>,
    /// The digest of its weights, as `docs/lineage.md` defines it.
    pub(super) digest: Option<String>,
    /// Whether it is a LoRA adapter.
    pub(super) adapter: bool,
    /// What its card declares.
    pub(super) card: Card,
    /// What it was made of in turn: places in the list.
    pub(super) parents: Vec<usize>,
}

/// All ancestors, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Ancestors {
    /// In the order in which they are met.
    pub(super) all: Vec<Ancestor>,
    /// The direct ones: places in the list.
    pub(super) direct: Vec<usize>,
}

/// Generations that are followed; a record that leads to itself ends here.
const MOST_GENERATIONS: usize = 64;

impl Ancestors {
    /// Those that a manifest records.
    pub(super) fn of_manifest(manifest: &Value) -> Self {
        let mut found = Self::default();
        found.direct = found.inputs_of(manifest, &manifest["ancestors"], 0);
        found
    }

    /// Those that a card declares.
    pub(super) fn of_card(card: &Card) -> Self {
        let mut found = Self::default();
        for name in &card.base_model {
            let repo = (name.split('/').count() == 2).then(|| name.clone());
            let ancestor = Ancestor { name: name.clone(), repo, ..Ancestor::default() };
            let at = found.add(ancestor);
            if !found.direct.contains(&at) {
                found.direct.push(at);
            }
        }
        found
    }

    /// Adds the inputs of all stages of a manifest; where they stand.
    fn inputs_of(&mut self, manifest: &Value, elders: &Value, depth: usize) -> Vec<usize> {
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let stages = list(&manifest["stages"]);
        let names: BTreeSet<&str> =
            stages.iter().filter_map(|stage| stage["name"].as_str()).collect();
        let mut places = Vec::new();
        for stage in stages.iter().chain([manifest]) {
            for input in list(&stage["inputs"]) {
                let reference = input["model"].as_str().unwrap_or_default();
                let adapters = list(&input["adapters"]);
                // A `+` in a reference without adapters is one of a folder's name.
                let model = if adapters.is_empty() { reference } else { stage_part(reference) };
                if !names.contains(model) {
                    let mut own = described(&input, model, false);
                    let elder = input["lineage"]["sha256"].as_str().map(|digest| &elders[digest]);
                    if let Some(elder) = elder.filter(|elder| elder.is_object())
                        && depth < MOST_GENERATIONS
                    {
                        own.parents = self.inputs_of(elder, elders, depth + 1);
                    } else {
                        let declared = Self::of_card(&own.card).all.into_iter();
                        own.parents = declared.map(|parent| self.add(parent)).collect();
                    }
                    places.push(self.add(own));
                }
                for adapter in &adapters {
                    let reference = adapter["adapter"].as_str().unwrap_or_default();
                    let own = described(adapter, reference, true);
                    places.push(self.add(own));
                }
            }
        }
        let mut seen = BTreeSet::new();
        places.retain(|place| seen.insert(*place));
        places
    }

    fn add(&mut self, ancestor: Ancestor) -> usize {
        let key = |a: &Ancestor| (a.name.clone(), a.revision.clone(), a.digest.clone());
        let at = self.all.iter().position(|other| key(other) == key(&ancestor));
        at.unwrap_or_else(|| {
            self.all.push(ancestor);
            self.all.len() - 1
        })
    }
}

fn described(entry: &Value, reference: &str, adapter: bool) -> Ancestor {
    let text = |key: &str| entry[key].as_str().map(str::to_string);
    let repo = text("repo");
    // The digest of a model with adapters covers these, too.
    let digest = text("digest").filter(|_| entry["adapters"].is_null());
    Ancestor {
        name: repo.clone().unwrap_or_else(|| short_name(reference).to_string()),
        repo,
        revision: text("revision"),
        digest,
        adapter,
        card: Card::of_record(&entry["card"]),
        parents: Vec::new(),
    }
}

impl Ancestor {
    /// Its package URL, where it is on the Hub
    /// (<https://github.com/package-url/purl-spec/blob/main/types-doc/huggingface-definition.md>).
    pub(super) fn purl(&self) -> Option<String> {
        let repo = self.repo.as_ref()?;
        Some(match &self.revision {
            Some(revision) => format!("pkg:huggingface/{repo}@{revision}"),
            None => format!("pkg:huggingface/{repo}"),
        })
    }

    /// The page of its commit on the Hub.
    pub(super) fn commit_page(&self) -> Option<String> {
        let (repo, revision) = (self.repo.as_ref()?, self.revision.as_ref()?);
        Some(format!("https://huggingface.co/{repo}/commit/{revision}"))
    }
}
