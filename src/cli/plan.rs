//! `cognate plan`

use super::{PlanArgs, print, print_json};
use clap::Args as ClapArgs;
use cognate::engine::Progress;
use cognate::model::hub::Want;
use cognate::{Fetch, Merge, Result};
use std::path::PathBuf;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The recipe (YAML)
    recipe: PathBuf,
    #[command(flatten)]
    plan: PlanArgs,
    /// Print the tensors whose names contain this (`*` is anything), with parameters as resolved
    #[arg(long, value_name = "PATTERN", conflicts_with = "json")]
    tensor: Option<String>,
    /// Print the whole plan as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let fetch = Fetch { want: Want::Headers, watch: &Progress::stderr() };
        let merge = Merge::open_with(&self.recipe, &self.plan.options(), fetch)?;
        if let Some(pattern) = &self.tensor {
            return print(&merge.tensors_text(pattern)?);
        }
        if self.json { print_json(&merge.json()) } else { print(&merge.text()) }
    }
}
