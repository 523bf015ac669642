"""What fusion costs (X-Norm's bench): weights, multiply-adds and right answers of all methods.

`price` is the lab, `pareto` a board to hover over. Both read a finished table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from labkit.figures_rivals import looks_of
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, number
from labkit.shootout import reading

COSTS = {
    "madds": "multiply-adds of an answer", "weights": "weights", "training": "multiply-adds of the training"
}  # fmt: skip
UNITS = {
    "madds": ("million MAdds", 1e6), "weights": ("thousand weights", 1e3),
    "training": ("billion MAdds of training", 1e9),
}  # fmt: skip
SHORT = {"Gradient-Blending": "Blending"}  # names beside bars
SYMBOLS = {
    "<": "triangle-left", ">": "triangle-right", "s": "square", "^": "triangle-up", "D": "diamond",
    "v": "triangle-down", "P": "cross", "o": "circle", "X": "x",
}  # fmt: skip


class Offer(NamedTuple):
    """One method on one data set: its costs by name, and right answers in %, mean over seeds."""

    costs: Mapping[str, float]
    accuracy: float


def offers(table: pd.DataFrame, name: str) -> dict[str, Offer]:
    """Way -> offer on one data set of a table of `labkit.exchanging.measure.table`."""
    found = table[table["data"] == name].groupby("way", sort=False)[[*COSTS, "accuracy"]].mean()
    return {
        str(way): Offer({cost: float(row[cost]) for cost in COSTS}, float(row["accuracy"]))
        for way, row in found.iterrows()
    }


def front(found: Mapping[str, Offer], over: str) -> list[str]:
    """Ways that are better than all that cost as little or less, the cheapest first."""
    costs = {way: offer.costs[over] for way, offer in found.items()}
    return reading.front(costs, {way: offer.accuracy for way, offer in found.items()})


# The lab ------------------------------------------------------------------------------------------


def price(table: pd.DataFrame, states: Sequence[str] = ()) -> Lab:
    """Costs and right answers of all methods; what is the best for a budget?

    Args:
        table: Of `labkit.exchanging.measure.table`.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the table is empty.
    """
    names = [*dict.fromkeys(table["data"])]
    if not names:
        raise ValueError("table must have at least one data set, got none")
    high = max(
        2.0,
        float(np.ceil(max(_range(offers(table, name), cost) for name in names for cost in COSTS))),
    )
    fields = [
        ("budget", float, number(high, 1.0, high, "budget", "What a method may cost, in multiples of the "
         "cheapest one on these data.", unit="×", log=True)),
        ("over", str, choice("madds", tuple(COSTS), "cost", "madds: multiply-adds of one answer; weights: of "
         "the network; training: multiply-adds of the whole training, a step backward counted as two "
         "forward.")),
    ]  # fmt: skip
    if len(names) > 1:
        fields.append(("data", str, choice(names[0], names, "data", "On which data set.")))
    presets: dict[str, Mapping[str, Any]] = {
        "No limit": {}, "By weights": {"over": "weights"}, "The cheapest": {"budget": 1.0},
        "Twice the cheapest": {"budget": 2.0}, "Twice the lightest": {"budget": 2.0, "over": "weights"},
        "By training": {"over": "training"},
    }  # fmt: skip
    return Lab(
        "price", "Price: what does a right answer cost?", state_of("price", fields, presets),
        lambda state: price_pictures(table, state), question=_dearer(table, names[0]), states=states,
    )  # fmt: skip


def _range(found: Mapping[str, Offer], cost: str) -> float:
    """The highest of a cost over the lowest."""
    costs = [offer.costs[cost] for offer in found.values()]
    return max(costs) / min(costs)


def _dearer(table: pd.DataFrame, name: str) -> Question | None:
    """What exchanging adds to late fusion; needs both."""
    found = offers(table, name)
    if not {"late", "X-Norm"} <= {*found}:
        return None
    late, ours = found["late"], found["X-Norm"]
    more = {cost: 100 * (ours.costs[cost] / late.costs[cost] - 1) for cost in COSTS}
    return Question(
        "X-Norm is late fusion with sites between the stages. How many more multiply-adds does an "
        "answer take?",
        ("below 5 % more", "5 to 30 % more", "more than that"),
        answer=0 if more["madds"] < 5 else 1 if more["madds"] <= 30 else 2,
        hides=("million MAdds", "billion MAdds of training"),
        why=f"{more['madds']:.0f} % more, and {more['weights']:.0f} % more weights. A site is a product of "
        "kernel 1 at every place of both maps: few weights, each used at every place. On the paper's network "
        "it is the other way round, 5 % more multiply-adds and 22 % more weights: there the maps of the last "
        "site are many and small.",
        then={"over": "madds"},
    )  # fmt: skip


def price_pictures(table: pd.DataFrame, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `price`."""
    name = getattr(state, "data", table["data"].iloc[0])
    found, over = offers(table, name), state.over
    rows = table[table["data"] == name]
    unit, scale = UNITS[over]
    least = min(offer.costs[over] for offer in found.values())
    limit = least * state.budget * (1 + 1e-9)
    ways = sorted(found, key=lambda way: (found[way].costs[over], found[way].accuracy))
    within = [way for way in ways if found[way].costs[over] <= limit]
    best, best_of_all = (max(each, key=lambda w: found[w].accuracy) for each in (within, ways))
    on = front(found, over)
    floor = float(rows["floor"].mean())
    says = (
        f"{name}: for at most {state.budget:.2g} times the cheapest method's {COSTS[over]}, "
        f"{limit / scale:,.2f} {unit}, the best is {best}: {found[best].accuracy:.1f} % right for "
        f"{found[best].costs[over] / scale:,.2f}. Without a limit it is {best_of_all}, "
        f"{found[best_of_all].accuracy:.1f} %. Better than all that cost less: {together(on)}. Majority: "
        f"{floor:.1f} %."
    )
    colors = [BLUE if way == best else GREEN if way in on else GREY for way in ways]
    names = [f"{SHORT.get(way, way)} *" if way in on else SHORT.get(way, way) for way in ways]
    costs = np.linspace(least, max(offer.costs[over] for offer in found.values()), 241)
    reached = [
        max(o.accuracy for o in found.values() if o.costs[over] <= c * (1 + 1e-9)) for c in costs
    ]
    charts = {
        what: pictures.bars(
            names, [found[way].costs[cost] / size for way in ways], says, unit=what, colors=colors,
            high=max(offer.costs[cost] for offer in found.values()) / size,
        )
        for cost, (what, size) in UNITS.items()
    }  # fmt: skip
    return {
        "right (%), the cheapest first; *: on the front; ticks: majority": pictures.bars(
            names, [found[way].accuracy for way in ways], says, high=100, unit="right (%)", colors=colors,
            marks=[floor] * len(ways),
        ),
        **charts,
        "the best that a budget buys": pictures.curves(
            costs / least, [pictures.line("best method", reached, GREEN)], "times the cheapest",
            "right (%)", says, limits=(0, 102), marker=min(state.budget, float(costs[-1] / least)),
        ),
        "numbers": pictures.figures({
            "best": (found[best].accuracy, f"% right, {best}"),
            "cost": (found[best].costs[over] / scale, unit),
            "on the front": (len(on), f"of {len(ways)} methods"),
            **({"spread": (float(rows[rows["way"] == best]["accuracy"].std()), "points, sd over seeds")}
               if rows["seed"].nunique() > 1 else {}),
        }),
    }  # fmt: skip


