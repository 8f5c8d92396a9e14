//! One layer, differentiable: what [`crate::eval::decoder::layer`] computes, from the same description.

use super::attention::attention;
use super::operations::{activate, sigmoid, unary, weigh_rows};
use super::weights::{Weights, linear_of, names_of_linear, names_of_norm, norm_of};
use crate::error::{Error, Result};
use crate::eval::decoder::mlp::choose;
use crate::eval::decoder::tensors::{each_row, failed, rows, with_elements};
use crate::kernels::Kernels;
use crate::model::architectures as data;
use candle_core::{DType, Device, Tensor};

/// The names of a layer's weights.
///
/// # Errors
/// The layer is a state space.
pub(super) fn names(layer: &data::Layer) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for norm in [
        &layer.attention_input,
        &layer.attention_output,
        &layer.attention_sum,
        &layer.mlp_input,
        &layer.mlp_output,
        &layer.mlp_sum,
    ] {
        names_of_norm(norm.as_ref(), &mut names);
    }
    let attention = attention_of(layer)?;
    names_of_linear(Some(&attention.projections), &mut names);
    names_of_linear(Some(&attention.output), &mut names);
    names_of_norm(attention.query_norm.as_ref(), &mut names);
    names_of_norm(attention.key_norm.as_ref(), &mut names);
    let dense = |dense: &data::Dense, names: &mut Vec<String>| {
        names_of_linear(Some(&dense.up), names);
        names_of_linear(Some(&dense.down), names);
    };
    match &layer.mlp {
        None => {}
        Some(data::Mlp::Dense(of)) => dense(of, &mut names),
        Some(data::Mlp::Experts(of)) => {
            names_of_linear(Some(&of.router), &mut names);
            names.extend(of.choice_bias.clone());
            of.experts.iter().chain(&of.shared).for_each(|of| dense(of, &mut names));
            names_of_linear(of.shared_gate.as_ref(), &mut names);
        }
    }
    Ok(names)
}

fn attention_of(layer: &data::Layer) -> Result<&data::Attention> {
    match &layer.mixer {
        data::Mixer::Attention(attention) => Ok(attention),
        data::Mixer::StateSpace(_) => {
            Err(Error::input("statistics of this family of models are not computed yet")
                .fact("missing", "a selective state space with its derivative")
                .hint("everything with attention works"))
        }
    }
}

/// Elements that a token's values take in a layer's graph, about.
pub(super) fn elements(layer: &data::Layer, hidden: usize) -> Result<usize> {
    let attention = attention_of(layer)?;
    let heads = (attention.heads + 2 * attention.kv_heads) * attention.head;
    let dense = |dense: &data::Dense| 2 * dense.up.parts.iter().map(|p| p.outputs).sum::<usize>();
    let mlp = match &layer.mlp {
        None => 0,
        Some(data::Mlp::Dense(of)) => dense(of),
        Some(data::Mlp::Experts(of)) => {
            let own = of.experts.iter().map(dense).max().unwrap_or(0);
            of.chosen * (own + 2 * hidden) + of.shared.as_ref().map_or(0, dense)
        }
    };
    Ok(10 * hidden + 4 * heads + mlp)
}

/// The hidden states of one sequence behind a layer, from those before it.
pub(super) fn layer(data: &data::Layer, weights: &Weights, x: &Tensor) -> Result<Tensor> {
    let normed = |x: &Tensor, of: &Option<data::Norm>| match of {
        Some(of) => norm_of(x, of, &[0], weights),
        None => Ok(x.clone()),
    };
    let add = |x: &Tensor, y: &Tensor| match data.residual_scale {
        1.0 => x.add(y).map_err(failed),
        scale => y.affine(f64::from(scale), 0.0).and_then(|y| x.add(&y)).map_err(failed),
    };
    let mut x = x.clone();
    let input = normed(&x, &data.attention_input)?;
    let mixed = attention(attention_of(data)?, weights, &input)?;
    let mixed = normed(&mixed, &data.attention_output)?;
    if !data.parallel {
        x = normed(&add(&x, &mixed)?, &data.attention_sum)?;
    }
    if let Some(mlp) = &data.mlp {
        let input = match &data.mlp_input {
            None if data.parallel => input,
            norm => normed(&x, norm)?,
        };
        let output = match mlp {
            data::Mlp::Dense(of) => dense(of, weights, &input)?,
            data::Mlp::Experts(of) => experts(of, weights, &input)?,
        };
        x = add(&x, &normed(&output, &data.mlp_output)?)?;
    }
    if data.parallel {
        x = add(&x, &mixed)?;
    }
    normed(&x, &data.mlp_sum)
}

fn dense(of: &data::Dense, weights: &Weights, x: &Tensor) -> Result<Tensor> {
    let inner = linear_of(x, &of.up, weights)?;
    let part = |first| inner.narrow(1, first, of.width).map_err(failed);
    let mut active = activate(&part(0)?, of.activation)?;
    if of.gated {
        active = active.mul(&part(of.width)?).map_err(failed)?;
    }
    linear_of(&active, &of.down, weights)
}

