//! The models and adapters that an output is made of, through all stages, and what they declare.

use super::declared::{Declared, ParentManifest, parse_mergekit};
use super::licences::{self, OTHER};
use super::short_name;
use crate::model::Checkpoint;
use crate::model::hub::{HubReference, Resolved};
use crate::recipe::stage_part;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// More ancestors than this are left out of a card.
const MAX_ANCESTORS: usize = 500;

/// A model or an adapter, as a recipe refers to it.
#[derive(Clone, Debug)]
pub struct Member {
    /// How the recipe refers to it.
    pub reference: String,
    /// Its name on the Hub and its commit, if it comes from there.
    pub hub: Option<(String, String)>,
    /// What its folder declares.
    pub declared: Arc<Declared>,
}

/// The parents of an output: models that are no stages, and adapters.
#[derive(Clone, Debug, Default)]
pub struct Family {
    members: Vec<Member>,
}

/// What models declare, each folder read once.
#[derive(Default)]
pub(crate) struct Declarations(BTreeMap<String, Arc<Declared>>);

impl Member {
    /// The name by which cards call it: the Hub's, or its folder's last name.
    pub fn name(&self) -> &str {
        self.hub.as_ref().map_or_else(|| short_name(&self.reference), |(repo, _)| repo)
    }

    /// The same with the commit: `org/name@commit`.
    pub(crate) fn exact_name(&self) -> String {
        match &self.hub {
            Some((repo, commit)) => format!("{repo}@{commit}"),
            None => short_name(&self.reference).to_string(),
        }
    }

    /// The licence it declares.
    fn license(&self) -> Option<&str> {
        let card = self.declared.card.as_ref().and_then(|card| card.license.as_deref());
        card.or_else(|| self.recorded()["license"]["license"].as_str())
    }

    /// That its card asks less than its manifest records, if it does.
    fn laxer(&self) -> Option<String> {
        let card = self.declared.card.as_ref()?.license.as_deref()?;
        let recorded = self.recorded()["license"]["license"].as_str()?;
        let most = licences::most_restrictive([Some(card), Some(recorded)].into_iter())?;
        (most != card).then(|| {
            let name = self.name();
            format!("licences: the card of {name} says {card}, its lineage.json {recorded}, which counts")
        })
    }

    /// What its manifest records, in short; null where there is none.
    fn recorded(&self) -> &Value {
        self.declared.manifest.as_ref().map_or(&Value::Null, |manifest| &manifest.short)
    }

    /// The licences that its manifest records of its own parents, and of theirs.
    fn inherited(&self) -> impl Iterator<Item = (&str, &str)> {
        let of = self.recorded()["license"]["of"].as_array().into_iter().flatten();
        of.filter_map(|entry| Some((entry["model"].as_str()?, entry["license"].as_str()?)))
    }
}

impl Family {
    /// The models and adapters of one stage; `stages` are the names that mean other stages.
    pub(crate) fn of(models: &[Checkpoint], stages: &[&str], known: &mut Declarations) -> Self {
        let mut family = Self::default();
        for model in models {
            // A `+` in a reference without adapters is one of a folder's name.
            let reference = match model.adapters() {
                [] => model.reference.as_str(),
                _ => stage_part(&model.reference),
            };
            if !stages.contains(&reference) {
                family.add(known.member(reference, model.hub.as_deref(), &model.folder));
            }
            for adapter in model.adapters() {
                let hub = adapter.hub.as_deref();
                family.add(known.member(&adapter.reference, hub, &adapter.folder));
            }
        }
        family
    }

    /// Adds those of another stage.
    pub(crate) fn join(&mut self, other: &Self) {
        other.members.iter().for_each(|member| self.add(member.clone()));
    }

    fn add(&mut self, member: Member) {
        if self.member(&member.reference).is_none() {
            self.members.push(member);
        }
    }

