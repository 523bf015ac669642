r"""X-Norm: two streams that normalise themselves, and let the other one say by how much to scale and shift.

After some stages of the streams there is a *site*. At a site, each stream's maps are normalised, scaled by
gamma and shifted by beta, and both come from the *other* stream's maps by a convolution of kernel 1:

.. math:: x_1' = x_1 + \gamma(x_2) \odot \mathrm{norm}(x_1) + \beta(x_2), \qquad
          x_2' = x_2 + \gamma(x_1) \odot \mathrm{norm}(x_2) + \beta(x_1)

That product is what late fusion, a sum of two logits, cannot make. gamma and beta have a value for every
number of the maps; pooled (`pool`) they have one a map, "limited" as the abstract calls them. The answer is
the mean of both streams' logits, so that without sites this is late fusion.

Source:
    Yin, Xu, Zu & Soleymani, "X-Norm: Exchanging Normalization Parameters for Bimodal Fusion", ICMI 2022;
    released code: github.com/ihp-lab/XNorm, networks/model.py (the paper's text could not be had). Differs:
    the variance has an epsilon of 1e-5 instead of 1e-8 at the deviation; no dropout on logits; a stream whose
    partner is missing stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.models.streams import Answering, Bench, head, mean_of

EPSILON = 1e-5  # added to the variance

Norm = Literal["layer", "instance", "channel"]
Only = Literal["both", "gamma", "beta"]


@dataclass(frozen=True)
class Exchange:
    """How maps are exchanged at a site. The defaults are the released code's.

    Args:
        norm: What is normalised together: ``layer``: all numbers of a sample; ``instance``: each map by
            itself; ``channel``: the numbers of all maps at one place.
        only: ``gamma``: no shift; ``beta``: no scale, and so no norm.
        pool: gamma and beta come from the mean of the partner's maps over the grid: one value a map.
        zero_init: gamma and beta start at 0: the first step is late fusion's (but for `one_plus_gamma`).
        one_plus_gamma: The factor is 1 + gamma.
        own: A control without exchange: each stream's gamma and beta come from its own maps.
        sequential: The first stream changes first, and the second hears of that, as in the code before
            August 2023.
        detach: No gradient goes to the partner through gamma and beta.

    Raises:
        ValueError: on an unknown word; the message lists the known ones.
    """

    norm: Norm = "layer"
    only: Only = "both"
    pool: bool = False
    zero_init: bool = False
    one_plus_gamma: bool = False
    own: bool = False
    sequential: bool = False
    detach: bool = False

    def __post_init__(self) -> None:
        if self.norm not in ("layer", "instance", "channel"):
            raise ValueError(f"norm must be layer, instance or channel, got {self.norm!r}")
        if self.only not in ("both", "gamma", "beta"):
            raise ValueError(f"only must be both, gamma or beta, got {self.only!r}")


@dataclass(frozen=True)
class XNorm(Bench):
    """Two streams with sites of exchange.

    Args:
        sites: Stages after which maps are exchanged, from 0; () = late fusion.
        exchange: How.
        weight: Of the first modality's logits in the mean, 0 to 1.

    Raises:
        ValueError: on a value out of range, or another number of modalities than two.
    """

    sites: tuple[int, ...] = (0, 1)
    exchange: Exchange = Exchange()
    weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.modalities) != 2:
            raise ValueError(f"modalities must be two to exchange, got {len(self.modalities)}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie between 0 and 1, got {self.weight}")
        if len({*self.sites}) < len(self.sites) or min(self.sites, default=0) < 0:
            raise ValueError(f"sites must be different stages, from 0; got {self.sites}")

    def build(self) -> XNormNet:
        """The untrained network.

        Raises:
            ValueError: on a site beyond the last stage.
        """
        return XNormNet(self)


# One site -----------------------------------------------------------------------------------------


def normal(x: Tensor, norm: Norm = "layer") -> Tensor:
    """Maps (B, C, N) with mean 0 and unbiased deviation 1 (`EPSILON` aside) over what `norm` says."""
    standard, factor = _standard(x, norm)
    return standard * factor


def _standard(x: Tensor, norm: Norm) -> tuple[Tensor, float]:
    """Maps with a deviation, by n, of 1, and what makes of it one by n - 1."""
    if norm == "channel":
        standard, n = F.layer_norm(x.mT, x.shape[1:2], eps=EPSILON).mT, x.shape[1]
    else:
        over = x.shape[1:] if norm == "layer" else x.shape[2:]
        standard, n = F.layer_norm(x, over, eps=EPSILON), over.numel()
    return standard, ((n - 1) / n) ** 0.5


def _mapped(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Map every place of maps linearly, w x + b: (C', C), (C') and (B, C, N) -> (B, C', N)."""
    if w.numel() > x.numel():  # all samples side by side: no gradient of w for each of them
        side_by_side = x.transpose(0, 1).flatten(1)
        return torch.addmm(b[:, None], w, side_by_side).unflatten(1, (len(x), -1)).transpose(0, 1)
    return torch.baddbmm(b[:, None], w.expand(len(x), -1, -1), x)


class Said(NamedTuple):
    """What one stream says to the other: (B, C, N), N = 1 if pooled; None = nothing."""

    gamma: Tensor | None
    beta: Tensor | None


