"""Labs of the inside of an exchange: they show what was measured, and only the state decides it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from labkit.data.augment import Box, crop, flip
from labkit.data.clips import Clips
from labkit.exchanging import crops, measure, plan, reading
from labkit.exchanging.plan import Setting
from labkit.live import cropping, insight
from labkit.live.exchange import frame_of
from labkit.live.lab import Lab
from labkit.live.pictures import metrics, to_bytes
from labkit.live.still import still
from labkit.models.backbones import Clip
from labkit.train import TrainConfig

CUTS = ("cut_rgb_1", "cut_flow_1", "cut_rgb_2", "cut_flow_2")
CHANGES: dict[str, dict[str, Any]] = {
    "sites": {"look": 1, "cut_rgb_1": True, "cut_flow_1": False, "cut_rgb_2": False, "cut_flow_2": True},
    "alignment": {"look": 1, "stage": "2"},
    "crops": {"crop": "one for both", "mirror": True, "negate": False, "draw": 5, "row": 3, "noisy": "rgb",
              "level": 1.0},
}  # fmt: skip
TRAINED = "trained, cut in the test (% right); ticks: a sum's most"
CLIP = "a frame in training; orange moves to the right, purple to the left"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    data = Clips(frames=2, size=12, n_train=32, n_val=16, n_test=24)
    yield Setting(data, tuple(data.shapes.items()), Clip((4, 6, 6)), 8, TrainConfig(2, 8, 3e-2), 4)
    patch.undo()


@pytest.fixture(scope="module")
def records(small: Setting) -> dict[str, Any]:
    torch.set_num_threads(1)  # before `same_arithmetic` of the first test
    return {
        way: [reading.watched(small, way, seed) for seed in (0, 1)] for way in ("late", "X-Norm")
    }


def shift_frame() -> pd.DataFrame:
    """A table as of `measure.shift_table`: two crops cost 20 points, two mirrors 30 more, pooling 5."""
    found = pd.DataFrame([
        {
            "way": way, "joint": joint, "flips": flips, "seed": seed,
            "accuracy": 90 + seed - (0 if joint else 20 + 60 * flips) - 5 * (way != "X-Norm"),
        }
        for way in ("X-Norm", "X-Norm, pooled") for joint in (True, False) for flips in (0.0, 0.5)
        for seed in (0, 1)
    ])  # fmt: skip
    lost = {"rgb": 2.0, "flow": 4.0, "both": 8.0}  # points by noise of level 1
    noisy = [
        {
            where: [right - points * level for level in measure.LEVELS]
            for where, points in lost.items()
        }
        for right in found["accuracy"]
    ]
    return found.assign(noisy=noisy)


BUILD: dict[str, Callable[..., Lab]] = {
    "sites": lambda setting, found, **more: insight.sites(setting, found, **more),
    "alignment": lambda setting, found, **more: insight.alignment(found, **more),
    "crops": lambda setting, found, **more: cropping.crops(setting, shift_frame(), **more),
}


def shown(lab: Lab, **state: Any) -> dict[str, Any]:
    return dict(lab.compute(lab.kind(**state)))


@pytest.mark.parametrize("name", BUILD)
def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(
    small: Setting, records: dict[str, Any], name: str
) -> None:
    lab = BUILD[name](small, records)
    assert lab.spec["name"] == name and not lab.error
    assert CHANGES[name].keys() == {control["name"] for control in lab.spec["controls"]}
    first, names = lab.metrics, list(lab.flush())
    lab.set(**CHANGES[name])
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = BUILD[name](small, records, states=[lab.line])
    assert again.line == lab.line
    assert again.metrics == lab.metrics != first
    assert list(lab.flush()) == names, "the page keeps a place for each name"
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


# Sites --------------------------------------------------------------------------------------------


def test_sites_show_the_mean_of_the_trainings_up_to_the_look(
    small: Setting, records: dict[str, Any]
) -> None:
    found = shown(insight.sites(small, records), look=1)
    curve = found["size of the change over the maps' own"]
    assert [line["name"] for line in curve["lines"]] == ["rgb 1", "flow 1", "rgb 2", "flow 2"]
    assert len({(line["color"], *line["dash"]) for line in curve["lines"]}) == 4
    wanted = np.mean([record["moved 1/0"][1] for record in records["X-Norm"]])
    assert curve["lines"][2]["y"][1] == pytest.approx(wanted)
    assert np.isnan(curve["lines"][2]["y"][2]), "what comes is not shown yet"
    assert curve["marker"] == 1
    bars = found["deviation of gamma and beta; ticks: untrained"]
    at = bars["names"].index("beta flow 1")
    for values, look in ((bars["values"], 1), (bars["marks"], 0)):
        wanted = np.mean([record["beta 0/1"][look] for record in records["X-Norm"]])
        assert values[at] == pytest.approx(wanted)


@pytest.mark.parametrize("part", ["gamma", "beta"])
def test_the_distribution_of_what_is_told_is_that_of_the_look(
    small: Setting, records: dict[str, Any], part: str
) -> None:
    lab, name = insight.sites(small, records), f"{part}, from its smallest number to its largest"
    for look in (0, 2):
        picture = shown(lab, look=look)[name]
        np.testing.assert_allclose(picture["x"], 100 * np.array(reading.QUANTILES), rtol=1e-6)
        assert [line["name"] for line in picture["lines"]] == ["rgb 1", "flow 1", "rgb 2", "flow 2"]
        assert len({(line["color"], *line["dash"]) for line in picture["lines"]}) == 4
        for line, key in zip(picture["lines"], ("0/0", "0/1", "1/0", "1/1"), strict=True):
            each = [record[f"{part} {key} quantiles"][look] for record in records["X-Norm"]]
            np.testing.assert_allclose(line["y"], np.mean(each, 0), rtol=1e-6)
            assert (np.diff(line["y"]) >= 0).all(), "from the smallest to the largest"
        low, high = picture["lines"][1]["y"][[1, 19]]
        assert f"{low:.2f} and {high:.2f} (flow 1)" in picture["alt"]
        widths = [line["y"][19] - line["y"][1] for line in picture["lines"]]
        numbers = metrics(shown(lab, look=look))
        assert numbers[f"{part} width"] == pytest.approx(np.mean(widths), rel=1e-5)
    ends = {tuple(shown(lab, look=k)[name]["limits"]) for k in range(3)}
    assert len(ends) == 1, "looks are compared on one scale"


def test_what_is_ticked_is_cut_from_the_trained_network(
    small: Setting, records: dict[str, Any]
) -> None:
    lab, crowd = insight.sites(small, records, seed=1), reading.held_out(small, 1)
    net = reading.network(small, "X-Norm", 1)
    ticked = shown(lab, look=0, cut_flow_1=True, cut_rgb_2=True)
    assert metrics(ticked)["as ticked"] == measure.accuracy(net, crowd, cut=[(0, 1), (1, 0)])
    bars = dict(zip(ticked[TRAINED]["names"], ticked[TRAINED]["values"], strict=True))
    assert bars["nothing cut"] == measure.accuracy(net, crowd)
    assert bars["all cut"] != bars["nothing cut"]
    assert bars["cut flow 2"] == measure.accuracy(net, crowd, cut=[(1, 1)])
    assert bars["all cut"] == measure.accuracy(
        net, crowd, cut=[(i, m) for i in (0, 1) for m in (0, 1)]
    )
    assert bars["as ticked"] == metrics(ticked)["as ticked"]
    assert "with flow 1 and rgb 2 cut in the test" in ticked[TRAINED]["alt"]
    assert set(ticked[TRAINED]["marks"].tolist()) == {75}, "a sum has three of four cells"
    assert metrics(shown(lab))["as ticked"] == bars["nothing cut"]


def test_cutting_is_compared_with_late_fusion_where_that_is_known(
    small: Setting, records: dict[str, Any]
) -> None:
    bare = shown(insight.sites(small, records), **dict.fromkeys(CUTS, True))
    level = metrics(bare)["as ticked"]
    for late, answer in ((level + 9, 0), (level + 3, 1), (level - 9, 2)):
        one = {**records["late"][0], "accuracy": [0, 0, late]}
        lab = insight.sites(small, {**records, "late": [one]})
        assert lab.spec["question"]["answer"] == answer
        assert f"{level:.0f} %. The later stages" in lab.spec["question"]["why"]
    alone = insight.sites(small, {"X-Norm": records["X-Norm"]})
    assert alone.spec["question"] is None
    with pytest.raises(ValueError, match="records has no 'X-Norm'; it has late"):
        insight.sites(small, {"late": records["late"]})
    with pytest.raises(ValueError, match="at least one training of X-Norm, got none"):
        insight.sites(small, {"X-Norm": []})


def test_a_sums_ceiling_is_drawn_only_where_it_is_known(small: Setting) -> None:
    assert insight.sum_ceiling(small) == 75
    assert insight.sum_ceiling(replace(small, data=replace(small.data, rho=0.0))) == 100
    assert insight.sum_ceiling(replace(small, data=replace(small.data, imbalance=1.0))) is None
    assert insight.sum_ceiling(plan.affect("smoke")) is None


# Alignment ----------------------------------------------------------------------------------------


def test_alignment_shows_both_ways_and_the_exchange_of_the_stage(records: dict[str, Any]) -> None:
    lab = insight.alignment(records)
    ours, late = records["X-Norm"], records["late"]
    for stage in ("1", "2", "3"):
        found, i = shown(lab, look=2, stage=stage), int(stage) - 1
        lines = {x["name"]: x["y"] for x in found["how alike, behind the stage"]["lines"]}
        assert ("before the exchange" in lines) == (stage != "3"), (
            "there is no site behind the last"
        )
        assert lines["X-Norm"][2] == pytest.approx(np.mean([r[f"alike {i}"][2] for r in ours]))
        each = [a[f"alike {i}"][2] - b[f"alike {i}"][2] for a, b in zip(ours, late, strict=True)]
        assert metrics(found)["ahead"] == pytest.approx(np.mean(each))
        assert metrics(found)["spread"] == pytest.approx(np.std(each))
        if stage != "3":
            assert lines["before the exchange"][2] == pytest.approx(
                np.mean([r[f"before {i}"][2] for r in ours])
            )
    bars = found["linear CKA behind each stage"]
    assert bars["names"] == [
        "1 late", "1 before", "1 X-Norm", "2 late", "2 before", "2 X-Norm", "3 late", "3 X-Norm",
    ]  # fmt: skip
    assert np.isnan(shown(lab, look=0)["X-Norm less late fusion"]["lines"][0]["y"][1:]).all()


@pytest.mark.parametrize(("ours", "answer"), [(0.9, 0), (0.3, 1), (0.62, 2)])
def test_the_claim_of_aligning_may_be_false(
    records: dict[str, Any], ours: float, answer: int
) -> None:
    changed = {
        way: [{**records[way][0], "alike 2": [0.5, 0.5, value]}]
        for way, value in (("late", 0.6), ("X-Norm", ours))
    }
    lab = insight.alignment(changed)
    assert lab.spec["question"]["answer"] == answer
    found = shown(lab, **lab.spec["question"]["then"])
    assert ("more alike" if ours > 0.6 else "less alike") in found["how alike, behind the stage"][
        "alt"
    ]
    assert "spread" not in metrics(found), "one training has none"
    with pytest.raises(ValueError, match="records has no 'late'"):
        insight.alignment({"X-Norm": records["X-Norm"]})


# Crops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [True, False])
def test_rulers_say_where_clips_were_cut(small: Setting, joint: bool) -> None:
    batch = small.data.load("train")
    found = crops.places(batch.modalities, len(batch), 12, 7, joint, 0.5)
    shifted = crops.shifted(batch, 7, joint, 0.5)
    for name, place in found.items():
        box = Box(place.down.long(), place.right.long(), 12, 12)
        wanted = flip(crop(batch.x[name], box), place.mirrored, negate_u=name == "flow")
        assert torch.equal(shifted.x[name], wanted), name
    assert bool((crops.apart(found) == 0).all()) == joint
    assert 0 < int(found["rgb"].mirrored.sum()) < len(batch)
    assert max(float(p.right.abs().max()) for p in found.values()) == crops.PADDING == 3


def test_a_mirror_of_one_stream_turns_the_label_and_of_both_does_not(small: Setting) -> None:
    data, n = small.data, 32
    batch, index = data.load("train"), torch.arange(n)
    none, zeros, all_of = (
        torch.zeros(n),
        torch.zeros(n, dtype=torch.bool),
        torch.ones(n, dtype=torch.bool),
    )
    turned = {
        (rgb, flow): crops.seen(batch.factors, {
            "rgb": crops.Place(none, none, all_of if rgb else zeros),
            "flow": crops.Place(none, none, all_of if flow else zeros),
        })
        for rgb in (False, True) for flow in (False, True)
    }  # fmt: skip
    other = {"handle": 1 - batch.factors["handle"], "direction": 1 - batch.factors["direction"]}
    assert batch.y is not None
    assert torch.equal(turned[False, False], batch.y) and torch.equal(turned[True, True], batch.y)
    for key, name in (((True, False), "handle"), ((False, True), "direction")):
        seen = data.look("train", index, **{name: other[name]}).y
        assert seen is not None and torch.equal(turned[key], seen)
        assert torch.equal(turned[key], batch.y ^ 1), "the other verb of the pair"


def test_labels_are_wrong_as_often_as_theory_says(small: Setting) -> None:
    many = replace(small, data=replace(small.data, n_train=600))
    assert crops.wrong(many, 0, True) == 0
    assert crops.wrong(many, 0, False) == pytest.approx(0.5, abs=0.06)
    alone = replace(many, data=replace(many.data, rho=0.0))
    assert crops.wrong(alone, 0, True) == pytest.approx(0.5, abs=0.06), "direction alone tells"
    assert cropping.crops(alone, shift_frame()).spec["question"] is None


@pytest.mark.parametrize("joint", [True, False])
def test_where_u_keeps_its_sign_a_mirror_of_both_is_one_of_colours_alone(
    small: Setting, joint: bool
) -> None:
    many = replace(small, data=replace(small.data, n_train=400, noise=0.0))
    batch = many.data.load("train")
    found = crops.places(batch.modalities, 400, 12, 0, joint, 0.5)
    wrong, at_odds = crops.wrong(many, 0, joint, False), crops.at_odds(many, 0, joint)
    assert wrong == float(found["rgb"].mirrored.double().mean()) == pytest.approx(0.5, abs=0.08)
    assert at_odds == float(found["flow"].mirrored.double().mean()) == pytest.approx(0.5, abs=0.08)
    alone = replace(many, data=replace(many.data, rho=0.0))
    assert crops.wrong(alone, 0, joint, False) == 0, "u alone tells, and stays"
    assert crops.at_odds(alone, 0, joint) == at_odds
    for negate in (True, False):
        u = crops.shifted(batch, 0, joint, 0.5, negate).x["flow"][:, 0]
        told = (u.sum((1, 2, 3)) > 0).long()
        mirrored = found["flow"].mirrored.long()
        assert torch.equal(
            told, batch.factors["direction"] ^ (mirrored if negate else 0 * mirrored)
        )
        seen = crops.seen(batch.factors, crops.by_u(found, negate))
        handle = batch.factors["handle"] ^ found["rgb"].mirrored.long()
        assert torch.equal(seen, 2 * batch.factors["pair"] + (told ^ handle))
        assert batch.y is not None
        share = float((seen != batch.y).double().mean())
        crop_ = cropping.ONE if joint else cropping.TWO
        assert cropping._wrong(many, 0)[negate, crop_] == share
        middle = (u.abs() * torch.arange(12.0)).sum((2, 3)) / u.abs().sum(
            (2, 3)
        )  # (B, T), the patch
        path = middle[:, -1] - middle[:, 0]
        clear = path.abs() > 0.5  # not cut at an edge
        against = ((path > 0).long() != told)[clear]
        assert (
            torch.equal(against, (mirrored.bool() & (not negate))[clear]) and int(clear.sum()) > 200
        )


def test_crops_show_the_table_and_the_clip_of_the_draw(small: Setting) -> None:
    lab = cropping.crops(small, shift_frame())
    found = shown(lab, **lab.spec["question"]["then"])
    assert lab.spec["question"]["answer"] == 1 and metrics(found)["label right"] == 0
    assert "the label is wrong" in found[CLIP]["alt"]
    for part in (
        "then right of 40 %",
        "it is right of 90 %",
        "right of 70 % with two crops, and of 90 %",
    ):
        assert part in lab.spec["question"]["why"]
    assert "long budget" not in lab.spec["question"]["why"], "nobody was given time"
    patient = shift_frame().replace({"way": {"X-Norm, pooled": "X-Norm, long"}})
    why = cropping.crops(small, patient).spec["question"]["why"]
    assert "With the long budget: 66 and 86 %. (The" in why
    assert metrics(found)["X-Norm"] == 40.5 and metrics(found)["X-Norm, gained"] == 50
    bars = found["X-Norm, pooled: right of clips not shifted (%)"]
    np.testing.assert_allclose(bars["values"], [85.5, 65.5, 85.5, 35.5])
    assert [color == cropping.BLUE for color in bars["colors"]] == [False, False, False, True]
    noisy = shown(lab, **lab.spec["question"]["then"], noisy="flow", level=1.5)
    assert metrics(noisy)["X-Norm"] == 40.5 - 6 and metrics(noisy)["X-Norm, gained"] == 50
    assert noisy[CLIP]["alt"].endswith("Noise of 1.5 on flow.")
    moved = np.abs(noisy[CLIP]["pixels"].astype(int) - found[CLIP]["pixels"]).max((2, 3, 4))
    assert (moved > 0).tolist() == [[False, True, False]] * 3, "flow alone, and not where it moves"
    both = shown(lab, crop="one for both", mirror=True, draw=lab.spec["question"]["then"]["draw"])
    assert metrics(both)["label right"] == 1 and metrics(both)["apart"] == 0
    for state, row in ((found, 2), (both, 1)):
        assert state[CLIP]["framed"].tolist() == [[int(k == row)] * 3 for k in range(3)]
    plain = shown(lab, draw=4, row=6)
    batch = crops.clip(small, 0, 6)
    np.testing.assert_array_equal(plain[CLIP]["pixels"][0, 0], found_colours(batch))
    assert bool((batch.x["flow"] == 0).any()), "no noise where nothing moves"
    place = crops.places(batch.modalities, 1, 12, 4, False, 0.0)
    assert metrics(plain)["apart"] == float(crops.apart(place)) > 0
    for k, joint in ((1, True), (2, False)):
        moved = crops.shifted(batch, 4, joint, 0.0)
        np.testing.assert_array_equal(plain[CLIP]["pixels"][k, 0], found_colours(moved))
        flow = to_bytes(frame_of(moved, "flow", 1))
        np.testing.assert_array_equal(plain[CLIP]["pixels"][k, 1], flow)
    assert not np.array_equal(plain[CLIP]["pixels"][1], plain[CLIP]["pixels"][2])
    assert metrics(plain)["wrong labels"] == metrics(plain)["at odds"] == 0
    with pytest.raises(ValueError, match="setting must be of procedural clips, got Affect"):
        cropping.crops(plan.affect("smoke"), shift_frame())


def test_as_released_u_keeps_its_sign_and_no_score_is_called_its_own(small: Setting) -> None:
    lab = cropping.crops(small, shift_frame())
    for name, crop_, at in (
        ("As released", cropping.TWO, 3),
        ("One mirror, u kept", cropping.ONE, 2),
    ):
        state = lab.kind.preset(name)
        assert (state.crop, state.mirror, state.negate) == (crop_, True, False)  # type: ignore[attr-defined]
        found = dict(lab.compute(state))
        batch, draw = crops.clip(small, 0, 0), state.draw  # type: ignore[attr-defined]
        place = crops.places(batch.modalities, 1, 12, draw, at == 2, 0.5)
        assert bool(place["rgb"].mirrored) and bool(place["flow"].mirrored)
        numbers, wrong = metrics(found), found["clips whose label is wrong"]
        assert numbers["label right"] == 0, "both are mirrored, and one sign turned"
        wanted = [crops.wrong(small, 0, joint) for joint in (True, False)]
        wanted += [crops.wrong(small, 0, joint, False) for joint in (True, False)]
        np.testing.assert_allclose(wrong["values"], wanted, rtol=1e-6)
        assert wanted[0] == 0 < min(wanted[1:])
        assert [color == cropping.RED for color in wrong["colors"]] == [k == at for k in range(4)]
        assert numbers["wrong labels"] == pytest.approx(100 * wanted[at])
        assert numbers["at odds"] == 100 * crops.at_odds(small, 0, at == 2) > 0
        way = "left" if batch.factors["direction"] else "right"
        assert f"In flow the patch now goes to the {way}, and u says" in wrong["alt"]
        assert "Trained so, but with u turned, right of" in wrong["alt"]
        assert cropping.BLUE not in found["X-Norm: right of clips not shifted (%)"]["colors"]
        units = {row["name"]: row["unit"] for row in found["numbers"]["rows"]}
        assert units["X-Norm"] == "% right, trained with u turned"
        moved = crops.shifted(batch, draw, at == 2, 0.5)
        moved.x["flow"][:, 0] *= -1  # there it was turned
        flow = to_bytes(frame_of(moved, "flow", 1))
        np.testing.assert_array_equal(found[CLIP]["pixels"][at - 1, 1], flow)
    turned = shown(lab, **{**lab.kind.PRESETS["One mirror, u kept"], "negate": True})
    assert metrics(turned)["label right"] == 1 and metrics(turned)["at odds"] == 0
    assert "By u" not in turned[CLIP]["alt"] and "The label holds" in turned[CLIP]["alt"]
    idle = [shown(lab, negate=negate, draw=3) for negate in (True, False)]
    assert metrics(idle[0]) == metrics(idle[1]), "without mirrors nothing turns"
    assert cropping.BLUE in idle[1]["X-Norm: right of clips not shifted (%)"]["colors"]


def found_colours(batch: Any) -> np.ndarray:
    """The middle frame of rgb as bytes, a pixel of the clip twice as large each way."""
    frame = (batch.x["rgb"][0, :, 1] + 0.5).clamp(0, 1).movedim(0, -1).numpy()
    return np.floor(255 * frame + np.float32(0.5)).astype(np.uint8).repeat(2, 0).repeat(2, 1)
