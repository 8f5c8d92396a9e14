//! Builds the graph, generation by generation.

use super::locate::{Named, Place, Places};
use super::recorded::methods;
use super::{Edge, Evidence, Kind, MAX_DEPTH, MAX_NODES, Node, State, Trace};
use crate::error::{Error, Result};
use crate::lineage::declared::{ADAPTER, CARD, Declared, LABEL, parse_label};
use crate::lineage::folder::with_name;
use crate::model::hub::HubReference;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// More edges than this are not followed.
const MAX_EDGES: usize = 20_000;

/// A graph with what is needed to judge it.
#[derive(Default)]
pub(super) struct Built {
    pub(super) trace: Trace,
    /// By node: the names that its own files declare as parents, with the file.
    pub(super) declared: BTreeMap<usize, Vec<(&'static str, Vec<String>)>>,
    /// By node: all names that its manifest holds of inputs and of what those declared.
    pub(super) said: BTreeMap<usize, Vec<String>>,
    /// By node: the recorded digest of an input with the folders of model and adapters, and its edge.
    pub(super) digests: Vec<Recorded>,
}

/// The digest of an input, as a manifest records it.
pub(super) struct Recorded {
    pub(super) edge: usize,
    pub(super) digest: String,
    pub(super) adapters: Vec<usize>,
}

/// What is known of a node that is to be expanded.
pub(super) struct Open {
    pub(super) node: usize,
    pub(super) manifest: Option<Value>,
    pub(super) declared: Option<Declared>,
    pub(super) near: Option<PathBuf>,
}

#[derive(Default)]
pub(super) struct Builder {
    pub(super) built: Built,
    /// Nodes by what tells them from others: a folder, a commit, the SHA-256 of a manifest, a digest.
    pub(super) keys: BTreeMap<String, usize>,
    /// Manifests that descendants keep, by SHA-256.
    pub(super) kept: BTreeMap<String, Value>,
    pub(super) open: VecDeque<Open>,
    full: bool,
}

pub(super) fn build(reference: &str, candidates: &[String]) -> Result<Built> {
    let places = Places::new();
    let named = Named { reference: reference.to_string(), ..Named::default() };
    let place = places.candidates(&named, None).into_iter().next().ok_or_else(|| {
        let error = Error::input("there is no such model to trace").fact("model", reference);
        match HubReference::parse(reference) {
            Some(_) => {
                error.hint("it is no folder, and not in the Hub's cache; nothing is fetched")
            }
            None => error.hint("name a folder, or a model of the Hub that is in the cache"),
        }
    })?;
    let mut builder = Builder::default();
    let near = with_name(&place.folder);
    let declared = read(&place.folder);
    let kind = if declared.adapter_base.is_some() { Kind::Adapter } else { Kind::Model };
    let hub = place.commit.as_ref().and_then(|_| HubReference::parse(reference));
    let root = Node {
        repo: hub.map(|hub| hub.repo),
        revision: place.commit.clone(),
        folder: Some(place.folder.clone()),
        state: State::Found,
        ..node(reference, kind, 0)
    };
    let root = builder.push(root, &[folder_key(&place.folder)]);
    builder.expand_later(root, declared, near);
    builder.expand_all(&places);
    if !candidates.is_empty() && builder.built.trace.edges.is_empty() {
        // No record tells; weights may.
        super::inferred::parents(&mut builder, root, &place.folder, candidates, &places)?;
        builder.expand_all(&places);
    }
    if builder.full {
        builder.built.trace.notes.push(format!(
            "not everything was followed: at most {MAX_NODES} models, {MAX_EDGES} edges and {MAX_DEPTH} generations"
        ));
    }
    Ok(builder.built)
}

pub(super) fn node(name: &str, kind: Kind, depth: usize) -> Node {
    Node {
        name: name.to_string(),
        kind,
        state: State::Missing,
        repo: None,
        revision: None,
        folder: None,
        methods: Vec::new(),
        license: None,
        digest: None,
        notes: Vec::new(),
        contradictions: Vec::new(),
        depth,
    }
}

/// What a folder declares; where no other record tells of a merge, the header of its weights.
pub(super) fn read(folder: &Path) -> Declared {
    let mut declared = Declared::read(folder);
    let recipe = declared.mergekit_parents.is_some() || declared.card_recipe.is_some();
    if declared.manifest.is_none() && !recipe {
        declared.label = parse_label(folder);
    }
    declared
}

/// Names of a card, each with the revision that another file gives of the same model.
fn with_revisions(known: &[(&'static str, Vec<String>)], names: &[String]) -> Vec<String> {
    let exact = |name: &String| {
        let mut all = known.iter().flat_map(|(_, names)| names);
        let known = all.find(|known| known.split_once('@').is_some_and(|(repo, _)| repo == name));
        known.unwrap_or(name).clone()
    };
    names.iter().map(exact).collect()
}

pub(super) fn folder_key(folder: &Path) -> String {
    let real = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    format!("folder {}", real.display())
}

pub(super) fn manifest_key(sha256: &str) -> String {
    format!("manifest {sha256}")
}

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

impl Builder {
    pub(super) fn push(&mut self, node: Node, keys: &[String]) -> usize {
        let index = self.built.trace.nodes.len();
        self.built.trace.nodes.push(node);
        for key in keys {
            self.keys.entry(key.clone()).or_insert(index);
        }
        index
    }

    /// Notes what a node's folder declares, to be followed.
    pub(super) fn expand_later(&mut self, index: usize, mut declared: Declared, near: PathBuf) {
        let mut manifest = None;
        if let Some(own) = declared.manifest.take() {
            self.keys.entry(manifest_key(&own.sha256)).or_insert(index);
            for (sha256, short) in own.ancestors {
                self.kept.entry(sha256).or_insert(short);
            }
            manifest = Some(own.short);
        }
        if let Some(node) = self.built.trace.nodes.get_mut(index) {
            node.notes.append(&mut declared.notes);
        }
        let declared = Some(declared);
        self.open.push_back(Open { node: index, manifest, declared, near: Some(near) });
    }

    /// Follows what is there to be followed.
    fn expand_all(&mut self, places: &Places) {
        while let Some(open) = self.open.pop_front() {
            self.expand(open, places);
        }
    }

    fn expand(&mut self, open: Open, places: &Places) {
        let Open { node: index, manifest, declared, near } = open;
        let declared = declared.unwrap_or_default();
        let card = declared.card.as_ref();
        let recipe = declared.mergekit_file.zip(declared.mergekit_parents.as_ref());
        let recipe = recipe.or(declared.card_recipe.as_ref().map(|parents| (CARD, parents)));
        let recipe = recipe.or(declared.label.as_ref().map(|parents| (LABEL, parents)));
        let mut names: Vec<(&'static str, Vec<String>)> = Vec::new();
        if let Some((file, parents)) = recipe {
            names.push((file, parents.models.clone()));
        }
        names.extend(declared.adapter_base.clone().map(|base| (ADAPTER, vec![base])));
        names.extend(card.map(|card| (CARD, with_revisions(&names, &card.base_model))));
        names.retain(|(_, names)| !names.is_empty());
        let Some(node) = self.built.trace.nodes.get_mut(index) else { return };
        node.license = card.and_then(|card| card.license.clone());
        let recorded = manifest.as_ref().and_then(|own| text(&own["license"]["license"]));
        if let (Some(card), Some(recorded)) = (&node.license, &recorded)
            && card != recorded
        {
            node.contradictions.push(format!(
                "{CARD} says that its licence is {card}, lineage.json that it is {recorded}"
            ));
        }
        node.license = node.license.take().or(recorded);
        if node.methods.is_empty() {
            node.methods = match (&manifest, recipe) {
                (Some(manifest), _) => methods(manifest),
                (None, Some((_, parents))) => parents.methods.clone(),
                (None, None) => Vec::new(),
            };
        }
        let depth = node.depth;
        if depth >= MAX_DEPTH {
            self.full |= manifest.is_some() || !names.is_empty();
            return;
        }
        match &manifest {
            Some(manifest) => self.recorded(index, manifest, near.as_deref(), places),
            None => {
                let bases = recipe.map(|(_, parents)| parents.bases.clone()).unwrap_or_default();
                for (file, of_file) in &names {
                    for name in of_file {
                        let base = bases.contains(name);
                        let how = (Evidence::Declared, *file, base);
                        self.named(index, name, how, near.as_deref(), places);
                    }
                }
            }
        }
        if !names.is_empty() {
            self.built.declared.insert(index, names);
        }
    }

    /// A parent that a card or a config names, or that was found among candidates: with the evidence, its
    /// source, and whether it is the base.
    pub(super) fn named(
        &mut self,
        child: usize,
        name: &str,
        (evidence, source, base): (Evidence, &str, bool),
        near: Option<&Path>,
        places: &Places,
    ) {
        let named = Named { reference: name.to_string(), ..Named::default() };
        let place = places.candidates(&named, near).into_iter().next();
        let hub = HubReference::parse(name);
        let Some(depth) = self.built.trace.nodes.get(child).map(|node| node.depth + 1) else {
            return;
        };
        let key = match (&place, &hub) {
            (Some(Place { commit: Some(commit), .. }), Some(hub)) => {
                format!("hub {}@{commit}", hub.repo)
            }
            (Some(place), _) => folder_key(&place.folder),
            (None, _) => format!("name {name}"),
        };
        let known = self.keys.get(&key).copied();
        let parent = match known {
            Some(parent) => parent,
            None if self.is_full() => return,
            None => {
                let mut new = node(name, Kind::Model, depth);
                let on_hub = place.as_ref().is_none_or(|place| place.commit.is_some());
                if let Some(hub) = hub.filter(|_| on_hub) {
                    new.repo = Some(hub.repo);
                    new.revision = hub.revision;
                }
                match place {
                    Some(place) => {
                        let declared = read(&place.folder);
                        if declared.adapter_base.is_some() {
                            new.kind = Kind::Adapter;
                        }
                        new.revision = place.commit.or(new.revision);
                        new.folder = Some(place.folder.clone());
                        new.state = State::Found;
                        let parent = self.push(new, &[key]);
                        self.expand_later(parent, declared, with_name(&place.folder));
                        parent
                    }
                    None => self.push(new, &[key]),
                }
            }
        };
        self.edge(child, parent, evidence, source, base);
    }

    pub(super) fn is_full(&mut self) -> bool {
        let full = self.built.trace.nodes.len() >= MAX_NODES;
        self.full |= full;
        full
    }

    /// Adds an edge, or another file to one that is there.
    pub(super) fn edge(
        &mut self,
        child: usize,
        parent: usize,
        evidence: Evidence,
        source: &str,
        base: bool,
    ) -> Option<usize> {
        let edges = &mut self.built.trace.edges;
        let same =
            |edge: &Edge| (edge.child, edge.parent, edge.evidence) == (child, parent, evidence);
        if let Some(at) = edges.iter().position(same) {
            let edge = edges.get_mut(at)?;
            edge.base |= base;
            if !edge.sources.iter().any(|known| known == source) {
                edge.sources.push(source.to_string());
            }
            return Some(at);
        }
        if edges.len() >= MAX_EDGES {
            self.full = true;
            return None;
        }
        edges.push(Edge {
            child,
            parent,
            evidence,
            sources: vec![source.to_string()],
            base,
            lineage_agrees: None,
            digest_agrees: None,
            digest_recorded: false,
            cycle: false,
        });
        Some(edges.len() - 1)
    }
}
