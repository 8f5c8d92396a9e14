"""The recipes that mergekit.py runs through both tools, and short ways to spell recipes.

CASES are recipes over plain models, LORA recipes with an adapter, STAGES lists of documents.
"""

LAYERS = 4  # of every model of the family


def m(model, layers=None, **parameters):
    """A model of `models`, or with `layers` a source of a slice."""
    entry = {"model": model, "parameters": parameters}
    return entry | ({"layer_range": layers} if layers else {})


def s(*sources, **parameters):
    return {"sources": list(sources), "parameters": parameters}


def recipe(method, *parts, base=None, **parameters):
    if "lam" in parameters:
        parameters["lambda"] = parameters.pop("lam")  # a keyword in Python
    layout = "slices" if "sources" in parts[0] else "models"
    made = {"merge_method": method, layout: list(parts), "parameters": parameters, "dtype": "float32"}
    return made | ({"base_model": base} if base else {})


def deltas(method, prose={}, code={}, math=None, **parameters):
    """A recipe on task vectors: parameters for each fine-tune, then the shared ones."""
    models = [("ft-prose", prose), ("ft-code", code), ("ft-math", math)]
    parts = [m(name, **p) for name, p in models if p is not None]
    return recipe(method, *parts, base="base", **parameters)


def w(weight, density=None):
    return {"weight": weight} | ({} if density is None else {"density": density})


