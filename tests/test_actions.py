"""Actions: windows and scales, the figure and its sensors, procedural people, UTD-MHAD and its originals."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.io import savemat
from sklearn.linear_model import RidgeClassifier

from labkit import LabkitError
from labkit.cli import main
from labkit.data import actions, bodies, files, formats, utd_mhad
from labkit.data.actions import MODALITIES, Actions, Scale

DATA = os.environ.get("LABKIT_DATA", "")
needs_data = pytest.mark.skipif(
    not DATA, reason="LABKIT_DATA is not set: no real data on this machine"
)
SMALL = Actions(n_train=240, n_val=20, n_test=40)
CHANNELS = {"accelerometer": 48, "gyroscope": 48, "skeleton": 240, "depth": 200}


# Steps and scales ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 12, 16, 40])
def test_a_ramp_resampled_is_a_ramp(count: int) -> None:
    ramp = torch.stack((torch.linspace(0, 1, 12), torch.linspace(4, -2, 12)), 1)[None].double()
    made = actions.resample(ramp, count)
    assert made.shape == (1, count, 2)
    expected = torch.linspace(0, 1, count, dtype=torch.float64)
    torch.testing.assert_close(made[0, :, 0], expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(made[0, :, 1], 4 - 6 * expected, rtol=0, atol=1e-6)
    clip = utd_mhad._resampled(ramp[0].numpy(), count)
    torch.testing.assert_close(torch.from_numpy(clip).double(), made[0], rtol=1e-3, atol=1e-3)


def test_a_step_holds_consecutive_samples() -> None:
    clip = torch.arange(24.0).view(1, 12, 2)
    made = actions.windows(clip, 4, 3)
    assert torch.equal(made[0], torch.arange(24.0).view(4, 6))
    assert actions.windows(clip, 8, 2).shape == (1, 8, 4)


def test_features_are_standardised_and_constant_ones_do_not_explode() -> None:
    x = 3 + 5 * torch.randn(400, 6, 3, generator=torch.Generator().manual_seed(0))
    x[..., 2] = 7
    scale = Scale.of(x)
    made = scale(x)
    torch.testing.assert_close(made[..., :2].mean((0, 1)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(made[..., :2].flatten(0, 1).std(0), torch.ones(2), rtol=0, atol=1e-3)
    assert (made[..., 2] == 0).all()
    new = torch.tensor([3.0, 3.0, 8.0])
    assert 0 < float(scale(new)[2]) < 4
    assert scale(torch.full((3,), 1e6)).tolist() == [8, 8, 8]
    still = Scale.of(torch.ones(4, 2, 3))
    assert (still(torch.ones(4, 2, 3)) == 0).all()


# The figure and its sensors ------------------------------------------------------------------------


def moving(n: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, n, 13, generator=torch.Generator().manual_seed(seed))


def test_upright_with_arms_down() -> None:
    joints, forearm = bodies.pose(torch.zeros(1, 1, 13), torch.ones(1))
    at = dict(zip(bodies.JOINTS, joints[0, 0], strict=True))
    torch.testing.assert_close(forearm[0, 0], torch.eye(3))
    assert at["hip_center"].tolist() == [0, 0, 0]
    assert at["right_wrist"].tolist() == pytest.approx([0.16, 0.3 - 0.27 - 0.22, 0], abs=1e-6)
    assert at["left_wrist"].tolist() == pytest.approx([-0.16, 0.3 - 0.27 - 0.22, 0], abs=1e-6)
    assert at["right_ankle"][1] == pytest.approx(-0.87, abs=1e-6)


@pytest.mark.parametrize(
    ("angle", "joint", "where"),
    [
        ("raise", "right_wrist", (0.16, 0.3, -0.49)),
        ("abduct", "right_wrist", (0.65, 0.3, 0)),
        ("left abduct", "left_wrist", (-0.65, 0.3, 0)),
        ("elbow", "right_wrist", (0.16, 0.03, -0.22)),
        ("right hip", "right_ankle", (0.075, -0.07, -0.8)),
        ("right knee", "right_ankle", (0.075, -0.51, 0.36)),
        ("lean", "head", (0, 0, -0.59)),
        ("roll", "right_wrist", (0.16, -0.19, 0)),
    ],
)
def test_a_right_angle_puts_a_joint_where_it_belongs(
    angle: str, joint: str, where: tuple[float, float, float]
) -> None:
    angles = torch.zeros(1, 1, 13)
    angles[..., bodies.ANGLES.index(angle)] = torch.pi / 2
    joints, _ = bodies.pose(angles, torch.ones(1))
    place = joints[0, 0, bodies.JOINTS.index(joint)]
    assert place.tolist() == pytest.approx(where, abs=1e-5)


def test_bones_keep_their_length_and_grow_with_the_person() -> None:
    joints, forearm = bodies.pose(moving(), torch.tensor([1.0, 1.2]))
    start, end = (joints[:, :, [bone[k] for bone in bodies.BONES]] for k in (0, 1))
    rigid = [i for i, bone in enumerate(bodies.BONES) if bone not in ((3, 12), (3, 16))]
    length = (end - start).norm(dim=-1)
    torch.testing.assert_close(length, length[:, :1].expand_as(length), rtol=0, atol=1e-5)
    torch.testing.assert_close(1.2 * length[0, :, rigid], length[1, :, rigid], rtol=0, atol=1e-5)
    eye = torch.eye(3).expand_as(forearm)
    torch.testing.assert_close(forearm.mT @ forearm, eye, rtol=0, atol=1e-5)


def test_a_still_arm_feels_gravity_and_no_turn() -> None:
    angles = moving(1).expand(2, 9, 13)
    joints, forearm = bodies.pose(angles, torch.ones(2))
    force, turn = bodies.inertial(joints[:, :, 10], forearm, 0.02)
    assert force.shape == turn.shape == (2, 7, 3)
    torch.testing.assert_close(force.norm(dim=-1), torch.ones(2, 7), rtol=0, atol=1e-3)
    up = forearm[:, 1:-1, 1]  # the world's y in the sensor's axes
    torch.testing.assert_close(force, up, rtol=0, atol=1e-3)
    assert float(turn.abs().max()) < 1e-2
    hanging = bodies.pose(torch.zeros(1, 3, 13), torch.ones(1))
    force, _ = bodies.inertial(hanging[0][:, :, 10], hanging[1], 0.02)
    assert force[0, 0].tolist() == pytest.approx([0, 1, 0], abs=1e-4)


@pytest.mark.parametrize(("angle", "axis"), [("roll", 1), ("elbow", 0)])
def test_a_steady_turn_is_measured_in_degrees_a_second(angle: str, axis: int) -> None:
    tick, rate = 0.02, 400.0
    angles = torch.zeros(1, 12, 13)
    angles[..., bodies.ANGLES.index(angle)] = torch.arange(12) * tick * rate * torch.pi / 180
    joints, forearm = bodies.pose(angles, torch.ones(1))
    force, turn = bodies.inertial(joints[:, :, 10], forearm, tick)
    expected = torch.zeros(1, 10, 3)
    expected[..., axis] = rate
    torch.testing.assert_close(turn, expected, rtol=0, atol=0.1)
    # What turns about the elbow is pulled towards it: omega^2 r.
    pull = 0.22 * (rate * torch.pi / 180) ** 2 / 9.81 if angle == "elbow" else 0.0
    size = (force - forearm[:, 1:-1, 1]).norm(dim=-1)
    torch.testing.assert_close(size, torch.full((1, 10), pull), rtol=0.02, atol=1e-3)


def test_a_free_fall_is_felt_as_nothing() -> None:
    clock = 0.02 * torch.arange(6)
    wrist = torch.zeros(1, 6, 3)
    wrist[..., 1] = 1 - 9.81 / 2 * clock**2
    force, _ = bodies.inertial(wrist, torch.eye(3).expand(1, 6, 3, 3), 0.02)
    assert float(force.abs().max()) < 1e-3


def test_a_picture_shows_where_and_how_near() -> None:
    angles = torch.zeros(2, 3, 13)
    angles[0, :, 1] = torch.pi / 2  # the right arm stretched sideways
    angles[1, :, 0] = torch.pi / 2  # and forwards
    picture = bodies.render(bodies.pose(angles, torch.ones(2))[0])
    assert picture.shape == (2, 3, 10, 10)
    assert picture.min() >= 0 and picture.max() <= 1
    assert picture[0, 0, 2, 7] > 0.25 and picture[0, 0, 2, 0] < 0.1
    assert picture[0, 0, 9, 9] < 0.05
    assert picture[1].max() > 0.75


# Procedural actions --------------------------------------------------------------------------------


def test_shapes_labels_and_numbers() -> None:
    assert SMALL.channels == CHANNELS and SMALL.n_classes == 12
    batch = SMALL.load("train")
    assert batch.modalities == MODALITIES
    for name, width in CHANNELS.items():
        values = batch.x[name]
        assert values.shape == (240, 8, width) and values.dtype == torch.float32
        assert bool(values.isfinite().all()) and float(values.abs().max()) <= 8
        assert abs(float(values.mean())) < 0.05 and 0.9 < float(values.std()) < 1.1
    y, factors = batch.y, batch.factors
    assert y is not None and y.dtype == torch.int64 and y.bincount().tolist() == [20] * 12
    assert torch.equal(factors["gesture"] * 3 + factors["variant"], y)
    assert [len(SMALL.load(split)) for split in ("val", "test")] == [20, 40]
    odd = replace(SMALL, steps=5, classes=27, n_test=30).load("test")
    assert {name: tuple(values.shape) for name, values in odd.x.items()} == {
        "accelerometer": (30, 5, 78), "gyroscope": (30, 5, 78),
        "skeleton": (30, 5, 420), "depth": (30, 5, 300),
    }  # fmt: skip
    assert odd.y is not None and int(odd.y.max()) == 26


def test_a_sample_is_the_same_however_many_there_are_and_another_seed_is_another() -> None:
    few, many = replace(SMALL, n_train=7).load("train"), SMALL.load("train")
    actions._reference.cache_clear()
    again = SMALL.load("train")
    other = replace(SMALL, seed=1).load("train")
    for name in MODALITIES:
        assert torch.equal(few.x[name], many.x[name][:7]) and torch.equal(
            again.x[name], many.x[name]
        )
        assert (other.x[name] - many.x[name]).abs().mean() > 0.1
    assert few.y is not None and many.y is not None and torch.equal(few.y, many.y[:7])


def test_nobody_is_in_two_splits_and_everybody_moves_in_a_way_of_their_own() -> None:
    people = {}
    for split in ("train", "val", "test"):
        batch = replace(SMALL, n_val=200, n_test=300).load(split)  # type: ignore[arg-type]
        subject = batch.factors["subject"]
        people[split] = set(subject.tolist())
        for name in ("size", "speed", "posture"):
            own = {tuple(row) for row in batch.factors[name].view(len(batch), -1).tolist()}
            assert len(own) == len(people[split]), name
    assert {split: len(found) for split, found in people.items()} == {
        "train": 24,
        "val": 8,
        "test": 16,
    }
    assert len(set.union(*people.values())) == 48
    alike = replace(SMALL, style=0.0).load("train")
    assert (alike.factors["size"] == 1).all() and (alike.factors["posture"] == 0).all()


def test_the_sensor_sees_the_turn_and_the_cameras_the_other_limbs() -> None:
    """Movements of one class of each kind, without posture, wander or noise."""
    y = torch.tensor([0, 1, 2])
    ones = torch.ones(3)
    who = {
        "onset": 0.1 * ones,
        "span": 0.7 * ones,
        "amplitude": ones,
        "posture": torch.zeros(3, 13),
    }
    clock = torch.linspace(0, 1, 12)
    plain, turned, other = bodies.trajectories(clock, y, who, torch.zeros(3, 6, 13))
    changed = [bodies.ANGLES[i] for i in (turned - plain).abs().amax(0).nonzero()[:, 0]]
    assert changed == ["elbow", "roll"]
    changed = [bodies.ANGLES[i] for i in (other - plain).abs().amax(0).nonzero()[:, 0]]
    assert changed == ["left raise", "left abduct", "left elbow", "lean"]
    assert (plain[0] == 0).all() and (plain[-1] == 0).all()  # before and after


def test_noise_is_what_noise_says() -> None:
    clean, noisy = (
        actions._samples(replace(SMALL, noise=level), "train", 100, torch.device("cpu"))
        for level in (0.0, 2.0)
    )
    for name, size in actions.NOISE.items():
        if name != "depth":  # resampled: neighbours are averaged
            spread = float((noisy.x[name] - clean.x[name]).std())
            assert spread == pytest.approx(2 * size, rel=0.02), name


def test_modalities_are_complementary() -> None:
    recipe = replace(SMALL, n_train=768, n_test=400)
    train, test = recipe.load("train"), recipe.load("test")

    def score(*names: str) -> float:
        known, new = (torch.cat([b.x[n].flatten(1) for n in names], 1) for b in (train, test))
        return float(RidgeClassifier(300.0).fit(known, train.y).score(new, test.y))

    inertial, seen = score("accelerometer", "gyroscope"), score("depth")
    assert 0.45 < inertial < 0.8 and 0.4 < seen < 0.75
    assert score("accelerometer", "gyroscope", "depth") > max(inertial, seen) + 0.06


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": "both"}, "source must be one of 'procedural', 'real'; got 'both'"),
        ({"classes": 28}, "classes must be a whole number from 3 to 27, got 28"),
        ({"steps": 0}, "steps must be a whole number from 1 to 32, got 0"),
        ({"n_val": True}, "n_val must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"style": 2.5}, r"style must lie in 0..2, got 2.5"),
        ({"noise": -1.0}, r"noise must lie in 0..10, got -1.0"),
        ({"held_out": 2}, "held_out must be one of 1, 3, 5, 7, None; got 2"),
        ({"held_out": 5}, "held_out must stay 1 with source='procedural', got 5"),
        ({"source": "real"}, "n_train must stay 2000 with source='real', got 240"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **change)


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"):
        SMALL.load("dev")  # type: ignore[arg-type]


# UTD-MHAD ------------------------------------------------------------------------------------------


def clip_of(seed: int, frames: int = 15) -> dict[str, np.ndarray]:
    """A made-up performance in the release's form: a box that walks to the right and comes nearer."""
    random = np.random.default_rng(seed)
    depth = np.zeros((240, 320, frames), np.uint16)
    for t in range(frames):
        depth[60:160, 100 + t : 140 + t, t] = 3000 - 20 * t
    return {
        "inertial": random.normal(size=(40 + seed, 6)),
        "skeleton": random.normal(size=(20, 3, frames)),
        "depth": depth,
    }


