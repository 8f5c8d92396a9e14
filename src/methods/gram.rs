//! Gram, then combine: methods whose factors follow from the angles and lengths of the models'
//! vectors alone.
//!
//! A vector is a model's tensor (or a row of it), less that of the base where the method takes the
//! models relative to one. Whatever lies in the span of the vectors is a list of coefficients, and
//! its products with anything in the span follow from the vectors' Gram matrix. So one pass gives the
//! matrix in f64, the method works on coefficients, and one weighted sum gives the output.

use super::linear::add_up;
use super::{Map, Params, row_bytes};
use crate::engine::TensorIo;
use crate::error::Result;
use crate::kernels::Kernels;

/// Vectors count as parallel or opposite where `1 - cos²` is up to this: where f32, in which the
/// vectors are stored, cannot tell `cos²` from 1.
const COLLINEAR: f64 = f32::EPSILON as f64 / 2.0;

/// Whether two directions with this cosine are parallel or opposite.
pub(super) fn collinear(cos: f64) -> bool {
    1.0 - cos * cos <= COLLINEAR
}

/// The inner products of some vectors.
#[derive(Clone, Debug)]
pub(super) struct Gram {
    size: usize,
    /// The upper triangle by rows.
    products: Vec<f64>,
}

impl Gram {
    fn zero(size: usize) -> Self {
        Self { size, products: vec![0.0; size * (size + 1) / 2] }
    }

    /// How many vectors there are.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The product of vectors `i` and `j`.
    pub(super) fn product(&self, i: usize, j: usize) -> f64 {
        let (row, column) = (i.min(j), i.max(j));
        self.products[row * self.size - row * row.saturating_sub(1) / 2 + column - row]
    }

    /// The length of vector `i`.
    pub(super) fn norm(&self, i: usize) -> f64 {
        self.product(i, i).sqrt()
    }

    /// The products of vector `i` with the sum of the vectors by `coefficients`.
    pub(super) fn product_with(&self, i: usize, coefficients: &[f64]) -> f64 {
        coefficients.iter().enumerate().map(|(j, c)| c * self.product(i, j)).sum()
    }

    /// The length of the sum of the vectors by `coefficients`.
    pub(super) fn norm_of(&self, coefficients: &[f64]) -> f64 {
        let products =
            coefficients.iter().enumerate().map(|(i, c)| c * self.product_with(i, coefficients));
        let square: f64 = products.sum();
        // Rounding may leave it below 0; a NaN stays.
        if square < 0.0 { 0.0 } else { square.sqrt() }
    }

    /// The matrix of the vectors times these factors.
    pub(super) fn scaled(&self, factors: &[f64]) -> Self {
        let mut products = Vec::with_capacity(self.products.len());
        for i in 0..self.size {
            products.extend((i..self.size).map(|j| self.product(i, j) * (factors[i] * factors[j])));
        }
        Self { size: self.size, products }
    }
}

/// How a tile of inputs becomes vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vectors {
    kernels: Kernels,
    origin: Option<usize>,
    size: usize,
}

impl Vectors {
    /// The inputs, or where the tensor has a base the others' differences from it.
    pub(super) fn relative(io: &TensorIo<'_>) -> Self {
        Self { kernels: io.kernels(), origin: io.origin(), size: io.models() }
    }

    /// All inputs as they are, a base like the others.
    pub(super) fn plain(io: &TensorIo<'_>) -> Self {
        let size = io.models() + usize::from(io.origin().is_some());
        Self { kernels: io.kernels(), origin: None, size }
    }

    /// How many there are.
    pub(super) fn size(self) -> usize {
        self.size
    }

    /// Hands out the base and the vectors of a tile, in input order.
    fn of<T>(
        self,
        inputs: &mut [Vec<f32>],
        work: impl FnOnce(Option<&[f32]>, &mut [Vec<f32>]) -> T,
    ) -> T {
        let Some(origin) = self.origin else { return work(None, inputs) };
        // The base goes first, so that the others are one slice.
        inputs[..=origin].rotate_right(1);
        let result = match inputs.split_first_mut() {
            None => work(None, &mut []),
            Some((base, vectors)) => {
                vectors.iter_mut().for_each(|vector| self.kernels.subtract(base, vector));
                work(Some(base), vectors)
            }
        };
        inputs[..=origin].rotate_left(1);
        result
    }

    /// The Gram matrix over the whole tensor, in one pass.
    pub(super) fn gram(self, io: &TensorIo<'_>) -> Result<Gram> {
        let mut gram = Gram::zero(self.size);
        gram.products = io.sums(gram.products.len(), |_, inputs, sums| {
            self.of(inputs, |_, vectors| self.kernels.add_gram(vectors, sums));
        })?;
        Ok(gram)
    }

