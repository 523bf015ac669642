"""What is measured for notebook 08: accuracies beside floors, and what each method costs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit import madds, metrics
from labkit.batch import Batch, add_noise
from labkit.data.clips import Clips
from labkit.exchanging.blend import Rule, blended, estimate, weights_of
from labkit.exchanging.plan import Augmented, Setting, net_of, trained
from labkit.models.blending import Blend, BlendNet, gain_weights
from labkit.models.fusion import LateNet
from labkit.models.streams import Answering, Bench, mean_of
from labkit.models.xnorm import Exchange, NormExchange, XNormNet, normal
from labkit.store import fit_once, once
from labkit.sweep import sweep
from labkit.train import isolated_rng

ROWS = 256  # samples at a time
LEVELS = (0.0, 0.5, 1.0, 2.0, 3.0)  # of noise: deviations over the mean magnitude of a modality
RULES: tuple[Rule, ...] = ("gain", "official")
HEADS = ("first", "second", "joint")  # of Gradient-Blending


@torch.no_grad()
def answers(net: Answering, batch: Batch, **asked: Any) -> Tensor:
    """Logits (n, K) of every sample."""
    starts = range(0, len(batch), ROWS)
    return torch.cat([net.predict(batch[i : i + ROWS], **asked).float() for i in starts])


def accuracy(net: Answering, batch: Batch, **asked: Any) -> float:
    """Share of right answers, in %."""
    assert batch.y is not None
    return 100 * float(metrics.accuracy(answers(net, batch, **asked), batch.y))


def scored(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """One way on held-out samples.

    Returns:
        ``accuracy`` on test, ``train`` and ``floor``, the majority rate, in %; ``classes``: mean over
        classes; ``weights`` and ``madds`` of one sample's answer; ``training``: MAdds of the whole training,
        a step backward counted as two forward.
    """
    net = net_of(trained(setting, way, seed, device))
    data = setting.recipe(seed)
    train, test = (data.load(split, device=device) for split in ("train", "test"))
    assert train.y is not None
    assert test.y is not None
    right = (answers(net, test).argmax(1) == test.y).double()
    each = torch.stack([right[test.y == k].mean() for k in test.y.unique()])
    config = setting.config(way)
    spent = costs(config)
    # Before each window Gradient-Blending trains for its length twice to estimate the weights.
    passes = setting.budget(way).epochs * len(train) * (3 if isinstance(config, Blend) else 1)
    return {
        "accuracy": 100 * float(right.mean()), "classes": 100 * float(each.mean()),
        "train": accuracy(net, train), "floor": 100 * metrics.majority_rate(train.y, test.y),
        **spent, "training": 3 * passes * spent["madds"],
    }  # fmt: skip


@lru_cache(maxsize=64)
def costs(config: Bench) -> dict[str, int]:
    """``weights`` of a network and ``madds`` of one answer, all matrix products counted, also of LSTMs."""
    with isolated_rng(0, torch.device("cpu")):
        net: Answering = config.build().eval()  # type: ignore[attr-defined]
    batch = Batch({name: torch.zeros(1, *shape) for name, shape in config.modalities})
    return {
        "weights": sum(p.numel() for p in net.parameters()),
        "madds": madds.counted(lambda: net.predict(batch), net),
    }


def table(
    studies: Mapping[str, Setting], seeds: Sequence[int], ways: Sequence[str] | None = None,
    device: str = "cpu",
) -> pd.DataFrame:  # fmt: skip
    """`scored` of all that are compared (or these ways) on every data set, kept; on a CPU side by side."""
    frames = []
    for name, setting in studies.items():
        grid: dict[str, list[Any]] = {
            "setting": [setting], "way": [*(ways or setting.compared)], "device": [device]
        }  # fmt: skip
        found = sweep(scored, grid, seeds, workers=None if device == "cpu" else 1)
        frames.append(found.drop(columns=["setting", "device"]).assign(data=name))
    return pd.concat(frames, ignore_index=True)


def rho_table(
    setting: Setting,
    rhos: Sequence[float],
    ways: Sequence[str],
    seeds: Sequence[int],
    device: str = "cpu",
) -> pd.DataFrame:
    """`scored` of these ways as the synergy goes up."""
    assert isinstance(setting.data, Clips)
    studies = {f"{rho:g}": replace(setting, data=replace(setting.data, rho=rho)) for rho in rhos}
    found = table(studies, seeds, ways, device)
    return found.assign(rho=found["data"].astype(float)).drop(columns="data")


def by_rho(table: pd.DataFrame, way: str) -> tuple[list[float], NDArray[np.float64]]:
    """Accuracies in % of one way of a `rho_table`: its rhos (R,), ascending, and (S, R), a row a seed.

    Raises:
        ValueError: if the table lacks the way, or one of its seeds a rho; the message names it.
    """
    rows = table[table["way"] == way]
    if rows.empty:
        raise ValueError(f"table has no way {way!r}; it has {', '.join(table['way'].unique())}")
    found = rows.pivot(index="seed", columns="rho", values="accuracy")
    for seed, row in found.iterrows():
        if row.isna().any():
            raise ValueError(f"table must have all rhos of {way!r}, seed {seed} lacks some")
    return [float(rho) for rho in found.columns], found.to_numpy(float)


# One site, taken apart ----------------------------------------------------------------------------


class Parts(NamedTuple):
    """What a site makes of one clip's maps, step by step, (C, *grid) each: after = x + added."""

    x: Tensor
    normal: Tensor
    gamma: Tensor
    beta: Tensor
    added: Tensor
    after: Tensor


