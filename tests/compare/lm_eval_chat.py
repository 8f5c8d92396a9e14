#!/usr/bin/env python3
"""Prompts in chat templates as lm-eval 0.4.13 makes them, as token ids.

    python tests/compare/lm_eval_chat.py     # writes tests/data/eval/chat.json

Run it in the repository's root. The tasks are those of tests/data/eval/tasks, the templates those of
tests/data/eval/chat, the tokenizer that of merge-configs/models/base. `cargo nextest run --test tasks`
compares every request.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A script beside this one is called like the package it imports.
sys.path.pop(0)

from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data/eval"
NAMES = ["last_word", "pronouns", "prose_written", "sums_choice", "sums_first", "sums_written"]
SYSTEM = "You add and read. Be terse."
ITEMS = 2


def requests_of(model, task, system, multiturn):
    task.set_fewshot_seed(1234)
    task.build_all_requests(
        limit=ITEMS,
        system_instruction=system,
        apply_chat_template=True,
        fewshot_as_multiturn=multiturn,
        chat_template=model.apply_chat_template,
        tokenizer_name="",
    )
    found = []
    for instance in task.instances:
        if instance.request_type == "generate_until":
            ids, _ = model.tok_batch_encode([instance.args[0]])
            found.append([instance.doc_id, ids[0].tolist()])
        elif instance.args[0] == "":
            found.append([instance.doc_id, [model.prefix_token_id], model.tok_encode(instance.args[1], False)])
        else:
            context, continuation = model._encode_pair(*instance.args)
            found.append([instance.doc_id, context, continuation])
    return found


def main():
    model = HFLM(pretrained=str(ROOT / "merge-configs/models/base"), dtype="float32", device="cpu")
    manager = TaskManager(include_path=str(DATA / "tasks"), include_defaults=False)
    kept = {}
    for template in sorted((DATA / "chat").glob("*.jinja")):
        model.tokenizer.chat_template = template.read_text()
        for name in NAMES:
            for system in (None, SYSTEM):
                for multiturn in (False, True):
                    task = manager.load([name])["tasks"][name]
                    key = f"{template.stem} {name} {'multi' if multiturn else 'one'} {'system' if system else 'plain'}"
                    kept[key] = requests_of(model, task, system, multiturn)
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in kept.items()]
    target = DATA / "chat.json"
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    main()
