//! An output is complete or it is not there: merges that are killed, resumed, or run out of space,
//! and targets that must not be touched.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use safetensors::Dtype::F32;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use support::{LINEAR, SINGLE, Sandbox, Tensor, config, files, finish, llama, one_screen};

const STAGING: &str = ".out.cognate-partial";
const TIES: &str = "\
merge_method: ties
base_model: a
models: [{model: b}]
parameters: {weight: 0.7, density: 0.4}
";

/// Two models of 40 MB in 640 tensors.
fn large() -> Sandbox {
    let sandbox = Sandbox::new();
    for (model, seed) in [("a", 1), ("b", 2)] {
        // One tensor's numbers serve for all: what is tested is which bytes end up where.
        let bytes = Tensor::random("x", F32, &[640 + 16_384], seed).bytes;
        let tensor = |i: usize| Tensor {
            name: format!("model.layers.{i}.weight"),
            dtype: F32,
            shape: vec![128, 128],
            bytes: bytes[4 * i..4 * (i + 16_384)].to_vec(),
        };
        sandbox.model(model, &config(640), &(0..640).map(tensor).collect::<Vec<_>>());
    }
    sandbox
}

/// Three whole Llamas of 60 layers, and the recipe of a mixture of them: copies, noise and routers.
fn mixture() -> (Sandbox, &'static str) {
    let sandbox = Sandbox::new();
    let mut config = config(60);
    for (key, value) in [
        ("hidden_size", 64),
        ("intermediate_size", 128),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 4),
        ("vocab_size", 32),
        ("max_position_embeddings", 64),
    ] {
        config[key] = value.into();
    }
    config["rms_norm_eps"] = 1e-6.into();
    config["tie_word_embeddings"] = false.into();
    for (model, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        let mut shapes = vec![
            ("lm_head.weight".to_string(), vec![32, 64]),
            ("model.embed_tokens.weight".to_string(), vec![32, 64]),
            ("model.norm.weight".to_string(), vec![64]),
        ];
        for layer in 0..60 {
            let mut add = |part: &str, shape: &[usize]| {
                shapes.push((format!("model.layers.{layer}.{part}.weight"), shape.to_vec()));
            };
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                add(norm, &[64]);
            }
            for map in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                add(&format!("self_attn.{map}"), &[64, 64]);
            }
            add("mlp.gate_proj", &[128, 64]);
            add("mlp.up_proj", &[128, 64]);
            add("mlp.down_proj", &[64, 128]);
        }
        let tensors = shapes.iter().map(|(name, shape)| Tensor::random(name, F32, shape, seed));
        sandbox.model(model, &config, &tensors.collect::<Vec<_>>());
    }
    let recipe = "\
base_model: a
gate_mode: random
random_seed: 3
experts:
  - {source_model: a}
  - {source_model: b, noise_scale: 0.01}
  - {source_model: c}
";
    (sandbox, recipe)
}

/// The tensors that the journal calls written; its first line is the fingerprint.
fn journal(sandbox: &Sandbox) -> Vec<String> {
    let text = std::fs::read_to_string(sandbox.path(STAGING).join(".journal")).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let names = lines.skip(1).map(|line| line.split_once(' ').unwrap().1);
    names.map(|name| serde_json::from_str(name).unwrap()).collect()
}

/// Starts a merge of `recipe.yml` and kills it once some tensors are written; returns those.
fn kill_midway(sandbox: &Sandbox) -> Vec<String> {
    // A machine that stalls this process may let the merge finish first; then once more.
    for _ in 0..50 {
        let mut child = sandbox
            .command(&["merge", "recipe.yml", "-o", "out", "--threads", "2", "--quiet"])
            .spawn()
            .unwrap();
        while journal(sandbox).len() < 3 && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let done = journal(sandbox);
        if status.signal() == Some(9) && done.len() >= 3 {
            assert!(!sandbox.exists("out"), "an unfinished output is in place");
            return done;
        }
        assert!(status.success() || status.signal() == Some(9), "{status}");
        for folder in ["out", STAGING] {
            let _ = std::fs::remove_dir_all(sandbox.path(folder));
        }
    }
    panic!("the merge always finished before it could be killed");
}

