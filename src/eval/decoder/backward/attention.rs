//! Differentiable attention of one sequence to itself.

use super::operations::{clip, unary};
use super::product::{Matrix, add_product, product};
use super::weights::{Weights, linear_of, norm_of};
use crate::error::Result;
use crate::eval::decoder::attention::{rotate, turns, weigh};
use crate::eval::decoder::sequences::Slice;
use crate::eval::decoder::tensors::{rows, width};
use crate::kernels::Kernels;
use crate::model::architectures as data;
use candle_core::Tensor;
use rayon::prelude::*;

/// Attention of each row of `x` to the rows before it: projections, norms, rotation and mixing.
pub(super) fn attention(data: &data::Attention, weights: &Weights, x: &Tensor) -> Result<Tensor> {
    let mut projected = linear_of(x, &data.projections, weights)?;
    if let Some(limit) = data.clip {
        projected = clip(&projected, limit)?;
    }
    let queries: Vec<usize> = (0..data.heads).map(|h| data.query(h)).collect();
    let keys: Vec<usize> = (0..data.kv_heads).map(|j| data.key(j)).collect();
    for (of, heads) in [(&data.query_norm, &queries), (&data.key_norm, &keys)] {
        let Some(of) = of else { continue };
        // One norm over all heads is one over neighbours.
        let step = (of.width / data.head).max(1);
        let starts: Vec<usize> = heads.iter().copied().step_by(step).collect();
        projected = norm_of(&projected, of, &starts, weights)?;
    }
    let projected = rotated(data, &projected, [queries, keys].concat())?;
    linear_of(&mixed(data, &projected)?, &data.output, weights)
}

/// Turns the heads that begin at `starts` by their positions.
fn rotated(data: &data::Attention, x: &Tensor, starts: Vec<usize>) -> Result<Tensor> {
    let mut slice = Slice::default();
    slice.push(&vec![0; rows(x)], 0, rows(x), None);
    let (_, mut tables) = turns(data, &slice)?;
    let (Some(rotary), Some(table)) = (data.rotary.clone(), tables.pop()) else {
        return Ok(x.clone());
    };
    let width = width(x).max(1);
    let turn = move |mut values: Vec<f32>, direction: f32| {
        let sin: Vec<f32> = table.sin.iter().map(|sin| sin * direction).collect();
        for (position, row) in values.chunks_mut(width).enumerate() {
            rotate(&rotary, [&table.cos, &sin], position, row, starts.iter().copied());
        }
        values
    };
    let back = turn.clone();
    let forward = move |x: &[f32]| turn(x.to_vec(), 1.0);
    // A magnitude scales both ways.
    unary("rotate", x, width, forward, move |_, _, gradient| back(gradient, -1.0))
}

