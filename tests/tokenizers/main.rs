//! Merges of models with different vocabularies: tokenizers built by the tokenizers crate, rows
//! compared by token, and texts encoded by the parents and by the output.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/tokenizers.rs"]
mod built;
mod sliced;
#[path = "../support/mod.rs"]
mod support;
mod wordpiece;

use built::{byte_level, sentencepiece, unigram};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use support::{Sandbox, Tensor};
use tokenizers::Tokenizer;

const A: &str = "the lowest and the newest of the lower towers were slower than low cows";
const B: &str = "def new_width(window): return window.width + 1 # we show how flowers grow";
const WIDTH: usize = 4;

/// Writes a model with this tokenizer, and `padding` rows behind its last token.
fn model(sandbox: &Sandbox, name: &str, tokenizer: &Tokenizer, padding: usize, seed: u64) {
    let rows = tokenizer.get_vocab_size(true) + padding;
    let mut config = support::config(1);
    config["vocab_size"] = json!(rows);
    config["eos_token_id"] = json!(rows - 1);
    let tensor = |name: &str, shape: &[usize]| Tensor::random(name, Dtype::F32, shape, seed);
    let tensors = [
        tensor("lm_head.weight", &[rows, WIDTH]),
        tensor("model.embed_tokens.weight", &[rows, WIDTH]),
        tensor("model.layers.0.mlp.up_proj.weight", &[6, WIDTH]),
        tensor("model.norm.weight", &[WIDTH]),
    ];
    sandbox.model(name, &config, &tensors);
    sandbox.write(&format!("{name}/tokenizer.json"), tokenizer.to_string(false).unwrap());
}

fn tokenizer(sandbox: &Sandbox, name: &str) -> Tokenizer {
    Tokenizer::from_bytes(sandbox.read(&format!("{name}/tokenizer.json"))).unwrap()
}

fn vocabulary(tokenizer: &Tokenizer) -> BTreeMap<String, u32> {
    tokenizer.get_vocab(true).into_iter().collect()
}

/// The rows of a tensor.
fn rows(sandbox: &Sandbox, name: &str, tensor: &str) -> Vec<Vec<f32>> {
    let tensor = &sandbox.tensors(name)[tensor];
    assert_eq!(tensor.shape[1], WIDTH);
    tensor.values().chunks(WIDTH).map(<[f32]>::to_vec).collect()
}

fn mean(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| 0.5 * a + 0.5 * b).collect()
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
}

fn with_base(tokenizer: &str) -> String {
    format!("{}base_model: a\n{tokenizer}\n", support::LINEAR)
}

/// Everything that must hold of a union, and the lines of its plan.
fn check_union(build: fn(&str, &[&str]) -> Tokenizer) -> Vec<String> {
    let sandbox = Sandbox::new();
    let (a, b) = (build(A, &["<|pad|>"]), build(B, &["<|im_start|>", "<|im_end|>"]));
    model(&sandbox, "a", &a, 0, 1);
    model(&sandbox, "b", &b, 0, 2);
    sandbox.merge(&with_base("tokenizer_source: union"), "out", &["--threads", "1"]);
    sandbox.merge(&with_base("tokenizer_source: union"), "again", &["--threads", "2"]);
    assert_eq!(sandbox.read("out/model.safetensors"), sandbox.read("again/model.safetensors"));
    support::accounted(&sandbox, "out");
    let out = tokenizer(&sandbox, "out");
    let (va, vb, vout) = (vocabulary(&a), vocabulary(&b), vocabulary(&out));
    let count = vout.len();
    assert_eq!(sandbox.read_json("out/config.json")["vocab_size"], json!(count));
    assert_eq!(*vout.values().max().unwrap() as usize + 1, count);
    for (token, id) in &va {
        assert_eq!(vout.get(token), Some(id), "{token:?} moved");
    }
    for tensor in ["model.embed_tokens.weight", "lm_head.weight"] {
        let [of_a, of_b, made] = ["a", "b", "out"].map(|name| rows(&sandbox, name, tensor));
        assert_eq!(made.len(), count);
        for (token, id) in &vout {
            let one = |vocab: &BTreeMap<String, u32>, rows: &[Vec<f32>]| {
                vocab.get(token).map(|id| rows[*id as usize].clone())
            };
            let expected = match (one(&va, &of_a), one(&vb, &of_b)) {
                (Some(a), Some(b)) => mean(&a, &b),
                (Some(row), None) | (None, Some(row)) => row,
                (None, None) => panic!("{token:?} is in no model"),
            };
            assert!(near(&made[*id as usize], &expected), "{tensor} {token:?}");
        }
    }
    for token in ["<|pad|>", "<|im_start|>", "<|im_end|>"] {
        let text = format!("low{token} window");
        let encoded = out.encode(text, false).unwrap();
        assert!(encoded.get_tokens().contains(&token.to_string()));
    }
    // Text comes back as it was.
    for text in [A, B] {
        let ids = out.encode(text, false).unwrap();
        assert_eq!(out.decode(ids.get_ids(), true).unwrap(), text);
    }
    // What one parent made one token is one token.
    let whole =
        |tokenizer: &Tokenizer, text: &str| tokenizer.encode(text, false).unwrap().len() == 1;
    for (parent, text) in [(&a, A), (&b, B)] {
        for word in text.split(' ') {
            if whole(parent, word) {
                assert!(whole(&out, word), "{word:?} is cut");
            }
        }
    }
    let plan = sandbox.ok(&["plan", "recipe.yml"]).stdout;
    plan.lines()
        .filter(|l| l.starts_with("tokens ") || l.starts_with("warning "))
        .map(str::to_string)
        .collect()
}

