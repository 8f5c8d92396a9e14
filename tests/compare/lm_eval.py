#!/usr/bin/env python3
"""cognate's evaluator against lm-evaluation-harness 0.4.13, on the same items and the same model.

    python tests/compare/lm_eval.py golden            # writes tests/data/eval/golden.json
    python tests/compare/lm_eval.py compare COGNATE   # runs `COGNATE eval --json` and compares

Run it in the repository's root. Needs lm-eval 0.4.13, transformers and datasets. The tasks are those of
tests/data/eval/tasks, the model merge-configs/models/base in float32. `golden` keeps what lm-eval asked
the model (as token ids), what the model answered, and the figures; `cargo nextest run --test eval` replays
the answers. `compare` asks both programs and compares figures (to 1e-3) and log-likelihoods.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

os.environ.setdefault("DISABLE_MULTIPROC", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# This file is called like the package it imports.
sys.path.pop(0)

import sklearn.metrics  # noqa: E402
import torch  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "tests/data/eval/tasks"
MODEL = ROOT / "merge-configs/models/base"
NAMES = [
    "last_word",
    "pages",
    "pronouns",
    "prose_written",
    "sums_choice",
    "sums_first",
    "sums_group",
    "sums_letters",
    "sums_several",
    "sums_written",
]
TOLERANCE = 1e-3


def hasten_bootstraps():
    """scikit-learn checks its arguments for most of a millisecond, 100,000 times a bootstrap: its formulas
    without the checks, held against it first."""

    def f1(golds, predictions):
        pairs = list(zip(golds, predictions))
        hits = sum(g == 1 and p == 1 for g, p in pairs)
        wrong = sum(g != p for g, p in pairs)
        return 2 * hits / (2 * hits + wrong) if hits or wrong else 0.0

    def matthews(golds, predictions):
        n, right = len(golds), sum(g == p for g, p in zip(golds, predictions))
        gold, chosen = Counter(golds), Counter(predictions)
        covariance = right * n - sum(count * chosen[label] for label, count in gold.items())
        spread = (n * n - sum(c * c for c in gold.values())) * (n * n - sum(c * c for c in chosen.values()))
        return covariance / spread**0.5 if spread else 0.0

    random = Random(0)
    for labels in [2] * 100 + [4] * 100:
        golds = [random.randrange(labels) for _ in range(9)]
        predictions = [random.randrange(labels) for _ in range(9)]
        own, theirs = matthews(golds, predictions), sklearn.metrics.matthews_corrcoef(golds, predictions)
        assert abs(own - theirs) < 1e-12, (golds, predictions)
        if labels == 2:
            own, theirs = f1(golds, predictions), sklearn.metrics.f1_score(golds, predictions)
            assert abs(own - theirs) < 1e-12, (golds, predictions)
    sklearn.metrics.f1_score, sklearn.metrics.matthews_corrcoef = f1, matthews


class Recorded(HFLM):
    """Keeps what is asked and answered."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.record = []

    def _loglikelihood_tokens(self, requests, **arguments):
        answers = super()._loglikelihood_tokens(requests, **arguments)
        for (_, context, continuation), (likelihood, greedy) in zip(requests, answers):
            self.record.append([list(context), list(continuation), likelihood, greedy])
        return answers

    def generate_until(self, requests, **arguments):
        texts = super().generate_until(requests, **arguments)
        for request, text in zip(requests, texts):
            self.record.append([request.args[0], text])
        return texts


def evaluate(model, name, limit=None):
    model.record = []
    results = simple_evaluate(
        model=model,
        tasks=[name],
        limit=limit,
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False),
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=None,
        log_samples=True,
    )
    return results


def figures(results):
    """{task: {"acc" or "exact_match,filter": [value, error or None]}}"""
    found = {}
    for part in ("results", "groups"):
        for task, values in results.get(part, {}).items():
            for key, value in values.items():
                metric, comma, name = key.partition(",")
                if not comma or metric.endswith("_stderr"):
                    continue
                error = values.get(f"{metric}_stderr,{name}")
                error = None if error in (None, "N/A") else float(error)
                key = metric if name == "none" else key
                found.setdefault(task, {})[key] = [float(value), error]
    return found


def golden():
    model = Recorded(pretrained=str(MODEL), dtype="float32", device="cpu", batch_size=1)
    kept = {}
    for name in NAMES:
        results = evaluate(model, name)
        kept[name] = {"figures": figures(results), "requests": model.record}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(kept.items())]
    target = ROOT / "tests/data/eval/golden.json"
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{target}: {target.stat().st_size} bytes")


def compare(cognate):
    model = Recorded(pretrained=str(MODEL), dtype="float32", device="cpu", batch_size=1)
    worst, wrong = 0.0, []
    for name in NAMES:
        expected = figures(evaluate(model, name))
        with tempfile.TemporaryDirectory() as folder:
            samples = Path(folder) / "samples.jsonl"
            command = [cognate, "eval", str(MODEL), "--task", str(TASKS / f"{name}.yaml")]
            command += ["--json", "--samples", str(samples)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{' '.join(command)}\n{done.stderr}")
            report = json.loads(done.stdout)["results"][0]
            lines = [json.loads(line) for line in samples.read_text().splitlines()]
        found = {**report["tasks"], **report.get("groups", {})}
        for task, metrics in expected.items():
            for metric, (value, error) in metrics.items():
                ours = found[task][metric]
                pairs = [(value, ours["value"])]
                if (error is None) != (ours["stderr"] is None):
                    wrong.append(f"{task} {metric}: one error is missing")
                elif error is not None:
                    pairs.append((error, ours["stderr"]))
                for theirs, own in pairs:
                    difference = abs(theirs - own) / max(1.0, abs(theirs))
                    worst = max(worst, difference)
                    mark = "" if difference <= TOLERANCE else "  <-- differs"
                    print(f"{task:16} {metric:32} {theirs:12.6f} {own:12.6f}{mark}")
                    if mark:
                        wrong.append(f"{task} {metric}")
        theirs = [row[2] for row in model.record if len(row) == 4]
        ours = [ll for line in lines for ll in line["lls"]]
        if len(theirs) == len(ours):
            apart = max((abs(a - b) for a, b in zip(theirs, ours)), default=0.0)
            print(f"{name}: {len(ours)} log-likelihoods, at most {apart:.2e} nats apart")
        texts = [row[1] for row in model.record if len(row) == 2]
        if texts and texts != [line["output"] for line in lines]:
            wrong.append(f"{name}: generated texts differ")
    print(f"largest difference of a figure: {worst:.2e}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.chdir(ROOT)
    hasten_bootstraps()
    match sys.argv[1:]:
        case ["golden"]:
            golden()
        case ["compare", program]:
            compare(program)
        case _:
            sys.exit(__doc__)
