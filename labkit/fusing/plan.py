"""What is trained for notebook 07: networks of one depth of fusion, and networks that choose it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch

from labkit.data.rooms import Rooms
from labkit.models.dynmm_fusion import FusionConfig, FusionNet, median_frequency
from labkit.models.gates import Relaxation
from labkit.models.rgbd import CELLS, Sizes
from labkit.store import Run, fit_once
from labkit.train import TrainConfig

STATIC: Mapping[str, Mapping[str, Any]] = {
    "colour": {"path": 0, "depth": False},
    **{f"static {k}": {"path": k} for k in range(CELLS + 1)},
}
# Networks with a gate: random paths to the end; hard from the first step on; soft, ever colder, then hard.
DYNAMIC = ("stage I", "hard", "annealed")
# The same without fusion in the first layer, so that path 0 sees no depth: always full, and an annealed gate.
CLOSABLE = ("closable 4", "closable gate")


@dataclass(frozen=True)
class Setting:
    """One data set and the sizes of all that is trained on it.

    Args:
        data: The data; a seed replaces its own.
        sizes: Of the network.
        fit: How all networks descend, those with a gate included.
        explore: Share of the steps in which a network with a gate takes random paths first.
        settled: Share of the steps after which an annealed gate is hard, so that the rest of the network
            learns what the paths are that it will get.
        weights: Of the cost beside the task, a network each.
        levels: Of the noise in tests, in units of mean|x|; the first is none.
        draws: Of the noise at each level.
    """

    data: Rooms
    sizes: Sizes
    fit: TrainConfig
    explore: float = 0.1
    settled: float = 0.6
    weights: tuple[float, ...] = (0.0, 0.02, 0.05)
    levels: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    draws: int = 10

    def recipe(self, seed: int) -> Rooms:
        """Data of one seed."""
        return replace(self.data, seed=seed)

    @property
    def ways(self) -> tuple[str, ...]:
        """All that is trained: static ones, stage I, a hard gate of the middle weight, annealed ones."""
        stage, hard, annealed = DYNAMIC
        middle = sorted(self.weights)[len(self.weights) // 2]
        gated = (f"{annealed}, {weight:g}" for weight in self.weights)
        return (*STATIC, stage, f"{hard}, {middle:g}", *gated, *CLOSABLE)

    def config(self, way: str, seed: int) -> FusionConfig:
        """The network of one of `ways`.

        Raises:
            ValueError: on an unknown way; the message lists the known ones.
        """
        if way not in self.ways:
            raise ValueError(f"way must be one of {', '.join(self.ways)}; got {way!r}")
        center, scale, balance, samples = statistics(self.recipe(seed))
        common = FusionConfig(self.sizes, center=center, scale=scale, balance=balance, path=CELLS)
        if way in STATIC:
            return replace(common, **STATIC[way])
        if way in CLOSABLE:
            dear = f"{DYNAMIC[2]}, {max(self.weights):g}"
            like = common if way == CLOSABLE[0] else self.config(dear, seed)
            return replace(like, first=False)
        steps = self.fit.epochs * math.ceil(samples / self.fit.batch_size)
        explore, settled = round(self.explore * steps), round(self.settled * steps)
        kind, _, weight = way.partition(", ")
        relaxation = {
            "stage I": Relaxation(hard=False, explore=steps),
            "hard": Relaxation(hard=True, explore=explore),
            "annealed": Relaxation(hard=False, explore=explore, anneal=max(1, settled - explore)),
        }[kind]
        return replace(common, path=None, relaxation=relaxation, weight=float(weight or 0.0))

    def state(self) -> dict[str, Any]:
        """The sizes as the ledger keeps them beside the numbers."""
        return {
            "epochs": self.fit.epochs, "lr": self.fit.lr, "explore": self.explore, "settled": self.settled,
            "weights": list(self.weights), "rows": self.sizes.size[0], "draws of noise": self.draws,
        }  # fmt: skip


@lru_cache(maxsize=8)
def statistics(data: Rooms) -> tuple[Any, Any, tuple[float, ...], int]:
    """Mean and deviation of red, green, blue and depth, weights of the classes, and samples: of training."""
    batch = data.load("train")
    assert batch.y is not None
    values = torch.cat((batch.x["rgb"], batch.x["depth"]), 1).transpose(0, 1).flatten(1).double()
    center, scale = (
        tuple(round(float(v), 4) for v in each) for each in (values.mean(1), values.std(1))
    )
    balance = tuple(round(w, 4) for w in median_frequency(batch.y, len(data.classes)))
    return center, scale, balance, len(batch)


def rooms(preset: str, source: Literal["procedural", "real"] = "procedural") -> Setting:
    """Procedural rooms or NYU Depth V2 (`labkit.data.rooms`): smoke, quick, full; paper is as full.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    sizes: dict[str, tuple[int, int, int, tuple[float, ...], tuple[float, ...], int]] = {
        "smoke": (60, 30, 2, (0.02,), (0.0, 2.0), 2), "quick": (300, 150, 10, (0.02,), (0.0, 0.5, 2.0), 2),
        "full": (700, 300, 30, Setting.weights, Setting.levels, Setting.draws),
    }  # fmt: skip
    if preset not in (*sizes, "paper"):
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(sizes)}, paper")
    train, test, epochs, weights, levels, draws = sizes["full" if preset == "paper" else preset]
    if source == "real":
        data = Rooms(source="real", height=48)
    else:
        data = Rooms(height=48, n_train=train, n_val=train // 5, n_test=test)
    fit = TrainConfig(epochs, 16, 4e-3, "adamw", weight_decay=0.01, schedule="cosine", clip=5.0)
    return Setting(
        data, Sizes(len(data.classes), (48, 64)), fit, weights=weights, levels=levels, draws=draws
    )


def trained(
    setting: Setting, way: str, seed: int, device: str = "cpu", progress: bool = False
) -> Run:
    """One network, trained or found in the store; all take the same epochs."""
    config = setting.config(way, seed)
    return fit_once(
        config, setting.recipe(seed), setting.fit, seed, device=device, progress=progress
    )


def net_of(run: Run) -> FusionNet:
    """The network of a run."""
    assert isinstance(run.model, FusionNet)
    return run.model.requires_grad_(False)
