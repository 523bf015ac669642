"""What notebook 08 looks at: labs and figures read it here, and what is read is kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.clips import Clips
from labkit.exchanging.measure import accuracy, answers
from labkit.exchanging.plan import Setting, net_of, trained
from labkit.metrics_gap import linear_cka
from labkit.models.fusion import CrossAttention, CrossAttentionNet, LateNet
from labkit.models.misa import Misa, MisaNet
from labkit.models.xnorm import Site, XNormNet
from labkit.store import fit_once
from labkit.sweep import sweep
from labkit.train import fit, isolated_rng
from labkit.watching import Watched

CROWD = 256  # held-out samples that stand for the split where labs look at many
LOOKS = 13  # times at which a training is looked at, the first and the last one included
# Shares of gamma's and beta's numbers that lie below what a look keeps of them.
QUANTILES = (0.01, *(i / 20 for i in range(1, 20)), 0.99)


@lru_cache(maxsize=16)
def network(setting: Setting, way: str, seed: int, device: str = "cpu") -> Any:
    """A trained network, kept while the kernel runs."""
    return net_of(trained(setting, way, seed, device))


@lru_cache(maxsize=8)
def untrained(setting: Setting, way: str, seed: int, device: str = "cpu") -> Any:
    """The network with which the training of a way begins, kept while the kernel runs."""
    return _begun(setting, way, seed, device).eval().requires_grad_(False)


def _begun(setting: Setting, way: str, seed: int, device: str) -> Any:
    """A new network, whose weights are those with which `plan.trained` begins."""
    config: Any = setting.config(way)
    with isolated_rng(seed, torch.device("cpu")):
        return config.build().to(device)


@lru_cache(maxsize=8)
def held_out(setting: Setting, seed: int, device: str = "cpu") -> Batch:
    """All held-out samples, kept while the kernel runs."""
    batch: Batch = setting.recipe(seed).load("test", device=device)
    return batch


# One clip -----------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def clip(setting: Setting, seed: int, row: int, device: str = "cpu", **factors: int) -> Batch:
    """One held-out clip with other factors than its own (see `Clips.look`); all else about it stays."""
    assert isinstance(setting.data, Clips)
    index = torch.tensor([row], device=device)
    made: Batch = setting.recipe(seed).look("test", index, **factors)
    return made


class Told(NamedTuple):
    """What a network with sites makes of one clip.

    Attributes:
        probabilities: (K,).
        own: (2, K) of each stream's head.
        sites: Site -> what was exchanged there.
    """

    probabilities: Tensor
    own: Tensor
    sites: dict[int, Site]


@torch.no_grad()
def told(net: XNormNet, batch: Batch, cut: Sequence[tuple[int, int]] = ()) -> Told:
    """Answer one clip, and say what happened at each site."""
    sites: dict[int, Site] = {}
    one, other, _ = net.logits(batch, cut, sites)
    said = net.predict(batch, cut)[0].softmax(0)
    return Told(said.cpu(), torch.stack((one[0], other[0])).softmax(1).cpu(), sites)


def steered(
    setting: Setting, seed: int, row: int, turned: bool, pair: int | None = None, device: str = "cpu"
) -> Batch:  # fmt: skip
    """One held-out clip of which rgb stays; the label follows.

    Args:
        setting: Of procedural clips.
        seed: Of the data.
        row: Which clip.
        turned: Flow moves to the other side.
        pair: Whose speed flow has; None = that of the clip's own pair.
        device: Where to make it.
    """
    direction = int(clip(setting, seed, row, device).factors["direction"]) ^ int(turned)
    batch = clip(setting, seed, row, device, direction=direction)
    if pair is None:
        return batch
    flow = clip(setting, seed, row, device, direction=direction, pair=pair)
    factors = batch.factors | {"speed": flow.factors["speed"]}
    return Batch({"rgb": batch.x["rgb"], "flow": flow.x["flow"]}, y=batch.y, factors=factors)


# While it learns ----------------------------------------------------------------------------------


def watched(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """Train late fusion or X-Norm as `plan.trained` does, and look at it on the way.

    Returns:
        Lists, a number a look: ``epoch``; ``accuracy`` on the validation split in %; for each stage i
        ``alike i``: linear CKA of the two streams' maps behind it, after an exchange, if there is one. For
        each site i and stream m ``before i``: CKA before the exchange; ``moved i/m``: norm of the change over
        the norm of the maps; ``gamma i/m`` and ``beta i/m``: deviation over all numbers; a list a look,
        ``gamma i/m quantiles`` and ``beta i/m quantiles``: below which `QUANTILES` of them lie.
    """
    data, net = setting.recipe(seed), _begun(setting, way, seed, device)
    train, val = (data.load(split, device=device) for split in ("train", "val"))
    found: dict[str, list[Any]] = {}
    budget = setting.budget(way)
    steps = math.ceil(len(train) / budget.batch_size)

    def look(step: int) -> None:
        seen = {
            "epoch": step / steps,
            "accuracy": accuracy(net.eval(), val),
            **looked(net, val[:CROWD]),
        }
        for name, value in seen.items():
            found.setdefault(name, []).append(value)

    epochs = sorted({round(budget.epochs * i / (LOOKS - 1)) for i in range(LOOKS)})
    fit(
        Watched(net, {e * steps: look for e in epochs[:-1]}),
        train,
        budget,
        seed=seed,
        progress=False,
    )
    look(epochs[-1] * steps)
    return found


@torch.no_grad()
def looked(net: XNormNet | LateNet, batch: Batch) -> dict[str, Any]:
    """How alike the streams are behind each stage, and what is exchanged; names as in `watched`."""
    found: dict[str, Any] = {}
    maps, observed = net.streams.enter(batch)
    for i in range(len(net.streams.widths)):
        maps = net.streams.stage(i, maps)
        if isinstance(net, XNormNet) and i in net.config.sites:
            exchange: Any = net.exchanges[str(i)]
            before, own = (maps[0], maps[1]), net.config.exchange.own
            maps = list(exchange(before, observed))
            found[f"before {i}"] = _alike(before)
            for m in range(2):
                said = exchange.say(m, before[m if own else 1 - m])
                found[f"moved {i}/{m}"] = float((maps[m] - before[m]).norm() / before[m].norm())
                for name, value in (("gamma", said.gamma), ("beta", said.beta)):
                    if value is not None:
                        found[f"{name} {i}/{m}"] = float(value.std())
                        found[f"{name} {i}/{m} quantiles"] = quantiles(value)
        found[f"alike {i}"] = _alike(maps)
    return found


def quantiles(values: Tensor) -> list[float]:
    """Below which number each of `QUANTILES` of the values lies, on a line between its neighbours."""
    # NumPy's needs half the time of torch's, which takes 16 million numbers at most.
    found: list[float] = np.quantile(values.flatten().cpu().numpy(), QUANTILES).tolist()
    return found


def _alike(maps: Sequence[Tensor]) -> float:
    """Linear CKA of the streams' maps, averaged over the grid."""
    one, other = (x.flatten(2).mean(2) for x in maps)
    return float(linear_cka(one, other))


