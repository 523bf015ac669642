"""What lies between two samples, and around one: paths and temperature.

As in `labkit.latent.pushes`, each `..._of` returns plain numbers for `store.once`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit import metrics
from labkit.data.digits import Digits
from labkit.latent.pushes import IMAGES, encoded, generator_of, readings
from labkit.latent.space import aggregate, gauge, spherical, straight
from labkit.missing.measure import labels_of
from labkit.store import Run

TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)

# Paths -------------------------------------------------------------------------------------------

WAYS = {"straight": straight, "spherical": spherical}


@torch.no_grad()
def paths_of(
    run: Run, *judged: Run, data: Digits, pairs: int = 200, steps: int = 41
) -> dict[str, Any]:
    """What lies between two samples of different digits.

    Args:
        run: The MVAE.
        judged: Classifiers of the two scripts.
        data: Recipe of the data.
        pairs: Pairs of held-out samples, at most half of them.
        steps: Points of a path, ends included.

    Returns:
        For ``straight`` and ``spherical``: means over the paths [T] of the label decoder's
        probabilities of the digits read at the ``start``, at the ``end`` and of all ``others``, of the
        ``norm`` of z and of the ``percentile`` of the gauge; ``beyond`` (``nearer``): share of the points
        between the ends farther out (nearer to the centre) than every held-out latent; ``third``: share
        of paths on which the label decoder names a third digit; ``apart``: how far apart, as a share of
        the way, the two judges leave the digits that they read at the start, and ``apart_shuffled``, the
        same of two judges on unrelated paths.
    """
    model, batch, posterior = encoded(run, data)
    cloud, y = gauge(posterior, generator_of(run)), labels_of(batch)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(run.meta["seed"]))
    first, second = order.to(y.device)[: len(y) // 2 * 2].view(2, -1)
    apart = y[first] != y[second]
    first, second = first[apart][:pairs], second[apart][:pairs]
    lowest, highest = cloud.reference[0], cloud.reference[-1]
    result: dict[str, Any] = {}
    for name, way in WAYS.items():
        z = way(
            posterior.mean[first], posterior.mean[second], torch.linspace(0, 1, steps)
        )  # (T, P, D)
        probs = model.decode_label(z).softmax(-1).double()  # (T, P, C)
        named = probs.argmax(-1)
        at_start, at_end = named[0], named[-1]
        share = [
            probs.gather(-1, c.expand(steps, -1)[..., None])[..., 0] for c in (at_start, at_end)
        ]
        # Where both ends are read alike there is no change to look at.
        real = (at_start != at_end).double()
        share[1] = torch.where(at_start == at_end, 0.0, share[1])
        strange = ((named != at_start) & (named != at_end)).any(0)
        distance = cloud.distance(z)
        read = readings(judged, model.decode(z, IMAGES))  # (2, T, P)
        left = (read != read[:, :1]).double().argmax(1) / (steps - 1)  # (2, P); 0 = never
        farsi, kannada = left[:, (left > 0).all(0)]
        result[name] = {
            "start": share[0].mean(1).tolist(),
            "end": share[1].mean(1).tolist(),
            "others": (1 - share[0] - share[1]).mean(1).tolist(),
            "norm": z.norm(dim=-1).double().mean(1).tolist(),
            "percentile": cloud.percentile(z).mean(1).tolist(),
            "beyond": float((distance[1:-1] > highest).double().mean()),
            "nearer": float((distance[1:-1] < lowest).double().mean()),
            "third": float((strange * real).sum() / real.sum()),
            "apart": float((farsi - kannada).abs().mean()),
            "apart_shuffled": float((farsi[:, None] - kannada).abs().mean()),
        }
    return result


# Temperature -------------------------------------------------------------------------------------


@torch.no_grad()
def temperature_of(
    run: Run, *judged: Run, data: Digits, rows: int, draws: int = 8
) -> dict[str, Any]:
    """What changes when z = mean + tau * sd * noise is drawn from the posterior of one script alone.

    Returns:
        For each script ``given``: ``width``, the posterior's standard deviation over the cloud's, mean over
        the latents; [tau] each: ``label``, accuracy of the label decoder; and for both scripts,
        drawn: ``coherence`` (share read as the true digit), ``diversity`` (variance within a class over
        that of the data) and ``spread`` (the same for one and the same given sample: what the noise
        alone does).
    """
    model, batch, posterior = encoded(run, data)
    cloud, batch = aggregate(posterior).sd(), batch[:rows]
    y = labels_of(batch)
    result: dict[str, Any] = {}
    for given in IMAGES:
        mean, logvar = model.encode(batch.only(given))
        noise = torch.randn((draws, *mean.shape), generator=generator_of(run), device=y.device)
        tau = torch.tensor(TEMPERATURES, device=y.device)[:, None, None, None]
        z = mean + tau * (0.5 * logvar).exp() * noise  # (tau, draws, B, D)
        made = {m: logits.sigmoid() for m, logits in model.decode(z, IMAGES).items()}
        hits = model.decode_label(z).argmax(-1) == y
        result[given] = {
            "width": float(((0.5 * logvar).exp() / cloud).mean()),
            "label": hits.double().mean((1, 2)).tolist(),
        }
        for judge, m in zip(judged, IMAGES, strict=True):
            real = batch.x[m]
            everything = made[m].flatten(1, 2)  # (tau, draws * B, 28, 28), draw by draw
            natural = _variance_within(real, y)
            own = made[m].double().var(1).mean(1).sum((-2, -1)) / natural
            result[given][m] = {
                "coherence": metrics.cross_coherence(judge.model(made[m]), y).mean(1).tolist(),
                "diversity": metrics.diversity(everything, y.repeat(draws), real, y).tolist(),
                "spread": own.tolist(),
            }
    return result


def _variance_within(x: Tensor, y: Tensor) -> Tensor:
    """Variance within a class, summed over pixels, mean over the classes, as `metrics.diversity` has it."""
    return torch.stack([x[y == c].double().flatten(1).var(0).sum() for c in y.unique()]).mean()
