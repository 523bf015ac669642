"""What is measured for notebook 08: accuracies beside floors, and what each method costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from labkit import madds, metrics
from labkit.batch import Batch
from labkit.data.clips import Clips
from labkit.exchanging.blend import Rule, blended
from labkit.exchanging.plan import Augmented, Setting, net_of, trained
from labkit.models.blending import Blend, BlendNet
from labkit.models.streams import Answering, Bench
from labkit.store import fit_once
from labkit.sweep import sweep
from labkit.train import isolated_rng

ROWS = 256  # samples at a time


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
        classes; ``weights`` and ``madds`` of one sample's answer.
    """
    net = net_of(trained(setting, way, seed, device))
    data = setting.recipe(seed)
    train, test = (data.load(split, device=device) for split in ("train", "test"))
    assert train.y is not None
    assert test.y is not None
    right = (answers(net, test).argmax(1) == test.y).double()
    each = torch.stack([right[test.y == k].mean() for k in test.y.unique()])
    return {
        "accuracy": 100 * float(right.mean()), "classes": 100 * float(each.mean()),
        "train": accuracy(net, train), "floor": 100 * metrics.majority_rate(train.y, test.y),
        **costs(setting.config(way)),
    }  # fmt: skip


@lru_cache(maxsize=64)
def costs(config: Bench) -> dict[str, int]:
    """``weights`` of a network and ``madds`` of one answer, all matrix products counted, also of LSTMs."""
    with isolated_rng(0, torch.device("cpu")):
        net: Answering = config.build().eval()  # type: ignore[attr-defined]
    batch = Batch({name: torch.zeros(1, *shape) for name, shape in config.modalities})
    inside = [0]

    def listen(lstm: nn.LSTM, given: tuple[Tensor, ...], told: tuple[Tensor, Any]) -> None:
        steps, directions = given[0].shape[1], 2 if lstm.bidirectional else 1
        inside[0] += (
            steps * directions * 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size)
        )

    for part in net.modules():
        if isinstance(part, nn.LSTM):
            part.register_forward_hook(listen)
    outside = madds.counted(lambda: net.predict(batch))
    return {"weights": sum(p.numel() for p in net.parameters()), "madds": outside + inside[0]}


def table(
    studies: Mapping[str, Setting], seeds: Sequence[int], ways: Sequence[str] | None = None,
    device: str = "cpu",
) -> pd.DataFrame:  # fmt: skip
    """`scored` of every method (or these ways) on every data set, kept; on a CPU side by side."""
    frames = []
    for name, setting in studies.items():
        grid: dict[str, list[Any]] = {
            "setting": [setting], "way": [*(ways or setting.methods)], "device": [device]
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


# Augmentation -------------------------------------------------------------------------------------


def shifted(
    setting: Setting, way: str, joint: bool, flips: float, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Accuracy in % on clips as they are, after training on shifted ones, one shift for both or one each."""
    config = Augmented(setting.config(way), joint, flips=flips)
    run = fit_once(config, setting.recipe(seed), setting.fit, seed, device=device, progress=False)
    test = setting.recipe(seed).load("test", device=device)
    return {"accuracy": accuracy(net_of(run), test)}


def shift_table(
    setting: Setting, ways: Sequence[str], seeds: Sequence[int], device: str = "cpu"
) -> pd.DataFrame:
    """`shifted` of these ways: joint or not, with mirror images and without."""
    grid: dict[str, list[Any]] = {
        "setting": [setting], "way": [*ways], "joint": [True, False], "flips": [0.0, 0.5], "device": [device]
    }  # fmt: skip
    found = sweep(shifted, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])
