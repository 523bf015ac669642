"""The real digits: file formats, hashes, downloads, triplets. Damaged files are the main subject."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import struct
import sys
import tarfile
import threading
import wave
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from labkit import LabkitError
from labkit.data import files, formats, real
from labkit.data.digits import Digits

DATA = os.environ.get("LABKIT_DATA", "")
needs_data = pytest.mark.skipif(
    not DATA, reason="LABKIT_DATA is not set: no real data on this machine"
)
PIXELS = {"images": ("u", (None, 28, 28)), "labels": ("u", (None,))}


def bitmaps(n: int, seed: int = 0) -> list[np.ndarray]:
    """Bitmaps of many sizes, some rows of which begin with ink."""
    random = np.random.default_rng(seed)
    made = [random.integers(0, 2, random.integers(1, 40, 2), dtype=np.uint8) for _ in range(n)]
    for bitmap in made:
        bitmap[0, 0] = 1
    return made


def runs_of(row: np.ndarray) -> list[int]:
    """Run lengths of one row, beginning with background (0 if the row begins with ink)."""
    runs, ink = [0], 0
    for pixel in row:
        if pixel != ink:
            runs.append(0)
            ink = pixel
        runs[-1] += 1
    return runs


def cdb(images: list[np.ndarray], labels: list[int]) -> bytes:
    counts = np.bincount(labels, minlength=128)
    head = struct.pack("<HBBBBI128IB", 2005, 8, 7, 0, 0, len(images), *counts, 0).ljust(1024, b"\0")
    for image, label in zip(images, labels, strict=True):
        runs = bytes(run for row in image for run in runs_of(row))
        head += struct.pack("<4BH", 255, label, image.shape[1], image.shape[0], len(runs)) + runs
    return head


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def wav(samples: np.ndarray, rate: int = 8000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def refuses(read, path: Path, content: bytes, *words: str) -> None:
    """`read` names the file, what was found and what to do."""
    path.write_bytes(content)
    with pytest.raises(LabkitError) as caught:
        read(path)
    for word in (path.name, "found", "allowed", "labkit data get", *words):
        assert word in str(caught.value), f"{word!r} not in {caught.value}"


# Formats -------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6))
def test_cdb_round_trip(seed):
    images, labels = bitmaps(3, seed), [seed % 10, 3, 9]
    path = Path(os.environ["LABKIT_CACHE"]) / "round.cdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cdb(images, labels))
    read, read_labels = formats.read_cdb(path)
    assert read_labels.tolist() == labels
    assert all(np.array_equal(a, b) for a, b in zip(read, images, strict=True))


def test_damaged_cdb(tmp_path):
    good, path = cdb(bitmaps(4), [1, 2, 3, 4]), tmp_path / "x.cdb"

    def changed(at: int, value: int) -> bytes:
        return good[:at] + bytes([value]) + good[at + 1 :]

    refuses(formats.read_cdb, path, good[:500], "500 bytes")
    refuses(formats.read_cdb, path, good[:-1], "image 3 of 4")
    refuses(formats.read_cdb, path, good[:1030], "byte 1024")
    refuses(formats.read_cdb, path, good + b"\0", "1 bytes left over")
    refuses(formats.read_cdb, path, changed(6, 9), "9 images")
    refuses(formats.read_cdb, path, changed(1024, 0), "at byte 1024")
    refuses(formats.read_cdb, path, changed(1025, 77), "at byte 1024")
    refuses(formats.read_cdb, path, changed(1025, 5), "other labels")
    refuses(formats.read_cdb, path, changed(1030, 250), "row longer")
    refuses(formats.read_cdb, path, changed(1027, good[1027] + 1), "image 0")
    refuses(formats.read_cdb, path, b"<html>not found</html>" * 99, "box")


def test_hoda_mat(tmp_path):
    images, path = bitmaps(5), tmp_path / "x.mat"
    cell = np.empty((5, 1), object)
    for i, image in enumerate(images):
        cell[i, 0] = image
    labels = np.array([[1], [2], [0], [9], [4]], np.uint8)
    savemat(path, {"Data": cell, "labels": labels}, do_compression=True)
    read, read_labels = formats.read_hoda_mat(path)
    assert read_labels.tolist() == [1, 2, 0, 9, 4] and read_labels.dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(read, images, strict=True))

    whole = path.read_bytes()
    refuses(formats.read_hoda_mat, path, whole[: len(whole) // 2], "MATLAB 5")
    refuses(formats.read_hoda_mat, path, b"", "MATLAB 5")
    for content, word in [
        ({"Data": cell}, "variables ['Data']"),
        ({"Data": cell, "labels": labels[:3]}, "3 labels"),
        ({"Data": cell, "labels": labels + 5}, "0 to 9"),
    ]:
        buffer = io.BytesIO()
        savemat(buffer, content)
        refuses(formats.read_hoda_mat, path, buffer.getvalue(), word)


def test_idx(tmp_path):
    array, path = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), tmp_path / "x-idx3-ubyte.gz"
    for content in (idx(array), gzip.compress(idx(array))):
        path.write_bytes(content)
        assert np.array_equal(formats.read_idx(path, (None, 3, 4)), array)

    def read(path):
        return formats.read_idx(path, (None, 3, 4))

    refuses(read, path, gzip.compress(idx(array))[:-9], "gzip")
    refuses(read, path, idx(array)[:-1], "23 bytes")
    refuses(read, path, idx(array[0]), "header '00000802'")
    refuses(read, path, idx(array)[:10], "10 bytes")
    refuses(read, path, idx(array.reshape(2, 4, 3)), "(2, 4, 3)")
    refuses(read, path, b"", "header ''")


def test_npy_and_npz_refuse_pickles_and_wrong_arrays(tmp_path):
    def packed(**arrays) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    def plain(array) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    good = {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.zeros(2, np.uint8)}
    path = tmp_path / "x.npz"
    path.write_bytes(packed(**good))
    assert formats.read_pack(path, PIXELS)["images"].shape == (2, 28, 28)

    def read(path):
        return formats.read_pack(path, PIXELS)

    whole = packed(**good)
    refuses(read, path, whole[: len(whole) // 2], "unreadable archive")
    refuses(read, path, whole.replace(b"\x78", b"\x79", 1)[:60] + b"\xff" * 20 + whole[80:])
    refuses(read, path, packed(images=good["images"]), "labels")
    refuses(read, path, packed(**good | {"labels": np.array([{}, {}])}), "allow_pickle")
    refuses(read, path, packed(**good | {"labels": np.zeros(2)}), "labels of type float64")
    refuses(read, path, packed(**good | {"images": np.zeros((2, 9, 9), np.uint8)}), "(2, 9, 9)")
    refuses(read, path, b"", "unreadable archive")

    def read_npy(path):
        return formats.read_npy(path, (None, 28, 28))

    path = tmp_path / "x.npy"
    path.write_bytes(plain(good["images"]))
    assert read_npy(path).shape == (2, 28, 28)
    refuses(read_npy, path, plain(good["images"])[:-5], "unreadable")
    refuses(read_npy, path, plain(np.array([{}])), "allow_pickle")
    refuses(read_npy, path, plain(np.zeros((2, 28, 28))), "float64")
    refuses(read_npy, path, whole, "an archive")
    with pytest.raises(FileNotFoundError):
        read_npy(tmp_path / "absent.npy")


def test_wav(tmp_path):
    samples = np.array([0, 1, -1, 32767, -32768], np.int16)
    assert formats.read_wav(wav(samples), "x").tolist() == samples.tolist()

    def read(path):
        return formats.read_wav(path.read_bytes(), path)

    path = tmp_path / "0_theo_0.wav"
    refuses(read, path, wav(samples)[:20], "no wav")
    refuses(read, path, wav(samples)[:-4], "3 samples")
    refuses(read, path, wav(samples, rate=16000), "16000 Hz")
    refuses(read, path, wav(np.zeros(4), channels=2), "2 channels")
    refuses(read, path, wav(np.zeros(0)), "0 samples")
    refuses(read, path, b"ID3", "no wav")


def test_recordings_come_from_folder_tarball_and_zip(tmp_path):
    content = {f"{d}_theo_{i}.wav": wav(np.full(9, d + i)) for d in range(2) for i in (0, 49)}
    folder = tmp_path / "folder" / "recordings"
    folder.mkdir(parents=True)
    with (
        tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tarball,
        zipfile.ZipFile(tmp_path / "x.zip", "w") as archive,
    ):
        for name, data in [*content.items(), ("README.md", b"hello"), ("9_theo_500.wav", b"")]:
            (folder / name).write_bytes(data)
            tarball.add(folder / name, f"free-spoken-digit-dataset-26eb/recordings/{name}")
            archive.write(folder / name, f"recordings/{name}")
    for place in (tmp_path / "folder", tmp_path / "x.tar.gz", tmp_path / "x.zip"):
        assert dict(formats.recordings(place)) == content

    def read(path):
        return list(formats.recordings(path))

    whole = (tmp_path / "x.tar.gz").read_bytes()
    refuses(read, tmp_path / "x.tar.gz", whole[: len(whole) // 2], "unreadable archive")
    refuses(read, tmp_path / "x.tar.gz", b"<html>", "unreadable archive")


# Where files come from -----------------------------------------------------------------------------


def test_registry_is_the_published_one():
    """The release's own checksum: the SHA-256 of the sorted lines "sha256  path"."""
    text = resources.files("labkit.data").joinpath("fsdd.txt").read_bytes()
    published = "04e1baae96c6a26e39c623f2b01d0182ddae627ba0ac02a3cdc17ba2af99fd9b"
    assert hashlib.sha256(text).hexdigest() == published
    assert len(files.registry()) == 3000
    assert all(formats.RECORDING.fullmatch(name) for name in files.registry())


