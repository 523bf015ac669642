"""Figures of what latents stand for: factors, their controls, and a map; see `labkit.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.transforms import ScaledTranslation

from labkit.drawing import (
    INK,
    KINDS,
    LOOKS,
    canvas,
    look,
    styled,
)
from labkit.figures_latent import RANDOM, tiles

# One a digit; Okabe and Ito's without yellow, which white paper swallows. A map writes the digit itself.
CLASSES = ("#222222", "#E69F00", "#56B4E9", "#009E73", "#8a6d00", "#0072B2", "#D55E00", "#CC79A7",
           "#7f7f7f", "#5b2c83")  # fmt: skip

# Factors -----------------------------------------------------------------------------------------


@styled
def factor_matrix(
    share: Any,
    factors: Sequence[str],
    explained: Sequence[float],
    owners: Sequence[str],
    title: str | None = None,
) -> Figure:
    """Draw which latent knows which factor: mutual information over the factor's entropy.

    Args:
        share: (D, K), in [0, 1].
        factors: Names of the K factors.
        explained: What all latents together explain of each factor, (K,), in [0, 1].
        owners: For each latent the modality whose message about it is most precise, (D,); the columns are
            sorted by it.
        title: Instead of the question.

    Raises:
        ValueError: if the shapes do not fit the names.
    """
    table, known = np.asarray(share, dtype=float), np.asarray(explained, dtype=float)
    fits = table.ndim == 2 and table.shape == (len(owners), len(factors))
    if not fits or known.shape != (len(factors),):
        raise ValueError(
            f"share must be ({len(owners)}, {len(factors)}) and explained ({len(factors)},), got "
            f"{table.shape} and {known.shape}"
        )
    order = np.argsort([list(LOOKS).index(owner) for owner in owners], kind="stable")
    fig = canvas(
        10.6, max(4.4, 1.95 + 0.23 * len(factors)), title or "Does one latent carry one factor?",
        "Left: mutual information of a latent (column) and a factor (row) over the factor's entropy. Marks: "
        "whose message about the latent is most precise; columns are sorted by it. Right: what a random "
        "forest on all latents explains of new samples.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2, width_ratios=[4, 1], sharey=True)
    image = left.imshow(table[order].T, aspect="auto", cmap="cividis", norm=PowerNorm(0.5, 0, 1))
    left.set_yticks(range(len(factors)), [name.replace("_", ", ") for name in factors])
    above = left.get_xaxis_transform() + ScaledTranslation(0, 9 / 72, fig.dpi_scale_trans)
    for owner in dict.fromkeys(owners[i] for i in order):
        places = [x for x, i in enumerate(order) if owners[i] == owner]
        mark = look(owner)
        left.plot(places, [1] * len(places), ls="none", marker=mark.marker, color=mark.color, ms=5,
                  transform=above, clip_on=False)  # fmt: skip
        left.annotate(owner, (float(np.mean(places)), 1), (0, 15), color=mark.color, ha="center",
                      xycoords=left.get_xaxis_transform(), textcoords="offset points")  # fmt: skip
        left.axvline(places[-1] + 0.5, color="white", lw=1.5)
    few = len(order) <= 40
    shown = range(0, len(order), 1 if few else 64)
    left.set_xticks(shown, [str(order[x]) for x in shown], fontsize=10, rotation=90 if few else 0)
    left.set(xlim=(-0.5, len(order) - 0.5), ylim=(len(factors) - 0.5, -0.5))
    left.set_xlabel("latent dimension (its index)")
    left.tick_params(length=0)
    left.grid(False)
    bar = fig.colorbar(image, ax=left, pad=0.01, ticks=[0, 0.05, 0.2, 0.5, 1], aspect=30)
    bar.ax.set_yticklabels(["0", "5", "20", "50", "100"])
    bar.set_label("share of the entropy (%)", fontsize=10)
    right.barh(range(len(factors)), 100 * known, 0.7, fc="#8a8a8a")
    right.set(xlim=(0, 100), xlabel="explained (%)")
    right.tick_params(axis="y", length=0)
    right.grid(True, axis="x")
    return fig


SCORES = {
    "mig": "MIG",
    "sap": "SAP",
    "disentanglement": "DCI: disentanglement",
    "completeness": "DCI: completeness",
    "modality": "D, one modality a latent",
    "informativeness": "DCI: informativeness",
}


@styled
def score_controls(scores: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draw the scores of disentanglement beside those of rotated and of untrained codes.

    Args:
        scores: A mapping a seed: ``trained`` and ``untrained`` -> score -> value, and ``rotated``, a list of
            such.
        title: Instead of the question.

    Raises:
        ValueError: without any seed.
    """
    if not scores:
        raise ValueError("scores must hold a mapping for at least one seed")
    fig = canvas(
        10, 4.4, title or "Are these latents more disentangled than a random rotation of them?",
        "A mark a seed (rotated: a mark a rotation). At the right: means of trained, rotated, untrained. "
        "1 = each latent carries one factor (or the factors of one modality). The last row is no score of "
        "axes, but the forest cuts along axes and loses by a rotation.",
    )  # fmt: skip
    ax = fig.subplots()
    for y, name in enumerate(SCORES):
        kinds = {
            "trained": [each["trained"][name] for each in scores],
            "rotated": [turn[name] for each in scores for turn in each["rotated"]],
            "untrained": [each["untrained"][name] for each in scores],
        }
        marks = ((KINDS[0], INK), (RANDOM, "white"), (KINDS[4], KINDS[4].color))
        for (kind, values), (mark, inside), up in zip(
            kinds.items(), marks, (-0.2, 0, 0.2), strict=True
        ):
            ax.plot(
                values, [y + up] * len(values), ls="none", marker=mark.marker, color=mark.color,
                mfc=inside, ms=7, label=kind if y == 0 else None, clip_on=False,
            )  # fmt: skip
        means = "   ".join(f"{np.mean(values):.3f}" for values in kinds.values())
        ax.annotate(means, (1, y), (10, 0), xycoords=("axes fraction", "data"), fontsize=10,
                    textcoords="offset points", va="center")  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(len(SCORES) - 0.5, -0.5), xlabel="score")
    ax.set_yticks(range(len(SCORES)), SCORES.values())
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=3, frameon=False,
              fontsize=10)  # fmt: skip
    return fig