    /// The member of a reference.
    pub(crate) fn member(&self, reference: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.reference == reference)
    }

    /// All of them, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The names for `base_model` of a card: the parents first, then their ancestors that have a name on
    /// the Hub, generation by generation; each once.
    pub fn ancestors(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        for member in &self.members {
            if seen.insert(member.name().to_string()) {
                names.push(member.name().to_string());
            }
        }
        let manifests: Vec<&ParentManifest> =
            self.members.iter().filter_map(|member| member.declared.manifest.as_ref()).collect();
        let mut table: BTreeMap<&str, &Value> = BTreeMap::new();
        for manifest in &manifests {
            table.insert(&manifest.sha256, &manifest.short);
        }
        for manifest in &manifests {
            for (sha256, short) in &manifest.ancestors {
                table.entry(sha256).or_insert(short);
            }
        }
        let mut found: Vec<String> = Vec::new();
        let mut read: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = Vec::new();
        for member in &self.members {
            let declared = &member.declared;
            if let Some(manifest) = &declared.manifest {
                next.push(&manifest.sha256);
            }
            let card = declared.card.iter().flat_map(|card| &card.base_model);
            let mergekit = declared.mergekit_parents.iter().flat_map(|parents| &parents.models);
            found.extend(card.chain(mergekit).chain(&declared.adapter_base).cloned());
        }
        while !next.is_empty() {
            let mut after = Vec::new();
            for sha256 in next {
                let Some(manifest) = table.get(sha256).filter(|_| read.insert(sha256)) else {
                    continue;
                };
                for input in recorded_inputs(manifest) {
                    named_in(input, &mut found);
                    after.extend(input["lineage"]["sha256"].as_str());
                }
            }
            next = after;
        }
        for name in found {
            let Some(hub) = HubReference::parse(&name) else { continue };
            if names.len() < MAX_ANCESTORS && seen.insert(hub.repo.clone()) {
                names.push(hub.repo);
            }
        }
        names
    }

    /// The datasets that cards of parents name, each once, in order.
    pub fn datasets(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for member in &self.members {
            let card = member.declared.card.iter().flat_map(|card| &card.datasets);
            let recorded = member.recorded()["datasets"].as_array().into_iter().flatten();
            let recorded = recorded.filter_map(Value::as_str);
            for name in card.map(String::as_str).chain(recorded) {
                if !found.iter().any(|known| known == name) {
                    found.push(name.to_string());
                }
            }
        }
        found
    }

    /// Each parent's name with its licence; behind them the ancestors whose licences parents' manifests
    /// record, since a merge stays bound by what it was made of, whatever its own card says.
    fn licences(&self) -> Vec<(&str, Option<&str>)> {
        let mut all: Vec<_> =
            self.members.iter().map(|member| (member.name(), member.license())).collect();
        for (name, license) in self.members.iter().flat_map(Member::inherited) {
            if !all.contains(&(name, Some(license))) {
                all.push((name, Some(license)));
            }
        }
        all
    }

    /// The licence that asks most, with `license_name` and `license_link` where the Hub has no
    /// identifier for it.
    pub(crate) fn license(&self) -> Option<Map<String, Value>> {
        let all = self.licences();
        let id = licences::most_restrictive(all.iter().map(|(_, id)| *id))?;
        let mut found = Map::new();
        if licences::is_listed(id) {
            found.insert("license".to_string(), id.into());
        } else {
            found.insert("license".to_string(), OTHER.into());
            found.insert("license_name".to_string(), id.into());
        }
        let of = self.members.iter().find(|member| member.license() == Some(id));
        let card = of.and_then(|member| member.declared.card.as_ref());
        if found["license"] == OTHER {
            // Where only a manifest says `other`, it has name and link too.
            let mut recorded = self.members.iter().map(|member| &member.recorded()["license"]);
            let recorded = recorded.find(|recorded| id == OTHER && recorded["license"] == OTHER);
            let of_card = card.map(|card| (card.license_name.clone(), card.license_link.clone()));
            let text = |key: &str| recorded.and_then(|of| of[key].as_str().map(str::to_string));
            let (name, link) =
                of_card.unwrap_or_else(|| (text("license_name"), text("license_link")));
            for (key, value) in [("license_name", name), ("license_link", link)] {
                if let Some(value) = value {
                    found.insert(key.to_string(), value.into());
                }
            }
        }
        Some(found)
    }

    /// The licences as the manifest records them.
    pub(crate) fn license_json(&self) -> Value {
        let of = self.licences().into_iter();
        let of = of.map(|(model, license)| json!({"model": model, "license": license}));
        let mut found = self.license().unwrap_or_default();
        let mut entry = Map::new();
        let license = found.shift_remove("license").unwrap_or_default();
        entry.insert("license".to_string(), license);
        entry.extend(found);
        entry.insert("of".to_string(), of.collect());
        entry.insert("conflicts".to_string(), licences::conflicts(&self.licences()).into());
        Value::Object(entry)
    }

    /// What is to be looked into about the parents' licences.
    pub(crate) fn license_warnings(&self) -> Vec<String> {
        let all = self.licences();
        let conflicts = licences::conflicts(&all).into_iter();
        conflicts
            .map(|conflict| format!("licences: {conflict}; this is a hint, no legal advice"))
            .chain(licences::unknown_beside(&all).map(|warning| format!("licences: {warning}")))
            .chain(self.members.iter().filter_map(Member::laxer))
            .collect()
    }

    /// What of the parents' own records was not read.
    pub(crate) fn notes(&self) -> Vec<String> {
        let note = |member: &Member| -> Vec<String> {
            let notes = member.declared.notes.iter();
            notes.map(|note| format!("{}: {note}", member.reference)).collect()
        };
        self.members.iter().flat_map(note).collect()
    }

    /// The manifests of all ancestors in short form, by the SHA-256 of their files; what parents' own
    /// files say goes before what others say of them.
    pub(crate) fn manifests(&self) -> Map<String, Value> {
        let mut table: BTreeMap<&str, &Value> = BTreeMap::new();
        let manifests =
            || self.members.iter().filter_map(|member| member.declared.manifest.as_ref());
        for manifest in manifests() {
            table.insert(&manifest.sha256, &manifest.short);
        }
        for (sha256, short) in manifests().flat_map(|manifest| &manifest.ancestors) {
            table.entry(sha256).or_insert(short);
        }
        table.into_iter().map(|(sha256, short)| (sha256.to_string(), short.clone())).collect()
    }
}

