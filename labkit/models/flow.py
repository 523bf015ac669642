r"""Normalizing flows into one latent space: a flow for each modality, a prior that all of them share.

A flow F_m sends a feature vector x of modality m to z = F_m(x), invertibly, and gives its density by the
change of variables. The prior p(z|y) is the same for all modalities (`labkit.models.prior`): that ties them.
So what modality s shows can be carried over to modality m as F_m^-1(F_s(x)) (`labkit.models.dicmor`).

.. math:: \log p_m(x \mid y) = \log p(F_m(x) \mid y) + \log |\det \partial F_m / \partial x|

A step is: normalise every channel (ActNorm), mix the channels by an invertible matrix, and let one half of
them move and scale the other (affine coupling). A sequence is a row for each time step; rows do not see
each other. All modalities go through at once: weights are stacked along a first axis of size M.

Sources:
    D. Kingma, P. Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", NeurIPS 2018, sections
    3.1 to 3.3, https://arxiv.org/abs/1807.03039. Y. Wang, Z. Cui, Y. Li, "Distribution-Consistent Modal
    Recovering for Incomplete Multimodal Learning", ICCV 2023; released code: github.com/mdswyz/DiCMoR, file
    glow.py. That code builds ActNorm and mixing and never applies them, so that one half of the channels
    passes all 32 steps untouched: `released` is that flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Mixing = Literal["none", "reverse", "orthogonal", "learned"]
Scale = Literal["bounded", "sigmoid"]
MIXINGS: tuple[Mixing, ...] = ("none", "reverse", "orthogonal", "learned")
SCALES: tuple[Scale, ...] = ("bounded", "sigmoid")

# What is fixed before training --------------------------------------------------------------------


@dataclass(frozen=True)
class FlowConfig:
    """Flows of M modalities.

    Args:
        channels: C, even: numbers in a row.
        modalities: M.
        steps: K. In float32 the error of the inverse grows with every step: 8 to 12 are enough.
        hidden: Width of the two hidden layers of a coupling.
        mixing: What makes the halves change places: ``none`` (the released code), ``reverse`` the channels,
            one fixed ``orthogonal`` matrix a step, the same for all modalities, or a ``learned`` matrix.
        scale: What the coupling multiplies by: ``bounded``, exp(2 tanh(q / 2)), which stays between 0.14
            and 7.4, or Glow's and the released ``sigmoid``(q + 2).
        normalise: Start each step with ActNorm.
    """

    channels: int = 8
    modalities: int = 3
    steps: int = 6
    hidden: int = 32
    mixing: Mixing = "orthogonal"
    scale: Scale = "bounded"
    normalise: bool = True

    def __post_init__(self) -> None:
        for name in ("channels", "modalities", "steps", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.channels % 2:
            raise ValueError(
                f"channels must be even, one half moves the other; got {self.channels}"
            )
        if self.mixing not in MIXINGS:
            raise ValueError(f"mixing must be one of {', '.join(MIXINGS)}; got {self.mixing!r}")
        if self.scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {self.scale!r}")

    def build(self) -> Flows:
        """Flows with new weights, from torch's random state."""
        return Flows(self)


def released(channels: int = 32, modalities: int = 3) -> FlowConfig:
    """What the released code computes (glow.py:213-234): 32 couplings, and nothing between them."""
    return FlowConfig(channels, modalities, 32, 64, "none", "sigmoid", normalise=False)


# The flows ---------------------------------------------------------------------------------------


