"""What X-Norm claims of exchanging normalization parameters, put to the test beside controls.

Each function takes what `labkit.exchanging.measure` found and returns what `labkit.ledger.claim` takes. The
rule of a verdict stands in the claim's note. The paper's tables could not be had: of its results only what
the abstract says is quoted (Yin, Xu, Zu & Soleymani, ICMI 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from labkit import metrics
from labkit.data.clips import ceilings
from labkit.exchanging.plan import FUSIONS, LONG, OWN
from labkit.ledger import metric
from labkit.models.fusion import Late
from labkit.models.inception import Inception
from labkit.models.xnorm import Exchange, NormExchange, XNorm

Claim = dict[str, Any]
Values = NDArray[np.float64]

AHEAD_OF_LATE, AHEAD_OF_EARLY = 30.0, 20.0  # points at full synergy and the small budget
CEILING = 78.0  # % that a sum may reach, three points above the theorem for chance
SAME = 5.0  # points within which a control without exchange is late fusion
FREE = 3.0  # points within which methods are equal where nothing is to be multiplied
POOLED = "X-Norm, pooled"
PATIENT = (f"early, {LONG}", f"{POOLED}, {LONG}")  # what gets the long budget, too
NEAR = 1.0  # points below the best other method that are comparable
PAPER = "X-Norm, abstract"


def by_seed(table: pd.DataFrame, way: str, column: str = "accuracy") -> Values:
    """One number a seed of a way, in the order of the seeds.

    Raises:
        ValueError: if the table has no such way.
    """
    rows = table[table["way"] == way].sort_values("seed")
    if rows.empty:
        raise ValueError(f"table has no way {way!r}; it has {', '.join(table['way'].unique())}")
    return rows[column].to_numpy(float)


def paired(one: Values, other: Values) -> tuple[float, float]:
    """Mean difference over seeds and half its 95 % interval (nan with one seed)."""
    difference = (one - other).tolist()
    return metrics.mean_ci(difference) if len(difference) > 1 else (difference[0], float("nan"))


def points(mean: float, half: float) -> str:
    """A difference and its interval, in words."""
    return f"{mean:+.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}") + " points"


def verdict(holds: bool, seeds: int) -> str:
    """One seed carries no verdict."""
    if seeds < 2:
        return "not testable here"
    return "reproduced" if holds else "not supported"


# The synergy --------------------------------------------------------------------------------------


def ahead(table: pd.DataFrame, rival: str, least: float) -> Claim:
    """(A, B) At full synergy and an equal, small budget, far ahead of a rival."""
    ours, theirs = by_seed(table, "X-Norm"), by_seed(table, rival)
    gain = ours - theirs
    return {
        "id": f"xnorm.clips.ahead_of_{rival}",
        "text": f"clips: where only the product tells, exchanging beats {rival} fusion at one budget",
        "source": "labkit; the paper has no such data",
        "paper": None,
        "ours": f"{ours.mean():.1f} against {theirs.mean():.1f} % ({gain.min():+.1f} to {gain.max():+.1f})",
        "verdict": verdict(bool((gain >= least).all()), len(gain)),
        "note": f"rho = 1, same epochs for both. Rule: at least {least:g} points in every seed",
    }


def theorem(table: pd.DataFrame) -> Claim:
    """(C) A sum of logits stays below three of four cells."""
    late, best = by_seed(table, "late"), 100 * ceilings(1.0)["late"]
    return {
        "id": "xnorm.clips.late_ceiling",
        "text": "clips: late fusion, a sum, cannot be right of more than three of the four cells",
        "source": "labkit; a theorem on XOR",
        "paper": f"{best:.0f} % at most",
        "ours": f"{late.mean():.1f} % ({late.min():.1f} to {late.max():.1f})",
        "verdict": verdict(bool((late <= CEILING).all()), len(late)),
        "note": f"rho = 1. Rule: at most {CEILING:g} % in every seed",
    }


def exchange_matters(table: pd.DataFrame) -> Claim:
    """(D) With as many weights, but parameters of one's own, it is late fusion."""
    own, late, other = (by_seed(table, way) for way in ("X-Norm, own", "late", "X-Norm"))
    return {
        "id": "xnorm.clips.own",
        "text": "clips: it is the exchange that helps, and neither normalization nor more weights",
        "source": "labkit; the paper's own control is not known",
        "paper": None,
        "ours": f"own parameters {own.mean():.1f}, late {late.mean():.1f}, exchanged {other.mean():.1f} %",
        "verdict": verdict(
            bool((np.abs(own - late) <= SAME).all() and (other > own + SAME).all()), len(own)
        ),
        "note": f"rho = 1. Rule: own parameters within {SAME:g} points of late fusion in every seed, and "
        "exchanged ones above",
    }


