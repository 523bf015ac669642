"""Procedural utterances: what is shared, what is not, and that each modality's map has an inverse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from labkit.data.affect import CONTENT, MODALITIES, WANDER, Affect, memory

SMALL = Affect(n_train=600, n_val=40, n_test=60, steps=8)


def test_shapes_balance_and_splits() -> None:
    batch = SMALL.load("train")
    assert batch.modalities == MODALITIES
    assert [tuple(x.shape) for x in batch.x.values()] == [(600, 8, 8)] * 3
    assert batch.y is not None and batch.y.bincount().tolist() == [120] * 5
    assert len(SMALL.load("val")) == 40 and len(SMALL.load("test")) == 60
    assert not torch.equal(SMALL.load("test").x["audio"], batch.x["audio"][:60])


def test_a_sample_is_the_same_however_many_there_are_and_another_seed_is_another() -> None:
    few, many = replace(SMALL, n_train=7).load("train"), SMALL.load("train")
    for name in MODALITIES:
        torch.testing.assert_close(few.x[name], many.x[name][:7], rtol=0, atol=1e-6)
    assert few.y is not None and many.y is not None and torch.equal(few.y, many.y[:7])
    other = replace(SMALL, seed=1).load("train")
    assert (other.x["language"] - many.x["language"]).abs().mean() > 0.1


@pytest.mark.parametrize("flat", [False, True])
def test_features_turned_back_are_content_and_noise(flat: bool) -> None:
    recipe = replace(SMALL, noise=(0.0, 0.0, 0.0), flat=flat)
    batch, fixed = recipe.load("train"), recipe.fixed()
    for m, name in enumerate(MODALITIES):
        parts = fixed.unshow(batch.x[name], m)
        seen = batch.factors["content"] @ fixed.views[m]
        torch.testing.assert_close(parts[..., :CONTENT], seen, rtol=0, atol=2e-5)
        assert torch.linalg.matrix_rank(parts[..., :CONTENT].flatten(0, 1), rtol=1e-4) == (
            2 if flat else 4
        )


def test_noise_is_as_large_as_asked_and_uneven_in_the_weak_modalities_alone() -> None:
    recipe = replace(SMALL, n_train=4000)
    batch, fixed = recipe.load("train"), recipe.fixed()
    uneven = batch.factors["unevenness"]
    assert (uneven[:, 0] == 1).all()
    assert uneven[:, 1:].log().std(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    for m, name in enumerate(MODALITIES):
        noise = fixed.unshow(batch.x[name], m)[..., :CONTENT] - batch.factors["content"]
        per_sample = noise.square().mean((1, 2)).sqrt()
        ratio = per_sample / (recipe.noise[m] * uneven[:, m])
        assert float(ratio.mean()) == pytest.approx(1, abs=0.03), name


def test_what_all_share_is_mean_style_and_wandering() -> None:
    recipe = replace(SMALL, n_train=4000, separation=0.0)
    batch = recipe.load("train")
    content, style = batch.factors["content"], batch.factors["style"]
    assert float(style.std()) == pytest.approx(0.5, abs=0.02)
    wander = content - style[:, None]
    assert float(wander.std()) == pytest.approx(WANDER, abs=0.02)
    lag = (wander[:, 1:] * wander[:, :-1]).mean() / wander.square().mean()
    assert float(lag) == pytest.approx(0.7, abs=0.02)
    norm = SMALL.fixed().means.norm(dim=1)
    torch.testing.assert_close(norm, torch.full((5,), 1.6))


def test_memory_has_deviation_1_at_every_step() -> None:
    torch.testing.assert_close(memory(9).square().sum(1), torch.ones(9))


def test_sentiment_lies_around_its_class_and_on_the_scale() -> None:
    batch = replace(SMALL, classes=7, n_train=7000).load("train")
    assert batch.y is not None
    sentiment = batch.factors["sentiment"]
    assert float(sentiment.abs().max()) <= 3
    middle = (batch.y > 0) & (batch.y < 6)
    off = (sentiment - (batch.y - 3))[middle]
    assert float(off.std()) == pytest.approx(0.25, abs=0.01)
    assert abs(float(off.mean())) < 0.01


def test_own_channels_tell_nothing_of_the_content() -> None:
    recipe = replace(SMALL, n_train=2000)
    batch, fixed = recipe.load("train"), recipe.fixed()
    own = fixed.unshow(batch.x["audio"], 1)[..., CONTENT:].flatten(0, 1)
    content = batch.factors["content"].flatten(0, 1)
    both = torch.corrcoef(torch.cat((own, content), 1).T)[:4, 4:]
    assert float(both.abs().max()) < 0.05
    assert torch.allclose(own.std(0), fixed.own_sd[1], rtol=0.05)


def test_after_its_end_a_sequence_is_zero() -> None:
    batch = replace(SMALL, shortest=3).load("train")
    length = batch.factors["length"]
    assert sorted(set(length.tolist())) == [3, 4, 5, 6, 7, 8]
    after = torch.arange(8) >= length[:, None]
    for name in MODALITIES:
        assert (batch.x[name][after] == 0).all()
        assert (batch.x[name][~after] != 0).any(1).all()


def test_skew_makes_higher_classes_more_frequent() -> None:
    batch = replace(SMALL, skew=0.5, n_train=20_000).load("train")
    assert batch.y is not None
    share = batch.y.bincount(minlength=5) / 20_000
    expected = torch.softmax(0.5 * torch.arange(5), 0)
    torch.testing.assert_close(share, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": 4}, "classes must be 3, 5, 7 or 9, got 4"),
        ({"nuisance": 3}, "nuisance must be even.*got 3"),
        ({"shortest": 9}, "shortest must lie between 1 and 8, got 9"),
        ({"noise": (0.1, -1.0, 0.0)}, "noise must be three numbers of at least 0"),
        ({"style": -1.0}, "style must be at least 0"),
        ({"n_test": 0}, "n_test must be at least 1"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **change)


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split must be one of train, val, test; got 'dev'"):
        SMALL.load("dev")  # type: ignore[arg-type]
