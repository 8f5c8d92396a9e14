//! A trace as a tree for people.

use super::{Node, State, Trace};
use std::fmt::Write;

impl Trace {
    /// The tree, with what is to be known about it below.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Some(root) = self.nodes.first() else { return Ok(()) };
        writeln!(text, "{}", plain(&self.line(root)))?;
        remarks(text, root, "")?;
        self.branches(text, 0, "", &self.tree())?;
        let count = |f: &dyn Fn(&Node) -> bool| self.nodes.iter().filter(|node| f(node)).count();
        let missing = count(&|node| node.state == State::Missing);
        let cycles = self.edges.iter().filter(|edge| edge.cycle).count();
        let contradictions: usize = self.nodes.iter().map(|node| node.contradictions.len()).sum();
        let plural = |n: usize, one: &str, more: &str| match n {
            1 => format!("1 {one}"),
            n => format!("{n} {more}"),
        };
        writeln!(
            text,
            "{}, {}: {missing} not there, {}, {}",
            plural(self.nodes.len(), "node", "nodes"),
            plural(self.edges.len(), "edge", "edges"),
            plural(cycles, "cycle", "cycles"),
            plural(contradictions, "contradiction", "contradictions"),
        )?;
        for note in &self.notes {
            writeln!(text, "note: {}", plain(note))?;
        }
        Ok(())
    }

    /// The parents of a node. The tree is at most as deep as a trace is followed.
    fn branches(
        &self,
        text: &mut String,
        of: usize,
        indent: &str,
        tree: &[bool],
    ) -> std::fmt::Result {
        let parents: Vec<_> = self.parents(of).collect();
        let last = parents.len().saturating_sub(1);
        for (i, (number, edge)) in parents.into_iter().enumerate() {
            let Some(node) = self.nodes.get(edge.parent) else { continue };
            let (branch, below) = if i == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let mut line = format!("{}  [{}", self.line(node), edge.grounds());
            for finding in edge.findings() {
                let _ = write!(line, "; {finding}");
            }
            line.push(']');
            let stands = tree.get(number).is_some_and(|stands| *stands);
            let has_more = self.parents(edge.parent).next().is_some();
            if !stands && has_more {
                line.push_str("  (its parents: elsewhere here)");
            }
            writeln!(text, "{indent}{branch}{}", plain(&line))?;
            if stands {
                let indent = format!("{indent}{below}");
                remarks(text, node, &indent)?;
                self.branches(text, edge.parent, &indent, tree)?;
            }
        }
        Ok(())
    }

    fn line(&self, node: &Node) -> String {
        let mut line = node.title();
        let mut more: Vec<String> = Vec::new();
        if node.kind != super::Kind::Model {
            more.push(node.kind.word().to_string());
        }
        if !node.methods.is_empty() {
            more.push(node.methods.join(", "));
        }
        more.extend(node.license.clone());
        more.extend(node.presence().map(str::to_string));
        if !more.is_empty() {
            let _ = write!(line, " ({})", more.join("; "));
        }
        line
    }
}

/// What is to be known about a node, a line each.
fn remarks(text: &mut String, node: &Node, indent: &str) -> std::fmt::Result {
    for contradiction in &node.contradictions {
        writeln!(text, "{indent}! {}", plain(contradiction))?;
    }
    for note in &node.notes {
        writeln!(text, "{indent}note: {}", plain(note))?;
    }
    Ok(())
}

/// A text on one line, whose control characters are seen.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        // Marks that turn the direction of writing around hide what a name is.
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn control_characters_are_seen() {
        assert_eq!(plain("a\n\u{1b}[31mb\u{202e}"), "a\\n\\u{1b}[31mb\\u{202e}");
        assert_eq!(plain("ä ─"), "ä ─");
    }
}
