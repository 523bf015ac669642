r"""Gradient-Blending: every modality has a head of its own, and a weight by how well it generalises.

Networks of several modalities overfit, each modality at its own pace. With a head for each modality and one
for all together, the loss is a weighted sum of their cross-entropies, and a head's weight is what it gained
on held-out samples over what it overfitted, squared:

.. math:: w_k \propto \frac{G_k}{O_k^2}, \qquad
          G = L^{val}_0 - L^{val}_n, \quad O = (L^{val}_n - L^{train}_n) - (L^{val}_0 - L^{train}_0),

over a window of n epochs in which the head is trained alone (`gain_weights`). `official_weights` is what the
released code of X-Norm has in its place: without G, so that a head that learnt nothing, and so did not
overfit either, takes all.

Source:
    Wang, Tran & Feiszli, "What Makes Training Multi-modal Classification Networks Hard?", CVPR 2020;
    as used in the comparison of github.com/ihp-lab/XNorm, solver_gb.py. Differs: where one modality alone is
    observed, its own head answers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.predictor import task
from labkit.models.streams import Answering, Bench, head

FLOOR = 1e-2  # least overfitting, in nats, to divide by
CLAMP = 1e-4  # the released code's


def gain_weights(before: Tensor, after: Tensor) -> Tensor:
    """Weights of heads by what they gained and what they overfitted in a window.

    Args:
        before: (K, 2) losses in training and held out at its start.
        after: (K, 2) the same at its end.

    Returns:
        (K,), their sum is 1; 0 for a head that gained nothing, and all alike if none did.

    Raises:
        ValueError: unless both have shape (K, 2).

    Warns:
        UserWarning: where a head's gap grew by less than `FLOOR`, which is taken in its place.
    """
    _check(before, after)
    gained = (before[:, 1] - after[:, 1]).clamp(min=0)
    gap = (after[:, 1] - after[:, 0]) - (before[:, 1] - before[:, 0])
    if bool(((gap < FLOOR) & (gained > 0)).any()):
        warnings.warn(
            f"a head overfitted by less than {FLOOR:g}; that is taken instead", stacklevel=2
        )
    return _shares(gained / gap.clamp(min=FLOOR).square())


def official_weights(after: Tensor) -> Tensor:
    """Weights as in X-Norm's released code: the held-out loss over the gap squared, at the end alone.

    Instead of a gap below 0, or of 0, which that code divides by, `CLAMP` is taken.

    Args:
        after: (K, 2) losses in training and held out.

    Returns:
        (K,), their sum is 1.
    """
    _check(after, after)
    gap = after[:, 1] - after[:, 0]
    return _shares(after[:, 1] / torch.where(gap > 0, gap, CLAMP).square())


def _check(before: Tensor, after: Tensor) -> None:
    if before.ndim != 2 or before.shape[1] != 2 or before.shape != after.shape:
        raise ValueError(
            f"before and after must be (heads, 2), got {tuple(before.shape)} and {tuple(after.shape)}"
        )


def _shares(raw: Tensor) -> Tensor:
    total = raw.sum()
    return raw / total if total > 0 else torch.full_like(raw, 1 / len(raw))


@dataclass(frozen=True)
class Blend(Bench):
    """Streams, a head for each, a head for all.

    Args:
        weights: Of the cross-entropy of each modality's head, then of the joint one; a head of weight 0
            learns nothing.

    Raises:
        ValueError: on another number of weights, or one below 0.
    """

    weights: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = len(self.modalities) + 1
        if len(self.weights) != heads or min(self.weights) < 0 or not sum(self.weights) > 0:
            raise ValueError(
                f"weights must be {heads} numbers of at least 0, not all 0: one a modality, one of the joint "
                f"head; got {self.weights}"
            )

    def build(self, parent: BlendNet | None = None) -> BlendNet:
        """A new network.

        Args:
            parent: Whose weights it goes on from.
        """
        net = BlendNet(self)
        if parent is not None:
            net.load_state_dict(parent.state_dict())
        return net


class BlendNet(Answering):
    """Network of a `Blend`."""

    def __init__(self, config: Blend) -> None:
        super().__init__()
        self.config = config
        self.streams = config.streams()
        width, count = self.streams.width, len(config.modalities)
        self.heads = nn.ModuleList(head(width, config) for _ in range(count))
        self.joint = head(count * width, config)

    def logits(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Logits of each modality's head and of the joint one, (B, K), and what is observed, (B, M)."""
        codes, observed = self.streams(batch)
        own = [net(code) for net, code in zip(self.heads, codes, strict=True)]
        return [*own, self.joint(torch.cat(codes, 1))], observed

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K) of the joint head; where one modality alone is observed, of its own."""
        logits, observed = self.logits(batch)
        alone = observed & (observed.sum(1, keepdim=True) == 1)
        said = torch.stack(logits, 1)  # (B, M + 1, K)
        which = torch.where(alone.any(1), alone.long().argmax(1), len(logits) - 1)
        return said[torch.arange(len(said), device=said.device), which]

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the heads' losses.

        Returns:
            The loss; detached parts ``head 0`` and so on, each head's own, and the accuracy or error of the
            joint one.
        """
        batch = self.partly(batch, generator)
        logits, _ = self.logits(batch)
        total, parts = logits[0].new_zeros(()), {}
        for k, (weight, one) in enumerate(zip(self.config.weights, logits, strict=True)):
            each, found = task(one.float(), batch)
            parts[f"head {k}"] = each.detach()
            if weight:
                total = total + weight * each
        return total, parts | found
