"""Sweeps on engines of processes, against ideal workers."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pandas as pd
import torch
from joblib.externals.loky import get_reusable_executor

from labkit.bench.mfh import distil_loop
from labkit.data.gaussians import Gaussians, increase_gamma
from labkit.sweep import Engine, sweep


def waits(seconds: float, seed: int) -> dict[str, float]:
    """A point that needs no core: what is lost beside it is the engine's alone."""
    start = time.perf_counter()
    time.sleep(seconds)
    return {"took_s": time.perf_counter() - start}


def trains(steps: int, seed: int) -> dict[str, float]:
    """A point that needs a core: teacher, student and student alone of one seed, by `distil_loop`."""
    start = time.perf_counter()
    models = distil_loop(Gaussians(increase_gamma(4), seed=seed), steps)
    size = sum(float(model.weight.detach().abs().sum()) for model in models.values())
    return {"took_s": time.perf_counter() - start, "size": size}


def efficiency(took_s: Sequence[float], workers: int, wall_s: float) -> dict[str, Any]:
    """A sweep against ideal workers, which are there at once and lose nothing between two points.

    Args:
        took_s: Each point's own seconds, as its worker's clock saw them.
        workers: How many there were.
        wall_s: Seconds of the whole sweep.
    """
    ideal_s = sum(took_s) / workers
    return {
        "points": len(took_s),
        "point_s": round(statistics.median(took_s), 3),
        "workers": workers,
        "ideal_s": round(ideal_s, 2),
        "wall_s": round(wall_s, 2),
        "efficiency": round(ideal_s / wall_s, 3),
    }


def timed_sweep(
    fn: Callable[..., Any], setting: dict[str, Any], points: int, engine: Engine, workers: int,
    scheduler: str | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:  # fmt: skip
    """One sweep over seeds as a user calls it, with a store of its own, so that all is computed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"LABKIT_STORE": folder}),
    ):
        start = time.perf_counter()
        frame = sweep(
            fn, {name: [value] for name, value in setting.items()}, range(points), engine,
            scheduler=scheduler, workers=workers, progress=False,
        )  # fmt: skip
        wall_s = time.perf_counter() - start
    return efficiency(frame["took_s"].tolist(), workers, wall_s), frame


def sweep_engines(rounds: int) -> dict[str, Any]:
    """Sweeps on the engines of processes, against ideal workers; once each, whatever `rounds` says.

    ``starts``: the call starts its processes (and, with Dask, ends them), as `sweep` does by itself:
    start-up inside. ``there``: they are there and have imported what they need, as on a cluster that
    somebody runs: start-up outside. The plain loop is a fair measure on a quiet machine only: beside other
    work, one process and two get different shares of the cores.
    """
    from distributed import LocalCluster

    cores, half = os.cpu_count() or 1, 12
    result: dict[str, Any] = {
        "what": "efficiency = sum of the points' own seconds / workers / seconds of the sweep, by the clock; "
        "starts: the call starts its workers, there: they run already; of points that train also against a "
        "plain loop over them in one process, divided by the workers",
        "load_before": round(os.getloadavg()[0], 2),
    }
    kinds: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "waiting": (waits, {"seconds": 1.0}),
        "training": (trains, {"steps": 2400}),
    }
    for kind, (fn, setting) in kinds.items():
        rows: dict[str, Any] = {}
        frames: dict[str, pd.DataFrame] = {}
        trains(10, 0)  # torch's first optimizer takes a second to load

        def plain(seeds: range, fn: Any = fn, setting: Any = setting) -> list[dict[str, float]]:
            return [fn(**setting, seed=seed) for seed in seeds]

        alone = plain(range(half)) if kind == "training" else []
        name = "dask, starts"
        rows[name], frames[name] = timed_sweep(fn, setting, half * cores, "dask", cores)
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
            where = cluster.scheduler_address
            timed_sweep(waits, {"seconds": 0.5}, 4, "dask", 2, where)
            timed_sweep(trains, {"steps": 10}, 4, "dask", 2, where)
            name = "dask, there"
            rows[name], frames[name] = timed_sweep(fn, setting, 2 * half, "dask", 2, where)
        get_reusable_executor().shutdown(wait=True)
        for name in ("local, starts", "local, there"):
            rows[name], frames[name] = timed_sweep(fn, setting, 2 * half, "local", 2)
        if kind == "waiting":  # as many as the promise of a killed worker is about
            name = "dask, starts, 100 points a worker"
            rows[name], _ = timed_sweep(fn, setting, 100 * cores, "dask", cores)
        else:
            alone += plain(range(half, 2 * half))
            point_s = statistics.fmean(point["took_s"] for point in alone)
            rows["plain loop"] = {"points": len(alone), "point_s": round(point_s, 3)}
            wanted = pd.Series([point["size"] for point in alone])
            for name, frame in frames.items():
                row, both = rows[name], min(len(frame), len(alone))
                torch.testing.assert_close(
                    torch.tensor(frame["size"][:both]), torch.tensor(wanted[:both])
                )
                ideal_s = point_s * row["points"] / row["workers"]
                row["against_plain_loop"] = round(ideal_s / row["wall_s"], 3)
        result[kind] = rows
    return result
