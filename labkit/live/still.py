"""The still of a lab: its pictures drawn with matplotlib, for pages where no script runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, Rectangle

from labkit.drawing import INK, SOFT, canvas, png, settle, styled
from labkit.live.pictures import Picture

# Ten classes: Okabe and Ito's colours and two greys; the digit itself stands beside the colour.
CLASSES = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8a6d00",
    "#56B4E9", "#7f7f7f", "#E69F00", "#444444", "#882255",
)  # fmt: skip

MOST = 4  # pictures on a line


@styled
def still(pictures: Mapping[str, Picture], title: str, caption: str = "") -> bytes:
    """The pictures side by side, as a PNG of at most 960 pixels of width."""
    shown = {name: p for name, p in pictures.items() if p["kind"] in _DRAW}
    lines = _lines([*shown.values()])
    high = 3.9 if len(lines) == 1 else 1.2 + 2.3 * len(lines)
    most = 3 if any(_coloured(p) for p in shown.values()) else 2
    fig = canvas(9.6, high, title, "   ".join([caption, *_numbers(pictures)]).strip())
    rows = fig.add_gridspec(len(lines), 1)
    for i, line in enumerate(lines):
        ratios = [p["pixels"].shape[1] / p["pixels"].shape[0] if p["kind"] == "images" else 1.0
                  for p in line]  # fmt: skip
        grid = rows[i].subgridspec(
            1, max(1, len(line)), width_ratios=np.clip(ratios, 0.5, most).tolist() or None
        )
        for place, picture in enumerate(line):
            _DRAW[picture["kind"]](fig.add_subplot(grid[place]), picture)
    settle(fig, 100)
    return png(fig, 100, title)


def _lines(shown: list[Picture]) -> list[list[Picture]]:
    """Up to `MOST` side by side; and each row of scenes in colour, which are wide, begins a line."""
    lines: list[list[Picture]] = [[]]
    for picture in shown:
        if lines[-1] and _coloured(picture):
            lines.append([])
        lines[-1].append(picture)
    sizes = [math.ceil(len(line) / math.ceil(len(line) / MOST)) if line else 1 for line in lines]
    return [
        line[i : i + n]
        for line, n in zip(lines, sizes, strict=True)
        for i in range(0, len(line) or 1, n)
    ]


def _coloured(picture: Picture) -> bool:
    return picture["kind"] == "images" and picture["pixels"].ndim == 5


def _numbers(pictures: Mapping[str, Picture]) -> list[str]:
    rows = [row for p in pictures.values() if p["kind"] == "figures" for row in p["rows"]]
    return [f"{row['name']}: {row['value']:.4g} {row['unit']}".rstrip() + ";" for row in rows]


def _images(ax: Axes, picture: Picture) -> None:
    pixels = picture["pixels"]
    rows, columns, height, width = pixels.shape[:4]
    size = (rows * (height + 2), columns * (width + 2), *pixels.shape[4:])
    sheet = np.full(size, 255, np.uint8)
    for r in range(rows):
        for c in range(columns):
            top, left = r * (height + 2) + 1, c * (width + 2) + 1
            sheet[top : top + height, left : left + width] = pixels[r, c]
            if picture["framed"][r, c]:
                color = ("#E69F00", "#0072B2")[picture["framed"][r, c] - 1]
                ax.add_patch(Rectangle((left - 1.5, top - 1.5), width + 2, height + 2, fill=False,
                                       edgecolor=color, linewidth=2))  # fmt: skip
    ax.imshow(sheet, cmap="gray", vmin=0, vmax=255)
    ax.set_xticks([(c + 0.5) * (width + 2) for c in range(columns)][: len(picture["columns"])],
                  picture["columns"])  # fmt: skip
    ax.set_yticks([(r + 0.5) * (height + 2) for r in range(rows)][: len(picture["rows"])],
                  picture["rows"])  # fmt: skip
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _bars(ax: Axes, picture: Picture) -> None:
    places = np.arange(len(picture["names"]))
    ax.barh(places, picture["values"], color=picture["colors"] or INK, height=0.7)
    for place, mark in zip(places, picture["marks"], strict=False):
        ax.plot([mark, mark], [place - 0.4, place + 0.4], color=SOFT, linewidth=2)
    ax.set_yticks(places, picture["names"])
    ax.set_xlim(0, picture["high"])
    ax.set_xlabel(picture["unit"])
    ax.invert_yaxis()
    ax.grid(visible=False)


def _curves(ax: Axes, picture: Picture) -> None:
    for each in picture["lines"]:
        dash = (0, tuple(each["dash"])) if each["dash"] else "-"
        ax.plot(picture["x"], each["y"], color=each["color"] or INK, linestyle=dash,
                label=each["name"])  # fmt: skip
    if picture["marker"] is not None:
        ax.axvline(picture["marker"], color=SOFT, linewidth=1)
    if picture["log"]:
        ax.set_xscale("log")
    ax.set_xlim(picture["x"][0], picture["x"][-1])  # a line may end before: NaN
    ax.set_ylim(picture["limits"])
    ax.set_xlabel(picture["xlabel"])
    ax.set_ylabel(picture["ylabel"])
    ax.legend(frameon=False, fontsize=9)


def _plane(ax: Axes, picture: Picture) -> None:
    points, classes = picture["points"], picture["classes"]
    for c in np.unique(classes):
        chosen = points[classes == c]
        ax.scatter(chosen[:, 0], chosen[:, 1], s=6, color=CLASSES[c % 10], alpha=0.5, linewidths=0)
        x, y = np.median(chosen, axis=0)
        ax.text(x, y, str(c), ha="center", va="center", fontweight="bold", clip_on=True)
    samples, handles = picture["samples"], picture["handles"]
    ax.scatter(samples[:, 0], samples[:, 1], s=4, color=INK, alpha=0.4, linewidths=0)
    ax.plot(*picture["path"].T, color=INK)
    for each in picture["ellipses"]:
        dash = (0, tuple(each["dash"])) if each["dash"] else "-"
        ax.add_patch(Ellipse(each["mean"], *(2 * each["sd"]), fill=False, linestyle=dash,
                             edgecolor=each["color"] or INK, linewidth=2))  # fmt: skip
    ax.scatter(handles[:, 0], handles[:, 1], s=60, facecolor="white", edgecolor=INK, zorder=5)
    half, (left, low) = picture["half"], picture["center"]
    ax.set(xlim=(left - half, left + half), ylim=(low - half, low + half), aspect="equal")
    ax.set_xlabel(picture["axes"][0])
    ax.set_ylabel(picture["axes"][1])
    ax.grid(visible=False)


_DRAW: dict[str, Callable[[Axes, Picture], Any]] = {
    "images": _images, "bars": _bars, "curves": _curves, "plane": _plane,
}  # fmt: skip
