"""What a push along one direction does to z: to the label, to the pictures, and to where z lies.

Each `..._of` takes a run and the recipe of its data and returns plain numbers, so that `store.once` can
keep them. z is the posterior mean of held-out samples with everything visible. Amplitudes are +-.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.data.digits import Digits
from labkit.latent.space import aggregate, gauge, random_directions
from labkit.missing.measure import mvae_of
from labkit.models.mvae import MVAE, Posterior
from labkit.store import Run

IMAGES = ("farsi", "kannada")
AMPLITUDES = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 150.0, 500.0, 1500.0)
POSTER_INDEX = 201  # the latent of Figure 3, of 512
SATURATED = 20.0  # |logit| from which a pixel is black or white to within 3e-9

# Pushes ------------------------------------------------------------------------------------------


@torch.no_grad()
def latents_of(run: Run, data: Digits) -> dict[str, Any]:
    """What each latent is worth, and which one Figure 3 is redrawn with.

    Returns:
        ``kl`` [D], mean KL in nats; ``sd`` [D], standard deviation of the aggregate posterior;
        ``index``: the poster's 201 where there are as many latents, else the one of largest KL.
    """
    _, _, posterior = encoded(run, data)
    kl = posterior.kl().double().mean(0)
    index = POSTER_INDEX if len(kl) > POSTER_INDEX else int(kl.argmax())
    return {"kl": kl.tolist(), "sd": aggregate(posterior).sd().tolist(), "index": index}


@torch.no_grad()
def flips_of(
    run: Run, data: Digits, rows: int, amplitudes: Sequence[float] = AMPLITUDES
) -> dict[str, Any]:
    """How often a push along one direction changes the label decoder's answer.

    Returns:
        For a push in standard deviations of the ``prior`` and of the ``aggregate`` posterior along the
        direction: ``latents`` [D][A] and as many ``random`` directions [D][A], shares of +- pushes.
    """
    model, _, posterior = encoded(run, data)
    z = posterior.mean[:rows]
    before = model.decode_label(z).argmax(-1)
    result: dict[str, Any] = {}
    for unit, scaled in _directions(posterior).items():
        result[unit] = {}
        for name, steps in scaled.items():
            # One direction at a time: all at once would be 2 A D B latents.
            flipped = [
                model.decode_label(_pushed(z, step, amplitudes)).argmax(-1) != before
                for step in steps
            ]  # (2, A, B) each
            shares = torch.stack(flipped).double().mean((1, 3))
            result[unit][name] = shares.tolist()
    return result


@torch.no_grad()
def looks_of(
    run: Run, *judged: Run, data: Digits, rows: int, amplitudes: Sequence[float] = AMPLITUDES
) -> dict[str, Any]:
    """What pushed z look like: read by classifiers of both scripts, in standard deviations of the prior.

    Args:
        run: The MVAE.
        judged: Classifiers of the two scripts, trained on real samples.
        data: Recipe of the data.
        rows: Samples.
        amplitudes: Pushes.

    Returns:
        For ``latents`` and ``random`` directions, each [A]: ``changed``, share of pushes after which a
        judge reads another digit than before; among these ``same``, share that both judges read alike
        (NaN if nothing changed), and ``chance``, what judges who answer as often as these, but
        unrelatedly, would agree; ``moved``, mean |change of a pixel| over that between two samples;
        ``saturated``, share of pixels with |logit| > 20. And ``unmoved``, agreement without a push.
    """
    model, _, posterior = encoded(run, data)
    z = posterior.mean[:rows]
    base = model.decode(z, IMAGES)
    between = {m: _pixel_change(base[m], base[m].roll(1, 0)).mean() for m in IMAGES}
    before = readings(judged, base)  # (2, B)
    result: dict[str, Any] = {"unmoved": float((before[0] == before[1]).double().mean())}
    for name, steps in _directions(posterior)["prior"].items():
        read, moved, hot = [], [], []
        for step in steps:
            logits = model.decode(_pushed(z, step, amplitudes), IMAGES)  # (2, A, B, 28, 28)
            read.append(readings(judged, logits))
            change = [_pixel_change(logits[m], base[m]).mean((0, 2)) / between[m] for m in IMAGES]
            moved.append(torch.stack(change).mean(0))
            hot.append(torch.stack([_saturation(logits[m]).mean((0, 2)) for m in IMAGES]).mean(0))
        result[name] = _agreement(torch.stack(read), before)
        result[name]["moved"] = torch.stack(moved).mean(0).tolist()
        result[name]["saturated"] = torch.stack(hot).mean(0).tolist()
    return result


def _agreement(read: Tensor, before: Tensor) -> dict[str, list[float]]:
    """Readings (K, 2 judges, 2 signs, A, B) against those before the push (2, B)."""
    changed = (read != before[:, None, None]).any(1)  # (K, 2, A, B)
    alike = read[:, 0] == read[:, 1]
    weight = changed.double()
    count = weight.sum((0, 1, 3))  # (A,)
    same = (alike * weight).sum((0, 1, 3)) / count  # NaN where nothing changed
    classes = F.one_hot(read, int(read.max()) + 1).double()  # (K, 2, 2, A, B, C)
    farsi, kannada = torch.einsum("kjsabc,ksab->jac", classes, weight) / count[:, None]
    return {
        "changed": weight.mean((0, 1, 3)).tolist(),
        "same": same.tolist(),
        "chance": (farsi * kannada).sum(-1).tolist(),
    }


@torch.no_grad()
def reach_of(
    run: Run, data: Digits, rows: int, amplitudes: Sequence[float] = AMPLITUDES
) -> dict[str, Any]:
    """How far out a pushed z is, in standard deviations of the prior, against held-out latents.

    Returns:
        ``beyond``: for ``latents`` and ``random`` [A], share of pushed z farther out than every held-out
        latent; ``way_out``: for each direction [D] the push, median over samples and signs, from which
        z is that far out; ``farthest``: the largest such push of all; ``held_out``: how many latents
        the gauge knows.
    """
    _, _, posterior = encoded(run, data)
    cloud = gauge(posterior, generator_of(run))
    z = posterior.mean[:rows]
    result: dict[str, Any] = {"held_out": len(cloud.reference)}
    for name, steps in _directions(posterior)["prior"].items():
        shares = [cloud.beyond(_pushed(z, s, amplitudes)).double().mean((0, 2)) for s in steps]
        ways = torch.cat([cloud.way_out(z, steps), cloud.way_out(z, -steps)])  # (2 B, D)
        result[name] = {
            "beyond": torch.stack(shares).mean(0).tolist(),
            "way_out": ways.median(0).values.tolist(),
            "farthest": float(ways.max()),
        }
    return result


def _directions(posterior: Posterior) -> dict[str, dict[str, Tensor]]:
    """Latents and as many random directions: unit -> name -> one step along each, (D, D)."""
    cloud, latent = aggregate(posterior), posterior.mean.shape[1]
    units = {
        "latents": torch.eye(latent, dtype=torch.float64),
        "random": random_directions(latent, latent, torch.Generator().manual_seed(0)),
    }
    here = {name: each.to(posterior.mean.device) for name, each in units.items()}
    like = posterior.mean
    return {
        "prior": {name: each.to(like) for name, each in here.items()},
        "aggregate": {n: (cloud.sd(each)[:, None] * each).to(like) for n, each in here.items()},
    }


def _pushed(z: Tensor, step: Tensor, amplitudes: Sequence[float]) -> Tensor:
    """Samples (B, D) pushed both ways along one step (D,) -> (2, A, B, D)."""
    up = torch.tensor(amplitudes, dtype=z.dtype, device=z.device)
    return z + torch.stack([up, -up])[..., None, None] * step


def _pixel_change(logits: Tensor, base: Tensor) -> Tensor:
    """Mean |difference| of pixels in [0, 1] -> (..., B)."""
    return (logits.sigmoid() - base.sigmoid()).abs().double().mean((-2, -1))


def _saturation(logits: Tensor) -> Tensor:
    return (logits.abs() > SATURATED).double().mean((-2, -1))


# Pieces ------------------------------------------------------------------------------------------


@torch.no_grad()
def encoded(run: Run, data: Digits) -> tuple[MVAE, Batch, Posterior]:
    """Model, held-out samples and their posteriors with everything visible."""
    model = mvae_of(run)
    batch = data.load("test", device=next(model.parameters()).device)
    return model, batch, model.encode(batch)


def generator_of(run: Run) -> torch.Generator:
    """The run's own random numbers, on its device."""
    return torch.Generator(next(run.model.parameters()).device).manual_seed(run.meta["seed"])


def readings(judged: Sequence[Run], logits: Mapping[str, Tensor]) -> Tensor:
    """What the judges of the two scripts read in logits (..., 28, 28): (2, ...)."""
    pairs = zip(judged, IMAGES, strict=True)
    return torch.stack([judge.model(logits[m].sigmoid()).argmax(-1) for judge, m in pairs])
