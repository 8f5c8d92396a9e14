//! `cognate fisher`

use super::statistics::Common;
use clap::Args as ClapArgs;
use cognate::Result;
use cognate::eval::statistics::fisher::{self, Labels, Settings};

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Whose likelihood is differentiated: labels drawn from the model's predictions, or the data's
    /// own next tokens (the empirical Fisher information)
    #[arg(long, default_value = "model")]
    labels: Labels,
    /// Seed of drawn labels
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let documents = self.common.documents();
        let settings = Settings { documents, labels: self.labels, seed: self.seed };
        self.common.run(
            |given| {
                let (data, out) = (given.data, given.out);
                fisher::compute(given.model, data, &settings, &given.resources, out, given.progress)
            },
            |done| {
                format!(
                    "the Fisher information of {} tensors from {} documents, {} labels of {:.3} nats",
                    done.tensors, done.documents, done.of_kind.labels, -done.of_kind.nats
                )
            },
        )
    }
}
