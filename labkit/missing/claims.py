"""What the poster says of missing modalities, put to the test: one function a figure or table.

Each function takes what `labkit.missing.measure` found and returns what `labkit.ledger.claim` takes. The
rule of a verdict stands in the claim's note, so that a reader can disagree with it. Figures are means
over the seeds; "poster" is Mishra & Agarwal 2020, whose Table 1 shows training samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from labkit.data.digits import MODALITIES
from labkit.missing.measure import AMPLITUDES
from labkit.missing.reading import EVERYTHING, by_size, given, mean, spread_over
from labkit.models.mvae import digit_modalities

# Mean KL weight of the poster's last epoch, on its training and on its validation batches.
POSTER_BETA, POSTER_VALIDATION_BETA = 0.1575, 0.315

Claim = dict[str, Any]
Floors = Mapping[str, Mapping[str, Mapping[str, float]]]


# Table 1 -----------------------------------------------------------------------------------------


def table1(scores: pd.DataFrame, floors: Floors, thin: Floors | None = None) -> list[Claim]:
    """All that Table 1 shows. `thin`: the floors of data drawn with the thin pen, if it was trained."""
    return [
        order(scores, "train"),
        order(scores, "held-out"),
        own_error_is_stable(scores),
        other_modality_is_irrelevant(scores),
        missing_is_the_class_mean(scores, floors),
        speech_gets_worse(scores),
        thick_script_suffers(scores, floors),
        pen(scores, floors, thin),
        training_only(scores),
    ]


def order(scores: pd.DataFrame, split: str) -> Claim:
    """Accuracy rises with the number of visible modalities."""
    ours = by_size(scores, kind="poster", split=split, metric="accuracy")
    return {
        "id": f"mvae.table1.order.{split.replace('-', '_')}",
        "text": f"The more modalities are visible, the more digits are recognised ({split} samples)",
        "source": "poster, Table 1 (training samples)",
        "paper": "99.50, 99.92, 99.95 %",
        "ours": ", ".join(f"{100 * value:.2f}" for value in ours) + " %",
        "holds": ours[0] < ours[1] < ours[2],
        "note": "mean accuracy with one, two and three visible modalities; rule: strictly rising",
    }


def own_error_is_stable(scores: pd.DataFrame) -> Claim:
    """An image that is visible is reconstructed equally well, whatever else is visible."""
    train, held_out = _spreads(scores, ("farsi", "kannada"), visible=True)
    return {
        "id": "mvae.table1.own_stable",
        "text": "A visible image is reconstructed equally well whatever else is visible",
        "source": "poster, Table 1, BCE columns",
        "paper": "within 0.4 %",
        "ours": f"{_percentages(train)} training; {_percentages(held_out)} held-out",
        "holds": max(train.values()) <= 0.01,
        "note": "(max - min) / mean over the four subsets that hold it; rule: 1 % on training samples",
    }


def other_modality_is_irrelevant(scores: pd.DataFrame) -> Claim:
    """A missing modality is equally bad whichever others are visible."""
    train, held_out = _spreads(scores, MODALITIES, visible=False)
    return {
        "id": "mvae.table1.missing_independent",
        "text": "What is missing is reconstructed equally badly whichever others are visible",
        "source": "poster, Table 1",
        "paper": "within 0.8 %",
        "ours": f"{_percentages(train)} training; {_percentages(held_out)} held-out",
        "holds": max(train.values()) <= 0.02,
        "note": "(max - min) / mean over the three subsets that lack it; rule: 2 % on training samples",
    }


def _spreads(scores: pd.DataFrame, names: Sequence[str], visible: bool) -> list[dict[str, float]]:
    """(max - min) / mean over the subsets that hold (or lack) a modality: training, held-out."""
    return [
        {m: spread_over(scores, given(m, visible), metric=m, kind="poster", split=split)
         for m in names}
        for split in ("train", "held-out")
    ]  # fmt: skip


def missing_is_the_class_mean(scores: pd.DataFrame, floors: Floors) -> Claim:
    """A missing modality costs about what the mean sample of its class costs."""
    place = {}
    for m in MODALITIES:
        with_both = {"subset": given(m, False, others=2), "metric": m}
        error = mean(scores, kind="poster", split="held-out", **with_both)
        floor = floors["held-out"][m]
        place[m] = (error - floor["class_mean"]) / (floor["global_mean"] - floor["class_mean"])
    return {
        "id": "mvae.table1.class_mean",
        "text": "A missing modality comes out as the mean of its class: the digit is all that is shared",
        "source": "poster, Figure 2 and Table 1 (speech 0.133; its class mean 0.123, global mean 0.162)",
        "paper": "speech 0.26",
        "ours": ", ".join(f"{m} {value:.2f}" for m, value in place.items()),
        "holds": all(-0.05 <= value <= 1 / 3 for value in place.values()),
        "note": "where the error lies from the class mean (0) to the mean of all digits (1), the other two "
        "visible, held-out; rule: at most a third of the way, and not below -0.05. A class that is itself "
        "uncertain gives a mixture of class means, and so a higher place",
    }


def speech_gets_worse(scores: pd.DataFrame) -> Claim:
    """Adding experts makes the reconstruction of visible speech worse."""
    where = {"kind": "poster", "split": "held-out", "metric": "speech"}
    errors = [mean(scores, subset=given("speech", True, others=n), **where) for n in range(3)]
    return {
        "id": "mvae.table1.speech_worsens",
        "text": "Visible speech is reconstructed worse when images are visible too",
        "source": "poster, Table 1, MSE column",
        "paper": "0.0095, 0.012, 0.014",
        "ours": ", ".join(f"{error:.4f}" for error in errors),
        "holds": errors[0] < errors[1] < errors[2],
        "note": "squared error with no, one and two others visible, held-out; rule: strictly rising",
    }


def thick_script_suffers(scores: pd.DataFrame, floors: Floors) -> Claim:
    """Losing the thick script costs more, relative to its own error, than losing the thin one."""
    pairs = [missing_over_own(scores, floors, "poster", m) for m in ("farsi", "kannada")]
    (farsi, farsi_excess), (kannada, kannada_excess) = pairs
    return {
        "id": "mvae.table1.thick_script",
        "text": "Being missing multiplies the error of the thick script (Farsi) more than the thin one's",
        "source": "poster, Table 1",
        "paper": "3.9 against 2.0",
        "ours": f"{farsi:.2f} against {kannada:.2f}; without the entropy of grey pixels "
        f"{farsi_excess:.2f} against {kannada_excess:.2f}",
        "holds": farsi > kannada and farsi_excess > kannada_excess,
        "note": "error when missing over error when visible, training samples; rule: larger both ways",
    }


def pen(scores: pd.DataFrame, floors: Floors, thin: Floors | None) -> Claim:
    """Is it the stroke that makes the Farsi script suffer?"""
    claim = {
        "id": "mvae.report.thickness",
        "text": "Farsi suffers more because its strokes are thick",
        "source": "report, discussion",
        "paper": "attributed to thickness, not tested",
    }
    if thin is None:
        note = "needs a pen that can be changed: procedural data, preset full"
        return claim | {"ours": None, "verdict": "not testable here", "note": note}
    raw, excess = missing_over_own(scores, floors, "poster", "farsi")
    thin_raw, thin_excess = missing_over_own(scores, thin, "thin pen", "farsi")
    return claim | {
        "ours": f"{raw:.2f} thick, {thin_raw:.2f} thin; without the entropy of grey pixels "
        f"{excess:.2f}, {thin_excess:.2f}",
        "holds": thin_raw < raw and thin_excess < excess,
        "note": "missing over own error of Farsi, training samples; the same digits, pen at 45 %; rule: "
        "smaller with the thin pen both ways, for entropy alone moves the raw ratio",
    }


def missing_over_own(
    scores: pd.DataFrame, floors: Floors, kind: str, modality: str
) -> tuple[float, float]:
    """Error of a modality when missing over that when visible (training): raw, and above self-entropy."""
    where = {"kind": kind, "split": "train", "metric": modality}
    missing, own = (mean(scores, subset=given(modality, v), **where) for v in (False, True))
    entropy = floors["train"][modality]["self_entropy"]
    return missing / own, (missing - entropy) / (own - entropy)


def training_only(scores: pd.DataFrame) -> Claim:
    """Table 1 is training performance; what of samples that the model has not seen?"""
    where = {"kind": "poster", "metric": "accuracy", "subset": EVERYTHING}
    train, held_out = (mean(scores, split=split, **where) for split in ("train", "held-out"))
    return {
        "id": "mvae.table1.held_out",
        "text": "With everything visible 99.95 % of the digits are recognised",
        "source": "poster, Table 1, caption: training performance",
        "paper": "99.95 % (training)",
        "ours": f"{100 * train:.2f} % training, {100 * held_out:.2f} % held-out",
        "verdict": _generalises(0.9995, train, held_out),
        "note": "no held-out table was published. " + GENERALISES,
    }


GENERALISES = (
    "Rule: reproduced if held-out samples come within a point of it, corrected if only training "
    "samples do, else not supported"
)


def _generalises(paper: float, train: float, held_out: float) -> str:
    if held_out >= paper - 0.01:
        return "reproduced"
    return "corrected" if train >= paper - 0.01 else "not supported"


def new_speaker(scores: pd.DataFrame) -> Claim:
    """What speech alone is worth on recordings, and in voices, that the model has not heard."""
    where = {"metric": "accuracy", "subset": "speech"}
    train, known = (mean(scores, kind="poster", split=s, **where) for s in ("train", "held-out"))
    new = mean(scores, kind="new speaker", split="held-out", **where)
    return {
        "id": "mvae.table1.new_speaker",
        "text": "Speech alone recognises 99.2 % of the digits",
        "source": "poster, Table 1 (training samples)",
        "paper": "99.2 % (training)",
        "ours": f"{100 * train:.1f} % training, {100 * known:.1f} % new recordings, {100 * new:.1f} % new "
        "speakers",
        "verdict": _generalises(0.992, train, min(known, new)),
        "note": "held-out recordings of known speakers, and of a speaker in no training sample. "
        + GENERALISES,
    }


# "ELBO", Figure 4, the objective -----------------------------------------------------------------


def elbo(evidence: Sequence[Mapping[str, Any]], beta: float = 0.16) -> Claim:
    """The poster's "ELBO" is a loss at beta 0.16; a bound needs beta 1 and the constants."""
    nll = np.mean([each["labelled"] for each in evidence])
    bound, kl = (np.mean([each["terms"][name] for each in evidence]) for name in ("neg_elbo", "kl"))
    constants = sum(m.log_normaliser for m in digit_modalities())
    loss = bound - constants - (1 - beta) * kl
    return {
        "id": "mvae.table1.elbo",
        "text": "The ELBO with everything visible is 177.62",
        "source": "poster, Table 1 and Figure 4",
        "paper": 177.62,
        "ours": f"loss at beta {beta}: {loss:.1f}; -ELBO at beta 1: {bound:.1f}; "
        f"-log p at most {nll:.1f} nats",
        "verdict": "reproduced" if abs(bound - loss) < 1 else "corrected",
        "note": "the run was stopped on the KL ramp, so 177.62 is a loss and no bound; ours held-out, "
        f"the last two with the Gaussian's constant of {constants:.1f} nats (grey pixels make all of them "
        "unnormalised, as in the papers); rule: corrected if loss and -ELBO differ by a nat",
    }