@torch.no_grad()
def parts(
    site: NormExchange, stream: int, x: Tensor, source: Tensor, how: Exchange,
    times: tuple[float, float] = (1.0, 1.0),
) -> Parts:  # fmt: skip
    """Take apart what a trained site does to a stream, or would do.

    Args:
        site: Whose weights; it was trained as `Exchange()`.
        stream: 0 or 1, whose maps are changed.
        x: (1, C, *grid), these maps.
        source: (1, C, *grid), what gamma and beta come from.
        how: Its `norm`, `pool` and `one_plus_gamma` count.
        times: What gamma and beta, as they come from the source, are multiplied by.
    """
    heard = source.flatten(2)
    said = site.say(stream, heard.mean(2, keepdim=True) if how.pool else heard)
    assert said.gamma is not None
    assert said.beta is not None
    gamma = times[0] * said.gamma + float(how.one_plus_gamma)
    beta, flat = times[1] * said.beta, x.flatten(2)
    even = normal(flat, how.norm)
    made = (flat, even, gamma, beta, gamma * even + beta, flat + gamma * even + beta)
    return Parts(*(each.expand_as(flat).reshape(x.shape)[0].cpu() for each in made))


@torch.no_grad()
def behind(net: XNormNet | LateNet, batch: Batch, stage: int) -> list[Tensor]:
    """Both streams' maps (B, C, *grid) behind a stage, and behind the exchange if there is one."""
    maps, observed = net.streams.enter(batch)
    for i in range(stage + 1):
        maps = _onward(net, i, maps, observed)
    return maps


@torch.no_grad()
def instead(net: XNormNet, batch: Batch, site: int, stream: int, after: Tensor) -> Tensor:
    """Logits (B, K) if a stream's maps behind a site were these, (B, C, *grid)."""
    maps, observed = net.streams.enter(batch)
    for i in range(len(net.streams.widths)):
        maps = _onward(net, i, maps, observed)
        if i == site:
            maps[stream] = after
    codes, weight = net.streams.code(maps, observed), net.config.weight
    logits = [head(code) for head, code in zip(net.heads, codes, strict=True)]
    return mean_of(logits, (weight, 1 - weight), observed)


