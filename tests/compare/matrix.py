#!/usr/bin/env python3
"""Holds the methods on whole matrices to torch.linalg.svd in float64 on a small trained family.

    python3 -m venv venv && venv/bin/pip install torch numpy safetensors pyyaml
    cargo build --release
    venv/bin/python tests/compare/matrix.py --models FOLDER [--cognate BINARY] [--only TEXT]

Each method is computed from the formulas of its authors' code, on the library's full decompositions,
and compared with what `cognate merge` writes in float32; wudi also with the authors' descent (300 steps
of Adam from the sum). The largest differences found are 3e-7, and 3e-5 for svc behind tsv_m, whose
singular values lie close together. Prints the largest differences of weight matrices of layers, relative to the
largest element of the merged task vector, and of all other tensors; exits with 1 where one is too large.
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

os.environ["COGNATE_CACHE"] = ""  # leave no digests behind
# Singular vectors belong to float32 elements: what separates them is a thousandth of the values, at times.
TOLERANCE = 1e-4
FINE_TUNES = ["ft-prose", "ft-code", "ft-math"]


def svd(matrix):
    return torch.linalg.svd(matrix, full_matrices=False)


def polar(matrix):
    u, _, v = svd(matrix)
    return u @ v


def iso_c(tasks):
    u, s, v = svd(sum(tasks))
    return s.mean() * (u @ v)


def side_by_side(parts):
    """Left vectors, values and right vectors of several matrices, both sides made orthonormal."""
    u = torch.cat([u for u, _, _ in parts], 1)
    s = torch.cat([s for _, s, _ in parts])
    v = torch.cat([v for _, _, v in parts], 0)
    return polar(u), s, polar(v)


def first(parts, count):
    u, s, v = parts
    return u[:, :count], s[:count], v[:count]


def iso_cts(tasks, fraction=0.8):
    side = min(tasks[0].shape)
    common = int(side * fraction)
    common = side - round((side - common) / len(tasks)) * len(tasks)
    each = (side - common) // len(tasks)
    top = first(svd(sum(tasks)), common)
    own = [first(svd(task - top[0] @ (top[0].T @ task)), each) for task in tasks]
    u, s, v = side_by_side(own + [top])
    return s.sum() / side * (u @ v)


def tsv_m(tasks):
    count = int(min(tasks[0].shape) / len(tasks))
    u, s, v = side_by_side([first(svd(task), count) for task in tasks])
    return u @ torch.diag(s) @ v


def wudi_loss(merged, tasks):
    return sum(((merged - task) @ task.T).square().sum() / task.square().sum() for task in tasks)


def wudi(tasks):
    """The minimum, by the eigenvectors of the quadratic."""
    start, columns = sum(tasks), tasks[0].shape[1]
    grams = [task.T @ task / task.square().sum() for task in tasks]
    values, vectors = torch.linalg.eigh(sum(grams))
    right = -sum((start - task) @ gram for task, gram in zip(tasks, grams))
    ridge = 0.1 * len(tasks) / columns
    return start + (right @ vectors / (values + ridge)) @ vectors.T


def wudi_descent(tasks, steps=300, rate=1e-5):
    merged = torch.nn.Parameter(sum(tasks).clone())
    adam = torch.optim.Adam([merged], lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        wudi_loss(merged, tasks).backward()
        adam.step()
    return merged.data


def subspace_boosting(merged, tasks, beta=0.01):
    u, s, v = svd(merged)
    cut = (s.cumsum(0) / s.sum() >= beta).nonzero()[0].item()
    return u @ torch.diag(s.clamp(min=s[cut])) @ v


def svc(merged, tasks, alpha=0.1):
    u, s, v = svd(merged)
    response = u.T @ merged
    counts = []
    for task in tasks:
        own = u.T @ task
        counts.append(((response * own).sum(1) / own.square().sum(1)).clamp(min=alpha))
    return u @ torch.diag(s * len(tasks) / sum(counts)) @ v


METHODS = {"iso_c": iso_c, "iso_cts": iso_cts, "tsv_m": tsv_m, "wudi": wudi, "task_arithmetic": sum}
POSTS = {"subspace_boosting": (subspace_boosting, {"beta": 0.3}), "svc": (svc, {"alpha": 0.1})}
CASES = [(name, None) for name in METHODS if name != "task_arithmetic"]
CASES += [("task_arithmetic", "subspace_boosting"), ("task_arithmetic", "svc"), ("tsv_m", "svc")]


def is_matrix(name, tensor):
    return tensor.ndim == 2 and any(part.isdigit() for part in name.split("."))


def expected(name, base, tuned, method, post):
    # Task vectors are taken in float32, as the tool defines them.
    tasks = [(model[name].float() - base[name].float()).double() for model in tuned]
    origin = base[name].double()
    if not is_matrix(name, base[name]):
        if method == "wudi":
            return origin, tasks
        total = sum(tasks)
        return origin + (total if method == "task_arithmetic" else total / len(tasks)), tasks
    merged = METHODS[method](tasks)
    if post:
        change, parameters = POSTS[post]
        merged = change(merged, tasks, **parameters)
    return origin + merged, tasks


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cognate", default=Path(__file__).resolve().parents[2] / "target/release/cognate")
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    load = lambda name: load_file(args.models / name / "model.safetensors")
    base, tuned = load("base"), [load(name) for name in FINE_TUNES]
    failed = False
    for method, post in CASES:
        title = " + ".join(filter(None, [method, post]))
        if args.only not in title:
            continue
        recipe = {"merge_method": method, "base_model": "base", "dtype": "float32",
                  "models": [{"model": name} for name in FINE_TUNES]}
        if method == "task_arithmetic":
            recipe["parameters"] = {"weight": 1.0}
        if post:
            recipe[post] = POSTS[post][1]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "recipe.yml"
            file.write_text(yaml.safe_dump(recipe))
            command = [args.cognate, "merge", file, "-o", f"{folder}/out", "--quiet", "--digests", "none", "--no-eval"]
            done = subprocess.run(command, cwd=args.models, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{title}: {done.stderr}")
            out = load_file(f"{folder}/out/model.safetensors")
        worst = {True: (0.0, "-"), False: (0.0, "-")}
        descent = []
        for name in base:
            wanted, tasks = expected(name, base, tuned, method, post)
            matrix = is_matrix(name, base[name])
            scale = (wanted - base[name].double()).abs().max().item() if matrix else wanted.abs().max().item()
            difference = (out[name].double() - wanted).abs().max().item() / (scale or 1.0)
            worst[matrix] = max(worst[matrix], (difference, name))
            if method == "wudi" and matrix:
                down = wudi_descent(tasks)
                losses = [wudi_loss(x, tasks).item() for x in (sum(tasks), down, wanted - base[name].double())]
                descent.append((losses[1] / losses[0], losses[2] / losses[0], (down - (wanted - base[name].double())).norm().item() / down.norm().item()))
        bad = max(worst.values())[0] > TOLERANCE
        failed |= bad
        print(f"{title:<36} matrices {worst[True][0]:.1e} ({worst[True][1]})  others {worst[False][0]:.1e}{'  FAILED' if bad else ''}")
        if descent:
            loss, least, apart = (sum(x) / len(descent) for x in zip(*descent))
            print(f"  loss over the sum's: 300 steps of Adam {loss:.3f}, the minimum {least:.3f}; "
                  f"distance between the two {apart:.2f} of the norm")
    sys.exit(failed)


main()