fn resumed(sandbox: &Sandbox, recipe: &str) -> u64 {
    sandbox.merge(recipe, "out", &["--threads", "2"]).json()["resumed"].as_u64().unwrap()
}

fn contents(sandbox: &Sandbox, folder: &str) -> BTreeMap<String, Vec<u8>> {
    files(&sandbox.path(folder))
}

#[test]
fn a_killed_merge_goes_on_where_it_stopped() {
    let sandbox = large();
    let inputs = [contents(&sandbox, "a"), contents(&sandbox, "b")];
    for recipe in [TIES.to_string(), TIES.replace("ties", "dare_ties")] {
        sandbox.merge(&recipe, "whole", &["--threads", "2", "--overwrite"]);
        let done = kill_midway(&sandbox);
        assert!(done.len() >= 3);
        assert_eq!(resumed(&sandbox, &recipe), done.len() as u64);
        let same = contents(&sandbox, "out") == contents(&sandbox, "whole");
        assert!(same, "other bytes than without the kill\n{recipe}");
        assert!(!sandbox.exists(STAGING));
        std::fs::remove_dir_all(sandbox.path("out")).unwrap();
    }
    assert!(inputs == [contents(&sandbox, "a"), contents(&sandbox, "b")], "an input was written");
}

#[test]
fn a_killed_mixture_goes_on_where_it_stopped() {
    let (sandbox, recipe) = mixture();
    sandbox.merge(recipe, "whole", &["--threads", "2"]);
    let done = kill_midway(&sandbox);
    assert_eq!(resumed(&sandbox, recipe), done.len() as u64);
    let same = contents(&sandbox, "out") == contents(&sandbox, "whole");
    assert!(same, "other bytes than without the kill");
}

#[test]
fn a_staged_tensor_that_was_damaged_is_made_anew() {
    let sandbox = large();
    sandbox.merge(TIES, "whole", &["--threads", "2"]);
    let done = kill_midway(&sandbox);
    let plan = sandbox.ok(&["plan", "recipe.yml", "--json"]).json();
    let mut jobs = plan["jobs"].as_array().unwrap().iter();
    let job = jobs.find(|job| job["tensor"] == *done[1]).unwrap();
    let shard = format!("{STAGING}/{SINGLE}");
    let mut bytes = sandbox.read(&shard);
    bytes[job["offset"].as_u64().unwrap() as usize + 5] ^= 1;
    sandbox.write(&shard, bytes);
    assert_eq!(resumed(&sandbox, TIES), done.len() as u64 - 1);
    assert!(
        contents(&sandbox, "out") == contents(&sandbox, "whole"),
        "the damage is in the output"
    );
}

#[test]
fn another_merge_does_not_take_over_what_is_staged() {
    let sandbox = large();
    let other = TIES.replace("0.4", "0.6");
    sandbox.merge(&other, "whole", &["--threads", "2"]);
    sandbox.write("recipe.yml", TIES);
    kill_midway(&sandbox);
    assert_eq!(resumed(&sandbox, &other), 0);
    assert!(contents(&sandbox, "out") == contents(&sandbox, "whole"), "bytes of another recipe");

    // Nor does the same recipe once an input has changed.
    std::fs::remove_dir_all(sandbox.path("out")).unwrap();
    sandbox.write("recipe.yml", TIES);
    kill_midway(&sandbox);
    let mut changed = sandbox.read(&format!("b/{SINGLE}"));
    let last = changed.len() - 1;
    changed[last] ^= 1;
    sandbox.write(&format!("b/{SINGLE}"), changed);
    assert_eq!(resumed(&sandbox, TIES), 0);
}

/// Two small models that fit, and the recipe that averages them.
fn small() -> Sandbox {
    let sandbox = Sandbox::new();
    for (model, seed) in [("a", 1), ("b", 2)] {
        sandbox.model(model, &config(2), &llama(2, seed));
    }
    sandbox.write("recipe.yml", LINEAR);
    sandbox
}

