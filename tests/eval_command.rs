//! `cognate eval`, and `evaluate` in recipes: the trained family's figures, the comparison, gates, and
//! what is recorded of a score.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::{Sandbox, finish, sha256};

/// The trained models, the tasks and the recipes of `merge-configs`.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_trained_models();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("merge-configs");
    for entry in std::fs::read_dir(own.join("eval")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_string();
        sandbox.write(&format!("eval/{name}"), std::fs::read(file).unwrap());
    }
    sandbox.write("average.yml", std::fs::read(own.join("average.yml")).unwrap());
    sandbox
}

/// The average of two fine-tunes with this `evaluate` block.
fn recipe(evaluate: &str) -> String {
    format!(
        "merge_method: linear\nmodels:\n- {{model: models/ft-prose, parameters: {{weight: 0.5}}}}\n\
         - {{model: models/ft-code, parameters: {{weight: 0.5}}}}\ndtype: bfloat16\nevaluate:\n{evaluate}"
    )
}

fn value(report: &Value, model: usize, task: &str, metric: &str) -> f64 {
    let figure = &report["results"][model]["tasks"][task][metric]["value"];
    figure.as_f64().unwrap_or_else(|| panic!("{task} {metric}: {figure}"))
}

/// What an independent script (transformers, float32) measured on the same items: perplexity a token on
/// prose and code, and how many of 200 sums are right.
const FAMILY: [(&str, f64, f64, f64); 5] = [
    ("merge", 20.54, 21.26, 77.0),
    ("models/ft-prose", 18.44, 27.55, 65.0),
    ("models/ft-code", 26.21, 19.08, 48.0),
    ("models/ft-math", 24.04, 27.13, 192.0),
    ("models/base", 22.05, 22.91, 44.0),
];

#[test]
fn the_trained_family_has_its_figures() {
    let sandbox = sandbox();
    let more = "evaluate={tasks: [eval/quickstart.yml], base: models/base, gate: {quickstart.token_perplexity: '< best_parent'}, compare: [models/ft-prose, models/ft-code, models/ft-math]}";
    let run = sandbox.ok(&["merge", "average.yml", "-o", "out", "--json", "--set", more]);
    let report = &run.json()["evaluation"];
    for (place, (model, prose, code, sums)) in FAMILY.into_iter().enumerate() {
        assert_eq!(report["results"][place]["model"], model);
        for (task, expected) in [("prose", prose), ("code", code)] {
            let found = value(report, place, task, "token_perplexity");
            assert!((found / expected - 1.0).abs() < 0.005, "{model} {task}: {found}");
        }
        let right = 200.0 * value(report, place, "arithmetic", "acc");
        assert!((right - sums).abs() <= 1.0, "{model}: {right} sums");
    }
    // The average is better than both parents and the base on the mean of the two domains, and not
    // by chance.
    let rows = report["comparison"].as_array().unwrap();
    let mean = rows.iter().find(|row| row["task"] == "quickstart").unwrap();
    for to in ["to_best_parent", "to_base"] {
        let difference = &mean["models"][0][to];
        assert!(difference["interval"][1].as_f64().unwrap() < 0.0, "{difference}");
        assert_eq!(
            (&difference["significant"], &difference["regression"]),
            (&true.into(), &false.into())
        );
    }
    assert_eq!(report["gates"][0]["passed"], true);
    // The README shows this table.
    let readme = include_str!("../README.md");
    let mut shown = 0;
    for line in readme.lines() {
        let cells: Vec<&str> =
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let [task @ ("prose" | "code" | "arithmetic"), metric, .., "merge", figure, _, _] =
            cells[..]
        else {
            continue;
        };
        let metric = metric.split(' ').next().unwrap();
        let figure: f64 = figure.split(' ').next().unwrap().parse().unwrap();
        let found = value(report, 0, task, metric);
        assert!(
            (found / figure - 1.0).abs() < 1e-3,
            "README: {task} {metric} {figure}, found {found}"
        );
        shown += 1;
    }
    assert_eq!(shown, 5, "rows of the README's table");
}

