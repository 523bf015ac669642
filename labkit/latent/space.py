"""Geometry of a latent space: pushes, the cloud that the data fill, how far out a point is, paths.

Pure functions on posteriors and points, in float64. The *aggregate posterior* is the mixture
q(z) = mean over samples of q(z | x): the cloud of latents that the decoders were trained on. The
prior N(0, I) is what that cloud should look like and need not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.models.mvae import Posterior

# Pushes ------------------------------------------------------------------------------------------


def published_shifts(limit: float = 1500.0, step: float = 30.0) -> Tensor:
    """Shifts of the poster's Figure 3: -1500, ..., -30, +30, ..., +1500. Zero is not among them.

    Args:
        limit: Largest shift, in standard deviations of the prior.
        step: Distance of neighbours; divides `limit`.

    Returns:
        Shape (2 limit / step,), rising.

    Raises:
        ValueError: unless `step` > 0 divides `limit` > 0.
    """
    count = round(limit / step) if step > 0 else 0
    if count < 1 or abs(count * step - limit) > 1e-9 * limit:
        raise ValueError(f"step must be > 0 and divide limit, got step {step}, limit {limit}")
    up = step * torch.arange(1, count + 1, dtype=torch.float64)
    return torch.cat([-up.flip(0), up])


def random_directions(count: int, latent: int, generator: torch.Generator) -> Tensor:
    """Directions drawn uniformly from the unit sphere: the control of every axis. (count, D)."""
    if count < 1 or latent < 1:
        raise ValueError(f"count and latent must be at least 1, got {count} and {latent}")
    drawn = torch.randn(count, latent, dtype=torch.float64, generator=generator)
    return F.normalize(drawn, dim=1)


def random_rotation(latent: int, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix (D, D), uniform over all of them.

    Source:
        Mezzadri 2007, "How to generate random matrices from the classical compact groups": the
        signs of R's diagonal make the Q of a Gaussian matrix uniform.
    """
    if latent < 1:
        raise ValueError(f"latent must be at least 1, got {latent}")
    q, r = torch.linalg.qr(torch.randn(latent, latent, dtype=torch.float64, generator=generator))
    return q * r.diagonal().sign()


# The cloud ---------------------------------------------------------------------------------------


class Aggregate(NamedTuple):
    """Mean (D,) and covariance (D, D) of the aggregate posterior, float64."""

    mean: Tensor
    covariance: Tensor

    def sd(self, directions: Tensor | None = None) -> Tensor:
        """Standard deviation along unit directions (K, D) -> (K,); None = along each latent."""
        if directions is None:
            return self.covariance.diagonal().sqrt()
        u = directions.to(self.covariance)
        return torch.einsum("kd,de,ke->k", u, self.covariance, u).sqrt()


def aggregate(posterior: Posterior) -> Aggregate:
    r"""Moments of the aggregate posterior from the posteriors (B, D) of B >= 2 samples.

    .. math:: \mathrm{sd}_d^2 = \mathrm{Var}_x(\mu_d) + \mathrm{E}_x[\sigma_d^2]

    and off the diagonal the covariance of the means alone: each posterior is diagonal.

    Raises:
        ValueError: unless mean and logvar are (B, D) with B >= 2.
    """
    mean, logvar = posterior
    if mean.ndim != 2 or mean.shape != logvar.shape or len(mean) < 2:
        raise ValueError(
            f"the posterior must be (B, D), B >= 2; got {tuple(mean.shape)}, {tuple(logvar.shape)}"
        )
    mean, variance = mean.double(), logvar.double().exp()
    rest = mean - mean.mean(0)
    return Aggregate(mean.mean(0), rest.T @ rest / len(mean) + variance.mean(0).diag())


