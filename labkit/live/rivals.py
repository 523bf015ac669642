"""Labs of X-Norm's rivals: weights of Gradient-Blending, and the cells that MulT reads.

MISA's dials are in `labkit.live.dials`, what all methods cost in `labkit.live.pricing`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labkit.exchanging import measure, reading
from labkit.exchanging.plan import MULTS, Setting
from labkit.exchanging.reading import CROWD
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, number, toggle
from labkit.models.blending import FLOOR, gain_weights, official_weights

# Gradient-Blending --------------------------------------------------------------------------------

HEADS = {"rgb": BLUE, "flow": RED, "joint": GREEN}  # the joint one last
HELD_DASHES: tuple[tuple[int, ...], ...] = ((6, 3), (2, 3), (8, 3, 2, 3))
UNTRAINED, MOST = (
    2.08,
    5.0,
)  # loss of eight classes that are all as likely; end of the sliders, in nats
WHERE = ("train", "held")


def blending(states: Sequence[str] = ()) -> Lab:
    """Losses of three heads before and after a window: their weights by gain, and by the released code.

    Args:
        states: State lines; see `Lab`.
    """
    fields = [
        (f"{head}_{where}_{when}", float, number(start, 0.0, MOST, f"{head}, {where} {when}",
         f"Loss of the {head} head {'in training' if where == 'train' else 'held out'}, {when} the window.",
         unit="nats"))
        for when, losses in (("before", (UNTRAINED,) * 6), ("after", (0.3, 1.2, 1.95, 2.0, 0.2, 1.15)))
        for (head, where), start in zip(
            [(head, where) for head in HEADS for where in WHERE], losses, strict=True
        )
    ]  # fmt: skip
    presets = {
        "Flow learns little": {},
        "Kill a modality": {"flow_train_after": UNTRAINED, "flow_held_after": UNTRAINED},
        "Overfits by heart": {"rgb_train_after": 0.02, "rgb_held_after": 2.4},
        "Nobody overfits yet": {
            "rgb_train_after": 1.4, "rgb_held_after": 1.4, "flow_train_after": 1.9, "flow_held_after": 1.9,
            "joint_train_after": 1.2, "joint_held_after": 1.2,
        },
    }  # fmt: skip
    question = Question(
        "The stream of motion is dead: its head learns nothing, and so it overfits nothing either. What "
        "share of the weight does the released code give it?",
        ("none", "a third", "all"),
        answer=2,
        hides=("weights by the released code", "numbers"),
        why="The code divides the loss held out by the gap squared, and never asks whether the loss has come "
        "down. A head that learnt nothing has no gap: it takes all. By gain it gets nothing, as the paper's "
        "formula says.",
        then={"flow_train_after": UNTRAINED, "flow_held_after": UNTRAINED},
    )
    return Lab(
        "blending", "Gradient-Blending: who is given the weight?", state_of("blending", fields, presets),
        blending_pictures, question=question, states=states,
    )  # fmt: skip


def blending_pictures(state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `blending`."""
    before, after = (
        torch.tensor(
            [[getattr(state, f"{head}_{where}_{when}") for where in WHERE] for head in HEADS],
            dtype=torch.float64,
        )
        for when in ("before", "after")
    )
    with warnings.catch_warnings():  # the floor is told in the sentence
        warnings.simplefilter("ignore", UserWarning)
        gain = gain_weights(before, after)
    code = official_weights(after)
    gained = before[:, 1] - after[:, 1]
    gap = (after[:, 1] - after[:, 0]) - (before[:, 1] - before[:, 0])
    floored = [n for n, g, o in zip(HEADS, gained, gap, strict=True) if g > 0 and o < FLOOR]
    says = (
        f"Weights by gain: {_shares(gain)}; by the released code: {_shares(code)}. Gained held out: "
        + together([f"{name} {float(g):+.2f}" for name, g in zip(HEADS, gained, strict=True)])
        + f" nats; gap grown by {together([f'{float(o):+.2f}' for o in gap])}."
    )
    if floored:
        says += f" The gap of {together(floored)} is taken as {FLOOR:g}, so as not to divide by nothing."
    if bool((gained <= 0).all()):
        says += " No head has gained: by gain all weigh alike."
    curves = [
        pictures.line(
            name, [float(each[k, i]) for each in (before, after)], color, dash if i else ()
        )
        for i in range(2)
        for k, ((name, color), dash) in enumerate(zip(HEADS.items(), HELD_DASHES, strict=True))
    ]
    bars = {
        f"{name} {what}": (float(value), color)
        for k, (name, color) in enumerate(HEADS.items())
        for what, value in (("gained", gained[k]), ("gap", gap[k]))
    }
    high = max(0.1, *(value for value, _ in bars.values()))
    top = max(0.1, 1.05 * float(torch.stack((before, after)).max()))
    return {
        "weights by gain, as in the paper": pictures.bars(
            [*HEADS], gain, says, unit="probability", colors=[*HEADS.values()]
        ),
        "weights by the released code": pictures.bars(
            [*HEADS], code, says, unit="probability", colors=[*HEADS.values()]
        ),
        "gained held out, and how far the gap grew": pictures.bars(
            [*bars], [value for value, _ in bars.values()], says, high=high, unit="nats",
            colors=[color for _, color in bars.values()],
        ),
        "losses over the window; dashed: held out": pictures.curves(
            [0, 1], curves, "window", "loss (nats)", says, limits=(0, top)
        ),
        "numbers": pictures.figures({
            **{f"{name} by gain": (float(w), "of the weight") for name, w in zip(HEADS, gain, strict=True)},
            **{f"{name}, code": (float(w), "of the weight") for name, w in zip(HEADS, code, strict=True)},
        }),
    }  # fmt: skip


