//! Whole merges against the copy floor, on a 1.1B-parameter bf16 Llama family made here.
//!
//! ```text
//! cargo bench --bench merge                     # page cache warm
//! cargo bench --bench merge -- --cold           # as root: drops the page cache before each run
//! cargo bench --bench merge -- --only ties --runs 3 --dir /big/disk --layers 4
//! ```
//!
//! The copy floor of a case is `cat` of all its inputs to /dev/null plus `cp` of one output's worth.
//! Where memory that was given up has to be fetched from a host again, the first `cp` pays for that;
//! so a second one is timed, too, and gives a lower floor. Floor and merge alternate; each figure is
//! the median of the runs, each ratio is taken pair by pair. The family (9 GB) stays in the folder
//! for the next time.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

mod family;

use family::Size;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The size of TinyLlama.
const SIZE: Size =
    Size { hidden: 2048, ffn: 5632, heads: 32, kv_heads: 4, vocab: 32_000, layers: 22 };

/// A case: name, merge method and parameters, models, whether there is a base.
const CASES: [(&str, &str, &[&str], bool); 10] = [
    ("linear", "weight: 0.3", &["a", "b", "c"], false),
    ("slerp", "", &["a"], true),
    ("dare_ties", "weight: 0.5\n      density: 0.5", &["a", "b", "c"], true),
    ("ties", "weight: 0.5\n      density: 0.5", &["a", "b", "c"], true),
    ("karcher", "", &["a", "b", "c"], false),
    ("model_stock", "", &["a", "b", "c"], true),
    ("breadcrumbs", "weight: 0.5\n      density: 0.5", &["a", "b", "c"], true),
    ("sce", "", &["a", "b", "c"], true),
    ("della", "weight: 0.5\n      density: 0.5", &["a", "b", "c"], true),
    (MIXTURE, "", &["a", "b", "c"], true),
];

/// The case of a mixture of experts. Its floor copies its output, which is larger than an input.
const MIXTURE: &str = "mixture";

struct Settings {
    dir: PathBuf,
    runs: usize,
    layers: usize,
    cold: bool,
    only: Option<String>,
}

fn main() {
    let settings = settings();
    std::fs::create_dir_all(&settings.dir).unwrap();
    let size = Size { layers: settings.layers, ..SIZE };
    family::make(&settings.dir, size, &["base", "a", "b", "c"]);
    println!(
        "| case | floor s | second floor s | merge s | ratio (min–max) | to the second floor (min–max) | no digests | inputs digested too | anonymous memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for case in CASES {
        if settings.only.as_deref().is_none_or(|only| only == case.0) {
            measure(&settings, case);
        }
    }
}

fn settings() -> Settings {
    let target = Path::new(env!("CARGO_BIN_EXE_cognate")).parent().unwrap().to_path_buf();
    let mut settings = Settings {
        dir: target.join("merge-bench"),
        runs: 5,
        layers: SIZE.layers,
        cold: false,
        only: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--dir" => settings.dir = value().into(),
            "--runs" => settings.runs = value().parse().unwrap(),
            "--layers" => settings.layers = value().parse().unwrap(),
            "--only" => settings.only = Some(value()),
            "--cold" => settings.cold = true,
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    settings
}

fn measure(settings: &Settings, (method, parameters, models, base): (&str, &str, &[&str], bool)) {
    let recipe = settings.dir.join(format!("{method}.yml"));
    let mut text = format!("merge_method: {method}\n");
    if base {
        text += "base_model: base\n";
    }
    match method {
        "slerp" => text += "parameters:\n  t: 0.4\n",
        "sce" => text += "parameters:\n  select_topk: 0.3\n",
        _ => {}
    }
    text += "models:\n";
    for model in models {
        text += &format!("  - model: {model}\n");
        if !parameters.is_empty() {
            text += &format!("    parameters:\n      {parameters}\n");
        }
    }
    if method == MIXTURE {
        text = "base_model: base\ngate_mode: random\nexperts:\n".to_string();
        models.iter().for_each(|model| text += &format!("  - source_model: {model}\n"));
    }
    std::fs::write(&recipe, text).unwrap();
    let mut inputs: Vec<PathBuf> = models.iter().map(|m| weights(settings, m)).collect();
    if base {
        inputs.push(weights(settings, "base"));
    }
    let cache = settings.dir.join("cache");
    // Warms the page cache and fills the digest cache.
    let written = settings.dir.join("written");
    merge_into(settings, &recipe, "full", &cache, (method == MIXTURE).then_some(&*written));
    let copied = if method == MIXTURE { written.clone() } else { inputs[0].clone() };
    let (mut floors, mut second_floors, mut merges) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bare, mut fresh, mut memory) = (Vec::new(), Vec::new(), 0);
    for _ in 0..settings.runs {
        let (floor, second) = floor(settings, &inputs, &copied);
        let (time, anonymous) = merge(settings, &recipe, "full", &cache);
        memory = memory.max(anonymous);
        bare.push(merge(settings, &recipe, "none", &cache).0);
        let empty = settings.dir.join("no-cache");
        let _ = std::fs::remove_dir_all(&empty);
        fresh.push(merge(settings, &recipe, "full", &empty).0);
        floors.push(floor);
        second_floors.push(second);
        merges.push(time);
    }
    let _ = std::fs::remove_file(&written);
    println!(
        "| {method} | {:.2} | {:.2} | {:.2} | {} | {} | {:.2} | {:.2} | {} MiB |",
        median(&floors),
        median(&second_floors),
        median(&merges),
        spread(&ratios(&merges, &floors)),
        spread(&ratios(&merges, &second_floors)),
        median(&ratios(&bare, &floors)),
        median(&ratios(&fresh, &floors)),
        memory >> 20
    );
}

