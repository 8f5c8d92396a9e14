//! Parents that a manifest records, through its stages; those whose folders are gone by what their children
//! keep of them.

use super::build::{self, Builder, Open, Recorded, folder_key, manifest_key, node, text};
use super::locate::{Named, Place, Places};
use super::{Evidence, Kind, Node, State};
use crate::lineage::declared::{Card, Declared, parse_mergekit};
use crate::lineage::folder::with_name;
use crate::lineage::{FILE, named_in};
use crate::recipe::stage_part;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The methods of a recorded recipe: one name, or a list of `{filter, value}`.
pub(super) fn methods(manifest: &Value) -> Vec<String> {
    match &manifest["recipe"]["resolved"]["merge_method"] {
        Value::String(name) => vec![name.clone()],
        Value::Array(list) => {
            let mut found: Vec<String> = Vec::new();
            for name in list.iter().filter_map(|entry| entry["value"].as_str()) {
                if !found.iter().any(|known| known == name) {
                    found.push(name.to_string());
                }
            }
            found
        }
        _ if manifest["recipe"].is_object() => vec!["mixture".to_string()],
        _ => Vec::new(),
    }
}

impl Builder {
    /// The parents that a manifest records, through its stages.
    pub(super) fn recorded(
        &mut self,
        index: usize,
        manifest: &Value,
        near: Option<&Path>,
        places: &Places,
    ) {
        let depth = self.built.trace.nodes.get(index).map_or(0, |node| node.depth);
        if let Some(node) = self.built.trace.nodes.get_mut(index) {
            node.digest = text(&manifest["output"]["digest"]);
        }
        let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
        let all = manifest["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Stages stand in order, each behind those it uses; the output comes first here.
        for (own, is_output) in
            std::iter::once((manifest, true)).chain(all.iter().rev().map(|stage| (stage, false)))
        {
            let child = if is_output {
                index
            } else {
                match own["name"].as_str().and_then(|name| stages.get(name)) {
                    Some(stage) => *stage,
                    None => continue,
                }
            };
            let base = own["recipe"]["resolved"]["base_model"].as_str();
            if !is_output && let Some(node) = self.built.trace.nodes.get_mut(child) {
                node.methods = methods(own);
                node.digest = text(&own["output"]["digest"]);
            }
            let depth = self.built.trace.nodes.get(child).map_or(depth, |node| node.depth);
            for input in own["inputs"].as_array().into_iter().flatten() {
                named_in(input, self.built.said.entry(index).or_default());
                let Some(reference) = input["model"].as_str() else { continue };
                let adapters = input["adapters"].as_array().map(Vec::as_slice).unwrap_or_default();
                let name = if adapters.is_empty() { reference } else { stage_part(reference) };
                let is_base = base == Some(reference);
                let is_stage =
                    all.iter().find(|stage| stage["name"].as_str() == Some(name)).is_some();
                let edge = if is_stage {
                    let parent = match stages.get(name) {
                        Some(parent) => Some(*parent),
                        None if self.is_full() => None,
                        None => {
                            let node =
                                Node { state: State::Kept, ..node(name, Kind::Stage, depth + 1) };
                            Some(self.push(node, &[]))
                        }
                    };
                    parent.and_then(|parent| {
                        stages.insert(name, parent);
                        self.edge(child, parent, Evidence::Recorded, FILE, is_base)
                    })
                } else {
                    let of_whole =
                        if adapters.is_empty() { input["digest"].as_str() } else { None };
                    self.input(child, name, input, of_whole, is_base, Kind::Model, near, places)
                };
                let mut adapter_nodes = Vec::new();
                for adapter in adapters {
                    let Some(name) = adapter["adapter"].as_str() else { continue };
                    let found =
                        self.input(child, name, adapter, None, false, Kind::Adapter, near, places);
                    let node = found.and_then(|edge| self.built.trace.edges.get(edge));
                    adapter_nodes.extend(node.map(|edge| edge.parent));
                }
                if let (Some(edge), Some(digest)) = (edge, input["digest"].as_str())
                    && adapter_nodes.len() == adapters.len()
                {
                    let digest = digest.to_string();
                    if let Some(edge) = self.built.trace.edges.get_mut(edge) {
                        // A stage's weights may never have been written.
                        edge.digest_recorded = !is_stage;
                    }
                    self.built.digests.push(Recorded { edge, digest, adapters: adapter_nodes });
                }
            }
        }
    }

    /// A parent that a manifest records. `digest` is that of the model alone.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a manifest says of an input, and where to look"
    )]
    fn input(
        &mut self,
        child: usize,
        name: &str,
        entry: &Value,
        digest: Option<&str>,
        base: bool,
        kind: Kind,
        near: Option<&Path>,
        places: &Places,
    ) -> Option<usize> {
        let named = Named {
            reference: name.to_string(),
            repo: text(&entry["repo"]),
            revision: text(&entry["revision"]),
        };
        let sha256 = entry["lineage"]["sha256"].as_str();
        let mut candidates = places.candidates(&named, near);
        let own = |place: &Place| {
            let declared = build::read(&place.folder);
            let found = declared.manifest.as_ref().map(|own| own.sha256.clone());
            (declared, found)
        };
        let mut read: Vec<(Place, Declared, Option<String>)> = candidates
            .drain(..)
            .map(|place| {
                let (declared, found) = own(&place);
                (place, declared, found)
            })
            .collect();
        // Of several folders of the name, the one whose manifest was recorded.
        let chosen = read.iter().position(|(_, _, found)| found.as_deref() == sha256).unwrap_or(0);
        let chosen = (chosen < read.len()).then(|| read.swap_remove(chosen));
        let agrees = chosen
            .as_ref()
            .and_then(|(.., found)| sha256.map(|sha256| found.as_deref() == Some(sha256)));
        let kept = sha256.and_then(|sha256| self.kept.get(sha256).cloned());
        // The child was made of what was recorded, whatever stands in the folder now.
        let follow_kept = kept.is_some() && agrees != Some(true);
        let depth = self.built.trace.nodes.get(child)?.depth + 1;
        let mut keys = Vec::new();
        if let Some((place, ..)) = chosen.as_ref().filter(|_| !follow_kept) {
            keys.push(folder_key(&place.folder));
        }
        keys.extend(sha256.filter(|_| agrees != Some(false) || follow_kept).map(manifest_key));
        if let (Some(repo), Some(revision)) = (&named.repo, &named.revision) {
            keys.push(format!("hub {repo}@{revision}"));
        }
        if keys.is_empty() {
            keys.push(match digest {
                Some(digest) => format!("digest {digest}"),
                None => format!("name {name}"),
            });
        }
        let known = keys.iter().find_map(|key| self.keys.get(key).copied());
        let parent = match known {
            Some(parent) => parent,
            None if self.is_full() => return None,
            None => {
                let mut new = node(name, kind, depth);
                new.repo.clone_from(&named.repo);
                new.revision.clone_from(&named.revision);
                if follow_kept {
                    new.state = State::Kept;
                    let parent = self.push(new, &keys);
                    let near = near.map(Path::to_path_buf);
                    self.open.push_back(Open {
                        node: parent,
                        manifest: kept,
                        declared: None,
                        near,
                    });
                    parent
                } else if let Some((place, declared, _)) = &chosen {
                    new.state = State::Found;
                    new.folder = Some(place.folder.clone());
                    let parent = self.push(new, &keys);
                    let beside = with_name(&place.folder);
                    self.expand_later(parent, declared.clone(), beside);
                    parent
                } else {
                    let parent = self.push(new, &keys);
                    // Its folder is gone; the child recorded what it declared.
                    self.declared_by_record(parent, entry);
                    let near = near.map(Path::to_path_buf);
                    let declared = Some(declared_in(entry));
                    self.open.push_back(Open { node: parent, manifest: None, declared, near });
                    parent
                }
            }
        };
        if agrees == Some(false)
            && let (Some((place, _, found)), Some(child)) =
                (&chosen, self.built.trace.nodes.get_mut(child))
        {
            let now = match found {
                Some(_) => "is now another one than recorded",
                None => "is gone",
            };
            child.contradictions.push(format!(
                "{} {now}{}",
                place.folder.join(FILE).display(),
                if follow_kept { "; the recorded one is shown" } else { "" },
            ));
        }
        let edge = self.edge(child, parent, Evidence::Recorded, FILE, base)?;
        if let Some(edge) = self.built.trace.edges.get_mut(edge) {
            edge.lineage_agrees = agrees;
        }
        if let Some(digest) = digest {
            self.keys.entry(format!("digest {digest}")).or_insert(parent);
        }
        Some(edge)
    }

    /// A model without a folder is still called what its record says.
    fn declared_by_record(&mut self, index: usize, entry: &Value) {
        if let Some(node) = self.built.trace.nodes.get_mut(index)
            && (entry["lineage"].is_object() || entry["card"].is_object())
        {
            node.state = State::Kept;
        }
    }
}

/// What a child recorded of the declarations of a model whose folder is gone.
fn declared_in(entry: &Value) -> Declared {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(text).collect()
    };
    let card = entry["card"].is_object().then(|| Card {
        license: text(&entry["card"]["license"]),
        base_model: list(&entry["card"]["base_model"]),
        ..Card::default()
    });
    Declared {
        card,
        mergekit_parents: entry["mergekit"].as_str().and_then(|text| parse_mergekit(text).ok()),
        adapter_base: text(&entry["base_model_name_or_path"]),
        ..Declared::default()
    }
}
