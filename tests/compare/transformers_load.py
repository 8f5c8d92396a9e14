#!/usr/bin/env python3
"""Loads what cognate writes with transformers: the quickstart, and small models of many families.

    python3 -m venv venv && venv/bin/pip install mergekit==0.1.5   # brings transformers and torch
    cargo build --release
    venv/bin/python tests/compare/transformers_load.py [--cognate BINARY] [--models FOLDER] [--only TEXT]

A merge is worth nothing if the model does not load, or loads with a key missing: transformers then
fills in random weights and only warns. Needs no network: models of other families are built at
random. Prints a row for each check; exits with 1 if any fails.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["COGNATE_CACHE"] = ""  # leave no digests behind
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

transformers.logging.set_verbosity_error()
ROOT = Path(__file__).resolve().parents[2]
LAYERS = 3
STACK = [0, 1, 1, 2]  # the layers of slices [0, 2] and [1, 3]

# The usual sizes, under the names that Llama made common; families below rename them.
LLAMA = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=32, head_dim=8)
GPT = dict(vocab_size=64, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=32)
BERT = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
            max_position_embeddings=32)
OPT = dict(vocab_size=64, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=LAYERS,
           num_attention_heads=4, max_position_embeddings=32)
SEQ = dict(vocab_size=64, d_model=32, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_ffn_dim=48, decoder_ffn_dim=48,
           encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=32)
T5 = dict(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=LAYERS)
TIED, UNTIED = dict(tie_word_embeddings=True), dict(tie_word_embeddings=False)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
CAUSAL, MASKED, SEQ2SEQ = AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
# name: (class, model_type, config)
FAMILIES = {
    "llama": (CAUSAL, "llama", LLAMA | UNTIED),
    "llama tied": (CAUSAL, "llama", LLAMA | TIED),
    "mistral": (CAUSAL, "mistral", LLAMA | UNTIED),
    "qwen2 tied": (CAUSAL, "qwen2", LLAMA | TIED),
    "qwen2 window": (CAUSAL, "qwen2", LLAMA | UNTIED | dict(use_sliding_window=True, sliding_window=8, max_window_layers=2)),
    "qwen3": (CAUSAL, "qwen3", LLAMA | UNTIED),
    "gemma2": (CAUSAL, "gemma2", LLAMA | dict(query_pre_attn_scalar=8, sliding_window=8)),
    "gemma3": (CAUSAL, "gemma3_text", LLAMA | dict(query_pre_attn_scalar=8, sliding_window=8)),
    "phi": (CAUSAL, "phi", LLAMA),
    "phi3": (CAUSAL, "phi3", LLAMA | dict(pad_token_id=0)),
    "gpt2": (CAUSAL, "gpt2", GPT),
    "gpt2 untied": (CAUSAL, "gpt2", GPT | UNTIED),
    "gpt_neo": (CAUSAL, "gpt_neo", dict(vocab_size=64, hidden_size=32, num_layers=LAYERS, num_heads=4, window_size=8,
                max_position_embeddings=32, attention_types=[[["global", "local", "local"], 1]])),
    "gpt_neox": (CAUSAL, "gpt_neox", BERT | UNTIED),
    "gpt_neox tied": (CAUSAL, "gpt_neox", BERT | TIED),
    "gptj": (CAUSAL, "gptj", GPT | dict(rotary_dim=4)),
    "opt": (CAUSAL, "opt", OPT),
    "opt projected": (CAUSAL, "opt", OPT | dict(word_embed_proj_dim=16)),
    "bloom": (CAUSAL, "bloom", dict(vocab_size=64, hidden_size=32, n_layer=LAYERS, n_head=4)),
    "falcon": (CAUSAL, "falcon", BERT),
    "mamba": (CAUSAL, "mamba", dict(vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=LAYERS)),
    "olmoe": (CAUSAL, "olmoe", LLAMA | dict(num_experts=4, num_experts_per_tok=2, pad_token_id=0)),
    "mixtral": (CAUSAL, "mixtral", LLAMA | dict(num_local_experts=4)),
    "qwen2_moe": (CAUSAL, "qwen2_moe", LLAMA | EXPERTS | dict(shared_expert_intermediate_size=16, mlp_only_layers=[1])),
    "t5": (SEQ2SEQ, "t5", T5),
    "t5 untied, 2 decoder layers": (SEQ2SEQ, "t5", T5 | UNTIED | dict(num_decoder_layers=2)),
    "bart": (SEQ2SEQ, "bart", SEQ),
    "bert": (MASKED, "bert", BERT),
    "roberta": (MASKED, "roberta", BERT | dict(max_position_embeddings=40)),
    "distilbert": (MASKED, "distilbert", dict(vocab_size=64, dim=32, hidden_dim=48, n_layers=LAYERS, n_heads=4,
                   max_position_embeddings=32)),
}


def cognate(recipe, out, *options):
    """Merges; a dict is a recipe (JSON is YAML), anything else a file."""
    if isinstance(recipe, dict):
        file = Path(f"{out}.yml")
        file.write_text(json.dumps(recipe))
        recipe = file
    command = [ARGS.cognate, "merge", recipe, "-o", out, "--quiet", "--digests", "none", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cognate: {done.stderr.strip()}")


def stack(one, two):
    """Two slices with a layer in common, embeddings from one model and head from the other."""
    parts = [(one, [0, 2]), (two, [1, LAYERS])]
    slices = [{"sources": [{"model": str(model), "layer_range": layers}]} for model, layers in parts]
    return {"merge_method": "passthrough", "slices": slices}


def stored(folder):
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def load(kind, folder):
    """The model, with what is wrong in how it loaded or runs."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    wrong = [f"{key}: {sorted(map(str, found))[:3]}" for key, found in info.items() if found]
    config = json.loads((Path(folder) / "config.json").read_text())
    declared = config.get("dtype") or config.get("torch_dtype")
    if {str(p.dtype) for p in model.parameters()} != {f"torch.{declared}"}:
        wrong.append(f"the config says {declared}, the weights do not")
    ids = torch.arange(4, 16)[None]
    more = {"decoder_input_ids": ids} if kind is SEQ2SEQ else {}
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, **more).logits
    if logits.shape[:2] != ids.shape or not logits.isfinite().all():
        wrong.append("the logits are not finite numbers")
    return model, wrong


