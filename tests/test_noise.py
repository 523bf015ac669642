"""Noise on one of two modalities: its size, whom it hits, and that it belongs to the sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labkit.batch import Batch
from labkit.data import noise
from labkit.data.noise import CHANCE, MODES, hits, per_mini_batch, per_sample


def pictures(n: int = 24, scale: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randn(n, 3, 24, 32, generator=generator)
    depth = 3 + torch.rand(n, 1, 24, 32, generator=generator)
    rgb = rgb * torch.linspace(0.5, 2, n).view(-1, 1, 1, 1) * scale
    return Batch({"rgb": rgb, "depth": depth}, y=torch.zeros(n, 24, 32, dtype=torch.int64))


def changed(noisy: Batch, clean: Batch) -> torch.Tensor:
    """Which modality of which sample was changed: (B, 2)."""
    return torch.stack([(noisy.x[n] != clean.x[n]).flatten(1).any(1) for n in MODES[:2]], 1)


def test_level_0_changes_nothing() -> None:
    batch = pictures()
    for mode in MODES:
        for made in (
            per_sample(batch, 0.0, mode),  # type: ignore[arg-type]
            per_mini_batch(batch, 0.0, mode, torch.Generator().manual_seed(0)),  # type: ignore[arg-type]
        ):
            assert all(torch.equal(made.x[name], batch.x[name]) for name in batch.x)


@pytest.mark.parametrize("level", [0.1, 0.5, 2.0])
def test_the_deviation_is_level_times_the_samples_mean_size(level: float) -> None:
    batch = pictures()
    for column, mode in enumerate(MODES[:2]):
        made = per_sample(batch, level, mode, chance=1.0)  # type: ignore[arg-type]
        assert changed(made, batch).all(0).tolist() == [column == 0, column == 1]
        added = (made.x[mode] - batch.x[mode]).flatten(1)
        size = batch.x[mode].flatten(1).abs().mean(1)
        assert size.max() > (2 if mode == "rgb" else 1) * size.min()
        ratio = added.std(1) / (level * size)
        assert float(ratio.mean()) == pytest.approx(1, abs=0.015)
        assert (ratio - 1).abs().max() < 0.12
        assert float((added.mean(1) / size).abs().max()) < level * 0.2


def test_a_sample_has_its_noise_in_whatever_batch_it_comes() -> None:
    batch = pictures()
    whole = per_sample(batch, 0.5, "either", seed=3)
    rows = torch.tensor([17, 4, 9])
    part = per_sample(batch[rows], 0.5, "either", seed=3, index=rows)
    again = per_sample(batch, 0.5, "either", seed=3)
    other = per_sample(batch, 0.5, "either", seed=4)
    for name in batch.x:
        torch.testing.assert_close(part.x[name], whole.x[name][rows], rtol=0, atol=1e-5)
        assert torch.equal(again.x[name], whole.x[name])
        assert not torch.equal(other.x[name], whole.x[name])
    more = per_sample(batch, 1.0, "either", seed=3)  # the same noise, twice as large
    for name in batch.x:
        torch.testing.assert_close(
            more.x[name] - batch.x[name], 2 * (whole.x[name] - batch.x[name]), rtol=0, atol=1e-4
        )


def test_modes_hit_what_they_name_and_never_both() -> None:
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    for mode, expected in (
        ("rgb", (CHANCE, 0)),
        ("depth", (0, CHANCE)),
        ("either", (CHANCE, CHANCE)),
    ):
        hit = hits(u, mode)  # type: ignore[arg-type]
        assert hit.double().mean(0).tolist() == pytest.approx(expected, abs=0.005)
        assert not hit.all(1).any()
    assert torch.equal(hits(u, "either")[:, 0], hits(u, "rgb")[:, 0])
    assert hits(torch.tensor([0.32, 0.34, 0.65, 0.67]), "either").tolist() == [
        [True, False], [False, True], [False, True], [False, False]]  # fmt: skip
    batch = pictures(300)
    made = changed(per_sample(batch, 0.3, "either"), batch)
    assert not made.all(1).any()
    assert made.double().mean(0).tolist() == pytest.approx([CHANCE, CHANCE], abs=0.08)
    assert torch.equal(
        made, hits(noise.Draws(torch.arange(300), "noise", 0).uniform("hit"), "either")
    )


def test_the_authors_rule_hits_whole_mini_batches() -> None:
    batch = pictures(83)
    made = per_mini_batch(batch, 0.3, "either", torch.Generator().manual_seed(1))
    hit = changed(made, batch)
    groups = [hit[k : k + 8] for k in range(0, 83, 8)]
    assert all(bool((group == group[:1]).all()) for group in groups)
    assert {tuple(group[0].tolist()) for group in groups} == {
        (True, False),
        (False, True),
        (False, False),
    }
    for k, group in enumerate(groups):
        rows = slice(8 * k, 8 * k + 8)
        for column, name in enumerate(MODES[:2]):
            if group[0, column]:
                added, values = made.x[name][rows] - batch.x[name][rows], batch.x[name][rows]
                assert float(added.std() / values.abs().mean()) == pytest.approx(0.3, rel=0.05)
    same = per_mini_batch(batch, 0.3, "either", torch.Generator().manual_seed(1))
    assert torch.equal(same.x["rgb"], made.x["rgb"])
    assert made.y is not None and len(made) == 83


def test_what_is_not_observed_is_not_looked_at() -> None:
    batch = pictures(6)
    batch.x["depth"][2] = float("nan")
    observed = torch.ones(6, 2, dtype=torch.bool)
    observed[2, 1] = False
    batch = Batch(batch.x, observed=observed)
    made = per_sample(batch, 0.5, "depth", chance=1.0)
    hit = (made.x["depth"] != batch.x["depth"]).flatten(1).all(1)
    assert made.x["depth"][2].isnan().all()
    assert hit[[0, 1, 3, 4, 5]].all() and torch.equal(made.observed, observed)
    assert not made.x["depth"][[0, 1, 3, 4, 5]].isnan().any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": -0.1}, "level must be a number of at least 0, got -0.1"),
        ({"level": float("nan")}, "level must be a number of at least 0, got nan"),
        ({"mode": "both"}, "mode must be one of 'rgb', 'depth', 'either'; got 'both'"),
        ({"chance": 1.1}, r"chance must lie in 0..1 with mode='rgb', got 1.1"),
        (
            {"mode": "either", "chance": 0.6},
            r"chance must lie in 0..0.5 with mode='either', got 0.6",
        ),
        (
            {"index": torch.arange(5)},
            r"index must be int64 of shape \(24,\), got torch.int64 of \(5,\)",
        ),
        ({"index": torch.zeros(24)}, "index must be int64"),
    ],
)
def test_wrong_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        per_sample(pictures(), **({"level": 0.1, "mode": "rgb"} | arguments))


def test_other_wrong_batches_are_refused() -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        per_mini_batch(pictures(), 0.1, "rgb", generator, batch_size=0)
    with pytest.raises(ValueError, match="unknown modality 'depth'"):
        per_sample(pictures().only("rgb"), 0.1, "rgb")
    with pytest.raises(ValueError, match="level must be"):
        per_mini_batch(pictures(), -1, "rgb", generator)
