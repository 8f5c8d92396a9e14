//! `cognate schema`

use super::print_json;
use clap::Args as ClapArgs;
use cognate::Result;

#[derive(ClapArgs)]
pub(crate) struct Args {}

impl Args {
    #[expect(clippy::unused_self, reason = "every subcommand runs alike")]
    pub(crate) fn run(self) -> Result<()> {
        print_json(&cognate::recipe::schema())
    }
}
