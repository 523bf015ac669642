"""What notebook 07 looks at, picture by picture: labs and figures read it here, and what is read is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.noise import Mode, per_sample
from labkit.data.rooms import LOOK, SCENES
from labkit.fusing.measure import ROWS, answers
from labkit.fusing.plan import CLOSABLE, DYNAMIC, Setting, net_of, trained
from labkit.metrics_segmentation import confusion, mean_iou
from labkit.models.dynmm_fusion import PATHS, FusionNet, depth_costs, fuse_of, fused
from labkit.models.gates import entropy, relaxed, shares
from labkit.models.rgbd import CELLS
from labkit.store import once
from labkit.sweep import sweep
from labkit.train import fit, isolated_rng
from labkit.watching import Watched

CROWD = 80  # held-out pictures that stand for the split where a lab scores it anew
LOOKS = 20  # times at which a training is looked at, the first and the last one included


def gate_way(setting: Setting, way: str | None = None) -> str:
    """The way whose gate is looked at: the annealed one with the middle weight, if none is named.

    Raises:
        ValueError: if the way has no gate that was trained; the message lists those that have.
    """
    kinds = (*DYNAMIC[1:], CLOSABLE[1])
    gated = [w for w in setting.ways if w.partition(", ")[0] in kinds]
    if way is None:
        weights = sorted(setting.weights)
        return f"{DYNAMIC[2]}, {weights[len(weights) // 2]:g}"
    if way not in gated:
        raise ValueError(f"way must be one of {', '.join(gated)}; got {way!r}")
    return way


@lru_cache(maxsize=8)
def network(setting: Setting, way: str, seed: int, device: str = "cpu") -> FusionNet:
    """A trained network, kept while the kernel runs."""
    return net_of(trained(setting, way, seed, device))


@lru_cache(maxsize=4)
def held_out(setting: Setting, seed: int, device: str = "cpu") -> Batch:
    """All held-out pictures, kept while the kernel runs."""
    return setting.recipe(seed).load("test", device=device)


def path_costs(net: FusionNet) -> tuple[float, ...]:
    """MAdds of the depth encoder on each of the five paths, as a share of the deepest one's."""
    costs = depth_costs(net.config)
    return tuple(each / costs[-1] for each in costs)


# One picture -----------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def scene(
    setting: Setting, seed: int, row: int, light: float = 1.0, similarity: float = 0.0, noise: float = 1.0,
    holes: float = 0.0, device: str = "cpu",
) -> Batch:  # fmt: skip
    """One held-out picture under other circumstances than its own; the defaults leave it as it is.

    Args:
        setting: With procedural data.
        seed: Of the data.
        row: Number of the picture.
        light: Factor of its light.
        similarity: Added to its share of the wall's colour in all colours.
        noise: Factor of the error of its depth.
        holes: Added to its share of holes.
        device: Where it is made.

    Returns:
        One sample, as of `Rooms.look`; what goes out of range stays at the end of the range.
    """
    own = held_out(setting, seed, device).factors
    now = {name: float(own[name][row]) for name in LOOK}
    asked = {
        "light": now["light"] * light if light != 1 else None,
        "similarity": now["similarity"] + similarity if similarity else None,
        "noise": now["noise"] * noise if noise != 1 else None,
        "holes": now["holes"] + holes if holes else None,
    }
    given = {k: min(max(v, 0.0), LOOK[k]) for k, v in asked.items() if v is not None}
    return setting.recipe(seed).look("test", [row], device=device, **given)


@lru_cache(maxsize=64)
def noised(
    setting: Setting,
    seed: int,
    row: int,
    colour: float = 0.0,
    depth: float = 0.0,
    device: str = "cpu",
) -> Batch:
    """One held-out picture with noise of these levels, in units of its mean|x|; at 0 it is as it is."""
    batch = held_out(setting, seed, device)[row : row + 1]
    index = torch.tensor([row], device=batch.device)
    levels: tuple[tuple[Mode, float], ...] = (("rgb", colour), ("depth", depth))
    for mode, level in levels:
        if level:
            batch = per_sample(batch, level, mode, seed, index, chance=1.0)
    return batch


class Told(NamedTuple):
    """What a network with a gate makes of one picture."""

    said: Tensor  # (5, H, W) classes, path by path
    weights: Tensor  # (5,) of the gate, at temperature 1
    path: int  # the gate's


@torch.no_grad()
def told(net: FusionNet, batch: Batch) -> Told:
    """All five paths of one picture, in one batch."""
    five = batch[torch.zeros(PATHS, dtype=torch.long, device=batch.device)]
    found = net.answer(five, fuse_of(torch.arange(PATHS, device=batch.device)))
    weights = relaxed(net.choose(*net.start(batch)))[0].cpu()
    return Told(found.logits.argmax(1).cpu(), weights, int(weights.argmax()))


