"""Figures of record: what a missing modality costs. Arrays and frames in, a matplotlib Figure out.

Each figure asks its question in the title (`title=` states a finding instead), shows every seed
beside the mean, train beside held-out and the floor beside every score, and says at its foot how to
read it. `show` stores a figure and displays it. The look is `labkit.drawing`'s; what goes on inside
a model is drawn in `labkit.figures_inside`, whose functions are found here too.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from labkit import ledger
from labkit.batch import Batch
from labkit.drawing import canvas, embedded, look, pick, png, settle, styled
from labkit.figures_channels import band_bars as band_bars
from labkit.figures_channels import distance_ablation as distance_ablation
from labkit.figures_channels import heard_and_seen as heard_and_seen
from labkit.figures_channels import lesson_dots as lesson_dots
from labkit.figures_channels import permutation_error as permutation_error
from labkit.figures_channels import ratio_curves as ratio_curves
from labkit.figures_channels import saliency_tails as saliency_tails
from labkit.figures_channels import surgery as surgery
from labkit.figures_channels import table_of_students as table_of_students
from labkit.figures_channels import what_scores_rank as what_scores_rank
from labkit.figures_choosing import bill_bars as bill_bars
from labkit.figures_choosing import gain_by_share as gain_by_share
from labkit.figures_choosing import pareto as pareto
from labkit.figures_choosing import shares_by_weight as shares_by_weight
from labkit.figures_exchanging import bench_board as bench_board
from labkit.figures_exchanging import blending_windows as blending_windows
from labkit.figures_exchanging import exchange_bars as exchange_bars
from labkit.figures_exchanging import exchange_learning as exchange_learning
from labkit.figures_exchanging import exchange_sheet as exchange_sheet
from labkit.figures_exchanging import misa_clouds as misa_clouds
from labkit.figures_exchanging import read_cells as read_cells
from labkit.figures_exchanging import synergy_curves as synergy_curves
from labkit.figures_factors import factor_matrix as factor_matrix
from labkit.figures_factors import latent_map as latent_map
from labkit.figures_factors import score_controls as score_controls
from labkit.figures_flows import class_planes as class_planes
from labkit.figures_flows import half_identity as half_identity
from labkit.figures_flows import inverse_depth as inverse_depth
from labkit.figures_flows import label_swap as label_swap
from labkit.figures_flows import marginals as marginals
from labkit.figures_focusing import ceilings as ceilings
from labkit.figures_focusing import focus_curves as focus_curves
from labkit.figures_focusing import general_teachers as general_teachers
from labkit.figures_focusing import loss_knobs as loss_knobs
from labkit.figures_focusing import teachers_map as teachers_map
from labkit.figures_focusing import two_scripts as two_scripts
from labkit.figures_focusing import weight_profiles as weight_profiles
from labkit.figures_fusing import annealing as annealing
from labkit.figures_fusing import closable_curves as closable_curves
from labkit.figures_fusing import depth_pareto as depth_pareto
from labkit.figures_fusing import noise_curves as noise_curves
from labkit.figures_fusing import scene_paths as scene_paths
from labkit.figures_inside import evidence_curve as evidence_curve  # one namespace for notebooks
from labkit.figures_inside import flip_rates as flip_rates
from labkit.figures_inside import learning_curves as learning_curves
from labkit.figures_inside import precision_bars as precision_bars
from labkit.figures_inside import waterfall as waterfall
from labkit.figures_latent import flip_panels as flip_panels
from labkit.figures_latent import judges_agreement as judges_agreement
from labkit.figures_latent import push_effects as push_effects
from labkit.figures_latent import sweep_grid as sweep_grid
from labkit.figures_missing import accuracy_by_subset as accuracy_by_subset
from labkit.figures_missing import errors_by_subset as errors_by_subset
from labkit.figures_missing import reliability_diagram as reliability_diagram
from labkit.figures_missing import style_transfer as style_transfer
from labkit.figures_missing import trade_off as trade_off
from labkit.figures_recovering import gap_plane as gap_plane
from labkit.figures_recovering import missing_rate_curves as missing_rate_curves
from labkit.figures_recovering import noise_dial as noise_dial
from labkit.figures_recovering import subset_bars as subset_bars
from labkit.figures_scenes import scene_sheet as scene_sheet
from labkit.figures_shootout import shootout_front as shootout_front
from labkit.figures_shootout import shootout_table as shootout_table
from labkit.figures_walks import noise_sheet as noise_sheet
from labkit.figures_walks import path_curves as path_curves
from labkit.figures_walks import path_strips as path_strips
from labkit.figures_walks import temperature_curves as temperature_curves
from labkit.files import write_atomic

DPI = 144

# Showing and storing -----------------------------------------------------------------------------


class Picture:
    """A stored figure, ready to be the last line of a cell.

    Attributes:
        png: The picture.
        alt: The same in words, for those who cannot see it.
        width: Width on the page in CSS pixels, 96 an inch: 10 points are 10 points, and a screen
            with fine pixels gets the finer picture.
        path: Where the PNG was stored; the SVG stands beside it.
    """

    def __init__(self, png: bytes, alt: str, width: int, path: Path) -> None:
        self.png, self.alt, self.width, self.path = png, alt, width, path

    def __repr__(self) -> str:
        return f"Figure {self.path.name}: {self.alt}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """HTML alone: a bare image/png would lose its words in JupyterLab, and both be twice the file."""
        return {"text/plain": repr(self), "text/html": embedded(self.png, self.alt, self.width)}


@styled
def show(fig: Figure, name: str, alt: str) -> Picture:
    """Store a figure as PNG and SVG under `ledger.figures_dir()`/<notebook>, and return it for display.

    Files are called <name>.<preset>.<source>.png and .svg, after the open ledger session. The same
    figure gives the same bytes: no date, no version, no random id.

    Args:
        fig: The figure.
        name: Lower-case letters, digits, - and _.
        alt: One or two sentences that tell what the figure shows to somebody who cannot see it.

    Raises:
        ValueError: if the name would not do as a file name, or alt says nothing.
        LabkitError: if no ledger session is open.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(f"name must be lower-case letters, digits, - and _, got {name!r}")
    if len(alt.split()) < 3:
        raise ValueError(f"alt must tell in a sentence what the figure shows, got {alt!r}")
    run = ledger.current().provenance
    folder = ledger.figures_dir() / run["notebook"]
    stem = f"{name}.{run['preset']}.{run['source']}"
    settle(fig, DPI)
    files = {"png": png(fig, DPI, alt), "svg": _svg(fig, name, alt)}
    for kind, content in files.items():
        write_atomic(folder / f"{stem}.{kind}", content)
    width = round(96 * fig.get_figwidth())
    return Picture(files["png"], alt, width, folder / f"{stem}.png")


