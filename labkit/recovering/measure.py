"""What is measured for notebook 05: right answers on the same masks, and what was filled in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from labkit import metrics
from labkit.batch import Batch, subset_name, subsets
from labkit.metrics_gap import cosine, sliced_wasserstein
from labkit.models.dicmor import distance
from labkit.models.predictor import Features, shown
from labkit.models.prior import bits
from labkit.protocols import Masks, batch_rule, random_missing
from labkit.recovering.plan import (
    FILLS,
    FLOWS,
    WAYS,
    Setting,
    dicmor_of,
    filler,
    predictor_of,
    trained,
)
from labkit.sweep import sweep

MASK_SEEDS = 5  # draws of the random protocol; the same ones for every way
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def subset_names(setting: Setting) -> list[str]:
    """Names of all subsets, everything last: language, ..., language+audio+vision."""
    names = [name for name, _ in setting.predictor.modalities]
    return [subset_name(subset, names) for subset in subsets(len(names))]


def rates_of(modalities: int) -> tuple[float, ...]:
    """Missing rates of the random protocol; the highest keeps one modality a row."""
    highest = (modalities - 1) / modalities
    return tuple(min(rate, highest) for rate in RATES)


def answers(setting: Setting, way: str, seed: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Held-out logits with each subset visible (S, n, C), everything last, and labels (n,).

    Whatever a mask hides of a row, its answer is one of these.
    """
    net, fill = filler(setting, way, seed, device)
    batch = setting.recipe(seed).load("test", device=device)
    assert batch.y is not None
    logits = []
    with torch.no_grad():
        seen = net.features(batch)
        for subset in subsets(len(net.shapes)):
            visible = subset.to(seen.x.device) & seen.observed
            logits.append(net.answer(fill(batch, seen, visible), seen.length))
    return torch.stack(logits), batch.y


