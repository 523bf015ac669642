"""Training on gaps: what `hide` hides, of every method of the bench, and what it leaves as it was."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.batch import Batch, subsets
from labkit.models.backbones import Steps
from labkit.models.blending import Blend
from labkit.models.fusion import CrossAttention, Early, Late, Single
from labkit.models.misa import Misa
from labkit.models.predictor import task
from labkit.models.streams import Bench
from labkit.models.xnorm import XNorm

SHAPES = {"rgb": (4, 3), "flow": (4, 2), "sound": (4, 5)}
TWO = tuple(SHAPES.items())[:2]
BASE: dict[str, Any] = {
    "modalities": tuple(SHAPES.items()), "backbone": Steps((4, 6)), "classes": 3, "hidden": 8,
}  # fmt: skip
PAIR = BASE | {"modalities": TWO}
METHODS: dict[str, Any] = {
    "late": Late(**BASE, weights=(0.2, 0.3, 0.5)),
    "early": Early(**BASE),
    "misa": Misa(**BASE, inside=4, width=8, feed=16),
    "cross": CrossAttention(**BASE, width=8, layers=1, heads=2),
    "blend": Blend(**BASE, weights=(0.5, 1.0, 1.5, 2.0)),
    "xnorm": XNorm(**PAIR),
}
each_method = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def samples(config: Any, n: int = 12, seen: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = {
        name: torch.randn(n, *shape, generator=g, dtype=torch.float64)
        for name, shape in config.modalities
    }
    batch = Batch(x, y=torch.arange(n) % 3)
    return batch if seen is None else batch.with_observed(seen[torch.arange(n) % len(seen)])


def drawn(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(config: Any) -> Any:
    torch.manual_seed(2)
    return config.build().double()


def trained_on(net: Any, batch: Batch, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """Loss in training mode and the slopes of all weights, with the same dropout each time."""
    there = copy.deepcopy(net).train()
    torch.manual_seed(3)
    loss, _ = there.loss(batch, 0, generator)
    loss.backward()
    return loss.detach(), [p.grad for p in there.parameters() if p.grad is not None]


# Nothing is hidden ------------------------------------------------------------------------------------


def before(net: Any, batch: Batch) -> Tensor:
    """The loss of a network as the method has it, without a word on hiding."""
    if isinstance(net.config, Blend):
        total = torch.zeros((), dtype=torch.float64)
        for weight, one in zip(net.config.weights, net.logits(batch)[0], strict=True):
            total = total + weight * task(one.float(), batch)[0]
        return total
    if not isinstance(net.config, Misa):
        return task(net.predict(batch).float(), batch)[0]
    codes, observed = net.codes(batch)
    total = task(net.answered(codes, observed).float(), batch)[0]
    whole = type(codes)(*(each[:, observed.all(1)].float() for each in codes))
    for name, value in net.conditions(whole).items():
        total = total + getattr(net.config, name) * value
    return total


@each_method
@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "with gaps"])
def test_without_hide_a_loss_is_what_it_was_and_nothing_is_drawn(config: Any, gaps: bool) -> None:
    net = built(config)
    batch = samples(config, seen=subsets(len(config.modalities)) if gaps else None)
    generator = drawn()
    state = generator.get_state()
    assert config.hide == 0 and net.partly(batch, generator) is batch, "not even copied"
    for mode in (False, True):
        net.train(mode)
        found = []
        for loss in (lambda: net.loss(batch, 0, generator)[0], lambda: before(net, batch)):
            torch.manual_seed(3)
            found.append(loss())
        assert torch.equal(*found), f"training: {mode}"
    assert torch.equal(generator.get_state(), state)


@each_method
def test_hide_is_of_training_alone(config: Any) -> None:
    plain, gaps = built(config), built(replace(config, hide=0.5))
    assert all(
        torch.equal(*pair) for pair in zip(plain.parameters(), gaps.parameters(), strict=True)
    )
    batch = samples(config)
    for mode in (False, True):
        answers = []
        for net in (plain, gaps):
            torch.manual_seed(3)
            answers.append(net.train(mode).predict(batch))
        assert torch.equal(*answers), f"training: {mode}"
    losses = [trained_on(net, batch, drawn())[0] for net in (plain, gaps)]
    assert losses[0] != losses[1], "and there it acts"


# Something is -----------------------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("hide", [0.2, 0.5])
def test_each_subset_is_as_frequent_as_it_should_be(config: Any, hide: float) -> None:
    """Shares of 4000 rows: 5 deviations of the widest binomial are 0.04."""
    net, n = built(replace(config, hide=hide)), 4000
    batch, generator = samples(config, n), drawn()
    partly = net.partly(batch, generator)
    every = subsets(len(config.modalities)).double()
    chance = ((1 - hide) ** every * hide ** (1 - every)).prod(1)
    wanted = chance / chance.sum()  # given that something is left
    found = (partly.observed[:, None] == every.bool()).all(2).double().mean(0)
    assert float(found.sum()) == 1, "no row without anything"
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.04)
    if hide == 0.5:
        torch.testing.assert_close(wanted, torch.full_like(wanted, 1 / len(every)))
    shown = float((every * wanted[:, None]).sum(0)[0])
    torch.testing.assert_close(
        partly.observed.double().mean(0), torch.full((every.shape[1],), shown).double(),
        rtol=0, atol=0.04,
    )  # fmt: skip
    again = net.partly(batch, drawn()).observed
    assert torch.equal(again, partly.observed), "a function of the generator"
    assert not torch.equal(net.partly(batch, generator).observed, again), "new ones each step"


@each_method
def test_nothing_is_revealed_and_the_last_one_stays(config: Any) -> None:
    net = built(replace(config, hide=0.9))
    patterns = subsets(len(config.modalities))
    batch = samples(config, 40 * len(patterns), patterns)
    partly = net.partly(batch, drawn())
    assert not bool((partly.observed & ~batch.observed).any())
    assert bool(partly.observed.any(1).all())
    single = batch.observed.sum(1) == 1
    assert torch.equal(partly.observed[single], batch.observed[single])
    assert bool((partly.observed[~single] != batch.observed[~single]).any())
    assert all(partly.x[name] is batch.x[name] for name in batch.x), "values stay as they are"
    assert partly.y is batch.y


@each_method
def test_training_on_gaps_is_training_on_what_is_left(config: Any) -> None:
    gaps, plain = built(replace(config, hide=0.5)), built(config)
    batch = samples(config)
    left = gaps.partly(batch, drawn())
    assert bool((~left.observed).any())
    loss, slopes = trained_on(gaps, batch, drawn())
    wanted, others = trained_on(plain, left, drawn(6))
    assert torch.equal(loss, wanted)
    assert all(torch.equal(*pair) for pair in zip(slopes, others, strict=True))


@each_method
def test_what_is_hidden_or_not_observed_reaches_no_loss(config: Any) -> None:
    net = built(replace(config, hide=0.5))
    batch = samples(config, seen=subsets(len(config.modalities)))
    left = net.partly(batch, drawn())
    loss, slopes = trained_on(net, batch, drawn())
    assert bool(loss.isfinite())
    for where, value in ((batch, math.nan), (batch, 1e6), (left, 1e6)):
        x = {m: torch.where(where.rows(m), values, value) for m, values in batch.x.items()}
        changed, others = trained_on(net, replace(batch, x=x), drawn())
        assert torch.equal(changed, loss), value
        for one, other in zip(slopes, others, strict=True):
            assert bool(other.isfinite().all()) and torch.equal(one, other), value
    x = {m: torch.where(left.rows(m), 2 * values, values) for m, values in batch.x.items()}
    assert trained_on(net, replace(batch, x=x), drawn())[0] != loss, "what is shown does"


@pytest.mark.parametrize("hide", [-0.1, 1.0, math.nan])
def test_wrong_probabilities_are_named(hide: float) -> None:
    for build in (lambda: Bench(BASE["modalities"], hide=hide), lambda: XNorm(**PAIR, hide=hide)):
        with pytest.raises(ValueError, match=rf"hide must lie in \[0, 1\), got {hide}"):
            build()


def test_what_reads_one_modality_hides_nothing() -> None:
    with pytest.raises(ValueError, match="hide must be 0 where one modality is read, got 0.5"):
        Single(**BASE, hide=0.5)
