//! `cognate export`

use super::{print, remark};
use clap::Args as ClapArgs;
use cognate::engine::Progress;
use cognate::lineage::export::{Format, Moment, Options, export};
use cognate::{Error, Result};
use std::path::PathBuf;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The folder of the model
    model: PathBuf,
    /// What to write
    #[arg(long)]
    format: Format,
    /// The file to write [default: stdout]
    #[arg(short, long)]
    out: Option<PathBuf>,
    /// The model's name [default: its folder's]
    #[arg(long)]
    name: Option<String>,
    /// Who supplies the model
    #[arg(long)]
    supplier: Option<String>,
    /// When the document is made, where its format has a time (`2026-01-31T12:00:00Z`) [default:
    /// `SOURCE_DATE_EPOCH`; without it no time, or the beginning of 1970 where there must be one]
    #[arg(long, value_parser = Moment::parse)]
    created: Option<Moment>,
    /// Worker threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// No progress and no warnings
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let epoch = || match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) if !text.is_empty() => Moment::of_epoch(&text).map(Some),
            _ => Ok(None),
        };
        let created = self.created.map_or_else(epoch, |moment| Ok(Some(moment)))?;
        let threads = cognate::plan::Options::default().threads;
        let progress = if self.quiet { Progress::silent() } else { Progress::stderr() };
        let options = Options {
            name: self.name,
            supplier: self.supplier,
            created,
            threads: self.threads.map_or(threads, usize::from),
            progress: &progress,
        };
        let exported = export(&self.model, self.format, &options)?;
        for warning in exported.warnings.iter().filter(|_| !self.quiet) {
            remark(&format!("warning: {warning}"));
        }
        let text = format!("{:#}\n", exported.document);
        match &self.out {
            Some(file) => {
                std::fs::write(file, text).map_err(|e| Error::io("write the document", file, &e))
            }
            None => print(&text),
        }
    }
}
