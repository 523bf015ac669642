"""What the papers claim, put to the test beside each other's methods.

Each function takes `labkit.shootout.reading.scores` and returns what `labkit.ledger.claim` takes, for one
data set. The rule of a verdict stands in the claim's note, and has to hold in every seed. Methods have
teaching size; the papers' own numbers belong to other data and are not quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labkit import metrics
from labkit.ledger import metric
from labkit.shootout.plan import ALONE, NEAREST, TAUGHT
from labkit.shootout.reading import OVERALL, SCORES, agreement, fronts, named

Claim = dict[str, Any]
Values = NDArray[np.float64]

TRAINED_TWICE = (
    "late",
    "early",
    "MISA",
    "MulT",
    "Gradient-Blending",
    "X-Norm",
    "DynMM",
)  # on complete data and on gaps, all else alike
NEAR = 1.0  # points that count as none
SPECIAL = 3.0  # points that a generalist may lose to a specialist
SAVED = 20.0  # % of the MAdds that a gate shall save


def by_seed(found: pd.DataFrame, name: str, entry: str, score: str) -> Values:
    """One number a seed, in the order of the seeds.

    Raises:
        ValueError: on an entry that the data set does not have.
    """
    rows = found[(found["data"] == name) & (found["entry"] == entry)].sort_values("seed")
    if rows.empty:
        known = found[found["data"] == name]["entry"].unique()
        raise ValueError(f"entry must be one of {', '.join(known)}; got {entry!r}")
    return rows[score].to_numpy(float)


def _said(values: Values) -> str:
    """A mean of points and half its 95 % interval."""
    if len(values) < 2:
        return f"{values.mean():+.1f} points"
    mean, half = metrics.mean_ci(values.tolist())
    return f"{mean:+.1f} ± {half:.1f} points"


def _claim(
    name: str, id: str, text: str, ours: str, each: NDArray[np.bool_], note: str, source: str = "labkit",
    paper: str | None = None,
) -> Claim:  # fmt: skip
    """A claim on one data set: it holds if it does in each seed; one seed carries no verdict."""
    count = len(each)
    verdict = "reproduced" if each.all() else "not supported"
    return {
        "id": f"shootout.{name.lower()}.{id}",
        "text": f"{name}: {text}",
        "source": source,
        "paper": paper,
        "ours": ours if count < 2 else f"{ours}; so in {int(each.sum())} of {count} seeds",
        "verdict": "not testable here" if count < 2 else verdict,
        "note": f"{note}, in every seed",
    }


def _pairs(found: pd.DataFrame, name: str) -> list[tuple[str, str]]:
    there = set(found[found["data"] == name]["entry"])
    pairs = [(way, named(way, True)) for way in TRAINED_TWICE]
    return [pair for pair in pairs if {*pair} <= there]


def floor(found: pd.DataFrame, name: str) -> Claim:
    """What hardly learns against all that does."""
    rivals = [e for e in found[found["data"] == name]["entry"].unique() if e != NEAREST]
    both = [e for e in rivals if not e.endswith((f" {ALONE}", f" {TAUGHT}"))]
    least = by_seed(found, name, NEAREST, OVERALL)
    ahead = np.array([by_seed(found, name, e, OVERALL) - least for e in both])
    behind = [e for e, each in zip(both, ahead, strict=True) if each.mean() <= 0]
    said = f"{len(behind)} of {len(both)} do not" + (
        f" ({', '.join(behind)})" if 0 < len(behind) <= 4 else ""
    )
    return _claim(
        name, "floor",
        "whatever is trained on all modalities beats the nearest class mean",
        f"{said}; the mean lead is {_said(ahead.mean(0))}",
        ahead.min(0) > 0,
        "mean of the four scores. Rule: all of them",
    )  # fmt: skip


def gaps(found: pd.DataFrame, name: str) -> Claim:
    """Is it how one trains, or what?"""
    pairs = _pairs(found, name)
    plain, trained = (
        np.array([by_seed(found, name, pair[i], "missing") for pair in pairs]) for i in (0, 1)
    )
    gain, apart = (trained - plain).mean(0), trained.max(0) - trained.min(0)
    return _claim(
        name, "gaps",
        "with something missing, training on gaps is worth more than the choice of a method",
        f"{_said(gain)}; best and worst trained on gaps are {apart.mean():.1f} apart",
        gain > apart,
        f"mean over {len(pairs)} methods of the gain, score 'missing'. Rule: more than the distance "
        f"of the best from the worst of those trained on gaps",
    )  # fmt: skip


def price(found: pd.DataFrame, name: str) -> Claim:
    """What training on gaps costs where nothing is missing."""
    pairs = _pairs(found, name)
    lost = np.array(
        [
            by_seed(found, name, b, "complete") - by_seed(found, name, a, "complete")
            for a, b in pairs
        ]
    )
    return _claim(
        name, "gaps_price",
        "training on gaps costs nothing where nothing is missing",
        _said(lost.mean(0)),
        lost.mean(0) >= -NEAR,
        f"{len(pairs)} methods, score 'complete'. Rule: {NEAR:g} point lost at most",
    )  # fmt: skip


def recovering(found: pd.DataFrame, name: str) -> Claim:
    """DiCMoR against the simplest fusion, both trained for gaps."""
    ahead = by_seed(found, name, "DiCMoR, gaps", "missing") - by_seed(
        found, name, "early, gaps", "missing"
    )
    return _claim(
        name, "recovering",
        "with something missing, recovering it is better than early fusion trained on gaps",
        _said(ahead),
        ahead > 0,
        "flows, then the last stage on gaps; its predictor reads projections, not streams. Rule: "
        "ahead",
        source="DiCMoR, distribution-consistent recovering", paper="ahead",
    )  # fmt: skip


def generalist(found: pd.DataFrame, table: pd.DataFrame, name: str) -> Claim:
    """One MVAE against networks of one modality each, where that is all there is."""
    rows = table[(table["data"] == name) & (table["noisy"] == "nothing")]
    singles = [v for v in dict.fromkeys(rows["visible"]) if "+" not in v]
    each = []
    for single in singles:
        part = rows[rows["visible"] == single].sort_values("seed")
        one = part[part["way"] == "MVAE"]["accuracy"].to_numpy(float)
        each.append(one - part[part["way"] == f"{single} {ALONE}"]["accuracy"].to_numpy(float))
    behind = np.array(each)
    worst = singles[int(behind.mean(1).argmin())]
    return _claim(
        name, "generalist",
        "one MVAE answers from one modality as well as a network of that modality alone",
        f"{_said(behind.mean(0))}; worst {behind.mean(1).min():+.1f} ({worst})",
        behind.min(0) >= -SPECIAL,
        f"the MVAE has other encoders. Rule: no modality more than {SPECIAL:g} points behind",
        source="labkit, of the MVAE: one network for all subsets",
    )  # fmt: skip


def choosing(found: pd.DataFrame, name: str) -> Claim:
    """DynMM against the dear expert that it has."""
    lost = by_seed(found, name, "DynMM, gaps", "complete") - by_seed(
        found, name, "early, gaps", "complete"
    )
    spent = by_seed(found, name, "DynMM, gaps", "madds") / by_seed(
        found, name, "early, gaps", "madds"
    )
    saved = 100 * (1 - spent)
    return _claim(
        name, "choosing",
        "a gate is as right as its dear expert for much less",
        f"{_said(lost)}, {saved.mean():.0f} % of the MAdds saved",
        (lost >= -NEAR) & (saved >= SAVED),
        f"both trained on gaps, everything visible, gate on the bill. Rule: {NEAR:g} point lost at "
        f"most, {SAVED:g} % saved at least",
        source="DynMM, abstract", paper="as right, for less",
    )  # fmt: skip


def taught(found: pd.DataFrame, name: str) -> Claim:
    """Students of a fused teacher against the same networks without one."""
    entries = found[found["data"] == name]["entry"].unique()
    names = [e.removesuffix(f" {TAUGHT}") for e in entries if e.endswith(f" {TAUGHT}")]
    gain = np.array([
        by_seed(found, name, f"{n} {TAUGHT}", "complete") - by_seed(found, name, f"{n} {ALONE}", "complete")
        for n in names
    ])  # fmt: skip
    each = ", ".join(f"{n} {g:+.1f}" for n, g in zip(names, gain.mean(1), strict=True))
    return _claim(
        name, "taught",
        "a network of one modality learns more from a teacher that sees all",
        f"{_said(gain.mean(0))}; {each}",
        gain.mean(0) > 0,
        "teacher: early fusion; labels and logits at equal weights. Rule: mean gain above 0",
        source="labkit, of cross-modal distillation, which MFH asks about",
    )  # fmt: skip


def blending(found: pd.DataFrame, name: str) -> Claim:
    """Gradient-Blending against what it improves on."""
    ahead = by_seed(found, name, "Gradient-Blending", "complete") - by_seed(
        found, name, "early", "complete"
    )
    return _claim(
        name, "blending",
        "blending gradients is better than joint training",
        _said(ahead),
        ahead > 0,
        "by gain, two windows; against early fusion, everything visible. Rule: ahead",
        source="Wang, Tran & Feiszli, CVPR 2020", paper="ahead",
    )  # fmt: skip


def exchanging(found: pd.DataFrame, name: str) -> Claim:
    """X-Norm against all other fusions, everything visible."""
    ours = by_seed(found, name, "X-Norm", "complete")
    rivals = {
        way: by_seed(found, name, way, "complete")
        for way, _ in _pairs(found, name)
        if way not in ("X-Norm", "DynMM")
    }
    best = max(rivals, key=lambda way: rivals[way].mean())
    ahead = ours - rivals[best]
    return _claim(
        name, "exchanging",
        "X-Norm is comparable or superior to the other fusions",
        f"{_said(ahead)} from the best other, {best}",
        ahead >= -NEAR,
        f"trained on complete data, everything visible. Rule: at most {NEAR:g} point behind",
        source="X-Norm, abstract", paper="comparable or superior",
    )  # fmt: skip


def ranking(found: pd.DataFrame, name: str) -> Claim:
    """Does the order on complete data tell the order on gaps?"""
    both = found[~found["entry"].str.endswith((f" {ALONE}", f" {TAUGHT}"))]
    told = agreement(both, name)
    return _claim(
        name, "ranking",
        "who is best on complete data is best with something missing",
        f"rank correlation {told.mean():+.2f} ({told.min():+.2f} to {told.max():+.2f})",
        told >= 0.7,
        "Spearman over entries that read all modalities. Rule: at least 0.7",
        source="labkit; how benchmarks are read",
    )  # fmt: skip


def all_claims(found: pd.DataFrame, table: pd.DataFrame) -> list[Claim]:
    """Every claim on every data set."""
    asked: Sequence[Callable[[pd.DataFrame, str], Claim]] = (
        floor, gaps, price, recovering, choosing, taught, blending, ranking,
    )  # fmt: skip
    claims = []
    for name in dict.fromkeys(found["data"]):
        claims += [ask(found, name) for ask in asked] + [generalist(found, table, name)]
        if "X-Norm" in set(found[found["data"] == name]["entry"]):
            claims.append(exchanging(found, name))
    return claims


def summary(found: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Numbers for the ledger: scores of each entry, and how many are on the front."""
    out: dict[str, dict[str, Any]] = {}
    for (name, entry), rows in found.groupby(["data", "entry"], sort=False):
        for score in (*SCORES, OVERALL):
            out[f"{name}, {entry}: {score}"] = metric(rows.sort_values("seed")[score].tolist(), "%")
        out[f"{name}, {entry}: MAdds"] = metric(rows.sort_values("seed")["madds"].tolist(), "")
    for name, entries in fronts(found).items():
        out[f"{name}: on the front"] = metric(float(len(entries)), "entries")
        out[f"{name}: floor"] = metric(
            found[found["data"] == name].groupby("seed")["floor"].first().tolist(), "%"
        )
    return out
