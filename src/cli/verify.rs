//! `cognate verify`

use super::{cache_folder, print, print_json, remark, size};
use clap::Args as ClapArgs;
use cognate::engine::Progress;
use cognate::lineage::verify::{Options, verify};
use cognate::{Rederive, Rederived, Result, Sample};
use std::path::PathBuf;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The folder, as `cognate merge` wrote it
    model: PathBuf,
    /// Also compute N output tensors (or `all`) again from the recorded recipe and inputs, and compare
    /// their bytes
    #[arg(long, value_name = "N|all")]
    rederive: Option<Sample>,
    /// Seed of the choice of tensors
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    sample_seed: u64,
    /// Where the recipe lay: relative paths of models start there [default: where the model folder lies];
    /// what is not found there is looked for in the working directory
    #[arg(long, value_name = "FOLDER")]
    recipe_dir: Option<PathBuf>,
    /// Worker threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Anonymous memory to stay within when tensors are computed again [default: as `cognate merge`]
    #[arg(long, value_parser = size)]
    memory: Option<u64>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let progress = || if self.quiet { Progress::silent() } else { Progress::stderr() };
        let threads = cognate::plan::Options::default().threads;
        let threads = self.threads.map_or(threads, usize::from);
        let mut found = verify(&self.model, &Options { threads, progress: &progress() })?;
        let rederived = self.rederive.map(|sample| {
            let rederive = Rederive {
                sample,
                seed: self.sample_seed,
                recipe_folder: self.recipe_dir.clone(),
                threads,
                memory: self.memory,
                cache: cache_folder(),
                progress: progress(),
            };
            rederive.run(&self.model, &mut found)
        });
        if self.json {
            let mut value = found.json();
            match &rederived {
                Some(Ok(Rederived { tensors })) => value["rederived"] = tensors.clone().into(),
                Some(Err(_)) => value["ok"] = false.into(),
                None => {}
            }
            print_json(&value)?;
        } else {
            print(&found.text())?;
            if let Some(Ok(Rederived { tensors })) = &rederived {
                print(&format!("rederived {} tensors\n", tensors.len()))?;
            }
        }
        match (found.failed(), rederived) {
            (Some(failed), Some(Err(error))) => {
                remark(&format!("warning: {error}"));
                Err(failed)
            }
            (_, Some(Err(error))) => Err(error),
            (failed, _) => failed.map_or(Ok(()), Err),
        }
    }
}