# A map -------------------------------------------------------------------------------------------


@styled
def latent_map(
    means: Any,
    y: Sequence[int],
    pictures: Mapping[str, Any],
    reach: float,
    title: str | None = None,
) -> Figure:
    """Draw a latent space of two dimensions: where the digits lie, and what is decoded where.

    Args:
        means: Posterior means (N, 2).
        y: Their digits.
        pictures: Script -> pixel means (S * S, H, W), decoded at S x S points of the square from -reach to
            reach, top left first, row by row.
        reach: Half the side of the square, in standard deviations of the prior.
        title: Instead of the question.

    Raises:
        ValueError: unless the means are (N, 2), with a digit each.
    """
    points, digits = np.asarray(means, dtype=float), np.asarray(y, dtype=int)
    if points.ndim != 2 or points.shape[1] != 2 or digits.shape != points.shape[:1]:
        raise ValueError(f"means must be (N, 2) and y (N,), got {points.shape} and {digits.shape}")
    fig = canvas(
        10.6, 4.9, title or "Where do the digits lie, and what is decoded between them?",
        "A latent space of two dimensions. Left: posterior means of held-out samples, each written as its "
        "digit; circles: 1, 2 and 3 standard deviations of the prior. Right: the same square, decoded.",
    )  # fmt: skip
    axes = fig.subplots(1, 1 + len(pictures))
    _cloud(axes[0], points, digits, reach)
    for ax, (name, stack) in zip(axes[1:], pictures.items(), strict=True):
        images = np.asarray(stack, dtype=float)
        side = round(len(images) ** 0.5)
        tiles(ax, images, side)
        ax.set_title(name, color=look(name).color, fontweight="bold")
    return fig


def _cloud(ax: Axes, points: np.ndarray, digits: np.ndarray, reach: float) -> None:
    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, ec="#8a8a8a", lw=1, ls=(0, (4, 2))))
    for digit in np.unique(digits):
        here = points[digits == digit]
        color = CLASSES[digit % len(CLASSES)]
        ax.scatter(here[:, 0], here[:, 1], s=26, marker=f"${digit}$", color=color, lw=0.2, zorder=2)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title="held-out samples")
    ax.set(xlabel="latent 0", ylabel="latent 1")
    ax.grid(False)