/// A lineage without what an evaluation changes: its own record, the files it writes, and so the digest of
/// the lineage itself.
fn unevaluated(lineage: &Value) -> Value {
    let mut rest = lineage.clone();
    let fields = rest.as_object_mut().unwrap();
    fields.remove("evaluation");
    assert!(fields.remove("digest").is_some());
    let written = ["README.md", "eval.json"];
    let files = rest["output"]["files"].as_array_mut().unwrap();
    files.retain(|file| !written.contains(&file["path"].as_str().unwrap()));
    assert!(files.len() > 2, "{files:?}");
    rest
}

#[test]
fn a_merge_is_scored_and_the_score_recorded() {
    let sandbox = sandbox();
    let evaluate = "  tasks: [eval/prose.yml, eval/arithmetic.yml]\n  limit: 6\n  base: models/base\n  \
                    gate: {prose.token_perplexity: '< base', arithmetic.acc: '>= 0'}\n";
    sandbox.write("recipe.yml", recipe(evaluate));
    let run = sandbox.ok(&["merge", "recipe.yml", "-o", "out"]);
    assert!(run.stdout.contains("gate holds: prose.token_perplexity < base"), "{}", run.stdout);
    let report = sandbox.read_json("out/eval.json");
    let models: Vec<&Value> =
        report["results"].as_array().unwrap().iter().map(|result| &result["model"]).collect();
    assert_eq!(models, ["merge", "ft-prose", "ft-code", "base"]);
    assert_eq!(
        (&report["parents"], &report["base"]),
        (&json!(["ft-prose", "ft-code"]), &json!("base"))
    );
    let of = &report["results"][0];
    assert_eq!(of["tokenizer_sha256"], sha256(&sandbox.read("out/tokenizer.json")));
    assert_eq!(of["bos"], "<s> before texts without context only");
    assert_eq!(of["max_length"], 256);
    let task = &of["tasks"]["arithmetic"];
    assert_eq!(
        (&task["n"], &task["num_fewshot"], &task["version"]),
        (&6.into(), &3.into(), &"1".into())
    );
    let lineage = sandbox.read_json("out/lineage.json");
    assert_eq!(lineage["evaluation"]["sha256"], sha256(&sandbox.read("out/eval.json")));
    let card = String::from_utf8(sandbox.read("out/README.md")).unwrap();
    assert_eq!(card.matches("## Evaluation").count(), 1);
    assert!(card.contains("| prose ") && card.contains("| ft-code "), "{card}");

    // The weights and all else of the lineage do not depend on whether they were scored.
    sandbox.ok(&["merge", "recipe.yml", "-o", "unscored", "--no-eval"]);
    assert!(!sandbox.exists("unscored/eval.json"));
    assert_eq!(sandbox.read("unscored/model.safetensors"), sandbox.read("out/model.safetensors"));
    assert_eq!(unevaluated(&sandbox.read_json("unscored/lineage.json")), unevaluated(&lineage));

    // The same recipe, unwritten: its weights are computed as they are read.
    let unwritten = sandbox.ok(&["eval", "recipe.yml", "--json"]).json();
    for (place, task, metric) in [
        (0, "prose", "token_perplexity"),
        (0, "arithmetic", "acc"),
        (3, "prose", "token_perplexity"),
    ] {
        assert_eq!(value(&unwritten, place, task, metric), value(&report, place, task, metric));
    }
    assert_eq!(unwritten["gates"], report["gates"]);

    // Scored again by itself: the record is replaced, in the card too. The lineage knows no base.
    let again = ["eval", "out", "models/base", "-t", "eval/prose.yml", "--limit", "3"];
    let run = sandbox.ok(&again);
    assert!(run.stderr.contains("recorded in out/eval.json"), "{}", run.stderr);
    let lineage = sandbox.read_json("out/lineage.json");
    assert_eq!(lineage["evaluation"]["sha256"], sha256(&sandbox.read("out/eval.json")));
    assert_eq!(sandbox.read_json("out/eval.json")["results"][0]["tasks"]["prose"]["n"], 3);
    let card = String::from_utf8(sandbox.read("out/README.md")).unwrap();
    assert_eq!(card.matches("## Evaluation").count(), 1);
    assert!(!card.contains("ft-code  |"), "{card}");
    // And what is no output of a merge is left as it is.
    let before = support::files(&sandbox.path("models"));
    sandbox.ok(&["eval", "models/base", "-t", "eval/prose.yml", "--limit", "1"]);
    assert_eq!(support::files(&sandbox.path("models")), before);
    let recorded = sandbox.read("out/eval.json");
    sandbox.ok(&["eval", "out", "-t", "eval/prose.yml", "--limit", "1", "--no-record"]);
    assert_eq!(sandbox.read("out/eval.json"), recorded);
}

