"""How far what was recovered lies from what is true, as a distribution and one by one.

Source:
    Rabin, Peyre, Delon & Bernot, "Wasserstein Barycenter and its Application to Texture Mixing", SSVM 2011
    (sliced Wasserstein distance).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 64, seed: int = 0) -> Tensor:
    r"""Mean over random directions u of the Wasserstein-1 distance between the projections of x and y.

    .. math:: \frac1K \sum_k \frac1N \sum_i |(x u_k)_{(i)} - (y u_k)_{(i)}|

    with (i) the i-th in order. It is 0 for equal sets in any order, and |c u|, averaged, for x and x + c.

    Args:
        x: (N, D).
        y: (N, D).
        directions: K.
        seed: Of the directions, which lie evenly on the sphere.

    Returns:
        A number, in the units of x.

    Raises:
        ValueError: if the shapes differ, or a number is not finite.
    """
    if x.ndim != 2 or x.shape != y.shape or not len(x):
        raise ValueError(f"x and y must both be (N, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x and y must be finite")
    u = rays(x.shape[1], directions, seed).to(x)
    return ((x @ u.T).sort(0).values - (y @ u.T).sort(0).values).abs().mean()


def rays(width: int, directions: int, seed: int = 0) -> Tensor:
    """Random directions, (K, D), each of length 1."""
    drawn = torch.randn(directions, width, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=1)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean cosine between rows of x and y, (..., D) each, after both lost the mean of y: 1 = same instances.

    Raises:
        ValueError: if the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = x.flatten(0, -2), y.flatten(0, -2)
    return F.cosine_similarity(x - y.mean(0), y - y.mean(0), dim=-1).mean()