PROSE, CODE, MATH = "ft-prose", "ft-code", "ft-math"
FILTERS = [{"filter": "self_attn", "value": 0.2}, {"filter": "mlp", "value": [0.9, 0.1]}, {"value": 0.6}]
KNOWN_T = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
CASES = {
    "linear equal": recipe("linear", m(PROSE, weight=1), m(CODE, weight=1), m(MATH, weight=1)),
    "linear unequal": recipe("linear", m(PROSE, weight=0.7), m(CODE, weight=0.4), m(MATH, weight=-0.25)),
    "linear normalize false": recipe("linear", m(PROSE, weight=0.7), m(CODE, weight=0.5), normalize=False),
    "linear gradient": recipe("linear", m(PROSE, weight=[0, 0.3, 1]), m(CODE, weight=[1, 0.1])),
    "linear filters": recipe("linear", m(PROSE, weight=FILTERS), m(CODE, weight=0.5)),
    "linear filter falls through": recipe("linear", m(PROSE, weight=FILTERS[:2]), m(CODE, weight=1), weight=0.4),
    "linear base joins": recipe("linear", m(PROSE, weight=0.8), m(CODE), base="base", weight=0.5),
    "linear base listed first": recipe("linear", m("base", weight=2), m(CODE, weight=1), base="base"),
    "linear one model": recipe("linear", m(PROSE, weight=3)),
    "slerp scalar": recipe("slerp", m("base"), m(PROSE), base="base", t=0.3),
    "slerp base second": recipe("slerp", m(PROSE), m("base"), base="base", t=0.3),
    "slerp base joins": recipe("slerp", m(CODE), base=MATH, t=0.75),
    "slerp t ends": recipe("slerp", m(CODE), m(MATH), base=CODE, t=[0, 1]),
    "slerp well-known t": recipe("slerp", m(PROSE), m(CODE), base=PROSE, t=KNOWN_T),
    "slerp slices": recipe("slerp", s(m(PROSE, [0, 4]), m(CODE, [0, 4])), base=PROSE, t=KNOWN_T),
    "slerp slice parameters": recipe(
        "slerp", s(m(PROSE, [0, 1]), m(CODE, [0, 1]), t=[0.2, 0.9]),
        s(m(CODE, [1, 4]), m(PROSE, [1, 4]), t=[0.1, 0.6]), base=PROSE, t=0.5),
    "slerp cross layers": recipe("slerp", s(m(PROSE, [0, 3]), m(CODE, [1, 4])), base=PROSE, t=KNOWN_T),
    "task_arithmetic": deltas("task_arithmetic", w(0.6), w(0.4), w(1.0)),
    "task_arithmetic negative": deltas("task_arithmetic", w(1.0), w(-0.5)),
    "task_arithmetic lambda": deltas("task_arithmetic", w(1.0), w(0.5), lam=0.35),
    "task_arithmetic normalize": deltas("task_arithmetic", w(1.0), w(0.5), w(0.3), normalize=True, lam=1.5),
    "task_arithmetic normalize to 0": deltas("task_arithmetic", w(1.0), w(-1.0), normalize=True),
    "task_arithmetic gradient": deltas("task_arithmetic", w([0, 1]), w(FILTERS)),
    "task_arithmetic base listed": recipe(
        "task_arithmetic", m(PROSE, weight=0.5), m("base"), m(CODE, weight=1), base="base"),
    "task_arithmetic slice parameters": recipe(
        "task_arithmetic", s(m("base", [0, 2]), m(PROSE, [0, 2], weight=0.9), m(CODE, [0, 2]), weight=[0.1, 0.7]),
        s(m(CODE, [2, 4], weight=FILTERS), m("base", [2, 4]), **{"lambda": [0.5, 2]}), base="base", weight=0.3),
    "ties 0.2": deltas("ties", w(1.0, 0.2), w(1.0, 0.2), w(1.0, 0.2)),
    "ties 0.5": deltas("ties", w(1.0), w(1.0), density=0.5),
    "ties 0.7": deltas("ties", w(1.0, 0.7), w(1.0, 0.7)),
    "ties 1.0": deltas("ties", w(1.0, 1.0), w(1.0, 1.0), w(1.0, 1.0)),
    "ties 0 and 1e-9": deltas("ties", w(1.0, 0.0), w(1.0, 1e-9)),
    "ties one model": deltas("ties", w(0.5, 0.3), None),
    "ties normalize false": deltas("ties", w(0.8, 0.5), w(0.6, 0.5), normalize=False),
    "ties lambda": deltas("ties", w(1.0, 0.5), w(1.0, 0.5), lam=1.7),
    "ties gradient density": deltas("ties", w(1.0, [0.9, 0.2]), w(1.0, [0.1, 0.5, 1.0]), w(0.5, 0.5)),
    "ties unequal, negative": deltas("ties", w(0.9, 0.5), w(-0.4, 0.6), w(0.3, 0.7)),
    "ties rescale": deltas("ties", w(1.0, 0.3), w(0.7, 0.5), rescale=True),
    "ties slice parameters": recipe(
        "ties", s(m("base", [0, 1]), m(PROSE, [0, 1], density=0.2), m(CODE, [0, 1]), density=0.6, weight=1),
        s(m(CODE, [1, 4]), m(MATH, [1, 4], weight=0.5), m("base", [1, 4]), density=[0.3, 0.8]),
        base="base", weight=0.7),
    "dare_linear density 1": deltas("dare_linear", w(0.6, 1.0), w(0.5, 1.0), w(0.3)),
    "dare_linear normalize": deltas("dare_linear", w(0.6), w(0.5), normalize=True, lam=0.9),
    "dare_ties density 1": deltas("dare_ties", w(0.6, 1.0), w(0.5, 1.0), w(0.3)),
    "dare_ties normalize": deltas("dare_ties", w(0.6), w(-0.5), w(0.3), normalize=True, lam=0.9),
    "nuslerp": recipe("nuslerp", m(PROSE, weight=0.7), m(CODE, weight=0.4)),
    "nuslerp base": recipe("nuslerp", m(PROSE, weight=0.7), m(CODE, weight=[0.1, 0.9]), base="base"),
    "nuslerp base listed": recipe("nuslerp", m(PROSE, weight=1), m("base"), m(CODE, weight=FILTERS), base="base"),
    "nuslerp beyond": recipe("nuslerp", m(PROSE, weight=1.5), m(CODE, weight=-0.5), base="base"),
    "nuslerp weights cancel": recipe("nuslerp", m(PROSE, weight=1), m(CODE, weight=-1)),
    "nuslerp rows": recipe("nuslerp", m(PROSE, weight=0.7), m(CODE, weight=0.4), nuslerp_flatten=False),
    "nuslerp rows, base": recipe(
        "nuslerp", m(PROSE, weight=0.7), m(CODE, weight=0.4), base="base", nuslerp_flatten=False),
    "nuslerp columns": recipe(
        "nuslerp", m(PROSE, weight=0.7), m(CODE, weight=0.4), nuslerp_flatten=False, nuslerp_row_wise=True),
    "nuslerp columns, base": recipe(
        "nuslerp", m(PROSE, weight=0.7), m(CODE, weight=0.4), base="base", nuslerp_flatten=False,
        nuslerp_row_wise=True),
    "nuslerp row_wise and flatten": recipe(
        "nuslerp", m(PROSE, weight=0.7), m(CODE, weight=0.4), nuslerp_row_wise=True),
    "multislerp": recipe("multislerp", m(PROSE, weight=0.7), m(CODE, weight=0.4), m(MATH, weight=0.5)),
    "multislerp base": deltas("multislerp", {"weight": 0.7}, {"weight": [0.1, 0.9]}, {"weight": 0.5}),
    "multislerp normalize_weights false": deltas(
        "multislerp", {"weight": 0.7}, {"weight": -0.4}, {"weight": 0.5}, normalize_weights=False),
    "multislerp eps": recipe("multislerp", m(PROSE, weight=0.7), m(CODE, weight=0.4), eps=0.01),
    "multislerp one model": deltas("multislerp", {"weight": 0.7}, None),
    "karcher": recipe("karcher", m(PROSE), m(CODE), m(MATH)),
    "karcher base joins": recipe("karcher", m(PROSE), m(CODE), base="base"),
    "karcher parameters": recipe("karcher", m(PROSE), m(CODE), m(MATH), max_iter=3, tol=1e-8),
    "karcher one model": recipe("karcher", m(PROSE)),
    "model_stock": deltas("model_stock"),
    "model_stock three": deltas("model_stock", math={}),
    "model_stock filter_wise": deltas("model_stock", math={}, filter_wise=True),
    "nearswap": recipe("nearswap", m(PROSE), base="base", t=0.01),
    "nearswap base listed, gradient": recipe("nearswap", m(CODE), m(PROSE), base=PROSE, t=[0.0, 0.02]),
    "arcee_fusion": recipe("arcee_fusion", m(PROSE), base="base"),
    "arcee_fusion base listed": recipe("arcee_fusion", m(CODE), m(PROSE), base=PROSE),
    "passthrough one model": recipe("passthrough", m(CODE)),
    "passthrough stack": recipe("passthrough", s(m(PROSE, [0, 3])), s(m(CODE, [1, 4])), s(m(MATH, [2, 4]))),
    "passthrough scale": recipe("passthrough", m(CODE, scale=0.5)),
    "passthrough scale, filter": recipe(
        "passthrough", s(m(PROSE, [0, 3])),
        s(m(PROSE, [1, 4], scale=[
            {"filter": "o_proj", "value": 0}, {"filter": "down_proj", "value": [0, 0.5]}, {"value": 1}]))),
    # Where filters look: a model's name for its own parameters, the output's for shared ones.
    "slices filter by layer number": recipe(
        "linear", s(m(PROSE, [0, 3], weight=[{"filter": "layers.1.", "value": 0.1}]),
                    m(CODE, [1, 4], weight=[{"filter": "layers.1.", "value": 5}])), weight=1,
        normalize=[{"filter": "layers.2.", "value": False}, {"filter": "*", "value": True}]),
    "linear slices without the base": recipe("linear", s(m(PROSE, [0, 4]), m(CODE, [0, 4])), base="base", weight=0.5),
    "settings as text": deltas("task_arithmetic", w("0.6"), w(["1", "5e-1"]), normalize="true"),
    "ties int8_mask": deltas("ties", w(1.0, 0.5), w(1.0, 0.5), int8_mask=True),
}

