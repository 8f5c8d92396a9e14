//! The same recipe, inputs and seed give the same bytes: for every method of the table, at any
//! number of threads, on every instruction set this processor has, and however tensors are spread
//! over shards.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use safetensors::Dtype::{BF16, F16, F32};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use support::{
    INDEX, LINEAR, SINGLE, Sandbox, Tensor, config, files, finish, llama, sha256, shard,
};

/// Elements of the engine's chunk: the tensors here end on either side of its multiples.
const CHUNK: usize = 1 << 18;

/// Models of odd sizes, most of each one tensor whose chunks the threads share. Its bf16 values make
/// many task vectors' elements equal in magnitude, so that thresholds fall on ties.
fn models(sandbox: &Sandbox) {
    for (seed, model) in ["m0", "m1", "m2"].into_iter().enumerate() {
        let tensor = |name: &str, dtype, shape: &[usize]| {
            Tensor::random(name, dtype, shape, seed as u64 + 1)
        };
        let tensors = [
            tensor("model.embed_tokens.weight", BF16, &[4 * CHUNK + 4097]),
            tensor("model.layers.0.several.weight", F32, &[449, 601]),
            tensor("model.layers.0.a.weight", F32, &[1]),
            tensor("model.layers.0.b.weight", F16, &[63]),
            tensor("model.layers.1.a.weight", BF16, &[65]),
            tensor("model.layers.1.b.weight", F32, &[4095]),
            tensor("model.norm.weight", F16, &[4097]),
        ];
        sandbox.model(model, &config(2), &tensors);
        let gram = gram("model.layers.0.several.weight", 601, seed as u64);
        sandbox.write(&format!("gram/{model}/{SINGLE}"), shard(&[gram]));
    }
}

/// The Gram matrix of a few rows of inputs of a weight.
fn gram(name: &str, inputs: usize, seed: u64) -> Tensor {
    let rows = Tensor::random("rows", F32, &[9, inputs], seed).values();
    let element = |i: usize| -> f32 {
        rows.chunks(inputs).map(|row| row[i / inputs] * row[i % inputs]).sum()
    };
    let values: Vec<f32> = (0..inputs * inputs).map(element).collect();
    Tensor::of(name, F32, &[inputs, inputs], &values)
}

/// A recipe with a post-step, likewise.
fn post(name: &str, row: &Value) -> String {
    let parameters = row["parameters"].as_array().unwrap().iter();
    let parameters = parameters.map(|p| format!("{}: {}", p["name"].as_str().unwrap(), 0.4));
    let parameters = parameters.collect::<Vec<_>>().join(", ");
    format!(
        "merge_method: task_arithmetic\nbase_model: m0\nmodels: [{{model: m1}}, {{model: m2}}]\nparameters: {{weight: 0.5}}\n{name}: {{{parameters}}}\n"
    )
}

/// A recipe for a row of `cognate methods --json`, by what the row says of itself.
fn recipe(method: &Value) -> String {
    let name = method["name"].as_str().unwrap();
    if method["post_step"] == true {
        return post(name, method);
    }
    let count = method["models"]["max"].as_u64().map_or(3, |most| most as usize);
    let based = method["base_required"].as_bool().unwrap();
    let mut text = format!("merge_method: {name}\nmodels:\n");
    for model in usize::from(based)..count {
        text += &format!("  - model: m{model}\n");
        match method["statistics"].as_str() {
            Some("gram") => text += &format!("    gram: gram/m{model}/{SINGLE}\n"),
            // Any tensors of the same names and shapes will do.
            Some(key) => text += &format!("    {key}: m{}/{SINGLE}\n", (model + 1) % 3),
            None => {}
        }
    }
    if based {
        text += "base_model: m0\n";
    }
    let mut parameters = Vec::new();
    for parameter in method["parameters"].as_array().unwrap() {
        let name = parameter["name"].as_str().unwrap();
        match (name, &parameter["default"]) {
            ("density", _) => parameters.push("density: 0.3".to_string()),
            (_, Value::Null) => parameters.push(format!("{name}: 0.4")),
            _ => {}
        }
    }
    text + &format!("parameters: {{{}}}\n", parameters.join(", "))
}