def learning(
    setting: Setting, ways: Sequence[str], seeds: Sequence[int], device: str = "cpu"
) -> dict[str, list[dict[str, list[Any]]]]:
    """`watched` of each way and seed, kept: way -> a record a seed."""
    grid: dict[str, list[Any]] = {"setting": [setting], "way": [*ways], "device": [device]}
    found = sweep(watched, grid, seeds, workers=None if device == "cpu" else 1)
    names = [name for name in found.columns if name not in ("setting", "way", "device", "seed")]
    records: dict[str, list[dict[str, list[Any]]]] = {way: [] for way in ways}
    for _, row in found.iterrows():
        records[row["way"]].append({n: row[n] for n in names if isinstance(row[n], list)})
    return records


@lru_cache(maxsize=256)
def without(
    setting: Setting, way: str, seed: int, cut: tuple[tuple[int, int], ...], device: str = "cpu"
) -> float:
    """Accuracy in % on `CROWD` held-out samples of a trained network of which (site, stream) are cut."""
    crowd = held_out(setting, seed, device)[:CROWD]
    return accuracy(network(setting, way, seed, device), crowd, cut=cut)


# XOR on paper -------------------------------------------------------------------------------------


def xor(rgb: tuple[float, float], flow: tuple[float, float], product: float = 0.0) -> Tensor:
    """Logit of "close" in each cell of handle (rows) and direction (columns), left and right: (2, 2).

    A sum of what each stream says, and a product of the two signs if one is allowed.
    """
    sign = torch.tensor([-1.0, 1.0])
    return torch.tensor(rgb)[:, None] + torch.tensor(flow) + product * torch.outer(sign, sign)


def solved(logits: Tensor) -> Tensor:
    """Which cells (2, 2) are right: closing where handle and direction differ, and an even logit is wrong."""
    closes = ~torch.eye(2, dtype=torch.bool)
    return torch.where(closes, logits > 0, logits < 0)


# Which cells are read -----------------------------------------------------------------------------


def saliency(net: CrossAttentionNet, batch: Batch) -> Tensor:
    """How much each cell of each modality moves the likeliest logit: mean norm of the gradient, (M, cells).

    Source: after Simonyan, Vedaldi & Zisserman, "Deep Inside Convolutional Networks", 2014, on cells of the
    streams' last maps instead of pixels.
    """
    with torch.no_grad():
        cells = net.cells(batch)
    cells.requires_grad_(True)
    with torch.enable_grad():
        logits = net.fusion(cells)
        (slope,) = torch.autograd.grad(logits.max(1).values.sum(), cells)
    return slope.norm(dim=-1).mean(1).cpu()


