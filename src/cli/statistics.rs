//! What `cognate fisher` and `cognate gram` share.

use super::{cache_folder, print, print_json, remark, size};
use clap::Args as ClapArgs;
use cognate::engine::Progress;
use cognate::eval::statistics::{Data, Resources, Summary};
use cognate::model::hub::Want;
use cognate::model::{Checkpoint, DocumentSettings, Finder};
use cognate::{Fetch, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Which texts a model reads, and what it may take for that.
#[derive(ClapArgs)]
pub(super) struct Reading {
    /// Take the first N texts of a file [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    samples: Option<u64>,
    /// Tokens of a text at most [default: the model's context, 2048 at most]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(2..))]
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
}

impl Reading {
    /// Which texts.
    pub(super) fn settings(&self) -> DocumentSettings {
        DocumentSettings {
            samples: self.samples.map(|samples| samples as usize),
            length: self.length.map(|length| length as usize),
            field: self.field.clone(),
        }
    }

    pub(super) fn resources(&self) -> Resources {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Resources {
            memory: self.memory,
            threads: self.threads.map_or_else(cores, usize::from),
            cache: cache_folder(),
        }
    }
}

/// A model, documents, and the file of what is computed of them.
#[derive(ClapArgs)]
pub(super) struct Common {
    /// The model: a folder, a GGUF file or a name on the Hub; `+ADAPTER` adds a LoRA adapter
    model: String,
    /// The documents: JSON objects, one a line (.jsonl), or texts, one a line (.txt)
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The safetensors file to write
    #[arg(short, long)]
    out: PathBuf,
    #[command(flatten)]
    reading: Reading,
    /// Replace an earlier file
    #[arg(long)]
    overwrite: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// What a computation is given.
pub(super) struct Given<'a> {
    pub(super) model: &'a Checkpoint,
    pub(super) data: Data<'a>,
    pub(super) resources: Resources,
    pub(super) out: (&'a Path, bool),
    pub(super) progress: &'a (dyn Fn(&str) + Sync),
}

/// Time between two lines of progress.
const EVERY: Duration = Duration::from_secs(5);

impl Common {
    /// Which documents.
    pub(super) fn documents(&self) -> DocumentSettings {
        self.reading.settings()
    }

    /// Opens the model, computes, and prints what was computed: `said` puts it in words.
    pub(super) fn run<T: Serialize>(
        &self,
        compute: impl FnOnce(Given<'_>) -> Result<Summary<T>>,
        said: impl FnOnce(&Summary<T>) -> String,
    ) -> Result<()> {
        let watch = if self.quiet { Progress::silent() } else { Progress::stderr() };
        let fetch = Fetch { want: Want::Everything, watch: &watch };
        let model = Finder::new(Path::new(""), Some(fetch)).open(&self.model)?;
        let resources = self.reading.resources();
        let last = Mutex::new(Instant::now());
        let progress = |line: &str| {
            if let Ok(mut last) = last.lock()
                && !self.quiet
                && last.elapsed() >= EVERY
            {
                remark(line);
                *last = Instant::now();
            }
        };
        let (data, out) = (Data::File(&self.data), (self.out.as_path(), self.overwrite));
        let done = compute(Given { model: &model, data, resources, out, progress: &progress })?;
        if done.left_out > 0 && !self.quiet {
            remark(&format!("documents of fewer than two tokens, left out: {}", done.left_out));
        }
        if self.json {
            let mut value = serde_json::json!(done);
            value["out"] = self.out.display().to_string().into();
            return print_json(&value);
        }
        print(&format!("{}: {}\n", self.out.display(), said(&done)))
    }
}
