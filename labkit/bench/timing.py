"""Timing two ways to one result in turn, and the machine they ran on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def compare(ways: dict[str, Callable[[], Any]], rounds: int, warmup: int = 2) -> dict[str, Any]:
    """Time several ways alternately: CPU time of each (median, quartiles) and ratios to the last one.

    CPU time of this process, not the clock: what else the machine does counts less.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warmup + rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn >= warmup:
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = medians[list(ways)[-1]]
    return {
        "rounds": rounds,
        "median_ms": {name: round(1e3 * value, 3) for name, value in medians.items()},
        "quartiles_ms": {
            name: [round(1e3 * q, 3) for q in statistics.quantiles(values, n=4)[::2]]
            for name, values in seconds.items()
        },
        "ratio": {name: round(value / ours, 3) for name, value in medians.items() if value != ours},
    }


def machine() -> dict[str, Any]:
    """What a ratio was measured on, the load beside it included."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