/// Writes fail with EFBIG once a file grows past the limit: first the shard, then only a sidecar.
#[test]
fn a_failed_write_leaves_nothing_behind() {
    for (name, limit, sidecar) in [("shard", "2", 10), ("sidecar", "40", 100_000)] {
        let sandbox = small();
        sandbox.write("a/tokenizer.json", vec![b' '; sidecar]);
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$@\"");
        let binary = env!("CARGO_BIN_EXE_cognate");
        let merge = ["-c", &script, "sh", binary, "merge", "recipe.yml", "-o", "out", "--quiet"];
        let run = finish(&mut sandbox.command_of(Path::new("/bin/sh"), &merge));
        let message = one_screen(run, 1);
        assert!(message.contains(STAGING) && message.contains("reason"), "{name}: {message}");
        assert!(!sandbox.exists("out") && !sandbox.exists(STAGING), "{name}");
        sandbox.ok(&["merge", "recipe.yml", "-o", "out"]);
    }
}

#[test]
fn an_output_is_replaced_only_on_request_and_only_if_it_is_one() {
    let sandbox = small();
    let merge = ["merge", "recipe.yml", "-o", "out", "--quiet"];
    let overwrite = [&merge[..], &["--overwrite"]].concat();
    sandbox.ok(&merge);
    sandbox.write("out/notes.txt", "of the user");
    let before = contents(&sandbox, "out");
    let message = sandbox.fails(2, &merge);
    assert!(message.contains("--overwrite"), "{message}");
    assert!(contents(&sandbox, "out") == before);

    sandbox.write("recipe.yml", LINEAR.replace("0.5", "0.25"));
    sandbox.write("a/config.json", config(2).to_string().replace("llama", "mistral"));
    sandbox.ok(&overwrite);
    let after = contents(&sandbox, "out");
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        ["README.md", "config.json", "lineage.json", SINGLE]
    );
    assert_ne!(after["config.json"], before["config.json"]);

    // Without lineage it is somebody else's, whatever is asked.
    std::fs::remove_file(sandbox.path("out/lineage.json")).unwrap();
    let message = sandbox.fails(2, &overwrite);
    assert!(message.contains("lineage.json"), "{message}");
    assert_eq!(contents(&sandbox, "out").len(), 3);

    // A failed merge leaves the old output in place.
    sandbox.ok(&["merge", "recipe.yml", "-o", "kept"]);
    let before = contents(&sandbox, "kept");
    let mut tensors = llama(2, 2);
    tensors[2] = Tensor::of("model.norm.weight", F32, &[8], &[f32::NAN; 8]);
    sandbox.model("b", &config(2), &tensors);
    sandbox.fails(2, &["merge", "recipe.yml", "-o", "kept", "--overwrite", "--quiet"]);
    assert!(contents(&sandbox, "kept") == before);

    // An empty folder is as good as none; a file is not a folder.
    sandbox.model("b", &config(2), &llama(2, 2));
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.ok(&["merge", "recipe.yml", "-o", "empty"]);
    sandbox.write("file", "text");
    sandbox.run(&["merge", "recipe.yml", "-o", "file", "--overwrite"]);
    assert_eq!(sandbox.read("file"), b"text");
}

#[test]
fn an_input_is_never_the_output() {
    let sandbox = small();
    sandbox.ok(&["merge", "recipe.yml", "-o", "out"]);
    std::os::unix::fs::symlink(sandbox.path("a"), sandbox.path("link")).unwrap();
    // A folder with lineage would be replaced with --overwrite, were it no input.
    sandbox.write("a/lineage.json", "{}");
    let before = [contents(&sandbox, "a"), contents(&sandbox, "b")];
    for out in ["a", "b", "a/out", "./b/../a", "link", "link/out", ".", "a/deep/er"] {
        let run = sandbox.run(&["merge", "recipe.yml", "-o", out, "--overwrite", "--quiet"]);
        assert_eq!(run.code, Some(2), "{out}: {}", run.stderr);
        assert!(before == [contents(&sandbox, "a"), contents(&sandbox, "b")], "{out} is changed");
    }
    let left: Vec<_> = std::fs::read_dir(sandbox.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("cognate-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
