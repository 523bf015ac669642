"""Figures of depth fused into colour, by a gate or always; see `labkit.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from labkit.drawing import HALO, INK, SOFT, Look, canvas, level, offsets, styled
from labkit.figures_scenes import scene_sheet as scene_sheet
from labkit.fusing import reading
from labkit.fusing.plan import CLOSABLE
from labkit.models.dynmm_fusion import PATHS

MIOU = "mIoU, held-out (%)"
WEIGHT_MARKERS = ("o", "s", "D", "v", "^", "P")  # of gates, from the smallest weight of the cost up
GATE_COLORS = {"hard": "#D55E00", "annealed": "#0072B2"}
OTHERS = {
    "colour": Look("#8a6d00", "X"),
    "stage I": Look("#CC79A7", "*"),
    "static": Look(INK, "o"),
}
DEEP = ("#d6e6f2", "#9ccae1", "#5ba3cf", "#2171b5", "#08306b")  # paths: the deeper the darker
HATCHES = ("", "..", "//", "xx", "")  # and told apart in grey
KINDS_LOOK = {
    "gate": Look("#0072B2", "o", "", "-"),
    "always full": Look(INK, "s", "", "--"),
    "best early exit": Look("#009E73", "^", "", "-."),
    "dealt out anew": Look("#D55E00", "D", "", ":"),
}

SAID = {"rgb": "colour", "either": "colour or depth"}


def _column(table: pd.DataFrame, way: str, column: str) -> np.ndarray:
    """A column of one way, its seeds first.

    Raises:
        ValueError: if the table has no such way.
    """
    rows = table[table["way"] == way].sort_values("seed")
    if rows.empty:
        raise ValueError(f"table has no way {way!r}; it has {', '.join(table['way'].unique())}")
    return np.asarray(rows[column].tolist(), dtype=float)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _gates(table: pd.DataFrame) -> dict[str, Look]:
    """A look for each gate: its colour says how it was trained, its marker the weight of the cost."""
    gated = [w for w in dict.fromkeys(table["way"]) if w.partition(", ")[0] in GATE_COLORS]
    weights = sorted({float(way.partition(", ")[2]) for way in gated})
    if len(weights) > len(WEIGHT_MARKERS):
        raise ValueError(f"table may have {len(WEIGHT_MARKERS)} weights at most, got {weights}")
    markers = dict(zip(weights, WEIGHT_MARKERS, strict=False))
    parts = {way: way.partition(", ")[::2] for way in gated}
    return {
        way: Look(GATE_COLORS[kind], markers[float(weight)]) for way, (kind, weight) in parts.items()
    }  # fmt: skip


@styled
def depth_pareto(table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw mIoU over what the depth encoder costs: one depth for all pictures, or a gate's choice.

    Args:
        table: As of `measure.table`: ``way``, ``seed``, ``miou`` in %, ``cost`` as a share of the deepest,
            ``random`` of gates.
        title: Instead of the question.

    Raises:
        ValueError: if the table lacks a static way.
    """
    fig = canvas(
        10, 5.2, title or "Does choosing the depth of fusion beat one depth for all?",
        f"Large: mean over {_seeds(table['seed'].nunique())}; small: a seed. Line: networks that always fuse "
        "in the first k cells, k beside the mark. Hollow, joined by a thin line: the same gate's paths dealt "
        "out to other pictures; what lies between is the most that its choice can be worth.",
    )  # fmt: skip
    ax, gates = fig.subplots(), _gates(table)
    static = [f"static {k}" for k in range(PATHS)]
    means = [[_column(table, way, c).mean() for c in ("cost", "miou")] for way in static]
    x, y = np.array(means).T
    ax.plot(
        100 * x, y, "-", color=INK, lw=1.4, marker=".", ms=11, label="one depth for all", zorder=2
    )
    looks = {"colour": OTHERS["colour"], "stage I": OTHERS["stage I"], **gates}
    there = [way for way in looks if (table["way"] == way).any()]
    for way in (*static, *there):
        look = looks.get(way, OTHERS["static"])
        ax.plot(100 * _column(table, way, "cost"), _column(table, way, "miou"), look.marker,
                color=look.color, ms=4, alpha=0.5, ls="", zorder=1)  # fmt: skip
    for way in there:
        look = looks[way]
        at = 100 * _column(table, way, "cost").mean(), _column(table, way, "miou").mean()
        if way in gates:
            anew = _column(table, way, "random").mean()
            ax.plot([at[0], at[0]], [at[1], anew], "-", color=look.color, lw=1, zorder=2)
            ax.plot(at[0], anew, look.marker, color=look.color, mfc="white", ms=8, zorder=3)
        ax.plot(*at, look.marker, color=look.color, ms=11 if way == "stage I" else 9, ls="",
                label=_said(way), zorder=4)  # fmt: skip
    for k, (share, score) in enumerate(means):
        ax.annotate(str(k), (100 * share, score), (0, 8), textcoords="offset points", ha="center",
                    va="bottom", fontsize=10, path_effects=HALO, zorder=5)  # fmt: skip
    ax.set_xlabel("MAdds of the depth encoder (% of the deepest path)   ⟵ cheaper")
    ax.set_ylabel(f"{MIOU}   better ⟶")
    ax.grid(axis="x")
    ax.margins(0.06, 0.08)
    handles = ax.get_legend_handles_labels()[0]
    if gates:
        handles.append(
            Line2D([], [], marker="o", mfc="white", color=SOFT, ms=8, ls="", label="dealt out anew")
        )
    fig.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=10)
    return fig


