//! `cognate infer`

use super::{print, print_json, size};
use clap::Args as ClapArgs;
use cognate::engine::Progress;
use cognate::lineage::infer::{self, Settings};
use cognate::model::hub::Want;
use cognate::model::{Checkpoint, Finder};
use cognate::{Fetch, Result};
use std::path::{Path, PathBuf};

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The model: a folder, a GGUF file, a name on the Hub; `+ADAPTER` for one with a LoRA adapter.
    /// Without it, the tree of the candidates is inferred
    model: Option<String>,
    /// Models it may be made of
    #[arg(long, value_name = "MODEL", num_args = 1..)]
    candidates: Vec<String>,
    /// A folder whose models are candidates
    #[arg(long, value_name = "FOLDER")]
    family: Option<PathBuf>,
    /// The base among the candidates [default: inferred]
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// The share of the rows to read of each tensor; less is read where --memory does not hold it
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    sample: f64,
    /// Worker threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Memory to stay within
    #[arg(long, default_value = "256MiB", value_parser = size)]
    memory: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let fetch = Fetch { want: Want::Everything, watch: &Progress::stderr() };
        let finder = Finder::new(Path::new(""), Some(fetch));
        let mut names = self.candidates;
        if let Some(folder) = &self.family {
            let same = |name: &String| Some(name) == self.model.as_ref() || names.contains(name);
            let found: Vec<String> =
                infer::models(folder)?.into_iter().filter(|n| !same(n)).collect();
            names.extend(found);
        }
        let child = self.model.as_ref().map(|model| finder.open(model)).transpose()?;
        let candidates =
            names.iter().map(|name| finder.open(name)).collect::<Result<Vec<Checkpoint>>>()?;
        let default = Settings::default();
        let settings = Settings {
            sample: self.sample,
            memory: self.memory,
            threads: self.threads.map_or(default.threads, usize::from),
            base: self.base,
        };
        let (text, json) = match &child {
            Some(child) => {
                let found = infer::infer(child, &candidates, &settings)?;
                (found.text(), found.json())
            }
            None => {
                let found = infer::family(&candidates, &settings)?;
                (found.text(), found.json())
            }
        };
        if self.json { print_json(&json) } else { print(&text) }
    }
}
