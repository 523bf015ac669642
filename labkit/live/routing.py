"""Labs of a gate that chooses experts (DynMM): whom it sends where, and what that is worth.

They read trained experts and gates from the store; what is not there yet is trained when a lab first asks
for it. A gate's inside, and what it makes of a bad input, are in `labkit.live.gating`; what it costs and
saves in `labkit.live.costing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from labkit.choosing.measure import RATIOS, kinds_of
from labkit.choosing.plan import WEIGHTS, Setting
from labkit.choosing.reading import (
    Opened,
    along,
    nearest,
    opened,
    plane_of,
    study,
)
from labkit.data.movies import Movies
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, number, toggle

CHEAP, DEAR = BLUE, RED  # as classes 0 and 1 of a plane
SHOWN = 360  # samples of the plane
FREE_HELP = "The gate that was trained without any cost: weight 0."
WEIGHT_HELP = (
    "Lambda: how much the loss counts the cost beside the task. Gates were trained at some weights; the "
    "nearest of them is shown."
)


# What all labs of gates share ---------------------------------------------------------------------


def positive(setting: Setting) -> list[float]:
    """Weights of the cost above 0, ascending.

    Raises:
        ValueError: if there are not two.
    """
    above = sorted(weight for weight in setting.weights if weight > 0)
    if len(above) < 2:
        raise ValueError(f"setting.weights must have two above 0, got {setting.weights}")
    return above


def weight_fields(setting: Setting, start: float = 0.0) -> list[Any]:
    """The fields ``weight``, over those of the trained gates, and ``free``, if one has no cost.

    Args:
        setting: Whose gates.
        start: Weight at the start; 0 = the lowest above 0.
    """
    above = positive(setting)
    control = number(start or above[0], above[0], above[-1], "cost weight", WEIGHT_HELP, log=True)
    fields = [("weight", float, control)]
    if 0.0 in setting.weights:
        fields.append(("free", bool, toggle(False, "no cost", FREE_HELP)))
    return fields


def gate_of(setting: Setting, state: Any) -> int:
    """Index of the gate that a state asks for."""
    if getattr(state, "free", False):
        return setting.weights.index(0.0)
    return nearest(setting.weights, state.weight)


def unit_of(setting: Setting) -> str:
    """What a score is."""
    return "% micro F1" if setting.task == "labels" else "% right"


def reads(setting: Setting) -> tuple[str, str]:
    """What the cheap and the dear expert read, in words."""
    cheap, dear = (together(list(e.network.shapes)) for e in (setting.cheap, setting.dear))
    return f"{cheap} alone", dear


def limits_of(*lines: Any) -> tuple[float, float]:
    """Tens around all values, NaN left out."""
    values = np.concatenate([np.asarray(line, float).ravel() for line in lines])
    return 10 * float(np.floor(np.nanmin(values) / 10)), 10 * float(np.ceil(np.nanmax(values) / 10))


def procedural(setting: Setting) -> bool:
    """Questions are about procedural movies, of which it is known why a sample is hard."""
    return isinstance(setting.data, Movies) and setting.data.source == "procedural"


# The routing map ----------------------------------------------------------------------------------


def routing(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()
) -> Lab:
    """Held-out samples in a plane, each marked by the expert that the gate chose at a weight of the cost.

    Args:
        setting: Data and sizes; see `labkit.choosing.plan`.
        seed: Of all that was trained.
        device: Where to compute.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the setting has not two weights above 0.
    """
    plane = "inputs" if procedural(setting) else "sureness"  # where inputs show what is hard
    fields = [
        *weight_fields(setting),
        ("resource", str, choice("official", ("official", "madds"), "cost", "What the loss takes experts to "
         "cost. official: 0 and 1, as in the released code; madds: their MAdds over the higher ones.")),
        ("plane", str, choice(plane, ("inputs", "sureness"), "plane", "What the map shows. inputs: "
         "what is measured of the inputs, in deviations from the mean; sureness: how far each expert's "
         "probabilities are from even.")),
    ]  # fmt: skip
    above = positive(setting)
    presets: dict[str, Mapping[str, Any]] = {
        "Cost hardly counts": {"weight": above[0]},
        "Half to each": {"weight": half_weight(setting, seed, device)},
        "Nothing but cost": {"weight": above[-1]},
        "Cost in MAdds": {"resource": "madds"},
    }
    if 0.0 in setting.weights:
        presets = {"Free": {"free": True}, **presets}
        presets = {name: {"free": False, **values} for name, values in presets.items()}
    presets = {name: {"resource": "official", **values} for name, values in presets.items()}
    return Lab(
        "routing", "Routing map: who is sent to the dear expert?", state_of("routing", fields, presets),
        lambda state: routing_pictures(setting, seed, device, state),
        question=_whom(setting, seed, device) if procedural(setting) else None, states=states,
    )  # fmt: skip


def half_weight(setting: Setting, seed: int, device: str = "cpu") -> float:
    """The weight above 0 whose gate sends nearest to half of all samples to the dear expert."""
    share = dict(
        zip(setting.weights, study(setting, seed, "official", device)["share"], strict=True)
    )
    return min(positive(setting), key=lambda weight: abs(share[weight] - 0.5))


def _whom(setting: Setting, seed: int, device: str) -> Question:
    found, weight = study(setting, seed, "official", device), half_weight(setting, seed, device)
    i = setting.weights.index(weight)
    easy, hard = (found["share_by_kind"][kind][i] for kind in ("easy", "hard"))
    answer = 1 if hard > easy + 0.05 else 0 if easy > hard + 0.05 else 2
    return Question(
        "The cost counts so much that the gate can send only some samples to the dear expert. Nobody told it "
        "which texts say little. Whom does it send?",
        ("rather those whose text says much", "rather those whose text says little", "as many of both"),
        answer=answer,
        hides=(_map_view(setting), "sent to the dear expert; ticks: of all"),
        why=f"At weight {weight:g} it sends {hard:.0%} of the hard samples and {easy:.0%} of the easy ones. "
        "A text that says little has small numbers, which a gate can see; that there the dear expert pays it "
        "learns from the loss alone, if it is trained for long enough.",
        then={"weight": weight, "resource": "official", "plane": "inputs"}
        | ({"free": False} if 0.0 in setting.weights else {}),
    )  # fmt: skip


def _map_view(setting: Setting) -> str:
    return f"held-out samples; 0: {reads(setting)[0]}, 1: dear"


def routing_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `routing`."""
    i, unit = gate_of(setting, state), unit_of(setting)
    found = study(setting, seed, state.resource, device)
    at = opened(setting, seed, state.resource, device)
    share, scored, chance, best, spent = (
        found[name][i] for name in ("share", "score", "chance", "best", "madds")
    )
    few, more = reads(setting)
    says = (
        f"Weight {setting.weights[i]:g}, cost {state.resource}: {share:.0%} of the held-out samples go to "
        f"the dear expert ({more}), the others to the cheap one ({few}). {scored:.1f} {unit} for "
        f"{spent:,.0f} MAdds a sample; chance at this share {chance:.1f}, the best choice {best:.1f}."
    )
    kinds = {name: values[i] for name, values in found["share_by_kind"].items()}
    bars = {"all": share, **kinds}
    x = np.unique([*RATIOS, *found["share"]])
    lines = {
        "gate": along(found["share"], found["score"], x), "chance": along(RATIOS, found["random"], x),
        "best": along(RATIOS, found["oracle"], x),
    }  # fmt: skip
    looks = {"gate": ("", ()), "chance": (GREY, (2, 3)), "best": (GREEN, (6, 3))}
    return {
        _map_view(setting): _map(at, seed, i, state.plane, device, says),
        "score over the share sent to the dear expert": pictures.curves(
            100 * x, [pictures.line(name, y, *looks[name]) for name, y in lines.items()],
            "sent to the dear expert (%)", f"score ({unit})", says, limits=limits_of(*lines.values()),
            marker=100 * share,
        ),
        "sent to the dear expert; ticks: of all": pictures.bars(
            list(bars), list(bars.values()), says, unit="probability",
            colors=[GREY, *[DEAR] * len(kinds)], marks=[share] * len(bars),
        ),
        "numbers": pictures.figures({
            "share": (share, "of the samples go to the dear expert, P(E2)"),
            "madds": (spent, "MAdds a sample, gate included"), "score": (scored, unit),
            "chance": (chance, f"{unit}, same share sent by chance"),
            "best": (best, f"{unit}, same share, who gains most"),
        }),
    }  # fmt: skip


