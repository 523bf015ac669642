"""Figures of the fusion bench: every method on every data set, and what X-Norm's rivals do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from labkit import figures_rivals as figures
from labkit.exchanging.plan import EXCHANGES, FUSIONS, MULTS
from labkit.figures_rivals import ALONE, WAYS_LOOK, looks_of

METHODS = ("rgb alone", "flow alone", *FUSIONS)
WAYS = (*METHODS, *EXCHANGES, *MULTS, "early, long")

# Plausible measurements -----------------------------------------------------------------------------


def board(seeds: int, names: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A `measure.table`; data set -> modalities."""
    noise, rows = np.random.default_rng(0), []
    for i, (name, both) in enumerate(names.items()):
        ways = (*(f"{modality} alone" for modality in both), *FUSIONS)
        for (k, way), seed in itertools.product(enumerate(ways), range(seeds)):
            accuracy = 50 + 4 * i + 40 * (way == "X-Norm") * (i < 2) + 2 * noise.normal()
            rows.append(
                {
                    "data": name,
                    "way": way,
                    "seed": seed,
                    "accuracy": accuracy,
                    "train": min(accuracy + 3 + 20 * (way == "early"), 100),
                    "floor": 12.5 + i,
                    "weights": 50_000 + 9000 * k,
                    "madds": (4e6, 2e6, 2e5, 2.4e4)[i] * (1 + k),
                }
            )
    return pd.DataFrame(rows)


FOUR = {
    "clips, synergy": ("rgb", "flow"), "clips, sum": ("rgb", "flow"),
    "affect": ("language", "audio"), "actions": ("accelerometer", "gyroscope"),
}  # fmt: skip


def blends(seeds: int, windows: int = 2) -> pd.DataFrame:
    """A `measure.blend_table`."""
    noise, rows = np.random.default_rng(4), []
    for rule, seed in itertools.product(("equal", "gain", "official"), range(seeds)):
        heads = (np.array([45, 60, 80]) + noise.normal(size=3)).tolist()
        weights = 3 * noise.dirichlet(np.ones(3), windows)
        if rule == "equal":
            weights = np.ones((windows, 3))
        rows.append({"rule": rule, "seed": seed, "accuracy": heads[-1], "heads": heads,
                     "weights": weights.tolist()})  # fmt: skip
    return pd.DataFrame(rows)


def saliencies(cells: int) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(5)
    whole, first = 0.05 + torch.rand(2, cells, generator=drawn), torch.zeros(2, cells)
    first[:, 0] = torch.tensor([0.7, 0.4])
    return {"as released": first, "first cell, no mask": whole, "last cell": whole.flip(1),
            "mean of all cells": whole.flip(0)}  # fmt: skip


def dials(rows: int) -> pd.DataFrame:
    """Rows of `reading.misa_table`."""
    noise, found = np.random.default_rng(6), []
    for i in range(rows):
        points = {
            f"{kind} {name}": (noise.normal([i, j], 0.4 / (1 + i), (40, 2))).tolist()
            for j, (kind, name) in enumerate(itertools.product(("private", "shared"), ("rgb", "flow")))
        }  # fmt: skip
        found.append({"similar": 0.3 * i, "differ": 0.1, "recover": 1.0, "accuracy": 90 - 30.0 * i,
                      "spread": 0.2 / (1 + i), "differ left": 0.004 + i, "points": points,
                      "moments": (0.4 / (1 + i) / np.arange(1, 6)).tolist()})  # fmt: skip
    return pd.DataFrame(found)


DRAW: dict[str, Callable[[], Figure]] = {
    "blending": lambda: figures.blending_windows(blends(3), 12.5),
    "blending, 1 seed, 3 windows": lambda: figures.blending_windows(blends(1, 3), 12.5),
    "cells": lambda: figures.read_cells(saliencies(24), (6, 2, 2)),
    "cells of the paper": lambda: figures.read_cells(saliencies(98), (2, 7, 7)),
    "cells of sequences": lambda: figures.read_cells(
        {"last": torch.rand(2, 50), "mean": torch.rand(2, 50)}, (50,), ("language", "audio")
    ),
    "misa": lambda: figures.misa_clouds(dials(3), 12.5),
    "misa, 4": lambda: figures.misa_clouds(dials(4), 12.5),
    "board": lambda: figures.bench_board(board(3, FOUR)),
    "board, 3 sets, 1 seed": lambda: figures.bench_board(board(1, dict([*FOUR.items()][1:]))),
    "board, 1 set": lambda: figures.bench_board(board(2, {"MOSI": ("language", "audio")})),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAW)