/// The heads of one key-value head: what they attend with, as matrices of positions × width.
struct Heads {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Columns of a matrix whose rows are `width` wide, each times `scale`.
fn columns(x: &[f32], width: usize, first: usize, count: usize, scale: f32) -> Vec<f32> {
    let rows = x.chunks_exact(width);
    rows.flat_map(|row| row[first..first + count].iter().map(|x| x * scale)).collect()
}

fn heads(data: &data::Attention, x: &[f32], width: usize, j: usize) -> Heads {
    let column = |first| columns(x, width, first, data.head, 1.0);
    Heads { keys: column(data.key(j)), values: column(data.value(j)) }
}

/// The weights of all positions for a head's queries: positions × positions; and the capped scores,
/// where there is a soft cap.
fn attend(
    data: &data::Attention,
    head: usize,
    queries: &[f32],
    keys: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let mut scores = product(Matrix::new(queries, data.head), Matrix::new(keys, data.head).t());
    let length = keys.len() / data.head;
    let mut capped = Vec::new();
    if let Some(cap) = data.soft_cap {
        capped.clone_from(&scores);
        Kernels::best().soft_cap(cap, &mut capped);
    }
    for (query, row) in scores.chunks_mut(length.max(1)).enumerate() {
        weigh(data, head, query, 0, row);
    }
    (scores, capped)
}

/// Each head's values, mixed by its weights.
fn mixed(data: &data::Attention, projected: &Tensor) -> Result<Tensor> {
    let (width, group) = (width(projected).max(1), data.heads / data.kv_heads);
    let (forward, backward) = (data.clone(), data.clone());
    unary(
        "attention",
        projected,
        data.heads * data.head,
        move |x| {
            let data = &forward;
            let parts = (0..data.kv_heads).into_par_iter().map(|j| {
                let seen = heads(data, x, width, j);
                let of_head = |h: usize| {
                    let queries = columns(x, width, data.query(h), data.head, data.scale);
                    let (weights, _) = attend(data, h, &queries, &seen.keys);
                    let length = seen.keys.len() / data.head;
                    product(Matrix::new(&weights, length), Matrix::new(&seen.values, data.head))
                };
                (j * group..(j + 1) * group).map(of_head).collect::<Vec<_>>()
            });
            let parts: Vec<Vec<f32>> = parts.flatten_iter().collect();
            let mut y = vec![0.0; x.len() / width * data.heads * data.head];
            for (h, part) in parts.iter().enumerate() {
                put(&mut y, data.heads * data.head, h * data.head, data.head, part);
            }
            y
        },
        move |x, _, gradient| {
            let data = &backward;
            let parts = (0..data.kv_heads).into_par_iter();
            let parts: Vec<_> =
                parts.map(|j| head_gradients(data, x, width, &gradient, j)).collect();
            let mut dx = vec![0.0; x.len()];
            for (first, part) in parts.iter().flatten() {
                put(&mut dx, width, *first, data.head, part);
            }
            dx
        },
    )
}

/// Puts columns into a matrix whose rows are `width` wide.
fn put(out: &mut [f32], width: usize, first: usize, count: usize, part: &[f32]) {
    for (row, part) in out.chunks_exact_mut(width).zip(part.chunks_exact(count)) {
        row[first..first + count].copy_from_slice(part);
    }
}

/// The gradients of a key-value head's key, value and queries, each with its first column.
fn head_gradients(
    data: &data::Attention,
    x: &[f32],
    width: usize,
    gradient: &[f32],
    j: usize,
) -> Vec<(usize, Vec<f32>)> {
    let kernels = Kernels::best();
    let group = data.heads / data.kv_heads;
    let seen = heads(data, x, width, j);
    let length = x.len() / width;
    let (keys, values) = (Matrix::new(&seen.keys, data.head), Matrix::new(&seen.values, data.head));
    let mut key_gradient = vec![0.0; seen.keys.len()];
    let mut value_gradient = vec![0.0; seen.values.len()];
    let mut all = Vec::new();
    for h in j * group..(j + 1) * group {
        let queries = columns(x, width, data.query(h), data.head, data.scale);
        let (weights, capped) = attend(data, h, &queries, &seen.keys);
        let own = columns(gradient, data.heads * data.head, h * data.head, data.head, 1.0);
        let own = Matrix::new(&own, data.head);
        add_product(Matrix::new(&weights, length).t(), own, &mut value_gradient);
        let mut scores = product(own, values.t());
        for (scores, weights) in scores.chunks_mut(length).zip(weights.chunks(length)) {
            kernels.softmax_gradient(weights, scores);
        }
        if let Some(cap) = data.soft_cap {
            kernels.soft_cap_gradient(cap, &capped, &mut scores);
        }
        let scores = Matrix::new(&scores, length);
        add_product(scores.t(), Matrix::new(&queries, data.head), &mut key_gradient);
        let mut query_gradient = product(scores, keys);
        kernels.multiply(data.scale, &mut query_gradient);
        all.push((data.query(h), query_gradient));
    }
    all.push((data.key(j), key_gradient));
    all.push((data.value(j), value_gradient));
    all
}
