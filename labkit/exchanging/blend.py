"""Gradient-Blending as it is trained: windows, and before each of them an estimate of the heads' weights.

An estimate is tested on the validation split, which is never trained on. (The released code of X-Norm tests
on the first tenth of the training split, and then trains on it: from the second window on that is no test.)
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.models.blending import Blend, BlendNet, gain_weights, official_weights
from labkit.models.predictor import task
from labkit.store import Run, fit_once, once
from labkit.train import TrainConfig, fit, isolated_rng, resolve_device

ROWS = 256  # samples at a time

Rule = Literal["gain", "official", "equal"]


@torch.no_grad()
def head_losses(net: BlendNet, batch: Batch) -> Tensor:
    """Mean loss of each head in eval mode, the joint one last: (K,)."""
    net.eval()
    total = torch.zeros(len(net.config.weights))
    for start in range(0, len(batch), ROWS):
        rows = batch[start : start + ROWS]
        logits, _ = net.logits(rows)
        total += len(rows) * torch.stack([task(one.float(), rows)[0] for one in logits]).cpu()
    return total / len(batch)


def estimate(
    *parents: Run, config: Blend, data: Any, train: TrainConfig, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """What each head gains and overfits if it is trained alone for a window.

    Heads of single modalities share no weights, so that one training does for all of them; what they share is
    the bound of the gradient's norm, if there is one.

    Args:
        parents: The run that the window goes on from; none = an untrained network.
        config: The network; its weights are not read.
        data: Recipe.
        train: How a window is trained.
        seed: Of the trainings.
        device: Where to train.

    Returns:
        ``before`` and ``after``: (K, 2) losses in training and held out, the joint head last.
    """
    place = resolve_device(device)
    known, unknown = (data.load(split, device=place) for split in ("train", "val"))
    with isolated_rng(seed, torch.device("cpu")):
        start = config.build(*(cast(BlendNet, run.model) for run in parents)).to(place)
    before = torch.stack([head_losses(start, each) for each in (known, unknown)], 1)
    after = torch.empty_like(before)
    count = len(config.modalities)
    for rows, weights in (
        (slice(0, count), (1.0,) * count + (0.0,)),
        (slice(count, None), (0.0,) * count + (1.0,)),
    ):
        net = copy.deepcopy(start)
        net.config = replace(config, weights=weights)
        fit(net, known, train, seed=seed, progress=False)
        after[rows] = torch.stack([head_losses(net, each) for each in (known, unknown)], 1)[rows]
    return {"before": before.tolist(), "after": after.tolist()}


def weights_of(found: dict[str, Any], rule: Rule) -> tuple[float, ...]:
    """Weights of the heads by an estimate, rounded to four digits; their sum is the number of heads.

    Raises:
        ValueError: on an unknown rule.
    """
    before, after = (torch.tensor(found[name]) for name in ("before", "after"))
    rules = {
        "gain": lambda: gain_weights(before, after),
        "official": lambda: official_weights(after),
        "equal": lambda: torch.full((len(after),), 1 / len(after)),
    }
    if rule not in rules:
        raise ValueError(f"rule must be one of {', '.join(rules)}; got {rule!r}")
    with warnings.catch_warnings():  # in the first window hardly a head overfits: no news
        warnings.simplefilter("ignore", UserWarning)
        return tuple(round(w, 4) for w in (len(after) * rules[rule]()).tolist())


def blended(
    config: Blend, data: Any, train: TrainConfig, seed: int, rule: Rule = "gain", windows: int = 2,
    device: str = "cpu", progress: bool = False,
) -> tuple[Run, list[dict[str, Any]]]:  # fmt: skip
    """Train window by window, weights estimated anew before each.

    Args:
        config: The network.
        data: Recipe.
        train: Of the whole training; its epochs are cut into windows.
        seed: Of everything.
        rule: By which weights come from an estimate.
        windows: Their number; 1 = the estimate is made once, before the training ("offline").
        device: Where to train.
        progress: Show progress lines.

    Returns:
        The last run; an estimate for each window, with its ``weights``.

    Raises:
        ValueError: unless the epochs can be cut into so many windows.
    """
    if windows < 1 or train.epochs % windows:
        raise ValueError(f"windows must divide {train.epochs} epochs, got {windows}")
    window = replace(train, epochs=train.epochs // windows)
    runs: list[Run] = []
    found = []
    for _ in range(windows):
        asked: dict[str, Any] = {"data": data, "train": window, "seed": seed, "device": device}
        if rule == "equal":
            weights = (1.0,) * len(config.weights)
            found.append({"weights": weights})
        else:
            told = once(estimate, *runs, config=config, **asked)
            weights = weights_of(told, rule)
            found.append(told | {"weights": weights})
        runs = [fit_once(replace(config, weights=weights), data, window, seed, runs,
                         device=device, progress=progress)]  # fmt: skip
    return runs[0], found
