"""Figures of flows that fill in what is missing: what they can do, and make; see `labkit.figures`."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import NullLocator

from labkit.drawing import HALO, INK, SOFT, canvas, level, right_labels, styled
from labkit.figures_recovering import WAYS_LOOK

MOST_NAMED = 12  # classes in a legend; of more, the first and the last
MARKERS = "o^sDvP"  # of modalities in a plane of classes


@styled
def inverse_depth(
    depths: Sequence[int], errors: Mapping[str, Sequence[float]], title: str | None = None
) -> Figure:
    """Draw how far a row is from itself after a flow forward and back, over the flow's depth.

    Args:
        depths: Steps of the flow.
        errors: "ours" or "released", and "float32" or "float64", such as "ours, float32" -> largest error in
            deviations of the data [depths], as of `reading.inverse_errors`.
        title: Instead of the question.
    """
    fig = canvas(
        8.5, 4.2, title or "How exact is the way back?",
        "Largest |x - inverse(forward(x))| over 200 rows, median over random flows. Dashed: the spacing of "
        "numbers at 1 in float32 (above) and float64 (below).",
    )  # fmt: skip
    ax, ends = fig.subplots(), []
    for name, values in errors.items():
        look = WAYS_LOOK["class prior" if name.startswith("ours") else "half-identity"]
        line = "-" if "64" in name else "--"
        ax.plot(depths, values, color=look.color, marker=look.marker, ls=line, label=name)
        ends.append((float(values[-1]), name, look.color))
    ax.set(xscale="log", yscale="log", xlabel="depth (steps)", ylabel="largest error (deviations)")
    for kind in (np.float32, np.float64):
        level(ax, float(np.finfo(kind).eps))
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.xaxis.set_minor_locator(NullLocator())
    right_labels(ax, ends)
    return fig


@styled
def half_identity(
    x: Any,
    z: Mapping[str, Any],
    lines: Mapping[str, tuple[Any, Mapping[int, Any]]],
    title: str | None = None,
) -> Figure:
    """Draw what coupling without mixing cannot do: one half stays, the other is but stretched and moved.

    Args:
        x: A channel of the half that couplings read, (N,).
        z: Title of a column, such as "without mixing" -> the same channel of the latents, (N,).
        lines: The same titles -> a channel x_b of the other half (K,), while all others are held, and by
            depth the same channel of the latents (K,).
        title: Instead of the question.
    """
    fig = canvas(
        9, 6.4, title or "What can a flow not do that never mixes its channels?",
        "Random flows. Above: one channel of the half that couplings read; grey: z = x. Below: one channel "
        "of the half that they change, all others held; each depth in its own scale, shifted.",
    )  # fmt: skip
    panels = fig.subplots(2, len(z), squeeze=False)
    colors = [WAYS_LOOK[way].color for way in ("half-identity", "class prior")]
    for i, ((above, below), name) in enumerate(zip(panels.T, z, strict=True)):
        color = colors[min(i, 1)]
        above.axline((0, 0), slope=1, color="#b0b0b0", lw=1.2, zorder=1)
        above.plot(x, z[name], "o", color=color, ms=3.5, alpha=0.6)
        above.set(title=name, xlabel="$x_a$", ylabel="$z_a$")
        along, curves = lines[name]
        for up, (depth, values) in enumerate(curves.items()):
            curve = np.asarray(values, dtype=float)
            scaled = (curve - curve.min()) / np.ptp(curve) + 1.3 * up
            below.plot(along, scaled, color=color)
            below.annotate(
                f"depth {depth}", (1, 1.3 * up + 0.5), (4, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", fontsize=10, color=color,
            )  # fmt: skip
        below.set(xlabel="$x_b$, all else held", ylabel="$z_b$ (own scale)", yticks=[])
    return fig


@styled
def marginals(
    true: Any, made: Mapping[str, Any], feature_name: str, title: str | None = None
) -> Figure:
    """Draw the density of one feature, a panel a way: what is filled in over what is true.

    Args:
        true: (N,), in the feature's own units.
        made: Way -> (N,); a way that always says the same is a vertical line.
        feature_name: What x is.
        title: Instead of the question.
    """
    fig = canvas(
        11, 3.2, title or "Does what is filled in vary as the truth does?",
        "Density. Grey: the truth; outline: filled in. Over each: its range from the 10th to the 90th "
        "percentile, as a share of the truth's.",
    )  # fmt: skip
    real = np.asarray(true, dtype=float)
    low, high = np.quantile(real, [0.002, 0.998])
    bins = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 41)
    panels = fig.subplots(1, len(made), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (way, values) in zip(panels, made.items(), strict=True):
        color, guess = WAYS_LOOK[way].color, np.asarray(values, dtype=float)
        share = float(_range(guess) / _range(real))
        ax.hist(real, bins, density=True, color="#d0d0d0")
        if share < 1e-3:
            ax.axvline(float(np.median(guess)), color=color)
        else:
            ax.hist(guess, bins, density=True, histtype="step", color=color, lw=1.8)
        said = way.replace(", ", ",\n") if len(made) > 5 else way
        ax.set_title(f"{said}\n{100 * share:.0f} %", color=color, fontsize=10)
        ax.set_xlabel(textwrap.fill(feature_name, 60 // len(made)), fontsize=10)
    panels[0].set_ylabel("density")
    return fig


def _range(x: np.ndarray) -> Any:
    """From the 10th to the 90th percentile."""
    return np.ptp(np.quantile(x, [0.1, 0.9]))


@styled
def label_swap(
    matrices: Mapping[str, Sequence[Sequence[float]]],
    classes: Sequence[str],
    title: str | None = None,
) -> Figure:
    """Draw how what is filled in is read: a row a true class, a column the class that is read from it.

    Args:
        matrices: Way -> (C, C) in %, as of `reading.swapped`; rows sum to 100.
        classes: The C names.
        title: Instead of the question.
    """
    count, long = len(classes), max(map(len, classes))
    width = max(8, min(11, 0.7 + 2.6 * len(matrices)))
    fig = canvas(
        width, 1.5 + 0.06 * long + (width - 1) / len(matrices), title or "Does a sample keep its class?",
        "Share of each true class in %, by the class read from the filled-in modality alone. "
        f"Over each: mean of the diagonal; chance: {100 / count:.0f} %.",
    )  # fmt: skip
    panels = fig.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for ax, (way, found) in zip(panels, matrices.items(), strict=True):
        matrix = np.asarray(found, dtype=float)
        ax.imshow(matrix, cmap="Blues", vmin=0, vmax=100)
        for i, j in itertools.product(range(count), range(count)) if count <= 8 else ():
            ink = "white" if matrix[i, j] > 55 else INK
            ax.text(j, i, f"{matrix[i, j]:.0f}", ha="center", va="center", fontsize=10, color=ink)
        ax.set_title(f"{way}\n{np.diag(matrix).mean():.1f} % right", color=WAYS_LOOK[way].color)
        shown = range(0, count, -(-count // 8))
        ax.set_xticks(shown, [classes[i] for i in shown], rotation=90 if long > 3 else 0)
        ax.set_yticks(shown, [classes[i] for i in shown])
        ax.tick_params(length=0)
        ax.grid(False)
        ax.set_xlabel("read as")
    panels[0].set_ylabel("true class")
    return fig


@styled
def class_planes(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    modalities: Sequence[str],
    classes: Sequence[str],
    title: str | None = None,
) -> Figure:
    """Draw latents in a plane while the flows learn: a row a way, a column an epoch.

    Args:
        rows: Way -> one an epoch: ``epoch``; ``points`` (M, B, 2); ``y`` (B,), classes from 0; the prior's
            ``means`` (K, 2) and ``covariances`` (K, 2, 2) in that plane, K = 1 or the number of classes.
        modalities: The M names.
        classes: Their names.
        title: Instead of the question.
    """
    fig = canvas(
        11, 1.35 + 1.65 * len(rows), title or "Do the modalities meet, class by class?",
        "Held-out samples: mean latent of each over its steps, in the plane where they vary most at the end. "
        "Colour: class; shape: modality. Ellipses: the prior's Gaussians, one deviation of a step.",
    )  # fmt: skip
    panels = fig.subplots(len(rows), max(map(len, rows.values())), squeeze=False)
    colors = mpl.colormaps["plasma"](np.linspace(0, 0.88, len(classes)))
    for line, (way, planes) in zip(panels, rows.items(), strict=True):
        every = np.concatenate([np.reshape(plane["points"], (-1, 2)) for plane in planes])
        centre, reach = np.median(every, 0), np.quantile(np.abs(every - np.median(every, 0)), 0.995)
        for ax, plane in zip(line, planes, strict=False):
            _plane(ax, plane, colors)
            ax.set(xlim=centre[0] + 1.15 * reach * np.array([-1, 1]), box_aspect=1)
            ax.set(ylim=centre[1] + 1.15 * reach * np.array([-1, 1]))
        for ax in line[len(planes) :]:
            ax.set_visible(False)
        line[0].set_ylabel(way, color=WAYS_LOOK[way].color)
    dot: dict[str, Any] = {"ls": "none", "ms": 7}
    marks = [Line2D([], [], color=SOFT, marker=marker, label=name, **dot)
             for marker, name in zip(MARKERS, modalities, strict=False)]  # fmt: skip
    named = range(len(classes)) if len(classes) <= MOST_NAMED else (0, len(classes) - 1)
    marks += [Line2D([], [], color=colors[k], lw=5, label=classes[k]) for k in named]
    fig.legend(
        handles=marks, loc="outside right center", frameon=False, fontsize=10, handlelength=1
    )
    return fig


def _plane(ax: Axes, plane: Mapping[str, Any], colors: np.ndarray) -> None:
    """One epoch: every modality's samples, and the prior's ellipses over them."""
    for marker, points in zip(MARKERS, plane["points"], strict=False):
        x, y = np.transpose(points)
        ax.scatter(x, y, c=colors[plane["y"]], marker=marker, s=10, lw=0, alpha=0.55)
    for k, (mean, spread) in enumerate(zip(plane["means"], plane["covariances"], strict=True)):
        variance, turn = np.linalg.eigh(spread)  # columns are the axes
        angle = float(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])))
        color = INK if len(plane["means"]) == 1 else colors[k]
        width, height = 2 * np.sqrt(variance)
        ring = Ellipse(
            mean,
            width,
            height,
            angle=angle,
            fill=False,
            ec=color,
            lw=1.8 if len(colors) <= MOST_NAMED else 0.8,
        )
        ax.add_patch(ring).set_path_effects([*HALO])
    said = "before training" if plane["epoch"] == 0 else f"epoch {plane['epoch']}"
    ax.set_title(said, fontsize=10)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
