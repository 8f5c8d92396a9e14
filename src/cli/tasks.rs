//! `cognate tasks`

use super::{print, print_json};
use clap::Args as ClapArgs;
use cognate::Result;
use cognate::eval::task::{Catalog, Entry};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Add the tasks of a folder; may be repeated
    #[arg(long, value_name = "FOLDER")]
    tasks_dir: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let mut catalog = Catalog::built_in();
        for folder in &self.tasks_dir {
            catalog.add_folder(folder)?;
        }
        if self.json {
            return print_json(&catalog.entries().map(row).collect());
        }
        let width = catalog.entries().map(|entry| entry.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for entry in catalog.entries() {
            let what = match (&entry.broken, entry.group) {
                (Some(error), _) => format!("cannot be used: {}", error.message()),
                (None, true) => "group".to_string(),
                (None, false) => entry.tags.join(", "),
            };
            let line = format!("{:<width$}  {what}", entry.name);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        print(&text)
    }
}

fn row(entry: &Entry) -> Value {
    json!({
        "name": entry.name,
        "file": entry.file,
        "group": entry.group,
        "tags": entry.tags,
        "error": entry.broken.as_ref().map(cognate::Error::message),
    })
}
