//! The recipe that makes an explained model again.

use super::explanation::{Explanation, Kind};
use super::setting::{Setting, quoted};
use super::stack::Run;
use crate::model::Float;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A recipe for `cognate merge`; none for what no merge makes.
pub(super) fn recipe(
    explanation: &Explanation,
    runs: &[Run],
    references: &[String],
    float: Float,
) -> Option<String> {
    let name = |at: usize| references.get(at).map_or("", String::as_str);
    let mut text = String::new();
    match explanation.kind {
        Kind::Stack => {
            text.push_str("merge_method: passthrough\nslices:\n");
            for run in runs {
                let (start, end) = (run.layers.start, run.layers.end);
                let model = quoted(name(run.candidate));
                let _ = writeln!(
                    text,
                    "  - sources:\n      - {{model: {model}, layer_range: [{start}, {end}]}}"
                );
            }
        }
        Kind::Copy => {
            let parent = explanation.parents.first()?;
            let model = quoted(name(parent.candidate));
            let _ = write!(text, "merge_method: passthrough\nmodels:\n  - model: {model}\n");
        }
        Kind::Merge(method) => merge(&mut text, method, explanation, &name),
        // What can be told of the merge that was trained on.
        Kind::FineTuneOfMerge => {
            let method = if explanation.base.is_some() { "task_arithmetic" } else { "linear" };
            merge(&mut text, method, explanation, &name);
        }
        Kind::Lora { .. } | Kind::FineTune | Kind::Unexplained => return None,
    }
    let _ = writeln!(text, "dtype: {}", float.name());
    Some(text)
}

fn merge<'a>(
    text: &mut String,
    method: &str,
    explanation: &Explanation,
    name: &impl Fn(usize) -> &'a str,
) {
    let _ = writeln!(text, "merge_method: {method}");
    if let Some(base) = explanation.base {
        let _ = writeln!(text, "base_model: {}", quoted(name(base)));
    }
    text.push_str("models:\n");
    for parent in &explanation.parents {
        let _ = writeln!(text, "  - model: {}", quoted(name(parent.candidate)));
        settings(text, "    ", &parent.parameters, &BTreeMap::new());
    }
    settings(text, "", &explanation.shared, &explanation.switches);
}

fn settings(
    text: &mut String,
    indent: &str,
    settings: &BTreeMap<&'static str, Setting>,
    switches: &BTreeMap<&'static str, bool>,
) {
    if settings.is_empty() && switches.is_empty() {
        return;
    }
    let _ = writeln!(text, "{indent}parameters:");
    for (key, setting) in settings {
        let _ = writeln!(text, "{indent}  {key}: {}", setting.yaml());
    }
    for (key, on) in switches {
        let _ = writeln!(text, "{indent}  {key}: {on}");
    }
}
