"""The labs of Algorithm 1: what they show is what the study measures, and only the state decides it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from labkit.data.gaussians import Venn, narrowed
from labkit.focusing.channels import surgery
from labkit.focusing.gaussian import general_teacher
from labkit.live import channels
from labkit.live.lab import Lab
from labkit.live.pictures import Picture, metrics
from labkit.models import mfh

CHANGES: dict[str, Any] = {
    "channel": 15, "permutations": 3, "distance": "0.3", "both": 12, "only_a": 8, "seed": 1,
    "kept": 12, "way": "random", "runs": 4,
}  # fmt: skip


@pytest.fixture(params=["microscope", "surgeon?kept=10&runs=3"], ids=["microscope", "surgeon"])
def lab(request: pytest.FixtureRequest) -> Lab:
    line: str = request.param
    made: Lab = getattr(channels, line.split("?")[0])([line])
    return made


def look(**state: Any) -> dict[str, Picture]:
    return dict(channels.look_pictures(channels.Look(**state)))


def cut(**state: Any) -> dict[str, Picture]:
    return dict(channels.cut_pictures(channels.Cut(**state)))


# The microscope ----------------------------------------------------------------------------------


def test_as_published_the_score_tells_shared_channels_from_all_others() -> None:
    found = [metrics(look(seed=seed)) for seed in range(42, 47)]
    assert np.mean([each["AUC"] for each in found]) >= 0.98
    assert np.mean([each["AUC decisive"] for each in found]) >= 0.98


def test_the_running_mean_approaches_the_formula() -> None:
    shown = look(permutations=100)
    mean, formula = (line["y"] for line in shown["mean over permutations"]["lines"])
    assert abs(mean[-1] - formula[-1]) < 0.02
    found, pair = metrics(shown), channels._pair(10, 10, 1.0, 42)
    assert found["score"] == pytest.approx(mean[-1])
    assert found["formula"] == pytest.approx(float(pair.scores[3]))
    errors = []
    for seed in range(42, 46):
        mean, formula = (
            line["y"]
            for line in look(seed=seed, permutations=100)["mean over permutations"]["lines"]
        )
        errors.append(np.abs(mean - formula)[[0, -1]])
    first, last = np.mean(errors, 0)
    assert last < first / 2


@pytest.mark.parametrize("channel", [3, 15, 40])  # shared, the teacher's own, noise
def test_permuting_moves_the_teacher_alone_and_only_by_its_weight(channel: int) -> None:
    shown = look(channel=channel)["teacher (right), student (up); dots: before"]
    np.testing.assert_array_equal(shown["points"][:, 1], shown["samples"][:, 1])  # the student's
    assert (shown["points"][:, 0] != shown["samples"][:, 0]).any()
    pair, order = channels._pair(10, 10, 1.0, 42), channels.permutation(200, 42, 0)
    moved = pair.z.clone()
    moved[:, channel] = pair.z[order, channel]
    after = pair.a + pair.weight @ (moved - pair.z).T
    np.testing.assert_allclose(shown["points"][:, 0], (after[1] - after[0]).numpy(), atol=1e-5)


@pytest.mark.slow
def test_without_the_distance_weights_know_nothing() -> None:
    seeds = range(42, 46)
    blind, seen = (
        np.mean([metrics(look(seed=s, distance=d))["AUC by weight"] for s in seeds])
        for d in ("0", "1")
    )
    assert blind == pytest.approx(0.5, abs=0.2)
    assert seen > 0.95


def test_auc_is_that_of_scikit_learn() -> None:
    scores = torch.rand(30, generator=torch.Generator().manual_seed(0)).mul(9).round()  # with ties
    assert channels.auc(scores, 8) == pytest.approx(roc_auc_score(torch.arange(30) < 8, scores))


def test_kinds_and_saliency() -> None:
    assert [channels.kind_of(d, 10, 10) for d in (0, 9, 10, 19, 20, 49)] == [0, 0, 1, 1, 2, 2]
    values = np.stack([line["y"] for line in look()["saliency of every channel"]["lines"]])
    assert (np.isfinite(values).sum(0) == 1).all()  # every channel is of one kind
    assert np.nanmin(values) == 0 and np.nanmax(values) == 1
    assert np.isfinite(values).argmax(0).tolist() == [0] * 10 + [1] * 10 + [2] * 30
    assert torch.equal(channels.permutation(7, 1, 2).sort().values, torch.arange(7))


# The surgeon -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["truth", "algorithm", "random"])
def test_all_counts_at_once_are_one_after_the_other(way: str) -> None:
    """Rows of one descent, and a teacher trained on what `narrowed` leaves: a sample in a thousand."""
    theatre, order = channels._theatre(10, 10, 3), channels._order(10, 10, 3, way)
    counts = (4, 10, 50)
    found = channels._operated(10, 10, 3, way, counts)
    for i, count in enumerate(counts):
        train, test = (narrowed(d, order[:, :count]) for d in (theatre.train, theatre.test))
        wanted = mfh.crossmodal(train, range(3)).accuracies(test)
        for who in ("teacher", "student"):
            np.testing.assert_allclose(found[who][:, i], 100 * wanted[who][:, 0], atol=0.11)


@pytest.mark.slow
def test_the_surgeon_finds_table_2() -> None:
    table = general_teacher(10, 10, range(10))
    for way in ("truth", "algorithm", "random"):
        found, whole = (metrics(cut(kept=kept, way=way)) for kept in (10, 50))
        for who in ("teacher", "student"):
            assert found[who] == pytest.approx(np.mean(table[way][who]), abs=0.1), way
            assert whole[who] == pytest.approx(np.mean(table["regular"][who]), abs=0.1), way
    gain = np.subtract(table["regular"]["student"], table["regular"]["alone"])
    assert metrics(cut())["gain"] == pytest.approx(gain.mean(), abs=0.1)
    # What the question says.
    asked = channels.surgeon().spec["question"]
    before, after = metrics(cut()), metrics(cut(**asked["then"]))
    assert (round(before["teacher"]), round(after["teacher"])) == (89, 73)
    assert round(after["student"] - before["student"]) == 2
    assert asked["options"][asked["answer"]] == "gains two points"


@pytest.mark.slow
def test_the_curves_are_those_of_the_study_and_pass_where_the_marker_stands() -> None:
    study = surgery(Venn(10, 10, 0), channels.POINTS, range(3))["algorithm"]
    shown = cut(runs=3, kept=12)
    teacher, gain = (
        shown[view]["lines"][0]["y"] for view in ("the teacher", "what its student gains")
    )
    np.testing.assert_allclose(teacher, np.mean(study["teacher"], 1), atol=0.1)
    gains = np.subtract(study["student"], study["alone"]).mean(1)
    np.testing.assert_allclose(gain, gains, atol=0.15)  # theirs alone has other first weights
    at = channels.POINTS.index(shown["the teacher"]["marker"])
    assert teacher[at] == pytest.approx(metrics(shown)["teacher"], abs=1e-3)
    assert gain[at] == pytest.approx(metrics(shown)["gain"], abs=1e-3)


def test_bars_say_what_is_kept_and_what_is_possible() -> None:
    shown = cut(runs=3, way="truth", kept=12)
    assert shown["channels kept, by kind"]["values"] == pytest.approx([1, 0.2, 0])
    best = "right answers; ticks: the best possible"
    half = Venn(10, 10, 0).bayes("b")  # it sees ten of twenty
    np.testing.assert_allclose(shown[best]["marks"][1:], half, rtol=1e-6)
    assert cut(runs=3, way="truth", kept=10)[best]["marks"] == pytest.approx([half] * 3)
    for kept in (12, 20):  # a twentieth more of the latents: an upper bound, with room for chance
        shown = cut(runs=3, way="truth", kept=kept)
        assert (shown[best]["values"] < shown[best]["marks"] + 0.01).all()
    full = cut(runs=3, both=20, only_a=30, way="truth")  # no noise is left
    assert full["channels kept, by kind"]["values"].tolist() == [1, 1, 0]


# Both --------------------------------------------------------------------------------------------


def test_a_state_gives_the_same_bits_twice_and_every_control_changes_something(lab: Lab) -> None:
    start, first = dict(lab.state), lab.metrics
    assert {control["name"] for control in lab.spec["controls"]} <= CHANGES.keys()
    for control in lab.spec["controls"]:
        lab.set(**{control["name"]: CHANGES[control["name"]]})
        assert lab.metrics != first, control["name"]
        lab.state = start
    for cache in (channels._pair, channels._theatre, channels._order, channels._operated):
        cache.cache_clear()
    assert lab.metrics == first


def test_every_corner_is_a_state(lab: Lab) -> None:
    """The ranges fit into 50 channels together; stills and travelling pictures bear a kind that is empty."""
    controls = {control["name"]: control for control in lab.spec["controls"]}
    few = {"kept": 1} if "kept" in controls else {"channel": 49, "permutations": 1}
    for end in ("low", "high"):
        lab.set(**few, **{name: controls[name][end] for name in ("both", "only_a")})
        assert all(np.isfinite(value) for value in lab.metrics.values())
        assert lab.error == ""
    assert "image/png" in lab._repr_mimebundle_()[0]["text/html"]
