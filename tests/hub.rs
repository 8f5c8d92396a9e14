//! Models of the Hub, end to end, against a Hub on 127.0.0.1.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/hub.rs"]
mod hub_server;
#[path = "support/mixtures.rs"]
mod mixtures;
mod support;

use cognate::model::hub::{Settings, Want};
use hub_server::{COMMIT, Hub, RECIPE, command, etag, fails, get, hub, run, settings, stable};
use safetensors::Dtype;
use serde_json::{Value, json};
use support::{SINGLE, Sandbox, Tensor, config, files, finish, llama, sha256, shard};

/// A model that lies in a folder, put on the Hub.
fn put(hub: &Hub, name: &str, folder: &std::path::Path) {
    files(folder).into_iter().for_each(|(path, bytes)| hub.put(name, &path, bytes));
}

#[test]
fn experts_are_fetched_and_assembled() {
    let (sandbox, hub) = (Sandbox::new(), Hub::start());
    let local = Sandbox::new();
    mixtures::tiny(&local, "base", "llama", |_| ());
    for (seed, name) in ["one", "two"].into_iter().enumerate() {
        mixtures::tuned(&local, name, "base", seed as u64);
    }
    for name in ["base", "one", "two"] {
        put(&hub, &format!("org/{name}"), &local.path(name));
    }
    let keys = "base_model: base\ngate_mode: random\n";
    let recipe = mixtures::recipe(keys, &["one", "two"]);
    local.merge(&recipe, "out", &["--no-eval"]);
    let on_hub = ["base", "one", "two"].iter().fold(recipe, |recipe, name| {
        recipe.replace(&format!(": {name}"), &format!(": org/{name}"))
    });
    sandbox.write("recipe.yml", on_hub);
    let run = run(&sandbox, &hub, &["merge", "recipe.yml", "-o", "out", "--no-eval"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(local.tensors("out"), sandbox.tensors("out"));
    assert_eq!(local.read("out/config.json"), sandbox.read("out/config.json"));
    assert_eq!(sandbox.read_json("out/lineage.json")["inputs"][1]["revision"], COMMIT);
}

#[test]
fn models_are_fetched_merged_and_found_offline() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    sandbox.write("recipe.yml", RECIPE);
    let run = run(&sandbox, &hub, &["merge", "recipe.yml", "-o", "out"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.starts_with("fetching org/a: 6 files, "), "{}", run.stderr);
    for request in hub.requests() {
        assert!(!request.contains("pytorch_model") && !request.contains("runs"), "{request}");
    }
    // The cache is laid out as every tool has it.
    let a = ".hf/hub/models--org--a";
    assert_eq!(sandbox.read(&format!("{a}/refs/main")), COMMIT.as_bytes());
    assert_eq!(sandbox.read(".hf/hub/models--org--b/refs/v1"), COMMIT.as_bytes());
    for (path, up) in [("m-1.safetensors", "../../"), ("1_Pooling/config.json", "../../../")] {
        let bytes = hub.with(|state| state.models["org/a"][path].clone());
        let link = sandbox.path(&format!("{a}/snapshots/{COMMIT}/{path}"));
        let target = std::fs::read_link(&link).unwrap();
        assert_eq!(target.to_str().unwrap(), format!("{up}blobs/{}", etag(path, &bytes)));
        assert_eq!(std::fs::read(&link).unwrap(), bytes);
    }
    // The lineage names the commit and what the Hub says of its files.
    let lineage = sandbox.read_json("out/lineage.json");
    let first = &lineage["inputs"][0];
    assert_eq!((&first["model"], &first["revision"]), (&json!("org/a"), &json!(COMMIT)));
    let shards = hub.with(|state| {
        let digest = |file: &str| Value::from(sha256(&state.models["org/a"][file]));
        json!({"m-1.safetensors": digest("m-1.safetensors"), "m-2.safetensors": digest("m-2.safetensors")})
    });
    assert_eq!(first["files"], shards);
    let card = String::from_utf8(sandbox.read("out/README.md")).unwrap();
    assert!(card.starts_with("---\nbase_model:\n- \"org/a\"\n- \"org/b\"\n"), "{card}");
    assert!(card.contains(&format!("commit `{COMMIT}`")), "{card}");

    // The same merge of folders gives the same bytes.
    let local = Sandbox::new();
    for (model, folder) in [("org/a", "a"), ("org/b", "b")] {
        for (path, bytes) in hub.with(|state| state.models[model].clone()) {
            local.write(&format!("{folder}/{path}"), bytes);
        }
    }
    local.merge(&RECIPE.replace("org/a", "a").replace("org/b@v1", "b"), "out", &[]);
    assert_eq!(local.tensors("out"), sandbox.tensors("out"));

    // Once cached, nothing is asked when offline, by a merge or by a plan.
    hub.requests();
    sandbox.ok(&["merge", "recipe.yml", "-o", "again"]);
    assert_eq!(files(&sandbox.path("out")), files(&sandbox.path("again")));
    let planned = sandbox.ok(&["plan", "recipe.yml"]);
    assert_eq!(planned.stderr, "");
    assert_eq!(hub.requests(), Vec::<String>::new());
    // Online, no file is fetched again.
    let again = command(&sandbox, &hub, &["plan", "recipe.yml"]).output().unwrap();
    assert!(again.status.success() && again.stderr.is_empty());
    assert!(hub.requests().iter().all(|request| request.starts_with("GET /api/models/")));
}

#[test]
fn a_plan_reads_headers_alone() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    sandbox.write("recipe.yml", RECIPE);
    std::fs::create_dir(sandbox.path("tmp")).unwrap();
    let total: usize = hub.with(|state| {
        let all = state.models.values().flat_map(|files| files.values());
        all.map(Vec::len).sum()
    });
    for args in [vec!["plan", "recipe.yml"], vec!["merge", "recipe.yml", "-o", "out", "--dry-run"]]
    {
        hub.with(|state| state.sent = 0);
        let run = finish(command(&sandbox, &hub, &args).env("TMPDIR", sandbox.path("tmp")));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let sent = hub.with(|state| state.sent);
        assert!(sent < total as u64 / 8, "{sent} of {total} bytes");
        assert_eq!(std::fs::read_dir(sandbox.path("tmp")).unwrap().count(), 0);
        assert!(!sandbox.exists("out"));
        for path in files(&sandbox.path(".hf")).keys() {
            assert!(!path.ends_with(".safetensors"), "{path}");
        }
        // The plan is that of the whole models.
        let whole = Sandbox::new();
        whole.write("recipe.yml", RECIPE);
        for model in ["org/a", "org/b@v1"] {
            let files = hub.with(|state| state.models[model.trim_end_matches("@v1")].clone());
            // What is left at the Hub is not there to be warned of.
            for (path, bytes) in files.into_iter().filter(|(path, _)| !path.starts_with("runs/")) {
                whole.write(&format!("{model}/{path}"), bytes);
            }
        }
        assert_eq!(run.stdout, whole.ok(&["plan", "recipe.yml"]).stdout);
    }
}

#[test]
fn a_header_longer_than_the_first_request_is_fetched_in_two() {
    let (sandbox, hub) = (Sandbox::new(), Hub::start());
    let name = |i: usize| format!("layer.{i}.{}", "x".repeat(200));
    let mut tensors: Vec<Tensor> =
        (0..500).map(|i| Tensor::random(&name(i), Dtype::F32, &[2], 0)).collect();
    tensors.push(Tensor::random("wide", Dtype::F32, &[100_000], 0));
    let bytes = shard(&tensors);
    hub.put("org/a", "config.json", "{}");
    hub.put("org/a", SINGLE, bytes.clone());
    let resolved = get("org/a", Want::Headers, &settings(&sandbox, &hub)).unwrap();
    assert!(!resolved.has_weights());
    let sparse = std::fs::read(resolved.folder.join(SINGLE)).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert!(end > 64 << 10);
    assert_eq!(sparse[..end], bytes[..end]);
    assert_eq!(sparse[end..], vec![0; bytes.len() - end]);
    let folder = resolved.folder.clone();
    drop(resolved);
    assert!(!folder.exists());
}

#[test]
fn a_dropped_connection_is_resumed() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    let settings = settings(&sandbox, &hub);
    hub.with(|state| state.drops = 2);
    let resolved = get("org/b", Want::Everything, &settings).unwrap();
    let bytes = hub.with(|state| state.models["org/b"][SINGLE].clone());
    assert_eq!(std::fs::read(resolved.folder.join(SINGLE)).unwrap(), bytes);
    let half = bytes.len() / 2;
    let stored: Vec<String> = hub
        .requests()
        .into_iter()
        .filter(|line| line.contains("/stored") && line.contains(SINGLE))
        .collect();
    let ranges: Vec<&str> = stored.iter().filter_map(|line| line.split(' ').nth(2)).collect();
    let quarter = half + (bytes.len() - half) / 2;
    assert_eq!(ranges, [format!("bytes={half}-"), format!("bytes={quarter}-")]);
    assert_eq!((resolved.commit.as_str(), resolved.files.len()), (COMMIT, 2));
    assert_eq!(resolved.files[1].sha256, Some(sha256(&bytes)));
}

