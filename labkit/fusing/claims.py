"""What DynMM claims of fusing depth into colour, put to the test beside controls that the paper lacks.

Each function takes what `labkit.fusing.measure` found and returns what `labkit.ledger.claim` takes. The rule
of a verdict stands in the claim's note. "Paper" is Xue & Marculescu, CVPR-W 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labkit import metrics
from labkit.fusing.plan import CLOSABLE, DYNAMIC
from labkit.fusing.reading import in_use
from labkit.ledger import metric
from labkit.models.dynmm_fusion import PATHS, depth_costs, nyu

Claim = dict[str, Any]
Values = NDArray[np.float64]

CLEAR = 2.0  # points of mIoU that are a clear margin
CLOSE = 1.0  # points of mIoU below the full network that are nearly as good
LESS = 0.2  # share of the depth encoder's MAdds that has to be saved
FULL = f"static {PATHS - 1}"


def by_seed(table: pd.DataFrame, way: str, column: str = "miou") -> Values:
    """One number a seed of a way, in the order of the seeds."""
    rows = table[table["way"] == way].sort_values("seed")
    return rows[column].to_numpy(float)


def gated(table: pd.DataFrame, kind: str = DYNAMIC[2]) -> list[str]:
    """The ways of one kind of gate, from the smallest weight of the cost to the largest."""
    ways = {way for way in table["way"] if way.startswith(f"{kind}, ")}
    return sorted(ways, key=lambda way: float(way.partition(", ")[2]))


def chosen(table: pd.DataFrame) -> str:
    """The annealed gate that we speak of: chosen on the validation split, the same for all seeds.

    Of those at most `CLOSE` below the full network there, the cheapest; if there is none, the best.
    """
    ways = gated(table)
    val = {way: by_seed(table, way, "val").mean() for way in ways}
    near = by_seed(table, FULL, "val").mean() - CLOSE
    fits = [way for way in ways if val[way] >= near]
    if not fits:
        return max(ways, key=lambda way: val[way])
    return min(fits, key=lambda way: by_seed(table, way, "val_cost").mean())


def paired(one: Values, other: Values) -> tuple[float, float]:
    """Mean difference over seeds and half its 95 % interval (nan with one seed)."""
    difference = (one - other).tolist()
    return metrics.mean_ci(difference) if len(difference) > 1 else (difference[0], float("nan"))


def _points(mean: float, half: float) -> str:
    return f"{mean:+.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}") + " points"


def _verdict(mean: float, half: float) -> str:
    """Reproduced if the interval lies above 0; one seed has none."""
    if np.isnan(half):
        return "not testable here"
    return "reproduced" if mean - half > 0 else "not supported"


def depth_helps(table: pd.DataFrame, name: str) -> Claim:
    """(F) The full network against colour alone."""
    full, colour = by_seed(table, FULL), by_seed(table, "colour")
    return {
        "id": f"dynmm.{name.lower()}.depth_helps",
        "text": f"{name}: depth, always fused, tells more than colour alone",
        "source": "paper, section 4.3 (its premise)",
        "paper": None,
        "ours": f"{full.mean():.1f} against {colour.mean():.1f} % mIoU "
        f"({(full - colour).min():+.1f} to {(full - colour).max():+.1f})",
        "holds": bool((full - colour >= CLEAR).all()),
        "note": f"rule: at least {CLEAR:g} points in every seed",
    }


def saves(table: pd.DataFrame, name: str) -> Claim:
    """(F) Nearly as good, for less."""
    way = chosen(table)
    lost = by_seed(table, FULL) - by_seed(table, way)
    saved = 1 - by_seed(table, way, "cost")
    return {
        "id": f"dynmm.{name.lower()}.saves",
        "text": f"{name}: a gate is nearly as good as always fusing, and saves a fifth of the depth encoder",
        "source": "paper, table 3, DynMM-b",
        "paper": "51.0 against 50.5 % mIoU, 21.1 % fewer MAdds",
        "ours": f"{by_seed(table, way).mean():.1f} against {by_seed(table, FULL).mean():.1f} % mIoU, "
        f"{100 * saved.mean():.0f} % fewer MAdds ({100 * saved.min():.0f} to {100 * saved.max():.0f})",
        "holds": bool(lost.mean() <= CLOSE and saved.mean() >= LESS),
        "note": f"{way}, the cheapest annealed gate that loses no more than {CLOSE:g} point on the "
        f"validation split. Rule: held out, mean of seeds, at most {CLOSE:g} point lost, {LESS:.0%} saved",
    }


def order(table: pd.DataFrame, name: str) -> Claim:
    """(F) Random paths, hard gates, annealed gates."""
    (hard,) = gated(table, DYNAMIC[1])
    weight = hard.partition(", ")[2]
    ways = (DYNAMIC[0], hard, f"{DYNAMIC[2]}, {weight}")
    means = [by_seed(table, way).mean() for way in ways]
    return {
        "id": f"dynmm.{name.lower()}.order",
        "text": f"{name}: random paths, a hard gate, an annealed gate: each better than the one before",
        "source": "paper, table 3",
        "paper": "48.5, 49.9, 51.0 % mIoU",
        "ours": ", ".join(f"{m:.1f}" for m in means) + " % mIoU at "
        + ", ".join(f"{100 * by_seed(table, way, 'cost').mean():.0f}" for way in ways) + " % of the MAdds",
        "holds": bool(means[0] < means[1] < means[2]),
        "note": f"gates with weight {weight} of the cost; same epochs for all. Rule: means over seeds rise",
    }  # fmt: skip


def knows(table: pd.DataFrame, name: str) -> Claim:
    """(H) What the gate knows: its paths against the same paths dealt out anew."""
    way = chosen(table)
    mean, half = paired(by_seed(table, way), by_seed(table, way, "random"))
    return {
        "id": f"dynmm.{name.lower()}.beats_chance",
        "text": f"{name}: the gate's choice is worth more than the same paths dealt out by chance",
        "source": "labkit; the paper does not ask",
        "paper": None,
        "ours": _points(mean, half),
        "verdict": _verdict(mean, half),
        "note": f"{way}; one network, its own paths against themselves permuted over pictures (five draws), "
        "so both cost the same. An upper bound: the network never saw those pictures on those paths. Rule: "
        "the 95 % interval over seeds lies above 0",
    }


def exits_at(table: pd.DataFrame, cost: Values) -> Values:
    """What one depth for all pictures reaches at these costs, in each seed: on the line between exits."""
    found = []
    for seed, at in zip(sorted(table["seed"].unique()), cost, strict=True):
        rows = table[(table["seed"] == seed) & table["way"].str.startswith("static")].sort_values(
            "cost"
        )
        found.append(np.interp(at, rows["cost"].to_numpy(float), rows["miou"].to_numpy(float)))
    return np.array(found)


def against_exit(table: pd.DataFrame, name: str) -> Claim:
    """(H) Against networks that always stop at one depth."""
    way = chosen(table)
    cost = by_seed(table, way, "cost")
    mean, half = paired(by_seed(table, way), exits_at(table, cost))
    return {
        "id": f"dynmm.{name.lower()}.beats_exit",
        "text": f"{name}: the gate is better than one early exit for all pictures at the same cost",
        "source": "labkit; the paper does not ask",
        "paper": None,
        "ours": f"{_points(mean, half)} at {100 * cost.mean():.0f} % of the depth encoder's MAdds",
        "verdict": _verdict(mean, half),
        "note": f"{way} against five networks of one depth each, trained alone and as long; between two of "
        "them mIoU is on the line (some pictures by the one, some by the other, by chance). Rule: the 95 % "
        "interval over seeds lies above 0",
    }


def equal_training(table: pd.DataFrame, name: str) -> Claim:
    """(I) With as many epochs for the network that always fuses."""
    way = chosen(table)
    mean, half = paired(by_seed(table, way), by_seed(table, FULL))
    return {
        "id": f"dynmm.{name.lower()}.better_than_full",
        "text": f"{name}: a gate is better than always fusing, both trained for as many epochs",
        "source": "paper, table 3 and abstract",
        "paper": "+0.5 (51.0 against 50.5), after at least 1000 epochs against 500",
        "ours": _points(mean, half),
        "verdict": _verdict(mean, half),
        "note": f"{way}. Rule: the 95 % interval over seeds lies above 0",
    }


def sweep_gap(noise: pd.DataFrame, way: str, mode: str, full: str = FULL) -> Values:
    """Points that the gate is ahead of the full network, (seeds, levels), mean over draws of the noise."""
    rows = noise[noise["mode"] == mode]
    mean = rows.pivot_table("miou", ["seed", "level"], "way")
    return np.asarray((mean[way] - mean[full]).unstack("level"), dtype=float)


def robust(noise: pd.DataFrame, way: str, name: str, mode: str = "depth") -> Claim:
    """(G) How the gap to the full network moves with the noise."""
    gap = sweep_gap(noise, way, mode)
    levels = sorted(noise["level"].unique())
    mean, half = paired(gap[:, -1], gap[:, 0])
    grows = bool((np.diff(gap.mean(0)) >= -0.1).all())
    expects = mode == "depth"
    verdict = _verdict(mean, half)
    if not expects and not np.isnan(half):
        settled = "reproduced" if abs(mean) + half <= CLOSE else "corrected"
        verdict = "not testable here" if abs(abs(mean) - CLOSE) < half else settled
    elif verdict == "reproduced" and not grows:
        verdict = "not supported"
    return {
        "id": f"dynmm.{name.lower()}.noise_{mode}",
        "text": f"{name}: with noise on {mode}, the gate's lead over always fusing "
        + ("grows" if expects else "stays as it was"),
        "source": "paper, figure 6" if expects else "what the network allows: no path does without colour",
        "paper": "claimed, by a picture" if expects else None,
        "ours": ", ".join(f"{g:+.1f}" for g in gap.mean(0)) + f" points at levels "
        f"{', '.join(f'{level:g}' for level in levels)}; from first to last {_points(mean, half)}",
        "verdict": verdict,
        "note": f"{way}; noise of its own in every third picture, {noise['draw'].nunique()} draws. Rule: "
        + ("the 95 % interval over seeds of the whole change lies above 0, and no step falls by more than 0.1"
           if expects else f"the interval of the change lies within {CLOSE:g} point of 0, or else beyond it"),
    }  # fmt: skip


def closable(noise: pd.DataFrame, name: str) -> Claim:
    """(G) The same where the first layer does not fuse, so that a path without any depth can be chosen."""
    full, gate = CLOSABLE
    gap = sweep_gap(noise, gate, "depth", full)
    change = gap[:, -1] - gap[:, 0]
    verdict = "reproduced" if (np.diff(gap.mean(0)) >= -0.1).all() else "corrected"
    if len(change) < 2:
        verdict = "not testable here"
    elif (change < CLEAR).any():
        verdict = "not supported"
    return {
        "id": f"dynmm.{name.lower()}.noise_closable",
        "text": f"{name}: with noise on depth, the lead grows of a gate that can do without any depth",
        "source": "labkit; in the paper the first layer always fuses",
        "paper": None,
        "ours": ", ".join(f"{g:+.1f}" for g in gap.mean(0)) + " points at levels "
        f"{', '.join(f'{level:g}' for level in sorted(noise['level'].unique()))}; from first to last "
        f"{change.min():+.1f} to {change.max():+.1f}",
        "verdict": verdict,
        "note": "annealed gate against always full, both without fusion in the first layer. Rule: from first "
        f"to last at least {CLEAR:g} points in every seed; corrected if the lead falls by more than 0.1 on "
        "the way",
    }


def choice_under_noise(noise: pd.DataFrame, way: str, name: str) -> Claim:
    """(H) Is it the choice that helps under noise, or the training?"""
    level = noise["level"].max()
    rows = noise[(noise["way"] == way) & (noise["mode"] == "depth") & (noise["level"] == level)]
    each = rows.groupby("seed")[["miou", "random"]].mean()
    mean, half = paired(each["miou"].to_numpy(float), each["random"].to_numpy(float))
    return {
        "id": f"dynmm.{name.lower()}.noise_choice",
        "text": f"{name}: under noise on depth, it is the gate's choice that helps",
        "source": "labkit; the paper does not ask",
        "paper": None,
        "ours": _points(mean, half),
        "verdict": _verdict(mean, half),
        "note": f"{way} at level {level:g}, its paths against themselves permuted over pictures. Rule: "
        "the 95 % interval over seeds lies above 0",
    }


def stage_one(trainings: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> Claim:
    """Do random paths first keep more paths in use?

    Args:
        trainings: Name, the one with random paths first -> a record a seed, as of `reading.trainings`.
        name: Of the data.
    """
    (first, without) = trainings.values()
    used = [np.array([in_use(record["paths"][-1]) for record in each]) for each in (first, without)]
    miou = [np.mean([record["hard"][-1] for record in each]) for each in (first, without)]
    return {
        "id": f"dynmm.{name.lower()}.stage_one",
        "text": f"{name}: a gate that learns after a stage of random paths has more paths in use at the end",
        "source": "released code, epoch_ini; paper, stage I",
        "paper": None,
        "ours": f"{used[0].mean():.1f} against {used[1].mean():.1f} of 5 paths, validation mIoU "
        f"{miou[0]:.1f} against {miou[1]:.1f} %",
        "holds": bool((used[0] > used[1]).all()),
        "note": "paths in use: exp of the entropy of their shares; same epochs for both. Rule: in every seed",
    }


def rule_spread(rules: pd.DataFrame, name: str) -> Claim:
    """What it does to a test that pictures of a mini-batch are hit together."""
    spread = rules.groupby(["rule", "seed"])["miou"].std().unstack("seed")
    whole, each = spread.loc["mini-batch"], spread.loc["picture"]
    return {
        "id": f"dynmm.{name.lower()}.rule",
        "text": f"{name}: noise that hits a mini-batch as a whole tests as well as noise of each picture",
        "source": "released code, eval.py",
        "paper": None,
        "ours": f"from draw to draw mIoU varies by {whole.mean():.2f} against {each.mean():.2f} points",
        "verdict": "reproduced" if whole.mean() <= 1.5 * each.mean() else "corrected",
        "note": f"{FULL}, depth noise {rules['level'].max():g}, deviation over {rules['draw'].nunique()} "
        "draws, mean over seeds. Rule: at most half as much again",
    }


def constants() -> Claim:
    """The paper's bill of the depth encoder, counted anew."""
    ours = depth_costs(nyu())
    theirs = (0.2506752, 4.39420573, 10.72382115, 19.71582947, 24.679084)
    return {
        "id": "dynmm.nyu.depth_madds",
        "text": "NYU: MAdds of the depth encoder on each of the five paths",
        "source": "released code, FusionDynMM; paper, table 3",
        "paper": ", ".join(f"{c:.2f}" for c in theirs) + " G",
        "ours": ", ".join(f"{c:.2f}" for c in ours) + " G",
        "holds": bool(np.allclose(ours, theirs, rtol=0, atol=5.1e-9)),
        "note": "counted on the paper's network by listening to each layer; to the last printed digit",
    }


