#!/usr/bin/env python3
"""What every merge method does to the trained family: one table, measured by cognate itself.

    cargo build --release
    python3 tests/compare/methods.py            # prints the table
    python3 tests/compare/methods.py --write    # and puts it where docs/methods.md is made from

Merges every recipe of merge-configs/methods and scores the outputs beside the models they are made of,
on the tasks of merge-configs/eval. Needs nothing but Python.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "merge-configs"
NOTES = ROOT / "src/methods/notes/measured.md"
MODELS = ["base", "ft-prose", "ft-code", "ft-math"]

HEAD = """\
Perplexity a token on 60 held-out documents of prose and of code (lower is better), and accuracy on 200 sums with four
choices (higher is better; chance is 0.25), of the family in [merge-configs](../merge-configs/README.md) and of what each
recipe of `merge-configs/methods` makes of it. The parameters are plausible ones and were not searched for; the models
are small, and the sums are a sharp skill of one of them. So this shows what the methods do, not which is best. Made by
`python3 tests/compare/methods.py --write`.
"""


def run(*args):
    done = subprocess.run([str(arg) for arg in args], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, args))}\n{done.stderr}")
    return done.stdout


def figures(result):
    tasks = result["tasks"]
    ppl = lambda task: tasks[task]["token_perplexity"]["value"]
    return [ppl("prose"), ppl("code"), tasks["arithmetic"]["acc"]["value"]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=ROOT / "target/release/cognate")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    known = json.loads(run(args.binary, "methods", "--json"))
    names = [row["name"] for row in known]
    recipes = {path.stem: path for path in (CONFIGS / "methods").glob("*.yml")}
    missing = [name for name in names if name not in recipes]
    if missing:
        raise SystemExit(f"no recipe in merge-configs/methods for {', '.join(missing)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        task = CONFIGS / "eval/quickstart.yml"
        for name in names:
            out = Path(folder) / name
            run(args.binary, "merge", recipes[name], "-o", out, "--no-eval", "--memory", "2GiB")
        models = [CONFIGS / "models" / name for name in MODELS]
        outputs = [Path(folder) / name for name in names]
        report = run(
            args.binary, "eval", *outputs, *models, "--task", task, "--json", "--no-record", "--quiet"
        )
        results = [figures(result) for result in json.loads(report)["results"]]
    for name, values in zip(MODELS, results[len(names):]):
        rows.append((f"*{name}*", "", values))
    for name, values in zip(names, results):
        merged = re.findall(r"models/(\S+)", recipes[name].read_text())
        merged = ", ".join(sorted({m.removeprefix("ft-") for m in merged if m != "base"}))
        link = f"[`{name}`](../merge-configs/methods/{name}.yml)"
        rows.append((link, merged, values))
    lines = ["| merge | of | prose | code | sums |", "|---|---|---|---|---|"]
    for name, merged, (prose, code, sums) in rows:
        lines.append(f"| {name} | {merged} | {prose:.2f} | {code:.2f} | {sums:.3f} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if args.write:
        NOTES.write_text(f"{HEAD}\n{table}")
        # The binary still prints the table that it was built with.
        page = run(args.binary, "methods", "--markdown").split("\n## Measured\n")[0]
        page += f"\n## Measured\n\n{NOTES.read_text().strip()}\n"
        (ROOT / "docs/methods.md").write_text(page)


if __name__ == "__main__":
    main()
