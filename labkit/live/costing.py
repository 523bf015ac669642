"""Labs of what a choice costs and saves (DynMM): the bill of multiply-adds, and the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from labkit import madds
from labkit.choosing.reading import Values
from labkit.choosing.spending import PAPER, SHARES, bills, clocked
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.pictures import Picture
from labkit.live.state import State, choice, number, toggle

# The bill -----------------------------------------------------------------------------------------

PATHS = {"E1": ("E1",), "E2": ("E2",), "both": ("E1", "E2")}  # the experts that run
ATTENTION: tuple[madds.Kind, ...] = ("attention",)
NORMS: tuple[madds.Kind, ...] = ("bias", "batch norm", "pooling")


@dataclass(frozen=True)
class Bill(State):
    """State of `bill`."""

    PRESETS: ClassVar = {
        "As the paper counts": {"attention": False, "gate": True, "norms": True},
        "All matrix products": {"attention": True, "gate": True, "norms": False},
        "DynMM-d, soft": {"network": "MM-IMDB", "path": "both", "gate": True},
        "The gate for free": {"gate": False},
    }

    network: str = choice(
        "MOSEI", tuple(PAPER), "network", "Experts and gate at the paper's sizes."
    )
    path: str = choice(
        "E2",
        tuple(PATHS),
        "runs",
        "E1: text alone; E2: all modalities; both: as a soft gate needs.",
    )
    attention: bool = toggle(
        False,
        "count attention",
        "Its projections and its products. The paper's count passes by them.",
    )
    gate: bool = toggle(True, "count the gate", "It runs for each sample, whoever answers.")
    norms: bool = toggle(
        True, "count batch norm", "Two a number for batch normalisation, and biases of convolutions, as the "
        "paper's count has them; no matrix product. Layer normalisation stays out, as there.",
    )  # fmt: skip


def bill(states: Sequence[str] = ()) -> Lab:
    """The bill of multiply-adds at the paper's sizes, beside the paper's own numbers.

    Args:
        states: State lines; see `Lab`.
    """
    question = Question(
        "A soft gate (DynMM-d) runs gate, E1 and E2 for each sample. The paper bills it 12.1 million MAdds. "
        "What do the three cost together?",
        ("12.1 million", "10.9 million", "11.56 million"),
        answer=2,
        why="12.1 is the sum of two constants, E1 with gate and E2 with gate: the gate is in it twice.",
        then={
            "network": "MM-IMDB",
            "path": "both",
            "attention": False,
            "gate": True,
            "norms": True,
        },
    )
    return Lab(
        "bill", "Bill of MACs: what does an answer cost?", Bill(), bill_pictures, question=question,
        states=states,
    )  # fmt: skip


def kinds_of(state: Bill) -> tuple[madds.Kind, ...]:
    """What a state counts."""
    return (
        "linear",
        "conv",
        *(ATTENTION if state.attention else ()),
        *(NORMS if state.norms else ()),
    )


def millions(network: str, path: str, kinds: Sequence[madds.Kind], gate: bool) -> float:
    """Million MAdds of a path (`PATHS`), its gate counted once or not at all."""
    found = bills()[network]
    return (
        sum(madds.total(found[name], kinds) for name in (*PATHS[path], *["gate"] * int(gate))) / 1e6
    )


def bill_pictures(state: Bill) -> Mapping[str, Picture]:
    """State -> pictures of `bill`."""
    found, kinds, paper = bills()[state.network], kinds_of(state), PAPER[state.network]
    running = (*PATHS[state.path], *["gate"] * state.gate)
    lines = [(name, line) for name in running for line in found[name]]
    parts = dict.fromkeys(_part(name, line) for name, line in lines)
    counted = [sum(n.madds for w, n in lines if _part(w, n) == part and n.kind in kinds) / 1e6
               for part in parts]  # fmt: skip
    thop = [sum(n.madds for w, n in lines if _part(w, n) == part and n.kind in madds.THOP) / 1e6
            for part in parts]  # fmt: skip
    totals = {path: millions(state.network, path, kinds, state.gate) for path in PATHS}
    total, hidden = (
        totals[state.path],
        sum(madds.total(found[n], ATTENTION) for n in running) / 1e6,
    )
    by_kind = {kind: sum(n.madds for _, n in lines if n.kind == kind) / 1e6
               for kind in ("linear", "conv", "attention", "batch norm", "bias")}  # fmt: skip
    theirs = paper.get(state.path)
    says = (
        f"{state.network}, {state.path} {'with' if state.gate else 'without'} the gate: {total:,.2f} million "
        f"MAdds a sample" + (f"; the paper has {theirs:g}" if theirs else "") + ". "
        + (f"Attention {'makes up' if state.attention else 'would add'} {hidden:.2f} million." if hidden
           else "There is no attention in it.")
    )  # fmt: skip
    top = max(*totals.values(), *paper.values())
    return {
        "by part, million MAdds; ticks: as the paper counts": pictures.bars(
            list(parts), counted, says, high=max(max(counted), max(thop)), marks=thop,
            colors=[RED if part == "gate" else BLUE for part in parts],
        ),
        "by kind, million MAdds; green: counted": pictures.bars(
            list(by_kind), list(by_kind.values()), says, high=max(by_kind.values()),
            colors=[GREEN if kind in kinds else GREY for kind in by_kind],
        ),
        "each path, million MAdds; ticks: the paper": pictures.bars(
            list(totals), list(totals.values()), says, high=top,
            colors=[BLUE if path == state.path else GREY for path in totals], marks=list(paper.values()),
        ),
        "numbers": pictures.figures({
            "total": (round(1e6 * total), "MAdds a sample"),
            **({"the paper": (round(1e6 * theirs), "MAdds, gate included")} if theirs else {}),
            "gate": (madds.total(found["gate"], kinds), "MAdds, once"),
            "attention": (round(1e6 * hidden), "MAdds, " + ("counted" if state.attention else "left out")),
        }),
    }  # fmt: skip


def _part(name: str, line: madds.Line) -> str:
    """Name of a bar."""
    return "gate" if name == "gate" else f"{name} {line.part.removesuffix(' encoder')}"


# The clock ----------------------------------------------------------------------------------------

ROWS = ("32", "128", "512")


@dataclass(frozen=True)
class Clock(State):
    """State of `clock`."""

    PRESETS: ClassVar = {
        "Nobody needs the image": {"share": 0.0},
        "DynMM-a": {"share": 0.036},
        "DynMM-b": {"share": 0.68},
        "Everybody does": {"share": 1.0},
    }

    share: float = number(
        0.25, 0.0, 1.0, "share to E2", "Share of the batch that goes to E2. Timed at "
        f"{', '.join(f'{s:g}' for s in SHARES)}, and on lines between.",
    )  # fmt: skip
    rows: str = choice("128", ROWS, "batch size", "Samples of a batch; each size is timed once.")


def clock(states: Sequence[str] = ()) -> Lab:
    """Time on this machine of routed execution, beside that of running everybody; MM-IMDB's sizes.

    Opening it takes about two seconds a batch size, for timing; after that the same times are shown.

    Args:
        states: State lines; see `Lab`.
    """
    question = Question(
        "A quarter of a small batch needs both modalities. MAdds promise a third of the time. What does the "
        "clock say?",
        ("less than that", "just that", "more than that"),
        answer=2,
        hides=("time of a batch", "ms of a batch", "routed", "faster"),
        why="Small groups use the machine badly: weights are fetched once, be it for 8 samples or for 32, "
        "and samples have to be gathered and put back. The larger the batch, the nearer to the promise.",
        then={"share": 0.25, "rows": "32"},
    )
    return Lab(
        "clock", "Real clock: does a path not taken save time?", Clock(), clock_pictures,
        question=question, states=states,
    )  # fmt: skip


def clock_pictures(state: Clock) -> Mapping[str, Picture]:
    """State -> pictures of `clock`."""
    rows = int(state.rows)
    times = clocked(rows)
    now, promised = (
        float(np.interp(state.share, SHARES, y)) for y in (times.routed, times.promised)
    )
    even = break_even(times.routed, times.everyone)
    says = (
        f"{rows} samples, {state.share:.0%} to the dear expert: everybody runs {times.everyone:.2f} ms, "
        f"routed {now:.2f} ms, MAdds promise {promised:.2f} ms. "
        + ("Routing pays at every share." if even is None else f"Routing pays below {even:.0%}.")
    )
    dearest = max(times.everyone, *times.routed, *times.promised)
    bars = {
        "everybody runs": (times.everyone, GREY),
        "routed": (now, BLUE),
        "promised": (promised, GREEN),
    }
    return {
        "time of a batch": pictures.curves(
            [100 * s for s in SHARES],
            [
                pictures.line("routed", times.routed, BLUE),
                pictures.line("everybody runs", [times.everyone] * len(SHARES), GREY, (2, 3)),
                pictures.line("as MAdds promise", times.promised, GREEN, (6, 3)),
            ],
            "sent to the dear expert (%)", "ms", says, limits=(0.0, 1.1 * dearest),
            marker=100 * state.share,
        ),
        "ms of a batch": pictures.bars(
            list(bars), [value for value, _ in bars.values()], says, high=dearest,
            colors=[color for _, color in bars.values()],
        ),
        "numbers": pictures.figures({
            "routed": (now, "ms"), "everybody": (times.everyone, "ms"),
            "faster": (times.everyone / now, "times"),
            "promised": (times.everyone / promised, "times faster, by MAdds"),
            "threads": (float(torch.get_num_threads()), "of this machine"),
            **({} if even is None else {"break-even": (even, "of the samples: above it, do not route")}),
        }),
    }  # fmt: skip


def break_even(routed: Values, everyone: float) -> float | None:
    """Share of the dear expert from which on routing takes longer, between `SHARES` on lines; None: never."""
    ahead = everyone - routed
    faster = np.flatnonzero(ahead > 0)
    if not len(faster):
        return 0.0
    if (last := int(faster[-1])) == len(SHARES) - 1:
        return None
    part: Any = ahead[last] / (ahead[last] - ahead[last + 1])
    return float(SHARES[last] + part * (SHARES[last + 1] - SHARES[last]))
