"""Lab of the shoot-out: scores by the table, answers on one sample by the networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from labkit.batch import subset_name, subsets
from labkit.data.affect import Affect
from labkit.data.clips import Clips
from labkit.live import shootout
from labkit.live.flowing import BLUE, GREEN, GREY
from labkit.live.lab import Lab
from labkit.live.pictures import metrics
from labkit.live.still import still
from labkit.models.backbones import Clip, Steps
from labkit.models.mvae import Modality, MVAEConfig
from labkit.shootout import measure
from labkit.shootout.entries import Entry
from labkit.shootout.measure import ALL, CLEAN
from labkit.shootout.plan import Setting
from labkit.shootout.reading import front, named
from labkit.train import TrainConfig

RIGHT = "right (%), the cheapest first; *: on the front; ticks: majority"
COST = "what it costs; ticks: the budget"
SEEN = "the sample, as it is seen"
GIVES = "what each gives its class; ticks: chance"
FLOORS = {"clips": 12.5, "affect": 20.0}
LEVELS = (1.0, 2.0)


def sized(data: Any, shapes: Any, backbone: Any, classes: int) -> Setting:
    """A setting that trains in no time."""
    each = tuple(Modality(n, shape, "gaussian", 0.5, (8,), (8,)) for n, shape in shapes)
    return Setting(
        data, shapes, backbone, classes, shapes[0][0], TrainConfig(2, 16, 1e-3), TrainConfig(1, 16, 1e-3),
        MVAEConfig(each, 4, classes, (8,)),
    )  # fmt: skip


CLIPS = Clips(frames=2, size=12, n_train=32, n_val=16, n_test=24)
AFFECT = Affect(n_train=32, n_val=16, n_test=20, steps=4)
STUDIES = {
    "clips": sized(CLIPS, tuple(CLIPS.shapes.items()), Clip((4, 6)), 8),
    "affect": sized(
        AFFECT, tuple((name, (4, 8)) for name in ("language", "audio", "vision")), Steps((4, 6)), 5
    ),
}
CHANGE: dict[str, Any] = {
    "data": "affect", "first": False, "second": True, "third": True, "noisy": "second", "level": 1.9,
    "budget": 0.3, "over": "weights", "trained": "all", "sample": 3,
}  # fmt: skip


def frame(seeds: int = 2) -> pd.DataFrame:
    """A table as of `measure.table`. In it, of entry k of the data set's, i from 0:

    right: 30 + 2 k, 10 more if trained on gaps and something is missing, 5 less for each that is missing,
    and 3 less for each level of noise; the majority if it reads nothing that is visible. It costs 1000 times
    its place from the end, half of it if anything is missing, and 100 weights times its place.
    """
    rows = []
    for data, setting in STUDIES.items():
        for k, (way, gaps) in enumerate(setting.ways):
            for noisy, level in measure.conditions(setting, LEVELS):
                for mask in subsets(len(setting.names)):
                    gone = int((~mask).sum())
                    reads = setting.reads(way)
                    blind = not any(
                        h and n in reads for n, h in zip(setting.names, mask, strict=True)
                    )
                    right = 30 + 2 * k + 10 * (gaps and gone > 0) - 5 * gone - 3 * level
                    spent = 1000 * (len(setting.ways) - k) / (2 if gone else 1)
                    rows += [
                        {"data": data, "way": way, "gaps": gaps, "seed": seed,
                         "visible": subset_name(mask, setting.names), "noisy": noisy, "level": level,
                         "accuracy": FLOORS[data] if blind else right + seed, "floor": FLOORS[data],
                         "madds": 0.0 if blind else spent, "weights": 100.0 * (k + 1)}
                        for seed in range(seeds)
                    ]  # fmt: skip
    return pd.DataFrame(rows)


TABLE = frame()


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both data sets' entries are trained when a lab first asks for them."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    torch.set_num_threads(1)  # before `same_arithmetic` of the first test
    yield
    patch.undo()
    for cache in (shootout._entry, shootout.split_of, shootout._noise):
        cache.cache_clear()


@pytest.fixture
def lab() -> Lab:
    return shootout.shootout(STUDIES, TABLE)


def shown(lab: Lab, **state: Any) -> dict[str, Any]:
    """Pictures of a state, of all entries if it does not say of which."""
    return dict(lab.compute(lab.kind(**({"trained": "all"} | state))))


def bars_of(picture: dict[str, Any]) -> dict[str, float]:
    """Entry -> bar, by full names and without stars."""
    full = {short: name for name, short in shootout.SHORT.items()}
    names = [name.removesuffix(" *") for name in picture["names"]]
    return dict(zip([full.get(n, n) for n in names], picture["values"].tolist(), strict=True))


def row_of(
    data: str, entry: str, visible: str, noisy: str = CLEAN, level: float = 0.0
) -> pd.Series:
    """Means over seeds of a row of the table."""
    names = [named(way, gaps) for way, gaps in zip(TABLE["way"], TABLE["gaps"], strict=True)]
    here = (TABLE["data"] == data) & (np.array(names) == entry) & (TABLE["visible"] == visible)
    here &= (TABLE["noisy"] == noisy) & (TABLE["level"] == level)
    assert here.sum() == 2
    mean: pd.Series = TABLE[here][["accuracy", "madds", "weights"]].mean()
    return mean


# States ---------------------------------------------------------------------------------------------------


def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(lab: Lab) -> None:
    assert lab.spec["name"] == "shootout" and not lab.error
    assert [control["name"] for control in lab.spec["controls"]] == [*CHANGE]
    assert all(control["help"] for control in lab.spec["controls"])
    first, names = lab.metrics, list(lab.flush())
    assert names == [RIGHT, COST, SEEN, GIVES, "numbers"]
    lab.set(**CHANGE)
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = shootout.shootout(STUDIES, TABLE, states=[lab.line])
    assert again.line == lab.line
    assert again.metrics == lab.metrics != first
    found = lab.flush()
    assert list(found) == names, "the page keeps a place for each name"
    assert still(found, "shootout")[:4] == b"\x89PNG"
    for one, other in zip(found.values(), again.flush().values(), strict=True):
        assert one["alt"] == other["alt"]
        if one["kind"] == "bars":
            np.testing.assert_array_equal(one["values"], other["values"])


def test_controls_are_of_the_data(lab: Lab) -> None:
    controls = {control["name"]: control for control in lab.spec["controls"]}
    assert controls["data"]["options"] == ["clips", "affect"]
    assert controls["noisy"]["options"] == ["first", "second", "third", ALL]
    assert controls["level"]["high"] == 2.0, "the highest that was measured"
    assert controls["sample"]["high"] == 19, "a sample that all data sets have"
    assert "rgb (clips), language (affect)" in controls["first"]["help"]
    assert "visible? vision (affect)" in controls["third"]["help"]
    two = shootout.shootout({"clips": STUDIES["clips"]}, TABLE)
    names = [control["name"] for control in two.spec["controls"]]
    assert "third" not in names and "second" in names
    assert "Only the second" in two.kind.PRESETS


def test_every_preset_is_a_state_that_can_be_shown(lab: Lab) -> None:
    assert [*lab.kind.PRESETS] == [
        "All there", "The first is missing", "Only the second", "Noise on all", "Noise on the first",
        "Half the money", "Trained on complete data",
    ]  # fmt: skip
    for data in STUDIES:
        for values in lab.kind.PRESETS.values():
            for picture in shown(lab, data=data, **values).values():
                if picture["kind"] == "bars":
                    drawn = [*picture["values"], *picture["marks"]]
                    assert min(drawn) >= 0 and max(drawn) <= picture["high"] * (1 + 1e-6)
                assert picture["alt"] or picture["kind"] == "figures"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: shootout.shootout(STUDIES, TABLE[TABLE["data"] == "clips"]),
         "table must have all data sets, lacks affect"),
        (lambda: shootout.shootout(STUDIES, TABLE, states=["shootout?sample=20"]), "sample must"),
        (lambda: shootout.shootout(STUDIES, TABLE).set(level=2.5), "level must"),
        (lambda: shootout.shootout(STUDIES, TABLE).set(budget=-0.1), "budget must"),
        (lambda: shootout.shootout(STUDIES, TABLE).set(data="magic"), "data must be one of clips, affect"),
        (lambda: shootout.shootout(STUDIES, TABLE).set(noisy="rgb"), "noisy must be one of first"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(run: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()


def test_it_opens_with_those_trained_on_gaps_and_two_that_have_no_twin(lab: Lab) -> None:
    for data, setting in STUDIES.items():
        found = dict(lab.compute(lab.kind(data=data)))
        wanted = {"nearest mean", *(named(*entry) for entry in setting.ways if entry[1])}
        assert bars_of(found[RIGHT]).keys() == wanted and "MVAE" in str(wanted)
        assert len(wanted) <= 14, "names do not run into each other"


# Scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "visible", "noisy"),
    [
        ({}, "rgb+flow", (CLEAN, 0.0)),
        ({"third": False}, "rgb+flow", (CLEAN, 0.0)),
        ({"first": False}, "flow", (CLEAN, 0.0)),
        ({"data": "affect", "second": False}, "language+vision", (CLEAN, 0.0)),
        ({"level": 1.2}, "rgb+flow", (ALL, 1.0)),
        ({"level": 2.0, "noisy": "second", "second": False}, "rgb", ("flow", 2.0)),
        (
            {"data": "affect", "level": 1.6, "noisy": "third"},
            "language+audio+vision",
            ("vision", 2.0),
        ),
    ],
)
def test_right_answers_and_costs_are_the_tables(
    lab: Lab, state: dict[str, Any], visible: str, noisy: tuple[str, float]
) -> None:
    data = state.get("data", "clips")
    found = shown(lab, **state)
    right, cost = bars_of(found[RIGHT]), bars_of(found[COST])
    assert right.keys() == cost.keys() == {named(*entry) for entry in STUDIES[data].ways}
    for entry in right:
        row = row_of(data, entry, visible, *noisy)
        assert right[entry] == pytest.approx(row["accuracy"])
        assert cost[entry] == pytest.approx(row["madds"] / 1e3)
    assert [*cost.values()] == sorted(cost.values()), "the cheapest first"
    np.testing.assert_array_equal(found[RIGHT]["marks"], FLOORS[data])
    weighed = bars_of(shown(lab, **state, over="weights")[COST])
    for entry in weighed:
        assert weighed[entry] == pytest.approx(row_of(data, entry, visible)["weights"] / 1e3)
    on = front(cost, right)
    stars = [name.removesuffix(" *") for name in found[RIGHT]["names"] if name.endswith(" *")]
    assert [shootout.SHORT.get(name, name) for name in on] == stars
    assert metrics(found)["on the front"] == len(on)


@pytest.mark.parametrize(
    ("noisy", "level", "wanted"),
    [
        (ALL, 0.0, (CLEAN, 0.0)), (ALL, 0.49, (CLEAN, 0.0)), (ALL, 0.51, (ALL, 1.0)),
        ("first", 1.49, ("rgb", 1.0)), ("first", 1.51, ("rgb", 2.0)), ("second", 2.0, ("flow", 2.0)),
        ("third", 2.0, (CLEAN, 0.0)), ("first", 0.3, (CLEAN, 0.0)),
    ],
)  # fmt: skip
def test_the_nearest_level_counts(lab: Lab, noisy: str, level: float, wanted: Any) -> None:
    state = lab.kind(noisy=noisy, level=level)
    assert shootout.nearest(TABLE, STUDIES["clips"], state) == wanted
    third = lab.kind(noisy="third", level=2.0)
    assert shootout.nearest(TABLE, STUDIES["affect"], third) == ("vision", 2.0)
    said = shown(lab, noisy=noisy, level=level)[RIGHT]["alt"]
    name, found = wanted
    assert (f"noise of {found:g} on {name}." in said) if found else ("no noise." in said)


@pytest.mark.parametrize("over", ["madds", "weights"])
def test_a_budget_limits_who_is_the_best(lab: Lab, over: str) -> None:
    whole = shown(lab, over=over)
    right, cost = bars_of(whole[RIGHT]), bars_of(whole[COST])
    most = max(cost.values())
    best = []
    for budget in (0.0, 0.1, 0.37, 0.5, 1.0):
        found = shown(lab, over=over, budget=budget)
        limit = max(budget * most, min(cost.values()))
        np.testing.assert_allclose(found[COST]["marks"], limit, rtol=1e-6)
        within = [entry for entry in cost if cost[entry] <= limit * (1 + 1e-6)]
        chosen = max(within, key=lambda entry: right[entry])
        assert metrics(found)["best"] == pytest.approx(right[chosen])
        assert metrics(found)["cost"] == pytest.approx(cost[chosen])
        assert f"the best is {chosen}, {right[chosen]:.1f} % right." in found[RIGHT]["alt"]
        blue = [
            n
            for n, c in zip(bars_of(found[RIGHT]), found[RIGHT]["colors"], strict=True)
            if c == BLUE
        ]
        assert blue == [chosen]
        others = {n: c for n, c in zip(cost, found[RIGHT]["colors"], strict=True) if n != chosen}
        on = front(cost, right)
        assert all((color == GREEN) == (name in on) for name, color in others.items())
        assert {*others.values()} <= {GREEN, GREY}
        best.append(right[chosen])
    assert best == sorted(best), "more money is no worse"
    assert metrics(shown(lab, over=over, budget=0.0))["cost"] == pytest.approx(min(cost.values()))


def test_how_methods_were_trained_is_chosen(lab: Lab) -> None:
    ways = STUDIES["clips"].ways
    for trained, kept in (
        ("on complete data", (False,)),
        ("on gaps", (True,)),
        ("all", (False, True)),
    ):
        found = shown(lab, trained=trained, first=False)
        wanted = {named(*e) for e in ways if e[1] in kept or e[0] in ("nearest mean", "MVAE")}
        for name in (RIGHT, COST, GIVES):
            assert bars_of(found[name]).keys() == wanted, "two are there always"
        assert ("lead of gaps" in metrics(found)) == (trained == "all")
    # Each stands behind its twin, 2 points better for it, and 10 for gaps where something is missing.
    assert metrics(shown(lab, first=False))["lead of gaps"] == pytest.approx(12)
    assert metrics(shown(lab))["lead of gaps"] == pytest.approx(2)


def test_nothing_visible_leaves_the_majority(lab: Lab) -> None:
    for data, places in (("clips", 2), ("affect", 3)):
        hidden = dict.fromkeys(("first", "second", "third")[:places], False)
        for more in (
            {},
            {"level": 2.0},
            {"over": "weights", "budget": 0.2},
            {"trained": "on gaps"},
        ):
            found = shown(lab, data=data, **hidden, **more)
            assert {*bars_of(found[RIGHT]).values()} == {FLOORS[data]}
            assert metrics(found)["best"] == FLOORS[data]
            assert not found[GIVES]["values"].any(), "nobody is asked"
            assert "visible nothing" in found[RIGHT]["alt"] and "Sample" not in found[RIGHT]["alt"]
            assert not found[SEEN]["framed"].any()
            assert int(found[SEEN]["pixels"].min()) == 255, "blank"
            assert metrics(found)["on the front"] == 1, "as good for more is no better"
        lab.set(data=data, **hidden)
        assert (
            not lab.error
            and lab.pictures[RIGHT]["alt"] == shown(lab, data=data, **hidden)[RIGHT]["alt"]
        )
    assert still(found, "shootout")[:4] == b"\x89PNG"


# One sample -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        {"sample": 5},
        {"sample": 2, "first": False},
        {"sample": 2, "level": 1.0},
        {"data": "affect", "sample": 7, "second": False, "level": 2.0, "noisy": "third"},
        {"data": "affect", "sample": 19, "level": 2.0, "trained": "on gaps"},
    ],
)
def test_what_is_said_of_a_sample_is_what_its_networks_say(lab: Lab, state: dict[str, Any]) -> None:
    """Probabilities of networks that read one sample at a time, up to 1e-5."""
    data = state.get("data", "clips")
    setting, sample = STUDIES[data], state["sample"]
    mask = torch.tensor(
        [[state.get(place, True) for place in shootout.PLACES[: len(setting.names)]]]
    )
    noisy = state.get("noisy", ALL)
    which = ALL if noisy == ALL else setting.names[shootout.PLACES.index(noisy)]
    condition = (which, state["level"]) if "level" in state else (CLEAN, 0.0)
    test = measure.noisy(setting.recipe(0).load("test"), condition, 0)
    one = test[sample : sample + 1].with_observed(mask)
    assert test.y is not None
    label, found = int(test.y[sample]), shown(lab, **state)
    gives, hits, asked = bars_of(found[GIVES]), 0, 0
    for way, gaps in setting.ways:
        if named(way, gaps) not in gives:
            assert state.get("trained") == "on gaps" and not gaps and way != "nearest mean"
            continue
        here = [
            n
            for n, seen in zip(setting.names, mask[0], strict=True)
            if seen and n in setting.reads(way)
        ]
        if not here:
            assert gives[named(way, gaps)] == 0, "who sees nothing says nothing"
            continue
        probabilities = Entry(setting, way, gaps, 0).answer(one)[0][0].softmax(0)
        assert gives[named(way, gaps)] == pytest.approx(float(probabilities[label]), abs=1e-5), way
        hits, asked = hits + int(probabilities.argmax() == label), asked + 1
    said = f"Sample {sample} is of class {label}: {hits} of {asked} methods say so."
    assert found[GIVES]["alt"].endswith(said)
    np.testing.assert_allclose(found[GIVES]["marks"], 1 / setting.classes, rtol=1e-6)


def test_a_sentence_says_what_is_seen_and_what_it_costs(lab: Lab) -> None:
    said = shown(lab, first=False, level=1.0, trained="on complete data")[RIGHT]["alt"]
    right = 30 + 2 * 28 + 10 - 5 - 3 + 0.5  # of the last entry, one modality missing
    assert said.startswith(
        "clips: visible flow, noise of 1 on all. For at most 14 thousand MAdds the best is MVAE, "
        f"{right:.1f} % right. Better than all that cost less: rgb alone and MVAE. Majority: 12.5 %. "
    )
    heavy = shown(lab, over="weights", budget=0.5)[COST]
    right = 30 + 2 * 13 + 0.5  # of those with 1200 weights or fewer
    assert heavy["alt"].startswith(
        "clips: visible rgb+flow, no noise. For at most 1 thousand weights the best is MulT, "
        f"{right:.1f} % right. Better than all that cost less: nearest mean, rgb alone, "
    )
    assert heavy["unit"] == "thousand weights"


def test_a_sample_is_shown_with_its_noise_and_what_is_hidden_is_blank(lab: Lab) -> None:
    clear, gone, noisy = (
        shown(lab, sample=4, **state)[SEEN]
        for state in ({}, {"first": False}, {"level": 2.0, "noisy": "second"})
    )
    assert clear["columns"] == ["rgb", "flow"] and clear["pixels"].shape == (1, 2, 12, 12)
    assert clear["framed"].tolist() == [[1, 1]] and gone["framed"].tolist() == [[0, 1]]
    assert (gone["pixels"][0, 0] == 255).all()
    np.testing.assert_array_equal(gone["pixels"][0, 1], clear["pixels"][0, 1])
    np.testing.assert_array_equal(noisy["pixels"][0, 0], clear["pixels"][0, 0])
    assert (noisy["pixels"][0, 1] != clear["pixels"][0, 1]).mean() > 0.5
    batch = STUDIES["clips"].recipe(0).load("test")
    low, high = (getattr(batch.x["rgb"], of)() for of in ("min", "max"))
    middle = ((batch.x["rgb"][4] - low) / (high - low))[:, 1].mean(0)  # of two frames the second
    np.testing.assert_allclose(clear["pixels"][0, 0], 255 * middle.numpy(), atol=0.51)
    three = shown(lab, data="affect", sample=4)[SEEN]
    assert three["columns"] == ["language", "audio", "vision"] and three["pixels"].shape[:2] == (
        1,
        3,
    )


def test_pictures_of_other_shapes_fill_their_frames() -> None:
    flat = shootout._flat
    assert flat(torch.rand(13)).shape == (4, 13), "a vector is a band"
    assert flat(torch.rand(1, 13)).shape == (4, 13)
    assert flat(torch.rand(1, 30)).shape == (30, 4), "a long one stands upright"
    assert flat(torch.rand(28, 28)).shape == (28, 28)
    assert flat(torch.rand(12, 30)).shape == (30, 12), "channels over steps"
    clip = torch.rand(3, 5, 8, 6)
    np.testing.assert_allclose(flat(clip), clip[:, 2].mean(0).numpy(), rtol=1e-6)
    assert flat(torch.tensor([-1.0, 0.5, 3.0]))[0].tolist() == [0.0, 0.5, 1.0]
    tile = np.array([[1.0, 2.0], [3.0, 4.0]])
    wide = shootout._stretched(tile, 4, 6)
    np.testing.assert_array_equal(wide, tile.repeat(2, 0).repeat(3, 1))


def test_noise_grows_with_its_level_and_is_the_tables(lab: Lab) -> None:
    setting = STUDIES["affect"]
    test = setting.recipe(0).load("test")
    for which, name in (("second", "audio"), (ALL, ALL)):
        for level in LEVELS:
            state = lab.kind(data="affect", noisy=which, level=level, sample=6)
            found = shootout._sample(STUDIES, state, 0, "cpu", [True] * 3)
            wanted = measure.noisy(test, (name, level), 0)
            for modality in setting.names:
                torch.testing.assert_close(
                    found.x[modality][0], wanted.x[modality][6], rtol=1e-5, atol=1e-5
                )
    assert len(found) == 1 and found.y is not None and int(found.y) == int(test.y[6])


# The question ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "answer"), [(-0.5, 0), (0.0, 1), (5.0, 1), (5.5, 2)])
def test_the_question_knows_what_training_on_gaps_is_worth(gain: float, answer: int) -> None:
    table = TABLE.copy()
    early = (table["way"] == "early") & (table["data"] == "clips")
    clean = early & (table["noisy"] == CLEAN)
    table.loc[clean & (table["visible"] == "rgb+flow"), "accuracy"] = 66.0
    table.loc[clean & (table["visible"] == "flow") & ~table["gaps"], "accuracy"] = 44.0
    table.loc[clean & (table["visible"] == "flow") & table["gaps"], "accuracy"] = 44.0 + gain
    table.loc[early & ~clean, "accuracy"] = 1.0
    lab = shootout.shootout(STUDIES, table)
    question = lab.spec["question"]
    assert question["answer"] == answer and len(question["options"]) == 3
    assert question["text"].startswith("clips: ") and "right of 66 %" in question["text"]
    assert "44 % are left" in question["text"] and f"{44 + gain:.0f} %" in question["why"]
    assert question["then"] == {"first": False, "trained": "all"}
    found = bars_of(shown(lab, **question["then"])[RIGHT])
    assert found["early, gaps"] - found["early"] == pytest.approx(gain)


def test_without_both_ways_nothing_is_asked() -> None:
    one = TABLE[(TABLE["way"] != "early") | ~TABLE["gaps"]]
    assert shootout._question(one, ["clips"]) is None
    other = TABLE[(TABLE["way"] != "early") | TABLE["gaps"]]
    assert shootout._question(other, ["clips"]) is None
