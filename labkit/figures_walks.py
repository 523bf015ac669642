"""Figures of what lies between samples and around one: paths and temperature; see `labkit.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labkit.drawing import HALO, KINDS, SOFT, canvas, level, look, pick, rows_of, styled
from labkit.figures_latent import corners, tiles

# Paths -------------------------------------------------------------------------------------------


@styled
def path_strips(
    pictures: Mapping[str, Mapping[str, Any]],
    probs: Mapping[str, Any],
    read: Mapping[str, Mapping[str, Sequence[int]]],
    title: str | None = None,
) -> Figure:
    """Draw one pair of samples and what lies between them, in both scripts, on two paths.

    Args:
        pictures: Path -> script -> pixel means (T, H, W) at T even steps.
        probs: Path -> label probabilities (T', C) at T' even steps.
        read: Path -> script -> what a classifier reads in each of the T pictures.
        title: Instead of the question.
    """
    fig = canvas(
        10.6, 3.5, title or "What lies between two digits?",
        "In the corners: what a classifier of real digits reads. Below: what the label decoder says: "
        "probability of the digit at the start (dark, hatched), at the end (light) and of all others "
        "(white, between).",
    )  # fmt: skip
    axes = fig.subplots(3, len(pictures), height_ratios=[1, 1, 1.5], squeeze=False)
    for c, (way, scripts) in enumerate(pictures.items()):
        column = axes[:, c]
        for ax, (name, images) in zip(column, scripts.items(), strict=False):
            stack = np.asarray(images, dtype=float)
            tiles(ax, stack, len(stack))
            corners(ax, pick(read[way], name, "read"), len(stack), stack.shape[1:])
            if c == 0:
                ax.set_ylabel(name, color=look(name).color, fontweight="bold", fontsize=10)
        column[0].set_title(f"{way} path")
        _bands(column[2], np.asarray(probs[way], dtype=float), first=c == 0)
    return fig


def _bands(ax: Axes, probs: np.ndarray, first: bool) -> None:
    """Probability of the first point's digit from below, of the last point's from above."""
    t = np.linspace(0, 1, len(probs))
    start, end = probs[0].argmax(), probs[-1].argmax()
    dark, light = KINDS[0].color, KINDS[3].color
    ax.fill_between(t, 0, 100 * probs[:, start], fc="#555555", ec=dark, hatch="//", lw=0.8)
    if start != end:
        ax.fill_between(t, 100 - 100 * probs[:, end], 100, fc=light, ec=dark, lw=0.8)
    ax.set(xlim=(0, 1), ylim=(0, 100), xticks=[0, 0.5, 1], yticks=[0, 50, 100])
    ax.set_xlabel("share of the way")
    ax.set_ylabel("label (%)" if first else "", fontsize=10)
    ax.grid(False)


@styled
def path_curves(paths: Mapping[str, Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draw how far out paths between samples run, and what the label decoder says on them.

    Args:
        paths: ``straight`` and ``spherical`` -> ``percentile``, ``start``, ``end`` and ``others``, each (T,)
            or (seeds, T), in [0, 1].
        title: Instead of the question.

    Raises:
        ValueError: if a curve is absent.
    """
    fig = canvas(
        10.6, 4.3, title or "Do paths between samples stay among the samples?",
        "Means over pairs of held-out samples of different digits. Left: share of held-out latents that "
        "lie nearer to the centre than the point of the path; a latent like the others has 50 on "
        "average.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2)
    highest = 0.0  # of the other digits, halfway
    for (way, found), mark in zip(paths.items(), (KINDS[0], KINDS[1]), strict=True):
        curves = {k: 100 * rows_of(pick(found, k, f"paths[{way!r}]")).mean(0)
                  for k in ("percentile", "start", "end", "others")}  # fmt: skip
        t = np.linspace(0, 1, len(curves["start"]))
        place: dict[str, Any] = {"marker": mark.marker, "ms": 5, "markevery": max(1, len(t) // 10)}
        left.plot(t, curves["percentile"], color=mark.color, ls=mark.line, label=way, **place)
        for name in ("start", "end", "others"):
            right.plot(t, curves[name], color=mark.color, ls=mark.line, **place)
        highest = max(highest, float(curves["others"][len(t) // 2]))
    level(left, 50)
    words = {"start": (0.0, "left"), "end": (1.0, "right")}
    for name, (x, side) in words.items():
        right.annotate(
            f"digit at the {name}", (x, 1), (4 if side == "left" else -4, 3), ha=side, va="bottom",
            xycoords="axes fraction", textcoords="offset points", fontsize=10,
        )  # fmt: skip
    right.annotate("other digits", (0.5, highest), (0, 8), ha="center", va="bottom", fontsize=10,
                   textcoords="offset points", path_effects=HALO)  # fmt: skip
    left.legend(loc="upper center", frameon=False, fontsize=10, handlelength=3)
    left.set(ylim=(0, 100), ylabel="held-out latents nearer to the centre (%)")
    right.set(ylim=(0, 103), ylabel="probability of the label (%)")
    for ax in (left, right):
        ax.set(xlim=(0, 1), xlabel="share of the way")
    return fig


# Temperature -------------------------------------------------------------------------------------


@styled
def noise_sheet(
    pictures: Mapping[str, Any],
    given: str,
    temperatures: Sequence[float],
    original: Any,
    title: str | None = None,
) -> Figure:
    """Draw decoded samples of z at several temperatures, a script that was given and one that was not.

    Args:
        pictures: Script -> pixel means (temperatures, N, H, W).
        given: The script that the posterior has seen.
        temperatures: Factors of the posterior's standard deviation.
        original: The picture given, (H, W).
        title: Instead of the question.
    """
    rows = len(temperatures)
    fig = canvas(
        10.6, 1.05 + 0.58 * rows, title or "What does noise in the latent change?",
        "Each row: the same draws of noise, times the temperature tau. Left: the digit that was given.",
    )  # fmt: skip
    count = np.asarray(next(iter(pictures.values()))).shape[1]
    axes = fig.subplots(1, 1 + len(pictures), width_ratios=[1.6, *[count] * len(pictures)])
    tiles(axes[0], np.asarray(original, dtype=float)[None], 1)
    axes[0].set_title("given", color=look(given).color, fontweight="bold")
    for ax, (name, stack) in zip(axes[1:], pictures.items(), strict=True):
        images = np.asarray(stack, dtype=float)
        tiles(ax, images.reshape(-1, *images.shape[2:]), count)
        seen = "given" if name == given else "missing"
        ax.set_title(f"{name}, {seen}", color=look(name).color, fontweight="bold")
    high = images.shape[2] + 2
    places = [i * high + images.shape[2] / 2 for i in range(rows)]
    axes[1].set_yticks(places, [f"τ = {tau:g}" for tau in temperatures])
    return fig


@styled
def temperature_curves(
    temperatures: Sequence[float],
    found: Mapping[str, Mapping[str, Any]],
    title: str | None = None,
) -> Figure:
    """Draw what temperature does to a script that was given and to one that was missing.

    Args:
        temperatures: T factors of the posterior's standard deviation.
        found: Given script -> script -> ``coherence``, ``diversity`` and ``spread``, each (T,) or
            (seeds, T).
        title: Instead of the question.

    Raises:
        ValueError: if a curve is absent.
    """
    fig = canvas(
        10.6, 4.4, title or "Does sampling bring the variety of a missing script back?",
        "Filled: the script that the posterior has seen; hollow: the other one, missing. Variance within a "
        "class, of what is generated over that of the data: 100 is as varied as real digits.",
    )  # fmt: skip
    heads = {
        "coherence": "read as the true digit (%)",
        "diversity": "variance over all samples (%)",
        "spread": "variance by the noise alone (%)",
    }
    tau = np.asarray(temperatures, dtype=float)
    for ax, (name, head) in zip(fig.subplots(1, 3), heads.items(), strict=True):
        for given, scripts in found.items():
            for script in (s for s in scripts if s in found):
                mark, seen = look(script), script == given
                mean = 100 * rows_of(pick(scripts[script], name, f"found[{given!r}]")).mean(0)
                ax.plot(
                    tau, mean, color=mark.color, marker=mark.marker, ms=6, ls="-" if seen else ":",
                    mfc=mark.color if seen else "white",
                    label=f"{script}, {'given' if seen else 'missing'}",
                )  # fmt: skip
        ax.set(ylim=(0, 104), xlabel="temperature τ", title=head, xlim=(tau.min(), tau.max()))
        ax.axvline(1, color=SOFT, lw=1, ls=":")
        if name == "spread":
            ax.legend(loc="upper left", frameon=False, fontsize=10, handlelength=3)
    return fig
