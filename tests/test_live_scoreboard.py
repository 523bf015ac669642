"""The board of the shoot-out: every entry and seed, and what its menu shows."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from labkit.live.scoreboard import scoreboard
from labkit.shootout.reading import OVERALL, SCORES

CLIPS = ("nearest mean", "rgb alone", "flow alone", "rgb taught", "late", "late, gaps", "MVAE")
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


def test_a_dot_is_an_entry_and_a_seed() -> None:
    found, figure = table(), scoreboard(table())
    for trace in figure.data:
        rows = found[(found["data"] == "clips") & (found["entry"] == trace.name)]
        assert [*trace.x] == rows["madds"].tolist() and [*trace.y] == rows[OVERALL].tolist()
        assert (trace.visible is True) == (trace.name in CLIPS)
    names = [trace.name for trace in figure.data]
    assert names == [*dict.fromkeys((*CLIPS, *DIGITS))]


def test_the_menu_shows_each_score_on_each_data_set() -> None:
    found, figure = table(), scoreboard(table())
    buttons = figure.layout.updatemenus[0].buttons
    wanted = [(data, score) for data in ("clips", "digits") for score in (OVERALL, *SCORES)]
    assert [button.label for button in buttons] == [f"{data}: {score}" for data, score in wanted]
    for button, (data, score) in zip(buttons, wanted, strict=True):
        changed, axis = button.args
        assert axis["yaxis.title.text"].startswith(score)
        for trace, x, y, on in zip(
            figure.data, changed["x"], changed["y"], changed["visible"], strict=True
        ):
            rows = found[(found["data"] == data) & (found["entry"] == trace.name)]
            assert x == rows["madds"].tolist() and y == rows[score].tolist()
            assert (on is True) == bool(len(rows))


def test_who_was_trained_on_gaps_is_filled() -> None:
    symbols = {trace.name: trace.marker.symbol for trace in scoreboard(table()).data}
    assert symbols["late"] == f"{symbols['late, gaps']}-open"
    assert not symbols["MVAE"].endswith("open")


def test_nothing_and_the_unknown_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one data set"):
        scoreboard(table()[:0])
    with pytest.raises(ValueError, match="magic"):
        scoreboard(table().assign(entry="magic"))
