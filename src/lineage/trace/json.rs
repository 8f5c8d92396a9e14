//! A trace as JSON.

use super::{Edge, Node, State, Trace};
use serde_json::{Value, json};

impl Trace {
    /// Nodes and edges; nodes are named by their place.
    pub fn json(&self) -> Value {
        let id = |index: usize| format!("n{index}");
        let node = |(index, node): (usize, &Node)| {
            json!({
                "id": id(index),
                "name": node.name,
                "kind": node.kind.word(),
                "state": match node.state {
                    State::Found => "found",
                    State::Kept => "kept",
                    State::Missing => "missing",
                },
                "repo": node.repo,
                "revision": node.revision,
                "folder": node.folder.as_ref().map(|folder| folder.display().to_string()),
                "methods": node.methods,
                "license": node.license,
                "digest": node.digest,
                "contradictions": node.contradictions,
                "notes": node.notes,
            })
        };
        let edge = |edge: &Edge| {
            json!({
                "child": id(edge.child),
                "parent": id(edge.parent),
                "evidence": edge.evidence.word(),
                "sources": edge.sources,
                "base": edge.base,
                "lineage_agrees": edge.lineage_agrees,
                "digest_recorded": edge.digest_recorded,
                "digest_agrees": edge.digest_agrees,
                "cycle": edge.cycle,
            })
        };
        json!({
            "schema": "cognate/trace/1",
            "root": "n0",
            "nodes": self.nodes.iter().enumerate().map(node).collect::<Vec<_>>(),
            "edges": self.edges.iter().map(edge).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}
