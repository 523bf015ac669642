"""How studies hide modalities from a whole split at random: exact rates, and DiCMoR's rule of batches.

One protocol is drawn once, with a seed, and every method is tested on the same masks. The rates that came out
are stored beside the rates that were asked for: with the batch rule they are not the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.batch import exact_rate

# Missing rate 0.1, 0.2, ... 0.7 -> share of batches with two modalities missing, and with one.
TWO_MISSING = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
ONE_MISSING = (0.1, 0.2, 0.3, 0.2, 0.1, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Masks:
    """What is visible of a split.

    Attributes:
        visible: (n, M) bool, at least one in each row.
        wanted: Missing rate that was asked for.
    """

    visible: Tensor
    wanted: float

    @property
    def rate(self) -> float:
        """Missing rate that came out: the share of slots that are hidden."""
        return 1 - float(self.visible.double().mean())

    @property
    def missing(self) -> Tensor:
        """Rows by the number of modalities that they miss, (M,): 0, 1, ... M - 1."""
        count = (~self.visible).sum(1)
        return torch.bincount(count, minlength=self.visible.shape[1])


def random_missing(n: int, modalities: int, rate: float, seed: int) -> Masks:
    """The random protocol: exactly round(rate n M) slots hidden, at least one kept in each row.

    Raises:
        ValueError: if `rate` is not in [0, (M - 1) / M].
    """
    return Masks(exact_rate(n, modalities, rate, torch.Generator().manual_seed(seed)), rate)


def released_row(rate: float) -> int:
    """Row of the released table that a missing rate takes, by its formula int(10 rate - 1).

    For 0 it is -1, which Python reads as the last row: a missing rate of 0 is tested at 0.7 (defect 8 of
    the specs; users have met it). `batch_rule` computes what the code does, so it does that, too.

    Raises:
        ValueError: unless rate is 0, 0.1, ... 0.7.
    """
    tenth = round(10 * rate)
    if not 0 <= tenth <= 7 or abs(10 * rate - tenth) > 1e-9:
        raise ValueError(f"rate must be 0, 0.1, ... or 0.7 with the released rule, got {rate}")
    return tenth - 1


def batch_rule(n: int, batch_size: int, rate: float, seed: int, shuffled: bool = True) -> Masks:
    """The random protocol as released, for three modalities: a pattern a batch, the worst ones first.

    While fewer than a share a of the batches miss two modalities, the next one does; then b of them miss one;
    the rest is complete. The denominator of both shares is the number of batches rounded to tens. By design
    2 a + b = 3 rate (0.7 is really 2/3).

    Args:
        n: Rows.
        batch_size: Rows of a batch; 4 with MOSI, 16 with MOSEI.
        rate: 0, 0.1, ... 0.7.
        seed: Draws which modalities a batch keeps, and the order of the rows.
        shuffled: Batches are made of rows in random order, as the released loaders do even in tests; else in
            the order of the split, which may be that of the labels.

    Raises:
        ValueError: on another rate, or fewer than one row or row a batch.

    Source:
        github.com/mdswyz/DiCMoR, DICMOR.py:64-73 and 160-169; data_loader.py:150-156.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
    row = released_row(rate)
    batches = -(-n // batch_size)
    tens = max(round(batches, -1), 1)
    two = min(_walked(TWO_MISSING[row], tens), batches)
    one = min(_walked(ONE_MISSING[row], tens), batches - two)
    kept = torch.tensor([1] * two + [2] * one + [3] * (batches - two - one))
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batches, 3, generator=generator).argsort(1)
    visible = (order < kept[:, None]).repeat_interleave(batch_size, 0)[:n]
    if shuffled:
        visible = visible[torch.randperm(n, generator=generator)]
    return Masks(visible, rate)


def _walked(share: float, tens: int) -> int:
    """Batches until count / tens is no longer below the share."""
    count = 0
    while count / tens < share:
        count += 1
    return count
