"""Figures of choosing modalities: what a gate is worth beside chance, what it costs; see `labkit.figures`.

Tables are those of `labkit.choosing.measure.table`: a row a seed, its lists one number a weight of the cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from labkit.choosing.claims import BAND
from labkit.choosing.measure import RATIOS
from labkit.choosing.plan import WEIGHTS
from labkit.choosing.reading import Values, along
from labkit.drawing import FAINT, HALO, INK, Look, canvas, level, styled

CHEAP, DEAR = Look("#0072B2", "o", "//", "--"), Look("#D55E00", "s", "\\\\", "-")
OTHER, SOFT_GATE = Look("#009E73", "^", "..", "-."), Look("#b5508a", "*", "", ":")
GATE, CHANCE, BEST = (
    Look(INK, "D", "", "-"),
    Look("#7f7f7f", "", "", ":"),
    Look("#009E73", "", "", "--"),
)
EXPERTS = {"E1, cheap": CHEAP, "E2, dear": DEAR, "other": OTHER}  # the order of ``experts``
PRICES = {"madds": "thousand MAdds a sample", "share": "sent to E2 (%)"}
KINDS = (CHEAP, DEAR, SOFT_GATE)  # looks of kinds of samples, the easy one first
VALUE = "#f2d9a6"  # between gate and chance
GRID = np.linspace(0, 1, 101)


def _of(table: pd.DataFrame, column: str) -> Values:
    """A column, its seeds first."""
    return np.asarray(table.sort_values("seed")[column].tolist(), dtype=float)


def _seeds(tables: Mapping[str, pd.DataFrame]) -> str:
    counts = sorted({table["seed"].nunique() for table in tables.values()})
    said = " or ".join(map(str, counts))
    return f"{said} seed" if counts == [1] else f"{said} seeds"


def _panels(fig: Figure, tables: Mapping[str, Any]) -> list[Axes]:
    """A panel a data set.

    Raises:
        ValueError: if there is none.
    """
    if not tables:
        raise ValueError("tables must have at least one data set, got none")
    return list(fig.subplots(1, len(tables), squeeze=False)[0])


def _curves(x: Values, y: Values, grid: Values) -> Values:
    """Curves of seeds (N, L) on lines, at a grid: (N, A), NaN beyond a seed's own x."""
    return np.stack([along(a, b, grid) for a, b in zip(x, y, strict=True)])


def _within(curves: Values) -> Any:
    """Where every seed was measured, (A,) bool."""
    return np.isfinite(curves).all(0)


# Score and cost -----------------------------------------------------------------------------------


@styled
def pareto(
    tables: Mapping[str, pd.DataFrame],
    bills: Mapping[str, Mapping[str, int]],
    over: Literal["madds", "share"] = "madds",
    title: str | None = None,
) -> Figure:
    """Draw score over cost: gates, experts, chance and the best choice; a panel a data set.

    Args:
        tables: Data set -> table of `measure.table`.
        bills: Data set -> MAdds of one sample of ``cheap``, ``dear``, ``other`` and ``gate``.
        over: What it costs: MAdds, or the share sent to E2, where neither the other expert nor a soft gate
            has its place.
        title: Instead of the question.

    Raises:
        ValueError: if there is no data set, or one has no bill, or on another `over`.
    """
    if over not in PRICES:
        raise ValueError(f"over must be one of {', '.join(PRICES)}, got {over!r}")
    what, free = ("price", ", which needs no gate") if over == "madds" else ("share", "")
    fig = canvas(
        11, 4.7, title or f"What is a gate's choice worth, beside chance at the same {what}?",
        f"Held-out samples, {_seeds(tables)}: small marks each seed, lines their mean, band lowest to "
        f"highest. Dotted: samples sent to E2 by chance{free}. Dashed: who gains most is sent; "
        "nobody knows who. Shaded: the value of the gate. Level line: best constant answer.",
    )  # fmt: skip
    for ax, (name, table) in zip(_panels(fig, tables), tables.items(), strict=True):
        if name not in bills:
            raise ValueError(f"bills has no {name!r}; it has {', '.join(bills) or 'nothing'}")
        _pareto(ax, table, _prices(table, bills[name], over))
        ax.set(title=name, xlabel=PRICES[over])
        ax.xaxis.set_major_locator(MaxNLocator(5))
    fig.axes[0].set_ylabel("score, held-out (%)")
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", frameon=False, fontsize=10)
    return fig


