//! Sanity probes: cheap looks at a model before it is evaluated.
//!
//! A merge that went wrong shows in a few items: logits that are not finite, text that repeats
//! itself, a perplexity far above that of everything it was made of.

use super::encode::TextEncoder;
use super::model::{GenerateRequest, LanguageModel, ScoreRequest};
use super::prompt::plain;
use super::request::{Asking, texts};
use super::{items::Items, task::Output};
use crate::error::Result;

/// Texts that are looked at, and tokens of each.
const TEXTS: usize = 4;
const TOKENS: usize = 128;
/// Tokens that are generated.
const NEW_TOKENS: usize = 48;
/// Repetition is degenerate where so few of the pairs of neighbouring tokens are different ones.
const FEW_PAIRS: f64 = 0.2;
/// And of a model beside no other, where there are so few: one token, or two in turn.
const ONE_WORD: f64 = 0.05;
/// A perplexity is far above others where it is so many times as high.
const FAR_ABOVE: f64 = 4.0;

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Perplexity a token over a few texts of the tasks; not finite where logits are not.
    pub perplexity: f64,
    /// Different pairs of neighbouring tokens among all of a generated text; 1 where none was
    /// generated, since the weights do not stay in memory.
    pub pairs: f64,
}

/// Looks at a model with the first texts of the tasks.
///
/// # Errors
/// The model or the tokenizer fails.
pub fn probe(
    model: &dyn LanguageModel,
    encoder: &TextEncoder,
    items: &[Items<'_>],
) -> Result<Probe> {
    let max_length = encoder.max_length(model.context_length());
    let mut seen = Vec::new();
    for task in items {
        for item in task.items.iter().take(TEXTS.div_ceil(items.len().max(1))) {
            let text = match task.task.output {
                Output::GenerateUntil => item.prompts.first().map(|prompt| plain(prompt)),
                _ => {
                    let first = texts(task.task, item, encoder, Asking::default())?;
                    first.into_iter().next().map(|(context, rest)| context + &rest)
                }
            };
            let text = text.unwrap_or_default();
            // A text of many tokens need not be encoded whole.
            let start: String = text.chars().take(TOKENS * 8).collect();
            let mut ids = encoder.encode(&start, Some(false))?;
            ids.truncate(TOKENS.min(max_length));
            if !ids.is_empty() {
                seen.push(ids);
            }
        }
    }
    seen.truncate(TEXTS);
    let prefix = encoder.prefix()?;
    let requests: Vec<ScoreRequest> = seen
        .iter()
        .map(|ids| ScoreRequest { context: vec![prefix], continuation: ids.clone() })
        .collect();
    let scores = model.score(&requests, &|_| {})?;
    let sum: f64 = scores.iter().map(|score| score.log_likelihood).sum();
    let count: usize = requests.iter().map(|request| request.continuation.len()).sum();
    let perplexity = (-sum / count.max(1) as f64).exp();
    // A probe is to be cheap: 48 times all weights from the disk is not.
    if !model.resident() {
        return Ok(Probe { perplexity, pairs: 1.0 });
    }
    let prompt = seen.into_iter().next().unwrap_or_else(|| vec![prefix]);
    let room = max_length.saturating_sub(NEW_TOKENS).max(1);
    let prompt = prompt.into_iter().take(room.min(TOKENS / 2)).collect();
    let request = GenerateRequest {
        prompt,
        max_new_tokens: NEW_TOKENS,
        stop: encoder.stops().to_vec(),
        until: None,
        sample: None,
    };
    let generated = model.generate(&[request], &|_| {})?;
    let tokens = generated.first().map(|one| one.tokens.clone()).unwrap_or_default();
    Ok(Probe { perplexity, pairs: different_pairs(&tokens) })
}

/// The share of different pairs among the pairs of neighbouring tokens; 1 for a short text.
fn different_pairs(tokens: &[u32]) -> f64 {
    if tokens.len() < NEW_TOKENS / 2 {
        return 1.0;
    }
    let pairs: std::collections::BTreeSet<&[u32]> = tokens.windows(2).collect();
    pairs.len() as f64 / (tokens.len() - 1) as f64
}

impl Probe {
    /// What is wrong with a model, in words; `others` are the probes of those it was made of.
    pub fn warnings(&self, others: &[Self]) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.perplexity.is_finite() {
            warnings
                .push("its logits are not finite, or its perplexity is beyond measure".to_string());
        }
        // Many a sound model repeats itself; one that does what the others do not has gone wrong, and
        // so has one that knows a single word.
        let few = match others.iter().map(|other| other.pairs).reduce(f64::min) {
            Some(least) if least >= FEW_PAIRS => FEW_PAIRS,
            Some(_) => 0.0,
            None => ONE_WORD,
        };
        if self.pairs < few {
            warnings.push(format!(
                "it repeats itself: {:.0} % of the pairs of tokens it generates are different ones",
                100.0 * self.pairs
            ));
        }
        let most = others.iter().map(|other| other.perplexity).fold(f64::NEG_INFINITY, f64::max);
        if self.perplexity.is_finite() && most.is_finite() && self.perplexity > FAR_ABOVE * most {
            warnings.push(format!(
                "its perplexity on a few texts is {:.4}, that of the others at most {most:.4}",
                self.perplexity
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_said() {
        let sound = Probe { perplexity: 20.0, pairs: 0.9 };
        assert!(sound.warnings(&[sound]).is_empty());
        let high = Probe { perplexity: 100.0, ..sound };
        assert_eq!(
            high.warnings(&[sound]),
            ["its perplexity on a few texts is 100.0000, that of the others at most 20.0000"]
        );
        assert!(high.warnings(&[]).is_empty());
        let mut stuck = sound;
        stuck.pairs = different_pairs(&[7; 48]);
        assert_eq!(stuck.warnings(&[sound]).len(), 1);
        assert!(stuck.warnings(&[stuck]).is_empty());
        assert_eq!(stuck.warnings(&[]).len(), 1);
        stuck.pairs = 0.15;
        assert_eq!((stuck.warnings(&[]).len(), stuck.warnings(&[sound]).len()), (0, 1));
        let broken = Probe { perplexity: f64::NAN, ..sound };
        assert_eq!(broken.warnings(&[sound]).len(), 1);
        assert!(different_pairs(&(0..48).collect::<Vec<_>>()) > 0.99);
    }
}
