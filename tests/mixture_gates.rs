//! The routers of mixtures: those of texts against mergekit, PyTorch and numpy (`tests/compare/moe.py
//! --write`), random ones by their moments; noise and factors on experts; the same bytes everywhere.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mixtures.rs"]
mod mixtures;
mod support;

use mixtures::{apart, expert_tensors, recipe, router, tiny, tuned};
use serde_json::Value;
use std::collections::BTreeMap;
use support::{SINGLE, Sandbox, Tensor, accounted, files, finish, sha256};

const LAYERS: usize = 4;
const HIDDEN: usize = 128;

/// A recipe with the texts of `tests/data/moe/prompts.json`, the negative ones if they are asked for.
fn with_prompts(mode: &str, negative: bool, more: &str) -> String {
    let prompts: Value = serde_json::from_str(include_str!("data/moe/prompts.json")).unwrap();
    let mut text =
        format!("base_model: models/base\ngate_mode: {mode}\ndtype: float32\n{more}experts:\n");
    for expert in prompts["experts"].as_array().unwrap() {
        // JSON is YAML.
        text += &format!("  - source_model: {}\n", expert["model"]);
        text += &format!("    positive_prompts: {}\n", expert["positive"]);
        if negative {
            text += &format!("    negative_prompts: {}\n", expert["negative"]);
        }
    }
    text
}

fn routers(sandbox: &Sandbox, out: &str) -> Vec<Tensor> {
    let tensors = sandbox.tensors(out);
    (0..LAYERS).map(|layer| tensors[&router("mixtral", layer)].clone()).collect()
}

#[test]
fn gates_are_those_of_the_references() {
    let sandbox = Sandbox::with_trained_models();
    let golden = include_bytes!("data/moe/gates.safetensors");
    let golden = safetensors::SafeTensors::deserialize(golden).unwrap();
    let mut seen = 0;
    for (mode, negative) in
        [("hidden_last", true), ("hidden_avg", true), ("cheap_embed", true), ("ridge", false)]
    {
        sandbox.merge(&with_prompts(mode, negative, ""), "out", &["--overwrite", "--no-eval"]);
        let mut worst = 0.0_f32;
        for (layer, found) in routers(&sandbox, "out").iter().enumerate() {
            let expected = golden.tensor(&format!("{mode}.{layer}")).unwrap();
            assert_eq!(found.shape, expected.shape());
            let expected: Vec<f32> = expected
                .data()
                .chunks(4)
                .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
                .collect();
            let most = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            worst = worst.max(apart(&found.values(), &expected) / most.max(1e-3));
            seen += 1;
        }
        println!("{mode:12} {worst:.1e} of the greatest element");
        assert!(worst < 1e-4, "{mode}: {worst}");
    }
    assert_eq!(seen, golden.len());
}

/// Texts in a file are the same as texts in the recipe, and `data` adds to them.
#[test]
fn texts_may_stand_in_files() {
    let sandbox = Sandbox::with_trained_models();
    let build = |texts: &str, out: &str| {
        let keys = "base_model: models/base\ngate_mode: hidden_avg\ndtype: float32\nexperts:\n";
        let other = "  - {source_model: models/ft-code, positive_prompts: [import]}\n";
        let text = format!("{keys}  - {{source_model: models/ft-prose, {texts}}}\n{other}");
        sandbox.merge(&text, out, &["--no-eval"]);
        routers(&sandbox, out)
    };
    sandbox.write("two.txt", "It was late.\n\nThe sea was calm.\n");
    sandbox.write("two.jsonl", "{\"text\": \"It was late.\"}\n{\"text\": \"The sea was calm.\"}\n");
    sandbox.write("one.txt", "The sea was calm.\n");
    let expected = build("positive_prompts: [It was late., The sea was calm.]", "here");
    for (texts, out) in [
        ("positive_prompts: two.txt", "text"),
        ("positive_prompts: two.jsonl", "json"),
        ("data: two.jsonl", "data"),
        ("positive_prompts: [It was late.], data: one.txt", "both"),
        ("data: [one.txt, two.txt]", "more"),
    ] {
        assert_eq!(build(texts, out) == expected, out != "more", "{texts}");
    }
}

/// What is not to be routed to an expert is taken off its direction; `gate_scale` is a factor on all.
#[test]
fn negative_texts_and_scales_change_rows() {
    let sandbox = Sandbox::with_trained_models();
    let build = |negative: bool, more: &str| {
        let text = with_prompts("hidden", negative, more);
        sandbox.merge(&text, "out", &["--overwrite", "--no-eval"]);
        routers(&sandbox, "out")
    };
    let (plain, negative, scaled) =
        (build(false, ""), build(true, ""), build(false, "gate_scale: 2.5\n"));
    for layer in 0..LAYERS {
        let (plain, negative) = (plain[layer].values(), negative[layer].values());
        assert!(apart(&plain[..HIDDEN], &negative[..HIDDEN]) > 0.01);
        assert_eq!(plain[HIDDEN..], negative[HIDDEN..], "they are the first expert's alone");
        let expected: Vec<f32> = plain.iter().map(|x| 2.5 * x).collect();
        assert!(apart(&scaled[layer].values(), &expected) < 1e-6);
        for row in plain.chunks(HIDDEN) {
            let square: f32 = row.iter().map(|x| x * x).sum();
            assert!((square - 1.0).abs() < 1e-5, "directions have length 1");
        }
    }
}

