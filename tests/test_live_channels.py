"""The labs of Algorithm 1: what they show is what the study measures, and only the state decides it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labkit.focusing.gaussian import general_teacher
from labkit.live import channels
from labkit.live.lab import Lab


@pytest.fixture(params=[channels.microscope, channels.surgeon], ids=["microscope", "surgeon"])
def lab(request: pytest.FixtureRequest) -> Lab:
    made: Lab = request.param()
    return made


def test_the_running_mean_approaches_the_formula() -> None:
    lab = channels.microscope()
    lab.set(permutations=100)
    few, many = (abs(float(v)) for v in _errors(lab)[[0, -1]])
    assert many < max(few, 0.02)
    assert lab.metrics["score"] == pytest.approx(lab.metrics["formula"], abs=0.02)
    scores = channels._pair(10, 10, 1.0, 42).scores
    assert lab.metrics["formula"] == pytest.approx(float(scores[3]))
    assert lab.metrics["AUC"] >= 0.98


def _errors(lab: Lab) -> np.ndarray:
    mean, formula = lab.flush()["mean over permutations"]["lines"]
    return np.asarray(mean["y"] - formula["y"])


def test_permuting_moves_the_teacher_alone_and_only_by_its_weight() -> None:
    lab = channels.microscope()
    shown = lab.flush()["teacher (right) and student (up), permuted"]
    np.testing.assert_array_equal(shown["points"][:, 1], shown["samples"][:, 1])  # the student's
    pair = channels._pair(10, 10, 1.0, 42)
    order = channels._order(200, 42, 0)
    moved = pair.z.clone()
    moved[:, 3] = pair.z[order, 3]
    after = pair.a + pair.weight @ (moved - pair.z).T
    np.testing.assert_allclose(shown["points"][:, 0], (after[1] - after[0]).numpy(), atol=1e-5)


@pytest.mark.slow
def test_without_the_distance_weights_know_nothing() -> None:
    lab, found = channels.microscope(), []
    for seed in (42, 43, 44, 45):
        lab.set(seed=seed, distance=0.0)
        blind = lab.metrics["AUC by weight"]
        lab.set(distance=1.0)
        found.append((blind, lab.metrics["AUC by weight"], lab.metrics["AUC"]))
    blind, seen, auc = np.mean(found, 0)
    assert blind == pytest.approx(0.5, abs=0.2)
    assert seen > 0.95
    assert auc >= 0.98


@pytest.mark.slow
def test_the_surgeon_finds_table_2() -> None:
    lab = channels.surgeon()
    regular = lab.metrics
    table = general_teacher(10, 10, range(10))
    for way in ("truth", "algorithm"):
        lab.set(kept=10, way=way)
        for model in ("teacher", "student"):
            assert lab.metrics[model] == pytest.approx(np.mean(table[way][model]), abs=0.1), way
    for way in ("truth", "random"):
        lab.set(kept=50, way=way)
        assert lab.metrics["teacher"] == pytest.approx(regular["teacher"], abs=0.1)
    shown = lab.flush()
    assert shown["kept"]["values"].tolist() == [1, 1]
    assert shown["the teacher"]["lines"][0]["y"][-1] == pytest.approx(
        lab.metrics["teacher"], abs=1e-3
    )


@pytest.mark.slow
def test_every_control_changes_something_and_a_state_gives_the_same_bits(lab: Lab) -> None:
    start, first = dict(lab.state), lab.metrics
    changes = {"channel": 15, "permutations": 3, "distance": 0.3, "both": 12, "only_a": 8, "seed": 1,
               "kept": 12, "way": "random", "runs": 4}  # fmt: skip
    controls = [control["name"] for control in lab.spec["controls"]]
    assert set(controls) <= changes.keys()
    before = first
    if "way" in controls:
        lab.set(kept=12)
        start, before = dict(lab.state), lab.metrics
    for name in controls:
        if name != "kept":
            lab.set(**{name: changes[name]})
            assert lab.metrics != before, name
            lab.state = start
    assert lab.metrics == before


def test_kinds_and_saliency() -> None:
    assert [channels.kind_of(d, 10, 10) for d in (0, 9, 10, 19, 20, 49)] == [0, 0, 1, 1, 2, 2]
    shown = channels.microscope().flush()["saliency of every channel"]
    total = np.sum([line["y"] for line in shown["lines"]], 0)
    assert total.min() >= 0 and total.max() == 1
    assert (shown["lines"][0]["y"][10:] == 0).all()
    assert torch.equal(channels._order(7, 1, 2).sort().values, torch.arange(7))
