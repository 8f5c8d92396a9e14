//! Metrics: what one item gives, how items become a figure, and how sure the figure is.
//!
//! Names, defaults and formulas are those of lm-eval 0.4.13 (`lm_eval/api/metrics.py`), except
//! `token_perplexity`, which lm-eval does not have.

mod aggregate;
mod matching;

pub use aggregate::{Aggregation, Figure};
pub use matching::ExactMatch;

use super::task::Output;

/// What an item gives to a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemValue {
    /// A number of its own.
    Number(f64),
    /// A log-likelihood in nats, and how many words, bytes or tokens it is over.
    Weighted(f64, f64),
    /// The right and the chosen label.
    Labels(i64, i64),
    /// The right label and the probability of each.
    Probabilities(i64, Vec<f64>),
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Whether the likeliest choice is right; whether a continuation is what greedy decoding gives.
    Acc,
    /// The same, log-likelihoods divided by the choices' characters.
    AccNorm,
    /// The same, divided by their bytes in UTF-8.
    AccBytes,
    /// The same, less the log-likelihoods of the choices without context.
    AccMutualInfo,
    /// `exp(−mean log-likelihood)`.
    Perplexity,
    /// Rolling, a word.
    WordPerplexity,
    /// Rolling, a byte.
    BytePerplexity,
    /// Rolling, in bits a byte.
    BitsPerByte,
    /// Rolling, a token.
    TokenPerplexity,
    /// Whether a generated text is the right one; whether the right choice is what greedy decoding
    /// gives.
    ExactMatch,
    /// F1 of the label 1.
    F1,
    /// Matthews' correlation coefficient.
    Mcc,
    /// Squared distance of the choices' probabilities from the right ones.
    BrierScore,
}

/// What is fixed about a metric.
pub struct Row {
    /// The metric.
    pub metric: Metric,
    /// Its name in task files.
    pub name: &'static str,
    /// The outputs it is defined for.
    pub outputs: &'static [Output],
    /// How items become a figure, unless the task says otherwise.
    pub aggregation: Aggregation,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// All metrics.
pub const METRICS: [Row; 13] = {
    use Aggregation as A;
    use Output::{GenerateUntil, LogLikelihood, MultipleChoice, Rolling};
    const fn row(
        metric: Metric,
        name: &'static str,
        outputs: &'static [Output],
        aggregation: Aggregation,
        higher_is_better: bool,
    ) -> Row {
        Row { metric, name, outputs, aggregation, higher_is_better }
    }
    [
        row(Metric::Acc, "acc", &[MultipleChoice, LogLikelihood], A::Mean, true),
        row(Metric::AccNorm, "acc_norm", &[MultipleChoice], A::Mean, true),
        row(Metric::AccBytes, "acc_bytes", &[MultipleChoice], A::Mean, true),
        row(Metric::AccMutualInfo, "acc_mutual_info", &[MultipleChoice], A::Mean, true),
        row(Metric::Perplexity, "perplexity", &[LogLikelihood], A::Perplexity, false),
        row(Metric::WordPerplexity, "word_perplexity", &[Rolling], A::WeightedPerplexity, false),
        row(Metric::BytePerplexity, "byte_perplexity", &[Rolling], A::WeightedPerplexity, false),
        row(Metric::BitsPerByte, "bits_per_byte", &[Rolling], A::BitsPerByte, false),
        row(Metric::TokenPerplexity, "token_perplexity", &[Rolling], A::WeightedPerplexity, false),
        row(Metric::ExactMatch, "exact_match", &[GenerateUntil, MultipleChoice], A::Mean, true),
        row(Metric::F1, "f1", &[MultipleChoice], A::F1, true),
        row(Metric::Mcc, "mcc", &[MultipleChoice], A::Matthews, true),
        row(Metric::BrierScore, "brier_score", &[MultipleChoice], A::Brier, false),
    ]
};

impl Metric {
    /// By its name in task files.
    pub fn named(name: &str) -> Option<&'static Row> {
        METRICS.iter().find(|row| row.name == name)
    }

    /// Its name in task files.
    pub fn name(self) -> &'static str {
        METRICS.iter().find(|row| row.metric == self).map_or("", |row| row.name)
    }

    /// The metrics of a task that names none.
    pub fn defaults(output: Output) -> &'static [Metric] {
        match output {
            Output::MultipleChoice => &[Self::Acc, Self::AccNorm],
            Output::LogLikelihood => &[Self::Perplexity, Self::Acc],
            Output::Rolling => &[Self::WordPerplexity, Self::BytePerplexity, Self::BitsPerByte],
            Output::GenerateUntil => &[Self::ExactMatch],
        }
    }
}
