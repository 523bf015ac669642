"""A progress line of plain text, as good in a terminal as in a notebook.

The widgets of `tqdm.notebook` hang papermill, so this is `tqdm.std` on stderr everywhere.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm.std import tqdm


class Line(tqdm):
    """A progress line without tqdm's watching thread, which a forked worker would inherit."""

    monitor_interval = 0


def progress_line(task: str, total: int, *, done: int = 0, unit: str, wanted: bool = True) -> Any:
    """Open a progress line; use it as a context manager and call `update()` on it.

    Args:
        task: What is being done, in a word or two.
        total: Units of work in all.
        done: Units that were done before (the speed shown does not count them).
        unit: Name of a unit.
        wanted: False shows nothing; so does $LABKIT_PROGRESS = 0.
    """
    hidden = not wanted or os.environ.get("LABKIT_PROGRESS") == "0"
    return Line(
        desc=task,
        total=total,
        initial=done,
        unit=unit,
        file=sys.stderr,
        mininterval=0.5,  # papermill keeps every update in the notebook: two a second are enough
        disable=hidden,
    )
