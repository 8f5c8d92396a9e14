//! `cognate archs`

use super::{print, print_json};
use clap::Args as ClapArgs;
use cognate::Result;
use cognate::eval::decoder::{Listed, families};
use serde_json::json;
use std::fmt::Write;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let families = families()?;
        if self.json {
            let row =
                |family: &Listed| json!({"name": family.name, "model_types": family.model_types});
            return print_json(&families.iter().map(row).collect());
        }
        let width = families.iter().map(|family| family.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for family in &families {
            let _ = writeln!(text, "{:<width$}  {}", family.name, family.model_types.join(", "));
        }
        print(&text)
    }
}
