"""Gaussian data of MFH: who sees what, exactly; bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from labkit.data.gaussians import Gaussians, Venn, increase_alpha, increase_gamma, ratios, stack

LAYOUTS = {
    "increase_gamma(4)": increase_gamma(4),
    "increase_alpha(20)": increase_alpha(20),
    "table 2": Venn(10, 15, 0),
    "own": Venn(3, 5, 7, hidden=2, channels_a=20, channels_b=30),
}


@pytest.mark.parametrize("both", range(11))
def test_gamma_of_experiment_1(both: int) -> None:
    venn = increase_gamma(both)
    assert venn.gamma == pytest.approx(both / (20 - both))
    assert venn.alpha == venn.beta
    assert venn.alpha + venn.beta + venn.gamma == pytest.approx(1)
    assert venn.latents == 20
    assert (
        venn.a[1] - venn.a[0] == venn.b[1] - venn.b[0] == 10
    )  # both accuracies stay what they are


@pytest.mark.parametrize("only_a", [0, 10, 20, 30, 40])
def test_alpha_of_experiments_2_and_3(only_a: int) -> None:
    venn = increase_alpha(only_a)
    assert venn.alpha == only_a / (only_a + 10)
    assert venn.beta == 0
    assert venn.gamma == pytest.approx(1 - venn.alpha)
    assert venn.latents == 50
    assert Venn(10, 20, 0).alpha == 10 / 30


@pytest.mark.parametrize("script", ["main", "modify"])
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_shared_channels_hold_the_same_numbers_and_no_others(name: str, script: str) -> None:
    venn = LAYOUTS[name]
    batch = Gaussians(venn, 3, script=script, n_train=2000).load("train")
    a, b = batch.x["a"], batch.x["b"]
    shared = set(venn.shared.tolist())
    for channel in range(min(venn.channels_a, venn.channels_b)):
        assert bool((a[:, channel] == b[:, channel]).all()) == (channel in shared)
    both = torch.cat([a, b], 1)
    correlations = torch.corrcoef(both.T)
    own = torch.eye(len(both.T), dtype=torch.bool)
    for channel in shared:
        own[channel, venn.channels_a + channel] = own[venn.channels_a + channel, channel] = True
    assert correlations[~own].abs().max() < 5.5 / 2000**0.5  # the largest of thousands
    assert torch.allclose(correlations[own], torch.ones(()).double())


def test_labels_are_balanced_and_decided_by_the_latents_alone() -> None:
    full = Gaussians(Venn(10, 10, 0), n_train=4000, hyperplane="randn").load("train")
    assert full.y is not None
    assert abs(float(full.y.double().mean()) - 0.5) < 3 / 4000**0.5
    ones = Gaussians(Venn(10, 10, 0), n_train=4000).load("train")
    assert torch.equal((ones.x["a"][:, :20].sum(1) > 0).long(), ones.y)
    seen = Gaussians(increase_gamma(10), n_train=40_000).load("train")
    right = ((seen.x["a"][:, :10].sum(1) > 0).long() == seen.y).double().mean()
    assert float(right) == pytest.approx(increase_gamma(10).bayes("a"), abs=0.01)  # 0.75


@pytest.mark.parametrize(("only_a", "best_a"), [(0, 0.6476), (40, 1.0)])
def test_the_best_possible_accuracy_has_a_formula(only_a: int, best_a: float) -> None:
    venn = increase_alpha(only_a)
    assert venn.bayes("a") == pytest.approx(best_a, abs=1e-4)
    assert venn.bayes("b") == pytest.approx(0.6476, abs=1e-4)


def test_splits_and_seeds_are_those_of_the_published_scripts() -> None:
    """RandomState(seed): latents, b, a; the test split from seed + 1; with randn the plane comes first."""
    random = np.random.RandomState(8)
    latents, b, a = random.randn(1000, 20), random.randn(1000, 50), random.randn(1000, 25)
    test = Gaussians(increase_gamma(0), seed=7).load("test")
    assert np.array_equal(test.x["a"][:, :10].numpy(), a[:, :10])
    assert np.array_equal(test.x["a"][:, 10:20].numpy(), latents[:, 10:])
    assert np.array_equal(test.x["b"][:, 10:].numpy(), b[:, 10:])
    random = np.random.RandomState(7)
    plane, latents = random.randn(500)[:20], random.randn(200, 20)
    train = Gaussians(increase_gamma(0), seed=7, hyperplane="randn").load("train")
    assert np.array_equal(train.x["b"][:, :10].numpy(), latents[:, :10])
    assert np.array_equal(train.y.numpy(), latents @ plane > 0)
    random = np.random.RandomState(7)
    parts = [random.randn(n, d) for n in (200, 1000) for d in (30, 50, 50)]
    later = Gaussians(Venn(10, 20, 0), seed=7, script="modify").load("test")
    assert np.array_equal(later.x["a"][:, 30:].numpy(), parts[4][:, 30:])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_stack_holds_every_draw_once_and_gives_each_back(split: str) -> None:
    settings = [Gaussians(increase_gamma(both)) for both in (0, 4, 10)]
    found = stack(settings, [5, 6], split, torch.float64)
    assert found.b.seen is None  # the student sees the same in every setting
    assert found.a.x.shape == (2, 200 if split == "train" else 1000, 25 + 20 + 1)
    for row, recipe in enumerate(settings):
        for s, seed in enumerate((5, 6)):
            batch = replace(recipe, seed=seed).load(split)
            assert torch.equal(found.y[s], batch.y)
            for name, view in (("a", found.a), ("b", found.b)):
                given = view.x[s][:, view.place[row]]
                assert torch.equal(given[:, -1], torch.ones(len(batch)).double())
                assert torch.equal(given[:, :-1], batch.x[name].float().double())
    weights = torch.randn(2, 3, 26)
    spread = found.a.spread(weights)
    assert torch.equal(spread.gather(2, found.a.place.expand(2, 3, 26)), weights)
    assert ((spread != 0) <= found.a.seen).all()


def test_ratios_find_counts_or_name_the_nearest() -> None:
    assert ratios(0.25, 0.5, seen=20) == Venn(5, 10, 5)
    with pytest.raises(
        ValueError, match=r"gamma = 0.33 is no whole number of 20 latents.*7 / 20 = 0.35"
    ):
        ratios(0.25, 0.33)
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 1.5"):
        ratios(1.5, 0.0)
    with pytest.raises(ValueError, match=r"alpha \+ gamma must be at most 1, got 0.75 \+ 0.5"):
        ratios(0.75, 0.5)


def test_bad_input_is_named() -> None:
    for make, message in (
        (lambda: Venn(-1, 2, 0), "only_a must be at least 0, got -1"),
        (lambda: Venn(0, 0, 0, hidden=3), "no modality sees any latent"),
        (lambda: Venn(30, 30, 0), "channels_a must be at least 60 to show the latents, got 50"),
        (lambda: increase_gamma(11), "both must be a whole number from 0 to 10, got 11"),
        (lambda: increase_alpha(-1), "only_a must be a whole number from 0 to 40, got -1"),
        (lambda: Gaussians(seed=-1), "seed must be a whole number"),
        (lambda: Gaussians(hyperplane="flat"), "hyperplane must be one of ones, randn, got 'flat'"),
        (lambda: Gaussians(script="mine"), "script must be one of main, modify"),
        (lambda: Gaussians(n_test=0), "n_train and n_test must be at least 1, got 200, 0"),
        (lambda: Gaussians().load("val"), "split must be 'train' or 'test', got 'val'"),
        (lambda: stack([], [0], "train"), "settings and seeds must not be empty"),
        (
            lambda: stack([Gaussians(), Gaussians(Venn(1, 1, 1))], [0], "train"),
            "must have equal latents",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
