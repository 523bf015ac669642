"""Lab of MISA's dials (of X-Norm's rivals): weights of its conditions, its codes, and its answers.

It reads a finished table. Other rivals are in `labkit.live.rivals`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY
from labkit.live.insight import DASHES
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import number, toggle
from labkit.live.still import CLASSES
from labkit.models.misa import Misa

DIALS = {
    "similar": "shared codes of both modalities are distributed alike",
    "differ": "private codes tell other things than shared ones and each other",
    "recover": "both codes together give the vector back",
}
XNORM = {"similar": 1.0, "differ": 0.3, "recover": 1.0}  # weights in X-Norm's released code
SHOWN = 96  # samples of each cloud
ORDINALS = ("1, mean", "2", "3", "4", "5")  # of the moments
ORTHOGONAL = 90.0  # degrees
HALF, SHRUNK = 0.5, 0.05  # shares of the deviation at the lowest weights
CLOUDS: tuple[tuple[int, ...], ...] = (
    (),
    (6, 3),
    (2, 3),
    (8, 3, 2, 3),
)  # dashes, in the order of the codes


def misa(table: pd.DataFrame, states: Sequence[str] = ()) -> Lab:
    """What the weights of MISA's three conditions make of its codes, and of its answers.

    Args:
        table: Of `labkit.exchanging.reading.misa_table`; a condition of which it has one weight alone gets no
            slider.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the table has one network alone.
    """
    steps = {name: sorted({*table[name].tolist()}) for name in DIALS}
    moving = {name: values for name, values in steps.items() if len(values) > 1}
    if not moving:
        raise ValueError(f"table must have two or more networks, got {len(table)}")
    fields = [
        (name, float, number(_usual(name, values), values[0], values[-1], name, "Weight of the condition "
         f"that {DIALS[name]}. Trained at {together([f'{v:g}' for v in values])}; the nearest is shown."))
        for name, values in moving.items()
    ]  # fmt: skip
    fields.append(("zoom", bool, toggle(False, "zoom", "The picture of the codes at their own scale; else "
                   "all networks have one.")))  # fmt: skip
    exact = all(getattr(Misa, name) in values for name, values in steps.items())
    theirs = all(value in steps[name] for name, value in XNORM.items())
    presets: dict[str, Mapping[str, Any]] = {
        **({"As MMSA has it": {}} if exact else {}),
        **({"As X-Norm has it": {name: XNORM[name] for name in moving}} if theirs else {}),
        "All at their least": {name: values[0] for name, values in moving.items()},
        **{f"Only {name}": {n: values[-1 if n == name else 0] for n, values in moving.items()}
           for name in moving},
        "All at their most": {name: values[-1] for name, values in moving.items()},
    }  # fmt: skip
    return Lab(
        "misa", "MISA's dials: what is shared, what is private?", state_of("misa", fields, presets),
        lambda state: misa_pictures(table, state), question=_shrinks(table, moving), states=states,
    )  # fmt: skip


def _usual(name: str, values: Sequence[float]) -> float:
    """The weight that is the default of `labkit.models.misa.Misa`, or the nearest there is."""
    return _nearest(values, getattr(Misa, name))


def _nearest(values: Sequence[float], wished: float) -> float:
    return min(values, key=lambda value: abs(value - wished))


def _shrinks(table: pd.DataFrame, moving: Mapping[str, Sequence[float]]) -> Question:
    """All conditions at their most: do codes still vary?"""
    then, bare = ({name: values[i] for name, values in moving.items()} for i in (-1, 0))
    row, free = _row(table, then), _row(table, bare)
    own, whole = own_of(row["points"]), own_of(free["points"])
    share = own / max(whole, 1e-9)
    return Question(
        "All conditions count, as much as they can here. How far do codes of different samples lie apart, "
        f"beside those of the network with the lowest weights, {_said(bare)}?",
        ("about as far", f"less than {HALF:.0%} of that", f"less than {SHRUNK:.0%}: nearly constant"),
        answer=0 if share >= HALF else 1 if share >= SHRUNK else 2,
        why=f"Each code's deviation is {own:.3f}, at the lowest weights {whole:.3f}; right of "
        f"{row['accuracy']:.0f} %, there {free['accuracy']:.0f} %. Two constants are distributed alike: "
        "a condition can be met by saying less. Here the vectors that are to be given back do not move for "
        "it; where they do, as in the published code, all can end as constants (*MISA, moving goal*).",
        then=then | {"zoom": False},
    )  # fmt: skip


def _said(weights: Mapping[str, float]) -> str:
    """Weights in words."""
    return together([f"{name} {value:g}" for name, value in weights.items()])


def _row(table: pd.DataFrame, weights: Mapping[str, float]) -> pd.Series[Any]:
    """The network with these weights."""
    where = np.logical_and.reduce([table[name] == value for name, value in weights.items()])
    return table[where].iloc[0]


def own_of(points: Mapping[str, Any]) -> float:
    """Deviation within a code, mean over the codes; where codes lie beside each other does not count."""
    return float(np.mean([np.std(each, axis=0).mean() for each in points.values()]))


def misa_pictures(table: pd.DataFrame, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `misa`."""
    steps = {name: sorted({*table[name].tolist()}) for name in DIALS}
    asked = {name: _nearest(v, getattr(state, name, v[0])) for name, v in steps.items()}
    row, bare = _row(table, asked), _row(table, {name: v[0] for name, v in steps.items()})
    own, whole = own_of(row["points"]), own_of(bare["points"])
    left = {name: float(row[f"{name} left"]) for name in DIALS}
    share = {name: left[name] / max(float(bare[f"{name} left"]), 1e-9) for name in DIALS}
    says = (
        f"Weights: {_said(asked)}. Right of {row['accuracy']:.1f} %. Within a code samples deviate by "
        f"{own:.3f}, at the lowest weights by {whole:.3f}"
        + ": they have shrunk to constants" * (own < SHRUNK * whole) + ". "
        + "What is left of the conditions: " + together([f"{n} {v:.3g}" for n, v in left.items()])
        + "; of similar, by moments: " + together([f"{v:.3f}" for v in row["moments"]])
        + ". Private and shared codes of a sample lie at "
        + together([f"{angle:.0f}° ({name})" for name, angle in row["angles"].items()])
        + ", samples' mean taken off: 0° would be alike, 90° orthogonal."
    )  # fmt: skip
    clouds = {name: np.array(each)[:SHOWN] for name, each in row["points"].items()}
    every = (
        [*row["points"].values()]
        if state.zoom
        else [x for p in table["points"] for x in p.values()]
    )
    scores = {
        "these": row["accuracy"], "lowest": bare["accuracy"], "best here": table["accuracy"].max(),
    }  # fmt: skip
    return {
        "; ".join(f"{i}: {name}" for i, name in enumerate(clouds)): pictures.plane(
            says, points=np.concatenate([*clouds.values()]), half=1.05 * max(np.abs(x).max() for x in every),
            classes=np.repeat(np.arange(len(clouds)), [len(c) for c in clouds.values()]),
            ellipses=[
                pictures.ellipse("", points.mean(0), points.std(0), CLASSES[i], DASHES[i])
                for i, points in enumerate(clouds.values())
            ],
            axes=("most spread", "second most"),
        ),
        "shared codes' moments, apart; ticks: lowest weights": pictures.bars(
            ORDINALS, row["moments"], says, high=max(1e-3, *row["moments"], *bare["moments"]),
            marks=bare["moments"], colors=[BLUE] * len(ORDINALS), unit="distance",
        ),
        "left of each condition; tick: lowest weights": pictures.bars(
            [*DIALS], [*share.values()], says, colors=[BLUE] * len(DIALS), high=max(1.0, *share.values()),
            marks=[1.0] * len(DIALS), unit="times as much as there",
        ),
        "angle of private and shared code; tick: orthogonal": pictures.bars(
            [*row["angles"]], [*row["angles"].values()], says, high=180, unit="degrees, mean",
            marks=[ORTHOGONAL] * len(row["angles"]), colors=[BLUE] * len(row["angles"]),
        ),
        "right answers (%)": pictures.bars(
            [*scores], [*scores.values()], says, high=100, unit="right (%)", colors=[BLUE, GREY, GREEN]
        ),
        "numbers": pictures.figures({
            "accuracy": (float(row["accuracy"]), "% right"),
            "each": (own, "deviation within a code"),
            "spread": (float(row["spread"]), "deviation of all codes together"),
            **{f"{name} left": (value, f"at weight {asked[name]:g}") for name, value in left.items()},
            **{f"{name} angle": (float(angle), "degrees, private and shared code; 90 = orthogonal")
               for name, angle in row["angles"].items()},
        }),
    }  # fmt: skip