def _said(way: str) -> str:
    kind, _, weight = way.partition(", ")
    named = {"colour": "colour alone", "stage I": "stage I: random paths"}
    return f"gate, {kind}, weight {weight}" if weight else named.get(way, way)


@styled
def scene_paths(table: pd.DataFrame, way: str, title: str | None = None) -> Figure:
    """Draw which path a gate takes in each kind of scene, and what that is worth there.

    Args:
        table: As of `measure.table`: ``way``, ``seed``, ``scene_paths`` name -> (5,), ``scenes`` name -> mIoU
            in %. Without kinds of scene (real pictures): ``paths`` and ``miou`` of all.
        way: The gate.
        title: Instead of the question.

    Raises:
        ValueError: if the table lacks the gate, "static 0" or "static 4".
    """
    gate = table[table["way"] == way].sort_values("seed")
    if gate.empty:
        _column(table, way, "miou")
    known = "scene_paths" in table and isinstance(gate["scene_paths"].iloc[0], Mapping)
    names = [*gate["scene_paths"].iloc[0]] if known else ["all"]
    paths = np.array(
        [
            [row["scene_paths"][n] for n in names] if known else [row["paths"]]
            for _, row in gate.iterrows()
        ]
    )  # (seeds, kinds, 5)
    seeds = _seeds(len(gate))
    fig = canvas(
        10.5, 1.9 + 0.72 * max(len(names), 2), title or "Does the gate send scenes deep that need depth?",
        f"Left: share of the held-out pictures by path; thick: mean over {seeds}, thin: a seed. The darker, "
        "the more cells fuse; numbers: % of at least 8. Right: mIoU there, of classes that occur; "
        f"large: mean, small: a seed. Gate: {way.replace(', ', ', weight ')}.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    for i in range(len(names)):
        _stack(left, i - 0.12, 0.44, paths[:, i].mean(0), numbers=True)
        thin = 0.22 / len(gate)
        for s in range(len(gate)):
            _stack(left, i + 0.16 + thin * (s + 0.5), 0.8 * thin, paths[s, i], numbers=False)
    handles = [Patch(facecolor=c, edgecolor=_edge(k), hatch=HATCHES[k], label=f"{k}", lw=0.5)
               for k, c in enumerate(DEEP)]  # fmt: skip
    fig.legend(handles=handles, title="path", loc="outside right upper", frameon=False, fontsize=10,
               title_fontsize=10)  # fmt: skip
    for way_, look, shift in zip(
        ("static 0", "static 4", way),
        (Look("#8a6d00", "v"), Look(INK, "s"), KINDS_LOOK["gate"]), offsets(3, 0.5), strict=True,
    ):  # fmt: skip
        rows = table[table["way"] == way_].sort_values("seed")
        if rows.empty:
            _column(table, way_, "miou")
        scores = np.array(
            [[r["scenes"][n] for n in names] if known else [r["miou"]] for _, r in rows.iterrows()]
        )
        y = np.arange(len(names)) + shift
        for row in scores:
            right.plot(row, y, look.marker, color=look.color, ms=4, alpha=0.5)
        label = {"static 0": "network of path 0", "static 4": "network of path 4"}.get(way_, "gate")
        right.plot(scores.mean(0), y, look.marker, color=look.color, ms=8, ls="", label=label)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set(xlabel="pictures (%)", xlim=(0, 100))
    left.grid(visible=False)
    left.tick_params(axis="y", length=0)
    right.set_xlabel(MIOU)
    right.grid(axis="x")
    right.grid(visible=False, axis="y")
    right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for y in np.arange(len(names) - 1) + 0.5:
        right.axhline(y, color="#e4e4e4", lw=0.8)
    fig.legend(
        *right.get_legend_handles_labels(), loc="outside right lower", frameon=False, fontsize=10
    )
    return fig


def _edge(path: int) -> str:
    return "white" if path > 2 else SOFT


def _stack(ax: Axes, y: float, height: float, shares: np.ndarray, numbers: bool) -> None:
    """A bar of the shares of the paths, one after the other."""
    starts = 100 * np.concatenate(([0], np.cumsum(shares)[:-1]))
    for k, (start, share) in enumerate(zip(starts, 100 * shares, strict=True)):
        ax.barh(y, share, height, start, color=DEEP[k], hatch=HATCHES[k] if numbers else "",
                edgecolor=_edge(k), lw=0.5)  # fmt: skip
        if numbers and share >= 8:
            ax.text(start + share / 2, y, f"{share:.0f}", ha="center", va="center", fontsize=10,
                    path_effects=HALO)  # fmt: skip


@styled
def noise_curves(
    table: pd.DataFrame, way: str, best: Mapping[int, str], title: str | None = None
) -> Figure:
    """Draw mIoU over noise, and what a gate is ahead of networks of one path and of its own paths dealt anew.

    Args:
        table: As of `measure.noise_table`, with the gate, "static 4" and the early exits.
        way: The gate.
        best: Seed -> the early exit that was best on its validation split (`measure.best_static`).
        title: Instead of the question.

    Raises:
        ValueError: if the table lacks a way, or `best` a seed.
    """
    found = reading.noisy_of(table, way, best)
    seeds, _, draws = next(iter(found.miou.values()))["gate"].shape
    fig = canvas(
        10.5, 6.2, title or "Does choosing make fusion robust to noise?",
        "Noise on one modality of every third held-out picture, in units of its mean|x|. Lines: mean over "
        f"{_seeds(seeds)} and {draws} draws of the noise; bands: lowest to highest. Below: the gate less "
        "each of the others, seed by seed and draw by draw; above 0 the gate is ahead.",
    )  # fmt: skip
    panels = fig.subplots(
        2, len(found.miou), sharex=True, sharey="row", squeeze=False, height_ratios=(1.5, 1)
    )
    for j, (mode, scores) in enumerate(found.miou.items()):
        above, below = panels[:, j]
        for name, look in KINDS_LOOK.items():
            _band(above, found.levels, scores[name], look, name)
            if name != "gate":
                _band(below, found.levels, scores["gate"] - scores[name], look, name)
        level(below, 0)
        above.set_title(f"noise on {SAID.get(mode, mode)}")
        below.set_xlabel("noise (mean|x|)")
    panels[0, 0].set_ylabel(MIOU)
    panels[1, 0].set_ylabel("gate less other\n(points)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=10)
    return fig


@styled
def closable_curves(table: pd.DataFrame, way: str, title: str | None = None) -> Figure:
    """Draw mIoU over noise on depth with a first layer that always fuses, and with one that does not.

    Args:
        table: As of `measure.noise_table`, with the gate, "static 4" and both of `plan.CLOSABLE`.
        way: The gate of the network whose first layer fuses.
        title: Instead of the question.

    Raises:
        ValueError: if the table lacks a way.
    """
    pairs = {
        "first layer fuses": (way, f"static {PATHS - 1}", Look("#D55E00", "D", "", ":")),
        "path 0 sees no depth": (CLOSABLE[1], CLOSABLE[0], Look("#0072B2", "o", "", "-")),
    }
    rows = table[table["mode"] == "depth"]
    levels = np.array(sorted(rows["level"].unique()))
    for needed in (each for gate, full, _ in pairs.values() for each in (gate, full)):
        _column(rows, needed, "miou")
    mean = rows.pivot_table("miou", ["seed", "level"], "way")
    seeds, draws = rows["seed"].nunique(), rows["draw"].nunique()
    fig = canvas(
        10.5, 4.4, title or "Is a gate robust if it can do without depth?",
        "Noise on depth in every third held-out picture, in units of its mean|x|. Left: mIoU, filled the "
        "gate, hollow the same network that always fuses. Right: the gate's lead over it. Mean over "
        f"{_seeds(seeds)} and {draws} draws; bands: lowest to highest seed.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2)
    for name, (gate, full, look) in pairs.items():
        each = {w: mean[w].unstack("level").to_numpy(float) for w in (gate, full)}
        left.plot(
            levels,
            each[gate].mean(0),
            color=look.color,
            ls=look.line,
            marker=look.marker,
            label=name,
        )
        left.plot(levels, each[full].mean(0), color=look.color, ls=look.line, marker=look.marker, mfc="white",
                  alpha=0.8)  # fmt: skip
        _band(right, levels, (each[gate] - each[full])[..., None], look, name)
    level(right, 0)
    left.set(ylabel=MIOU, xlabel="noise on depth (mean|x|)")
    right.set(ylabel="gate less always full (points)", xlabel="noise on depth (mean|x|)")
    fig.legend(
        *left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=10
    )
    return fig


def _band(ax: Axes, x: np.ndarray, values: np.ndarray, look: Look, label: str) -> None:
    """Mean of values (seeds, levels, draws), with all that they span."""
    low, high = values.min((0, 2)), values.max((0, 2))
    ax.fill_between(x, low, high, color=look.color, alpha=0.12, lw=0)
    ax.plot(
        x,
        values.mean((0, 2)),
        color=look.color,
        ls=look.line,
        marker=look.marker,
        ms=6,
        label=label,
    )


@styled
def annealing(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], title: str | None = None
) -> Figure:
    """Draw a gate that learns to choose: temperature, entropy, soft and hard mIoU, paths in use.

    Args:
        histories: Name, such as "with stage I", -> a record a seed, as of `reading.annealing`. Two names at
            most.
        title: Instead of the question.

    Raises:
        ValueError: on no record, or more than two names.
    """
    if not 1 <= len(histories) <= 2 or not all(histories.values()):
        raise ValueError(f"histories must be one or two names with records, got {[*histories]}")
    runs = max(len(records) for records in histories.values())
    fig = canvas(
        10.5, 2 + 2.3 * len(histories), title or "Does mixing end as choosing, and with how many paths?",
        f"Validation pictures; thick: mean over {_seeds(runs)}, thin: a seed. Soft: paths mixed by the "
        "weights of that temperature; hard: the likeliest path, as at test time. Entropy: of the gate, as a "
        "share of the largest. Paths in use: exp of the entropy of their shares, 5 = all alike.",
    )  # fmt: skip
    panels = fig.subplots(len(histories), 3, sharex=True, sharey="col", squeeze=False)
    one = {
        0: (("temperature", Look("#D55E00", "s", "", ":")), ("entropy", Look(INK, "o", "", "-"))),
        1: (("soft", Look("#0072B2", "o", "", "-")), ("hard", Look("#E69F00", "^", "", "--"))),
        2: (("paths in use", Look("#009E73", "D", "", "-")),),
    }
    for row, (name, records) in zip(panels, histories.items(), strict=True):
        for j, series in one.items():
            for what, look in series:
                each = [_series(record, what) for record in records]
                x = np.asarray(records[0]["epoch"], dtype=float)
                for values in each:
                    row[j].plot(x, values, color=look.color, ls=look.line, lw=0.8, alpha=0.5)
                row[j].plot(x, np.mean(each, 0), color=look.color, ls=look.line, marker=look.marker, ms=4,
                            label=what)  # fmt: skip
        row[0].set_ylabel(f"{name}\nshare of the largest")
        row[1].set_ylabel("mIoU, validation (%)")
        row[2].set_ylabel(f"paths in use, of {PATHS}")
        row[2].set_ylim(0.8, PATHS + 0.2)
    for ax in panels[-1]:
        ax.set_xlabel("epoch")
    for ax, place in zip(panels[0, :2], ("upper right", "lower right"), strict=True):
        ax.legend(frameon=False, fontsize=10, loc=place)
    return fig


def _series(record: Mapping[str, Any], what: str) -> np.ndarray:
    """One curve of a record, as it is drawn."""
    if what == "paths in use":
        return np.array([reading.in_use(paths) for paths in record["paths"]])
    values = np.asarray(record[what], dtype=float)
    if what == "temperature":
        return values / values.max()
    return values / float(torch.tensor(float(PATHS)).log()) if what == "entropy" else values
