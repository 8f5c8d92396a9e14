"""Holds `cognate infer` to merges whose recipes are known.

Makes merges of a trained family with mergekit 0.1.5 and with cognate, and fine-tunes; runs `cognate infer` on each,
with every member of the family as a candidate and an unrelated model as a distractor; prints the table of figures.

    python tests/compare/infer.py FAMILY WORK [--cognate target/debug/cognate] [--docs docs/infer.md] [--only NAME]
                                  [--random N]

--random adds N recipes of mergekit with parameters, models and methods drawn at random, always the same ones.

FAMILY holds base, ft-prose, ft-code, ft-math, ft-math-prose, lora-math and unrelated. Needs torch, safetensors, PyYAML and
mergekit 0.1.5 (its `mergekit-yaml` beside the Python that runs this). Merges stay in WORK and are not made again.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

# Beside this script stands a tokenizers.py, which is not the package that transformers means.
sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

import torch
import yaml
from safetensors.torch import load_file, save_file

CANDIDATES = ["base", "ft-prose", "ft-code", "ft-math", "ft-math-prose", "unrelated"]


def models(weights, **more):
    """Entries of a recipe, with a weight and further parameters each."""
    each = lambda key, i: more[key][i] if isinstance(more[key], list) else more[key]
    return [
        {"model": name, "parameters": {"weight": weight, **{key: each(key, i) for key in more}}}
        for i, (name, weight) in enumerate(weights.items())
    ]


def merge(method, weights, base=None, shared=None, **more):
    recipe = {"merge_method": method, "models": models(weights, **more), "dtype": "bfloat16"}
    if base:
        recipe["base_model"] = base
    if shared:
        recipe["parameters"] = shared
    return recipe


def slerp(a, b, t):
    return {"merge_method": "slerp", "base_model": a, "models": [{"model": a}, {"model": b}], "parameters": {"t": t}, "dtype": "bfloat16"}


def stack(*parts):
    slices = [{"sources": [{"model": model, "layer_range": [start, end]}]} for model, start, end in parts]
    return {"merge_method": "passthrough", "slices": slices, "dtype": "bfloat16"}


P, C, M, MP, B = "ft-prose", "ft-code", "ft-math", "ft-math-prose", "base"

# What both tools make.
BOTH = {
    "linear-5050": merge("linear", {P: 0.5, C: 0.5}),
    "linear-3070": merge("linear", {P: 0.3, M: 0.7}),
    "linear-85": merge("linear", {C: 0.85, M: 0.15}),
    "linear-three": merge("linear", {P: 0.5, C: 0.3, M: 0.2}),
    "linear-generations": merge("linear", {M: 0.6, MP: 0.4}),
    "linear-unnormalised": merge("linear", {P: 0.6, M: 0.6}, shared={"normalize": False}),
    "linear-gradient": merge("linear", {P: [0.2, 0.8], C: [0.8, 0.2]}),
    "slerp-half": slerp(P, C, 0.5),
    "slerp-30": slerp(M, C, 0.3),
    "slerp-layers": slerp(P, M, [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7]}, {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3]}, {"value": 0.5}]),
    "ta-two": merge("task_arithmetic", {P: 0.6, C: 0.7}, B),
    "ta-one": merge("task_arithmetic", {M: 0.4}, B),
    "ta-three": merge("task_arithmetic", {P: 0.4, C: 0.3, M: 0.5}, B),
    "ta-negative": merge("task_arithmetic", {P: 1.0, C: -0.4}, B),
    "ties-two": merge("ties", {P: 0.5, C: 0.5}, B, density=0.5),
    "ties-uneven": merge("ties", {P: 0.7, M: 0.3}, B, density=[0.3, 0.6]),
    "ties-three": merge("ties", {P: 0.4, C: 0.3, M: 0.3}, B, density=0.4),
    "ties-sparse": merge("ties", {C: 0.5, M: 0.5}, B, density=0.2),
    "ties-sum": merge("ties", {P: 0.6, C: 0.5}, B, density=0.6, shared={"normalize": False}),
    "dare-linear-two": merge("dare_linear", {P: 0.5, C: 0.5}, B, density=0.5),
    "dare-linear-one": merge("dare_linear", {M: 0.8}, B, density=0.3),
    "dare-linear-uneven": merge("dare_linear", {P: 0.4, M: 0.7}, B, density=[0.3, 0.7]),
    "dare-ties-two": merge("dare_ties", {P: 0.6, C: 0.4}, B, density=0.5),
    "dare-ties-three": merge("dare_ties", {P: 0.4, C: 0.4, M: 0.4}, B, density=0.6),
    "stack-two": stack((P, 0, 3), (C, 1, 4)),
    "stack-self": stack((M, 0, 3), (M, 1, 4)),
    "stack-three": stack((P, 0, 2), (C, 1, 3), (M, 2, 4)),
    "stack-same-depth": stack((P, 0, 2), (M, 2, 4)),
    "copy": {"merge_method": "passthrough", "models": [{"model": C}], "dtype": "bfloat16"},
}

# What cognate alone makes here.
OURS = {
    "nuslerp": merge("nuslerp", {P: 0.35, M: 0.65}),
    "della": merge("della", {P: 0.5, C: 0.5}, B, density=0.5, epsilon=0.2),
    "della-linear": merge("della_linear", {P: 0.6, M: 0.6}, B, density=0.5, epsilon=0.25),
    "breadcrumbs": merge("breadcrumbs", {P: 0.6, C: 0.6}, B, density=0.6, gamma=0.05),
    "lora-merged": {"merge_method": "passthrough", "models": [{"model": "base+lora-math"}], "dtype": "bfloat16"},
}


def drawn(count):
    """Recipes with everything but the base drawn at random."""
    rng = random.Random(20)
    methods = ["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "passthrough"]
    for at in range(count):
        method = methods[at % len(methods)]
        some = rng.sample([P, C, M, MP], 2 if method == "slerp" else rng.choice([2, 2, 3]))
        weights = {name: round(rng.uniform(0.2, 1.0), 2) for name in some}
        density = [round(rng.uniform(0.2, 0.9), 2) for _ in some]
        if method == "linear":
            recipe = merge(method, weights)
        elif method == "slerp":
            recipe = slerp(*some, round(rng.uniform(0.1, 0.9), 2))
        elif method == "task_arithmetic":
            recipe = merge(method, weights, B)
        elif method == "passthrough":
            cuts = sorted(rng.sample(range(5), 2))
            recipe = stack((some[0], *cuts), (some[1], rng.randrange(0, 2), rng.randrange(2, 5)))
        else:
            shared = {"normalize": rng.choice([True, False])} if method == "ties" else None
            recipe = merge(method, weights, B, shared, density=density)
        yield f"random-{at:02}-{method.replace('_', '-')}", recipe


def run(command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


def change(source, out, function):
    """A model whose float tensors are changed by a function of name and float32 values."""
    shutil.copytree(source, out, dirs_exist_ok=True)
    for path in out.iterdir():
        path.chmod(0o644)
    for path in out.glob("*.safetensors"):
        tensors = {name: function(name, x.float()).to(x.dtype) for name, x in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})


def noise(scale, seed):
    generator = torch.Generator().manual_seed(seed)

    def add(name, x):
        return x + scale * x.std().nan_to_num(0) * torch.randn(x.shape, generator=generator)

    return add


def trained(source, out, heldout, steps, field, rate):
    """A fine-tune: some steps of Adam on held-out documents."""
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    texts = json.loads(heldout.read_text())[field]
    for step in range(steps):
        ids = torch.tensor([tokenizer.encode(texts[step % len(texts)]).ids[:160]])
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.to(torch.bfloat16).save_pretrained(out)


def made(work, family, cognate, only, count):
    """Every case: name, tool, folder, what it is made of, method."""
    cases = []
    recipes = work / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)

    def add(tool, name, recipe):
        case = f"{tool}-{name}"
        if only and only not in case:
            return
        out = work / "out" / case
        path = recipes / f"{case}.yml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        if not (out / "config.json").exists():
            if tool == "mergekit":
                program = Path(sys.executable).parent / "mergekit-yaml"
                run([program, path, out, "--random-seed", "11", "--no-write-model-card"], family)
            else:
                run([cognate, "merge", path, "-o", out, "--seed", "5", "--quiet"], family)
        cases.append((case, recipe["merge_method"], out, recipe))

    for name, recipe in BOTH.items():
        add("mergekit", name, recipe)
        add("cognate", name, recipe)
    for name, recipe in OURS.items():
        add("cognate", name, recipe)
    for name, recipe in drawn(count):
        add("mergekit", name, recipe)
    changes = {
        "noise-base": ("base", "fine-tune", lambda source, out: change(source, out, noise(0.05, 1))),
        "noise-merge": ("mergekit-linear-5050", "fine-tune of a merge", lambda source, out: change(source, out, noise(0.01, 2))),
        "tuned-base": ("base", "fine-tune", lambda source, out: trained(source, out, family / "heldout.json", 40, "code", 3e-4)),
        "tuned-math": ("ft-math", "fine-tune", lambda source, out: trained(source, out, family / "heldout.json", 20, "prose", 3e-4)),
        "tuned-merge": ("mergekit-linear-3070", "fine-tune of a merge", lambda source, out: trained(source, out, family / "heldout.json", 15, "code", 1e-4)),
        "tuned-ta": ("mergekit-ta-two", "fine-tune of a merge", lambda source, out: trained(source, out, family / "heldout.json", 15, "prose", 1e-4)),
    }
    for name, (source, kind, make) in changes.items():
        case = f"torch-{name}"
        if only and only not in case:
            continue
        out = work / "out" / case
        folder = family / source if (family / source).exists() else work / "out" / source
        if not (out / "config.json").exists():
            make(folder, out)
        recipe = yaml.safe_load((recipes / f"{source}.yml").read_text()) if folder.parent != family else {"models": [{"model": source}]}
        cases.append((case, kind, out, recipe))
    return cases


def truth(method, recipe):
    """Parents, and weights by parent as far as the method determines them."""
    parents, weights = set(), {}
    if "slices" in recipe:
        return {part["sources"][0]["model"] for part in recipe["slices"]}, {}
    for entry in recipe["models"]:
        name = entry["model"]
        parents.add("base" if "+" in name else name)
        weight = entry.get("parameters", {}).get("weight")
        if isinstance(weight, (int, float)):
            weights[name] = weight
    if "base_model" in recipe:
        parents.add(recipe["base_model"])
    if method == "linear" and recipe.get("parameters", {}).get("normalize", True):
        total = sum(weights.values())
        weights = {name: weight / total for name, weight in weights.items()}
    if method in ("ties", "della") and recipe.get("parameters", {}).get("normalize", True):
        total = sum(weights.values())
        weights = {name: weight / total for name, weight in weights.items()}
    if method == "slerp" and isinstance(recipe["parameters"]["t"], (int, float)):
        weights = {recipe["models"][1]["model"]: recipe["parameters"]["t"], recipe["models"][0]["model"]: 1 - recipe["parameters"]["t"]}
    if method == "nuslerp":
        total = sum(weights.values())
        weights = {name: weight / total for name, weight in weights.items()}
    return parents, weights


def inferred_weights(found):
    """Coefficients by parent; none where they differ from tensor to tensor."""
    settings = [s for p in found["parents"] for s in p["parameters"].values()] + list(found["parameters"].values())
    if any("value" not in setting for setting in settings):
        return {}
    return {p["path"]: p["coefficient"] for p in found["parents"]}


def expected(method, recipe):
    """The kind that is right: for recipes whose map is another method's too, that one's name counts."""
    if method == "passthrough":
        if "slices" in recipe:
            return "passthrough"
        return "lora" if "+" in recipe["models"][0]["model"] else "copy"
    return method


def edges_of_the_family(cognate, family, work):
    """The tree of the family with some merges and a fine-tune: edges found of those there are, and others."""
    wanted = {(B, P), (B, C), (B, M), (M, MP), (B, "tuned-base")}
    named = {}
    for case in ("mergekit-linear-5050", "mergekit-slerp-30", "mergekit-ties-uneven", "mergekit-dare-ties-two"):
        recipe = yaml.safe_load((work / "recipes" / f"{case}.yml").read_text())
        named[case] = work / "out" / case
        wanted |= {(parent, case) for parent in truth(recipe["merge_method"], recipe)[0]}
    named["tuned-base"] = work / "out" / "torch-tuned-base"
    models = [*CANDIDATES, *named.values()]
    done = json.loads(run([cognate, "infer", "--json", "--candidates", *models], family))
    name = {str(path): case for case, path in named.items()}
    found = {(name.get(e["parent"], e["parent"]), name.get(e["child"], e["child"])) for e in done["edges"]}
    for edge in sorted(found ^ wanted):
        print("edge", edge, "missed" if edge in wanted else "is none", flush=True)
    return (len(found & wanted), len(wanted)), len(found - wanted)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("family", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cognate", type=Path, default=Path("target/debug/cognate"))
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--random", type=int, default=0)
    args = parser.parse_args()
    family, work, cognate = args.family.resolve(), args.work.resolve(), args.cognate.resolve()
    rows = []
    hits = wrong = missed = same = strict = 0
    errors, related, stacks = [], [0, 0], [0, 0]
    for case, method, out, recipe in made(work, family, cognate, args.only, args.random):
        found = json.loads(run([cognate, "infer", out, "--json", "--candidates", *CANDIDATES], family))
        parents, weights = truth(method, recipe)
        got = {p["path"] for p in found["parents"]} | ({found["base"]} - {None})
        hits, wrong, missed = hits + len(parents & got), wrong + len(got - parents), missed + len(parents - got)
        kind = expected(method, recipe)
        exactly = found["method"] == kind
        equal = exactly or kind in found["same_map"]
        strict, same = strict + exactly, same + equal
        theirs = inferred_weights(found)
        off = [abs(theirs[name] - weight) for name, weight in weights.items() if name in theirs]
        errors += off if equal else []
        for relation in found["related"]:
            related[0] += relation["related"] == (relation["path"] != "unrelated")
            related[1] += 1
        if kind == "passthrough":
            wanted = [[p["sources"][0]["model"], *p["sources"][0]["layer_range"]] for p in recipe["slices"]]
            stacks[0] += wanted == [[s["path"], *s["layer_range"]] for s in found["slices"]]
            stacks[1] += 1
        checked = found["checked"]
        near = f"{100 * checked['equal']:.2f} %" if checked else ""
        mark = "yes" if exactly else "same map" if equal else "no"
        rows.append([case, kind, found["method"], mark, "yes" if got == parents else f"{sorted(got)}", f"{max(off):.4f}" if off else "", near])
        print(" | ".join(rows[-1]), flush=True)
    tree, spurious = edges_of_the_family(cognate, family, work) if not args.only else ((0, 0), 0)
    precision, recall = hits / max(hits + wrong, 1), hits / max(hits + missed, 1)
    count = len(rows)
    figures = [
        ["merges and fine-tunes", f"{count}"],
        ["related or not right", f"{related[0]} of {related[1]} pairs"],
        ["parents: precision, recall, F1", f"{precision:.4f}, {recall:.4f}, {2 * precision * recall / max(precision + recall, 1e-9):.4f}"],
        ["weights: largest and mean error", f"{max(errors, default=0):.4f}, {sum(errors) / max(len(errors), 1):.4f} over {len(errors)}"],
        ["method right, by name", f"{strict} of {count}"],
        ["method right, counting methods with the same map", f"{same} of {count}"],
        ["edges of the tree: family, a merge by each of four methods, a fine-tune", f"{tree[0]} of {tree[1]}, {spurious} that are none"],
        ["layer stacks recovered exactly", f"{stacks[0]} of {stacks[1]}"],
    ]
    text = "| figure | |\n|---|---|\n" + "".join(f"| {a} | {b} |\n" for a, b in figures)
    text += "\n| case | made by | inferred | right | parents | largest error of a weight | equal elements |\n|---|---|---|---|---|---|---|\n"
    text += "".join("| " + " | ".join(row) + " |\n" for row in rows)
    print(text.split("\n\n")[0])
    if args.docs:
        begin, end = "<!-- figures -->\n", "<!-- end of figures -->"
        page = args.docs.read_text()
        head, rest = page.split(begin)
        args.docs.write_text(head + begin + text + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
