"""Labs that read trained flows: they show what the study measures, and only the state decides it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labkit.data.affect import Affect
from labkit.live import judging, merging, recovering
from labkit.live.lab import Lab
from labkit.live.pictures import metrics
from labkit.live.still import still
from labkit.recovering import measure, plan, reading
from labkit.recovering.plan import Setting

CHANGES: dict[str, dict[str, Any]] = {
    "theatre": {"sample": 4, "language": False, "audio": True, "vision": True, "way": "half-identity"},
    "gap": {"feature": 3, "source": "audio", "target": "language", "way": "regression"},
    "classes": {"look": 1, "prior": "single prior", "modality": "audio"},
    "swap": {"source": "vision", "target": "language", "way": "regression"},
    "noise": {"level": 2.2, "source": "audio", "target": "language", "way": "regression"},
    "merge": {
        "weight": 0.3, "sample": 7, "first": "audio", "second": "vision", "target": "language",
        "way": "half-identity",
    },
}  # fmt: skip
BUILD: dict[str, Callable[..., Lab]] = {
    "theatre": recovering.theatre, "gap": recovering.gap, "classes": judging.classes,
    "swap": judging.swap, "noise": judging.noise, "merge": merging.merge,
}  # fmt: skip


pytestmark = pytest.mark.slow  # models are trained


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Sizes at which everything is trained in a few seconds, in a store of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    whole = plan.sentiment("smoke")
    yield replace(
        whole, data=Affect(n_train=150, n_val=20, n_test=40, shortest=6), fit=replace(whole.fit, epochs=2),
        flows=replace(whole.flows, epochs=2),
    )  # fmt: skip
    patch.undo()


@pytest.mark.parametrize("name", BUILD)
def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(
    setting: Setting, name: str
) -> None:
    lab = BUILD[name](setting, 0)
    assert lab.spec["name"] == name
    assert CHANGES[name].keys() == {control["name"] for control in lab.spec["controls"]}
    first = lab.metrics
    lab.set(**CHANGES[name])
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = BUILD[name](setting, 0, states=[lab.line])
    assert again.line == lab.line
    assert again.metrics == lab.metrics != first
    assert all(control["help"] for control in lab.spec["controls"])
    for values in lab.kind.PRESETS.values():
        assert {*values} <= CHANGES[name].keys()
    assert lab.spec["question"]["why"]
    lab.set(**lab.spec["question"]["then"])
    shown = lab.flush()
    assert still(shown, name)[:4] == b"\x89PNG"
    assert all(p["alt"] for p in shown.values() if p["kind"] != "figures")


def shown(lab: Lab, **state: Any) -> dict[str, Any]:
    return dict(lab.compute(lab.kind(**state)))


# The theatre -----------------------------------------------------------------------------------------


def test_with_everything_visible_what_is_filled_in_is_the_true_one(setting: Setting) -> None:
    lab = recovering.theatre(setting, 0)
    for way in ("class prior", "zeros"):
        found = shown(lab, language=True, audio=True, vision=True, sample=3, way=way)
        grid = found["features over time; framed: visible"]
        np.testing.assert_array_equal(grid["pixels"][0], grid["pixels"][1])
        assert grid["framed"].tolist() == [[1, 1, 1], [0, 0, 0]]
        assert metrics(found)["cosine"] == pytest.approx(1)
        assert metrics(found)["sliced Wasserstein"] == 0
        bars = found["predictor, filled in; ticks: all seen"]
        np.testing.assert_allclose(bars["values"], bars["marks"])
        assert bars["values"].sum() == pytest.approx(1, abs=1e-5)
        assert "nothing filled in from language, audio and vision" in bars["alt"]


def test_the_theatre_shows_what_the_study_measures(setting: Setting) -> None:
    gaps = measure.gaps(setting, "regression", 0)
    found = metrics(shown(recovering.theatre(setting, 0), way="regression"))
    assert found["judge"] == pytest.approx(np.mean(gaps["agreement"][0][1:]))
    assert found["sliced Wasserstein"] == pytest.approx(np.mean(gaps["swd"][0][1:]), rel=1e-4)
    assert found["cosine of all"] == pytest.approx(np.mean(gaps["cosine"][0][1:]), abs=0.05)


def test_what_stays_visible_is_not_touched_and_zeros_are_level(setting: Setting) -> None:
    found = shown(recovering.theatre(setting, 0), way="zeros", sample=5)
    pixels = found["features over time; framed: visible"]["pixels"]
    np.testing.assert_array_equal(pixels[0, 0], pixels[1, 0])
    y, length = recovering.split_of(setting, 0).y[5], recovering.split_of(setting, 0).valid[5].sum()
    level = pixels[1, 1][:, : 2 * int(length)]  # two pixels a step
    assert (level == level[:, :1]).all()
    assert (pixels[..., 2 * int(length) :] == 255).all(), "white after the end"
    assert f"{int(y)}, true" in found["trained on gaps; ticks: all seen"]["names"]


def test_nothing_visible_is_an_error_that_says_what_to_do(setting: Setting) -> None:
    lab = recovering.theatre(setting, 0)
    with pytest.raises(ValueError, match="tick at least one of language, audio, vision"):
        shown(lab, language=False)


def test_features_of_a_single_step_stand_side_by_side() -> None:
    zero, one = torch.zeros(1, 1, 1, 8), torch.ones(1, 1, 1, 8)
    split = recovering.Split(one, torch.tensor([[True]]), one, zero, one, zero, one)
    grey = recovering.strip(torch.linspace(0, 1, 8)[None], split, 0, 0)
    assert grey.shape == (16, 24)
    torch.testing.assert_close(grey[5, ::3], torch.linspace(0, 1, 8))


def test_of_many_classes_the_likeliest_and_the_true_one_have_bars() -> None:
    p = torch.linspace(0, 1, 27)
    assert recovering.likeliest([p], 2) == [2, 22, 23, 24, 25, 26]
    assert recovering.likeliest([p[:5]], 2) == [0, 1, 2, 3, 4]


# The gap ---------------------------------------------------------------------------------------------


def test_the_gap_shows_what_the_study_measures(setting: Setting) -> None:
    lab, gaps = recovering.gap(setting, 0), measure.gaps(setting, "class prior", 0)
    found = metrics(shown(lab, source="audio", target="language"))
    assert found["sliced Wasserstein"] == pytest.approx(gaps["swd"][1][0], rel=1e-4)
    ratios = [
        metrics(shown(lab, source="audio", target="language", feature=f))["spread"]
        for f in range(8)
    ]
    assert np.mean(ratios) == pytest.approx(gaps["spread"][1][0], rel=1e-4)


def test_densities_have_area_one_and_zeros_no_width(setting: Setting) -> None:
    lab = recovering.gap(setting, 0)
    curve = shown(lab)["density of the feature"]
    width = curve["x"][1] - curve["x"][0]
    assert curve["lines"][0]["y"].sum() * width == pytest.approx(1, abs=0.01)
    assert metrics(shown(lab, way="zeros"))["spread"] == 0
    for build in (recovering.gap, judging.swap, judging.noise):
        with pytest.raises(ValueError, match="audio is visible: choose another modality"):
            shown(build(setting, 0), source="audio", target="audio")


# Two sources -----------------------------------------------------------------------------------------


def test_the_ends_of_the_path_are_recovery_from_one_source_alone(setting: Setting) -> None:
    at = reading.opened(setting, "class prior", 0).part(slice(6, 7))
    path = merging.path_of(setting, "class prior", 0, 6, (0, 1), 2)
    for end, source in ((0, 0), (-1, 1)):
        alone = at.filled([m == source for m in range(3)])[2, 0]
        torch.testing.assert_close(path.x[end], alone, atol=1e-5, rtol=1e-5)
    model = plan.dicmor_of(plan.trained(setting, 0, "class prior"))
    middle = reading.between(model, at.seen, 0.5, (0, 1), 2)[0]
    torch.testing.assert_close(path.x[10], middle, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(path.read.sum(1), torch.ones(merging.STEPS))


def test_with_all_the_weight_on_one_source_both_mixtures_are_it(setting: Setting) -> None:
    lab = merging.merge(setting, 0)
    for weight, row in ((0.0, 0), (1.0, 3)):
        found = shown(lab, weight=weight, sample=6)
        assert metrics(found)["apart"] < 1e-5
        pixels = found["features over time; framed: latents mixed"]["pixels"][:, 0]
        assert np.abs(pixels[1].astype(int) - pixels[row]).max() <= 1
        assert np.abs(pixels[2].astype(int) - pixels[row]).max() <= 1
    assert metrics(shown(lab, weight=0.5, sample=6))["apart"] > 1e-3
    with pytest.raises(ValueError, match="two different sources and a third"):
        shown(lab, first="audio")
    two = replace(setting.predictor, modalities=setting.predictor.modalities[:2])
    with pytest.raises(ValueError, match="takes three modalities, got language and audio"):
        merging.merge(replace(setting, predictor=two), 0)


# Classes ---------------------------------------------------------------------------------------------


def test_the_plane_stays_while_the_training_is_scrubbed(setting: Setting) -> None:
    lab = judging.classes(setting, 0)
    planes = [shown(lab, look=look)["mean latents; ellipses: the prior"] for look in (0, 5)]
    assert planes[0]["center"] == planes[1]["center"]
    assert planes[0]["half"] == planes[1]["half"]
    assert np.abs(planes[0]["points"] - planes[1]["points"]).max() > 0.1
    assert len(planes[1]["points"]) == 3 * 40
    assert len(planes[1]["ellipses"]) == 5
    alone = shown(lab, modality="audio")["mean latents; ellipses: the prior"]
    np.testing.assert_allclose(alone["points"], planes[1]["points"][40:80], atol=1e-6)
    assert metrics(shown(lab, look=5))["epochs"] == reading.EPOCHS[5]


def test_ellipses_are_the_priors_moments_in_the_plane(setting: Setting) -> None:
    clouds = judging.clouds_of(setting, "class prior", 0)
    last = clouds.looks[-1]
    model = reading.learned(setting, "class prior", reading.EPOCHS[-1], 0)
    draws = torch.randn(40000, 8, generator=torch.Generator().manual_seed(0))
    rows = model.prior.mean[2] + draws * model.prior.log_sd.exp()[2]
    flat = (rows - clouds.centre) @ clouds.directions
    drawn = shown(judging.classes(setting, 0))["mean latents; ellipses: the prior"]["ellipses"][2]
    np.testing.assert_allclose(drawn["mean"], flat.mean(0), atol=0.03)
    np.testing.assert_allclose(drawn["sd"], flat.std(0), rtol=0.03)
    assert last.z.shape == (3, 40, 8)


def test_a_single_prior_tells_no_class_from_another(setting: Setting) -> None:
    found = shown(judging.classes(setting, 0), prior="single prior")
    plane = found["mean latents; ellipses: the prior"]
    assert [each["name"] for each in plane["ellipses"]] == ["prior"]
    assert metrics(found)["right"] < 50
    assert "tells no class from another" in plane["alt"]


def test_rows_of_a_confusion_sum_to_100_and_agreement_is_the_studys(setting: Setting) -> None:
    lab = judging.swap(setting, 0)
    matrix = judging.confusion(setting, "class prior", 0, 0, 2)
    np.testing.assert_allclose(matrix.sum(1), 100)
    gaps = measure.gaps(setting, "class prior", 0)
    found = shown(lab)
    assert metrics(found)["agreement"] == pytest.approx(gaps["agreement"][0][2])
    assert metrics(found)["of the true modality"] == pytest.approx(gaps["read"][2])
    assert metrics(found)["chance"] == 20
    grid = found["true class (down), read class (right); dark: often"]["pixels"]
    assert grid.shape[:2] == (5, 5)
    np.testing.assert_allclose(1 - grid[:, :, 0, 0] / 255, matrix / 100, atol=0.01)


def test_the_dial_stands_on_the_curves_of_the_study(setting: Setting) -> None:
    lab = judging.noise(setting, 0)
    study = reading.noisy(setting, "class prior", 0, (1.0,))
    found = shown(lab, level=1.0)
    for name, value in study.items():
        assert metrics(found)[name] == pytest.approx(value[0])
    between = metrics(shown(lab, level=1.25))["noisy alone"]
    ends = [metrics(shown(lab, level=level))["noisy alone"] for level in (1.0, 1.5)]
    assert between == pytest.approx(np.mean(ends))
    assert found["the modality alone"]["marker"] == 1.0


def test_recovery_is_better_from_where_it_stays_ahead() -> None:
    level = np.full(len(judging.LEVELS), 60.0)
    falling = 80 - 10 * np.array(judging.LEVELS)  # meets 60 at noise 2
    assert judging.crossing(falling, level) == pytest.approx(2.0)
    assert judging.crossing(falling - 5, level) == pytest.approx(1.5)
    assert judging.crossing(falling - 30, level) == 0
    assert judging.crossing(falling + 30, level) is None
    falling[-1] = 61.0
    assert judging.crossing(falling, level) is None, "ahead for a while is not ahead"


def test_questions_are_asked_where_their_answers_are_known(setting: Setting) -> None:
    lab = recovering.gap(setting, 0)
    assert lab.spec["question"] is not None
    assert (
        recovering.asked(plan.actions("smoke"), recovering.Question("?", ("a", "b"), 0, "!"))
        is None
    )