def test_catalogue_says_what_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    assert {item.dataset for item in files.catalogue()} == set(files.DATASETS)
    for item in files.catalogue():
        assert item.local is None and item.licence
        packs = ("digits/", "ravdess/", "mosi/", "utd_mhad/", "nyuv2/")
        assert item.url.startswith("http") or (not item.url and item.file.startswith(packs))
        # What comes unencrypted is compared with a hash, or put in place by a person.
        assert (
            item.url.startswith("https://") or item.dataset in ("nyuv2", "mmimdb") or not item.url
        )
        assert item.sha256 is None or len(item.sha256) == 64
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "hoda.npz").write_bytes(b"x")
    assert files.entry("hoda.npz").local == tmp_path / "digits" / "hoda.npz"
    with pytest.raises(
        ValueError,
        match="dataset must be one of hoda, kannada, .*, utd_mhad, nyuv2, mmimdb, epic; got",
    ):
        files.get("mnist")


@pytest.mark.parametrize("dataset", ["nyuv2", "mmimdb"])
def test_what_has_no_published_hash_is_never_fetched_and_says_where_to_put_it(
    monkeypatch, tmp_path, dataset
):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    (wanted,) = [e for e in files.catalogue() if e.dataset == dataset and e.url.startswith("http:")]
    with pytest.raises(
        LabkitError, match=r"is not fetched, for nobody has published its hash: get it from"
    ):
        files.need(wanted)
    assert files.check(dataset) == [
        f"nothing of {dataset} is here: run `labkit data get {dataset}`"
    ]
    place = tmp_path / wanted.file
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    assert files.need(wanted) == wanted.local == place
    assert files.check(dataset) == []


