"""What is measured for notebook 07: how well pixels are told, at what cost, and under noise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.noise import MODES, Mode, per_mini_batch, per_sample
from labkit.data.rooms import SCENES
from labkit.fusing.plan import DYNAMIC, Setting, net_of, trained
from labkit.metrics_segmentation import confusion, mean_iou
from labkit.models.dynmm_fusion import PATHS, FusionNet, depth_costs, fuse_of
from labkit.models.gates import shares
from labkit.sweep import sweep

ROWS = 64  # pictures at a time
DRAWS = 5  # of a gate's paths, dealt out anew


def answers(net: FusionNet, batch: Batch, path: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Classes of all pixels (n, H, W), and how many stages of depth each picture ran (n,).

    Args:
        net: In eval mode.
        batch: n pictures.
        path: (n,) 0 to 4; None = by the gate, or the network's one path.
    """
    said, deep = [], []
    with torch.no_grad():
        for start in range(0, len(batch), ROWS):
            rows = slice(start, start + ROWS)
            fuse = None if path is None else fuse_of(path[rows])
            found = net.answer(batch[rows], fuse)
            said.append(found.logits.argmax(1))
            cells = torch.arange(1, PATHS, device=found.fuse.device)
            deep.append((found.fuse * cells).amax(1).long())
    return torch.cat(said), torch.cat(deep)


def paths_for(way: str, net: FusionNet, n: int, seed: int) -> Tensor | None:
    """Paths that a network takes at test time: stage I's at random, else its own."""
    if way != DYNAMIC[0]:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(PATHS, (n,), generator=generator).to(net.center.device)


def shuffled(deep: Tensor, seed: int) -> Tensor:
    """The same paths as often, for other pictures: what a gate knows is gone, what it costs is not."""
    generator = torch.Generator().manual_seed(seed)
    return deep[torch.randperm(len(deep), generator=generator).to(deep.device)]


