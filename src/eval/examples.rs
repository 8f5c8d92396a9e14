//! Chooses the examples that stand before an item, as lm-eval 0.4.13's samplers do
//! (`lm_eval/api/samplers.py`).

use super::dataset::Document;
use super::python_random::PythonRandom;
use super::task::Sampler;
use crate::error::{Error, Result};

/// Seed of the draws (`fewshot_random_seed` of lm-eval).
const SEED: u64 = 1234;

/// Chooses examples.
pub(super) struct Examples {
    random: PythonRandom,
    pool: Vec<Document>,
    sampler: Sampler,
}

impl Examples {
    /// Examples from a pool.
    pub(super) fn new(pool: Vec<Document>, sampler: Sampler) -> Self {
        Self { random: PythonRandom::new(SEED), pool, sampler }
    }

    /// `n` examples; not the document, where one is given.
    pub(super) fn sample(
        &mut self,
        n: usize,
        document: Option<&Document>,
    ) -> Result<Vec<Document>> {
        let too_few = |there: usize| {
            Error::input("there are too few examples to choose from")
                .key("num_fewshot")
                .expected(format!("at least {n}"), there)
        };
        let others = |places: Vec<usize>, pool: &[Document]| -> Vec<Document> {
            let chosen = places.into_iter().filter_map(|place| pool.get(place));
            let own = |other: &&Document| document.is_some_and(|document| document.same(other));
            chosen.filter(|other| !own(other)).take(n).cloned().collect()
        };
        if self.sampler == Sampler::FirstN {
            let chosen = others((0..self.pool.len()).collect(), &self.pool);
            return if chosen.len() == n { Ok(chosen) } else { Err(too_few(chosen.len())) };
        }
        // One more is drawn, for the case that the document is among them.
        let drawn = if document.is_some() { n + 1 } else { n };
        let size = self.pool.len();
        let places = self.random.sample(size, drawn).ok_or_else(|| too_few(size))?;
        let chosen = others(places, &self.pool);
        if chosen.len() == n {
            return Ok(chosen);
        }
        // The pool holds the document several times.
        let own = |other: &Document| document.is_some_and(|document| document.same(other));
        let pool: Vec<Document> = self.pool.iter().filter(|other| !own(other)).cloned().collect();
        let places = self.random.sample(pool.len(), n).ok_or_else(|| too_few(pool.len()))?;
        Ok(places.into_iter().filter_map(|place| pool.get(place).cloned()).collect())
    }
}
