//! Mixtures that cannot be, by what their models are: exit 2, and a message that says what differs. What a
//! recipe alone gets wrong stands in `tests/data/recipes/mixtures.txt`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mixtures.rs"]
mod mixtures;
mod support;

use mixtures::{changed, edit, recipe, tiny, tuned};
use serde_json::{Value, json};
use std::fmt::Write;
use support::{SINGLE, Sandbox, Tensor, shard};

/// Collects messages under titles.
#[derive(Default)]
struct Messages(String);

impl Messages {
    fn add(&mut self, sandbox: &Sandbox, title: &str, recipe: &str, says: &[&str]) {
        sandbox.write("recipe.yml", recipe);
        let message = sandbox.fails(2, &["plan", "recipe.yml"]);
        for text in says {
            assert!(message.contains(text), "{title}: no {text:?}\n{message}");
        }
        writeln!(self.0, "## {title}\n{message}").unwrap();
    }
}

/// A tiny model as `base`, and two like it.
fn models(variant: &str, change: impl FnOnce(&mut Value)) -> Sandbox {
    let sandbox = Sandbox::new();
    tiny(&sandbox, "base", variant, change);
    tuned(&sandbox, "one", "base", 1);
    tuned(&sandbox, "two", "base", 2);
    sandbox
}

fn of(architecture: &str, experts: &[&str]) -> String {
    let keys = format!("base_model: base\ngate_mode: random\narchitecture: {architecture}\n");
    recipe(&keys, experts)
}

/// Without these rows of every tensor that has as many.
fn cut(tensor: Tensor, from: usize, to: usize) -> Tensor {
    if tensor.shape[0] != from {
        return tensor;
    }
    let width: usize = tensor.shape[1..].iter().product();
    let values = &tensor.values()[..to * width];
    let shape = [&[to], &tensor.shape[1..]].concat();
    Tensor::of(&tensor.name, tensor.dtype, &shape, values)
}

#[test]
fn experts_are_models_of_one_shape() {
    let sandbox = models("llama", |_| ());
    let mut messages = Messages::default();
    let both = of("mixtral", &["one", "two"]);
    changed(&sandbox, "two", "one", |tensor| cut(tensor, 67, 60));
    edit(&sandbox, "two", |config| config["vocab_size"] = json!(60));
    messages.add(&sandbox, "another vocabulary", &both, &["60", "67"]);

    changed(&sandbox, "two", "one", |tensor| {
        let tensor = cut(tensor, 36, 30);
        if !tensor.name.contains("down_proj") {
            return tensor;
        }
        let values: Vec<f32> =
            tensor.values().chunks(36).flat_map(|row| row[..30].to_vec()).collect();
        Tensor::of(&tensor.name, tensor.dtype, &[24, 30], &values)
    });
    edit(&sandbox, "two", |config| config["intermediate_size"] = json!(30));
    messages.add(&sandbox, "another width", &both, &["intermediate_size", "30", "36"]);

    let layer = |name: &str| name.contains("layers.1.");
    let kept = sandbox.tensors("one").into_values().filter(|tensor| !layer(&tensor.name));
    changed(&sandbox, "two", "one", |tensor| tensor);
    sandbox.write(&format!("two/{SINGLE}"), shard(&kept.collect::<Vec<_>>()));
    edit(&sandbox, "two", |config| config["num_hidden_layers"] = json!(1));
    messages.add(&sandbox, "another depth", &both, &["two"]);

    tiny(&sandbox, "two", "qwen3", |_| ());
    messages.add(&sandbox, "another family", &both, &["two"]);

    tuned(&sandbox, "two", "base", 2);
    tiny(&sandbox, "base", "qwen2", |_| ());
    messages.add(&sandbox, "another family for a base", &of("qwen", &["one", "two"]), &["base"]);
    insta::assert_snapshot!("shapes", messages.0);
}

