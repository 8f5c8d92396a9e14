//! `docs/methods.md`, made of the tables and of the prose beside them.

use super::{Base, METHODS, Method, POSTS, Param, Post, Reads, Scope};
use std::fmt::Write;

/// What stands at the head of the page.
const HEAD: &str = include_str!("notes/page.md");
/// What every method was found to do to the trained family.
const MEASURED: &str = include_str!("notes/measured.md");
/// Tensors that no method touches.
const COPIED: &str = include_str!("notes/copy.md");

/// The reference page of the merge methods, in Markdown.
pub fn page() -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page);
    page
}

fn write_page(out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}", HEAD.trim_end())?;
    writeln!(out, "\n## The methods\n")?;
    writeln!(out, "| method | what it does | models | base | reads |\n|---|---|---|---|---|")?;
    for method in &METHODS {
        let Method { name, summary, .. } = method;
        let (models, base, reads) = (models(method), method.base.title(), reads(method));
        writeln!(out, "| [`{name}`](#{name}) | {summary} | {models} | {base} | {reads} |")?;
    }
    writeln!(
        out,
        "\nWhat can be done to the merged task vector behind any of them, in this order:\n"
    )?;
    writeln!(out, "| post-step | what it does |\n|---|---|")?;
    for Post { name, summary, .. } in &POSTS {
        writeln!(out, "| [`{name}`](#{name}) | {summary} |")?;
    }
    for Method { name, summary, reference, params, notes, .. } in &METHODS {
        section(out, name, summary, reference, params, notes)?;
    }
    for Post { name, summary, reference, params, notes, .. } in &POSTS {
        section(out, name, summary, reference, params, notes)?;
    }
    writeln!(out, "\n## Tensors without arithmetic\n\n{}", COPIED.trim())?;
    writeln!(out, "\n## Measured\n\n{}", MEASURED.trim())
}

fn models(method: &Method) -> String {
    match method.base {
        Base::Required => format!("{}, the base included", method.inputs),
        Base::Optional => format!("{} besides the base", method.inputs),
        Base::Plain => method.inputs.to_string(),
    }
}

fn reads(method: &Method) -> String {
    match method.reads {
        Reads::Stream { passes: 1, .. } => "once".to_string(),
        Reads::Stream { passes, .. } => format!("{passes} times"),
    }
}

fn section(
    out: &mut String,
    name: &str,
    summary: &str,
    reference: &str,
    params: &[Param],
    notes: &str,
) -> std::fmt::Result {
    writeln!(out, "\n## {name}\n\n{summary} Source: {}.", linked(reference))?;
    if !params.is_empty() {
        writeln!(
            out,
            "\n| parameter | belongs to | value | default | meaning |\n|---|---|---|---|---|"
        )?;
        for param in params {
            let Param { name, doc, .. } = param;
            let (kind, default) = (param.expectation(), param.default_text());
            writeln!(out, "| `{name}` | {} | {kind} | {default} | {doc} |", param.scope.title())?;
        }
    }
    writeln!(out, "\n{}", notes.trim())
}

/// A reference with its arXiv number as a link.
fn linked(reference: &str) -> String {
    let Some((before, rest)) = reference.split_once("arXiv ") else {
        return reference.to_string();
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, behind) = rest.split_at(end);
    format!("{before}[arXiv {number}](https://arxiv.org/abs/{number}){behind}")
}

impl Base {
    /// What a method does with a base model, in a word or two.
    pub fn title(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::Plain => "a model like the others",
        }
    }
}

impl Scope {
    /// What a parameter's value belongs to, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Input => "each model",
            Self::NonBase => "each model but the base",
        }
    }
}