def heads_tied(model):
    head = model.get_output_embeddings()
    return head is not None and head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def build(kind, model_type, config, folder):
    """Two models of different seeds. Every parameter is drawn, since norms and biases would start equal."""
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = kind.from_config(AutoConfig.for_model(model_type, **config), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder / str(seed))
    return folder / "1", folder / "2"


def check_linear(kind, one, two, folder):
    """Every stored tensor is the average, tied stays tied, nothing is missing."""
    models = [{"model": str(model), "parameters": {"weight": 0.5}} for model in (one, two)]
    cognate({"merge_method": "linear", "models": models}, folder)
    merged, wrong = load(kind, folder)
    a, b, out = stored(one), stored(two), stored(folder)
    if out.keys() != a.keys():
        wrong.append(f"stored names differ: {sorted(out.keys() ^ a.keys())[:3]}")
    original = kind.from_pretrained(one)
    other = kind.from_pretrained(two).state_dict()
    # What is stored, and what transformers makes of it (its own names, tied heads filled in).
    loaded = merged.state_dict()
    for x, y, z in ((a, b, out), (original.state_dict(), other, loaded)):
        for name in x.keys() & z.keys():
            mean = (x[name].float() + y[name].float()) / 2
            if z[name].shape != mean.shape or z[name].dtype != x[name].dtype:
                wrong.append(f"{name}: another shape or dtype")
            elif not torch.allclose(z[name].float(), mean, rtol=1e-6, atol=1e-6 * float(mean.abs().max())):
                wrong.append(f"{name}: not the average")
    if heads_tied(merged) != heads_tied(original):
        wrong.append(f"tied before: {heads_tied(original)}, after: {heads_tied(merged)}")
    if merged.num_parameters() != original.num_parameters():
        wrong.append(f"{merged.num_parameters()} parameters instead of {original.num_parameters()}")
    return wrong


def layer_lists(config):
    """The config's lists with an entry for each layer."""
    lists = {key: value for key, value in config.to_dict().items() if isinstance(value, list)}
    return {key: value for key, value in lists.items() if len(value) == config.num_hidden_layers}