#[test]
fn union_of_byte_level_bpe() {
    let lines = check_union(byte_level);
    assert!(lines[0].ends_with("from union"), "{lines:?}");
}

#[test]
fn union_of_sentencepiece_bpe_with_byte_fallback() {
    check_union(sentencepiece);
}

#[test]
fn union_of_unigram() {
    check_union(unigram);
}

/// The base's cut of a text is only ever made coarser.
#[test]
fn a_union_joins_the_bases_tokens_and_never_cuts_them() {
    let sandbox = Sandbox::new();
    let (a, b) = (byte_level(A, &["</s>"]), byte_level(B, &["</s>"]));
    model(&sandbox, "a", &a, 0, 1);
    model(&sandbox, "b", &b, 0, 2);
    sandbox.merge(&with_base("tokenizer_source: union"), "out", &[]);
    let out = tokenizer(&sandbox, "out");
    for text in [A, B, "ünïcode and\ttabs  windowlowest"] {
        let ends = |tokenizer: &Tokenizer| -> Vec<usize> {
            let encoded = tokenizer.encode(text, false).unwrap();
            let mut at = 0;
            let lengths = encoded.get_tokens().iter().map(|token| {
                at += token.chars().count();
                at
            });
            lengths.collect()
        };
        let (before, after) = (ends(&a), ends(&out));
        assert!(after.iter().all(|end| before.contains(end)), "{text}");
    }
}

#[test]
fn rows_of_tokens_are_what_the_recipe_says() {
    let sandbox = Sandbox::new();
    let (a, b) = (byte_level(A, &["</s>"]), byte_level(B, &["</s>", "<|im_start|>"]));
    model(&sandbox, "a", &a, 0, 1);
    model(&sandbox, "b", &b, 0, 2);
    let recipe = with_base(
        "tokenizer:
  source: base
  tokens:
    <|im_start|>: {source: b}
    <|new|>: {source: {kind: model_token, model: b, token: <|im_start|>}}
    <|id|>: {source: {kind: model_token, model: a, token_id: 7}}
    <|zero|>: {source: {kind: zero}}
    </s>: {source: {kind: model_token, model: b, token_id: 3}, force: true}
  pad_to_multiple_of: 64",
    );
    sandbox.merge(&recipe, "out", &[]);
    let out = tokenizer(&sandbox, "out");
    let made = rows(&sandbox, "out", "lm_head.weight");
    let of = |name: &str, id: u32| rows(&sandbox, name, "lm_head.weight")[id as usize].clone();
    let row = |token: &str| made[out.token_to_id(token).unwrap() as usize].clone();
    let start = b.token_to_id("<|im_start|>").unwrap();
    assert!(near(&row("<|im_start|>"), &of("b", start)));
    assert!(near(&row("<|new|>"), &of("b", start)));
    assert!(near(&row("<|id|>"), &of("a", 7)));
    assert_eq!(row("<|zero|>"), [0.0; WIDTH]);
    assert!(near(&row("</s>"), &of("b", 3)));
    let count = out.get_vocab_size(true);
    assert_eq!(made.len(), count.next_multiple_of(64));
    assert_eq!(sandbox.read_json("out/config.json")["vocab_size"], json!(made.len()));
    let mut average = vec![0.0; WIDTH];
    for row in &made[..count] {
        average.iter_mut().zip(row).for_each(|(sum, x)| *sum += x / count as f32);
    }
    assert!(near(&made[count], &average));
    assert_eq!(made[count], made[made.len() - 1]);
    let noted = sandbox.read_json("out/lineage.json")["output"]["vocabulary"].clone();
    assert_eq!(noted["rows"], json!(made.len()));
    assert_eq!(noted["files"][0]["path"], "tokenizer.json");
}

