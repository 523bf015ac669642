"""Labs of X-Norm's rivals: weights by the formulas, cells by the gradient, prices by the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from labkit.data.clips import Clips
from labkit.exchanging import measure, plan, reading
from labkit.exchanging.plan import Setting
from labkit.live import dials, pricing, rivals
from labkit.live.lab import Lab
from labkit.live.pictures import metrics
from labkit.live.still import still
from labkit.models.backbones import Clip
from labkit.train import TrainConfig

CELLS = "how a cell moves the answer; black: most; striped: not at all"
READ_SO = "trained and read so (% right); ticks: majority"
RIGHT = "right (%), the cheapest first; *: on the front; ticks: majority"
LOSSES = [
    f"{head}_{w}_{t}" for t in ("before", "after") for head in rivals.HEADS for w in rivals.WHERE
]
CHANGES: dict[str, dict[str, Any]] = {
    "blending": dict(
        zip(LOSSES, [2.0, 2.1, 1.9, 2.0, 1.8, 2.1, 0.5, 1.5, 1.0, 1.4, 0.3, 1.3], strict=True)
    ),
    "cells": {"read": "first", "causal": True},
    "misa": {"similar": 0.6, "recover": 0.2, "zoom": True},
    "price": {"budget": 1.5, "over": "weights", "data": "sum"},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    data = Clips(frames=2, size=12, n_train=32, n_val=16, n_test=24)
    yield Setting(
        data, tuple(data.shapes.items()), Clip((4, 6)), 8, TrainConfig(2, 16, 1e-3), 4, sites=(0,)
    )
    patch.undo()


@pytest.fixture(scope="module")
def dialled(small: Setting) -> pd.DataFrame:
    """Four networks of MISA, trained in this process."""
    torch.set_num_threads(1)  # before `same_arithmetic` of the first test
    patch = pytest.MonkeyPatch()
    patch.setattr("os.cpu_count", lambda: 1)
    weights = {"similar": [0.0, 1.0], "differ": [0.1], "recover": [1.0, 0.0]}
    found = reading.misa_table(small, weights, 0)
    patch.undo()
    return found


def mult_frame() -> pd.DataFrame:
    """A part of a table as of `measure.table`: MulT as it should be, and changed."""
    scores = {"MulT": 80.0, "MulT, first cell": 70.0, "MulT, as released": 40.0}
    return pd.DataFrame([
        {"way": way, "seed": seed, "accuracy": score + 2 * seed, "floor": 12.5}
        for way, score in scores.items() for seed in (0, 1)
    ])  # fmt: skip


def bench_frame(*left_out: str) -> pd.DataFrame:
    """A table as of `measure.table`: on the product X-Norm is worth its price, on the sum it is not."""
    offers = {  # million MAdds, thousand weights, right of the product and of the sum
        "rgb alone": (1.6, 51, 50, 50), "late": (3.2, 102, 48, 99), "early": (3.1, 85, 52, 98),
        "Gradient-Blending": (3.2, 128, 47, 98), "X-Norm": (3.6, 105, 99, 99), "MISA": (5.1, 178, 47, 97),
    }  # fmt: skip
    return pd.DataFrame([
        {
            "way": way, "seed": seed, "accuracy": (product, plain)[k] + 0.5 * seed, "train": 100.0,
            "floor": 12.5, "weights": 1000 * weights, "madds": 1_000_000 * madds, "data": data,
            "training": 3e9 * madds * (3 if way == "Gradient-Blending" else 1),
        }
        for k, data in enumerate(("product", "sum"))
        for way, (madds, weights, product, plain) in offers.items() if way not in left_out
        for seed in (0, 1)
    ])  # fmt: skip


BUILD: dict[str, Callable[..., Lab]] = {
    "blending": lambda setting, table, **more: rivals.blending(**more),
    "cells": lambda setting, table, **more: rivals.reading_cells(setting, 0, mult_frame(), **more),
    "misa": lambda setting, table, **more: dials.misa(table, **more),
    "price": lambda setting, table, **more: pricing.price(bench_frame(), **more),
}


def shown(lab: Lab, **state: Any) -> dict[str, Any]:
    return dict(lab.compute(lab.kind(**state)))


def bars_of(picture: dict[str, Any]) -> dict[str, float]:
    return dict(zip(picture["names"], picture["values"].tolist(), strict=True))


@pytest.mark.parametrize("name", BUILD)
def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(
    small: Setting, dialled: pd.DataFrame, name: str
) -> None:
    lab = BUILD[name](small, dialled)
    assert lab.spec["name"] == name and not lab.error
    assert CHANGES[name].keys() == {control["name"] for control in lab.spec["controls"]}
    first, names = lab.metrics, list(lab.flush())
    lab.set(**CHANGES[name])
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = BUILD[name](small, dialled, states=[lab.line])
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
            assert low <= y.min() and y.max() <= high
        if picture["kind"] == "bars":
            assert max(*picture["values"], *picture["marks"]) <= picture["high"] * (1 + 1e-6)


# Gradient-Blending --------------------------------------------------------------------------------


def test_weights_are_those_of_both_formulas() -> None:
    found = metrics(shown(rivals.blending()))
    raw = {"rgb": 0.88 / 0.9**2, "flow": 0.08 / 0.05**2, "joint": 0.93 / 0.95**2}
    code = {"rgb": 1.2 / 0.9**2, "flow": 2.0 / 0.05**2, "joint": 1.15 / 0.95**2}
    for head in rivals.HEADS:
        assert found[f"{head} by gain"] == pytest.approx(raw[head] / sum(raw.values()))
        assert found[f"{head}, code"] == pytest.approx(code[head] / sum(code.values()))
    later = dict(zip(LOSSES[:6], [1.0, 1.3, 2.0, 2.0, 1.0, 1.2], strict=True))
    moved = metrics(shown(rivals.blending(), **later))
    assert moved["flow by gain"] == pytest.approx(0), "nothing was gained from 2.0"
    assert moved["flow, code"] == found["flow, code"], "the code does not ask where losses began"


def test_a_dead_head_takes_all_by_the_code_and_nothing_by_gain() -> None:
    lab = rivals.blending()
    found = shown(lab, **lab.kind.PRESETS["Kill a modality"])
    assert metrics(found)["flow by gain"] == 0 and metrics(found)["flow, code"] > 0.9999
    assert dict(lab.spec["question"]["then"]) == dict(lab.kind.PRESETS["Kill a modality"])
    by_heart = shown(lab, **lab.kind.PRESETS["Overfits by heart"])
    assert metrics(by_heart)["rgb by gain"] == 0, "its loss held out went up"
    bars = bars_of(by_heart["gained held out, and how far the gap grew"])
    assert bars["rgb gained"] == pytest.approx(-0.32) and bars["rgb gap"] == pytest.approx(2.38)
    early = shown(lab, **lab.kind.PRESETS["Nobody overfits yet"])
    assert (
        "rgb, flow and joint is taken as 0.01" in early["weights by gain, as in the paper"]["alt"]
    )
    assert metrics(early)["rgb by gain"] == pytest.approx(0.68 / (0.68 + 0.18 + 0.88))
    nothing = dict.fromkeys(LOSSES, 2.08)
    lazy = shown(lab, **nothing)
    np.testing.assert_allclose(lazy["weights by gain, as in the paper"]["values"], 1 / 3, rtol=1e-6)
    assert "by gain all weigh alike" in lazy["weights by gain, as in the paper"]["alt"]


def test_losses_are_drawn_as_they_are_set() -> None:
    picture = shown(rivals.blending(), **CHANGES["blending"])[
        "losses over the window; dashed: held out"
    ]
    found = {(line["name"], bool(line["dash"])): line["y"].tolist() for line in picture["lines"]}
    assert found["flow", True] == pytest.approx([2.0, 1.4])
    assert found["joint", False] == pytest.approx([1.8, 0.3])
    assert len({(line["color"], *line["dash"]) for line in picture["lines"]}) == 6


# Which cells MulT reads ---------------------------------------------------------------------------


def test_cells_are_those_that_the_gradient_reaches(small: Setting) -> None:
    lab = rivals.reading_cells(small, 0)
    assert READ_SO not in lab.flush()
    net, crowd = reading.network(small, "MulT", 0), reading.held_out(small, 0)
    for read, causal in (("mean", False), ("first", True), ("last", True)):
        found = shown(lab, read=read, causal=causal)
        other = reading.read_as(net, read, causal)
        wanted = (reading.saliency(other, crowd) > 0).sum(1).tolist()
        assert [metrics(found)[f"{name} cells"] for name in ("rgb", "flow")] == wanted
        assert metrics(found)["read so"] == measure.accuracy(other, crowd)
    assert metrics(shown(lab, read="first", causal=True))["rgb cells"] == 1
    bars = bars_of(found["cells that matter, of each stream"])
    assert bars == {"mean": 18, "mean, causal": 18, "last": 18, "last, causal": 18, "first": 18,
                    "first, causal": 1}  # fmt: skip


def test_cells_lie_where_they_are_and_one_that_does_not_matter_is_striped(small: Setting) -> None:
    lab, size = rivals.reading_cells(small, 0), rivals.TILE
    pixels = shown(lab, read="first", causal=True)[CELLS]["pixels"]
    assert pixels.shape == (2, 2, 3 * size, 3 * size)
    assert len(np.unique(pixels[0, 0, :size, :size])) == 1, "the first cell matters: one grey"
    for part in (pixels[0, 0, size:], pixels[0, 1], pixels[1, 0, :size, size:]):
        assert np.unique(part).tolist() == [round(255 * rivals.LIGHT), 255]
    whole = shown(lab)[CELLS]["pixels"]
    wanted = reading.saliency(reading.network(small, "MulT", 0), reading.held_out(small, 0))
    at = int(wanted.flatten().argmax())
    stream, frame, row, column = np.unravel_index(at, (2, 2, 3, 3))
    assert whole[stream, frame, row * size, column * size] == 0 == whole.min(), "the most is black"


def test_cells_of_a_sequence_stand_in_one_row() -> None:
    base = plan.affect("smoke")
    setting = replace(
        base, data=replace(base.data, n_train=16, n_val=8, n_test=8), fit=TrainConfig(1, 16, 1e-3)
    )
    found = shown(rivals.reading_cells(setting, 0), read="first", causal=True)
    steps = setting.data.steps
    assert found[CELLS]["pixels"].shape == (2, 1, rivals.TILE, steps * rivals.TILE)
    assert found[CELLS]["rows"] == ["language", "audio"]
    assert metrics(found)["language cells"] == 1


def test_accuracies_are_of_networks_that_were_trained_so(small: Setting) -> None:
    found = shown(rivals.reading_cells(small, 0, mult_frame()), read="first", causal=True)[READ_SO]
    assert bars_of(found) == {"mean": 81, "first": 71, "first, causal": 41}
    assert [color == rivals.BLUE for color in found["colors"]] == [False, False, True]
    np.testing.assert_array_equal(found["marks"], 12.5)


# MISA's dials -------------------------------------------------------------------------------------


def test_dials_snap_to_the_networks_of_the_table(small: Setting, dialled: pd.DataFrame) -> None:
    lab = dials.misa(dialled)
    assert [control["name"] for control in lab.spec["controls"]] == ["similar", "recover", "zoom"]
    assert lab.spec["controls"][0]["default"] == 0.0, "0.3 is nearest to 0"
    assert lab.spec["controls"][1]["default"] == 1.0
    assert "As MMSA has it" not in lab.kind.PRESETS, "no network was trained so"
    same = dials.misa(dialled.assign(similar=dialled["similar"].replace(1.0, 0.3)))
    assert same.kind.preset("As MMSA has it") == same.kind(similar=0.3, recover=1.0)
    found = shown(lab, similar=0.7, recover=0.1)
    wanted = reading.misa(small, 1.0, 0.1, 0.0, 0)
    assert metrics(found)["accuracy"] == wanted["accuracy"]
    assert metrics(found)["spread"] == wanted["spread"]
    for name in ("similar", "differ", "recover"):
        assert metrics(found)[f"{name} left"] == wanted[name]
    plane = next(p for p in found.values() if p["kind"] == "plane")
    np.testing.assert_allclose(plane["points"][:24], wanted["points"]["private rgb"], rtol=1e-5)
    assert np.bincount(plane["classes"]).tolist() == [24] * 4
    bars = found["shared codes' moments, apart; ticks: lowest weights"]
    np.testing.assert_allclose(bars["values"], wanted["moments"], rtol=1e-5)
    bare = reading.misa(small, 0.0, 0.1, 0.0, 0)
    np.testing.assert_allclose(bars["marks"], bare["moments"], rtol=1e-5)
    left = bars_of(found["left of each condition; tick: lowest weights"])
    assert left == pytest.approx({name: wanted[name] / bare[name] for name in left})
    for network, weight in ((wanted, 1.0), (bare, 0.0)):
        large = shown(lab, similar=weight, recover=0.0, zoom=True)
        closer = next(p for p in large.values() if p["kind"] == "plane")
        most = max(np.abs(points).max() for points in network["points"].values())
        assert closer["half"] == pytest.approx(1.05 * most) and closer["half"] <= plane["half"]
    leaning = found["angle of private and shared code; tick: orthogonal"]
    assert bars_of(leaning) == pytest.approx(wanted["angles"]) and list(wanted["angles"]) == [
        "rgb",
        "flow",
    ]
    assert leaning["marks"].tolist() == [90, 90] and leaning["high"] == 180
    for name, angle in wanted["angles"].items():
        assert metrics(found)[f"{name} angle"] == angle
        assert f"{angle:.0f}° ({name})" in leaning["alt"]
    assert wanted["angles"] != bare["angles"]
    scores = bars_of(found["right answers (%)"])
    assert scores["best here"] == dialled["accuracy"].max()
    with pytest.raises(ValueError, match="table must have two or more networks, got 1"):
        dials.misa(dialled[:1])


@pytest.mark.parametrize(("share", "answer"), [(0.01, 2), (0.2, 1), (0.9, 0)])
def test_the_question_knows_whether_codes_shrank(
    dialled: pd.DataFrame, share: float, answer: int
) -> None:
    apart = {f"code {k}": np.array([[k - 0.1, 0.1], [k + 0.1, -0.1]]) for k in range(4)}
    near = {name: share * (x - x.mean(0)) + x.mean(0) for name, x in apart.items()}
    assert dials.own_of(apart) == pytest.approx(0.1)
    most = (dialled["similar"] == 1.0) & (dialled["recover"] == 1.0)
    changed = dialled.assign(points=[near if m else apart for m in most])
    lab = dials.misa(changed)
    assert lab.spec["question"]["answer"] == answer
    found = shown(lab, **lab.spec["question"]["then"])
    assert metrics(found)["each"] == pytest.approx(0.1 * share), "codes that lie apart do not count"
    assert ("shrunk to constants" in next(iter(found.values()))["alt"]) == (answer == 2)
    assert "shrunk" not in next(iter(shown(lab, similar=0.0, recover=0.0).values()))["alt"]


# What it costs ------------------------------------------------------------------------------------


def test_the_best_within_a_budget_and_the_front_are_the_tables() -> None:
    lab = pricing.price(bench_frame())
    for state, best, front in (
        ({}, 99.25, 3), ({"budget": 2.0}, 52.25, 3), ({"budget": 1.0}, 50.25, 3),
        ({"data": "sum"}, 99.25, 3), ({"data": "sum", "budget": 2.0}, 99.25, 3),
        ({"over": "weights", "budget": 2.03}, 52.25, 3),
    ):  # fmt: skip
        found = metrics(shown(lab, **state))
        assert (found["best"], found["on the front"]) == (best, front), state
    assert found["cost"] == 85 and found["spread"] == pytest.approx(0.5 / 2**0.5)
    product = shown(lab)[RIGHT]
    assert product["names"] == ["rgb alone *", "early *", "Blending", "late", "X-Norm *", "MISA"]
    assert product["colors"][4] == pricing.BLUE and product["colors"][3] == pricing.GREY
    plain = shown(lab, data="sum")
    assert plain[RIGHT]["names"][3:] == ["late *", "X-Norm", "MISA"], "no better, and dearer"
    assert "Better than all that cost less: rgb alone, early and late." in plain[RIGHT]["alt"]
    curve = shown(lab, budget=2.0)["the best that a budget buys"]
    line, x = curve["lines"][0]["y"], curve["x"]
    assert line[0] == 50.25 and line[-1] == 99.25 and (np.diff(line) >= 0).all()
    assert line[x < 3.6 / 1.6].max() == 52.25 and curve["marker"] == 2
    assert bars_of(shown(lab)["thousand weights"])["late"] == 102
    spent = bars_of(shown(lab, over="training")["billion MAdds of training"])
    assert spent["late"] == pytest.approx(9.6) and spent["Blending"] == pytest.approx(28.8)
    assert [*spent][-1].startswith("Blending"), "the dearest to train"


def test_what_exchanging_adds_is_asked_where_it_is_known() -> None:
    lab = pricing.price(bench_frame())
    assert lab.spec["question"]["answer"] == 1
    assert "12 % more, and 3 % more weights" in lab.spec["question"]["why"]
    free = bench_frame()
    free.loc[free["way"] == "X-Norm", "madds"] = 3_200_001
    assert pricing.price(free).spec["question"]["answer"] == 0
    assert pricing.price(bench_frame("late")).spec["question"] is None
    one = bench_frame()
    single = pricing.price(one[(one["data"] == "sum") & (one["seed"] == 0)])
    assert [c["name"] for c in single.spec["controls"]] == ["budget", "over"]
    assert "spread" not in single.metrics
    with pytest.raises(ValueError, match="table must have at least one data set, got none"):
        pricing.price(one[:0])


def test_the_board_shows_every_method_and_seed_over_each_cost() -> None:
    table = bench_frame()
    figure = pricing.pareto(table)
    slots = [*dict.fromkeys(table["way"])]
    slots[slots.index("rgb alone")] = "one alone"
    assert [trace.name for trace in figure.data] == slots
    looks = {(trace.marker.color, trace.marker.symbol) for trace in figure.data}
    assert len(looks) == len(figure.data), "told apart by colour and shape"
    late = table[(table["way"] == "late") & (table["data"] == "product")]
    assert list(figure.data[1].x) == late["madds"].tolist()
    buttons = figure.layout.updatemenus[0].buttons
    labels = [
        f"{name}: {cost}"
        for name in ("product", "sum")
        for cost in ("madds", "weights", "training")
    ]
    assert [button.label for button in buttons] == labels
    moved = buttons[4].args[0]
    plain = table[(table["way"] == "late") & (table["data"] == "sum")]
    assert (
        moved["x"][1] == plain["weights"].tolist() and moved["y"][1] == plain["accuracy"].tolist()
    )
    assert moved["customdata"][1][1] == [1, 3_200_000, 102_000, 100, 12.5]
    assert buttons[4].args[1] == {"xaxis.title.text": "weights"}
    other = table.assign(way=table["way"].replace({"rgb alone": "language alone"}), data="affect")
    both = pricing.pareto(pd.concat([table, other]))
    assert [trace.name for trace in both.data] == slots, "their names differ, not their look"
    of_affect = both.layout.updatemenus[0].buttons[-1].args[0]
    assert set(of_affect["text"][slots.index("one alone")]) == {"language alone"}
    with pytest.raises(ValueError, match="at least one data set"):
        pricing.pareto(table[:0])
    with pytest.raises(ValueError, match="got 'magic'"):
        pricing.pareto(table.replace({"way": {"late": "magic"}}))


def test_torch_is_left_as_it_was(small: Setting) -> None:
    net = reading.network(small, "MulT", 0)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    rivals.reading_cells(small, 0).flush()
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())