class Gauge(NamedTuple):
    """How far out a latent lies, ranked among latents of held-out samples. Made by `gauge`.

    Attributes:
        cloud: Moments of the aggregate posterior.
        root: Lower Cholesky factor of its covariance, (D, D).
        reference: Distances of N held-out latents, rising, (N,).
    """

    cloud: Aggregate
    root: Tensor
    reference: Tensor

    def whiten(self, z: Tensor) -> Tensor:
        """Points (..., D) in coordinates in which the cloud is round, with standard deviation 1."""
        centred = (z.double() - self.cloud.mean).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.root, centred, upper=False).squeeze(-1)

    def distance(self, z: Tensor) -> Tensor:
        """Mahalanobis distance to the aggregate posterior, (..., D) -> (...)."""
        return self.whiten(z).norm(dim=-1)

    def percentile(self, z: Tensor) -> Tensor:
        """Share of the held-out latents that lie nearer, (..., D) -> (...) in [0, 1].

        1 = beyond them all. Uniform for one more held-out latent, drawn as the others were.
        """
        nearer = torch.searchsorted(self.reference, self.distance(z).contiguous())
        return nearer.double() / len(self.reference)

    def beyond(self, z: Tensor) -> Tensor:
        """True where a point is farther out than every held-out latent, (..., D) -> (...) bool."""
        return self.distance(z) > self.reference[-1]

    def way_out(self, z: Tensor, directions: Tensor) -> Tensor:
        """How far z can be pushed until it is beyond every held-out latent.

        Args:
            z: Starting points, (B, D).
            directions: Unit directions, (K, D).

        Returns:
            (B, K), in the unit of z (standard deviations of the prior); 0 where z is beyond already.
        """
        start = self.whiten(z)  # (B, D)
        along = torch.linalg.solve_triangular(self.root, directions.to(self.root).T, upper=False)
        slope, power = start @ along, along.square().sum(0)  # (B, K), (K,)
        room = self.reference[-1] ** 2 - start.square().sum(-1, keepdim=True)  # (B, 1)
        root = (slope.square() + power * room).clamp(min=0).sqrt()
        return torch.where(room > 0, (root - slope) / power, 0.0)


def gauge(posterior: Posterior, generator: torch.Generator) -> Gauge:
    """Fit a `Gauge` to the posteriors (B, D) of held-out samples, B >= 4.

    The moments come from every other sample, the reference distances from one draw of each of the
    rest: a latent is never ranked by a cloud that was fitted to it. Draws, not means: they are what
    the decoders see in training, and lie farther out.
    """
    if posterior.mean.ndim != 2 or len(posterior.mean) < 4:
        raise ValueError(f"the posterior must be (B, D), B >= 4; got {tuple(posterior.mean.shape)}")
    cloud = aggregate(Posterior(posterior.mean[::2], posterior.logvar[::2]))
    root = torch.linalg.cholesky(cloud.covariance)
    drawn = Posterior(posterior.mean[1::2], posterior.logvar[1::2]).sample(generator)
    unranked = Gauge(cloud, root, root.new_zeros(1))
    return unranked._replace(reference=unranked.distance(drawn).sort().values)


# Paths -------------------------------------------------------------------------------------------


def straight(start: Tensor, end: Tensor, way: Tensor) -> Tensor:
    """Points on the straight lines from start to end, both (P, D): (T, P, D).

    Args:
        start: Where each path starts.
        end: Where it ends.
        way: How far along each point lies, 0 to 1, (T,).

    Raises:
        ValueError: if a shape does not fit.
    """
    t = _times(start, end, way)
    return (1 - t) * start + t * end


def spherical(start: Tensor, end: Tensor, way: Tensor) -> Tensor:
    """Points on the arcs from start to end; arguments and result as `straight`.

    Where both ends have the same norm, so has every point between them. Ends on one line through the
    origin have no arc and are joined by a straight line.

    Source:
        White 2016, "Sampling Generative Networks", section 2.1, https://arxiv.org/abs/1609.04468.
    """
    t = _times(start, end, way)
    cosine = F.cosine_similarity(start.double(), end.double(), dim=-1).clamp(-1, 1)
    angle = cosine.acos()[:, None].to(start)  # (P, 1)
    bent = ((1 - t) * angle).sin() * start + (t * angle).sin() * end
    sine = angle.sin()
    return torch.where(sine.abs() > 1e-4, bent / sine, (1 - t) * start + t * end)


def _times(start: Tensor, end: Tensor, way: Tensor) -> Tensor:
    if start.ndim != 2 or start.shape != end.shape or way.ndim != 1:
        shapes = ", ".join(str(tuple(x.shape)) for x in (start, end, way))
        raise ValueError(f"start and end must both be (P, D), and way (T,); got {shapes}")
    return way.to(start)[:, None, None]
