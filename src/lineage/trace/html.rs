//! A trace as a page that stands by itself: nested lists, no scripts, nothing from elsewhere.

use super::text::plain;
use super::{Edge, Node, State, Trace};
use std::fmt::Write;

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
ul { list-style: none; padding-left: 1.5rem; border-left: 1px solid #ccc; }
li { margin: .3rem 0; }
.name { font-weight: 600; }
.recorded { color: #0a5; } .declared { color: #a60; } .inferred { color: #55c; }
.kept, .missing { color: #777; }
.wrong { color: #b00; }
.note { color: #666; }
";

impl Trace {
    /// The page.
    pub fn html(&self) -> String {
        let mut page = String::new();
        let _ = self.page(&mut page);
        page
    }

    fn page(&self, page: &mut String) -> std::fmt::Result {
        let Some(root) = self.nodes.first() else { return Ok(()) };
        let title = escaped(&root.title());
        writeln!(
            page,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Ancestry of {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Ancestry of {title}</h1>"
        )?;
        writeln!(
            page,
            "<p>Each model stands above those it was made of. <span class=\"recorded\">Recorded</span>: by the manifest of the merge. <span class=\"declared\">Declared</span>: by a card or a config. <span class=\"inferred\">Inferred</span>: from weights.</p>"
        )?;
        writeln!(page, "<ul>\n<li id=\"n0\">")?;
        describe(page, root)?;
        self.list(page, 0, &self.tree())?;
        writeln!(page, "</li>\n</ul>")?;
        for note in &self.notes {
            writeln!(page, "<p class=\"note\">{}</p>", escaped(note))?;
        }
        writeln!(page, "</body>\n</html>")
    }

    fn list(&self, page: &mut String, of: usize, tree: &[bool]) -> std::fmt::Result {
        let parents: Vec<(usize, &Edge)> = self.parents(of).collect();
        if parents.is_empty() {
            return Ok(());
        }
        writeln!(page, "<ul>")?;
        for (number, edge) in parents {
            let Some(node) = self.nodes.get(edge.parent) else { continue };
            let stands = tree.get(number).is_some_and(|stands| *stands);
            if stands {
                writeln!(page, "<li id=\"n{}\">", edge.parent)?;
                describe(page, node)?;
            } else {
                let name = escaped(&node.title());
                writeln!(page, "<li>\n<a class=\"name\" href=\"#n{}\">{name}</a>", edge.parent)?;
            }
            let class = edge.evidence.word();
            write!(page, "<span class=\"{class}\">{}</span>", escaped(&edge.grounds()))?;
            for finding in edge.findings() {
                // What is wrong stands in capitals.
                let wrong = finding.chars().all(|c| !c.is_lowercase());
                let class = if wrong { "wrong" } else { "note" };
                write!(page, "; <span class=\"{class}\">{finding}</span>")?;
            }
            writeln!(page)?;
            if stands {
                self.list(page, edge.parent, tree)?;
            }
            writeln!(page, "</li>")?;
        }
        writeln!(page, "</ul>")
    }
}

/// A node's name and what there is of it.
fn describe(page: &mut String, node: &Node) -> std::fmt::Result {
    let class = match node.state {
        State::Found => "name",
        State::Kept => "name kept",
        State::Missing => "name missing",
    };
    write!(page, "<span class=\"{class}\">{}</span>", escaped(&node.title()))?;
    let kind = (node.kind != super::Kind::Model).then(|| node.kind.word().to_string());
    let methods = (!node.methods.is_empty()).then(|| node.methods.join(", "));
    let presence = node.presence().map(str::to_string);
    for part in [kind, methods, node.license.clone(), presence].into_iter().flatten() {
        write!(page, "; {}", escaped(&part))?;
    }
    writeln!(page)?;
    for text in &node.contradictions {
        writeln!(page, "<div class=\"wrong\">{}</div>", escaped(text))?;
    }
    for text in &node.notes {
        writeln!(page, "<div class=\"note\">{}</div>", escaped(text))?;
    }
    Ok(())
}

/// A text as HTML, in elements and in quotes alike.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in plain(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
