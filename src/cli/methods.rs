//! `cognate methods`

use super::{print, print_json};
use clap::Args as ClapArgs;
use cognate::methods::{Base, Inputs, METHODS, Method, Reads, Scope};
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
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let methods: Vec<&Method> = match &self.name {
            None => METHODS.iter().collect(),
            Some(name) => vec![Method::named(name).ok_or_else(|| {
                let (message, hint) = Method::unknown(name);
                Error::input(message).hint(hint)
            })?],
        };
        if self.json {
            return print_json(&methods.into_iter().map(row).collect());
        }
        let mut text = String::new();
        for method in methods {
            let _ = describe(&mut text, method);
        }
        print(&text)
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Shared => "shared",
        Scope::Input => "each model",
        Scope::NonBase => "each model but the base",
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
    let width = method.params.iter().map(|param| param.name.len()).max().unwrap_or(0).max(10);
    for param in method.params {
        let (kind, default) = (param.expectation(), param.default_text());
        writeln!(
            text,
            "  {:<width$} {}; {kind}; {}; default: {default}",
            param.name,
            param.doc,
            scope(param.scope)
        )?;
    }
    writeln!(text)
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
        "statistics": method.statistics.map(|kind| kind.key()),
        "passes": passes,
        "parameters": method.params.iter().map(|param| json!({
            "name": param.name,
            "doc": param.doc,
            "expects": param.expectation(),
            "scope": scope(param.scope),
            "default": param.default_value(),
        })).collect::<Vec<_>>(),
    })
}
