"""Makes tests/data/golden/*/gram.safetensors: the Gram matrices of what goes into the linear maps of the tiny
checkpoints, by PyTorch in float64.

    python tests/golden/make_gram.py [NAME ...]

Needs torch and transformers (made with 2.15 and 5.23), and what make_logits.py made. For the weight of every
linear map: the sum over all tokens of three documents of xᵀx, divided by the number of tokens. Of each matrix,
every 61st element is stored, so that files stay small.
"""

import pathlib
import sys
import tempfile

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from make_fisher import ROOT, documents, model_of
from make_logits import split_experts

STRIDE = 61


class Listener:
    """Sums products of what goes into linear maps, by where their weights are in memory."""

    def __init__(self, model):
        self.sums, self.weights = {}, {}
        self.linear = torch.nn.functional.linear
        self.places = [(p.data_ptr(), p.data_ptr() + p.nbytes) for p in model.parameters()]
        for module in model.modules():
            if isinstance(module, Conv1D) or type(module).__name__ == "FalconLinear":
                module.register_forward_pre_hook(lambda module, x: self.hear(x[0], module.weight))
            # This router multiplies with a copy of its weight.
            if type(module).__name__ == "DeepseekV2Moe":
                module.register_forward_pre_hook(lambda module, x: self.hear(x[0], module.gate.weight))

    def hear(self, x, weight):
        if not any(start <= weight.data_ptr() < end for start, end in self.places):
            return
        rows = x.detach().reshape(-1, x.shape[-1]).double()
        place = weight.data_ptr()
        self.weights[place] = weight
        self.sums[place] = self.sums.get(place, 0) + rows.T @ rows

    def __enter__(self):
        def linear(x, weight, bias=None):
            self.hear(x, weight)
            return self.linear(x, weight, bias)

        torch.nn.functional.linear = linear
        return self

    def __exit__(self, *_):
        torch.nn.functional.linear = self.linear


def stored(model, name):
    """The model's tensors under the names of the checkpoint."""
    if name == "deepseek":
        return split_experts(model.state_dict(), model.config)
    with tempfile.TemporaryDirectory() as out:
        model.save_pretrained(out)
        with safe_open(pathlib.Path(out) / "model.safetensors", "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}


def grams(folder, sequences):
    model = model_of(folder).eval()
    with torch.no_grad(), Listener(model) as listener:
        for ids in sequences:
            model(input_ids=torch.tensor([ids]), use_cache=False)
    # A head that is the embedding is no linear map of its own.
    listener.sums.pop(model.get_input_embeddings().weight.data_ptr(), None)
    tokens = sum(map(len, sequences))
    # Numbers written all over a weight show under which names it is stored.
    places = list(listener.sums)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        for number, place in enumerate(places):
            listener.weights[place].fill_(number + 1)
    found = {}
    for name, tensor in stored(model, folder.name).items():
        numbers = tensor.unique().tolist()
        if numbers[-1] > 0:
            assert len(numbers) == 1, (name, numbers)
            found[name] = listener.sums[places[int(numbers[0]) - 1]] / tokens
    return found


def main(names):
    for folder in sorted(ROOT.iterdir()):
        if (names and folder.name not in names) or folder.name == "mamba":
            continue
        found = grams(folder, documents())
        print(folder.name, len(found), "weights")
        save_file({name: t.flatten()[::STRIDE].float().contiguous() for name, t in found.items()},
                  folder / "gram.safetensors")


if __name__ == "__main__":
    main(sys.argv[1:])