def no_free_lunch(table: pd.DataFrame) -> Claim:
    """(E) Without synergy there is nothing to gain."""
    mean, half = paired(by_seed(table, "X-Norm"), by_seed(table, "late"))
    each = by_seed(table, "X-Norm") - by_seed(table, "late")
    return {
        "id": "xnorm.clips.sum",
        "text": "clips: where a sum tells all, exchanging is worth as much as late fusion",
        "source": "labkit; the paper has no such data",
        "paper": None,
        "ours": points(mean, half),
        "verdict": verdict(bool((np.abs(each) <= FREE).all()), len(each)),
        "note": f"rho = 0. Rule: within {FREE:g} points in every seed",
    }


def early_long(table: pd.DataFrame) -> Claim:
    """(F) Early fusion could make products: does it, given time?"""
    short, late = by_seed(table, "early"), by_seed(table, f"early, {LONG}")
    return {
        "id": "xnorm.clips.early_long",
        "text": "clips: early fusion finds the product, too, if it is trained for the long budget",
        "source": "labkit; a universal approximator can",
        "paper": None,
        "ours": f"{short.mean():.1f}, then {late.mean():.1f} % ({late.min():.1f} to {late.max():.1f})",
        "verdict": verdict(bool((late > CEILING).all()), len(late)),
        "note": f"rho = 1. Rule: more than a sum can reach ({CEILING:g} %) in every seed",
    }


# What of the exchange is needed -------------------------------------------------------------------


NEEDED: Mapping[str, str] = {
    "X-Norm, pooled": "one gamma and one beta a map do as well as one a number",
    "X-Norm, beta": "a shift alone does as well",
    "X-Norm, gamma": "a scale alone does as well",
    "X-Norm, zero init": "starting as late fusion does as well",
    "X-Norm, sequential": "one stream changing first, as in the code before August 2023, does as well",
}


def needed(table: pd.DataFrame, way: str, text: str) -> Claim:
    """Whether a changed exchange does as well as the released one."""
    mean, half = paired(by_seed(table, way), by_seed(table, "X-Norm"))
    each = by_seed(table, way) - by_seed(table, "X-Norm")
    return {
        "id": f"xnorm.clips.{way.removeprefix('X-Norm, ').replace(' ', '_')}",
        "text": f"clips: {text}",
        "source": "labkit, on the released code",
        "paper": None,
        "ours": f"{by_seed(table, way).mean():.1f} %, {points(mean, half)}",
        "verdict": verdict(bool((each >= -FREE).all()), len(each)),
        "note": f"rho = 1, small budget. Rule: at most {FREE:g} points lost in every seed",
    }


def pooled_long(table: pd.DataFrame) -> Claim:
    """One gamma and one beta a map, given time."""
    short, late = by_seed(table, POOLED), by_seed(table, f"{POOLED}, {LONG}")
    whole = by_seed(table, "X-Norm")
    return {
        "id": "xnorm.clips.pooled_long",
        "text": "clips: one gamma and one beta a map do as well as one a number, with the long budget",
        "source": "labkit, on the released code",
        "paper": None,
        "ours": f"{short.mean():.1f}, then {late.mean():.1f} % ({late.min():.1f} to {late.max():.1f}); one a "
        f"number {whole.mean():.1f} % with the small one",
        "verdict": verdict(bool((late - whole >= -FREE).all()), len(late)),
        "note": f"rho = 1. Rule: at most {FREE:g} points lost in every seed",
    }


