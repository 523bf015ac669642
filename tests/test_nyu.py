"""NYU Depth V2: the pack, the published files and how they are reduced, splits."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from labkit import LabkitError
from labkit.batch import Batch
from labkit.data import files, nyu
from labkit.data.nyu import CLASSES
from labkit.data.rooms import Rooms

DATA = os.environ.get("LABKIT_DATA", "")
needs_data = pytest.mark.skipif(
    not DATA, reason="LABKIT_DATA is not set: no real data on this machine"
)
TEST = (2, 5)  # numbers of the made-up release's test pictures, from 1
COUNT = 5
NAMES = ("book", "wall", "sofa", "knob")
TO_40 = (23, 1, 6, 40)  # the classes of NAMES among 40
# Which of 13 each of 40 is: of those used here books, wall, sofa, objects; the others none.
TO_13 = [{23: 2, 1: 12, 6: 9, 40: 7}.get(k, 0) for k in range(1, 41)]
EXPECTED = {1: 1, 2: 11, 3: 8, 4: 6}  # label of the release -> ours


def release(seed: int = 0) -> dict[str, np.ndarray]:
    """Five pictures: 480 x 640, in blocks of 5 x 5 of one label and colour each, with 8 pixels disturbed."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, (COUNT, 96, 128)).repeat(5, 1).repeat(5, 2)
    rgb = random.integers(10, 240, (COUNT, 3, 96, 128)).repeat(5, 2).repeat(5, 3)
    depth = random.uniform(0.8, 9, (COUNT, 96, 128)).repeat(5, 1).repeat(5, 2)
    labels[:, ::5, :][:, :, 1::5] = 4  # two rows of ...
    labels[:, 1::5, :][:, :, 1::5] = 3  # ... a single pixel each, in every block
    depth[:, ::5, 2::5] = 0.1
    rgb[:, :, 3::5, 3::5] += 10
    rgb[:, :, 2::5, 3::5] -= 10
    return {"images": rgb, "depths": depth, "labels": labels}


