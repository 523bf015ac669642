"""Figures of the shoot-out: one table and one Pareto picture; see `labkit.figures`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter

from labkit.drawing import INK, SOFT, Look, canvas, styled
from labkit.figures_rivals import ALONE, WAYS_LOOK, seeds_of
from labkit.metrics import mean_ci
from labkit.shootout.plan import BARE, PAIRED, PREDICTOR, REGRESSION
from labkit.shootout.reading import OVERALL, SCORES, fronts, means

# Methods that are no fusion of the bench; those of one modality by its place among the modalities.
LOOKS = {
    **WAYS_LOOK,
    "nearest mean": Look("#000000", "+"),
    "early, long": Look(WAYS_LOOK["early"].color, "d"),
    "X-Norm, long": Look(WAYS_LOOK["X-Norm"].color, "d"),
    "DynMM": Look("#7a5fc0", "h"),
    PREDICTOR: Look("#b2182b", "x"),
    "DiCMoR": Look("#b2182b", "*"),
    REGRESSION: Look("#b2182b", "v"),
    PAIRED: Look("#b2182b", "P"),
    BARE: Look(WAYS_LOOK["MISA"].color, "d"),
    "MVAE": Look("#8c510a", "p"),
}
THIRD = Look("#7f7f7f", "1")
THIN = "1+x"  # markers of lines, which cannot be hollow: bold instead of filled
PLACES = ("first", "second", "third")
COSTS = {"madds": "multiply-adds, everything visible", "weights": "weights, decoders included"}
HEADS = {"complete": "whole", "missing": "missing", "noisy": "noise", "both": "both"}


def looks_in(entries: Sequence[str]) -> dict[str, Look]:
    """How each entry of one data set looks, trained on gaps or not.

    Raises:
        ValueError: on an entry of an unknown method.
    """
    alone = dict.fromkeys(e.rpartition(" ")[0] for e in entries if e.endswith(" alone"))
    by_place = dict(zip(alone, (*ALONE, THIRD), strict=False))
    found = {}
    for entry in entries:
        way = entry.removesuffix(", gaps")
        name, _, role = way.rpartition(" ")
        look = by_place.get(name) if role in ("alone", "taught") else LOOKS.get(way)
        if look is None:
            raise ValueError(
                f"entry must be of one of {', '.join(LOOKS)}, or one modality; got {entry!r}"
            )
        found[entry] = look
    return found


@styled
def shootout_front(
    found: pd.DataFrame, score: str = OVERALL, over: str = "madds", title: str | None = None
) -> Figure:
    """Draw right answers over cost, a panel a data set, and the front of what nobody beats for as much.

    Args:
        found: As of `labkit.shootout.reading.scores`.
        score: One of its scores.
        over: ``madds`` or ``weights``.
        title: Instead of the question.
    """
    rows, on = means(found), fronts(found, over, score)
    what = {OVERALL: "mean of four scores", **SCORES}[score]
    width = 102 // len(on)
    labels = [_on_front(found, name, best, over, score, width) for name, best in on.items()]
    several = found["seed"].nunique() > 1
    told = " Lines through dots: all seeds. In brackets: on how many seeds' front."
    fig = canvas(
        11.5, 4.8 + 0.18 * max(label.count("\n") for label in labels),
        title or "Who is right, over what it costs?",
        f"{seeds_of(found).capitalize()}; {score}: {what}. Filled or bold: trained on gaps; hollow or thin: "
        "complete data. Line: the front, better than all that cost as little. Dashed: always the most "
        f"frequent class.{told if several else ''}",
    )  # fmt: skip
    panels = fig.subplots(1, len(on), squeeze=False)[0]
    shown: dict[str, Look] = {}
    for ax, (name, best), label in zip(panels, on.items(), labels, strict=True):
        part = rows[rows["data"] == name].set_index("entry")
        looks = looks_in([*part.index])
        ax.set_title(name)
        ax.axhline(float(part["floor"].mean()), color=SOFT, lw=1.2, ls=(0, (4, 2)), zorder=1)
        ax.step(
            part.loc[best, over],
            part.loc[best, score],
            where="post",
            color=INK,
            lw=1,
            alpha=0.6,
            zorder=2,
        )
        if several:
            seeds = found[found["data"] == name].groupby("entry", sort=False)[score]
            colors = [look.color for look in looks.values()]
            ax.vlines(part[over], seeds.min(), seeds.max(), colors, alpha=0.5, lw=1.2, zorder=2.5)
        for entry, look in looks.items():
            at = float(part[over][entry]), float(part[score][entry])
            _dot(ax, at, look, entry, bool(part.loc[entry, "gaps"]))
            shown.setdefault(_family(entry), look)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _short(v)))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(f"{COSTS[over]}\n{label}")
        ax.margins(0.12)
    panels[0].set_ylabel("right answers, held-out (%)")
    handles = [_key(family, look) for family, look in shown.items()]
    fig.legend(handles=handles, loc="outside right center", frameon=False, fontsize=10)
    return fig


def _dot(ax: Axes, at: tuple[float, float], look: Look, entry: str, gaps: bool) -> None:
    """One entry: hollow, or of thin lines, if it was trained on complete data and could be on gaps."""
    role = entry.rpartition(" ")[2]
    hollow, thin = not gaps and role not in ("alone", "taught", "mean"), look.marker in THIN
    ax.plot(
        *at, look.marker, color=look.color, ms=9 if role != "taught" else 6, zorder=3, label=entry,
        mfc="white" if hollow else look.color,
        mew=(1 if hollow else 2.2) if thin else 1.6 if hollow else 0.6,
    )  # fmt: skip


def _key(family: str, look: Look) -> Line2D:
    """The legend's mark: as trained on gaps."""
    bold = 2 if look.marker in THIN else 1
    return Line2D([], [], color=look.color, marker=look.marker, ls="", ms=8, mew=bold, label=family)