fn ratios(times: &[f64], floors: &[f64]) -> Vec<f64> {
    times.iter().zip(floors).map(|(time, floor)| time / floor).collect()
}

/// The median, and in brackets the least and the largest.
fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::MAX, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({low:.2}–{high:.2})", median(values))
}

fn weights(settings: &Settings, model: &str) -> PathBuf {
    settings.dir.join(model).join("model.safetensors")
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Settles write-back, and drops the page cache for cold runs.
fn settle(settings: &Settings) {
    assert!(Command::new("sync").status().unwrap().success());
    if settings.cold {
        std::fs::write("/proc/sys/vm/drop_caches", "3").expect("dropping caches needs root");
    }
}

/// Seconds of `cat INPUTS > /dev/null` plus `cp COPIED OUTPUT`, and the same with the time of a second
/// `cp`. With a cold cache, the first is the time of reading the inputs in order and writing one
/// output.
fn floor(settings: &Settings, inputs: &[PathBuf], copied: &Path) -> (f64, f64) {
    let copy = settings.dir.join("copy");
    let _ = std::fs::remove_file(&copy);
    if !settings.cold {
        // An output has not been in the page cache.
        std::io::copy(&mut File::open(copied).unwrap(), &mut std::io::sink()).unwrap();
    }
    settle(settings);
    let timed = |command: &mut Command| {
        let start = Instant::now();
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
        start.elapsed().as_secs_f64()
    };
    let read = timed(Command::new("cat").args(inputs));
    let copy_once = || {
        let seconds = timed(Command::new("cp").arg(copied).arg(&copy));
        std::fs::remove_file(&copy).unwrap();
        seconds
    };
    (read + copy_once(), read + copy_once())
}

/// Seconds of a merge and its peak of anonymous memory in bytes.
fn merge(settings: &Settings, recipe: &Path, digests: &str, cache: &Path) -> (f64, u64) {
    merge_into(settings, recipe, digests, cache, None)
}

/// The same; the output's one shard stays as `kept`, if that is given.
fn merge_into(
    settings: &Settings,
    recipe: &Path,
    digests: &str,
    cache: &Path,
    kept: Option<&Path>,
) -> (f64, u64) {
    let out = settings.dir.join("out");
    let _ = std::fs::remove_dir_all(&out);
    settle(settings);
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cognate"))
        .args(["merge", "--quiet", "--shard-size", "1TB", "--digests", digests, "-o"])
        .arg(&out)
        .arg(recipe)
        .env("COGNATE_CACHE", cache)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        peak = peak.max(anonymous(child.id()));
        std::thread::sleep(Duration::from_millis(5));
    };
    let seconds = start.elapsed().as_secs_f64();
    assert!(status.success());
    if let Some(kept) = kept {
        std::fs::rename(out.join("model.safetensors"), kept).unwrap();
    }
    std::fs::remove_dir_all(&out).unwrap();
    (seconds, peak)
}

/// The process's anonymous resident memory in bytes.
fn anonymous(pid: u32) -> u64 {
    let mut text = String::new();
    let _ = File::open(format!("/proc/{pid}/status")).and_then(|mut f| f.read_to_string(&mut text));
    let line = text.lines().find(|line| line.starts_with("RssAnon:"));
    let kib =
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