def validation_gap(scores: pd.DataFrame, validation: Sequence[Mapping[str, float]]) -> Claim:
    """Figure 4's gap between training and validation, and what a doubled beta adds to it."""
    trained = mean(scores, kind="poster", split="train", metric="loss", subset=EVERYTHING)
    loss, kl = (np.mean([each[name] for each in validation]) for name in ("loss", "kl"))
    artefact = (POSTER_VALIDATION_BETA - POSTER_BETA) * kl
    return {
        "id": "mvae.figure4.gap",
        "text": "Validation loss ends 15.8 above training loss: the model overfits",
        "source": "poster, Figure 4",
        "paper": "177.6 training, 193.4 validation",
        "ours": f"{loss - trained:.1f} at equal beta; the poster's validation beta alone would add "
        f"{artefact:.1f}",
        "verdict": "reproduced" if loss - trained > artefact else "corrected",
        "note": "if the saved notebook is the code that ran (an earlier one differs), validation batches "
        "were annealed twice as fast (mean beta 0.315 against 0.1575 in the last epoch); rule: corrected "
        "unless the gap at equal beta is larger than what that adds",
    }


def own_versus_cross(
    scores: pd.DataFrame, evidence: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Claim:
    """The poster's change of objective is a trade: missing modalities against joint fit."""
    missing, joint = {}, {}
    for kind in ("cross", "own"):
        where = {"kind": kind, "split": "held-out"}
        images = ("farsi", "kannada")
        missing[kind] = sum(mean(scores, metric=m, subset=given(m, False), **where) for m in images)
        bounds = [[each["bound"][EVERYTHING][k] for each in evidence[kind]] for k in (0, -1)]
        joint[kind] = -np.mean(bounds, axis=1)  # with one draw, with all
    return {
        "id": "labkit.own_versus_cross",
        "text": "Asking every subset for every modality buys missing modalities with joint fit",
        "source": "labkit: the poster's objective against that of Wu & Goodman 2018",
        "paper": None,
        "ours": f"missing images {missing['cross']:.0f} (cross) against {missing['own']:.0f} nats "
        f"(own); -log p of triplets at most {joint['cross'][1]:.1f} against {joint['own'][1]:.1f}",
        "holds": missing["cross"] < missing["own"] and bool((joint["own"] < joint["cross"]).all()),
        "note": "both at beta 1, held-out; errors of the two images when missing, summed; bounds with "
        "equal draws. Rule: less error when missing, and a worse bound with one draw and with all",
    }


# Figure 3, style ---------------------------------------------------------------------------------


def figure3(flips: Sequence[Mapping[str, Any]]) -> Claim:
    """Large pushes along a latent change the digit; is any latent special among directions?"""
    latents, random = (most_sensitive(flips, name) for name in ("latents", "random"))
    small = AMPLITUDES.index(3.0)
    return {
        "id": "mvae.figure3.disentangled",
        "text": "Shifting one latent changes the digit, so the latents are disentangled",
        "source": "poster, Figure 3 (shifts up to 1500 standard deviations of the prior)",
        "paper": "one latent, one digit, no control",
        "ours": f"labels flipped by the most sensitive latent {latents[small]:.2f} at 3, "
        f"{latents[-1]:.2f} at 1500; by the most sensitive of as many random directions "
        f"{random[small]:.2f}, {random[-1]:.2f}",
        "holds": any(a - b > 0.05 for a, b in zip(latents, random, strict=True)),
        "note": "rule: at some shift one latent flips the label more often than every random direction, "
        "by 0.05",
    }


def most_sensitive(flips: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Flip rate of the most sensitive direction at each amplitude, mean over the seeds."""
    return np.mean([np.max(flip[name], axis=0) for flip in flips], axis=0).tolist()


def style(unlinked: Sequence[Mapping[str, float]], linked: Sequence[Mapping[str, float]]) -> Claim:
    """Nothing but the digit crosses from one modality to another, unless the data link more."""
    claim = {
        "id": "labkit.only_the_class_is_shared",
        "text": "Style crosses between modalities only if the data link the styles",
        "source": "labkit; the poster pairs samples by class alone",
        "paper": None,
    }
    if not (unlinked and linked):
        note = "needs known and linked styles: procedural data, preset full"
        known = f"slant R2 {_mean(unlinked, 'r2'):.3f} unlinked" if unlinked else None
        return claim | {"ours": known, "verdict": "not testable here", "note": note}
    loose, tied = _mean(unlinked, "r2"), _mean(linked, "r2")
    return claim | {
        "ours": f"slant R2 {loose:.3f} unlinked, {tied:.2f} linked (ceiling "
        f"{_mean(linked, 'ceiling'):.2f}, reader {_mean(linked, 'reader'):.2f})",
        "holds": loose < 0.05 and tied > 0.1,
        "note": "slant of the hidden Kannada digit against the one generated from Farsi, within class, "
        f"held-out; rule: below 0.05 unlinked (chance {_mean(unlinked, 'null'):.3f}), above 0.1 linked",
    }


def _percentages(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in values.items())


def _mean(results: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.mean([result[name] for result in results]))
