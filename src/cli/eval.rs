//! `cognate eval`

use super::{SetArgs, print, print_json, remark, size};
use clap::Args as ClapArgs;
use cognate::engine::Progress;
use cognate::eval::dataset::Access;
use cognate::eval::decoder;
use cognate::eval::gate::Gate;
use cognate::eval::report::Style;
use cognate::eval::{Evaluation, Report, Settings};
use cognate::model::hub::{self, Want};
use cognate::{Compared, Error, Fetch, Result};
use std::path::PathBuf;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Models: folders, GGUF files, names on the Hub, or recipes, whose merges are scored unwritten.
    /// The first is compared with the others
    #[arg(required = true)]
    models: Vec<String>,
    /// A task, group or tag by name, or a task file; may be repeated
    #[arg(short, long = "task", value_name = "NAME|FILE")]
    tasks: Vec<String>,
    /// Add the tasks of a folder; may be repeated
    #[arg(long, value_name = "FOLDER")]
    tasks_dir: Vec<PathBuf>,
    /// Evaluate the first N items of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Examples before each item, instead of what the tasks say
    #[arg(long, value_name = "N")]
    num_fewshot: Option<usize>,
    /// Render prompts with each model's chat template
    #[arg(long)]
    apply_chat_template: bool,
    /// With a chat template, make each example a question and its answer [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    fewshot_as_multiturn: Option<bool>,
    /// A text before each task's description
    #[arg(long, value_name = "TEXT")]
    system_instruction: Option<String>,
    /// The base among the models [default: what the first one's lineage says]
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// A condition on the first model, `arc_easy.acc >= best_parent - 0.01`; exit code 3 where it
    /// does not hold; may be repeated
    #[arg(long, value_name = "CONDITION")]
    gate: Vec<String>,
    /// Seed of texts that are sampled [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Tokens worked on at a time, at most
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    batch_size: Option<u64>,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    set: SetArgs,
    /// Write a line of JSON for each item and model
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a table in Markdown
    #[arg(long)]
    markdown: bool,
    /// Leave eval.json, card and lineage of the first model alone
    #[arg(long)]
    no_record: bool,
    /// No progress and no warnings
    #[arg(short, long)]
    quiet: bool,
}

/// Options of the machine that evaluations share.
#[derive(ClapArgs)]
pub(super) struct MachineArgs {
    /// Memory to stay within
    #[arg(long, default_value = "8GiB", value_parser = size)]
    memory: u64,
    /// Worker threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let quiet = self.quiet;
        let progress = || if quiet { Progress::silent() } else { Progress::stderr() };
        let fetch = Fetch { want: Want::Everything, watch: &progress() };
        let compared =
            Compared::open(&self.models, self.base.as_deref(), &self.set.overrides(), fetch)?;
        let evaluation = Evaluation::new(self.settings(&compared)?)?;
        let hub = hub::Settings::from_env()?;
        let items = evaluation.items(&Access { hub: &hub, watch: &progress() })?;
        let options = decoder::Options {
            memory: self.machine.memory,
            batch: self.batch_size.map(|tokens| tokens as usize),
            ..decoder::Options::default()
        };
        let threads = self.machine.threads.map_or(options.threads, usize::from);
        let options = decoder::Options { threads, ..options };
        let shown = if quiet { Progress::silent() } else { Progress::items() };
        let report = compared.evaluate(&evaluation, &items, &options, &shown)?;
        if !quiet {
            warn(&report);
        }
        if let Some(file) = &self.samples {
            std::fs::write(file, report.samples())
                .map_err(|e| Error::io("write the samples", file, &e))?;
        }
        if !self.no_record
            && let Some(folder) = compared.record(&report)?
            && !quiet
        {
            remark(&format!("recorded in {}", folder.join("eval.json").display()));
        }
        if self.json {
            print_json(&report.json())?;
        } else {
            let style = if self.markdown { Style::Markdown } else { Style::Text };
            print(&report.table(style))?;
        }
        report.failed().map_or(Ok(()), Err)
    }

    /// What the command line asks, or else the first model's recipe.
    fn settings(&self, compared: &Compared) -> Result<Settings> {
        let mut settings = match compared.asked() {
            Some(settings) if self.tasks.is_empty() => settings,
            _ if self.tasks.is_empty() => {
                return Err(Error::input("there is no task to evaluate")
                    .key("--task")
                    .hint("add `--task NAME`; `cognate tasks` lists the built-in ones"));
            }
            _ => Settings { tasks: self.tasks.clone(), ..Settings::default() },
        };
        settings.folders.extend(self.tasks_dir.iter().cloned());
        settings.limit = self.limit.map(|limit| limit as usize).or(settings.limit);
        settings.fewshot = self.num_fewshot.or(settings.fewshot);
        settings.chat_template |= self.apply_chat_template;
        settings.multiturn = self.fewshot_as_multiturn.or(settings.multiturn);
        settings.system = self.system_instruction.clone().or(settings.system);
        settings.seed = self.seed.unwrap_or(settings.seed);
        for text in &self.gate {
            let at = text.find(['<', '>']).unwrap_or(text.len());
            let (figure, condition) = text.split_at(at);
            settings.gates.push(Gate::parse(figure.trim(), condition)?);
        }
        Ok(settings)
    }
}

/// Says what the sanity probes found wrong.
pub(super) fn warn(report: &Report) {
    for (i, warning) in &report.warnings {
        remark(&format!("warning: {}: {warning}", report.results[*i].model));
    }
}
