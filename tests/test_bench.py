"""Benchmarks: not their times, but what they make of times."""

from __future__ import annotations

import pytest

from labkit import bench


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
