"""Figures of filling in what is missing, by flows and by what is simpler; see `labkit.figures`.

The flows by themselves are drawn in `labkit.figures_flows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from labkit.drawing import (
    HALO,
    INK,
    SOFT,
    Look,
    canvas,
    level,
    modalities_of,
    rows_of,
    spread,
    styled,
)

# Each way of labkit.recovering.plan.WAYS: flows are blue, what could not be had or knows nothing is grey.
WAYS_LOOK = {
    "zeros": Look("#b5508a", "X", "", ":"),
    "mean": Look("#8a6d00", "h", "", (0, (1, 1))),
    "regression": Look("#D55E00", "s", "", "--"),
    "MVAE": Look("#009E73", "^", "", "-."),
    "modality dropout": Look(INK, "P", "", (0, (8, 2, 1, 2))),
    "half-identity": Look("#7a5fc0", ">", "", (0, (3, 1, 1, 1))),
    "single prior": Look("#3a96cf", "v", "", (0, (5, 2))),
    "single prior, paired": Look("#3f7f9f", "<", "", (0, (5, 1, 1, 1, 1, 1))),
    "class prior": Look("#0072B2", "o", "", "-"),
    "class prior, paired": Look("#08306b", "D", "", (0, (6, 1))),
    "half-identity, tuned": Look("#8c564b", "8", "", (0, (2, 1))),
    "class prior, tuned": Look("#2036d8", "H", "", (0, (9, 2))),
    "other": Look("#8c8c8c", "d", "", ":"),
    "same class": Look("#737373", "p", "", ":"),
    "true": Look("#5a5a5a", "*", "", ":"),
}
CONTROLS = ("other", "same class", "true")
MAIN = tuple(way for way in WAYS_LOOK if way not in ("mean", "single prior, paired", *CONTROLS))
ANSWERS = "right answers, held-out (%)"


def _of(table: pd.DataFrame, way: str, column: str) -> np.ndarray:
    """A column of one way, its seeds first.

    Raises:
        ValueError: if the table has no such way.
    """
    rows = table[table["way"] == way].sort_values("seed")
    if rows.empty:
        raise ValueError(f"the table has no way {way!r}; it has {', '.join(table['way'].unique())}")
    return np.asarray(rows[column].tolist(), dtype=float)


def _seeds(table: pd.DataFrame) -> str:
    return "1 seed" if (count := table["seed"].nunique()) == 1 else f"{count} seeds"


def _columns(names: Sequence[str]) -> dict[str, list[int]]:
    """What stands in a panel: each subset, or with many of them each single modality, then sizes."""
    everything, found = modalities_of(names), dict[str, list[int]]()
    for i, name in enumerate(names):
        size = name.count("+") + 1
        if size == len(everything):
            said = "all visible"
        elif size == 1:
            said = f"{name}\nalone"
        elif len(names) <= 8:
            said = name.replace("+", "\n+ ")
        else:
            said = f"{size} of {len(everything)}\nvisible"
        found.setdefault(said, []).append(i)
    return found


@styled
def subset_bars(
    table: pd.DataFrame,
    names: Sequence[str],
    floors: Mapping[str, float],
    title: str | None = None,
    ways: Sequence[str] = (*MAIN, *CONTROLS),
) -> Figure:
    """Draw accuracy by what is visible: a row a way, a panel a subset, or, of many, a size of subsets.

    Args:
        table: As of `measure.table`: ``way``, ``seed``, ``fixed`` [subsets] in %.
        names: Names of the subsets, such as language+audio.
        floors: As of `measure.floors`, in %.
        title: Instead of the question.
        ways: Rows, from above.

    Raises:
        ValueError: if the table lacks one of the ways.
    """
    columns = _columns(names)
    grouped = " Small tick: one subset." if len(columns) < len(names) else ""
    fig = canvas(
        11, 2 + 0.24 * len(ways), title or "What should stand in for what is missing?",
        f"Accuracy on held-out samples. Mark: mean over {_seeds(table)}; bar: lowest to highest seed."
        f"{grouped} Dashed line: always the most frequent class, {floors['majority']:.1f} %. Grey, hollow: "
        "what nobody has at test time (the truth; a training sample of the same class), and what knows "
        "nothing (any other training sample).",
    )  # fmt: skip
    panels = fig.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (said, places) in zip(panels, columns.items(), strict=True):
        for y, way in enumerate(ways):
            look, values = WAYS_LOOK[way], _of(table, way, "fixed")[:, places]
            seeds = values.mean(1)
            if y % 2 == 0:
                ax.axhspan(y - 0.5, y + 0.5, color="#f5f5f5", zorder=0)
            if len(places) > 1:
                each = values.mean(0)
                ax.plot(each, [y] * len(each), "|", color=look.color, ms=9, mew=1.2, alpha=0.6)
            ax.plot([seeds.min(), seeds.max()], [y, y], "-", color=look.color, lw=1.6)
            face = "white" if way in CONTROLS else look.color
            ax.plot(seeds.mean(), y, look.marker, color=look.color, mfc=face, ms=6, label=way)
        ax.axvline(floors["majority"], color=SOFT, lw=1.2, ls=(0, (4, 2)), zorder=1)
        ax.set_title(said, fontsize=10, loc="center")
        ax.grid(axis="x")
        ax.grid(visible=False, axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(ways)), ways)
    panels[0].set_ylim(len(ways) - 0.5, -0.5)
    for label, way in zip(panels[0].get_yticklabels(), ways, strict=True):
        label.set_color(WAYS_LOOK[way].color)
    panels[len(panels) // 2].set_xlabel("accuracy (%)", fontsize=10)
    return fig


@styled
def missing_rate_curves(
    table: pd.DataFrame,
    rates: Sequence[float],
    floors: Mapping[str, float],
    title: str | None = None,
    ways: Sequence[str] = MAIN,
) -> Figure:
    """Draw accuracy over the missing rate; beside it, where measured, the released rule of batches.

    Args:
        table: As of `measure.table`: ``way``, ``seed``, ``random`` [rates][draws] in %, and, maybe,
            ``batches`` [rates][draws] with ``batches_realised`` [rates], the first asked for as 0.
        rates: Missing rates of ``random``, as of `measure.rates_of`.
        floors: As of `measure.floors`, in %.
        title: Instead of the question.
        ways: Curves.

    Raises:
        ValueError: if the table lacks one of the ways.
    """
    released = "batches" in table
    said = " Right: the released rule, over the rates that came of it; rings: asked for as 0."
    fig = canvas(
        11 if released else 8.5, 4.6, title or "How much may be missing?",
        f"Mean over {_seeds(table)} and the draws of the masks; band: lowest to highest. "
        f"The missing rate is the share of all modalities of all samples.{said if released else ''}",
    )  # fmt: skip
    panels = fig.subplots(1, 1 + released, sharey=True, squeeze=False)[0]
    labels = [(floors["majority"], f"majority {floors['majority']:.1f}", SOFT)]
    for way in ways:
        mean = _band(panels[0], rates, _of(table, way, "random"), WAYS_LOOK[way])
        labels.append((float(mean[-1]), f"{way} {mean[-1]:.1f}", WAYS_LOOK[way].color))
    panels[0].set(xlabel="missing rate", ylabel=ANSWERS, title="masks of exactly this rate")
    if released:
        realised, ends = np.asarray(table["batches_realised"].iloc[0], dtype=float), []
        for way in ways:
            look, values = WAYS_LOOK[way], _of(table, way, "batches")
            _band(panels[1], realised[1:], values[:, 1:], look)
            ends.append(values[:, 0].mean())
            panels[1].plot(realised[0], ends[-1], "o", mfc="none", mec=look.color, ms=12, mew=1.2)
        panels[1].annotate(
            f"asked for 0.0:\ntested at {realised[0]:.2f}", (realised[0], min(ends)), (0.06, 0.3),
            textcoords="axes fraction", fontsize=10, va="center", path_effects=HALO,
            arrowprops={"arrowstyle": "->", "color": INK, "shrinkB": 8},
        )  # fmt: skip
        panels[1].set(xlabel="missing rate, realised", xlim=panels[0].get_xlim())
        panels[1].set_title("the released code's rule of batches")
    for ax in panels:
        level(ax, floors["majority"])
    _ends(panels[0], labels)
    return fig


def _ends(ax: Axes, labels: Sequence[tuple[float, str, str]], gap: float = 0.062) -> None:
    """As `drawing.right_labels`, for many labels close together: no leader crosses a text."""
    ax.autoscale_view()
    low, high = ax.get_ylim()
    shares = [(value - low) / (high - low) for value, _, _ in labels]
    places = spread(shares, gap, 0.02, 0.98)
    for y, place, (_, text, color) in zip(shares, places, labels, strict=True):
        ax.annotate(
            text, (1, y), (1.06, place), xycoords="axes fraction", textcoords="axes fraction",
            va="center", fontsize=10, color=color, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.8, "shrinkA": 1, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _band(ax: Axes, x: Any, values: np.ndarray, look: Look) -> np.ndarray:
    """Mean (A,) of values (N, A, draws), with all that they span."""
    mean = values.mean((0, 2))
    ax.fill_between(x, values.min((0, 2)), values.max((0, 2)), color=look.color, alpha=0.11, lw=0)
    ax.plot(x, mean, color=look.color, ls=look.line, marker=look.marker, ms=6)
    return mean


@styled
def gap_plane(table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw what is filled in as a point: does it look right as a crowd, and is it right of this sample?

    Args:
        table: As of `measure.gap_table`: ``way``, ``seed``, ``swd`` in deviations, ``cosine``.
        title: Instead of the question.
    """
    fig = canvas(
        9, 5, title or "Right as a crowd, or right of this sample?",
        "Held-out samples, means over all pairs of modalities, each feature in units of its deviation. "
        "Small: a seed; large: their mean; hollow: beyond this figure. The truth would be at (0, 1). "
        "Grey: training samples.",
    )  # fmt: skip
    ax, points, seeds = fig.subplots(), [], []
    each = {
        way: (_of(table, way, "swd"), _of(table, way, "cosine")) for way in table["way"].unique()
    }
    edge = 3 * float(np.quantile([np.median(x) for x, _ in each.values()], 0.75))
    for way, (x, y) in each.items():
        look, far = WAYS_LOOK[way], x.mean() > edge
        at = (min(float(x.mean()), edge), float(y.mean()))
        ax.plot(x[x <= edge], y[x <= edge], look.marker, color=look.color, ms=4, alpha=0.5)
        ax.plot(
            *at, look.marker, color=look.color, mfc="white" if far else look.color, ms=9, label=way
        )
        points.append((*at, f"{way}, at {x.mean():,.1f} ⟶" if far else way, look.color))
        seeds += [dot for dot in zip(x, y, strict=True) if dot[0] <= edge]
    level(ax, 0)
    ax.grid(axis="x")
    ax.margins(0.1)
    ax.set_xlim(min(0.0, *(x for x, _ in seeds)) - 0.02 * max(x for x, *_ in points))
    ax.set_xlabel("distance of the distributions (sliced Wasserstein, deviations)   ⟵ better")
    ax.set_ylabel("match with this sample's truth\n(cosine)   better ⟶")
    _beside(fig, ax, points, seeds)
    return fig