/// Rows behind the last token stay, as they are in each model, and new tokens take them first.
#[test]
fn padding_rows_are_kept() {
    let sandbox = Sandbox::new();
    let (a, b) = (byte_level(A, &["</s>"]), byte_level(A, &["</s>", "<|im_start|>"]));
    model(&sandbox, "a", &a, 9, 1);
    model(&sandbox, "b", &b, 8, 2);
    let count = a.get_vocab_size(true);
    sandbox.merge(&with_base("tokenizer_source: base"), "base", &[]);
    sandbox.merge(&with_base("tokenizer_source: union"), "union", &[]);
    let name = "model.embed_tokens.weight";
    let [of_a, of_b, base, union] = ["a", "b", "base", "union"].map(|m| rows(&sandbox, m, name));
    assert_eq!((base.len(), union.len()), (count + 9, count + 9));
    // In b the first padding row of a is a token: the base's row stands for it.
    assert!(near(&base[count], &of_a[count]));
    assert!(near(&union[count], &of_b[count]));
    for row in count + 1..count + 9 {
        assert!(near(&base[row], &mean(&of_a[row], &of_b[row])));
        assert!(near(&union[row], &mean(&of_a[row], &of_b[row])));
    }
    assert_eq!(sandbox.read("base/tokenizer.json"), sandbox.read("a/tokenizer.json"));
}