#[test]
fn a_later_run_goes_on_where_one_stopped() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    let settings = settings(&sandbox, &hub);
    hub.with(|state| state.drops = usize::MAX);
    let error = fails("org/b", &settings);
    assert_eq!((error.exit_code(), error.get("attempts")), (1, Some("5")), "{error}");
    assert!(error.message().contains("broke off"), "{error}");
    assert!(error.hint_text().unwrap().contains("goes on"), "{error}");
    let bytes = hub.with(|state| {
        state.drops = 0;
        state.models["org/b"][SINGLE].clone()
    });
    let part =
        sandbox.path(&format!("cache/models--org--b/blobs/{}.incomplete", etag(SINGLE, &bytes)));
    let length = std::fs::metadata(&part).unwrap().len();
    assert!(length > bytes.len() as u64 / 2 && length < bytes.len() as u64);
    hub.requests();
    let resolved = get("org/b", Want::Everything, &settings).unwrap();
    assert_eq!(std::fs::read(resolved.folder.join(SINGLE)).unwrap(), bytes);
    assert!(hub.requests().iter().any(|line| line.ends_with(&format!(" bytes={length}-"))));
    assert!(!part.exists());
}

#[test]
fn a_server_without_ranges_sends_the_file_anew() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    let settings = settings(&sandbox, &hub);
    hub.with(|state| (state.drops, state.whole) = (2, true));
    let resolved = get("org/b", Want::Everything, &settings).unwrap();
    let bytes = hub.with(|state| state.models["org/b"][SINGLE].clone());
    assert_eq!(std::fs::read(resolved.folder.join(SINGLE)).unwrap(), bytes);
}