LORA = "base+lora-math"
MIXED = recipe("linear", m(PROSE, weight=0.6), m(CODE, weight=0.4))
STACK = recipe("passthrough", s(m(PROSE, [0, 3])), s(m(CODE, [1, 4])))
LORA_CASES = {
    "lora alone": recipe("linear", m(LORA, weight=1)),
    "lora linear": recipe("linear", m(LORA, weight=0.6), m(PROSE, weight=0.4), m("base", weight=0.3)),
    "lora linear, base joins": recipe("linear", m(LORA, weight=[0.2, 0.9]), m(CODE), base="base", weight=0.5),
    "lora on a fine-tune": recipe("linear", m(f"{PROSE}+lora-math", weight=0.7), m(CODE, weight=0.5)),
    "lora slerp": recipe("slerp", m("base"), m(LORA), base="base", t=0.4),
    "lora slerp, as base": recipe("slerp", m(LORA), m(PROSE), base=LORA, t=KNOWN_T),
    "lora task_arithmetic": recipe("task_arithmetic", m(LORA, weight=1.2), m(CODE, weight=0.4), base="base"),
    "lora task_arithmetic, as base": recipe("task_arithmetic", m(PROSE, weight=0.5), m(CODE, weight=0.4), base=LORA),
    "lora ties": recipe("ties", m(LORA, **w(1.0, 0.6)), m(CODE, **w(0.7, 0.4)), m(PROSE, **w(0.5, 0.5)), base="base"),
    "lora passthrough slices": recipe("passthrough", s(m(LORA, [0, 3])), s(m(CODE, [1, 4])), s(m(LORA, [2, 4]))),
    "lora slices": recipe("linear", s(m(LORA, [0, 3], weight=0.7), m(CODE, [1, 4], weight=0.4))),
}


