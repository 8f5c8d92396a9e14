//! `cognate merge`

use super::{PlanArgs, cache_folder, print, print_json, remark};
use clap::Args as ClapArgs;
use cognate::engine::{DigestMode, Progress};
use cognate::model::hub::Want;
use cognate::{Fetch, Merge, Result, WriteOptions};
use std::path::PathBuf;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The recipe (YAML)
    recipe: PathBuf,
    /// The folder to write
    #[arg(short, long)]
    out: PathBuf,
    #[command(flatten)]
    plan: PlanArgs,
    /// SHA-256 digests to record: of inputs and outputs, of outputs, or none
    #[arg(long, default_value = "full")]
    digests: DigestMode,
    /// Replace an earlier output of cognate
    #[arg(long)]
    overwrite: bool,
    /// Merge inputs that hold NaN; each stays in its own element
    #[arg(long)]
    allow_nan: bool,
    /// Check and print the plan, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// No progress and no warnings
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let progress = || if self.quiet { Progress::silent() } else { Progress::stderr() };
        let want = if self.dry_run { Want::Headers } else { Want::Everything };
        let fetch = Fetch { want, watch: &progress() };
        let merge = Merge::open_with(&self.recipe, &self.plan.options(), fetch)?;
        if self.dry_run {
            return if self.json { print_json(&merge.json()) } else { print(&merge.text()) };
        }
        if !self.quiet {
            for warning in &merge.warnings() {
                remark(&format!("warning: {warning}"));
            }
        }
        let options = WriteOptions {
            overwrite: self.overwrite,
            digests: self.digests,
            cache: cache_folder(),
            allow_nan: self.allow_nan,
            progress: progress(),
        };
        let outcome = merge.write(&self.out, &options)?;
        if outcome.resumed > 0 && !self.quiet {
            remark(&format!("resumed: {} tensors were written before", outcome.resumed));
        }
        let totals = &merge.plan().totals;
        if self.json {
            return print_json(&serde_json::json!({
                "out": self.out.display().to_string(),
                "tensors": merge.plan().jobs.len(),
                "parameters": totals.parameters,
                "bytes": totals.write,
                "resumed": outcome.resumed,
                "warnings": merge.warnings(),
            }));
        }
        print(&format!(
            "{}: {} tensors, {} parameters, {} bytes by {}\n",
            self.out.display(),
            merge.plan().jobs.len(),
            totals.parameters,
            totals.write,
            merge.recipe.last().method.name
        ))
    }
}
