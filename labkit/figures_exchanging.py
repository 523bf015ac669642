"""Figures of streams that exchange normalization parameters; see `labkit.figures`.

X-Norm's rivals, and all methods on all data, are drawn in `labkit.figures_rivals`, whose functions are found
here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from labkit.batch import Batch
from labkit.data.clips import ceilings
from labkit.drawing import HALO, INK, SOFT, Look, canvas, level, pick, styled
from labkit.exchanging.measure import by_rho
from labkit.exchanging.reading import Told
from labkit.figures_rivals import (
    ALONE,
    HELD_OUT,
    looks_of,
    rows_axis,
    score_rows,
    seeds_of,
    upright,
)
from labkit.figures_rivals import bench_board as bench_board  # one namespace for notebooks
from labkit.figures_rivals import blending_windows as blending_windows
from labkit.figures_rivals import misa_clouds as misa_clouds
from labkit.figures_rivals import read_cells as read_cells
from labkit.models.xnorm import Norm, normal

CHANGED = {
    "X-Norm, own": "X-Norm, own parameters",
    "X-Norm, pooled": "X-Norm, pooled parameters",
    "X-Norm, beta": "X-Norm, shift alone",
    "X-Norm, gamma": "X-Norm, scale alone",
    "X-Norm, zero init": "X-Norm, starts at zero",
    "X-Norm, sequential": "X-Norm, one after the other",
    "early, long": "early, long budget",
    "X-Norm, pooled, long": "X-Norm, pooled, long budget",
}
THIN = (0, (4, 2))

# The synergy --------------------------------------------------------------------------------------


@styled
def synergy_curves(table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw accuracy over the synergy rho, beside what each kind of answer can reach at most.

    Args:
        table: As of `measure.rho_table`: ``way``, ``seed``, ``rho``, ``accuracy`` and ``floor`` in %.
        title: Instead of the question.

    Raises:
        ValueError: on an unknown way or modality, or if a seed lacks a rho.
    """
    looks = looks_of(table["way"].tolist())
    fig = canvas(
        10.5, 5, title or "Who can still answer when only the product of two streams tells?",
        f"Held-out clips; lines: mean over {seeds_of(table)}; small: a seed. Thin, dashed: the most that can "
        "be reached, by one modality in its colour, by any sum of what two streams say in black, by any "
        "answer in grey. rho: share of the clips whose polarity is handle XOR direction.",
    )  # fmt: skip
    single = [way for way in looks if way.endswith(" alone")]
    sides = {"one modality alone": single, "both modalities": [w for w in looks if w not in single]}
    sides = {said: ways for said, ways in sides.items() if ways}
    panels = fig.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    grid = np.linspace(0, 1, 101)
    most = {name: [100 * ceilings(rho)[name] for rho in grid] for name in ceilings(0)}
    for ax, (said, ways) in zip(panels, sides.items(), strict=True):
        level(ax, float(table["floor"].mean()), "most frequent class")
        for way in ways:
            _rising(ax, table, way, looks[way])
            if way in single:
                known = pick(most, way.removesuffix(" alone"), "labkit.data.clips.ceilings")
                ax.plot(grid, known, color=looks[way].color, ls=THIN, lw=1.2, zorder=1)
        ax.set(xlabel="synergy rho", ylim=(0, 109), yticks=range(0, 101, 20), title=said)
    if "both modalities" in sides:
        for name, text, color in (("late", "any sum", INK), ("joint", "any answer", SOFT)):
            panels[-1].plot(grid, most[name], color=color, ls=THIN, lw=1.2, zorder=1)
            panels[-1].annotate(
                f"{text}, at most", (1, most[name][-1]), (0, 3), textcoords="offset points",
                ha="right", va="bottom", fontsize=10, color=color, path_effects=HALO,
            )  # fmt: skip
    panels[0].set_ylabel(HELD_OUT)
    handles = [handle for ax in panels for handle in ax.get_legend_handles_labels()[0]]
    fig.legend(handles=handles, loc="outside right center", frameon=False, fontsize=10)
    return fig


def _rising(ax: Axes, table: pd.DataFrame, way: str, look: Look) -> None:
    """Accuracy of one way over rho: each seed, and their mean."""
    rhos, scores = by_rho(table, way)
    for seed in scores:
        ax.plot(rhos, seed, look.marker, color=look.color, ms=4, alpha=0.5)
    ax.plot(rhos, scores.mean(0), color=look.color, ls=look.line, marker=look.marker, label=way)


