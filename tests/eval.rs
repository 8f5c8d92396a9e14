//! The evaluator against lm-evaluation-harness 0.4.13: what it asks a model, and the figures it makes
//! of the answers. `tests/compare/lm_eval.py golden` wrote both.
#![allow(clippy::unwrap_used)]

use cognate::eval::compare::{Against, compare};
use cognate::eval::dataset::Access;
use cognate::eval::encode::TextEncoder;
use cognate::eval::gate::{self, Gate};
use cognate::eval::items::Items;
use cognate::eval::probe::probe;
use cognate::eval::report::{self, Style};
use cognate::eval::request::Asking;
use cognate::eval::results::{ModelResult, TaskResult, evaluate, groups};
use cognate::eval::run::{self, Candidate};
use cognate::eval::task::{Catalog, Selected};
use cognate::eval::{GenerateRequest, Generation, LanguageModel, Score, ScoreRequest};
use cognate::model::hub::{Settings, Unwatched};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const MODEL: &str = "merge-configs/models/base";

/// Gives lm-eval's answers to lm-eval's requests, in their order; others are an error.
struct Replay {
    answers: RefCell<std::vec::IntoIter<Value>>,
    encoder: Arc<TextEncoder>,
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

impl LanguageModel for Replay {
    fn score(
        &self,
        requests: &[ScoreRequest],
        progress: &dyn Fn(usize),
    ) -> cognate::Result<Vec<Score>> {
        let mut scores = Vec::new();
        for (i, request) in requests.iter().enumerate() {
            let row = self.answers.borrow_mut().next().expect("lm-eval asked less");
            let (mut context, continuation) = (ids(&row[0]), ids(&row[1]));
            // lm-eval cuts to the model's 256 places when it asks; we before.
            let surplus = (context.len() + continuation.len()).saturating_sub(257);
            context.drain(..surplus);
            assert_eq!(request.context, context, "request {i}");
            assert_eq!(request.continuation, continuation, "request {i}");
            scores.push(Score {
                log_likelihood: row[2].as_f64().unwrap(),
                tokens: Vec::new(),
                greedy: row[3].as_bool().unwrap(),
            });
        }
        progress(requests.len());
        Ok(scores)
    }

    fn generate(
        &self,
        requests: &[GenerateRequest],
        _: &dyn Fn(usize),
    ) -> cognate::Result<Vec<Generation>> {
        let mut all = Vec::new();
        for request in requests {
            let row = self.answers.borrow_mut().next().expect("lm-eval asked less");
            let room = 256 - request.max_new_tokens;
            let mut prompt = self.encoder.encode(row[0].as_str().unwrap(), None)?;
            let prompt = prompt.split_off(prompt.len().saturating_sub(room));
            assert_eq!(request.prompt, prompt, "{}", row[0]);
            let tokens = self.encoder.encode(row[1].as_str().unwrap(), Some(false))?;
            let until = request.until.as_ref().expect("every task has stops");
            assert!((1..=tokens.len()).all(|n| !until(&tokens[..n])), "{}", row[1]);
            let ended = [tokens.clone(), self.encoder.encode("\n lie, .", Some(false))?].concat();
            assert!((tokens.len()..=ended.len()).any(|n| until(&ended[..n])), "{}", row[1]);
            all.push(Generation { tokens: ended });
        }
        Ok(all)
    }

    fn context_length(&self) -> Option<usize> {
        Some(256)
    }