VARIABLES = {"inertial": "d_iner", "skeleton": "d_skel", "depth": "d_depth"}


def write(
    folder: Path, key: tuple[int, int, int], content: dict[str, np.ndarray]
) -> dict[str, Path]:
    paths = {}
    for kind, array in content.items():
        place = folder / kind.capitalize()
        place.mkdir(parents=True, exist_ok=True)
        paths[kind] = place / "a{}_s{}_t{}_{}.mat".format(*key, kind)
        savemat(paths[kind], {VARIABLES[kind]: array})
    return paths


def test_a_clip_is_cropped_to_a_square_and_near_is_bright() -> None:
    frames = clip_of(0)["depth"].transpose(2, 0, 1)
    made = utd_mhad.reduce_depth(frames)
    assert made.shape == (12, 40, 40) and made.dtype == np.uint8
    seen = made > 0
    assert seen.any((0, 2)).all()  # the box is 100 rows high: it fills the square's height,
    columns = np.flatnonzero(seen.any((0, 1)))
    assert len(columns) == pytest.approx(40 * 54 / 100, abs=1)  # and walks over 54 of its columns
    assert abs(columns.mean() - 19.5) < 0.6
    level = made.max((1, 2)).astype(int)
    assert level[0] <= 2 and level[-1] >= 254 and (np.diff(level) >= 0).all()
    edge = np.zeros((3, 240, 320), np.uint16)
    edge[:, :10, 100:105] = 900  # at the picture's border, and always at one depth
    assert utd_mhad.reduce_depth(edge).max() == 255


