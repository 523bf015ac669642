"""CMU-MOSI: the pack and the original tables, splits by video, and what the vectors tell."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from labkit import LabkitError, metrics
from labkit.batch import Batch
from labkit.cli import main
from labkit.data import files, mosi
from labkit.data.mosi import CHANNELS, MODALITIES, NAMES, Mosi
from labkit.metrics_sentiment import binary_scores

DATA = os.environ.get("LABKIT_DATA", "")
needs_data = pytest.mark.skipif(
    not DATA, reason="LABKIT_DATA is not set: no real data on this machine"
)
# Name and label of every utterance, in the order of the tables: positive ones first, as in the release.
ROWS = {
    "train": [(f"{video}_{n}", label) for label in (1, 0) for video in ("b_x", "a-1", "d", "c")
              for n in (10 + label, 2 + label)],
    "test": [(f"{video}_{n}", 0) for video in ("f", "e") for n in (3, 1)],
}  # fmt: skip
TALKS = [(name, f'"Well, he said ""{name}""\nand left."') for part in ("test", "train")
         for name, _ in sorted(ROWS[part])]  # fmt: skip


def vectors(part: str, name: str) -> np.ndarray:
    """Of one modality: drawn, with a constant channel and one number far from all others."""
    seed = [part == "test", MODALITIES.index(name)]
    made = np.random.default_rng(seed).normal(5, 2, (len(ROWS[part]), CHANNELS[name]))
    made[:, 1] = 7
    if part == "test":
        made[0, 0] = 1e6
    return made.round(5)


def table(values: np.ndarray, labels: list[int]) -> str:
    lines = zip(values.tolist(), labels, strict=True)
    return "\n".join(",".join(map(str, [*row, label])) for row, label in lines) + "\n"


@pytest.fixture
def originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder without the pack: the published tables, small."""
    folder = tmp_path / "upstream" / "mosi"
    folder.mkdir(parents=True)
    (folder / "transcripts.csv").write_text("".join(f"{name},{said}\n" for name, said in TALKS))
    place = {name: i for i, (name, _) in enumerate(TALKS)}
    for part, rows in ROWS.items():
        order = "".join(f"{place[name]},words,{label}\n" for name, label in rows)
        (folder / f"text_{part}.csv").write_text(order)
        for name in MODALITIES:
            text = table(vectors(part, name), [label for _, label in rows])
            (folder / f"{NAMES[name]}_{part}0.csv").write_text(text)
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "verified", lambda wanted, path: path)  # it is not the published one
    return folder


def loaded(data: Mosi) -> dict[str, Batch]:
    return {"train": data.load("train"), "val": data.load("val"), "test": data.load("test")}


def labels(batch: Batch) -> torch.Tensor:
    assert batch.y is not None
    return batch.y


def test_originals_make_batches_split_by_video(originals: Path) -> None:
    parts = loaded(Mosi(val_videos=1))
    assert {split: len(batch) for split, batch in parts.items()} == {
        "train": 12,
        "val": 4,
        "test": 4,
    }
    for batch in parts.values():
        assert batch.modalities == MODALITIES and batch.observed.all()
        assert [tuple(x.shape[1:]) for x in batch.x.values()] == [(1, 100), (1, 73), (1, 100)]
        assert all(x.dtype == torch.float32 for x in batch.x.values())
    videos = {split: set(batch.factors["video"].tolist()) for split, batch in parts.items()}
    assert videos["train"] | videos["val"] == set(range(4)) and not videos["train"] & videos["val"]
    assert videos["test"] == {4, 5}
    test = parts["test"]
    assert test.factors["video"].tolist() == [5, 5, 4, 4]  # in the order of the names
    assert test.factors["utterance"].tolist() == [3, 1, 3, 1]
    assert labels(test).tolist() == [0] * 4