# The board ----------------------------------------------------------------------------------------


def pareto(table: pd.DataFrame) -> go.Figure:
    """Right answers over cost to hover over: every method and seed; buttons choose data and cost.

    Args:
        table: Of `labkit.exchanging.measure.table`.

    Raises:
        ValueError: if the table is empty, or has a way without a look of its own.
    """
    names = [*dict.fromkeys(table["data"])]
    if not names:
        raise ValueError("table must have at least one data set, got none")
    table = table.assign(slot=_slots(table))
    looks = looks_of([*dict.fromkeys(table["slot"])])
    figure = go.Figure([
        _dots(slot, table[(table["data"] == names[0]) & (table["slot"] == slot)], look.color, look.marker)
        for slot, look in looks.items()
    ])  # fmt: skip

    def button(name: str, cost: str) -> dict[str, Any]:
        rows = [table[(table["data"] == name) & (table["slot"] == slot)] for slot in looks]
        data = {
            "x": [each[cost].tolist() for each in rows],
            "y": [each["accuracy"].tolist() for each in rows],
            "text": [each["way"].tolist() for each in rows],
            "customdata": [_told(each) for each in rows],
        }
        label = f"{name}: {cost}" if len(names) > 1 else COSTS[cost]
        return {
            "label": label,
            "method": "update",
            "args": [data, {"xaxis.title.text": COSTS[cost]}],
        }

    figure.update_layout(
        template="plotly_white", width=900, height=480, margin={"l": 70, "r": 20, "t": 60, "b": 60},
        font={"size": 14}, legend={"x": 1.01, "y": 1},
        xaxis={"title": {"text": COSTS["madds"]}, "tickformat": "~s", "type": "log"},
        yaxis={"title": {"text": "right answers, held-out (%)"}},
        updatemenus=[{"buttons": [button(name, cost) for name in names for cost in COSTS],
                      "type": "dropdown" if len(names) > 1 else "buttons", "direction": "down"
                      if len(names) > 1 else "right", "x": 0, "xanchor": "left", "y": 1.16,
                      "showactive": True}],
    )  # fmt: skip
    return figure


def _slots(table: pd.DataFrame) -> list[str]:
    """Which legend entry each row belongs to: modalities alone by their order, for their names differ."""
    slots = {}
    for name, rows in table.groupby("data", sort=False):
        alone = [way for way in dict.fromkeys(rows["way"]) if way.endswith(" alone")]
        for slot, way in zip(("one alone", "other alone"), alone, strict=False):
            slots[name, way] = slot
    pairs = zip(table["data"], table["way"], strict=True)
    return [slots.get((name, way), way) for name, way in pairs]


def _told(rows: pd.DataFrame) -> list[list[float]]:
    """What hovering says of each dot."""
    columns = rows[["seed", "madds", "weights", "train", "floor"]]
    return [[float(v) for v in row] for row in columns.to_numpy(float).round(4)]


def _dots(slot: str, rows: pd.DataFrame, color: str, marker: str) -> go.Scatter:
    says = (
        "%{text}, seed %{customdata[0]}<br>right: %{y:.1f} %, in training %{customdata[3]:.1f} %, majority "
        "%{customdata[4]:.1f} %<br>MAdds: %{customdata[1]:,.0f}<br>weights: %{customdata[2]:,.0f}"
    )
    return go.Scatter(
        x=rows["madds"].tolist(), y=rows["accuracy"].tolist(), mode="markers", name=slot,
        text=rows["way"].tolist(), customdata=_told(rows), hovertemplate=says + "<extra></extra>",
        marker={"color": color, "symbol": SYMBOLS[marker], "size": 10,
                "line": {"width": 0.5, "color": "white"}},
    )  # fmt: skip
