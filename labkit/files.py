"""Files that are either whole or absent: atomic writes, hashes and the place of labkit's cache.

A laboratory is interrupted all the time: a kernel is restarted, a laptop runs out of battery, two
notebooks save at once. Every file that labkit will read again is therefore written beside its
place, flushed to the disk and renamed over it, so that a reader sees the old file or the new one
and never a half of either.
"""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Return the folder for everything labkit can make again: runs, downloads, figures.

    Returns:
        ``$LABKIT_CACHE`` if it is set and not empty, else this user's cache folder. The folder is
        not created here.
    """
    chosen = os.environ.get("LABKIT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return platformdirs.user_cache_path("labkit")


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, so that a rename in it survives a power cut."""
    if os.name == "nt":  # Windows cannot open a folder; NTFS journals the rename by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a whole file or nothing: a kill at any moment leaves the old content or the new.

    Missing parent folders are made. The data goes to a temporary file in the same folder (a rename
    is atomic only inside one file system), is flushed to the disk and renamed over `path`.

    Args:
        path: Where the file belongs.
        data: Its content; text is written as UTF-8 with ``\\n`` line ends.

    Raises:
        OSError: if the folder cannot be written; `path` is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too: no litter beside the user's files
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_with_leftovers(path: str | os.PathLike[str]) -> None:
    """Delete a file, if it exists, and the temporary files of killed `write_atomic` calls for it.

    For files that one process at a time writes: another's writing would be pulled from under it.
    """
    path = Path(path)
    path.unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
