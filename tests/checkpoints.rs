//! Checkpoints that are damaged or do not fit together are refused with exit code 2 and a clear
//! message (kept as a snapshot); those that do fit give the right tensors and a full account.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use safetensors::Dtype::{BF16, F16, F32, I64};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use support::{INDEX, LINEAR, SINGLE, Sandbox, Tensor, config, llama, shard};

const WEIGHTS: &str = "b/model.safetensors";

/// A way to spoil the model `b`, which otherwise fits `a`: name, deed, and what the message says.
type Spoiled = (&'static str, fn(&Sandbox), &'static [&'static str]);

const BAD: [Spoiled; 21] = [
    ("truncated shard", |s| weights(s, |whole| whole.truncate(900)), &[WEIGHTS, "truncated"]),
    ("shard of five bytes", |s| s.write(WEIGHTS, "short"), &[WEIGHTS, "at least 8 bytes"]),
    ("empty shard", |s| s.write(WEIGHTS, ""), &[WEIGHTS, "at least 8 bytes"]),
    ("bytes after the end", |s| weights(s, |whole| whole.push(0)), &[WEIGHTS]),
    ("header longer than the file", |s| weights(s, |whole| whole[3] = 1), &[WEIGHTS, "longer"]),
    ("header that is not JSON", |s| s.write(WEIGHTS, b"\x04\0\0\0\0\0\0\0what"), &[WEIGHTS]),
    ("index with a path", |s| index(s, "../a/x.safetensors", &[]), &[INDEX, "../a/x.safetensors"]),
    ("index with an absolute path", |s| index(s, "/etc/passwd", &[]), &[INDEX, "/etc/passwd"]),
    ("index that is not JSON", |s| s.write(&format!("b/{INDEX}"), "{"), &[INDEX]),
    ("tensor in no shard", |s| index(s, "1.safetensors", &["ghost"]), &[INDEX, "ghost"]),
    ("tensor not in the index", |s| index(s, "1.safetensors", &["-"]), &[INDEX, "lm_head.weight"]),
    (
        "tensor in two shards",
        |s| twice(s, "2.safetensors"),
        &["model.norm.weight", "1.safetensors", "2.safetensors"],
    ),
    (
        "other shape",
        |s| replace(s, "model.norm.weight", &[9]),
        &["model.norm.weight", "[8]", "[9]"],
    ),
    (
        "other vocabulary",
        |s| replace(s, "model.embed_tokens.weight", &[17, 8]),
        &["model.embed_tokens.weight", "[16, 8]", "[17, 8]", "vocabularies"],
    ),
    (
        "fewer layers",
        |s| s.model("b", &config(1), &llama(1, 2)),
        &["model.layers.1.", "recipe.yml:4:"],
    ),
    (
        "no pickle",
        |s| rename(s, SINGLE, "pytorch_model.bin"),
        &["pytorch_model.bin", "zip archive"],
    ),
    (
        "other weights only",
        |s| rename(s, SINGLE, "tf_model.h5"),
        &["tf_model.h5", "pytorch_model.bin", "save_pretrained"],
    ),
    ("no weights", |s| rename(s, SINGLE, "weights.txt"), &["neither"]),
    ("no config.json", |s| rename(s, "config.json", "c.json"), &["b/config.json"]),
    ("config.json that is no object", |s| s.write("b/config.json", "[]"), &["b/config.json"]),
    (
        "quantised",
        |s| s.write("b/config.json", r#"{"quantization_config": {"quant_method": "hqq"}}"#),
        &["b/config.json", "quantization_config.quant_method", "hqq"],
    ),
];

/// Dtype, shape and place of a tensor that follows another one of 8 bytes, in 16 bytes altogether.
const BAD_HEADERS: [(&str, &str, &str, &str, &str); 7] = [
    ("overlap", "F32", "[2]", "[4, 12]", "over another"),
    ("hole", "F32", "[1]", "[12, 16]", "a hole"),
    ("reversed", "F32", "[2]", "[16, 8]", ""),
    ("past the end", "F32", "[3]", "[8, 20]", "truncated"),
    ("shape that is not that of the bytes", "F32", "[3]", "[8, 16]", ""),
    ("shape that overflows", "F32", "[9223372036854775807, 4]", "[8, 16]", ""),
    ("unknown dtype", "F13", "[2]", "[8, 16]", "F13"),
];

#[test]
fn damaged_checkpoints_are_refused() {
    let mut messages = Messages::default();
    for (name, spoil, expected) in BAD {
        let sandbox = pair();
        spoil(&sandbox);
        messages.collect(&sandbox, name, expected);
    }
    insta::assert_snapshot!("damaged", messages.checked());
}

#[test]
fn damaged_headers_are_refused() {
    let mut messages = Messages::default();
    for (name, dtype, shape, place, says) in BAD_HEADERS {
        let sandbox = pair();
        let header = format!(
            r#"{{"x":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"y":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{place}}}}}"#
        );
        let length = (header.len() as u64).to_le_bytes();
        sandbox.write(WEIGHTS, [&length, header.as_bytes(), &[0; 16]].concat());
        messages.collect(&sandbox, name, &[WEIGHTS, says]);
    }
    insta::assert_snapshot!("headers", messages.checked());
}

#[test]
fn a_missing_shard_is_named() {
    let sandbox = pair();
    index(&sandbox, "2.safetensors", &[]);
    let message = sandbox.fails(2, &["plan", "recipe.yml"]);
    assert!(message.contains("b/2.safetensors"), "{message}");
}

/// The messages of refused merges, and what is wrong with them.
#[derive(Default)]
struct Messages {
    all: String,
    wrong: Vec<String>,
}

impl Messages {
    fn collect(&mut self, sandbox: &Sandbox, name: &str, expected: &[&str]) {
        let run = sandbox.run(&["merge", "recipe.yml", "-o", "out"]);
        assert!(!sandbox.exists("out") && !sandbox.exists(".out.cognate-partial"), "{name}");
        if run.code != Some(2) {
            return self.wrong.push(format!("{name}: exit code {:?}\n{}", run.code, run.stderr));
        }
        let message = support::one_screen(run, 2);
        for part in expected.iter().filter(|part| !message.contains(**part)) {
            self.wrong.push(format!("{name}: no {part:?}\n{message}"));
        }
        writeln!(self.all, "## {name}\n{message}").unwrap();
    }

    fn checked(self) -> String {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        self.all
    }
}

/// Two models that fit, `a` and `b`.
fn pair() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.model("a", &config(2), &llama(2, 1));
    sandbox.model("b", &config(2), &llama(2, 2));
    sandbox.write("recipe.yml", LINEAR);
    sandbox
}

fn weights(sandbox: &Sandbox, spoil: fn(&mut Vec<u8>)) {
    let mut bytes = shard(&llama(2, 2));
    spoil(&mut bytes);
    sandbox.write(WEIGHTS, bytes);
}

/// Makes `b` a sharded model, all in `1.safetensors`, but for the norm, which the index places in
/// `norm`. Of the edits, `-` takes the head out of the index, another name is added to it.
fn index(sandbox: &Sandbox, norm: &str, edits: &[&str]) {
    let mut map: serde_json::Map<String, Value> =
        llama(2, 2).into_iter().map(|t| (t.name, json!("1.safetensors"))).collect();
    map.insert("model.norm.weight".into(), json!(norm));
    for edit in edits {
        match *edit {
            "-" => map.remove("lm_head.weight"),
            name => map.insert(name.into(), json!("1.safetensors")),
        };
    }
    std::fs::remove_file(sandbox.path(WEIGHTS)).unwrap();
    sandbox.sharded("b", &[("1.safetensors", &llama(2, 2))], &Value::Object(map));
}

fn twice(sandbox: &Sandbox, file: &str) {
    index(sandbox, file, &[]);
    sandbox.write(&format!("b/{file}"), shard(&llama(0, 2)[2..]));
}

/// Gives a tensor of `b` another shape.
fn replace(sandbox: &Sandbox, name: &str, shape: &[usize]) {
    let mut tensors = llama(2, 2);
    let at = tensors.iter().position(|tensor| tensor.name == name).unwrap();
    tensors[at] = Tensor::random(name, F32, shape, 2);
    sandbox.model("b", &config(2), &tensors);
}

fn rename(sandbox: &Sandbox, from: &str, to: &str) {
    std::fs::rename(sandbox.path("b").join(from), sandbox.path("b").join(to)).unwrap();
}

#[test]
fn a_nan_is_refused_by_name_or_kept_in_its_element() {
    let sandbox = pair();
    let mut tensors = llama(2, 2);
    let mut values = tensors[1].values();
    values[37] = f32::NAN;
    tensors[1] = Tensor::of(&tensors[1].name, F32, &tensors[1].shape, &values);
    sandbox.model("b", &config(2), &tensors);
    let message = sandbox.fails(2, &["merge", "recipe.yml", "-o", "out"]);
    assert!(message.contains(" 37\n") && message.contains(WEIGHTS), "{message}");
    insta::assert_snapshot!("nan", message);

    for (method, more) in
        [("linear", ""), ("ties", "base_model: a\n"), ("slerp", "base_model: a\n")]
    {
        let recipe = format!(
            "merge_method: {method}\n{more}parameters: {{weight: 0.5, density: 0.5, t: 0.5}}\nmodels: [{{model: a}}, {{model: b}}]\n"
        );
        sandbox.merge(&recipe, method, &["--allow-nan"]);
        for (name, tensor) in sandbox.tensors(method) {
            let values = tensor.values();
            let nan: Vec<usize> = (0..values.len()).filter(|i| values[*i].is_nan()).collect();
            let expected = if name == tensors[1].name { vec![37] } else { vec![] };
            assert_eq!(nan, expected, "{method} {name}");
        }
    }
}

#[test]
fn integers_are_copied_if_equal_and_refused_if_not() {
    let sandbox = Sandbox::new();
    let ids = |last: f32| Tensor::of("position_ids", I64, &[3], &[0.0, 1.0, last]);
    let weight = |seed| Tensor::random("weight", F32, &[4], seed);
    sandbox.model("a", &config(0), &[ids(2.0), weight(1)]);
    sandbox.model("b", &config(0), &[ids(2.0), weight(2)]);
    sandbox.merge(LINEAR, "out", &[]);
    assert_eq!(sandbox.tensors("out")["position_ids"], ids(2.0));

    sandbox.model("b", &config(0), &[ids(3.0), weight(2)]);
    let message = sandbox.fails(2, &["merge", "recipe.yml", "-o", "other"]);
    assert!(message.contains("position_ids") && message.contains("I64"), "{message}");
    assert!(!sandbox.exists("other"));
}

/// Scalars, single elements and empty tensors, in every mix of dtypes: the result is the sum in f32
/// rounded once to the first model's dtype.
#[test]
fn dtypes_and_odd_shapes_mix() {
    let sandbox = Sandbox::new();
    let shapes: [&[usize]; 5] = [&[], &[1], &[0], &[3, 0, 2], &[5, 13]];
    for (a, b, name) in [
        (F32, F16, "float32"),
        (F32, BF16, "float32"),
        (F16, BF16, "float16"),
        (F16, F32, "float16"),
        (BF16, F32, "bfloat16"),
        (BF16, F16, "bfloat16"),
    ] {
        let make = |dtype, seed| -> Vec<Tensor> {
            let tensor = |(i, shape): (usize, &&[usize])| {
                Tensor::random(&format!("t{i}"), dtype, shape, seed)
            };
            shapes.iter().enumerate().map(tensor).collect()
        };
        sandbox.model("a", &config(0), &make(a, 1));
        sandbox.model("b", &config(0), &make(b, 2));
        sandbox.merge(LINEAR, "out", &["--overwrite"]);
        let out = sandbox.tensors("out");
        for (x, y) in make(a, 1).iter().zip(&make(b, 2)) {
            let expected = Tensor::of(&x.name, a, &x.shape, &mean(x, y));
            assert_eq!(out[&x.name], expected, "{a:?} {b:?}");
        }
        assert_eq!(sandbox.read_json("out/config.json")["torch_dtype"], name);
    }
}

fn mean(x: &Tensor, y: &Tensor) -> Vec<f32> {
    x.values().into_iter().zip(y.values()).map(|(x, y)| x * 0.5 + y * 0.5).collect()
}

/// A llama's tensors with a head or without.
fn headed(seed: u64, head: bool) -> Vec<Tensor> {
    llama(1, seed).split_off(usize::from(!head))
}

fn tied(tied: bool) -> Value {
    let mut config = config(1);
    config["tie_word_embeddings"] = json!(tied);
    config
}

#[test]
fn tied_stays_tied_and_untied_untied() {
    let sandbox = Sandbox::new();
    let (head, embedding) = ("lm_head.weight", "model.embed_tokens.weight");
    let dare = "merge_method: dare_ties\nbase_model: a\nparameters: {weight: 0.7, density: 0.5}\nmodels: [{model: b}]\n";

    sandbox.model("a", &tied(true), &headed(1, false));
    sandbox.model("b", &tied(true), &headed(2, false));
    sandbox.merge(dare, "tied", &[]);
    assert!(!sandbox.tensors("tied").contains_key(head));

    // Tied, and stored all the same: by both, by the base alone.
    let stored = |seed| {
        let mut tensors = headed(seed, true);
        tensors[0].bytes = tensors[1].bytes.clone();
        tensors
    };
    sandbox.model("a", &tied(true), &stored(1));
    for (out, other) in [("both", stored(2)), ("base", headed(2, false))] {
        sandbox.model("b", &tied(true), &other);
        sandbox.merge(dare, out, &[]);
        let tensors = sandbox.tensors(out);
        assert_eq!(tensors[head].bytes, tensors[embedding].bytes, "{out}");
        assert_ne!(tensors[head].bytes, stored(1)[0].bytes, "{out}");
    }

    // An untied base: the other's embeddings stand for its head.
    sandbox.model("a", &tied(false), &headed(1, true));
    sandbox.model("b", &tied(true), &headed(2, false));
    sandbox.merge(LINEAR, "untied", &[]);
    let expected = mean(&headed(1, true)[0], &headed(2, false)[0]);
    assert_eq!(sandbox.tensors("untied")[head].values(), expected);

    // The other way round the head would be lost.
    sandbox.write("recipe.yml", LINEAR.replace("model: a", "model: c"));
    sandbox.model("b", &tied(false), &headed(1, true));
    sandbox.model("c", &tied(true), &headed(2, false));
    let message = sandbox.fails(2, &["merge", "recipe.yml", "-o", "lost"]);
    assert!(message.contains(head) && message.contains("untied"), "{message}");
}

/// Where tensors stand by family: layers, embedding, what follows the layers.
const FAMILIES: [(&str, &str, &str); 7] = [
    ("model.layers", "model.embed_tokens.weight", "lm_head.weight"),
    ("transformer.h", "transformer.wte.weight", "transformer.ln_f.weight"),
    ("gpt_neox.layers", "gpt_neox.embed_in.weight", "embed_out.weight"),
    ("transformer.blocks", "transformer.wte.weight", "transformer.norm_f.weight"),
    ("model.decoder.layers", "model.decoder.embed_tokens.weight", "model.decoder.norm.weight"),
    ("backbone.layers", "backbone.embeddings.weight", "backbone.norm_f.weight"),
    ("encoder.layer", "embeddings.word_embeddings.weight", "pooler.dense.weight"),
];

#[test]
fn every_numbering_merges_and_slices() {
    for (layers, before, behind) in FAMILIES {
        let sandbox = Sandbox::new();
        let names: Vec<String> = [before.to_string(), behind.to_string()]
            .into_iter()
            .chain((0..3).map(|layer| format!("{layers}.{layer}.part.weight")))
            .collect();
        let mut config = config(3);
        config["layer_types"] = json!(["full", "sliding", "linear"]);
        for (model, seed) in [("a", 1), ("b", 2)] {
            let tensors: Vec<Tensor> =
                names.iter().map(|name| Tensor::random(name, F32, &[6], seed)).collect();
            sandbox.model(model, &config, &tensors);
        }
        let of = |name: &str, seed| Tensor::random(name, F32, &[6], seed).bytes;
        sandbox.merge(LINEAR, "out", &[]);
        let merged = sandbox.tensors("out");
        assert_eq!(merged.keys().collect::<BTreeSet<_>>(), names.iter().collect(), "{layers}");
        assert!(merged.iter().all(|(name, tensor)| tensor.bytes != of(name, 1)), "{layers}");

        let slices = "merge_method: passthrough\nslices:\n  - sources: [{model: a, layer_range: [0, 2]}]\n  - sources: [{model: b, layer_range: [1, 3]}]\n";
        sandbox.merge(slices, "sliced", &[]);
        let sliced = sandbox.tensors("sliced");
        assert_eq!(sliced.len(), 6, "{layers}");
        assert_eq!(sliced[before].bytes, of(before, 1), "{layers}");
        assert_eq!(sliced[behind].bytes, of(behind, 2), "{layers}");
        for (out, (layer, seed)) in [(0, 1), (1, 1), (1, 2), (2, 2)].into_iter().enumerate() {
            let name = |layer| format!("{layers}.{layer}.part.weight");
            assert_eq!(sliced[&name(out)].bytes, of(&name(layer), seed), "{layers} {out}");
        }
        let written = sandbox.read_json("sliced/config.json");
        assert_eq!(written["num_hidden_layers"], 4);
        assert_eq!(written["layer_types"], json!(["full", "sliding", "sliding", "linear"]));
        support::accounted(&sandbox, "sliced");
        support::accounted(&sandbox, "out");
    }
}

#[test]
fn tensors_of_one_model_alone_are_listed_as_dropped() {
    let sandbox = pair();
    let mut tensors = llama(2, 2);
    tensors.push(Tensor::random("score.weight", F32, &[4], 2));
    sandbox.model("b", &config(2), &tensors);
    sandbox.merge(LINEAR, "out", &[]);
    support::accounted(&sandbox, "out");
    let dropped = &sandbox.read_json("out/lineage.json")["inputs"][1]["dropped"];
    assert!(dropped["score.weight"].as_str().unwrap().contains('a'));
}

#[test]
fn what_belongs_to_the_model_is_copied() {
    let sandbox = pair();
    let kept = [
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "1_Pooling/config.json",
        "tokenizer.json",
    ];
    let left = ["trainer_state.json", "optimizer.pt", "training_args.bin", "runs/events.out"];
    for file in kept.iter().chain(&left) {
        sandbox.write(&format!("a/{file}"), file);
        sandbox.write(&format!("b/{file}"), "of the other model");
    }
    sandbox.merge(LINEAR, "out", &[]);
    let written: BTreeSet<String> = support::files(&sandbox.path("out")).into_keys().collect();
    let own = ["README.md", "config.json", "lineage.json", SINGLE];
    assert_eq!(written, kept.iter().chain(&own).map(|name| name.to_string()).collect());
    assert!(kept.iter().all(|file| sandbox.read(&format!("out/{file}")) == file.as_bytes()));
}
