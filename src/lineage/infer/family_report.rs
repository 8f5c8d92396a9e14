//! A family's tree, for people and for programs.

use super::related::Relation;
use super::tree::{Edge, Evidence, Family};
use serde_json::{Value, json};
use std::fmt::Write;

impl Evidence {
    /// In words.
    fn words(&self) -> String {
        match self {
            Self::Recipe(kind) => format!("recipe: {kind}"),
            Self::Trained { norms, tails } => format!(
                "distance; norms grow in {:.0} % of the tensors, kurtosis falls in {:.0} %",
                100.0 * norms,
                100.0 * tails
            ),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Recipe(kind) => json!({"recipe": kind}),
            Self::Trained { norms, tails } => {
                json!({"norm_grows": norms, "kurtosis_falls": tails})
            }
        }
    }
}

impl Family {
    fn name(&self, at: usize) -> &str {
        self.models.get(at).map_or("", String::as_str)
    }

    /// For people: the tree from its roots on, a line an edge.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        for root in &self.roots {
            writeln!(text, "{}", self.name(*root))?;
            self.below(text, *root, 1)?;
        }
        for note in &self.notes {
            writeln!(text, "note      {note}")?;
        }
        let apart =
            self.relations.iter().filter(|(_, _, relation)| relation.related() != Some(true));
        for (a, b, relation) in apart {
            writeln!(text, "{} and {}: {}", self.name(*b), self.name(*a), relation.words().trim())?;
        }
        Ok(())
    }

    /// What was made from a model. A merge stands below each of its parents.
    fn below(&self, text: &mut String, parent: usize, depth: usize) -> std::fmt::Result {
        // Edges go from parents to children, so that no path is longer than the models are many.
        let edges = self.edges.iter().filter(|edge| edge.parent == parent);
        for edge in edges.filter(|_| depth <= self.models.len()) {
            let Edge { child, evidence, confidence, .. } = edge;
            let (indent, name) = ("  ".repeat(depth), self.name(*child));
            writeln!(text, "{indent}{name}  {confidence:.2}  {}", evidence.words())?;
            self.below(text, *child, depth + 1)?;
        }
        Ok(())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let relation = |(a, b, relation): &(usize, usize, Relation)| {
            let mut value = json!({"paths": [self.name(*b), self.name(*a)]});
            relation.describe(&mut value);
            value
        };
        let edge = |edge: &Edge| {
            json!({
                "parent": self.name(edge.parent),
                "child": self.name(edge.child),
                "evidence": "inferred",
                "from": edge.evidence.json(),
                "confidence": edge.confidence,
            })
        };
        json!({
            "models": self.models,
            "roots": self.roots.iter().map(|root| self.name(*root)).collect::<Vec<_>>(),
            "edges": self.edges.iter().map(edge).collect::<Vec<_>>(),
            "related": self.relations.iter().map(relation).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}
