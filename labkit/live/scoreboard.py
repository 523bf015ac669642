"""A board of the shoot-out to hover over: every entry and seed, by score and cost."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from labkit.drawing import INK, SOFT, Look
from labkit.figures_shootout import COSTS, THIN, looks_in
from labkit.live.pricing import SYMBOLS
from labkit.shootout.reading import OVERALL, SCORES, fronts, means

PLAIN = {
    "h": "hexagon", "*": "star", "p": "pentagon", "1": "y-down-open", "+": "cross-thin-open",
    "x": "x-thin-open", "d": "diamond-tall",
}  # fmt: skip


def scoreboard(found: pd.DataFrame) -> go.Figure:
    """Right answers over cost, the front of the means and the majority; a menu chooses data and score.

    Args:
        found: Of `labkit.shootout.reading.scores`.

    Raises:
        ValueError: if it is empty, or has an entry of an unknown method.
    """
    names = [*dict.fromkeys(found["data"])]
    if not names:
        raise ValueError("found must have at least one data set, got none")
    entries = [*dict.fromkeys(found["entry"])]
    looks: dict[str, Look] = {}
    for name in names:
        looks |= looks_in([*dict.fromkeys(found[found["data"] == name]["entry"])])
    dots = [_dots(found, names[0], entry, looks[entry]) for entry in entries]
    figure = go.Figure([*_lines(found, names[0]), *dots])
    figure.update_layout(
        template="plotly_white", width=960, height=560, margin={"l": 70, "r": 20, "t": 70, "b": 60},
        font={"size": 14}, legend={"x": 1.01, "y": 1, "font": {"size": 11}},
        xaxis={"title": {"text": COSTS["madds"]}, "tickformat": "~s", "type": "log", "dtick": "D2"},
        yaxis={"title": {"text": f"{OVERALL}, right answers, held-out (%)"}},
        updatemenus=[
            {"buttons": [_scored(found, names, entries, name, score) for name in names
                         for score in (OVERALL, *SCORES)],
             "type": "dropdown", "direction": "down", "x": 0, "xanchor": "left", "y": 1.14},
        ],
    )  # fmt: skip
    return figure


def _rows(found: pd.DataFrame, name: str, entry: str) -> pd.DataFrame:
    return found[(found["data"] == name) & (found["entry"] == entry)]


def _scored(
    found: pd.DataFrame, names: list[str], entries: list[str], name: str, score: str
) -> dict[str, Any]:
    rows = [_rows(found, name, entry) for entry in entries]
    lines = [_front(found, name, score), _majority(found, name)]
    data = {
        "x": [*(x for x, _ in lines), *(each["madds"].tolist() for each in rows)],
        "y": [*(y for _, y in lines), *(each[score].tolist() for each in rows)],
        "customdata": [*([] for _ in lines), *(_told(each) for each in rows)],
        "visible": [
            *(True for _ in lines),
            *(True if len(each) else "legendonly" for each in rows),
        ],
    }
    label = f"{name}: {score}" if len(names) > 1 else score
    axis = {"yaxis.title.text": f"{score}, right answers, held-out (%)"}
    return {"label": label, "method": "update", "args": [data, axis]}


def _front(found: pd.DataFrame, name: str, score: str) -> tuple[list[float], list[float]]:
    """Costs and scores of the front of the means."""
    part = found[found["data"] == name]
    best = means(part).set_index("entry").loc[fronts(part, score=score)[name]]
    return best["madds"].tolist(), best[score].tolist()


def _majority(found: pd.DataFrame, name: str) -> tuple[list[float], list[float]]:
    """From the smallest to the largest cost, the rate of the most frequent class."""
    part = found[found["data"] == name]
    costs = part["madds"]
    return [float(costs.min()), float(costs.max())], [float(part["floor"].mean())] * 2


def _lines(found: pd.DataFrame, name: str) -> list[go.Scatter]:
    """The front and the majority; first of all, to lie under the dots."""
    looks = {
        "front of the means": {"color": INK, "width": 1, "shape": "hv"},
        "majority": {"color": SOFT, "width": 1.2, "dash": "dash"},
    }
    data = (_front(found, name, OVERALL), _majority(found, name))
    return [
        go.Scatter(x=x, y=y, mode="lines", name=called, line=line, hoverinfo="skip")
        for (x, y), (called, line) in zip(data, looks.items(), strict=True)
    ]


def _told(rows: pd.DataFrame) -> list[list[float]]:
    """What hovering says of each dot."""
    columns = rows[["seed", *SCORES, "madds", "weights", "floor"]]
    return [[float(v) for v in row] for row in columns.to_numpy(float).round(2)]


def _dots(found: pd.DataFrame, name: str, entry: str, look: Look) -> go.Scatter:
    rows = _rows(found, name, entry)
    scores = "<br>".join(
        f"{score}: %{{customdata[{i}]:.1f}} %" for i, score in enumerate(SCORES, 1)
    )
    last = len(SCORES) + 1
    says = (
        f"{entry}, seed %{{customdata[0]}}<br>{scores}<br>MAdds: %{{customdata[{last}]:,.0f}}<br>weights: "
        f"%{{customdata[{last + 1}]:,.0f}}<br>majority: %{{customdata[{last + 2}]:.1f}} %"
    )
    symbol = {**SYMBOLS, **PLAIN}[look.marker]
    single = entry.endswith((" alone", " taught", " mean"))
    hollow = not single and not entry.endswith(", gaps") and entry != "MVAE"
    width = (1.3 if hollow else 2.5) if look.marker in THIN else 1.5 if hollow else 0.5
    return go.Scatter(
        x=rows["madds"].tolist(), y=rows[OVERALL].tolist(), mode="markers", name=entry,
        customdata=_told(rows), hovertemplate=says + "<extra></extra>",
        visible=True if len(rows) else "legendonly",
        marker={"color": look.color, "size": 8 if entry.endswith(" taught") else 11,
                "symbol": f"{symbol}-open" if hollow and not symbol.endswith("open") else symbol,
                "line": {"width": width, "color": look.color if hollow else "white"}},
    )  # fmt: skip