def _onward(net: Any, i: int, maps: Sequence[Tensor], observed: Tensor) -> list[Tensor]:
    """Maps behind stage i, from those before it."""
    maps = net.streams.stage(i, maps)
    if isinstance(net, XNormNet) and i in net.config.sites:
        maps = net.exchanges[str(i)]((maps[0], maps[1]), observed)
    return [*maps]


@torch.no_grad()
def heads(net: XNormNet | LateNet, batch: Batch) -> Tensor:
    """Logits of each stream's own head, (2, B, K)."""
    found = net.logits(batch)
    return torch.stack([*(found[0] if isinstance(net, LateNet) else found[:2])])


def turned(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, list[float]]:
    """What the first `ROWS` held-out clips are taken for, and what the same with their flow turned round.

    Returns:
        ``right``: right answers, in %, before and after; ``heads``: of each stream's own head, the share of
        its answers that change, in %.
    """
    data = setting.recipe(seed)
    assert isinstance(data, Clips)
    index = torch.arange(min(ROWS, data.n_test), device=device)
    batch = data.look("test", index)
    other = data.look("test", index, direction=1 - batch.factors["direction"])
    net: Any = net_of(trained(setting, way, seed, device))
    before, after = (heads(net, each).argmax(-1) for each in (batch, other))
    changed = 100 * (before != after).double().mean(1)
    return {
        "right": [accuracy(net, each) for each in (batch, other)],
        "heads": changed.tolist(),
    }


# Which site matters -------------------------------------------------------------------------------


