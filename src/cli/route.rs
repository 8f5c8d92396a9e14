//! `cognate route`

use super::statistics::Reading;
use super::{print, print_json};
use clap::Args as ClapArgs;
use cognate::engine::Progress;
use cognate::eval::statistics::routers::sets_of_files;
use cognate::eval::statistics::routing::routing;
use cognate::model::Finder;
use cognate::model::hub::Want;
use cognate::{Error, Fetch, Result};
use std::path::{Path, PathBuf};

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The mixture: a folder or a name on the Hub
    model: String,
    /// A file of texts and a name for them: texts (.txt) or JSON objects (.jsonl), one a line; may be repeated
    #[arg(long, value_name = "NAME=FILE", required = true)]
    data: Vec<String>,
    #[command(flatten)]
    reading: Reading,
    /// Print the result as JSON, which `drop` of a recipe reads
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let fetch = Fetch { want: Want::Everything, watch: &Progress::silent() };
        let model = Finder::new(Path::new(""), Some(fetch)).open(&self.model)?;
        let named = |data: &String| {
            let (name, file) =
                data.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                    Error::input("texts have no name").key("--data").expected("NAME=FILE", data)
                })?;
            Ok((name.to_string(), PathBuf::from(file)))
        };
        let files: Vec<(String, PathBuf)> = self.data.iter().map(named).collect::<Result<_>>()?;
        let sets = sets_of_files(&model, &files, &self.reading.settings())?;
        let routing = routing(&model, &sets, &self.reading.resources(), &|_| ())?;
        if self.json { print_json(&routing.json()) } else { print(&routing.text()) }
    }
}
