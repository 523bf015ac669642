"""Counter-based random numbers: draw j of sample i is a function of (seed, split, stream, i, j) alone.

An ordinary generator hands out numbers in order, so sample 7 changes when one asks for more samples
or adds a factor before it. Here every number is *addressed*: a splitmix64-style hash of the address,
computed for all samples at once on the device they are wanted on. Adding a stream never moves
another, and nothing has to be stored to make sample 7 again.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The 64-bit pattern of `value` as the signed integer that torch keeps it in."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


# Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (variant 13).
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch shifts int64 arithmetically, dragging the sign bit along."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """splitmix64's finaliser: every input bit flips every output bit with probability near 1/2."""
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


class Draws:
    """Random numbers of a set of samples, by name.

    Args:
        index: Sample numbers, shape (B,), int64; the device of the numbers is its device.
        address: What the samples belong to, for instance a seed and a split.

    Example:
        >>> a = Draws(torch.arange(5), 0, "train").normal("slant")
        >>> b = Draws(torch.arange(3, 5), 0, "train").normal("slant")
        >>> bool((a[3:] == b).all())
        True
    """

    def __init__(self, index: Tensor, *address: int | str) -> None:
        self.index = index
        self.address = address

    def bits(self, stream: str, *shape: int) -> Tensor:
        """64 random bits a draw, as int64 of shape (B, *shape)."""
        name = "|".join(map(str, (*self.address, stream)))
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        state = _mix(self.index * _GOLDEN + int.from_bytes(digest, "little", signed=True))
        draw = torch.arange(1, math.prod(shape) + 1, device=self.index.device) * _GOLDEN
        return _mix(state[:, None] + draw).view(-1, *shape)

    def uniform(self, stream: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform float32 numbers in the open interval (low, high), shape (B, *shape)."""
        # 23 bits and a half step: exact in float32, and never 0 or 1, where erfinv is infinite.
        unit = (_shift(self.bits(stream, *shape), 41).float() + 0.5) * 2.0**-23
        return low + (high - low) * unit

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal float32 numbers, shape (B, *shape), by the inverse of the distribution."""
        return math.sqrt(2) * torch.erfinv(self.uniform(stream, *shape, low=-1.0))

    def choice(self, stream: str, options: int) -> Tensor:
        """Whole numbers in 0 .. options - 1, shape (B,), int64."""
        return self.bits(stream) % options


def permutation(n: int, *address: int | str) -> Tensor:
    """A random order of 0 .. n - 1 that belongs to this address. Shape (n,), int64."""
    return Draws(torch.arange(n), *address).bits("permutation").argsort()


def balanced_labels(index: Tensor, classes: int, *address: int | str) -> Tensor:
    """Labels with exact balance: each block of `classes` consecutive samples holds every class once.

    Args:
        index: Sample numbers, shape (B,), int64.
        classes: Number of classes.
        address: As for `Draws`.

    Returns:
        Labels, shape (B,), int64.
    """
    order = Draws(index // classes, *address).bits("label", classes).argsort(1)
    return order.gather(1, (index % classes)[:, None])[:, 0]