def stages(last, **before):
    """Documents for `mergekit-multi`: the named stages, then the recipe of the output."""
    return [made | {"name": name} for name, made in before.items()] + [last]


STAGES = {
    "stages: two": stages(recipe("linear", m("mixed", weight=0.7), m(MATH, weight=0.4)), mixed=MIXED),
    "stages: two, ties over a stage": stages(
        recipe("ties", m("mixed", **w(1.0, 1.0)), m(MATH, **w(0.7317, 1.0)), base="base", normalize=False),
        mixed=MIXED),  # what the tools round differently must not count, nor tip a sum of 0
    "stages: three": stages(
        recipe("task_arithmetic", m("turned", weight=0.8), m(CODE, weight=0.3), base="base"), mixed=MIXED,
        turned=recipe("slerp", m("mixed"), m(MATH), base=MATH, t=[0.2, 0.8])),
    "stages: used twice": stages(
        recipe("linear", m("turned", weight=0.5), m("mixed", weight=0.25), m("base", weight=0.25)), mixed=MIXED,
        turned=recipe("slerp", m("mixed"), m(MATH), base="mixed", t=0.6)),
    "stages: as base_model": stages(
        recipe("task_arithmetic", m(PROSE, weight=0.5), m(MATH, weight=0.7), base="mixed"), mixed=MIXED),
    "stages: as base of slerp": stages(recipe("slerp", m("mixed"), m(MATH), base="mixed", t=KNOWN_T), mixed=MIXED),
    "stages: of slices": stages(
        recipe("linear", m("tall", weight=[0.2, 1.0]), m("taller", weight=0.5)), tall=STACK,
        taller=recipe("passthrough", s(m(MATH, [0, 3])), s(m(PROSE, [1, 4])))),
    "stages: slices of a stage": stages(
        recipe("passthrough", s(m("tall", [0, 4])), s(m("tall", [2, 6])), s(m(MATH, [3, 4]))), tall=STACK),
    "stages: a lora before": stages(
        recipe("slerp", m("sum"), m(CODE), base="sum", t=0.3),
        sum=recipe("linear", m(LORA, weight=0.6), m(PROSE, weight=0.4))),
    "stages: a lora on a stage": stages(recipe("linear", m("mixed+lora-math", weight=0.8), m(MATH, weight=0.2)), mixed=MIXED),
    "stages: with a tokenizer": stages(
        recipe("linear", m("mixed", weight=0.7), m(MATH, weight=0.4)) | {"tokenizer_source": "union"},
        mixed=MIXED | {"tokenizer_source": PROSE}),
}
