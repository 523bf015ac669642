"""RAVDESS: names, recordings, action units and folds, from the pack and from the originals."""

from __future__ import annotations

import io
import os
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from labkit import LabkitError
from labkit.cli import main
from labkit.data import files, ravdess
from labkit.data.faces import Faces
from labkit.data.ravdess import Clip

DATA = os.environ.get("LABKIT_DATA", "")
needs_data = pytest.mark.skipif(
    not DATA, reason="LABKIT_DATA is not set: no real data on this machine"
)
EVERYONE = [
    Clip(3, 1, emotion, intensity, statement, repetition, actor)
    for emotion in range(1, 9)
    for intensity in (1, 2)
    for statement in (1, 2)
    for repetition in (1, 2)
    for actor in range(1, 25)
    if (emotion, intensity) != (1, 2)
]
SOME = [clip for clip in EVERYONE if clip.emotion < 4 and clip.statement == clip.repetition == 1]


def wav(samples: np.ndarray, rate: int = ravdess.RATE, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def burst(hertz: float, before_s: float, tone_s: float, size: float = 0.5) -> np.ndarray:
    """Silence, then a tone, then half a second of silence."""
    clock = np.arange(round(tone_s * ravdess.RATE)) / ravdess.RATE
    silence = [np.zeros(round(seconds * ravdess.RATE)) for seconds in (before_s, 0.5)]
    return np.concatenate([silence[0], size * np.sin(2 * np.pi * hertz * clock), silence[1]])


# Names ---------------------------------------------------------------------------------------------


def test_names_round_trip() -> None:
    clip = Clip.parse("03-01-06-01-02-01-12.wav")
    assert clip == Clip(3, 1, 6, 1, 2, 1, 12) and clip.sex == "female"
    assert ravdess.EMOTIONS[clip.emotion - 1] == "fearful"
    assert clip.name == "03-01-06-01-02-01-12.wav"
    film = Clip.parse("01-01-06-01-02-01-12")
    assert film.name == "01-01-06-01-02-01-12.mp4" and film.take == clip.take
    assert Clip.parse("02-02-01-01-01-01-23.mp4").sex == "male"
    assert len(EVERYONE) == files.CLIPS
    for clip in EVERYONE:
        assert Clip.parse(clip.name) == clip


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "03-01-06-01-02-01.wav",
            "name must be seven numbers of two digits .* got '03-01-06-01-02-01",
        ),
        ("03-01-06-01-02-01-12.flac", "name must be seven numbers"),
        ("04-01-06-01-02-01-12.wav", "modality must be 1 to 3, got 4 in '04-01"),
        ("03-00-06-01-02-01-12.wav", "channel must be 1 to 2, got 0"),
        ("03-01-09-01-02-01-12.wav", "emotion must be 1 to 8, got 9"),
        ("03-01-06-03-02-01-12.wav", "intensity must be 1 to 2, got 3"),
        ("03-01-06-01-02-01-25.wav", "actor must be 1 to 24, got 25"),
        ("03-01-01-02-02-01-12.wav", r"intensity must be 1 with emotion 1 \(neutral\), got 2"),
    ],
)
def test_bad_names_say_which_field_is_wrong(name: str, words: str) -> None:
    with pytest.raises(ValueError, match="^" + words):
        Clip.parse(name)


def test_each_actor_is_in_one_fold_and_both_sexes_are_in_each() -> None:
    assert sorted(actor for actors in ravdess.FOLDS for actor in actors) == list(range(1, 25))
    for actors in ravdess.FOLDS:
        assert {actor % 2 for actor in actors} == {0, 1}


# Recordings ----------------------------------------------------------------------------------------


@pytest.fixture
def librosa() -> None:
    pytest.importorskip("librosa", reason="librosa is not installed: pip install labkit[data]")


