"""Figures of what a missing modality costs: scores by visible subset, and what is traded for them.

Part of `labkit.figures`, in a file of its own. Every figure shows each seed beside the mean and a
floor beside each score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labkit.drawing import (
    ERRORS,
    HALO,
    INK,
    SOFT,
    canvas,
    kind_looks,
    level,
    look,
    offsets,
    over_subsets,
    pick,
    right_labels,
    rows_of,
    styled,
)
from labkit.floors import Floor
from labkit.metrics import Reliability

# Scores by visible subset ------------------------------------------------------------------------


@styled
def accuracy_by_subset(
    scores: pd.DataFrame,
    floor: float,
    published: Mapping[str, float] | None = None,
    published_as: str = "poster (train)",
    title: str | None = None,
) -> Figure:
    """Draw the accuracy by visible subset, a panel a kind of model: train beside held-out.

    Args:
        scores: Columns kind, seed, split, subset, metric, value; of them the metric "accuracy".
        floor: Majority rate, a fraction.
        published: Subset -> published accuracy, a fraction.
        published_as: Where that stands and on which data.
        title: Instead of the question.

    Raises:
        ValueError: if there is no accuracy in `scores`.
    """
    chosen = _metric(scores, "accuracy")
    kinds, subsets = list(chosen["kind"].unique()), list(chosen["subset"].unique())
    fig = canvas(
        9 if len(kinds) == 1 else 10.5, 4.6, title or "How often is the digit right, by what is seen?",
        "A dot a seed, a bar for their mean. Filled, with its number: held-out samples. Hollow: "
        "training samples. Majority: always the commonest digit."
        + (f" Cross: {published_as}, one run." if published else ""),
    )  # fmt: skip
    panels = over_subsets(fig, 1, len(kinds), subsets, 3.0)[0]
    low = min(floor, float(chosen["value"].min()))
    for ax, kind in zip(panels, kinds, strict=True):
        mine = chosen[chosen["kind"] == kind]
        ends = {}
        for split, place in (("held-out", -0.22), ("train", 0.22)):
            for x, subset in enumerate(subsets):
                values = 100 * _values(mine, split, subset)
                if len(values):
                    _dots(ax, x + place, values, INK, "o", split == "held-out", 0.3)
                    ends[split] = float(values.mean())
                if len(values) and split == "held-out":
                    ax.annotate(
                        f"{values.mean():.1f}", (x + place, values.min()), (0, -7), va="top",
                        textcoords="offset points", ha="center", fontsize=10, path_effects=HALO, zorder=5,
                    )  # fmt: skip
        for x, subset in enumerate(subsets):
            if published and subset in published:
                ax.plot(x, 100 * published[subset], "x", color=SOFT, ms=8, mew=2, zorder=4)
                ends[published_as] = 100 * published[subset]
        ax.set_ylim(100 * low - 8, 103)
        level(ax, 100 * floor)
        marks = [(v, k, INK if k in ("held-out", "train") else SOFT) for k, v in ends.items()]
        right_labels(ax, [*marks, (100 * floor, f"majority {100 * floor:.1f}", SOFT)])
        ax.set_title(f"{kind}" if len(kinds) > 1 else "", fontweight="bold")
    panels[0].set_ylabel("accuracy (% of samples)")
    return fig


@styled
def errors_by_subset(
    scores: pd.DataFrame,
    floors: Mapping[str, Floor],
    split: str = "held-out",
    title: str | None = None,
) -> Figure:
    """Draw each modality's reconstruction error by visible subset, a column a kind of model.

    Args:
        scores: Columns kind, seed, split, subset, metric, value; of them the modalities' errors.
        floors: Modality -> floors of the same split; one row of panels each.
        split: "held-out" or "train".
        title: Instead of the question.

    Raises:
        ValueError: if an error is missing in `scores`.
    """
    chosen = scores[(scores["split"] == split) & scores["metric"].isin(list(floors))]
    tables = {name: _metric(chosen, name) for name in floors}
    kinds, subsets = list(chosen["kind"].unique()), list(chosen["subset"].unique())
    fig = canvas(
        9 if len(kinds) == 1 else 10.5, 1.7 + 1.9 * len(floors),
        title or "What does it cost to reconstruct what is not seen?",
        f"Errors a sample, {split}; a dot a seed, a bar for their mean. Filled: the modality itself "
        "is visible; hollow: it is missing. Class mean: the best answer when modalities share "
        "only the digit. Target itself: no prediction can cost less.",
    )  # fmt: skip
    panels = over_subsets(fig, len(floors), len(kinds), subsets, 1.9)
    for (name, table), line in zip(tables.items(), panels, strict=True):
        levels = {
            text: floors[name][i]
            for i, text in enumerate(("target itself", "class mean", "global mean"))
        }
        top, bottom = (
            max([*table["value"], *levels.values()]),
            min([*table["value"], *levels.values()]),
        )
        for kind, ax in zip(kinds, line, strict=True):
            for x, subset in enumerate(subsets):
                values = _values(table[table["kind"] == kind], split, subset)
                seen = name in subset.split("+")
                _dots(ax, x, values, look(name).color, look(name).marker, seen, 0.36)
            ax.set_ylim(bottom - 0.06 * (top - bottom), top + 0.08 * (top - bottom))
            for value in levels.values():
                level(ax, value)
            if ax is line[-1]:
                right_labels(ax, [(v, f"{text} {v:.3g}", SOFT) for text, v in levels.items()], 0.13)
            if name == next(iter(floors)) and len(kinds) > 1:
                ax.set_title(kind, fontweight="bold")
        line[0].set_ylabel(
            f"{name}\n({pick(ERRORS, name, 'labkit.drawing.ERRORS')[1]})", color=look(name).color
        )
    return fig


def _metric(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    chosen = scores[scores["metric"] == metric]
    if chosen.empty:
        known = ", ".join(map(str, scores["metric"].unique()))
        raise ValueError(
            f"scores has no rows with metric {metric!r}; it has {known or 'none at all'}"
        )
    return chosen


def _values(table: pd.DataFrame, split: str, subset: str) -> np.ndarray:
    here = (table["split"] == split) & (table["subset"] == subset)
    return table[here].sort_values("seed")["value"].to_numpy(float)


def _dots(
    ax: Axes, x: float, values: np.ndarray, color: str, marker: str, filled: bool, width: float
) -> None:
    """One dot a seed side by side, and a bar at their mean."""
    if len(values) > 1:
        ax.hlines(values.mean(), x - width / 2, x + width / 2, color=color, lw=2.5, zorder=2)
    ax.plot(
        x + offsets(len(values), 0.6 * width), values, marker, color=color, ms=5.5, mew=1.4,
        mfc=color if filled else "white", zorder=3,
    )  # fmt: skip


@styled
def reliability_diagram(named: Mapping[str, Reliability], title: str | None = None) -> Figure:
    """Draw accuracy against confidence, a small panel a visible subset.

    Args:
        named: Subset -> its bins (vectors of one length); empty bins hold NaN and a count of 0.
        title: Instead of the question.
    """
    columns = min(4, len(named))
    lines = -(-len(named) // columns)
    fig = canvas(
        10, 1.1 + 2.55 * lines, title or "Is the model as sure as it is right, whatever it sees?",
        "Dots on the diagonal: confidence says how often the answer is right; below: over-confident; "
        "hollow: fewer than 20 samples. Bars: share of the samples with that confidence. ECE: mean "
        "distance to the diagonal, weighted by the bars.",
    )  # fmt: skip
    panels = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, (subset, bins) in zip(panels.flat, named.items(), strict=False):
        confidence, right, count = (np.asarray(part, dtype=float) for part in bins)
        share = count / count.sum()
        error = float(np.nansum(share * np.abs(right - confidence)))
        middles = (np.arange(len(count)) + 0.5) / len(count)
        ax.bar(middles, 100 * share, 0.9 / len(count), fc="#d0d0d0", ec="none")
        ax.plot([0, 1], [0, 100], color=SOFT, lw=1, ls=(0, (4, 2)))
        for few in (False, True):
            here = (count < 20) == few
            gap = (confidence[here], 100 * confidence[here], 100 * right[here])
            ax.vlines(*gap, color=INK, lw=0.5 if few else 1.5)
            dots = {"mfc": "white" if few else INK, "clip_on": False, "zorder": 3}
            ax.plot(confidence[here], 100 * right[here], "o", color=INK, ms=4.5, **dots)
        ax.set_title(f"{subset.replace('+', ' + ')}\nECE {100 * error:.1f} %", fontsize=10)
        ax.set(xlim=(0, 1), ylim=(0, 100))
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    for ax in panels.flat[len(named) :]:
        ax.axis("off")
    fig.supylabel("correct; share of samples (%)", fontsize=11)
    for j in range(columns):
        below = max(i for i in range(lines) if i * columns + j < len(named))
        panels[below, j].set_xlabel("confidence")
        panels[below, j].tick_params(labelbottom=True)
        panels[below, j].xaxis.set_in_layout(below == lines - 1)  # else a gap opens below its row
    return fig


# Trade-offs --------------------------------------------------------------------------------------


@styled
def trade_off(points: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw what a kind of model gives for missing modalities against what it gives up jointly.

    Args:
        points: Columns kind, seed, excess (error of missing modalities above the class-mean floor,
            nats a sample) and joint (-log p of the whole sample by importance sampling, nats).
        title: Instead of the question.

    Raises:
        ValueError: if a column is missing.
    """
    if absent := {"kind", "seed", "excess", "joint"} - set(points.columns):
        raise ValueError(f"points lacks the columns {sorted(absent)}; has {list(points.columns)}")
    fig = canvas(
        8.5, 5, title or "What is given up for better guesses of what is missing?",
        "Small: one seed each; large: their mean. Dashed: the class mean, the best guess that can be "
        "made when modalities share only the digit. Lower left is better on both counts.",
    )  # fmt: skip
    ax = fig.subplots()
    for kind, mark in kind_looks(list(points["kind"])).items():
        mine = points[points["kind"] == kind]
        x, y = mine["excess"].to_numpy(float), mine["joint"].to_numpy(float)
        if len(mine) > 1:
            ax.plot(x, y, mark.marker, color=mark.color, ms=5, mfc="white", mew=1.2, zorder=4)
        ax.plot(x.mean(), y.mean(), mark.marker, color=mark.color, ms=13, mec="white", label=kind)
        ax.annotate(
            kind, (x.mean(), y.mean()), (12, 8), textcoords="offset points", fontsize=11,
            color=INK, fontweight="bold", zorder=5,
        )  # fmt: skip
    ax.margins(0.18, 0.2)
    ax.axvline(0, color=SOFT, lw=1.2, ls=(0, (4, 2)), zorder=1)
    ax.annotate(
        "class mean", (0, 1), (-4, -2), xycoords=("data", "axes fraction"), rotation=90,
        textcoords="offset points", fontsize=10, color=SOFT, va="top", ha="right",
    )  # fmt: skip
    ax.grid(True, axis="both")
    ax.set_xlabel("⟵ better      missing modalities: error above the class mean (nats a sample)")
    ax.set_ylabel("⟵ better      everything: −log p (nats a sample)")
    return fig


