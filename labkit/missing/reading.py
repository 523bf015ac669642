"""Reading the measurements: rows and means of the scores, tables, and what figures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler
from torch import Tensor

from labkit import metrics
from labkit.batch import Batch, subsets
from labkit.data.digits import MODALITIES
from labkit.floors import Floor
from labkit.ledger import metric
from labkit.missing.measure import SPLITS, labels_of, mvae_of
from labkit.missing.plan import SUBSETS
from labkit.models import mvae
from labkit.store import Run

EVERYTHING = SUBSETS[-1]

# Table 1 of the poster, training split: accuracy, "ELBO" (a loss at beta 0.16), BCE, BCE, MSE.
POSTER = {
    "farsi": (0.996, 248.85, 89.09, 135.0, 0.133),
    "kannada": (0.997, 436.9, 348.67, 68.96, 0.134),
    "speech": (0.992, 493.03, 348.81, 135.76, 0.0095),
    "farsi+kannada": (0.9993, 187.64, 89.05, 69.04, 0.133),
    "farsi+speech": (0.9988, 239.11, 89.33, 134.8, 0.013),
    "kannada+speech": (0.9994, 427.44, 346.19, 69.1, 0.011),
    "farsi+kannada+speech": (0.9995, 177.62, 89.38, 69.1, 0.014),
}


# Rows and means ----------------------------------------------------------------------------------


def select(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """Rows whose columns equal the values given (or one of them, for a list)."""
    for column, value in where.items():
        frame = frame[frame[column].isin(value if isinstance(value, list) else [value])]
    return frame


def mean(frame: pd.DataFrame, **where: Any) -> float:
    """Mean over the rows that match: over the seeds, and whatever else is left open.

    Raises:
        ValueError: if no row matches.
    """
    chosen = select(frame, **where)
    if chosen.empty:
        raise ValueError(f"no row matches {where}; columns are {', '.join(frame.columns)}")
    return float(chosen["value"].mean())


def by_size(frame: pd.DataFrame, **where: Any) -> list[float]:
    """Mean over the subsets of one, two and three visible modalities."""
    return [
        mean(frame, subset=[s for s in SUBSETS if s.count("+") == n], **where) for n in range(3)
    ]


def given(target: str, visible: bool, others: int | None = None) -> list[str]:
    """Names of the subsets that hold (or lack) a modality, with this many others visible."""
    names = [s for s in SUBSETS if (target in s.split("+")) == visible]
    return [s for s in names if others is None or len(set(s.split("+")) - {target}) == others]


def spread_over(frame: pd.DataFrame, names: Sequence[str], **where: Any) -> float:
    """(max - min) / mean over subsets, of means over seeds."""
    values = [mean(frame, subset=name, **where) for name in names]
    return (max(values) - min(values)) / (sum(values) / len(values))


# Tables ------------------------------------------------------------------------------------------


def table1(scores: pd.DataFrame, kind: str = "poster") -> pd.DataFrame:
    """The poster's Table 1, three rows a subset: training samples, held-out ones, and the poster's own.

    Errors are nats (images) and squared error (speech), loss is at the trained beta, -ELBO at beta 1.
    """
    columns = {
        "accuracy": ("accuracy, %", 100, 2, 0),
        "loss": ("loss", 1, 1, 1),
        "neg_elbo": ("−ELBO", 1, 1, None),
        "farsi": ("farsi, nats", 1, 1, 2),
        "kannada": ("kannada, nats", 1, 1, 3),
        "speech": ("speech, squared", 1, 4, 4),
    }
    rows = pd.MultiIndex.from_product([SUBSETS, [*SPLITS, "poster"]], names=["visible", "samples"])
    table = pd.DataFrame("", index=rows, columns=[head for head, *_ in columns.values()])
    for name, (head, scale, digits, published) in columns.items():
        for subset in SUBSETS:
            for split in SPLITS:
                chosen = select(scores, kind=kind, split=split, metric=name, subset=subset)["value"]
                table.loc[(subset, split), head] = _spread(chosen * scale, digits)
            if published is not None:
                table.loc[(subset, "poster"), head] = f"{POSTER[subset][published] * scale:g}"
    return table


def _spread(values: pd.Series, digits: int) -> str:
    deviation = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


def coherence_table(coherences: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Share read as the right digit, by what was visible; judge and diversity. Means over the seeds."""

    def table(found: Mapping[str, Any]) -> pd.DataFrame:
        shares = pd.DataFrame(found["cross"]).reindex(SUBSETS[:-1]).T
        shares.columns = pd.Index([f"from {name}" for name in shares.columns])
        shares["judge on real"] = pd.Series(found["judge"])
        shares["diversity"] = pd.Series(found["diversity"])
        return shares

    tables = [table(found) for found in coherences]
    average = pd.concat(tables).groupby(level=0, sort=False).mean()
    return average.rename_axis("generated").map(lambda v: "" if np.isnan(v) else f"{v:.2f}")