def test_vectors_are_standardised_by_the_training_split_and_clipped(originals: Path) -> None:
    parts = loaded(Mosi(val_videos=1))
    video_of = {"a-1": 0, "b_x": 1, "c": 2, "d": 3}
    held = int(parts["val"].factors["video"][0])
    kept = [video_of[name.rpartition("_")[0]] != held for name, _ in ROWS["train"]]
    for name in MODALITIES:
        train = parts["train"].x[name][:, 0].double()
        torch.testing.assert_close(
            train.mean(0), torch.zeros(CHANNELS[name]).double(), atol=1e-6, rtol=0
        )
        spread = train.std(0, correction=0)
        assert spread[1] == 0  # the constant channel
        torch.testing.assert_close(
            spread[2:], torch.ones(CHANNELS[name] - 2).double(), atol=1e-6, rtol=0
        )
        known = vectors("train", name)[kept]
        mean, deviation = known.mean(0), known.std(0)
        deviation[1] = 1
        expected = (vectors("test", name) - mean) / deviation
        assert expected[0, 0] > 1000 and parts["test"].x[name][0, 0, 0] == 8
        expected = torch.from_numpy(expected.clip(-8, 8)).float()
        torch.testing.assert_close(parts["test"].x[name][:, 0], expected, atol=1e-5, rtol=0)