/// The digests of every file of an output.
fn output(sandbox: &Sandbox, out: &str) -> BTreeMap<String, String> {
    files(&sandbox.path(out)).into_iter().map(|(name, bytes)| (name, sha256(&bytes))).collect()
}

/// Merges `recipe.yml` into a fresh folder with an empty digest cache.
fn merge(sandbox: &Sandbox, isa: Option<&str>, threads: &str) -> BTreeMap<String, String> {
    let args = ["merge", "recipe.yml", "-o", "out", "--memory", "1GiB", "--shard-size", "1MB"];
    let mut command =
        sandbox.command(&[&args[..], &["--threads", threads, "--overwrite"]].concat());
    command.env("COGNATE_CACHE", "");
    if let Some(isa) = isa {
        command.env("COGNATE_ISA", isa);
    }
    let run = finish(&mut command);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    output(sandbox, "out")
}

/// The instruction sets of this processor; without a name, a run takes the last of them.
fn instruction_sets() -> Vec<&'static str> {
    cognate::kernels::Kernels::all().map(|kernels| kernels.isa().name()).collect()
}

#[test]
fn threads_and_instruction_sets_do_not_matter() {
    let sandbox = Sandbox::new();
    models(&sandbox);
    let methods = sandbox.ok(&["methods", "--json"]).json();
    let methods = methods.as_array().unwrap();
    assert!(methods.len() >= 8);
    for method in methods {
        let text = recipe(method);
        sandbox.write("recipe.yml", &text);
        let plan = ["plan", "recipe.yml", "--threads", "8", "--memory", "1GiB", "--json"];
        assert_eq!(sandbox.ok(&plan).json()["threads"], 8, "the budget holds threads back");
        let expected = merge(&sandbox, None, "1");
        assert!(expected.len() > 4, "{text}: {expected:?}");
        for threads in ["2", "3", "8"] {
            assert_eq!(merge(&sandbox, None, threads), expected, "{threads} threads\n{text}");
        }
        for isa in instruction_sets() {
            assert_eq!(merge(&sandbox, Some(isa), "2"), expected, "{isa}\n{text}");
        }
    }
}

#[test]
fn memory_and_the_digest_cache_do_not_matter() {
    let sandbox = Sandbox::new();
    models(&sandbox);
    let recipe = "merge_method: dare_ties\nbase_model: m0\nmodels: [{model: m1}, {model: m2}]\nparameters: {weight: 0.4, density: 0.3}\n";
    sandbox.merge(recipe, "plenty", &["--memory", "1GiB", "--threads", "8"]);
    // The second run takes the inputs' digests from the cache that the first has filled.
    assert!(sandbox.exists(".cache/digests"));
    sandbox.merge(recipe, "little", &["--memory", "55MB", "--threads", "8"]);
    let little = ["plan", "recipe.yml", "--memory", "55MB", "--threads", "8", "--json"];
    assert!(sandbox.ok(&little).json()["threads"].as_u64() < Some(8));
    assert_eq!(output(&sandbox, "plenty"), output(&sandbox, "little"));
}

