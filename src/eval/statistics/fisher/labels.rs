//! Labels that are drawn from a model's predictions.

use crate::kernels::Stream;
use sha2::{Digest, Sha256};

/// Draws the labels of one document.
pub(super) struct Draw {
    stream: Stream,
    group: Option<(usize, [u32; 128])>,
}

impl Draw {
    /// For the document of this line: Philox keyed by a SHA-256 over the seed and the line.
    pub(super) fn new(seed: u64, line: u64) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"cognate fisher labels\0");
        hasher.update(seed.to_le_bytes());
        hasher.update(line.to_le_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let (words, _) = digest.as_chunks::<4>();
        let word = |i: usize| u32::from_le_bytes(words[i]);
        Self { stream: Stream { key: [word(0), word(1)], nonce: [word(2), word(3)] }, group: None }
    }

    /// The label of a position: the first token whose cumulated probability exceeds a uniform number.
    pub(super) fn label(&mut self, position: usize, probabilities: &[f32]) -> u32 {
        let (group, element) = (position / 128, position % 128);
        let numbers = match self.group {
            Some((own, numbers)) if own == group => numbers,
            _ => self.stream.numbers(group as u64),
        };
        self.group = Some((group, numbers));
        let total: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
        let uniform = (f64::from(numbers[element]) + 0.5) / 2_f64.powi(32) * total;
        let mut sum = 0.0;
        let beyond = |p: &f32| {
            sum += f64::from(*p);
            sum > uniform
        };
        let last = probabilities.len().saturating_sub(1);
        probabilities.iter().position(beyond).unwrap_or(last) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_probabilities() {
        let probabilities = [0.5, 0.0, 0.2, 0.3];
        let mut counts = [0; 4];
        for line in 0..20 {
            let mut draw = Draw::new(7, line);
            for position in 0..500 {
                counts[draw.label(position, &probabilities) as usize] += 1;
            }
        }
        for (count, p) in counts.iter().zip(probabilities) {
            let deviation = (f64::from(p) * f64::from(1.0 - p) * 10_000.0).sqrt();
            let apart = f64::from(*count) - 10_000.0 * f64::from(p);
            assert!(apart.abs() <= 4.0 * deviation, "{counts:?}");
        }
        let label = |seed, line, position| Draw::new(seed, line).label(position, &[0.001; 1000]);
        assert_eq!(label(1, 2, 300), label(1, 2, 300));
        assert_ne!(label(1, 2, 300), label(2, 2, 300));
        assert_ne!(label(1, 2, 300), label(1, 3, 300));
    }
}
