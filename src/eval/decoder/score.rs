//! Scoring texts.

use super::Decoder;
use super::sequences::{self, Slice};
use crate::error::{Error, Result};
use crate::eval::model::{Score, ScoreRequest};
use rayon::prelude::*;

/// Scores all requests in one pass over the layers.
pub(super) fn score(
    decoder: &Decoder,
    requests: &[ScoreRequest],
    progress: &dyn Fn(usize),
) -> Result<Vec<Score>> {
    for (number, request) in requests.iter().enumerate() {
        if request.context.is_empty() {
            return Err(Error::input("a text to score has nothing before it")
                .fact("request", number)
                .hint("begin with the token that begins every text, such as <s>"));
        }
        let all: Vec<u32> = request.context.iter().chain(&request.continuation).copied().collect();
        // The last token is only scored.
        decoder.check(&all[..(all.len() - 1).max(1)])?;
        if let Some(token) = all.iter().find(|token| **token as usize >= decoder.vocabulary) {
            return Err(Error::input("a token is not one of the model's vocabulary")
                .fact("model", &decoder.reference)
                .expected(format!("an id below {}", decoder.vocabulary), token));
        }
    }
    let share = |length: usize| decoder.layers.iter().all(|layer| layer.shares(length));
    let slices = sequences::pack(requests, decoder.budget.rows, share);
    let steps = decoder.layers.len() + 1;
    let states =
        decoder.forward(&slices, None, &|layers| progress(requests.len() * layers / steps))?;
    let mut scores: Vec<Score> = requests
        .iter()
        .map(|request| Score {
            log_likelihood: 0.0,
            tokens: vec![0.0; request.continuation.len()],
            greedy: true,
        })
        .collect();
    let limits = decoder.budget.limits;
    let likelihoods: Vec<_> = decoder.pool.install(|| {
        decoder.load_head()?;
        let of = |(number, slice): (usize, &Slice)| {
            let wanted: Vec<(usize, u32)> =
                slice.wanted.iter().map(|wanted| (wanted.row, wanted.token)).collect();
            decoder.head.likelihoods(&states.get(number)?, &wanted, limits)
        };
        let found: Result<Vec<_>> = if decoder.budget.keep_head {
            slices.par_iter().enumerate().with_max_len(1).map(of).collect()
        } else {
            slices.iter().enumerate().map(of).collect()
        };
        decoder.unload_head()?;
        found
    })?;
    for (slice, likelihoods) in slices.iter().zip(likelihoods) {
        for (wanted, found) in slice.wanted.iter().zip(likelihoods) {
            let (request, token) = wanted.place;
            let score = &mut scores[request];
            score.tokens[token] = found.nats as f32;
            score.greedy &= found.greedy;
        }
    }
    for score in &mut scores {
        score.log_likelihood = score.tokens.iter().map(|nats| f64::from(*nats)).sum();
    }
    progress(requests.len());
    Ok(scores)
}
