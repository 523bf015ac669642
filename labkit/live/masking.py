"""Labs of what is missing (DiCMoR): masks by three rules, and every way to fill in on the same masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from labkit.batch import draw_patterns
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.pictures import Picture
from labkit.live.state import State, choice, number, whole
from labkit.protocols import Masks, batch_rule, random_missing
from labkit.recovering.claims import over_rates
from labkit.recovering.measure import RATES


def state_of(name: str, fields: Sequence[Any], presets: Mapping[str, Mapping[str, Any]]) -> State:
    """The first state of a lab whose fields depend on its data: (name, type, control) each."""
    space = {"PRESETS": presets, "__doc__": f"State of `{name}`."}
    made: State = make_dataclass(
        name.title(), fields, bases=(State,), frozen=True, namespace=space
    )()
    return made


def together(names: Sequence[str]) -> str:
    """Names in words: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# Masks -----------------------------------------------------------------------------------------------

RULES = ("exact per sample", "Bernoulli", "released batch rule")


def masks(
    modalities: Sequence[str] | int = 3, n: int = 200, states: Sequence[str] = ()
) -> Lab:  # fmt: skip
    """Draw what is missing, by three rules that are all called "missing rate".

    Args:
        modalities: Their names, or how many. The released rule knows three.
        n: Rows.
        states: State lines; see `Lab`.
    """
    names = (
        [f"modality {m + 1}" for m in range(modalities)]
        if isinstance(modalities, int)
        else [*modalities]
    )
    rules = RULES if len(names) == 3 else RULES[:2]
    fields = [
        ("rule", str, choice(rules[0], rules, "rule", "exact per sample: just that share of slots, one kept "
         "in each row; Bernoulli: each slot by itself, again where nothing is left; released batch rule: a "
         "pattern a batch, the worst first.")),
        ("rate", float, number(0.3, 0, 0.7, "missing rate", "Share of slots to hide. The released rule knows "
         "0.0, 0.1, ... 0.7 and takes the nearest of them.")),
        ("batch", int, whole(4, 1, 32, "batch size", "Rows of a batch; only the released rule has batches.")),
        ("seed", int, whole(0, 0, 50, "seed", "Of the draw.")),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "Half is missing": {"rate": 0.5},
        "As much as there may be": {"rate": 0.7},
        "Bernoulli, 0.7": {"rate": 0.7, "rule": "Bernoulli"},
    }
    question = None
    if len(rules) == 3:
        presets["Released, batches of 16"] = {"rule": rules[2], "batch": 16}
        presets["Released, asked for 0.0"] = {"rule": rules[2], "rate": 0.0}
        question = Question(
            "The released rule is asked for a missing rate of 0.0. What share is missing?",
            ("none", "about a tenth", "two thirds"),
            answer=2,
            hides=("missing rate, asked and realised",),
            why="It looks the rate up at int(10 x 0 - 1) = -1: the last row of its table, that of 0.7. So a "
            "test of complete samples was one of the worst.",
            then={"rule": rules[2], "rate": 0.0},
        )
    return Lab(
        "masks", "Mask designer: what is a missing rate?", state_of("masks", fields, presets),
        lambda state: mask_pictures(names, n, state), question=question, states=states,
    )  # fmt: skip


def drawn(n: int, modalities: int, rule: str, rate: float, batch: int, seed: int) -> Masks:
    """Masks by one of `RULES`; a rate that would leave nothing of a row is lowered to the highest."""
    if rule == RULES[2]:
        return batch_rule(n, batch, round(10 * rate) / 10, seed, shuffled=False)
    highest = (modalities - 1) / modalities
    if rule == RULES[0]:
        return random_missing(n, modalities, min(rate, highest), seed)
    chances = torch.full((n, modalities), float(rate))
    return Masks(draw_patterns(chances, torch.Generator().manual_seed(seed)), rate)


