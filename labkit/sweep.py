"""A grid of settings times seeds: on a tensor axis, in processes of this machine, or on a Dask cluster.

Finished points are kept in the store, by what was asked and the source code that answers it: a sweep that
was stopped, killed or cut off goes on where it was, and a larger grid computes only what is new.
"""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal

import joblib
import pandas as pd
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from labkit import LabkitError
from labkit.cluster import connected
from labkit.progress import progress_line
from labkit.store import answer, answered, once

Engine = Literal["batched", "local", "dask"]
Point = dict[str, Any]
TRIES = 3  # of a point whose worker died


def sweep(
    fn: Callable[..., Any],
    grid: Mapping[str, Sequence[Any]],
    seeds: Sequence[int] = (0,),
    engine: Engine = "local",
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    resources: Mapping[str, float] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compute fn at every point of a grid for every seed, and keep what is finished.

    Args:
        fn: A function at the top level of a module or notebook. ``local`` and ``dask`` call
            fn(seed=..., **point) for each, which returns a dict of numbers, strings, True or False.
            ``batched`` calls fn(points=[...], seeds=[...]) once, which stacks them as it likes and returns
            one such dict for each point and seed, in the order of `itertools.product(points, seeds)`.
        grid: Name of an argument -> its values.
        seeds: Seeds.
        engine: See fn; ``local``: processes of this machine; ``dask``: a cluster.
        scheduler: Address of a Dask scheduler; None = this machine's cores.
        workers: Processes of the local engine; None = one a core.
        resources: What a point needs of its Dask worker, such as {"GPU": 1}.
        progress: Show a progress line.

    Returns:
        A row a point and seed, in the order of the grid: its settings, ``seed``, and what fn returned.

    Raises:
        ValueError: on an empty grid axis, equal values or seeds, an unknown engine, or a name used twice.
        LabkitError: if points failed (the others are kept; the message names the first), or the cluster
            cannot be had.
        KeyboardInterrupt: if it is stopped; what is finished is kept, and the next call goes on from there.
    """
    if engine not in ("batched", "local", "dask"):
        raise ValueError(f"engine must be batched, local or dask, got {engine!r}")
    for name, values in {**grid, "seed": seeds}.items():
        if not len(values):
            raise ValueError(f"{name} has no values")
        if any(a == b for a, b in itertools.combinations(values, 2)):
            raise ValueError(f"{name} has a value twice: {list(values)}")
    if "seed" in grid:
        raise ValueError("grid must not have an axis 'seed': give seeds instead")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    asked = [{**point, "seed": seed} for point, seed in itertools.product(points, seeds)]
    if engine == "batched":
        found = once(fn, points=points, seeds=list(seeds))
        if len(found) != len(asked):
            raise LabkitError(
                f"{fn.__qualname__} gave {len(found)} results for {len(asked)} points"
            )
    else:
        _compute(fn, asked, engine, scheduler, workers, resources, progress)
        found = [once(fn, **each) for each in asked]
    for result in found:
        if not isinstance(result, dict) or set(result) & set(asked[0]):
            raise LabkitError(
                f"{fn.__qualname__} must return a dict with other names than {', '.join(asked[0])}; "
                f"got {result}"
            )
    return pd.DataFrame([{**each, **result} for each, result in zip(asked, found, strict=True)])


def _compute(
    fn: Callable[..., Any],
    asked: Sequence[Point],
    engine: Engine,
    scheduler: str | None,
    workers: int | None,
    resources: Mapping[str, float] | None,
    progress: bool,
) -> None:
    """Compute what is not kept yet, and keep each result as it comes."""
    new = [each for each in asked if not answered(fn, **each)]
    if not new:
        return
    failed: list[tuple[Point, str]] = []
    run = (
        _on_dask(fn, new, scheduler, resources) if engine == "dask"
        else _local(fn, new, min(workers or os.cpu_count() or 1, len(new)))
    )  # fmt: skip
    with closing(run), progress_line(
        fn.__qualname__, len(asked), done=len(asked) - len(new), unit="point", wanted=progress
    ) as bar:  # fmt: skip
        try:
            for index, result, error in run:
                if error is None:
                    answer(fn, result, **new[index])
                else:
                    failed.append((new[index], error))
                bar.update()
        except KeyboardInterrupt:
            kept = sum(answered(fn, **each) for each in asked)  # perhaps one more than we saw
            print(f"Stopped: {kept} of {len(asked)} points are kept.", file=sys.stderr)
            raise
    if failed:
        point, error = failed[0]
        raise LabkitError(
            f"{len(failed)} of {len(asked)} points failed, first {point}: {error}. "
            f"The others are kept: the next call computes only what is missing."
        )


Outcome = tuple[int, Any, str | None]  # index of the point, result, what went wrong


def _called(fn: Callable[..., Any], point: Point, index: int, threads: int) -> Outcome:
    """One point in a worker; an error is a result, too: it must not stop the others."""
    torch.set_num_threads(threads)
    try:
        return index, fn(**point), None
    except Exception as error:
        return index, None, f"{type(error).__name__}: {error}"


def _local(
    fn: Callable[..., Any], new: Sequence[Point], workers: int
) -> Generator[Outcome, None, None]:
    """In processes, which share the cores; points whose process died run again.

    A single worker is this process, and keeps its threads: small networks are several times as slow with two.
    """
    share = (os.cpu_count() or 1) // workers
    threads = torch.get_num_threads() if workers == 1 else max(1, share)
    left = dict(enumerate(new))
    # A process that has grown is replaced between two points: nothing is lost, and nobody has to act.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
    for _ in range(TRIES):
        parallel = joblib.Parallel(workers, return_as="generator_unordered")
        tasks = [joblib.delayed(_called)(fn, point, i, threads) for i, point in left.items()]
        outcomes = parallel(tasks)
        try:
            for outcome in outcomes:
                left.pop(outcome[0])
                yield outcome
        except TerminatedWorkerError:
            continue
        finally:
            with warnings.catch_warnings():  # an interrupt is no news to who made it
                warnings.simplefilter("ignore")
                outcomes.close()
        return
    for index in left:
        yield index, None, f"its process died {TRIES} times (out of memory?)"


def _on_dask(
    fn: Callable[..., Any],
    new: Sequence[Point],
    scheduler: str | None,
    resources: Mapping[str, float] | None,
) -> Generator[Outcome, None, None]:
    """On a cluster, which runs the points of a dead worker on another."""
    from distributed import as_completed

    with connected(scheduler, len(new), resources) as client:
        futures = {
            client.submit(_called, fn, point, i, 1, pure=False, resources=resources): i
            for i, point in enumerate(new)
        }
        try:
            for future in as_completed(futures):
                error = future.exception()
                outcome = (
                    future.result() if error is None
                    else (futures[future], None, f"{type(error).__name__}: {error}")  # lost
                )  # fmt: skip
                future.release()  # first: what is kept must not run again if its worker dies now
                yield outcome
        finally:
            client.cancel(list(futures))
