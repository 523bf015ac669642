"""The focusing labs retrain the published numbers, and only them decide what is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labkit.live import focusing
from labkit.live.lab import Lab
from labkit.live.pictures import metrics


@pytest.fixture(params=[focusing.gamma, focusing.alpha], ids=["gamma", "alpha"])
def lab(request: pytest.FixtureRequest) -> Lab:
    made: Lab = request.param()
    return made


def test_the_curve_of_alpha_is_figure_3() -> None:
    shown = focusing.alpha().flush()["accuracy over alpha"]
    lines = {line["name"]: line["y"].tolist() for line in shown["lines"]}
    np.testing.assert_allclose(shown["x"], [0, 1 / 2, 2 / 3, 3 / 4, 4 / 5], rtol=1e-6)
    assert lines["teacher"] == pytest.approx([57.95, 64.17, 71.58, 77.80, 88.76], abs=0.1)
    assert lines["student"] == pytest.approx([58.51, 58.30, 58.22, 57.72, 57.15], abs=0.1)
    assert lines["alone"] == pytest.approx([57.28] * 5, abs=0.1)


def test_the_released_hyperplane_gives_what_the_released_script_prints() -> None:
    lab = focusing.gamma()
    lab.set(hyperplane="randn", amount=8)
    assert lab.metrics["teacher"] == pytest.approx(76.37, abs=0.1)
    assert lab.metrics["student"] == pytest.approx(70.94, abs=0.1)
    assert lab.metrics["gain"] == pytest.approx(1.53, abs=0.1)
    assert lab.metrics["sd of the gain"] == pytest.approx(1.14, abs=0.2)
    assert len(lab.flush()["right answers"]["marks"]) == 0  # no limit is known there


def test_the_marker_stands_where_the_slider_does_and_the_curve_passes_there(lab: Lab) -> None:
    of = lab.spec["name"]
    for amount in (0, 10):
        lab.set(amount=amount)
        shown = lab.flush()
        curve = shown[f"accuracy over {of}"]
        point = np.flatnonzero(np.isclose(curve["x"], curve["marker"]))
        assert len(point) == 1
        for line, bar in zip(curve["lines"], shown["right answers"]["values"], strict=True):
            assert line["y"][point[0]] == pytest.approx(100 * bar, abs=0.01)


def test_a_state_gives_the_same_bits_twice_and_every_control_changes_something(lab: Lab) -> None:
    start = replace(lab.now, runs=3)
    first = metrics(lab.compute(start))
    changes = {"labels": 0.5, "teacher": 0.0, "temperature": 3.0, "reduction": "batchmean",
               "hyperplane": "randn", "runs": 4, "amount": 9}  # fmt: skip
    assert changes.keys() == {control["name"] for control in lab.spec["controls"]}
    for name, value in changes.items():
        assert metrics(lab.compute(replace(start, **{name: value}))) != first, name
    assert metrics(lab.compute(start)) == first


def test_without_weight_on_the_teacher_there_is_only_chance_in_the_gain() -> None:
    """First weights differ, what is learnt does not: within a fifth of a point."""
    lab = focusing.gamma()
    lab.set(teacher=0.0)
    assert abs(lab.metrics["gain"]) < 0.2


def test_strips_show_who_sees_what() -> None:
    lab = focusing.gamma()
    lab.set(amount=4)
    a, b = lab.flush()["channels of a and b"]["pixels"][:, 0, 0, ::4]
    assert [int(v) for v in a[:16]] == [40] * 6 + [255] * 4 + [140] * 6
    assert [int(v) for v in b[:12]] == [140] * 6 + [255] * 4 + [40] * 2
    assert (a[25:] == 0).all()  # a has 25 channels, b 50