def _shares(weights: Tensor) -> str:
    return together([f"{name} {float(w):.1%}" for name, w in zip(HEADS, weights, strict=True)])


# Which cells MulT reads ---------------------------------------------------------------------------

READS = ("mean", "last", "first")
TILE = 16  # pixels of a cell's side
LIGHT = 0.85  # of a cell that hardly matters, and of the stripes of one that does not at all


def reading_cells(
    setting: Setting, seed: int = 0, table: pd.DataFrame | None = None, device: str = "cpu",
    states: Sequence[str] = (),
) -> Lab:  # fmt: skip
    """Which cells the answer of a trained MulT depends on, by what is read, with a causal mask or without.

    Args:
        setting: Data and sizes; see `labkit.exchanging.plan`.
        seed: Of data and network.
        table: Of `labkit.exchanging.measure.table`, with "MulT" and its changed ways; None = no accuracies.
        device: Where to compute.
        states: State lines; see `Lab`.
    """
    fields = [
        ("read", str, choice("mean", READS, "read", "Which cells of the memories are read: the mean of all, "
         "the last, or the first, as in the released code.")),
        ("causal", bool, toggle(False, "causal", "A cell attends to no later one, in raster order, as in the "
         "released code: made for words, wrong for places.")),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "All cells": {}, "Last, causal": {"read": "last", "causal": True}, "First": {"read": "first"},
        "As released": {"read": "first", "causal": True},
    }  # fmt: skip
    count = _saliency(setting, seed, "mean", False, device)[0].shape[1]
    question = Question(
        f"Each stream ends in {count} cells of space and time. The released code lets no cell hear a later "
        "one, and reads the first. On how many cells of each stream does its answer depend?",
        (f"on all {count}", f"on half, {count // 2}", "on one"),
        answer=2,
        hides=("cells that matter, of each stream",),
        why="The first cell hears itself alone: the first frame's upper left corner of each stream. Without "
        "the mask it hears all of them, and with the mask the last one does: either would have done. What "
        "that costs in right answers is another matter: convolutions have shown each cell its surroundings.",
        then={"read": "first", "causal": True},
    )  # fmt: skip
    return Lab(
        "cells", "Broken MulT: which cells does an answer depend on?", state_of("cells", fields, presets),
        lambda state: cells_pictures(setting, seed, table, device, state), question=question, states=states,
    )  # fmt: skip