def test_no_text_is_cut_small_or_on_top_of_another(
    name: str, drawn: Callable[[str], Figure], legible: Callable[[Figure], None]
) -> None:
    legible(drawn(name))


def named(lines: Sequence[Line2D]) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in lines if str(line.get_label())[0] != "_"}


def small(ax: Axes) -> list[float]:
    """Where the small marks stand, those of single seeds."""
    dots = [
        line for line in ax.get_lines() if line.get_markersize() == 4 and line.get_ls() == "None"
    ]
    return sorted(float(x) for line in dots for x in line.get_xdata())


def of(table: pd.DataFrame, column: str, **chosen: Any) -> np.ndarray:
    for name, value in chosen.items():
        table = table[table[name] == value]
    return np.array(table[column].tolist())


# What each figure draws -----------------------------------------------------------------------------


def test_blending_draws_heads_and_their_weights_in_each_window(
    drawn: Callable[[str], Figure],
) -> None:
    table, fig = blends(3), drawn("blending")
    score, *windows = fig.axes
    assert [t.get_text() for t in score.get_yticklabels()] == [
        "all alike",
        "by gain",
        "as released",
    ]
    np.testing.assert_allclose(small(score), np.sort(of(table, "heads").flatten()))
    assert 12.5 in [line.get_xdata()[0] for line in score.get_lines()]
    assert [ax.get_title(loc="left") for ax in windows] == ["window 1", "window 2"]
    weights = of(table, "weights")
    for w, ax in enumerate(windows):
        np.testing.assert_allclose(small(ax), np.sort(weights[:, w].flatten()))
        large = [line for line in ax.get_lines() if line.get_markersize() == 9]
        mean = np.array(
            [of(table, "weights", rule=r)[:, w].mean(0) for r in table["rule"].unique()]
        )
        np.testing.assert_allclose([line.get_xdata()[0] for line in large], mean.flatten())
        looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in large}
        assert [*looks] == ["rgb", "flow", "joint"] and len({*looks.values()}) == 3
        assert np.round([line.get_ydata()[0] for line in large[3:6]]).tolist() == [1, 1, 1]
    assert [t.get_text() for t in score.texts][:1] == [
        f"{of(table, 'accuracy', rule='equal').mean():.1f}"
    ]
    assert len(drawn("blending, 1 seed, 3 windows").axes) == 4


def test_cells_are_drawn_in_raster_order_and_crossed_out_if_they_are_not_read(
    drawn: Callable[[str], Figure],
) -> None:
    fig = drawn("cells")
    axes = np.array(fig.axes[:8]).reshape(4, 2)
    for row, (name, found) in zip(axes, saliencies(24).items(), strict=True):
        assert row[0].get_ylabel() == name
        for ax, cells in zip(row, found.numpy(), strict=True):
            shown = np.stack([image.get_array() for image in ax.images])
            np.testing.assert_allclose(shown.flatten(), cells / found.numpy().max(), rtol=1e-6)
            starts = [image.get_extent()[0] for image in ax.images]
            assert len(starts) == 6 and starts == sorted(starts)
            crosses = sum(len(line.get_xdata()) for line in ax.get_lines())
            assert crosses == (23 if name == "as released" else 0)
    assert (
        axes[0, 1].get_title() == "" and axes[0, 1].get_title(loc="left") == "flow: 1 of 24 cells"
    )
    assert fig.axes[8].get_ylabel() == "share of the largest"
    (strip,) = drawn("cells of sequences").axes[0].images
    assert strip.get_array().shape == (1, 50)


