#!/usr/bin/env python3
"""Merges a small trained family with mergekit 0.1.5 and with cognate, and compares every tensor.

    python3 -m venv venv && venv/bin/pip install mergekit==0.1.5
    cargo build --release
    venv/bin/python tests/compare/mergekit.py [--cognate BINARY] [--models FOLDER] [--only TEXT]

`model+adapter` and stages (against mergekit-multi's own code) are compared on float32 copies of the
models, since mergekit rounds a merged adapter, and each stage, to its model's dtype. Largest
differences found, relative to a tensor's largest element: 9.8e-8 for an adapter against PEFT's own
merge_and_unload, 7.3e-7 and (slerp with an adapted base) 2.0e-6 in recipes with one, 1.5e-6 over stages.

Methods without chance must agree to 1e-5. Those of lengths and angles are held to mergekit run in float64, element
by element; its own float32, whose sums over a tensor are the less precise the larger it is, must agree to 1e-5 of a
tensor's largest element. Largest differences found: 1.4e-7 and (karcher) 6.5e-6. Elements whose importance is Arcee
Fusion's threshold are left out; on some more its float32 decides otherwise, which are counted. Elements that tie at a
threshold of TIES or Breadcrumbs are picked arbitrarily by mergekit, so they are left out of that comparison and checked
against the formula in numpy instead; a tie at SCE's threshold changes the shares of the models, and
so the whole tensor.
DARE and DELLA draw other random numbers in each tool, so there the statistics are compared.
Prints a row for each case; exits with 1 if any fails.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
from cases import CASES, CODE, LAYERS, LORA, LORA_CASES, MATH, PROSE, STAGES, deltas, s, w
from selected import kept_elements, sce_reference

sys.path.pop(0)  # this file's folder, where `import mergekit` would find this file
os.environ["COGNATE_CACHE"] = ""  # leave no digests behind
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts.multimerge import load_config, make_tasks
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-5
GEOMETRIC = ("nuslerp", "multislerp", "karcher", "model_stock", "nearswap", "arcee_fusion")
FLOAT64 = {"dtype": "float64", "out_dtype": "float32"}
ROOT = Path(__file__).resolve().parents[2]


def load(folder):
    """All tensors of a folder; arithmetic on these is numpy's."""
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def merge_with_cognate(made, out, *options):
    """Writes the recipe (or the documents of one) beside `out` and merges; models lie in the working directory."""
    file = Path(f"{out}.yml")
    file.write_text(yaml.safe_dump_all(made if isinstance(made, list) else [made]))
    command = [ARGS.cognate, "merge", file, "-o", out, "--quiet", "--digests", "none", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cognate: {done.stderr.strip()}")
    return out


def merge_with_mergekit(made, out, seed=0):
    options = MergeOptions(
        copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=seed, lora_merge_cache=f"{out}-lora")
    LoaderCache().loaders.clear()  # models of other cases may have the same names
    if isinstance(made, list):
        between = f"{out}-stages"
        configs, needed = load_config(yaml.safe_dump_all(made), between)
        Executor(make_tasks(configs, needed, options, between, str(out), False), "cpu", "cpu").execute()
    else:
        run_merge(MergeConfiguration.model_validate(made), str(out), options)
    return out


def evaluate(setting, name, t):
    """The value of a parameter setting for a tensor: scalar, gradient or filters."""
    if isinstance(setting, list) and isinstance(setting[0], dict):
        hits = (e["value"] for e in setting if e.get("filter", "*") in ("*",) or e["filter"] in name)
        return evaluate(next(hits, None), name, t)
    if isinstance(setting, list):
        return float(np.interp(t * (len(setting) - 1), range(len(setting)), setting))
    return setting


def ties_reference(made, name, models):
    """TIES or Breadcrumbs by the formula (equal magnitudes kept in order of their index), and where ties were cut.

    With an adapter, whose product each tool rounds in its own way, all is a tie that is one within the
    rounding of the weights.
    """
    adapted = any("+" in model["model"] for model in made.get("models", []))
    layer = int(name.split(".")[2]) if ".layers." in name else None
    slices = made.get("slices") or [s(*(x | {"layer_range": [0, LAYERS]} for x in made["models"]))]
    part = slices[0] if "embed" in name else slices[-1]
    t = 0.0
    if layer is not None:
        part = next(p for p in slices if layer in range(*p["sources"][0]["layer_range"]))
        first, end = part["sources"][0]["layer_range"]
        t = (layer - first) / (end - first - 1) if end - first > 1 else 1.0

    def value(key, default, *levels):
        found = (evaluate(lv[key], name, t) for lv in (*levels, part["parameters"], made["parameters"]) if key in lv)
        return next((v for v in found if v is not None), default)

    base = models["base"][name]
    room = 4 * np.finfo(np.float32).eps * np.abs(base).max() if adapted else 0
    cut = np.zeros(base.shape, bool)
    kept, weights = [], []
    for source in part["sources"]:
        if source["model"] == "base":
            continue
        delta = models[source["model"]][name] - base
        size = np.abs(delta).ravel()
        density = value("density", 1.0, source["parameters"])
        gamma = value("gamma", 0.01, source["parameters"])
        keep, ties = kept_elements(made["merge_method"], size, density, gamma, room)
        cut |= ties.reshape(base.shape)
        sparse = delta * keep.reshape(base.shape)
        if value("rescale", False) and 0 < density < 1 and np.abs(sparse).sum() > 1e-7:
            sparse = sparse * np.float32(np.abs(delta).sum(dtype="f8") / np.abs(sparse).sum(dtype="f8"))
        weights.append(np.float32(value("weight", None, source["parameters"])))
        kept.append(sparse * weights[-1])
    cut |= (np.abs(sum(kept)) < room) & (sum(np.abs(d) for d in kept) > room)
    sign = np.where(sum(kept) >= 0, 1, -1)
    elect = made["merge_method"].endswith("ties")
    agree = [np.sign(d) == sign if elect else np.ones(d.shape, bool) for d in kept]
    merged = sum(d * a for d, a in zip(kept, agree))
    divisor = sum(np.float64(x) * a for x, a in zip(weights, agree))
    divisor = np.where(divisor == 0, 1, divisor) if value("normalize", made["merge_method"] == "ties") else 1
    return base + value("lambda", 1.0) * merged / divisor, cut


def at_threshold(made, name, models):
    """Where an importance of Arcee Fusion is the threshold, but for float32's rounding of each."""
    base = models[made["base_model"]][name]
    other = next(model["model"] for model in made["models"] if model["model"] != made["base_model"])
    a, b = (torch.from_numpy(np.float64(np.atleast_1d(x))) for x in (models[other][name], base))
    p, q = (torch.softmax(x, -1) + 1e-8 for x in (a, b))
    importance = (a - b).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    order = importance.flatten().sort().values
    low, middle, high = (order[quarter * (order.numel() - 1) // 4] for quarter in (1, 2, 3))
    threshold = middle + 1.5 * (high - low)
    return ((importance - threshold).abs() <= 1e-6 * threshold).numpy().reshape(base.shape)


def difference(a, b, use):
    """Largest difference relative to the tensor's largest element, and whether each element is close."""
    a, b = np.float64(a)[use], np.float64(b)[use]
    if not a.size:
        return 0.0, True
    rms = np.sqrt(np.mean(a**2))
    error = np.abs(a - b)
    close = bool((error <= TOLERANCE * np.maximum(np.abs(a), rms)).all())
    return float(error.max() / max(np.abs(a).max(), 1e-30)), close


def compare(made, models, folder):
    ours = load(merge_with_cognate(made, folder / "cognate", "--seed", "0"))
    exact = isinstance(made, dict) and made["merge_method"] in GEOMETRIC
    theirs = load(merge_with_mergekit(made | FLOAT64 if exact else made, folder / "mergekit"))
    if ours.keys() != theirs.keys():
        return 0.0, 0, f"names differ: {sorted(ours.keys() ^ theirs.keys())[:4]}"
    worst, excluded, wrong = 0.0, 0, []
    for name, a in theirs.items():
        b = ours[name]
        if a.shape != b.shape or str(a.dtype) != "torch.float32" or a.dtype != b.dtype:
            wrong.append(f"{name}: {a.dtype} {list(a.shape)} against {b.dtype} {list(b.shape)}")
            continue
        a, b = a.numpy(), b.numpy()
        use = np.ones(a.shape, bool)
        method = made["merge_method"] if isinstance(made, dict) else None
        if method in ("ties", "breadcrumbs", "breadcrumbs_ties", "sce"):
            expected, cut = (sce_reference if method == "sce" else ties_reference)(made, name, models)
            use, excluded = ~cut, excluded + int(cut.sum())
            relative, close = difference(expected, b, np.ones(a.shape, bool))
            if not close or relative > TOLERANCE:
                wrong.append(f"{name}: {relative:.1e} from the formula")
        if isinstance(made, dict) and made["merge_method"] == "arcee_fusion":
            cut = at_threshold(made, name, models)
            use, excluded = ~cut, excluded + int(cut.sum())
        relative, close = difference(a, b, use)
        worst = max(worst, relative)
        if not close or relative > TOLERANCE:
            wrong.append(f"{name}: {relative:.1e}")
    return worst, excluded, f"{len(wrong)} tensors differ, first {wrong[0]}" if wrong else ""


def compare_rounded(made, folder):
    """The same against mergekit's own float32: largest difference, and elements that Arcee Fusion decides otherwise."""
    ours, theirs = load(folder / "cognate"), load(merge_with_mergekit(made, folder / "mergekit-float32"))
    worst, otherwise = 0.0, 0
    for name, a in theirs.items():
        a, b = a.numpy(), ours[name].numpy()
        use = np.ones(a.shape, bool)
        if made["merge_method"] == "arcee_fusion":
            use = np.abs(a - b) <= TOLERANCE * np.abs(a).max()
            otherwise += int((~use).sum())
        worst = max(worst, difference(a, b, use)[0])
    return worst, otherwise, "" if worst <= TOLERANCE else "float32 differs"


def in_float32(folder, noise=0.0):
    """Copies the models to a folder, in float32, and the adapter as it is; with noise no two magnitudes are equal."""
    generator = torch.Generator().manual_seed(1)
    for name in ("base", PROSE, CODE, MATH, "lora-math"):
        shutil.copytree(name, folder / name)
    for name in ("base", PROSE, CODE, MATH):
        tensors = {key: tensor.float() for key, tensor in load(name).items()}
        if noise:
            tensors = {key: x + noise * torch.randn(x.shape, generator=generator) for key, x in tensors.items()}
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        file = folder / name / "config.json"
        config = json.loads(file.read_text()) | {"dtype": "float32", "torch_dtype": "float32"}
        file.write_text(json.dumps(config))
    return folder


def merged_by_peft():
    """The tensors of the base with the adapter, by PEFT alone, in float32."""
    base = AutoModelForCausalLM.from_pretrained("base", dtype="float32")
    state = PeftModel.from_pretrained(base, "lora-math").merge_and_unload().state_dict()
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


def against_peft(expected, folder):
    """The largest difference of a merge of the adapted base alone to PEFT's merge, and a problem."""
    ours = load(merge_with_cognate(LORA_CASES["lora alone"], folder / "lora-alone"))
    if ours.keys() != expected.keys():
        return 0.0, f"names differ: {sorted(ours.keys() ^ expected.keys())[:4]}"
    found = [difference(a, ours[name].numpy(), np.ones(a.shape, bool)) for name, a in expected.items()]
    worst = max(relative for relative, _ in found)
    return worst, "" if all(close for _, close in found) else "elements differ"


def near_share(found, share, what):
    """Whether the share of true values is within 5 standard deviations of the expected share."""
    sigma = (share * (1 - share) / max(found.size, 1)) ** 0.5
    ok = abs(found.mean() - share) <= 5 * sigma if found.size else True
    return "" if ok else f"{what}: share {found.mean():.4f}, expected {share}"


def dare_statistics(merged, models, density, paper):
    """One model at weight 1: the share kept, and the L1 norm or (paper) the exact values."""
    worst, problems, masks = 0.0, [], {}
    for name, base in models["base"].items():
        delta, out = models[PROSE][name] - base, merged[name].numpy()
        changed = (out != base)[delta != 0]
        masks[name] = np.where(delta != 0, out != base, np.nan)
        problems.append(near_share(changed, density, name))
        if (out != base)[delta == 0].any():
            problems.append(f"{name}: changed where the fine-tune is the base")
        got, want = np.float64(out) - base, np.float64(delta)
        if paper:
            # The sum was rounded to f32 once, hence the second term.
            error = np.abs(got - want / density)[out != base]
            room = (1e-5 * np.abs(want / density) + 1.2e-7 * np.abs(out))[out != base]
            if (error > room).any():
                problems.append(f"{name}: kept elements are not delta/density")
        elif np.abs(want).sum() and changed.any():
            relative = abs(np.abs(got).sum() / np.abs(want).sum() - 1)
            worst = max(worst, relative)
            if relative > 1e-4:
                problems.append(f"{name}: L1 norm is off by {relative:.1e}")
    same = [f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1)]
    both = masks[same[0]] + masks[same[1]]  # 0, 1 or 2 of the two kept
    agree = both[~np.isnan(both)] != 1
    problems.append(near_share(agree, density**2 + (1 - density) ** 2, "masks of two layers agree"))
    return worst, "; ".join(p for p in problems if p)


def dare(models, folder):
    """Yields (case, largest difference, problem) for density below 1."""
    for method in ("dare_linear", "dare_ties"):
        for density in (0.1, 0.5, 0.9):
            made = deltas(method, w(1.0, density), None)
            case, out = f"{method} {density}", folder / f"{method}-{density}"
            out.mkdir()
            first = merge_with_cognate(made, out / "a", "--seed", "0", "--threads", "1")
            again = merge_with_cognate(made, out / "b", "--seed", "0", "--threads", "2")
            other = merge_with_cognate(made, out / "c", "--seed", "1")
            bytes_of = lambda run: (run / "model.safetensors").read_bytes()
            yield case, *dare_statistics(load(first), models, density, False)
            theirs = load(merge_with_mergekit(made, out / "mergekit"))
            yield f"{case} in mergekit", *dare_statistics(theirs, models, density, False)
            yield f"{case} same seed", 0.0, "" if bytes_of(first) == bytes_of(again) else "bytes differ"
            yield f"{case} other seed", 0.0, "" if bytes_of(first) != bytes_of(other) else "bytes are the same"
            made["parameters"]["variant"] = "paper"
            paper = load(merge_with_cognate(made, out / "d", "--seed", "0"))
            yield f"{case} paper", *dare_statistics(paper, models, density, True)
    # Two models must not share their masks: both dropped has share (1 - density)^2.
    made = deltas("dare_linear", w(1.0, 0.5), w(1.0, 0.5), variant="paper")
    merged, dropped = load(merge_with_cognate(made, folder / "two", "--seed", "0")), []
    for name, base in models["base"].items():
        one, two = (np.abs(models[model][name] - base) for model in (PROSE, CODE))
        dropped.append((merged[name].numpy() == base)[(one > 0) & (two > 0) & (one != two)])
    yield "dare two models", 0.0, near_share(np.concatenate(dropped), 0.25, "both dropped")


def ranks_kept(merged, models, density, epsilon):
    """One model at weight 1: the largest distance of the share kept from its probability, by tenths of the ranks."""
    tenths, odds, kept = [], [], []
    for name, base in models["base"].items():
        delta = (models[PROSE][name] - base).reshape(-1, base.shape[-1])
        rank = np.argsort(np.argsort(np.abs(delta), axis=1, kind="stable"), axis=1) / (base.shape[-1] - 1)
        use = delta != 0
        tenths.append(np.minimum(10 * rank[use], 9).astype(int))
        odds.append((density - epsilon + 2 * epsilon * rank)[use])
        kept.append((merged[name].numpy() != base).reshape(delta.shape)[use])
        if (merged[name].numpy() != base).reshape(delta.shape)[~use].any():
            return 1.0, f"{name}: changed where the fine-tune is the base"
    tenths, odds, kept = map(np.concatenate, (tenths, odds, kept))
    worst, problems = 0.0, []
    for tenth in range(10):
        at = tenths == tenth
        sigma = (odds[at] * (1 - odds[at])).sum() ** 0.5 / at.sum()
        away = abs(kept[at].mean() - odds[at].mean())
        worst = max(worst, float(away))
        # Equal magnitudes have other ranks in mergekit, which blurs the tenths a little.
        if away > 5 * sigma + 2e-3:
            problems.append(f"tenth {tenth}: share {kept[at].mean():.4f}, expected {odds[at].mean():.4f}")
    problems.append(near_share(kept, odds.mean(), "all"))
    return worst, "; ".join(p for p in problems if p)


def della(models, folder):
    """Yields (case, largest distance of a share, problem) for density below 1."""
    for method, density, epsilon in (("della", 0.5, 0.2), ("della_linear", 0.3, 0.25), ("della_linear", 0.7, 0.15)):
        made = deltas(method, w(1.0, density) | {"epsilon": epsilon}, None)
        case, out = f"{method} density {density}", folder / f"{method}-{density}"
        out.mkdir()
        first = load(merge_with_cognate(made, out / "a", "--seed", "0"))
        yield case, *ranks_kept(first, models, density, epsilon)
        theirs = load(merge_with_mergekit(made, out / "mergekit"))
        yield f"{case} in mergekit", *ranks_kept(theirs, models, density, epsilon)
        for tool, merged in ("", first), (" in mergekit", theirs):
            off = [np.abs(np.float64(merged[name]) - base).sum() / np.abs(np.float64(models[PROSE][name]) - base).sum()
                   for name, base in models["base"].items() if (models[PROSE][name] != base).any()]
            worst = max(abs(ratio - 1) for ratio in off)
            yield f"{case}{tool} L1 norm", worst, "" if worst < 1e-4 else "off"


def main():
    failed = 0

    def row(case, relative, excluded, problem):
        nonlocal failed
        failed += bool(problem)
        print(f"{case:46} {relative:9.1e} {excluded:9} {'FAILED: ' + problem if problem else 'ok'}", flush=True)

    def run(case, made, folder):
        folder.mkdir()
        try:
            row(case, *compare(made, models, folder))
            if isinstance(made, dict) and made["merge_method"] in GEOMETRIC:
                row(f"{case} (float32)", *compare_rounded(made, folder))
        except Exception as error:  # a tool refused: a failed case, not the end
            row(case, float("nan"), 0, f"{error}".replace("\n", " | "))

    print(f"{'case':46} {'max rel':>9} {'excluded':>9} result")
    os.chdir(ARGS.models)
    models = {}
    for name in ("base", PROSE, CODE, MATH):
        models[name] = {key: tensor.float().numpy() for key, tensor in load(name).items()}
    with tempfile.TemporaryDirectory() as temporary:
        for i, (case, made) in enumerate(CASES.items()):
            if ARGS.only in case:
                run(case, made, Path(temporary, str(i)))
        if ARGS.only in "dare density":
            for case, relative, problem in dare(models, Path(temporary)):
                row(case, relative, 0, problem)
        if ARGS.only in "della density":
            for case, relative, problem in della(models, Path(temporary)):
                row(case, relative, 0, problem)
        chosen = {case: made for case, made in (LORA_CASES | STAGES).items() if ARGS.only in case}
        if chosen:
            (floats := Path(temporary, "float32")).mkdir()
            os.chdir(in_float32(floats))
            models[LORA] = merged_by_peft()
            worst, problem = against_peft(models[LORA], Path(temporary))
            row("lora against PEFT alone", worst, 0, problem)
        for i, (case, made) in enumerate(chosen.items()):
            run(case, made, Path(temporary, f"float{i}"))
        # Where nothing ties, nothing is left out of the comparison.
        counted = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce")
        cases = {case: made for case, made in CASES.items() if ARGS.only in case and made["merge_method"] in counted}
        if cases:
            os.chdir(ARGS.models)
            (spread := Path(temporary, "spread")).mkdir()
            os.chdir(in_float32(spread, 1e-4))
            for name in ("base", PROSE, CODE, MATH):
                models[name] = {key: tensor.numpy() for key, tensor in load(name).items()}
        for i, (case, made) in enumerate(cases.items()):
            run(f"{case}, no ties", made, Path(temporary, f"spread{i}"))
    print(f"{failed} failed" if failed else "all agree")
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cognate", type=Path, default=ROOT / "target/release/cognate")
    parser.add_argument("--models", type=Path, default=ROOT / "merge-configs/models")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    ARGS = parser.parse_args()
    ARGS.cognate, ARGS.models = ARGS.cognate.absolute(), ARGS.models.absolute()  # the working directory changes
    sys.exit(main())
