//! The decoder against transformers: logits of tiny checkpoints of every family, made once by
//! `tests/golden/make_logits.py`.

#![allow(clippy::unwrap_used, clippy::panic)]

use cognate::eval::decoder::{Decoder, Options, families};
use cognate::eval::model::{GenerateRequest, LanguageModel, Sampling, ScoreRequest};
use cognate::model::Checkpoint;
use std::path::{Path, PathBuf};

/// What the logits may differ by.
const TOLERANCE: f32 = 1e-4;
const OPTIONS: Options = Options { memory: 1 << 30, threads: 2, batch: None };

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let entries = std::fs::read_dir(root).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn open(folder: &Path, options: &Options) -> Decoder {
    let checkpoint = Checkpoint::open(&name(folder), folder).unwrap();
    Decoder::open(&checkpoint, options).unwrap_or_else(|error| panic!("{error}"))
}

/// The ids and logits of a variant: `golden.safetensors`, read as a checkpoint of its own.
fn golden(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f32> {
        let data = tensors.tensor(name).unwrap();
        data.data().chunks(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    (values("ids").into_iter().map(|id| id as u32).collect(), values("logits"))
}

fn log_softmax(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    f64::from(logits[token as usize] - max) - sum.ln()
}

#[test]
fn logits_agree_with_transformers() {
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for folder in folders() {
        let (ids, expected) = golden(&folder);
        let checkpoint = Checkpoint::open(&name(&folder), &folder).unwrap();
        let computed = Decoder::open(&checkpoint, &OPTIONS).and_then(|decoder| {
            seen.push(decoder.family());
            decoder.logits(&ids)
        });
        match computed {
            Err(error) => wrong.push(format!("{}: {error}", name(&folder))),
            Ok(found) => {
                assert_eq!(found.len(), expected.len());
                let apart = |(a, b): (&f32, &f32)| (a - b).abs();
                let most = found.iter().zip(&expected).map(apart).fold(0.0, f32::max);
                println!("{:20} {most:.1e}", name(&folder));
                if most > TOLERANCE || most.is_nan() {
                    wrong.push(format!("{}: {most} apart", name(&folder)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let families = families().unwrap();
    let names = families.iter().map(|family| family.name);
    let missing: Vec<&str> = names.filter(|family| !seen.contains(family)).collect();
    assert!(missing.is_empty(), "no golden logits for {missing:?}");
}

/// Scores are the log-softmax of the logits, whatever else is asked in the same call, and however much
/// memory, however many threads and however small batches there are.
#[test]
fn scores_do_not_depend_on_batches_memory_or_threads() {
    for folder in folders() {
        let (ids, logits) = golden(&folder);
        let width = logits.len() / ids.len();
        let request = |split: usize, end: usize| ScoreRequest {
            context: ids[..split].to_vec(),
            continuation: ids[split..end].to_vec(),
        };
        // Shared contexts, single tokens, nothing to score, the same request twice.
        let mut requests: Vec<ScoreRequest> =
            [(6, 7), (6, 12), (6, 21), (1, 9), (6, 12), (3, 3), (20, 21)]
                .map(|(split, end)| request(split, end))
                .to_vec();
        let mut other = request(6, 12);
        other.continuation.reverse();
        requests.push(other);
        let plans = [
            OPTIONS,
            Options { memory: 66 << 20, threads: 1, batch: None },
            Options { batch: Some(1), threads: 3, ..OPTIONS },
        ];
        let all: Vec<_> = plans
            .iter()
            .map(|options| open(&folder, options).score(&requests, &|_| ()).unwrap())
            .collect();
        // Frequencies that depend on a sequence's length make its logits others.
        let stretched = ["llama_dynamic", "phi3_long"].contains(&name(&folder).as_str());
        let decoder = open(&folder, &OPTIONS);
        for (number, request) in requests.iter().enumerate().take(7) {
            let end = request.context.len() + request.continuation.len();
            let own = stretched.then(|| decoder.logits(&ids[..end - 1]).unwrap());
            let logits = own.as_ref().unwrap_or(&logits);
            let mut sum = 0.0;
            for (i, token) in request.continuation.iter().enumerate() {
                let row = request.context.len() + i - 1;
                let expected = log_softmax(&logits[row * width..(row + 1) * width], *token);
                let found = f64::from(all[0][number].tokens[i]);
                sum += found;
                assert!((found - expected).abs() < 1e-4, "{}: {found} {expected}", name(&folder));
            }
            assert!((all[0][number].log_likelihood - sum).abs() < 1e-9);
        }
        for other in &all[1..] {
            for (a, b) in all[0].iter().zip(other) {
                assert!((a.log_likelihood - b.log_likelihood).abs() < 1e-5, "{}", name(&folder));
                assert_eq!(a.greedy, b.greedy);
            }
        }
    }
}

/// Greedy continuations are what the logits of the whole sequence say token by token.
#[test]
fn generations_follow_the_logits() {
    for folder in folders() {
        if ["llama_dynamic", "phi3_long", "phi3_short"].contains(&name(&folder).as_str()) {
            // Their cached keys were turned by other frequencies, as in transformers.
            continue;
        }
        let decoder = open(&folder, &OPTIONS);
        let (ids, _) = golden(&folder);
        let greedy = |prompt: &[u32], max_new_tokens| GenerateRequest {
            prompt: prompt.to_vec(),
            max_new_tokens,
            stop: Vec::new(),
            until: None,
            sample: None,
        };
        let requests = [greedy(&ids[..9], 6), greedy(&ids[..4], 3), greedy(&ids[..12], 0)];
        let found = decoder.generate(&requests, &|_| ()).unwrap();
        assert!(found[2].tokens.is_empty());
        for (request, found) in requests.iter().zip(&found).take(2) {
            assert_eq!(found.tokens.len(), request.max_new_tokens);
            let whole = [request.prompt.as_slice(), &found.tokens].concat();
            let logits = decoder.logits(&whole).unwrap();
            let width = decoder.vocabulary();
            for (i, token) in found.tokens.iter().enumerate() {
                let row = request.prompt.len() + i - 1;
                let row = &logits[row * width..(row + 1) * width];
                let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert!(best - row[*token as usize] < 1e-4, "{}", name(&folder));
            }
        }
    }
}

#[test]
fn generations_stop_where_they_are_told_to() {
    let decoder = open(&folder("llama"), &OPTIONS);
    let (ids, _) = golden(&folder("llama"));
    let request = || GenerateRequest {
        prompt: ids[..8].to_vec(),
        max_new_tokens: 8,
        stop: Vec::new(),
        until: None,
        sample: None,
    };
    let all = decoder.generate(&[request()], &|_| ()).unwrap().remove(0).tokens;
    let third = all[2];
    let first = all.iter().position(|token| *token == third).unwrap();
    let stopped = GenerateRequest { stop: vec![third], ..request() };
    let until = GenerateRequest { until: Some(Box::new(|new| new.len() == 2)), ..request() };
    let sample = Sampling { temperature: 0.7, top_k: Some(20), top_p: Some(0.95), seed: 5 };
    let sampled = || GenerateRequest { sample: Some(sample.clone()), ..request() };
    let found = decoder.generate(&[stopped, until, sampled()], &|_| ()).unwrap();
    assert_eq!(found[0].tokens, all[..first]);
    assert_eq!(found[1].tokens, all[..2]);
    // A draw does not depend on what else is asked.
    assert_eq!(found[2], decoder.generate(&[sampled()], &|_| ()).unwrap()[0]);
}

/// The error for a copy of a variant with some keys of the config and some tensors changed.
fn refusal(variant: &str, keys: &[(&str, serde_json::Value)], drop: &str, add: &str) -> String {
    let made = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(folder(variant).join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in keys {
        config[*key] = value.clone();
    }
    std::fs::write(made.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(folder(variant).join("model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = stored.tensors();
    tensors.retain(|(name, _)| name != drop);
    if let Some((_, view)) = tensors.first().cloned().filter(|_| !add.is_empty()) {
        tensors.push((add.to_string(), view));
    }
    let bytes = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(made.path().join("model.safetensors"), bytes).unwrap();
    let checkpoint = Checkpoint::open("model", made.path()).unwrap();
    let error = Decoder::open(&checkpoint, &OPTIONS).err().map(|error| error.to_string());
    let folder = made.path().display().to_string();
    error.unwrap_or_else(|| "no error".to_string()).replace(&folder, "FOLDER")
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    use serde_json::json;
    let odd = json!({"rope_type": "proportional", "factor": 2.0});
    let more = json!({"rope_type": "linear", "factor": 2.0, "ramp": 3});
    let cases = [
        ("another family", refusal("llama", &[("model_type", json!("rwkv7"))], "", "")),
        ("another key", refusal("llama", &[("attention_sinks", json!(4))], "", "")),
        ("another rotary scaling", refusal("llama", &[("rope_scaling", odd)], "", "")),
        ("another number of a scaling", refusal("llama", &[("rope_scaling", more)], "", "")),
        ("another activation", refusal("llama", &[("hidden_act", json!("mish"))], "", "")),
        (
            "another kind of layer",
            refusal(
                "qwen3",
                &[("layer_types", json!(["full_attention", "linear_attention"]))],
                "",
                "",
            ),
        ),
        (
            "another residual",
            refusal("bloom", &[("apply_residual_connection_post_layernorm", json!(true))], "", ""),
        ),
        ("another width", refusal("llama", &[("intermediate_size", json!(40))], "", "")),
        ("another depth", refusal("llama", &[("num_hidden_layers", json!(3))], "", "")),
        ("no head", refusal("llama", &[], "lm_head.weight", "")),
        ("no norm", refusal("llama", &[], "model.norm.weight", "")),
        ("a weight more", refusal("llama", &[], "", "model.layers.0.self_attn.sinks")),
        ("a mask more", refusal("gpt2", &[], "", "transformer.h.0.attn.bias")),
        ("heads that do not fit", refusal("llama", &[("num_key_value_heads", json!(3))], "", "")),
    ];
    let shown: Vec<String> =
        cases.iter().map(|(name, text)| format!("# {name}\n{text}\n")).collect();
    insta::assert_snapshot!("refused", shown.join("\n"));
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let decoder = open(&folder("gpt2"), &OPTIONS);
    let request = |context: &[u32], continuation: &[u32]| ScoreRequest {
        context: context.to_vec(),
        continuation: continuation.to_vec(),
    };
    let long: Vec<u32> = vec![5; 33];
    for (wrong, words) in [
        (request(&[], &[1]), "has nothing before it"),
        (request(&[], &[]), "has nothing before it"),
        (request(&[67], &[1]), "not one of the model's vocabulary"),
        (request(&[1], &[67]), "not one of the model's vocabulary"),
        (request(&long, &[1]), "longer than the model's table of positions"),
    ] {
        let error = decoder.score(&[wrong], &|_| ()).unwrap_err();
        assert!(error.message().contains(words), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    assert!(decoder.score(&[request(&long[..32], &[1])], &|_| ()).is_ok());
    assert_eq!((decoder.vocabulary(), decoder.context_length()), (67, Some(32)));
}
