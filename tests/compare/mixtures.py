#!/usr/bin/env python3
"""What mixtures of the trained family's fine-tunes do, by what they are made of: one table, measured by cognate.

    cargo build --release
    python3 tests/compare/mixtures.py            # prints the table
    python3 tests/compare/mixtures.py --write    # and puts it at the end of docs/moe.md

Needs nothing but Python. The row of mergekit-moe is what its 0.1.5 made with `hidden` gates, scored in the same way.
"""

import argparse
import itertools
import json
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "merge-configs"
PAGE = ROOT / "docs/moe.md"
TITLE = "## What it makes of a family\n"
MODELS = ["base", "ft-prose", "ft-code", "ft-math"]
EXPERTS = [("ft-prose", "prose"), ("ft-code", "code"), ("ft-math", "sums")]
REST = ["base", "average", "weighted", "ft-prose", "ft-code", "ft-math"]
# Gates, and the factors on their rows that are of interest where a token goes to two experts.
GATES = [("hidden", [1]), ("hidden_avg", [1]), ("ridge", [1, 16])]

HEAD = """
Perplexity a token on 60 held-out documents of prose and of code (lower is better) and accuracy on 200 sums with four choices
(higher is better; chance is 0.25), of mixtures of the three fine-tunes of [merge-configs](../merge-configs/README.md), with its
prompts. \"own\" is the share of tokens of the prompts whose first choice is their own expert, the mean over experts and
layers. In bold, what beats mergekit-moe in all three. Made by `python3 tests/compare/mixtures.py --write`.

"""

TAIL = """
The skill in sums is as much in the attention of `ft-math` as in its MLPs: with the attention of the base or a plain average
no router brings it back (chance is 0.25), and with `ft-math`'s own, prose and code lose. "weighted" is a merge of the
three, with attention mostly from `ft-math` ([weighted.yml](../merge-configs/moe/weighted.yml)); its weights were chosen with
these figures in sight.
"""


def run(*args):
    done = subprocess.run([str(arg) for arg in args], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, args))}\n{done.stderr}")
    return done.stdout


def weighted():
    """The shared part of merge-configs/moe/weighted.yml."""
    models = []
    for (model, _), weight in zip(EXPERTS, [0.15, 0.15, 0.7]):
        weights = [{"filter": "self_attn", "value": weight}, {"value": 1}]
        models.append({"model": str(CONFIGS / "models" / model), "parameters": {"weight": weights}})
    return {"name": "weighted", "merge_method": "linear", "models": models}


def recipe(rest, gates, scale, chosen):
    base = CONFIGS / "models" / ("base" if rest == "average" else rest)
    base = "weighted" if rest == "weighted" else base
    experts = [
        {"source_model": str(CONFIGS / "models" / model), "data": str(CONFIGS / "prompts" / f"{texts}.jsonl")}
        for model, texts in EXPERTS
    ]
    return {
        "base_model": str(base),
        "attention": "merge" if rest == "average" else "base",
        "gate_mode": gates,
        "gate_scale": scale,
        "experts_per_token": chosen,
        "experts": experts,
    }


def own_share(routing):
    shares = []
    for texts in routing["sets"]:
        for layer in texts["layers"]:
            shares.append(layer["first"][texts["expert"]] / texts["tokens"])
    return sum(shares) / len(shares)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=ROOT / "target/release/cognate")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    kinds = [
        (rest, gates, scale, chosen)
        for rest, (gates, scales), chosen in itertools.product(REST, GATES, [1, 2])
        for scale in (scales if chosen > 1 else scales[:1])
    ]
    with tempfile.TemporaryDirectory() as folder:
        own = []
        for number, kind in enumerate(kinds):
            file = Path(folder) / f"{number}.yml"
            documents = ([weighted()] if kind[0] == "weighted" else []) + [recipe(*kind)]
            file.write_text("\n---\n".join(json.dumps(document) for document in documents))
            merged = run(args.binary, "merge", file, "-o", Path(folder) / str(number), "--quiet", "--json")
            own.append(own_share(json.loads(merged)["routing"]))
        models = [CONFIGS / "models" / name for name in MODELS]
        outputs = [Path(folder) / str(number) for number in range(len(kinds))]
        task = CONFIGS / "eval/quickstart.yml"
        report = run(args.binary, "eval", *models, *outputs, "--task", task, "--json", "--no-record", "--quiet")
    results = []
    for result in json.loads(report)["results"]:
        ppl = lambda task: result["tasks"][task]["token_perplexity"]["value"]
        results.append((ppl("prose"), ppl("code"), result["tasks"]["arithmetic"]["acc"]["value"]))
    peer = (21.40, 22.34, 0.14)
    figures = lambda row: f"{row[0]:.2f} | {row[1]:.2f} | {row[2]:.3f}"
    lines = ["| everything but the experts | gates | scale | experts a token | prose | code | sums | own |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, row in zip(MODELS, results):
        lines.append(f"| *{name}* alone | | | | {figures(row)} | |")
    lines.append(f"| *mergekit-moe 0.1.5*: base | hidden | 1 | 2 | {figures(peer)} | |")
    for (rest, gates, scale, chosen), row, share in zip(kinds, results[len(MODELS):], own):
        beats = row[0] < peer[0] and row[1] < peer[1] and row[2] > peer[2]
        rest = f"**{rest}**" if beats else rest
        lines.append(f"| {rest} | {gates} | {scale} | {chosen} | {figures(row)} | {share:.2f} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if args.write:
        page = PAGE.read_text()
        PAGE.write_text(page[: page.index(TITLE) + len(TITLE)] + HEAD + table + TAIL)


if __name__ == "__main__":
    main()
