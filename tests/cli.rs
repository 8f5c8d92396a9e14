//! What the commands print, and the codes they exit with.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::fmt::Write;
use support::{Sandbox, finish};

#[test]
fn help_of_every_command() {
    let sandbox = Sandbox::new();
    let mut all = String::new();
    for command in [
        &[][..],
        &["merge"],
        &["plan"],
        &["eval"],
        &["trace"],
        &["fisher"],
        &["gram"],
        &["inspect"],
        &["methods"],
    ] {
        let run = sandbox.ok(&[command, &["--help"]].concat());
        assert_eq!(run.stderr, "");
        writeln!(all, "$ cognate {} --help\n{}", command.join(" "), run.stdout).unwrap();
    }
    insta::assert_snapshot!("help", all);
}

/// Commands that only report, on the trained models.
const REPORTS: [(&str, &[&str]); 12] = [
    ("plan", &["plan", "quickstart.yml", "--threads", "2"]),
    (
        "plan_with_options",
        &[
            "plan",
            "quickstart.yml",
            "--threads",
            "1",
            "--seed",
            "9",
            "--shard-size",
            "500kB",
            "--memory",
            "80MiB",
        ],
    ),
    ("plan_of_slices", &["plan", "slices.yml", "--threads", "2"]),
    ("dry_run", &["merge", "quickstart.yml", "-o", "out", "--dry-run", "--threads", "2"]),
    ("inspect", &["inspect", "models/base", "--digests"]),
    ("inspect_tensors", &["inspect", "models/base", "--tensors"]),
    ("archs", &["archs"]),
    ("methods", &["methods"]),
    ("methods_ties", &["methods", "ties"]),
    ("tasks", &["tasks"]),
    ("tasks_mmlu_stem", &["tasks", "mmlu_stem"]),
    ("tasks_mbpp", &["tasks", "mbpp"]),
];

const SLICES: &str = "\
merge_method: passthrough
parameters: {weight: 1}
slices:
  - sources: [{model: models/base, layer_range: [0, 3]}]
  - sources: [{model: models/ft-code, layer_range: [2, 4]}]
";

#[test]
fn reports() {
    let sandbox = Sandbox::with_trained_models();
    sandbox.write("slices.yml", SLICES);
    for (name, args) in REPORTS {
        let run = sandbox.ok(args);
        assert_eq!(run.stderr, "", "{name}");
        insta::assert_snapshot!(name, run.stdout);
    }
    assert!(!sandbox.exists("out") && !sandbox.exists(".cache"), "a report wrote something");
}

#[test]
fn the_plan_as_json() {
    let sandbox = Sandbox::with_trained_models();
    let plan = sandbox.ok(&["plan", "quickstart.yml", "--json", "--seed", "3"]).json();
    let dry =
        sandbox.ok(&["merge", "quickstart.yml", "-o", "x", "--dry-run", "--json", "--seed", "3"]);
    assert_eq!(plan, dry.json());
    let fields = [
        "models",
        "donor",
        "jobs",
        "shards",
        "config",
        "config_edits",
        "sidecars",
        "seed",
        "threads",
        "totals",
        "warnings",
    ];
    assert!(fields.iter().all(|field| plan.get(field).is_some()), "{plan}");
    let totals = ["read_bytes", "write_bytes", "disk_bytes", "memory_bytes", "parameters"];
    assert!(totals.iter().all(|field| plan["totals"][field].as_u64() > Some(0)), "{plan}");
    let job = &plan["jobs"][0];
    let fields =
        ["tensor", "dtype", "shape", "method", "inputs", "base", "parameters", "shard", "offset"];
    assert!(fields.iter().all(|field| job.get(field).is_some()), "{job}");
    assert_eq!((&plan["donor"], &plan["seed"]), (&Value::from("models/base"), &Value::from(3)));
    assert_eq!(job["inputs"].as_array().unwrap().len(), 3);
    // The tensors' bytes follow each other to the end of the shard.
    let header =
        plan["jobs"].as_array().unwrap().iter().map(|job| job["offset"].as_u64().unwrap()).min();
    assert_eq!(
        plan["shards"][0]["size"].as_u64(),
        header.map(|at| at + 2 * plan["totals"]["parameters"].as_u64().unwrap())
    );
}

