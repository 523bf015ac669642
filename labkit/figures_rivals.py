"""Figures of the fusion bench: all methods on all data sets, and X-Norm's rivals; see `labkit.figures`.

How each method looks is said here, for `labkit.figures_exchanging`, too, where all functions are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labkit.drawing import FAINT, INK, SOFT, Look, canvas, offsets, styled
from labkit.exchanging.claims import by_seed

HELD_OUT = "right answers, held-out (%)"
ALONE = (Look("#D55E00", "<", "//", "--"), Look("#8a6d00", ">", "..", ":"))  # by their order
WAYS_LOOK = {
    "late": Look(INK, "s", "", "--"),
    "early": Look("#E69F00", "^", "", "-."),
    "MISA": Look("#CC79A7", "D", "", (0, (1, 1))),
    "MulT": Look("#009E73", "v", "", (0, (5, 1, 1, 1))),
    "Gradient-Blending": Look("#56B4E9", "P", "", (0, (8, 2))),
    "X-Norm": Look("#0072B2", "o", "", "-"),
    "X-Norm, own": Look("#7a5fc0", "X", "", ":"),
}
RULES = {"equal": "all alike", "gain": "by gain", "official": "as released"}


def looks_of(ways: Sequence[str]) -> dict[str, Look]:
    """How each way looks: a changed method as the method, the modalities by their order.

    Raises:
        ValueError: on a way of another method.
    """
    ways, found = [*dict.fromkeys(ways)], {}
    alone = zip((way for way in ways if way.endswith(" alone")), ALONE, strict=False)
    known = {**WAYS_LOOK, **dict(alone)}
    for way in ways:
        look = known.get(way) or known.get(way.partition(", ")[0])
        if look is None:
            raise ValueError(
                f"way must be one of {', '.join(known)}, or a changed one; got {way!r}"
            )
        found[way] = look
    return found


def seeds_of(table: pd.DataFrame) -> str:
    """How many seeds, in words."""
    return "1 seed" if (count := table["seed"].nunique()) == 1 else f"{count} seeds"


def rows_axis(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows of a panel from above, every other one shaded; the grid is upright."""
    for y in range(0, len(names), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f5f5f5", zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(axis="x")


def upright(ax: Axes, x: float, text: str = "", line: Any = (0, (4, 2))) -> None:
    """Draw an upright line of reference, its name above its upper end."""
    ax.axvline(x, color=SOFT, lw=1.2, ls=line, zorder=1)
    ax.annotate(text, (x, 1), (0, 3), xycoords=ax.get_xaxis_transform(), textcoords="offset points",
                ha="center", va="bottom", fontsize=10, color=SOFT)  # fmt: skip


def beside(ax: Axes, y: float, text: str) -> None:
    """Write a row's number at the right edge."""
    ax.annotate(text, (1, y), (5, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points",
                va="center", fontsize=10)  # fmt: skip


def score_rows(ax: Axes, table: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """A row a way: accuracy of each seed, their mean, also as a number, and hollow that in training."""
    for y, (way, look) in enumerate(looks.items()):
        seeds, known = by_seed(table, way), float(by_seed(table, way, "train").mean())
        color = look.color
        ax.plot([seeds.mean(), known], [y, y], "-", color=color, lw=1, alpha=0.6, zorder=2)
        ax.plot(known, y, look.marker, color=color, mfc="white", ms=11, zorder=3)
        ax.plot(seeds, [y] * len(seeds), look.marker, color=color, ms=4, alpha=0.5, ls="", zorder=4)
        ax.plot(seeds.mean(), y, look.marker, color=color, ms=7, ls="", zorder=5, label=way)
        beside(ax, y, f"{seeds.mean():.1f}")
    ax.margins(x=0.06)


# All methods, all data ----------------------------------------------------------------------------


@styled
def bench_board(table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw accuracy and cost of every method on every data set.

    Args:
        table: As of `measure.table`: ``data``, ``way``, ``seed``; ``accuracy``, ``train`` and ``floor`` in %;
            ``weights`` and ``madds``.
        title: Instead of the question.

    Raises:
        ValueError: if the table is empty, or has an unknown way.
    """
    names = [*dict.fromkeys(table["data"])]
    if not names:
        raise ValueError("table must have at least one data set, got none")
    rows, columns = -(-len(names) // 2), min(len(names), 2)
    ways = max(len(part["way"].unique()) for _, part in table.groupby("data"))
    fig = canvas(
        11, 1.5 + rows * (0.85 + 0.25 * ways), title or "Which fusion is worth its cost, and on which data?",
        f"Filled: mean over {seeds_of(table)} on held-out samples, also as a number; small: a seed; hollow: "
        "the mean on training samples. Dashed: always training's most frequent class. Bars: multiply-adds of "
        "one answer; beside them the weights, in thousands.",
    )  # fmt: skip
    panels = fig.subplots(rows, 2 * columns, width_ratios=(3, 1) * columns, squeeze=False)
    blocks = panels.reshape(rows * columns, 2)
    for name, (scores, costs) in zip(names, blocks, strict=False):
        part = table[table["data"] == name]
        looks = looks_of(part["way"].tolist())
        rows_axis(scores, [*looks])
        score_rows(scores, part, looks)
        upright(scores, float(part["floor"].mean()))
        scores.set_title(name)
        scores.set_xlabel(HELD_OUT)
        scores.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        rows_axis(costs, [""] * len(looks))
        for y, (way, look) in enumerate(looks.items()):
            weights, madds = (float(by_seed(part, way, c).mean()) for c in ("weights", "madds"))
            costs.barh(y, madds / 1e6, 0.5, color=look.color)
            beside(costs, y, f"{weights / 1e3:,.0f}")
        costs.set_xlabel("million MAdds")
        costs.xaxis.set_major_locator(MaxNLocator(2))
        costs.xaxis.set_major_formatter("{x:g}")
    for ax in blocks[len(names) :].flat:
        ax.remove()
    return fig


# Gradient-Blending --------------------------------------------------------------------------------


@styled
def blending_windows(
    table: pd.DataFrame, floor: float, heads: Sequence[str] = ("rgb", "flow", "joint"),
    title: str | None = None,
) -> Figure:  # fmt: skip
    """Draw what each rule makes of Gradient-Blending: accuracy of its heads, and their weights by window.

    Args:
        table: As of `measure.blend_table`: ``rule``, ``seed``, ``heads`` [K] in %, ``weights`` [windows][K].
        floor: Majority rate in %.
        heads: Names of the K heads, two modalities and the joint one.
        title: Instead of the question.

    Raises:
        ValueError: if the table has another number of heads, or an unknown rule.
    """
    rules = [*dict.fromkeys(table["rule"])]
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {', '.join(unknown)}")
    count, windows = len(heads), len(table["weights"].iloc[0])
    for found in table["heads"]:
        if len(found) != count:
            raise ValueError(f"table must have {count} heads, as heads has names, got {len(found)}")
    fig = canvas(
        10.5, 1.9 + 0.75 * len(rules), title or "Which head should weigh how much, and does it matter?",
        f"Large: mean over {seeds_of(table)}; small: a seed. Left: held-out samples; number: the joint "
        "head, which answers; dashed: always the most frequent class. Right: weights in the loss, estimated "
        f"anew before each window; their sum is {count}.",
    )  # fmt: skip
    panels = fig.subplots(1, 1 + windows, sharey=True, width_ratios=(1.7, *[1] * windows))
    for ax in panels:
        rows_axis(ax, [RULES[rule] for rule in rules])
    for y, rule in enumerate(rules):
        rows = table[table["rule"] == rule].sort_values("seed")
        scores = np.array(rows["heads"].tolist(), float)[:, None]  # (seeds, 1, K)
        both = np.concatenate((scores, np.array(rows["weights"].tolist(), float)), 1)
        for k, shift in enumerate(offsets(count, 0.5)):
            look = (*ALONE, WAYS_LOOK["Gradient-Blending"])[k]
            for ax, values in zip(panels, both[..., k].T, strict=True):
                ax.plot(values, [y + shift] * len(values), look.marker, color=look.color, ms=4,
                        alpha=0.5, ls="")  # fmt: skip
                ax.plot(values.mean(), y + shift, look.marker, color=look.color, ms=9, ls="",
                        label=heads[k])  # fmt: skip
        beside(panels[0], y + 0.25, f"{scores[:, 0, -1].mean():.1f}")
    upright(panels[0], floor)
    panels[0].set_xlabel(HELD_OUT)
    panels[0].margins(x=0.06)
    for w, ax in enumerate(panels[1:]):
        ax.set(xlim=(-0.15, count + 0.15), xticks=range(count + 1), xlabel="weight of the head")
        ax.set_title(f"window {w + 1}")
    handles, _ = panels[0].get_legend_handles_labels()
    fig.legend(handles[:count], heads, title="head", loc="outside right center", frameon=False,
               fontsize=10, title_fontsize=10)  # fmt: skip
    return fig


# MulT ---------------------------------------------------------------------------------------------


@styled
def read_cells(
    saliencies: Mapping[str, Any], grid: Sequence[int], modalities: Sequence[str] = ("rgb", "flow"),
    title: str | None = None,
) -> Figure:  # fmt: skip
    """Draw which cells of the streams' last maps an answer of MulT depends on.

    Args:
        saliencies: How it is read, such as "as released" -> (M, cells), as of `reading.saliency`.
        grid: (T, H, W) or (T,) of the cells, in raster order.
        modalities: Names of the M.
        title: Instead of the question.

    Raises:
        ValueError: if there are none, or not as many cells as the grid has.
    """
    each = {name: np.asarray(found, dtype=float) for name, found in saliencies.items()}
    wanted = (len(modalities), int(np.prod(grid)))
    if not each:
        raise ValueError("saliencies must have at least one way of reading, got none")
    for name, found in each.items():
        if found.shape != wanted:
            raise ValueError(f"saliencies[{name!r}] must be {wanted}, got {found.shape}")
    frames, height, width = (1, 1, *grid)[-3:]
    fig = canvas(
        10.5, 1.8 + 0.95 * len(each), title or "Which cells does the answer depend on?",
        "Cells of the last maps, frame by frame from the left. The darker, the more the likeliest answer "
        "moves with the cell, as a share of the row's largest, mean over clips; a cross: not at all.",
    )  # fmt: skip
    panels = fig.subplots(len(each), len(modalities), squeeze=False)
    for (name, found), line in zip(each.items(), panels, strict=True):
        shares = found / max(found.max(), np.finfo(float).tiny)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, share, modality in zip(line, shares, modalities, strict=True):
            for t, cells in enumerate(share.reshape(frames, height, width)):
                left = t * (width + 0.3)
                shown = ax.imshow(cells, cmap="Blues", norm=Normalize(0, 1), aspect="auto",
                                  extent=(left, left + width, height, 0))  # fmt: skip
                y, x = np.nonzero(cells == 0)
                ax.plot(left + x + 0.5, y + 0.5, "x", color=SOFT, ms=5, mew=1.2)
                ax.hlines(range(height + 1), left, left + width, color=FAINT, lw=0.8)
                ax.vlines(left + np.arange(width + 1), 0, height, color=FAINT, lw=0.8)
            ax.set(
                xlim=(-0.05, left + width + 0.05), ylim=(height + 0.05, -0.05), xticks=[], yticks=[]
            )
            ax.spines[:].set_visible(False)
            ax.grid(visible=False)
            ax.set_title(
                f"{modality}: {np.count_nonzero(share)} of {share.size} cells", fontsize=10
            )
    fig.colorbar(shown, ax=panels, label="share of the largest", fraction=0.03, ticks=(0, 0.5, 1))
    return fig


# MISA ---------------------------------------------------------------------------------------------


@styled
def misa_clouds(table: pd.DataFrame, floor: float, title: str | None = None) -> Figure:
    """Draw MISA's codes and how alike the shared ones are, for some weights of its conditions.

    Args:
        table: Two to four rows of `reading.misa_table`: the weights ``similar``, ``differ`` and ``recover``;
            ``points`` code -> (n, 2), ``moments`` [5], ``accuracy`` in %, ``spread``, ``differ left``.
        floor: Majority rate in %.
        title: Instead of the question.

    Raises:
        ValueError: on fewer or more rows.
    """
    if not 2 <= len(table) <= 4:
        raise ValueError(f"table must have two to four rows, got {len(table)}")
    fig = canvas(
        11, 6.2, title or "Are shared codes alike and private ones apart, or has all just shrunk?",
        "Above: codes of held-out samples, each panel on the two directions in which its own spread most, "
        "all at one scale; filled: shared, hollow: private. Spread: deviation of all numbers; each: of "
        "one code's points, near 0 if it has shrunk. In common: mean squared inner products, made small by "
        "the condition differ. Below: distance of the shared codes' means and central moments. "
        f"Always the most frequent class: {floor:.1f} %.",
    )  # fmt: skip
    panels = fig.subplots(2, len(table), sharex="row", sharey="row", height_ratios=(2.1, 1))
    looks = _codes([*table["points"].iloc[0]])
    for (_, one), (above, below) in zip(table.iterrows(), panels.T, strict=True):
        for code, (look, face) in looks.items():
            x, y = np.asarray(one["points"][code], dtype=float).T
            above.plot(
                x, y, look.marker, color=look.color, mfc=face, ms=4, alpha=0.5, ls="", label=code
            )
        above.set_title(
            f"similar {one['similar']:g}, differ {one['differ']:g},\nrecover {one['recover']:g}: "
            f"{one['accuracy']:.1f} % right", fontsize=10,
        )  # fmt: skip
        own = np.mean([np.std(one["points"][code], axis=0).mean() for code in looks])
        above.set_xlabel(
            f"spread {one['spread']:.2f}, each {own:.2f},\nin common {one['differ left']:.2g}",
            fontsize=10,
        )
        above.grid(axis="x")
        below.bar(range(1, 6), one["moments"], 0.6, color="#8c8c8c")
        below.set(xlabel="moment", xticks=range(1, 6))
    panels[0, 0].set_ylabel("second direction")
    panels[1, 0].set_ylabel("distance")
    fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False,
               fontsize=10, markerscale=1.8)  # fmt: skip
    return fig


def _codes(names: Sequence[str]) -> dict[str, tuple[Look, str]]:
    """Look and filling of each code, "private rgb" and so on: a modality's colour, hollow if private."""
    kinds = [name.partition(" ") for name in names]
    modalities = [*dict.fromkeys(modality for _, _, modality in kinds)]
    looks = dict(zip(modalities, ALONE, strict=False))
    return {
        name: (looks[modality], "none" if kind == "private" else looks[modality].color)
        for name, (kind, _, modality) in zip(names, kinds, strict=True)
    }