/// A mixture would not compute what its models do: the key that says so is named.
#[test]
fn what_a_family_cannot_express_is_refused_by_key() {
    let mut messages = Messages::default();
    let biased = |sandbox: &Sandbox, linear: &str| {
        for model in ["base", "one", "two"] {
            let mut tensors: Vec<Tensor> = sandbox.tensors(model).into_values().collect();
            let biases: Vec<Tensor> = tensors
                .iter()
                .filter(|tensor| tensor.name.contains(linear))
                .map(|tensor| {
                    let name = tensor.name.replace(".weight", ".bias");
                    Tensor::random(&name, tensor.dtype, &tensor.shape[..1], 5)
                })
                .collect();
            tensors.extend(biases);
            sandbox.write(&format!("{model}/{SINGLE}"), shard(&tensors));
        }
    };
    for (key, linear, architecture) in [
        ("attention_bias", "self_attn", "mixtral"),
        ("mlp_bias", "mlp", "mixtral"),
        ("mlp_bias", "mlp", "deepseek"),
    ] {
        let variant = if architecture == "deepseek" { "llama_linear" } else { "llama" };
        let sandbox = models(variant, |config| config[key] = json!(true));
        biased(&sandbox, linear);
        let title = format!("{key} in {architecture}");
        messages.add(&sandbox, &title, &of(architecture, &["one", "two"]), &[key]);
    }
    let yarn = json!({"rope_type": "yarn", "factor": 2.0});
    for (variant, key, value, says) in [
        ("llama", "head_dim", json!(10), "head_dim"),
        ("llama_linear", "rope_scaling", yarn, "rope_parameters"),
        ("llama_linear", "partial_rotary_factor", json!(1.0 / 3.0), "rope_parameters"),
    ] {
        let sandbox = models(variant, |config| config[key] = value);
        messages.add(
            &sandbox,
            &format!("{key} in deepseek"),
            &of("deepseek", &["one", "two"]),
            &[says],
        );
    }
    let sandbox = models("mistral", |_| ());
    messages.add(
        &sandbox,
        "windows in deepseek",
        &of("deepseek", &["one", "two"]),
        &["sliding_window"],
    );
    let windows = |config: &mut Value| {
        config["use_sliding_window"] = json!(true);
        config["sliding_window"] = json!(4);
        config["layer_types"] = json!(["full_attention", "sliding_attention"]);
    };
    let sandbox = models("qwen3", windows);
    let both = of("qwen", &["one", "two"]);
    messages.add(&sandbox, "windows of some layers in qwen3_moe", &both, &["sliding_window"]);
    let sandbox = models("llama", |config| config["attention_sinks"] = json!(4));
    let both = of("mixtral", &["one", "two"]);
    messages.add(&sandbox, "a key that is not known", &both, &["attention_sinks"]);
    let odd = json!({"rope_type": "proportional", "factor": 2.0});
    let sandbox = models("llama", |config| config["rope_scaling"] = odd);
    messages.add(&sandbox, "a rotary scaling that is not known", &both, &["proportional"]);
    insta::assert_snapshot!("families", messages.0);
}

#[test]
fn texts_are_told_apart_as_they_are_read() {
    let sandbox = models("llama", |_| ());
    sandbox.write("lines.txt", "w1 w2\n\nw3 w4\n");
    sandbox.write("objects.jsonl", "{\"text\": \"w3 w4\"}\n{\"text\": \"w1 w2\"}\n");
    sandbox.write("other.txt", "w5\n");
    let of = |first: &str, second: &str| {
        format!(
            "base_model: base\ngate_mode: hidden\nexperts:\n  - {{source_model: one, {first}}}\n  - {{source_model: two, {second}}}\n"
        )
    };
    let mut messages = Messages::default();
    for (title, first, second) in [
        ("two files", "data: lines.txt", "data: objects.jsonl"),
        ("a file and a list", "positive_prompts: [w3 w4, w1 w2]", "data: lines.txt"),
        (
            "positive and negative",
            "data: other.txt",
            "positive_prompts: lines.txt, negative_prompts: objects.jsonl",
        ),
    ] {
        messages.add(&sandbox, title, &of(first, second), &["identical"]);
    }
    insta::assert_snapshot!("texts", messages.0);
    sandbox.merge(&of("data: lines.txt", "data: other.txt"), "out", &["--no-eval"]);
}

