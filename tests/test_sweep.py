"""Sweeps: every point once, whatever dies; stopped sweeps go on; clear errors."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from joblib.externals.loky import get_reusable_executor

from labkit import LabkitError
from labkit.store import answered
from labkit.sweep import sweep

POINTS = """\
import os, signal, time
from contextlib import closing, suppress
from pathlib import Path

LOG = Path(os.environ["SWEEP_LOG"])


def note(*words):
    with LOG.open("a") as log:
        log.write(" ".join(map(str, (os.getpid(), *words))) + "\\n")


def square(x, seed, slow=0.0):
    note(x, seed)
    time.sleep(slow)
    return {"y": x * x + seed, "name": f"point {x}"}


def all_at_once(points, seeds):
    note("batch", len(points), len(seeds))
    return [{"y": p["x"] * 10 + s} for p in points for s in seeds]


def fragile(x, seed):
    note(x, seed)
    if x == 3 and not Path(str(LOG) + ".mended").exists():
        raise RuntimeError("three is broken")
    return {"y": x}


def deadly(x, seed):
    note(x, seed)
    flag = Path(str(LOG) + ".killed")
    if x == 2 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"y": x}


def clashing(x, seed):
    return {"x": 1}


def short(points, seeds):
    return [{"y": 1}]


HELD = []


def growing(x, seed):
    HELD.append(b"x" * 350_000_000)
    time.sleep(1.1)
    return {"y": x, "held": len(HELD)}


def threads(x, seed):
    import torch

    return {"y": torch.get_num_threads()}
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log.txt"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "log.txt"


@pytest.fixture
def points(log: Path) -> Iterator[ModuleType]:
    get_reusable_executor().shutdown(wait=True)  # processes of other tests know another folder
    name = f"points_{log.parent.name.replace('-', '_')}"
    (log.parent / f"{name}.py").write_text(POINTS)
    yield importlib.import_module(name)
    sys.modules.pop(name)
    get_reusable_executor().shutdown(wait=True)