#[test]
fn a_gate_that_fails_is_an_exit_code() {
    let sandbox = sandbox();
    let gate = "  tasks: [eval/prose.yml]\n  limit: 6\n  gate: {prose.token_perplexity: '<= best_parent'}\n";
    sandbox.write("recipe.yml", recipe(gate));
    let run = sandbox.run(&["merge", "recipe.yml", "-o", "out", "-q"]);
    assert_eq!(run.code, Some(3));
    assert!(
        run.stderr.contains("gate      prose.token_perplexity <= best_parent"),
        "{}",
        run.stderr
    );
    // The merge is there to be looked at, with its score.
    assert_eq!(sandbox.read_json("out/eval.json")["gates"][0]["passed"], false);
    support::accounted(&sandbox, "out");
    let models = ["models/ft-prose", "models/ft-code", "--base", "models/base"];
    let asked = ["-t", "eval/prose.yml", "--limit", "6", "-q", "--json", "--gate"];
    let gated = |condition| sandbox.run(&[&["eval"][..], &models, &asked, &[condition]].concat());
    let run = gated("prose.token_perplexity < best_parent");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let report = run.json();
    assert_eq!(
        (&report["base"], &report["parents"]),
        (&json!("models/base"), &json!(["models/ft-code"]))
    );
    let run = gated("prose.token_perplexity < 0.5 * base");
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(run.json()["gates"][0]["passed"], false);
}

#[test]
fn samples_and_tables() {
    let sandbox = sandbox();
    let models = ["models/ft-math", "models/base"];
    let asked = ["-t", "eval/arithmetic.yml", "--limit", "5", "--num-fewshot", "1", "-q"];
    let run = sandbox.ok(&[
        &["eval"][..],
        &models,
        &asked,
        &["--samples", "s.jsonl", "--markdown"],
    ]
    .concat());
    assert!(run.stdout.starts_with("| task "), "{}", run.stdout);
    let lines = String::from_utf8(sandbox.read("s.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["model"], models[i / 5]);
        assert_eq!((&line["task"], &line["doc_id"]), (&json!("arithmetic"), &json!(i % 5)));
        let lls = line["lls"].as_array().unwrap();
        assert!(lls.len() == 4 && lls.iter().all(|ll| ll.as_f64().unwrap() < 0.0), "{line}");
        assert_eq!(line["greedy"].as_array().unwrap().len(), 4);
    }
    // Whatever the memory, the threads and the batch, the same figures.
    let (a, b) = ("1.json", "2.json");
    for (file, more) in [
        (a, ["--threads", "1", "--memory", "80MiB"]),
        (b, ["--threads", "3", "--batch-size", "64"]),
    ] {
        let run =
            sandbox
                .ok(&[&["eval"][..], &models, &asked, &["--json", "--samples", file], &more]
                    .concat());
        assert_eq!(run.json()["results"][0]["tasks"]["arithmetic"]["num_fewshot"], 1);
        let found = String::from_utf8(sandbox.read(file)).unwrap();
        for (line, first) in found.lines().zip(&lines) {
            let line: Value = serde_json::from_str(line).unwrap();
            for (x, y) in
                line["lls"].as_array().unwrap().iter().zip(first["lls"].as_array().unwrap())
            {
                assert!((x.as_f64().unwrap() - y.as_f64().unwrap()).abs() < 1e-5, "{x} {y}");
            }
        }
    }
}

#[test]
fn a_generated_text_is_a_sample() {
    let sandbox = sandbox();
    sandbox.write(
        "rows.jsonl",
        "{\"q\": \"12+7=\", \"a\": \"19\"}\n{\"q\": \"30+4=\", \"a\": \"34\"}\n",
    );
    sandbox.write(
        "sums.yml",
        "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
         output_type: generate_until\ndescription: \"<s>3+4=7\\n12+25=37\\n40+9=49\\n\"\ndoc_to_text: q\ndoc_to_target: a\n\
         generation_kwargs: {until: [\"\\n\"], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n",
    );
    let args = ["eval", "models/ft-math", "-t", "sums.yml", "--json", "-q", "--samples", "s.jsonl"];
    let report = sandbox.ok(&args).json();
    assert_eq!(value(&report, 0, "sums", "exact_match"), 1.0);
    let lines = String::from_utf8(sandbox.read("s.jsonl")).unwrap();
    let texts: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["output"].clone())
        .collect();
    assert_eq!(texts, ["19", "34"]);
}

