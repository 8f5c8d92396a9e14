"""Holds `cognate gram` against PyTorch on a trained model: the same documents.

    python tests/compare/gram.py BINARY [MODEL] [DATA.jsonl]

Needs torch and transformers. Products are summed here in float64 by forward hooks.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.pop(0)  # this folder, whose tokenizers.py is not the package of that name

import torch
import transformers as T
from safetensors import safe_open
from transformers.pytorch_utils import Conv1D

ROOT = pathlib.Path(__file__).parent.parent.parent
SAMPLES, LENGTH = 20, 200


def main(binary, folder, data):
    tokenizer = T.AutoTokenizer.from_pretrained(folder)
    model = T.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    documents = [tokenizer(json.loads(line)["text"]).input_ids[:LENGTH] for line in open(data) if line.strip()]
    documents = [ids for ids in documents if len(ids) > 1][:SAMPLES]
    sums = {}

    def listen(name):
        def hear(module, inputs):
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0) + rows.T @ rows
        return hear

    embedding = model.get_input_embeddings().weight.data_ptr()
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module.weight.data_ptr() != embedding:
            module.register_forward_pre_hook(listen(f"{name}.weight"))
    with torch.no_grad():
        for ids in documents:
            model(input_ids=torch.tensor([ids]), use_cache=False)
    tokens = sum(map(len, documents))
    with tempfile.TemporaryDirectory() as out:
        path = f"{out}/gram.safetensors"
        subprocess.run([binary, "gram", str(folder), "--data", str(data), "-o", path, "--samples", str(SAMPLES),
                        "--length", str(LENGTH)], check=True)
        worst = 0.0
        with safe_open(path, "pt") as file:
            same = json.loads(file.metadata()["same_as"])
            assert set(file.keys()) | set(same) == set(sums), set(file.keys()) ^ set(sums)
            for name, expected in sums.items():
                expected = expected / tokens
                apart = (file.get_tensor(same.get(name, name)).double() - expected).abs()
                worst = max(worst, float(apart.max() / expected.max()))
        print(f"{len(sums)} weights, {tokens} tokens: within {worst:.1e} of a matrix's greatest element")
        assert worst < 1e-4


if __name__ == "__main__":
    models = ROOT / "merge-configs" / "models" / "ft-prose"
    prose = ROOT / "tests" / "data" / "eval" / "prose.jsonl"
    given = sys.argv[2:]
    main(sys.argv[1], pathlib.Path(given[0]) if given else models, pathlib.Path(given[1]) if given[1:] else prose)