impl Declarations {
    fn member(&mut self, reference: &str, hub: Option<&Resolved>, folder: &Path) -> Member {
        let read = || Arc::new(Declared::read(folder));
        let declared = self.0.entry(reference.to_string()).or_insert_with(read);
        Member {
            reference: reference.to_string(),
            hub: hub.map(|hub| (hub.reference.repo.clone(), hub.commit.clone())),
            declared: Arc::clone(declared),
        }
    }
}

/// The inputs of a recorded merge and of its stages.
fn recorded_inputs(manifest: &Value) -> impl Iterator<Item = &Value> {
    let stages = manifest["stages"].as_array().into_iter().flatten();
    let all = stages.chain(std::iter::once(manifest));
    all.flat_map(|stage| stage["inputs"].as_array().into_iter().flatten())
}

/// The names that a recorded input holds of itself and its parents.
pub(crate) fn named_in(input: &Value, found: &mut Vec<String>) {
    let text = |value: &Value| value.as_str().map(str::to_string);
    found.extend(text(&input["repo"]));
    let bases = |card: &Value| -> Vec<String> {
        card["base_model"].as_array().into_iter().flatten().filter_map(text).collect()
    };
    let adapters = input["adapters"].as_array().into_iter().flatten();
    for adapter in adapters {
        found.extend(text(&adapter["repo"]));
        found.extend(bases(&adapter["card"]));
        found.extend(text(&adapter["base_model_name_or_path"]));
    }
    found.extend(bases(&input["card"]));
    let mergekit = input["mergekit"].as_str().and_then(|text| parse_mergekit(text).ok());
    found.extend(mergekit.into_iter().flat_map(|parents| parents.models));
}
