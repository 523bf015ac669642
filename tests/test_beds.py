"""Views of data for the shoot-out: as sequences, with every missing pattern, of another seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from labkit.batch import Batch, subsets
from labkit.data.actions import SUBJECTS, Actions
from labkit.data.affect import Affect
from labkit.data.clips import Clips
from labkit.data.recipes import seeded
from labkit.exchanging.plan import Seen
from labkit.shootout.beds import Patterns, Sequences, as_sequences, every_pattern

SIZES = {"train": 5, "val": 3, "test": 4}


@dataclass(frozen=True)
class Mixed:
    """Samples of all kinds, a function of the seed; the fourth of each split misses some of them."""

    seed: int = 0
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("clip", (2, 3, 4, 5)), ("picture", (4, 6)), ("vector", (7,)),
    )  # fmt: skip
    gaps: bool = False
    source: str = "made"

    def load(self, split: str, device: torch.device | str | None = None) -> Batch:
        n, g = SIZES[split], torch.Generator().manual_seed(10 * self.seed + len(split))
        x = {name: torch.randn(n, *shape, generator=g) for name, shape in self.shapes}
        observed = torch.ones(n, len(x), dtype=torch.bool)
        if self.gaps:
            observed[3:4, 1:] = False
            for i, values in enumerate(x.values()):
                values[~observed[:, i]] = math.nan
        return Batch(x, observed, torch.arange(n) % 2, {"number": torch.arange(n)})


def same(one: Batch, other: Batch) -> bool:
    """Equal in all that they hold, NaN included."""
    assert one.modalities == other.modalities and one.y is not None and other.y is not None
    pairs = [(x, other.x[name]) for name, x in one.x.items()]
    pairs += [(one.observed, other.observed), (one.y, other.y)]
    pairs += [(values, other.factors[name]) for name, values in one.factors.items()]
    return all(x.shape == y.shape and torch.allclose(x, y, 0, 0, equal_nan=True) for x, y in pairs)


# Sequences --------------------------------------------------------------------------------------------


def test_clips_become_steps_and_pictures_and_vectors_one() -> None:
    batch = Mixed(gaps=True).load("train")
    found = as_sequences(batch)
    assert {name: tuple(x.shape[1:]) for name, x in found.x.items()} == {
        "clip": (3, 40), "picture": (1, 24), "vector": (1, 7),
    }  # fmt: skip
    for t in range(3):
        frame = batch.x["clip"][:, :, t].flatten(1)
        assert torch.equal(found.x["clip"][:, t], frame)
    pictures = batch.x["picture"].flatten(1)
    assert torch.allclose(found.x["picture"][:, 0], pictures, 0, 0, equal_nan=True)
    assert torch.allclose(found.x["vector"][:, 0], batch.x["vector"], 0, 0, equal_nan=True)
    assert same(replace(found, x=batch.x), batch), "labels, factors and what is observed stay"


def test_sequences_stay() -> None:
    shapes = (("one", (6, 3)), ("other", (6, 8)))
    batch = Mixed(shapes=shapes).load("train")
    assert as_sequences(batch) is batch
    assert {x.shape[1] for x in as_sequences(Affect(n_train=4).load("train")).x.values()} == {12}
    both = Clips(frames=3, size=12, n_train=4).load("train")
    found = as_sequences(both)
    assert {name: tuple(x.shape) for name, x in found.x.items()} == {
        "rgb": (4, 3, 3 * 144), "flow": (4, 3, 2 * 144),
    }  # fmt: skip
    again = found.x["flow"].unflatten(2, (2, 12, 12)).movedim(1, 2)
    assert torch.equal(again, both.x["flow"])


def test_a_recipe_of_sequences_has_a_seed_of_its_own() -> None:
    for seed in (0, 4):
        recipe = Sequences(Mixed(seed=2), seed)
        assert same(recipe.load("val"), as_sequences(Mixed(seed=seed).load("val")))
    assert not same(Sequences(Mixed(), 4).load("val"), Sequences(Mixed(), 0).load("val"))
    assert hash(Sequences(Clips(), 1)) != hash(Sequences(Clips(), 2))


# Patterns ---------------------------------------------------------------------------------------------


def test_every_sample_is_there_once_with_each_pattern() -> None:
    batch = Mixed().load("train")
    found, patterns = every_pattern(batch), subsets(3)
    assert len(found) == 7 * 5 and found.modalities == batch.modalities
    for i, pattern in enumerate(patterns):
        block = found[5 * i : 5 * (i + 1)]
        assert torch.equal(block.observed, pattern.expand(5, 3)), "a block a subset"
        assert same(block, batch.with_observed(block.observed)), "samples in their order"
    assert bool(found.observed[-5:].all()), "everything last"
    assert torch.equal(found.factors["number"].bincount(), torch.full((5,), 7))


def test_a_pattern_hides_and_never_invents() -> None:
    batch = Mixed(gaps=True).load("train")
    found = every_pattern(batch)
    number = found.factors["number"]
    assert not bool((found.observed & ~batch.observed[number]).any())
    assert bool(found.observed.any(1).all()), "nobody is left with nothing"
    whole = number != 3
    assert torch.equal(number[whole].bincount(), torch.tensor([7, 7, 7, 0, 7]))
    fourth = found.observed[~whole].unique(dim=0).tolist()
    assert fourth == [[True, False, False]], "of the fourth sample there is no more"
    zeros = found.aligned(dict(Mixed().shapes))
    assert not any(bool(x.isnan().any()) for x in zeros.x.values()), "NaN stays where nobody looks"


def test_a_sample_that_lacks_something_is_there_once_with_each_pattern_that_it_can_have() -> None:
    batch = Mixed(gaps=True).load("train")
    found = every_pattern(batch)
    rows = [found.observed[found.factors["number"] == i] for i in range(len(batch))]
    assert [len(each) for each in rows] == [7, 7, 7, 1, 7]
    assert all(len({*map(tuple, each.tolist())}) == len(each) for each in rows)
    assert rows[3].tolist() == [[True, False, False]]


def test_patterns_are_of_training_and_validation() -> None:
    data = Mixed(seed=1)
    for split, count in (("train", 35), ("val", 21)):
        found = Patterns(data).load(split)
        assert len(found) == count and same(found, every_pattern(data.load(split)))
    assert same(Patterns(data).load("test"), data.load("test"))
    two = Patterns(replace(data, shapes=data.shapes[1:])).load("train")
    assert two.observed[::5].tolist() == [[True, False], [False, True], [True, True]]


# Seeds ------------------------------------------------------------------------------------------------


def test_a_recipe_gets_another_seed_and_stays_what_it_is() -> None:
    data = Clips(rho=0.5, n_train=9, seed=1)
    assert seeded(data, 7) == replace(data, seed=7)
    assert seeded(seeded(data, 7), 1) == data and data.seed == 1
    assert seeded(Sequences(data), 3) == Sequences(data, 3)


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 9])
def test_of_real_actions_another_subject_is_held_out(seed: int) -> None:
    found = seeded(Actions(source="real"), seed)
    assert (found.seed, found.held_out) == (seed, SUBJECTS[seed % 4])
    inner: Any = seeded(Seen(Actions(source="real", steps=1)), seed)
    assert isinstance(inner, Seen) and inner.actions == replace(found, steps=1)
    made = seeded(Seen(Actions(n_train=9)), seed)
    assert made == Seen(Actions(n_train=9, seed=seed)), "procedural subjects are not held out"


def test_seen_actions_are_means_of_squares_of_pixels() -> None:
    actions = Actions(n_train=3, n_val=3, n_test=3)
    whole, seen = actions.clips("test"), Seen(actions).load("test")
    for name, x in whole.x.items():
        assert seen.x[name].shape == (*x.shape[:3], x.shape[3] // 2, x.shape[4] // 2)
        square = x[1, 0, 2, 4:6, 6:8]
        assert float(seen.x[name][1, 0, 2, 2, 3]) == pytest.approx(float(square.mean()), abs=1e-6)
    assert seen.y is not None and torch.equal(seen.y, whole.y)
    assert Seen(actions, pool=1).load("test").x["depth"].equal(whole.x["depth"])
