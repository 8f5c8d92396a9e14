//! `cognate check`

use super::{SetArgs, print, print_json, remark};
use clap::Args as ClapArgs;
use cognate::Result;
use cognate::recipe::{Recipe, RecipeFile};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The recipe (YAML)
    recipe: PathBuf,
    #[command(flatten)]
    set: SetArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let file = RecipeFile::open(&self.recipe, &self.set.overrides())?;
        if self.json {
            return print_json(&json!({
                "recipe": self.recipe.display().to_string(),
                "includes": file.includes.iter().map(|file| &file.path).collect::<Vec<_>>(),
                "stages": file.stages.iter().map(stage).collect::<Vec<_>>(),
            }));
        }
        for warning in file.stages.iter().flat_map(|stage| &stage.warnings) {
            remark(&format!("warning: {warning}"));
        }
        let mut text = format!("{}: well-formed\n", self.recipe.display());
        for included in &file.includes {
            let _ = writeln!(text, "  includes {}", included.path);
        }
        for stage in &file.stages {
            let name = stage.name.as_ref().map(|name| format!("{}: ", name.value));
            let (name, method) = (name.unwrap_or_default(), stage.methods.title());
            let _ = writeln!(text, "  {name}{method} of {}", models(stage).join(", "));
        }
        print(&text)
    }
}

/// The models that a stage names, in order.
fn models(stage: &Recipe) -> Vec<&str> {
    stage.references().into_iter().map(|reference| reference.value.as_str()).collect()
}

fn stage(stage: &Recipe) -> Value {
    json!({
        "name": stage.name.as_ref().map(|name| &name.value),
        "merge_method": stage.methods.json(),
        "models": models(stage),
        "warnings": stage.warnings,
    })
}
