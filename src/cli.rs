//! Arguments of the program and its subcommands.

mod archs;
mod check;
mod eval;
mod export;
mod fisher;
mod gram;
mod infer;
mod inspect;
mod merge;
mod methods;
mod plan;
mod route;
mod schema;
mod statistics;
mod tasks;
mod trace;
mod verify;

use clap::{Parser, Subcommand};
use cognate::{Error, Result};
use std::io::Write;

/// Merge language models that share an ancestor, and know where every weight came from.
///
/// Exit codes: 0 ok; 1 reading, writing or an internal check failed; 2 the recipe, an input or the
/// command line is wrong; 3 a check that was asked for failed.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Merge models by a recipe and write a checkpoint with its lineage
    Merge(merge::Args),
    /// Check a recipe from configs and headers alone, and print what a merge would do
    Plan(plan::Args),
    /// Check all of a recipe that can be checked without its models
    Check(check::Args),
    /// Score models on tasks, side by side
    Eval(eval::Args),
    /// Show what a checkpoint holds
    Inspect(inspect::Args),
    /// Show the ancestry of a model, with the evidence for each step
    Trace(trace::Args),
    /// Check that a merged model's files are what its lineage records
    Verify(verify::Args),
    /// Describe a model's folder in another format: in-toto, CycloneDX, SPDX
    Export(export::Args),
    /// Infer from weights alone what a model is made of
    Infer(infer::Args),
    /// Compute the Fisher information of a model's weights, for the method `fisher`
    Fisher(fisher::Args),
    /// Compute the Gram matrices of what goes into a model's linear maps, for the method `regmean`
    Gram(gram::Args),
    /// Show where the routers of a mixture of experts send texts
    Route(route::Args),
    /// List the merge methods and their parameters
    Methods(methods::Args),
    /// List the families of models that the evaluator computes
    Archs(archs::Args),
    /// List the evaluation tasks that are known by name
    Tasks(tasks::Args),
    /// Print the JSON Schema of recipes, for editors
    Schema(schema::Args),
}

impl Cli {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Merge(args) => args.run(),
            Command::Plan(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Trace(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Export(args) => args.run(),
            Command::Infer(args) => args.run(),
            Command::Fisher(args) => args.run(),
            Command::Gram(args) => args.run(),
            Command::Route(args) => args.run(),
            Command::Methods(args) => args.run(),
            Command::Archs(args) => args.run(),
            Command::Tasks(args) => args.run(),
            Command::Schema(args) => args.run(),
        }
    }
}

/// Keys of a recipe replaced for one run.
#[derive(clap::Args)]
struct SetArgs {
    /// Override a key of the recipe (`parameters.weight=0.5`, `models[0].model=PATH`); may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SetArgs {
    /// The environment's, a line each, come first, so that the command line's hold.
    fn overrides(&self) -> Vec<String> {
        let environment = std::env::var("COGNATE_SET").unwrap_or_default();
        let lines = environment.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(str::to_string).chain(self.set.iter().cloned()).collect()
    }
}

/// Options that shape a plan, shared by `merge` and `plan`.
#[derive(clap::Args)]
struct PlanArgs {
    #[command(flatten)]
    set: SetArgs,
    /// Seed of all random numbers; overrides the recipe's `random_seed` [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Largest shard (`5GB`, `500MiB`, …)
    #[arg(long, default_value = "5GB", value_parser = size)]
    shard_size: u64,
    /// Worker threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Anonymous memory to stay within [default: 256MiB, and 8GiB while models are run: for an evaluation, for
    /// gates or statistics that the recipe computes]
    #[arg(long, value_parser = size)]
    memory: Option<u64>,
}

impl PlanArgs {
    fn options(&self) -> cognate::plan::Options {
        let default = cognate::plan::Options::default();
        cognate::plan::Options {
            set: self.set.overrides(),
            seed: self.seed,
            shard_size: self.shard_size,
            threads: self.threads.map_or(default.threads, usize::from),
            memory: self.memory.unwrap_or(default.memory),
            passes: self.memory,
        }
    }
}

/// Reads a number of bytes: `4096`, `500MB`, `1.5GiB`.
fn size(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000_u64.pow(2),
        "g" | "gb" => 1000_u64.pow(3),
        "t" | "tb" => 1000_u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(format!("unknown unit `{unit}`; use kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| "not a number of bytes".to_string())?;
    let bytes = number * factor as f64;
    if (1.0..1e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err("not a sensible number of bytes".to_string())
    }
}

/// Prints a result to stdout; a closed pipe is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("print the result", "stdout".as_ref(), &e))
        }
        _ => Ok(()),
    }
}

/// Prints JSON to stdout.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Prints a remark to stderr.
fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The user's cache folder: `COGNATE_CACHE`, or the platform's.
fn cache_folder() -> Option<std::path::PathBuf> {
    if let Some(folder) = std::env::var_os("COGNATE_CACHE") {
        return (!folder.is_empty()).then(|| folder.into());
    }
    directories::ProjectDirs::from("", "", "cognate").map(|dirs| dirs.cache_dir().to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("5GB"), Ok(5_000_000_000));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        assert!(size("many").is_err() && size("5 parsecs").is_err() && size("0").is_err());
    }
}
