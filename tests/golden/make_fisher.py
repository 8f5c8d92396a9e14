"""Makes tests/data/golden/*/fisher.safetensors: the empirical Fisher information of the tiny checkpoints,
by PyTorch's autograd in float64.

    python tests/golden/make_fisher.py [NAME ...]

Needs torch and transformers (made with 2.15 and 5.23), and what make_logits.py made. For every weight:
the mean over three documents of the squared gradient of the sum of the log-likelihoods of the document's
own next tokens. Of each tensor, every ninth element is stored, so that files stay small.
"""

import json
import pathlib
import sys
import tempfile

import torch
import transformers as T
from safetensors import safe_open
from safetensors.torch import save_file

from make_logits import VARIANTS, mixture, split_experts

ROOT = pathlib.Path(__file__).parent.parent / "data" / "golden"
STRIDE = 9
# Tokens of document d: 3 + (i·37 + d·11) mod 61. One length, since frequencies of the dynamic rotary
# scaling depend on what transformers saw before.
LENGTH, DOCUMENTS = 17, 3


def documents():
    return [[3 + (i * 37 + d * 11) % 61 for i in range(LENGTH)] for d in range(DOCUMENTS)]


def deepseek(folder):
    """The model that make_logits.py puts together, with the stored weights."""
    _, config_class, arguments = VARIANTS["deepseek"]
    model = T.LlamaForCausalLM(config_class(**arguments, attn_implementation="eager"))
    mixture(model, model.config)
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    state = {}
    for name in model.state_dict():
        stem, _, last = name.rpartition(".")
        experts = range(sum(key.startswith(f"{stem}.") and key.endswith("up_proj.weight") for key in stored))
        part = lambda i, kind: stored[f"{stem}.{i}.{kind}.weight"]
        if last == "gate_up_proj":
            state[name] = torch.stack([torch.cat([part(i, "gate_proj"), part(i, "up_proj")]) for i in experts])
        elif last == "down_proj":
            state[name] = torch.stack([part(i, "down_proj") for i in experts])
        else:
            state[name] = stored[name]
    model.load_state_dict(state)
    return model.double()


def model_of(folder):
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] == "deepseek":
        return deepseek(folder)
    # Falcon's eager attention adds linear biases twice in transformers 5.23; its default does not.
    attention = "sdpa" if folder.name == "falcon_alibi" else "eager"
    kind = getattr(T, config["architectures"][0])
    return kind.from_pretrained(folder, dtype=torch.float64, attn_implementation=attention,
                                experts_implementation="eager")


def fisher(folder):
    model = model_of(folder).eval()
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for ids in documents():
        model.zero_grad()
        logits = model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits[0].double()
        chosen = torch.log_softmax(logits, -1)[torch.arange(LENGTH - 1), torch.tensor(ids[1:])]
        chosen.sum().backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                sums[name] += p.grad.double() ** 2
    # Saving the sums as if they were the weights gives them the names and shapes of the files.
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(sums[name] / DOCUMENTS)
    if folder.name == "deepseek":
        return split_experts(model.state_dict(), model.config)
    with tempfile.TemporaryDirectory() as out:
        model.save_pretrained(out)
        with safe_open(pathlib.Path(out) / "model.safetensors", "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}


def main(names):
    for folder in sorted(ROOT.iterdir()):
        if (names and folder.name not in names) or folder.name == "mamba":
            continue
        found = fisher(folder)
        with safe_open(folder / "model.safetensors", "pt") as stored:
            missing = set(stored.keys()) - set(found)
        print(folder.name, len(found), "tensors", f"missing {sorted(missing)}" if missing else "")
        save_file({name: t.flatten()[::STRIDE].float().contiguous() for name, t in found.items()},
                  folder / "fisher.safetensors")


if __name__ == "__main__":
    main(sys.argv[1:])
