"""The folders of the store: where they are, whether they are whole, listing and cleaning them.

A kept result is a folder named after its content key. Its `run.json` holds the SHA-256 of every
other file and of itself, so that no byte can differ unseen. Beside it may lie `<key>.lock` (held by
the process that makes it), `<key>.partial` (what a stopped training goes on from), and `<key>.saving`
or `<key>.removing` (left by a process that died in the middle). No torch is needed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock

from labkit import LabkitError
from labkit.files import cache_dir, sha256_of, write_atomic

RECORD = "run.json"
_TEMPORARY = (".saving", ".removing")
_OURS = re.compile(r"[0-9a-f]{32}(-[0-9]+|\.partial|\.saving|\.removing)?")


def store_root(root: Path | None = None) -> Path:
    """Folder of the runs: `root`, or $LABKIT_STORE, or `runs` in labkit's cache."""
    chosen = root or os.environ.get("LABKIT_STORE")
    return Path(chosen).expanduser() if chosen else cache_dir() / "runs"


# Whole or damaged -------------------------------------------------------------------------------


class DamagedError(LabkitError):
    """A kept result is not what was written."""


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Write `run.json`: the record, the hash of every other file, and of itself."""
    files = {p.name: sha256_of(p) for p in sorted(folder.iterdir()) if p.is_file()}
    write_atomic(folder / RECORD, _sealed({**record, "files": files}))


def _sealed(record: dict[str, Any]) -> str:
    check = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return json.dumps({**record, "check": check}, indent=1) + "\n"


def verified(folder: Path) -> dict[str, Any]:
    """Read `run.json` of a run after checking every byte of its files.

    Raises:
        DamagedError: if a file is missing or differs from what was written.
    """
    try:
        text = (folder / RECORD).read_bytes().decode()
        record = json.loads(text)
        sealed = {key: value for key, value in record.items() if key != "check"}
        if _sealed(sealed) != text:  # so that not even a blank may differ
            raise DamagedError(f"{RECORD} does not match its own hash")
        if record["key"] != folder.name:
            raise DamagedError(f"it is run {record['key']} under a wrong name")
        for name, expected in record["files"].items():
            if sha256_of(folder / name) != expected:
                raise DamagedError(f"{name} does not match its hash")
    except OSError as error:
        raise DamagedError(f"a file cannot be read: {error}") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedError(f"{RECORD} cannot be read: {error}") from error
    return record


def set_aside(folder: Path, damage: DamagedError) -> None:
    """Move a damaged run out of the way, keeping it for whoever wants to know why."""
    aside = folder.parent / "damaged"
    aside.mkdir(exist_ok=True)
    number = 1
    while (aside / f"{folder.name}-{number}").exists():
        number += 1
    target = aside / f"{folder.name}-{number}"
    os.rename(folder, target)
    warnings.warn(
        f"a stored run is damaged ({damage}): it was moved to {target} and is made again",
        stacklevel=4,
    )


# Locks ------------------------------------------------------------------------------------------


@contextmanager
def locked(root: Path, key: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a run; gives whether it is held.

    Args:
        root: Folder of the runs.
        key: Key of the run.
        wait: If another process holds the lock, say so once and wait; False gives up at once.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(root / f"{key}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        if wait:
            print(f"labkit: another process is making run {key}; waiting for it", file=sys.stderr)
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()


# Listing and cleaning ---------------------------------------------------------------------------


def list_runs(root: Path | None = None) -> list[dict[str, Any]]:
    """What lies in the store, oldest first; every byte is checked.

    Returns:
        A dict each, with `key` (a damaged run that was set aside: key and number), `kind` (fit,
        once, partial: a training that was stopped), `config` (class or function), `seed`, `bytes`,
        `created` (ISO 8601, UTC), `seconds`, `damaged`, `path`. What cannot be known is None.
    """
    entries = [_entry(folder) for folder in _folders(store_root(root))]
    return sorted(entries, key=lambda entry: (entry["created"], entry["key"]))


def clean(
    root: Path | None = None,
    *,
    keys: Collection[str] | None = None,
    older_than_days: float | None = None,
    damaged_only: bool = False,
) -> list[str]:
    """Remove what every given condition holds for; everything if none is given.

    A run that a process is making, and so holds the lock of, is never touched.

    Args:
        root: Folder of the runs (see `store_root`).
        keys: Keys as `list_runs` shows them.
        older_than_days: Only what was made longer ago.
        damaged_only: Only what is damaged.

    Returns:
        The keys removed.

    Raises:
        ValueError: if `keys` names a run that does not exist, or the age is negative.
    """
    root = store_root(root)
    if older_than_days is not None and older_than_days < 0:
        raise ValueError(f"older_than_days must be 0 or more, got {older_than_days}")
    unknown = set(keys or ()) - {_shown_key(folder) for folder in _folders(root)}
    if unknown:
        raise ValueError(f"keys names what is not in {root}: {', '.join(sorted(unknown))}")
    before = None
    if older_than_days is not None:
        before = _iso(datetime.now(UTC) - timedelta(days=older_than_days))

    def chosen(folder: Path) -> bool:
        if not folder.exists() or (keys is not None and _shown_key(folder) not in keys):
            return False
        entry = _entry(folder)
        old_enough = before is None or entry["created"] <= before
        return old_enough and (entry["damaged"] or not damaged_only)

    removed = []
    for folder in _folders(root, _TEMPORARY):
        with locked(root, folder.name[:32], wait=False) as free:
            if free and (keys is None or folder.name[:32] in keys):
                shutil.rmtree(folder)  # its process is dead, or it would hold the lock
    for folder in _folders(root):
        with locked(root, folder.name[:32], wait=False) as free:
            if free and chosen(folder):
                gone = folder.rename(root / f"{folder.name[:32]}.removing")  # at once for a reader
                shutil.rmtree(gone)
                removed.append(_shown_key(folder))
    return list(dict.fromkeys(removed))


def _folders(root: Path, suffixes: Collection[str] = ("", ".partial")) -> list[Path]:
    """Folders of finished, damaged and stopped runs, or of other kinds; what is not ours is not."""
    inside = [*root.glob("*"), *root.glob("damaged/*")] if root.exists() else []
    ours = [folder for folder in inside if _OURS.fullmatch(folder.name) and folder.is_dir()]
    return sorted(folder for folder in ours if folder.suffix in suffixes)


def _shown_key(folder: Path) -> str:
    return folder.name.removesuffix(".partial")


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _entry(folder: Path) -> dict[str, Any]:
    partial = folder.suffix == ".partial"
    try:
        meta = verified(folder)
        damaged = False
    except DamagedError:  # those set aside have a number in their name, and so another key
        meta, damaged = {}, not partial
    config = meta.get("config")
    files = [file.stat() for file in folder.rglob("*") if file.is_file()]
    changed = max(stat.st_mtime for stat in [folder.stat(), *files])
    return {
        "key": _shown_key(folder),
        "kind": "partial" if partial else meta.get("kind"),
        "config": config.get("class") if isinstance(config, dict) else config,
        "seed": meta.get("seed"),
        "bytes": sum(stat.st_size for stat in files),
        "created": meta.get("created") or _iso(datetime.fromtimestamp(changed, UTC)),
        "seconds": meta.get("seconds"),
        "damaged": damaged,
        "path": str(folder),
    }
