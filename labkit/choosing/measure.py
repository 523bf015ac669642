"""What is measured for notebook 06: how right a choice is, what it costs, and what chance would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from labkit import metrics
from labkit.batch import Batch
from labkit.choosing.plan import Setting, answers, gates, gates_of
from labkit.metrics_labels import label_f1, label_floor
from labkit.models.experts import Task
from labkit.models.gates import Relaxation
from labkit.sweep import sweep

RATIOS = tuple(i / 20 for i in range(21))  # shares of the dear expert at which chance is measured
DRAWS = 50  # of who is sent to the dear expert by chance


def score(task: Task, logits: Tensor, y: Tensor) -> Tensor:
    """Right answers (..., ) in %: micro F1 of several labels, accuracy of classes."""
    if task == "labels":
        return 100 * label_f1(logits, y).micro
    return 100 * (logits.argmax(-1) == y).double().mean(-1)


def routed(said: Tensor, dear: Tensor) -> Tensor:
    """Logits (..., n, K) of cheap and dear answers (2, n, K); (..., n) bool says who has the dear one."""
    return torch.where(dear[..., None], said[1], said[0])


def by_chance(task: Task, said: Tensor, y: Tensor, ratios: Sequence[float] | Tensor) -> Tensor:
    """Score if a share is sent to the dear expert by chance: (R,), mean over draws."""
    generator = torch.Generator().manual_seed(0)
    rank = torch.rand(DRAWS, len(y), generator=generator).argsort(1).argsort(1).to(said.device)
    sent = torch.as_tensor(ratios, device=said.device).mul(len(y)).round()
    return torch.stack([score(task, routed(said, rank < n), y).mean() for n in sent])


def best_choice(task: Task, said: Tensor, y: Tensor, ratios: Sequence[float] | Tensor) -> Tensor:
    """Score if those are sent to the dear expert who gain most by it: (R,). Nobody knows them in time.

    Of classes the best there is; of several labels those whose loss falls most.
    """
    cheap, dear = (_each_loss(task, each, y) for each in said[:2])
    worse = dear - cheap
    if task == "classes":  # who is right now and was not; among equals, by loss
        right = (said[:2].argmax(-1) == y).double()
        worse = right[0] - right[1] + 0.1 * torch.tanh(worse)
    rank = worse.argsort().argsort()
    sent = torch.as_tensor(ratios, device=said.device).mul(len(y)).round()
    return score(task, routed(said, rank < sent[:, None]), y)


def _each_loss(task: Task, logits: Tensor, y: Tensor) -> Tensor:
    """Loss of each sample (n,), from logits (n, K)."""
    if task == "classes":
        return torch.nn.functional.cross_entropy(logits, y, reduction="none")
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none").mean(
        -1
    )


def chosen(
    setting: Setting, seed: int, resource: Any = "official", device: str = "cpu"
) -> dict[str, Any]:
    """Every gate of one seed on held-out samples, beside chance and the best choice at its own ratio.

    Returns:
        ``experts``: scores in % of cheap, dear and other. Of each weight of the cost, lists (L,): ``share``
        of samples sent to the dear expert, ``score``, ``chance`` and ``best`` in %, ``madds`` a sample, gate
        included; ``share_by_kind``, where the data know kinds.
        ``val`` and ``val_experts``: scores on the validation split, to choose by. ``random`` and ``oracle``:
        scores at `RATIOS`. ``soft``: score of a soft gate without cost, all of whose experts run,
        and its ``soft_madds``. ``floor``: of the best constant answer.
    """
    batch, said = answers(setting, seed, "test", device)
    assert batch.y is not None
    model = gates_of(gates(setting, seed, None, resource, device))
    with torch.no_grad():
        dear = model.choose(batch).argmax(-1).bool()  # (L, n)
    share, bill, task = dear.double().mean(-1), setting.bill, setting.task
    kinds = kinds_of(batch)
    found: dict[str, Any] = {
        "experts": score(task, said, batch.y).tolist(),
        "share": share.tolist(),
        "score": score(task, routed(said, dear), batch.y).tolist(),
        "chance": by_chance(task, said, batch.y, share).tolist(),
        "best": best_choice(task, said, batch.y, share).tolist(),
        "madds": (bill["gate"] + (1 - share) * bill["cheap"] + share * bill["dear"]).tolist(),
        "share_by_kind": {
            name: dear[:, rows].double().mean(-1).tolist() for name, rows in kinds.items()
        },
        "random": by_chance(task, said, batch.y, RATIOS).tolist(),
        "oracle": best_choice(task, said, batch.y, RATIOS).tolist(),
        "floor": floor(setting, seed),
    }
    batch_val, said_val = answers(setting, seed, "val", device)
    assert batch_val.y is not None
    with torch.no_grad():
        dear_val = model.choose(batch_val).argmax(-1).bool()
    found["val"] = score(task, routed(said_val, dear_val), batch_val.y).tolist()
    found["val_experts"] = score(task, said_val, batch_val.y).tolist()
    return found | _soft(setting, seed, batch, said, device)


def _soft(setting: Setting, seed: int, batch: Batch, said: Tensor, device: str) -> dict[str, Any]:
    free = replace(setting, weights=(0.0,))
    model = gates_of(gates(free, seed, Relaxation(hard=False), "official", device))
    assert batch.y is not None
    with torch.no_grad():
        weights = model.choose(batch)[0].softmax(-1)
    mixed = torch.einsum("be,ebk->bk", weights, said[:2])
    bill = setting.bill
    return {
        "soft": float(score(setting.task, mixed, batch.y)),
        "soft_madds": bill["gate"] + bill["cheap"] + bill["dear"],
    }


def kinds_of(batch: Batch) -> dict[str, Tensor]:
    """Where the data say how hard a sample is: name -> (n,) bool."""
    if "hard" in batch.factors:
        hard = batch.factors["hard"].bool()
        return {"easy": ~hard, "hard": hard}
    if "kind" in batch.factors:
        names = ("plain", "vague", "sarcastic")
        return {name: batch.factors["kind"] == i for i, name in enumerate(names)}
    return {}


def floor(setting: Setting, seed: int) -> float:
    """Held-out score in % of the best answer that looks at nothing; of classes, the commonest one there."""
    train, test = (setting.recipe(seed).load(split).y for split in ("train", "test"))
    if setting.task == "labels":
        return 100 * float(label_floor(train, test).micro)
    return 100 * metrics.majority_rate(test, test)


def table(setting: Setting, seeds: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """`chosen` of every seed, kept: a row a seed."""
    grid: dict[str, list[Any]] = {"setting": [setting], "device": [device]}
    found = sweep(chosen, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])
