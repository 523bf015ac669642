"""Atomic writes, hashes and the cache folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs
import pytest

from labkit import files


def test_cache_dir_is_the_variable_or_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "here"))
    assert files.cache_dir() == tmp_path / "here"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("LABKIT_CACHE")
        else:
            monkeypatch.setenv("LABKIT_CACHE", unset)
        assert files.cache_dir() == platformdirs.user_cache_path("labkit")


def test_write_atomic_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "result.json"
    files.write_atomic(path, "élan\n")
    assert path.read_bytes() == "élan\n".encode()
    files.write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["result.json"]


def test_write_atomic_honours_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.write_atomic(tmp_path / "shared.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "shared.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException
) -> None:
    path = tmp_path / "kept.txt"
    files.write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(type(error)):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_the_data_is_on_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        os, "replace", lambda a, b: (order.append("replace"), real_replace(a, b))[1]
    )
    files.write_atomic(tmp_path / "x", "y")
    assert order == ["fsync", "replace", "fsync"]  # content, name, then the folder's list


def test_sha256_of(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    (tmp_path / "blob").write_bytes(content)
    assert files.sha256_of(tmp_path / "blob") == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        files.sha256_of(tmp_path / "none")