@pytest.mark.usefixtures("librosa")
@pytest.mark.parametrize("band", [3, 15, 33])
def test_a_tone_lights_its_band_and_silence_is_trimmed(band: int) -> None:
    picture = ravdess.log_mel((burst(bin_of(band), 1.0, 1.0) * 32767).astype(np.int16))
    assert picture.shape == (40, 100) and picture.dtype == np.uint8
    loud = picture[:, 8:30]
    assert (loud.argmax(0) == band).all()
    assert (loud[band] == 255).all()  # -6 dB lies above the scale's end
    assert not picture[:, :3].any()  # the margin, and no more, is before the tone
    first = int((picture[band] > 150).argmax())
    assert first in (3, 4)
    last = int(np.nonzero(picture[band] > 150)[0].max())
    assert last - first == pytest.approx(1.0 / 0.032, abs=2)
    assert not picture[:, last + 3 :].any()


def bin_of(band: int) -> float:
    """Frequency of the highest filter value of a band, in Hz."""
    return float(ravdess._filters()[band].argmax()) * ravdess.RATE / ravdess.WINDOW


@pytest.mark.usefixtures("librosa")
def test_the_scale_is_decibels_re_full_scale() -> None:
    """A tone 40 dB below full scale, in the middle of a band of several bins."""
    tone = (burst(bin_of(30), 0.2, 0.5, size=0.01) * 32767).astype(np.int16)
    energy = 10 ** ((ravdess.log_mel(tone)[:, 6:15].astype(float) * 90 / 255 - 100) / 10)
    assert 10 * np.log10(energy.sum(0)) == pytest.approx(-40, abs=1.0)


@pytest.mark.usefixtures("librosa")
def test_short_and_silent_recordings() -> None:
    assert not ravdess.log_mel(np.zeros(10, np.int16)).any()
    assert ravdess.log_mel((burst(1000, 0, 0.01) * 32767).astype(np.int16))[:, 0].any()


@pytest.mark.usefixtures("librosa")
def test_a_folder_of_recordings_is_read_in_the_packs_order(tmp_path: Path) -> None:
    content = {
        "Actor_02/03-01-01-01-01-01-02.wav": wav(burst(300, 0.3, 0.6)),
        "Actor_01/03-01-02-01-01-01-01.wav": wav(np.repeat(burst(3000, 0.9, 0.6), 2), channels=2),
        "Actor_01/03-01-01-01-01-01-01.wav": wav(burst(3000, 0.9, 0.6)),
        "Actor_01/03-02-02-01-01-01-01.wav": b"a song",
        "Actor_01/01-01-02-01-01-01-01.mp4": b"a film",
    }
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    clips = ravdess.speech_clips(tmp_path)
    assert [(clip.emotion, clip.actor) for clip in clips] == [(1, 1), (1, 2), (2, 1)]
    pictures = ravdess.read_speech(clips)
    assert np.array_equal(pictures[0], pictures[2])  # two equal channels are as one
    low, high = pictures[1][:, 10].argmax(), pictures[0][:, 10].argmax()
    assert low < 10 < high

    bad = tmp_path / "Actor_01" / "03-01-02-01-01-02-01.wav"
    for data, word in [
        (wav(burst(300, 0, 0.1), rate=16_000), "16000 Hz"),
        (b"RIFF", "no wav"),
        (wav(burst(300, 0, 0.1))[:-2], "samples"),
    ]:
        bad.write_bytes(data)
        with pytest.raises(LabkitError, match=f"{bad.name} is damaged.*{word}"):
            ravdess.read_speech(ravdess.speech_clips(tmp_path))
    bad.rename(bad.with_name("03-01-02-01-01-02-99.wav"))
    with pytest.raises(LabkitError, match="actor must be 1 to 24, got 99"):
        ravdess.speech_clips(tmp_path)


def test_without_librosa_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    ravdess._filters.cache_clear()
    with pytest.raises(LabkitError, match=r"librosa.*pip install labkit\[data\]"):
        ravdess.log_mel(np.zeros(9, np.int16))


# Action units --------------------------------------------------------------------------------------