def _kept(found: pd.DataFrame, name: str, over: str, score: str) -> dict[str, int]:
    """Entry of one data set -> in how many seeds it is on the front of that seed."""
    part = found[found["data"] == name]
    on = [fronts(rows, over, score)[name] for _, rows in part.groupby("seed")]
    return {entry: sum(entry in each for each in on) for entry in dict.fromkeys(part["entry"])}


def _on_front(
    found: pd.DataFrame, name: str, best: Sequence[str], over: str, score: str, width: int
) -> str:
    """Who is on the front of the means and, if there are several seeds, in how many of them."""
    seeds = found[found["data"] == name]["seed"].nunique()
    kept = _kept(found, name, over, score)
    said = [f"{entry} ({kept[entry]} of {seeds})" if seeds > 1 else entry for entry in best]
    whole = "; ".join(text.replace(" ", "\u00a0") for text in said)  # no line ends within an entry
    return textwrap.fill(f"Front: {whole}", width, break_on_hyphens=False, break_long_words=False)


def _family(entry: str) -> str:
    way = entry.removesuffix(", gaps")
    return "one modality (small: taught)" if way.endswith((" alone", " taught")) else way


def _short(value: float) -> str:
    return (
        f"{value / 1e6:g}M"
        if value >= 1e6
        else f"{value / 1e3:g}k"
        if value >= 1e3
        else f"{value:g}"
    )


