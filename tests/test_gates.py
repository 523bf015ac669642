"""Gates: relaxations are what they claim, forward and backward; temperatures fall as they should."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from labkit.models import gates
from labkit.models.gates import Relaxation


def logits(rows: int = 50, count: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(rows, count, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_straight_through_is_one_path_forward_and_soft_backward() -> None:
    a = logits().requires_grad_()
    weight = logits(seed=1)
    hard, soft = gates.relaxed(a, 0.7, hard=True), gates.relaxed(a, 0.7)
    assert torch.equal(hard.detach(), gates.one_path(a.detach()))
    by_hard = torch.autograd.grad((hard * weight).sum(), a)[0]
    by_soft = torch.autograd.grad((soft * weight).sum(), a)[0]
    torch.testing.assert_close(by_hard, by_soft)
    assert by_hard.abs().sum() > 1


def test_one_path_is_exactly_0_and_1_for_any_logits() -> None:
    many = 20 * logits(20_000)
    hard = gates.relaxed(many, hard=True)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert (hard.sum(-1) == 1).all()


@pytest.mark.parametrize("shift", [-7.0, 100.0])
def test_a_shift_of_all_logits_changes_nothing(shift: float) -> None:
    torch.testing.assert_close(gates.relaxed(logits() + shift), gates.relaxed(logits()))


def test_cold_is_a_choice_and_hot_is_none() -> None:
    apart = torch.arange(5.0)[torch.stack([torch.randperm(5) for _ in range(50)])] / 100
    torch.testing.assert_close(gates.relaxed(apart, 1e-4), gates.one_path(apart))
    torch.testing.assert_close(
        gates.relaxed(logits(), 1e5), torch.full((50, 5), 0.2), atol=1e-4, rtol=0
    )
    assert gates.entropy(gates.relaxed(logits(), 1e5)).mean() == pytest.approx(
        math.log(5), abs=1e-4
    )
    assert gates.entropy(gates.one_path(logits())).abs().max() == 0


def test_gumbel_noise_draws_from_softmax() -> None:
    a = torch.tensor([1.0, 0.0, -1.0, 0.5])
    drawn = gates.one_path(a + gates.gumbel(a.expand(40_000, 4), generator())).sum(0)
    wanted = 40_000 * a.softmax(0)
    assert (
        stats.chisquare(drawn.double(), wanted.double() / wanted.double().sum() * 40_000).pvalue
        > 0.01
    )
    without = gates.one_path(a.expand(100, 4))
    assert (without == without[0]).all()


def test_exploring_takes_all_paths_equally_often_and_teaches_the_gate_nothing() -> None:
    relaxation = Relaxation(explore=10)
    a = logits(20_000).requires_grad_()
    weights = relaxation.weights(a, 9, generator(1))
    assert not weights.requires_grad
    assert stats.chisquare(weights.sum(0).double()).pvalue > 0.01
    assert relaxation.weights(a, 10, generator()).requires_grad


def test_the_temperature_falls_by_the_same_factor_and_ends_hard() -> None:
    relaxation = Relaxation(hard=False, start=1.0, end=1e-3, anneal=500)
    assert relaxation.temperature(0) == 1.0
    assert relaxation.temperature(250) == pytest.approx(math.sqrt(1e-3))
    assert relaxation.temperature(500) == relaxation.temperature(900) == pytest.approx(1e-3)
    assert not relaxation.is_hard(499) and relaxation.is_hard(500)
    assert Relaxation(hard=True).is_hard(0) and not Relaxation(hard=False).is_hard(10**6)
    late = Relaxation(hard=False, anneal=500, explore=100)
    assert late.temperature(0) == late.temperature(100) == 1.0
    assert late.temperature(350) == pytest.approx(math.sqrt(1e-3))
    assert not late.is_hard(599) and late.is_hard(600)
    soft = relaxation.weights(logits(), 0, generator())
    torch.testing.assert_close(soft, logits().softmax(-1))
    assert torch.equal(relaxation.weights(logits(), 500, generator()), gates.one_path(logits()))


def test_noise_comes_from_the_generator_alone() -> None:
    noisy = Relaxation(hard=False, gumbel=True)
    one, two, other = (noisy.weights(logits(), 0, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    plain = Relaxation(hard=False)
    assert torch.equal(*(plain.weights(logits(), 0, generator(seed)) for seed in (1, 2)))


def test_costs_push_towards_the_cheaper_path_and_end_at_the_budget() -> None:
    a = logits(30, 2).requires_grad_()
    prices = torch.tensor([1.0, 8.0])
    spent = gates.cost(gates.relaxed(a), prices)
    by_hand = gates.relaxed(a).mean(0) @ prices
    torch.testing.assert_close(spent, by_hand)
    slope = torch.autograd.grad(spent, a)[0]
    assert (slope[:, 0] < 0).all() and (slope[:, 1] > 0).all()
    under = gates.cost(gates.relaxed(a), prices, budget=9.0)
    assert under == 0
    assert torch.autograd.grad(under, a)[0].abs().sum() == 0


def test_shares_count_paths_that_nobody_took() -> None:
    assert gates.shares(torch.tensor([0, 0, 3, 1]), 5).tolist() == [0.5, 0.25, 0.0, 0.25, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 0.0}, "start must be above 0, got 0"),
        ({"end": -1.0}, "end must be above 0, got -1"),
        ({"anneal": 0}, "anneal must be None or at least 1"),
        ({"explore": -1}, "explore must be at least 0"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Relaxation(**changes)  # type: ignore[arg-type]