    fn vocabulary(&self) -> usize {
        1024
    }
}

fn selected(name: &str) -> Vec<Selected> {
    let path = format!("tests/data/eval/tasks/{name}.yaml");
    Catalog::default().select(&path).unwrap()
}

fn replayed(
    selected: &[Selected],
    model: &dyn LanguageModel,
    encoder: &Arc<TextEncoder>,
) -> Vec<TaskResult> {
    let hub = Settings::from_env().unwrap();
    let access = Access { hub: &hub, watch: &Unwatched };
    let tasks = selected.iter().flat_map(Selected::tasks);
    tasks
        .map(|task| {
            let items = Items::prepare(task, None, &access).unwrap();
            evaluate(model, encoder, &items, Asking::default(), &|_| {}).unwrap()
        })
        .collect()
}

#[test]
fn requests_and_figures_are_those_of_lm_eval() {
    let golden = std::fs::read_to_string("tests/data/eval/golden.json").unwrap();
    let golden: BTreeMap<String, Value> = serde_json::from_str(&golden).unwrap();
    let encoder = Arc::new(TextEncoder::open(Path::new(MODEL)).unwrap());
    assert!(golden.len() >= 10);
    for (name, expected) in &golden {
        let selected = selected(name);
        let answers = RefCell::new(expected["requests"].as_array().unwrap().clone().into_iter());
        let replay = Replay { answers, encoder: Arc::clone(&encoder) };
        let results = replayed(&selected, &replay, &encoder);
        assert!(replay.answers.borrow_mut().next().is_none(), "{name}: lm-eval asked more");
        let mut found: BTreeMap<(String, String), (f64, Option<f64>)> = BTreeMap::new();
        for result in &results {
            for figure in &result.figures {
                let value = (figure.figure.value, figure.figure.stderr);
                found.insert((result.task.clone(), figure.key.name()), value);
            }
        }
        for group in groups(&selected, &results) {
            for figure in group.figures {
                let value = (figure.figure.value, figure.figure.stderr);
                found.insert((group.group.clone(), figure.name), value);
            }
        }
        let mut compared = 0;
        for (task, figures) in expected["figures"].as_object().unwrap() {
            for (metric, figure) in figures.as_object().unwrap() {
                let key = (task.clone(), metric.clone());
                let (value, stderr) = found.remove(&key).unwrap_or_else(|| panic!("no {key:?}"));
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
                assert!(close(value, figure[0].as_f64().unwrap()), "{key:?} {value} {figure}");
                match (stderr, figure[1].as_f64()) {
                    (Some(ours), Some(theirs)) => {
                        assert!(close(ours, theirs), "{key:?} {ours} {figure}");
                    }
                    (ours, theirs) => assert_eq!(ours, theirs, "{key:?}"),
                }
                compared += 1;
            }
        }
        assert!(compared > 0 && found.is_empty(), "{name}: {found:?}");
    }
}

/// A model that knows how often a token followed another in some texts.
struct Bigrams {
    counts: BTreeMap<(u32, u32), f64>,
    totals: BTreeMap<u32, f64>,
}

const ROWS: usize = 1024;

impl Bigrams {
    /// Counts in the texts of files, those of each file so many times.
    fn of(files: &[(&str, f64)], encoder: &TextEncoder) -> Self {
        let (mut counts, mut totals) = (BTreeMap::new(), BTreeMap::new());
        for (file, weight) in files {
            for line in std::fs::read_to_string(file).unwrap().lines().step_by(2) {
                let row: Value = serde_json::from_str(line).unwrap();
                let ids = encoder.encode(row["text"].as_str().unwrap(), None).unwrap();
                for pair in ids.windows(2) {
                    *counts.entry((pair[0], pair[1])).or_default() += weight;
                    *totals.entry(pair[0]).or_default() += weight;
                }
            }
        }
        Self { counts, totals }
    }

    fn log_likelihood(&self, before: u32, token: u32) -> f64 {
        let count = self.counts.get(&(before, token)).copied().unwrap_or(0.0) + 0.05;
        let total = self.totals.get(&before).copied().unwrap_or(0.0) + 0.05 * ROWS as f64;
        (count / total).ln()
    }

    fn likeliest(&self, before: u32) -> u32 {
        let all = (0..ROWS as u32).map(|token| (self.log_likelihood(before, token), token));
        all.reduce(|best, next| if next.0 > best.0 { next } else { best }).unwrap().1
    }
}

impl LanguageModel for Bigrams {
    fn score(&self, requests: &[ScoreRequest], _: &dyn Fn(usize)) -> cognate::Result<Vec<Score>> {
        let score = |request: &ScoreRequest| {
            let mut before = *request.context.last().unwrap();
            let mut score = Score { log_likelihood: 0.0, tokens: Vec::new(), greedy: true };
            for token in &request.continuation {
                let ll = self.log_likelihood(before, *token);
                score.log_likelihood += ll;
                score.tokens.push(ll as f32);
                score.greedy = score.greedy && self.likeliest(before) == *token;
                before = *token;
            }
            score
        };
        Ok(requests.iter().map(score).collect())
    }

    fn generate(
        &self,
        requests: &[GenerateRequest],
        _: &dyn Fn(usize),
    ) -> cognate::Result<Vec<Generation>> {
        let generate = |request: &GenerateRequest| {
            let mut before = *request.prompt.last().unwrap();
            let mut tokens = Vec::new();
            while tokens.len() < request.max_new_tokens {
                before = self.likeliest(before);
                if request.stop.contains(&before) {
                    break;
                }
                tokens.push(before);
                if request.until.as_ref().is_some_and(|until| until(&tokens)) {
                    break;
                }
            }
            Generation { tokens }
        };
        Ok(requests.iter().map(generate).collect())
    }

    fn context_length(&self) -> Option<usize> {
        Some(256)
    }