def test_a_changed_pack_is_refused_and_check_reports_it(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    assert files.check("hoda") == ["nothing of hoda is here: run `labkit data get hoda`"]
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "hoda.npz").write_bytes(b"changed")
    with pytest.raises(
        LabkitError, match=r"hoda\.npz is not .*sha256 is .*, expected ffc5e7.*labkit data get"
    ):
        Digits(source="real").load("train")
    (problem,) = files.check("hoda")
    assert "expected ffc5e7" in problem


def test_check_without_a_name_looks_at_what_is_here_and_at_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    (sentence,) = files.check()
    assert sentence.startswith("nothing is here: ")
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "hoda.npz").write_bytes(b"changed")
    (problem,) = files.check()  # of the others nothing is here, and nobody asked for them
    assert "hoda.npz is not" in problem
    assert files.check("mosi") == ["nothing of mosi is here: run `labkit data get mosi`"]


class Server(http.server.BaseHTTPRequestHandler):
    content: bytes | None = b"right"

    def do_GET(self):
        self.send_response(404 if self.content is None else 200)
        self.send_header("Content-Length", str(len(self.content or b"")))
        self.end_headers()
        self.wfile.write(self.content or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def web(monkeypatch, tmp_path):
    """A web server on this machine, and an entry whose file it serves."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LABKIT_DATA", raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/Test%2020000.cdb"
    item = dataclasses.replace(
        files.entry("Test 20000.cdb"), url=url, sha256=hashlib.sha256(b"right").hexdigest(), size=5
    )
    yield item
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_keeps_the_right_file(web, monkeypatch):
    monkeypatch.setattr(Server, "content", b"right")
    path = files.need(web)
    assert path.read_bytes() == b"right" and path == web.local
    monkeypatch.setattr(Server, "content", None)
    assert files.need(web) == path  # found now, not fetched again


def test_download_refuses_the_wrong_file_and_keeps_nothing(web, monkeypatch):
    monkeypatch.setattr(Server, "content", b"wrong")
    with pytest.raises(LabkitError) as caught:
        files.need(web)
    for words in (
        "not kept",
        hashlib.sha256(b"wrong").hexdigest(),
        str(web.sha256),
        web.url,
        "Test 20000.cdb",
    ):
        assert words in str(caught.value)
    assert web.local is None
    assert not [path for path in files.roots()[-1].rglob("*") if path.is_file()]


@pytest.mark.parametrize("how", ["not found", "no network"])
def test_without_network_the_error_says_what_to_put_where(web, monkeypatch, how):
    monkeypatch.setattr(Server, "content", None)
    item = web if how == "not found" else dataclasses.replace(web, url="http://127.0.0.1:9/x.cdb")
    with pytest.raises(LabkitError) as caught:
        files.need(item)
    place = files.roots()[-1] / "upstream/hoda/Test 20000.cdb"
    for words in (
        "Test 20000.cdb of hoda (0.0 MB)",
        item.url,
        str(place),
        "LABKIT_DATA",
        "source='procedural'",
    ):
        assert words in str(caught.value)
    assert not [path for path in files.roots()[-1].rglob("*") if path.is_file()]


def test_recordings_are_verified_one_by_one(monkeypatch, tmp_path):
    folder = tmp_path / files.FSDD_FOLDER
    folder.mkdir(parents=True)
    archive = files.entry("free-spoken-digit-dataset.tar.gz")
    small = {f"{d}_theo_0.wav": wav(np.full(300, d)) for d in range(3)}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in small.items()}
    monkeypatch.setattr(files, "registry", lambda: hashes)
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))

    for name, content in list(small.items())[:2]:
        (folder / name).write_bytes(content)
    assert archive.local is None and files.check("fsdd") == [
        "nothing of fsdd is here: run `labkit data get fsdd`"
    ]
    (folder / "2_theo_0.wav").write_bytes(small["2_theo_0.wav"])
    assert archive.local == folder and files.check("fsdd") == []
    assert [len(w) for w in real._wav_recordings(files.need(archive))[0]] == [300] * 3

    (folder / "2_theo_0.wav").write_bytes(small["1_theo_0.wav"])
    with pytest.raises(LabkitError, match=r"2_theo_0\.wav has another sha256.*labkit data get"):
        files.need(archive)
    with zipfile.ZipFile(
        folder / "fsdd.zip", "w"
    ) as packed:  # an archive goes first; this one is short
        packed.writestr("recordings/0_theo_0.wav", small["0_theo_0.wav"])
    (problem,) = files.check("fsdd")
    assert "2 of 3 recordings are missing, 1_theo_0.wav for one" in problem


# From files to triplets ----------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A release of 20 + 5 images and 6 x 8 recordings a class, each image and voice recognisable."""
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setattr(files, "verified", lambda wanted, path: path)  # it is not the published one
    (tmp_path / "digits").mkdir()
    for name in ("hoda", "kannada"):
        arrays = {}
        for release, n in (("train", 200), ("test", 50)):
            number = np.arange(n)
            pixels = np.zeros((n, 28, 28), np.uint8)
            pixels[:, 0, 0], pixels[:, 0, 1], pixels[:, 0, 2] = (
                number,
                number % 10,
                release == "test",
            )
            arrays |= {
                f"{release}_images": pixels,
                f"{release}_labels": (number % 10).astype(np.uint8),
            }
            if name == "kannada":
                arrays[f"{release}_writers"] = (number // 10 + 100 * (release == "test")).astype(
                    np.uint8
                )
        np.savez(tmp_path / "digits" / f"{name}.npz", **arrays)
    speaker, digit, index = (
        a.ravel() for a in np.meshgrid(range(6), range(10), range(8), indexing="ij")
    )
    table = {"speaker": speaker, "digit": digit, "index": index}
    # Coefficient 0 tells the digit, 1 the speaker, 2 the index.
    values = np.zeros((480, 13), np.float32)
    values[:, :3] = np.stack([digit, speaker, index], 1)
    table |= {"poster": values, "mean": 2 * values, "sequence": np.repeat(values[:, None], 20, 1)}
    monkeypatch.setattr(real, "cepstra", lambda: table)


def members(batch, name):
    return (batch.x[name][:, 0, 0] * 255).round().long().tolist()


def test_triplets_show_one_digit_and_no_image_twice(tiny):
    batch = Digits(source="real", n_train=160).load("train")
    assert batch.y.bincount().tolist() == [16] * 10
    for name in ("farsi", "kannada"):
        assert torch.equal((batch.x[name][:, 0, 1] * 255).round().long(), batch.y)
        assert len(set(members(batch, name))) == 160
        assert not batch.x[name][:, 0, 2].any()  # the training release
    assert members(batch, "farsi") != members(batch, "kannada")
    torch.testing.assert_close(batch.x["speech"][:, 0] * 9, batch.y.float())
    torch.testing.assert_close(batch.x["speech"][:, 1] * 5, batch.factors["speaker"].float())
    assert torch.equal(
        batch.factors["writer_kannada"], torch.tensor(members(batch, "kannada")) // 10
    )


def test_splits_are_disjoint_stratified_and_seeded(tiny):
    def images(split, seed=0, **sizes):
        return set(members(Digits(source="real", seed=seed, **sizes).load(split), "farsi"))

    train, val = images("train", n_train=160), images("val", n_val=40)
    assert not train & val and len(train | val) == 200
    assert images("train", 1, n_train=160) != train
    short = Digits(source="real", n_train=30).load("train")
    long = Digits(source="real", n_train=160).load("train")
    assert torch.equal(short.x["farsi"], long.x["farsi"][:30]) and torch.equal(
        short.x["speech"], long.x["speech"][:30]
    )
    test = Digits(source="real", n_test=50).load("test")
    assert members(test, "farsi") != members(test, "kannada")  # paired at random, not by number
    assert test.x["farsi"][:, 0, 2].all() and test.factors["writer_kannada"].min() >= 100


def test_official_and_speaker_held_out_recordings(tiny):
    def recordings(split, **options):
        batch = Digits(source="real", n_train=160, n_val=40, n_test=50, **options).load(split)
        # The range is the training recordings': index 5 to 7 officially, 0 to 7 without a speaker.
        low, high = (0, 7) if "speakers" in options else (5, 7)
        index = (batch.x["speech"][:, 2] * (high - low) + low).round().long()
        return set(
            zip(batch.factors["speaker"].tolist(), batch.y.tolist(), index.tolist(), strict=True)
        )

    parts = {split: recordings(split) for split in ("train", "val", "test")}
    assert {index for _, _, index in parts["test"]} == set(range(5))
    assert {index for _, _, index in parts["train"] | parts["val"]} == {5, 6, 7}
    assert not parts["train"] & parts["val"]
    held = {
        s: recordings(s, speakers="held-out", held_out_speaker=4) for s in ("train", "val", "test")
    }
    assert {speaker for speaker, _, _ in held["test"]} == {4}
    assert 4 not in {speaker for speaker, _, _ in held["train"] | held["val"]}
    assert not held["train"] & held["val"]


def test_pools_of_real_speech(tiny):
    for pool in ("poster", "mean", "none"):
        batch = Digits(source="real", n_train=160, pool=pool).load("train")
        assert batch.x["speech"].shape == ((160, 20, 13) if pool == "none" else (160, 13))
        assert batch.x["speech"].min() == 0 and batch.x["speech"].max() == 1


@pytest.mark.parametrize(("split", "most"), [("train", 160), ("val", 40), ("test", 50)])
def test_too_many_triplets(tiny, split, most):
    with pytest.raises(
        ValueError, match=rf"n_{split} may be at most {most} with source='real'.*got {most + 1}"
    ):
        Digits(source="real", **{f"n_{split}": most + 1}).load(split)


def test_fitted_bitmaps_keep_aspect_and_centre():
    tall, wide, point = (
        np.ones((40, 10), np.uint8),
        np.ones((3, 9), np.uint8),
        np.ones((1, 1), np.uint8),
    )
    fitted = real.fit_bitmaps([tall, wide, point, *bitmaps(20)])
    assert fitted.shape == (23, 28, 28) and fitted.dtype == np.uint8
    for image, (height, width) in zip(fitted, [(20, 5), (7, 20), (20, 20)], strict=False):
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (height, width)
    axis = np.arange(28)
    for image in fitted:
        inside = image[1:-1, 1:-1].sum() == image.sum()
        assert not inside or abs(image.sum(1) @ axis / image.sum() - 13.5) <= 0.51
        assert not inside or abs(image.sum(0) @ axis / image.sum() - 13.5) <= 0.51


# Cepstra -------------------------------------------------------------------------------------------


def plain_mfcc(signal: np.ndarray) -> np.ndarray:
    """The textbook formulas, one frame at a time."""
    flat = np.append(signal[0], signal[1:] - 0.97 * signal[:-1])
    count = 1 + max(0, -(-(len(flat) - 200) // 80))
    flat = np.append(flat, np.zeros(200 + 80 * (count - 1) - len(flat)))
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 28) / 2595) - 1)
    hertz = np.arange(129) * 8000 / 256
    rows = []
    for k in range(count):
        power = np.abs(np.fft.rfft(flat[80 * k : 80 * k + 200], 256)) ** 2 / 256
        bands = [
            np.clip(np.minimum((hertz - low) / (mid - low), (high - hertz) / (high - mid)), 0, None)
            @ power
            for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False)
        ]
        log = np.log(np.maximum(bands, np.finfo(float).eps))
        n = np.arange(26)
        row = [
            np.sqrt(2 / 26) * (log * np.cos(np.pi * c * (n + 0.5) / 26)).sum() for c in range(13)
        ]
        row = np.array(row) * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
        row[0] = np.log(max(power.sum(), np.finfo(float).eps))
        rows.append(row)
    return np.stack(rows)


