//! Scores the items of a file with a model, and prints how long that took.
//!
//! ```text
//! cargo bench --bench decoder -- MODEL ITEMS.json [MEMORY_IN_MIB [THREADS]]
//! ```
//!
//! An item is a list of token ids: all but the first are scored. `tests/compare/decoder.py` makes items,
//! runs this and transformers over them, and compares.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use cognate::eval::decoder::{Decoder, Options};
use cognate::eval::model::{LanguageModel, ScoreRequest};
use cognate::model::Checkpoint;
use std::path::Path;
use std::time::Instant;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [model, items, rest @ ..] = arguments.as_slice() else {
        println!("decoder: needs MODEL ITEMS.json [MEMORY_IN_MIB [THREADS]]; nothing measured");
        return;
    };
    let number = |at: usize| rest.get(at).map(|text: &String| text.parse::<u64>().unwrap());
    let mut options = Options::default();
    options.memory = number(0).map_or(options.memory, |mib| mib << 20);
    options.threads = number(1).map_or(options.threads, |threads| threads as usize);
    let text = std::fs::read_to_string(items).unwrap();
    let items: Vec<Vec<u32>> = serde_json::from_str(&text).unwrap();
    let requests: Vec<ScoreRequest> = items
        .into_iter()
        .map(|mut context| {
            let continuation = context.split_off(1);
            ScoreRequest { context, continuation }
        })
        .collect();
    let checkpoint = Checkpoint::open(model, Path::new(model)).unwrap();
    let decoder = Decoder::open(&checkpoint, &options).unwrap_or_else(|error| panic!("{error}"));
    let begin = Instant::now();
    let scores = decoder.score(&requests, &|_| ()).unwrap_or_else(|error| panic!("{error}"));
    let seconds = begin.elapsed().as_secs_f64();
    let tokens: usize = scores.iter().map(|score| score.tokens.len()).sum();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let sums: Vec<f64> = scores.iter().map(|score| score.log_likelihood).collect();
    println!(
        "{}",
        serde_json::json!({
            "seconds": seconds,
            "tokens": tokens,
            "peak_mib": peak.map(|kib| kib >> 10),
            "log_likelihoods": sums,
        })
    );
}
