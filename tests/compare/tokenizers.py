#!/usr/bin/env python3
"""Merges models of different vocabularies with mergekit 0.1.5 and with cognate, and compares.

    python3 -m venv venv && venv/bin/pip install mergekit==0.1.5
    cargo build --release
    venv/bin/python tests/compare/tokenizers.py [--cognate BINARY] [--only TEXT]

Builds byte-level BPE, sentencepiece-like BPE (byte fallback) and Unigram tokenizers and tiny random
Llamas. Embeddings and heads are compared by token to 1e-5; ids may differ, since mergekit numbers
the tokens of a union in no fixed order. Both outputs are opened with transformers; every token must
encode as it did in its model, or be named in the plan's warnings. Prints a row for each case.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.pop(0)
os.environ["COGNATE_CACHE"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    "a": ["the lowest and the newest of the lower towers were slower", "lowing cows low below the towers"] * 20,
    "b": ["def new_width(window): return window.width + 1", "we show how to grow flowers, now or never é ü"] * 20,
    "c": ["SELECT name FROM users WHERE owner = 7; new row, low row, below", "über öl und flüsse, größer"] * 20,
}
SAMPLES = sorted({word for texts in TEXTS.values() for text in texts for word in [text, *text.split()]})


def byte_level(texts, size, special):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ["</s>", *special]])
    return tok


def sentencepiece_bpe(texts, size, special):
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training alone
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], limit_alphabet=40, show_progress=False)
    tok.train_from_iterator(texts, trainer)
    made = json.loads(tok.to_str())
    made["pre_tokenizer"] = None
    made["added_tokens"] = [t for t in made["added_tokens"] if t["id"] < 3]
    tok = Tokenizer.from_str(json.dumps(made))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tok


def unigram(texts, size, special):
    tok = Tokenizer(models.Unigram())
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False)
    tok.train_from_iterator(texts, trainer)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tok


def family(folder, build, size, tied=False, padding=0):
    """Three models whose tokenizers were trained on other texts and add other tokens."""
    added = {"a": ["<|pad|>"], "b": ["<|im_start|>", "<|im_end|>"], "c": ["<|im_start|>"]}
    for seed, (name, texts) in enumerate(TEXTS.items()):
        tok = PreTrainedTokenizerFast(tokenizer_object=build(texts, size, added[name]), eos_token="</s>")
        tok.save_pretrained(folder / name)
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tok) + padding, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied, bos_token_id=None,
            eos_token_id=tok.eos_token_id)
        model = LlamaForCausalLM(config).float()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        model.save_pretrained(folder / name)


def recipe(tokenizer, names="abc", base="a", method="linear", **more):
    parts = [{"model": n, "parameters": {"weight": 0.3 + 0.2 * i}} for i, n in enumerate(names) if n != base or method == "linear"]
    made = {"merge_method": method, "models": parts, "dtype": "float32"} | more
    return made | ({"base_model": base} if base else {}) | ({"tokenizer": tokenizer} if isinstance(tokenizer, dict) else {"tokenizer_source": tokenizer})


IM = "<|im_start|>"
CASES = {
    "union": recipe("union"),
    "union, no base": recipe("union", base=None),
    "union of two, base second": recipe("union", "ab", base="b"),
    "union, task arithmetic": recipe("union", method="task_arithmetic"),
    "base": recipe("base"),
    "path": recipe("b"),
    "model": recipe({"source": "a", "tokens": {IM: {"source": "b"}}}),
    "model token": recipe({"source": "union", "tokens": {"<|new|>": {"source": {"kind": "model_token", "model": "b", "token": IM}}}}),
    "token id, forced": recipe({"source": "union", "tokens": {IM: {"source": {"kind": "model_token", "model": "a", "token_id": 7}, "force": True}}}),
    # With `source: base`, mergekit adds the token to the base's own tokenizer too and looks for its row there.
    "zero": recipe({"source": "union", "tokens": {"<|new|>": {"source": {"kind": "zero"}}}}),
    "zero, forced": recipe({"source": "union", "tokens": {"</s>": {"source": {"kind": "zero"}, "force": True}}}),
    "forced model": recipe({"source": "union", "tokens": {"</s>": {"source": "c", "force": True}}}),
    "union, padded": recipe({"source": "union", "pad_to_multiple_of": 64}),
    "base, padded": recipe({"source": "base", "pad_to_multiple_of": 128}),
}
FAMILIES = {
    "byte-level": (byte_level, 300, {}),
    "byte-level tied": (byte_level, 300, {"tied": True}),
    "byte-level taller": (byte_level, 300, {"padding": 11}),
    "sentencepiece": (sentencepiece_bpe, 360, {}),
    "unigram": (unigram, 60, {}),
}


def run_cognate(made, out):
    file = Path(f"{out}.yml")
    file.write_text(yaml.safe_dump(made))
    done = subprocess.run([ARGS.cognate, "merge", file, "-o", out, "--quiet"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cognate: {done.stderr.strip()}")


def rows(folder, name):
    tensors = {}
    for file in Path(folder).glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors.get(name)


def same_cuts(model, ours, tokens):
    """How many of these texts encode to the same token strings."""
    a, b = AutoTokenizer.from_pretrained(model), ours
    return sum(a.tokenize(text) == b.tokenize(text) for text in tokens)


def compare(made, family_name, folder):
    run_cognate(made, folder / "ours")
    options = MergeOptions(write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(made), str(folder / "theirs"), options)
    ours, theirs = (AutoTokenizer.from_pretrained(folder / w) for w in ("ours", "theirs"))
    a, b = ours.get_vocab(), theirs.get_vocab()
    problems, worst = [], 0.0
    if a.keys() != b.keys():
        problems.append(f"tokens differ: {sorted(a.keys() ^ b.keys())[:4]}")
    config = json.loads((folder / "ours/config.json").read_text())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        x, y = rows(folder / "ours", name), rows(folder / "theirs", name)
        if x is None and config["tie_word_embeddings"]:
            continue  # mergekit stores the head of tied models too
        if len(x) != config["vocab_size"] or max(a.values()) >= len(x):
            problems.append(f"{name}: {len(x)} rows, vocab_size {config['vocab_size']}, {max(a.values())}")
        pad = "pad_to_multiple_of" in made.get("tokenizer", {})
        if pad and x.shape != y.shape:
            problems.append(f"{name}: {x.shape} against {y.shape}")
        for token in a.keys() & b.keys():
            worst = max(worst, float((x[a[token]] - y[b[token]]).abs().max()))
        if pad:
            worst = max([worst, *(float((u - v).abs().max()) for u, v in zip(x[max(a.values()) + 1 :], y[len(b) :]))])
    if worst > 1e-5:
        problems.append(f"rows differ by {worst:.1e}")
    # Whatever the union: what the first model cuts to one token stays one.
    base = made.get("base_model", "a")
    source = made.get("tokenizer_source") or made["tokenizer"]["source"]
    cuts = ""
    lineage = json.loads((folder / "ours/lineage.json").read_text())["output"]["vocabulary"]
    for model in "abc" if source == "union" else ([source] if source in "abc" else [base]):
        if source == "union" and not any(p["model"] == model for p in made["models"]) and model != base:
            continue
        tok = AutoTokenizer.from_pretrained(model)
        whole = [t for t in (tok.convert_tokens_to_string([t]) for t in tok.get_vocab()) if len(tok.tokenize(t)) == 1]
        kept, kept_theirs = same_cuts(model, ours, whole), same_cuts(model, theirs, whole)
        texts, texts_theirs = same_cuts(model, ours, SAMPLES), same_cuts(model, theirs, SAMPLES)
        cuts += f" {model}: {kept}/{len(whole)} ({kept_theirs}) {texts}/{len(SAMPLES)} ({texts_theirs})"
        if kept < len(whole) and (source != "union" or (model == base and "unigram" not in family_name)):
            problems.append(f"{len(whole) - kept} entries of {model} are cut")
    return worst, cuts, "; ".join(problems)


def main():
    failed = 0
    print("of each model: entries that stay one token (mergekit), sample texts cut alike (mergekit)")
    with tempfile.TemporaryDirectory() as temporary:
        for i, (name, (build, size, more)) in enumerate(FAMILIES.items()):
            (folder := Path(temporary, str(i))).mkdir()
            family(folder, build, size, **more)
            os.chdir(folder)
            LoaderCache().loaders.clear()  # the families' models have the same names
            for j, (case, made) in enumerate(CASES.items()):
                if ARGS.only not in f"{name}: {case}":
                    continue
                (out := folder / f"out{j}").mkdir()
                try:
                    worst, cuts, problem = compare(made, name, out)
                except Exception as error:
                    worst, cuts, problem = float("nan"), "", f"{error}".replace("\n", " | ")
                failed += bool(problem)
                print(f"{name + ': ' + case:44} {worst:8.1e} {'FAILED: ' + problem if problem else 'ok'}{cuts}", flush=True)
    print(f"{failed} failed" if failed else "all agree")
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cognate", type=Path, default=ROOT / "target/release/cognate")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    ARGS = parser.parse_args()
    ARGS.cognate = ARGS.cognate.absolute()
    sys.exit(main())