def test_clouds_show_every_code_at_one_scale(drawn: Callable[[str], Figure]) -> None:
    table, fig = dials(3), drawn("misa")
    axes = np.array(fig.axes).reshape(2, 3)
    for (_, row), (above, below) in zip(table.iterrows(), axes.T, strict=True):
        clouds = named(above.get_lines())
        for name, line in clouds.items():
            np.testing.assert_allclose(np.stack(line.get_data(), 1), row["points"][name])
            assert (line.get_markerfacecolor() == "none") == name.startswith("private")
        assert clouds["private rgb"].get_marker() == clouds["shared rgb"].get_marker()
        assert clouds["private rgb"].get_marker() != clouds["private flow"].get_marker()
        np.testing.assert_allclose([bar.get_height() for bar in below.patches], row["moments"])
        assert f"{row['accuracy']:.1f} % right" in above.get_title(loc="left")
        each = np.mean([np.std(row["points"][name], 0) for name in clouds])
        assert f"spread {row['spread']:.2f}, each {each:.2f},\n" in above.get_xlabel()
    assert len({ax.get_xlim() for ax in axes[0]}) == len({ax.get_ylim() for ax in axes[0]}) == 1
    assert "12.5 %" in fig.get_supxlabel()


def test_the_board_draws_every_method_its_floor_and_its_cost(
    drawn: Callable[[str], Figure],
) -> None:
    table, fig = board(3, FOUR), drawn("board")
    blocks = np.array(fig.axes).reshape(4, 2)
    for i, ((name, both), (score, cost)) in enumerate(zip(FOUR.items(), blocks, strict=True)):
        assert score.get_title(loc="left") == name
        part = table[table["data"] == name]
        lines = named(score.get_lines())
        assert [*lines] == [*(f"{m} alone" for m in both), *FUSIONS]
        np.testing.assert_allclose(small(score), sorted(part["accuracy"]))
        assert 12.5 + i in [line.get_xdata()[0] for line in score.get_lines()]
        for (way, line), bar in zip(lines.items(), cost.patches[-8:], strict=True):
            assert line.get_xdata()[0] == pytest.approx(of(part, "accuracy", way=way).mean())
            assert bar.get_width() == pytest.approx(of(part, "madds", way=way).mean() / 1e6)
        first = of(part, "weights", way=f"{both[0]} alone").mean()
        assert cost.texts[0].get_text() == f"{first / 1e3:.0f}"
    assert len(drawn("board, 3 sets, 1 seed").axes) == 6


# Looks, and what is refused -------------------------------------------------------------------------


def test_no_two_methods_look_alike_and_a_changed_one_looks_like_its_method() -> None:
    looks = looks_of(WAYS)
    methods = [looks[way] for way in (*METHODS, "X-Norm, own")]
    for of_them in ("color", "marker", "line"):
        assert len({str(getattr(look, of_them)) for look in methods[2:]}) == len(methods) - 2
        assert len({str(getattr(look, of_them)) for look in ALONE}) == 2
    assert len({look.color for look in methods}) == len({look.marker for look in methods}) == 9
    assert looks["early, long"] == looks["early"] and looks["MulT, first cell"] == WAYS_LOOK["MulT"]
    assert looks_of(["audio alone", "audio alone", "x alone"])["x alone"] == ALONE[1]


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="rule must be one of equal, gain, official; got best"):
        figures.blending_windows(blends(1).assign(rule="best"), 12.5)
    with pytest.raises(ValueError, match="table must have 2 heads, as heads has names, got 3"):
        figures.blending_windows(blends(1), 12.5, ("rgb", "joint"))
    with pytest.raises(
        ValueError, match=r"saliencies\['last cell'\] must be \(2, 8\), got \(2, 24\)"
    ):
        figures.read_cells({"last cell": saliencies(24)["last cell"]}, (2, 2, 2))
    with pytest.raises(ValueError, match="saliencies must have at least one way of reading"):
        figures.read_cells({}, (2, 2, 2))
    with pytest.raises(ValueError, match="table must have two to four rows, got 1"):
        figures.misa_clouds(dials(1), 12.5)
    with pytest.raises(ValueError, match="table must have at least one data set, got none"):
        figures.bench_board(board(1, FOUR).iloc[:0])