def scored(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """One network on held-out pictures.

    Returns:
        ``miou`` in %, absent classes counting 0; ``val`` and ``val_cost``: mIoU and cost on the validation
        split, to choose by; ``scenes``: mIoU of each kind of scene, where known; ``paths``: share of each
        path (5,), ``scene_paths``; ``cost``: of the depth encoder, as a share of the deepest path's MAdds; of
        gates ``random``: mIoU of their paths dealt out anew, mean over `DRAWS`.
    """
    net, clean = _clean(setting, way, seed, device)
    val = setting.recipe(seed).load("val", device=device)
    assert val.y is not None
    said, deep = answers(net, val, paths_for(way, net, len(val), seed))
    found: dict[str, Any] = {
        "val": _miou(confusion(said, val.y, setting.sizes.classes)), "val_cost": cost_of(net, deep),
        "miou": _miou(clean.own.sum(0)), "paths": shares(clean.deep, PATHS).tolist(),
        "cost": cost_of(net, clean.deep),
    }  # fmt: skip
    if "scene" in clean.batch.factors:
        kinds = {name: clean.batch.factors["scene"] == i for i, name in enumerate(SCENES)}
        found["scenes"] = {
            name: 100 * float(mean_iou(clean.own[rows].sum(0), "skip"))
            for name, rows in kinds.items()
        }
        found["scene_paths"] = {
            name: shares(clean.deep[rows], PATHS).tolist() for name, rows in kinds.items()
        }
    if clean.by_path is not None:
        dealt = [_miou(clean.on(shuffled(clean.deep, draw)).sum(0)) for draw in range(DRAWS)]
        found["random"] = sum(dealt) / DRAWS
    return found


def _miou(matrix: Tensor) -> float:
    """Score (mIoU in %) of a confusion matrix, absent classes counting 0."""
    return 100 * float(mean_iou(matrix))


def cost_of(net: FusionNet, deep: Tensor) -> float:
    """Mean MAdds of the depth encoder over those of the deepest path; 0 without depth."""
    if not net.config.depth:
        return 0.0
    costs = torch.tensor(depth_costs(net.config))
    return float(costs[deep.cpu()].mean() / costs[-1])


def noisy(
    setting: Setting, way: str, seed: int, mode: Mode = "depth", level: float = 0.0, draw: int = 0,
    rule: Literal["picture", "mini-batch"] = "picture", device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Scores under noise.

    Args:
        setting: Data and sizes.
        way: One of its ways.
        seed: Of data and network.
        mode: Which modality is hit, in every third picture.
        level: Deviation of the noise, in units of mean|x| of the picture, or of the mini-batch.
        draw: Seed of the noise, and of `shuffled`.
        rule: What is hit, or not, as a whole; the released code draws for mini-batches of 8.
        device: Where to compute.

    Returns:
        ``miou`` in %; ``random``: with a gate's paths dealt out anew, NaN without one; ``paths``, ``cost``.
    """
    net, clean = _clean(setting, way, seed, device)
    batch, classes = clean.batch, setting.sizes.classes
    if rule == "picture":
        batch = per_sample(batch, level, mode, draw)
    else:
        generator = torch.Generator(net.center.device).manual_seed(draw)
        batch = per_mini_batch(batch, level, mode, generator)
    changed = [(batch.x[m] != clean.batch.x[m]).flatten(1).any(1) for m in batch.x]
    hit = torch.stack(changed).any(0).nonzero()[:, 0]
    y = batch.y[hit] if batch.y is not None else None
    own, deep = clean.own.clone(), clean.deep.clone()
    forced = paths_for(way, net, len(batch), seed)
    if y is not None and len(hit):
        said, deep[hit] = answers(net, batch[hit], None if forced is None else forced[hit])
        own[hit] = confusion(said, y, classes, per_image=True)
    found = {
        "miou": _miou(own.sum(0)), "random": float("nan"),
        "paths": shares(deep, PATHS).tolist(), "cost": cost_of(net, deep),
    }  # fmt: skip
    if clean.by_path is not None:
        again = shuffled(deep, draw)
        dealt = clean.on(again)
        if y is not None and len(hit):
            said, _ = answers(net, batch[hit], again[hit])
            dealt[hit] = confusion(said, y, classes, per_image=True)
        found["random"] = _miou(dealt.sum(0))
    return found


class Clean(NamedTuple):
    """What a network makes of the held-out pictures as they are: what noise does not hit stays so.

    Attributes:
        batch: n pictures.
        own: (n, C, C) confusion of each on its own path.
        deep: (n,) stages of depth that it ran.
        by_path: (5, n, C, C) on each path; None without a gate.
    """

    batch: Batch
    own: Tensor
    deep: Tensor
    by_path: Tensor | None

    def on(self, path: Tensor) -> Tensor:
        """Confusion (n, C, C) of each picture on the path (n,) given; a copy."""
        assert self.by_path is not None
        return self.by_path[path, torch.arange(len(path), device=path.device)]


@lru_cache(maxsize=4)  # of a worker whose memory grows by 300 MB, joblib makes a new one
def _clean(setting: Setting, way: str, seed: int, device: str) -> tuple[FusionNet, Clean]:
    """A network and its `Clean`, kept: a sweep asks for the same ones again and again."""
    net = net_of(trained(setting, way, seed, device))
    batch, classes = setting.recipe(seed).load("test", device=device), setting.sizes.classes
    assert batch.y is not None
    said, deep = answers(net, batch, paths_for(way, net, len(batch), seed))
    by_path = None
    if net.gate is not None and way != DYNAMIC[0]:
        all_paths = (torch.full_like(deep, k) for k in range(PATHS))
        told = (answers(net, batch, path)[0] for path in all_paths)
        by_path = torch.stack([confusion(t, batch.y, classes, per_image=True) for t in told])
    return net, Clean(batch, confusion(said, batch.y, classes, per_image=True), deep, by_path)


def table(setting: Setting, seeds: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """`scored` of every way and seed, kept; on a CPU trained side by side in processes."""
    grid: dict[str, list[Any]] = {"setting": [setting], "way": [*setting.ways], "device": [device]}
    found = sweep(scored, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])


def noise_table(
    setting: Setting, ways: Sequence[str], seeds: Sequence[int],
    modes: Sequence[str] = MODES, device: str = "cpu",
) -> pd.DataFrame:  # fmt: skip
    """`noisy` of each way and mode, at the levels and with the draws of the setting."""
    grid: dict[str, list[Any]] = {
        "setting": [setting], "way": [*dict.fromkeys(ways)], "mode": [*modes],
        "level": [*setting.levels], "draw": [*range(setting.draws)], "device": [device],
    }  # fmt: skip
    found = sweep(noisy, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])


def rule_table(
    setting: Setting, way: str, seeds: Sequence[int], device: str = "cpu"
) -> pd.DataFrame:
    """`noisy` at the highest level on depth, by both rules of what is hit together."""
    grid: dict[str, list[Any]] = {
        "setting": [setting], "way": [way], "level": [setting.levels[-1]], "draw": [*range(setting.draws)],
        "rule": ["picture", "mini-batch"], "device": [device],
    }  # fmt: skip
    found = sweep(noisy, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])


def best_static(table: pd.DataFrame, seed: int) -> str:
    """The early exit with the highest mIoU on the validation split; never the full one."""
    rows = table[
        (table["seed"] == seed) & table["way"].isin([f"static {k}" for k in range(PATHS - 1)])
    ]
    return str(rows.sort_values("val")["way"].iloc[-1])
