"""Residual channel attention: what refines recovered features, for all modalities at once.

Source:
    Zhang, Li, Li, Wang, Zhong & Fu, "Image Super-Resolution Using Very Deep Residual Channel Attention
    Networks", ECCV 2018; here over time, with the sizes of DiCMoR's released code (rcan.py:3-53). Differs:
    padding is masked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Reconstruction(nn.Module):
    """What refines recovered features: residual blocks with channel attention, for M modalities at once.

    Args:
        modalities: M.
        width: D; inside it is twice as wide.
        blocks: Number of blocks.
    """

    def __init__(self, modalities: int, width: int, blocks: int) -> None:
        super().__init__()
        wide = 2 * width
        self.widen = _conv(modalities, width, wide)
        self.blocks = nn.ModuleList(_Block(modalities, wide) for _ in range(blocks))
        self.last = _conv(modalities, wide, wide, 3)
        self.narrow = _conv(modalities, wide, width)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """(M, B, T, D), steps that count (B,) -> (M, B, T, D)."""
        modalities, _, steps, _ = x.shape
        valid = (torch.arange(steps, device=length.device) < length[:, None])[:, None]  # (B, 1, T)
        rows = x.permute(1, 0, 3, 2).flatten(1, 2)  # (B, M D, T)
        group = inner = self.widen(rows) * valid
        for block in self.blocks:
            inner = block(inner, valid)
        out: Tensor = self.narrow(group + self.last(inner) * valid)
        return out.unflatten(1, (modalities, -1)).permute(1, 0, 3, 2)


class _Block(nn.Module):
    """Two convolutions whose result is weighed channel by channel, by its mean over time, and added."""

    def __init__(self, modalities: int, wide: int) -> None:
        super().__init__()
        squeezed = max(wide // 16, 1)
        self.first, self.second = _conv(modalities, wide, wide, 3), _conv(modalities, wide, wide, 3)
        self.squeeze, self.excite = (
            _conv(modalities, wide, squeezed),
            _conv(modalities, squeezed, wide),
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, M C, T), steps that count (B, 1, T) -> (B, M C, T)."""
        moved = self.second(self.first(x).relu() * valid) * valid
        mean = moved.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True)
        out: Tensor = x + moved * self.excite(self.squeeze(mean).relu()).sigmoid()
        return out


def _conv(modalities: int, inside: int, outside: int, kernel: int = 1) -> nn.Conv1d:
    """A convolution over time for each modality by itself."""
    return nn.Conv1d(
        modalities * inside, modalities * outside, kernel, padding=kernel // 2, groups=modalities
    )