def _beside(
    fig: Figure, ax: Axes, points: Sequence[tuple[float, float, str, str]], dots: Sequence[Any]
) -> None:
    """Write (x, y, text, colour) beside each point, the nearest place free of points, dots and texts."""
    engine = fig.get_layout_engine()
    assert engine is not None
    engine.execute(fig)  # else the axes have not their final size
    scale, inside = fig.dpi / 72, ax.get_window_extent()
    at = ax.transData.transform
    taken = [_box(at((x, y)), 11 * scale, 11 * scale) for x, y, _, _ in points]
    taken += [_box(at(dot), 5 * scale, 5 * scale) for dot in dots]
    turns = np.radians((0, 180, 30, -30, 150, -150, 60, -60, 120, -120))
    tries = [far * np.array((np.cos(t), np.sin(t))) for far in range(10, 120, 4) for t in turns]
    for x, y, text, color in points:
        label = ax.annotate(
            text, (x, y), (0, 0), textcoords="offset points", va="center", fontsize=10, color=color,
            path_effects=HALO,
        )  # fmt: skip
        label.set_in_layout(False)
        size = label.get_window_extent()
        for shift in tries:
            side = np.array((np.sign(round(shift[0], 6)) * size.width / 2, 0))
            box = _box(at((x, y)) + shift * scale + side, size.width, size.height)
            free = not box.count_overlaps(taken)
            if free and inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0:
                break
        label.set(position=tuple(shift), ha="left" if side[0] > 0 else "right")
        taken.append(box)
        if np.hypot(*shift) > 22:
            ax.annotate("", (x, y), tuple(shift), textcoords="offset points",
                        arrowprops={"arrowstyle": "-", "color": color, "lw": 0.7, "shrinkB": 5})  # fmt: skip