@styled
def style_transfer(
    rho: Sequence[float],
    measured: Mapping[tuple[str, str], Any],
    null: float | Sequence[float],
    title: str | None = None,
) -> Figure:
    """Draw how much of a style crosses into a generated modality, against how much could.

    Args:
        rho: Correlation of the factor between modalities in the data, R values.
        measured: (given, generated) -> R^2 of the factor, (R,) or (seeds, R).
        null: R^2 under which 95 % of unrelated factors stay, one number or R of them.
        title: Instead of the question.
    """
    fig = canvas(
        8.5, 4.8, title or "Does the style of what is seen show in what is generated?",
        "Large: mean over seeds; hollow: one seed each. Ceiling: share of the missing modality's style "
        "that the data's correlation lets anybody know. "
        "Hatched: 95 % of unrelated styles score in here.",
    )  # fmt: skip
    ax = fig.subplots()
    at = np.asarray(rho, dtype=float)
    bound = np.broadcast_to(np.asarray(null, dtype=float), at.shape)
    ax.fill_between(at, 0, bound, fc="#f0f0f0", ec="#bdbdbd", hatch="//", lw=0, zorder=0)
    fine = np.linspace(at.min(), at.max(), 101)
    ax.plot(fine, fine**2, color=SOFT, lw=1.5, ls=(0, (4, 2)), zorder=1)
    ends = [(float(bound[-1]), "chance (95 %)", SOFT)]
    ends.append((float(fine[-1] ** 2), "ceiling ρ²", SOFT))
    for (given, made), values in measured.items():
        seeds, mark = rows_of(values), look(made)
        if len(seeds) > 1:
            ax.plot(
                at, seeds.T, ls="", marker=look(given).marker, ms=5, mfc="white", color=mark.color
            )
        ax.plot(at, seeds.mean(0), ls="", marker=look(given).marker, ms=10, color=mark.color)
        ends.append((float(seeds.mean(0)[-1]), f"{given} → {made}", mark.color))
    top = max(1.0, *(float(rows_of(v).max()) for v in measured.values()))
    ax.set(ylim=(0, 1.03 * top), xlim=(at.min() - 0.02, at.max() + 0.02))
    right_labels(ax, ends, gap=0.07)
    ax.set_xlabel("ρ: correlation of the style between modalities in the data")
    ax.set_ylabel("R² of the style in the generated modality")
    return fig
