//! What the methods are run on.

use super::{Case, Memory, Statistics};
use crate::model::{Float, InputsAlong};

impl Case {
    /// The models' tensors, and behind them their statistics, where the method reads any: some of
    /// them 0 in every model, some negative.
    pub(super) fn inputs(&self, shape: &[usize], float: Float) -> Vec<Memory> {
        let mut all = inputs(self.models, shape, float);
        if let Some(along) = self.along(shape) {
            let side = if along == InputsAlong::Rows { shape[0] } else { shape[1] };
            all.extend((0..self.models).map(|model| gram(model, side)));
        }
        if self.method().statistics == Some(Statistics::Fisher) {
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

/// The Gram matrix of rows, fewer than there are inputs; some inputs are 0 in one model, some in all.
pub(super) fn gram(model: usize, side: usize) -> Memory {
    let tokens = side / 2 + 1;
    let mut rows = inputs(model + 1, &[tokens, side], Float::F32).pop().unwrap().values();
    for (i, x) in rows.iter_mut().enumerate() {
        let input = i % side;
        if input % 13 == 11 || (input + model) % 7 == 3 {
            *x = 0.0;
        }
        // Inputs differ in size.
        *x *= 10_f32.powi(input as i32 % 4 - 2);
    }
    let element = |i: usize| {
        let (a, b) = (i / side, i % side);
        let products = rows.chunks(side).map(|row| f64::from(row[a]) * f64::from(row[b]));
        (products.sum::<f64>() / tokens as f64) as f32
    };
    let values: Vec<f32> = (0..side * side).map(element).collect();
    Memory::shaped(&values, &[side, side], Float::F32)
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