#[test]
fn shared_experts_are_the_families_own_affair() {
    let mut messages = Messages::default();
    let sandbox = models("qwen2", |_| ());
    let both = of("qwen", &["one", "two"]);
    messages.add(&sandbox, "none in qwen2_moe", &both, &["shared_experts"]);
    let sandbox = models("qwen3", |_| ());
    let shared = format!("{both}shared_experts: [{{source_model: base}}]\n");
    messages.add(&sandbox, "one in qwen3_moe", &shared, &["shared_experts"]);
    let sandbox = models("starcoder2", |_| ());
    let any = recipe("base_model: base\ngate_mode: random\n", &["one", "two"]);
    messages.add(&sandbox, "a family of no mixture", &any, &["starcoder2"]);
    insta::assert_snapshot!("shared", messages.0);
}

#[test]
fn surgery_that_cannot_be() {
    let sandbox = models("mistral", |_| ());
    let keys = "base_model: base\ngate_mode: random\n";
    sandbox.merge(&recipe(keys, &["one", "two", "base"]), "mixture", &["--no-eval"]);
    sandbox.merge(&recipe(keys, &["one", "two"]), "smaller", &["--no-eval"]);
    sandbox.write("texts.txt", "w1 w2 w3\n");
    let args = ["route", "smaller", "--data", "some=texts.txt", "--json"];
    sandbox.write("two.json", sandbox.ok(&args).stdout);
    sandbox.write("other.json", "{\"experts\": 3}");
    let args = ["route", "mixture", "--data", "some=texts.txt", "--json"];
    let mut damaged = sandbox.ok(&args).json();
    damaged["sets"][0]["layers"][0]["received"].as_array_mut().unwrap().pop();
    sandbox.write("damaged.json", damaged.to_string());
    tiny(&sandbox, "qwen", "qwen2", |_| ());
    let mut messages = Messages::default();
    for (title, keys, says) in [
        ("an expert that is not there", "extract: 3\n", &["a number below 3", "3"][..]),
        ("one of several that is not there", "extract: [0, 7]\n", &["a number below 3", "7"]),
        ("no shared expert", "extract: shared\n", &["no shared expert"]),
        ("leaving out what is not there", "drop: [1, 3]\n", &["a number below 3"]),
        ("leaving out all", "drop: [0, 1, 2]\n", &["no expert is left"]),
        (
            "leaving out all by routing",
            "drop: {least_routed: 3, routing: two.json}\n",
            &["experts"],
        ),
        ("more a token than are left", "drop: [1]\nexperts_per_token: 3\n", &["at most 2"]),
        (
            "no record of routing",
            "drop: {least_routed: 1}\n",
            &["no record of the mixture's routing"],
        ),
        (
            "a record that is nowhere",
            "drop: {least_routed: 1, routing: nowhere.json}\n",
            &["nowhere.json"],
        ),
        (
            "a record of something else",
            "drop: {least_routed: 1, routing: other.json}\n",
            &["other.json"],
        ),
        (
            "a record with too few numbers",
            "drop: {least_routed: 1, routing: damaged.json}\n",
            &["damaged", "damaged.json", "3 numbers"],
        ),
        (
            "a record of another mixture",
            "drop: {least_routed: 1, routing: two.json}\n",
            &["another mixture", "two.json"],
        ),
        (
            "more a token than there are",
            "gate_mode: random\nexperts_per_token: 5\nexperts: [{source_model: one}]\n",
            &["at most 4"],
        ),
        (
            "an expert of another family",
            "gate_mode: random\nexperts: [{source_model: qwen}]\n",
            &["attention_bias"],
        ),
    ] {
        messages.add(&sandbox, title, &format!("mixture: mixture\n{keys}"), says);
    }
    for (title, models) in [
        ("mixtures of different sizes in line", ["mixture", "smaller"]),
        ("a dense model in line", ["mixture", "base"]),
        ("dense models in line", ["base", "one"]),
    ] {
        let [a, b] = models;
        let linear = "merge_method: linear\nalign_experts: true\nparameters: {weight: 1}\n";
        let text = format!("{linear}models: [{{model: {a}}}, {{model: {b}}}]\n");
        messages.add(&sandbox, title, &text, &[]);
    }
    let stage =
        "name: first\nmixture: mixture\ndrop: [0]\n---\nmixture: first\ndrop: {least_routed: 1}\n";
    messages.add(&sandbox, "no record of a stage's routing", stage, &["a stage has no record"]);
    let extracted = "mixture: base\nextract: 0\n";
    messages.add(&sandbox, "a dense model", extracted, &["not a mixture of a known family"]);
    insta::assert_snapshot!("surgery", messages.0);
}

