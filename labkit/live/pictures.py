"""What a lab shows: five kinds of picture as plain records, and how they travel.

A lab's `compute` returns view name -> record. The page draws a record on a canvas, and computes the
same record itself where it can; `labkit.live.still` draws it for pages without JavaScript. Arrays
are NumPy, `uint8` for pixels and classes, `float32` for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Picture = dict[str, Any]


def images(
    pixels: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    alt: str,
    framed: ArrayLike | None = None,
    chosen: tuple[int, int] | None = None,
) -> Picture:
    """A grid of images, grey or in colour.

    Args:
        pixels: (R, C, H, W), grey, or (R, C, H, W, 3), red, green and blue: uint8, or floats in [0, 1], which
            are rounded to 255ths.
        rows: A label a row, or none at all.
        columns: A label a column, or none at all.
        alt: The picture in words.
        framed: (R, C) bool: cells that get a frame (what was visible).
        chosen: Row and column of one cell that gets a frame of another colour.
    """
    grid = np.asarray(pixels)
    if grid.ndim != 4 and not (grid.ndim == 5 and grid.shape[4] == 3):
        raise ValueError(
            f"pixels must be (rows, columns, height, width), got {grid.shape}; colours: a last axis of 3"
        )
    for name, labels, size in (("rows", rows, grid.shape[0]), ("columns", columns, grid.shape[1])):
        if len(labels) not in (0, size):
            raise ValueError(f"{name} must be {size} labels or none, got {len(labels)}")
    grid = grid if grid.dtype == np.uint8 else to_bytes(grid)
    frames = np.zeros(grid.shape[:2], bool) if framed is None else np.asarray(framed, bool)
    if frames.shape != grid.shape[:2]:
        raise ValueError(f"framed must be {grid.shape[:2]}, got {frames.shape}")
    codes = frames.astype(np.uint8)
    if chosen is not None:
        codes[chosen] = 2
    return {
        "kind": "images", "pixels": np.ascontiguousarray(grid), "rows": [*rows],
        "columns": [*columns], "framed": codes, "alt": alt,
    }  # fmt: skip


def to_bytes(pixels: ArrayLike) -> np.ndarray:
    """Values in [0, 1] as 255ths, rounded half up, as the page rounds them."""
    values = np.asarray(pixels, np.float32)
    return np.floor(255 * np.clip(values, 0, 1) + np.float32(0.5)).astype(np.uint8)


def bars(
    names: Sequence[str], values: ArrayLike, alt: str, *,
    high: float = 1.0, colors: Sequence[str] | None = None, marks: ArrayLike | None = None,
    unit: str = "",
) -> Picture:  # fmt: skip
    """Horizontal bars from 0 to `high`; `marks` are ticks across them (a floor, a truth)."""
    lengths = np.asarray(values, np.float32)
    if lengths.shape != (len(names),):
        raise ValueError(f"values must be one for each of {len(names)} names, got {lengths.shape}")
    return {
        "kind": "bars", "names": [*names], "values": lengths, "high": float(high),
        "colors": [*(colors or [])], "unit": unit, "alt": alt,
        "marks": np.asarray([] if marks is None else marks, np.float32),
    }  # fmt: skip


def line(name: str, y: ArrayLike, color: str = "", dash: Sequence[int] = ()) -> dict[str, Any]:
    """One curve of `curves`; no colour = the colour of text."""
    return {"name": name, "y": np.asarray(y, np.float32), "color": color, "dash": [*dash]}


def curves(
    x: ArrayLike, lines: Sequence[dict[str, Any]], xlabel: str, ylabel: str, alt: str, *,
    limits: tuple[float, float] = (0.0, 1.0), log: bool = False, marker: float | None = None,
) -> Picture:  # fmt: skip
    """Curves over one x axis, logarithmic if `log`; `marker` is a vertical line at the state."""
    positions = np.asarray(x, np.float32)
    for each in lines:
        if each["y"].shape != positions.shape:
            raise ValueError(
                f"line {each['name']!r} must have {positions.shape}, got {each['y'].shape}"
            )
    return {
        "kind": "curves", "x": positions, "lines": [*lines], "xlabel": xlabel, "ylabel": ylabel,
        "limits": [float(v) for v in limits], "log": log, "marker": marker, "alt": alt,
    }  # fmt: skip


def ellipse(
    name: str, mean: ArrayLike, sd: ArrayLike, color: str = "", dash: Sequence[int] = ()
) -> dict[str, Any]:
    """One Gaussian of a `plane`, drawn at one standard deviation; mean and sd are (2,)."""
    return {
        "name": name, "mean": np.asarray(mean, np.float32), "sd": np.asarray(sd, np.float32),
        "color": color, "dash": [*dash],
    }  # fmt: skip


def plane(
    alt: str, *, points: ArrayLike = (), classes: ArrayLike = (),
    ellipses: Sequence[dict[str, Any]] = (), samples: ArrayLike = (), path: ArrayLike = (),
    handles: ArrayLike = (), center: ArrayLike = (0.0, 0.0), half: float = 4.0,
    axes: tuple[str, str] = ("z₁", "z₂"),
) -> Picture:  # fmt: skip
    """A square of the latent plane, center ± half.

    Args:
        alt: The picture in words.
        points: (N, 2), drawn as their class's digit colour and shape.
        classes: (N,) in 0..9.
        ellipses: Gaussians; see `ellipse`.
        samples: (K, 2), small dots.
        path: (P, 2), joined by a line.
        handles: (H, 2), what can be dragged.
        center: What lies in the middle, (2,).
        half: Half the width shown.
        axes: What the axes are.
    """
    pairs = {
        name: np.asarray(values, np.float32).reshape(-1, 2)
        for name, values in (("points", points), ("samples", samples), ("path", path),
                             ("handles", handles))
    }  # fmt: skip
    kinds = np.asarray(classes, np.uint8).reshape(-1)
    if len(kinds) != len(pairs["points"]):
        raise ValueError(f"{len(pairs['points'])} points need as many classes, got {len(kinds)}")
    return {
        "kind": "plane", **pairs, "classes": kinds, "ellipses": [*ellipses],
        "center": [float(v) for v in np.asarray(center, np.float32)],
        "half": float(half), "axes": [*axes], "alt": alt,
    }  # fmt: skip


def figures(values: Mapping[str, tuple[float, str]]) -> Picture:
    """Numbers: name -> (value, unit). What a state line must reproduce."""
    rows = [{"name": n, "value": float(v), "unit": unit} for n, (v, unit) in values.items()]
    return {"kind": "figures", "rows": rows, "alt": ""}


# To the page ------------------------------------------------------------------------------------


def encode(value: Any, keep: Callable[[np.ndarray], Picture]) -> Any:
    """Records as JSON: each array becomes {dtype, shape} and what `keep` says of where its bytes are."""
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": [*value.shape], **keep(value)}
    if isinstance(value, Mapping):
        return {key: encode(item, keep) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item, keep) for item in value]
    return value


def inline(value: Any) -> Any:
    """Records for a trait: the bytes stand where the array stood, {dtype, shape, data}."""
    return encode(value, lambda array: {"data": array.tobytes()})


def packed(value: Any) -> tuple[Any, bytes]:
    """Records for a message: all bytes one after the other, and {dtype, shape, at: where they begin}.

    One buffer a message: each one more costs every program on the way a packet of its own.
    """
    data = bytearray()

    def keep(array: np.ndarray) -> Picture:
        at = len(data)
        data.extend(array.tobytes())
        return {"at": at}

    return encode(value, keep), bytes(data)


def metrics(pictures: Mapping[str, Picture]) -> dict[str, float]:
    """The numbers that the pictures of one state show."""
    return {
        row["name"]: row["value"]
        for picture in pictures.values() if picture["kind"] == "figures"
        for row in picture["rows"]
    }  # fmt: skip