def test_mfcc_follows_the_textbook():
    pytest.importorskip("librosa", reason="librosa is not installed: pip install labkit[data]")
    random = np.random.default_rng(0)
    waves = [(3000 * random.standard_normal(n)).astype(np.int16) for n in (150, 200, 201, 3358)]
    waves.append(np.zeros(500, np.int16))
    for made, signal in zip(real.mfcc(waves), waves, strict=True):
        np.testing.assert_allclose(made, plain_mfcc(signal.astype(float)), rtol=1e-4, atol=2e-4)


def test_without_librosa_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(LabkitError, match=r"librosa.*pip install labkit\[data\]"):
        real.mfcc([np.zeros(500, np.int16)])


def test_made_arrays_are_kept_by_content_and_repaired(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        assert real._kept("x", ["one"], make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 1
    real._kept("x", ["two"], make)
    assert len(made) == 2
    (kept, _) = sorted(
        (tmp_path / "data" / "made").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )
    kept.write_bytes(kept.read_bytes()[:40])
    assert real._kept("x", ["one"], make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 3


# The real files ------------------------------------------------------------------------------------


@needs_data
def test_hoda_cdb_agrees_with_the_pack():
    bitmaps, labels = formats.read_cdb(Path(DATA) / "upstream" / "hoda" / "Test 20000.cdb")
    pack = real.hoda("test")
    assert np.array_equal(labels, pack.labels) and len(bitmaps) == 20000
    some = slice(None, None, 20)
    difference = np.abs(real.fit_bitmaps(bitmaps[some]).astype(float) - pack.pixels[some])
    assert difference.mean() < 1.5  # of 255; the pack has 16 grey levels
    assert np.median(difference.max((1, 2))) <= 9  # half a grey level


@needs_data
def test_kannada_idx_agrees_with_the_pack(monkeypatch):
    pack = real.kannada("test")
    monkeypatch.setattr(files, "pack", lambda _: None)
    original = real.kannada("test")
    assert np.array_equal(original.pixels, pack.pixels) and np.array_equal(
        original.labels, pack.labels
    )
    assert original.writers is None and pack.writers is not None


@needs_data
def test_fsdd_pack_is_the_registry_and_the_samples():
    waves, labels = real._packed_recordings(Path(DATA) / "digits" / "fsdd.npz")
    assert np.bincount(labels["digit"]).tolist() == [300] * 10
    names = {}
    for i, (speaker, digit, index) in enumerate(
        zip(labels["speaker"], labels["digit"], labels["index"], strict=True)
    ):
        names[f"{digit}_{real.SPEAKERS[speaker]}_{index}.wav"] = i
    assert set(names) == set(files.registry())
    for name in list(names)[
        ::50
    ]:  # written again with the plain 44-byte header, the bytes are the release's
        assert hashlib.sha256(wav(waves[names[name]])).hexdigest() == files.registry()[name]
    samples = dict(formats.recordings(Path(DATA) / files.FSDD_FOLDER))
    assert len(samples) > 0
    for name, content in samples.items():
        assert np.array_equal(formats.read_wav(content, name), waves[names[name]])


@needs_data
def test_what_is_here_is_what_was_published():
    assert files.check() == []


@needs_data
def test_real_digits_load(monkeypatch):
    pytest.importorskip("librosa", reason="librosa is not installed: pip install labkit[data]")
    batch = Digits(source="real", n_test=500).load("test")
    assert batch.y.bincount().tolist() == [50] * 10
    assert set(batch.factors) == {"speaker", "writer_kannada"}
    means = [
        [float(batch.x[name][batch.y == d].mean()) for d in range(10)]
        for name in ("farsi", "kannada")
    ]
    assert (
        means[0][0] > means[0][1] and means[1][5] > means[1][1]
    )  # a filled ring and a bar; a knot and an arch
    monkeypatch.setattr(real, "mfcc", None)  # the second time nothing is computed
    assert torch.equal(
        Digits(source="real", n_test=500).load("test").x["speech"], batch.x["speech"]
    )