/// The gate of a shared expert is the direction that a routed expert of the same texts has.
#[test]
fn the_gate_of_a_shared_expert_is_a_direction_too() {
    let sandbox = Sandbox::new();
    tiny(&sandbox, "base", "qwen2", |_| ());
    tuned(&sandbox, "one", "base", 1);
    for mode in ["hidden", "hidden_avg", "cheap_embed"] {
        let keys = format!("base_model: base\ngate_mode: {mode}\n");
        let shared = "shared_experts: [{source_model: base, positive_prompts: [w1 w2 w3]}]\n";
        let text = recipe(&format!("{keys}{shared}"), &["one", "base"]);
        sandbox.merge(&text, "out", &["--overwrite", "--no-eval"]);
        accounted(&sandbox, "out");
        let made = sandbox.tensors("out");
        for layer in 0..2 {
            let gate = &made[&format!("model.layers.{layer}.mlp.shared_expert_gate.weight")];
            let rows = made[&router("qwen2_moe", layer)].values();
            assert_eq!(gate.values(), rows[..24], "{mode}");
        }
    }
    // Without texts it is 0: the expert weighs one half.
    let shared = "shared_experts: [{source_model: base}]\n";
    let text = recipe(&format!("base_model: base\n{shared}"), &["one", "base"]);
    sandbox.merge(&text, "out", &["--overwrite", "--no-eval"]);
    let gate = &sandbox.tensors("out")["model.layers.1.mlp.shared_expert_gate.weight"];
    assert!(gate.values().iter().all(|x| *x == 0.0));
}

/// Mean and variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count)
}

#[test]
fn random_gates_are_drawn_by_the_seed() {
    let sandbox = Sandbox::with_trained_models();
    let experts = ["models/ft-prose", "models/ft-code", "models/ft-math", "models/base"];
    let build = |mode: &str, seed: &str| {
        let keys = format!("base_model: models/base\ngate_mode: {mode}\ndtype: float32\n");
        let more = ["--overwrite", "--no-eval", "--seed", seed];
        sandbox.merge(&recipe(&keys, &experts), "out", &more);
        routers(&sandbox, "out")
    };
    let bound = (1.0 / HIDDEN as f64).sqrt();
    for (mode, variance) in [("random", 1.0), ("uniform_random", bound * bound / 3.0)] {
        let one = build(mode, "1");
        assert_eq!(one, build(mode, "1"));
        assert_ne!(one, build(mode, "2"));
        assert_ne!(one[0].bytes, one[1].bytes, "each layer has its own");
        let values: Vec<f64> = one.iter().flat_map(Tensor::values).map(f64::from).collect();
        let (mean, found) = moments(&values);
        // 2048 numbers: within four standard errors.
        assert!(mean.abs() < 4.0 * (variance / 2048.0).sqrt(), "{mode}: mean {mean}");
        assert!((found / variance - 1.0).abs() < 4.0 * (2.0 / 2048.0_f64).sqrt(), "{found}");
        if mode == "uniform_random" {
            assert!(values.iter().all(|x| x.abs() <= bound));
            assert!(values.iter().any(|x| x.abs() > 0.95 * bound));
        }
    }
}

#[test]
fn noise_and_factors_are_each_experts_own() {
    let sandbox = Sandbox::with_trained_models();
    let text = "\
base_model: models/base
gate_mode: random
dtype: float32
experts:
  - {source_model: models/base, noise_scale: 0.02}
  - {source_model: models/base, noise_scale: 0.02}
  - {source_model: models/base, residual_scale: 0.25}
  - {source_model: models/base}
";
    sandbox.merge(text, "out", &["--no-eval"]);
    accounted(&sandbox, "out");
    let (made, base) = (sandbox.tensors("out"), sandbox.tensors("models/base"));
    let mut noise: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for layer in 0..LAYERS {
        for (i, noise) in noise.iter_mut().enumerate() {
            for [own, of] in expert_tensors("mixtral", layer, i) {
                let pairs = made[&own].values().into_iter().zip(base[&of].values());
                noise.extend(pairs.map(|(x, plain)| f64::from(x - plain) / 0.02));
            }
        }
        for [own, of] in expert_tensors("mixtral", layer, 2) {
            let factor = if of.contains("down_proj") { 0.25 } else { 1.0 };
            let expected: Vec<f32> = base[&of].values().iter().map(|x| factor * x).collect();
            assert_eq!(made[&own].values(), expected, "{own}");
        }
        for [own, of] in expert_tensors("mixtral", layer, 3) {
            assert_eq!(made[&own].values(), base[&of].values(), "{own}");
        }
    }
    let count = noise[0].len() as f64;
    for noise in &noise {
        let (mean, variance) = moments(noise);
        assert!(mean.abs() < 4.0 / count.sqrt(), "{mean}");
        assert!((variance - 1.0).abs() < 4.0 * (2.0 / count).sqrt(), "{variance}");
    }
    // Two copies of a model are told apart: their noise is not related.
    let product: f64 = noise[0].iter().zip(&noise[1]).map(|(x, y)| x * y).sum();
    assert!((product / count).abs() < 4.0 / count.sqrt(), "{}", product / count);
}

