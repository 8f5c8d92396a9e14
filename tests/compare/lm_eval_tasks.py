#!/usr/bin/env python3
"""The built-in tasks against lm-eval 0.4.13's own of the same names: what both make of made-up items.

    python tests/compare/lm_eval_tasks.py                # writes tests/data/eval/built_in.json
    python tests/compare/lm_eval_tasks.py load COGNATE   # counts which of lm-eval's tasks load, and why not

Run it in the repository's root. Needs lm-eval 0.4.13 with sacrebleu, rouge_score, word2number and regex.
The items are written for this comparison and have the columns of the real datasets; `cargo nextest run
--test eval` renders them with cognate's tasks and compares every context and continuation, and what
filters make of made-up answers. Of families of tasks a digest of all requests is kept.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A script beside this one is called like the package it imports.
sys.path.pop(0)

# MBPP's functions ask the library `evaluate` for one that runs code; nothing is run here.
sys.modules["evaluate"] = types.SimpleNamespace(load=lambda _: types.SimpleNamespace(compute=dict))

import datasets  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager, _yaml_loader  # noqa: E402
from lm_eval.tasks._index import Kind  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SHOTS = 2


def arc(i):
    label = ["A", "B", "C"] if i % 2 else ["1", "2", "3"]
    texts = [f"it's {i}", 'the "other" one', f"é {i}"]
    return {
        "question": f"Which is number {i}?",
        "choices": {"text": texts, "label": label},
        "answerKey": label[i % 3],
    }


def hellaswag(i):
    return {
        "activity_label": f"Washing {i}",
        "ctx_a": f" A man [substeps] stands {i}.  He",
        "ctx_b": f"THEN he [title] washes {i}",
        "endings": [f"walks  away {i}.", " sings [step] a song", "it's [title] over", 'says "no"'],
        "label": str(i % 4),
    }


def wikitext(i):
    return {
        "page": f" = = Title {i} = = \n \n The dog 's ( big ) tail , { {1: 2} } and [ x ] @-@ y : 3 @.@ 5 ° \" so \" "
        f"it said ; ' well ' . N times ! Really ? 1 @,@ 000 { {'a'} }s ' and /' 5/ . \n  = = = Sub = = = \n {i} ° C"
    }


ITEMS = {
    "arc_challenge": arc,
    "arc_easy": arc,
    "boolq": lambda i: {"passage": f"Water is wet {i}.", "question": f"is it wet {i}", "label": i % 2},
    "gsm8k": lambda i: {"question": f"What is {i} + 1?", "answer": f"One more.\n#### {i + 1},000"},
    "hellaswag": hellaswag,
    "lambada_openai": lambda i: {"text": f"She saw  the {i} birds, and then the bird{i}s"},
    "openbookqa": lambda i: {
        "question_stem": f"Number {i} is",
        "choices": {"text": [f"a {i}", "b", "c", "d"], "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[i % 4],
    },
    "piqa": lambda i: {"goal": f"Cut {i}", "sol1": f"with 'a' saw {i}", "sol2": 'with "b"', "label": i % 2},
    "wikitext": wikitext,
    "winogrande": lambda i: {
        "sentence": f"Ann told Beth {i} that _ was late.",
        "option1": "Ann",
        "option2": "Beth",
        "answer": str(i % 2 + 1),
    },
}


def choices_of_four(question, answer):
    def item(i):
        return {question: f" Who was {i}? ", "A": f"é{i}", "B": "b", "C": "c", "D": "d", answer: "ABCD"[i % 4]}

    return item


def truthful(i):
    answers = ["Nobody knows.", f"Number {i}.", "It's blue", 'He said "no"']
    targets = {"choices": answers[: 2 + i % 3], "labels": [1, i % 2, 0, 1][: 2 + i % 3]}
    return {"question": f"Who was number {i}?", "mc1_targets": targets, "mc2_targets": targets}


def mbpp(i):
    tests = [f"assert f({n}) == {n + i}" for n in range(3)]
    return {"task_id": i, "text": f"Add {i}.", "code": f"def f(x):\r\n  return x + {i} ", "test_list": tests}


def hard(i):
    return {
        "input": f"Which of {i}?\nOptions:\n(A) Red one\n(B) blue\n(C) red, really\nList: pear apple fig",
        "target": "(B)",
    }


# The splits of examples and of items, where they are not train, validation and test.
SPLITS = {"mmlu": ["dev", "test"], "ceval-valid": ["dev", "val"], "cmmlu": ["dev", "test"]}
ITEMS |= {"truthfulqa_mc1": truthful, "truthfulqa_mc2": truthful, "mbpp": mbpp}
FAMILIES = {
    "mmlu": lambda i: {"question": f" What is {i}? ", "choices": [f"{i}", "é", "c", "d"], "answer": i % 4},
    "ceval-valid": choices_of_four("question", "answer"),
    "cmmlu": choices_of_four("Question", "Answer"),
    "bbh_zeroshot": hard,
    "bbh_cot_zeroshot": hard,
}
ANSWERS = [
    "The answer is (B).",
    "so the answer is blue. Or RED, really?",
    "True and not False",
    "yes. No.",
    "It is valid, or invalid.",
    "so ] ) > then [ { } ]",
    "I have twenty two apples and two hundred and fifty pears",
    "12 then -7.",
    "fig, pear, fig and apple",
    "This is not plausible",
    "She tells the truth; he does not tell the truth",
    "Answer: B",
    "The final answer: 5",
    "",
]
LIKELIHOODS = [-3.25, -1.5, -7.0, -2.0]


def rows_of(item, splits):
    """Rows by split; those of the first one are examples."""
    if "validation" in splits:
        rows = {"train": range(6), "validation": range(6, 10), "test": range(10, 14)}
    else:
        rows = {splits[0]: range(6), splits[1]: range(6, 10)}
    return {split: [item(i) for i in places] for split, places in rows.items()}


def requests_of(task, shots):
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    requests = []
    for instance in task.instances:
        arguments = [argument for argument in instance.args if isinstance(argument, str)]
        requests.append([instance.doc_id, *arguments])
    return requests


def digest(requests):
    """SHA-256 of all parts of all requests, a zero byte behind each."""
    parts = [str(part) for request in requests for part in request]
    return hashlib.sha256("".join(part + "\0" for part in parts).encode()).hexdigest()


def filtered(task, row):
    """What each filter makes of each answer."""
    instances = [Instance("generate_until", row, ("", {}), i) for i in range(len(ANSWERS))]
    for instance, answer in zip(instances, ANSWERS):
        instance.resps = [answer]
    task._instances = instances
    task.apply_filters()
    return {name: [instance.filtered_resps[name] for instance in instances] for name in instances[0].filtered_resps}


def main():
    made = {}

    def load_dataset(path=None, name=None, **_):
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in made.items()})

    function = _yaml_loader._import_func_in_yml

    def function_in_yaml(name, folder):
        """MBPP's examples are made up as well: those of its rows 2 to 4 in the split `prompt`."""
        if name == "utils.list_fewshot_samples":
            return lambda: [mbpp(i) | {"is_fewshot": True} for i in range(1, 4)]
        return function(name, folder)

    datasets.load_dataset = load_dataset
    _yaml_loader._import_func_in_yml = function_in_yaml
    manager = TaskManager()
    kept = {}
    for name, item in sorted(ITEMS.items()):
        rows = rows_of(item, ["train", "validation", "test"])
        if name == "mbpp":
            rows["prompt"] = [item(i) for i in range(6)]
        made.clear()
        made.update(rows)
        kept[name] = {"rows": rows}
        for shots in (0, SHOTS):
            task = manager.load([name])["tasks"][name]
            kept[name][f"shots_{shots}"] = requests_of(task, shots)
        if name == "truthfulqa_mc2":
            answers = [(likelihood, False) for likelihood in LIKELIHOODS]
            shares = [task.process_results(row, answers[: len(row["mc2_targets"]["labels"])]) for row in task.eval_docs]
            kept[name]["likelihoods"] = LIKELIHOODS
            kept[name]["acc"] = [float(share["acc"]) for share in shares]
    for family, item in FAMILIES.items():
        made.clear()
        made.update(rows_of(item, SPLITS.get(family, ["train", "validation", "test"])))
        loaded = manager.load([family])
        tasks = {}
        for task in loaded["tasks"].values():
            found = {"dataset_name": task.config.dataset_name}
            for shots in (0, SHOTS):
                requests = requests_of(task, shots)
                found[f"shots_{shots}"] = digest(requests)
            if task.OUTPUT_TYPE == "generate_until":
                found["filtered"] = filtered(task, dict(made)["test"][0])
            tasks[task.config.task] = found | ({"requests": requests[:1]} if not tasks else {})
        groups = {
            name: {
                "tasks": sorted(task.config.task for task in group.get_all_tasks()),
                "metrics": [metric.metric for metric in group.aggregate_metric_list or []],
            }
            for name, group in loaded["groups"].items()
        }
        kept[family] = {"rows": dict(made), "tasks": tasks, "groups": groups, "answers": ANSWERS}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(kept.items())]
    (ROOT / "tests/data/eval/built_in.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def load(cognate):
    """Which of lm-eval's own tasks and groups cognate reads, and why it does not read the others."""
    folder = Path(_yaml_loader.__file__).parent
    command = [cognate, "tasks", "--tasks-dir", str(folder), "--json"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ours = {entry["name"]: entry for entry in listed if not entry["file"].startswith("(built in)")}
    index = TaskManager().task_index
    for kinds, what in (({Kind.TASK, Kind.PY_TASK}, "tasks"), ({Kind.GROUP}, "groups")):
        names = {name for name, entry in index.items() if entry.kind in kinds}
        reasons, examples = Counter(), {}
        for name in sorted(names):
            error = ours[name]["error"] if name in ours else {"message": "not found by cognate", "key": None}
            if error is not None:
                key = re.sub(r"\[\d+\]", "", error["key"] or "")
                reason = f"{error['message']} ({key})" if key else error["message"]
                reasons[reason] += 1
                examples.setdefault(reason, (name, error))
        print(f"{what}: {len(names)}, of which {len(names) - sum(reasons.values())} load")
        for reason, count in reasons.most_common():
            name, error = examples[reason]
            details = {key: value for key, value in error.items() if value and key in ("expected", "found", "reason")}
            print(f"  {count:6}  {reason}; for example {name} {details or ''}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["load", program]:
            load(program)
        case _:
            sys.exit(__doc__)