@styled
def shootout_table(found: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw all scores of all entries: one table, its colour the distance from the best of a column.

    Args:
        found: As of `labkit.shootout.reading.scores`.
        title: Instead of the question.

    Raises:
        ValueError: on an entry of an unknown method.
    """
    rows, names = means(found), [*dict.fromkeys(found["data"])]
    for name in names:
        looks_in([*rows[rows["data"] == name]["entry"]])  # refuses what is unknown
    rows["entry"] = _by_place(rows)
    entries = _ordered([*dict.fromkeys(rows["entry"])])
    columns = [(name, score) for name in names for score in (*SCORES, "madds")]
    fig = canvas(
        11.5, 1.9 + 0.27 * len(entries), title or "Who is right, when something is missing or noisy?",
        f"Right answers in %, mean over {seeds_of(found)}. "
        + "; ".join(f"{HEADS[s]}: {t}" for s, t in SCORES.items())
        + f". Darker: nearer to the best of a column, which is bold.{_apart(found)} "
        "MAdds: in thousands, everything visible. "
        f"First to third modality: {_modalities(means(found))}.",
    )  # fmt: skip
    ax = fig.subplots()
    for j, (name, score) in enumerate(columns):
        part = rows[rows["data"] == name].set_index("entry")
        best = part[score].max()
        for i, entry in enumerate(entries):
            if entry not in part.index:
                ax.text(j, i, "–", ha="center", va="center", color=SOFT, fontsize=10)
                continue
            value = float(part.loc[entry, score])
            if score == "madds":
                ax.text(
                    j, i, f"{value / 1e3:,.0f}", ha="center", va="center", fontsize=10, color=SOFT
                )
                continue
            near = np.clip(1 - (best - value) / 40, 0, 1)
            ax.add_patch(_cell(j, i, near))
            ax.text(
                j, i, f"{value:.1f}", ha="center", va="center", fontsize=10,
                weight="bold" if value == best else "normal", color="white" if near > 0.45 else INK,
            )  # fmt: skip
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(entries) - 0.5, -0.5)
    ax.set_yticks(range(len(entries)), entries)
    ax.set_xticks(range(len(columns)), [HEADS.get(score, "MAdds") for _, score in columns])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    for k, name in enumerate(names):
        floor = float(rows[rows["data"] == name]["floor"].mean())
        middle = k * 5 + 2
        ax.annotate(
            f"{name} (majority {floor:.1f} %)", (middle, 1), (0, 24), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", fontsize=11, weight="bold",
        )  # fmt: skip
        if k:
            ax.axvline(k * 5 - 0.5, color=SOFT, lw=0.8)
    return fig


def _apart(found: pd.DataFrame) -> str:
    """How much seeds differ, for the caption; nothing is said of a single one."""
    halves = [
        mean_ci(part[score].tolist())[1]
        for _, part in found.groupby(["data", "entry"])
        for score in SCORES
        if len(part) > 1
    ]
    if not halves:
        return ""
    middle, most = np.median(halves), max(halves)
    return (
        f" Half a 95 % interval over seeds: {middle:.1f} points in the median, {most:.1f} at most."
    )


def _ordered(entries: Sequence[str]) -> list[str]:
    """Networks of one modality first, then each method with what it is when trained on gaps."""
    single = [f"{place} {role}" for role in ("alone", "taught") for place in PLACES]
    single = [e for e in single if e in entries]
    rest = [e for e in entries if e not in single]
    ways = [*dict.fromkeys(e.removesuffix(", gaps") for e in rest)]
    return single + [e for way in ways for e in (way, f"{way}, gaps") if e in rest]


def _alone(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Data -> its modalities, in their order."""
    return {
        str(name): [e.removesuffix(" alone") for e in part["entry"] if e.endswith(" alone")]
        for name, part in rows.groupby("data", sort=False)
    }


def _modalities(rows: pd.DataFrame) -> str:
    return "; ".join(", ".join(names) for names in _alone(rows).values())


def _by_place(rows: pd.DataFrame) -> list[str]:
    """Entries of one modality by its place, so that data sets share a row."""
    order = _alone(rows)
    found = []
    for name, entry in zip(rows["data"], rows["entry"], strict=True):
        modality, _, role = entry.rpartition(" ")
        single = role in ("alone", "taught")
        found.append(f"{PLACES[order[name].index(modality)]} {role}" if single else entry)
    return found


def _cell(column: int, row: int, near: float) -> Rectangle:
    color = colormaps["cividis_r"](0.85 * near)
    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=color, zorder=1, lw=0)