def mask_pictures(names: Sequence[str], n: int, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `masks`."""
    count = len(names)
    found = drawn(n, count, state.rule, state.rate, state.batch, state.seed)
    share = found.missing.double() / n
    rules = RULES if count == 3 else RULES[:2]
    looks = ((BLUE, ()), (GREEN, (6, 4)), (RED, (2, 3)))
    realised = [
        pictures.line(
            rule.split()[0], _realised(n, count, rule, state.batch, state.seed), color, dash
        )
        for rule, (color, dash) in zip(rules, looks, strict=False)
    ]
    says = (
        f"{state.rule}: {state.rate:.2f} asked, {found.rate:.3f} missing. Of {n} rows "
        + together([f"{float(s):.0%} miss {k}" for k, s in enumerate(share)])
        + "."
    )
    strips = found.visible.T[:, None, None].expand(count, 1, 24, n)
    return {
        "what is visible (white), a row a column": pictures.images(
            0.2 + 0.8 * strips.float().numpy(), names, [], says
        ),
        "rows that miss": pictures.bars(
            [str(k) for k in range(count)], share, says, unit="probability",
            colors=[GREEN, *[GREY] * (count - 2), RED],
        ),
        "missing rate, asked and realised": pictures.curves(
            RATES, realised, "asked", "realised", says, limits=(0, 0.75), marker=state.rate
        ),
        "numbers": pictures.figures({
            "asked": (state.rate, "missing rate"),
            "realised": (found.rate, "of the slots"),
            "nothing left": (int((~found.visible.any(1)).sum()), "rows"),
            "patterns": (len(found.visible.unique(dim=0)), f"of {2**count - 1} occur"),
        }),
    }  # fmt: skip


@lru_cache(maxsize=256)
def _realised(n: int, modalities: int, rule: str, batch: int, seed: int) -> tuple[float, ...]:
    return tuple(drawn(n, modalities, rule, rate, batch, seed).rate for rate in RATES)


# All ways ---------------------------------------------------------------------------------------------

SHORT = {
    "class prior, paired": "class, paired",
    "single prior, paired": "single, paired",
    "modality dropout": "dropout",
    "same class": "oracle: class",
    "true": "oracle: true",
}
ORACLES = ("same class", "true")  # could not be had at test time
MAIN = {
    "class prior": (BLUE, ()),
    "regression": (RED, (6, 4)),
    "modality dropout": (GREEN, (8, 3, 2, 3)),
    "zeros": (GREY, (2, 3)),
}
SHOWN = (
    "right answers over the missing rate asked for",
    "right answers; ticks: the most frequent label",
)
LIGHT = "#b0b0b0"  # bars of all others
RATE, EXACT, BATCHES = "missing rate", "exact per sample", "released batches"


class Scores(NamedTuple):
    """Accuracies in %, mean over seeds: ways by name."""

    fixed: dict[str, np.ndarray]  # (S,) of each subset
    random: dict[str, dict[str, np.ndarray]]  # protocol -> way -> (rates,)
    spread: dict[str, dict[str, np.ndarray]]  # the same: deviation over draws of masks and seeds
    realised: dict[str, np.ndarray]  # protocol -> (rates,)


def scores_of(table: pd.DataFrame) -> Scores:
    """What the lab shows of the table of `measure.table`."""
    ways = list(dict.fromkeys(table["way"]))
    columns = {EXACT: "random", BATCHES: "batches"}
    there = {name: column for name, column in columns.items() if column in table}
    row, ends = table.iloc[0], {EXACT: "realised", BATCHES: "batches_realised"}
    return Scores(
        {way: np.mean(table[table["way"] == way]["fixed"].tolist(), 0) for way in ways},
        {name: {w: over_rates(table, w, c).mean(0) for w in ways} for name, c in there.items()},
        {
            name: {w: np.std(table[table["way"] == w][c].tolist(), (0, 2)) for w in ways}
            for name, c in there.items()
        },
        {name: np.asarray(row[ends[name]]) for name in there},
    )


def methods(
    table: pd.DataFrame, names: Sequence[str], floors: Mapping[str, float],
    states: Sequence[str] = (),
) -> Lab:  # fmt: skip
    """All ways at a missing rate, or with one subset visible.

    Args:
        table: Of `measure.table`.
        names: Of the subsets, everything last: `measure.subset_names`.
        floors: ``majority`` and ``chance`` in %: `measure.floors`.
        states: State lines; see `Lab`.
    """
    scores = scores_of(table)
    fields = [
        ("tenths", int, whole(4, 0, len(RATES) - 1, "missing tenths", "Missing rate in tenths: 4 is 0.4.")),
        ("at", str, choice(RATE, (RATE, *names), "at", "Bars: at the missing rate, or with just these "
         "modalities visible in every sample.")),
        ("protocol", str, choice(EXACT, tuple(scores.random), "protocol", "Masks of the missing rate: exact, "
         "drawn for each sample; or the released rule of batches, where 0.0 is 0.7.")),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "Nothing missing": {"tenths": 0}, "As much as there may be": {"tenths": 7},
        f"Only {names[0]}": {"at": names[0]},
    }  # fmt: skip
    if BATCHES in scores.random:
        presets["Released rule, 0.0"] = {"tenths": 0, "protocol": BATCHES}
    question = Question(
        "Half of all slots are missing. What to fill in, for the most right answers?",
        ("flows with class priors, not tuned", "regression", "nothing, but training on gaps", "zeros"),
        answer=_best(scores, 5),
        hides=(*SHOWN, "numbers"),
        why="What one should try first stands beside flows: a regression, or a predictor that was trained on "
        "gaps and fills in nothing. Compare with all of them before believing that recovery helps. (Tuned: "
        "the paper's last stage, in which the predictor learns to read what flows recover.)",
        then={"tenths": 5, "at": RATE, "protocol": EXACT},
    )  # fmt: skip
    return Lab(
        "methods", "All ways on the same masks", state_of("methods", fields, presets),
        lambda state: method_pictures(scores, names, floors, state), question=question, states=states,
    )  # fmt: skip


def _best(scores: Scores, tenths: int) -> int:
    """Index of the best of `MAIN`, in the order of the question."""
    order = ("class prior", "regression", "modality dropout", "zeros")
    return int(np.argmax([scores.random[EXACT][way][tenths] for way in order]))


def method_pictures(
    scores: Scores, names: Sequence[str], floors: Mapping[str, float], state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `methods`."""
    rates = scores.random[state.protocol]
    asked, rate = RATES[state.tenths], state.at == RATE
    now = {
        way: float(rates[way][state.tenths] if rate else scores.fixed[way][names.index(state.at)])
        for way in rates
    }
    order = sorted((way for way in now if way not in ORACLES), key=lambda way: -now[way])
    shown = [way for way in (*order, *ORACLES) if way in now]
    where = f"at missing rate {asked:.1f}" if rate else f"with {state.at} alone"
    says = f"Right answers {where}: " + ", ".join(
        f"{way} {now[way]:.1f} %" for way in (*order[:3], *(w for w in MAIN if w in order[3:]))
    )
    says += f"; the most frequent label {floors['majority']:.1f} %."
    lines = [pictures.line(SHORT.get(w, w), rates[w], *MAIN[w]) for w in MAIN if w in rates]
    values = np.concatenate([line["y"] for line in lines])
    limits = 5 * np.floor(values.min() / 5), 5 * np.ceil(values.max() / 5)
    return {
        SHOWN[0]: pictures.curves(
            RATES, lines, "missing rate", "right answers (%)", says, marker=asked,
            limits=(min(limits[0], 5 * np.floor(floors["majority"] / 5)), limits[1]),
        ),
        SHOWN[1]: pictures.bars(
            [SHORT.get(way, way) for way in shown], [now[way] / 100 for way in shown], says,
            colors=[MAIN.get(way, (LIGHT,))[0] for way in shown], unit="probability",
            marks=[floors["majority"] / 100] * len(shown),
        ),
        "numbers": pictures.figures({
            "asked": (asked, "missing rate"),
            "realised": (float(scores.realised[state.protocol][state.tenths]), "of the slots"),
            **{SHORT.get(w, w): (now[w], "% right") for w in MAIN if w in now},
            "spread": (
                float(scores.spread[state.protocol]["class prior"][state.tenths]),
                "points, sd of class prior over draws and seeds",
            ),
            "majority": (floors["majority"], "% right"),
        }),
    }  # fmt: skip