def _map(
    at: Opened, seed: int, gate: int, by: Literal["inputs", "sureness"], device: str, says: str
) -> Picture:
    """Some samples in a plane of 3 deviations, and where kinds of samples lie; farther ones at the edge."""
    plane, n = plane_of(at.setting, seed, by, device), len(at.batch)
    rows = np.unique(np.linspace(0, n - 1, min(SHOWN, n)).round().astype(int))
    ellipses = [
        pictures.ellipse(name, points.mean(0), points.std(0), "", (4, 3))
        for name, where in kinds_of(at.batch).items()
        if len(points := plane.points[where.cpu().numpy()])
    ]
    return pictures.plane(
        f"{says} To the right: {plane.axes[0]}; up: {plane.axes[1]}; in deviations from the mean."
        + " Dashed: where each kind of sample lies." * bool(ellipses),
        points=plane.points[rows].clip(-2.95, 2.95), classes=at.dear[gate].cpu().numpy()[rows],
        ellipses=ellipses, half=3.0, axes=plane.axes,
    )  # fmt: skip


# The Pareto board ---------------------------------------------------------------------------------

MARKS = {
    "E1, cheap": (CHEAP, "circle"),
    "E2, dear": (DEAR, "square"),
    "other": (GREEN, "triangle-up"),
}