#[test]
fn a_wrong_hash_is_an_error_and_nothing_is_kept() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    hub.with(|state| state.damaged = true);
    let settings = settings(&sandbox, &hub);
    let error = fails("org/b", &settings);
    assert_eq!(error.exit_code(), 1);
    insta::assert_snapshot!(stable(&error.to_string(), &sandbox, &hub));
    let cached = files(&sandbox.path("cache"));
    assert!(cached.values().all(|bytes| bytes.len() < 1000), "{:?}", cached.keys());
    assert!(cached.keys().all(|path| !path.contains("incomplete") && !path.ends_with(SINGLE)));
    hub.with(|state| state.damaged = false);
    get("org/b", Want::Everything, &settings).unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    let mut all = String::new();
    let mut note = |title: &str, reference: &str, code: u8, settings: &Settings| {
        let error = fails(reference, settings);
        let text = stable(&error.to_string(), &sandbox, &hub);
        assert_eq!(error.exit_code(), code, "{text}");
        assert!(text.lines().count() <= 16 && !text.contains("hf_secret"), "{text}");
        all.push_str(&format!("## {title}\n{text}\n\n"));
    };
    let anonymous = settings(&sandbox, &hub);
    let known = Settings { token: Some("hf_secret".into()), ..anonymous.clone() };
    note("no such model", "org/none", 2, &anonymous);
    note("no such revision", "org/a@v2", 2, &anonymous);
    for (title, status, code, exit) in [
        ("401", 401, "", 1),
        ("401 of a model that is not there", 401, "RepoNotFound", 2),
        ("gated", 403, "GatedRepo", 1),
        ("403", 403, "", 1),
        ("too many requests", 429, "", 1),
        ("out of order", 500, "", 1),
        ("404 of something else", 404, "", 2),
        ("a teapot", 418, "", 1),
    ] {
        hub.with(|state| state.refuses = Some((status, code)));
        note(title, "org/a", exit, &anonymous);
        if matches!(status, 401 | 403) {
            note(&format!("{title}, with a token"), "org/a", exit, &known);
        }
    }
    hub.with(|state| state.refuses = None);
    hub.with(|state| state.models.get_mut("org/a").unwrap().remove("m-2.safetensors"));
    note("a shard is missing", "org/a", 2, &anonymous);
    hub.put("org/c", "config.json", "{}");
    hub.put("org/c", "model.gguf", "");
    note("no weights", "org/c", 2, &anonymous);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let nowhere = Settings { endpoint: format!("http://{closed}"), ..anonymous.clone() };
    let error = fails("org/a", &nowhere);
    assert_eq!((error.exit_code(), error.get("attempts")), (1, Some("5")), "{error}");
    assert!(error.message().contains("cannot be reached"), "{error}");
    let nonsense = Settings { endpoint: "no address".into(), ..anonymous };
    note("no address", "org/a", 2, &nonsense);
    insta::assert_snapshot!("refusals", all);
}

