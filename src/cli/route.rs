//! `cognate route`

use super::{cache_folder, print, print_json, size};
use clap::Args as ClapArgs;
use cognate::engine::Progress;
use cognate::eval::statistics::Resources;
use cognate::eval::statistics::routers::sets_of_files;
use cognate::eval::statistics::routing::routing;
use cognate::model::hub::Want;
use cognate::model::{DocumentSettings, Finder};
use cognate::{Error, Fetch, Result};
use std::path::{Path, PathBuf};

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The mixture: a folder or a name on the Hub
    model: String,
    /// A file of texts and a name for them: texts (.txt) or JSON objects (.jsonl), one a line; may be repeated
    #[arg(long, value_name = "NAME=FILE", required = true)]
    data: Vec<String>,
    /// Take the first N texts of each file [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    samples: Option<u64>,
    /// Tokens of a text at most [default: the model's context, 2048 at most]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    length: Option<u64>,
    /// The field of a JSON object that holds the text
    #[arg(long, default_value = "text")]
    field: String,
    /// Worker threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Memory to stay within
    #[arg(long, default_value = "8GiB", value_parser = size)]
    memory: u64,
    /// Print the result as JSON, which `drop` of a recipe reads
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let fetch = Fetch { want: Want::Everything, watch: &Progress::silent() };
        let model = Finder::new(Path::new(""), Some(fetch)).open(&self.model)?;
        let settings = DocumentSettings {
            samples: self.samples.map(|samples| samples as usize),
            length: self.length.map(|length| length as usize),
            field: self.field,
        };
        let named = |data: &String| {
            let (name, file) =
                data.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                    Error::input("texts have no name").key("--data").expected("NAME=FILE", data)
                })?;
            Ok((name.to_string(), PathBuf::from(file)))
        };
        let files: Vec<(String, PathBuf)> = self.data.iter().map(named).collect::<Result<_>>()?;
        let sets = sets_of_files(&model, &files, &settings)?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let resources = Resources {
            memory: self.memory,
            threads: self.threads.map_or_else(cores, usize::from),
            cache: cache_folder(),
        };
        let routing = routing(&model, &sets, &resources, &|_| ())?;
        if self.json { print_json(&routing.json()) } else { print(&routing.text()) }
    }
}
