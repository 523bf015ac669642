"""How labkit's figures look: one style, one colour a modality, and the pieces that figures share.

Colours are Okabe and Ito's (readable with any colour vision) and never change their meaning. As all
of them turn into much the same grey, each comes with a marker, a hatch and a line style of its own:
a figure must still be read from a black-and-white print. Figures are built as objects, without
pyplot's global state, so they need no display and nothing is shown twice.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import blended_transform_factory
from PIL import Image
from PIL.PngImagePlugin import PngInfo

INK, SOFT, FAINT = "#222222", "#666666", "#e4e4e4"  # text and totals, remarks, grids

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8a8a8a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 1.2,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "text.color": INK,
    "xtick.color": "#8a8a8a",
    "xtick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.color": "#8a8a8a",
    "ytick.labelcolor": INK,
    "ytick.labelsize": 10,
    "svg.hashsalt": "labkit",  # ids inside an SVG are random otherwise
}


class Look(NamedTuple):
    """How one thing looks in every figure."""

    color: str
    marker: str
    hatch: str = ""
    line: Any = "-"


LOOKS = {
    "farsi": Look("#0072B2", "o", "//", "-"),
    "kannada": Look("#D55E00", "s", "\\\\", "--"),
    "speech": Look("#009E73", "^", "..", "-."),
    "label": Look("#CC79A7", "P", "++", ":"),
    "kl": Look("#E69F00", "D", "xx", ":"),
    "prior": Look("#7f7f7f", "d", "", ":"),
}
# Models: no modality's colour, so that a line is never taken for one.
KINDS = (
    Look(INK, "o", "", "-"),
    Look("#CC79A7", "D", "//", "--"),
    Look("#E69F00", "v", "\\\\", "-."),
    Look("#56B4E9", "P", "..", ":"),
    Look("#7f7f7f", "X", "xx", (0, (5, 1, 1, 1, 1, 1))),
    Look("#8a6d00", "h", "++", (0, (1, 1))),
)

# What the error of each target is, and its unit.
ERRORS = {
    "farsi": ("cross-entropy", "nats"),
    "kannada": ("cross-entropy", "nats"),
    "speech": ("squared error", "squared error"),
    "label": ("cross-entropy", "nats"),
}
HALO = [withStroke(linewidth=3, foreground="white")]  # numbers stay readable over lines

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Make a function draw in labkit's style, whatever the user's settings, which stay as they are."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return in_style


def look(name: str) -> Look:
    """Return how a modality, "label", "kl" or "prior" looks.

    Raises:
        ValueError: on a name without a look of its own.
    """
    if name not in LOOKS:
        raise ValueError(
            f"{name!r} has no colour of its own; known are {', '.join(LOOKS)}. Give it one in "
            f"labkit.drawing.LOOKS: colour, marker, hatch and line style, none of them in use"
        )
    return LOOKS[name]


def kind_looks(kinds: Sequence[str]) -> dict[str, Look]:
    """Give each kind of model a look, in the order given.

    Raises:
        ValueError: if there are more kinds than looks.
    """
    names = list(dict.fromkeys(kinds))
    if len(names) > len(KINDS):
        raise ValueError(f"at most {len(KINDS)} kinds fit one figure, got {len(names)}: {names}")
    return dict(zip(names, KINDS, strict=False))


# A figure and its words --------------------------------------------------------------------------


def canvas(width: float, height: float, title: str, caption: str = "") -> Figure:
    """Start a figure with a title at its head and how to read it at its foot.

    Args:
        width: Inches.
        height: Inches.
        title: What the figure finds or asks.
        caption: What marks and lines mean; wrapped to the width.
    """
    fig = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    fig.suptitle(
        textwrap.fill(title, int(9.2 * width)), x=0.01, ha="left", fontsize=13, fontweight="bold"
    )
    if caption:
        fig.supxlabel(
            textwrap.fill(caption, int(12 * width)), x=0.01, ha="left", fontsize=10, color=SOFT
        )
    return fig


def settle(fig: Figure, dpi: float) -> None:
    """Find the place of everything, once and for good, at the resolution of the picture.

    A figure that still has a layout engine ("none" leaves one, too) is drawn twice for every file.
    """
    fig.set_dpi(dpi)
    engine = fig.get_layout_engine()
    if engine is not None:
        engine.execute(fig)
        fig.set_layout_engine(None)


def png(fig: Figure, dpi: float, alt: str) -> bytes:
    """Pixels in 256 colours of the figure's own: a third of the bytes for what no eye can see.

    A few pixels of an edge are off by up to 10 steps of 255; the words go along with the file.
    """
    buffer, small, words = io.BytesIO(), io.BytesIO(), PngInfo()
    fig.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 0})  # not yet the file
    pixels = Image.open(buffer).convert("RGB")
    words.add_itxt("Description", alt)
    few = pixels.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(small, format="png", optimize=True, pnginfo=words, dpi=(dpi, dpi))
    return small.getvalue()


def embedded(data: bytes, alt: str, width: int) -> str:
    """A PNG as HTML, `width` CSS pixels wide where there is room, with words for who cannot see it."""
    return (
        f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" '
        f'alt="{html.escape(alt)}" width="{width}" style="max-width: 100%; height: auto;">'
    )


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """Move positions apart until neighbours are `gap` apart, as little as possible.

    Args:
        positions: Where labels would like to stand.
        gap: Least distance.
        low: None goes below this.
        high: None goes above this, as far as there is room.

    Returns:
        New positions in the order given; their order from low to high is kept.
    """
    wished = np.asarray(positions, dtype=float)
    order = np.argsort(wished, kind="stable")
    steps = gap * np.arange(len(wished))
    blocks: list[list[float]] = []  # pool adjacent violators: labels that touch share their mean
    for value in wished[order] - steps:
        blocks.append([float(value)])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks])
    moved = np.empty_like(wished)
    moved[order] = np.clip(level, low, max(low, high - steps[-1])) + steps
    return moved


def right_labels(ax: Axes, labels: Sequence[tuple[float, str, str]], gap: float = 0.09) -> None:
    """Write (value, text, colour) at the right edge beside their values, moved apart where they touch.

    Call it when the axis has its final limits.

    Args:
        ax: Where.
        labels: Value on the y axis, text, colour.
        gap: Least distance, as a share of the axis' height.
    """
    ax.autoscale_view()  # else the limits are those before the last curve was added
    to_share = ax.transScale + ax.transLimits  # data -> share of the axis, on any scale
    shares = [float(to_share.transform((1.0, value))[1]) for value, _, _ in labels]
    for y, place, (_, text, color) in zip(
        shares, spread(shares, gap, 0.02, 0.98), labels, strict=True
    ):
        ax.annotate(
            text, (1.0, y), (1.025, place), xycoords="axes fraction", textcoords="axes fraction",
            va="center", ha="left", fontsize=10, color=color, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.8, "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip


def level(ax: Axes, y: float, text: str = "", color: str = SOFT) -> None:
    """Draw a horizontal line of reference, its name above its left end."""
    ax.axhline(y, color=color, lw=1.2, ls=(0, (4, 2)), zorder=1)
    if text:
        ax.annotate(
            text, (0, y), (3, 2), xycoords=blended_transform_factory(ax.transAxes, ax.transData),
            textcoords="offset points", fontsize=10, color=color, va="bottom",
        )  # fmt: skip


def plain_log(ax: Axes, *axes: str) -> None:
    """Make "x" or "y" logarithmic, with 0.1, 1, 10, 1000 written out."""
    for name in axes:
        ax.set(**{f"{name}scale": "log"})
        getattr(ax, f"{name}axis").set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def offsets(n: int, width: float) -> np.ndarray:
    """Return n places side by side in `width` around 0: the seeds of one point."""
    return np.linspace(-width / 2, width / 2, n) if n > 1 else np.zeros(n)


def rows_of(values: Any) -> np.ndarray:
    """Return a curve (A,) or several seeds' curves (N, A) as (N, A), float64."""
    return np.atleast_2d(np.asarray(values, dtype=float))


