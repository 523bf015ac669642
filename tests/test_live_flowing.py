"""Labs of flows by themselves, of masks and of all ways: known answers, and states that say all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from labkit.batch import subset_name, subsets
from labkit.live import flowing, masking
from labkit.live.lab import Lab
from labkit.live.pictures import metrics
from labkit.live.still import still
from labkit.recovering.measure import RATES
from labkit.recovering.plan import WAYS
from labkit.recovering.reading import DEPTHS, inverse_errors

NAMES = [subset_name(s, ["language", "audio", "vision"]) for s in subsets(3)]
FLOORS = {"majority": 22.0, "chance": 20.0}


def table(batches: bool = True) -> pd.DataFrame:
    """Two seeds: each way some points apart from the next; falls by 4 points a tenth, by 2 with batches."""
    rows = []
    for number, way in enumerate(WAYS):
        for seed in range(2):
            best = 80.0 - number + 2 * seed
            row: dict[str, Any] = {
                "way": way, "seed": seed, "fixed": [best - 10 + s for s in range(7)],
                "random": [[best - 4 * k + draw for draw in (-1, 1)] for k in range(len(RATES))],
                "realised": [min(rate, 2 / 3) for rate in RATES],
            }  # fmt: skip
            if batches:
                row["batches"] = [[best - 2 * (k or 7)] * 2 for k in range(len(RATES))]
                row["batches_realised"] = [2 / 3, *RATES[1:]]
            rows.append(row)
    return pd.DataFrame(rows)


LABS: dict[str, tuple[Callable[..., Lab], dict[str, Any]]] = {
    "half": (
        flowing.half,
        {"mixing": "reverse", "depth": 3, "scale": "bounded", "channel": 1, "seed": 4},
    ),
    "inverse": (
        flowing.inverse,
        {"doublings": 2, "precision": "float64", "kind": "released", "row": 3},
    ),
    "masks": (
        masking.masks,
        {"rule": "released batch rule", "rate": 0.41, "batch": 16, "seed": 3},
    ),
    "methods": (
        lambda states=(): masking.methods(table(), NAMES, FLOORS, states),
        {"tenths": 6, "at": "audio+vision", "protocol": "released batches"},
    ),
}


@pytest.mark.parametrize("name", LABS)
def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(name: str) -> None:
    build, changes = LABS[name]
    lab = build()
    assert lab.spec["name"] == name
    assert changes.keys() == {control["name"] for control in lab.spec["controls"]}
    lab.set(**changes)
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = build(states=[lab.line])
    assert again.line == lab.line
    assert again.metrics == lab.metrics
    assert all(control["help"] for control in lab.spec["controls"])
    for preset in lab.kind.PRESETS:
        assert lab.compute(lab.kind.preset(preset))
    guess = lab.spec["question"]
    assert guess["why"]
    lab.set(**guess["then"])
    assert still(lab.flush(), name)[:4] == b"\x89PNG"


# Half an identity ----------------------------------------------------------------------------------


def half(**state: Any) -> dict[str, float]:
    return metrics(flowing.half_pictures(flowing.Half(**state)))


@pytest.mark.parametrize("scale", ["bounded", "sigmoid"])
@pytest.mark.parametrize("depth", [1, 8, 32])
def test_with_no_mixing_half_passes_and_the_rest_is_straight(depth: int, scale: str) -> None:
    for channel in (0, 5, 7):
        found = half(mixing="none", depth=depth, scale=scale, channel=channel)
        assert found["pass unchanged"] == 4
        assert found["off a straight line"] < 1e-10


def test_mixed_channels_pass_no_more_and_bend() -> None:
    assert half(mixing="reverse", depth=1)["pass unchanged"] == 4, "the halves changed places"
    for mixing, depth in (("reverse", 2), ("orthogonal", 1), ("orthogonal", 32)):
        assert half(mixing=mixing, depth=depth)["pass unchanged"] == 0
    assert half(mixing="orthogonal", depth=32, scale="bounded")["off a straight line"] > 0.01


def test_a_channel_of_the_first_half_lies_on_the_diagonal_and_words_say_so() -> None:
    shown = flowing.half_pictures(flowing.Half(channel=2))
    x, z = shown["the channel before and after"]["samples"].T
    np.testing.assert_array_equal(x, z)
    assert "4 of 8 channels pass bit for bit" in shown["its latent as it alone moves"]["alt"]


def test_bend_is_the_largest_distance_from_the_chord() -> None:
    t = torch.linspace(0, 1, 101)
    assert flowing.bent(3 + 2 * t)[2] == pytest.approx(0, abs=1e-6)
    assert flowing.bent(t.square())[2] == pytest.approx(0.25, abs=1e-4)
    assert flowing.bent(-t)[2] == pytest.approx(0, abs=1e-6)


# There and back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ours", "released"])
def test_the_log_determinant_is_that_of_autograds_jacobian(kind: Any) -> None:
    for precision, bound in (("float32", 1e-4), ("float64", 1e-10)):
        shown = flowing.inverse_pictures(
            flowing.Inverse(kind=kind, precision=precision, doublings=5, row=7)
        )
        assert metrics(shown)["apart"] < bound
        total, autograd = (
            line["y"] for line in shown["log-determinant of a row of 4, step by step"]["lines"]
        )
        np.testing.assert_allclose(total, autograd, atol=1e-4)
        assert len(total) == DEPTHS[-1] and abs(total).max() > 0.1
        assert metrics(shown)["log-determinant"] == pytest.approx(float(total[-1]), rel=1e-5)


def test_the_error_is_that_of_the_study_at_the_marker() -> None:
    shown = flowing.inverse_pictures(flowing.Inverse(doublings=1, kind="released"))
    curve = shown["error of x, there and back"]
    assert curve["marker"] == 2
    (error,) = inverse_errors("released", torch.float32, (2,))
    assert metrics(shown)["error"] == error
    line = next(line for line in curve["lines"] if line["name"] == "released 32")
    assert line["y"][1] == pytest.approx(np.log10(error))


# Masks -----------------------------------------------------------------------------------------------


def masks(modalities: int = 3, **state: Any) -> dict[str, Any]:
    lab = masking.masks(modalities)
    lab.set(**state)
    return lab.flush()


def test_asked_for_nothing_the_released_rule_hides_two_thirds() -> None:
    shown = masks(rule="released batch rule", rate=0.0)
    found = metrics(shown)
    assert found["asked"] == 0
    assert found["realised"] == pytest.approx(2 / 3, abs=0.01)
    curve = shown["missing rate, asked and realised"]
    released = next(line for line in curve["lines"] if line["name"] == "released")
    assert released["y"][0] == pytest.approx(found["realised"])
    assert shown["rows that miss"]["values"].tolist() == pytest.approx([0, 0, 1])


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.6, 0.7])
def test_exact_is_exact_and_no_rule_leaves_nothing(rate: float) -> None:
    for rule in masking.RULES:
        found = metrics(masks(rule=rule, rate=rate))
        assert found["nothing left"] == 0
        if rule == "exact per sample":
            assert found["realised"] == pytest.approx(min(rate, 2 / 3), abs=1 / 600)
    assert metrics(masks(rule="Bernoulli", rate=0.7))["realised"] < 0.62, "drawn again: less"


def test_the_picture_is_white_where_a_modality_is_visible() -> None:
    shown = masks(rate=0.5)
    pixels = shown["what is visible (white), a row a column"]["pixels"]
    assert pixels.shape[:2] == (3, 1)
    assert (pixels[:, 0, 0] == 255).mean() == pytest.approx(1 - metrics(shown)["realised"])


def test_four_modalities_have_no_released_rule() -> None:
    shown = masks(4, rate=0.7)
    assert metrics(shown)["realised"] == pytest.approx(0.7, abs=1 / 800)
    assert len(shown["rows that miss"]["values"]) == 4
    lab = masking.masks(["accelerometer", "gyroscope", "skeleton", "depth"])
    assert lab.spec["question"] is None
    with pytest.raises(ValueError, match="rule must be one of exact per sample, Bernoulli"):
        lab.set(rule="released batch rule")


# All ways ---------------------------------------------------------------------------------------------


def test_bars_are_the_table_at_the_rate_or_subset() -> None:
    lab = masking.methods(table(), NAMES, FLOORS)
    lab.set(tenths=3)
    found, zeros = lab.metrics, 80.0 + 1  # the mean of two seeds
    assert found["zeros"] == pytest.approx(zeros - 12)
    assert found["spread"] == pytest.approx(np.sqrt(2)), "draws 1 apart, seeds 1 apart"
    lab.set(at="vision")
    index = NAMES.index("vision")
    assert lab.metrics["zeros"] == pytest.approx(zeros - 10 + index)
    bars = lab.flush()["right answers; ticks: the most frequent label"]
    assert bars["names"][0] == "zeros" and bars["names"][-2:] == ["oracle: class", "oracle: true"]
    assert bars["marks"].tolist() == pytest.approx([0.22] * len(WAYS))
    assert "with vision alone" in bars["alt"]


def test_the_released_rule_at_0_is_that_at_its_highest() -> None:
    lab = masking.methods(table(), NAMES, FLOORS)
    lab.set(tenths=0, protocol="released batches")
    lowest = lab.metrics["zeros"]
    lab.set(tenths=7)
    assert lab.metrics["zeros"] == lowest
    assert masking.methods(table(batches=False), NAMES, FLOORS).spec["controls"][2]["options"] == [
        "exact per sample"
    ]


def test_the_answer_to_the_question_is_the_best_of_the_table() -> None:
    assert masking.methods(table(), NAMES, FLOORS).spec["question"]["answer"] == 3, "zeros here"
    other = table()
    other.loc[other["way"] == "regression", "random"] = other["random"].map(
        lambda rates: [[95.0] * 2] * len(rates)
    )
    assert masking.methods(other, NAMES, FLOORS).spec["question"]["answer"] == 1