class NormExchange(nn.Module):
    """One site of two streams.

    Args:
        width: C, maps of each stream.
        config: How to exchange.
    """

    def __init__(self, width: int, config: Exchange) -> None:
        super().__init__()
        self.config = config
        # A convolution of kernel 1 does not care how many sizes the grid has. First beta, then gamma.
        self.encoders = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in range(2))
        if config.zero_init:
            for encoder in cast(list[nn.Conv1d], list(self.encoders)):
                nn.init.zeros_(encoder.weight)
                nn.init.zeros_(cast(Tensor, encoder.bias))

    def say(self, to: int, source: Tensor) -> Said:
        """What stream `to` is told: gamma and beta `to` (0 or 1) from maps (B, C, *grid)."""
        source = source.flatten(2)
        if self.config.detach:
            source = source.detach()
        if self.config.pool:
            source = source.mean(2, keepdim=True)
        encoder = cast(nn.Conv1d, self.encoders[to])
        weights, biases = encoder.weight[..., 0].chunk(2), cast(Tensor, encoder.bias).chunk(2)
        # Two products instead of one that is cut in two: its gradient would be put together again.
        beta, gamma = (_mapped(w, b, source) for w, b in zip(weights, biases, strict=True))
        if self.config.one_plus_gamma:
            gamma = 1 + gamma
        return Said(
            gamma if self.config.only != "beta" else None,
            beta if self.config.only != "gamma" else None,
        )

    def modulated(self, x: Tensor, said: Said) -> Tensor:
        """The sum x + gamma norm(x) + beta, for maps (B, C, *grid)."""
        flat = x.flatten(2)
        made = flat if said.beta is None else flat + said.beta
        if said.gamma is not None:
            standard, factor = _standard(flat, self.config.norm)
            made = torch.addcmul(made, standard, said.gamma, value=factor)
        return made.view_as(x)

    def forward(
        self, maps: tuple[Tensor, Tensor], observed: Tensor | None = None, cut: Collection[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """Both streams' maps after the exchange.

        Args:
            maps: (B, C, *grid) each; grids may differ if pooled.
            observed: (B, 2) bool; who is missing says nothing. None = all there.
            cut: Streams, 0 or 1, that are not told anything.

        Raises:
            ValueError: if grids differ and are not pooled.
        """
        first, second = maps
        if not (self.config.pool or self.config.own or first.shape == second.shape):
            raise ValueError(
                f"maps must have one grid unless pooled, got {tuple(first.shape)} and {tuple(second.shape)}"
            )
        one = self._told(0, first, first if self.config.own else second, observed, cut)
        partner = one if self.config.sequential else first
        other = self._told(1, second, second if self.config.own else partner, observed, cut)
        return one, other

    def _told(
        self, to: int, x: Tensor, source: Tensor, observed: Tensor | None, cut: Collection[int]
    ) -> Tensor:
        if to in cut:
            return x
        made = self.modulated(x, self.say(to, source))
        if observed is None or self.config.own:
            return made
        heard = observed[:, 1 - to].view(-1, *[1] * (x.ndim - 1))
        return torch.where(heard, made, x)


# The network --------------------------------------------------------------------------------------


class Site(NamedTuple):
    """What happened at a site: maps of both streams before and after it, and what each was told.

    Who is cut off, or whose partner is missing, would have been told so, and stays as it is.
    """

    before: tuple[Tensor, Tensor]
    after: tuple[Tensor, Tensor]
    said: tuple[Said, Said]


class XNormNet(Answering):
    """Streams, sites and two heads; `XNorm` says which."""

    def __init__(self, config: XNorm) -> None:
        super().__init__()
        self.config = config
        self.streams = config.streams()
        self.heads = nn.ModuleList(head(self.streams.width, config) for _ in range(2))
        if max(config.sites, default=0) >= len(self.streams.widths):
            raise ValueError(f"sites must lie below {len(self.streams.widths)}, got {config.sites}")
        self.exchanges = nn.ModuleDict(
            {str(i): NormExchange(self.streams.widths[i], config.exchange) for i in config.sites}
        )

    def logits(
        self,
        batch: Batch,
        cut: Collection[tuple[int, int]] = (),
        sites: dict[int, Site] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of both streams, (B, K) each, and what is observed, (B, 2).

        Args:
            batch: B samples.
            cut: (site, stream) pairs that are not told anything.
            sites: A dict to keep what happened at each site in.
        """
        maps, observed = self.streams.enter(batch)
        for i in range(len(self.streams.widths)):
            maps = self.streams.stage(i, maps)
            if i in self.config.sites:
                exchange = cast(NormExchange, self.exchanges[str(i)])
                before = (maps[0], maps[1])
                silent = [stream for site, stream in cut if site == i]
                maps = list(exchange(before, observed, silent))
                if sites is not None:
                    how, after = self.config.exchange, (maps[0], maps[1])
                    partners = before[1], after[0] if how.sequential else before[0]
                    first, second = before if how.own else partners
                    said = exchange.say(0, first), exchange.say(1, second)
                    sites[i] = Site(before, after, said)
        codes = self.streams.code(maps, observed)
        one, other = (net(code) for net, code in zip(self.heads, codes, strict=True))
        return one, other, observed

    def predict(self, batch: Batch, cut: Collection[tuple[int, int]] = ()) -> Tensor:
        """Weighted mean of the logits of what is observed, (B, K); 0 if that has no weight."""
        one, other, observed = self.logits(batch, cut)
        return mean_of((one, other), (self.config.weight, 1 - self.config.weight), observed)