# Subsets of modalities ---------------------------------------------------------------------------


def modalities_of(subsets: Sequence[str]) -> list[str]:
    """Names of the modalities that occur in subsets such as "farsi+speech", in order."""
    return list(dict.fromkeys(name for subset in subsets for name in subset.split("+")))


def over_subsets(
    fig: Figure, rows: int, columns: int, subsets: Sequence[str], row_inches: float
) -> list[list[Axes]]:
    """Make a grid of panels whose x axis is the visible subset, a dot matrix below each column.

    Args:
        fig: An empty figure.
        rows: Panels above each other.
        columns: Panels beside each other.
        subsets: Names such as "farsi+speech".
        row_inches: Height of a panel.

    Returns:
        The panels, rows of columns.
    """
    matrix = 0.3 * len(modalities_of(subsets)) + 0.1
    grid = GridSpec(
        rows + 1, columns, figure=fig, height_ratios=[row_inches] * rows + [matrix], hspace=0.02
    )
    panels = [[fig.add_subplot(grid[i, j]) for j in range(columns)] for i in range(rows)]
    for j in range(columns):
        subset_axis(fig.add_subplot(grid[rows, j]), subsets, named=j == 0)
    for ax in (ax for row in panels for ax in row):
        ax.set_xlim(-0.6, len(subsets) - 0.4)
        ax.set_xticks([])
        _groups(ax, subsets)
    return panels


