"""Figures of the shoot-out: every entry of a table has its number, and every number its place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from labkit import figures, figures_shootout
from labkit.figures_rivals import ALONE, WAYS_LOOK
from labkit.shootout import plan
from labkit.shootout.reading import OVERALL, SCORES, fronts, means, named

MODALITIES: Mapping[str, Sequence[str]] = {
    "clips": ("rgb", "flow"), "affect": ("language", "audio", "vision"),
    "digits": ("farsi", "kannada", "speech"),
}  # fmt: skip
STUDIES = plan.studies("smoke")
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
    "table": lambda: figures_shootout.shootout_table(scores()),
    "table, 1 set": lambda: figures_shootout.shootout_table(scores("clips", seeds=1), "Who is it?"),
}


def test_both_are_where_all_figures_are_found() -> None:
    assert figures.shootout_front is figures_shootout.shootout_front
    assert figures.shootout_table is figures_shootout.shootout_table


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
        label = " ".join(ax.get_xlabel().split())
        assert label.endswith(f"Front: {'; '.join(on[data])}"), "who is on it is named"
        level = [
            line for line in ax.get_lines() if len({*line.get_ydata()}) == 1 < len(line.get_ydata())
        ]
        assert FLOORS[data] in [line.get_ydata()[0] for line in level]
    assert fig.get_suptitle().endswith("?") and fig.get_supxlabel().endswith(".")
    said = " ".join(fig.get_supxlabel().split())
    assert said.startswith("1 seed;" if "1 seed" in name else "2 seeds;") and score in said
    cost = "weights" if over == "weights" else "multiply-adds of an answer"
    assert fig.axes[0].get_xlabel().startswith(f"{cost}\n")


def test_who_was_trained_on_gaps_is_filled_and_looks_like_who_was_not(
    drawn: Callable[[str], Figure],
) -> None:
    shown = dots(drawn("front").axes[0])
    for entry, dot in shown.items():
        plain = entry in plan.FUSIONS or entry in ("DynMM", "DiCMoR")
        assert (dot.get_markerfacecolor() == "white") == plain, entry
        if entry.endswith(", gaps"):
            twin = shown[entry.removesuffix(", gaps")]
            assert (dot.get_marker(), dot.get_color()) == (twin.get_marker(), twin.get_color())
    small = {entry for entry, dot in shown.items() if dot.get_markersize() < 9}
    assert small == {"rgb taught", "flow taught"}
    looks = {(dot.get_marker(), str(dot.get_color())) for dot in shown.values()}
    assert len(looks) == 2 + 1 + 8 + 1, "modalities, nearest mean, methods, MVAE"
    legend = [text.get_text() for text in drawn("front").legends[0].get_texts()]
    assert legend == [
        "nearest mean", "one modality (small: taught)", *plan.FUSIONS, "DynMM", "DiCMoR", "MVAE",
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
    wanted = {"third alone", "third taught", "X-Norm", "X-Norm, gaps"} if len(sets) > 1 else set()
    assert dashes == wanted
    heads = [text.get_text() for text in ax.texts if hasattr(text, "xy")]
    assert heads == [f"{data} (majority {FLOORS[data]:.1f} %)" for data in sets]
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == ["whole", "missing", "noise", "both", "MAdds"] * len(sets)
    said = " ".join(fig.get_supxlabel().split())
    assert "; ".join(", ".join(MODALITIES[data]) for data in sets) in said
    assert all(meaning in said for meaning in SCORES.values())


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
    assert len(shown) == len({*shown}) == 24
    for way in (*plan.FUSIONS, "DynMM", "DiCMoR"):
        assert shown.index(f"{way}, gaps") == shown.index(way) + 1
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
