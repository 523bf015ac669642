"""Floors of reconstruction: exact on hand-made sets, ordered on any other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.batch import Batch
from labkit.floors import floors


def batch(x: Tensor, y: list[int], **rest: Tensor) -> Batch:
    return Batch({"a": x.float(), **rest}, y=torch.tensor(y))


def entropy(p: float, q: float) -> float:
    """Cross-entropy in nats of a target of grey level p under the prediction q."""
    return -p * math.log(q) - (1 - p) * math.log(1 - q)


# Two pixels, two classes. Means of class 0: (.25, .75), of class 1: (.75, .5), of all: (.5, .625)
TRAIN = batch(torch.tensor([[0.0, 0.5], [0.5, 1.0], [1.0, 0.5], [0.5, 0.5]]), [0, 0, 1, 1])
TEST = batch(torch.tensor([[0.0, 1.0], [1.0, 0.5]]), [0, 1])


def test_bernoulli_floors_by_hand() -> None:
    floor = floors(TRAIN, TEST, {"a": "bernoulli"})["a"]
    assert floor.self_entropy == pytest.approx(math.log(2) / 2)  # one grey pixel in two samples
    by_class = entropy(0, 0.25) + entropy(1, 0.75) + entropy(1, 0.75) + entropy(0.5, 0.5)
    assert floor.class_mean == pytest.approx(by_class / 2)
    overall = entropy(0, 0.5) + entropy(1, 0.625) + entropy(1, 0.5) + entropy(0.5, 0.625)
    assert floor.global_mean == pytest.approx(overall / 2)
    assert floor.self_entropy < floor.class_mean < floor.global_mean


def test_gaussian_floors_by_hand() -> None:
    floor = floors(TRAIN, TEST, {"a": "gaussian"})["a"]
    assert floor.self_entropy == 0.0
    assert floor.class_mean == pytest.approx((0.25**2 + 0.25**2 + 0.25**2 + 0) / 2)
    assert floor.global_mean == pytest.approx((0.5**2 + 0.375**2 + 0.5**2 + 0.125**2) / 2)


def test_a_pixel_never_lit_costs_what_the_clamp_says() -> None:
    train = batch(torch.tensor([[0.0], [0.0], [0.0]]), [0, 0, 0])
    lit, dark = (
        floors(train, batch(torch.tensor([[v]]), [0]), {"a": "bernoulli"})["a"] for v in (1.0, 0.0)
    )
    assert lit.class_mean == lit.global_mean == pytest.approx(math.log(8))  # 1 / (2 * 3 + 2)
    assert dark.class_mean == pytest.approx(-math.log(7 / 8))
    assert lit.self_entropy == dark.self_entropy == 0.0


def test_sums_run_over_every_feature() -> None:
    x = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0))
    y = [i % 2 for i in range(20)]
    wide = floors(batch(x, y), batch(x, y), {"a": "bernoulli"})["a"]
    flat = floors(batch(x.flatten(1), y), batch(x.flatten(1), y), {"a": "bernoulli"})["a"]
    assert wide == pytest.approx(flat)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_floors_are_ordered_on_the_data_they_were_fitted_on(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(60) % 3
    typical = torch.rand(3, 8, generator=generator)
    x = (typical[y] + 0.3 * torch.randn(60, 8, generator=generator)).clamp(0, 1)
    data = Batch({"a": x, "b": 5 * x - 2}, y=y)
    for floor in floors(data, data, {"a": "bernoulli", "b": "gaussian"}).values():
        assert floor.self_entropy < floor.class_mean < floor.global_mean


def test_missing_samples_count_nowhere() -> None:
    junk = torch.tensor([[math.nan, 9.0]])
    observed = torch.ones(5, 2, dtype=torch.bool)
    observed[4, 0] = False
    other = torch.zeros(5, 1)
    holes = Batch(
        {"a": torch.cat([TRAIN.x["a"], junk]), "b": other}, observed, torch.tensor([0, 0, 1, 1, 0])
    )
    few = holes[torch.tensor([0, 2, 4])]
    assert floors(holes, TEST, {"a": "bernoulli"}) == floors(TRAIN, TEST, {"a": "bernoulli"})
    assert floors(TRAIN, few, {"a": "bernoulli"}) == floors(
        TRAIN, TRAIN[torch.tensor([0, 2])], {"a": "bernoulli"}
    )


@pytest.mark.parametrize(
    ("train", "test", "likelihoods", "message"),
    [
        (TRAIN, TEST, {"a": "poisson"}, r"likelihoods\['a'\] must be 'bernoulli' or 'gaussian'"),
        (TRAIN, TEST, {"z": "gaussian"}, "unknown modality 'z'"),
        (TRAIN, Batch(TEST.x), {"a": "gaussian"}, "must have labels y"),
        (TRAIN[:2], TEST, {"a": "gaussian"}, r"train shows no 'a' of classes \[1\]"),
        (
            TRAIN,
            batch(torch.tensor([[0.0, 1.5]]), [0]),
            {"a": "bernoulli"},
            r"in \[0, 1\].* 0\.\.1\.5",
        ),
    ],
)
def test_floors_refuse(train: Batch, test: Batch, likelihoods: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        floors(train, test, likelihoods)