def cut(setting: Setting, way: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """Accuracy in % of a trained X-Norm if streams are not told anything at a site.

    Returns:
        ``none``, ``all``; for each site i and stream m ``i/m``.
    """
    net = net_of(trained(setting, way, seed, device))
    test = setting.recipe(seed).load("test", device=device)
    every = [(i, m) for i in setting.sites for m in range(2)]
    found = {"none": accuracy(net, test), "all": accuracy(net, test, cut=every)}
    return found | {f"{i}/{m}": accuracy(net, test, cut=[(i, m)]) for i, m in every}


# Gradient-Blending --------------------------------------------------------------------------------


def blend(setting: Setting, rule: Rule, seed: int, device: str = "cpu") -> dict[str, Any]:
    """Gradient-Blending by one rule.

    Returns:
        ``accuracy`` of the joint head in %; ``heads``: of each head, the joint one last; ``weights``: of each
        window, (K,).
    """
    config = setting.config("Gradient-Blending")
    assert isinstance(config, Blend)
    run, found = blended(
        config, setting.recipe(seed), setting.fit, seed, rule, setting.windows, device
    )
    test = setting.recipe(seed).load("test", device=device)
    net = run.model
    assert isinstance(net, BlendNet)
    assert test.y is not None
    with torch.no_grad():
        logits, _ = net.logits(test)
    heads = [100 * float(metrics.accuracy(one.float(), test.y)) for one in logits]
    return {"accuracy": heads[-1], "heads": heads, "weights": [each["weights"] for each in found]}


def blend_table(setting: Setting, seeds: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """`blend` by each rule."""
    grid: dict[str, list[Any]] = {
        "setting": [setting], "rule": ["equal", "gain", "official"], "device": [device]
    }  # fmt: skip
    found = sweep(blend, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])


def blend_weights(
    studies: Mapping[str, Setting], seeds: Sequence[int], device: str = "cpu"
) -> pd.DataFrame:
    """How Gradient-Blending weighs its heads on each data set, by gain, window by window.

    Returns:
        Columns ``data``, ``window``, from 1; ``first``, ``second`` and ``joint``: shares of the weight, in %,
        means over seeds; ``floored``: in how many of the seeds a head's gap grew by less than
        `labkit.models.blending.FLOOR`, so that this decides.
    """
    rows = []
    for name, setting in studies.items():
        config = setting.config("Gradient-Blending")
        assert isinstance(config, Blend)
        found = [
            blended(
                config, setting.recipe(seed), setting.fit, seed, "gain", setting.windows, device
            )[1]
            for seed in seeds
        ]
        for i in range(setting.windows):
            each = [windows[i] for windows in found]
            mean = torch.tensor([one["weights"] for one in each]).mean(0)
            shares = (100 * mean / mean.sum()).tolist()
            rows.append({
                "data": name, "window": i + 1, **dict(zip(HEADS, shares, strict=True)),
                "floored": sum(map(_floored, each)),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _floored(found: Mapping[str, Any]) -> bool:
    """Whether an estimate has a gap that is too small to divide by."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gain_weights(torch.tensor(found["before"]), torch.tensor(found["after"]))
    return bool(told)


@dataclass(frozen=True)
class Silent:
    """Data of which one modality is zeros in every sample: it tells nothing but how often each class comes.

    Args:
        data: Recipe of the data.
        name: The modality.
    """

    data: Any
    name: str

    def load(self, split: Any, device: torch.device | str | None = None) -> Batch:
        """One split."""
        batch: Batch = self.data.load(split, device=device)
        return replace(batch, x=batch.x | {self.name: torch.zeros_like(batch.x[self.name])})


def silent(setting: Setting, imbalance: float, seed: int, device: str = "cpu") -> dict[str, float]:
    """What Gradient-Blending gives the first modality before the first window, if it is silent.

    Args:
        setting: Procedural clips.
        imbalance: Of the classes; see `labkit.data.clips`.
        seed: Of data, weights and descent.
        device: Where to train.

    Returns:
        ``gain`` and ``official``: its share of the weight by each rule, in %.
    """
    config, (name, _) = setting.config("Gradient-Blending"), setting.modalities[0]
    data = Silent(replace(setting.recipe(seed), imbalance=imbalance), name)
    window = replace(setting.fit, epochs=setting.fit.epochs // setting.windows)
    found = once(estimate, config=config, data=data, train=window, seed=seed, device=device)
    weights = {rule: weights_of(found, rule) for rule in RULES}
    return {rule: 100 * each[0] / sum(each) for rule, each in weights.items()}


def silent_table(setting: Setting, seeds: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """`silent` with classes equally frequent, and as in EPIC-Kitchens."""
    grid: dict[str, list[Any]] = {
        "setting": [setting], "imbalance": [0.0, 1.0], "device": [device]
    }  # fmt: skip
    found = sweep(silent, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])


# Augmentation -------------------------------------------------------------------------------------


def shifted(
    setting: Setting, way: str, joint: bool, flips: float, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Right answers after training on shifted clips, one shift for both streams or one each.

    Returns:
        ``accuracy`` on clips as they are, in %; ``noisy``: with noise on a modality, or on ``both``, a number
        for each of `LEVELS`.
    """
    config = Augmented(setting.config(way), joint, flips=flips)
    budget = setting.budget(way)
    run = fit_once(config, setting.recipe(seed), budget, seed, device=device, progress=False)
    test = setting.recipe(seed).load("test", device=device)
    net, names = net_of(run), [name for name, _ in setting.modalities]
    noisy: dict[str, list[float]] = {}
    for where, chosen in {**{name: [name] for name in names}, "both": names}.items():
        noisy[where] = []
        for level in LEVELS:
            generator = torch.Generator(test.device).manual_seed(seed)  # one draw for all levels
            changed = add_noise(test, dict.fromkeys(chosen, level), generator)
            noisy[where].append(accuracy(net, changed))
    return {"accuracy": noisy["both"][0], "noisy": noisy}


def shift_table(
    setting: Setting, ways: Sequence[str], seeds: Sequence[int], device: str = "cpu"
) -> pd.DataFrame:
    """`shifted` of these ways: joint or not, with mirror images and without."""
    grid: dict[str, list[Any]] = {
        "setting": [setting], "way": [*ways], "joint": [True, False], "flips": [0.0, 0.5], "device": [device]
    }  # fmt: skip
    found = sweep(shifted, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])
