"""What TIES, Breadcrumbs and SCE keep, by their formulas in numpy, for mergekit.py."""
import numpy as np


def kept_elements(method, size, density, gamma, room):
    """Which magnitudes TIES or Breadcrumbs keep (equal ones in order of their index), and which tie at a threshold."""
    share = int(density * size.size)
    limits = [max(1, share) if density > 0 else 0]
    if method != "ties":
        outer = min(share + int(gamma * size.size), size.size)
        limits = [size.size] if density >= 1 else [outer, outer - share]
    keep, cut = np.ones(size.size, bool), np.zeros(size.size, bool)
    order = np.argsort(-size, kind="stable")
    for limit, inside in zip(limits, (True, False)):
        keep[order[limit:] if inside else order[:limit]] = False
        at = np.sort(size)[-limit] if 0 < limit < size.size else 0
        if at > 0 and (size >= at - room).sum() > limit:  # a tie at 0 adds nothing either way
            cut |= np.abs(size - at) <= room
    return np.float32(keep), cut


def sce_reference(made, name, models):
    """SCE by the formula (equal variances kept in order of their index), and what a tie at the threshold touches: all."""
    base, share = models["base"][name], made["parameters"].get("select_topk", 1)
    tuned = np.stack([models[m["model"]][name] - base for m in made["models"]])
    tie = False
    if share < 1:
        variance = np.float32(np.var(np.float64(tuned), axis=0)).ravel()
        k = int((variance != 0).sum() * share)
        keep = np.zeros(variance.size, bool)
        keep[np.argsort(-variance, kind="stable")[:k]] = True
        tie = 0 < k < variance.size and (variance >= np.sort(variance)[-k]).sum() > k
        tuned = tuned * keep.reshape(base.shape)
    squares = np.square(np.float64(tuned)).reshape(len(tuned), -1).mean(axis=1)
    shares = squares / squares.sum() if squares.sum() >= 1e-6 else np.ones(len(tuned)) / len(tuned)
    shares = shares.reshape(-1, *[1] * base.ndim)
    agree = np.sign(tuned) == np.where(tuned.sum(axis=0) >= 0, 1, -1)
    merged = (np.float64(tuned) * shares * agree).sum(axis=0) / np.maximum((shares * agree).sum(axis=0), 1e-6)
    return base + merged, np.full(base.shape, tie)