def joint_coherence(coherences: Sequence[Mapping[str, Any]]) -> float:
    """Share of draws from the prior whose modalities are all read alike, mean over the seeds."""
    return float(np.mean([found["joint"] for found in coherences]))


def claims_table(claims: Sequence[Any]) -> Styler:
    """Claims as a table to read in place; the whole ledger stands at the end of the notebook."""
    rows = [(c.text, c.paper, c.ours, c.verdict) for c in claims]
    table = pd.DataFrame(rows, columns=["claim", "published", "ours", "verdict"]).fillna("–")
    left = {"text-align": "left", "white-space": "normal", "vertical-align": "top"}
    heads = [{"selector": "th", "props": [("text-align", "left")]}]
    return table.style.hide().set_properties(None, **left).set_table_styles(heads)  # type: ignore[arg-type]


def summary(
    scores: pd.DataFrame,
    floors: Mapping[str, Any],
    evidence: Mapping[str, Sequence[Mapping[str, Any]]],
    coherences: Sequence[Mapping[str, Any]],
    calibrations: Sequence[Mapping[str, Mapping[str, Any]]],
    precisions: Sequence[Mapping[str, Any]],
    majority: float,
) -> dict[str, dict[str, Any]]:
    """The figures that the notebook's bundle keeps: name -> `ledger.metric`, a value a seed."""

    def seeds(**where: Any) -> list[float]:
        return select(scores, **where).groupby("seed")["value"].mean().tolist()

    held_out = {"kind": "poster", "split": "held-out"}
    result = {"majority": metric(majority, "fraction")}
    for subset in SUBSETS:
        accuracy = seeds(metric="accuracy", subset=subset, **held_out)
        result[f"accuracy.{subset}"] = metric(accuracy, "fraction")
    trained = seeds(kind="poster", split="train", metric="accuracy", subset=EVERYTHING)
    result["accuracy.train"] = metric(trained, "fraction")
    new = seeds(kind="new speaker", split="held-out", metric="accuracy", subset="speech")
    result["accuracy.speech.new_speaker"] = metric(new, "fraction")
    for name in MODALITIES:
        unit = "squared" if name == "speech" else "nats"
        for word, visible in (("own", True), ("missing", False)):
            errors = seeds(metric=name, subset=given(name, visible), **held_out)
            result[f"error.{name}.{word}"] = metric(errors, unit)
        for floor in ("self_entropy", "class_mean", "global_mean"):
            result[f"floor.{name}.{floor}"] = metric(floors["held-out"][name][floor], unit)
        from_the_rest = [list(found["cross"][name].values())[-1] for found in coherences]
        result[f"coherence.{name}"] = metric(from_the_rest, "fraction")
        result[f"judge.{name}"] = metric([found["judge"][name] for found in coherences], "fraction")
        diversity = [found["diversity"][name] for found in coherences]
        result[f"diversity.{name}"] = metric(diversity, "fraction of the data's variance")
    for name in ("loss", "neg_elbo", "kl"):
        result[f"joint.{name}"] = metric(seeds(metric=name, subset=EVERYTHING, **held_out), "nats")
    for kind, found in evidence.items():
        bound = [-each["bound"][EVERYTHING][-1] for each in found]
        result[f"evidence.{kind}"] = metric(bound, "nats")
        ess = [each["ess"][EVERYTHING][-1] for each in found]
        result[f"evidence.{kind}.ess"] = metric(ess, "fraction of draws")
    result["coherence.joint"] = metric([found["joint"] for found in coherences], "fraction")
    for name in ("ece", "probe"):
        result[name] = metric([found[EVERYTHING][name] for found in calibrations], "fraction")
    result["active_units"] = metric([found["active"] for found in precisions], "dimensions")
    return result


