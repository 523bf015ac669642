"""Floors: what a reconstruction costs without any model.

A cross-entropy of 250 nats means nothing alone. Grey pixels cost their own entropy even when they
are predicted perfectly, and when modalities share nothing but the class, the class mean is the best
reconstruction of a missing one that exists: every error is read between these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from labkit.batch import Batch


class Floor(NamedTuple):
    """Errors of three answers without a model: means over samples of sums over the modality.

    Nats for bernoulli, squared units of the modality (no factor 1/2) for gaussian.
    """

    self_entropy: float  # the target as its own prediction: nothing can be lower
    class_mean: float  # the train mean of the true class: the best when only the class is shared
    global_mean: float  # the train mean: what knowing nothing costs


def floors(
    train: Batch, test: Batch, likelihoods: Mapping[str, Literal["bernoulli", "gaussian"]]
) -> dict[str, Floor]:
    """Compute the floors that every reconstruction error is printed next to.

    Means come from `train`, scores from `test` (whose labels choose the class mean), observed rows
    only. A bernoulli mean of n samples is clamped to [e, 1 - e] with e = 1 / (2n + 2), the
    Krichevsky-Trofimov estimate for a pixel never lit in n samples: otherwise one new pixel would
    cost infinitely many nats.

    Args:
        train: Batch with labels.
        test: Batch with labels and the same modalities.
        likelihoods: Modality -> "bernoulli" (cross-entropy) or "gaussian" (squared error).

    Raises:
        ValueError: without labels, on an unknown modality or likelihood, on a class that only
            `test` shows, or on bernoulli values outside [0, 1].
    """
    return {name: _floor(name, kind, train, test) for name, kind in likelihoods.items()}


def _floor(name: str, kind: str, train: Batch, test: Batch) -> Floor:
    if kind not in ("bernoulli", "gaussian"):
        raise ValueError(f"likelihoods[{name!r}] must be 'bernoulli' or 'gaussian', got {kind!r}")
    (seen, seen_y), (x, y) = _rows(train, name, kind), _rows(test, name, kind)
    classes = y.unique().tolist()
    if unseen := set(classes) - set(seen_y.tolist()):
        raise ValueError(f"train shows no {name!r} of classes {sorted(unseen)}: use a larger train")
    by_class = [_cost(x[y == c], _constant(seen[seen_y == c], kind), kind) for c in classes]
    costs = _cost(x, x, kind), torch.cat(by_class), _cost(x, _constant(seen, kind), kind)
    return Floor(*(float(cost.mean()) for cost in costs))


def _rows(batch: Batch, name: str, kind: str) -> tuple[Tensor, Tensor]:
    """Observed samples of one modality, float64, and their labels."""
    here = batch.observed[:, batch.column(name)]
    if batch.y is None or not bool(here.any()):
        raise ValueError(f"train and test must have labels y and at least one observed {name!r}")
    x = batch.x[name][here].double()
    if kind == "bernoulli" and not bool((x.min() >= 0) & (x.max() <= 1)):
        found = f"{float(x.min()):.4g}..{float(x.max()):.4g}"
        raise ValueError(
            f"x[{name!r}] must lie in [0, 1] for a bernoulli likelihood, got {found}; "
            f"rescale it or declare it 'gaussian'"
        )
    return x, batch.y[here]


def _constant(rows: Tensor, kind: str) -> Tensor:
    edge = 1 / (2 * len(rows) + 2)
    return rows.mean(0).clamp(edge, 1 - edge) if kind == "bernoulli" else rows.mean(0)


def _cost(x: Tensor, p: Tensor, kind: str) -> Tensor:
    """Error of the prediction p for samples x (B, ...), summed over features: (B,)."""
    if kind == "gaussian":
        return (x - p).square().flatten(1).sum(1)
    return -(torch.xlogy(x, p) + torch.xlogy(1 - x, 1 - p)).flatten(1).sum(1)
