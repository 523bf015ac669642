"""Figures of notebook 08: what was measured is drawn, in one seed and more, of few ways and of many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from labkit import figures as every
from labkit import figures_exchanging as figures
from labkit.batch import Batch
from labkit.data.clips import Clips, ceilings
from labkit.exchanging.plan import EXCHANGES, FUSIONS, MULTS
from labkit.exchanging.reading import Told
from labkit.models.xnorm import Said, Site, normal

METHODS = ("rgb alone", "flow alone", *FUSIONS)
WAYS = (*METHODS, *EXCHANGES, *MULTS, "early, long")
RHOS = (0.0, 0.25, 0.5, 0.75, 1.0)
SYNERGY = ("rgb alone", "flow alone", "late", "early", "X-Norm", "X-Norm, own")


# Plausible measurements -----------------------------------------------------------------------------


def scores(seeds: int, ways: Sequence[str] = WAYS, solved: bool = True) -> pd.DataFrame:
    """A `measure.table` of one data set."""
    noise, rows = np.random.default_rng(0), []
    for i, (way, seed) in enumerate(itertools.product(ways, range(seeds))):
        won = "X-Norm" in way and "own" not in way and solved
        accuracy = 97 + noise.normal() if won else 50 + 2 * noise.normal()
        rows.append({"way": way, "seed": seed, "accuracy": min(accuracy, 100), "floor": 12.5,
                     "train": min(accuracy + 3 + 20 * (way == "early"), 100),
                     "weights": 50_000 + 4000 * i, "madds": 2_000_000 + 90_000 * i})  # fmt: skip
    return pd.DataFrame(rows)


def over_rho(seeds: int, ways: Sequence[str] = SYNERGY) -> pd.DataFrame:
    """A `measure.rho_table`."""
    noise, rows = np.random.default_rng(1), []
    for rho, way, seed in itertools.product(RHOS, ways, range(seeds)):
        most = ceilings(rho)
        bound = {"X-Norm": "joint", "early": "joint", "X-Norm, own": "late"}
        at = most.get(bound.get(way, way.removesuffix(" alone")), 0.5)
        rows.append({"rho": rho, "way": way, "seed": seed, "floor": 12.5,
                     "accuracy": 100 * at - abs(3 * noise.normal())})  # fmt: skip
    return pd.DataFrame(rows)


def told(pooled: bool = False, silent: bool = False) -> tuple[Told, Batch]:
    """A clip and what a network of one site would make of it."""
    drawn, data = torch.Generator().manual_seed(3), Clips(frames=3, size=12)
    batch = data.look("test", torch.tensor([4]), handle=1, direction=0)
    before = [torch.randn(1, 5, 3, 6, 6, generator=drawn).relu() for _ in range(2)]
    after, said = [], []
    for x in before:
        shape = (1, 5, 1 if pooled else 108)
        gamma, beta = (torch.randn(shape, generator=drawn) for _ in range(2))
        flat = x.flatten(2)
        made = flat + beta + (0 if silent else gamma * normal(flat))
        after.append(made.view_as(x))
        said.append(Said(None if silent else gamma, beta))
    each = torch.full((8,), 0.02)
    each[5] = 0.86
    site = Site((before[0], before[1]), (after[0], after[1]), (said[0], said[1]))
    return Told(each, torch.stack((each, each)), {1: site}), batch


def record(way: str, seed: int, sites: int = 2) -> dict[str, list[float]]:
    """A record of `reading.learning`, with three stages."""
    noise, epochs = np.random.default_rng([seed, len(way)]), np.arange(5.0)
    found = {"epoch": epochs, "accuracy": 50 + 10 * epochs + noise.normal(size=5)}
    for i in range(3):
        found[f"alike {i}"] = 0.2 + 0.1 * epochs + 0.02 * noise.normal(size=5)
    for i in range(sites if way != "late" else 0):
        found[f"before {i}"] = found[f"alike {i}"] - 0.1
        for m in range(2):
            found[f"moved {i}/{m}"] = 0.8 - 0.1 * epochs * m - 0.2 * i + 0.01 * noise.normal(size=5)
    return {name: values.tolist() for name, values in found.items()}


def records(seeds: int, ways: Sequence[str] = ("late", "X-Norm")) -> dict[str, list[Any]]:
    return {way: [record(way, seed) for seed in range(seeds)] for way in ways}


DRAW: dict[str, Callable[[], Figure]] = {
    "synergy": lambda: figures.synergy_curves(over_rho(3)),
    "synergy, 1 seed, 2 ways": lambda: figures.synergy_curves(over_rho(1, ("late", "X-Norm"))),
    "bars": lambda: figures.exchange_bars(scores(3)),
    "bars, 1 seed, few ways": lambda: figures.exchange_bars(scores(1, (*METHODS[2:4], *WAYS[7:10]))),
    "bars, methods alone": lambda: figures.exchange_bars(scores(2, METHODS)),
    "sheet": lambda: figures.exchange_sheet(*told(), Clips().classes, 1),
    "sheet, pooled": lambda: figures.exchange_sheet(*told(True), Clips().classes, 1, frame=0),
    "sheet, beta": lambda: figures.exchange_sheet(*told(silent=True), Clips().classes, 1, channels=(2, 4)),
    "learning": lambda: figures.exchange_learning(records(3), 12.5),
    "learning, 1 seed, 3 ways": lambda: figures.exchange_learning(
        records(1, ("late", "X-Norm, own", "X-Norm")), 12.5
    ),
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


def test_the_synergy_is_drawn_beside_what_can_be_reached(drawn: Callable[[str], Figure]) -> None:
    table, fig = over_rho(3), drawn("synergy")
    left, right = fig.axes
    for ax, ways in ((left, SYNERGY[:2]), (right, SYNERGY[2:])):
        lines = named(ax.get_lines())
        assert tuple(lines) == ways
        for way, line in lines.items():
            mean = [of(table, "accuracy", way=way, rho=rho).mean() for rho in RHOS]
            np.testing.assert_allclose(line.get_ydata(), mean)
        dots = [
            y for line in ax.get_lines() if line.get_markersize() == 4 for y in line.get_ydata()
        ]
        wanted = [y for way in ways for y in of(table, "accuracy", way=way)]
        np.testing.assert_allclose(sorted(dots), sorted(wanted))
        floor = [line for line in ax.get_lines() if set(line.get_ydata()) == {12.5}]
        assert len(floor) == 1
    thin = [line for ax in fig.axes for line in ax.get_lines() if len(line.get_xdata()) == 101]
    assert len(thin) == 4
    for line, name in zip(thin, ("rgb", "flow", "late", "joint"), strict=True):
        most = [100 * ceilings(float(rho))[name] for rho in line.get_xdata()]
        np.testing.assert_allclose(line.get_ydata(), most)
    assert thin[0].get_color() == named(left.get_lines())["rgb alone"].get_color()
    assert len(drawn("synergy, 1 seed, 2 ways").axes) == 1


def test_the_bars_draw_each_seed_and_what_was_learnt_by_heart(
    drawn: Callable[[str], Figure],
) -> None:
    table, fig = scores(3), drawn("bars")
    ax = fig.axes[0]
    lines = named(ax.get_lines())
    assert [*lines] == [*METHODS, *EXCHANGES, *MULTS, "early, long"]
    assert [t.get_text() for t in ax.get_yticklabels()][8] == "X-Norm, own parameters"
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    for y, ((way, mark), before) in enumerate(zip(lines.items(), hollow, strict=True)):
        assert mark.get_ydata()[0] == before.get_ydata()[0] == y
        assert mark.get_xdata()[0] == pytest.approx(of(table, "accuracy", way=way).mean())
        assert before.get_xdata()[0] == pytest.approx(of(table, "train", way=way).mean())
    np.testing.assert_allclose(small(ax), sorted(table["accuracy"]))
    upright = [line.get_xdata()[0] for line in ax.get_lines() if [*line.get_ydata()] == [0, 1]]
    assert upright == [12.5, 75.0]
    numbers = [t.get_text() for t in ax.texts][: len(WAYS)]
    assert numbers == [f"{of(table, 'accuracy', way=way).mean():.1f}" for way in lines]
    assert "Below the line" in fig.get_supxlabel()
    assert "Below the line" not in drawn("bars, methods alone").get_supxlabel()


@pytest.mark.parametrize("name", ["sheet", "sheet, pooled", "sheet, beta"])
def test_the_sheet_shows_a_map_step_by_step(name: str, drawn: Callable[[str], Figure]) -> None:
    fig = drawn(name)
    (found, batch), frame = told(name == "sheet, pooled", name == "sheet, beta"), 1
    if name == "sheet, pooled":
        frame = 0
    axes = np.array(fig.axes).reshape(2, 6)
    seen = axes[0, 0].images[0].get_array()
    np.testing.assert_allclose(
        seen, (batch.x["rgb"][0, :, frame] + 0.5).clip(0, 1).movedim(0, 2), atol=1e-6
    )
    np.testing.assert_allclose(axes[1, 0].images[0].get_array(), batch.x["flow"][0, 0, frame])
    (arrows,) = axes[1, 0].collections
    u, v = batch.x["flow"][0, :, frame].view(2, 6, 2, 6, 2).mean((2, 4)).flatten(1)
    np.testing.assert_allclose(np.stack((arrows.U, arrows.V)), np.stack((u, v)), rtol=1e-5)
    site = found.sites[1]
    for m, row in enumerate(axes):
        moved = (site.after[m] - site.before[m])[0, :, frame]
        most = moved.flatten(1).norm(dim=1).argmax()
        channel = (2, 4)[m] if name == "sheet, beta" else int(most)
        assert row[1].get_ylabel() == f"map {channel}"
        x, even, gamma, beta, after = (ax.images[0].get_array().data for ax in row[1:])
        np.testing.assert_array_equal(x, site.before[m][0, channel, frame])
        np.testing.assert_array_equal(after, site.after[m][0, channel, frame])
        np.testing.assert_allclose(after, x + gamma * even + beta, atol=1e-5)
        assert row[1].images[0].get_clim() == row[5].images[0].get_clim()
        dashes = row[2].collections[0].get_offsets()
        assert len(dashes) == (even < 0).sum() > 0
        assert (row[3].get_xlabel() == "none") == (name == "sheet, beta")
        flat = float(np.ptp(beta)) == 0
        assert flat == (name == "sheet, pooled")
    assert "True: close the columns; answer: close the rows, 86% sure" in fig.get_supxlabel()


def test_learning_draws_each_seed_and_maps_before_and_after(drawn: Callable[[str], Figure]) -> None:
    fig, wanted = drawn("learning"), records(3)
    score, moved, *stages = fig.axes

    def mean(way: str, what: str) -> np.ndarray:
        return np.mean([one[what] for one in wanted[way]], 0)

    for way, line in zip(wanted, named(score.get_lines()).values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), mean(way, "accuracy"))
    lines = named(moved.get_lines())
    assert [*lines] == ["rgb, stage 1", "flow, stage 1", "rgb, stage 2", "flow, stage 2"]
    np.testing.assert_allclose(lines["flow, stage 2"].get_ydata(), mean("X-Norm", "moved 1/1"))
    assert len({(line.get_color(), line.get_ls()) for line in lines.values()}) == 4
    assert [ax.get_title(loc="left")[-1] for ax in stages] == list("123")
    for i, ax in enumerate(stages):
        thick = [line for line in ax.get_lines() if line.get_marker() != "None"]
        assert len(ax.get_lines()) == 4 * len(thick), "each mean beside its three seeds"
        names = [("late", f"alike {i}"), ("X-Norm", f"alike {i}"), ("X-Norm", f"before {i}")]
        assert len(thick) == (3 if i < 2 else 2), "no exchange behind the last stage"
        for line, name in zip(thick, names, strict=False):
            np.testing.assert_allclose(line.get_ydata(), mean(*name))
        assert [line.get_markerfacecolor() for line in thick[2:]] == ["white"] * (i < 2)


# Looks, and what is refused -------------------------------------------------------------------------


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(
        ValueError, match="way must be one of late, .*, or a changed one; got 'magic'"
    ):
        figures.exchange_bars(scores(1, ("late", "magic")))
    with pytest.raises(ValueError, match="ceilings has no 'audio'; it has rgb, flow"):
        figures.synergy_curves(over_rho(1, ("audio alone",)))
    with pytest.raises(ValueError, match="table must have all rhos of 'X-Norm, own', seed 2 lacks"):
        figures.synergy_curves(over_rho(3).iloc[:-1])
    (found, batch), classes = told(), Clips().classes
    for wrong, message in (
        ({"site": 0}, "site must be one of 1; got 0"),
        ({"site": 1, "frame": 3}, "frame must be one of 3, from 0; got 3"),
        ({"site": 1, "channels": (0, 5)}, r"channels must be two of 5 maps, from 0; got \(0, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            figures.exchange_sheet(found, batch, classes, **wrong)
    two = Batch({name: torch.cat((x, x)) for name, x in batch.x.items()}, y=torch.zeros(2).long())
    with pytest.raises(ValueError, match="batch must be one labelled clip, got 2"):
        figures.exchange_sheet(found, two, classes, 1)
    with pytest.raises(ValueError, match="records must end with a way that exchanges, got 'late'"):
        figures.exchange_learning(records(1, ("X-Norm", "late")), 12.5)
    with pytest.raises(ValueError, match="records must have one of each way at least, got"):
        figures.exchange_learning({"late": [], "X-Norm": [record("X-Norm", 0)]}, 12.5)


def test_a_title_can_state_the_finding_and_all_are_found_in_one_place() -> None:
    title = "It is the exchange"
    assert every.exchange_bars(scores(1, METHODS), title=title).get_suptitle() == title
    assert every.bench_board is figures.bench_board