#[test]
fn a_model_that_went_wrong_is_warned_of() {
    let sandbox = sandbox();
    // A base that is subtracted three times over.
    sandbox.write(
        "wrong.yml",
        "merge_method: task_arithmetic\nbase_model: models/base\nmodels:\n- {model: models/ft-prose, parameters: {weight: 25}}\n\
         evaluate: {tasks: [eval/prose.yml], limit: 4}\n",
    );
    let run = sandbox.ok(&["merge", "wrong.yml", "-o", "out", "--json"]);
    let report = run.json();
    let warning = report["evaluation"]["warnings"][0]["warning"].as_str().unwrap();
    assert!(warning.starts_with("its perplexity on a few texts is "), "{warning}");
    assert!(run.stderr.contains("warning: merge: its perplexity"), "{}", run.stderr);
}

/// Command lines and recipes that are wrong, each with what it is about.
#[test]
fn what_is_wrong_is_said() {
    let sandbox = sandbox();
    let block = |name: &str, evaluate: &str| sandbox.write(name, recipe(evaluate));
    block("task.yml", "  tasks: [hella_swag]\n");
    block("none.yml", "  tasks: []\n");
    block("key.yml", "  tasks: [hellaswag]\n  limits: 3\n");
    block("gate.yml", "  tasks: [eval/prose.yml]\n  gate: {prose.token_perplexity: '~ 3'}\n");
    block("figure.yml", "  tasks: [eval/prose.yml]\n  gate: {prose.acc: '> 0'}\n");
    block("other.yml", "  tasks: [eval/prose.yml]\n  gate: {prosa.token_perplexity: '> 0'}\n");
    block(
        "alone.yml",
        "  tasks: [eval/prose.yml]\n  compare: none\n  gate: {prose.token_perplexity: '< base'}\n",
    );
    block("mixed.yml", "  tasks: [eval/prose.yml]\n  compare: [parents, models/base]\n");
    block("limit.yml", "  tasks: [eval/prose.yml]\n  limit: 0\n");
    block("rival.yml", "  tasks: [eval/prose.yml]\n  compare: [models/bose]\n");
    block("data.yml", "  tasks: [eval/missing.yml]\n");
    sandbox.write(
        "eval/missing.yml",
        "include: prose.yml\ntask: missing\ndataset_kwargs: {data_files: {test: no.jsonl}}\n",
    );
    sandbox.write(
        "stage.yml",
        format!(
            "stages:\n- name: a\n{}- merge_method: passthrough\n  models: [{{model: a}}]\n",
            recipe("  tasks: [eval/prose.yml]\n")
                .lines()
                .map(|line| format!("  {line}\n"))
                .collect::<String>()
        ),
    );
    let mut all = String::new();
    let recipes = [
        "task", "none", "key", "gate", "figure", "other", "alone", "mixed", "limit", "rival",
        "data", "stage",
    ];
    for name in recipes {
        let message = sandbox.fails(2, &["merge", "-q", &format!("{name}.yml"), "-o", "out"]);
        all += &format!("-- {name}.yml\n{message}");
        assert!(!sandbox.exists("out"), "{name}");
    }
    for args in [
        &["models/base"][..],
        &["models/base", "-t", "hellaswog"],
        &["models/base", "models/base", "-t", "eval/prose.yml"],
        &["models/bose", "-t", "eval/prose.yml"],
        &["models/base", "-t", "eval/prose.yml", "--gate", "prose.token_perplexity"],
        &["models/base", "-t", "eval/prose.yml", "--gate", "prose.token_perplexity < best_parent"],
        &["models/base", "-t", "eval/prose.yml", "--apply-chat-template"],
        &["models/base", "-t", "eval/prose.yml", "--memory", "1MiB"],
        &["quickstart.yml"],
    ] {
        let message = sandbox.fails(2, &[&["eval", "-q"], args].concat());
        all += &format!("-- eval {}\n{message}", args.join(" "));
    }
    insta::assert_snapshot!("wrong", all);
}

