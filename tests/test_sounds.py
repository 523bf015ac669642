"""Procedural clips: who is heard and who is seen, and nothing depends on how many are asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.sounds import TYPES, Sounds

RECIPE = Sounds(n_train=700, n_test=600)


@pytest.fixture(scope="module")
def splits() -> dict[str, Batch]:
    return {"train": RECIPE.load("train"), "test": RECIPE.load("test")}


def nearest(splits: dict[str, Batch], modality: str, factor: str) -> float:
    """Held-out accuracy of a ridge classifier of a factor from pixels."""
    x = {
        s: torch.cat([b.x[modality].flatten(1), torch.ones(len(b), 1)], 1)
        for s, b in splits.items()
    }
    y = {s: b.factors[factor] for s, b in splits.items()}
    gram = x["train"] @ x["train"].T + 30.0 * torch.eye(len(x["train"]))
    weight: Tensor = x["train"].T @ torch.linalg.solve(gram, torch.eye(TYPES)[y["train"]])
    return float(((x["test"] @ weight).argmax(1) == y["test"]).double().mean())


def test_shapes_ranges_and_balance(splits: dict[str, Batch]) -> None:
    batch = splits["test"]
    assert {k: tuple(v.shape[1:]) for k, v in batch.x.items()} == {
        "audio": (64, 64),
        "video": (3, 8, 16, 16),
    }
    assert all(v.min() >= 0 and v.max() <= 1 for v in batch.x.values())
    assert batch.y is not None
    assert torch.equal(torch.bincount(batch.y), torch.full((TYPES,), 30))
    assert torch.equal(batch.y, batch.factors["on_screen"])
    assert batch.factors["off_screen"].unique().numel() == TYPES


def test_who_is_on_the_screen_is_heard_and_seen_and_who_is_off_is_only_heard(
    splits: dict[str, Batch],
) -> None:
    chance, sd = 1 / TYPES, (0.05 * 0.95 / 600) ** 0.5
    assert nearest(splits, "audio", "on_screen") > 3 * chance
    assert nearest(splits, "video", "on_screen") > 3 * chance
    assert abs(nearest(splits, "video", "off_screen") - chance) < 3 * sd
    assert nearest(splits, "audio", "off_screen") > chance + 3 * sd


def test_a_silent_source_changes_nothing() -> None:
    """With off_screen=0 the audio is what the source on the screen makes of it, bit by bit."""
    quiet = Sounds(off_screen=0.0, n_test=300).load("test")
    alone = Sounds(off_screen=0.0, n_test=300, label="on_screen", scene=0.0).load("test")
    assert torch.equal(quiet.x["audio"], alone.x["audio"])
    assert not torch.equal(
        quiet.x["audio"], Sounds(off_screen=0.1, n_test=300).load("test").x["audio"]
    )
    assert torch.equal(quiet.x["video"], Sounds(off_screen=0.9, n_test=300).load("test").x["video"])


def test_a_pair_is_a_family_and_a_voice() -> None:
    batch = Sounds(label="pair", n_test=400).load("test")
    on, off = batch.factors["on_screen"], batch.factors["off_screen"]
    assert batch.y is not None
    assert torch.equal(batch.y, 4 * (on // 4) + off % 4)
    assert on.unique().numel() == off.unique().numel() == TYPES


def test_samples_do_not_depend_on_how_many_there_are(splits: dict[str, Batch]) -> None:
    few = Sounds(n_test=270).load("test")
    for name, values in few.x.items():
        assert torch.equal(values, splits["test"].x[name][:270])
    assert not torch.equal(Sounds(n_test=20, seed=1).load("test").x["audio"], few.x["audio"][:20])
    assert not torch.equal(Sounds(n_train=20).load("train").x["audio"], few.x["audio"][:20])


def test_bad_recipes_are_refused() -> None:
    for options, message in (
        ({"off_screen": 3}, r"off_screen must lie in \[0, 2\], got 3"),
        ({"scene": -1}, "scene must lie in"),
        ({"noise": 2}, "noise must lie in"),
        ({"label": "none"}, "label must be 'on_screen' or 'pair', got 'none'"),
        ({"n_test": 0}, "n_test must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Sounds(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split must be train, val or test, got 'dev'"):
        RECIPE.load("dev")  # type: ignore[arg-type]
