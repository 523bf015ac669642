"""Scenes as colours: classes, errors, depth and what a camera saw, as red, green and blue in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# A colour a class, told apart by lightness where the hue is lost; equal names look alike in both data sets.
COLORS = {
    "floor": "#6b5220", "wall": "#b9b9b9", "ceiling": "#e3e3e3", "window": "#56B4E9", "poster": "#CC79A7",
    "canvas": "#E69F00", "red_box": "#D55E00", "blue_box": "#0072B2", "lead_lamp": "#F0E442",
    "lamp": "#009E73", "bed": "#0072B2", "books": "#D55E00", "chair": "#009E73", "furniture": "#E69F00",
    "objects": "#555555", "picture": "#CC79A7", "sofa": "#882255", "table": "#F0E442", "tv": "#1a1a1a",
}  # fmt: skip
RIGHT, WRONG, VOID, HOLE = "#dedede", "#b03a00", "#ffffff", "#E69F00"
NEAR, FAR = 1.0, 8.0  # metres, from white to black


def rgb(color: str) -> np.ndarray:
    """#rrggbb as three numbers in [0, 1]."""
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def colors_of(classes: Sequence[str]) -> list[str]:
    """A colour for each class.

    Raises:
        ValueError: if a class has none.
    """
    unknown = [name for name in classes if name not in COLORS]
    if unknown:
        raise ValueError(f"classes must be among {', '.join(COLORS)}; got {', '.join(unknown)}")
    return [COLORS[name] for name in classes]


def class_image(y: Tensor, classes: Sequence[str]) -> np.ndarray:
    """Classes (..., H, W) as their colours (..., H, W, 3), white where there is none."""
    palette = np.stack([rgb(color) for color in (*colors_of(classes), VOID)])
    return palette[torch.where(y < 0, len(classes), y).cpu().numpy()]


def error_image(said: Tensor, y: Tensor) -> np.ndarray:
    """Grey where a class is right, dark red where it is wrong, white where none is known."""
    wrong = torch.where(y < 0, 2, (said != y).long())
    return np.stack([rgb(color) for color in (RIGHT, WRONG, VOID)])[wrong.cpu().numpy()]


def depth_image(depth: Tensor) -> np.ndarray:
    """Depth (..., H, W) in metres as grey (..., H, W, 3): near is white, far is black; holes are orange."""
    grey = 1 - ((depth - NEAR) / (FAR - NEAR)).clamp(0, 1).cpu().numpy()
    hole = (depth == 0).cpu().numpy()
    return np.where(hole[..., None], rgb(HOLE), grey[..., None].astype(np.float32))


def colour_image(colour: Tensor) -> np.ndarray:
    """Red, green and blue (..., 3, H, W) as (..., H, W, 3), cut to [0, 1]."""
    return colour.movedim(-3, -1).clamp(0, 1).cpu().numpy()
