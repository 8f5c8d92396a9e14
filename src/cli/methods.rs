//! `cognate methods`

use super::{print, print_json};
use clap::Args as ClapArgs;
use cognate::methods::{Base, Inputs, METHODS, Method, POSTS, Param, Post, Reads, page};
use cognate::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Show one method only
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the reference page, docs/methods.md
    #[arg(long, conflicts_with_all = ["json", "name"])]
    markdown: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if self.markdown {
            return print(&page());
        }
        let wanted = |name: &str| self.name.as_deref().is_none_or(|wanted| wanted == name);
        let methods: Vec<&Method> = METHODS.iter().filter(|row| wanted(row.name)).collect();
        let posts: Vec<&Post> = POSTS.iter().filter(|row| wanted(row.name)).collect();
        if let (Some(name), true) = (&self.name, methods.is_empty() && posts.is_empty()) {
            let (message, hint) = Method::unknown(name);
            return Err(Error::input(message).hint(hint));
        }
        if self.json {
            return print_json(
                &methods.into_iter().map(row).chain(posts.into_iter().map(post)).collect(),
            );
        }
        let mut text = String::new();
        for method in methods {
            let _ = describe(&mut text, method);
        }
        for post in posts {
            let _ = describe_post(&mut text, post);
        }
        print(&text)
    }
}

fn describe(text: &mut String, method: &Method) -> std::fmt::Result {
    let Reads::Stream { passes, .. } = method.reads;
    let base = match method.base {
        Base::Required => ", one of them the base",
        Base::Optional => ", and a base or none",
        Base::Plain => "",
    };
    writeln!(text, "{}", method.name)?;
    writeln!(text, "  {}", method.summary)?;
    writeln!(text, "  formula  {}", method.formula)?;
    writeln!(text, "  source   {}", method.reference)?;
    writeln!(text, "  takes    {}{base}", method.inputs)?;
    if let Some(kind) = method.statistics {
        let (key, title) = (kind.key(), kind.title());
        writeln!(text, "  needs    the {title} of each model, its key `{key}`")?;
    }
    writeln!(text, "  reads    its inputs {passes} times as a rule, in chunks")?;
    describe_params(text, method.params)
}

fn describe_post(text: &mut String, post: &Post) -> std::fmt::Result {
    writeln!(text, "{} (behind any method with a base)", post.name)?;
    writeln!(text, "  {}", post.summary)?;
    writeln!(text, "  formula  {}", post.formula)?;
    writeln!(text, "  source   {}", post.reference)?;
    describe_params(text, post.params)
}

fn describe_params(text: &mut String, params: &[Param]) -> std::fmt::Result {
    let width = params.iter().map(|param| param.name.len()).max().unwrap_or(0).max(10);
    for param in params {
        let (kind, default) = (param.expectation(), param.default_text());
        let (name, doc, scope) = (param.name, param.doc, param.scope.title());
        writeln!(text, "  {name:<width$} {doc}; {kind}; {scope}; default: {default}")?;
    }
    writeln!(text)
}

fn post(post: &Post) -> Value {
    json!({
        "name": post.name,
        "post_step": true,
        "summary": post.summary,
        "formula": post.formula,
        "reference": post.reference,
        "parameters": parameters(post.params),
    })
}

fn parameters(params: &[Param]) -> Vec<Value> {
    let row = |param: &Param| {
        json!({
            "name": param.name,
            "doc": param.doc,
            "expects": param.expectation(),
            "scope": param.scope.title(),
            "default": param.default_value(),
        })
    };
    params.iter().map(row).collect()
}

fn row(method: &Method) -> Value {
    let Reads::Stream { passes, .. } = method.reads;
    let (least, most) = match method.inputs {
        Inputs::Exactly(count) => (count, Some(count)),
        Inputs::AtLeast(count) => (count, None),
    };
    json!({
        "name": method.name,
        "summary": method.summary,
        "formula": method.formula,
        "reference": method.reference,
        "models": {"min": least, "max": most},
        "base_required": method.base == Base::Required,
        "base": method.base.title(),
        "statistics": method.statistics.map(|kind| kind.key()),
        "passes": passes,
        "parameters": parameters(method.params),
    })
}
