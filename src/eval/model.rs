//! What an evaluation asks of a model: scores of given tokens, and new tokens.

use crate::error::Result;

/// A model that scores and continues sequences of token ids.
pub trait LanguageModel {
    /// For each request, the log-likelihood in nats of `continuation` after `context`
    /// (context is never empty) and whether greedy decoding would have produced it.
    ///
    /// `progress` is told how many requests are done.
    ///
    /// # Errors
    /// Reading the weights fails, an id has no row, a logit that is needed is not finite.
    fn score(&self, requests: &[ScoreRequest], progress: &dyn Fn(usize)) -> Result<Vec<Score>>;

    /// Continues each prompt greedily (or sampling with the request's settings).
    ///
    /// # Errors
    /// As for [`LanguageModel::score`].
    fn generate(
        &self,
        requests: &[GenerateRequest],
        progress: &dyn Fn(usize),
    ) -> Result<Vec<Generation>>;

    /// The longest sequence the model was made for, from its config; none if unlimited.
    fn context_length(&self) -> Option<usize>;

    /// Rows of the head, to check ids against.
    fn vocabulary(&self) -> usize;
}

/// Tokens to score after others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScoreRequest {
    /// What the model reads first; never empty.
    pub context: Vec<u32>,
    /// What is scored.
    pub continuation: Vec<u32>,
}

/// The answer to a [`ScoreRequest`].
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Sum over the continuation, in nats.
    pub log_likelihood: f64,
    /// Per continuation token, in nats.
    pub tokens: Vec<f32>,
    /// Whether each token of the continuation is the likeliest at its place.
    pub greedy: bool,
}

/// Says from the new ids so far whether a continuation ends here.
pub type Until = Box<dyn Fn(&[u32]) -> bool + Send + Sync>;

/// A prompt to continue.
pub struct GenerateRequest {
    /// What the model reads first; never empty.
    pub prompt: Vec<u32>,
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// Token ids that end the continuation.
    pub stop: Vec<u32>,
    /// Ends the continuation, given the new ids so far.
    pub until: Option<Until>,
    /// How to draw tokens; the likeliest token each time where there is none.
    pub sample: Option<Sampling>,
}

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f64,
    /// Draw among so many likeliest tokens only.
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens whose probabilities reach this sum.
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
}

/// The answer to a [`GenerateRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens, the one that ended them included where the model gave it.
    pub tokens: Vec<u32>,
}