def test_originals_are_read_and_made_into_the_packs_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / files.UTD_MHAD_FOLDER
    keys = [(10, 2, 1), (2, 1, 1), (2, 3, 1), (2, 1, 2), (2, 5, 1), (1, 7, 1)]
    for i, key in enumerate(keys):
        write(folder, key, clip_of(i))
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LabkitError, match="are not in"):
        Actions("real").load("train")
    monkeypatch.setattr(files, "PERFORMANCES", len(keys))
    assert files.check("utd_mhad") == []
    whole = utd_mhad.load()
    order = sorted(keys)
    assert whole.y is not None and whole.y.tolist() == [key[0] - 1 for key in order]
    assert whole.factors["subject"].tolist() == [key[1] for key in order]
    assert whole.factors["trial"].tolist() == [key[2] for key in order]
    assert whole.factors["lengths"].tolist() == [[40 + keys.index(key), 15, 15] for key in order]
    assert [tuple(x.shape[1:]) for x in whole.x.values()] == [
        (128, 3), (128, 3), (32, 20, 3), (12, 40, 40)]  # fmt: skip
    assert (whole.x["skeleton"][:, 0, 3] == 0).all()
    first = clip_of(keys.index(order[0]))["inertial"]
    assert whole.x["accelerometer"][0, 0].tolist() == pytest.approx(first[0, :3], abs=2e-3)
    assert whole.x["gyroscope"][0, -1].tolist() == pytest.approx(first[-1, 3:], abs=2e-3)

    monkeypatch.setattr(utd_mhad, "read_performance", None)  # kept: not made again
    recipe = Actions("real", held_out=3)
    batches = {split: recipe.load(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    subjects = {split: batch.factors["subject"].tolist() for split, batch in batches.items()}
    assert subjects == {"train": [7, 1, 1, 5], "val": [3], "test": [2]}
    everyone = replace(recipe, held_out=None).load("train")
    assert everyone.factors["subject"].tolist() == [7, 1, 1, 3, 5]
    with pytest.raises(
        ValueError, match="split must be 'train' or 'test' with held_out=None.*got 'val'"
    ):
        replace(recipe, held_out=None).load("val")

    (folder / "Depth" / "a1_s7_t1_depth.mat").rename(folder / "Depth" / "a1_s9_t1_depth.mat")
    with pytest.raises(LabkitError, match="found name 'a1_s9_t1_depth.mat'"):
        utd_mhad.performances(folder)
    (folder / "Depth" / "a1_s9_t1_depth.mat").unlink()
    with pytest.raises(LabkitError, match="6 performances, 5 of them with all"):
        utd_mhad.performances(folder)


def test_damaged_originals_are_named(tmp_path: Path) -> None:
    good = clip_of(1)
    for kind, bad, words in [
        ("inertial", good["inertial"][:, :3], r"d_iner of type float64 and shape \(41, 3\)"),
        ("inertial", np.full((9, 6), np.nan), "not finite"),
        ("skeleton", np.zeros((20, 3, 0)), "d_skel of type"),
        ("depth", good["depth"][:9], r"shape \(9, 320, 15\)"),
        ("depth", np.zeros_like(good["depth"]), "a clip without a person"),
    ]:
        paths = write(tmp_path, (1, 1, 1), good | {kind: bad})
        with pytest.raises(LabkitError, match=f"{paths[kind].name} is damaged.*{words}"):
            utd_mhad.read_performance(paths)
    paths = write(tmp_path, (1, 1, 1), good)
    with pytest.raises(LabkitError, match=r"variables \['d_iner'\]"):
        formats.read_mat(paths["inertial"], "d_skel", (20, 3, None))
    paths["depth"].write_bytes(paths["depth"].read_bytes()[:200])
    with pytest.raises(LabkitError, match="unreadable.*MATLAB 5"):
        utd_mhad.read_performance(paths)
    with pytest.raises(FileNotFoundError):
        formats.read_mat(tmp_path / "absent.mat", "x", (None,))


def test_a_missing_release_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LabkitError) as caught:
        Actions("real").load("train")
    place = tmp_path / "cache" / "data" / files.UTD_MHAD_FOLDER
    for words in ("utd_mhad (171.8 MB)", "kehtar/UTD-MHAD.html", "861 .mat files each", str(place),
                  "utd_mhad/utd_mhad.npz", "LABKIT_DATA", "source='procedural'"):  # fmt: skip
        assert words in str(caught.value)
    listed = CliRunner().invoke(main, ["data", "list"])
    rows = [line for line in listed.output.splitlines() if line.startswith("utd_mhad")]
    assert len(rows) == 2 and all("cite the paper" in row and "not here" in row for row in rows)
    for command, words in (("get", "UTD-MHAD.html"), ("check", "nothing of utd_mhad")):
        result = CliRunner().invoke(main, ["data", command, "utd_mhad"])
        assert result.exit_code == 1 and words in result.output


@needs_data
def test_the_pack_has_861_performances_of_27_actions_by_8_people() -> None:
    whole = utd_mhad.load()
    assert len(whole) == 861 == files.PERFORMANCES and whole.y is not None
    assert whole.y.bincount().tolist() == [31 if c in (7, 22, 26) else 32 for c in range(27)]
    counts = {}
    for held_out in (1, 3, 5, 7, None):
        recipe = Actions("real", held_out=held_out)
        assert recipe.n_classes == 27
        people = {}
        for split in ("train", "test") if held_out is None else ("train", "val", "test"):
            batch = recipe.load(split)  # type: ignore[arg-type]
            assert {name: x.shape[1:] for name, x in batch.x.items()} == {
                name: (8, width) for name, width in CHANNELS.items()}  # fmt: skip
            assert all(bool(x.isfinite().all()) for x in batch.x.values())
            people[split] = set(batch.factors["subject"].tolist())
            counts[held_out, split] = len(batch)
        assert people["test"] == {2, 4, 6, 8}
        assert people.get("val", set()) == ({held_out} if held_out else set())
        assert people["train"] == {1, 3, 5, 7} - {held_out}
    assert counts[None, "train"] == 431 and counts[None, "test"] == 430
    assert counts[1, "train"] == 324 and counts[1, "val"] == 107


@needs_data
def test_a_regression_reaches_on_the_pack_what_is_known_of_it() -> None:
    """The pack says, of a logistic regression on coarser features: 65.8, 72.6, all four 84.4 %."""
    recipe = Actions("real", held_out=None)
    train, test = recipe.load("train"), recipe.load("test")
    assert train.y is not None and test.y is not None
    for names, known in (
        (("accelerometer",), 0.658), (("skeleton",), 0.726), (MODALITIES, 0.844),
    ):  # fmt: skip
        seen, new = (torch.cat([b.x[n].flatten(1) for n in names], 1) for b in (train, test))
        score = RidgeClassifier(300.0).fit(seen, train.y).score(new, test.y)
        assert score == pytest.approx(known, abs=0.1), names


@needs_data
def test_originals_agree_with_the_pack_bit_for_bit() -> None:
    folder = Path(DATA) / files.UTD_MHAD_FOLDER
    found = sorted(folder.rglob("a*_s*_t*_inertial.mat"))
    if not found or files.pack("utd_mhad") is None:
        pytest.skip("no originals of UTD-MHAD beside its pack in LABKIT_DATA")
    path = files.pack("utd_mhad")
    assert path is not None
    with np.load(path, allow_pickle=False) as pack:
        assert tuple(pack["action_names"]) == utd_mhad.ACTIONS
        table = {name: pack[name] for name in pack.files}
    for sensor in found[:4]:
        match = utd_mhad.NAME.fullmatch(sensor.name)
        assert match is not None
        action, subject, trial = (int(number) for number in match.groups()[:3])
        (row,) = np.flatnonzero(
            (table["action"] == action - 1)
            & (table["subject"] == subject)
            & (table["trial"] == trial)
        )
        paths = {
            kind: next(folder.rglob(sensor.name.replace("inertial", kind)))
            for kind in utd_mhad.KINDS
        }
        for name, made in utd_mhad.read_performance(paths).items():
            assert np.array_equal(made, table[name][row]), (sensor.name, name)