# Maps at the sites of I3D, of 16 x 224 x 224.
I3D = ((256, (8, 28, 28)), (512, (4, 14, 14)), (1024, (2, 7, 7)))


def limited() -> Claim:
    """(G) "Limited parameters": how many numbers are exchanged."""
    told, maps = 0, 0
    for width, grid in I3D:
        with torch.device("meta"):  # shapes, and no numbers
            x = torch.zeros(1, width, *grid)
            said = NormExchange(width, Exchange()).say(0, x)
        assert said.gamma is not None
        assert said.beta is not None
        told, maps = told + said.gamma.numel() + said.beta.numel(), maps + x.numel()
    pooled = sum(2 * width for width, _ in I3D)
    return {
        "id": "xnorm.limited",
        "text": "a stream is told limited parameters",
        "source": "X-Norm, abstract; released code, networks/model.py",
        "paper": '"limited but meaningful normalization parameters"',
        "ours": f"{told:,} numbers for {maps:,} of the maps at three sites; pooled {pooled:,}",
        "verdict": "reproduced" if told < maps else "corrected",
        "note": "I3D, a clip of 16 x 224 x 224; gamma and beta have a value for every number of the maps. "
        "Rule: reproduced if fewer numbers are told than there are",
    }


def price() -> Claim:
    """What the exchange adds, counted on the paper's network."""
    shapes = (("rgb", (3, 16, 224, 224)), ("flow", (2, 16, 224, 224)))
    with torch.device("meta"):
        late, ours = (
            sum(p.numel() for p in config.build().parameters())
            for config in (
                Late(shapes, Inception(), 8),
                XNorm(shapes, Inception(), 8, sites=(0, 1, 2)),
            )
        )
    return {
        "id": "xnorm.price",
        "text": "weights that three sites add to late fusion of two I3D",
        "source": "released code, networks/model.py",
        "paper": "5,512,192",
        "ours": f"{ours - late:,}, {100 * (ours / late - 1):.0f} % more than {late:,}",
        "holds": ours - late == 5_512_192,
        "note": "no result of the paper: counted on the code as it was released",
    }


def training(table: pd.DataFrame) -> Claim:
    """(H) "Relatively low training cost", on every data set of the table."""
    rivals = [way for way in FUSIONS if way != "X-Norm"]
    below, said = [], []
    for name, rows in table.groupby("data", sort=False):
        cost = {way: float(by_seed(rows, way, "training").mean()) for way in FUSIONS}
        below.append(cost["X-Norm"] <= np.median([cost[way] for way in rivals]))
        ratios = ", ".join(f"{cost['X-Norm'] / cost[way]:.2f} {way}'s" for way in rivals)
        said.append(f"{name}: {ratios}")
    return {
        "id": "xnorm.training",
        "text": "training X-Norm costs relatively little",
        "source": PAPER,
        "paper": '"relatively low training cost"',
        "ours": "; ".join(said),
        "verdict": "reproduced" if all(below) else "corrected" if any(below) else "not supported",
        "note": "multiply-adds of the whole training, all streams trained, Gradient-Blending with its "
        "estimates. The released MISA and MulT do not train their streams, which saves two thirds of "
        "the streams' share: frozen, both would cost less than X-Norm on clips. "
        "Rule: at most the median of the other five on every data set; corrected: on some",
    }