def _svg(fig: Figure, name: str, alt: str) -> bytes:
    """Lines and letters as outlines: the same in every program, whatever fonts it has."""
    buffer = io.BytesIO()
    about = {"Date": None, "Creator": None, "Title": name, "Description": alt}
    fig.savefig(buffer, format="svg", metadata=about)
    return buffer.getvalue()


# The data ----------------------------------------------------------------------------------------


@styled
def digits_sheet(batch: Batch, per_class: int = 4, title: str | None = None) -> Figure:
    """Draw some samples of each class: images as they are, vectors as curves with their class mean.

    Args:
        batch: Labelled samples: modalities (B, H, W), white ink on black, or (B, F).
        per_class: Samples of each class, the first ones.
        title: Instead of the question.

    Raises:
        ValueError: without labels, or if a class has fewer samples.
    """
    if batch.y is None:
        raise ValueError("digits_sheet needs labels to sort the samples by: batch.y is None")
    y = batch.y.cpu().numpy()
    rows = {int(c): np.flatnonzero(y == c) for c in np.unique(y)}
    if few := [c for c, found in rows.items() if len(found) < per_class]:
        raise ValueError(
            f"per_class={per_class}, but classes {few} have fewer samples in the batch"
        )
    fig = canvas(
        10, 0.8 + 1.02 * len(batch.x), title or "What does each modality show of the same digit?",
        f"The same {per_class} samples of each digit in every modality. Images: white ink on black. "
        "Curves: a line a sample; pale: mean over all samples of the digit in this batch.",
    )  # fmt: skip
    panels = fig.subplots(len(batch.x), len(rows), squeeze=False)
    for (name, values), line in zip(batch.x.items(), panels, strict=True):
        x = values.detach().cpu().numpy()
        for (digit, found), ax in zip(rows.items(), line, strict=True):
            if x.ndim == 3:
                _tile(ax, x[found[:per_class]])
            else:
                _curves(ax, x[found], per_class, look(name).color, (float(x.min()), float(x.max())))
            if line[0] is panels[0, 0]:
                ax.set_title(str(digit), fontsize=12, fontweight="bold", loc="center")
        line[0].set_ylabel(name, color=look(name).color, fontweight="bold")
    return fig


def _tile(ax: Axes, images: np.ndarray) -> None:
    """Images (N, H, W) as one square of squares."""
    side = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1] + 2, images.shape[2] + 2
    sheet = np.full((side * height, side * width), np.nan)
    for i, image in enumerate(images):
        top, left = i // side * height, i % side * width
        sheet[top : top + height - 2, left : left + width - 2] = image
    ax.imshow(sheet[:-2, :-2], vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)


def _curves(ax: Axes, x: np.ndarray, shown: int, color: str, limits: tuple[float, float]) -> None:
    place = np.arange(1, x.shape[1] + 1)
    ax.plot(place, x.mean(0), color=color, lw=5, alpha=0.3, solid_capstyle="round")
    ax.plot(place, x[:shown].T, color=color, lw=0.9)
    first = ax.get_subplotspec().is_first_col()  # type: ignore[union-attr]
    ax.set(ylim=limits, xticks=[1, x.shape[1]], yticks=[0, 1] if first else [])
    ax.set_xlabel("coefficient" if first else "", fontsize=10)
    ax.set_box_aspect(1)