class _Prices(NamedTuple):
    """Places on the x axis: of gates (N, L), chance and best choice (R,), experts, and a soft gate (N,)."""

    gates: Values
    chance: Values
    best: Values
    experts: tuple[float, ...]
    soft: Values | None


def _prices(table: pd.DataFrame, bill: Mapping[str, int], over: str) -> _Prices:
    ratios = np.array(RATIOS)
    if over == "share":
        return _Prices(100 * _of(table, "share"), 100 * ratios, 100 * ratios, (0.0, 100.0), None)
    gates, soft = (_of(table, column) / 1e3 for column in ("madds", "soft_madds"))
    plain = ((1 - ratios) * bill["cheap"] + ratios * bill["dear"]) / 1e3
    experts = tuple(bill[which] / 1e3 for which in ("cheap", "dear", "other"))
    return _Prices(gates, plain, plain + bill["gate"] / 1e3, experts, soft)


def _pareto(ax: Axes, table: pd.DataFrame, at: _Prices) -> None:
    spent, plain, chance = at.gates, at.chance, _of(table, "random").mean(0)
    scored = _of(table, "score")
    grid = np.linspace(spent.min(), spent.max(), 101)
    curves = _curves(spent, scored, grid)
    inside = _within(curves)
    grid, curves = grid[inside], curves[:, inside]
    gate, alike = curves.mean(0), np.interp(grid, plain, chance)
    ax.fill_between(grid, alike, gate, gate > alike, color=VALUE, lw=0, zorder=0, interpolate=True)
    ax.fill_between(grid, curves.min(0), curves.max(0), color=GATE.color, alpha=0.13, lw=0)
    ax.plot(plain, chance, color=CHANCE.color, ls=CHANCE.line, label="chance")
    best = _of(table, "oracle").mean(0)
    ax.plot(at.best, best, color=BEST.color, ls=BEST.line, label="best choice")
    ax.plot(grid, gate, color=GATE.color, label="DynMM, gate")
    for x, y in zip(spent, scored, strict=True):
        ax.plot(x, y, GATE.marker, color=GATE.color, ms=3, alpha=0.5)
    if at.soft is not None:
        ax.plot(at.soft, _of(table, "soft"), SOFT_GATE.marker, color=SOFT_GATE.color, ms=9, alpha=0.8,
                ls="none", label="DynMM, soft")  # fmt: skip
    for k, (price, (said, look)) in enumerate(zip(at.experts, EXPERTS.items(), strict=False)):
        y = _of(table, "experts")[:, k]
        ax.plot([price] * len(y), y, look.marker, color=look.color, ms=7, alpha=0.8, label=said)
    level(ax, float(_of(table, "floor").mean()))