#[test]
fn a_busy_server_is_asked_again() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    hub.with(|state| state.fails = 3);
    get("org/b", Want::Everything, &settings(&sandbox, &hub)).unwrap();
}

#[test]
fn files_the_listing_does_not_describe_are_asked_for() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    hub.with(|state| state.terse = true);
    let resolved = get("org/a", Want::Everything, &settings(&sandbox, &hub)).unwrap();
    assert_eq!(resolved.files.len(), 7);
    let requests = hub.requests();
    assert!(requests.iter().any(|line| line.starts_with("HEAD /org/a/resolve")));
    assert!(requests.iter().any(|line| line.starts_with("HEAD /stored/org/a/resolve")));
    for file in &resolved.files {
        let bytes = hub.with(|state| state.models["org/a"][&file.path].clone());
        assert_eq!(std::fs::read(resolved.folder.join(&file.path)).unwrap(), bytes);
        assert_eq!(file.size, bytes.len() as u64);
        assert_eq!(file.sha256.is_some(), file.path.ends_with(".safetensors"));
    }
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    sandbox.write("recipe.yml", RECIPE);
    sandbox.write(".hf/token", "hf_of_the_file\n");
    let run = run(&sandbox, &hub, &["merge", "recipe.yml", "-o", "out", "--quiet"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    for line in hub.requests() {
        let elsewhere = line.contains("/stored") && line.contains(".safetensors ")
            || line.contains("/stored") && line.ends_with(".safetensors");
        assert_eq!(line.ends_with("Bearer hf_of_the_file"), !elsewhere, "{line}");
    }
}

#[test]
fn folders_and_paths_never_reach_the_hub() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    sandbox.model("org/a", &config(2), &llama(2, 1));
    sandbox.model("b", &config(2), &llama(2, 2));
    for (other, code) in [("b", 0), ("./org/b", 2), ("org/b/c", 2), ("~/b", 2), ("c", 2)] {
        sandbox.write("recipe.yml", RECIPE.replace("org/b@v1", other));
        let run = run(&sandbox, &hub, &["plan", "recipe.yml"]);
        assert_eq!(run.code, Some(code), "{other}: {}", run.stderr);
        if code == 2 {
            assert!(run.stderr.contains("a model folder does not exist"), "{}", run.stderr);
        }
    }
    assert_eq!(hub.requests(), Vec::<String>::new());
}

#[test]
fn a_model_is_inspected_by_its_headers() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    let inspected = run(&sandbox, &hub, &["inspect", "org/b@v1", "--json"]);
    assert_eq!(inspected.code, Some(0), "{}", inspected.stderr);
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(inspected["commit"], COMMIT);
    assert!(inspected["parameters"].as_u64().unwrap() > 0);
    assert!(inspected["digest"].is_null());
    // Digests need the weights.
    let whole = run(&sandbox, &hub, &["inspect", "org/b@v1", "--json", "--digests"]);
    let whole: Value = serde_json::from_str(&whole.stdout).unwrap();
    assert_eq!(whole["digest"].as_str().map(str::len), Some(64));
}

#[test]
fn offline_and_not_cached_is_said() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    sandbox.write("recipe.yml", RECIPE);
    let none = sandbox.fails(2, &["merge", "recipe.yml", "-o", "out"]);
    // A plan leaves everything but the weights in the cache.
    let planned = run(&sandbox, &hub, &["plan", "recipe.yml"]);
    assert_eq!(planned.code, Some(0), "{}", planned.stderr);
    let part = sandbox.fails(2, &["merge", "recipe.yml", "-o", "out"]);
    insta::assert_snapshot!("offline", format!("## nothing\n{none}\n## a part\n{part}"));
}

#[test]
fn one_model_under_two_names_is_refused() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    sandbox.write("recipe.yml", RECIPE.replace("org/b@v1", &format!("org/a@{COMMIT}")));
    let run = run(&sandbox, &hub, &["plan", "recipe.yml"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("two references name one model"), "{}", run.stderr);
}

#[test]
fn a_full_disk_is_said() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    let settings = settings(&sandbox, &hub);
    hub.with(|state| state.size = Some(1 << 60));
    let error = fails("org/b", &settings);
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("bytes free"), "{error}");
    assert!(error.hint_text().unwrap().contains("HF_HUB_CACHE"), "{error}");
    if !cfg!(target_os = "linux") {
        return;
    }
    // What is written to this device finds no room.
    let bytes = hub.with(|state| {
        state.size = None;
        state.models["org/b"][SINGLE].clone()
    });
    let part = format!("cache/models--org--b/blobs/{}.incomplete", etag(SINGLE, &bytes));
    sandbox.write("cache/models--org--b/blobs/x", "");
    std::os::unix::fs::symlink("/dev/full", sandbox.path(&part)).unwrap();
    let error = fails("org/b", &settings);
    assert_eq!(error.exit_code(), 1);
    assert!(error.hint_text().unwrap().contains("the disk is full"), "{error}");
}

