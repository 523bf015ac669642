"""Labs of synergy (X-Norm): a dial from a sum to a product, and XOR as a grid of logits on paper.

What an exchange does about it: `labkit.live.exchange`, `labkit.live.swapping`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labkit.data.clips import ceilings
from labkit.drawing import SOFT, offsets
from labkit.exchanging import measure, reading
from labkit.exchanging.plan import Setting
from labkit.figures_rivals import looks_of
from labkit.fusing.colours import RIGHT, WRONG, rgb
from labkit.live import pictures
from labkit.live.exchange import SIDES, clips_of
from labkit.live.flowing import GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import State, number

# The synergy dial ---------------------------------------------------------------------------------

# Way -> what it can reach at most, of `ceilings`; the dash of its line.
WAYS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "rgb alone": ("rgb", ()), "flow alone": ("flow", ()), "late": ("late", (6, 3)),
    "early": ("joint", (2, 3)), "X-Norm": ("joint", ()), "X-Norm, own": ("late", (8, 3, 2, 3)),
}  # fmt: skip
# Late fusion is black in figures, which would be lost on a dark page.
COLORS = {way: look.color for way, look in looks_of([*WAYS]).items()} | {"late": SOFT}
LINES = {
    way: way.removeprefix("X-Norm, ") for way in [*WAYS][2:]
}  # and names that there is room for
TALL, WIDE, DOT = 105, 41, 3.2  # pixels of a strip of seeds, and the radius of a seed


class Dial(NamedTuple):
    """Accuracies by rho: rhos (R,), and way -> (S, R), a row a seed, in %."""

    rhos: NDArray[np.float64]
    found: dict[str, NDArray[np.float64]]

    def at(self, rho: float) -> dict[str, NDArray[np.float64]]:
        """Way -> (S,) at any rho, on lines between those of the table."""
        return {
            way: np.array([np.interp(rho, self.rhos, row) for row in rows])
            for way, rows in self.found.items()
        }


def dial_of(table: pd.DataFrame) -> Dial:
    """A table of all ways as arrays.

    Raises:
        ValueError: if a way is not there, or has other rhos or seeds than the first one.
    """
    read = {way: measure.by_rho(table, way) for way in WAYS}
    rhos, first = next(iter(read.values()))
    for way, (other, values) in read.items():
        if other != rhos or len(values) != len(first):
            raise ValueError(f"table must have all rhos and seeds of all ways, {way!r} has others")
    if len(rhos) < 2:
        raise ValueError(f"table must have two rhos or more, got {rhos}")
    return Dial(np.array(rhos), {way: values for way, (_, values) in read.items()})


def synergy(table: pd.DataFrame, states: Sequence[str] = ()) -> Lab:
    """From clips that a sum can tell to clips that only a product can tell: who still answers?

    Args:
        table: Of `labkit.exchanging.measure.rho_table`, with all of `WAYS`; best with rho = 0.5, where what
            any answer can reach is lowest and lines have their bend.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the table lacks a way, or a way a rho; the message names it.
    """
    dial = dial_of(table)
    low, high = float(dial.rhos[0]), float(dial.rhos[-1])
    trained = together([f"{rho:g}" for rho in dial.rhos])
    fields = [
        ("rho", float, number(low, low, high, "synergy rho", "Share of the clips whose polarity is handle "
         f"XOR direction. Networks were trained at {trained}; between them, lines.")),
    ]  # fmt: skip
    presets = {f"rho = {rho:g}": {"rho": float(rho)} for rho in dial.rhos}
    late, other = (dial.at(high)[way].mean() for way in ("late", "X-Norm"))
    question = Question(
        f"At rho = {high:g}, open and close depend on handle and direction together in {high:.0%} of the "
        "clips. What can late fusion reach there at most, a sum of what two streams say?",
        ("50 %", f"{100 * ceilings(high)['late']:.0f} %", "100 %"),
        answer=1,
        hides=("right answers over the synergy",),
        why="Of the four cells of handle and direction a sum gets three right, or follows the direction "
        f"where that is worth more. Trained, late fusion has {late:.0f} % there, X-Norm, which multiplies, "
        f"{other:.0f} %.",
        then={"rho": high},
    )
    return Lab(
        "synergy", "Synergy dial: when a sum is not enough", state_of("synergy", fields, presets),
        lambda state: synergy_pictures(dial, state), question=question, states=states,
    )  # fmt: skip


def synergy_pictures(dial: Dial, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `synergy`."""
    rho, here = state.rho, dial.at(state.rho)
    most, seeds = ceilings(rho), len(next(iter(here.values())))
    means = {way: float(values.mean()) for way, values in here.items()}
    gap = here["X-Norm"] - here["late"]
    between = "" if rho in dial.rhos else " (on lines between trained networks)"
    says = (
        f"rho {rho:.2f}{between}, mean over {seeds} seed{'s' * (seeds > 1)}: "
        + ", ".join(f"{way} {mean:.1f} %" for way, mean in means.items())
        + f". At most: rgb {100 * most['rgb']:.0f} %, flow {100 * most['flow']:.0f} %, any sum "
        f"{100 * most['late']:.0f} %, anything {100 * most['joint']:.0f} %."
    )
    grid = np.union1d(dial.rhos, np.linspace(dial.rhos[0], dial.rhos[-1], 41))
    lines = [
        pictures.line(
            short, np.interp(grid, dial.rhos, dial.found[way].mean(0)), COLORS[way], WAYS[way][1]
        )
        for way, short in LINES.items()
    ]
    ceiling = [100 * ceilings(float(r))["late"] for r in grid]
    lines.append(pictures.line("any sum", ceiling, "", (1, 3)))
    tops = {way: 100 * most[which] for way, (which, _) in WAYS.items()}
    strips = [_strip(here[way], tops[way], COLORS[way]) for way in WAYS]
    return {
        "right answers; ticks: the most there can be": pictures.bars(
            [*WAYS], list(means.values()), says, high=100, colors=[COLORS[way] for way in WAYS],
            unit="% right", marks=list(tops.values()),
        ),
        "right answers over the synergy": pictures.curves(
            grid, lines, "synergy rho", "right (%)", says, limits=(0, 104), marker=rho
        ),
        "every seed, from 0 to 100 %; line: the most there can be": pictures.images(
            np.array([strips]), ["0 to 100 %"], [way.removesuffix(" alone") for way in WAYS], says
        ),
        "numbers": pictures.figures({
            "rho": (rho, "of the clips are handle XOR direction"),
            **{way: (mean, "% right") for way, mean in means.items()},
            "ahead": (float(gap.mean()), f"points, X-Norm of late; {gap.min():+.1f} to {gap.max():+.1f}"),
        }),
    }  # fmt: skip


