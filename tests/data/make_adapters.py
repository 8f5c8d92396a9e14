"""Makes the golden files of tests/adapters.rs: a tiny model, adapters of every kind, and what PEFT
merges them to in float32.

    python tests/data/make_adapters.py [CASE]

Needs torch, peft 0.21, transformers and safetensors. Writes tests/data/adapters/: `base` (a model),
and for each case a folder with the adapter as PEFT saves it and `merged.safetensors`, which holds the
tensors that merging changed. `stacked` is merged onto the result of `plain`. `pickled` is `saved` as
PEFT writes it without safetensors, which leaves a file that PyTorch reads; the argument `pickled`
makes that one alone. `lora-math.safetensors`
holds SAMPLES elements, evenly spaced, of each tensor that merge-configs/models/lora-math changes.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

OUT = Path(__file__).parent / "adapters"
MODELS = Path(__file__).parents[2] / "merge-configs/models"
SAMPLES = 256


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 6)


class Net(nn.Module):
    """A module of each kind that LoRA targets; it is never run."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 6)
        self.q = nn.Linear(6, 10)
        self.square = nn.Linear(6, 6, bias=False)
        self.layers = nn.ModuleList(Mlp() for _ in range(2))
        self.turned = Conv1D(9, 6)
        self.turned_square = Conv1D(6, 6)
        self.conv2 = nn.Conv2d(3, 5, (2, 3))
        self.point = nn.Conv2d(3, 5, 1)
        self.conv1 = nn.Conv1d(4, 5, 3)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 13, bias=False)

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head


LINEAR = ["q", "square", "up"]
CONV = ["conv2", "point", "conv1"]
CASES = {
    "plain": dict(target_modules=LINEAR, r=2, lora_alpha=3),
    "rslora": dict(target_modules=LINEAR, r=3, lora_alpha=2, use_rslora=True),
    "patterns": dict(
        target_modules=["q", "square", "up", "down"],
        r=2,
        lora_alpha=4,
        rank_pattern={"q": 3, r"layers\.\d+\.down": 1},
        alpha_pattern={r"^layers\.1\.(up|down)": 5, "square": 0.5},
    ),
    "conv1d": dict(target_modules=["turned", "turned_square"], r=2, fan_in_fan_out=True),
    "embedding": dict(target_modules=["embed", "square"], r=2),
    "embedding_saved": dict(target_modules=["embed"], r=2),
    "conv": dict(target_modules=CONV, r=2),
    "dora": dict(target_modules=LINEAR, r=2, use_dora=True),
    "dora_conv1d": dict(target_modules=["turned", "turned_square"], r=2, use_dora=True, fan_in_fan_out=True),
    "dora_embedding": dict(target_modules=["embed"], r=2, use_dora=True),
    "dora_conv": dict(target_modules=CONV, r=2, use_dora=True),
    "saved": dict(target_modules=LINEAR, r=2, modules_to_save=["head", "norm"]),
    "bias_all": dict(target_modules=LINEAR, r=2, bias="all"),
    "bias_lora_only": dict(target_modules=["q", "up"], r=2, bias="lora_only"),
    "lora_bias": dict(target_modules=["q", "up"], r=2, lora_bias=True),
    "f16": dict(target_modules=LINEAR, r=2),
    "bf16": dict(target_modules=LINEAR, r=2),
    "stacked": dict(target_modules=["q", "down"], r=3, use_dora=True),
}


def net(state):
    model = Net()
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model.eval()


def randomise(model):
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or "magnitude" in name:
            nn.init.normal_(parameter, mean=1.0 if "magnitude" in name else 0.0, std=0.3)


def round_file(path, dtype):
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    torch.manual_seed(1)
    model = Net()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    # Every other tensor in bfloat16.
    state = {
        name: tensor.to(torch.bfloat16) if i % 2 else tensor
        for i, (name, tensor) in enumerate(sorted(model.state_dict().items()))
    }
    (OUT / "base").mkdir(parents=True)
    save_file(state, OUT / "base/model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["Net"], "model_type": "net", "tie_word_embeddings": False}
    (OUT / "base/config.json").write_text(json.dumps(config) + "\n")
    merged = {}
    for i, (case, settings) in enumerate(CASES.items()):
        torch.manual_seed(100 + i)
        base = merged["plain"] if case == "stacked" else state
        folder = OUT / case
        wrapped = get_peft_model(net(base), LoraConfig(**settings))
        randomise(wrapped)
        keep = {"save_embedding_layers": case == "embedding_saved"}
        if case == "embedding_saved":
            nn.init.normal_(wrapped.base_model.model.embed.base_layer.weight)
        wrapped.save_pretrained(folder, **keep)
        (folder / "README.md").unlink()
        if case in ("f16", "bf16"):
            dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[case]
            round_file(folder / "adapter_model.safetensors", dtype)
        result = PeftModel.from_pretrained(net(base), folder).merge_and_unload().state_dict()
        merged[case] = {name: tensor.detach().contiguous() for name, tensor in result.items()}
        changed = {
            name: tensor for name, tensor in merged[case].items() if not torch.equal(tensor, base[name].float())
        }
        assert merged[case].keys() == state.keys() and changed, case
        save_file(changed, folder / "merged.safetensors")
        print(case, sorted(load_file(folder / "adapter_model.safetensors")), "->", sorted(changed))


def pickled():
    state = load_file(OUT / "base/model.safetensors")
    adapted = PeftModel.from_pretrained(net(state), OUT / "saved")
    adapted.save_pretrained(OUT / "pickled", safe_serialization=False)
    (OUT / "pickled/README.md").unlink()
    # PEFT writes the sets of its config in any order.
    shutil.copy(OUT / "saved/adapter_config.json", OUT / "pickled/adapter_config.json")
    theirs, ours = torch.load(OUT / "pickled/adapter_model.bin"), load_file(OUT / "saved/adapter_model.safetensors")
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)


def real():
    load = lambda: AutoModelForCausalLM.from_pretrained(MODELS / "base", dtype=torch.float32)
    before = load().state_dict()
    after = PeftModel.from_pretrained(load(), MODELS / "lora-math").merge_and_unload().state_dict()
    samples = {}
    for name, tensor in after.items():
        if not torch.equal(tensor, before[name]):
            flat = tensor.detach().flatten()
            samples[name] = flat[torch.arange(SAMPLES) * flat.numel() // SAMPLES].contiguous()
    save_file(samples, OUT / "lora-math.safetensors")
    print("lora-math", len(samples))


if __name__ == "__main__":
    if sys.argv[1:] != ["pickled"]:
        main()
        real()
    pickled()
