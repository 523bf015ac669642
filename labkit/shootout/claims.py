"""What the papers claim, put to the test beside each other's methods.

Each function takes `labkit.shootout.reading.scores` and returns what `labkit.ledger.claim` takes, for one
data set. The rule of a verdict stands in the claim's note: it holds in every seed, or for the 95 % interval
over seeds. Methods have teaching size; the papers' own numbers belong to other data and are not quoted.
Whether X-Norm is comparable or superior is asked in notebook 08, on data that were not made for it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labkit import metrics
from labkit.ledger import metric
from labkit.shootout.plan import (
    ALONE,
    BARE,
    NEAREST,
    PREDICTOR,
    TAUGHT,
    TIMES,
    TRAINED_TWICE,
    Setting,
)
from labkit.shootout.reading import OVERALL, SCORES, agreement, fronts, named

Claim = dict[str, Any]
Values = NDArray[np.float64]

NEAR = 1.0  # points that count as none
SPECIAL = 3.0  # points that a generalist may lose to a specialist
SAVED = 20.0  # % of the MAdds that a gate shall save
ALIKE = 0.7  # rank correlation of two orders that are called one
# Splits whose labels made the data: see `labkit.data.mosi`.
SEEN = {
    "MOSI": "; its vectors come from networks that learnt from the labels of this training and validation "
    "split"
}


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


def _least(values: NDArray[Any]) -> float:
    """The lower end of a 95 % interval; of one seed, what it has."""
    if len(values) < 2:
        return float(values[0])
    mean, half = metrics.mean_ci(values.tolist())
    return mean - half


def _claim(
    name: str, id: str, text: str, ours: str, each: NDArray[np.bool_] | Values, note: str,
    source: str = "labkit", paper: str | None = None,
) -> Claim:  # fmt: skip
    """A claim on one data set; one seed carries no verdict.

    Truth values, one a seed, have to be true in each; of numbers the 95 % interval has to lie above 0.
    """
    count, truths = len(each), each.dtype == bool
    holds = bool(each.all()) if truths else _least(each) > 0
    verdict = "reproduced" if holds else "not supported"
    where = "in every seed" if truths else "the 95 % interval over seeds lies above 0"
    return {
        "id": f"shootout.{name.lower()}.{id}",
        "text": f"{name}: {text}",
        "source": source,
        "paper": paper,
        "ours": ours if count < 2 else f"{ours}; so in {int((each > 0).sum())} of {count} seeds",
        "verdict": "not testable here" if count < 2 else verdict,
        "note": f"{note} {where}",
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
    behind = [e for e, each in zip(both, ahead, strict=True) if each.min() <= 0]
    said = f"{len(behind)} of {len(both)} do not" + (
        f" ({', '.join(behind)})" if 0 < len(behind) <= 4 else ""
    )
    return _claim(
        name, "floor",
        "whatever is trained on all modalities beats the nearest class mean",
        f"{said}; the mean lead is {_said(ahead.mean(0))}",
        ahead.min(0) > 0,
        "mean of the four scores. Rule: all of them,",
    )  # fmt: skip


def gaps(found: pd.DataFrame, name: str) -> Claim:
    """Is it how one trains, or what?"""
    plain = {one: by_seed(found, name, one, "missing") for one, _ in _pairs(found, name)}
    trained = {one: by_seed(found, name, gaps, "missing") for one, gaps in _pairs(found, name)}
    gain = np.mean([trained[one] - plain[one] for one in plain], 0)
    rows = found[(found["data"] == name) & ~found["gaps"]]
    rivals = {
        one: by_seed(found, name, one, "missing")
        for one in rows["entry"].unique() if not one.endswith((f" {ALONE}", f" {TAUGHT}"))
    }  # fmt: skip
    best = max(rivals, key=lambda one: rivals[one].mean())
    ahead = trained["early"] - np.max([*rivals.values()], 0)
    return _claim(
        name, "gaps",
        "with something missing, plain early fusion trained on gaps beats the best of those that were not",
        f"{_said(ahead)} from the best of each seed, {best} in the mean; a method gains {_said(gain)}",
        ahead,
        f"score 'missing', {len(rivals)} entries that read all modalities and were made of complete data. "
        "Rule:",
    )  # fmt: skip


def price(found: pd.DataFrame, name: str) -> Claim:
    """What training on gaps costs where nothing is missing."""
    lost = {
        one: by_seed(found, name, gaps, "complete") - by_seed(found, name, one, "complete")
        for one, gaps in _pairs(found, name)
    }
    worst = min(lost, key=lambda one: lost[one].mean())
    every = np.mean([*lost.values()], 0)
    return _claim(
        name, "gaps_price",
        "training on gaps costs no method much where nothing is missing",
        f"{_said(every)} in the mean over methods; worst {_said(lost[worst])} ({worst})",
        lost[worst] >= -SPECIAL,
        f"{len(lost)} methods, score 'complete'. Rule: the worst method, in its mean over seeds, loses "
        f"{SPECIAL:g} points at most,",
    )  # fmt: skip


def patience(found: pd.DataFrame, name: str) -> Claim:
    """Is it the gaps that cost X-Norm the product, or the budget? Early fusion gets as much time."""
    long, plain, rival = (
        [by_seed(found, name, entry, score) for score in ("complete", "missing")]
        for entry in ("X-Norm, long, gaps", "X-Norm", "early, long, gaps")
    )
    (lost, won), ahead = np.subtract(long, plain), np.subtract(long, rival)
    return _claim(
        name, "patience",
        "X-Norm learns on gaps what it knows of complete data, if it is given time",
        f"{_said(lost)} with everything visible, {_said(won)} with something missing; "
        f"{_said(ahead[0])} and {_said(ahead[1])} from early fusion, given as much",
        (lost >= -SPECIAL) & (won > 0),
        f"{TIMES} times the epochs, against X-Norm trained on complete data. Rule: {SPECIAL:g} points lost "
        "at most with everything visible, and ahead with something missing,",
    )  # fmt: skip


def conditions(found: pd.DataFrame, name: str) -> Claim:
    """MISA on gaps, against itself without the conditions on its codes."""
    ahead = [
        by_seed(found, name, named("MISA", True), score)
        - by_seed(found, name, named(BARE, True), score)
        for score in ("complete", "missing")
    ]
    return _claim(
        name, "conditions",
        "trained on gaps, MISA is the better for its three conditions",
        f"{_said(ahead[0])} with everything visible, {_said(ahead[1])} with something missing",
        np.mean(ahead, 0),
        "weights of similar, differ and recover: MMSA's, and 0; scores 'complete' and 'missing', their mean. "
        "Rule:",
        source="MISA, in our words", paper="ahead",
    )  # fmt: skip


def recovering(found: pd.DataFrame, name: str) -> Claim:
    """DiCMoR against its own predictor, to which nothing was given in place of what is missing."""
    ahead = by_seed(found, name, "DiCMoR, gaps", "missing") - by_seed(
        found, name, named(PREDICTOR, True), "missing"
    )
    return _claim(
        name, "recovering",
        "with something missing, recovering it is better than a predictor trained on gaps that gets nothing",
        _said(ahead),
        ahead,
        "score 'missing'; one predictor, which reads projections, with flows and the last stage on gaps, or "
        "with zeros in training and test. Rule:",
        source="DiCMoR, in our words", paper="ahead",
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
        f"the MVAE has other encoders. Rule: no modality more than {SPECIAL:g} points behind,",
        source="labkit, of the MVAE: one network for all subsets",
    )  # fmt: skip


def choosing(found: pd.DataFrame, name: str, cheap: str) -> Claim:
    """DynMM against its two experts, and against chance that spends as much."""
    (right, spent), (low, little), (high, much) = (
        (by_seed(found, name, entry, "complete"), by_seed(found, name, entry, "madds"))
        for entry in ("DynMM, gaps", f"{cheap} {ALONE}", "early, gaps")
    )
    lost, saved = right - high, 100 * (1 - spent / much)
    lead = right - (low + (spent - little) / (much - little) * (high - low))
    return _claim(
        name, "choosing",
        "a gate that chooses is as right as its dear expert for much less",
        f"{_said(lost)} from the dear expert, {saved.mean():.0f} % of its MAdds saved; {_said(lead)} from "
        "chance at the same price",
        (lost >= -NEAR) & (saved >= SAVED) & (_least(lead) > 0),
        f"trained on gaps, everything visible, gate on the bill; chance: {cheap} {ALONE} and early fusion by "
        f"lot. Rule: the 95 % interval of the lead over chance lies above 0; {NEAR:g} point lost at most and "
        f"{SAVED:g} % saved at least,",
        source="DynMM, in our words", paper="nearly as right, for less",
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
        gain.mean(0),
        "mean over modalities; teacher: early fusion; labels and logits at equal weights"
        f"{SEEN.get(name, '')}. Rule:",
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
        ahead,
        f"by gain, two windows; against early fusion, everything visible{SEEN.get(name, '')}. Rule:",
        source="Wang, Tran & Feiszli, CVPR 2020, in our words", paper="ahead",
    )  # fmt: skip


def ranking(found: pd.DataFrame, name: str) -> Claim:
    """Does the order on complete data tell the order on gaps?"""
    both = found[~found["entry"].str.endswith((f" {ALONE}", f" {TAUGHT}"))]
    told = [agreement(both[both["gaps"] == gaps], name) for gaps in (False, True)]
    said = (f"{each.mean():+.2f} ({each.min():+.2f} to {each.max():+.2f})" for each in told)
    return _claim(
        name, "ranking",
        "the order of methods on complete data is their order with something missing",
        "rank correlation " + " and, trained on gaps, ".join(said),
        np.min(told, 0) >= ALIKE,
        "Spearman over entries that read all modalities, among those trained on complete data and among "
        f"those trained on gaps. Rule: at least {ALIKE:g} among either,",
        source="labkit; how benchmarks are read",
    )  # fmt: skip


def all_claims(
    studies: Mapping[str, Setting], found: pd.DataFrame, table: pd.DataFrame
) -> list[Claim]:
    """Every claim on every data set."""
    asked: Sequence[Callable[[pd.DataFrame, str], Claim]] = (
        floor, gaps, price, conditions, recovering, taught, blending, ranking,
    )  # fmt: skip
    claims = []
    for name, setting in studies.items():
        claims += [ask(found, name) for ask in asked]
        claims += [choosing(found, name, setting.cheap), generalist(found, table, name)]
        if len(setting.names) == 2:
            claims.append(patience(found, name))
    return claims


def summary(found: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Numbers for the ledger: scores of each entry, and how many are on the front."""
    out: dict[str, dict[str, Any]] = {}
    for (name, entry), rows in found.groupby(["data", "entry"], sort=False):
        for score in (*SCORES, OVERALL):
            out[f"{name}, {entry}: {score}"] = metric(rows.sort_values("seed")[score].tolist(), "%")
        out[f"{name}, {entry}: MAdds"] = metric(rows.sort_values("seed")["madds"].tolist(), "")
    by_seeds = [fronts(rows) for _, rows in found.groupby("seed")]
    for name in dict.fromkeys(found["data"]):
        out[f"{name}: on the front"] = metric(
            [float(len(each[name])) for each in by_seeds], "entries"
        )
        out[f"{name}: floor"] = metric(
            found[found["data"] == name].groupby("seed")["floor"].first().tolist(), "%"
        )
    return out