/// The tokenizer of another model brings its files, and ids in configs follow their tokens.
#[test]
fn a_models_tokenizer_is_taken_whole() {
    let sandbox = Sandbox::new();
    let (a, b) = (byte_level(A, &["</s>"]), byte_level(B, &["<|im_start|>", "</s>"]));
    model(&sandbox, "a", &a, 0, 1);
    model(&sandbox, "b", &b, 0, 2);
    sandbox.write(
        "a/generation_config.json",
        json!({"eos_token_id": [a.token_to_id("</s>")]}).to_string(),
    );
    sandbox.write("a/merges.txt", "old");
    sandbox.merge(&with_base("tokenizer_source: b"), "out", &[]);
    assert_eq!(sandbox.read("out/tokenizer.json"), sandbox.read("b/tokenizer.json"));
    assert!(!sandbox.exists("out/merges.txt"));
    let eos = b.token_to_id("</s>").unwrap();
    assert_eq!(sandbox.read_json("out/config.json")["eos_token_id"], json!(eos));
    assert_eq!(sandbox.read_json("out/generation_config.json")["eos_token_id"], json!([eos]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let sandbox = Sandbox::new();
    let a = byte_level(A, &["</s>", "<|x|>"]);
    model(&sandbox, "a", &a, 0, 1);
    model(&sandbox, "b", &byte_level(A, &["</s>", "<|y|>"]), 0, 2);
    model(&sandbox, "s", &sentencepiece(A, &[]), 0, 3);
    model(&sandbox, "u", &unigram(A, &[]), 0, 4);
    model(&sandbox, "old", &a, 0, 5);
    std::fs::remove_file(sandbox.path("old/tokenizer.json")).unwrap();
    sandbox.write("old/tokenizer.model", "binary");
    let with = |other: &str, rest: &str| {
        sandbox
            .write("recipe.yml", with_base(rest).replace("model: b", &format!("model: {other}")));
        sandbox.fails(2, &["plan", "recipe.yml"])
    };
    let id = a.token_to_id("<|x|>").unwrap();
    for (other, rest, says) in [
        (
            "b",
            "",
            vec![
                "different vocabularies",
                &format!("token {id} is \"<|x|>\""),
                "<|y|>",
                "tokenizer_source: union",
            ],
        ),
        (
            "s",
            "tokenizer_source: union",
            vec!["recipe.yml:6", "spell tokens differently", "byte_fallback"],
        ),
        ("u", "tokenizer_source: union", vec!["of different kinds", "Unigram"]),
        (
            "old",
            "tokenizer_source: union",
            vec!["has no tokenizer.json", "tokenizer.model", "save_pretrained"],
        ),
        ("b", "tokenizer_source: c", vec!["a model folder does not exist", "recipe.yml:6"]),
        (
            "b",
            "tokenizer_source: union\ntokenizer: {source: base}",
            vec!["`tokenizer` and `tokenizer_source`"],
        ),
        ("b", "tokenizer: {sauce: base}", vec!["unknown key `sauce`", "did you mean `source`?"]),
        (
            "b",
            "tokenizer: {tokens: {x: {source: {kind: zeros}}}}",
            vec!["unknown kind of row `zeros`", "did you mean `zero`?"],
        ),
        (
            "b",
            "tokenizer: {tokens: {x: {source: {kind: model_token, model: b}}}}",
            vec!["names no token"],
        ),
        ("b", "tokenizer: {tokens: {x: {force: true}}}", vec!["forced to no row"]),
        (
            "b",
            "tokenizer: {tokens: {zz: {source: b}}}",
            vec!["a model lacks the token", "tokenizer.tokens.zz"],
        ),
        (
            "b",
            "tokenizer: {tokens: {x: {source: s}}}",
            vec!["a model that is not merged", "recipe.yml:6"],
        ),
        (
            "b",
            "tokenizer: {tokens: {zz: {source: {kind: model_token, model: b, token_id: 4000}}}}",
            vec!["behind the last row", "4000"],
        ),
        ("b", "tokenizer: {pad_to_multiple_of: 0}", vec!["cannot be a multiple", "recipe.yml:6"]),
        (
            "b",
            "tokenizer_source: base\nchat_template: chatlm",
            vec!["unknown chat template", "recipe.yml:7", "`chatml`"],
        ),
        ("b", "tokenizer_source: base\nchat_template: '{% if %}'", vec!["not a Jinja template"]),
    ] {
        let message = with(other, rest);
        for part in says {
            assert!(message.contains(part), "{rest}: {part:?} is not in\n{message}");
        }
    }
}

#[test]
fn chat_templates() {
    let sandbox = Sandbox::new();
    let a = byte_level(A, &["</s>"]);
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        model(&sandbox, name, &a, 0, i as u64);
    }
    let settings = |template: Value| {
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}).to_string()
    };
    sandbox.write("a/tokenizer_config.json", settings(json!("{{ first }}")));
    sandbox.write(
        "b/tokenizer_config.json",
        settings(json!([{"name": "default", "template": "{{ most }}"}])),
    );
    sandbox.write("c/chat_template.jinja", "{{ most }}\n");
    let recipe =
        format!("{}  - {{model: c, parameters: {{weight: 1}}}}\nchat_template: ", support::LINEAR);
    for (value, expected) in
        [("auto", "{{ most }}"), ("'{{ messages }}'", "{{ messages }}"), ("chatml", "<|im_start|>")]
    {
        let out = format!("out-{}", expected.len());
        sandbox.merge(&format!("{recipe}{value}\n"), &out, &[]);
        let text = String::from_utf8(sandbox.read(&format!("{out}/chat_template.jinja"))).unwrap();
        assert!(text.contains(expected));
        assert_eq!(
            sandbox.read_json(&format!("{out}/tokenizer_config.json"))["chat_template"],
            text
        );
        assert_eq!(
            sandbox.read(&format!("{out}/tokenizer.json")),
            sandbox.read("a/tokenizer.json")
        );
    }
}
