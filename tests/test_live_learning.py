"""A model that learns while its lab stays alive."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from labkit import weights
from labkit.data.digits import Digits
from labkit.live import fusion
from labkit.live.lab import Lab
from labkit.train import TrainConfig

SMALL = replace(
    weights.SHIPPED["mvae2"],
    data=Digits(n_train=640, n_val=10, n_test=60),
    fit=TrainConfig(3, 64, 2e-3),
)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(
        Lab, "send", lambda self, content, buffers=None: found.append((content, buffers))
    )
    return found


def opened(recipe: weights.Recipe = SMALL) -> Lab:
    lab = fusion.missing_modalities(weights.load("mvae2"), recipe.data.load("test"), recipe=recipe)
    assert lab.learner is not None
    lab.learner.every = 0.0
    return lab


def test_snapshots_come_while_it_learns_and_the_last_is_the_trained_model(sent: list[Any]) -> None:
    lab = opened(replace(SMALL, data=replace(SMALL.data, n_train=192)))
    before, pictures = lab.assets, lab.pictures
    lab._receive(lab, {"type": "train"}, [])
    assert lab.learner.running
    lab._receive(lab, {"type": "train"}, [])  # a second press changes nothing
    assert threading.active_count() < 40
    assert lab.learner.wait(120)
    snapshots = [buffers[0] for content, buffers in sent if content["type"] == "weights"]
    assert len(snapshots) == 3 * 3 + 1  # before every step, and at the end
    assert len(set(snapshots)) == len(snapshots)
    assert all(len(one) == len(before.buffer) for one in snapshots)  # what the page can swap in
    assert lab.assets.manifest == before.manifest
    assert lab.pictures != pictures
    assert lab.progress == {"running": False, "text": "Trained: 9 steps."}
    learned = lab.learner.model
    ours = lab.flush()["label"]["values"]
    assert (ours == lab.learner.rebuild(learned.eval())[0](lab.now)["label"]["values"]).all()


def test_stop_ends_it_and_closing_the_lab_does_too(sent: list[Any]) -> None:
    lab = opened(replace(SMALL, fit=TrainConfig(500, 64, 1e-3)))
    for end in (lambda: lab._receive(lab, {"type": "stop"}, []), lab.close):
        lab.learner.start(lab)
        assert lab.learner.running
        end()
        assert lab.learner.wait(60)
    lab = opened(replace(SMALL, fit=TrainConfig(500, 64, 1e-3)))
    lab.learner.start(lab)
    lab.learner.stop()
    assert lab.learner.wait(60)
    assert lab.progress["text"].startswith("Stopped")


def test_a_training_that_fails_says_so_in_the_box(sent: list[Any]) -> None:
    lab = opened()
    lab.learner.data = lambda: Digits(n_train=0).load("train")
    lab.learner.start(lab)
    assert lab.learner.wait(60)
    assert lab.error.startswith("Training failed: ValueError: n_train must be")
    assert not lab.progress["running"]


def test_probing_goes_on_meanwhile(sent: list[Any]) -> None:
    lab = opened(replace(SMALL, fit=TrainConfig(500, 64, 1e-3)))
    lab.learner.start(lab)
    for digit in range(10):
        ask = {"type": "ask", "view": "v", "seq": digit, "state": {**lab.state, "digit": digit}}
        lab._receive(lab, ask, [])
    lab.learner.stop()
    assert lab.learner.wait(60)
    answers = [content for content, _ in sent if content["type"] == "answer"]
    assert [content["seq"] for content in answers] == list(range(10))
    assert all("error" not in content for content in answers)