@torch.no_grad()
def patched(net: FusionNet, batch: Batch, cells: Sequence[bool]) -> Tensor:
    """Classes (B, H, W) where just these cells fuse, whatever the gate says."""
    fuse = torch.tensor(cells, dtype=torch.float32, device=batch.device).expand(len(batch), CELLS)
    said = [net.answer(part, f).logits.argmax(1) for part, f in _parts(batch, fuse)]
    return torch.cat(said)


def _parts(batch: Batch, fuse: Tensor) -> list[tuple[Batch, Tensor]]:
    """Some pictures at a time, so that memory stays small."""
    return [(batch[i : i + ROWS], fuse[i : i + ROWS]) for i in range(0, len(batch), ROWS)]


# Many pictures ---------------------------------------------------------------------------------------


@lru_cache(maxsize=12)
def crowd(
    setting: Setting, seed: int, mode: Mode = "depth", level: float = 0.0, chance: float = 1.0,
    device: str = "cpu",
) -> Batch:  # fmt: skip
    """At most `CROWD` held-out pictures, evenly spread, with noise on one modality."""
    batch = held_out(setting, seed, device)
    count = min(CROWD, len(batch))
    rows = torch.linspace(0, len(batch) - 1, count, device=batch.device).round().long()
    return per_sample(batch[rows], level, mode, seed, rows, chance)


@lru_cache(maxsize=256)
def counts(
    setting: Setting, way: str, seed: int, cells: tuple[bool, ...], mode: Mode = "depth",
    level: float = 0.0, chance: float = 1.0, device: str = "cpu",
) -> Tensor:  # fmt: skip
    """Confusion matrices (B, C, C) of `crowd` where just these cells fuse; kept while the kernel runs."""
    batch = crowd(setting, seed, mode, level, chance, device)
    said = patched(network(setting, way, seed, device), batch, cells)
    assert batch.y is not None
    return confusion(said, batch.y, setting.sizes.classes, per_image=True).cpu()


def cells_of(path: int) -> tuple[bool, ...]:
    """Which cells fuse on a path: its first ones."""
    return tuple(j < path for j in range(CELLS))


@lru_cache(maxsize=64)
def chosen(
    setting: Setting, way: str, seed: int, mode: Mode = "depth", level: float = 0.0, chance: float = 1.0,
    device: str = "cpu",
) -> Tensor:  # fmt: skip
    """Paths (B,) of `crowd` by the gate."""
    batch = crowd(setting, seed, mode, level, chance, device)
    net = network(setting, way, seed, device)
    with torch.no_grad():
        parts = [batch[i : i + ROWS] for i in range(0, len(batch), ROWS)]
        return torch.cat([net.choose(*net.start(part)).argmax(1) for part in parts]).cpu()


# Under noise -----------------------------------------------------------------------------------------


class Noisy(NamedTuple):
    """Scores under noise.

    Attributes:
        levels: (L,), in units of mean|x|.
        miou: mode -> name -> (seeds, L, draws) in %. Names: gate, always full, best early exit, dealt out
            anew.
    """

    levels: np.ndarray
    miou: dict[str, dict[str, np.ndarray]]


def noisy_of(table: pd.DataFrame, way: str, best: Mapping[int, str]) -> Noisy:
    """What is compared under noise, from the table of `measure.noise_table`.

    Args:
        table: As of `measure.noise_table`, with the gate, "static 4" and the early exits.
        way: The gate.
        best: Seed -> the early exit that was best on its validation split (`measure.best_static`).

    Raises:
        ValueError: if the table lacks a way or a seed.
    """
    modes, levels = list(dict.fromkeys(table["mode"])), sorted(table["level"].unique())

    def grid(rows: pd.DataFrame, column: str, what: str) -> np.ndarray:
        if rows.empty:
            raise ValueError(f"table has no {what}; it has {', '.join(table['way'].unique())}")
        frame = rows.set_index(["seed", "level", "draw"])[column].unstack("draw")
        return np.stack([part.loc[seed].loc[levels] for seed, part in frame.groupby("seed")])

    missing = sorted({*table["seed"]} - {*best})
    if missing:
        raise ValueError(f"best must name an early exit for each seed; none for {missing}")
    exits = table["way"] == table["seed"].map(best)
    chosen_rows = {
        "gate": (table["way"] == way, "miou", f"way {way!r}"),
        "always full": (table["way"] == f"static {CELLS}", "miou", f"way 'static {CELLS}'"),
        "best early exit": (exits, "miou", "early exit of `best`"),
        "dealt out anew": (table["way"] == way, "random", f"way {way!r}"),
    }
    found = {
        mode: {
            name: grid(table[rows & (table["mode"] == mode)], column, what)
            for name, (rows, column, what) in chosen_rows.items()
        }
        for mode in modes
    }
    return Noisy(np.asarray(levels), found)