/// Errors that show only once gates are computed.
#[test]
fn gates_that_cannot_be_computed() {
    let sandbox = models("llama", |_| ());
    let mut all = String::new();
    let mut add = |title: &str, recipe: &str, more: &[&str], says: &[&str]| {
        sandbox.write("recipe.yml", recipe);
        let args = [&["merge", "recipe.yml", "-o", "out", "--quiet"], more].concat();
        let message = sandbox.fails(2, &args);
        for text in says {
            assert!(message.contains(text), "{title}: no {text:?}\n{message}");
        }
        assert!(!sandbox.exists("out"), "{title}");
        writeln!(all, "## {title}\n{message}").unwrap();
    };
    let experts = |texts: &str| {
        format!(
            "base_model: base\ngate_mode: hidden\nexperts:\n  - {{source_model: one, positive_prompts: {texts}}}\n  - {{source_model: two, positive_prompts: [w1 w2]}}\n"
        )
    };
    add("a text without tokens", &experts("[\" \"]"), &[], &["no tokens"]);
    sandbox.write("empty.txt", "\n\n");
    add("a file without texts", &experts("empty.txt"), &[], &["empty.txt"]);
    sandbox.write("broken.jsonl", "{\"text\": \"w1\"}\n{\"texts\": \"w2\"}\n");
    add("an object without text", &experts("broken.jsonl"), &[], &["broken.jsonl", "text"]);
    let little = ["--memory", "1MiB"];
    add("too little memory", &experts("[w3 w4]"), &little, &["memory"]);
    let long = vec!["w5"; 60].join(" ");
    let little = ["--memory", "53MiB", "--threads", "1"];
    add("too little for the gates", &experts(&format!("[{long}]")), &little, &["routers"]);
    insta::assert_snapshot!("gates", all);
}

/// A plan reads configs and headers alone, whatever the weights are.
#[test]
fn a_plan_reads_no_weights() {
    let sandbox = models("mistral", |_| ());
    let keys = "base_model: base\ngate_mode: hidden\n";
    sandbox.merge(&recipe(keys, &["one", "two"]), "mixture", &[]);
    sandbox.write("routing.json", sandbox.read_json("mixture/lineage.json")["routing"].to_string());
    for model in ["base", "one", "two", "mixture"] {
        changed(&sandbox, model, model, |tensor| {
            let values = vec![f32::NAN; tensor.values().len()];
            Tensor::of(&tensor.name, tensor.dtype, &tensor.shape, &values)
        });
    }
    let surgery = |keys: &str| format!("mixture: mixture\n{keys}");
    for text in [
        recipe(keys, &["one", "two"]),
        recipe("base_model: base\ngate_mode: ridge\nattention: merge\n", &["one", "two", "base"]),
        surgery("extract: all\n"),
        surgery("drop: [0]\n"),
        surgery("drop: {least_routed: 1, routing: routing.json}\n"),
        surgery("gate_mode: ridge\nexperts: [{source_model: one, positive_prompts: [w1]}]\n"),
    ] {
        sandbox.write("recipe.yml", &text);
        let plan = sandbox.ok(&["plan", "recipe.yml", "--json"]).json();
        assert!(plan.to_string().contains("model.layers.1"), "{text}");
        sandbox.ok(&["plan", "recipe.yml"]);
        sandbox.ok(&["check", "recipe.yml"]);
    }
}
