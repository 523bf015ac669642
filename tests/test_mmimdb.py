"""MM-IMDB: what is read from a file of the release's layout, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from labkit import LabkitError
from labkit.data import mmimdb
from labkit.data.mmimdb import MmImdb

SIZES = (5, 2, 3)
NAMES = [f"Genre {i}" for i in range(23)]


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "features": random.standard_normal((10, 300)).astype(np.float32),
        "vgg_features": random.standard_normal((10, 4096)).astype(np.float32),
        "genres": random.integers(0, 2, (10, 23)).astype(np.int32),
        "images": np.zeros((10, 3, 4, 4), np.int32),  # in the release, too, and not read
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    return tmp_path


def write(folder: Path, names: Any = NAMES, **changed: np.ndarray | None) -> MmImdb:
    path = folder / mmimdb.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in (arrays() | changed).items():
            if values is not None:
                file[name] = values
        if names is not None and "genres" in file:
            file["genres"].attrs["target_names"] = (
                names if isinstance(names, str) else json.dumps(names)
            )
    return MmImdb(sizes=SIZES)


def test_splits_follow_each_other_in_the_file(folder: Path) -> None:
    data, given, start = write(folder), arrays(), 0
    for split, size in zip(mmimdb.SPLITS, SIZES, strict=True):
        batch, rows = data.load(split), slice(start, start + size)  # type: ignore[arg-type]
        assert batch.modalities == ("text", "image") and batch.observed.all()
        assert torch.equal(batch.x["text"], torch.from_numpy(given["features"][rows]))
        assert torch.equal(batch.x["image"], torch.from_numpy(given["vgg_features"][rows]))
        assert batch.y is not None and batch.y.dtype == torch.float32
        assert torch.equal(batch.y, torch.from_numpy(given["genres"][rows]).float())
        start += size
    assert data.genres() == tuple(NAMES)


def test_the_sizes_are_the_releases() -> None:
    assert MmImdb().sizes == (15_552, 2_608, 7_799) and sum(MmImdb().sizes) == 25_959


@pytest.mark.parametrize("change", [lambda a: a.astype(np.float64), lambda a: a.astype(">f4")])
def test_other_types_of_number_become_float32(
    folder: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    given = arrays()["features"]
    batch = write(folder, features=change(given)).load("train")
    assert torch.equal(batch.x["text"], torch.from_numpy(given[:5]))


def test_a_path_may_be_absolute_and_a_hash_is_compared(folder: Path) -> None:
    write(folder)
    path = folder / mmimdb.FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(MmImdb(str(path), digest, SIZES).load("val")) == 2
    with pytest.raises(LabkitError, match=f"its sha256 is {digest}, expected {'0' * 64}"):
        MmImdb(str(path), "0" * 64, SIZES).load("val")


def test_a_missing_file_says_what_to_put_where(folder: Path) -> None:
    with pytest.raises(LabkitError) as caught:
        MmImdb().load("train")
    for words in (mmimdb.ADDRESS, str(folder / mmimdb.FILE), "source='procedural'"):
        assert words in str(caught.value)


def poisoned(name: str, value: float) -> np.ndarray:
    array = arrays()[name].astype(np.float32)
    array[1, 2] = value
    return array


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"genres": None}, r"no array 'genres' in \['features', 'images', 'vgg_features'\]"),
        ({"features": np.zeros((10, 299))}, r"features of .*\(10, 299\).*\(10, 300\)"),
        ({"vgg_features": np.zeros((9, 4096))}, r"vgg_features of .*\(9, 4096\).*\(10, 4096\)"),
        ({"genres": np.zeros((10, 22), int)}, r"genres of .*\(10, 22\).*\(10, 23\)"),
        ({"genres": np.full((10, 23), b"1")}, r"genres of type \|S1"),
        ({"genres": np.full((10, 23), 2)}, "genres from 2 to 2; allowed is 0 and 1"),
        ({"genres": poisoned("genres", np.nan)}, "genres from nan"),
        ({"features": poisoned("features", np.nan)}, "features with 1 numbers that are not finite"),
        ({"vgg_features": poisoned("vgg_features", np.inf)}, "vgg_features with 1 numbers"),
    ],
)
def test_wrong_contents_are_named(folder: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(LabkitError, match=says) as caught:
        write(folder, **changed).load("train")
    assert str(folder / mmimdb.FILE) in str(caught.value)


def test_files_of_another_kind_or_length_are_refused(folder: Path) -> None:
    data, path = write(folder), folder / mmimdb.FILE
    whole = path.read_bytes()
    for raw in (b"", b"<html>not found</html>", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(raw)
        with pytest.raises(LabkitError, match=r"multimodal_imdb\.hdf5 is damaged"):
            data.load("train")
    path.write_bytes(whole)
    with pytest.raises(LabkitError, match=r"\(10, 300\).*\(25959, 300\)"):
        MmImdb().load("train")


def test_arrays_that_lie_in_other_files_are_not_followed(folder: Path) -> None:
    data, path, other = write(folder, features=None), folder / mmimdb.FILE, folder / "other.hdf5"
    with h5py.File(other, "w") as file:
        file["features"] = arrays()["features"]
    (folder / "raw").write_bytes(arrays()["features"].tobytes())
    virtual = h5py.VirtualLayout((10, 300), np.float32)
    virtual[:] = h5py.VirtualSource(other, "features", (10, 300))

    def linked(file: Any) -> None:
        file["features"] = h5py.ExternalLink(str(other), "features")

    def outside(file: Any) -> None:
        external = [(str(folder / "raw"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("features", (10, 300), np.float32, external=external)

    for change in (linked, lambda f: f.create_virtual_dataset("features", virtual), outside):
        with h5py.File(path, "a") as file:
            change(file)
        with pytest.raises(LabkitError, match="no array 'features'.*in the file itself"):
            data.load("train")
        with h5py.File(path, "a") as file:
            del file["features"]


@pytest.mark.parametrize("names", [None, "no json", ["Drama"], {"a": 1}, list(range(23))])
def test_genres_without_names_are_an_error_of_genres_alone(folder: Path, names: Any) -> None:
    data = write(folder, names=names)
    with pytest.raises(LabkitError, match="target_names.*a list of 23 names"):
        data.genres()
    assert len(data.load("test")) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sizes": (1, 2)}, r"sizes must be three numbers of at least 1, got \(1, 2\)"),
        ({"sizes": (1, 0, 2)}, "sizes must be three"),
        ({"sha256": "abc"}, "sha256 must be 64 digits of 0-9 and a-f, got 'abc'"),
        ({"sha256": ""}, "sha256 must be 64 digits"),
        ({"sha256": "G" * 64}, "sha256 must be 64 digits"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MmImdb(**change)


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"):
        MmImdb().load("dev")  # type: ignore[arg-type]