#[test]
fn pickled_weights_are_fetched_but_not_planned() {
    let (sandbox, hub) = (Sandbox::new(), Hub::start());
    hub.put("org/old", "config.json", "{}");
    hub.put("org/old", "pytorch_model.bin", "PK");
    let settings = settings(&sandbox, &hub);
    let error = get("org/old", Want::Headers, &settings).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert_eq!(error.get("found"), Some("pytorch_model.bin"), "{error}");
    assert!(!hub.requests().iter().any(|request| request.contains(".bin")));
    let resolved = get("org/old", Want::Everything, &settings).unwrap();
    assert_eq!(std::fs::read(resolved.folder.join("pytorch_model.bin")).unwrap(), b"PK");
    assert!(get("org/old", Want::Headers, &settings).unwrap().has_weights());
}

#[test]
fn an_adapter_is_fetched() {
    let (sandbox, hub) = (Sandbox::new(), Hub::start());
    hub.put("org/lora", "adapter_config.json", "{}");
    hub.put("org/lora", "adapter_model.safetensors", shard(&llama(1, 1)));
    hub.put("org/lora", "optimizer.pt", "");
    let settings = settings(&sandbox, &hub);
    let resolved = get("org/lora", Want::Everything, &settings).unwrap();
    let paths: Vec<&str> = resolved.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["adapter_config.json", "adapter_model.safetensors"]);
    let offline = Settings { offline: true, ..settings };
    let found = get("org/lora", Want::Everything, &offline).unwrap();
    assert_eq!((found.files, found.folder), (resolved.files, resolved.folder));
}

#[test]
fn a_dataset_is_fetched_and_found_offline() {
    let (sandbox, hub) = (Sandbox::with_trained_models(), Hub::start());
    let rows =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval/rows.parquet");
    let rows = std::fs::read(rows).unwrap();
    let file = "one/test/0000.parquet";
    hub.put("datasets/org/rows", file, rows.clone());
    hub.put("datasets/org/rows", "one/train/0000.parquet", "never fetched");
    hub.put("datasets/org/rows", "other/test/0000.parquet", "never fetched");
    let task = |name: &str, split: &str| {
        format!(
            "task: rows\ndataset_path: org/rows\ndataset_name: {name}\ntest_split: {split}\n\
             output_type: loglikelihood\ndoc_to_text: \"{{{{n}}}}\"\ndoc_to_target: text\nmetric_list: [{{metric: acc}}]\n"
        )
    };
    sandbox.write("rows.yml", task("one", "test"));
    let args = ["eval", "models/base", "-t", "rows.yml", "--json", "--samples", "s.jsonl"];
    let online = run(&sandbox, &hub, &args);
    assert_eq!(online.code, Some(0), "{}", online.stderr);
    assert_eq!(online.json()["results"][0]["tasks"]["rows"]["n"], 3);
    assert!(
        online.stderr.contains("fetching org/rows@refs/convert/parquet: 1 file"),
        "{}",
        online.stderr
    );
    let asked = hub.requests();
    assert!(
        asked[0].starts_with("GET /api/datasets/org/rows/revision/refs%2Fconvert%2Fparquet"),
        "{asked:?}"
    );
    assert!(
        !asked.iter().any(|request| request.contains("train") || request.contains("other")),
        "{asked:?}"
    );
    let folder = format!(".hf/hub/datasets--org--rows/snapshots/{COMMIT}");
    assert_eq!(sandbox.read(&format!("{folder}/{file}")), rows);
    // Offline the cache is enough, and says what it lacks.
    let samples = sandbox.read("s.jsonl");
    sandbox.ok(&args);
    assert_eq!(sandbox.read("s.jsonl"), samples);
    assert_eq!(hub.requests(), Vec::<String>::new());
    let mut messages = String::new();
    for (name, split) in [("one", "dev"), ("two", "test")] {
        sandbox.write("rows.yml", task(name, split));
        let online = support::one_screen(run(&sandbox, &hub, &args), 2);
        messages += &format!("{online}{}", sandbox.fails(2, &args));
    }
    insta::assert_snapshot!("datasets", stable(&messages, &sandbox, &hub));
}