def subset_axis(ax: Axes, subsets: Sequence[str], named: bool = True) -> None:
    """Turn an axes into the dot matrix of visible subsets: the lab's category axis.

    One column a subset, one row a modality: a filled mark of the modality's colour and shape is
    visible, a hollow grey one missing; a bar ties what is seen together.

    Args:
        ax: Axes below the plot, with its width.
        subsets: Names such as "farsi+speech".
        named: Write the modalities' names at the left.
    """
    names = modalities_of(subsets)
    for x, subset in enumerate(subsets):
        seen = [row for row, name in enumerate(names) if name in subset.split("+")]
        ax.plot([x, x], [min(seen), max(seen)], color="#8a8a8a", lw=2, zorder=1)
    for row, name in enumerate(names):
        seen = [x for x, subset in enumerate(subsets) if name in subset.split("+")]
        missing = [x for x in range(len(subsets)) if x not in seen]
        shape: dict[str, Any] = {"marker": look(name).marker, "ls": "none", "ms": 9, "zorder": 2}
        ax.plot(missing, [row] * len(missing), mfc="white", mec="#b0b0b0", **shape)
        ax.plot(seen, [row] * len(seen), color=look(name).color, label=name, **shape)
    ax.set(xlim=(-0.6, len(subsets) - 0.4), ylim=(len(names) - 0.4, -0.6), xticks=[])
    ax.set_yticks(range(len(names)), names if named else [""] * len(names))
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set(color=look(name).color, fontweight="bold")
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("visible modalities", fontsize=10)
    _groups(ax, subsets)


def _groups(ax: Axes, subsets: Sequence[str]) -> None:
    """Part singles, pairs and so on by a thin line."""
    sizes = [subset.count("+") for subset in subsets]
    for x in range(1, len(sizes)):
        if sizes[x] != sizes[x - 1]:
            ax.axvline(x - 0.5, color=FAINT, lw=1.2, zorder=0)


def pick(table: Mapping[str, Any], name: str, argument: str) -> Any:
    """Return table[name].

    Raises:
        ValueError: if there is none; the message names the argument and what it has.
    """
    if name not in table:
        raise ValueError(
            f"{argument} has no {name!r}; it has {', '.join(map(str, table)) or 'nothing'}"
        )
    return table[name]
