//! From items to what a model is asked, and from its answers back to items.

use super::chat;
use super::encode::{Pair, TextEncoder, truncated};
use super::items::Items;
use super::metric::Metric;
use super::model::{GenerateRequest, LanguageModel, Sampling, ScoreRequest};
use super::prompt::{Item, Message, Role, is_blank, meets_blank, plain};
use super::task::{Output, Task};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::sync::Arc;

/// How models are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asking<'a> {
    /// Prompts are rendered with the model's chat template.
    pub chat_template: bool,
    /// In the chat template, an example is a question and its answer (`fewshot_as_multiturn` of
    /// lm-eval); otherwise all examples and the question are one message.
    pub multiturn: bool,
    /// Stands before a task's description (`system_instruction` of lm-eval).
    pub system: Option<&'a str>,
    /// Seed of sampled texts.
    pub seed: u64,
}

/// What a model answered to one item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Log-likelihoods in nats: of each choice, of the continuation, or of the text.
    pub log_likelihoods: Vec<f64>,
    /// Whether greedy decoding would have given each.
    pub greedy: Vec<bool>,
    /// Of choices without context, where a metric needs them.
    pub unconditional: Vec<f64>,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Generated texts.
    pub texts: Vec<String>,
}

/// Context and continuation of each request of an item, as texts. Those of choices without context
/// come last.
pub fn texts(
    task: &Task,
    item: &Item,
    encoder: &TextEncoder,
    asking: Asking<'_>,
) -> Result<Vec<(String, String)>> {
    let prompt = |messages: &Vec<Message>| {
        let messages = with_system(messages, asking.system, &task.format.fewshot_delimiter);
        match asking.chat_template {
            true => chat::rendered(encoder, &messages, asking.multiturn),
            false => Ok(plain(&messages)),
        }
    };
    let contexts = item.prompts.iter().map(prompt).collect::<Result<Vec<_>>>()?;
    let first = || contexts.first().cloned().unwrap_or_default();
    Ok(match task.output {
        Output::Rolling => vec![(String::new(), item.target.display())],
        Output::GenerateUntil => vec![(first(), String::new())],
        Output::LogLikelihood => vec![(first(), item.target.display())],
        Output::MultipleChoice => {
            // Behind a template's generation prompt no delimiter is needed.
            let begun = task.format.prefix.as_deref();
            let begun = begun.is_some_and(|text| !text.is_empty() && !text.ends_with(is_blank));
            let delimiter = match asking.chat_template && !begun {
                true => "",
                false => &task.format.target_delimiter,
            };
            let target = item.target.display();
            let mut all: Vec<(String, String)> = match item.text_label {
                Some(_) => contexts
                    .iter()
                    .map(|context| (context.clone(), format!("{delimiter}{target}")))
                    .collect(),
                None => {
                    let choices = item.choices.iter();
                    choices.map(|choice| (first(), format!("{delimiter}{choice}"))).collect()
                }
            };
            if task.metrics.iter().any(|setting| setting.metric == Metric::AccMutualInfo) {
                let choices = item.choices.iter();
                all.extend(choices.map(|choice| (String::new(), format!("{delimiter}{choice}"))));
            }
            all
        }
    })
}

/// A prompt with an instruction before its description: parted by the delimiter of examples, unless
/// there is a blank where they meet.
fn with_system<'a>(
    messages: &'a [Message],
    system: Option<&str>,
    delimiter: &str,
) -> Cow<'a, [Message]> {
    let Some(system) = system.filter(|system| !system.is_empty()) else {
        return Cow::Borrowed(messages);
    };
    let mut messages = messages.to_vec();
    match messages.first_mut() {
        Some(first) if first.role == Role::System => {
            let between = if meets_blank(system, &first.content) { "" } else { delimiter };
            first.content = format!("{system}{between}{}", first.content);
        }
        _ => {
            let (content, delimiter) = (system.to_string(), String::new());
            messages.insert(0, Message { role: Role::System, content, delimiter });
        }
    }
    Cow::Owned(messages)
}

/// Asks a model about all items of a task. `progress` is told of items done.
///
/// # Errors
/// A text cannot be encoded or is too long, an id has no row, or the model fails.
pub fn ask(
    model: &dyn LanguageModel,
    encoder: &Arc<TextEncoder>,
    items: &Items<'_>,
    asking: Asking<'_>,
    progress: &dyn Fn(usize),
) -> Result<Vec<Answer>> {
    match items.task.output {
        Output::GenerateUntil => generate(model, encoder, items, asking, progress),
        _ => score(model, encoder, items, asking, progress),
    }
}

/// What an item's requests are for.
struct Span {
    /// The requests of each text.
    texts: Vec<std::ops::Range<usize>>,
}