def pareto(
    tables: Mapping[str, pd.DataFrame],
    bills: Mapping[str, Mapping[str, int]],
    weights: Sequence[float] = WEIGHTS,
) -> go.Figure:
    """Score over cost to hover over: every gate of every seed, experts, chance and the best choice.

    Args:
        tables: Data set -> table of `labkit.choosing.measure.table`; the first is shown first.
        bills: Data set -> MAdds of one sample, `labkit.choosing.plan.Setting.bill`.
        weights: Of the cost, one a gate.

    Raises:
        ValueError: if a data set has no bill, or a table has not a gate for each weight.
    """
    figure, owner = go.Figure(), []
    for name, table in tables.items():
        if name not in bills:
            raise ValueError(f"bills has no {name!r}; it has {', '.join(bills) or 'nothing'}")
        if any(len(row) != len(weights) for row in table["share"]):
            raise ValueError(f"tables[{name!r}] must have {len(weights)} gates, one a weight")
        traces = _traces(table, bills[name], weights)
        figure.add_traces(traces)
        owner += [name] * len(traces)
    first = next(iter(tables), "")
    figure.update_traces(visible=False)
    for trace, name in zip(figure.data, owner, strict=True):
        trace.visible = name == first
    buttons = [
        {"label": name, "method": "update", "args": [{"visible": [name == each for each in owner]}]}
        for name in tables
    ]  # fmt: skip
    figure.update_layout(
        template="plotly_white", width=900, height=480, margin={"l": 70, "r": 20, "t": 60, "b": 60},
        font={"size": 14}, legend={"x": 1.01, "y": 1},
        xaxis={"title": {"text": "MAdds a sample"}, "tickformat": "~s"},
        yaxis={"title": {"text": "score, held-out (%)"}},
        updatemenus=[{"buttons": buttons, "type": "buttons", "direction": "right", "x": 0,
                      "xanchor": "left", "y": 1.16, "showactive": True}] if len(tables) > 1 else [],
    )  # fmt: skip
    return figure


def _traces(
    table: pd.DataFrame, bill: Mapping[str, int], weights: Sequence[float]
) -> list[go.Scatter]:
    """What the board shows of one data set."""
    rows = table.sort_values("seed").to_dict("records")
    ratios = np.array(RATIOS)
    plain = (1 - ratios) * bill["cheap"] + ratios * bill["dear"]
    found = [
        _line("chance, mean", plain, np.mean([r["random"] for r in rows], 0), GREY, "dot"),
        _line("best choice, mean", plain + bill["gate"], np.mean([r["oracle"] for r in rows], 0), GREEN,
              "dash"),
    ]  # fmt: skip
    gates = [
        (r["madds"][i], r["score"][i], [r["seed"], weights[i], 100 * r["share"][i], r["chance"][i]])
        for r in rows
        for i in range(len(weights))
    ]
    says = (
        "gate, weight %{customdata[1]}, seed %{customdata[0]}<br>to the dear expert: "
        "%{customdata[2]:.0f} %<br>MAdds: %{x:,.0f}<br>score: %{y:.1f} %<br>chance at this share: "
        "%{customdata[3]:.1f} %"
    )
    found.append(_dots("DynMM, gates", gates, "#222222", "diamond", says))
    soft = [(r["soft_madds"], r["soft"], [r["seed"]]) for r in rows]
    found.append(
        _dots("DynMM, soft", soft, "#CC79A7", "star", "soft gate, all experts run, seed %{customdata[0]}"
              "<br>MAdds: %{x:,.0f}<br>score: %{y:.1f} %")
    )  # fmt: skip
    for k, (name, (color, symbol)) in enumerate(MARKS.items()):
        cost = bill[("cheap", "dear", "other")[k]]
        expert = [(cost, r["experts"][k], [r["seed"]]) for r in rows]
        hover = f"{name}, seed %{{customdata[0]}}<br>MAdds: %{{x:,.0f}}<br>score: %{{y:.1f}} %"
        found.append(_dots(name, expert, color, symbol, hover))
    return found


def _line(name: str, x: Any, y: Any, color: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=np.asarray(x).tolist(), y=np.round(y, 4).tolist(), mode="lines", name=name, hoverinfo="skip",
        line={"color": color, "dash": dash, "width": 2},
    )  # fmt: skip


def _dots(name: str, dots: Sequence[Any], color: str, symbol: str, says: str) -> go.Scatter:
    """Dots (x, y, what hovering says)."""
    x, y, data = zip(*dots, strict=True)
    return go.Scatter(
        x=np.round(x, 2).tolist(), y=np.round(y, 4).tolist(), mode="markers", name=name,
        customdata=[np.round(row, 4).tolist() for row in data], hovertemplate=says + "<extra></extra>",
        marker={"color": color, "symbol": symbol, "size": 9, "line": {"width": 0.5, "color": "white"}},
    )  # fmt: skip