def write(folder: Path, table: dict[str, np.ndarray], forty: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"images": np.uint8, "depths": np.float32, "labels": np.uint16}
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        for name, kind in kinds.items():
            file[name] = table[name].astype(kind).swapaxes(-1, -2)
        names = file.create_dataset("names", (1, len(NAMES)), h5py.ref_dtype)
        for k, name in enumerate(NAMES):
            letters = np.frombuffer(name.encode(), np.uint8).astype(np.uint16)
            names[0, k] = file.create_dataset(f"#refs#/{k}", data=letters[:, None]).ref
    train = [k for k in range(1, COUNT + 1) if k not in TEST]
    columns = {"trainNdxs": train, "testNdxs": TEST}
    savemat(folder / "splits.mat", {k: np.array(v, np.uint16)[:, None] for k, v in columns.items()})
    parts = {"labels1to13": np.array([TO_13], np.uint8), "className": np.array([CLASSES], object)}
    savemat(folder / "class13Mapping.mat", {"classMapping13": parts})
    if forty:
        table40 = np.array((0, *TO_40), np.uint8)
        labels = table40[table["labels"]].transpose(1, 2, 0)
        savemat(folder / "labels40.mat", {"labels40": labels}, do_compression=True)
    else:
        savemat(folder / "classMapping40.mat", {"mapClass": np.array([TO_40], np.uint8)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of our own, whose files need not be the published ones."""
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "verified", lambda wanted, path: path)
    return tmp_path / nyu.FOLDER


def labels(batch: Batch) -> torch.Tensor:
    assert batch.y is not None
    return batch.y


# Reduction -----------------------------------------------------------------------------------------


def test_the_most_frequent_label_wins_and_any_rather_than_none() -> None:
    small = torch.tensor([[[3, 3, -1, -1, -1, -1, 5, 4], [3, -1, -1, 6, 7, 7, 12, 11]]])
    assert nyu.majority(small, 2).tolist() == [[[3, -1, 7, 4]]]
    many = torch.randint(-1, 13, (3, 20, 15), generator=torch.Generator().manual_seed(0))
    made = nyu.majority(many, 5)
    assert made.shape == (3, 4, 3)
    for b, row, column in ((0, 0, 0), (2, 3, 2), (1, 2, 0)):
        block = many[b, 5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        counts = (block.flatten() + 1).bincount(minlength=14)
        assert counts[made[b, row, column] + 1] == counts.max()


def test_the_middle_depth_is_one_of_the_depths() -> None:
    depth = torch.tensor([[[1.0, 4.0, 9, 9], [2.0, 3.0, 9, 1]]])
    assert nyu.middle(depth, 2).tolist() == [[[2, 9]]]
    many = torch.rand(2, 1, 10, 15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nyu.middle(many, 5)[1, 0, 1, 2], many[1, 0, 5:10, 10:15].median())


# Published files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("forty", [False, True], ids=["mapping", "labels40"])
def test_published_files_are_read_and_reduced(folder: Path, forty: bool) -> None:
    table = release()
    write(folder, table, forty)
    recipe = Rooms("real", held_out=1)
    parts = {split: recipe.load(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    images = {split: batch.factors["image"].tolist() for split, batch in parts.items()}
    assert images["test"] == [k - 1 for k in TEST]
    assert sorted(images["train"] + images["val"]) == [0, 2, 3] and len(images["val"]) == 1
    for split, batch in parts.items():
        assert batch.modalities == ("rgb", "depth") and batch.observed.all()
        for row, image in enumerate(images[split]):
            blocks = {name: values[image][..., 4::5, 4::5] for name, values in table.items()}
            expected = torch.from_numpy(blocks["images"]).float() / 255
            torch.testing.assert_close(batch.x["rgb"][row], expected, rtol=0, atol=1e-6)
            depth = torch.from_numpy(blocks["depths"]).float()
            torch.testing.assert_close(batch.x["depth"][row, 0], depth, rtol=1e-3, atol=0)
            wanted = np.vectorize(lambda k: EXPECTED.get(k, -1))(blocks["labels"])
            assert np.array_equal(labels(batch)[row], wanted)
    small = Rooms("real", height=48, held_out=1).load("test")
    assert small.x["rgb"].shape == (2, 3, 48, 64) and small.x["depth"].shape == (2, 1, 48, 64)
    mean = parts["test"].x["rgb"][:, :, :2, :2].mean((2, 3))
    torch.testing.assert_close(small.x["rgb"][:, :, 0, 0], mean, rtol=0, atol=1e-6)
    assert torch.equal(labels(small), nyu.majority(labels(parts["test"]), 2))
    assert torch.equal(small.x["depth"], nyu.middle(parts["test"].x["depth"], 2))


def test_what_was_made_of_the_published_files_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, release())
    first = nyu.load("test", held_out=0)
    monkeypatch.setattr(nyu, "read_release", None)
    assert torch.equal(nyu.load("test", held_out=0).x["rgb"], first.x["rgb"])
    monkeypatch.undo()


def test_the_seed_draws_who_is_held_out_and_never_a_test_picture(folder: Path) -> None:
    write(folder, release())
    held = {tuple(nyu.load("val", seed=s, held_out=1).factors["image"].tolist()) for s in range(12)}
    assert held == {(0,), (2,), (3,)}
    assert nyu.load("train", held_out=0).factors["image"].tolist() == [0, 2, 3]
    with pytest.raises(ValueError, match="'train' or 'test' with held_out=0.*got 'val'"):
        nyu.load("val", held_out=0)
    with pytest.raises(ValueError, match=r"held_out must lie in 0..2, got 3"):
        nyu.load("train", held_out=3)
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"):
        nyu.load("dev")


def test_damaged_files_are_named(folder: Path) -> None:
    table = release()
    write(folder, table)
    mat = folder / "nyu_depth_v2_labeled.mat"

    def refuses(words: str) -> None:
        with pytest.raises(LabkitError, match=words):
            nyu.load("test", held_out=0)

    savemat(
        folder / "splits.mat", {"trainNdxs": np.array([[1], [2]]), "testNdxs": np.array([[2], [3]])}
    )
    refuses(r"splits.mat is damaged.*2 \+ 2 numbers.*1 to 5, each once")
    write(folder, table)
    savemat(folder / "class13Mapping.mat", {"classMapping13": np.arange(40)})
    refuses("class13Mapping.mat is damaged.*allowed is")
    savemat(folder / "class13Mapping.mat", {"other": np.arange(40)})
    refuses(r"variables \['other'\]; allowed is a structure classMapping13")
    write(folder, table)
    savemat(folder / "classMapping40.mat", {"mapClass": np.array([[1, 2, 3]])})
    refuses(r"mapClass of type \w+ and shape \(1, 3\)")
    savemat(folder / "classMapping40.mat", {"mapClass": np.array([[1, 2, 3, 41]])})
    refuses("classes 1 to 41; allowed is 0 to 40")
    write(folder, table | {"labels": table["labels"] + 1})
    refuses("label 5; allowed is 0 to 4")
    write(folder, table | {"depths": table["depths"][:, :, :600]})
    refuses(r"depths of shape \(5, 600, 480\); allowed is shape \(5, 640, 480\)")
    write(folder, table)
    with h5py.File(mat, "a") as file:
        del file["labels"]
    refuses(r"a file that has \['labels'\] too")
    mat.write_bytes(mat.read_bytes()[:3000])
    refuses("nyu_depth_v2_labeled.mat is damaged.*unreadable.*MATLAB 7.3")


def test_missing_files_are_named_with_their_address_and_size(folder: Path) -> None:
    with pytest.raises(LabkitError) as caught:
        Rooms("real").load("train")
    for words in (
        "nyuv2/nyuv2.npz of nyuv2 (11.5 MB)", "nyu_depth_v2_labeled.mat of nyuv2 (2972.0 MB)",
        "http://horatio.cs.nyu.edu", "splits.mat", "class13Mapping.mat", "nyuv2-meta-data",
        "labels40.mat of nyuv2 (14.5 MB)", "classMapping40.mat", "LABKIT_DATA", "source='procedural'",
        str(folder.parents[1] / "cache" / "data" / nyu.FOLDER),
    ):  # fmt: skip
        assert words in str(caught.value), words
    write(folder, release())
    (folder / "splits.mat").unlink()
    with pytest.raises(LabkitError) as caught:
        Rooms("real").load("train")
    missing = str(caught.value).partition("Missing: ")[2]
    assert "splits.mat" in missing
    assert "labeled.mat" not in missing and "40.mat" not in missing and "class13" not in missing


# The pack ------------------------------------------------------------------------------------------


def pack(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """The pack's arrays for two pictures of one colour each."""
    import io

    from PIL import Image

    pictures = []
    for colour in ((250, 20, 20), (20, 20, 250)):
        buffer = io.BytesIO()
        Image.new("RGB", (128, 96), colour).save(buffer, "JPEG", quality=75)
        pictures.append(np.frombuffer(buffer.getvalue(), np.uint8))
    sizes = [len(picture) for picture in pictures]
    arrays = {
        "rgb_jpeg": np.concatenate(pictures),
        "rgb_offsets": np.array([0, *np.cumsum(sizes)]),
        "depth": np.full((2, 96, 128), 51, np.uint8),
        "labels13": np.full((2, 96, 128), 13, np.uint8),
        "is_test": np.array([True, False]),
        "class_names": np.array(["unlabelled", *CLASSES]),
    }
    arrays["labels13"][:, :48] = 0
    return arrays | changes


def test_a_pack_is_decoded(folder: Path) -> None:
    place = folder.parents[1] / "nyuv2"
    place.mkdir()
    np.savez(place / "nyuv2.npz", **pack())  # type: ignore[arg-type]
    test, train = (nyu.load(split, held_out=0) for split in ("test", "train"))
    for batch, image, colour in ((test, 0, (250, 20, 20)), (train, 1, (20, 20, 250))):
        assert batch.factors["image"].tolist() == [image]
        torch.testing.assert_close(
            batch.x["rgb"][0].mean((1, 2)), torch.tensor(colour) / 255, rtol=0, atol=0.02
        )
        assert (batch.x["depth"] == 2).all()
        assert (labels(batch)[:, :48] == -1).all() and (labels(batch)[:, 48:] == 12).all()
    for change, words in (
        ({"rgb_offsets": np.array([0, 9, 5])}, "different numbers"),
        ({"is_test": np.array([True] * 3)}, "different numbers"),
        ({"class_names": np.array([*CLASSES, "x"])}, "other classes"),
        ({"labels13": np.full((2, 96, 128), 14, np.uint8)}, "other classes"),
        ({"rgb_jpeg": pack()["rgb_jpeg"] * 0}, r"picture 0 \(.*a JPEG of 128 x 96"),
        ({"depth": np.zeros((2, 48, 64), np.uint8)}, "depth of type uint8"),
    ):
        np.savez(place / "nyuv2.npz", **pack(**change))  # type: ignore[arg-type]
        with pytest.raises(LabkitError, match=words):
            nyu.load("test", held_out=0)


@needs_data
def test_the_pack_is_the_official_split_with_its_shares() -> None:
    recipe = Rooms("real")
    assert recipe.classes == CLASSES and len(CLASSES) == 13
    train, val, test = (recipe.load(split) for split in ("train", "val", "test"))  # type: ignore[arg-type]
    assert (len(train), len(val), len(test)) == (695, 100, 654)
    numbers = [batch.factors["image"] for batch in (train, val, test)]
    assert torch.cat(numbers).unique().tolist() == list(range(1449))
    share = (labels(test) + 1).flatten().bincount() / labels(test).numel() * 100
    known = [13.9, 4.2, 0.7, 1.4, 3.5, 10.1, 14.4, 12.7, 2.3, 3.2, 3.7, 0.4, 24.4, 5.2]
    assert share.tolist() == pytest.approx(known, abs=0.06)
    for batch in (train, test):
        rgb, depth = batch.x["rgb"], batch.x["depth"]
        assert rgb.shape[1:] == (3, 96, 128) and depth.shape[1:] == (1, 96, 128)
        assert rgb.min() >= 0 and rgb.max() <= 1 and depth.min() > 0.5 and depth.max() <= 10
        assert 2 < depth.mean() < 3.5
    small = Rooms("real", height=48).load("val")
    assert small.x["rgb"].shape == (100, 3, 48, 64) and labels(small).shape == (100, 48, 64)
    assert torch.equal(small.factors["image"], val.factors["image"])
    other = Rooms("real", seed=1, height=48).load("val").factors["image"]
    assert not torch.equal(other, small.factors["image"])


@needs_data
def test_colours_and_depth_belong_to_the_labels() -> None:
    """Floors are nearer below, ceilings above all bright; books are more colourful than walls."""
    test = Rooms("real", height=48).load("test")
    y, depth = labels(test), test.x["depth"][:, 0]
    row = torch.arange(48.0).view(1, 48, 1).expand_as(y)
    floor, wall, ceiling = (y == CLASSES.index(name) for name in ("floor", "wall", "ceiling"))
    assert float(row[floor].mean()) > 34 and float(row[ceiling].mean()) < 8
    nearness = torch.stack((row[floor], 1 / depth[floor]))
    assert float(torch.corrcoef(nearness)[0, 1]) > 0.5
    bright = test.x["rgb"].mean(1)
    assert float(bright[ceiling].mean()) > float(bright[floor].mean())
    assert int(wall.sum()) > 3e5