fn score(
    model: &dyn LanguageModel,
    encoder: &TextEncoder,
    items: &Items<'_>,
    asking: Asking<'_>,
    progress: &dyn Fn(usize),
) -> Result<Vec<Answer>> {
    let task = items.task;
    let max_length = encoder.max_length(model.context_length());
    let mut requests = Vec::new();
    let mut spans = Vec::new();
    for item in &items.items {
        let about = |e: Error| e.fact("task", &task.name).fact("item", item.id);
        let mut span = Span { texts: Vec::new() };
        for (context, continuation) in texts(task, item, encoder, asking).map_err(about)? {
            let pairs = match task.output {
                Output::Rolling => encoder.windows(&continuation, max_length).map_err(about)?,
                _ => {
                    let pair = encoder.pair(&context, &continuation).map_err(about)?;
                    vec![truncated(pair, max_length).map_err(about)?]
                }
            };
            let start = requests.len();
            for pair in pairs {
                check_ids(&pair, model.vocabulary()).map_err(about)?;
                let Pair { context, continuation } = pair;
                requests.push(ScoreRequest { context, continuation });
            }
            span.texts.push(start..requests.len());
        }
        spans.push(span);
    }
    // Requests are done in any order; in parts of items they tell how far it is.
    let total = requests.len().max(1);
    let scores = model.score(&requests, &|done| progress(items.items.len() * done / total))?;
    if scores.len() != requests.len() {
        return Err(Error::internal(
            "a model answered another number of requests than it was asked",
        ));
    }
    let answer = |(span, item): (&Span, &Item)| {
        let mut answer = Answer::default();
        for (i, range) in span.texts.iter().enumerate() {
            let of_text = &scores[range.clone()];
            let sum = of_text.iter().map(|score| score.log_likelihood).sum();
            if !item.choices.is_empty() && i >= item.choices.len() {
                answer.unconditional.push(sum);
                continue;
            }
            answer.log_likelihoods.push(sum);
            answer.greedy.push(of_text.iter().all(|score| score.greedy));
            answer.tokens += requests[range.clone()]
                .iter()
                .map(|request| request.continuation.len())
                .sum::<usize>();
        }
        answer
    };
    Ok(spans.iter().zip(&items.items).map(answer).collect())
}

fn check_ids(pair: &Pair, rows: usize) -> Result<()> {
    let ids = pair.context.iter().chain(&pair.continuation);
    match ids.copied().find(|id| usize::try_from(*id).is_ok_and(|id| id >= rows)) {
        None => Ok(()),
        Some(id) => Err(Error::input("the tokenizer gives an id that the model has no row for")
            .expected(format!("below {rows}"), id)
            .hint("tokenizer and model do not belong together")),
    }
}

fn generate(
    model: &dyn LanguageModel,
    encoder: &Arc<TextEncoder>,
    items: &Items<'_>,
    asking: Asking<'_>,
    progress: &dyn Fn(usize),
) -> Result<Vec<Answer>> {
    let task = items.task;
    let settings = &task.generation;
    let max_length = encoder.max_length(model.context_length());
    let mut ends = settings.until.clone();
    ends.extend(encoder.eos_text().filter(|eos| !settings.until.contains(eos)));
    let mut requests = Vec::new();
    for item in &items.items {
        let about = |e: Error| e.fact("task", &task.name).fact("item", item.id);
        let asked = texts(task, item, encoder, asking).map_err(about)?;
        let (context, _) = asked.first().cloned().unwrap_or_default();
        let prompt = encoder.prompt(&context, settings.max_tokens, max_length).map_err(about)?;
        for repeat in 0..settings.repeats {
            let seed = asking.seed.wrapping_add((item.id * settings.repeats + repeat) as u64);
            requests.push(GenerateRequest {
                prompt: prompt.clone(),
                max_new_tokens: settings.max_tokens,
                stop: encoder.stops().to_vec(),
                until: Some(until(encoder, &ends)?),
                sample: settings.sample.as_ref().map(|sample| Sampling {
                    temperature: sample.temperature,
                    top_k: sample.top_k,
                    top_p: sample.top_p,
                    seed,
                }),
            });
        }
    }
    let repeats = settings.repeats;
    let generated = model.generate(&requests, &|done| progress(done / repeats))?;
    if generated.len() != requests.len() {
        return Err(Error::internal(
            "a model answered another number of requests than it was asked",
        ));
    }
    let text = |ids: &[u32]| -> Result<String> {
        let mut text = encoder.decode(ids, true)?;
        for end in ends.iter().filter(|end| !end.is_empty()) {
            if let Some(at) = text.find(end.as_str()) {
                text.truncate(at);
            }
        }
        Ok(text)
    };
    let answers = generated.chunks(repeats).map(|of_item| {
        let texts = of_item.iter().map(|one| text(&one.tokens)).collect::<Result<_>>()?;
        let tokens = of_item.iter().map(|one| one.tokens.len()).sum();
        Ok(Answer { texts, tokens, ..Answer::default() })
    });
    answers.collect()
}

/// Whether one of the texts stands in the last tokens: for each as many as it has itself, and two.
fn until(encoder: &Arc<TextEncoder>, ends: &[String]) -> Result<super::model::Until> {
    let mut looked_for = Vec::new();
    for end in ends.iter().filter(|end| !end.is_empty()) {
        looked_for.push((end.clone(), encoder.encode(end, Some(false))?.len() + 2));
    }
    let encoder = Arc::clone(encoder);
    Ok(Box::new(move |ids: &[u32]| {
        looked_for.iter().any(|(end, length)| {
            let last = &ids[ids.len().saturating_sub(*length)..];
            encoder.decode(last, false).is_ok_and(|text| text.contains(end.as_str()))
        })
    }))
}
