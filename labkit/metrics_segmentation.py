"""Scores of pixel labels: confusion matrix, intersection over union, pixel accuracy.

A confusion matrix has a row for each true class and a column for each predicted one. Matrices of batches add
up to the matrix of the whole, and every score is a function of it; leading axes are batch axes. Pixels
without a class, whose label is negative, count nowhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Absent = Literal["zero", "skip"]


def confusion(predicted: Tensor, y: Tensor, classes: int, per_image: bool = False) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        predicted: Classes, shape (..., B, H, W), int64 in 0..classes-1 wherever y has a class. Logits
            (..., B, C, H, W) become classes by `argmax(-3)`.
        y: True classes, shape (B, H, W), int64; negative = none.
        classes: C.
        per_image: One matrix an image instead of one for all.

    Returns:
        Shape (..., C, C), or (..., B, C, C), int64, on the device of `y`.

    Raises:
        ValueError: if shapes or types disagree, or a class is not below `classes`.
    """
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    if y.ndim != 3 or predicted.ndim < 3 or predicted.shape[-3:] != y.shape:
        raise ValueError(
            f"y must be (B, H, W) and predicted (..., B, H, W); got {tuple(y.shape)} and "
            f"{tuple(predicted.shape)}"
        )
    if y.dtype != torch.int64 or predicted.dtype != torch.int64:
        raise ValueError(f"classes must be int64, got {predicted.dtype} and {y.dtype}")
    lead, images = predicted.shape[:-3], len(y)
    known = (y >= 0).expand_as(predicted)
    wrong = known & ((predicted < 0) | (predicted >= classes) | (y >= classes))
    if bool(wrong.any()):
        raise ValueError(
            f"classes must lie in 0..{classes - 1} (y: or below 0); {int(wrong.sum())} pixels do not"
        )
    groups = lead.numel() * (images if per_image else 1)
    group = torch.arange(groups, device=y.device).view(*lead, images if per_image else 1, 1, 1)
    cell = (group * classes + y) * classes + predicted
    counts = torch.bincount(cell[known], minlength=groups * classes * classes)
    return counts.view(*lead, *((images,) if per_image else ()), classes, classes)


def iou(matrix: Tensor, absent: Absent = "zero") -> Tensor:
    """Intersection over union of each class: correct pixels / pixels that are or are called so.

    Args:
        matrix: Confusion matrix (..., C, C).
        absent: What a class gets that is nowhere, neither true nor predicted: "zero", as DynMM's and ESANet's
            code has it (diagonal / (row + column - diagonal + 1e-15)), or "skip": NaN.

    Returns:
        (..., C), float64, in [0, 1].

    Raises:
        ValueError: on another policy, or a matrix that is not square.
    """
    if absent not in ("zero", "skip"):
        raise ValueError(f"absent must be 'zero' or 'skip', got {absent!r}")
    count = _square(matrix)
    correct = count.diagonal(dim1=-2, dim2=-1)
    union = count.sum(-1) + count.sum(-2) - correct
    nothing = 0.0 if absent == "zero" else torch.nan
    return torch.where(union > 0, correct / union, nothing)


def mean_iou(matrix: Tensor, absent: Absent = "zero") -> Tensor:
    """Mean of `iou` over the classes: over all C with absent="zero", over those present with "skip".

    Returns:
        (...), float64; NaN if "skip" leaves no class.
    """
    return iou(matrix, absent).nanmean(-1)


def pixel_accuracy(matrix: Tensor) -> Tensor:
    """Share of the pixels with a class that are called by it; NaN if there is none. (...), float64."""
    count = _square(matrix)
    return count.diagonal(dim1=-2, dim2=-1).sum(-1) / count.sum((-2, -1))


def _square(matrix: Tensor) -> Tensor:
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix must be (..., C, C), got {tuple(matrix.shape)}")
    return matrix.double()