# What the figures are drawn from -----------------------------------------------------------------


def betas(run: Run) -> list[float]:
    """KL weight at the end of every epoch of a run."""
    epochs = len(run.history.train["total"])
    return [
        mvae_of(run).kl_weight(run.history.steps * (e + 1) // epochs - 1) for e in range(epochs)
    ]


@torch.no_grad()
def reconstructions(run: Run, batch: Batch) -> dict[str, Tensor]:
    """What each subset makes of every modality: name -> (S, B, ...), at the posterior mean."""
    model = mvae_of(run)
    return model.means(model.encode(batch, subsets(len(MODALITIES))[:, None]).mean)


def one_of_each(batch: Batch) -> Batch:
    """The first sample of each class, in the order of the classes."""
    y = labels_of(batch)
    return batch[torch.stack([(y == c).nonzero()[0, 0] for c in y.unique()])]


def waterfall(
    evidence: Mapping[str, Sequence[Mapping[str, Any]]], model: mvae.MVAE, kind: str = "poster"
) -> dict[str, Any]:
    """Arguments of `figures.waterfall`: everything visible, on the samples of the evidence."""
    modalities = model.config.modalities
    names = (*MODALITIES, "label", "kl")
    return {
        "parts": {n: float(np.mean([each["terms"][n] for each in evidence[kind]])) for n in names},
        "weights": {m.name: m.weight for m in modalities},
        "beta": model.config.kl_weight,
        "constants": sum(m.log_normaliser for m in modalities),
        "evidence": float(np.mean([each["labelled"] for each in evidence[kind]])),
    }


def evidence_curves(evidence: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Arguments of `figures.evidence_curve`: proposals that see everything, a curve a kind."""
    first = next(iter(evidence.values()))[0]
    curves = {
        name: {kind: [each[key][EVERYTHING] for each in found] for kind, found in evidence.items()}
        for name, key in (("bounds", "bound"), ("ess", "ess"))
    }
    return {"samples": first["samples"], **curves}


def trade_off(
    scores: pd.DataFrame,
    evidence: Mapping[str, Sequence[Mapping[str, Any]]],
    floors: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> pd.DataFrame:
    """A point for each kind and seed, as `figures.trade_off` takes them.

    ``excess``: error of the two images when missing, above the class mean, summed; ``joint``: -log p of
    the triplets. Nats, held-out.
    """
    images = ("farsi", "kannada")
    floor = sum(floors["held-out"][m]["class_mean"] for m in images)
    rows = []
    for kind, found in evidence.items():
        seeds = sorted(set(select(scores, kind=kind)["seed"]))
        for seed, each in zip(seeds, found, strict=True):
            where = {"kind": kind, "seed": seed, "split": "held-out"}
            error = sum(mean(scores, metric=m, subset=given(m, False), **where) for m in images)
            rows.append((kind, seed, error - floor, -each["bound"][EVERYTHING][-1]))
    return pd.DataFrame(rows, columns=["kind", "seed", "excess", "joint"])


def reliability(calibration: Mapping[str, Mapping[str, Any]]) -> dict[str, metrics.Reliability]:
    """Reliability diagrams by subset, as `figures.reliability_diagram` takes them."""
    names = metrics.Reliability._fields
    return {
        subset: metrics.Reliability(*(torch.tensor(found[name]) for name in names))
        for subset, found in calibration.items()
    }


def floors_by_modality(floors: Mapping[str, Mapping[str, float]]) -> dict[str, Floor]:
    """Floors of one split, as the figures take them."""
    return {modality: Floor(**values) for modality, values in floors.items()}


def style_points(styles: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Arguments of `figures.style_transfer`, or nothing where styles are not known or not linked."""
    worlds = [styles["unlinked"], styles["linked"]]
    if not all(worlds):
        return {}
    r2 = np.array([[each["r2"] for each in world] for world in worlds]).T  # (seeds, worlds)
    return {
        "rho": [world[0]["ceiling"] ** 0.5 for world in worlds],
        "measured": {("farsi", "kannada"): r2},
        "null": [world[0]["null"] for world in worlds],
    }
