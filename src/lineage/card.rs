//! The model card: `README.md` with the front matter the Hugging Face Hub reads.

use crate::model::Checkpoint;
use crate::plan::Plan;
use crate::recipe::Recipe;
use std::fmt::Write;

/// The card of a merge.
pub fn card(recipe: &Recipe, plan: &Plan, models: &[Checkpoint]) -> String {
    let mut text = String::from("---\nbase_model:\n");
    let names: Vec<&str> = models.iter().map(name).collect();
    for name in &names {
        let _ = writeln!(text, "- {}", serde_json::Value::from(*name));
    }
    text.push_str(
        "base_model_relation: merge\nlibrary_name: transformers\ntags:\n- merge\n- cognate\n---\n",
    );
    let _ = write_body(&mut text, recipe, plan, models, &names);
    text
}

fn write_body(
    text: &mut String,
    recipe: &Recipe,
    plan: &Plan,
    models: &[Checkpoint],
    names: &[&str],
) -> std::fmt::Result {
    let method = recipe.method;
    writeln!(text, "# Merge of {}\n", names.join(", "))?;
    writeln!(
        text,
        "Made with cognate {} by the method `{}`.",
        env!("CARGO_PKG_VERSION"),
        method.name
    )?;
    writeln!(text, "{} ({})\n", method.summary, method.reference)?;
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
    writeln!(text, "## Recipe\n")?;
    // A fence longer than any run of backticks in the recipe.
    let longest = recipe.text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    writeln!(text, "{fence}yaml\n{}\n{fence}", recipe.text.trim_end())
}

/// The name of a model: the Hub's, or its folder's.
fn name(model: &Checkpoint) -> &str {
    model.hub.as_ref().map_or_else(|| short_name(&model.reference), |hub| &hub.reference.repo)
}

/// The name of a model's folder.
fn short_name(reference: &str) -> &str {
    let trimmed = reference.trim_end_matches('/');
    trimmed.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(reference)
}
