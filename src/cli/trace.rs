//! `cognate trace`

use super::{cache_folder, print};
use clap::Args as ClapArgs;
use cognate::Result;
use cognate::lineage::trace::{Format, Options, trace};

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The model: a folder, or a name on the Hub, of which only what the cache holds is read
    model: String,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Hash the weights of parents that are there, and compare them with the digests on record
    #[arg(long)]
    verify: bool,
    /// Models it may be made of: where no record names a parent, weights are asked (`cognate infer`)
    #[arg(long, value_name = "MODEL", num_args = 1..)]
    candidates: Vec<String>,
    /// Print JSON; the same as `--format json`
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let options =
            Options { verify: self.verify, cache: cache_folder(), candidates: self.candidates };
        let found = trace(&self.model, &options)?;
        let format = if self.json { Format::Json } else { self.format };
        print(&found.print(format))
    }
}