@styled
def gain_by_share(tables: Mapping[str, pd.DataFrame], title: str | None = None) -> Figure:
    """Draw points ahead of chance at the same share of E2, of the gates and of the best choice.

    Args:
        tables: Data set -> table of `measure.table`.
        title: Instead of the question.

    Raises:
        ValueError: if there is no data set.
    """
    fig = canvas(
        11, 4.2, title or "How far is a gate ahead of chance, and how far could one be?",
        f"Held-out samples, {_seeds(tables)}, each beside chance on its own samples. Marks: a gate of a "
        "seed; lines: mean; bands: lowest to highest seed. Dashed: who gains most is sent to E2, which "
        f"nobody knows in time. Grey: shares of {BAND[0]:.0%} to {BAND[1]:.0%}, where the claim is tested.",
    )  # fmt: skip
    for ax, (name, table) in zip(_panels(fig, tables), tables.items(), strict=True):
        share, ahead = _of(table, "share"), _of(table, "score") - _of(table, "chance")
        best = _of(table, "oracle") - _of(table, "random")
        curves = _curves(share, ahead, GRID)
        inside = _within(curves)
        ax.axvspan(100 * BAND[0], 100 * BAND[1], color=FAINT, alpha=0.7, lw=0, zorder=0)
        ratios = 100 * np.array(RATIOS)
        ax.fill_between(ratios, best.min(0), best.max(0), color=BEST.color, alpha=0.13, lw=0)
        ax.plot(ratios, best.mean(0), color=BEST.color, ls=BEST.line, label="best choice")
        ax.fill_between(100 * GRID[inside], curves[:, inside].min(0), curves[:, inside].max(0),
                        color=GATE.color, alpha=0.13, lw=0)  # fmt: skip
        ax.plot(100 * GRID[inside], curves[:, inside].mean(0), color=GATE.color, label="gate")
        for x, y in zip(share, ahead, strict=True):
            ax.plot(100 * x, y, GATE.marker, color=GATE.color, ms=3.5, alpha=0.6)
        level(ax, 0)
        ax.set(title=name, xlabel="sent to E2 (%)", xlim=(-2, 102))
        ax.xaxis.set_major_locator(MaxNLocator(5))
    fig.axes[0].set_ylabel("ahead of chance (points)")
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", frameon=False, fontsize=10)
    return fig


# The weight of the cost ---------------------------------------------------------------------------


@styled
def shares_by_weight(
    tables: Mapping[str, pd.DataFrame],
    weights: Sequence[float] = WEIGHTS,
    title: str | None = None,
) -> Figure:
    """Draw the share sent to E2 over the weight of the cost, of each kind of sample where it is known.

    Args:
        tables: Data set -> table of `measure.table`.
        weights: Of the cost, one a gate, ascending.
        title: Instead of the question.

    Raises:
        ValueError: if there is no data set, or a table has not a gate for each weight.
    """
    fig = canvas(
        11, 4.2, title or "Whom does a gate send to the dear expert, as the cost counts more?",
        f"Share of held-out samples that the gate sends to E2. Bold: mean of {_seeds(tables)}; thin: each "
        "seed. Kinds are known to the data alone, no gate is told. At the left end the cost does not count.",
    )  # fmt: skip
    for ax, (name, table) in zip(_panels(fig, tables), tables.items(), strict=True):
        share = _of(table, "share")
        if share.shape[1] != len(weights):
            raise ValueError(
                f"tables[{name!r}] must have {len(weights)} gates, got {share.shape[1]}"
            )
        rows = table.sort_values("seed")["share_by_kind"].tolist()
        series = {kind: np.array([row[kind] for row in rows], float) for kind in rows[0]}
        looks = dict(zip(series, KINDS, strict=False)) | {"all": GATE}
        if not series:
            series = {"all": share}
        for kind, values in series.items():
            look = looks[kind]
            ax.plot(weights, 100 * values.T, color=look.color, lw=0.8, alpha=0.5)
            ax.plot(weights, 100 * values.mean(0), color=look.color, ls=look.line, marker=look.marker, ms=5,
                    label=kind)  # fmt: skip
        _weights(ax, weights)
        ax.set(title=name, ylim=(-3, 108 + 11 * len(series)), xlabel="weight of the cost")
        ax.set_yticks(range(0, 101, 20))
        ax.legend(frameon=False, fontsize=10, loc="upper right")
    fig.axes[0].set_ylabel("sent to E2 (%)")
    return fig


