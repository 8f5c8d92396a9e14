#!/usr/bin/env python3
"""Holds mixtures of experts to transformers: what `cognate merge` writes loads there, and computes the same.

    python3 -m venv venv && venv/bin/pip install mergekit==0.1.5   # brings transformers and torch
    cargo build --release
    venv/bin/python tests/compare/moe.py [--binary BINARY]
    venv/bin/python tests/compare/moe.py --write                   # makes tests/data/moe/gates.safetensors

Three parts, a row for each check; exits with 1 if any fails.

- Families: of random dense models, one mixture of a model with itself, and one of three models like it. Both load
  in transformers without a key missing or left over; the first gives the dense model's logits, the second the
  log-likelihoods that `cognate eval` gives. transformers 5.23 has no class for DeepSeek-MoE: a Llama whose MLPs are
  mixtures stands for it, with the names of deepseek-ai/deepseek-moe-16b-base and the arithmetic of its
  `DeepseekMoE`.
- Gates, on the trained models of `merge-configs`: `hidden` and `ridge` from what the norm before the MLP gives, in
  float64 (numpy.linalg.solve); `cheap_embed` from mergekit's own function.
- The three fine-tunes as a mixture, in transformers and here.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.pop(0)  # this folder, whose tokenizers.py is not the package of that name
os.environ["COGNATE_CACHE"] = ""  # leave nothing behind
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "merge-configs" / "models"
DATA = ROOT / "tests" / "data" / "moe"
TOLERANCE = 1e-4
RIDGE = 0.01

SIZES = dict(vocab_size=1024, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=1,
             eos_token_id=2, pad_token_id=3, initializer_range=0.15)
ROPE = dict(rope_theta=5000.0)
YARN = dict(rope_parameters=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, **ROPE))
LLAMA3 = dict(rope_parameters=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                   original_max_position_embeddings=32, **ROPE))
WINDOWS = dict(use_sliding_window=True, sliding_window=7)
MIXTRAL, QWEN, QWEN3, DEEPSEEK = "mixtral", "qwen2_moe", "qwen3_moe", "deepseek"
# name: dense model_type, config, the mixture's model_type, whether there is a shared expert
FAMILIES = {
    "Mixtral of Llama": ("llama", {}, MIXTRAL, False),
    "Mixtral of Llama, linear": ("llama", dict(rope_parameters=dict(rope_type="linear", factor=2.0, **ROPE)), MIXTRAL,
                                 False),
    "Mixtral of Llama, llama3": ("llama", LLAMA3, MIXTRAL, False),
    "Mixtral of Llama, tied": ("llama", dict(tie_word_embeddings=True, head_dim=16), MIXTRAL, False),
    "Mixtral of Mistral, window": ("mistral", dict(sliding_window=9), MIXTRAL, False),
    "Mixtral of Mistral, yarn": ("mistral", dict(sliding_window=None, **YARN), MIXTRAL, False),
    "Qwen2-MoE": ("qwen2", {}, QWEN, True),
    "Qwen2-MoE, windows from 1": ("qwen2", dict(max_window_layers=1, **WINDOWS), QWEN, True),
    "Qwen2-MoE, windows, yarn": ("qwen2", dict(max_window_layers=0, **WINDOWS, **YARN), QWEN, True),
    "Qwen3-MoE": ("qwen3", dict(head_dim=16), QWEN3, False),
    "Qwen3-MoE, windows": ("qwen3", dict(head_dim=16, max_window_layers=0, **WINDOWS), QWEN3, False),
    "Qwen3-MoE, llama3": ("qwen3", dict(head_dim=16, attention_bias=True, **LLAMA3), QWEN3, False),
    "DeepSeek-MoE": ("llama", {}, DEEPSEEK, False),
    "DeepSeek-MoE, shared, biases": (
        "llama", dict(attention_bias=True, rope_parameters=dict(rope_type="linear", factor=2.0, **ROPE)), DEEPSEEK, True),
}


class DeepseekGate(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(config["n_routed_experts"], config["hidden_size"]))


class DeepseekMixture(torch.nn.Module):
    """The mixture of deepseek-moe-16b-base: softmax over all, the best few, their weights made to sum up to 1."""

    def __init__(self, config, mlp):
        super().__init__()
        self.gate = DeepseekGate(config)
        self.chosen = config["num_experts_per_tok"]
        self.experts = torch.nn.ModuleList(mlp() for _ in range(config["n_routed_experts"]))
        if config["n_shared_experts"]:
            self.shared_experts = mlp()

    def forward(self, hidden):
        scores = torch.nn.functional.linear(hidden, self.gate.weight).softmax(-1)
        weights, chosen = scores.topk(self.chosen)
        if self.chosen > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            out = out + ((chosen == number) * weights).sum(-1, keepdim=True) * expert(hidden)
        return out + self.shared_experts(hidden) if hasattr(self, "shared_experts") else out


def deepseek(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["first_k_dense_replace"] == 0 and config["moe_layer_freq"] == 1 and config["norm_topk_prob"]
    assert config["moe_intermediate_size"] * 1 == config["intermediate_size"]
    # All that its configuration_deepseek.py reads of what a Llama's config says.
    known = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
             "attention_bias"]
    rotary = config.get("rope_scaling") or {"type": "default"}
    # Its modeling_deepseek.py knows these two, by `type` and `factor`.
    assert rotary["type"] in ("default", "linear", "dynamic")
    rotary = {"rope_type": rotary["type"], "rope_theta": config["rope_theta"], **rotary}
    dense = transformers.LlamaConfig(rope_parameters=rotary, **{key: config[key] for key in known if key in config})
    model = transformers.LlamaForCausalLM(dense)
    mlp = type(model.model.layers[0].mlp)
    for layer in model.model.layers:
        layer.mlp = DeepseekMixture(config, lambda: mlp(dense))
    found = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return model.float().eval(), set(found.missing_keys), set(found.unexpected_keys)


def load(folder):
    """The model in float32, and the keys that are missing or left over."""
    if json.loads((folder / "config.json").read_text())["model_type"] == DEEPSEEK:
        return deepseek(folder)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["mismatched_keys"], info["mismatched_keys"]
    return model.eval(), set(info["missing_keys"]), set(info["unexpected_keys"])


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def likelihood(model, ids):
    rows = logits(model, ids)[:-1].double().log_softmax(-1)
    return rows[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum().item()


class Report:
    def __init__(self):
        self.failed = False

    def row(self, title, figures, good):
        self.failed |= not good
        print(f"{title:<34} {figures}{'' if good else '  FAILED'}")


def run(binary, folder, *args):
    done = subprocess.run([str(binary), *map(str, args)], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"cognate {' '.join(map(str, args))}\n{done.stderr}")
    return done.stdout


def build(binary, folder, recipe, out):
    # JSON is YAML.
    (folder / f"{out}.yml").write_text(json.dumps(recipe))
    run(binary, folder, "merge", f"{out}.yml", "-o", out, "--quiet", "--no-eval", "--overwrite")
    return folder / out


def ours(binary, folder, model, texts):
    """Log-likelihoods of texts by `cognate eval`."""
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "texts.yml").write_text(json.dumps({
        "task": "texts", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "texts.jsonl"}},
        "test_split": "test", "output_type": "loglikelihood_rolling", "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}], "metadata": {"version": 1}}))
    run(binary, folder, "eval", model, "--task", "texts.yml", "--samples", "samples.jsonl", "--no-record", "--quiet")
    return [json.loads(line)["lls"][0] for line in (folder / "samples.jsonl").read_text().splitlines()]


def dense(folder, name, model_type, more, like=None):
    """A random model, or one whose weights are a little off another's; the trained models' tokenizer."""
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **more})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if like is not None:
        with torch.no_grad():
            for own, other in zip(model.parameters(), like.parameters()):
                own.copy_(other + 0.02 * torch.randn_like(other))
    else:
        with torch.no_grad():
            for tensor_name, tensor in model.named_parameters():
                if tensor_name.endswith("bias") or "norm" in tensor_name:
                    tensor.add_(0.1 * torch.randn_like(tensor))
    model.save_pretrained(folder / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name / file).write_bytes((MODELS / "base" / file).read_bytes())
    return model.eval()


TEXTS = ["It was a bright cold day in April, and the clocks were striking thirteen.", "def main():\n    return 1",
         "12+30=42", "import os\nimport sys\n"]
PROMPTS = [["It was late.", "She said"], ["def main(argv):", "import sys"], ["1+2=3"]]


def families(binary, report, only):
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "base")
    for title, (model_type, more, mixture, shared) in FAMILIES.items():
        if only not in title:
            continue
        torch.manual_seed(1)
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            base = dense(folder, "base", model_type, more)
            for name in ("one", "two", "three"):
                dense(folder, name, model_type, more, base)

            def recipe(experts, **keys):
                listed = [{"source_model": name, "positive_prompts": texts} for name, texts in zip(experts, PROMPTS)]
                family = {"architecture": mixture, "base_model": "base"}
                extra = {"shared_experts": [{"source_model": "base", "residual_scale": keys.pop("residual")}]}
                return {**family, **keys, "experts": listed, **(extra if shared else {})}

            ids = tokenizer(" ".join(TEXTS)).input_ids[:100]
            expected, worst, keys = logits(base, ids), 0.0, set()
            for chosen in (2,) if mixture == DEEPSEEK else (1, 2):
                for gates in ("hidden", "random", "ridge"):
                    same = recipe(["base"] * 3, gate_mode=gates, experts_per_token=chosen, residual=0.0)
                    model, missing, left = load(build(binary, folder, same, "same"))
                    keys |= missing | left
                    worst = max(worst, (logits(model, ids) - expected).abs().max().item())
            three = recipe(["one", "two", "three"], gate_mode="hidden_avg", gate_scale=5, residual=0.5)
            model, missing, left = load(build(binary, folder, three, "mixed"))
            keys |= missing | left
            theirs = [likelihood(model, [1] + tokenizer(text, add_special_tokens=False).input_ids) for text in TEXTS]
            apart = max(abs(a - b) for a, b in zip(ours(binary, folder, "mixed", TEXTS), theirs))
            moved = (logits(model, ids) - expected).abs().max().item()
        good = worst <= TOLERANCE and apart <= 1e-3 and not keys and moved > 0.01
        keys = "no key missing or left over" if not keys else f"keys {sorted(keys)[:3]}"
        report.row(title, f"{keys}; same experts {worst:.1e}; log-likelihoods of three {apart:.1e}", good)


def prompts():
    return json.loads((DATA / "prompts.json").read_text())["experts"]


def representations(model, tokenizer, text):
    """What each layer's router reads of a text, in float64: layers × tokens × hidden."""
    heard = []
    hooks = [layer.post_attention_layernorm.register_forward_hook(lambda _, __, out: heard.append(out[0]))
             for layer in model.model.layers]
    ids = tokenizer(tokenizer.bos_token + text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(heard).numpy()


def references():
    """The rows of routers by layer, for each gate mode."""
    from mergekit.common import ModelReference
    from mergekit.moe.config import Expert
    from mergekit.moe.router import get_gate_params

    base = MODELS / "base"
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, attn_implementation="eager").eval()
    read = lambda texts: [representations(model, tokenizer, text) for text in texts]
    found = {}
    for mode, take in (("hidden_last", lambda x: x[:, -1]), ("hidden_avg", lambda x: x.mean(1))):
        rows = []
        for expert in prompts():
            row = numpy.mean([take(x) for x in read(expert["positive"])], 0)
            if expert["negative"]:
                row = row - numpy.mean([take(x) for x in read(expert["negative"])], 0)
            rows.append(row / numpy.linalg.norm(row, axis=-1, keepdims=True))
        found[mode] = numpy.stack(rows, 1)
    tokens = [numpy.concatenate(read(expert["positive"]), 1) for expert in prompts()]
    layers = []
    for layer in range(len(model.model.layers)):
        # Each expert's tokens count as much as any other's.
        square = sum(x[layer].T @ x[layer] / x.shape[1] for x in tokens)
        right = numpy.stack([x[layer].mean(0) for x in tokens], 1)
        ridge = RIDGE * numpy.trace(square) / len(square) * numpy.eye(len(square))
        layers.append(numpy.linalg.solve(square + ridge, right).T)
    found["ridge"] = numpy.stack(layers)
    experts = [Expert(source_model=ModelReference.parse(str(base)), positive_prompts=expert["positive"],
                      negative_prompts=expert["negative"] or None) for expert in prompts()]
    cheap = get_gate_params(ModelReference.parse(str(base)), tokenizer, experts, mode="cheap_embed")
    found["cheap_embed"] = cheap.double().numpy()
    return found


