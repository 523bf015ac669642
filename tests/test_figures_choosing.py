"""Figures of notebook 06: what was measured is drawn, of one data set and three, one seed and more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from labkit import figures_choosing as figures
from labkit import madds
from labkit.choosing import claims, reading, spending
from labkit.choosing.measure import RATIOS
from labkit.choosing.plan import WEIGHTS

MOVIES = {"cheap": 10_752, "dear": 29_696, "other": 16_896, "gate": 3_136}
REMARKS = {"cheap": 128_000, "dear": 226_000, "other": 95_000, "gate": 16_640}
BILLS = {"movies": MOVIES, "remarks": REMARKS, "MOSI": MOVIES, "RAVDESS": REMARKS}
KINDS = {
    "movies": ("easy", "hard"),
    "remarks": ("plain", "vague", "sarcastic"),
    "MOSI": (),
    "RAVDESS": (),
}


def measured(name: str, seeds: int) -> pd.DataFrame:
    """A plausible `measure.table`; every seed's shares are its own."""
    bill, noise, rows = BILLS[name], np.random.default_rng(len(name)), []
    ratios = np.array(RATIOS)
    for seed in range(seeds):
        low, high, floor = 58.0 + noise.normal(), 68.0 + noise.normal(), 45.0 + 0.3 * noise.normal()
        share = np.sort(noise.random(len(WEIGHTS)))[::-1] * 0.95
        share[-2:] = 0.0
        chance = low + (high - low) * share
        rows.append({
            "seed": seed, "experts": [low, high, 55.0 + noise.normal()], "share": share.tolist(),
            "score": (chance + 8 * share * (1 - share)).tolist(), "chance": chance.tolist(),
            "madds": (bill["gate"] + (1 - share) * bill["cheap"] + share * bill["dear"]).tolist(),
            "share_by_kind": {
                kind: np.clip(share * (0.8 + 0.2 * k), 0, 1).tolist() for k, kind in enumerate(KINDS[name])
            },
            "random": (low + (high - low) * ratios).tolist(),
            "oracle": (low + (high - low) * ratios + 20 * ratios * (1 - ratios)).tolist(),
            "floor": floor, "soft": high + noise.normal(),
            "soft_madds": bill["gate"] + bill["cheap"] + bill["dear"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def tables(*names: str, seeds: int = 3) -> dict[str, pd.DataFrame]:
    return {name: measured(name, seeds) for name in names or BILLS}


DRAW: dict[str, Callable[[], Figure]] = {
    "pareto": lambda: figures.pareto(tables(), BILLS),
    "pareto, 1 seed": lambda: figures.pareto(tables("movies", seeds=1), BILLS),
    "pareto over shares": lambda: figures.pareto(tables(), BILLS, "share"),
    "pareto, two": lambda: figures.pareto(tables("movies", "remarks", seeds=2), BILLS),
    "gain": lambda: figures.gain_by_share(tables()),
    "gain, 1 seed": lambda: figures.gain_by_share(tables("movies", seeds=1)),
    "shares": lambda: figures.shares_by_weight(tables()),
    "shares, 1 seed": lambda: figures.shares_by_weight(tables("MOSI", seeds=1)),
    "bill": lambda: figures.bill_bars(spending.bills(), spending.PAPER),
}


@pytest.mark.parametrize("name", DRAW)
def test_no_text_is_cut_small_or_on_top_of_another(
    name: str, drawn: Callable[[str], Figure], legible: Callable[[Figure], None]
) -> None:
    legible(drawn(name))


def marks(ax: Axes) -> dict[str, Line2D]:
    """What is labelled, by name; of several lines the first."""
    lines = [line for line in ax.get_lines() if str(line.get_label())[0] != "_"]
    return {str(line.get_label()): line for line in reversed(lines)}


def of(table: pd.DataFrame, column: str) -> np.ndarray:
    return np.array(table[column].tolist())


def levels(ax: Axes) -> list[float]:
    """Heights of lines of reference across the panel."""
    return [float(x.get_ydata()[0]) for x in ax.get_lines() if list(x.get_xdata()) == [0, 1]]


# What each figure draws ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "seeds"), [("pareto", 3), ("pareto, 1 seed", 1)])
def test_pareto_draws_every_gate_and_expert_and_the_lines_of_chance_and_best_choice(
    name: str, seeds: int, drawn: Callable[[str], Figure]
) -> None:
    for ax in drawn(name).axes:
        data = ax.get_title(loc="left")
        table, bill, lines = measured(data, seeds), BILLS[data], marks(ax)
        dots = [line for line in ax.get_lines() if line.get_markersize() == 3]
        for k, line in enumerate(dots):
            np.testing.assert_allclose(line.get_xdata(), of(table, "madds")[k] / 1e3)
            np.testing.assert_array_equal(line.get_ydata(), of(table, "score")[k])
        assert len(dots) == seeds
        for column, label, extra in (
            ("random", "chance", 0),
            ("oracle", "best choice", bill["gate"]),
        ):
            np.testing.assert_allclose(lines[label].get_ydata(), of(table, column).mean(0))
            ends = [(bill["cheap"] + extra) / 1e3, (bill["dear"] + extra) / 1e3]
            assert [lines[label].get_xdata()[i] for i in (0, -1)] == pytest.approx(ends)
        for k, (label, which) in enumerate(
            {"E1, cheap": "cheap", "E2, dear": "dear", "other": "other"}.items()
        ):
            np.testing.assert_allclose(lines[label].get_ydata(), of(table, "experts")[:, k])
            assert set(lines[label].get_xdata()) == {bill[which] / 1e3}
        np.testing.assert_allclose(lines["DynMM, soft"].get_ydata(), table["soft"])
        assert levels(ax) == pytest.approx([table["floor"].mean()])


def test_the_line_of_the_gates_is_their_mean_where_all_seeds_were_measured(
    drawn: Callable[[str], Figure],
) -> None:
    ax, table = drawn("pareto").axes[0], measured("movies", 3)
    line = marks(ax)["DynMM, gate"]
    spent, scored = of(table, "madds") / 1e3, of(table, "score")
    grid = np.asarray(line.get_xdata())
    assert spent.min(1).max() <= grid.min() and grid.max() <= spent.max(1).min() + 1e-6
    wanted = [np.interp(grid, x[::-1], y[::-1]) for x, y in zip(spent, scored, strict=True)]
    np.testing.assert_allclose(line.get_ydata(), np.mean(wanted, 0))
    outline = ax.collections[1].get_paths()[0].vertices
    for edge in (np.min(wanted, 0), np.max(wanted, 0)):
        assert np.abs(outline[:, 1][:, None] - edge).min(0).max() < 1e-9


def test_what_is_shaded_lies_between_chance_and_a_better_gate(
    drawn: Callable[[str], Figure],
) -> None:
    ax = drawn("pareto, 1 seed").axes[0]
    table = measured("movies", 1)
    shaded = ax.collections[0].get_paths()
    assert shaded
    plain = np.array([(1 - r) * MOVIES["cheap"] + r * MOVIES["dear"] for r in RATIOS]) / 1e3
    for x, y in np.concatenate([path.vertices for path in shaded]):
        assert y >= np.interp(x, plain, table["random"][0]) - 1e-6


def test_over_shares_chance_joins_the_experts_and_what_has_no_share_is_left_out(
    drawn: Callable[[str], Figure],
) -> None:
    for ax in drawn("pareto over shares").axes:
        table, lines = measured(ax.get_title(loc="left"), 3), marks(ax)
        assert set(lines) == {"chance", "best choice", "DynMM, gate", "E1, cheap", "E2, dear"}
        for label, x in (("E1, cheap", 0), ("E2, dear", 100)):
            assert set(lines[label].get_xdata()) == {x}
        assert lines["chance"].get_ydata()[0] == pytest.approx(
            lines["E1, cheap"].get_ydata().mean()
        )
        dots = [line for line in ax.get_lines() if line.get_markersize() == 3]
        np.testing.assert_allclose(dots[1].get_xdata(), 100 * of(table, "share")[1])


@pytest.mark.parametrize(("name", "seeds"), [("gain", 3), ("gain, 1 seed", 1)])
def test_gain_is_paired_with_chance_on_the_same_samples(
    name: str, seeds: int, drawn: Callable[[str], Figure]
) -> None:
    for ax in drawn(name).axes:
        table = measured(ax.get_title(loc="left"), seeds)
        ahead = of(table, "score") - of(table, "chance")
        dots = [line for line in ax.get_lines() if line.get_markersize() == 3.5]
        for k, line in enumerate(dots):
            np.testing.assert_allclose(line.get_xdata(), 100 * of(table, "share")[k])
            np.testing.assert_allclose(line.get_ydata(), ahead[k])
        assert len(dots) == seeds
        best = (of(table, "oracle") - of(table, "random")).mean(0)
        np.testing.assert_allclose(marks(ax)["best choice"].get_ydata(), best)
        gate = marks(ax)["gate"]
        assert max(gate.get_xdata()) <= 100 * of(table, "share").max(1).min() + 1e-9
        assert levels(ax) == [0]
        band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
        assert [band.x0, band.x1] == pytest.approx([100 * edge for edge in claims.BAND])


def test_shares_are_those_of_each_kind_and_of_all_where_no_kind_is_known(
    drawn: Callable[[str], Figure],
) -> None:
    for ax in drawn("shares").axes:
        name = ax.get_title(loc="left")
        table, lines = measured(name, 3), marks(ax)
        assert set(lines) == set(KINDS[name] or ("all",))
        for kind, line in lines.items():
            rows = (
                [row[kind] for row in table["share_by_kind"]]
                if KINDS[name]
                else table["share"].tolist()
            )
            np.testing.assert_allclose(line.get_ydata(), 100 * np.mean(rows, 0))
            np.testing.assert_array_equal(line.get_xdata(), WEIGHTS)
        thin = [line for line in ax.get_lines() if line.get_linewidth() == 0.8]
        assert len(thin) == 3 * len(lines)
        assert ax.get_xlim()[0] < 0 < max(WEIGHTS) < ax.get_xlim()[1]


def test_bars_of_the_bill_reach_the_papers_constants_and_attention_lies_beyond(
    drawn: Callable[[str], Figure],
) -> None:
    movies, mosei = drawn("bill").axes
    for ax, constants in ((movies, [1.25261, 10.86908, 12.1]), (mosei, [135.13226, 320.03205])):
        ticks = [line for line in ax.get_lines() if line.get_linewidth() == 2.5]
        assert [line.get_xdata()[0] for line in ticks] == constants
        lefts = {}
        for bar in ax.patches:
            y = round(bar.get_y() + bar.get_height() / 2)
            counted, end = lefts.get(y, (0.0, 0.0))
            kept = 0.0 if bar.get_hatch() else bar.get_width()
            lefts[y] = (counted + kept, max(end, bar.get_x() + bar.get_width()))
        counted = [lefts[y][0] for y in sorted(lefts)]
        assert counted[:2] == pytest.approx(constants[:2], abs=1e-5)
        if ax is movies:
            assert counted[2] == pytest.approx(11.558744)
            assert lefts[2][1] == pytest.approx(counted[2]), "nothing is left out"
        else:
            left_out = [lefts[y][1] - lefts[y][0] for y in (0, 1)]
            assert left_out == pytest.approx([17.4 + 0.35 + 0.13, 39.9 + 0.35 + 0.31])


def test_wrong_tables_are_named() -> None:
    with pytest.raises(ValueError, match="over must be one of madds, share, got 'watts'"):
        figures.pareto(tables("movies"), BILLS, "watts")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tables must have at least one data set"):
        figures.gain_by_share({})
    with pytest.raises(ValueError, match="bills has no 'movies'; it has remarks"):
        figures.pareto(tables("movies"), {"remarks": REMARKS})
    with pytest.raises(
        ValueError, match=rf"tables\['MOSI'\] must have 2 gates, got {len(WEIGHTS)}"
    ):
        figures.shares_by_weight(tables("MOSI"), (0.0, 1.0))
    with pytest.raises(ValueError, match="paper has no 'MM-IMDB'; it has nothing"):
        figures.bill_bars(spending.bills(), {})


# What they read -----------------------------------------------------------------------------------


def test_along_averages_what_was_measured_twice_and_knows_no_value_beyond() -> None:
    found = reading.along([0.5, 0.0, 0.5, 1.0], [4.0, 1.0, 6.0, 9.0], [0.0, 0.25, 0.5, 0.75, 1.0])
    assert found.tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert np.isnan(reading.along([0.2, 0.4], [1.0, 2.0], [0.1, 0.5])).all()


def test_bills_are_those_of_the_networks_part_by_part() -> None:
    found = spending.bills()
    assert {line.part for line in found["MM-IMDB"]["E2"]} == {
        "text encoder",
        "image encoder",
        "head",
    }
    assert {line.part for line in found["MOSEI"]["gate"]} == {"encoder", "head"}
    attention = [madds.total(found["MOSEI"][name], ("attention",)) for name in ("E1", "E2", "gate")]
    assert attention == [17_400_000, 39_900_000, 350_000]


def test_what_madds_promise_is_their_share() -> None:
    ends: Any = spending.promised_share((0.0, 1.0))
    cheap, dear, gate = 689_664, 10_292_224, 562_944  # without batch normalisation
    assert ends == pytest.approx([(gate + c) / (gate + cheap + dear) for c in (cheap, dear)])