def aligned(records: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> Claim:
    """(I) "Implicitly aligning the feature spaces": are the streams more alike behind the last stage?

    Args:
        records: "late" and "X-Norm" -> a record a seed, as of `reading.learning`.
    """
    last = max(name for name in records["late"][0] if name.startswith("alike"))
    late, ours = (np.array([r[last][-1] for r in records[way]]) for way in ("late", "X-Norm"))
    mean, half = paired(ours, late)
    start, plain = (np.mean([r[last][0] for r in records[way]]) for way in ("X-Norm", "late"))
    return {
        "id": "xnorm.clips.aligned",
        "text": "clips: exchanging makes the two streams' codes more alike than late fusion does",
        "source": PAPER,
        "paper": '"implicitly aligning the feature spaces"',
        "ours": f"CKA {ours.mean():.2f} against {late.mean():.2f}; untrained {start:.2f} against {plain:.2f}",
        "verdict": "not testable here" if np.isnan(half)
        else "reproduced" if mean - half > 0 else "not supported",
        "note": "linear CKA of the last maps, means over the grid, validation split; beta is a linear map of "
        "the partner, so that untrained streams are more alike, too. Rule: the 95 % interval over seeds of "
        "the difference lies above 0",
    }  # fmt: skip


# Against all methods, on all data -----------------------------------------------------------------


def comparable(table: pd.DataFrame, name: str) -> Claim:
    """(O) Comparable or superior, on one data set."""
    rows = table[table["data"] == name]
    rivals = [way for way in dict.fromkeys(rows["way"]) if way != "X-Norm" and ", " not in way]
    best = max(rivals, key=lambda way: by_seed(rows, way).mean())
    mean, half = paired(by_seed(rows, "X-Norm"), by_seed(rows, best))
    holds = mean - half > -NEAR if not np.isnan(half) else False
    floor = rows["floor"].mean()
    return {
        "id": f"xnorm.{_key(name)}.comparable",
        "text": f"{name}: X-Norm is comparable or superior to the best other method",
        "source": PAPER,
        "paper": "comparable or superior",
        "ours": f"{by_seed(rows, 'X-Norm').mean():.1f} against {by_seed(rows, best).mean():.1f} % ({best}), "
        f"{points(mean, half)}; majority {floor:.1f} %",
        "verdict": verdict(holds, rows["seed"].nunique()),
        "note": f"the best of {len(rivals)} others by their test means, one modality alone among them, which "
        f"favours it. Rule: the 95 % interval over seeds lies above -{NEAR:g} point",
    }


def exchanged(table: pd.DataFrame, name: str) -> Claim:
    """On one data set, is it the exchange, or the norm and its weights?"""
    rows = table[table["data"] == name]
    ours, own, late = (by_seed(rows, way) for way in ("X-Norm", OWN, "late"))
    mean, half = paired(ours, own)
    return {
        "id": f"xnorm.{_key(name)}.exchanged",
        "text": f"{name}: exchanged parameters are better than as many of one's own",
        "source": "labkit; the paper's own control is not known",
        "paper": None,
        "ours": f"{ours.mean():.1f} against {own.mean():.1f} %, {points(mean, half)}; from late fusion "
        f"({late.mean():.1f} %) {points(*paired(ours, late))}, one's own {points(*paired(own, late))}",
        "verdict": "not testable here" if np.isnan(half)
        else "reproduced" if mean - half > 0 else "not supported",
        "note": "Rule: the 95 % interval over seeds lies above 0",
    }  # fmt: skip


def _key(name: str) -> str:
    return name.lower().replace(", ", "_").replace(" ", "_")


def summary(
    tables: Sequence[pd.DataFrame],
    records: Mapping[str, Sequence[Mapping[str, Sequence[float]]]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The metrics of the ledger, a number a seed: right answers held out and in training, and CKA.

    Args:
        tables: As of `labkit.exchanging.measure.table` or `rho_table`.
        records: As of `aligned`.
    """
    found = {}
    for way, runs in (records or {}).items():
        last = max(name for name in runs[0] if name.startswith("alike"))
        found[f"clips_synergy.{_key(way)}.cka"] = metric([run[last][-1] for run in runs])
    for table in tables:
        names = (
            table["data"] if "data" in table else "clips, rho " + table["rho"].map("{:g}".format)
        )
        for name, rows in table.groupby(names, sort=False):
            for way in dict.fromkeys(rows["way"]):
                for column, what in (("accuracy", "accuracy"), ("train", "training accuracy")):
                    key = f"{_key(f'{name}.{way}')}.{what.replace(' ', '_')}"
                    found[key] = metric(by_seed(rows, way, column).tolist(), "%")
    return found
