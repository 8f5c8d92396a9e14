//! `cognate verify`: any one bit of an output that is changed is found and named; tensors computed again
//! from the record are the same bytes, and what stands in the way of that is said.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use insta::assert_snapshot;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use support::{INDEX, LINEAR, SINGLE, Sandbox, Tensor, config, llama, sha256, shard};

/// Two models with tokenizers and other files beside the weights.
fn models(sandbox: &Sandbox) {
    for (name, seed) in [("a", 1), ("b", 2)] {
        sandbox.model(name, &config(2), &llama(2, seed));
        sandbox.write(&format!("{name}/tokenizer_config.json"), "{\"model_max_length\": 64}\n");
        sandbox.write(&format!("{name}/generation_config.json"), "{}");
        sandbox.write(&format!("{name}/1_Pooling/config.json"), "{\"pooling\": \"mean\"}");
    }
}

/// A merge of them in several shards.
fn merged() -> Sandbox {
    let sandbox = Sandbox::new();
    models(&sandbox);
    sandbox.merge(LINEAR, "out", &["--shard-size", "1kB"]);
    sandbox
}

/// A failed verification: its message, and its report.
fn fails(sandbox: &Sandbox, code: i32, args: &[&str]) -> (String, Value) {
    let run = sandbox.run(&[&["verify"], args, &["--json", "--quiet"]].concat());
    assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    let report = if run.stdout.is_empty() { Value::Null } else { run.json() };
    assert_ne!(report["ok"], true);
    (run.stderr, report)
}

/// The manifest changed, with the digest in its last line as docs/lineage.md says.
fn rewrite(sandbox: &Sandbox, path: &str, change: impl FnOnce(&mut Value)) {
    let mut manifest = sandbox.read_json(path);
    manifest.as_object_mut().unwrap().shift_remove("digest");
    change(&mut manifest);
    let body = format!("{manifest:#}\n");
    let digest = sha256(body.as_bytes());
    let open = body.strip_suffix("\n}\n").unwrap();
    sandbox.write(path, format!("{open},\n  \"digest\": \"{digest}\"\n}}\n"));
}

#[test]
fn what_was_written_is_verified() {
    let sandbox = merged();
    let report = sandbox.ok(&["verify", "out", "--json"]).json();
    let lineage = sandbox.read_json("out/lineage.json");
    assert_eq!(report["ok"], true);
    assert_eq!(report["digest"], lineage["output"]["digest"]);
    assert_eq!(report["tensors"], lineage["output"]["tensors"].as_array().unwrap().len());
    let listed = lineage["output"]["files"].as_array().unwrap();
    assert_eq!(report["files"], listed.len());
    let names: BTreeSet<String> =
        listed.iter().map(|file| file["path"].as_str().unwrap().to_string()).collect();
    let mut there: BTreeSet<String> = support::files(&sandbox.path("out")).into_keys().collect();
    assert!(there.remove("lineage.json") && there.contains("1_Pooling/config.json"));
    assert_eq!(names, there, "every file is recorded");
    for file in listed {
        let bytes = sandbox.read(&format!("out/{}", file["path"].as_str().unwrap()));
        assert_eq!(file["size"], bytes.len());
        match file["header_sha256"].as_str() {
            None => assert_eq!(file["sha256"], sha256(&bytes)),
            Some(digest) => {
                let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                assert_eq!(digest, sha256(&bytes[..end]));
            }
        }
    }
    assert_snapshot!(sandbox.ok(&["verify", "out"]).stdout);
    // Other threads find the same.
    let one = sandbox.ok(&["verify", "out", "--json", "--threads", "1"]).json();
    assert_eq!(one, report);
}

/// Every byte of small files, and of shards every byte of the lengths and names in the header, some of its
/// padding, and the ends of every tensor.
#[test]
fn one_bit_anywhere_is_found() {
    let sandbox = merged();
    let files = support::files(&sandbox.path("out"));
    let mut flips = 0;
    for (path, bytes) in &files {
        let is_shard = path.ends_with(".safetensors");
        let places: Vec<usize> = if is_shard {
            let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let text = bytes[..end].iter().rposition(|byte| *byte != b' ').unwrap();
            let header = (0..8).chain((8..=text).step_by(5)).chain([text + 1, end - 1]);
            let data = (end..bytes.len()).step_by(97).chain([bytes.len() - 1]);
            header.chain(data).collect()
        } else {
            let step = (bytes.len() / 40).max(1);
            (0..bytes.len()).step_by(step).chain([bytes.len() - 1]).collect()
        };
        for (i, at) in places.into_iter().enumerate() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << ((i * 5 + at) % 8);
            std::fs::write(sandbox.path("out").join(path), &changed).unwrap();
            let found = verify(&sandbox.path("out"));
            assert!(!found.is_empty(), "{path}, byte {at}: not found");
            let named = found.iter().any(|difference| difference.starts_with(path));
            assert!(named || path == "lineage.json", "{path}, byte {at}: {found:?}");
            flips += 1;
        }
        std::fs::write(sandbox.path("out").join(path), bytes).unwrap();
        assert_eq!(verify(&sandbox.path("out")), Vec::<String>::new(), "{path} is back");
    }
    assert!(flips > 500, "{flips}");
}