/// Each row goes to the experts its router chose. The choice itself has no derivative.
fn experts(of: &data::Experts, weights: &Weights, x: &Tensor) -> Result<Tensor> {
    let (logits, chosen) = route(of, weights, x)?;
    let shares = shares(of, &logits, &chosen)?.flatten_all().map_err(failed)?;
    let mut sum = Tensor::zeros(x.dims(), DType::F32, &Device::Cpu).map_err(failed)?;
    for (number, expert) in of.experts.iter().enumerate() {
        // The rows that chose it, and where its share stands among theirs.
        let mut members: (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for (row, chosen) in chosen.iter().enumerate() {
            if let Some(slot) = chosen.iter().position(|expert| *expert == number) {
                members.0.push(row as u32);
                members.1.push((row * of.chosen + slot) as u32);
            }
        }
        if members.0.is_empty() {
            continue;
        }
        let indices = |list: Vec<u32>| {
            let length = list.len();
            Tensor::from_vec(list, length, &Device::Cpu).map_err(failed)
        };
        let (rows, places) = (indices(members.0)?, indices(members.1)?);
        let input = x.contiguous().and_then(|x| x.index_select(&rows, 0)).map_err(failed)?;
        let share = shares.index_select(&places, 0).map_err(failed)?;
        let output = weigh_rows(&dense(expert, weights, &input)?, &share)?;
        sum = sum.index_add(&rows, &output, 0).map_err(failed)?;
    }
    if let Some(shared) = &of.shared {
        let mut y = dense(shared, weights, x)?;
        if let Some(gate) = &of.shared_gate {
            let gate = sigmoid(&linear_of(x, gate, weights)?)?;
            y = weigh_rows(&y, &gate.flatten_all().map_err(failed)?)?;
        }
        sum = sum.add(&y).map_err(failed)?;
    }
    Ok(sum)
}

/// The router's logits, and the experts that each row goes to, the first choice first.
fn route(of: &data::Experts, weights: &Weights, x: &Tensor) -> Result<(Tensor, Vec<Vec<usize>>)> {
    let logits = linear_of(x, &of.router, weights)?;
    let bias = match &of.choice_bias {
        Some(name) => Some(weights.get(name)?.to_vec1::<f32>().map_err(failed)?),
        None => None,
    };
    let scores = logits.copy().map_err(failed)?;
    each_row(&scores, |_, row| score(of.scores, row))?;
    let count = of.experts.len().max(1);
    let chosen = with_elements(&scores, |scores| {
        let choose = |row| choose(of, bias.as_deref(), row).into_iter().map(|(expert, _)| expert);
        scores.chunks(count).map(|row| choose(row).collect()).collect()
    })?;
    Ok((logits, chosen))
}

impl Weights {
    /// The experts that each row that was heard goes to, the first choice first; what was listened to is
    /// the input of the router of `of`.
    pub(crate) fn choices(&self, of: &data::Experts) -> Result<Vec<Vec<usize>>> {
        let silent = self.fresh().listening(std::iter::empty());
        let mut all = Vec::new();
        for (_, rows) in self.so_far() {
            all.extend(route(of, &silent, &rows)?.1);
        }
        Ok(all)
    }
}

fn score(scores: data::Scores, row: &mut [f32]) {
    match scores {
        data::Scores::Softmax => Kernels::best().softmax(row),
        data::Scores::Sigmoid => Kernels::best().sigmoid(row),
    }
}

/// The shares of the chosen experts, a row of them for each row of the router's logits.
fn shares(of: &data::Experts, logits: &Tensor, chosen: &[Vec<usize>]) -> Result<Tensor> {
    let (kind, normalise, scale) = (of.scores, of.normalise, of.scale);
    let (count, width) = (of.experts.len().max(1), of.chosen.max(1));
    debug_assert_eq!(rows(logits), chosen.len());
    let (chosen, places) = (chosen.to_vec(), chosen.to_vec());
    unary(
        "shares of experts",
        logits,
        width,
        move |logits| {
            let mut shares = Vec::with_capacity(chosen.len() * width);
            for (row, chosen) in logits.chunks(count).zip(&chosen) {
                let mut row = row.to_vec();
                score(kind, &mut row);
                let total: f32 = chosen.iter().map(|expert| row[*expert]).sum();
                let scale = if normalise { scale / total } else { scale };
                shares.extend(chosen.iter().map(|expert| row[*expert] * scale));
            }
            shares
        },
        move |logits, _, gradient| {
            let mut all = vec![0.0; logits.len()];
            let rows = logits.chunks(count).zip(&places).zip(gradient.chunks(width));
            for (((row, chosen), gradient), out) in rows.zip(all.chunks_mut(count)) {
                let mut row = row.to_vec();
                score(kind, &mut row);
                let total: f32 = chosen.iter().map(|expert| row[*expert]).sum();
                let pairs = || chosen.iter().zip(gradient);
                let along: f32 = pairs().map(|(expert, by)| row[*expert] * by).sum();
                for (expert, by) in pairs() {
                    out[*expert] = match normalise {
                        true => scale * (by / total - along / (total * total)),
                        false => scale * by,
                    };
                }
                match kind {
                    data::Scores::Softmax => Kernels::best().softmax_gradient(&row, out),
                    data::Scores::Sigmoid => Kernels::best().sigmoid_gradient(&row, out),
                }
            }
            all
        },
    )
}