def check_stack(kind, one, two, folder):
    """The output has layers 0 1 of one model and 1 2 of the other, and a config that says so."""
    cognate(stack(one, two), folder)
    model, wrong = load(kind, folder)
    if model.config.num_hidden_layers != len(STACK):
        wrong.append(f"config: {model.config.num_hidden_layers} layers instead of {len(STACK)}")
    before, after = layer_lists(AutoConfig.from_pretrained(one)), layer_lists(model.config)
    for key, old in before.items():
        if after.get(key) != [old[layer] for layer in STACK]:
            wrong.append(f"config {key}: {old} became {after.get(key)}")
    a, b = stored(one), stored(two)
    out, seen = stored(folder), set()
    for name, tensor in out.items():
        if found := re.match(r"(.*?\.)(\d+)(\..*)", "." + name):
            layer = int(found[2])
            seen.add(layer)
            source = (a, b)[layer >= 2][f"{found[1]}{STACK[layer]}{found[3]}"[1:]]
            if not torch.equal(tensor, source):
                wrong.append(f"{name}: not the layer it should be")
        elif not any(torch.equal(tensor, model[name]) for model in (a, b)):
            wrong.append(f"{name}: from neither model")
    per_layer = lambda tensors: {name for name in tensors if re.search(r"\.\d+\.", "." + name)}
    if seen != set(range(len(STACK))) or len(out) - len(per_layer(out)) != len(a) - len(per_layer(a)):
        wrong.append(f"layers {sorted(seen)}, or a tensor outside the layers is lost")
    return wrong


def check_family(recipe, folder, *options):
    """A merge of the trained family: loads, with its tokenizer, and in shards where asked for."""
    cognate(recipe, folder, *options)
    model, wrong = load(CAUSAL, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("In the beginning", return_tensors="pt").input_ids
    if ids.shape[1] < 2 or tokenizer.decode(ids[0], skip_special_tokens=True).strip() != "In the beginning":
        wrong.append("the tokenizer does not give its text back")
    with torch.no_grad():
        loss = float(model.float()(input_ids=ids, labels=ids).loss)
    if not loss < 6:  # log(1024) = 6.9 is what an untrained model of this vocabulary gets
        wrong.append(f"the loss of plain English is {loss:.2f}")
    if bool(options) != (len(list(folder.glob("*.safetensors"))) > 1):
        wrong.append("sharded where it was not asked for, or not where it was")
    return wrong


def main():
    failed = 0

    def row(case, check, *arguments):
        nonlocal failed
        try:
            wrong = check(*arguments)
        except Exception as error:  # a refusal is a failed case, not the end
            wrong = [f"{type(error).__name__}: {error}".replace("\n", " | ")[:400]]
        failed += bool(wrong)
        print(f"{case:42} {'FAILED: ' + '; '.join(wrong[:4]) if wrong else 'ok'}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if ARGS.only in "quickstart":
            quickstart, models = ARGS.models.parent / "quickstart.yml", ARGS.models
            row("quickstart", check_family, quickstart, folder / "q1")
            row("quickstart in shards", check_family, quickstart, folder / "q2", "--shard-size", "300KB")
            row("quickstart models stacked", check_family, stack(models / "ft-prose", models / "ft-prose"), folder / "q3")
        for i, (name, (kind, model_type, config)) in enumerate(FAMILIES.items()):
            if ARGS.only in name:
                (here := folder / str(i)).mkdir()
                try:
                    one, two = build(kind, model_type, config, here)
                except Exception as error:  # not cognate's: the table asks transformers for too much
                    row(f"{name}: build", lambda: [str(error)])
                    continue
                row(f"{name}: linear", check_linear, kind, one, two, here / "linear")
                if kind is not SEQ2SEQ:
                    row(f"{name}: stack", check_stack, kind, one, two, here / "stack")
    print(f"{failed} failed" if failed else "all load")
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cognate", type=Path, default=ROOT / "target/release/cognate")
    parser.add_argument("--models", type=Path, default=ROOT / "merge-configs/models")
    parser.add_argument("--only", default="", help="families whose name contains this")
    ARGS = parser.parse_args()
    ARGS.cognate, ARGS.models = ARGS.cognate.absolute(), ARGS.models.absolute()
    sys.exit(main())
