"""How far two sets of vectors lie apart, as distributions, one by one, and up to a turn.

Source:
    Rabin, Peyre, Delon & Bernot, "Wasserstein Barycenter and its Application to Texture Mixing", SSVM 2011
    (sliced Wasserstein distance). Kornblith, Norouzi, Lee & Hinton, "Similarity of Neural Network
    Representations Revisited", ICML 2019 (linear CKA).
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


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear centred kernel alignment of two networks' codes of the same samples, 0 to 1.

    .. math:: \frac{\|Y^T X\|_F^2}{\|X^T X\|_F \, \|Y^T Y\|_F}, \qquad \text{columns centred}

    It is 1 for codes that differ by a rotation and a factor, and 0 if no direction of the one goes with any
    of the other. With few samples it is far above 0 for codes that have nothing to do with each other.

    Args:
        x: (N, D).
        y: (N, E).

    Returns:
        A number; 0 if one of the two is constant.

    Raises:
        ValueError: if they are not two sets of as many vectors.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise ValueError(
            f"x and y must be (N, D) and (N, E), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    x, y = (each.double() - each.double().mean(0) for each in (x, y))
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return torch.where(scale > 0, (y.T @ x).square().sum() / scale.clamp(min=1e-300), 0.0)
