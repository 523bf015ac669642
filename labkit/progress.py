"""A progress line of plain text, as good in a terminal as in a notebook.

The widgets of `tqdm.notebook` hang papermill, so this is `tqdm.std` on stderr everywhere.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from tqdm.std import tqdm


class Line(tqdm):
    """A progress line that forked workers share nothing of.

    It has no watching thread, and a lock of this process alone: tqdm's is a semaphore among forks, and
    a worker that is killed while it holds it stops all.
    """

    monitor_interval = 0
    _lock = threading.RLock()


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