def gates(binary, report):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for mode, expected in references().items():
            negative = mode != "ridge"
            experts = [{"source_model": str(ROOT / "merge-configs" / expert["model"]),
                        "positive_prompts": expert["positive"],
                        **({"negative_prompts": expert["negative"]} if negative else {})} for expert in prompts()]
            recipe = {"base_model": str(MODELS / "base"), "gate_mode": mode, "dtype": "float32", "experts": experts}
            made = load_file(build(binary, folder, recipe, "gates") / "model.safetensors")
            worst = 0.0
            for layer, rows in enumerate(expected):
                own = made[f"model.layers.{layer}.block_sparse_moe.gate.weight"].double().numpy()
                worst = max(worst, numpy.abs(own - rows).max() / numpy.abs(rows).max())
            report.row(f"gates: {mode}", f"within {worst:.1e} of the greatest element", worst <= TOLERANCE)


def routing(binary, folder, model, tokenizer, texts):
    """By how much `cognate route` counts otherwise than transformers' routers choose, and how much there is."""
    (folder / "routed.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = json.loads(run(binary, folder, "route", "mixed", "--data", "all=routed.jsonl", "--json"))
    counts = [torch.zeros(found["experts"], dtype=torch.long) for _ in model.model.layers]

    def count(number):
        def hear(gate, inputs):
            scores = inputs[0].reshape(-1, inputs[0].shape[-1]) @ gate.weight.T
            chosen = scores.topk(found["experts_per_token"]).indices.flatten()
            counts[number] += torch.bincount(chosen, minlength=found["experts"])
        return hear

    hooks = [layer.mlp.gate.register_forward_pre_hook(count(number)) for number, layer in enumerate(model.model.layers)]
    for text in texts:
        logits(model, [1] + tokenizer(text, add_special_tokens=False).input_ids)
    for hook in hooks:
        hook.remove()
    own = [torch.tensor(layer["received"]) for layer in found["sets"][0]["layers"]]
    return sum((a - b).abs().sum().item() for a, b in zip(own, counts)), sum(x.sum().item() for x in counts)


def trained(binary, report):
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "base")
    names = ("prose", "code")
    texts = [json.loads(line)["text"] for name in names
             for line in (ROOT / "merge-configs" / "eval" / f"{name}.jsonl").read_text().splitlines()[:10]]
    texts = [text[:300] for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for mode in ("hidden", "ridge"):
            experts = [{"source_model": str(ROOT / "merge-configs" / expert["model"]),
                        "positive_prompts": expert["positive"]} for expert in prompts()]
            recipe = {"base_model": str(MODELS / "base"), "gate_mode": mode, "experts": experts}
            model, missing, left = load(build(binary, folder, recipe, "mixed"))
            theirs = [likelihood(model, [1] + tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
            routed = routing(binary, folder, model, tokenizer, texts)
            pairs = list(zip(ours(binary, folder, "mixed", texts), theirs))
            worst = max(abs(a - b) / abs(b) for a, b in pairs)
            report.row(f"trained: {mode}", f"{len(pairs)} log-likelihoods within {worst:.1e} of themselves; "
                       f"of {routed[1]} choices {routed[0]} others",
                       worst <= TOLERANCE and not missing and not left and routed[0] <= routed[1] / 1000)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "cognate", type=lambda path: Path(path).resolve())
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="", help="families whose names hold this; gates, trained")
    args = parser.parse_args()
    if args.write:
        rows = {f"{mode}.{layer}": torch.tensor(rows).float().contiguous()
                for mode, layers in references().items() for layer, rows in enumerate(layers)}
        save_file(rows, DATA / "gates.safetensors")
        print(f"{len(rows)} routers")
        return
    report = Report()
    families(args.binary, report, args.only)
    if args.only in "gates":
        gates(args.binary, report)
    if args.only in "trained":
        trained(args.binary, report)
    sys.exit(report.failed)


main()
