"""Boards: many results as dots that say what they are when pointed at; plotly, without a kernel.

A board is kept in the notebook as plotly's own JSON, which JupyterLab draws, and as a picture for pages
where no script runs. There is no widget behind it: it opens with the notebook, alive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from labkit.figures import Picture

MIME = "application/vnd.plotly.v1+json"


class Board:
    """A plotly figure and its twin, ready to be the last line of a cell.

    Attributes:
        figure: The plotly figure.
        twin: The same as a stored picture (see `labkit.figures.show`).
    """

    def __init__(self, figure: go.Figure, twin: Picture) -> None:
        self.figure, self.twin = figure, twin

    def __repr__(self) -> str:
        return f"Board: {self.twin.alt}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {**self.twin._repr_mimebundle_(), MIME: json.loads(self.figure.to_json())}


def scatter(
    columns: Mapping[str, Sequence[float]],
    x: Sequence[str],
    y: str,
    color: str,
    *,
    digits: int = 2,
) -> go.Figure:
    """Dots to hover over and to zoom into, with a choice of what is to the right.

    Args:
        columns: Name, with its unit -> a number a dot. Hovering shows them all.
        x: Columns to choose from for the x axis; the first is shown first.
        y: Column of the y axis.
        color: Column of the colour, on a scale that every eye can read.
        digits: Decimals shown when hovering.

    Raises:
        ValueError: if a column is not there, or columns differ in length.
    """
    for name in (*x, y, color):
        if name not in columns:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(columns)}")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must be equally long, got {lengths}")
    table = np.round(np.array([list(columns[name]) for name in columns], float), 6).T.tolist()
    hover = "<br>".join(
        f"{name}: %{{customdata[{i}]:.{digits}f}}" for i, name in enumerate(columns)
    )
    dots = go.Scatter(
        x=list(columns[x[0]]), y=list(columns[y]), mode="markers", customdata=table,
        hovertemplate=hover + "<extra></extra>",
        marker={"size": 9, "color": list(columns[color]), "colorscale": "Cividis", "showscale": True,
                "colorbar": {"title": {"text": color, "side": "right"}},
                "line": {"width": 0.5, "color": "white"}},
    )  # fmt: skip
    buttons = [
        {"label": name, "method": "update",
         "args": [{"x": [list(columns[name])]}, {"xaxis.title.text": name}]}
        for name in x
    ]  # fmt: skip
    figure = go.Figure(dots)
    figure.update_layout(
        template="plotly_white", width=860, height=460, margin={"l": 70, "r": 20, "t": 60, "b": 60},
        font={"size": 14}, xaxis={"title": {"text": x[0]}},
        yaxis={"title": {"text": y}, "zerolinecolor": "#666666"},
        updatemenus=[{"buttons": buttons, "type": "buttons", "direction": "right", "x": 0,
                      "xanchor": "left", "y": 1.16, "showactive": True}],
    )  # fmt: skip
    return figure