def runs(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_rows_are_in_the_order_of_the_grid_and_points_are_computed_once(
    points: ModuleType, log: Path
) -> None:
    frame = sweep(points.square, {"x": [3, 1]}, [0, 5], workers=2, progress=False)
    assert frame.to_dict("list") == {
        "x": [3, 3, 1, 1], "seed": [0, 5, 0, 5], "y": [9, 14, 1, 6],
        "name": ["point 3", "point 3", "point 1", "point 1"],
    }  # fmt: skip
    again = sweep(points.square, {"x": [3, 1, 7]}, [0, 5], workers=2, progress=False)
    assert again["y"].tolist() == [9, 14, 1, 6, 49, 54]
    assert Counter(tuple(line[1:]) for line in runs(log)) == {
        (str(x), str(s)): 1 for x in (3, 1, 7) for s in (0, 5)
    }


def test_a_single_worker_keeps_the_threads_of_this_process(points: ModuleType, log: Path) -> None:
    before = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        frame = sweep(points.threads, {"x": [count]}, workers=1, progress=False)
        assert frame["y"].tolist() == [count] == [torch.get_num_threads()]
    torch.set_num_threads(before)


def test_batched_is_one_call_for_all(points: ModuleType, log: Path) -> None:
    for _ in range(2):
        frame = sweep(points.all_at_once, {"x": [1, 2]}, [0, 3], engine="batched")
        assert frame["y"].tolist() == [10, 13, 20, 23]
    assert [line[1:] for line in runs(log)] == [["batch", "2", "2"]]
    with pytest.raises(LabkitError, match="short gave 1 results for 2 points"):
        sweep(points.short, {"x": [1, 2]}, engine="batched")


@pytest.mark.slow
def test_a_failing_point_takes_no_other_with_it(points: ModuleType, log: Path) -> None:
    with pytest.raises(LabkitError, match=r"1 of 5 points failed, first \{'x': 3, 'seed': 0\}: "
                       "RuntimeError: three is broken. The others are kept"):  # fmt: skip
        sweep(points.fragile, {"x": range(5)}, workers=2, progress=False)
    Path(f"{log}.mended").touch()
    assert sweep(points.fragile, {"x": range(5)}, workers=2, progress=False)["y"].tolist() == [
        *range(5)
    ]
    assert Counter(line[1] for line in runs(log)) == {"0": 1, "1": 1, "2": 1, "3": 2, "4": 1}


@pytest.mark.slow
def test_a_local_process_that_is_killed_is_replaced(points: ModuleType, log: Path) -> None:
    frame = sweep(points.deadly, {"x": range(8)}, workers=2, progress=False)
    assert frame["y"].tolist() == [*range(8)]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_local_process_that_grows_is_replaced_without_a_word(
    points: ModuleType, log: Path
) -> None:
    # A warning is an error here, and one in a thread of the executor would stop it for good.
    frame = sweep(points.growing, {"x": range(6)}, workers=2, progress=False)
    assert frame["y"].tolist() == [*range(6)]
    assert frame["held"].max() < 3, "no process had three points: some were replaced"


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_finished(
    points: ModuleType, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        while not log.exists() or len(runs(log)) < 6:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)  # to the process, whose main thread then wakes

    # A shell's `&` turns it off.
    before_it = signal.signal(signal.SIGINT, signal.default_int_handler)
    grid = {
        "x": [*range(40)],
        "slow": [0.2],
    }  # 4 s, so that a busy machine has time to interrupt it
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        sweep(points.square, grid, workers=2, progress=False)
    signal.signal(signal.SIGINT, before_it)
    kept = int(capsys.readouterr().err.split("Stopped: ")[1].split(" of 40")[0])
    assert 2 <= kept < 40
    before = len(runs(log))
    assert len(sweep(points.square, grid, workers=2, progress=False)) == 40
    assert len(runs(log)) - before == 40 - kept


@pytest.mark.slow
def test_an_interrupt_while_a_result_is_being_kept_is_as_quiet(
    points: ModuleType, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It meets the sweep outside of its engine, which has points under way: no warning of theirs."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("labkit.sweep.answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(points.square, {"x": [*range(12)], "slow": [0.2]}, workers=2, progress=False)
    gc.collect()


@pytest.mark.slow
def test_a_dask_worker_killed_in_the_middle_costs_only_what_it_held(
    points: ModuleType, log: Path
) -> None:
    """200 points on two workers, one of which dies by SIGKILL: what was kept by then stays done."""
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            victim = next(iter(client.run(os.getpid).values()))

        kept: list[tuple[str, ...]] = []

        def kill() -> None:
            while not log.exists() or len(runs(log)) < 100:
                time.sleep(0.02)
            for _, x, seed in runs(log):
                if answered(points.square, x=int(x), slow=0.02, seed=int(seed)):
                    kept.append((x, seed))
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        frame = sweep(
            points.square, {"x": [*range(100)], "slow": [0.02]}, [0, 1], engine="dask",
            scheduler=cluster.scheduler_address, progress=False,
        )  # fmt: skip
    killer.join()
    assert len(frame) == 200 == len(frame.drop_duplicates(["x", "seed"]))
    assert frame["y"].tolist() == [x * x + s for x in range(100) for s in (0, 1)]
    started: dict[tuple[str, ...], list[str]] = {}
    for pid, *point in runs(log):
        started.setdefault(tuple(point), []).append(pid)
    assert len(started) == 200
    twice = [pids for pids in started.values() if len(pids) > 1]
    assert all(pids[0] == str(victim) for pids in twice), "a point ran again that was not lost"
    assert all(len(pids) == 2 for pids in twice)
    assert len(kept) > 20
    assert all(len(started[point]) == 1 for point in kept), "a point ran again that was kept"
    by_victim = {point for point, pids in started.items() if pids[0] == str(victim)}
    assert by_victim & set(kept)
    assert len(by_victim) < 150  # it died on the way


@pytest.mark.slow
def test_a_cluster_of_this_machine_is_the_default(points: ModuleType, log: Path) -> None:
    with closing(socket.socket()) as other:  # somebody else's scheduler has the usual port
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # or had it before us
            other.bind(("0.0.0.0", 8787))
            other.listen()
        found = sweep(points.square, {"x": [2, 4]}, engine="dask", progress=False)
    assert found["y"].tolist() == [4, 16]
    with pytest.raises(LabkitError, match=r"No worker offers GPU=1.*--resources GPU=1"):
        sweep(points.square, {"x": [9]}, engine="dask", resources={"GPU": 1}, progress=False)


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_named_and_nothing_is_lost(
    points: ModuleType, log: Path
) -> None:
    sweep(points.square, {"x": [1]}, workers=1, progress=False)
    start = time.monotonic()
    with pytest.raises(LabkitError, match="No Dask scheduler answers at tcp://127.0.0.1:9"):
        sweep(
            points.square,
            {"x": [1, 2]},
            engine="dask",
            scheduler="tcp://127.0.0.1:9",
            progress=False,
        )
    assert time.monotonic() - start < 20  # the limit is 8 s; a loaded machine gets more
    assert len(sweep(points.square, {"x": [1, 2]}, workers=1, progress=False)) == 2
    assert len(runs(log)) == 2


def test_bad_input_is_named(points: ModuleType) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"engine": "slurm"}, "engine must be batched, local or dask, got 'slurm'"),
        ({"grid": {"x": []}}, "x has no values"),
        ({"grid": {"x": [1, 1]}}, r"x has a value twice: \[1, 1\]"),
        ({"seeds": [2, 2]}, r"seed has a value twice"),
        ({"seeds": []}, "seed has no values"),
        ({"grid": {"seed": [1]}}, "must not have an axis 'seed'"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            sweep(**{"fn": points.square, "grid": {"x": [1]}, "progress": False, **options})
    with pytest.raises(LabkitError, match="must return a dict with other names than x, seed"):
        sweep(points.clashing, {"x": [1]}, workers=1, progress=False)