#[test]
fn the_command_says_which_file_a_bit_is_in() {
    let sandbox = merged();
    for (path, bytes) in support::files(&sandbox.path("out")) {
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 4;
        sandbox.write(&format!("out/{path}"), changed);
        let run = sandbox.run(&["verify", "out"]);
        assert_eq!(run.code, Some(3), "{path}: {}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(&path) || run.stderr.contains(&path), "{path}: {}", run.stdout);
        sandbox.write(&format!("out/{path}"), bytes);
    }
    sandbox.ok(&["verify", "out"]);
}

/// The differences that the library finds, in words; an error counts as one.
fn verify(folder: &Path) -> Vec<String> {
    let progress = cognate::engine::Progress::silent();
    let options = cognate::lineage::verify::Options { threads: 1, progress: &progress };
    match cognate::lineage::verify::verify(folder, &options) {
        Ok(found) => found.differences.iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("lineage.json: {error}")],
    }
}

/// A shard of a merge written again with its tensors changed.
fn reshape(sandbox: &Sandbox, file: &str, change: impl FnOnce(&mut Vec<Tensor>)) {
    let bytes = sandbox.read(file);
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Tensor> = stored
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            Tensor { name, dtype, shape, bytes: view.data().to_vec() }
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    change(&mut tensors);
    sandbox.write(file, shard(&tensors));
}