#[test]
fn the_seed_decides_what_is_drawn() {
    let sandbox = Sandbox::new();
    let shape = [300, 7];
    for (seed, model) in ["m0", "m1"].into_iter().enumerate() {
        let tensor = |name: &str| Tensor::random(name, F32, &shape, seed as u64);
        sandbox.model(model, &config(0), &[tensor("x.weight"), tensor("y.weight")]);
    }
    let shards = |method: &str, seed: &str, line: &str| {
        let recipe = format!(
            "merge_method: {method}\nbase_model: m0\nmodels: [{{model: m1}}]\nparameters: {{weight: 1, density: 0.3}}\n{line}"
        );
        let seed = if seed.is_empty() { vec![] } else { vec!["--seed", seed] };
        sandbox.merge(&recipe, "out", &[&["--overwrite"], &seed[..]].concat());
        sandbox.tensors("out")
    };
    for (method, drawn) in [("dare_linear", true), ("dare_ties", true), ("ties", false)] {
        let first = shards(method, "1", "");
        assert_eq!(first == shards(method, "2", ""), !drawn, "{method}");
        assert_eq!(first, shards(method, "1", "random_seed: 5\n"), "{method}: the option wins");
        assert_eq!(first, shards(method, "", "random_seed: 1\n"), "{method}: the recipe's seed");
        assert_eq!(shards(method, "", ""), shards(method, "0", ""), "{method}: the default");
    }
    // Two tensors of one shape draw differently, and so do two seeds in each of them.
    let (one, two) = (shards("dare_linear", "1", ""), shards("dare_linear", "2", ""));
    let kept = |tensor: &Tensor| -> Vec<bool> {
        let base = Tensor::random(&tensor.name, F32, &shape, 0).values();
        tensor.values().iter().zip(base).map(|(x, base)| *x != base).collect()
    };
    assert_ne!(kept(&one["x.weight"]), kept(&one["y.weight"]));
    assert_ne!(kept(&one["x.weight"]), kept(&two["x.weight"]));
}

#[test]
fn shards_of_inputs_and_outputs_do_not_matter() {
    let sandbox = Sandbox::new();
    sandbox.model("a", &config(2), &llama(2, 1));
    sandbox.model("b", &config(2), &llama(2, 2));
    let whole = sandbox.merge(LINEAR, "whole", &[]).json();
    let tensors = llama(2, 2);
    let (first, second) = tensors.split_at(3);
    let place = |file: &'static str| move |t: &Tensor| (t.name.clone(), json!(file));
    let map =
        first.iter().map(place("x.safetensors")).chain(second.iter().map(place("y.safetensors")));
    std::fs::remove_file(sandbox.path("b").join(SINGLE)).unwrap();
    sandbox.sharded("b", &[("x.safetensors", first), ("y.safetensors", second)], &map.collect());
    let split = sandbox.merge(LINEAR, "split", &["--shard-size", "600"]).json();

    assert_eq!(whole["parameters"], split["parameters"]);
    assert_eq!(sandbox.tensors("whole"), sandbox.tensors("split"));
    let lineage = |out: &str| sandbox.read_json(&format!("{out}/lineage.json"));
    assert!(lineage("whole")["output"]["digest"].is_string());
    assert_eq!(lineage("whole")["output"]["digest"], lineage("split")["output"]["digest"]);
    assert_eq!(lineage("whole")["inputs"][1]["digest"], lineage("split")["inputs"][1]["digest"]);

    // The index lists every tensor in the shard that holds it, and the shards keep to the size.
    assert!(
        !sandbox.exists(&format!("whole/{INDEX}")) && !sandbox.exists("split/model.safetensors")
    );
    let index = sandbox.read_json(&format!("split/{INDEX}"));
    let map = index["weight_map"].as_object().unwrap();
    let files: BTreeSet<&str> = map.values().map(|file| file.as_str().unwrap()).collect();
    assert!(files.len() > 2);
    let mut seen = 0;
    let mut total = 0;
    for (i, file) in files.iter().enumerate() {
        assert_eq!(*file, format!("model-{:05}-of-{:05}.safetensors", i + 1, files.len()));
        let bytes = sandbox.read(&format!("split/{file}"));
        let shard = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let sizes: Vec<usize> = shard.tensors().iter().map(|(_, view)| view.data().len()).collect();
        assert!(sizes.len() == 1 || sizes.iter().sum::<usize>() <= 600, "{file}: {sizes:?}");
        assert!(shard.names().iter().all(|name| map[*name] == **file));
        seen += sizes.len();
        total += sizes.iter().sum::<usize>();
    }
    assert_eq!((seen, index["metadata"]["total_size"].as_u64()), (map.len(), Some(total as u64)));
}