def read_as(net: CrossAttentionNet, read: Any, causal: bool) -> CrossAttentionNet:
    """The same weights, read at other cells, or masked."""
    config: CrossAttention = replace(net.config, read=read, causal=causal)
    other = config.build().to(next(net.parameters()).device)
    other.load_state_dict(net.state_dict())
    return other.eval().requires_grad_(False)


# MISA's dials -------------------------------------------------------------------------------------


def misa(
    setting: Setting, similar: float, differ: float, recover: float, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """One MISA with these weights of its conditions on held-out samples.

    Returns:
        ``accuracy`` in %; ``points``: name of the code -> (CROWD, 2), on the two directions in which all
        codes spread most; ``moments``: distance of the shared codes' moments, from the first to the fifth;
        ``angles``: modality -> mean of `angles` between its private and its shared code; the conditions by
        name; ``spread``: deviation of all codes together.
    """
    config = setting.config("MISA")
    assert isinstance(config, Misa)
    config = replace(config, similar=similar, differ=differ, recover=recover)
    run = fit_once(config, setting.recipe(seed), setting.fit, seed, device=device, progress=False)
    net, test = run.model, setting.recipe(seed).load("test", device=device)
    assert isinstance(net, MisaNet)
    net.requires_grad_(False)
    codes, _ = net.codes(test[:CROWD])
    names = [name for name, _ in setting.modalities]
    each = {
        f"{kind} {name}": code
        for kind, both in (("private", codes.private), ("shared", codes.shared))
        for name, code in zip(names, both, strict=True)
    }
    every = torch.cat(list(each.values())).double()
    centre = every.mean(0)
    directions = torch.linalg.svd(every - centre, full_matrices=False).Vh[:2]
    one, other = codes.shared.double()
    middles = one.mean(0), other.mean(0)
    moments = [float((middles[0] - middles[1]).norm())]
    for k in range(2, 6):
        parts = [(x - m).pow(k).mean(0) for x, m in zip((one, other), middles, strict=True)]
        moments.append(float((parts[0] - parts[1]).norm()))
    return {
        "accuracy": accuracy(net, test), "moments": moments, "spread": float(every.std(0).mean()),
        "angles": dict(zip(names, angles(codes.private, codes.shared).mean(1).tolist(), strict=True)),
        "points": {k: ((x.double() - centre) @ directions.T).tolist() for k, x in each.items()},
        **{k: float(v) for k, v in net.conditions(codes).items()},
    }  # fmt: skip


def angles(one: Tensor, other: Tensor) -> Tensor:
    """Angles (..., B) between two codes (..., B, D), in degrees: 0 = alike, 90 = orthogonal, 180 = opposite.

    Codes are never negative, so that the angle between them as they are could hardly be 90. As in
    `labkit.models.misa.difference`, the mean over the samples is taken off first; a code that is the mean has
    90. Of codes that have nothing to do with each other the mean is 90, though hardly any sample's angle is.
    """
    one, other = (x.double() - x.double().mean(-2, keepdim=True) for x in (one, other))
    lengths = one.norm(dim=-1) * other.norm(dim=-1)
    cosine = (one * other).sum(-1) / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    return cosine.clamp(-1, 1).acos().rad2deg()


def misa_table(
    setting: Setting, weights: Mapping[str, Sequence[float]], seed: int, device: str = "cpu"
) -> pd.DataFrame:
    """`dialled` at every combination of the three conditions' weights, which are columns, too."""
    grid: dict[str, list[Any]] = {
        "setting": [setting], **{name: [*values] for name, values in weights.items()}, "device": [device]
    }  # fmt: skip
    found = sweep(dialled, grid, [seed], workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device", "seed"])


def dialled(
    setting: Setting, similar: float, differ: float, recover: float, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """A row of `misa_table`: as of `misa`, but the conditions are called ``similar left`` and so on."""
    found = misa(setting, similar, differ, recover, seed, device)
    weights = ("similar", "differ", "recover")  # names of the columns beside it
    return {f"{name} left" if name in weights else name: value for name, value in found.items()}


def by_cell(setting: Setting, way: str, seed: int, device: str = "cpu") -> Tensor:
    """Share of right polarities of a way in each cell of handle and direction, (2, 2), pair aside."""
    batch = held_out(setting, seed, device)
    said = answers(network(setting, way, seed, device), batch).argmax(1)
    right = (said % 2 == batch.factors["polarity"]).double()
    handle, direction = batch.factors["handle"], batch.factors["direction"]
    cells = itertools.product(range(2), repeat=2)
    found = [right[(handle == h) & (direction == d)].mean() for h, d in cells]
    return torch.stack(found).view(2, 2).cpu()
