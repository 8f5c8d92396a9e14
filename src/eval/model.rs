//! What the evaluator asks of a model, in ids of tokens.

use crate::error::Result;

/// A model that scores and continues sequences of token ids.
pub trait LanguageModel {
    /// For each request, the log-likelihood in nats of `continuation` after `context`
    /// (context is never empty) and whether greedy decoding would have produced it.
    ///
    /// `progress` is called now and then with how much of the work is done, counted in requests.
    ///
    /// # Errors
    /// A request does not fit the model, or its logits are not finite numbers.
    fn score(&self, requests: &[ScoreRequest], progress: &dyn Fn(usize)) -> Result<Vec<Score>>;

    /// Continues each prompt greedily (or sampling with the request's settings).
    ///
    /// `progress` is called now and then with how many requests are done.
    ///
    /// # Errors
    /// As [`LanguageModel::score`].
    fn generate(
        &self,
        requests: &[GenerateRequest],
        progress: &dyn Fn(usize),
    ) -> Result<Vec<Generation>>;

    /// The longest sequence the model was made for, from its config; none if unlimited.
    fn context_length(&self) -> Option<usize>;

    /// Rows of the head, to check ids against.
    fn vocabulary(&self) -> usize;

    /// Whether the weights stay in memory, so that a text can be generated without reading them anew
    /// for every token.
    fn resident(&self) -> bool {
        true
    }
}

/// A text to score, in token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScoreRequest {
    /// What stands before; never empty.
    pub context: Vec<u32>,
    /// What is scored.
    pub continuation: Vec<u32>,
}

/// What a [`ScoreRequest`] gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// The sum over the tokens, in nats.
    pub log_likelihood: f64,
    /// The log-likelihood of each token of the continuation, in nats.
    pub tokens: Vec<f32>,
    /// Whether each token is the likeliest one at its place.
    pub greedy: bool,
}

/// Given the new ids so far, whether to stop.
pub type Until = Box<dyn Fn(&[u32]) -> bool + Send + Sync>;

/// A prompt to continue, in token ids.
pub struct GenerateRequest {
    /// What is continued; never empty.
    pub prompt: Vec<u32>,
    /// Tokens generated at most.
    pub max_new_tokens: usize,
    /// Token ids that end it; the one that does is not part of the generation.
    pub stop: Vec<u32>,
    /// Asked after each token.
    pub until: Option<Until>,
    /// How to draw tokens; none for the likeliest token always.
    pub sample: Option<Sampling>,
}

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; above 0.
    pub temperature: f64,
    /// Draws among this many likeliest tokens only.
    pub top_k: Option<usize>,
    /// Draws among the likeliest tokens whose probabilities first add up to this.
    pub top_p: Option<f64>,
    /// Two requests with the same prompt and seed are continued alike.
    pub seed: u64,
}

/// What a [`GenerateRequest`] gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// The new token ids.
    pub tokens: Vec<u32>,
}
