"""Holds `cognate fisher` against PyTorch on a trained model: the same documents, the same draws of labels.

    python tests/compare/fisher.py BINARY [MODEL] [DATA.jsonl]

Needs numpy, torch and transformers. Labels are drawn here as docs/evaluator.md says, from PyTorch's own
predictions in float64; gradients are PyTorch's.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.pop(0)  # this folder, whose tokenizers.py is not the package of that name

import torch
import transformers as T
from safetensors import safe_open

ROOT = pathlib.Path(__file__).parent.parent.parent
SEED, SAMPLES, LENGTH = 11, 6, 96
MASK = 0xFFFFFFFF


def philox(block, key, nonce):
    """Philox4x32-10 (Salmon et al. 2011): the four words of a block."""
    c = [block & MASK, block >> 32, *nonce]
    k = list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def number(stream, element):
    """The 32-bit number of an element, as docs/architecture.md numbers them."""
    key, nonce = stream
    g, rest = divmod(element, 128)
    h, rest = divmod(rest, 64)
    w, b = divmod(rest, 16)
    half = lambda block: philox(block, key, nonce)[w] >> (16 * h) & 0xFFFF
    return half(16 * g + b) << 16 | half((1 << 63) + 16 * g + b)


def labels(line, logits):
    digest = hashlib.sha256(b"cognate fisher labels\0" + SEED.to_bytes(8, "little") + line.to_bytes(8, "little")).digest()
    words = [int.from_bytes(digest[4 * i:4 * i + 4], "little") for i in range(4)]
    stream = (words[:2], words[2:])
    drawn = []
    for position, p in enumerate(torch.softmax(logits, -1)):
        uniform = (number(stream, position) + 0.5) / 2**32
        drawn.append(int((p.cumsum(0) > uniform * p.sum()).int().argmax()))
    return torch.tensor(drawn)


def main(binary, folder, data):
    tokenizer = T.AutoTokenizer.from_pretrained(folder)
    model = T.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    lines = [(i, tokenizer(json.loads(line)["text"]).input_ids[:LENGTH])
             for i, line in enumerate(open(data)) if line.strip()]
    lines = [(i, ids) for i, ids in lines if len(ids) > 1][:SAMPLES]
    for kind in ["model", "data"]:
        sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for line, ids in lines:
            ids = torch.tensor(ids)
            model.zero_grad()
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0]
            chosen = labels(line, logits.detach()) if kind == "model" else ids[1:]
            torch.log_softmax(logits, -1)[torch.arange(len(chosen)), chosen].sum().backward()
            for name, p in model.named_parameters():
                sums[name] += p.grad ** 2
        with tempfile.TemporaryDirectory() as out:
            path = f"{out}/fisher.safetensors"
            subprocess.run([binary, "fisher", str(folder), "--data", str(data), "-o", path, "--samples", str(SAMPLES),
                            "--length", str(LENGTH), "--seed", str(SEED), "--labels", kind], check=True)
            worst = relative = 0.0
            with safe_open(path, "pt") as file:
                assert set(file.keys()) == set(sums), set(file.keys()) ^ set(sums)
                for name, expected in sums.items():
                    expected = expected / len(lines)
                    apart = (file.get_tensor(name).double() - expected).abs()
                    worst = max(worst, float((apart / (1e-3 * expected + 1e-6 * expected.max())).max()))
                    relative = max(relative, float(apart.norm() / expected.norm()))
            print(f"labels {kind}: {worst:.3f} of the bound, a tensor's norm within {relative:.1e}")
            assert worst < 1


if __name__ == "__main__":
    models = ROOT / "merge-configs" / "models" / "ft-prose"
    prose = ROOT / "tests" / "data" / "eval" / "prose.jsonl"
    given = sys.argv[2:]
    main(sys.argv[1], pathlib.Path(given[0]) if given else models, pathlib.Path(given[1]) if given[1:] else prose)