class Flows(nn.Module):
    """M flows of the same shape. `fold` makes of the weights what runs.

    The coupling starts as the released one does: its output layer is zero, so all flows of one config
    start equal, and with them x -> F_m^-1(F_s(x)) starts as the identity.
    """

    matrix: Tensor | None  # (K, M, C, C), fixed
    order: Tensor  # P of a learned matrix
    sign: Tensor  # (K, M, C), of the diagonal of its U

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        stack, channels, hidden = (config.steps, config.modalities), config.channels, config.hidden
        half = channels // 2
        self.loc, self.log_scale = [
            nn.Parameter(torch.zeros(*stack, 1, channels)) if config.normalise else None
            for _ in range(2)
        ]
        self.w1 = nn.Parameter(
            0.05 * torch.randn(config.steps, 1, half, hidden).repeat(1, stack[1], 1, 1)
        )
        self.b1 = nn.Parameter(torch.zeros(*stack, 1, hidden))
        self.w2 = nn.Parameter(
            0.05 * torch.randn(config.steps, 1, hidden, hidden).repeat(1, stack[1], 1, 1)
        )
        self.b2 = nn.Parameter(torch.zeros(*stack, 1, hidden))
        self.w3 = nn.Parameter(torch.zeros(*stack, hidden, channels))
        self.b3 = nn.Parameter(torch.zeros(*stack, 1, channels))
        # Of the output layer, exp(3 gain), as in Glow.
        self.gain = nn.Parameter(torch.zeros(*stack, 1, channels))
        self.register_buffer("matrix", None)
        if config.mixing == "reverse":
            self.register_buffer(
                "matrix", torch.eye(channels).flip(0).expand(*stack, -1, -1).clone()
            )
        elif config.mixing == "orthogonal":
            drawn = torch.linalg.qr(torch.randn(config.steps, channels, channels))[0]
            self.register_buffer("matrix", drawn[:, None].repeat(1, stack[1], 1, 1))
        elif config.mixing == "learned":
            self._start_at_a_rotation()

    def _start_at_a_rotation(self) -> None:
        """W = P L (U + diag(sign exp(log_diagonal))), Glow's equation 10, from a random rotation W."""
        config = self.config
        drawn = torch.linalg.qr(torch.randn(config.steps, config.channels, config.channels))[0]
        order, lower, upper = torch.linalg.lu(drawn)
        diagonal = upper.diagonal(dim1=-2, dim2=-1)

        def each(x: Tensor) -> Tensor:
            return x[:, None].repeat(1, config.modalities, *[1] * (x.ndim - 1))

        self.register_buffer("order", each(order))
        self.register_buffer("sign", each(diagonal.sign()))
        # Below the diagonal L, above it U: C (C - 1) numbers, with the diagonal C^2.
        below = torch.tril_indices(config.channels, config.channels, -1)
        self.lower = nn.Parameter(each(lower[:, below[0], below[1]]))
        self.upper = nn.Parameter(each(upper.mT[:, below[0], below[1]]))
        self.log_diagonal = nn.Parameter(each(diagonal.abs().log()))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """The learned L (K, M, C, C), ones on its diagonal, and U."""
        size = self.config.channels
        below = torch.tril_indices(size, size, -1, device=self.lower.device)
        lower = torch.eye(size, dtype=self.lower.dtype, device=self.lower.device).repeat(
            *self.sign.shape[:2], 1, 1
        )
        lower[..., below[0], below[1]] = self.lower
        upper = torch.diag_embed(self.sign * self.log_diagonal.exp())
        upper[..., below[1], below[0]] = self.upper
        return lower, upper

    def _mixing(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Matrices, their inverses, (K, M, C, C) each, and log |det|, (K, M); None = no mixing."""
        if self.config.mixing == "none":
            return None
        if self.matrix is not None:
            # Rounded to float32 it is orthogonal to 1e-7; a step of Newton's makes that 1e-14 in float64.
            matrix = 1.5 * self.matrix - 0.5 * self.matrix @ (self.matrix.mT @ self.matrix)
            return matrix, matrix.mT, matrix.new_zeros(matrix.shape[:2])
        lower, upper = self._factors()
        unlower = torch.linalg.solve_triangular(
            lower, self.order.mT, upper=False, unitriangular=True
        )
        inverse = torch.linalg.solve_triangular(upper, unlower, upper=True)
        return self.order @ lower @ upper, inverse, self.log_diagonal.sum(-1)

    def fold(self) -> Folded:
        """What of the computation does not depend on the data, done once: for forward and inverse both.

        ActNorm and mixing are one affine map, y = x W + b. Keep the result as long as the weights are the
        same; gradients reach the weights through it.
        """
        scale = self.config.scale
        w3, b3 = self.w3 * (3 * self.gain).exp(), self.b3 * (3 * self.gain).exp()
        nets = (self.w1, self.b1, self.w2, self.b2, w3, b3)
        mixed = self._mixing()
        if self.loc is None or self.log_scale is None:
            if mixed is None:
                return Folded(scale, nets, None, None, self.w1.new_zeros(self.w1.shape[1]))
            matrix, inverse, log_det = mixed
            zero = matrix.new_zeros(*matrix.shape[:2], 1, matrix.shape[-1])
            return Folded(scale, nets, (matrix, zero), (inverse, zero), log_det.sum(0))
        by = self.log_scale.exp()  # y = ((x + loc) by) W
        stretch = self.log_scale.sum((-1, -2))
        if mixed is None:
            matrix, inverse = torch.diag_embed(by[..., 0, :]), torch.diag_embed(1 / by[..., 0, :])
            return Folded(
                scale, nets, (matrix, self.loc * by), (inverse, -self.loc), stretch.sum(0)
            )
        matrix, inverse, log_det = mixed
        there = by.mT * matrix, (self.loc * by) @ matrix
        back = inverse / by, -self.loc
        return Folded(scale, nets, there, back, (stretch + log_det).sum(0))

    @torch.no_grad()
    def start_normalised(self, x: Tensor) -> None:
        """Set every ActNorm so that, on this data, its output has mean 0 and deviation 1.

        Args:
            x: (M, N, C) rows of a first batch, without padding.

        Raises:
            ValueError: if the flows have no ActNorm.
        """
        if self.loc is None or self.log_scale is None:
            raise ValueError("normalise must be True in the config of flows that start normalised")
        for step in range(self.config.steps):
            self.loc[step] = -x.mean(1, keepdim=True)
            self.log_scale[step] = -x.std(1, keepdim=True, correction=0).clamp(min=1e-6).log()
            x, _ = self.fold().steps(step, step + 1).forward(x)


@dataclass(frozen=True)
class Folded:
    """Flows ready to run, in both directions.

    Args:
        scale: As in `FlowConfig`.
        nets: Weights of the couplings, each (K, M, ...).
        there: Matrix (K, M, C, C) and offset (K, M, 1, C) before each coupling; None = nothing before it.
        back: The same of the inverse.
        log_det: (M,) what all these matrices add to the log-determinant of a row.
    """

    scale: Scale
    nets: tuple[Tensor, ...]
    there: tuple[Tensor, Tensor] | None
    back: tuple[Tensor, Tensor] | None
    log_det: Tensor

    def of(self, modalities: Sequence[int] | Tensor) -> Folded:
        """The flows of some modalities, in this order; one may stand there twice."""
        index = torch.as_tensor(modalities, device=self.log_det.device)
        nets = tuple(w[:, index] for w in self.nets)
        there, back = [
            pair and (pair[0][:, index], pair[1][:, index]) for pair in (self.there, self.back)
        ]
        return Folded(self.scale, nets, there, back, self.log_det[index])

    def steps(self, start: int, stop: int) -> Folded:
        """Some of the steps. Their `log_det` is that of the couplings alone."""
        nets = tuple(w[start:stop] for w in self.nets)
        there, back = [
            pair and (pair[0][start:stop], pair[1][start:stop]) for pair in (self.there, self.back)
        ]
        return Folded(self.scale, nets, there, back, torch.zeros_like(self.log_det))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features to latents.

        Args:
            x: (M, ..., C).

        Returns:
            z, as x, and log |det dz/dx| of each row, (M, ...), in nats.
        """
        rows = self._rows(x)
        log_det = rows.new_zeros(rows.shape[:-1])
        for step in range(len(self.nets[0])):
            if self.there is not None:
                rows = torch.baddbmm(self.there[1][step], rows, self.there[0][step])
            kept, moved = rows.chunk(2, -1)
            log_by, shift = self._coupling(step, kept)
            rows = torch.cat((kept, (moved + shift) * log_by.exp()), -1)
            log_det = log_det + log_by.sum(-1)
        return rows.view(x.shape), (log_det + self.log_det[:, None]).view(x.shape[:-1])

    def inverse(self, z: Tensor) -> Tensor:
        """Latents to features, (M, ..., C) -> (M, ..., C)."""
        rows = self._rows(z)
        for step in reversed(range(len(self.nets[0]))):
            kept, moved = rows.chunk(2, -1)
            log_by, shift = self._coupling(step, kept)
            rows = torch.cat((kept, moved * (-log_by).exp() - shift), -1)
            if self.back is not None:
                rows = torch.baddbmm(self.back[1][step], rows, self.back[0][step])
        return rows.view(z.shape)

    def _rows(self, x: Tensor) -> Tensor:
        modalities, channels = len(self.log_det), 2 * self.nets[0].shape[2]
        if x.ndim < 2 or x.shape[0] != modalities or x.shape[-1] != channels:
            raise ValueError(f"x must be ({modalities}, ..., {channels}), got {tuple(x.shape)}")
        return x.reshape(modalities, -1, channels)

    def _coupling(self, step: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(M, N, C/2) -> log scale and shift of the other half, (M, N, C/2) each."""
        w1, b1, w2, b2, w3, b3 = (w[step] for w in self.nets)
        hidden = torch.baddbmm(b1, kept, w1).relu_()
        hidden = torch.baddbmm(b2, hidden, w2).relu_()
        q, shift = torch.baddbmm(b3, hidden, w3).chunk(2, -1)
        log_by = 2 * torch.tanh(q / 2) if self.scale == "bounded" else F.logsigmoid(q + 2)
        return log_by, shift
