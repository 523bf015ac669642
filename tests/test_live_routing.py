"""Labs of gates: they show what the study measures, and only the state decides it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from labkit.choosing import measure, plan, reading
from labkit.choosing.plan import Setting
from labkit.data.movies import Movies
from labkit.data.remarks import Remarks
from labkit.live import gating, routing
from labkit.live.lab import Lab
from labkit.live.pictures import metrics
from labkit.live.still import still
from labkit.models.gates import Relaxation, cost, relaxed

CHANGES: dict[str, dict[str, Any]] = {
    "routing": {"weight": 0.3, "free": False, "resource": "madds", "plane": "sureness"},
    "anatomy": {
        "temperature": 0.4, "relaxation": "hard", "gumbel": True, "draw": 3, "sample": 5, "weight": 0.02,
        "free": False,
    },
    "corrupt": {
        "level": 1.7, "modality": "image", "blank": False, "sample": 6, "weight": 0.02, "free": False,
    },
}  # fmt: skip
LEARNT: dict[str, Callable[..., Lab]] = {
    "routing": routing.routing, "anatomy": gating.anatomy, "corrupt": gating.corrupt,
}  # fmt: skip


pytestmark = pytest.mark.slow  # models are trained


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Sizes at which everything is trained in a few seconds, in a store of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    yield replace(
        plan.movies("smoke"), data=Movies(text_noise=0.9, n_train=500, n_val=100, n_test=200)
    )
    patch.undo()


@pytest.fixture(scope="module")
def speech(setting: Setting) -> Setting:
    """Sequences and classes, as small."""
    whole = plan.remarks("smoke")
    return replace(
        whole, data=Remarks(n_train=200, n_val=50, n_test=60), fit=replace(whole.fit, epochs=2),
        gates=replace(whole.gates, epochs=2),
    )  # fmt: skip


def shown(lab: Lab, **state: Any) -> dict[str, Any]:
    return dict(lab.compute(lab.kind(**state)))


@pytest.mark.parametrize("name", LEARNT)
def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(
    setting: Setting, name: str
) -> None:
    build = LEARNT[name]
    lab = build(setting, 0)
    assert lab.spec["name"] == name and not lab.error
    assert CHANGES[name].keys() == {control["name"] for control in lab.spec["controls"]}
    first = lab.metrics
    lab.set(**CHANGES[name])
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = build(setting, 0, states=[lab.line])
    assert again.line == lab.line
    assert again.metrics == lab.metrics != first
    assert all(control["help"] for control in lab.spec["controls"])
    for values in lab.kind.PRESETS.values():
        assert {*values} <= CHANGES[name].keys()
        lab.set(**values)
        assert not lab.error
    question = lab.spec["question"]
    assert question["why"] and 0 <= question["answer"] < len(question["options"])
    lab.set(**question["then"])
    found = lab.flush()
    assert still(found, name)[:4] == b"\x89PNG"
    assert all(p["alt"] for p in found.values() if p["kind"] != "figures")
    for picture in found.values():
        if picture["kind"] == "curves":
            low, high = picture["limits"]
            y = np.concatenate([line["y"] for line in picture["lines"]])
            assert low <= np.nanmin(y) and np.nanmax(y) <= high


@pytest.mark.parametrize("name", LEARNT)
def test_sequences_and_classes_are_shown_too_and_nothing_is_asked_that_is_not_known(
    speech: Setting, name: str
) -> None:
    lab = LEARNT[name](speech, 0)
    assert not lab.error
    lab.set(sample=7) if name != "routing" else lab.set(plane="inputs")
    assert still(lab.flush(), name)[:4] == b"\x89PNG"
    assert (lab.spec["question"] is None) == (name != "anatomy")


# The routing map ----------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["official", "madds"])
def test_the_numbers_are_the_studys_of_the_same_gate(setting: Setting, resource: str) -> None:
    lab, study = routing.routing(setting, 0), measure.chosen(setting, 0, resource)
    for i, weight in enumerate(setting.weights):
        state = {"free": True} if weight == 0 else {"weight": weight}
        found = metrics(shown(lab, resource=resource, **state))
        for name in ("share", "madds", "score", "chance", "best"):
            assert found[name] == study[name][i], (name, weight)


def test_a_weight_between_two_gates_is_the_nearest_in_ratio(setting: Setting) -> None:
    assert reading.nearest((0.0, 0.01, 0.1, 1.0), 0.04) == 2
    assert reading.nearest((0.0, 0.01, 0.1, 1.0), 0.03) == 1
    lab = routing.routing(setting, 0)
    high = max(setting.weights)
    assert (
        shown(lab, weight=0.98 * high)["numbers"]["rows"]
        == shown(lab, weight=high)["numbers"]["rows"]
    )
    with pytest.raises(ValueError, match="weights must have one above 0"):
        reading.nearest((0.0,), 1.0)
    few = replace(setting, weights=(0.0, 1.0))
    for build in LEARNT.values():
        with pytest.raises(ValueError, match="setting.weights must have two above 0, got"):
            build(few, 0)
    bad = routing.routing(setting, 0)
    with pytest.raises(ValueError, match="weight must be a number from"):
        bad.set(weight=99.0)
    with pytest.raises(ValueError, match="resource must be one of official, madds"):
        bad.set(resource="watts")


def test_dots_are_marked_by_the_expert_that_the_gate_chose(setting: Setting) -> None:
    lab, at = routing.routing(setting, 0), reading.opened(setting, 0)
    i = reading.nearest(setting.weights, 0.1)
    for weight in (0.1, max(setting.weights)):
        found = next(iter(shown(lab, weight=weight).values()))
        k = reading.nearest(setting.weights, weight)
        assert len(found["points"]) == len(at.batch) == 200, "few enough to show them all"
        np.testing.assert_array_equal(found["classes"], at.dear[k].numpy())
    assert at.dear[-1].sum() < at.dear[i].sum()
    names = [ellipse["name"] for ellipse in found["ellipses"]]
    assert names == ["easy", "hard"]
    assert found["ellipses"][0]["mean"][0] > found["ellipses"][1]["mean"][0] + 0.5, (
        "easy texts are large"
    )


def test_the_plane_shows_sizes_and_the_known_clearness_of_the_image(setting: Setting) -> None:
    plane, batch = reading.plane_of(setting, 0, "inputs"), setting.recipe(0).load("test")
    size = batch.x["text"].norm(dim=1).log()
    assert float(np.corrcoef(plane.points[:, 0], size)[0, 1]) == pytest.approx(1)
    noise = batch.factors["image_noise"].log()
    assert float(np.corrcoef(plane.points[:, 1], noise)[0, 1]) == pytest.approx(-1)
    np.testing.assert_allclose(plane.points.std(0, ddof=1), 1)
    even, sure = torch.zeros(3, 4), torch.full((3, 4), 50.0)
    assert reading.sureness("labels", even).tolist() == [0] * 3
    assert reading.sureness("labels", sure).tolist() == [1] * 3
    assert reading.sureness("classes", even).tolist() == pytest.approx([0] * 3)
    assert reading.sureness("classes", 50 * torch.eye(4)).tolist() == [1] * 4


def test_padding_has_no_size(speech: Setting) -> None:
    batch = speech.recipe(0).load("test")
    i = int(batch.factors["length"].argmin())
    said = batch.x["text"][i][: int(batch.factors["length"][i])]
    wanted = said.double().square().mean().log() / 2
    assert reading.log_size(batch, ["text"])[i] == pytest.approx(float(wanted))
    noisy = reading.changed(batch, "text", 2.0)
    steps = (noisy.x["text"] != 0).any(-1).sum(1)
    assert torch.equal(steps, batch.factors["length"]), "padding stays padding"


def test_curves_go_through_the_gates_and_the_bars_are_shares_by_kind(setting: Setting) -> None:
    study = measure.chosen(setting, 0)
    i = reading.nearest(setting.weights, 0.1)
    found = shown(routing.routing(setting, 0), weight=0.1)
    curve = found["score over the share sent to the dear expert"]
    assert curve["marker"] == 100 * study["share"][i]
    gate = {line["name"]: line for line in curve["lines"]}["gate"]["y"]
    at = int(np.abs(curve["x"] - 100 * study["share"][i]).argmin())
    same = [
        s
        for s, share in zip(study["score"], study["share"], strict=True)
        if share == study["share"][i]
    ]
    assert gate[at] == pytest.approx(np.mean(same), rel=1e-6)
    beyond = curve["x"] > 100 * max(study["share"]) + 1e-4
    assert np.isnan(gate[beyond]).all() and np.isfinite(gate[~beyond]).all()
    bars = found["sent to the dear expert; ticks: of all"]
    wanted = [study["share"][i], *(study["share_by_kind"][kind][i] for kind in ("easy", "hard"))]
    assert bars["values"].tolist() == pytest.approx(wanted)
    assert bars["marks"].tolist() == pytest.approx([study["share"][i]] * 3)


# Anatomy ------------------------------------------------------------------------------------------


def test_weights_are_the_relaxations_of_these_logits(setting: Setting) -> None:
    lab, at = gating.anatomy(setting, 0), reading.opened(setting, 0)
    i = reading.nearest(setting.weights, 0.1)
    for temperature in (0.3, 5.0):
        wanted = (at.logits[i, 9] / temperature).softmax(-1)
        found = shown(lab, weight=0.1, sample=9, temperature=temperature)
        used = found["weights used; ticks: soft"]
        np.testing.assert_allclose(used["values"], wanted, rtol=1e-5)
        np.testing.assert_allclose(used["marks"], wanted, rtol=1e-5)
        hard = shown(lab, weight=0.1, sample=9, temperature=temperature, relaxation="hard")
        values = hard["weights used; ticks: soft"]["values"]
        assert values.tolist() == [float(k == int(wanted.argmax())) for k in (0, 1)]
        assert metrics(hard)["entropy"] == 0
        curve = found["weight of the dear expert over the temperature"]
        assert curve["marker"] == temperature
        here = np.interp(np.log(temperature), np.log(curve["x"]), curve["lines"][0]["y"])
        assert here == pytest.approx(float(wanted[1]), abs=0.01)


def test_gumbel_draws_follow_softmax_at_every_temperature(setting: Setting) -> None:
    lab, at = gating.anatomy(setting, 0), reading.opened(setting, 0)
    i, sample = reading.nearest(setting.weights, 0.1), lab.now.sample  # type: ignore[attr-defined]
    p = float(at.logits[i, sample].softmax(-1)[1])
    drawn = {
        metrics(shown(lab, weight=0.1, sample=sample, gumbel=True, temperature=t))["drawn"]
        for t in (0.1, 1.0, 20.0)
    }
    assert len(drawn) == 1
    assert drawn.pop() / reading.DRAWS == pytest.approx(
        p, abs=4 * (p * (1 - p) / reading.DRAWS) ** 0.5
    )
    plain = metrics(shown(lab, weight=0.1, sample=sample))["drawn"]
    assert plain == reading.DRAWS * (p > 0.5)
    draws = {metrics(shown(lab, gumbel=True, draw=k))["weight"] for k in range(4)}
    assert len(draws) == 4, "another draw, other weights"


def test_gradients_are_those_of_the_loss_through_each_relaxation(setting: Setting) -> None:
    at, i, s, t = reading.opened(setting, 0), reading.nearest(setting.weights, 0.1), 9, 0.7
    found = reading.pushes(at, i, s, t, torch.zeros(2))
    prices, said, y = at.gates.model.prices, at.said[:2, s].double(), at.y[s].double()

    def loss(weights: torch.Tensor) -> torch.Tensor:
        task = torch.nn.functional.binary_cross_entropy_with_logits(weights @ said, y)
        return task + setting.weights[i] * cost(weights[None].float(), prices).double()

    logits, step = at.logits[i, s].double(), 1e-4
    for k in (0, 1):
        moved = torch.zeros(2, dtype=torch.float64)
        moved[k] = step
        soft = [loss(((logits + sign * moved) / t).softmax(-1)) for sign in (1, -1)]
        assert float(found.soft[k]) == pytest.approx(
            float(soft[0] - soft[1]) / (2 * step), abs=1e-4
        )
    # straight-through: the loss's slope at the path taken, times the soft gate's
    taken = relaxed(at.logits[i, s], t, True).double().requires_grad_()
    slope = torch.autograd.grad(loss(taken), taken)[0]
    p = (logits / t).softmax(-1)
    wanted = (torch.diag(p) - torch.outer(p, p)) @ slope / t
    np.testing.assert_allclose(found.straight, wanted, atol=1e-6)
    assert float(found.soft.sum()) == pytest.approx(0, abs=1e-7)
    bars = shown(gating.anatomy(setting, 0), weight=0.1, sample=s, temperature=t)
    drawn = bars["gradient of each logit; arrow: where descent moves it"]
    np.testing.assert_allclose(drawn["values"], torch.cat([*found]).abs(), rtol=1e-5)
    arrows = ["↓" if g > 0 else "↑" for g in torch.cat([*found])]
    assert [name[-1] for name in drawn["names"]] == arrows


# Corrupted inputs ---------------------------------------------------------------------------------


def test_at_level_0_nothing_is_changed(setting: Setting) -> None:
    lab, study = gating.corrupt(setting, 0), measure.chosen(setting, 0)
    i = reading.nearest(setting.weights, 0.1)
    for modality in ("text", "image"):
        found = shown(lab, level=0.0, modality=modality, weight=0.1, sample=3)
        gate = found["to the dear expert, says the gate; ticks: half"]["values"]
        assert gate[0] == gate[1]
        numbers = metrics(found)
        assert numbers["share"] == study["share"][i] and numbers["score"] == study["score"][i]
        assert [numbers["cheap"], numbers["dear"]] == study["experts"][:2]
        batch = setting.recipe(0).load("test")
        assert torch.equal(reading.changed(batch, modality, 0.0).x[modality], batch.x[modality])


def test_noise_has_the_level_and_hits_one_modality_alone(setting: Setting) -> None:
    batch = setting.recipe(0).load("test")
    noisy = reading.changed(batch, "image", 1.5)
    assert torch.equal(noisy.x["text"], batch.x["text"])
    noise = noisy.x["image"] - batch.x["image"]
    assert float(noise.std() / batch.x["image"].abs().mean()) == pytest.approx(1.5, rel=0.03)
    torch.testing.assert_close(
        reading.changed(batch, "image", 3.0).x["image"] - batch.x["image"], 2 * noise
    )
    small = reading.resized(noisy, batch, "image").x["image"]
    torch.testing.assert_close(small.norm(dim=1), batch.x["image"].norm(dim=1))
    torch.testing.assert_close(
        small / small.norm(dim=1)[:, None], torch.nn.functional.normalize(noisy.x["image"])
    )
    assert not reading.changed(batch, "text", blank=True).x["text"].any()
    with pytest.raises(ValueError, match="smell"):
        reading.changed(batch, "smell", 1.0)
    with pytest.raises(ValueError, match="must be >= 0"):
        reading.changed(batch, "text", -1.0)


def test_the_cheap_expert_does_not_care_for_the_image_and_a_blank_is_no_level(
    setting: Setting,
) -> None:
    lab = gating.corrupt(setting, 0)
    clean = metrics(shown(lab, level=0.0))
    noisy = metrics(shown(lab, level=4.0, modality="image"))
    assert noisy["cheap"] == clean["cheap"] and noisy["dear"] < clean["dear"]
    blank = [shown(lab, level=level, blank=True)["numbers"] for level in (0.0, 4.0)]
    assert blank[0] == blank[1]
    found = shown(lab, level=4.0, sample=3)
    curve = found["all held-out samples: sent to dear, and scores"]
    lines = {line["name"]: line["y"] for line in curve["lines"]}
    assert lines["gate"][-1] == pytest.approx(metrics(found)["score"], rel=1e-6)
    assert lines["to dear"][-1] == pytest.approx(100 * metrics(found)["share"], rel=1e-6)
    assert lines["cheap"][0] == pytest.approx(clean["cheap"], rel=1e-6)


def test_bars_of_labels_are_the_experts_answers_with_ticks_at_the_truth(setting: Setting) -> None:
    at, found = reading.opened(setting, 0), shown(gating.corrupt(setting, 0), sample=11)
    for k, which in enumerate(("cheap", "dear")):
        bars = found[f"the {which} expert says; ticks: the truth"]
        np.testing.assert_allclose(bars["values"], at.said[k, 11].sigmoid(), rtol=1e-4)
        assert bars["marks"].tolist() == at.y[11].tolist()
        assert [name.endswith("true") for name in bars["names"]] == at.y[11].bool().tolist()


# The Pareto board ---------------------------------------------------------------------------------


def test_the_board_has_a_dot_for_every_gate_and_expert_and_a_button_a_data_set(
    setting: Setting,
) -> None:
    rows = [{"seed": seed, **measure.chosen(setting, seed)} for seed in (0, 1)]
    table, bill = pd.DataFrame(rows), setting.bill
    figure = routing.pareto({"a": table, "b": table}, {"a": bill, "b": bill}, setting.weights)
    seen = [trace for trace in figure.data if trace.visible]
    assert len(seen) == len(figure.data) / 2
    by_name = {trace.name: trace for trace in seen}
    gates = by_name["DynMM, gates"]
    assert len(gates.x) == 2 * len(setting.weights)
    assert list(gates.y) == pytest.approx([s for row in rows for s in row["score"]], abs=1e-4)
    assert list(gates.x) == pytest.approx([m for row in rows for m in row["madds"]], abs=1e-2)
    seeds, weights, shares, chance = zip(*gates.customdata, strict=True)
    assert set(seeds) == {0, 1} and list(weights[: len(setting.weights)]) == list(setting.weights)
    assert shares[1] == pytest.approx(100 * rows[0]["share"][1], abs=1e-3)
    assert chance[1] == pytest.approx(rows[0]["chance"][1], abs=1e-3)
    for k, name in enumerate(("E1, cheap", "E2, dear", "other")):
        assert list(by_name[name].y) == pytest.approx([row["experts"][k] for row in rows], abs=1e-4)
        assert set(by_name[name].x) == {bill[("cheap", "dear", "other")[k]]}
    assert list(by_name["DynMM, soft"].x) == [bill["cheap"] + bill["dear"] + bill["gate"]] * 2
    ends = by_name["chance, mean"]
    assert (ends.x[0], ends.x[-1]) == (bill["cheap"], bill["dear"])
    assert by_name["best choice, mean"].x[0] == bill["cheap"] + bill["gate"]
    second = figure.layout.updatemenus[0].buttons[1]
    assert second.label == "b"
    assert second.args[0]["visible"] == [False] * len(seen) + [True] * len(seen)
    with pytest.raises(ValueError, match="bills has no 'a'; it has nothing"):
        routing.pareto({"a": table}, {}, setting.weights)
    with pytest.raises(ValueError, match=r"tables\['a'\] must have 1 gates"):
        routing.pareto({"a": table}, {"a": bill}, (0.0,))


def test_gates_of_the_study_are_those_of_the_labs(setting: Setting) -> None:
    at = reading.opened(setting, 0)
    run = plan.gates(setting, 0, Relaxation())
    with torch.no_grad():
        assert torch.equal(plan.gates_of(run).choose(at.batch), at.logits)
    assert at.dear.double().mean(-1).tolist() == measure.chosen(setting, 0)["share"]
