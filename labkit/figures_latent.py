"""Figures of what a push along one latent does; see `labkit.figures`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from labkit.drawing import (
    INK,
    KINDS,
    SOFT,
    Look,
    canvas,
    level,
    look,
    pick,
    plain_log,
    right_labels,
    rows_of,
    styled,
)

Display = Literal["logits", "sigmoid"]
LATENTS, RANDOM = (
    Look(INK, "o", "", "-"),
    Look("#a34c80", "D", "//", "--"),
)  # RANDOM: KINDS[1], darker
GAP = 2  # pixels between pictures

# Sweeps ------------------------------------------------------------------------------------------


@styled
def sweep_grid(
    logits: Mapping[str, Any],
    shifts: Sequence[float],
    display: Display = "sigmoid",
    read: Mapping[str, Sequence[int]] | None = None,
    unit: str = "standard deviations of the prior",
    columns: int = 10,
    title: str | None = None,
) -> Figure:
    """Redraw the poster's Figure 3: one sample, one latent shifted further from picture to picture.

    Args:
        logits: Script -> decoded logits (N, H, W).
        shifts: N shifts of the latent, in the order of the pictures.
        display: ``logits``: each picture's logits from its own minimum to its own maximum, as the poster
            drew them; ``sigmoid``: pixels in [0, 1], the means that the model predicts.
        read: Script -> what a classifier reads in each picture, written into its corner.
        unit: What the shifts are measured in.
        columns: Pictures in a row.
        title: Instead of the question.

    Raises:
        ValueError: on an unknown display, or if there is not one shift (and one digit read) a picture.
    """
    if display not in ("logits", "sigmoid"):
        raise ValueError(f"display must be 'logits' or 'sigmoid', got {display!r}")
    stacks = {name: np.asarray(values, dtype=float) for name, values in logits.items()}
    for name, stack in stacks.items():
        if stack.ndim != 3 or len(stack) != len(shifts):
            raise ValueError(f"logits[{name!r}] must be ({len(shifts)}, H, W), got {stack.shape}")
        if read is not None and len(pick(read, name, "read")) != len(stack):
            raise ValueError(f"read[{name!r}] must hold {len(stack)} digits, got {len(read[name])}")
    rows = math.ceil(len(shifts) / columns)
    shown = {
        "logits": "logits, each picture stretched from its own minimum to its own maximum, as the poster "
        "drew them",
        "sigmoid": "pixel means, black 0 to white 1",
    }[display]
    fig = canvas(
        10.6, 4.62 * rows / columns + 1.3,
        title or "What does shifting one latent show?",
        f"Shown: {shown}. Left and right: shift of a row's first and last picture, in {unit}."
        + ("" if read is None else " In the corners: what a classifier of real digits reads."),
    )  # fmt: skip
    panels = fig.subplots(1, len(stacks), squeeze=False)[0]
    for ax, (name, stack) in zip(panels, stacks.items(), strict=True):
        tiles(ax, _displayed(stack, display), columns, "viridis" if display == "logits" else "gray")
        if read is not None:
            corners(ax, read[name], columns, stack.shape[1:])
        ax.set_title(name, color=look(name).color, fontweight="bold")
    high = stack.shape[1] + GAP
    places = [row * high + stack.shape[1] / 2 for row in range(rows)]
    panels[0].set_yticks(
        places, [f"{shifts[r * columns]:+.4g}".replace("-", "−") for r in range(rows)]
    )
    last = [min((r + 1) * columns, len(shifts)) - 1 for r in range(rows)]
    panels[-1].yaxis.tick_right()
    panels[-1].set_yticks(places, [f"{shifts[i]:+.4g}".replace("-", "−") for i in last])
    return fig


def _displayed(logits: np.ndarray, display: Display) -> np.ndarray:
    """Pictures (N, H, W) in [0, 1]."""
    if display == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits.clip(-60, 60))))
    low, high = (edge(logits, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    return np.asarray((logits - low) / np.maximum(high - low, 1e-12))


def tiles(ax: Axes, pictures: np.ndarray, columns: int, cmap: str = "gray") -> None:
    """Pictures (N, H, W) in [0, 1] side by side, row by row, on white."""
    count, height, width = pictures.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), np.nan)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    ax.imshow(sheet, vmin=0, vmax=1, cmap=cmap)
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)


def corners(ax: Axes, read: Sequence[int], columns: int, size: tuple[int, ...]) -> None:
    """Write what is read into the corners of `tiles` whose pictures have this size."""
    for i, digit in enumerate(read):
        ax.annotate(
            str(int(digit)), (i % columns * (size[1] + GAP), i // columns * (size[0] + GAP)), (1, -1),
            textcoords="offset points", ha="left", va="top", fontsize=10, fontweight="bold",
            color="white", path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip


# Pushes ------------------------------------------------------------------------------------------


@styled
def push_effects(
    amplitudes: Sequence[float],
    latents: Mapping[str, Any],
    random: Mapping[str, Any],
    published: tuple[float, float] = (30.0, 1500.0),
    title: str | None = None,
) -> Figure:
    """Draw what happens as z is pushed: where it goes, what the pictures do, what the label does.

    Args:
        amplitudes: A pushes, in standard deviations of the prior.
        latents: Effect, named as the figure shall name it -> share (A,) in [0, 1], or (seeds, A), mean
            over the latents.
        random: The same effects along random directions.
        published: Smallest and largest shift of the poster.
        title: Instead of the question.

    Raises:
        ValueError: if there are more effects than looks, or random lacks one.
    """
    at = np.asarray(amplitudes, dtype=float)
    if len(latents) > len(KINDS):
        raise ValueError(f"at most {len(KINDS)} effects fit one figure, got {len(latents)}")
    fig = canvas(
        10, 4.9, title or "How far is a push of 30, and what does it do?",
        "Thick, with marks: mean over pushes along latents; thin: along random directions. Shaded: the "
        "poster's shifts. z is beyond: farther out (Mahalanobis distance) than every held-out z. Change of "
        "the pictures: 100 is as much as two samples differ.",
    )  # fmt: skip
    ax = fig.subplots()
    plain_log(ax, "x")
    ends, top = [], 100.0
    for (name, values), mark in zip(latents.items(), KINDS, strict=False):
        mine, control = (100 * rows_of(v).mean(0) for v in (values, pick(random, name, "random")))
        ax.plot(at, control, color=mark.color, lw=1.1)
        ax.plot(at, mine, color=mark.color, ls=mark.line, marker=mark.marker, lw=2.4, ms=6)
        ends.append((float(mine[-1]), name, INK))
        top = max(top, mine.max(), control.max())
    ax.set(xlim=(at.min() / 1.15, at.max() * 1.15), ylim=(-0.03 * top, 1.03 * top))
    ax.axvspan(*published, color="#f1f1f1", lw=0, zorder=0)
    ax.annotate(
        f"poster: ±{published[0]:g} to ±{published[1]:g}", (math.sqrt(published[0] * published[1]), 1),
        (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=10,
        color=SOFT, ha="center", va="bottom",
    )  # fmt: skip
    right_labels(ax, ends, 0.075)
    ax.set_xlabel("amplitude of the push, ± (standard deviations of the prior)")
    ax.set_ylabel("share (%)")
    return fig


@styled
def flip_panels(
    amplitudes: Sequence[float],
    flips: Mapping[str, Mapping[str, Any]],
    index: int,
    chance: float,
    published: tuple[float, float] = (30.0, 1500.0),
    title: str | None = None,
) -> Figure:
    """Draw how often a push changes the label, latent by latent, in two units of length.

    Args:
        amplitudes: A pushes.
        flips: ``prior`` and ``aggregate`` -> ``latents`` (D, A) and ``random`` (R, A), shares.
        index: Latent of the sweep, drawn in colour.
        chance: Flip rate of a label drawn at random.
        published: Smallest and largest shift of the poster, in standard deviations of the prior.
        title: Instead of the question.

    Raises:
        ValueError: if a unit is absent or a curve has not one value an amplitude.
    """
    at = np.asarray(amplitudes, dtype=float)
    units = {"prior": "of the prior", "aggregate": "of the cloud along the direction"}
    fig = canvas(
        10.6, 4.7, title or "Is the latent of the sweep special?",
        f"Black: latent {index}. Grey: the other latents. Pale, edged: from the least to the most sensitive "
        "of as many random directions. Numbers above: latents (random directions) that change more than "
        "half of the labels.",
    )  # fmt: skip
    for ax, (unit, words) in zip(fig.subplots(1, 2, sharey=True), units.items(), strict=True):
        found = pick(flips, unit, "flips")
        each, control = (rows_of(pick(found, n, f"flips[{unit!r}]")) for n in ("latents", "random"))
        for name, curves in (("latents", each), ("random", control)):
            if curves.shape[1] != len(at):
                raise ValueError(
                    f"{name} must be (n, {len(at)}), one an amplitude; got {curves.shape}"
                )
        plain_log(ax, "x")
        edge: dict[str, Any] = {
            "fc": RANDOM.color + "30",
            "ec": RANDOM.color,
            "ls": (0, (4, 2)),
            "lw": 1,
        }
        ax.fill_between(at, 100 * control.min(0), 100 * control.max(0), zorder=1, **edge)
        ax.plot(at, 100 * np.delete(each, index, 0).T, color="#8a8a8a", lw=0.7, alpha=0.8, zorder=2)
        ax.plot(at, 100 * each[index], color=INK, marker="o", lw=2.5, ms=5, zorder=3)
        ax.set(xlim=(at.min() / 1.15, at.max() * 1.15), ylim=(-3, 103))
        level(ax, 100 * chance, f"a label drawn at random: {100 * chance:.0f}")
        for place in (3, 30, 1500):
            if place in amplitudes:
                a = list(amplitudes).index(place)
                more = [int((curves[:, a] > 0.5).sum()) for curves in (each, control)]
                ax.axvline(place, color=SOFT, lw=1, ls=":", zorder=0)
                ax.annotate(
                    f"{more[0]} ({more[1]})", (place, 1), (0, 3), xycoords=("data", "axes fraction"),
                    textcoords="offset points", fontsize=10, color=SOFT, ha="center", va="bottom",
                )  # fmt: skip
        if unit == "prior":
            ax.axvspan(*published, color="#f1f1f1", lw=0, zorder=0)
            ax.set_ylabel("label changes (% of samples)")
        ax.set_xlabel(f"push, ± (standard deviations {words})")
    return fig


@styled
def judges_agreement(
    amplitudes: Sequence[float], looks: Mapping[str, Mapping[str, Any]], title: str | None = None
) -> Figure:
    """Draw whether both scripts change to the same digit when z is pushed.

    Args:
        amplitudes: A pushes, in standard deviations of the prior.
        looks: ``latents`` and ``random`` -> ``changed``, ``same`` and ``chance``, each (A,) or (seeds, A).
        title: Instead of the question.

    Raises:
        ValueError: if a curve is absent.
    """
    at = np.asarray(amplitudes, dtype=float)
    curves = {
        "changed": (KINDS[0], "read differently\nthan before"),
        "same": (KINDS[1], "of these: both\nread alike"),
        "chance": (KINDS[4], "of these: alike\nby chance"),
    }
    fig = canvas(
        10.6, 4.3, title or "Do both scripts change to the same digit?",
        "Classifiers of real digits read both pictures before and after a push. Read differently: at "
        "least one of them is; dashed, from where 1 % are. By chance: classifiers that answer as often as "
        "these, but of unrelated pictures.",
    )  # fmt: skip
    heads = {"latents": "pushed along latents", "random": "pushed along random directions"}
    panels = fig.subplots(1, 2, sharey=True)
    for ax, (which, head) in zip(panels, heads.items(), strict=True):
        plain_log(ax, "x")
        ends = []
        for name, (mark, words) in curves.items():
            seeds = rows_of(pick(pick(looks, which, "looks"), name, f"looks[{which!r}]"))
            # Where a seed changed nothing there is nothing to average.
            known = np.isfinite(seeds)
            count = known.sum(0)
            mean = np.where(known, seeds, 0).sum(0) / np.where(count > 0, count, np.nan)
            # A share of next to nothing is noise.
            rare = rows_of(looks[which]["changed"]).mean(0) < 0.01
            mean[rare & (name != "changed")] = np.nan
            ax.plot(at, 100 * mean, color=mark.color, ls=mark.line, marker=mark.marker, ms=5)
            ends.append((100 * float(mean[-1]), words, INK))
        ax.set(xlim=(at.min() / 1.15, at.max() * 1.15), ylim=(-3, 103), title=head)
        ax.set_xlabel("push, ± (standard deviations of the prior)")
        if which == "random":
            right_labels(ax, ends, 0.13)
    panels[0].set_ylabel("share (%)")
    return fig