def table(clips: list[Clip], value: float = 0.25) -> str:
    """A table of the published layout in which unit j of clip i is value x (i + j)."""
    lines = [";".join([*ravdess.AUS, "speech", "name", "path", "index"])]
    for i, clip in enumerate(clips):
        name = Clip(1, *clip.take).name.removesuffix(".mp4")
        units = [str(value * (i + j)) for j in range(len(ravdess.AUS))]
        lines.append(";".join([*units, "0.5", name, name, "0"]))
    return "\n".join(lines) + "\n"


def test_action_units_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "df_average_AUs_total.csv"
    path.write_text(table(EVERYONE[:3][::-1]))
    faces = ravdess.read_action_units(path)
    assert list(faces) == [clip.take for clip in EVERYONE[:3][::-1]]
    assert faces[EVERYONE[1].take].tolist() == [0.25 * (1 + j) for j in range(35)]
    assert faces[EVERYONE[1].take].dtype == np.float32

    text = table(EVERYONE[:3])
    for damage, word in [
        (text.replace("AU28_c", "AU27_c"), r"no columns \['AU28_c'\]"),
        (text.replace("-24;", "-42;").replace("-03;", "-33;"), "actor must be 1 to 24"),
        (text.replace(";0.5;", ";0.5;x"), "line 2: name must be seven numbers"),
        (text.replace("\n0.25;", "\nlow;"), "line 3: could not convert"),
        (text.replace("\n0.25;", "\nnan;"), "line 3: .*not finite"),
        (text.replace("-02;", "-01;"), "line 3: 01-01-01-01-01-01-01 again"),
        (text[: text.rindex(";0.5")], "line 4: "),
        ("", "no columns"),
    ]:
        path.write_text(damage)
        with pytest.raises(LabkitError, match=f"{path.name} is damaged.*{word}"):
            ravdess.read_action_units(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(LabkitError, match="no text"):
        ravdess.read_action_units(path)


# From files to a batch -----------------------------------------------------------------------------


@pytest.fixture
def originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder without the pack: 120 recordings, empty ones, and the table of faces."""
    folder = tmp_path / files.RAVDESS_FOLDER
    for actor in range(1, 25):
        (folder / f"Actor_{actor:02}").mkdir(parents=True)
    for clip in SOME:
        (folder / f"Actor_{clip.actor:02}" / clip.name).touch()
    (folder / "df_average_AUs_total.csv").write_text(table(SOME))
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "CLIPS", len(SOME))
    monkeypatch.setattr(files, "verified", lambda wanted, path: path)  # it is not the published one
    return folder


def test_originals_make_the_packs_batch_without_teachers(
    originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picture(clips: dict[Clip, Path]) -> np.ndarray:
        numbers = np.arange(len(clips)) % 256
        return np.broadcast_to(numbers[:, None, None], (len(clips), 40, 100)).astype(np.uint8)

    monkeypatch.setattr(ravdess, "read_speech", picture)
    batches = {split: Faces("real", fold=3).load(split) for split in ("train", "val", "test")}
    monkeypatch.setattr(ravdess, "read_speech", None)  # kept: not made again
    assert torch.equal(Faces("real", fold=3).load("val").x["audio"], batches["val"].x["audio"])
    order = sorted(SOME, key=lambda clip: clip.take)
    for split, folds in {"test": (3,), "val": (4,), "train": (0, 1, 2)}.items():
        actors = {actor for fold in folds for actor in ravdess.FOLDS[fold]}
        rows = [i for i, clip in enumerate(order) if clip.actor in actors]
        batch = batches[split]
        assert batch.y is not None
        assert batch.y.tolist() == [order[i].emotion - 1 for i in rows]
        assert batch.factors["actor"].tolist() == [order[i].actor for i in rows]
        assert (batch.x["audio"][:, 0, 0] * 255).round().tolist() == [i % 256 for i in rows]
        assert "teacher_audio" not in batch.factors
    face = batches["train"].x["face"]
    torch.testing.assert_close(face.mean(0), torch.zeros(35), atol=1e-4, rtol=0)
    torch.testing.assert_close(face.std(0, correction=0), torch.ones(35), atol=1e-4, rtol=0)

    (originals / "df_average_AUs_total.csv").write_text(table(SOME[1:]))
    with pytest.raises(LabkitError, match="120 recordings, 1 of them without a face"):
        Faces("real").load("train")
    next(originals.rglob("03-01-03-*.wav")).unlink()
    with pytest.raises(LabkitError, match="are not in"):
        Faces("real").load("train")


def test_a_missing_release_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LabkitError) as caught:
        Faces("real").load("train")
    for words in ("ravdess (590.3 MB)", "https://zenodo.org/record/1188976", "208.5 MB",
                  str(tmp_path / "cache" / "data" / files.RAVDESS_FOLDER), "ravdess/ravdess.npz",
                  "LABKIT_DATA", "source='procedural'"):  # fmt: skip
        assert words in str(caught.value)
    (problem,) = files.check("ravdess")
    assert "labkit data get ravdess" in problem
    (tmp_path / "data" / "ravdess").mkdir(parents=True)
    (tmp_path / "data" / "ravdess" / "ravdess.npz").write_bytes(b"changed")
    with pytest.raises(LabkitError, match=r"ravdess\.npz is not .*expected 57ea908b"):
        Faces("real").load("train")


def test_the_command_line_knows_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    listed = CliRunner().invoke(main, ["data", "list"])
    rows = [line for line in listed.output.splitlines() if line.startswith("ravdess")]
    assert len(rows) == 3 and all("CC BY-NC-SA 4.0" in row and "not here" in row for row in rows)
    assert "4.6 MB" in rows[0] and "zenodo.org" in rows[1] and "MMEmotionRecognition" in rows[2]
    for command, words in (("get", "zenodo.org/record/1188976"), ("check", "nothing of ravdess")):
        result = CliRunner().invoke(main, ["data", command, "ravdess"])
        assert result.exit_code == 1 and words in result.output


@needs_data
@pytest.mark.parametrize("fold", range(5))
def test_no_actor_of_the_pack_is_in_two_splits(fold: int) -> None:
    batches = {split: Faces("real", fold=fold).load(split) for split in ("train", "val", "test")}
    actors = {split: set(batch.factors["actor"].tolist()) for split, batch in batches.items()}
    assert actors["test"] == set(ravdess.FOLDS[fold])
    assert actors["val"] == set(ravdess.FOLDS[(fold + 1) % 5])
    assert len(actors["train"]) == 24 - len(actors["val"]) - len(actors["test"])
    assert sum(map(len, actors.values())) == 24 and sum(map(len, batches.values())) == files.CLIPS
    for batch in batches.values():
        assert batch.x["audio"].shape[1:] == (40, 100) and batch.x["face"].shape[1:] == (35,)
        assert batch.x["audio"].min() >= 0 and batch.x["audio"].max() <= 1
        for name, least in (("teacher_audio", 0.75), ("teacher_face", 0.5)):
            assert (batch.factors[name].argmax(1) == batch.y).float().mean() > least
    face = batches["train"].x["face"]
    torch.testing.assert_close(face.mean(0), torch.zeros(35), atol=1e-4, rtol=0)


@needs_data
def test_the_pack_is_in_the_order_of_the_names() -> None:
    if files.pack("ravdess") is None:
        pytest.skip("no pack of RAVDESS in LABKIT_DATA")
    path = files.pack("ravdess")
    assert path is not None
    with np.load(path, allow_pickle=False) as pack:
        takes = [Clip.parse(f"01-{name}").take for name in pack["clip"]]
        assert takes == sorted(clip.take for clip in EVERYONE)
        assert tuple(pack["face_au_names"]) == ravdess.AUS
        assert tuple(pack["emotion_names"]) == ravdess.EMOTIONS
        assert [take[1] - 1 for take in takes] == pack["emotion"].tolist()
        fold_of = {actor: fold for fold, actors in enumerate(ravdess.FOLDS) for actor in actors}
        assert [fold_of[take[5]] for take in takes] == pack["fold"].tolist()