def _strip(values: NDArray[np.float64], top: float, color: str) -> NDArray[np.float64]:
    """Seeds side by side as dots over 0 to 100 %, and a line at the ceiling: (H, W, 3)."""
    y, x = np.mgrid[:TALL, :WIDE]
    made = np.ones((TALL, WIDE, 3))
    for level in (0, 25, 50, 75, 100):
        made[_height(level)] = 0.88
    made[_height(top), ::2] = 0.25
    for place, value in zip(offsets(len(values), 0.6 * WIDE), values, strict=True):
        near = (x - WIDE // 2 - place) ** 2 + (y - _height(value)) ** 2 <= DOT**2
        made[near] = rgb(color)
    return made


def _height(percent: float) -> int:
    """Its row of pixels, with room for a dot above and below."""
    room = int(DOT) + 1
    return round(room + (1 - percent / 100) * (TALL - 1 - 2 * room))


# XOR on paper -------------------------------------------------------------------------------------

CELLS = [(h, d) for h in range(2) for d in range(2)]  # of handle and direction, by rows
NAMES = [f"{SIDES[h]}, {SIDES[d]}" for h, d in CELLS]
LIMIT = 3.0  # of all sliders
SIDE = 24  # pixels of a cell
RIVALS = ("late", "X-Norm")


@dataclass(frozen=True)
class Paper(State):
    """State of `xor`."""

    PRESETS: ClassVar = {
        "The direction alone": {"rgb_left": 0.0, "rgb_right": 0.0, "flow_left": -1.0, "flow_right": 1.0,
                                "product": 0.0},
        "A lopsided sum": {"rgb_left": -1.0, "rgb_right": 1.0, "flow_left": 0.0, "flow_right": 2.0,
                           "product": 0.0},
        "A product": {"rgb_left": 0.0, "rgb_right": 0.0, "flow_left": 0.0, "flow_right": 0.0,
                      "product": -1.0},
    }  # fmt: skip

    rgb_left: float = number(
        -0.5,
        -LIMIT,
        LIMIT,
        "rgb: handle left",
        "What rgb says where the handle is left: above 0, close.",
    )
    rgb_right: float = number(
        0.5, -LIMIT, LIMIT, "rgb: handle right", "What rgb says where the handle is right."
    )
    flow_left: float = number(
        -1.0, -LIMIT, LIMIT, "flow: to the left", "What flow says of a movement to the left."
    )
    flow_right: float = number(
        1.0, -LIMIT, LIMIT, "flow: to the right", "What flow says of a movement to the right."
    )
    product: float = number(
        0.0, -LIMIT, LIMIT, "product", "Weight of a product: left is -1, right is 1, of both. At 0 there is "
        "none: a sum, as in late fusion.",
    )  # fmt: skip


def xor(
    setting: Setting | None = None, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()
) -> Lab:
    """Four cells of handle and direction, and four numbers that are added: how many can be right?

    Args:
        setting: Of procedural clips: what trained networks do in the four cells is shown, too; None = not.
        seed: Of data and networks.
        device: Where to compute.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the setting is not of procedural clips.
    """
    if setting is not None:
        clips_of(setting)
    question = Question(
        "Close where handle and direction differ, open where they are alike. You may set the four numbers "
        "of the sum as you like. How many of the four cells can you get right?",
        ("two", "three", "all four"),
        answer=1,
        hides=("right cells over the weight of a product", "right"),
        why="Of a sum, left-left and right-right together are as much as left-right and right-left together: "
        "the one pair cannot be below 0 and the other above. A product is not bound by that.",
        then=Paper.PRESETS["A lopsided sum"],
    )
    return Lab(
        "xor", "XOR on paper: can a sum get four?", Paper(),
        lambda state: xor_pictures(setting, seed, device, state), question=question, states=states,
    )  # fmt: skip


@lru_cache(maxsize=8)
def _trained(setting: Setting, seed: int, device: str) -> dict[str, NDArray[np.float64]]:
    """Way -> share of right polarities in each cell, (4,)."""
    return {way: reading.by_cell(setting, way, seed, device).numpy().ravel() for way in RIVALS}


def xor_pictures(
    setting: Setting | None, seed: int, device: str, state: Paper
) -> Mapping[str, Picture]:
    """State -> pictures of `xor`."""
    said = (state.rgb_left, state.rgb_right), (state.flow_left, state.flow_right)
    logits = reading.xor(*said, state.product)
    solved = reading.solved(logits)
    right, each = int(solved.sum()), solved.flatten().tolist()
    verbs = ["close" if v > 0 else "open" if v < 0 else "neither" for v in logits.flatten()]
    cells = [
        f"{name}: {v:+.1f}, {verb}, {'right' if ok else 'wrong'}"
        for name, v, verb, ok in zip(NAMES, logits.flatten().tolist(), verbs, each, strict=True)
    ]
    apart = float(logits[0, 0] + logits[1, 1] - logits[0, 1] - logits[1, 0])
    says = (
        f"Handle, direction: {'; '.join(cells)}. {right} of 4 cells are right"
        f"{', with a product' if state.product else ', by a sum'}."
    )
    labels = [[f"{side}: {v:+.1f}" for side, v in zip(SIDES, given, strict=True)] for given in said]
    weights = np.linspace(-LIMIT, LIMIT, 121)
    counts = [float(reading.solved(reading.xor(*said, float(w))).sum()) for w in weights]
    shown = {
        "rows: handle, columns: movement; framed: close": pictures.images(
            np.array([[_cell(bool(solved[h, d])) for d in range(2)] for h in range(2)]),
            labels[0], labels[1],
            says, (logits > 0).numpy(),
        ),
        "close, says the sum (handle, movement); ticks: true": pictures.bars(
            [f"{name} {'✓' if ok else '✗'}" for name, ok in zip(NAMES, each, strict=True)],
            logits.sigmoid().flatten(), says, unit="probability",
            colors=[GREY if ok else RED for ok in each], marks=[float(h != d) for h, d in CELLS],
        ),
        "right cells over the weight of a product": pictures.curves(
            weights, [pictures.line("these numbers", counts), pictures.line("best sum", [3.0] * len(weights),
             GREY, (2, 3))], "product", "cells", says, limits=(0, 4.2), marker=state.product,
        ),
    }  # fmt: skip
    trained = {} if setting is None else _trained(setting, seed, device)
    if trained:
        shown |= _in_cells(trained)
    shown["numbers"] = pictures.figures({
        "right": (right, "of 4 cells; 3 at most by a sum"),
        "apart": (apart, "same sides less different sides: 4 times the product"),
        **{way: (100 * float(shares.mean()), "% right polarities, trained")
           for way, shares in trained.items()},
    })  # fmt: skip
    return shown


def _in_cells(trained: Mapping[str, NDArray[np.float64]]) -> dict[str, Picture]:
    """What trained networks do in the four cells."""
    told = [
        f"{way}: " + ", ".join(f"{name} {v:.0%}" for name, v in zip(NAMES, shares, strict=True))
        for way, shares in trained.items()
    ]
    says = f"Right polarities by handle and movement. {'; '.join(told)}."
    late, other = trained.values()
    return {
        "trained late fusion: light as far as it is right": pictures.images(
            np.array([_filled(share) for share in late]).reshape(2, 2, SIDE, SIDE, 3), SIDES, SIDES, says
        ),
        "trained late fusion: right polarities; ticks: X-Norm": pictures.bars(
            NAMES, late, says, unit="probability", colors=[GREY] * 4, marks=other
        ),
    }  # fmt: skip


def _filled(share: float) -> NDArray[np.float64]:
    """Dark red, light grey from below as far as a share: a cell as `_cell` draws it."""
    made = np.tile(rgb(WRONG), (SIDE, SIDE, 1))
    made[round((1 - share) * SIDE) :] = rgb(RIGHT)
    return made


def _cell(right: bool) -> NDArray[np.float64]:
    """A tick on light grey, or a cross on dark red, (`SIDE`, `SIDE`, 3)."""
    y, x = np.mgrid[:SIDE, :SIDE]
    cross = (np.abs(x - y) < 2) | (np.abs(x + y - SIDE + 1) < 2)
    tick = np.where(x < 10, np.abs(y - x - 6) < 2, np.abs(x + y - 25) < 2)
    inside = (x >= 5) & (x <= 18) & (y >= 5) & (y <= 18)
    ground, ink = (rgb(RIGHT), 0.13) if right else (rgb(WRONG), 1.0)
    return np.where((inside & (tick if right else cross))[..., None], ink, ground)