def _box(centre: Any, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(centre[0] - width / 2, centre[1] - height / 2, width, height)


@styled
def noise_dial(
    found: Mapping[str, Any],
    levels: Sequence[float],
    floors: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw from which noise on a modality should rather be recovered than looked at.

    Args:
        found: As of `reading.noisy`: name -> accuracies in %, (A,) or, with several seeds, (N, A).
        levels: The A noise levels, in deviations of each feature.
        floors: As of `measure.floors`, in %.
        title: Instead of the question.
    """
    fig = canvas(
        10.5, 4.2, title or "Look at a noisy modality, recover it, or leave it out?",
        "Accuracy on held-out samples; band: lowest to highest seed. Left: read from that modality alone. "
        "Right: with all the others, which are clean; left out: by a predictor trained on gaps.",
    )  # fmt: skip
    looked, filled = Look("#D55E00", "s", "", "--"), WAYS_LOOK["class prior"]
    alone = {"noisy alone": ("noisy", looked), "recovered alone": ("recovered", filled)}
    others = {"noisy": ("noisy", looked), "recovered": ("recovered", filled),
              "without": ("left out", WAYS_LOOK["modality dropout"])}  # fmt: skip
    panels = fig.subplots(1, 2, sharey=True)
    ends: list[list[tuple[float, str, str]]] = [[], []]
    for ax, said, series, labels in zip(
        panels, ("this modality alone", "with all the others"), (alone, others), ends, strict=True
    ):
        means = [_band(ax, levels, rows_of(found[name])[..., None], look)
                 for name, (_, look) in series.items()]  # fmt: skip
        where, better = _crossing(np.asarray(levels, dtype=float), means[0] - means[1])
        ax.set(xlabel="noise (deviations of each feature)", title=f"{said}:\n{better}")
        if where is not None:
            ax.axvline(where, color=SOFT, lw=1.2, ls=":")
        labels += [(float(mean[-1]), word, look.color)
                   for mean, (word, look) in zip(means, series.values(), strict=True)]  # fmt: skip
        if floors is not None:
            level(ax, floors["majority"])
            labels.append((floors["majority"], f"majority {floors['majority']:.1f}", SOFT))
    for ax, labels in zip(panels, ends, strict=True):  # when both have drawn on their common axis
        _ends(ax, labels, 0.075)
    panels[0].set_ylabel(ANSWERS)
    return fig


def _crossing(x: np.ndarray, gain: np.ndarray) -> tuple[float | None, str]:
    """Where a gain (A,) falls below 0 for good, by straight lines, and that in words."""
    over = np.flatnonzero(gain >= 0)
    if not len(over):
        return None, "recovering is better at every level"
    i = int(over[-1])
    if i == len(gain) - 1:
        return None, "recovering is not better at the highest level"
    where = float(x[i] + (x[i + 1] - x[i]) * gain[i] / (gain[i] - gain[i + 1]))
    return where, f"recovering is better from {where:.2f} (dotted)"