@lru_cache(maxsize=16)
def _saliency(
    setting: Setting, seed: int, read: Any, causal: bool, device: str
) -> tuple[Tensor, float]:
    """Saliency (M, cells) of the trained MulT read so, and its accuracy so in %, over some samples."""
    net = reading.read_as(reading.network(setting, "MulT", seed, device), read, causal)
    crowd = reading.held_out(setting, seed, device)[:CROWD]
    return reading.saliency(net, crowd), measure.accuracy(net, crowd)


@lru_cache(maxsize=4)
def _grid(setting: Setting, seed: int, device: str) -> tuple[int, int, int]:
    """Frames, rows and columns of the cells; a sequence is one row of one frame."""
    net = reading.network(setting, "MulT", seed, device)
    with torch.no_grad():
        maps, _ = net.streams.maps(reading.held_out(setting, seed, device)[:1])
    sizes = maps[0].shape[2:]
    return sizes if len(sizes) == 3 else (1, 1, sizes[0])


def cells_pictures(
    setting: Setting, seed: int, table: pd.DataFrame | None, device: str, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `reading_cells`."""
    found, right = _saliency(setting, seed, state.read, state.causal, device)
    names = [name for name, _ in setting.modalities]
    counts = (found > 0).sum(1).tolist()
    cells, top = found.shape[1], float(found.max() / found.sum())
    says = (
        f"Read: {state.read}, {'causal mask' if state.causal else 'no mask'}. The answer depends on "
        + together([f"{n} of {cells} cells of {name}" for n, name in zip(counts, names, strict=True)])
        + f"; the strongest has {top:.0%} of all saliency. The trained network, read so, is right of "
        f"{right:.1f} % of {CROWD} held-out samples; it was trained with the mean and without a mask."
    )  # fmt: skip
    every = {
        f"{read}{', causal' * causal}": _saliency(setting, seed, read, causal, device)[0]
        for read in READS
        for causal in (False, True)
    }
    now = f"{state.read}{', causal' * state.causal}"
    matter = {name: int((each > 0).sum(1).min()) for name, each in every.items()}
    grid = _grid(setting, seed, device)
    frames = [f"frame {t + 1}" for t in range(grid[0])] if grid[0] > 1 else []
    shown: dict[str, Picture] = {
        "how a cell moves the answer; black: most; striped: not at all": pictures.images(
            _tiles(found / found.max(), grid), names, frames, says
        ),
        "cells that matter, of each stream": pictures.bars(
            [*matter], [*matter.values()], says, high=cells, unit=f"of {cells} cells",
            colors=[BLUE if name == now else GREY for name in matter],
        ),
    }  # fmt: skip
    if table is not None:
        scores = table.groupby("way")["accuracy"].mean()
        ways = [way for way in ("MulT", *MULTS) if way in scores]
        names_of = {
            "MulT": "mean",
            "MulT, first cell": "first",
            "MulT, as released": "first, causal",
        }
        shown["trained and read so (% right); ticks: majority"] = pictures.bars(
            [names_of[way] for way in ways],
            [scores[way] for way in ways],
            says,
            high=100,
            unit="right (%)",
            colors=[BLUE if names_of[way] == now else GREY for way in ways],
            marks=[table["floor"].mean()] * len(ways),
        )
    return shown | {
        "numbers": pictures.figures({
            **{f"{name} cells": (n, f"of {cells}") for n, name in zip(counts, names, strict=True)},
            "strongest": (100 * top, "% of all saliency is of one cell"),
            "read so": (right, f"% right of {CROWD}, trained with the mean"),
        }),
    }  # fmt: skip


def _tiles(shares: Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """Shares (M, cells) as squares (M, T, h, w), the darker, the larger; where there is nothing, stripes."""
    cells = shares.view(-1, *grid).numpy()
    large = cells.repeat(TILE, 2).repeat(TILE, 3)
    rows, columns = np.indices(large.shape[2:])
    stripes = np.where((rows + columns) % (TILE // 2) < TILE // 8, LIGHT, 1.0)
    return np.where(large > 0, LIGHT * (1 - large), stripes)
