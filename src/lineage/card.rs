//! The model card: `README.md` with the front matter the Hugging Face Hub reads.

use super::{Family, Member};
use crate::model::Checkpoint;
use crate::plan::Plan;
use crate::recipe::{Recipe, RecipeFile};
use std::fmt::Write;

/// The card of a merge, whose parents, through all stages, are `family`.
pub fn card(
    file: &RecipeFile,
    recipe: &Recipe,
    plan: &Plan,
    models: &[Checkpoint],
    family: &Family,
) -> String {
    let mut text = String::from("---\nbase_model:\n");
    for name in family.ancestors() {
        let _ = writeln!(text, "- {}", serde_json::Value::from(name.as_str()));
    }
    text.push_str("base_model_relation: merge\n");
    for (key, value) in family.license().unwrap_or_default() {
        let _ = writeln!(text, "{key}: {value}");
    }
    let datasets = family.datasets();
    if !datasets.is_empty() {
        text.push_str("datasets:\n");
        for name in datasets {
            let _ = writeln!(text, "- {}", serde_json::Value::from(name));
        }
    }
    text.push_str("library_name: transformers\ntags:\n- merge\n- cognate\n---\n");
    let _ = write_body(&mut text, file, recipe, plan, models, family);
    text
}

fn write_body(
    text: &mut String,
    file: &RecipeFile,
    recipe: &Recipe,
    plan: &Plan,
    models: &[Checkpoint],
    family: &Family,
) -> std::fmt::Result {
    let methods = recipe.methods.all();
    let names: Vec<&str> = family.members().iter().map(Member::name).collect();
    writeln!(text, "# Merge of {}\n", names.join(", "))?;
    let names: Vec<String> = methods.iter().map(|method| format!("`{}`", method.name)).collect();
    let by = match names.len() {
        0 => " as a mixture of experts".to_string(),
        1 => format!(" by the method {}", names[0]),
        _ => format!(" by the methods {}", names.join(" and ")),
    };
    writeln!(text, "Made with cognate {}{by}.", env!("CARGO_PKG_VERSION"))?;
    match &methods[..] {
        [method] => writeln!(text, "{} ({})", method.summary, method.reference)?,
        methods => {
            for method in methods {
                writeln!(text, "- `{}`: {} ({})", method.name, method.summary, method.reference)?;
            }
        }
    }
    for given in &recipe.posts {
        let post = given.post;
        writeln!(text, "Then `{}`: {} ({})", post.name, post.summary, post.reference)?;
    }
    writeln!(text)?;
    writeln!(text, "| model | role |\n|---|---|")?;
    for (i, model) in plan.models.iter().enumerate() {
        let base = recipe.base_model.as_ref().is_some_and(|base| base.value == model.reference);
        let role = match (base, i == plan.donor) {
            (true, _) => "base; config and tokenizer",
            (false, true) => "merged; config and tokenizer",
            (false, false) => "merged",
        };
        match &models[i].hub {
            Some(hub) => {
                writeln!(text, "| {} | {role}; commit `{}` |", model.reference, hub.commit)?
            }
            None => writeln!(text, "| {} | {role} |", model.reference)?,
        }
    }
    writeln!(
        text,
        "\n`lineage.json` says of every tensor how it was made and from which bytes. Seed: {}.\n",
        plan.seed
    )?;
    let conflicts = family.license_json();
    let conflicts = conflicts["conflicts"].as_array().into_iter().flatten();
    let conflicts: Vec<&str> = conflicts.filter_map(serde_json::Value::as_str).collect();
    if !conflicts.is_empty() {
        writeln!(
            text,
            "The licences of the parents may not fit together (a hint, no legal advice):\n"
        )?;
        for conflict in conflicts {
            writeln!(text, "- {conflict}")?;
        }
        writeln!(text)?;
    }
    writeln!(text, "## Recipe\n")?;
    fenced(text, "yaml", &file.text)?;
    if !file.overrides.is_empty() {
        writeln!(text, "\nWith these keys replaced:\n")?;
        fenced(text, "text", &file.overrides.join("\n"))?;
    }
    for included in &file.includes {
        writeln!(text, "\nIncluded file {}:\n", serde_json::Value::from(&*included.path))?;
        fenced(text, "yaml", &included.text)?;
    }
    Ok(())
}

/// A code block, whose fence is longer than any run of backticks in it.
fn fenced(text: &mut String, language: &str, code: &str) -> std::fmt::Result {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    writeln!(text, "{fence}{language}\n{}\n{fence}", code.trim_end())
}

/// The name of a model's folder.
pub(crate) fn short_name(reference: &str) -> &str {
    let trimmed = reference.trim_end_matches('/');
    trimmed.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(reference)
}
