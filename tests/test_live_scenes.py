"""Labs of notebook 07: paths are those of the network, noise is the study's, and only the state decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from labkit.batch import Batch
from labkit.data import nyu
from labkit.data.rooms import SCENES, Rooms
from labkit.fusing import colours, measure, plan, reading
from labkit.fusing.plan import Setting
from labkit.live import annealing, pictures, scenes
from labkit.live.lab import Lab
from labkit.live.pictures import metrics, packed
from labkit.live.still import still
from labkit.metrics_segmentation import confusion, mean_iou, pixel_accuracy
from labkit.models.dynmm_fusion import fuse_of
from labkit.models.rgbd import Sizes
from labkit.train import TrainConfig

WAY = "annealed, 0.1"
SEEN = "what is seen, what is true, what the path says and where it is wrong"
PATHS = "the five paths, pixels right; orange: the gate's; blue: looked at"
CELLS = "what is seen, what is true, what these cells say and where it is wrong"
CHANGES: dict[str, dict[str, Any]] = {
    "scene": {
        "row": 4, "light": 0.3, "similarity": 0.4, "noise": 20.0, "holes": 0.3, "path": "3",
    },
    "surgery": {"row": 3, "quarters": 4, "cell1": False, "cell2": True, "cell3": False, "cell4": True},
    "histogram": {"quarters": 6, "mode": "rgb", "hit": "every third picture"},
    "weather": {
        "level": 2, "mode": "rgb", "gate": True, "full": False, "early_exit": True, "dealt": False,
    },
    "anneal": {"look": 1, "stage1": False},
}  # fmt: skip


def noise_frame() -> pd.DataFrame:
    """A table as of `measure.noise_table`: the gate loses most, the early exit least."""
    ways, rows = {WAY: 6.0, "static 4": 4.0, "static 1": 1.0, "static 0": 3.0}, []
    for seed in range(2):
        for way, steep in ways.items():
            for mode in ("depth", "rgb"):
                for level in (0.0, 1.0, 2.0):
                    for draw in range(3):
                        miou = 60 + seed - steep * level * (2 if mode == "rgb" else 1) + 0.1 * draw
                        rows.append({
                            "way": way, "mode": mode, "level": level, "draw": draw, "seed": seed,
                            "miou": miou, "random": miou - 1 if way == WAY else float("nan"),
                        })  # fmt: skip
    return pd.DataFrame(rows)


BEST = {0: "static 1", 1: "static 1"}
BUILD: dict[str, Callable[..., Lab]] = {
    "scene": scenes.scene, "surgery": scenes.surgery, "histogram": annealing.histogram,
    "anneal": annealing.anneal,
    "weather": lambda setting, seed, **more: annealing.noise(noise_frame(), WAY, BEST, **more),
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def setting(store: None) -> Setting:
    """Sizes at which a network is trained in two seconds, in a store of its own."""
    data = Rooms(height=48, n_train=40, n_val=8, n_test=12)
    return replace(plan.rooms("smoke"), data=data, fit=TrainConfig(4, 8, 4e-3), weights=(0.1,))


def photographs(split: str, height: int = 48, *_: Any) -> Batch:
    """Pictures of another kind of source: 13 classes, no kinds of scene."""
    drawn = torch.Generator().manual_seed(len(split))
    x = {
        "rgb": torch.rand(8, 3, height, height * 4 // 3, generator=drawn),
        "depth": 1 + 5 * torch.rand(8, 1, height, height * 4 // 3, generator=drawn),
    }
    y = torch.randint(-1, 13, (8, height, height * 4 // 3), generator=drawn)
    return Batch(x, y=y, factors={"image": torch.arange(8)})


@pytest.fixture
def real(store: None, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(nyu, "load", photographs)
    base = plan.rooms("smoke", "real")
    return replace(base, fit=TrainConfig(1, 8, 4e-3), weights=(0.1,))


def shown(lab: Lab, **state: Any) -> dict[str, Any]:
    return dict(lab.compute(lab.kind(**state)))


def picture(of: np.ndarray) -> np.ndarray:
    return pictures.to_bytes(of)


# All labs --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILD)
def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(
    setting: Setting, name: str
) -> None:
    lab = BUILD[name](setting, 0)
    assert lab.spec["name"] == name
    assert CHANGES[name].keys() == {control["name"] for control in lab.spec["controls"]}
    first = lab.metrics
    names = list(lab.flush())
    lab.set(**CHANGES[name])
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = BUILD[name](setting, 0, states=[lab.line])
    assert again.line == lab.line
    assert again.metrics == lab.metrics != first
    assert list(lab.flush()) == names, "the page keeps a place for each name"
    assert all(control["help"] for control in lab.spec["controls"])
    for values in lab.kind.PRESETS.values():
        assert {*values} <= CHANGES[name].keys()
        shown(lab, **values)
    assert lab.spec["question"]["why"]
    lab.set(**lab.spec["question"]["then"])
    found = lab.flush()
    assert still(found, name)[:4] == b"\x89PNG"
    assert all(p["alt"] for p in found.values() if p["kind"] != "figures")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scene", "surgery", "histogram", "anneal"])
def test_real_pictures_have_labs_of_their_own_controls(real: Setting, name: str) -> None:
    lab = BUILD[name](real, 0)
    fields = {control["name"] for control in lab.spec["controls"]}
    assert not fields & {"light", "similarity", "holes"}
    assert lab.spec["question"] is None, "its answers are not known"
    if name == "scene":
        assert fields == {"row", "colour", "depth", "path"}
        clean, dirty = shown(lab, row=2), shown(lab, row=2, depth=1.5)
        assert len(clean["IoU of classes; (not here); ticks: path 4"]["names"]) == 13
        assert np.array_equal(clean[SEEN]["pixels"][0, 0], dirty[SEEN]["pixels"][0, 0])
        assert not np.array_equal(clean[SEEN]["pixels"][0, 1], dirty[SEEN]["pixels"][0, 1])
        assert "bright" not in clean[SEEN]["alt"]
    if name == "histogram":
        assert "all pictures (%)" in lab.flush()


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ("scene?row=12", "row must be a whole number from 0 to 11, got 12"),
        ("scene?light=9", "light must be a number from 0.1 to 2, got 9"),
        ("scene?path=5", "path must be one of gate, 0, 1, 2, 3, 4, got '5'"),
    ],
)
@pytest.mark.slow
def test_a_bad_state_is_refused_with_what_is_allowed(
    setting: Setting, state: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        scenes.scene(setting, 0, states=[state])


def test_only_a_trained_gate_can_be_looked_at() -> None:
    setting = replace(plan.rooms("smoke"), weights=(0.3, 0.0, 0.1))
    assert reading.gate_way(setting) == "annealed, 0.1"
    assert reading.gate_way(setting, "hard, 0.1") == "hard, 0.1"
    for way in ("static 4", "stage I", "annealed, 0.7"):
        with pytest.raises(ValueError, match=f"way must be one of hard, 0.1.*; got '{way}'"):
            scenes.scene(setting, 0, way=way)
    with pytest.raises(ValueError, match="way must be annealed.*got 'hard, 0.1'"):
        annealing.anneal(setting, 0, way="hard, 0.1")


# Colours ---------------------------------------------------------------------------------------------


def test_images_may_have_colours_and_nothing_else() -> None:
    grid = np.zeros((1, 2, 3, 4, 3))
    grid[0, 1, 2, 3] = (1, 0.5, 0)
    found = pictures.images(grid, [], ["a", "b"], "colours", chosen=(0, 1))
    assert found["pixels"].shape == (1, 2, 3, 4, 3) and found["pixels"].dtype == np.uint8
    assert found["pixels"][0, 1, 2, 3].tolist() == [255, 128, 0]
    same = pictures.images(found["pixels"], [], ["a", "b"], "")
    np.testing.assert_array_equal(same["pixels"], found["pixels"])
    assert found["framed"].tolist() == [[0, 2]]
    for shape in ((1, 2, 3, 4, 4), (1, 2, 3), (1, 1, 2, 3, 4, 3)):
        with pytest.raises(ValueError, match="colours: a last axis of 3"):
            pictures.images(np.zeros(shape), [], [], "")


def test_colours_travel_whole_and_reach_the_still() -> None:
    hues = {"#0072B2": (0, 114, 178), "#D55E00": (213, 94, 0), "#009E73": (0, 158, 115)}
    grid = np.stack([np.full((12, 16, 3), hue, np.uint8) for hue in hues.values()])[None]
    found = {"scenes": pictures.images(grid, [], [*hues], "three colours")}
    record, data = packed(found)
    assert record["scenes"]["pixels"]["shape"] == [1, 3, 12, 16, 3]
    start = record["scenes"]["pixels"]["at"]
    sent = np.frombuffer(data, np.uint8, grid.size, start).reshape(grid.shape)
    np.testing.assert_array_equal(sent, grid)
    drawn = np.asarray(Image.open(BytesIO(still(found, "Colours"))).convert("RGB")).astype(int)
    for hue in hues.values():
        near = (np.abs(drawn - hue).max(-1) <= 10).mean()
        assert near > 0.05, hue


def test_a_row_of_scenes_begins_a_line_of_the_still_and_grey_ones_do_not() -> None:
    wide = pictures.images(np.zeros((1, 2, 12, 16, 3)), [], [], "scenes")
    grey = pictures.images(np.zeros((1, 2, 12, 16)), [], [], "digits")
    bars = pictures.bars(["a"], [0.5], "a bar")
    heights = {
        name: Image.open(BytesIO(still(dict(enumerate(some)), "Heights"))).height  # type: ignore[arg-type]
        for name, some in {
            "two": (wide, bars, wide, bars), "one": (wide, bars), "grey": (grey, bars, grey, bars),
        }.items()
    }  # fmt: skip
    assert heights["one"] == heights["grey"] < heights["two"]


# The scene -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_forced_path_is_what_the_network_answers_on_it(setting: Setting) -> None:
    lab, net = scenes.scene(setting, 0), reading.network(setting, WAY, 0)
    one = reading.held_out(setting, 0)[5:6]
    for path in range(5):
        found = shown(lab, row=5, path=str(path))
        with torch.no_grad():
            said = net.answer(one, fuse_of(torch.tensor([path]))).logits.argmax(1)
        assert one.y is not None
        matrix = confusion(said, one.y, 10)
        classes = setting.data.classes
        answer = picture(colours.class_image(said[0], classes))
        np.testing.assert_array_equal(found[SEEN]["pixels"][0, 3], answer)
        np.testing.assert_array_equal(found[PATHS]["pixels"][0, path], answer)
        wrong = picture(colours.error_image(said[0], one.y[0]))
        np.testing.assert_array_equal(found[SEEN]["pixels"][0, 4], wrong)
        assert metrics(found)["right"] == pytest.approx(100 * float(pixel_accuracy(matrix)))
        assert found[SEEN]["columns"][3] == f"path {path}"
        assert found[PATHS]["framed"][0, path] == 2
        cost = reading.path_costs(net)[path]
        assert metrics(found)["depth encoder"] == pytest.approx(100 * cost)


@pytest.mark.slow
def test_the_gates_own_path_is_the_same_as_forcing_it(setting: Setting) -> None:
    lab, net = scenes.scene(setting, 0), reading.network(setting, WAY, 0)
    for row in (0, 7):
        with torch.no_grad():
            chosen = net.answer(reading.held_out(setting, 0)[row : row + 1])
        path = int(chosen.fuse.sum())
        free, forced = shown(lab, row=row), shown(lab, row=row, path=str(path))
        assert metrics(free) == metrics(forced) and metrics(free)["path"] == path
        for view in (SEEN, PATHS):
            np.testing.assert_array_equal(free[view]["pixels"], forced[view]["pixels"])
        said = picture(colours.class_image(chosen.logits.argmax(1)[0], setting.data.classes))
        np.testing.assert_array_equal(free[SEEN]["pixels"][0, 3], said)
        weights = free["the gate's weights; orange: its path"]["values"]
        assert weights.sum() == pytest.approx(1) and int(weights.argmax()) == path
        assert free[PATHS]["framed"][1].tolist() == [int(k == path) for k in range(5)]


@pytest.mark.slow
def test_as_it_is_means_bit_for_bit_and_every_slider_does_what_it_says(setting: Setting) -> None:
    own = reading.held_out(setting, 0)[6:7]
    same = reading.scene(setting, 0, 6)
    for name in ("rgb", "depth"):
        assert torch.equal(own.x[name], same.x[name])
    changed = {
        "light": reading.scene(setting, 0, 6, light=0.5),
        "noise": reading.scene(setting, 0, 6, noise=20.0),
        "holes": reading.scene(setting, 0, 6, holes=0.5),
        "similarity": reading.scene(setting, 0, 6, similarity=1.0),
    }
    assert float(changed["light"].factors["light"]) == pytest.approx(
        0.5 * float(own.factors["light"])
    )
    assert changed["light"].x["rgb"].mean() < 0.7 * own.x["rgb"].mean()
    assert torch.equal(changed["light"].x["depth"], own.x["depth"])
    error = [(b.x["depth"] - own.factors["exact"]).abs()[own.x["depth"] > 0].mean()
             for b in (own, changed["noise"])]  # fmt: skip
    assert error[1] > 5 * error[0]
    assert torch.equal(changed["noise"].x["rgb"], own.x["rgb"])
    holes = [(b.x["depth"] == 0).double().mean() for b in (own, changed["holes"])]
    assert holes[1] - holes[0] > 0.3
    assert float(changed["similarity"].factors["similarity"]) == 1.0, "cut at the end of its range"
    assert float(reading.scene(setting, 0, 6, similarity=-1.0).factors["similarity"]) == 0.0


@pytest.mark.slow
def test_no_noise_is_the_clean_picture_and_noise_is_the_studys(setting: Setting) -> None:
    own = reading.held_out(setting, 0)
    for name in ("rgb", "depth"):
        assert torch.equal(reading.noised(setting, 0, 3).x[name], own.x[name][3:4])
    lab = scenes.surgery(setting, 0)
    clean, noisy = shown(lab, row=3, quarters=0), shown(lab, row=3, quarters=8)
    depth = picture(colours.depth_image(own.x["depth"][3, 0]))
    np.testing.assert_array_equal(clean[CELLS]["pixels"][0, 1], depth)
    assert not np.array_equal(noisy[CELLS]["pixels"][0, 1], depth)
    np.testing.assert_array_equal(noisy[CELLS]["pixels"][0, 0], clean[CELLS]["pixels"][0, 0])
    whole = measure.per_sample(own, 1.0, "depth", 0, chance=1.0)
    one = reading.noised(setting, 0, 3, depth=1.0)
    assert torch.equal(one.x["depth"], whole.x["depth"][3:4]), "a part has the noise of the whole"
    assert not torch.equal(reading.noised(setting, 0, 3, colour=1.0).x["rgb"], own.x["rgb"][3:4])


# Surgery ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pattern_of_a_path_is_that_path(setting: Setting) -> None:
    lab, path_lab = scenes.surgery(setting, 0), scenes.scene(setting, 0)
    for path in range(5):
        state = {f"cell{j + 1}": j < path for j in range(4)}
        found = shown(lab, row=2, **state)
        wanted = shown(path_lab, row=2, path=str(path))[SEEN]["pixels"]
        np.testing.assert_array_equal(found[CELLS]["pixels"], wanted)
        bars = found["mIoU over pictures; blue: these cells"]["values"]
        assert bars[0] == bars[1 + path]
        assert metrics(found)["stages"] == path
        assert f"This is path {path}." in found[CELLS]["alt"]


@pytest.mark.slow
def test_a_pattern_of_no_path_runs_to_its_last_cell(setting: Setting) -> None:
    lab, net = scenes.surgery(setting, 0), reading.network(setting, WAY, 0)
    state = {"cell1": False, "cell2": True, "cell3": False, "cell4": True}
    found = shown(lab, row=2, **state)
    assert metrics(found)["stages"] == 4 and metrics(found)["depth encoder"] == 100
    assert "no path of the gate" in found[CELLS]["alt"]
    batch = reading.held_out(setting, 0)
    with torch.no_grad():
        fuse = torch.tensor([[0.0, 1, 0, 1]]).expand(len(batch), 4)
        said = net.answer(batch, fuse).logits.argmax(1)
    answer = picture(colours.class_image(said[2], setting.data.classes))
    np.testing.assert_array_equal(found[CELLS]["pixels"][0, 3], answer)
    assert batch.y is not None
    score = 100 * float(mean_iou(confusion(said, batch.y, 10)))
    assert metrics(found)["mIoU"] == pytest.approx(score)
    three = shown(lab, cell1=False, cell2=False, cell3=True, cell4=False)
    assert metrics(three)["stages"] == 3


# Many scenes -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_histogram_shows_what_the_study_measures(setting: Setting) -> None:
    lab, scored = annealing.histogram(setting, 0), measure.scored(setting, WAY, 0)
    found = lab.flush()
    assert metrics(found)["gate"] == pytest.approx(scored["miou"])
    assert metrics(found)["dealt out anew"] == pytest.approx(scored["random"])
    assert metrics(found)["cost"] == pytest.approx(100 * scored["cost"])
    for name in SCENES:
        wanted = 100 * np.array(scored["scene_paths"][name])
        np.testing.assert_allclose(found[f"{name} (%)"]["values"], wanted, rtol=1e-5)
    third = shown(lab, quarters=4, hit="every third picture")
    noisy = measure.noisy(setting, WAY, 0, "depth", 1.0, 0)
    assert metrics(third)["gate"] == pytest.approx(noisy["miou"])
    assert metrics(third)["cost"] == pytest.approx(100 * noisy["cost"])
    every = shown(lab, quarters=4)["mIoU of the gate and of one path for all"]["values"]
    rare = third["mIoU of the gate and of one path for all"]["values"]
    assert not np.array_equal(every, rare)


def test_the_noise_lab_reads_its_table_and_knows_who_loses_least() -> None:
    lab = annealing.noise(noise_frame(), WAY, BEST)
    assert lab.spec["question"]["answer"] == 2
    found = shown(lab, level=2, mode="rgb")
    numbers = metrics(found)
    assert numbers["gate lost"] == pytest.approx(24) and numbers["early exit lost"] == (
        pytest.approx(4)
    )
    assert numbers["gate less full"] == pytest.approx(-8)
    assert numbers["spread"] == pytest.approx(0, abs=1e-9)
    curves = found["mIoU over the noise"]
    assert [line["name"] for line in curves["lines"]] == ["gate", "full", "early exit", "dealt"]
    np.testing.assert_allclose(curves["lines"][0]["y"], [60.6, 48.6, 36.6], rtol=1e-6)
    np.testing.assert_allclose(curves["lines"][3]["y"], [59.6, 47.6, 35.6], rtol=1e-6)
    assert curves["marker"] == 2.0
    few = shown(lab, full=False, dealt=False)["lost at this noise"]
    assert few["names"] == ["gate", "early exit"]
    with pytest.raises(ValueError, match="tick at least one of gate, full, early exit, dealt"):
        shown(lab, gate=False, full=False, early_exit=False, dealt=False)
    with pytest.raises(ValueError, match=r"none for \[1\]"):
        annealing.noise(noise_frame(), WAY, {0: "static 1"})


# While it learns -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_looking_at_a_training_does_not_change_it(setting: Setting) -> None:
    found, scored = reading.annealing(setting, WAY, 0), measure.scored(setting, WAY, 0)
    assert found["hard"][-1] == scored["val"]
    assert found["epoch"] == [0, 1, 2, 3, 4]
    assert found["temperature"][0] == 1 and found["temperature"][-1] < 1e-2
    assert found["entropy"][-1] < 0.05 < found["entropy"][0] <= np.log(5) + 1e-6, "cold is sure"
    assert found["soft"][-1] == pytest.approx(found["hard"][-1], abs=0.5)
    for paths in found["paths"]:
        assert sum(paths) == pytest.approx(1)
    bare = reading.annealing(replace(setting, explore=0.0), WAY, 0)
    assert bare["temperature"][1] < found["temperature"][1] or setting.explore == 0
    assert bare["hard"] != found["hard"]


@pytest.mark.slow
def test_the_player_shows_the_training_that_was_asked_for(setting: Setting) -> None:
    lab = annealing.anneal(setting, 0)
    both = [reading.annealing(s, WAY, 0) for s in (replace(setting, explore=0.0), setting)]
    for stage1, record in enumerate(both):
        found = shown(lab, look=2, stage1=bool(stage1))
        assert metrics(found)["entropy"] == record["entropy"][2]
        assert metrics(found)["soft less hard"] == pytest.approx(
            record["soft"][2] - record["hard"][2]
        )
        curve = found["mIoU on the validation split"]
        np.testing.assert_allclose(curve["lines"][1]["y"][:3], record["hard"][:3], rtol=1e-6)
        assert np.isnan(curve["lines"][1]["y"][3:]).all(), "what comes is not shown yet"
        bars = found["pictures by path; ticks: the other training"]
        np.testing.assert_allclose(bars["values"], record["paths"][2])
        np.testing.assert_allclose(bars["marks"], both[1 - stage1]["paths"][2])
        assert curve["marker"] == 2


@pytest.mark.slow
def test_a_scene_of_96_rows_is_drawn_with_its_own_size(setting: Setting) -> None:
    tall = replace(
        setting, data=replace(setting.data, height=96, n_train=8), sizes=Sizes(10, (96, 128)),
        fit=TrainConfig(1, 8, 4e-3),
    )  # fmt: skip
    found = shown(scenes.scene(tall, 0), noise=5.0)
    assert found[SEEN]["pixels"].shape == (1, 5, 96, 128, 3)
    assert found[PATHS]["pixels"].shape == (2, 5, 96, 128, 3)