@styled
def exchange_bars(table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw every method, and what becomes of X-Norm and others if they are changed, at full synergy.

    Args:
        table: As of `measure.table`, of clips with rho = 1: ``way``, ``seed``; ``accuracy``, ``train`` and
            ``floor`` in %.
        title: Instead of the question.

    Raises:
        ValueError: on an unknown way.
    """
    ways = [*dict.fromkeys(table["way"])]
    methods = [way for way in ways if ", " not in way]
    changed = sorted((w for w in ways if ", " in w), key=lambda w: not w.startswith("X-Norm"))
    both = bool(methods and changed)
    fig = canvas(
        9.5, 1.8 + 0.29 * len(ways), title or "Is it the exchange that makes a product of two streams?",
        f"Clips with rho = 1. Filled: mean over {seeds_of(table)} on held-out clips, also as a number; "
        "small: a seed; hollow: the mean on training clips; far to the right of the other: learnt by "
        f"heart.{' Below the line: the same methods, changed.' if both else ''}",
    )  # fmt: skip
    ax, looks = fig.subplots(), looks_of([*methods, *changed])
    rows_axis(ax, [CHANGED.get(way, way) for way in looks])
    score_rows(ax, table, looks)
    if both:
        ax.axhline(len(methods) - 0.5, color="#8a8a8a", lw=1)
    floor, most = float(table["floor"].mean()), 100 * ceilings(1.0)["late"]
    upright(ax, floor, f"most frequent class, {floor:.1f} %", ":")
    upright(ax, most, f"any sum, at most {most:.0f} %")
    ax.set(xlabel=HELD_OUT, xlim=(0, 104), xticks=range(0, 101, 20))
    return fig


# One clip -----------------------------------------------------------------------------------------


@styled
def exchange_sheet(
    told: Told, batch: Batch, classes: Sequence[str], site: int = 0, norm: Norm = "layer",
    frame: int | None = None, channels: tuple[int, int] | None = None, title: str | None = None,
) -> Figure:  # fmt: skip
    """Draw what happens to one map of each stream at a site: a row a stream.

    Args:
        told: What the network made of the clip, as of `reading.told`.
        batch: The clip, labelled: rgb and flow as `labkit.data.clips` makes them.
        classes: Names.
        site: Which.
        norm: As the network normalises.
        frame: Of the clip, and of the maps the one at that time; None = the one in the middle.
        channels: Which map of each stream; None = the one that changes most.
        title: Instead of the question.

    Raises:
        ValueError: on another site, frame or map, or if the batch is not one labelled clip.
    """
    if site not in told.sites:
        raise ValueError(f"site must be one of {', '.join(map(str, told.sites))}; got {site}")
    if len(batch) != 1 or batch.y is None:
        raise ValueError(f"batch must be one labelled clip, got {len(batch)}")
    happened, (rgb, flow) = told.sites[site], (x[0].cpu() for x in batch.x.values())
    frames, width = rgb.shape[1], happened.before[0].shape[1]
    frame = frames // 2 if frame is None else frame
    at = frame * happened.before[0].shape[2] // frames
    if not 0 <= frame < frames:
        raise ValueError(f"frame must be one of {frames}, from 0; got {frame}")
    if channels is not None and not all(0 <= c < width for c in channels):
        raise ValueError(f"channels must be two of {width} maps, from 0; got {channels}")
    answer, sure = int(told.probabilities.argmax()), float(told.probabilities.max())
    fig = canvas(
        11, 4.9, title or "What does each stream tell the other?",
        f"Frame {frame + 1} of a held-out clip, one map of each stream behind stage {site + 1}. Orange: "
        "above 0; purple, and with a dash: below; each map from minus to plus the number beneath it. "
        "x′ = x + γ · norm(x) + β. "
        f"True: {classes[int(batch.y[0])]}; answer: {classes[answer]}, {sure:.0%} sure.",
    )  # fmt: skip
    panels = fig.subplots(2, 6)
    _picture(panels[0, 0], (rgb[:, frame] + 0.5).clip(0, 1).movedim(0, 2).numpy())
    _motion(panels[1, 0], flow[:, frame])
    for m, line in enumerate(panels):
        before, after = happened.before[m], happened.after[m]
        change = (after - before)[0, :, at].flatten(1).norm(dim=1)
        channel = int(change.argmax()) if channels is None else channels[m]
        said = [None if x is None else x.expand_as(before.flatten(2)).view_as(before)
                for x in happened.said[m]]  # fmt: skip
        every = [before, normal(before.flatten(2), norm).view_as(before), *said, after]
        maps = [None if x is None else x[0, channel, at].cpu() for x in every]
        largest = max(float(x.abs().max()) for x in (maps[0], maps[-1]) if x is not None)
        for j, (ax, one) in enumerate(zip(line[1:], maps, strict=True)):
            _signed(ax, one, largest if j in (0, 4) else None)
        names = [*batch.x]
        line[0].set_ylabel(f"{names[m]}, told by {names[1 - m]}")
        line[1].set_ylabel(f"map {channel}")
    heads = ("clip", "x", "norm(x)", "γ", "β", "x′")
    for ax, head in zip(panels[0], heads, strict=True):
        ax.set_title(head, loc="center", fontsize=10)
    return fig


def _picture(ax: Axes, image: np.ndarray, **how: Any) -> None:
    ax.imshow(image, **how)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _signed(ax: Axes, one: Tensor | None, largest: float | None = None) -> None:
    """A map around 0, to plus and minus its largest number; None = there is none."""
    if one is None:
        _picture(ax, np.zeros((1, 1)), cmap="PuOr_r", vmin=-1, vmax=1)
        ax.set_xlabel("none")
        return
    most = largest or float(one.abs().max()) or 1.0
    _picture(ax, one.numpy(), cmap="PuOr_r", vmin=-most, vmax=most)
    y, x = np.nonzero(one.numpy() < 0)
    seen = np.where(one.numpy()[y, x] < -most / 2, "white", INK)
    ax.scatter(x, y, marker="_", c=seen, s=(40 / one.shape[1]) ** 2, lw=1)
    ax.set_xlabel(f"± {most:.2g}", fontsize=10)


def _motion(ax: Axes, flow: Tensor) -> None:
    """A frame of flow: its horizontal part as a signed map, and arrows."""
    most = float(flow.abs().max())
    _picture(ax, flow[0].numpy(), cmap="PuOr_r", vmin=-most, vmax=most)
    u, v = flow.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).mean((2, 4)).numpy()  # pixels in fours
    places = np.arange(u.shape[1]) * 2 + 0.5, np.arange(u.shape[0]) * 2 + 0.5
    ax.quiver(*places, u, v, angles="xy", pivot="middle", color=INK)
    ax.set_xlabel("orange: to the right", fontsize=10)


# While it learns ----------------------------------------------------------------------------------


@styled
def exchange_learning(
    records: Mapping[str, Sequence[Mapping[str, Any]]], floor: float,
    streams: Sequence[str] = ("rgb", "flow"), title: str | None = None,
) -> Figure:  # fmt: skip
    """Draw what an exchange moves while it learns, and how alike the streams become, with it and without.

    Args:
        records: "late" and "X-Norm", or changed ones -> a record a seed, as of `reading.learning`. What is
            moved is drawn of the last one.
        floor: Majority rate in %.
        streams: Names of the two.
        title: Instead of the question.

    Raises:
        ValueError: if there are no records, or the last way has no exchange.
    """
    if not records or not all(records.values()):
        raise ValueError(f"records must have one of each way at least, got {[*records]}")
    last, looks, seeds = [*records][-1], looks_of([*records]), max(map(len, records.values()))
    sites = [name.removeprefix("before ") for name in records[last][0] if name.startswith("before")]
    if not sites:
        raise ValueError(f"records must end with a way that exchanges, got {last!r}")
    stages = [name for name in records[last][0] if name.startswith("alike")]
    fig = canvas(
        10.5, 6.6, title or "Do streams that exchange become alike?",
        f"Validation clips; thick: mean over {seeds} seed{'s' * (seeds > 1)}; thin: a seed. Moved: norm of "
        f"the change over the norm of the maps, of {last}. Below: linear CKA of the two streams' maps behind "
        "each stage, 1 = alike but for rotation and scale; hollow: the same maps before the exchange.",
    )  # fmt: skip
    places = fig.add_gridspec(2, 2 * len(stages))
    score = fig.add_subplot(places[0, : len(stages)])
    moved = fig.add_subplot(places[0, len(stages) :])
    for way, look in looks.items():
        _course(score, records[way], "accuracy", look, way)
    level(score, floor)
    score.set(ylabel="right answers, validation (%)", ylim=(0, 104), xlabel="epoch")
    for i, site in enumerate(sites):
        for m, stream in enumerate(streams):
            look = Look(ALONE[m].color, ALONE[m].marker, "", ("-", "--", ":")[i % 3])
            _course(
                moved, records[last], f"moved {site}/{m}", look, f"{stream}, stage {int(site) + 1}"
            )
    moved.set(ylabel="moved by the exchange", xlabel="epoch")
    moved.set_ylim(0)
    first = None
    for i, stage in enumerate(stages):
        ax = fig.add_subplot(places[1, 2 * i : 2 * i + 2], sharey=first)
        first = first or ax
        for way, look in looks.items():
            _course(ax, records[way], stage, look)
            if (before := stage.replace("alike", "before")) in records[way][0]:
                _course(
                    ax, records[way], before, Look(look.color, look.marker, "", ":"), face="white"
                )
        ax.set(title=f"behind stage {i + 1}", xlabel="epoch", ylim=(-0.02, 1.02))
        ax.tick_params(labelleft=i == 0)
    assert first is not None
    first.set_ylabel("CKA of the streams")
    handles = [*score.get_legend_handles_labels()[0],
               Line2D([], [], ls=":", color=SOFT, marker="o", mfc="white", label="before exchange"),
               *moved.get_legend_handles_labels()[0]]  # fmt: skip
    fig.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=10)
    return fig


def _course(
    ax: Axes, records: Sequence[Mapping[str, Any]], what: str, look: Look, label: str | None = None,
    face: str | None = None,
) -> None:  # fmt: skip
    """One number over the epochs: each seed, and their mean."""
    epochs, each = records[0]["epoch"], np.array([record[what] for record in records], float)
    if len(each) > 1:
        ax.plot(epochs, each.T, color=look.color, ls=look.line, lw=0.8, alpha=0.5)
    ax.plot(epochs, each.mean(0), color=look.color, ls=look.line, marker=look.marker, ms=5,
            mfc=face or look.color, label=label)  # fmt: skip
