//! Which token comes next.

use crate::error::{Error, Result};
use crate::eval::model::Sampling;
use sha2::{Digest, Sha256};

/// The likeliest token; of equals the first.
pub(super) fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// Refuses settings that cannot be followed.
pub(super) fn check(sampling: &Sampling) -> Result<()> {
    let wrong = |key: &str, expected: &str, found: &dyn std::fmt::Display| {
        Err(Error::input("text cannot be sampled with this setting")
            .key(key)
            .expected(expected, found))
    };
    if !(sampling.temperature > 0.0 && sampling.temperature.is_finite()) {
        return wrong("temperature", "a number above 0", &sampling.temperature);
    }
    match (sampling.top_k, sampling.top_p) {
        (Some(0), _) => wrong("top_k", "at least 1", &0),
        (_, Some(p)) if !(p > 0.0 && p <= 1.0) => wrong("top_p", "above 0 and at most 1", &p),
        _ => Ok(()),
    }
}

/// Draws the token number `step` of a generation. The draw depends on the seed, the prompt and the
/// step alone: it is the first 53 bits of a SHA-256 over them.
pub(super) fn draw(sampling: &Sampling, prompt: &[u32], step: usize, logits: &[f32]) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    order.truncate(sampling.top_k.unwrap_or(usize::MAX));
    let Some(first) = order.first().copied() else { return 0 };
    let greatest = f64::from(logits[first]);
    let weight =
        |token: &usize| ((f64::from(logits[*token]) - greatest) / sampling.temperature).exp();
    let mut weights: Vec<f64> = order.iter().map(weight).collect();
    if let Some(p) = sampling.top_p {
        let enough = p * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let count = weights.iter().take_while(|weight| {
            let before = sum;
            sum += **weight;
            before < enough
        });
        let count = count.count().max(1);
        weights.truncate(count);
    }
    let mut hash = Sha256::new();
    hash.update(b"cognate sampling\0");
    hash.update(sampling.seed.to_le_bytes());
    hash.update((step as u64).to_le_bytes());
    prompt.iter().for_each(|token| hash.update(token.to_le_bytes()));
    let digest = hash.finalize();
    let bits = digest.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut left = (bits >> 11) as f64 / (1_u64 << 53) as f64 * weights.iter().sum::<f64>();
    for (token, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return *token as u32;
        }
    }
    order.get(weights.len() - 1).copied().unwrap_or(first) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities_and_the_settings() {
        let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln(), f32::NEG_INFINITY];
        let mut sampling = Sampling { temperature: 1.0, top_k: None, top_p: None, seed: 3 };
        let count = |sampling: &Sampling| {
            let mut counts = [0; 4];
            (0..8000).for_each(|step| counts[draw(sampling, &[1, 2], step, &logits) as usize] += 1);
            counts
        };
        let [a, b, c, d] = count(&sampling);
        assert!((900..1100).contains(&a) && (1850..2150).contains(&b), "{a} {b}");
        assert!((4800..5200).contains(&c) && d == 0);
        sampling.top_k = Some(1);
        assert_eq!(count(&sampling), [0, 0, 8000, 0]);
        sampling = Sampling { top_k: None, top_p: Some(0.7), ..sampling };
        assert_eq!(count(&sampling)[0], 0);
        assert_eq!(greedy(&logits), 2);
        sampling.temperature = 0.0;
        assert!(check(&sampling).is_err());
    }
}