def scored(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """Accuracies and weighted F1 of one way, held out, in %; all ways see the same masks.

    Returns:
        ``fixed``: of each subset, everything last; ``f1``: the same as weighted F1; ``random``: of each
        missing rate and draw of the masks; ``realised``: their rates; with three modalities ``batches``
        and ``batches_realised``: the released rule's, for batches of 4 rows in random order.
    """
    logits, y = answers(setting, way, seed, device)
    said, (n, modalities) = logits.argmax(-1), (len(y), len(setting.predictor.modalities))
    right = said == y
    found: dict[str, Any] = {
        "fixed": (100 * metrics.accuracy(logits, y)).tolist(),
        "f1": [100 * f1_score(y.cpu(), one.cpu(), average="weighted") for one in said],
    }
    drawn = [[random_missing(n, modalities, rate, draw) for draw in range(MASK_SEEDS)]
             for rate in rates_of(modalities)]  # fmt: skip
    found |= {"random": _of_masks(right, drawn), "realised": [row[0].rate for row in drawn]}
    if modalities == 3:
        rule = [[batch_rule(n, 4, rate, draw) for draw in range(MASK_SEEDS)] for rate in RATES]
        found |= {
            "batches": _of_masks(right, rule),
            "batches_realised": [row[0].rate for row in rule],
        }
    return found


def _of_masks(right: Tensor, masks: list[list[Masks]]) -> list[list[float]]:
    """Share of right answers in % under each mask; `right` (S, n) is of each subset."""
    powers = 2 ** torch.arange(masks[0][0].visible.shape[1])
    place = torch.zeros(int(powers.sum()) + 1, dtype=torch.long)
    place[subsets(len(powers)).long() @ powers] = torch.arange(len(right))
    rows = torch.arange(right.shape[1])
    return [
        [
            100 * float(right.cpu()[place[mask.visible.long() @ powers], rows].float().mean())
            for mask in row
        ]
        for row in masks
    ]


def gaps(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """What was filled in from one modality, beside what is true, in units of each feature's deviation.

    Returns:
        Matrices (source, target), None on the diagonal: ``swd``: sliced Wasserstein distance of all rows;
        ``cosine``: mean cosine of a row with its own true row, both less the mean; ``spread``: from the 10th
        to the 90th percentile, over that of what is true, mean over features; ``agreement``: share of samples
        in % whose filled-in modality alone is read as its class by a predictor trained on gaps. And
        ``read``: the same share of each true modality, (target,).
    """
    net, fill = filler(setting, way, seed, device)
    judge = predictor_of(trained(setting, seed, "judge", device))
    batch = setting.recipe(seed).load("test", device=device)
    with torch.no_grad():
        seen = net.features(batch)
    count = len(seen.x)
    found: dict[str, Any] = {
        name: [[None] * count for _ in range(count)]
        for name in ("swd", "cosine", "spread", "agreement")
    }
    for source in range(count):
        visible = torch.zeros(len(batch), count, dtype=torch.bool, device=seen.x.device)
        visible[:, source] = True
        with torch.no_grad():
            guess = fill(batch, seen, visible)
        for target in range(count):
            if target == source:
                continue
            rows = seen.rows(seen.observed)[target]
            true, made = (x[target][rows] for x in (seen.x, guess))
            mean, deviation = true.mean(0), true.std(0, correction=0).clamp(min=1e-3)
            true, made = (true - mean) / deviation, (made - mean) / deviation
            found["swd"][source][target] = float(sliced_wasserstein(made, true))
            found["cosine"][source][target] = float(cosine(made, true))
            found["spread"][source][target] = float((_spread(made) / _spread(true)).mean())
            found["agreement"][source][target] = _read(judge, guess, target, seen, batch)
    read = [_read(judge, seen.x, target, seen, batch) for target in range(count)]
    return found | {"read": read, "names": [*net.shapes]}


def _spread(x: Tensor) -> Tensor:
    low, high = torch.quantile(x, torch.tensor([0.1, 0.9], device=x.device), 0)
    return (high - low).clamp(min=1e-6)


def _read(judge: Any, x: Tensor, target: int, seen: Features, batch: Batch) -> float:
    alone = torch.zeros(len(batch), len(x), dtype=torch.bool, device=x.device)
    alone[:, target] = True
    assert batch.y is not None
    return 100 * float(metrics.accuracy(judge.answer(shown(x, alone), seen.length), batch.y))


def inside(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """What a flow knows by itself.

    Returns:
        ``bits`` a number, (M,), held out and on the training split; ``classify``: held-out accuracy in % of
        p(y|z) on each subset; ``pairing``: mean squared distance between the latents of one sample.
    """
    model = dicmor_of(trained(setting, seed, way, device))
    found: dict[str, Any] = {}
    for split, ending in (("test", ""), ("train", "_train")):
        batch = setting.recipe(seed).load(split, device=device)
        assert batch.y is not None
        seen = model.predictor.features(batch)
        z, log_det = model.latents(seen)
        here = seen.rows(seen.observed)
        density = model.prior.log_prob(z, batch.y) + log_det
        found["bits" + ending] = bits(density, here, z.shape[-1]).tolist()
        if not ending:
            found["pairing"] = float(distance(z, here))
            found["classify"] = [
                100
                * float(
                    metrics.accuracy(
                        model.classify(batch, s.to(batch.device).expand(len(batch), -1)), batch.y
                    )
                )
                for s in subsets(len(model.shapes))
            ]
    return found


def floors(setting: Setting, seed: int) -> dict[str, float]:
    """Held-out accuracy in % of the most frequent training label, and of chance."""
    train, test = (setting.recipe(seed).load(split) for split in ("train", "test"))
    return {
        "majority": 100 * metrics.majority_rate(train.y, test.y),
        "chance": 100 / setting.predictor.outputs,
    }


def table(setting: Setting, seeds: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """`scored` of every way and seed, kept: ``way``, ``seed``, ``mean`` over proper subsets, and columns.

    On a CPU ways are trained side by side in processes; so in `gap_table` and `insides`.
    """
    found = _each(scored, setting, WAYS, seeds, device)
    found["mean"] = [sum(row[:-1]) / (len(row) - 1) for row in found["fixed"]]
    return found


def gap_table(setting: Setting, seeds: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """`gaps` of every way that fills in, kept: ``way``, ``seed``, ``pairs``, and means over the pairs."""
    found = _each(gaps, setting, FILLS[1:-1], seeds, device)
    names = ["swd", "cosine", "spread", "agreement"]
    rows = found[[*names, "read", "names"]].to_dict("records")
    found["pairs"] = pd.Series(rows, index=found.index)
    for name in names:
        found[name] = [_mean(matrix) for matrix in found[name]]
    return found.drop(columns=["read", "names"])


def insides(
    setting: Setting, seeds: Sequence[int], device: str = "cpu"
) -> dict[str, list[dict[str, Any]]]:
    """`inside` of every flow, one a seed, kept."""
    found = _each(inside, setting, tuple(FLOWS), seeds, device)
    return {
        way: [
            {str(k): v for k, v in row.items()}
            for row in found[found["way"] == way].to_dict("records")
        ]
        for way in FLOWS
    }


def _each(
    fn: Callable[..., dict[str, Any]], setting: Setting, ways: Sequence[str], seeds: Sequence[int],
    device: str,
) -> pd.DataFrame:  # fmt: skip
    for seed in seeds:  # all ways start from these; else two processes would want the same one
        for what in ("predictor", "judge"):
            trained(setting, seed, what, device, progress=True)
    grid = {"setting": [setting], "way": ways, "device": [device]}
    found = sweep(fn, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])


def _mean(matrix: list[list[float | None]]) -> float:
    values = [value for row in matrix for value in row if value is not None]
    return sum(values) / len(values) if values else float("nan")
