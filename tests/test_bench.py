"""Benchmarks: not their times, but what they make of times."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from click.testing import CliRunner

from labkit.bench import mfh
from labkit.bench import sweep as bench


def test_efficiency_is_what_ideal_workers_would_need() -> None:
    """Two workers, four points of 1, 1, 2 and 2 s: 3 s at best; 4 s were needed."""
    found = bench.efficiency([1.0, 2.0, 1.0, 2.0], workers=2, wall_s=4.0)
    assert found == {
        "points": 4, "point_s": 1.5, "workers": 2, "ideal_s": 3.0, "wall_s": 4.0, "efficiency": 0.75,
    }  # fmt: skip
    assert bench.efficiency([1.0] * 6, workers=3, wall_s=2.0)["efficiency"] == 1


def test_a_timed_sweep_has_all_its_points_and_leaves_no_store_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LABKIT_STORE", "another")
    for _ in range(2):  # nothing is found the second time
        row, frame = bench.timed_sweep(bench.waits, {"seconds": 0.02}, 3, "local", 1)
        assert frame["seed"].tolist() == [0, 1, 2] and frame["took_s"].between(0.02, 10).all()
        assert row["points"] == 3 and row["wall_s"] >= 0.06 and 0 < row["efficiency"] < 1
    assert bench.os.environ["LABKIT_STORE"] == "another"


def test_many_trainings_are_counted_and_are_those_of_crossmodal() -> None:
    """On the CPU what a GPU does a thousand times as often: 13 models a seed, every one trained."""
    found = mfh.mfh_many(14, "cpu", steps=20)
    assert found["models"] == 26 and found["largest_difference_from_cpu"] == 0
    assert found["share_of_bandwidth"] > 0 and found["models_per_second"] > 0


def test_bytes_of_a_step_by_hand() -> None:
    """One seed of one setting, 3 samples, a view of 2 + 1 columns each: 2 reads of the samples ..."""
    from labkit.data.gaussians import Gaussians, Venn, stack

    data = stack([Gaussians(Venn(1, 0, 1, 2, 2, 2), n_train=3, n_test=1)], [0], "train")
    teacher = 2 * 3 * 3 + 7 * 3 + 3 * 3
    students = 2 * 3 * 3 + 2 * (7 * 3 + 3 * 3)
    assert mfh.bytes_of(data, 5) == 5 * 4 * (teacher + students)


def test_a_benchmark_that_needs_a_gpu_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    from labkit.bench.__main__ import BENCHMARKS, main

    only = {"mfh_gpu": BENCHMARKS["mfh_gpu"], "render": BENCHMARKS["render"]}
    with (
        mock.patch.dict(BENCHMARKS, only, clear=True),
        mock.patch.object(torch.cuda, "is_available", return_value=False),
    ):
        run = CliRunner().invoke(main, ["--rounds", "2", "--out", str(tmp_path)])
        assert run.exit_code == 0 and "skipped: mfh_gpu needs a CUDA device" in run.output
        named = CliRunner().invoke(main, ["mfh_gpu", "--out", str(tmp_path)])
        assert named.exit_code == 1 and "needs a CUDA device" in named.output
    assert [path.name for path in tmp_path.iterdir()] == ["render.json"]
