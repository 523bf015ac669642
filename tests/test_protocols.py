"""Masks of whole splits: the released rule's realised rates are known, the others are exact."""

from __future__ import annotations

import pytest
import torch

from labkit.protocols import (
    ONE_MISSING,
    TWO_MISSING,
    Masks,
    batch_rule,
    random_missing,
    released_row,
)


@pytest.mark.parametrize(
    ("n", "rate", "realised"),
    [
        (686, 0.1, 0.0988), (686, 0.5, 0.494), (686, 0.7, 0.659),  # MOSI's test split, batches of 4
        (229, 0.1, 0.103), (229, 0.4, 0.414), (229, 0.6, 0.621),  # its validation split
    ],
)  # fmt: skip
def test_the_released_rule_misses_its_rates_as_the_released_code_does(
    n: int, rate: float, realised: float
) -> None:
    batches = -(-n // 4)
    masks = batch_rule(4 * batches, 4, rate, 0)  # whole batches, as those figures count
    assert masks.rate == pytest.approx(realised, abs=5e-4)
    assert len(batch_rule(n, 4, rate, 0).visible) == n


def test_a_missing_rate_of_0_is_tested_at_two_thirds() -> None:
    assert released_row(0.0) == -1
    assert batch_rule(688, 4, 0.0, 0).rate == pytest.approx(0.659, abs=1e-3)
    assert random_missing(688, 3, 0.0, 0).rate == 0


def test_the_table_keeps_its_own_identity() -> None:
    for i, (two, one) in enumerate(zip(TWO_MISSING, ONE_MISSING, strict=True), 1):
        wanted = 0.3 * i if i < 7 else 2.0
        assert 2 * two + one == pytest.approx(wanted)


def test_a_batch_has_one_pattern_and_the_worst_come_first() -> None:
    masks = batch_rule(100, 4, 0.4, 3, shuffled=False)
    rows = masks.visible.view(25, 4, 3)
    assert (rows == rows[:, :1]).all()
    kept = rows[:, 0].sum(1).tolist()
    assert kept == sorted(kept) and kept[0] == 1 and kept[-1] == 3
    assert (masks.visible.any(1)).all()
    single = rows[:, 0][rows[:, 0].sum(1) == 1].float().mean(0)
    assert (single > 0).all()  # each of the three survives somewhere


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.7, 2 / 3])
def test_10_random_rates_are_exact_and_repeat(rate: float) -> None:
    rate = min(rate, 2 / 3)
    masks = random_missing(333, 3, rate, 7)
    assert masks.visible.any(1).all()
    assert abs(masks.rate - rate) <= 0.5 / 999 + 1e-9
    assert torch.equal(masks.visible, random_missing(333, 3, rate, 7).visible)
    if rate == 2 / 3:
        assert (masks.visible.sum(1) == 1).all()
    if rate > 0:
        assert not torch.equal(masks.visible, random_missing(333, 3, rate, 8).visible)
    assert int(masks.missing.sum()) == 333


def test_batches_are_made_of_shuffled_rows_or_not() -> None:
    """Splits may be sorted by label: then batches in their order would hide by class."""
    sorted_, mixed = (batch_rule(400, 4, 0.3, 0, shuffled) for shuffled in (False, True))
    for masks in (sorted_, mixed):
        assert masks.missing.tolist() == [160, 120, 120]
    first = [int((masks.visible[:200].sum(1) < 3).sum()) for masks in (sorted_, mixed)]
    assert first[0] == 200
    assert 90 < first[1] < 150


def test_missing_counts_rows() -> None:
    visible = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    assert Masks(visible, 0.4).missing.tolist() == [1, 1, 2]


def test_wrong_rates_are_named() -> None:
    for rate in (0.15, 0.8, -0.1):
        with pytest.raises(ValueError, match="rate must be 0, 0.1, ... or 0.7"):
            batch_rule(10, 4, rate, 0)
    with pytest.raises(ValueError, match="n and batch_size must be at least 1"):
        batch_rule(10, 0, 0.1, 0)
    with pytest.raises(ValueError, match="rate must lie in"):
        random_missing(10, 3, 0.7, 0)


def test_batch_rule_of_few_batches_and_other_seeds() -> None:
    assert batch_rule(24, 4, 0.4, 0).visible.shape == (24, 3)
    assert not torch.equal(batch_rule(200, 4, 0.5, 0).visible, batch_rule(200, 4, 0.5, 1).visible)
