//! Continuing prompts: all of them together, one token at a time.

use super::Decoder;
use super::layer::Past;
use super::observe::Observation;
use super::sampling;
use super::sequences::Slice;
use super::tensors::{width, with_elements};
use crate::error::{Error, Result};
use crate::eval::model::{GenerateRequest, Generation};

/// A sequence that goes on.
struct Running {
    /// The number of its request.
    request: usize,
    /// Its prompt, then what came after it; the last ones have not been seen by the model.
    tokens: Vec<u32>,
    /// How many of them the model has seen.
    seen: usize,
}

/// Continues each prompt.
pub(super) fn generate(
    decoder: &Decoder,
    requests: &[GenerateRequest],
    progress: &dyn Fn(usize),
) -> Result<Vec<Generation>> {
    let mut done = vec![Generation::default(); requests.len()];
    let mut group: Vec<usize> = Vec::new();
    let (mut bytes, mut finished) = (0, 0);
    for (number, request) in requests.iter().enumerate() {
        decoder.check(&request.prompt)?;
        request.sample.as_ref().map_or(Ok(()), sampling::check)?;
        let length = request.prompt.len() + request.max_new_tokens;
        if let Some(most) = decoder.positions.filter(|most| length > *most + 1) {
            return Err(Error::input("a generation would leave the model's table of positions")
                .expected(format!("at most {most} tokens"), length));
        }
        let own = 4 * decoder.layers.iter().map(|layer| layer.past_elements(length)).sum::<usize>()
            as u64;
        if own > decoder.budget.waiting {
            return Err(Error::input("a generation does not fit the memory budget")
                .key("--memory")
                .expected(
                    format!("at most {} MiB", decoder.budget.waiting >> 20),
                    format!("{} MiB", own >> 20),
                ));
        }
        if bytes + own > decoder.budget.waiting {
            run(decoder, requests, &group, &mut done)?;
            finished += group.len();
            progress(finished);
            group.clear();
            bytes = 0;
        }
        group.push(number);
        bytes += own;
    }
    run(decoder, requests, &group, &mut done)?;
    progress(requests.len());
    Ok(done)
}

/// Continues the requests of these numbers together.
fn run(
    decoder: &Decoder,
    requests: &[GenerateRequest],
    group: &[usize],
    done: &mut [Generation],
) -> Result<()> {
    let wanted = group.iter().filter(|number| requests[**number].max_new_tokens > 0);
    let mut running: Vec<Running> = wanted
        .map(|number| Running {
            request: *number,
            tokens: requests[*number].prompt.clone(),
            seen: 0,
        })
        .collect();
    let mut past: Vec<Past> =
        decoder.layers.iter().map(|layer| layer.empty_past(running.len())).collect();
    while !running.is_empty() {
        let chosen = step(decoder, requests, &mut running, &mut past)?;
        // From the last one on, so that numbers stay what they are.
        for (place, token) in chosen.into_iter().enumerate().rev() {
            let request = &requests[running[place].request];
            let new = &mut done[running[place].request].tokens;
            let stops = request.stop.contains(&token);
            if !stops {
                new.push(token);
                running[place].tokens.push(token);
            }
            if stops
                || new.len() >= request.max_new_tokens
                || request.until.as_ref().is_some_and(|until| until(new))
            {
                running.remove(place);
                past.iter_mut().for_each(|past| past.remove(place));
            }
        }
    }
    Ok(())
}

/// The next token of each sequence.
fn step(
    decoder: &Decoder,
    requests: &[GenerateRequest],
    running: &mut [Running],
    past: &mut [Past],
) -> Result<Vec<u32>> {
    // Slices of neighbours, with the number of the first sequence of each.
    let mut slices: Vec<(usize, Slice)> = Vec::new();
    for (place, sequence) in running.iter_mut().enumerate() {
        let unseen = &sequence.tokens[sequence.seen..];
        let full =
            |(_, slice): &(usize, Slice)| slice.tokens.len() + unseen.len() > decoder.budget.rows;
        if slices.last().is_none_or(full) {
            slices.push((place, Slice::default()));
        }
        if let Some((_, slice)) = slices.last_mut() {
            slice.push(unseen, sequence.seen, sequence.tokens.len(), None);
        }
        sequence.seen = sequence.tokens.len();
    }
    let longest = slices.iter().map(|(_, slice)| slice.tokens.len()).max().unwrap_or(0);
    decoder.budget.tasks(longest, decoder.token, 1)?;
    let limits = decoder.budget.limits;
    decoder.pool.install(|| {
        let states: Result<Vec<_>> =
            slices.iter().map(|(_, slice)| decoder.embedding.apply(slice, limits)).collect();
        let states = states?;
        for (number, layer) in decoder.layers.iter().enumerate() {
            decoder.with_layer(layer, decoder.layers.get(number + 1), || {
                for ((first, slice), x) in slices.iter().zip(&states) {
                    let part = past[number].part(*first, first + slice.segments.len());
                    layer.apply(x, slice, Some(part), limits, &Observation::default())?;
                }
                Ok(())
            })?;
        }
        decoder.load_head()?;
        let mut chosen = Vec::with_capacity(running.len());
        for ((first, slice), x) in slices.iter().zip(&states) {
            let last: Vec<usize> =
                slice.segments.iter().map(|segment| segment.rows.end - 1).collect();
            let most = (limits.inner / 4 / decoder.vocabulary.max(1) as u64).max(1) as usize;
            for (group, numbers) in last.chunks(most).enumerate() {
                let logits = decoder.head.logits(x, numbers, limits)?;
                with_elements(&logits, |values| {
                    for (i, logits) in values.chunks(width(&logits)).enumerate() {
                        let sequence = &running[first + group * most + i];
                        let request = &requests[sequence.request];
                        let step = sequence.tokens.len() - request.prompt.len();
                        chosen.push(match &request.sample {
                            None => sampling::greedy(logits),
                            Some(how) => sampling::draw(how, &request.prompt, step, logits),
                        });
                    }
                })?;
            }
        }
        decoder.unload_head()?;
        Ok(chosen)
    })
}
