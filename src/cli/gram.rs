//! `cognate gram`

use super::statistics::Common;
use clap::Args as ClapArgs;
use cognate::Result;
use cognate::eval::statistics::gram;

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let settings = self.common.documents();
        self.common.run(
            |given| {
                let (data, out) = (given.data, given.out);
                gram::compute(given.model, data, &settings, &given.resources, out, given.progress)
            },
            |done| {
                format!(
                    "{} Gram matrices for {} weights from {} documents, {} tokens",
                    done.tensors, done.of_kind.weights, done.documents, done.of_kind.tokens
                )
            },
        )
    }
}
