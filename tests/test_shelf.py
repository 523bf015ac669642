"""Folders of the store: whole or damaged, listed, cleaned, never pulled from under a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from labkit import shelf
from labkit.shelf import DamagedError, clean, list_runs, locked, seal, store_root, verified

A, B, C, D = (letter * 32 for letter in "abcd")


def make(root: Path, key: str, created: str = "2020-01-02T03:04:05+00:00") -> Path:
    folder = root / key
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(100)))
    config = {"class": "tests.Config", "width": 3}
    record = {
        "key": key,
        "kind": "fit",
        "config": config,
        "seed": 4,
        "result": [1e-3, float("nan")],
    }
    seal(folder, {**record, "created": created, "seconds": 1.5})
    return folder


def test_store_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABKIT_STORE", str(tmp_path / "s"))
    assert store_root() == tmp_path / "s"
    assert store_root(tmp_path) == tmp_path
    monkeypatch.delenv("LABKIT_STORE")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "c"))
    assert store_root() == tmp_path / "c" / "runs"


def test_no_torch_is_needed_to_look_after_the_store() -> None:
    code = "import sys, labkit.shelf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_byte_is_vouched_for(tmp_path: Path) -> None:
    folder = make(tmp_path, A)
    assert verified(folder)["seed"] == 4
    for file in folder.iterdir():
        whole = file.read_bytes()
        bits = [1, 32]  # 32 turns a small letter into a capital, and a blank into nothing
        spoiled = [
            whole[:i] + bytes([whole[i] ^ bits[i % 2]]) + whole[i + 1 :] for i in range(len(whole))
        ]
        for content in (*spoiled, b"", whole[:-1], whole + b"\n", whole[: len(whole) // 2]):
            file.write_bytes(content)
            with pytest.raises(DamagedError):
                verified(folder)
        file.unlink()
        with pytest.raises(DamagedError, match="cannot be read"):
            verified(folder)
        file.write_bytes(whole)
    assert verified(folder)["seed"] == 4


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "7", '"x"', "[" * 100_000, "\xff"])
def test_json_of_another_kind_is_damage(tmp_path: Path, text: str) -> None:
    (make(tmp_path, A) / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedError):
        verified(tmp_path / A)


def test_a_run_under_a_wrong_name_is_damage(tmp_path: Path) -> None:
    make(tmp_path, A).rename(tmp_path / B)
    with pytest.raises(DamagedError, match=f"run {A} under a wrong name"):
        verified(tmp_path / B)


def test_set_aside_counts_up(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = make(tmp_path, A)
        with pytest.warns(
            UserWarning, match=rf"is damaged \(why\).*{A}-{number} and is made again"
        ):
            shelf.set_aside(folder, DamagedError("why"))
    assert sorted(os.listdir(tmp_path / "damaged")) == [f"{A}-1", f"{A}-2"]


def populate(root: Path) -> None:
    """Two runs, a damaged one, one set aside, a stopped training, and what is not ours."""
    make(root, A, created="2020-01-02T03:04:05+00:00")
    make(root, B, created="2999-01-01T00:00:00+00:00")
    (make(root, C) / "model.safetensors").unlink()
    make(root, D).rename(root / "aside")
    (root / "damaged").mkdir()
    (root / "aside").rename(root / "damaged" / f"{D}-1")
    (root / f"{D}.partial").mkdir()
    (root / f"{D}.partial" / "checkpoint.safetensors").write_bytes(b"12345")
    for stranger in (".ipynb_checkpoints", "my notes", "a" * 31):
        (root / stranger).mkdir()
    (root / f"{A}.lock").touch()


def test_list_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nothing") == []
    populate(tmp_path)
    runs = {run["key"]: run for run in list_runs(tmp_path)}
    assert set(runs) == {A, B, C, D, f"{D}-1"}
    size = sum(file.stat().st_size for file in (tmp_path / A).iterdir())
    assert runs[A] == {
        "key": A, "kind": "fit", "config": "tests.Config", "seed": 4, "bytes": size,
        "created": "2020-01-02T03:04:05+00:00", "seconds": 1.5, "damaged": False,
        "path": str(tmp_path / A),
    }  # fmt: skip
    assert {key for key, run in runs.items() if run["damaged"]} == {C, f"{D}-1"}
    assert (runs[D]["kind"], runs[D]["bytes"], runs[D]["damaged"]) == ("partial", 5, False)
    assert next(iter(runs)) == A  # oldest first
    assert list(runs)[-1] == B


@pytest.mark.parametrize(
    ("options", "removed"),
    [
        ({}, {A, B, C, D, f"{D}-1"}),
        ({"keys": [A]}, {A}),
        ({"keys": [D]}, {D}),
        ({"keys": []}, set()),
        ({"damaged_only": True}, {C, f"{D}-1"}),
        ({"damaged_only": True, "keys": [A, C]}, {C}),
        ({"older_than_days": 365}, {A}),
        ({"older_than_days": 365, "keys": [B]}, set()),
    ],
)
def test_clean(tmp_path: Path, options: dict, removed: set[str]) -> None:
    populate(tmp_path)
    before = {run["key"] for run in list_runs(tmp_path)}
    assert set(clean(tmp_path, **options)) == removed
    assert {run["key"] for run in list_runs(tmp_path)} == before - removed
    assert {".ipynb_checkpoints", "my notes", "a" * 31} <= set(os.listdir(tmp_path))


def test_clean_refuses_nonsense(tmp_path: Path) -> None:
    populate(tmp_path)
    with pytest.raises(ValueError, match=f"keys names what is not in .*: {'e' * 32}$"):
        clean(tmp_path, keys=[A, "e" * 32])
    with pytest.raises(ValueError, match="older_than_days must be 0 or more, got -1"):
        clean(tmp_path, older_than_days=-1)
    assert len(list_runs(tmp_path)) == 5


def test_clean_never_touches_a_locked_run(tmp_path: Path) -> None:
    populate(tmp_path)
    (tmp_path / f"{A}.saving").mkdir()
    (tmp_path / f"{B}.saving").mkdir()
    (tmp_path / f"{B}.removing").mkdir()
    with locked(tmp_path, A), locked(tmp_path, D):
        assert set(clean(tmp_path)) == {B, C}
    left = {name for name in os.listdir(tmp_path) if name[:32] in (A, B, C, D)}
    locks = {f"{key}.lock" for key in (A, B, C, D)}
    assert left == {A, f"{A}.saving", f"{D}.partial"} | locks  # what dead processes left is gone
    assert set(clean(tmp_path)) == {A, D, f"{D}-1"}


def test_locked_tells_once_and_gives_up_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path, A) as held:
        assert held
        with locked(tmp_path, A, wait=False) as second:
            assert not second
        assert capsys.readouterr().err == ""

        def acquire(self: filelock.FileLock, **options: object) -> None:
            if options.get("blocking") is False:
                raise filelock.Timeout("held")

        monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
        with locked(tmp_path, A):
            message = capsys.readouterr().err
    assert message == f"labkit: another process is making run {A}; waiting for it\n"
