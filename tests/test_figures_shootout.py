"""Figures of the shoot-out: every entry of a table has its number, and every number its place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from labkit import figures, figures_shootout
from labkit.figures_rivals import ALONE, WAYS_LOOK
from labkit.metrics import mean_ci
from labkit.shootout import plan
from labkit.shootout.reading import OVERALL, SCORES, front, fronts, means, named

MODALITIES: Mapping[str, Sequence[str]] = {
    "clips": ("rgb", "flow"), "affect": ("language", "audio", "vision"),
    "digits": ("farsi", "kannada", "speech"),
}  # fmt: skip
STUDIES = plan.studies("smoke")
TWICE = (*plan.FUSIONS, "DynMM", "DiCMoR's predictor", "DiCMoR")  # on complete data and on gaps
FILLED = (plan.REGRESSION, plan.PAIRED)  # on complete data alone
FLOORS = {"clips": 12.5, "affect": 20.0, "digits": 10.0}


def scores(*names: str, seeds: int = 2) -> pd.DataFrame:
    """As of `reading.scores`, of all that enter; costs apart, scores by chance."""
    noise, rows = np.random.default_rng(0), []
    for name in names or MODALITIES:
        for k, (way, gaps) in enumerate(STUDIES[name].ways):
            for seed in range(seeds):
                values = {score: 40 + 10 * noise.random() + k for score in SCORES}
                rows.append({
                    "data": name, "way": way, "gaps": gaps, "seed": seed, **values,
                    OVERALL: np.mean([*values.values()]), "floor": FLOORS[name],
                    "madds": 1e5 * 1.2**k, "weights": 2e4 * 1.1**k, "entry": named(way, gaps),
                })  # fmt: skip
    return pd.DataFrame(rows)


DRAW: dict[str, Callable[[], Figure]] = {
    "front": lambda: figures_shootout.shootout_front(scores()),
    "front, weights": lambda: figures_shootout.shootout_front(
        scores("affect"), "missing", "weights", "Who is right, over what it weighs?"
    ),
    "front, 1 seed": lambda: figures_shootout.shootout_front(scores("clips", "digits", seeds=1)),
    "front, 3 seeds": lambda: figures_shootout.shootout_front(scores("affect", "clips", seeds=3)),
    "table": lambda: figures_shootout.shootout_table(scores()),
    "table, 1 set": lambda: figures_shootout.shootout_table(scores("clips", seeds=1), "Who is it?"),
}


def test_both_are_where_all_figures_are_found() -> None:
    assert figures.shootout_front is figures_shootout.shootout_front
    assert figures.shootout_table is figures_shootout.shootout_table


@pytest.mark.parametrize("name", DRAW)
def test_every_text_can_be_read(
    name: str, drawn: Callable[[str], Figure], legible: Callable[[Figure], None]
) -> None:
    legible(drawn(name))


# The front ------------------------------------------------------------------------------------------------


def dots(ax: Axes) -> dict[str, Line2D]:
    """Entry -> its dot."""
    return {
        str(line.get_label()): line for line in ax.get_lines() if str(line.get_label())[0] != "_"
    }


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("front", ("clips", "affect", "digits")), ("front, weights", ("affect",)),
        ("front, 1 seed", ("clips", "digits")),
    ],
)  # fmt: skip
def test_a_panel_a_data_set_a_dot_an_entry(
    drawn: Callable[[str], Figure], name: str, sets: Sequence[str]
) -> None:
    fig = drawn(name)
    assert [ax.get_title() or ax.get_title(loc="left") for ax in fig.axes] == [*sets]
    found = scores(*sets, seeds=1 if "1 seed" in name else 2)
    score, over = ("missing", "weights") if "weights" in name else (OVERALL, "madds")
    cost = (
        "weights, decoders included" if over == "weights" else "multiply-adds, everything visible"
    )
    rows, on = means(found), fronts(found, over, score)
    for data, ax in zip(sets, fig.axes, strict=True):
        part = rows[rows["data"] == data].set_index("entry")
        shown = dots(ax)
        assert [*shown] == [named(*entry) for entry in STUDIES[data].ways]
        for entry, dot in shown.items():
            assert dot.get_xdata()[0] == pytest.approx(part.loc[entry, over])
            assert dot.get_ydata()[0] == pytest.approx(part.loc[entry, score])
        assert ax.get_xscale() == "log"
        steps = next(line for line in ax.get_lines() if line.get_drawstyle() == "steps-post")
        np.testing.assert_allclose(steps.get_xdata(), part.loc[on[data], over])
        np.testing.assert_allclose(steps.get_ydata(), part.loc[on[data], score])
        names = on[data] if "1 seed" in name else counted(found, data, on[data], over, score)
        label = " ".join(ax.get_xlabel().split())
        assert label == f"{cost} Front: {'; '.join(names)}", "who is on it is named"
        level = [
            line for line in ax.get_lines() if len({*line.get_ydata()}) == 1 < len(line.get_ydata())
        ]
        assert FLOORS[data] in [line.get_ydata()[0] for line in level]
    assert fig.get_suptitle().endswith("?") and fig.get_supxlabel().endswith(".")
    said = " ".join(fig.get_supxlabel().split())
    assert said.startswith("1 seed;" if "1 seed" in name else "2 seeds;") and score in said
    assert ("Lines through dots: all seeds." in said) == ("1 seed" not in name)
    assert ("In brackets: on how many seeds' front." in said) == ("1 seed" not in name)


def counted(
    found: pd.DataFrame, data: str, best: Sequence[str], over: str, score: str
) -> list[str]:
    """Names on the front of the means, each with the seeds that have it on theirs."""
    part = found[found["data"] == data]
    seeds = [rows.set_index("entry") for _, rows in part.groupby("seed")]
    on = [front(rows[over].to_dict(), rows[score].to_dict()) for rows in seeds]
    return [f"{e} ({sum(e in each for each in on)} of {len(on)})" for e in best]


@pytest.mark.parametrize(
    ("name", "score", "over"),
    [("front, 3 seeds", OVERALL, "madds"), ("front, weights", "missing", "weights")],
)
def test_a_line_goes_from_the_lowest_seed_to_the_highest(
    drawn: Callable[[str], Figure], name: str, score: str, over: str
) -> None:
    sets, seeds = (("affect",), 2) if over == "weights" else (("affect", "clips"), 3)
    found = scores(*sets, seeds=seeds)
    for data, ax in zip(sets, drawn(name).axes, strict=True):
        (lines,) = (c for c in ax.collections if isinstance(c, LineCollection))
        shown = dots(ax)
        assert len(lines.get_segments()) == len(shown)
        for (low, high), color, (entry, dot) in zip(
            lines.get_segments(), lines.get_colors(), shown.items(), strict=True
        ):
            values = found[(found["data"] == data) & (found["entry"] == entry)][score]
            assert low[0] == high[0] == pytest.approx(dot.get_xdata()[0])
            assert (low[1], high[1]) == (values.min(), values.max()), entry
            assert low[1] < dot.get_ydata()[0] < high[1]
            assert tuple(color) == to_rgba(str(dot.get_color()), 0.5)
        assert lines.get_zorder() < min(dot.get_zorder() for dot in shown.values())
        assert str(lines.get_label()).startswith("_")


def test_a_single_seed_has_no_lines(drawn: Callable[[str], Figure]) -> None:
    assert not any(ax.collections for ax in drawn("front, 1 seed").axes)


def test_it_is_counted_in_how_many_seeds_an_entry_is_on_the_front() -> None:
    values = {"late": (50, 50, 50), "early": (60, 40, 60), "MISA": (55, 55, 55), "MulT": (70, 1, 1)}
    rows = [
        {"data": data, "entry": entry, "seed": seed, "way": entry, "gaps": False, "floor": 9.0,
         "madds": 1e3 * (i + 1), "weights": 1e3 * (4 - i), OVERALL: score, "missing": -score}
        for data in ("clips", "digits") for i, (entry, each) in enumerate(values.items())
        for seed, score in enumerate(each if data == "clips" else each[::-1])
    ]  # fmt: skip
    found, kept = pd.DataFrame(rows), figures_shootout._kept
    assert kept(found, "clips", "madds", OVERALL) == {"late": 3, "early": 2, "MISA": 1, "MulT": 1}
    assert kept(found, "clips", "weights", OVERALL) == {"late": 0, "early": 1, "MISA": 2, "MulT": 3}
    assert kept(found, "clips", "madds", "missing") == {"late": 3, "early": 1, "MISA": 0, "MulT": 2}
    fig = figures_shootout.shootout_front(found)
    said = [" ".join(ax.get_xlabel().split()).partition("Front: ")[2] for ax in fig.axes]
    assert said == ["late (3 of 3); early (2 of 3); MISA (1 of 3)"] * 2


def test_who_was_trained_on_gaps_is_filled_and_looks_like_who_was_not(
    drawn: Callable[[str], Figure],
) -> None:
    shown = dots(drawn("front").axes[0])
    for entry, dot in shown.items():
        assert (dot.get_markerfacecolor() == "white") == (entry in (*TWICE, *FILLED)), entry
        if entry.endswith(", gaps") and entry.removesuffix(", gaps") not in (
            *plan.PATIENT,
            plan.BARE,
        ):
            twin = shown[entry.removesuffix(", gaps")]
            assert (dot.get_marker(), dot.get_color()) == (twin.get_marker(), twin.get_color())
            thin = dot.get_marker() in figures_shootout.THIN
            assert not thin or dot.get_markeredgewidth() > 2 * twin.get_markeredgewidth()
    small = {entry for entry, dot in shown.items() if dot.get_markersize() < 9}
    assert small == {"rgb taught", "flow taught"}
    looks = {(dot.get_marker(), str(dot.get_color())) for dot in shown.values()}
    assert len(looks) == 2 + 1 + len(TWICE) + len(FILLED) + 4, (
        "modalities, nearest mean, methods, what fills in, two for long, one bare, MVAE"
    )
    legend = [text.get_text() for text in drawn("front").legends[0].get_texts()]
    assert legend == [
        "nearest mean", "one modality (small: taught)", *TWICE[:2], "early, long", TWICE[2],
        "MISA, bare", *TWICE[3:6], "X-Norm, long", *TWICE[6:], *FILLED, "MVAE",
    ]  # fmt: skip


def test_costs_are_said_in_short() -> None:
    short = figures_shootout._short
    assert [short(v) for v in (0, 999, 1000, 2500, 1e6, 3.5e6)] == [
        "0",
        "999",
        "1k",
        "2.5k",
        "1M",
        "3.5M",
    ]


# The table ------------------------------------------------------------------------------------------------


def cells(ax: Axes) -> dict[tuple[int, int], Any]:
    """(row, column) -> text; texts of headings stand elsewhere."""
    found: dict[tuple[int, int], Any] = {}
    for text in ax.texts:
        x, y = text.get_position()
        if not hasattr(text, "xy"):
            assert (round(y), round(x)) not in found, "two texts in one cell"
            found[round(y), round(x)] = text
    return found


@pytest.mark.parametrize(
    ("name", "sets"), [("table", (*MODALITIES,)), ("table, 1 set", ("clips",))]
)
def test_every_cell_has_a_text_and_it_is_its_number(
    drawn: Callable[[str], Figure], name: str, sets: Sequence[str]
) -> None:
    fig = drawn(name)
    (ax,) = fig.axes
    rows = means(scores(*sets, seeds=1 if len(sets) == 1 else 2))
    shown = [label.get_text() for label in ax.get_yticklabels()]
    texts = cells(ax)
    columns = [*SCORES, "madds"]
    assert texts.keys() == {*itertools.product(range(len(shown)), range(5 * len(sets)))}
    there = 0
    for k, data in enumerate(sets):
        part = rows[rows["data"] == data].set_index("entry")
        places = dict(zip(("first", "second", "third"), MODALITIES[data], strict=False))
        for i, label in enumerate(shown):
            place, _, role = label.rpartition(" ")
            entry = f"{places.get(place)} {role}" if role in ("alone", "taught") else label
            for j, column in enumerate(columns):
                said = texts[i, 5 * k + j].get_text()
                if entry not in part.index:
                    assert said == "–", "a method that cannot take the data has a dash"
                    continue
                there += 1
                value = part.loc[entry, column]
                assert said == (f"{value / 1e3:,.0f}" if column == "madds" else f"{value:.1f}")
                best = column != "madds" and value == part[column].max()
                assert (texts[i, 5 * k + j].get_weight() == "bold") == best
    assert there == 5 * len(rows), "every entry of every data set"
    dashes = {shown[i] for (i, _), text in texts.items() if text.get_text() == "–"}
    wanted = (
        {"third alone", "third taught", "X-Norm", "X-Norm, gaps", "X-Norm, long, gaps"}
        if len(sets) > 1
        else set()
    )
    assert dashes == wanted
    heads = [text.get_text() for text in ax.texts if hasattr(text, "xy")]
    assert heads == [f"{data} (majority {FLOORS[data]:.1f} %)" for data in sets]
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == ["whole", "missing", "noise", "both", "MAdds"] * len(sets)
    said = " ".join(fig.get_supxlabel().split())
    assert "; ".join(", ".join(MODALITIES[data]) for data in sets) in said
    assert all(meaning in said for meaning in SCORES.values())
    assert ("Half a 95 % interval" in said) == (len(sets) > 1), "of a single seed there is none"


def test_the_table_says_how_much_seeds_differ() -> None:
    found = scores("clips", "affect", seeds=3)
    halves = [
        mean_ci(found[(found["data"] == data) & (found["entry"] == entry)][score].tolist())[1]
        for data, entry in dict.fromkeys(zip(found["data"], found["entry"], strict=True))
        for score in SCORES
    ]
    said = " ".join(figures_shootout.shootout_table(found).get_supxlabel().split())
    assert (
        f"Half a 95 % interval over seeds: {np.median(halves):.1f} points in the median, "
        f"{max(halves):.1f} at most." in said
    )


def test_darker_is_nearer_to_the_best_and_can_be_read(drawn: Callable[[str], Figure]) -> None:
    (ax,) = drawn("table").axes
    boxes = {(round(p.get_y() + 0.46), round(p.get_x() + 0.48)): p for p in ax.patches}
    texts = cells(ax)
    numbers = {at for at, text in texts.items() if text.get_text() != "–" and at[1] % 5 < 4}
    assert boxes.keys() == numbers, "a colour for every score, and none for costs or dashes"
    weights = np.array([0.299, 0.587, 0.114])  # of red, green and blue in lightness
    for column in (j for j in range(15) if j % 5 < 4):
        here = [at for at in numbers if at[1] == column]
        here.sort(key=lambda at: float(texts[at].get_text()))
        light = [float(weights @ boxes[at].get_facecolor()[:3]) for at in here]
        assert all(a >= b - 0.01 for a, b in itertools.pairwise(light)), "up to what is rounded"
        assert light[0] - light[-1] > 0.2
        for at, value in zip(here, light, strict=True):
            ink = texts[at].get_color()
            assert (ink == "white") == (value < 0.5) or 0.35 < value < 0.65


def test_methods_stand_with_what_they_are_when_trained_on_gaps(
    drawn: Callable[[str], Figure],
) -> None:
    shown = [label.get_text() for label in drawn("table").axes[0].get_yticklabels()]
    assert len(shown) == len({*shown}) == 31
    for way in TWICE:
        assert shown.index(f"{way}, gaps") == shown.index(way) + 1
    for long, way in plan.PATIENT.items():
        assert shown.index(f"{long}, gaps") == shown.index(f"{way}, gaps") + 1
    single = [label for label in shown if label.endswith((" alone", " taught"))]
    assert shown[: len(single)] == single and len(single) == 6


# Looks, and what is refused -------------------------------------------------------------------------------


def test_a_modality_looks_like_its_place() -> None:
    looks = figures_shootout.looks_in
    two = looks(["rgb alone", "flow alone", "rgb taught", "flow taught", "late", "late, gaps"])
    assert two["rgb alone"] == two["rgb taught"] == ALONE[0]
    assert two["flow alone"] == two["flow taught"] == ALONE[1]
    assert two["late"] == two["late, gaps"] == WAYS_LOOK["late"]
    three = looks([f"{m} alone" for m in MODALITIES["affect"]])
    assert three["vision alone"] == figures_shootout.THIRD
    assert len({(look.color, look.marker) for look in three.values()}) == 3
    assert looks([]) == {}


@pytest.mark.parametrize("entry", ["magic", "magic, gaps", "sound taught", "alone"])
def test_an_unknown_entry_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=f"entry must be of one of late, .*; got '{entry}'"):
        figures_shootout.looks_in(["rgb alone", entry])
    found = scores("clips")
    found.loc[found["entry"] == "late", "entry"] = entry
    with pytest.raises(ValueError, match=f"got '{entry}'"):
        figures_shootout.shootout_front(found)


def test_an_unknown_score_or_nothing_is_refused() -> None:
    with pytest.raises(KeyError, match="luck"):
        figures_shootout.shootout_front(scores("clips"), "luck")