def _weights(ax: Axes, weights: Sequence[float]) -> None:
    """The x axis over weights of which the first may be 0: logarithmic above the lowest other one."""
    above = [weight for weight in weights if weight > 0]
    ax.set_xscale("symlog", linthresh=above[0], linscale=0.4)
    ax.set_xlim(min(weights) - 0.1 * above[0], 1.15 * max(weights))
    ax.set_xticks([0, *(v for v in (0.01, 0.1, 1, 10) if above[0] <= v <= above[-1])])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_locator(MaxNLocator(1))
    ax.tick_params(axis="x", which="minor", length=0)


# The bill -----------------------------------------------------------------------------------------

SLICES: dict[str, tuple[tuple[str, ...], Look]] = {
    "linear, convolutions": (("linear", "conv"), CHEAP),
    "batch norm, biases": (("batch norm", "bias", "pooling"), OTHER),
    "attention (left out)": (("attention",), Look("#E69F00", "", "xx", "")),
    "layer norm (left out)": (("layer norm",), Look("#8c8c8c", "", "..", "")),
}


@styled
def bill_bars(
    bills: Mapping[str, Mapping[str, Sequence[Any]]],
    paper: Mapping[str, Mapping[str, float]],
    title: str | None = None,
) -> Figure:
    """Draw what the paper's constants count, and what they leave out: a panel a data set.

    Args:
        bills: As of `labkit.choosing.spending.bills`: data set -> ``E1``, ``E2``, ``gate`` -> lines.
        paper: As of `labkit.choosing.spending.PAPER`, million MAdds, gate included: drawn as ticks.
        title: Instead of the question.

    Raises:
        ValueError: if there is no data set, or one has no constants of the paper.
    """
    fig = canvas(
        11, 4.4, title or "What do the paper's constants count, and what do they leave out?",
        "MAdds of one sample at the paper's sizes, by our count. Tick: the paper's number. Hatched: in no "
        "count of the paper. The gate, outlined, is part of every path; a soft gate runs E1 and E2, and the "
        "paper's 12.1 counts it twice.",
    )  # fmt: skip
    for ax, (name, found) in zip(_panels(fig, bills), bills.items(), strict=True):
        if name not in paper:
            raise ValueError(f"paper has no {name!r}; it has {', '.join(paper) or 'nothing'}")
        rows: dict[str, tuple[str, ...]] = {"E1 + gate": ("E1",), "E2 + gate": ("E2",)}
        ticks = [paper[name]["E1"], paper[name]["E2"]]
        if "both" in paper[name]:
            rows, ticks = rows | {"soft: all": ("E1", "E2")}, [*ticks, paper[name]["both"]]
        for y, networks in enumerate(rows.values()):
            _stack(ax, y, [*(found[which] for which in networks), found["gate"]])
        for y, tick in enumerate(ticks):
            ax.plot([tick, tick], [y - 0.36, y + 0.36], color=INK, lw=2.5)
            ax.annotate(
                f"paper {tick:.8g}", (tick, y - 0.36), (0, 2), textcoords="offset points",
                ha="left" if tick < max(ticks) / 3 else "right", va="bottom", fontsize=10, path_effects=HALO,
            )  # fmt: skip
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.4, -0.85)
        ax.grid(visible=False, axis="y")
        ax.grid(axis="x")
        ax.set(title=name, xlabel="million MAdds a sample")
        ax.margins(x=0.06)
        ax.set_xlim(0)
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", frameon=False, fontsize=10)
    return fig


def _stack(ax: Axes, y: int, networks: Sequence[Sequence[Any]]) -> None:
    """One bar: what the networks of a path, the gate last, need of each of `SLICES`."""
    left = 0.0
    for name, (kinds, look) in SLICES.items():
        for i, lines in enumerate(networks):
            width = sum(line.madds for line in lines if line.kind in kinds) / 1e6
            gate = i == len(networks) - 1
            ax.barh(
                y, width, 0.56, left, color=look.color, edgecolor=INK if gate else "white",
                linewidth=1.2 if gate and width else 0, hatch=look.hatch if "left out" in name else "",
                label=name if y == 0 and not gate else "_",
            )  # fmt: skip
            left += width
