//! `cognate merge`

use super::eval::warn;
use super::{PlanArgs, cache_folder, print, print_json, remark};
use clap::Args as ClapArgs;
use cognate::engine::{DigestMode, Progress};
use cognate::eval::report::Style;
use cognate::eval::{Report, decoder};
use cognate::model::hub::Want;
use cognate::{EvaluateOptions, Fetch, Merge, Result, WriteOptions, Written};
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
    /// Leave the recipe's `evaluate` out
    #[arg(long)]
    no_eval: bool,
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
            evaluate: (!self.no_eval).then(|| self.evaluate()),
        };
        let Written { outcome, report, routing } = merge.write(&self.out, &options)?;
        if let Some(Err(error)) = routing.as_ref().filter(|_| !self.quiet) {
            remark(&format!("warning: no routing report: {error}"));
        }
        let routing = routing.and_then(Result::ok);
        if outcome.resumed > 0 && !self.quiet {
            remark(&format!("resumed: {} tensors were written before", outcome.resumed));
        }
        let totals = &merge.plan().totals;
        let failed = report.as_ref().and_then(Report::failed);
        if let Some(report) = report.as_ref().filter(|_| !self.quiet) {
            warn(report);
        }
        if self.json {
            let mut result = serde_json::json!({
                "out": self.out.display().to_string(),
                "tensors": merge.plan().jobs.len(),
                "parameters": totals.parameters,
                "bytes": totals.write,
                "resumed": outcome.resumed,
                "warnings": merge.warnings(),
            });
            if let Some(report) = &report {
                result["evaluation"] = report.json();
            }
            if let Some(routing) = &routing {
                result["routing"] = routing.json();
            }
            print_json(&result)?;
            return failed.map_or(Ok(()), Err);
        }
        print(&format!(
            "{}: {} tensors, {} parameters, {} bytes by {}\n",
            self.out.display(),
            merge.plan().jobs.len(),
            totals.parameters,
            totals.write,
            merge.recipe.last().methods.title()
        ))?;
        if let Some(routing) = &routing {
            print(&format!("\n{}", routing.text()))?;
        }
        if let Some(report) = &report {
            print(&format!("\n{}", report.table(Style::Text)))?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// The memory that was asked for holds for the evaluation too.
    fn evaluate(&self) -> EvaluateOptions {
        let default = decoder::Options::default();
        EvaluateOptions {
            decoder: decoder::Options {
                memory: self.plan.memory.unwrap_or(default.memory),
                threads: self.plan.threads.map_or(default.threads, usize::from),
                ..default
            },
            progress: if self.quiet { Progress::silent() } else { Progress::items() },
        }
    }
}