/// The digests of every file of an output, made with nothing cached.
fn output(sandbox: &Sandbox, more: &[&str], isa: Option<&str>) -> BTreeMap<String, String> {
    let args = [&["merge", "recipe.yml", "-o", "out", "--overwrite"], more].concat();
    let mut command = sandbox.command(&args);
    command.env("COGNATE_CACHE", "");
    if let Some(isa) = isa {
        command.env("COGNATE_ISA", isa);
    }
    let run = finish(&mut command);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(!run.stderr.contains("no routing report"), "{}", run.stderr);
    files(&sandbox.path("out")).into_iter().map(|(name, bytes)| (name, sha256(&bytes))).collect()
}

#[test]
fn threads_memory_and_instruction_sets_do_not_show() {
    let sandbox = Sandbox::with_trained_models();
    for mode in ["hidden", "ridge", "random"] {
        let text = with_prompts(mode, mode == "hidden", "attention: merge\n");
        let first = "\"models/ft-prose\"\n";
        let text = text.replacen(first, &format!("{first}    noise_scale: 0.01\n"), 1);
        sandbox.write("recipe.yml", text);
        let expected = output(&sandbox, &["--threads", "1"], None);
        assert!(expected.contains_key(SINGLE) && expected.contains_key("lineage.json"));
        for threads in ["2", "3"] {
            assert_eq!(
                output(&sandbox, &["--threads", threads], None),
                expected,
                "{mode} {threads}"
            );
        }
        for memory in ["90MiB", "2GiB"] {
            let more = ["--memory", memory, "--threads", "2"];
            assert_eq!(output(&sandbox, &more, None), expected, "{mode} {memory}");
        }
        for kernels in cognate::kernels::Kernels::all() {
            let isa = kernels.isa().name();
            assert_eq!(output(&sandbox, &["--threads", "2"], Some(isa)), expected, "{mode} {isa}");
        }
    }
}

/// The gates of one recipe are taken from the cache by the next, and nothing is left of a failed merge.
#[test]
fn a_mixture_is_complete_or_not_there() {
    let sandbox = Sandbox::with_trained_models();
    let text = with_prompts("ridge", false, "");
    mixtures::changed(&sandbox, "broken", "models/ft-math", |tensor| {
        if !tensor.name.contains("layers.3.mlp.down_proj") {
            return tensor;
        }
        let mut values = tensor.values();
        values[5] = f32::NAN;
        Tensor::of(&tensor.name, tensor.dtype, &tensor.shape, &values)
    });
    let noisy = text.replace("\"models/ft-math\"", "broken\n    noise_scale: 0.01");
    sandbox.write("recipe.yml", &noisy);
    let message = sandbox.fails(2, &["merge", "recipe.yml", "-o", "out", "--quiet"]);
    assert!(message.contains("layers.3") && !sandbox.exists("out"), "{message}");
    sandbox.merge(&text, "first", &[]);
    sandbox.merge(&text, "second", &[]);
    for file in [SINGLE, "lineage.json", "config.json"] {
        let [first, second] = ["first", "second"].map(|out| sandbox.read(&format!("{out}/{file}")));
        assert!(first == second, "{file}");
    }
    let left: Vec<String> = std::fs::read_dir(sandbox.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("statistics"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "folders of statistics stay behind");
}

/// A gate needs no token that begins or ends a text: only scoring does.
#[test]
fn a_tokenizer_without_ends_is_enough_for_gates() {
    let sandbox = Sandbox::new();
    tiny(&sandbox, "base", "llama", |_| ());
    tuned(&sandbox, "one", "base", 1);
    tuned(&sandbox, "two", "base", 2);
    for model in ["base", "one", "two"] {
        let settings = r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#;
        sandbox.write(&format!("{model}/tokenizer_config.json"), settings);
    }
    let recipe = recipe("base_model: base\ngate_mode: hidden\n", &["one", "two"]);
    sandbox.merge(&recipe, "out", &[]);
    let routing = sandbox.read_json("out/lineage.json")["routing"].clone();
    assert_eq!(routing["sets"].as_array().unwrap().len(), 2, "{routing}");
    sandbox.write("texts.jsonl", "{\"text\": \"w1 w2 w3\"}\n");
    let task = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: texts.jsonl}}\n\
                test_split: test\noutput_type: loglikelihood_rolling\ndoc_to_target: text\n\
                metric_list: [{metric: token_perplexity}]\n";
    sandbox.write("mine.yml", task);
    let message = sandbox.fails(2, &["eval", "out", "--task", "mine.yml"]);
    assert!(message.contains("names no token that begins or ends a text"), "{message}");
}
