"""Scores of sentiment: known answers, the field's own formulas, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from labkit.metrics_sentiment import binary_scores, sentiment_majority, sentiment_scores

TRUTH = torch.tensor([-1.0, 0.0, 1.0, 2.0])
PREDICTION = torch.tensor([-0.2, 0.1, -0.1, 2.6])


def test_known_answers() -> None:
    scores = sentiment_scores(PREDICTION, TRUTH)
    assert scores["acc2_nonzero"] == 2 / 3
    assert scores["acc2_has_zero"] == 3 / 4
    assert scores["acc7"] == 1 / 4
    assert scores["mae"] == pytest.approx(0.65, abs=1e-7)
    # Truth - + +, prediction - - +: both classes have F1 = 2/3.
    assert scores["f1_nonzero"] == pytest.approx(2 / 3)
    # Truth - + + +, prediction - + - +: 2/3 for one negative, 4/5 for three.
    assert scores["f1_has_zero"] == pytest.approx((2 / 3 + 3 * 4 / 5) / 4)
    # Rounded, clipped to 2: 0 0 0 2 against -1 0 1 2; clipped to 1: 0 0 0 1 against -1 0 1 1.
    assert scores["acc5"] == scores["acc3"] == 2 / 4
    assert scores["corr"] == pytest.approx(np.corrcoef(PREDICTION, TRUTH)[0, 1], abs=1e-7)


def test_steps_are_rounded_half_to_even_and_clipped_before() -> None:
    prediction = torch.tensor([2.5, -0.5, 0.5, 1.5, -9.0, 3.4])
    truth = torch.tensor([2.0, 0.0, 0.0, 2.0, -3.0, 3.0])
    scores = sentiment_scores(prediction, truth)
    assert scores["acc7"] == scores["acc5"] == 1
    assert sentiment_scores(torch.tensor([2.5]), torch.tensor([3.0]))["acc7"] == 0


def test_a_prediction_of_exactly_0_is_negative_without_zeros_and_not_negative_with_them() -> None:
    for truth, nonzero, has_zero in ((1.0, 0.0, 1.0), (-1.0, 1.0, 0.0)):
        scores = sentiment_scores(torch.zeros(2), torch.full((2,), truth))
        assert (scores["acc2_nonzero"], scores["acc2_has_zero"]) == (nonzero, has_zero)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 60), dtype=st.sampled_from(["f4", "f8"]))
def test_the_fields_own_formulas_agree(seed: int, n: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    truth = (random.integers(-9, 10, n) / 3).astype(dtype)
    truth[0] = 1
    prediction = (truth + random.normal(0, 2, n)).astype(dtype)
    scores = sentiment_scores(torch.from_numpy(prediction), torch.from_numpy(truth))
    there = truth != 0
    for name, said, true in (
        ("nonzero", prediction[there] > 0, truth[there] > 0),
        ("has_zero", prediction >= 0, truth >= 0),
    ):
        assert scores[f"acc2_{name}"] == pytest.approx(accuracy_score(true, said))
        assert scores[f"f1_{name}"] == pytest.approx(f1_score(true, said, average="weighted"))
    for most in (3, 2, 1):
        steps = [np.round(np.clip(values, -most, most)) for values in (prediction, truth)]
        assert scores[f"acc{2 * most + 1}"] == pytest.approx((steps[0] == steps[1]).mean())
    assert scores["mae"] == pytest.approx(np.abs(prediction - truth).mean(), rel=1e-5)
    if np.ptp(truth):
        correlation = np.corrcoef(prediction.astype("f8"), truth.astype("f8"))[0, 1]
        assert scores["corr"] == pytest.approx(correlation, abs=1e-9)


def test_a_constant_has_no_correlation() -> None:
    for prediction, truth in ((torch.full((4,), 0.3), TRUTH), (PREDICTION, torch.ones(4))):
        scores = sentiment_scores(prediction, truth)
        assert math.isnan(scores.pop("corr"))
        assert not any(math.isnan(value) for value in scores.values())


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (PREDICTION, TRUTH[:3], r"prediction and truth must have one shape \(N,\).*\(4,\).*\(3,\)"),
        (PREDICTION[:, None], TRUTH[:, None], r"one shape \(N,\)"),
        (TRUTH[:0], TRUTH[:0], "N >= 1"),
        (
            torch.tensor([0.0, math.nan, 1, 2]),
            TRUTH,
            "prediction holds 1 numbers that are not finite",
        ),
        (PREDICTION, torch.tensor([0.0, math.inf, math.nan, 2]), "truth holds 2 numbers"),
        (PREDICTION, torch.zeros(4), "truth must hold a number other than 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    prediction: torch.Tensor, truth: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sentiment_scores(prediction, truth)


def test_majority_of_the_training_samples_and_of_the_held_out_ones() -> None:
    train = torch.tensor(
        [-1.0, -2.0, 0.0, 0.0, 3.0]
    )  # without zeros mostly negative, with them not
    truth = torch.tensor([1.0, 1.0, 0.0, -1.0])
    assert sentiment_majority(train, truth) == {
        "acc2_nonzero": pytest.approx(1 / 3),
        "held_out_nonzero": pytest.approx(2 / 3),
        "acc2_has_zero": 3 / 4,
        "held_out_has_zero": 3 / 4,
    }
    constant = sentiment_scores(torch.full((4,), -1.0), truth)
    assert constant["acc2_nonzero"] == pytest.approx(1 / 3)
    assert constant["f1_nonzero"] < 1 / 3
    for wrong in (torch.zeros(3), torch.tensor([math.nan]), train[:0]):
        with pytest.raises(ValueError, match="train"):
            sentiment_majority(wrong, truth)


def test_binary_scores_take_logits_and_labels() -> None:
    y = torch.tensor([1, 1, 1, 0])
    labels = torch.tensor([1, 0, 1, 0])
    logits = torch.nn.functional.one_hot(labels, 2).float() - 5
    expected = {
        "accuracy": 3 / 4,
        "f1": pytest.approx(f1_score(y, labels, average="weighted")),
        "majority": 3 / 4,
    }
    assert binary_scores(labels, y) == binary_scores(logits, y) == expected
    assert binary_scores(1 - y, 1 - y) == {"accuracy": 1, "f1": 1, "majority": 3 / 4}


@given(seed=st.integers(0, 10**6), n=st.integers(1, 50))
def test_binary_scores_are_sklearns(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    y, labels = random.integers(0, 2, (2, n))
    scores = binary_scores(torch.from_numpy(labels), torch.from_numpy(y))
    assert scores["accuracy"] == pytest.approx(accuracy_score(y, labels))
    assert scores["f1"] == pytest.approx(f1_score(y, labels, average="weighted"))


@pytest.mark.parametrize(
    ("prediction", "y", "message"),
    [
        (
            torch.zeros(4, 3),
            torch.ones(4).long(),
            r"shape \(4, 2\) and no NaN; got .*\(4, 3\), 0 NaN",
        ),
        (torch.zeros(4), torch.ones(4).long(), r"shape \(4, 2\)"),
        (torch.full((4, 2), math.nan), torch.ones(4).long(), "8 NaN"),
        (torch.ones(3).long(), torch.ones(4).long(), "prediction must be int64 labels"),
        (torch.ones(4).long(), torch.ones(4), "y must be int64 labels"),
        (torch.ones(0).long(), torch.ones(0).long(), "B >= 1"),
        (
            torch.ones(4).long(),
            torch.tensor([0, 1, 2, -1]),
            r"y must hold 0 and 1, got \[-1, 0, 1, 2\]",
        ),
    ],
)
def test_what_is_not_binary_is_refused(
    prediction: torch.Tensor, y: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        binary_scores(prediction, y)