/// A GGUF file takes the tokenizer beside it; an adapter's model takes its base's.
#[test]
fn models_of_other_formats_are_scored() {
    let sandbox = sandbox();
    let adapted = "models/base+models/lora-math";
    let asked = ["-t", "eval/arithmetic.yml", "--limit", "8", "-q", "--json"];
    let report = sandbox.ok(&[&["eval", adapted, "models/base"][..], &asked].concat()).json();
    assert_eq!(report["results"][0]["model"], adapted);
    assert_ne!(report["results"][0]["tasks"], Value::Null);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf/llama_q8_0.gguf");
    sandbox.write("gguf/model.gguf", std::fs::read(own).unwrap());
    let message = sandbox.fails(2, &[&["eval", "gguf/model.gguf"][..], &asked].concat());
    assert!(message.contains("a model without tokenizer cannot be evaluated"), "{message}");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        sandbox.write(&format!("gguf/{file}"), sandbox.read(&format!("models/base/{file}")));
    }
    let run = sandbox.run(&[&["eval", "gguf/model.gguf"][..], &asked].concat());
    // The file's vocabulary is smaller than the tokenizer's: an id without a row is an error by name.
    assert_eq!(run.code, Some(2), "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("gguf/model.gguf"), "{}", run.stderr);
}

/// An evaluation that breaks off does not take the merge with it.
#[test]
fn a_merge_outlives_its_evaluation() {
    let sandbox = sandbox();
    // An item too long for the model is found out when it is asked.
    sandbox.write("rows.jsonl", json!({"q": "a", "a": " long".repeat(600)}).to_string());
    sandbox.write(
        "long.yml",
        "task: long\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
         output_type: loglikelihood\ndoc_to_text: q\ndoc_to_target: a\nmetric_list: [{metric: acc}]\n",
    );
    sandbox.write("recipe.yml", recipe("  tasks: [long.yml]\n"));
    let message = sandbox.fails(2, &["merge", "recipe.yml", "-o", "out", "-q"]);
    assert!(message.contains("out is complete"), "{message}");
    support::accounted(&sandbox, "out");
    assert!(!sandbox.exists("out/eval.json"));
    // A decoder that does not know the model says so before anything is written.
    let mut config = sandbox.read_json("models/ft-prose/config.json");
    config["rope_parameters"] = Value::Null;
    config["rope_scaling"] = json!({"rope_type": "unheard_of", "factor": 2.0});
    for model in ["ft-prose", "ft-code"] {
        sandbox.write(&format!("models/{model}/config.json"), config.to_string());
    }
    sandbox.write("recipe.yml", recipe("  tasks: [eval/prose.yml]\n"));
    let message = sandbox.fails(2, &["merge", "recipe.yml", "-o", "other", "-q"]);
    assert!(message.contains("unheard_of"), "{message}");
    assert!(!sandbox.exists("other"));
    assert_eq!(
        finish(&mut sandbox.command(&["merge", "recipe.yml", "-o", "other", "-q", "--no-eval"]))
            .code,
        Some(0)
    );
}
