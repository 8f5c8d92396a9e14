#!/usr/bin/env python3
"""The built-in tasks against lm-eval 0.4.13's own of the same names: what both make of made-up items.

    python tests/compare/lm_eval_tasks.py     # writes tests/data/eval/built_in.json

Run it in the repository's root. The items are written for this comparison and have the columns of the
real datasets; `cargo nextest run --test eval` renders them with cognate's tasks and compares every
context and continuation.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A script beside this one is called like the package it imports.
sys.path.pop(0)

import datasets  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

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


def main():
    made = {}

    def load_dataset(path=None, name=None, **_):
        rows = {"train": 6, "validation": 4, "test": 4}
        item = made["item"]
        splits, start = {}, 0
        for split, count in rows.items():
            splits[split] = datasets.Dataset.from_list([item(i) for i in range(start, start + count)])
            start += count
        return datasets.DatasetDict(splits)

    datasets.load_dataset = load_dataset
    manager = TaskManager()
    kept = {}
    for name, item in sorted(ITEMS.items()):
        made["item"] = item
        rows = [item(i) for i in range(14)]
        kept[name] = {"rows": {"train": rows[:6], "validation": rows[6:10], "test": rows[10:]}}
        for shots in (0, SHOTS):
            task = manager.load([name])["tasks"][name]
            task.set_config("num_fewshot", shots)
            task.set_fewshot_seed(1234)
            task.build_all_requests()
            requests = []
            for instance in task.instances:
                arguments = [argument for argument in instance.args if isinstance(argument, str)]
                requests.append([instance.doc_id, *arguments])
            kept[name][f"shots_{shots}"] = requests
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(kept.items())]
    (ROOT / "tests/data/eval/built_in.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    main()