#[test]
fn a_merge_and_what_it_says() {
    let sandbox = Sandbox::with_trained_models();
    let run = sandbox.ok(&["merge", "quickstart.yml", "-o", "out"]);
    insta::assert_snapshot!("merge", format!("stdout: {}stderr: {}", run.stdout, run.stderr));
    let run = sandbox.ok(&["merge", "quickstart.yml", "-o", "out", "--overwrite", "--json"]);
    insta::assert_snapshot!("merge_json", run.stdout);
    insta::assert_snapshot!("card", String::from_utf8(sandbox.read("out/README.md")).unwrap());
    insta::assert_snapshot!("inspect_merged", sandbox.ok(&["inspect", "out", "--digests"]).stdout);
    let inspected = sandbox.ok(&["inspect", "out", "--digests", "--json"]).json();
    let lineage = sandbox.read_json("out/lineage.json");
    assert_eq!(inspected["digest"], lineage["output"]["digest"]);
    assert_eq!(inspected["tensors"]["model.norm.weight"]["dtype"], "BF16");
}

#[test]
fn warnings_go_to_stderr_unless_quiet() {
    let sandbox = Sandbox::with_trained_models();
    sandbox.write("slices.yml", SLICES);
    let run = sandbox.ok(&["merge", "slices.yml", "-o", "loud"]);
    assert!(run.stderr.starts_with("warning: parameters.weight (line 2)"), "{}", run.stderr);
    let run = sandbox.ok(&["merge", "slices.yml", "-o", "quiet", "--quiet"]);
    assert_eq!(run.stderr, "");
}

/// Arguments, exit code, and what stderr says.
const CODES: [(&[&str], i32, &str); 17] = [
    (&["--version"], 0, ""),
    (&[], 2, "Usage:"),
    (&["mrege"], 2, "merge"),
    (&["plan"], 2, "<RECIPE>"),
    (&["merge", "quickstart.yml"], 2, "--out"),
    (&["plan", "quickstart.yml", "--threads", "0"], 2, "1..=65535"),
    (&["plan", "quickstart.yml", "--memory", "1KB"], 2, "hint: "),
    (&["merge", "quickstart.yml", "-o", "x", "--memory", "1KB"], 2, "hint: "),
    (&["plan", "quickstart.yml", "--memory", "plenty"], 2, "unknown unit"),
    (&["plan", "quickstart.yml", "--shard-size", "0"], 2, "not a sensible number of bytes"),
    (&["plan", "quickstart.yml", "--shard-size", "5 parsecs"], 2, "unknown unit"),
    (&["merge", "quickstart.yml", "-o", "x", "--digests", "some"], 2, "full, outputs, none"),
    (&["plan", "nothing.yml"], 2, "nothing.yml"),
    (&["inspect", "nothing"], 2, "a model folder does not exist"),
    (&["inspect", "models/bas"], 2, "did you mean `models/base`?"),
    (&["methods", "tise"], 2, "did you mean `ties`?"),
    (&["merge", "quickstart.yml", "-o", "no/such/folder"], 2, "no/such/folder"),
];

#[test]
fn exit_codes() {
    let sandbox = Sandbox::with_trained_models();
    let mut wrong = Vec::new();
    for (args, code, says) in CODES {
        let run = sandbox.run(args);
        if run.code != Some(code) || !run.stderr.contains(says) {
            wrong.push(format!("{args:?}: {:?}\n{}", run.code, run.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!sandbox.exists("x") && !sandbox.exists("no"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let sandbox = Sandbox::with_trained_models();
    for args in
        [&["methods"][..], &["plan", "quickstart.yml"], &["inspect", "models/base", "--json"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = finish(sandbox.command(args).stdout(writer));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn digests_can_be_left_out() {
    let sandbox = Sandbox::with_trained_models();
    for (mode, inputs, outputs) in
        [("full", true, true), ("outputs", false, true), ("none", false, false)]
    {
        sandbox.ok(&["merge", "quickstart.yml", "-o", mode, "--digests", mode]);
        let lineage = sandbox.read_json(&format!("{mode}/lineage.json"));
        let output = &lineage["output"];
        assert_eq!(output["digest"].is_string(), outputs, "{mode}");
        assert_eq!(output["tensors"][0]["sha256"].is_string(), outputs, "{mode}");
        assert_eq!(lineage["inputs"][0]["digest"].is_string(), inputs, "{mode}");
        assert_eq!(sandbox.tensors(mode), sandbox.tensors("full"), "{mode}");
    }
}