/// A way to damage a folder, and what it is called.
type Damage = (&'static str, fn(&Sandbox));

#[test]
fn the_tensor_and_the_file_are_named() {
    let cases: [Damage; 9] = [
        ("bytes", |sandbox| {
            let path = format!("out/{SINGLE}");
            let mut bytes = sandbox.read(&path);
            let last = bytes.len() - 3;
            bytes[last] ^= 16;
            sandbox.write(&path, bytes);
        }),
        ("dtype", |sandbox| {
            reshape(sandbox, &format!("out/{SINGLE}"), |tensors| tensors[0].dtype = Dtype::I32);
        }),
        ("shape", |sandbox| {
            reshape(sandbox, &format!("out/{SINGLE}"), |tensors| tensors[0].shape = vec![8, 16]);
        }),
        ("missing", |sandbox| {
            reshape(sandbox, &format!("out/{SINGLE}"), |tensors| drop(tensors.remove(0)));
        }),
        ("extra", |sandbox| {
            let more = Tensor::random("model.extra.weight", Dtype::F32, &[4], 3);
            reshape(sandbox, &format!("out/{SINGLE}"), |tensors| tensors.push(more));
        }),
        ("short", |sandbox| {
            let path = format!("out/{SINGLE}");
            let bytes = sandbox.read(&path);
            sandbox.write(&path, &bytes[..bytes.len() - 500]);
        }),
        ("shorter than its header", |sandbox| {
            let path = format!("out/{SINGLE}");
            let bytes = sandbox.read(&path);
            sandbox.write(&path, &bytes[..100]);
        }),
        ("gone", |sandbox| std::fs::remove_file(sandbox.path("out").join(SINGLE)).unwrap()),
        ("files", |sandbox| {
            sandbox.write("out/tokenizer_config.json", "{}");
            sandbox.write(
                "out/model-2.safetensors",
                shard(&[Tensor::random("x", Dtype::F32, &[2], 1)]),
            );
            sandbox.write("out/chat_template.jinja", "{{ messages }}");
            sandbox.write("out/notes.txt", "mine");
            std::fs::remove_file(sandbox.path("out/generation_config.json")).unwrap();
        }),
    ];
    let mut all = String::new();
    for (name, damage) in cases {
        let sandbox = Sandbox::new();
        models(&sandbox);
        sandbox.merge(LINEAR, "out", &[]);
        damage(&sandbox);
        let run = sandbox.run(&["verify", "out", "--quiet"]);
        assert_eq!(run.code, Some(3), "{name}: {}{}", run.stdout, run.stderr);
        all += &format!("=== {name}\n{}---\n{}", run.stdout, run.stderr);
    }
    assert_snapshot!(all);
}

#[test]
fn a_missing_shard_is_one_difference() {
    let sandbox = merged();
    let weight_map = sandbox.read_json(&format!("out/{INDEX}"));
    let shard = weight_map["weight_map"]["model.norm.weight"].as_str().unwrap();
    std::fs::remove_file(sandbox.path("out").join(shard)).unwrap();
    let (_, report) = fails(&sandbox, 3, &["out"]);
    let found = report["differences"].as_array().unwrap();
    let of_shard: Vec<&Value> = found.iter().filter(|found| found["file"] == shard).collect();
    assert_eq!(of_shard.len(), 1, "{found:?}");
    assert_eq!(of_shard[0]["what"], "missing");
    assert!(of_shard[0]["found"].as_str().unwrap().contains("model.norm.weight"), "{found:?}");
    assert_eq!(report["digest"], Value::Null, "a model without a shard has no digest");
}

#[test]
fn lineages_that_say_too_little_or_lie() {
    let sandbox = Sandbox::new();
    models(&sandbox);
    let mut all = String::new();
    let mut say = |name: &str, code: i32, sandbox: &Sandbox| {
        let run = sandbox.run(&["verify", "out", "--quiet"]);
        assert_eq!(run.code, Some(code), "{name}: {}{}", run.stdout, run.stderr);
        all += &format!("=== {name}\n{}---\n{}", run.stdout, run.stderr);
    };
    sandbox.merge(LINEAR, "out", &["--digests", "none"]);
    say("without digests", 2, &sandbox);
    sandbox.write("out/generation_config.json", "{ }");
    say("without digests, and a file differs", 3, &sandbox);
    sandbox.merge(LINEAR, "out", &["--overwrite"]);
    rewrite(&sandbox, "out/lineage.json", |manifest| {
        manifest["output"].as_object_mut().unwrap().shift_remove("files");
    });
    say("without files", 2, &sandbox);
    rewrite(&sandbox, "out/lineage.json", |manifest| {
        manifest["schema"] = "cognate/lineage/9".into();
    });
    say("another version", 2, &sandbox);
    rewrite(&sandbox, "out/lineage.json", |manifest| {
        manifest["schema"] = "cognate/lineage/1".into();
        manifest["output"]["files"] = json!([{"path": "../a/config.json", "sha256": "00"}]);
    });
    say("a file outside", 2, &sandbox);
    sandbox.merge(LINEAR, "out", &["--overwrite"]);
    let text = String::from_utf8(sandbox.read("out/lineage.json")).unwrap();
    sandbox.write("out/lineage.json", text.replace("\"seed\": 0", "\"seed\": 1"));
    let found = verify(&sandbox.path("out"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("lineage.json: changed since it was written"), "{found:?}");
    sandbox.write("out/lineage.json", "{\"schema\": ");
    say("half a lineage", 3, &sandbox);
    std::fs::remove_file(sandbox.path("out/lineage.json")).unwrap();
    say("no lineage", 2, &sandbox);
    assert_snapshot!(all);
}

#[test]
fn an_evaluation_that_is_recorded_is_verified() {
    let sandbox = Sandbox::with_trained_models();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("merge-configs/eval");
    for file in ["prose.yml", "prose.jsonl"] {
        sandbox.write(&format!("eval/{file}"), std::fs::read(data.join(file)).unwrap());
    }
    sandbox.ok(&["merge", "quickstart.yml", "-o", "out", "--no-eval"]);
    let eval = ["eval", "out", "--task", "eval/prose.yml", "--limit", "2"];
    let run = sandbox.ok(&eval);
    assert!(sandbox.exists("out/eval.json"), "{}{}", run.stdout, run.stderr);
    assert_eq!(verify(&sandbox.path("out")), Vec::<String>::new());
    let mut bytes = sandbox.read("out/eval.json");
    bytes[20] ^= 1;
    sandbox.write("out/eval.json", &bytes);
    let found = verify(&sandbox.path("out"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("eval.json: other bytes"), "{found:?}");
    // What was changed is not hidden by a new record.
    let text = String::from_utf8(sandbox.read("out/lineage.json")).unwrap();
    sandbox.write("out/lineage.json", text.replace("ties", "tiss"));
    let run = sandbox.run(&eval);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("was changed since it was written"), "{}", run.stderr);
}

/// Recipes whose outputs are computed again; each with the models that it needs beside `a` and `b`.
#[test]
fn tensors_are_computed_again() {
    let sandbox = Sandbox::with_trained_models();
    let models = "models: [{model: models/ft-code, parameters: {weight: 0.6, density: 0.5}}, {model: models/ft-math, parameters: {weight: 0.3, density: 0.7}}]\nbase_model: models/base\n";
    let linear = "models: [{model: models/ft-code, parameters: {weight: 0.6}}, {model: models/base, parameters: {weight: 0.4}}]\n";
    let last = "merge_method: slerp\nbase_model: models/ft-math\nmodels: [{model: first}]\nparameters: {t: 0.4}\n";
    let recipes = [
        ("plain", format!("merge_method: linear\n{linear}")),
        ("random", format!("merge_method: dare_ties\n{models}random_seed: 5\n")),
        ("surveyed", format!("merge_method: ties\n{models}parameters: {{variant: paper}}\n")),
        (
            "bfloat16",
            format!("merge_method: linear\n{linear}dtype: float32\nout_dtype: bfloat16\n"),
        ),
        (
            "streamed",
            format!(
                "name: first\nmerge_method: linear\n{linear}---\nmerge_method: linear\nmodels: [{{model: first, parameters: {{weight: 1}}}}, {{model: models/ft-math, parameters: {{weight: 1}}}}]\n"
            ),
        ),
        ("staged", format!("name: first\nmerge_method: ties\n{models}---\n{last}")),
        ("saved", format!("name: first\nsave: kept\nmerge_method: linear\n{linear}---\n{last}")),
    ];
    for (name, recipe) in &recipes {
        let more: &[&str] = if *name == "plain" { &["--seed", "9"] } else { &[] };
        sandbox.merge(recipe, name, more);
        let kept = support::files(&sandbox.path("."));
        let report = sandbox.ok(&["verify", name, "--rederive", "all", "--json"]).json();
        let tensors = sandbox.read_json(&format!("{name}/lineage.json"));
        let tensors = tensors["output"]["tensors"].as_array().unwrap();
        assert_eq!(report["rederived"].as_array().unwrap().len(), tensors.len(), "{name}");
        let report = sandbox.ok(&["verify", name, "--rederive", "3", "--json"]).json();
        let three = report["rederived"].as_array().unwrap();
        assert_eq!(three.len(), 3, "{name}");
        let again = sandbox.ok(&["verify", name, "--rederive", "3", "--json"]).json();
        assert_eq!(again["rederived"], report["rederived"], "the choice follows from the seed");
        let other = ["verify", name, "--rederive", "3", "--sample-seed", "1", "--json"];
        assert_ne!(sandbox.ok(&other).json()["rederived"], report["rederived"]);
        let now: Vec<String> = support::files(&sandbox.path(".")).into_keys().collect();
        assert!(
            kept.into_keys()
                .filter(|file| !file.starts_with(".cache"))
                .all(|file| now.contains(&file))
        );
        assert!(
            !now.iter().any(|file| file.contains("cognate-")),
            "folders of stages stay: {now:?}"
        );
    }
}

#[test]
fn a_tensor_whose_record_was_made_to_fit_is_found_by_computing_it_again() {
    let sandbox = Sandbox::new();
    models(&sandbox);
    sandbox.merge(LINEAR, "out", &[]);
    // One element of a tensor changed, and all digests written anew.
    let file = format!("out/{SINGLE}");
    let mut bytes = sandbox.read(&file);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    sandbox.write(&file, &bytes);
    let stored = sandbox.tensors("out");
    let digest = cognate::engine::model_digest;
    let specs: Vec<(cognate::model::TensorSpec, [u8; 32])> = stored
        .values()
        .map(|tensor| {
            let (name, dtype, shape) = (tensor.name.clone(), tensor.dtype, tensor.shape.clone());
            let hash = <sha2::Sha256 as sha2::Digest>::digest(&tensor.bytes).into();
            (cognate::model::TensorSpec { name, dtype, shape }, hash)
        })
        .collect();
    let model = digest(specs.iter().map(|(spec, digest)| (spec, digest)));
    rewrite(&sandbox, "out/lineage.json", |manifest| {
        manifest["output"]["digest"] = cognate::engine::hex(&model).into();
        for tensor in manifest["output"]["tensors"].as_array_mut().unwrap() {
            tensor["sha256"] = sha256(&stored[tensor["name"].as_str().unwrap()].bytes).into();
        }
    });
    assert_eq!(verify(&sandbox.path("out")), Vec::<String>::new());
    let (message, report) = fails(&sandbox, 3, &["out", "--rederive", "all"]);
    assert_eq!(report["differences"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["differences"][0]["what"], "rederived");
    assert_snapshot!(message);
}

#[test]
fn what_cannot_be_computed_again() {
    let mut all = String::new();
    let mut say = |name: &str, sandbox: &Sandbox| {
        let run = sandbox.run(&["verify", "out", "--rederive", "all", "--quiet"]);
        assert_eq!(run.code, Some(2), "{name}: {}{}", run.stdout, run.stderr);
        all += &format!("=== {name}\n{}", run.stderr);
    };
    let fresh = |sandbox: &Sandbox| {
        models(sandbox);
        sandbox.merge(LINEAR, "out", &["--overwrite"]);
    };
    let sandbox = Sandbox::new();
    fresh(&sandbox);
    let mut bytes = sandbox.read(&format!("b/{SINGLE}"));
    let last = bytes.len() - 1;
    bytes[last] ^= 64;
    sandbox.write(&format!("b/{SINGLE}"), bytes);
    say("a changed input", &sandbox);
    fresh(&sandbox);
    std::fs::rename(sandbox.path("b"), sandbox.path("c")).unwrap();
    say("a missing input", &sandbox);
    std::fs::create_dir(sandbox.path("elsewhere")).unwrap();
    for name in ["a", "c"] {
        let to = if name == "c" { "b" } else { name };
        std::fs::rename(sandbox.path(name), sandbox.path(&format!("elsewhere/{to}"))).unwrap();
    }
    sandbox.ok(&["verify", "out", "--rederive", "2", "--recipe-dir", "elsewhere"]);
    fresh(&sandbox);
    rewrite(&sandbox, "out/lineage.json", |manifest| manifest["numerics"] = 1.into());
    say("another numerics", &sandbox);
    fresh(&sandbox);
    sandbox.model("b", &config(2), &llama(2, 2)[1..]);
    sandbox.model("a", &config(2), &llama(2, 1)[1..]);
    say("inputs with fewer tensors", &sandbox);
    assert_snapshot!(all);
}

#[test]
fn included_files_are_not_needed_again() {
    let sandbox = Sandbox::new();
    models(&sandbox);
    sandbox.write("presets/mean.yml", "merge_method: linear\nparameters: {weight: 0.25}\n");
    let recipe = "include: presets/mean.yml\nmodels: [{model: a}, {model: b}]\n";
    sandbox.merge(recipe, "out", &["--set", "dtype=bfloat16"]);
    std::fs::remove_file(sandbox.path("presets/mean.yml")).unwrap();
    std::fs::remove_file(sandbox.path("recipe.yml")).unwrap();
    let report = sandbox.ok(&["verify", "out", "--rederive", "all", "--json"]).json();
    assert_eq!(report["ok"], true);
}

#[test]
fn saved_stages_are_not_written_again() {
    let sandbox = Sandbox::new();
    models(&sandbox);
    let recipe = format!(
        "name: first\nsave: kept\n{LINEAR}---\nmerge_method: linear\nmodels: [{{model: first, parameters: {{weight: 1}}}}, {{model: a, parameters: {{weight: 2}}}}]\n"
    );
    sandbox.merge(&recipe, "out", &[]);
    std::fs::remove_dir_all(sandbox.path("kept")).unwrap();
    sandbox.ok(&["verify", "out", "--rederive", "all"]);
    assert!(!sandbox.exists("kept"));
}

/// Files that nobody recorded and that other programs load: the model they make is another one.
#[test]
fn files_that_others_load_are_differences() {
    let sandbox = merged();
    sandbox.write("out/notes.txt", "mine");
    sandbox.ok(&["verify", "out"]);
    for file in
        ["adapter_config.json", "tiktoken.model", "code/modeling_x.py", "quantize_config.json"]
    {
        sandbox.write(&format!("out/{file}"), "{}");
        let (_, report) = fails(&sandbox, 3, &["out"]);
        let found = report["differences"].as_array().unwrap();
        assert_eq!(found.len(), 1, "{report:#}");
        assert_eq!((&found[0]["file"], &found[0]["what"]), (&json!(file), &json!("extra")));
        assert_eq!((&report["ok"], &found[0]["tensor"]), (&json!(false), &Value::Null));
        std::fs::remove_file(sandbox.path(&format!("out/{file}"))).unwrap();
    }
}

#[test]
fn the_folder_itself_is_a_name_too() {
    let sandbox = merged();
    let run = sandbox
        .command(&["verify", ".", "--rederive", "2", "--json"])
        .current_dir(sandbox.path("out"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