    /// The base, where there is one, plus the weighted sum of the vectors.
    pub(super) fn combine(self, weights: &[f64]) -> Map {
        let weights = rounded(weights);
        Map::new(move |_, inputs, out| {
            self.of(inputs, |base, vectors| self.add_up(&weights, base, vectors, out));
        })
    }

    /// The same over one tensor or, with `by_row`, over each row of it, with weights from the Gram
    /// matrix of the tensor or of the row.
    pub(super) fn merge(
        self,
        io: &TensorIo<'_>,
        by_row: bool,
        weights: impl Fn(&Gram) -> Vec<f64> + Send + Sync + 'static,
    ) -> Result<Map> {
        if !by_row {
            return Ok(self.combine(&weights(&self.gram(io)?)));
        }
        Ok(Map::rows(move |_, inputs, out| {
            self.of(inputs, |base, vectors| {
                let mut gram = Gram::zero(vectors.len());
                self.kernels.add_gram(vectors, &mut gram.products);
                self.add_up(&rounded(&weights(&gram)), base, vectors, out);
            });
        }))
    }

    /// The base plus two vectors, over each of the columns of a matrix, with weights from the Gram
    /// matrix of the column. One pass for the matrices, all columns' at a time.
    pub(super) fn merge_columns(
        self,
        io: &TensorIo<'_>,
        columns: usize,
        weights: impl Fn(&Gram) -> [f64; 2],
    ) -> Result<Map> {
        let sums = io.row_sums(columns, 3 * columns, |_, inputs, sums| {
            self.of(inputs, |_, vectors| {
                let [a, b] = vectors else { return };
                for ((a, b), sums) in
                    [(&*a, &*a), (&*a, &*b), (&*b, &*b)].into_iter().zip(sums.chunks_mut(columns))
                {
                    self.kernels.add_products(a, b, sums);
                }
            });
        })?;
        let mut each = [vec![0.0; columns], vec![0.0; columns]];
        let mut gram = Gram::zero(2);
        for column in 0..columns {
            let own = gram.products.iter_mut().zip(sums.iter().skip(column).step_by(columns));
            own.for_each(|(product, sum)| *product = *sum);
            for (each, weight) in each.iter_mut().zip(weights(&gram)) {
                each[column] = weight as f32;
            }
        }
        Ok(self.combine_columns(each))
    }

    /// The base plus the two vectors, each with a weight of its own for every column.
    fn combine_columns(self, weights: [Vec<f32>; 2]) -> Map {
        let columns = weights[0].len().max(1);
        Map::new(move |start, inputs, out| {
            self.of(inputs, |base, vectors| {
                let mut from = 0;
                while from < out.len() {
                    let column = (start + from) % columns;
                    let to = (from + columns - column).min(out.len());
                    for (weights, vector) in weights.iter().zip(vectors.iter_mut()) {
                        self.kernels.times(&weights[column..], &mut vector[from..to]);
                    }
                    from = to;
                }
                self.add_up(&[1.0, 1.0], base, vectors, out);
            });
        })
    }

    fn add_up(self, weights: &[f32], base: Option<&[f32]>, vectors: &[Vec<f32>], out: &mut [f32]) {
        add_up(self.kernels, weights, vectors, out);
        if let Some(base) = base {
            self.kernels.add_to_base(base, 1.0, out);
        }
    }
}

fn rounded(weights: &[f64]) -> Vec<f32> {
    weights.iter().map(|weight| *weight as f32).collect()
}

/// What a method that goes row by row holds, and nothing where `by_row` is false.
pub(super) fn row_bytes_if(by_row: bool, p: &Params, inputs: usize, shape: &[usize]) -> u64 {
    if by_row { row_bytes(p, inputs, shape) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gram(vectors: &[[f64; 3]]) -> Gram {
        let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut gram = Gram::zero(vectors.len());
        gram.products.clear();
        for (i, a) in vectors.iter().enumerate() {
            gram.products.extend(vectors[i..].iter().map(|b| dot(a, b)));
        }
        gram
    }

    #[test]
    fn products_are_found_in_the_triangle() {
        let vectors = [[1.0, 2.0, 0.0], [0.0, 3.0, 1.0], [2.0, 0.0, 5.0], [1.0, 1.0, 1.0]];
        let gram = gram(&vectors);
        assert_eq!((gram.product(0, 1), gram.product(1, 0), gram.product(3, 2)), (6.0, 6.0, 7.0));
        assert_eq!(gram.norm(2), 29_f64.sqrt());
        // (1, 2, 0) - (2, 0, 5) + 2·(1, 1, 1)
        let coefficients = [1.0, 0.0, -1.0, 2.0];
        assert_eq!(gram.norm_of(&coefficients), (1.0 + 16.0 + 9.0_f64).sqrt());
        assert_eq!(gram.product_with(1, &coefficients), 12.0 - 3.0);
        assert_eq!(gram.scaled(&[1.0, 2.0, 1.0, 0.5]).product(1, 3), 4.0);
    }
}