    fn vocabulary(&self) -> usize {
        ROWS
    }
}

/// A family of models on the quickstart's tasks: base, two parents, and one between them.
fn family() -> (Vec<ModelResult>, Against) {
    let encoder = Arc::new(TextEncoder::open(Path::new(MODEL)).unwrap());
    let (prose, code) = ("merge-configs/eval/prose.jsonl", "merge-configs/eval/code.jsonl");
    let mixes = [
        ("merge", [(prose, 0.5), (code, 0.5)]),
        ("prose", [(prose, 1.0), (code, 0.0)]),
        ("code", [(prose, 0.0), (code, 1.0)]),
        ("base", [(prose, 0.02), (code, 0.02)]),
    ];
    let hub = Settings::from_env().unwrap();
    let access = Access { hub: &hub, watch: &Unwatched };
    let catalog = Catalog::default();
    let selected: Vec<Selected> = ["prose", "code"]
        .iter()
        .flat_map(|name| catalog.select(&format!("merge-configs/eval/{name}.yml")).unwrap())
        .collect();
    let tasks = run::tasks(&selected).unwrap();
    let items = run::prepare(&tasks, Some(24), &access).unwrap();
    let results = mixes.iter().map(|(name, files)| {
        let model = Bigrams::of(files, &encoder);
        let encoder = Arc::clone(&encoder);
        let candidate = Candidate { name: (*name).to_string(), model: &model, encoder };
        run::model(&candidate, &selected, &items, Asking::default(), &|_| {}).unwrap()
    });
    (results.collect(), Against { parents: vec![1, 2], base: Some(3) })
}

#[test]
fn models_are_compared_and_gated() {
    let (results, against) = family();
    let rows = compare(&results, &against).unwrap();
    assert_eq!(compare(&results, &against).unwrap(), rows, "the same results, another report");
    insta::assert_snapshot!("table", report::table(&results, &rows, Style::Text));
    insta::assert_snapshot!("markdown", report::table(&results[..1], &rows[..1], Style::Markdown));
    let json = report::json(&results, &rows);
    assert_eq!(json["results"][1]["model"], "prose");
    let figure = &json["results"][0]["tasks"]["prose"]["token_perplexity"];
    assert!(figure["value"].as_f64().unwrap() > 1.0 && figure["stderr"].is_null());
    assert_eq!(json["results"][0]["tasks"]["prose"]["n"], 24);
    assert_eq!(json["comparison"][0]["models"][0]["to_best_parent"]["to"], "prose");
    let samples = report::samples(&results[0]);
    assert_eq!(samples.lines().count(), 48);
    let first: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["model"], &first["task"], &first["doc_id"]),
        (&json!("merge"), &json!("prose"), &json!(0))
    );
    assert_eq!(first["lls"].as_array().unwrap().len(), 1);

    let check = |condition: &str| {
        let gate = Gate::parse("prose.token_perplexity", condition).unwrap();
        gate.check(0, &results, &against).unwrap()
    };
    // A lower perplexity is better: the best parent has the lowest.
    assert!(!check("<= best_parent").passed && check("<= 2 * best_parent").passed);
    assert!(check("< worst_parent").passed && check("< base").passed);
    let error = gate::failed(&[check("<= best_parent"), check("< base")]).unwrap();
    assert_eq!(
        (error.exit_code(), error.get("gate")),
        (3, Some("prose.token_perplexity <= best_parent"))
    );
    assert!(gate::failed(&[check("< base")]).is_none());
    let unknown =
        Gate::parse("prose.acc", "> 0").unwrap().check(0, &results, &against).unwrap_err();
    assert_eq!(unknown.get("figures"), Some("token_perplexity, bits_per_byte"));
}

#[test]
fn windows_and_words_are_counted() {
    let (results, _) = family();
    // Every document is one window: 200 tokens at most, and none is scored twice.
    let tokens: Vec<usize> =
        results[0].tasks[0].samples.iter().map(|sample| sample.answer.tokens).collect();
    assert!(tokens.iter().all(|tokens| (100..=200).contains(tokens)), "{tokens:?}");
}

#[test]
fn probes_look_at_a_model() {
    let encoder = TextEncoder::open(Path::new(MODEL)).unwrap();
    let hub = Settings::from_env().unwrap();
    let access = Access { hub: &hub, watch: &Unwatched };
    let selected = Catalog::default().select("merge-configs/eval/prose.yml").unwrap();
    let items = [Items::prepare(selected[0].tasks()[0], Some(4), &access).unwrap()];
    let file = "merge-configs/eval/prose.jsonl";
    let sound = probe(&Bigrams::of(&[(file, 1.0)], &encoder), &encoder, &items).unwrap();
    let broken = probe(&Bigrams::of(&[(file, f64::NAN)], &encoder), &encoder, &items).unwrap();
    assert!(sound.perplexity > 1.0 && sound.perplexity < 1024.0);
    assert!(!broken.perplexity.is_finite());
    assert_eq!(broken.warnings(&[sound]).len(), 1);
}
