"""Figures of notebook 05: what was measured is drawn, of three and four modalities, one seed and more."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from labkit import figures
from labkit.figures_recovering import CONTROLS, MAIN, WAYS_LOOK, _crossing
from labkit.recovering import plan

THREE = ("language", "audio", "vision")
FOUR = ("accelerometer", "gyroscope", "skeleton", "depth")
RATES = (0.0, 0.2, 0.4, 0.6, 2 / 3)
REALISED = [2 / 3, 0.2, 0.4, 0.6, 0.65]
DEPTHS = (1, 4, 32)
LEVELS = (0.0, 1.0, 2.0, 4.0)
CLASSES = ("very negative", "negative", "neutral", "positive", "very positive")
SENTIMENT = {"majority": 20.0, "chance": 20.0}
MOSI = {"majority": 62.1, "chance": 50.0}


def subsets(names: tuple[str, ...]) -> list[str]:
    sizes = range(1, len(names) + 1)
    return ["+".join(some) for size in sizes for some in itertools.combinations(names, size)]


def measured(seeds: int, modalities: tuple[str, ...] = THREE, low: float = 40.0) -> pd.DataFrame:
    """A plausible `measure.table`; the random protocol is drawn twice."""
    noise, rows = np.random.default_rng(0), []
    names = subsets(modalities)
    for seed, (k, way) in itertools.product(range(seeds), enumerate(plan.WAYS)):
        sizes = np.array([name.count("+") + 1 for name in names]) / len(modalities)
        top, share = 78.0, np.array(RATES)[:, None]
        loss = (top - low) * k / len(plan.WAYS)
        row: dict[str, Any] = {"way": way, "seed": seed, "agreement": float("nan")}
        row["fixed"] = (top - loss * (1 - sizes) + noise.normal(size=len(names))).tolist()
        row["random"] = (top - loss * share + noise.normal(size=(len(RATES), 2))).tolist()
        if modalities is THREE:
            released = top - loss * np.array(REALISED)[:, None]
            row["batches"] = (released + noise.normal(size=(len(RATES), 2))).tolist()
            row["batches_realised"] = REALISED
        rows.append(row)
    return pd.DataFrame(rows)


PLACES = {  # swd and cosine, as measured
    "mean": (0.763, 0.008), "other": (0.017, 0.007), "same class": (0.016, 0.135),
    "regression": (0.478, 0.366), "MVAE": (0.477, 0.391), "class prior": (0.042, 0.200),
    "single prior": (0.035, -0.005), "half-identity": (0.207, -0.002),
    "class prior, paired": (0.039, 0.214), "single prior, paired": (0.030, 0.108),
    "class prior, tuned": (0.444, 0.246), "half-identity, tuned": (0.684, 0.075),
}  # fmt: skip


def gaps(seeds: int) -> pd.DataFrame:
    noise = np.random.default_rng(1)
    rows = [
        {"way": way, "seed": seed, "agreement": float("nan"),
         "swd": swd * (1 + 0.1 * noise.normal()), "cosine": cosine + 0.01 * noise.normal()}
        for seed in range(seeds) for way, (swd, cosine) in PLACES.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def read(ways: tuple[str, ...], classes: int) -> dict[str, list[list[float]]]:
    noise = np.random.default_rng(2)
    found = {way: noise.random((classes, classes)) + 3 * np.eye(classes) for way in ways}
    return {way: (100 * m / m.sum(1, keepdims=True)).tolist() for way, m in found.items()}


NOISY = {
    "noisy alone": [70.0, 60, 50, 35], "recovered alone": [65.0] * 4, "noisy": [78.0, 78, 75, 70],
    "recovered": [77.0] * 4, "without": [77.5] * 4,
}  # fmt: skip
ERRORS = {
    "ours, float32": [1e-6, 2e-6, 5e-6], "released, float32": [2e-7, 7e-7, 4e-6],
    "ours, float64": [8e-13, 2e-12, 1e-11], "released, float64": [4e-16, 2e-15, 8e-15],
}  # fmt: skip
X = np.random.default_rng(3).normal(size=50)
ALONG = np.linspace(-3, 3, 31)
Z = {"without mixing": X, "with mixing": np.sin(2 * X)}
LINES = {
    "without mixing": (ALONG, {depth: 0.5**depth * ALONG + depth for depth in DEPTHS}),
    "with mixing": (ALONG, {depth: ALONG + np.sin(depth * ALONG) for depth in DEPTHS}),
}
MADE = {"zeros": 0 * X, "regression": 0.4 * X, "class prior": -X, "class prior, paired": X[::-1]}


def planes(means: int) -> list[dict[str, Any]]:
    noise = np.random.default_rng(4)
    return [
        {"epoch": epoch, "points": noise.normal(size=(3, 40, 2)), "y": np.arange(40) % 5,
         "means": noise.normal(size=(means, 2)), "covariances": np.tile(np.diag([1.0, 0.25]), (means, 1, 1))}
        for epoch in (0, 1, 4, 16)
    ]  # fmt: skip


def dial(seeds: int, floors: dict[str, float] | None = SENTIMENT) -> Figure:
    found = {name: np.array(values) + np.arange(seeds)[:, None] for name, values in NOISY.items()}
    return figures.noise_dial(NOISY if seeds == 1 else found, LEVELS, floors)


DRAW: dict[str, Callable[[], Figure]] = {
    "subsets": lambda: figures.subset_bars(measured(3), subsets(THREE), SENTIMENT),
    "subsets, 1 seed": lambda: figures.subset_bars(measured(1), subsets(THREE), SENTIMENT),
    "subsets, near the floor": lambda: figures.subset_bars(measured(3, low=50), subsets(THREE), MOSI),
    "subsets, 15": lambda: figures.subset_bars(measured(3, FOUR), subsets(FOUR), SENTIMENT),
    "rates": lambda: figures.missing_rate_curves(measured(3), RATES, SENTIMENT),
    "rates, 1 seed": lambda: figures.missing_rate_curves(measured(1), RATES, SENTIMENT),
    "rates, near the floor": lambda: figures.missing_rate_curves(measured(3, low=50), RATES, MOSI),
    "rates, 4 modalities": lambda: figures.missing_rate_curves(measured(2, FOUR), RATES, SENTIMENT),
    "gaps": lambda: figures.gap_plane(gaps(3)),
    "gaps, 1 seed": lambda: figures.gap_plane(gaps(1)),
    "swap": lambda: figures.label_swap(read(("regression", "single prior", "class prior"), 5), CLASSES),
    "swap, five": lambda: figures.label_swap(read(tuple(plan.FLOWS), 5), list("abcde")),
    "swap, 27": lambda: figures.label_swap(
        read(("class prior",), 27), [f"action {i}" for i in range(27)]
    ),
    "noise": lambda: dial(3),
    "noise, 1 seed": lambda: dial(1, None),
    "inverse": lambda: figures.inverse_depth(DEPTHS, ERRORS),
    "half": lambda: figures.half_identity(X, Z, LINES),
    "marginals": lambda: figures.marginals(X, MADE, "vision, feature 1"),
    "planes": lambda: figures.class_planes(
        {"class prior": planes(5), "single prior": planes(1)}, THREE, CLASSES
    ),
    "planes of many classes": lambda: figures.class_planes(
        {"class prior": planes(27)}, THREE, [f"class {k}" for k in range(27)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAW)
def test_no_text_is_cut_small_or_on_top_of_another(
    name: str, drawn: Callable[[str], Figure], legible: Callable[[Figure], None]
) -> None:
    legible(drawn(name))


def test_every_way_has_one_look_and_no_two_look_alike() -> None:
    assert set(WAYS_LOOK) == set(plan.WAYS)
    assert len({look.color for look in WAYS_LOOK.values()}) == len(WAYS_LOOK)
    assert len({look.marker for look in WAYS_LOOK.values()}) == len(WAYS_LOOK)
    lines = [str(WAYS_LOOK[way].line) for way in MAIN]
    assert len(set(lines)) == len(lines)
    for way in CONTROLS:
        assert len({WAYS_LOOK[way].color[i : i + 2] for i in (1, 3, 5)}) == 1  # grey
    for way in plan.FLOWS:
        red, green, blue = (int(WAYS_LOOK[way].color[i : i + 2], 16) for i in (1, 3, 5))
        assert blue > green and blue > red


def marks(ax: Axes) -> dict[str, Line2D]:
    """What is labelled: a way, or a name."""
    return {str(line.get_label()): line for line in ax.get_lines() if line.get_label()[0] != "_"}


def levels(ax: Axes) -> set[float]:
    """Heights of horizontal lines of reference."""
    lines = [line for line in ax.get_lines() if list(line.get_xdata()) == [0, 1]]
    return {round(float(line.get_ydata()[0]), 6) for line in lines}


def of(table: pd.DataFrame, way: str, column: str) -> np.ndarray:
    return np.array(table[table["way"] == way][column].tolist())


# What each figure draws --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["subsets", "subsets, 1 seed"])
def test_subset_bars_draw_mean_and_range_of_every_subset(
    name: str, drawn: Callable[[str], Figure]
) -> None:
    table, fig = measured(1 if "1" in name else 3), drawn(name)
    said = [ax.get_title(loc="center").replace("\n", " ") for ax in fig.axes]
    assert said[:4] == ["language alone", "audio alone", "vision alone", "language + audio"]
    assert len(said) == 7 and said[-1] == "all visible"
    for i, ax in enumerate(fig.axes):
        assert list(marks(ax)) == [*MAIN, *CONTROLS]
        bars = [line for line in ax.get_lines() if len(line.get_xdata()) == 2]
        for bar, (way, mark) in zip(bars, marks(ax).items(), strict=False):
            values = of(table, way, "fixed")[:, i]
            assert mark.get_xdata() == pytest.approx(values.mean())
            assert list(bar.get_xdata()) == pytest.approx([values.min(), values.max()])
            assert mark.get_marker() == WAYS_LOOK[way].marker
        floor = [line for line in ax.get_lines() if list(line.get_ydata()) == [0, 1]]
        assert [line.get_xdata()[0] for line in floor] == [20.0]
    assert ("1 seed;" if "1" in name else "3 seeds;") in fig.get_supxlabel().replace("\n", " ")


def test_many_subsets_are_grouped_by_size(drawn: Callable[[str], Figure]) -> None:
    table, fig, names = measured(3, FOUR), drawn("subsets, 15"), subsets(FOUR)
    said = [ax.get_title(loc="center").replace("\n", " ") for ax in fig.axes]
    assert said[:4] == [f"{name} alone" for name in FOUR]
    assert said[4:] == ["2 of 4 visible", "3 of 4 visible", "all visible"]
    pairs = [i for i, name in enumerate(names) if name.count("+") == 1]
    values = of(table, "regression", "fixed")[:, pairs]
    assert marks(fig.axes[4])["regression"].get_xdata() == pytest.approx(values.mean())
    ticks = [line for line in fig.axes[4].get_lines() if line.get_marker() == "|"]
    np.testing.assert_allclose(ticks[1].get_xdata(), values.mean(0))
    assert "Small tick: one subset" in fig.get_supxlabel()


@pytest.mark.parametrize("name", ["rates", "rates, 1 seed"])
def test_rate_curves_draw_mean_band_and_the_rates_that_came_of_it(
    name: str, drawn: Callable[[str], Figure]
) -> None:
    table, (exact, released) = measured(1 if "1" in name else 3), drawn(name).axes
    for ax, column, first in ((exact, "random", 0), (released, "batches", 1)):
        curves = [line for line in ax.get_lines() if len(line.get_xdata()) > 2]
        for way, line, band in zip(MAIN, curves, ax.collections, strict=True):
            values = of(table, way, column)[:, first:]
            np.testing.assert_allclose(line.get_ydata(), values.mean((0, 2)))
            assert line.get_color() == WAYS_LOOK[way].color
            outline = band.get_paths()[0].vertices[:, 1]
            for edge in (*values.min((0, 2)), *values.max((0, 2))):
                assert np.abs(outline - edge).min() < 1e-9
        assert levels(ax) == {20.0}
    assert list(curves[0].get_xdata()) == REALISED[1:]
    rings = [line for line in released.get_lines() if line.get_markerfacecolor() == "none"]
    assert {line.get_xdata()[0] for line in rings} == {REALISED[0]}
    wanted = [of(table, way, "batches")[:, 0].mean() for way in MAIN]
    assert [line.get_ydata()[0] for line in rings] == pytest.approx(wanted)
    assert "asked for 0.0:\ntested at 0.67" in {t.get_text() for t in released.texts}


def test_rate_curves_have_one_panel_without_the_released_rule(
    drawn: Callable[[str], Figure],
) -> None:
    fig = drawn("rates, 4 modalities")
    assert len(fig.axes) == 1 and "released" not in fig.get_supxlabel()
    said = {t.get_text() for t in fig.axes[0].texts}
    assert "majority 20.0" in said and len(said) == len(MAIN) + 1


@pytest.mark.parametrize("name", ["gaps", "gaps, 1 seed"])
def test_gap_plane_marks_means_and_seeds(name: str, drawn: Callable[[str], Figure]) -> None:
    table, ax = gaps(1 if "1" in name else 3), drawn(name).axes[0]
    for way, mark in marks(ax).items():
        np.testing.assert_allclose(mark.get_xdata(), of(table, way, "swd").mean())
        np.testing.assert_allclose(mark.get_ydata(), of(table, way, "cosine").mean())
    assert {t.get_text() for t in ax.texts} - {""} == set(PLACES) == set(marks(ax))
    seeds = [line for line in ax.get_lines() if line.get_markersize() == 4]
    drawn_x = sorted(x for line in seeds for x in line.get_xdata())
    assert drawn_x == pytest.approx(sorted(table["swd"]))


def test_a_way_far_outside_is_hollow_at_the_edge_and_the_others_stay_apart() -> None:
    table = gaps(3)
    table.loc[table["way"] == "half-identity", "swd"] = [0.2, 0.3, 2e5]
    ax = figures.gap_plane(table).axes[0]
    far, near = marks(ax)["half-identity"], marks(ax)["class prior"]
    assert far.get_markerfacecolor() == "white" != near.get_markerfacecolor()
    assert "half-identity, at 66,666.8 ⟶" in {t.get_text() for t in ax.texts}
    assert near.get_xdata()[0] < far.get_xdata()[0] <= ax.get_xlim()[1] < 3
    seeds = [x for line in ax.get_lines() if line.get_markersize() == 4 for x in line.get_xdata()]
    assert len(seeds) == len(table) - 1 and max(seeds) < 2


def test_label_swap_writes_the_matrices_and_their_diagonals(drawn: Callable[[str], Figure]) -> None:
    fig, given = drawn("swap"), read(("regression", "single prior", "class prior"), 5)
    for ax, (way, matrix) in zip(fig.axes, given.items(), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), matrix)
        assert [t.get_text() for t in ax.texts] == [f"{v:.0f}" for row in matrix for v in row]
        assert ax.get_title(loc="left") == f"{way}\n{np.diag(matrix).mean():.1f} % right"
    assert "chance: 20 %" in fig.get_supxlabel().replace("\n", " ")
    many = drawn("swap, 27").axes[0]
    assert not many.texts and len(many.get_xticks()) <= 8


def test_noise_dial_draws_its_curves_and_where_they_cross(drawn: Callable[[str], Figure]) -> None:
    left, right = drawn("noise").axes
    series = {left: ("noisy alone", "recovered alone"), right: ("noisy", "recovered", "without")}
    for ax, names in series.items():
        curves = [line for line in ax.get_lines() if len(line.get_xdata()) == len(LEVELS)]
        for name, line in zip(names, curves, strict=True):
            np.testing.assert_allclose(line.get_ydata(), np.array(NOISY[name]) + 1)
        assert levels(ax) == {20.0}
    crossing = [
        line.get_xdata()[0] for line in left.get_lines() if list(line.get_ydata()) == [0, 1]
    ]
    assert crossing == [0.5] and "better from 0.50" in left.get_title(loc="left")
    heights = {t.get_text(): t.xyann[1] for t in left.texts}  # labels at the height of their curves
    low, high = left.get_ylim()
    assert heights["recovered"] == pytest.approx((66 - low) / (high - low), abs=1e-6)
    assert not levels(drawn("noise, 1 seed").axes[0])


def test_a_crossing_is_the_last_one_or_none() -> None:
    x = np.array([0.0, 1, 2, 3])
    assert _crossing(x, np.array([1.0, -1, 1, -3]))[0] == pytest.approx(2.25)
    assert _crossing(x, -np.ones(4)) == (None, "recovering is better at every level")
    assert _crossing(x, np.array([-1.0, 0, 1, 1]))[0] is None


def test_inverse_depth_draws_four_series_on_logarithms(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("inverse").axes[0]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    for name, values in ERRORS.items():
        line = marks(ax)[name]
        np.testing.assert_array_equal(line.get_data(), (DEPTHS, values))
        assert line.get_linestyle() == ("-" if "64" in name else "--")
    steps = {float(np.finfo(kind).eps) for kind in (np.float32, np.float64)}
    drawn_steps = {y[0] for line in ax.get_lines() if len(y := line.get_ydata()) == 2}
    assert drawn_steps == steps


def test_half_identity_draws_points_and_scaled_lines(drawn: Callable[[str], Figure]) -> None:
    fig = drawn("half")
    assert len(fig.axes) == 4
    for above, below, name in zip(fig.axes[:2], fig.axes[2:], Z, strict=True):
        dots = next(line for line in above.get_lines() if line.get_marker() == "o")
        np.testing.assert_array_equal(dots.get_data(), (X, Z[name]))
        curves = LINES[name][1].values()
        for i, (line, given) in enumerate(zip(below.get_lines(), curves, strict=True)):
            shape = line.get_ydata() - 1.3 * i
            assert (shape.min(), shape.max()) == pytest.approx((0, 1))
            assert np.corrcoef(shape, given)[0, 1] == pytest.approx(1)
        assert [t.get_text() for t in below.texts] == [f"depth {depth}" for depth in DEPTHS]


def test_marginals_have_unit_area_and_say_how_much_varies(drawn: Callable[[str], Figure]) -> None:
    fig = drawn("marginals")
    shares = [ax.get_title(loc="left").split("\n")[-1] for ax in fig.axes]
    assert shares == ["0 %", "40 %", "100 %", "100 %"]
    assert list(fig.axes[0].get_lines()[0].get_xdata()) == [0, 0]  # zeros: a line, not a peak
    bars = fig.axes[1].patches[:-1]
    assert sum(b.get_height() * b.get_width() for b in bars) == pytest.approx(1)
    outline = fig.axes[1].patches[-1]
    assert to_hex(outline.get_edgecolor()) == WAYS_LOOK["regression"].color.lower()


def test_class_planes_draw_every_sample_and_every_gaussian(drawn: Callable[[str], Figure]) -> None:
    fig = drawn("planes")
    assert len(fig.axes) == 8
    titles = [ax.get_title(loc="left") for ax in fig.axes[:4]]
    assert titles == ["before training", "epoch 1", "epoch 4", "epoch 16"]
    for axes, given in ((fig.axes[:4], planes(5)), (fig.axes[4:], planes(1))):
        for ax, plane in zip(axes, given, strict=True):
            found = [np.asarray(dots.get_offsets()) for dots in ax.collections]
            np.testing.assert_array_equal(found, plane["points"])
            rings = [ring for ring in ax.patches if isinstance(ring, Ellipse)]
            np.testing.assert_array_equal([ring.center for ring in rings], plane["means"])
            assert {tuple(sorted((ring.width, ring.height))) for ring in rings} == {(1.0, 2.0)}
            wide = rings[0].angle if rings[0].width > rings[0].height else rings[0].angle + 90
            assert wide % 180 == pytest.approx(0)  # the wide axis lies along x


def test_a_way_that_was_not_measured_is_refused() -> None:
    table = measured(1)
    with pytest.raises(ValueError, match=r"no way 'MVAE'; it has zeros, mean"):
        figures.subset_bars(table[table["way"] != "MVAE"], subsets(THREE), SENTIMENT)
    few = figures.subset_bars(table, subsets(THREE), SENTIMENT, ways=("zeros", "regression"))
    assert list(marks(few.axes[0])) == ["zeros", "regression"]


def test_a_title_can_state_the_finding() -> None:
    title = "Regression knows the sample, flows know the crowd"
    assert figures.gap_plane(gaps(1), title=title).get_suptitle() == title
