"""A model as the latent labs see it: a few samples to push, and the cloud of all held-out latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.latent.space import Gauge, aggregate, gauge, random_directions
from labkit.live.decoder import Net
from labkit.live.samples import SHAPE, choose, images_of
from labkit.models.mvae import MVAE, Posterior

LIMIT = 1500.0  # the poster's largest push, in standard deviations of the prior
AMPLITUDES = tuple(float(a) for a in torch.logspace(-1, 3.176091259055681, 40))  # 0.1 to 1500


@dataclass(frozen=True)
class Held:
    """A model and what its labs look at, on the CPU. What a lab does not ask for is never computed.

    Args:
        model: The MVAE.
        batch: The chosen samples, 10 * SAMPLES.
        mean: Their posterior means, everything visible, (10, SAMPLES, D).
        logvar: Their log-variances.
        many: Posteriors of many held-out samples, (N, D).
        classes: Labels of those (N,).
    """

    model: MVAE
    batch: Batch
    mean: Tensor
    logvar: Tensor
    many: Posterior
    classes: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: MVAE, batch: Batch, points: int = 400) -> Held:
        """Infer latents of held-out samples.

        Raises:
            ValueError: without labels, a label decoder, or three samples of each digit.
        """
        model, few, background, classes = choose(model, batch, points)
        mean, logvar = model.encode(few)
        many = model.encode(background)
        return cls(model, few, mean.unflatten(0, SHAPE), logvar.unflatten(0, SHAPE), many, classes)

    @property
    def images(self) -> list[str]:
        """Names of the modalities that are images."""
        return images_of(self.model)

    @property
    def best(self) -> int:
        """The latent that says most: the largest mean KL over the chosen samples."""
        return int(Posterior(self.mean, self.logvar).kl().mean((0, 1)).argmax())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.model.modalities[self.images[0]].shape
        return height, width

    def nets(self, output: Any = "sigmoid") -> dict[str, Net]:
        """Decoders of the images and of the label, for the page."""
        assert self.model.label is not None  # or `of` would have said so
        found = {name: Net(self.model.decoders[name], output) for name in self.images}
        return found | {"label": Net(self.model.label, "softmax")}

    # The cloud ------------------------------------------------------------------------------------

    @cached_property
    def gauge(self) -> Gauge:
        """Ranks a latent by its distance to the aggregate posterior."""
        return gauge(self.many, torch.Generator().manual_seed(0))

    def rank(self) -> dict[str, Tensor]:
        """The gauge as arrays: whiten with `whitener`, then look the norm up in `reference`."""
        eye = torch.eye(len(self.gauge.root), dtype=self.gauge.root.dtype)
        inverse = torch.linalg.solve_triangular(self.gauge.root, eye, upper=False)
        return {
            "center": self.gauge.cloud.mean.float(),
            "whitener": inverse.float(),
            "reference": self.gauge.reference.float(),
        }

    # Pushes ---------------------------------------------------------------------------------------

    @cached_property
    def directions(self) -> Tensor:
        """As many random directions as there are latents, (D, D): the control of a push."""
        latent = self.model.config.latent
        return random_directions(latent, latent, torch.Generator().manual_seed(0)).float()

    @cached_property
    def sd(self) -> Tensor:
        """Standard deviation of the aggregate posterior along each latent, (D,)."""
        return aggregate(self.many).sd().float()

    @cached_property
    def spread(self) -> Tensor:
        """The same along the random directions, (D,)."""
        return aggregate(self.many).sd(self.directions).float()

    @cached_property
    def flips(self) -> Tensor:
        """Share of labels changed by +- pushes of `AMPLITUDES` along each latent, (D, A)."""
        return self._flip_rates(torch.eye(self.model.config.latent))

    @cached_property
    def random_flips(self) -> Tensor:
        """The same along the random directions, (D, A)."""
        return self._flip_rates(self.directions)

    @torch.no_grad()
    def _flip_rates(self, directions: Tensor) -> Tensor:
        z = self.many.mean[:100]
        before = self.model.decode_label(z).argmax(-1)
        pushes = torch.tensor(AMPLITUDES)[:, None] * torch.tensor([1.0, -1.0])  # (A, 2)
        return torch.stack([
            (self.model.decode_label(z + pushes[..., None, None] * u).argmax(-1) != before)
            .float().mean((1, 2))
            for u in directions
        ])  # fmt: skip
