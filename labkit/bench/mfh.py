"""MFH: figures retrained whole, Algorithm 1, and as many trainings as a GPU holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import LabkitError
from labkit.bench.timing import compare
from labkit.data.gaussians import Gaussians, Stack, Venn, increase_alpha, increase_gamma, stack
from labkit.models import mfh


def distil_loop(
    recipe: Gaussians, steps: int = 1000, lr: float = 0.1, dtype: torch.dtype = torch.float32
) -> dict[str, nn.Linear]:
    """Teacher, student and student alone of one setting and seed as one would write them: autograd, SGD.

    First weights are drawn as the published script draws them, from seed + 1 in this order. The formulas
    are written out rather than taken from `labkit.models.mfh`, so that this is also the reference its tests
    compare with.
    """
    data = recipe.load("train")
    assert data.y is not None
    x, y = {name: values.float().to(dtype) for name, values in data.x.items()}, data.y
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        models = {name: nn.Linear(x[m].shape[1], 2).to(dtype)
                  for name, m in (("teacher", "a"), ("student", "b"), ("alone", "b"))}  # fmt: skip
    for name, model in models.items():
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        if name == "student":
            with torch.no_grad():
                soft = models["teacher"](x["a"]).softmax(-1)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            logits = model(x["a" if name == "teacher" else "b"])
            loss = F.cross_entropy(logits, y)
            if name == "student":  # divided by samples and classes, as the script's KLDivLoss() is
                loss = (
                    loss + F.kl_div(logits.log_softmax(-1), soft, reduction="sum") / logits.numel()
                )
            loss.backward()
            optimizer.step()
    return models


def mfh_figures(rounds: int) -> dict[str, Any]:
    """Figures 2 and 3 of MFH whole, and one move of gamma, against a loop over plain trainings."""
    seeds = range(10)
    figures = [[Gaussians(increase_gamma(both)) for both in (0, 2, 4, 6, 8, 10)],
               [Gaussians(increase_alpha(only_a)) for only_a in (0, 10, 20, 30, 40)]]  # fmt: skip

    def stacked(settings: Sequence[Gaussians]) -> Tensor:
        trained = mfh.crossmodal(stack(settings, seeds, "train"), seeds)
        return torch.stack(
            [*trained.accuracies(stack(settings, seeds, "test")).values()]
        )  # (3, S, R)

    def plain(recipe: Gaussians) -> list[float]:
        models, test = distil_loop(recipe), recipe.load("test")
        with torch.no_grad():
            said = [model(test.x["a" if name == "teacher" else "b"].float()).argmax(-1)
                    for name, model in models.items()]  # fmt: skip
        return [float((answers == test.y).double().mean()) for answers in said]

    start = time.process_time()
    looped = [
        torch.tensor([[plain(replace(s, seed=seed)) for s in figure] for seed in seeds]).movedim(
            -1, 0
        )
        for figure in figures
    ]
    loop_s = time.process_time() - start
    found = [stacked(figure) for figure in figures]
    flipped = [float((a - b).abs().max()) for a, b in zip(looped, found, strict=True)]
    times = compare({
        "one gamma": lambda: stacked(figures[0][3:4]), "Figure 2": lambda: stacked(figures[0]),
        "Figures 2 and 3": lambda: [stacked(figure) for figure in figures],
    }, rounds)["median_ms"]  # fmt: skip
    return {
        "what": "11 settings, 10 seeds, 3 models, 1000 steps, evaluated at the end; float32, one thread, "
        "data included (drawn once and kept)",
        "loop_s": round(loop_s, 2),
        "stacked_ms": times,
        "ratio": round(1e3 * loop_s / times["Figures 2 and 3"], 1),
        "largest_difference_in_accuracy": max(flipped),
    }


def algorithm1_loop(recipe: Gaussians, repeats: int = 100) -> list[Tensor]:
    """Algorithm 1 as printed, on one seed: autograd, then a forward pass a permutation and channel."""
    data = recipe.load("train")
    assert data.y is not None
    x, y = {name: values.float() for name, values in data.x.items()}, data.y
    models = {name: nn.Linear(values.shape[1], 2) for name, values in x.items()}
    optimizer = torch.optim.SGD([p for m in models.values() for p in m.parameters()], 0.01, 0.9)
    for _ in range(1000):
        optimizer.zero_grad(set_to_none=True)
        a, b = (models[name](x[name]) for name in x)
        (F.cross_entropy(a, y) + F.cross_entropy(b, y) + F.mse_loss(a, b)).backward()
        optimizer.step()
    scores = []
    with torch.no_grad():
        for name, other in (("a", "b"), ("b", "a")):
            wanted, total = models[other](x[other]), torch.zeros(x[name].shape[1])
            for _ in range(repeats):
                for channel in range(len(total)):
                    moved = x[name].clone()
                    moved[:, channel] = moved[torch.randperm(len(moved)), channel]
                    total[channel] += F.mse_loss(models[name](moved), wanted)
            scores.append(total / repeats - F.mse_loss(models[name](x[name]), wanted))
    return scores


def mfh_algorithm1(rounds: int) -> dict[str, Any]:
    """Algorithm 1 of MFH, a seed: joint training of ten seeds and closed form against the loop."""
    recipe, seeds = Gaussians(Venn(10, 10, 0), script="modify"), range(10)

    def stacked() -> Tensor:
        data = stack([recipe], seeds, "train")
        return mfh.general_scores(data, mfh.joint(data, mfh.first_pair(data, seeds)))[0]

    looped = torch.stack([algorithm1_loop(replace(recipe, seed=seed))[0] for seed in range(2)])
    alike = torch.corrcoef(torch.stack([looped.flatten(), stacked()[:2].flatten()]))[0, 1]
    times = compare(
        {"loop, one seed": lambda: algorithm1_loop(recipe), "stacked, ten seeds": stacked}, rounds
    )
    return {
        "what": "10 shared and 10 specific of 50 channels, 200 samples, 100 permutations, both modalities; "
        "float32, one thread",
        "correlation_of_scores": round(float(alike), 4),
        "ratio_per_seed": round(10 * times["ratio"]["loop, one seed"], 1),
    } | times


def bandwidth(device: torch.device | str, megabytes: int = 256) -> float:
    """Bytes a second that copying a large tensor reads and writes on a device: what its memory can do."""
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds[1:])


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done what it was asked for; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def bytes_of(data: Stack, steps: int) -> int:
    """Bytes that `crossmodal` reads and writes at least, if nothing stays in a cache.

    A step of R models on a set of samples reads both layouts of the samples, writes logits, reads and writes
    them in the sigmoid and again, with the wanted answers, in the slope, reads them in the gradient, and
    reads the weights twice and writes them once.
    """
    total = 0
    rows, sets, samples = len(data.a.place), *data.y.shape
    alone = 1 if data.b.seen is None else rows
    for view, models in ((data.a, rows), (data.b, rows + alone)):
        width = view.x.shape[-1]
        seen = 0 if view.seen is None else models * width * 2
        each = 2 * samples * width + 7 * models * samples + 3 * models * width + seen
        total += steps * sets * each * view.x.element_size()
    return total


def mfh_many(trainings: int, device: torch.device | str, steps: int = 1000) -> dict[str, Any]:
    """So many trainings of Figure 2 of MFH in one call: settings, seeds and models all on tensor axes."""
    settings = [Gaussians(increase_gamma(both), n_test=1) for both in (0, 2, 4, 6, 8, 10)]
    each = 2 * len(settings) + 1  # the student alone is the same for every gamma of a seed
    seeds = range(-(-trainings // each))
    start = time.perf_counter()
    data = stack(settings, seeds, "train", device=device)
    synchronize(device)
    drawn_s = time.perf_counter() - start
    few = range(min(10, len(seeds)))
    here = mfh.crossmodal(stack(settings, few, "train"), few, steps=steps)
    mfh.crossmodal(stack(settings, few, "train", device=device), few, steps=10)  # warm
    start = time.perf_counter()
    trained = mfh.crossmodal(data, seeds, steps=steps)
    synchronize(device)
    train_s = time.perf_counter() - start
    models = sum(
        len(weights) * weights.shape[1]
        for weights in (trained.teacher, trained.student, trained.alone)
    )
    moved, possible = bytes_of(data, steps) / train_s, bandwidth(device)
    return {
        "what": f"Figure 2 of MFH: {len(settings)} settings, {len(seeds)} seeds; teacher, student and the "
        f"student alone (once a seed), {steps} steps, float32, one call; bytes as if no cache helped",
        "models": models,
        "models_per_second": round(models / train_s),
        "train_s": round(train_s, 3),
        "data_s": round(drawn_s, 3),
        "gigabytes_per_second": round(moved / 1e9, 1),
        "copy_gigabytes_per_second": round(possible / 1e9, 1),
        "share_of_bandwidth": round(moved / possible, 3),
        "largest_difference_from_cpu": max(
            float((getattr(trained, name)[: len(few)].cpu() - getattr(here, name)).abs().max())
            for name in ("teacher", "student", "alone")
        ),
    }


def mfh_gpu(rounds: int) -> dict[str, Any]:
    """100,000 trainings in one call on a GPU; once, whatever `rounds` says.

    Raises:
        LabkitError: if there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise LabkitError("mfh_gpu needs a CUDA device: there is none here")
    return mfh_many(100_000, "cuda") | {"device": torch.cuda.get_device_name()}
