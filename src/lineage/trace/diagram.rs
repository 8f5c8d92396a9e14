//! A trace as a diagram: Mermaid and Graphviz. Arrows go from parents to children.

use super::text::plain;
use super::{Edge, Evidence, Node, State, Trace};
use std::fmt::Write;

/// Characters of a label in a diagram, at most.
const MAX_LABEL: usize = 120;

/// What a node's box says: its name, and what there is of it.
fn lines(node: &Node) -> Vec<String> {
    let mut lines = vec![node.title()];
    lines.extend((!node.methods.is_empty()).then(|| node.methods.join(", ")));
    lines.extend(node.presence().map(str::to_string));
    lines.extend(node.contradictions.iter().map(|text| format!("! {text}")));
    lines.into_iter().map(|line| plain(&line).chars().take(MAX_LABEL).collect()).collect()
}

/// What an arrow says.
fn label(edge: &Edge) -> String {
    let role = if edge.base { " (base)" } else { "" };
    let mut label = format!("{}{role}", edge.evidence.word());
    for finding in edge.findings().into_iter().filter(|finding| *finding != "weights not checked") {
        let _ = write!(label, ", {finding}");
    }
    label
}

impl Trace {
    /// For Markdown pages: <https://mermaid.js.org/syntax/flowchart.html>.
    pub fn mermaid(&self) -> String {
        let mut text = String::from("flowchart BT\n");
        for (i, node) in self.nodes.iter().enumerate() {
            let lines: Vec<String> = lines(node).iter().map(|line| entities(line)).collect();
            let _ = writeln!(text, "  n{i}[\"{}\"]", lines.join("<br/>"));
        }
        for edge in &self.edges {
            let arrow = match edge.evidence {
                Evidence::Recorded => "-->",
                Evidence::Declared => "-.->",
                Evidence::Inferred => "==>",
            };
            let label = entities(&label(edge));
            let _ = writeln!(text, "  n{} {arrow}|\"{label}\"| n{}", edge.parent, edge.child);
        }
        text
    }

    /// For Graphviz: <https://graphviz.org/doc/info/lang.html>.
    pub fn dot(&self) -> String {
        let mut text = String::from("digraph lineage {\n  rankdir=BT;\n  node [shape=box];\n");
        for (i, node) in self.nodes.iter().enumerate() {
            let style = match node.state {
                State::Found => "solid",
                State::Kept => "dashed",
                State::Missing => "dotted",
            };
            let lines: Vec<String> = lines(node).iter().map(|line| quoted(line)).collect();
            let _ = writeln!(text, "  n{i} [label=\"{}\", style={style}];", lines.join("\\n"));
        }
        for edge in &self.edges {
            let style = match edge.evidence {
                Evidence::Recorded => "solid",
                Evidence::Declared => "dashed",
                Evidence::Inferred => "dotted",
            };
            let (parent, child, label) = (edge.parent, edge.child, quoted(&label(edge)));
            let _ = writeln!(text, "  n{parent} -> n{child} [label=\"{label}\", style={style}];");
        }
        text.push_str("}\n");
        text
    }
}

/// A text within Mermaid's quotes, where nothing but letters, digits and harmless signs stands for itself.
fn entities(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() || " ._-/@:+(),!".contains(c) {
            out.push(c);
        } else {
            let _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}

/// A text within Graphviz' quotes. A backslash begins an escape there, so it is doubled.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_their_quotes() {
        assert_eq!(entities("a\"]<b>#|`"), "a#34;#93;#60;b#62;#35;#124;#96;");
        assert_eq!(quoted("a\"\\n\\"), "a\\\"\\\\n\\\\");
    }
}
