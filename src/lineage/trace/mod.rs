//! The ancestry of a model, as its own records and those of its parents tell it: [`trace`] → [`Trace`].
//!
//! Records come from `lineage.json`, `mergekit_config.yml`, cards, and configs of adapters. None of them is
//! believed more than it proves: every edge says what it rests on, and where records contradict each
//! other, or lead in a circle, that is part of the result. What is read is bounded in number and depth.

mod build;
mod diagram;
mod html;
mod inferred;
mod json;
mod judge;
mod locate;
mod recorded;
mod text;
mod weights;

use crate::error::Result;
use std::path::PathBuf;

/// More models than this are not followed.
pub const MAX_NODES: usize = 2000;

/// More generations than this are not followed.
pub const MAX_DEPTH: usize = 64;

/// What a trace may use.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Hash weights where a record has their digest.
    pub verify: bool,
    /// Folder of the digest cache; none to do without.
    pub cache: Option<PathBuf>,
    /// Models that it may be made of, which weights are asked about where no record tells of any parent.
    pub candidates: Vec<String>,
}

/// What an edge rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// The manifest of a merge that was run.
    Recorded,
    /// A card or a config that somebody wrote.
    Declared,
    /// The weights alone.
    Inferred,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// An adapter.
    Adapter,
    /// A stage of a recipe, which may never have been written.
    Stage,
}

/// What is there of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its folder.
    Found,
    /// The record that a child keeps of it.
    Kept,
    /// Nothing: neither a folder nor, for a name on the Hub, anything in the cache.
    Missing,
}

/// A model, an adapter or a stage.
#[derive(Clone, Debug)]
pub struct Node {
    /// How the first record that names it calls it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What is there of it.
    pub state: State,
    /// Its name on the Hub, if it has one.
    pub repo: Option<String>,
    /// The commit, if it is known.
    pub revision: Option<String>,
    /// Its folder, if it was found.
    pub folder: Option<PathBuf>,
    /// The methods it was merged by.
    pub methods: Vec<String>,
    /// The licence it declares.
    pub license: Option<String>,
    /// Its model digest, by its own manifest.
    pub digest: Option<String>,
    /// What of its records was not read or not followed.
    pub notes: Vec<String>,
    /// What of its records contradicts what.
    pub contradictions: Vec<String>,
    /// Generations from the traced model.
    pub depth: usize,
}

/// A step from a child to a parent.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Index of the child in [`Trace::nodes`].
    pub child: usize,
    /// Index of the parent.
    pub parent: usize,
    /// What it rests on.
    pub evidence: Evidence,
    /// The files that name the parent.
    pub sources: Vec<String>,
    /// Whether the parent is the base.
    pub base: bool,
    /// Whether the parent's `lineage.json` is the one that was recorded; none where that is not known.
    pub lineage_agrees: Option<bool>,
    /// Whether the parent's weights have the digest that was recorded; none where that is not known.
    pub digest_agrees: Option<bool>,
    /// Whether a digest of the parent's weights was recorded.
    pub digest_recorded: bool,
    /// Whether it leads back to a model that comes from the child.
    pub cycle: bool,
}

/// The ancestry of a model; the first node is the model itself.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The models, generation by generation.
    pub nodes: Vec<Node>,
    /// The steps, in the order they were found.
    pub edges: Vec<Edge>,
    /// What was not followed.
    pub notes: Vec<String>,
}

/// How a trace is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A tree for people.
    #[default]
    Text,
    /// Nodes and edges.
    Json,
    /// A diagram in Mermaid, which Markdown pages show.
    Mermaid,
    /// A graph for Graphviz.
    Dot,
    /// A page that stands by itself.
    Html,
}

/// Traces a model: a folder, or `org/name` on the Hub, of which only what the cache holds is read.
///
/// # Errors
/// There is no such folder, and nothing of that name in the cache; candidates cannot be compared with it.
pub fn trace(reference: &str, options: &Options) -> Result<Trace> {
    let mut built = build::build(reference, &options.candidates)?;
    weights::check(&mut built, options);
    judge::judge(&mut built);
    Ok(built.trace)
}

impl Trace {
    /// The trace in a format, with a newline at its end.
    pub fn print(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Json => format!("{:#}\n", self.json()),
            Format::Mermaid => self.mermaid(),
            Format::Dot => self.dot(),
            Format::Html => self.html(),
        }
    }

    /// The edges from a node to its parents.
    pub fn parents(&self, child: usize) -> impl Iterator<Item = (usize, &Edge)> {
        self.edges.iter().enumerate().filter(move |(_, edge)| edge.child == child)
    }

    /// The edge under which each node stands in a tree: the first that led to it. The tree is no deeper
    /// than [`MAX_DEPTH`].
    fn tree(&self) -> Vec<bool> {
        let mut stands = vec![false; self.nodes.len()];
        stands.first_mut().into_iter().for_each(|root| *root = true);
        let in_tree = |edge: &Edge| {
            let (child, parent) = (self.nodes.get(edge.child), self.nodes.get(edge.parent));
            let below = matches!((child, parent), (Some(c), Some(p)) if p.depth == c.depth + 1);
            match stands.get_mut(edge.parent) {
                Some(stands) if below && !*stands => {
                    *stands = true;
                    true
                }
                _ => false,
            }
        };
        self.edges.iter().map(in_tree).collect()
    }
}

impl Evidence {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Declared => "declared",
            Self::Inferred => "inferred",
        }
    }
}

impl Kind {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Adapter => "adapter",
            Self::Stage => "stage",
        }
    }
}

impl Node {
    /// What is there of it, in words; nothing where its folder is.
    fn presence(&self) -> Option<&'static str> {
        match (self.state, self.kind, &self.repo) {
            (State::Found, ..) | (State::Kept, Kind::Stage, _) => None,
            (State::Kept, ..) => Some("known by the record that a child keeps"),
            (State::Missing, _, Some(_)) => Some("on the Hub, not in the cache"),
            (State::Missing, ..) => Some("not found"),
        }
    }

    /// Name, and the beginning of the commit.
    fn title(&self) -> String {
        match (&self.repo, &self.revision) {
            (Some(repo), Some(revision)) => {
                format!("{repo}@{}", revision.chars().take(12).collect::<String>())
            }
            (Some(repo), None) => repo.clone(),
            _ => self.name.clone(),
        }
    }
}

impl Edge {
    /// What it rests on, in words.
    fn grounds(&self) -> String {
        let role = if self.base { " as base" } else { "" };
        let sources = self.sources.join(", ");
        let from = if self.evidence == Evidence::Inferred { "from" } else { "in" };
        format!("{}{role} {from} {sources}", self.evidence.word())
    }

    /// What was found out about the record, in words.
    fn findings(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        match self.lineage_agrees {
            Some(true) => found.push("lineage.json agrees"),
            Some(false) => found.push("LINEAGE.JSON DIFFERS"),
            None => {}
        }
        match self.digest_agrees {
            Some(true) => found.push("weights agree"),
            Some(false) => found.push("WEIGHTS DIFFER"),
            None if self.digest_recorded => found.push("weights not checked"),
            None => {}
        }
        if self.cycle {
            found.push("CYCLE");
        }
        found
    }
}