# While it learns -------------------------------------------------------------------------------------


def annealed(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """Train one gate as `plan.trained` does, and look at it on the validation split on the way.

    Returns:
        Lists, a number a look: ``epoch``; ``temperature``; ``entropy`` of the gate at that temperature, in
        nats, mean over pictures; ``paths``: share of each path (5,) by the likeliest one; ``soft`` and
        ``hard``: mIoU in %, with weights of that temperature and with one path.
    """
    config, data = setting.config(way, seed), setting.recipe(seed)
    train, val = data.load("train", device=device), data.load("val", device=device)
    with isolated_rng(seed, torch.device("cpu")):
        net = config.build().to(device)
    found: dict[str, list[Any]] = {}
    steps = math.ceil(len(train) / setting.fit.batch_size)

    def look(step: int) -> None:
        seen = _look(net.eval(), val, step)
        for name, value in {"epoch": step / steps, **seen}.items():
            found.setdefault(name, []).append(value)

    count = min(LOOKS, setting.fit.epochs + 1)
    epochs = sorted({round(float(e)) for e in np.linspace(0, setting.fit.epochs, count)})
    looks = {epoch * steps: look for epoch in epochs[:-1]}
    fit(Watched(net, looks), train, setting.fit, seed=seed, progress=False)
    look(epochs[-1] * steps)
    return found


@torch.no_grad()
def _look(net: FusionNet, val: Batch, step: int) -> dict[str, Any]:
    relaxation, said, spread = net.config.relaxation, [], []
    temperature = relaxation.temperature(step)
    for start in range(0, len(val), ROWS):
        begun = net.start(val[start : start + ROWS])
        weights = relaxed(net.choose(*begun), temperature)
        said.append(net.mixed(*begun, fused(weights))[0].argmax(1))
        spread.append(entropy(weights))
    assert val.y is not None
    hard, deep = answers(net, val)
    classes = net.config.sizes.classes
    soft, one = (mean_iou(confusion(each, val.y, classes)) for each in (torch.cat(said), hard))
    return {
        "temperature": temperature, "entropy": float(torch.cat(spread).mean()),
        "paths": shares(deep, PATHS).tolist(), "soft": 100 * float(soft), "hard": 100 * float(one),
    }  # fmt: skip


def annealing(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """`annealed`, computed once and kept in the store."""
    found: dict[str, Any] = once(annealed, setting=setting, way=way, seed=seed, device=device)
    return found


def trainings(
    setting: Setting, way: str, seeds: Sequence[int], device: str = "cpu"
) -> dict[str, list[dict[str, Any]]]:
    """`annealed` of each seed with the random paths of stage I and without, side by side in processes."""
    both = {"with stage I": setting, "without": replace(setting, explore=0.0)}
    grid: dict[str, list[Any]] = {"setting": [*both.values()], "way": [way], "device": [device]}
    found = sweep(annealed, grid, seeds, workers=None if device == "cpu" else 1)
    columns = [c for c in found.columns if c not in (*grid, "seed")]

    def records(setting: Setting) -> list[dict[str, Any]]:
        rows = found[[each == setting for each in found["setting"]]]
        return [{c: row[c] for c in columns} for _, row in rows.iterrows()]

    return {name: records(each) for name, each in both.items()}


def in_use(paths: Sequence[float] | np.ndarray) -> float:
    """How many paths are in use, from their shares: 5 = all alike, 1 = a single one (exp of the entropy)."""
    return float(entropy(torch.as_tensor(paths, dtype=torch.float64)).exp())


def scene_name(batch: Batch, row: int = 0) -> str:
    """Kind of scene of a sample; empty where it is not known."""
    return SCENES[int(batch.factors["scene"][row])] if "scene" in batch.factors else ""


def sheet(
    setting: Setting, seed: int, way: str | None = None, device: str = "cpu"
) -> tuple[Batch, dict[str, Tensor], Tensor]:
    """Four held-out pictures, one of each kind of scene where known, and what networks say of them.

    Returns:
        The pictures; name -> classes (4, H, W), the gate's last; the gate's paths (4,).
    """
    batch, way = held_out(setting, seed, device), gate_way(setting, way)
    if "scene" in batch.factors:
        rows = [int((batch.factors["scene"] == i).nonzero()[0, 0]) for i in range(len(SCENES))]
    else:
        rows = [round(i * (len(batch) - 1) / 3) for i in range(4)]
    some = batch[torch.tensor(rows, device=batch.device)]
    ways = {"colour alone": "colour", "always full": f"static {CELLS}", "gate": way}
    found = {name: answers(network(setting, w, seed, device), some) for name, w in ways.items()}
    return some, {name: said for name, (said, _) in found.items()}, found["gate"][1]
