"""Batch refuses what is wrong, and the missing patterns and the noise are exactly what they claim."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.batch import (
    Batch,
    add_noise,
    bernoulli,
    exact_rate,
    per_class,
    subset_name,
    subsets,
)
from labkit.missing import measure
from labkit.models import mfh_networks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(rows: int = 6, **changes) -> Batch:
    g = generator()
    parts = {
        "x": {
            "image": torch.rand(rows, 4, 4, generator=g),
            "sound": torch.rand(rows, 3, generator=g),
        },
        "y": torch.arange(rows) % 2,
        "factors": {"slant": torch.randn(rows, generator=g)},
    }
    return Batch(**{**parts, **changes})


# What a Batch is -----------------------------------------------------------------------------


def test_everything_is_observed_unless_said():
    assert batch().observed.all() and batch().observed.shape == (6, 2)
    assert batch().modalities == ("image", "sound") and len(batch()) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_may_be_numbers(dtype):
    y = torch.linspace(-3, 3, 6, dtype=dtype)
    whole = batch(y=y)
    assert torch.equal(whole[2:4].y, y[2:4]) and whole.y.dtype == dtype
    assert torch.equal(whole.only("sound").to("cpu").y, y)


@pytest.mark.parametrize(
    "y", [torch.zeros(6, 3), torch.ones(6, 4, 5, dtype=torch.int64)], ids=["several", "pixels"]
)
def test_a_sample_may_have_several_numbers_or_a_label_a_pixel(y):
    whole = batch(y=y)
    assert torch.equal(whole[2:4].y, y[2:4])
    assert torch.equal(whole.only("sound").to("cpu").y, y)


@pytest.mark.parametrize("labels_of", [measure.labels_of, mfh_networks.labels_of])
def test_studies_of_classes_refuse_numbers(labels_of):
    assert torch.equal(labels_of(batch()), batch().y)
    with pytest.raises(ValueError, match=r"int64 class labels, got batch\.y of torch\.float32"):
        labels_of(batch(y=torch.zeros(6)))


@pytest.mark.parametrize(
    "index", [slice(1, 4), torch.tensor([1, 2, 3]), torch.arange(6).ge(1) & torch.arange(6).lt(4)]
)
def test_rows_are_chosen_in_every_part(index):
    whole, part = batch(), batch()[index]
    assert torch.equal(part.x["image"], whole.x["image"][1:4])
    assert torch.equal(part.y, whole.y[1:4]) and torch.equal(
        part.factors["slant"], whole.factors["slant"][1:4]
    )
    assert len(part) == 3


def test_only_and_drop_keep_the_order_asked_for():
    observed = torch.tensor([[True, False]] * 3 + [[True, True]] * 3)
    swapped = batch(observed=observed).only("sound", "image")
    assert swapped.modalities == ("sound", "image")
    assert torch.equal(swapped.observed, observed.flip(1))
    assert batch(observed=observed).drop("sound").modalities == ("image",)


def test_aligned_reorders_adds_what_is_absent_and_hides_what_is_missing():
    b = batch(observed=torch.tensor([[True, False]] * 6)).only("image")
    b = Batch({"sound": torch.full((6, 3), torch.nan), **b.x}, torch.tensor([[False, True]] * 6))
    aligned = b.aligned({"image": (4, 4), "sound": (3,), "text": (5,)})
    assert aligned.modalities == ("image", "sound", "text")
    assert aligned.observed.tolist() == [[True, False, False]] * 6
    assert torch.equal(aligned.x["sound"], torch.zeros(6, 3)) and aligned.x["text"].shape == (6, 5)


# What it refuses -------------------------------------------------------------------------------


def nan_at(row: int) -> dict:
    x = {"image": torch.zeros(6, 4, 4), "sound": torch.zeros(6, 3)}
    x["sound"][row, 1] = torch.nan
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": {}}, "non-empty dict"),
        ({"x": [torch.zeros(6, 2)]}, "non-empty dict"),
        ({"x": {"": torch.zeros(6, 2)}}, "non-empty strings"),
        ({"x": {"image": torch.zeros(6)}}, r"\(B, \.\.\.\)"),
        ({"x": {"image": torch.zeros(6, 2, dtype=torch.int64)}}, "floating-point"),
        ({"x": {"image": torch.zeros(6, 2), "sound": torch.zeros(5, 2)}}, "same number of rows"),
        ({"observed": torch.ones(6, 2)}, "bool tensor"),
        ({"observed": torch.ones(6, 3, dtype=torch.bool)}, r"shape \(6, 2\)"),
        ({"observed": torch.tensor([[True, True]] * 5 + [[False, False]])}, "row 5.*at least one"),
        ({"y": torch.zeros(6, dtype=torch.int32)}, "int64 class labels .* float32 .* got a int32"),
        ({"y": torch.zeros(6, dtype=torch.float16)}, "float32 or float64"),
        ({"y": torch.zeros(6, 1, 1)}, r"of shape \(B,\) or \(B, K\).*\(6, 1, 1\)"),
        ({"y": torch.zeros(6, 2, dtype=torch.int64)}, r"shape \(B,\) or \(B, H, W\).*\(6, 2\)"),
        (
            {"y": torch.tensor([[0.0, 1]] * 5 + [[0, torch.nan]])},
            "finite.*1 rows.*row 5, .0.0, nan",
        ),
        ({"y": torch.tensor([0.0, 1, 2, torch.nan, 4, torch.nan])}, "finite.*2 rows.*row 3, nan"),
        ({"y": torch.tensor([0.0, 1, 2, 3, 4, -torch.inf])}, "finite.*1 rows.*row 5, -inf"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, "6 rows"),
        ({"factors": {"slant": torch.zeros(4)}}, "slant must be a tensor with 6 rows"),
        ({"x": nan_at(4)}, "'sound'.*NaN.*row 4"),
    ],
)
def test_wrong_parts_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        batch(**changes)


def test_nan_is_allowed_where_nothing_is_observed():
    observed = torch.ones(6, 2, dtype=torch.bool)
    observed[4, 1] = False
    assert batch(x=nan_at(4), observed=observed).x["sound"].isnan().any()


def test_unknown_modality_is_named_with_the_known_ones():
    for call in (lambda b: b.only("smell"), lambda b: b.drop("smell"), lambda b: b.column("smell")):
        with pytest.raises(ValueError, match="'smell'.*image, sound"):
            call(batch())
    with pytest.raises(ValueError, match="'image'.*sound"):
        batch().aligned({"sound": (3,)})
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(4, 4\)"):
        batch().aligned({"sound": (3,), "image": (4, 5)})


def test_a_mask_may_hide_but_never_invent():
    partly = batch(observed=torch.tensor([[True, False]] * 6))
    with pytest.raises(ValueError, match="never invent"):
        partly.with_observed(torch.ones(6, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="nothing observed"):
        partly.only("sound")
    with pytest.raises(ValueError, match="one-dimensional"):
        batch()[3]


# Missing patterns --------------------------------------------------------------------------------


def test_subsets_are_all_of_them_by_size():
    three = subsets(3)
    assert three.int().tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 1, 0],
        [1, 0, 1],
        [0, 1, 1],
        [1, 1, 1],
    ]
    assert subset_name(three[4], ("a", "b", "c")) == "a+c"
    for m in (0, 17):
        with pytest.raises(ValueError, match="between 1 and 16"):
            subsets(m)


@given(m=st.integers(1, 8))
def test_powerset_has_every_nonempty_row_once(m):
    rows = {tuple(row) for row in subsets(m).tolist()}
    assert len(rows) == len(subsets(m)) == 2**m - 1 and (False,) * m not in rows


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 50), m=st.integers(1, 6), share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_exact_rate_is_exact_and_keeps_one(n, m, share, seed):
    rate = share * (m - 1) / m
    observed = exact_rate(n, m, rate, generator(seed))
    assert int((~observed).sum()) == min(round(rate * n * m), n * (m - 1))
    assert observed.any(1).all()
    assert torch.equal(observed, exact_rate(n, m, rate, generator(seed)))


def test_exact_rate_hides_all_modalities_alike():
    observed = exact_rate(30_000, 3, 0.5, generator())
    assert torch.allclose(
        observed.double().mean(0), torch.full((3,), 0.5, dtype=torch.float64), atol=0.015
    )  # 5 sd
    with pytest.raises(ValueError, match=r"0\.6667"):
        exact_rate(10, 3, 0.7, generator())


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    p=st.lists(st.floats(0, 0.99), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_bernoulli_never_empties_a_row(n, p, seed):
    observed = bernoulli(n, len(p), p, generator(seed))
    assert observed.shape == (n, len(p)) and observed.any(1).all()
    assert observed[:, [i for i, q in enumerate(p) if q == 0]].all()


def test_bernoulli_draws_from_the_conditional_distribution():
    """P(pattern | not empty) = prod p^hidden (1-p)^kept / (1 - prod p), pattern by pattern."""
    p, n = torch.tensor([0.2, 0.5, 0.8]), 60_000
    drawn = bernoulli(n, 3, p.tolist(), generator())
    for pattern in subsets(3):
        expected = torch.where(pattern, 1 - p, p).prod() / (1 - p.prod())
        share = (drawn == pattern).all(1).double().mean()
        assert abs(share - expected) < 5 * (expected * (1 - expected) / n) ** 0.5


def test_per_class_rates_follow_the_class():
    y = torch.arange(2).repeat(20_000)
    observed = per_class(y, torch.tensor([[0.0, 0.9], [0.9, 0.0]]), generator())
    assert observed[y == 0, 0].all() and observed[y == 1, 1].all()
    assert abs(observed[y == 0, 1].double().mean() - 0.1) < 0.011  # 5 sd


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: bernoulli(4, 2, 1.0, g), "nothing could ever be kept"),
        (lambda g: bernoulli(4, 2, -0.1, g), r"\[0, 1\]"),
        (lambda g: bernoulli(4, 2, float("nan"), g), r"\[0, 1\]"),
        (lambda g: per_class(torch.tensor([0, 2]), torch.zeros(2, 3), g), r"0\.\.1"),
        (lambda g: per_class(torch.tensor([0]), torch.zeros(3), g), "classes, modalities"),
    ],
)
def test_impossible_patterns_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(generator())


# Noise ------------------------------------------------------------------------------------------


def test_noise_has_the_size_asked_for():
    big = Batch({"a": 3 * torch.randn(4000, 50, generator=generator()), "b": torch.ones(4000, 2)})
    noisy = add_noise(big, {"a": 0.5}, generator(1))
    added = noisy.x["a"] - big.x["a"]
    assert abs(added.std() - 0.5 * big.x["a"].abs().mean()) < 0.01 * added.std() * 2
    assert torch.equal(noisy.x["b"], big.x["b"])


def test_noise_of_one_modality_does_not_depend_on_another():
    one = add_noise(batch(), {"sound": 0.3}, generator(1))
    both = add_noise(batch(), 0.3, generator(1))
    assert torch.equal(one.x["sound"], both.x["sound"]) and torch.equal(
        one.x["image"], batch().x["image"]
    )
    assert torch.equal(add_noise(batch(), 0.0, generator()).x["image"], batch().x["image"])


def test_noise_ignores_what_is_missing_and_refuses_nonsense():
    observed = torch.ones(6, 2, dtype=torch.bool)
    observed[4, 1] = False
    x = nan_at(4)
    x["sound"][:4] = 1.0
    assert (
        add_noise(batch(x=x, observed=observed), 0.1, generator()).x["sound"][:4].isfinite().all()
    )
    with pytest.raises(ValueError, match="'image' must be >= 0, got -1"):
        add_noise(batch(), -1, generator())
    with pytest.raises(ValueError, match="'smell'"):
        add_noise(batch(), {"smell": 1.0}, generator())
