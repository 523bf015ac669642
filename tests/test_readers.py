"""The judge and the factor regressor: they learn, read any leading axes, and see no hidden slot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from labkit import metrics
from labkit.batch import Batch
from labkit.models.readers import FactorNet, FactorRegressor, Judge, JudgeNet
from labkit.train import TrainConfig, fit

SHAPES = [(6,), (12, 12), (10, 5)]
TRAINING = TrainConfig(epochs=15, batch_size=64, lr=1e-2)


def toy(shape: tuple[int, ...], seed: int, n: int = 400) -> Batch:
    """Three classes that light different ends, and a tilt that a linear map could read."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    tilt = 2 + 0.5 * torch.randn(n, generator=generator)
    size = math.prod(shape)
    ramp = torch.linspace(-1, 1, size)
    x = (ramp - (y[:, None] - 1)).abs().lt(0.4).float() + 0.3 * tilt[:, None] * ramp
    x = x + 0.03 * torch.randn(n, size, generator=generator)
    return Batch({"a": x.view(n, *shape), "b": torch.zeros(n, 1)}, y=y, factors={"tilt": tilt})


def fresh(config: Judge | FactorRegressor) -> JudgeNet | FactorNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return config.build()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_judge_learns_a_separable_toy(shape: tuple[int, ...]) -> None:
    judge = fresh(Judge("a", shape, classes=3, hidden=32))
    history = fit(judge, toy(shape, 0), TRAINING, progress=False)
    held_out = toy(shape, 1)
    assert float(metrics.accuracy(judge.predict(held_out), held_out.y)) > 0.97
    assert history.train["accuracy"][-1] > 0.97


@pytest.mark.parametrize("shape", SHAPES)
def test_a_regressor_learns_its_factor_in_the_factors_units(shape: tuple[int, ...]) -> None:
    regressor = fresh(FactorRegressor("a", shape, "tilt", mean=2.0, std=0.5, hidden=32))
    history = fit(regressor, toy(shape, 0), TRAINING, progress=False)
    held_out = toy(shape, 1)
    assert float(metrics.r2(regressor.predict(held_out), held_out.factors["tilt"])) > 0.8
    assert history.train["total"][-1] < 0.2  # 1 - R^2
    assert history.train["error"][-1] < 0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_readers_take_any_leading_axes(shape: tuple[int, ...]) -> None:
    x = toy(shape, 0, n=12).x["a"]
    stack = x.view(2, 3, 2, *shape)
    for config, tail in (
        (Judge("a", shape, classes=3), (3,)),
        (FactorRegressor("a", shape, "tilt"), ()),
    ):
        net = fresh(config)
        torch.testing.assert_close(net(stack), net(x).view(2, 3, 2, *tail))
        assert net(x[0]).shape == tail
        assert net(x[:0]).shape == (0, *tail)


@pytest.mark.parametrize(
    "config", [Judge("a", (6,), classes=3), FactorRegressor("a", (6,), "tilt", mean=2.0, std=0.5)]
)
def test_rows_without_the_modality_change_neither_loss_nor_gradient(
    config: Judge | FactorRegressor,
) -> None:
    batch = toy((6,), 0, n=9)
    observed = torch.ones(9, 2, dtype=torch.bool)
    observed[::3, 0] = False
    junk = batch.x["a"].masked_fill(~observed[:, :1], math.nan)
    holes = replace(batch, x={**batch.x, "a": junk}, observed=observed)
    results = []
    for given in (holes, batch[observed[:, 0]]):
        net = fresh(config)
        total, parts = net.loss(given)
        total.backward()
        results.append([total.detach(), *parts.values(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="'a' is missing in 3 of 9 rows"):
        fresh(config).predict(holes)


def test_the_regressors_loss_is_in_units_of_std() -> None:
    batch = toy((6,), 0)
    regressor = fresh(FactorRegressor("a", (6,), "tilt", mean=2.0, std=0.5))
    torch.nn.init.zeros_(regressor.net[-1].weight)
    torch.nn.init.zeros_(regressor.net[-1].bias)  # now it answers the mean, whatever it sees
    total, parts = regressor.loss(batch)
    away = batch.factors["tilt"] - 2.0
    assert float(total.detach()) == pytest.approx(float((away / 0.5).square().mean()), rel=1e-5)
    assert float(parts["error"].detach()) == pytest.approx(float(away.abs().mean()), rel=1e-5)


def wrong_factor(factor: Tensor) -> Batch:
    return replace(toy((6,), 0, n=4), factors={"tilt": factor})


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Judge("a", ()).build(), r"shape must name sizes.*: \(\), 256"),
        (lambda: FactorRegressor("a", (6,), "tilt", std=0.0).build(), "std must be > 0"),
        (
            lambda: Judge("a", (5,)).build()(torch.zeros(2, 6)),
            r"\(\.\.\., \*\(5,\)\), got \(2, 6\)",
        ),
        (lambda: Judge("z", (6,)).build().predict(toy((6,), 0)), "unknown modality 'z'"),
        (lambda: Judge("a", (6,)).build().loss(replace(toy((6,), 0), y=None)), "needs labels"),
        (
            lambda: FactorRegressor("a", (6,), "slant").build().loss(toy((6,), 0)),
            "'slant' is not one of .* here: tilt",
        ),
        (
            lambda: (
                FactorRegressor("a", (6,), "tilt").build().loss(wrong_factor(torch.zeros(4, 1)))
            ),
            "'tilt' is not one of .* here: none",
        ),
    ],
)
def test_readers_refuse(act, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        act()