# What a model makes of what it sees --------------------------------------------------------------


@styled
def cross_generation(
    originals: Mapping[str, Any],
    reconstructions: Mapping[str, Any],
    visible: Any,
    names: Sequence[str],
    labels: Sequence[Any] = range(10),
    title: str | None = None,
) -> Figure:
    """Rebuild the poster's Figure 2: what is decoded from every set of visible modalities.

    Args:
        originals: Modality -> samples (C, H, W), white ink on black, or (C, F); all scaled to [0, 1].
        reconstructions: Modality -> (S, C, ...), decoded means.
        visible: (S, M) bool, True = the modality was seen.
        names: The M modalities, in the order of `visible`.
        labels: Name of each of the C samples.
        title: Instead of the question.

    Raises:
        ValueError: if a shape does not fit the others.
    """
    seen = np.asarray(visible, dtype=bool)
    true = {name: np.asarray(pick(originals, name, "originals"), dtype=float) for name in names}
    made = {name: np.asarray(pick(reconstructions, name, "reconstructions")) for name in names}
    count = len(labels)
    for name in names:
        if made[name].shape != (wanted := (len(seen), count, *true[name].shape[1:])):
            raise ValueError(f"reconstructions[{name!r}] must be {wanted}, got {made[name].shape}")
    cell, left, top, bottom, gap = 0.35, 1.4, 0.84, 0.62, 0.16
    widths = [cell * count * (1.0 if true[name].ndim == 3 else 0.5) for name in names]
    height = cell * (len(seen) + 1) + gap
    total = left + sum(widths) + gap * len(names)
    fig = canvas(
        total, top + height + bottom, title or "What can be drawn of what was not seen?",
        "Framed in its colour: the modality was visible. Without a frame: it was missing, and is "
        "guessed from the others. Vectors: one strip a digit, first coefficient on top; black 0, "
        "white 1.",
    )  # fmt: skip
    fig.set_layout_engine("none")  # square cells in line with each other: placed by hand
    page, start = fig.get_figheight(), left
    rows = [0.0, *(i + 1 + gap / cell for i in range(len(seen)))]
    _visible_rows(
        fig.add_axes((0, bottom / page, left / total, height / page)),
        seen,
        names,
        rows,
        height / cell,
    )
    for m, (name, width) in enumerate(zip(names, widths, strict=True)):
        ax = fig.add_axes((start / total, bottom / page, width / total, height / page))
        for row, (y, sample) in enumerate(zip(rows, [true[name], *made[name]], strict=True)):
            _strip(ax, sample, y)
            if row and seen[row - 1, m]:
                frame = Rectangle((0, y), count, 1, fill=False, ec=look(name).color, lw=2.4)
                ax.add_patch(frame).set(clip_on=False, zorder=3)
        ax.set(xlim=(0, count), ylim=(height / cell, 0), yticks=[])
        ax.set_xticks(np.arange(count) + 0.5, [str(label) for label in labels])
        ax.xaxis.tick_top()
        ax.tick_params(length=0, pad=1)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        mark = {"o": "● ", "s": "■ ", "^": "▲ "}.get(
            look(name).marker, ""
        )  # names the columns at left
        ax.set_title(mark + name, color=look(name).color, fontweight="bold", pad=4)
        start += width + gap
    return fig


def _visible_rows(
    ax: Axes, seen: np.ndarray, names: Sequence[str], rows: Sequence[float], height: float
) -> None:
    """The dot matrix of visible subsets lying on its side, beside the rows it belongs to."""
    ax.set(xlim=(-1.2, len(names) + 0.15), ylim=(height, 0))
    ax.axis("off")
    ax.text(len(names) - 0.45, rows[0] + 0.5, "originals", va="center", ha="right", fontsize=10)
    for y, subset in zip(rows[1:], seen, strict=True):
        shown = np.flatnonzero(subset)
        ax.plot([shown.min(), shown.max()], [y + 0.5] * 2, color="#8a8a8a", lw=2, zorder=1)
        for m, name in enumerate(names):
            color = look(name).color if subset[m] else "#b0b0b0"
            ax.plot(
                m, y + 0.5, look(name).marker, ms=9, color=color,
                mfc=color if subset[m] else "white",
            )  # fmt: skip
    ax.text(
        -0.55, (rows[1] + height) / 2, "visible", rotation=90, va="center", ha="right", fontsize=10
    )


def _strip(ax: Axes, sample: np.ndarray, y: float) -> None:
    """One row of cells, images (C, H, W) side by side or vectors (C, F) as strips, from y to y + 1."""
    tall = sample if sample.ndim == 3 else np.repeat(sample[:, :, None], 5, 2)
    count, height, width = tall.shape
    framed = np.full((count, height, width + max(1, width // 9)), np.nan)
    side = (framed.shape[2] - width) // 2
    framed[:, :, side : side + width] = tall
    sheet = framed.swapaxes(0, 1).reshape(height, -1)
    ax.imshow(sheet, vmin=0, vmax=1, extent=(0, count, y + 0.95, y + 0.05), aspect="auto")
