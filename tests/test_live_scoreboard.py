"""The board of the shoot-out: every entry and seed, and what its menu shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from labkit.figures_shootout import LOOKS, THIN, THIRD
from labkit.live.pricing import SYMBOLS
from labkit.live.scoreboard import PLAIN, scoreboard
from labkit.shootout.reading import OVERALL, SCORES, fronts, means

CLIPS = ("nearest mean", "rgb alone", "flow alone", "rgb taught", "late", "late, gaps", "MVAE")
LINES = ("front of the means", "majority")
DIGITS = ("nearest mean", "speech alone", "early, gaps")


def table() -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for data, entries in {"clips": CLIPS, "digits": DIGITS}.items():
        for i, entry in enumerate(entries):
            for seed in (0, 1):
                scores = {score: 10.0 * i + k + seed for k, score in enumerate((*SCORES, OVERALL))}
                rows.append({
                    "data": data, "entry": entry, "way": entry.removesuffix(", gaps"), "seed": seed,
                    "gaps": entry.endswith("gaps"), "madds": 1e3 * (i + 1), "weights": 5.0, "floor": 9.0,
                    **scores,
                })  # fmt: skip
    return pd.DataFrame(rows)


def uneven() -> pd.DataFrame:
    """The same of scores and costs by chance, each data set with its own floor."""
    found, noise = table(), np.random.default_rng(0)
    scores = [*SCORES, OVERALL]
    found[scores] = noise.uniform(0, 90, (len(found), len(scores)))
    found["madds"] *= np.where(found["entry"] == "late", 0.5, 1.0)
    return found.assign(floor=found["data"].map({"clips": 9.0, "digits": 12.0}) + found["seed"])


def test_a_dot_is_an_entry_and_a_seed() -> None:
    found, figure = table(), scoreboard(table())
    for trace in figure.data[len(LINES) :]:
        rows = found[(found["data"] == "clips") & (found["entry"] == trace.name)]
        assert [*trace.x] == rows["madds"].tolist() and [*trace.y] == rows[OVERALL].tolist()
        assert (trace.visible is True) == (trace.name in CLIPS)
    names = [trace.name for trace in figure.data]
    assert names == [*LINES, *dict.fromkeys((*CLIPS, *DIGITS))]


def test_the_menu_shows_each_score_on_each_data_set() -> None:
    found, figure = table(), scoreboard(table())
    buttons = figure.layout.updatemenus[0].buttons
    wanted = [(data, score) for data in ("clips", "digits") for score in (OVERALL, *SCORES)]
    assert [button.label for button in buttons] == [f"{data}: {score}" for data, score in wanted]
    for button, (data, score) in zip(buttons, wanted, strict=True):
        changed, axis = button.args
        assert axis["yaxis.title.text"].startswith(score)
        assert {len(values) for values in changed.values()} == {len(figure.data)}
        shown = zip(figure.data, changed["x"], changed["y"], changed["visible"], strict=True)
        for trace, x, y, on in [*shown][len(LINES) :]:
            rows = found[(found["data"] == data) & (found["entry"] == trace.name)]
            assert x == rows["madds"].tolist() and y == rows[score].tolist()
            assert (on is True) == bool(len(rows))


def test_the_front_and_the_majority_follow_the_menu() -> None:
    found, figure = uneven(), scoreboard(uneven())
    rows = means(found).set_index(["data", "entry"])
    wanted = [(data, score) for data in ("clips", "digits") for score in (OVERALL, *SCORES)]
    seen = set()
    for button, (data, score) in zip(figure.layout.updatemenus[0].buttons, wanted, strict=True):
        changed, _ = button.args
        best = [(data, entry) for entry in fronts(found, score=score)[data]]
        assert changed["x"][0] == [rows.loc[at, "madds"] for at in best]
        assert changed["y"][0] == [rows.loc[at, score] for at in best]
        costs = found[found["data"] == data]["madds"]
        assert changed["x"][1] == [costs.min(), costs.max()]
        assert changed["y"][1] == [{"clips": 9.5, "digits": 12.5}[data]] * 2
        assert changed["visible"][:2] == [True, True] and changed["customdata"][:2] == [[], []]
        seen.add(tuple(best))
    assert len(seen) > 2, "fronts differ, or nothing could have been mistaken"
    first = figure.layout.updatemenus[0].buttons[0].args[0]
    for trace, x, y in zip(figure.data[:2], first["x"], first["y"], strict=False):
        assert ([*trace.x], [*trace.y]) == (x, y), "at first as the first button"


def test_lines_cannot_be_taken_for_entries() -> None:
    front, majority = scoreboard(table()).data[:2]
    assert (front.name, majority.name) == LINES
    assert front.line.shape == "hv" and front.line.dash is None and majority.line.dash == "dash"
    assert front.mode == majority.mode == "lines"
    assert front.hoverinfo == majority.hoverinfo == "skip"


def test_every_look_has_a_symbol_and_a_thin_one_can_be_seen() -> None:
    assert {look.marker for look in (*LOOKS.values(), THIRD)} <= {*SYMBOLS, *PLAIN}
    assert all(PLAIN[marker].endswith("-open") for marker in THIN)
    ways = ("DiCMoR's predictor", "DiCMoR's predictor, gaps")
    found = pd.concat([
        table(), *(table()[lambda t: t["entry"] == "late"].assign(entry=way) for way in ways)
    ])  # fmt: skip
    marks = {trace.name: trace.marker for trace in scoreboard(found).data}
    plain, gaps = (marks[way] for way in ways)
    assert plain.symbol == gaps.symbol == "x-thin-open"
    assert 1 <= plain.line.width < gaps.line.width / 1.5
    assert marks["nearest mean"].line.width == gaps.line.width


def test_who_was_trained_on_gaps_is_filled() -> None:
    symbols = {trace.name: trace.marker.symbol for trace in scoreboard(table()).data}
    assert symbols["late"] == f"{symbols['late, gaps']}-open"
    assert not symbols["MVAE"].endswith("open")


def test_nothing_and_the_unknown_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one data set"):
        scoreboard(table()[:0])
    with pytest.raises(ValueError, match="magic"):
        scoreboard(table().assign(entry="magic"))
