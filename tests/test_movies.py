"""Procedural movies: what decides the labels, what each modality shows of it, and what is hard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from labkit.data import mmimdb
from labkit.data.movies import GIST, MODALITIES, Movies
from labkit.metrics import linear_probe

SMALL = Movies(n_train=600, n_val=40, n_test=60)
MANY = Movies(n_train=10_000)


def test_shapes_and_splits() -> None:
    batch = SMALL.load("train")
    assert batch.modalities == MODALITIES and batch.observed.all()
    assert {name: tuple(x.shape[1:]) for name, x in batch.x.items()} == SMALL.shapes
    assert batch.y is not None and batch.y.shape == (600, 8) and batch.y.dtype == torch.float32
    assert set(batch.y.unique().tolist()) == {0, 1}
    assert len(SMALL.load("val")) == 40 and len(SMALL.load("test")) == 60
    assert not torch.equal(SMALL.load("test").x["text"], batch.x["text"][:60])
    wide = replace(SMALL, labels=23).load("val")
    assert wide.y is not None and wide.y.shape == (40, 23) == (
        40,
        replace(SMALL, labels=23).n_labels,
    )


def test_a_sample_is_the_same_however_many_there_are_and_another_seed_is_another() -> None:
    few, many = replace(SMALL, n_train=7).load("train"), SMALL.load("train")
    for name in MODALITIES:
        torch.testing.assert_close(few.x[name], many.x[name][:7], rtol=0, atol=1e-5)
    assert few.y is not None and many.y is not None and torch.equal(few.y, many.y[:7])
    for other in (replace(SMALL, seed=1), replace(SMALL, world=1)):
        assert (other.load("train").x["text"] - many.x["text"]).abs().mean() > 0.1


def test_labels_are_as_frequent_as_asked_and_follow_from_the_gist() -> None:
    batch = MANY.load("train")
    assert batch.y is not None
    assert float(MANY.shares[0]) == pytest.approx(0.45)
    assert float(MANY.shares[0] / MANY.shares[-1]) == pytest.approx(6)
    torch.testing.assert_close(batch.y.mean(0), MANY.shares, rtol=0, atol=0.02)
    fixed, gist = MANY.fixed(), batch.factors["gist"]
    assert gist.shape == (10_000, GIST) and float(gist.std()) == pytest.approx(1, abs=0.01)
    assert torch.equal(((gist @ fixed.normals.T + fixed.offset) > 0).float(), batch.y)
    even = replace(MANY, imbalance=1.0, common=0.3).load("train").y
    assert even is not None
    torch.testing.assert_close(even.mean(0), torch.full((8,), 0.3), rtol=0, atol=0.02)


def test_modalities_without_noise_are_what_the_gist_makes_of_them() -> None:
    recipe = replace(SMALL, text_noise=0.0, image_noise=0.0, clarity=0.5)
    batch, fixed = recipe.load("train"), recipe.fixed()
    gist, clarity = batch.factors["gist"], batch.factors["clarity"]
    torch.testing.assert_close(batch.x["text"], torch.tanh(clarity[:, None] * (gist @ fixed.text)))
    torch.testing.assert_close(batch.x["image"], torch.tanh(gist @ fixed.image))
    hard = batch.factors["hard"]
    assert (clarity[~hard] == 1).all() and 0.4 < float(clarity[hard].max()) <= 0.5


def test_noise_is_as_large_as_asked_and_uneven_in_the_image_alone() -> None:
    quiet, batch = replace(MANY, text_noise=0.0, image_noise=0.0).load("train"), MANY.load("train")
    text, image = (batch.x[name] - quiet.x[name] for name in MODALITIES)
    assert float(text.std()) == pytest.approx(MANY.text_noise, rel=0.01)
    deviation = batch.factors["image_noise"]
    ratio = image.std(1) / deviation
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)
    assert float((deviation / MANY.image_noise).log().std()) == pytest.approx(0.3, abs=0.01)
    assert float((deviation / MANY.image_noise).log().mean()) == pytest.approx(0, abs=0.01)


def test_hard_samples_are_as_many_as_asked_and_seen_in_the_text_whatever_the_labels() -> None:
    batch = MANY.load("train")
    assert batch.y is not None
    hard = batch.factors["hard"]
    assert hard.dtype == torch.bool
    assert float(hard.float().mean()) == pytest.approx(MANY.hard, abs=0.015)
    norm = batch.x["text"].norm(dim=1)
    assert float(((norm < norm[~hard].quantile(0.05)) == hard).float().mean()) > 0.95
    rates = torch.stack((batch.y[hard].mean(0), batch.y[~hard].mean(0)))
    assert float((rates[0] - rates[1]).abs().max()) < 0.04  # labels do not tell what is hard
    assert not replace(SMALL, hard=0.0).load("train").factors["hard"].any()
    assert replace(SMALL, clarity=0.0, hard=1.0).load("train").factors["clarity"].eq(0).all()


def test_text_tells_more_than_image_where_it_is_easy_and_less_where_it_is_hard() -> None:
    train, test = (
        replace(SMALL, n_train=3000).load("train"),
        replace(SMALL, n_test=2000).load("test"),
    )
    assert train.y is not None and test.y is not None
    y_train, y_test = train.y[:, 0].long(), test.y[:, 0].long()
    score: dict[tuple[str, bool], float] = {}
    for hard in (False, True):
        rows, held = train.factors["hard"] == hard, test.factors["hard"] == hard
        for name in MODALITIES:
            score[name, hard] = linear_probe(
                train.x[name][rows], y_train[rows], test.x[name][held], y_test[held]
            )
    assert score["text", False] > score["image", False] + 0.08
    assert score["image", True] > score["text", True] + 0.1
    assert abs(score["image", True] - score["image", False]) < 0.05  # an image is as good as ever


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": "imdb"}, "source must be 'procedural' or 'real', got 'imdb'"),
        ({"labels": 1}, "labels must be a whole number from 2 to 23, got 1"),
        ({"labels": 8.0}, "labels must be a whole number from 2 to 23, got 8.0"),
        ({"hard": 1.5}, "hard must be a number from 0 to 1, got 1.5"),
        ({"clarity": float("nan")}, "clarity must be a number from 0 to 1, got nan"),
        ({"text_noise": -1.0}, "text_noise must be a number from 0 to 10"),
        ({"image_noise": "much"}, "image_noise must be a number from 0 to 10, got 'much'"),
        ({"uneven": 3}, "uneven must be a number from 0 to 2"),
        ({"common": 0.0}, "common must be a number from 0.01 to 0.99"),
        ({"imbalance": 0.5}, "imbalance must be a number from 1 to 100"),
        ({"n_test": 0}, "n_test must be a whole number from 1 to"),
        ({"seed": True}, "seed must be a whole number from 0 to"),
        ({"source": "real", "hard": 0.5}, "hard must stay 0.35 with source='real', got 0.5"),
        ({"source": "real", "seed": 1}, "seed must stay 0 with source='real', got 1"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(Movies(), **change)


def test_an_unknown_split_is_named() -> None:
    for recipe in (SMALL, Movies(source="real")):
        with pytest.raises(
            ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"
        ):
            recipe.load("dev")  # type: ignore[arg-type]


def test_real_movies_are_read_from_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / mmimdb.FILE
    path.parent.mkdir(parents=True)
    with h5py.File(
        path, "w"
    ) as file:  # as long as the release; what is not written is 0 and takes no room
        for name, width in (("features", 300), ("vgg_features", 4096), ("genres", 23)):
            file.create_dataset(name, (25_959, width), np.float32, chunks=(100, width))
        file["genres"][15_551:15_553, 0] = 1
        file["genres"][18_159:18_161, 1] = 1
        file["vgg_features"][18_159, 7] = 2.5
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    recipe = Movies(source="real")
    batch = recipe.load("val")
    assert batch.y is not None and batch.y.shape == (2608, 23) == (2608, recipe.n_labels)
    assert {name: tuple(x.shape[1:]) for name, x in batch.x.items()} == recipe.shapes
    assert batch.y.nonzero().tolist() == [[0, 0], [2607, 1]]
    assert batch.x["image"].nonzero().tolist() == [[2607, 7]]


@pytest.mark.gpu
def test_samples_made_on_a_gpu_are_those_made_here() -> None:
    here, there = SMALL.load("train"), SMALL.load("train", device="cuda")
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.x["text"].cpu(), here.x["text"], rtol=0, atol=1e-4)