def plain(table: pd.DataFrame, name: str) -> list[Claim]:
    """All claims without noise."""
    asked = (depth_helps, saves, order, knows, against_exit, equal_training)
    return [claim(table, name) for claim in asked]


def noisy(noise: pd.DataFrame, way: str, name: str) -> list[Claim]:
    """All claims of noise."""
    lead = [robust(noise, way, name, mode) for mode in ("depth", "rgb")]
    return [*lead, choice_under_noise(noise, way, name), closable(noise, name)]


def summary(table: pd.DataFrame, noise: pd.DataFrame, name: str) -> dict[str, dict[str, Any]]:
    """The metrics of the ledger."""
    found = {}
    for way in dict.fromkeys(table["way"]):
        key = way.replace(", ", "_").replace(" ", "_")
        found[f"{name.lower()}.{key}.miou"] = metric(by_seed(table, way).tolist(), "% mIoU")
        found[f"{name.lower()}.{key}.cost"] = metric(
            by_seed(table, way, "cost").tolist(), "of the deepest path"
        )
    for mode in dict.fromkeys(noise["mode"]):
        gap = sweep_gap(noise, chosen(table), mode)
        found[f"{name.lower()}.gap_{mode}_noise"] = metric(
            gap[:, -1].tolist(), "points, at the highest level"
        )
    return found