def test_the_seed_draws_the_videos_held_out(originals: Path) -> None:
    held = {
        int(Mosi(val_videos=1, seed=seed).load("val").factors["video"][0]) for seed in range(20)
    }
    assert held == set(range(4))
    few, many = Mosi(val_videos=1).load("val"), Mosi(val_videos=3).load("val")
    assert set(few.factors["video"].tolist()) < set(many.factors["video"].tolist())
    assert torch.equal(Mosi(val_videos=1).load("val").x["audio"], few.x["audio"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_videos": 0}, "val_videos must be a whole number from 1 to 61, got 0"),
        ({"val_videos": 62}, "from 1 to 61, got 62"),
        ({"val_videos": 6.0}, "val_videos must be a whole number .* got 6.0"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mosi(**changes)
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"):
        Mosi().load("dev")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (
            "audio_train0.csv",
            lambda text: text.replace("\n", ",1\n"),
            r"shape \(16, 75\).*lines of 73",
        ),
        ("audio_train0.csv", lambda text: text[:-9], "inhomogeneous"),
        ("audio_train0.csv", lambda text: "low" + text, "could not convert string to float"),
        ("audio_train0.csv", lambda text: text.replace("\n", ",\n", 1), "could not convert"),
        ("audio_train0.csv", lambda _: "", r"a table of shape \(0,\)"),
        ("audio_train0.csv", lambda text: text.split("\n", 1)[1], "15 rows; allowed is the 16"),
        ("video_test0.csv", lambda text: "nan" + text[text.index(",") :], "not finite"),
        (
            "video_test0.csv",
            lambda text: text.replace(",0\n", ",2\n"),
            "a label other than 0 and 1",
        ),
        (
            "video_test0.csv",
            lambda text: text.replace(",0\n", ",1\n", 1),
            "other labels.*text_test0",
        ),
        ("video_test0.csv", lambda _: "<html>", "could not convert"),
        ("text_train.csv", lambda text: "20" + text[text.index(",") :], "row 1: '20'.*0 to 19"),
        ("text_train.csv", lambda text: "-1" + text[text.index(",") :], "row 1: '-1'"),
        (
            "transcripts.csv",
            lambda text: text.replace("b_x_2", "b_x"),
            "the name 'b_x'|a video, _ and",
        ),
        ("transcripts.csv", lambda _: "", r"text_train\.csv is damaged.*row 1"),
    ],
)
def test_damaged_tables_are_named(originals: Path, name: str, damage, words: str) -> None:
    path = originals / name
    path.write_text(damage(path.read_text()))
    with pytest.raises(LabkitError, match=words):
        Mosi(val_videos=1).load("train")


def test_a_table_of_other_bytes_is_no_text(originals: Path) -> None:
    for name in ("text_train0.csv", "transcripts.csv"):
        (originals / name).write_bytes(b"\xff\xfe\xff")
        with pytest.raises(LabkitError, match=f"{name} is damaged.*utf-8"):
            Mosi(val_videos=1).load("train")


def test_the_pack_goes_first_and_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mosi").mkdir()
    (tmp_path / "mosi" / "mosi.npz").write_bytes(b"changed")
    with pytest.raises(LabkitError, match=r"mosi\.npz is not .*expected f6593a22"):
        Mosi().load("train")


def test_pack_and_originals_make_the_same_batch(
    originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = loaded(Mosi(val_videos=1))
    arrays: dict[str, np.ndarray] = {}
    for part, rows in ROWS.items():
        arrays[f"{part}_label"] = np.array([label for _, label in rows], np.uint8)
        arrays[f"{part}_utterance"] = np.array([name for name, _ in rows])
        for name in MODALITIES:
            arrays[f"{part}_{NAMES[name]}"] = vectors(part, name).astype(np.float32)
    path = originals.parents[1] / "mosi" / "mosi.npz"
    path.parent.mkdir()
    np.savez(path, **arrays)
    monkeypatch.setattr(mosi, "read_table", None)
    for split, batch in loaded(Mosi(val_videos=1)).items():
        for name in MODALITIES:
            assert torch.equal(batch.x[name], read[split].x[name])
        assert torch.equal(labels(batch), labels(read[split]))
        for factor, values in read[split].factors.items():
            assert torch.equal(batch.factors[factor], values)


def test_the_command_line_knows_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    listed = CliRunner().invoke(main, ["data", "list"])
    rows = [line for line in listed.output.splitlines() if line.startswith("mosi")]
    assert len(rows) == 10 and all("research" in row and "not here" in row for row in rows)
    assert "1.7 MB" in rows[0] and "packed from the originals" in rows[0]
    assert all("declare-lab/multimodal-deep-learning/111b401d" in row for row in rows[1:])
    result = CliRunner().invoke(main, ["data", "check", "mosi"])
    assert result.exit_code == 1 and "nothing of mosi is here" in result.output
    urls = {item.file: item.url for item in files.catalogue() if item.dataset == "mosi"}
    assert urls["upstream/mosi/video_test0.csv"].endswith("fusion/data/video/video_test0.csv")
    assert urls["upstream/mosi/transcripts.csv"].endswith("fusion/data/transcripts.csv")


# The real data -------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("seed", [0, 1])
def test_no_video_of_the_release_is_in_two_splits(seed: int) -> None:
    parts = loaded(Mosi(seed=seed))
    videos = {split: set(batch.factors["video"].tolist()) for split, batch in parts.items()}
    assert {split: len(found) for split, found in videos.items()} == {
        "train": 56,
        "val": 6,
        "test": 31,
    }
    assert videos["test"] == set(range(62, 93)) and len(set.union(*videos.values())) == 93
    assert len(parts["train"]) + len(parts["val"]) == 1447 and len(parts["test"]) == 752
    named = [torch.stack([b.factors["video"], b.factors["utterance"]]) for b in parts.values()]
    assert torch.cat(named, 1).unique(dim=1).shape[1] == 2199
    for batch in parts.values():
        assert max(float(x.abs().max()) for x in batch.x.values()) <= 8
    always = binary_scores(torch.ones(752, dtype=torch.int64), labels(parts["test"]))
    assert always["accuracy"] == always["majority"] == pytest.approx(467 / 752)  # 62.1 %


@needs_data
def test_what_a_linear_reader_knows_from_each_modality() -> None:
    """About the published figures, which are of all 62 training videos: 75.5, 56.2, 52.7, 76.5 %."""
    parts = loaded(Mosi())
    figures = {}
    for names in (*((name,) for name in MODALITIES), MODALITIES):
        flat = {
            split: torch.cat([batch.x[name][:, 0] for name in names], 1)
            for split, batch in parts.items()
        }
        figures[names] = [
            100
            * metrics.linear_probe(
                flat["train"], labels(parts["train"]), flat[split], labels(batch)
            )
            for split, batch in parts.items()
        ]
    for names, published in zip(figures, (75.5, 56.2, 52.7, 76.5), strict=True):
        assert figures[names][2] == pytest.approx(published, abs=3), figures
    language, vision = figures["language",], figures["vision",]
    assert language[0] > 98 and language[1] > 90 and language[2] < 80  # labels of val were seen too
    assert vision[0] > 90 and vision[2] < 58
