//! What the methods are run on.

use super::{Case, Memory};
use crate::model::Float;

impl Case {
    /// The models' tensors, and behind them their statistics, where the method reads any: some of
    /// them 0 in every model, some negative.
    pub(super) fn inputs(&self, shape: &[usize], float: Float) -> Vec<Memory> {
        let mut all = inputs(self.models, shape, float);
        if self.method().statistics.is_some() {
            for (m, like) in inputs(self.models, shape, float).iter().enumerate() {
                let value = |(i, x): (usize, f32)| match (i + m) % 17 {
                    3 => -x.abs(),
                    _ if i % 13 == 11 => 0.0,
                    _ => x.abs() * 1e-3_f32.powi((i % 5) as i32),
                };
                let values: Vec<f32> = like.values().into_iter().enumerate().map(value).collect();
                all.push(Memory::shaped(&values, shape, Float::F32));
            }
        }
        all
    }
}

/// Values around a common base, with many that are equal, some zero, some that differ in sign.
pub(super) fn inputs(models: usize, shape: &[usize], float: Float) -> Vec<Memory> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let common: Vec<f32> = (0..shape.iter().product()).map(|_| draw()).collect();
    (0..models)
        .map(|_| {
            let value = |(i, common): (usize, &f32)| match i % 13 {
                2 => *common,
                5 => common + 0.125,
                7 => common - 0.125,
                11 => 0.0,
                _ => common + 0.25 * draw(),
            };
            let values: Vec<f32> = common.iter().enumerate().map(value).collect();
            Memory::shaped(&values, shape, float)
        })
        .collect()
}
