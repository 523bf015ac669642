"""Benchmarks: two ways to one result, in one run, compared as a ratio (`make bench`).

Each benchmark checks first that both ways give the same numbers, then times them alternately, so that
whatever else the machine does falls on both. `figures/bench/<name>.json` keeps the ratio together with
the machine it was measured on. Nothing here is a test: a slow machine is not a bug.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pandas as pd
import torch
from joblib.externals.loky import get_reusable_executor
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import bench_flow
from labkit.batch import Batch, subsets
from labkit.data import digits
from labkit.data.gaussians import Gaussians, Venn, increase_alpha, increase_gamma, stack
from labkit.files import write_atomic
from labkit.models import mfh
from labkit.models.flow import FlowConfig, Folded
from labkit.models.mvae import MVAE, preset
from labkit.sweep import Engine, sweep


def compare(ways: dict[str, Callable[[], Any]], rounds: int, warmup: int = 2) -> dict[str, Any]:
    """Time several ways alternately: CPU time of each (median, quartiles) and ratios to the last one.

    CPU time of this process, not the clock: what else the machine does counts less.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warmup + rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn >= warmup:
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = medians[list(ways)[-1]]
    return {
        "rounds": rounds,
        "median_ms": {name: round(1e3 * value, 3) for name, value in medians.items()},
        "quartiles_ms": {
            name: [round(1e3 * q, 3) for q in statistics.quantiles(values, n=4)[::2]]
            for name, values in seconds.items()
        },
        "ratio": {name: round(value / ours, 3) for name, value in medians.items() if value != ours},
    }


def machine() -> dict[str, Any]:
    """What a ratio was measured on, the load beside it included."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def powerset_loop(model: MVAE, batch: Batch, noise: Tensor, kl_weight: float) -> Tensor:
    """The training loss as the papers' codes compute it: a loop that encodes and decodes every subset anew.

    Formulas are written out rather than taken from `labkit.models.mvae`, so that this is also the
    reference its tests compare with. Complete batches only; objectives ``cross`` and ``own``.

    Args:
        model: The model.
        batch: B complete samples with labels.
        noise: Standard normal draws, (2^M - 1, B, D).
        kl_weight: beta.
    """
    total = torch.zeros((), dtype=noise.dtype)
    for s, subset in enumerate(subsets(len(model.modalities)).tolist()):
        precision, weighted = torch.ones((), dtype=noise.dtype), torch.zeros((), dtype=noise.dtype)
        for i, (name, encoder) in enumerate(model.encoders.items()):
            if subset[i]:
                mean, logvar = encoder(batch.x[name])
                precision = precision + logvar.neg().exp()
                weighted = weighted + logvar.neg().exp() * mean
        mean, variance = weighted / precision, 1 / precision
        z = mean + variance.sqrt() * noise[s]
        loss = kl_weight * 0.5 * (mean**2 + variance - 1 - variance.log()).sum(-1)
        for i, (name, modality) in enumerate(model.modalities.items()):
            out, target = model.decoders[name](z), batch.x[name].flatten(1)
            if modality.likelihood == "bernoulli":
                error = F.binary_cross_entropy_with_logits(out, target, reduction="none").sum(-1)
            else:
                error = (out - target).square().sum(-1)
            if model.config.objective == "cross" or subset[i]:
                loss = loss + modality.weight * error
        if model.label is not None and batch.y is not None:
            loss = loss + F.cross_entropy(model.label(z), batch.y, reduction="none")
        total = total + loss.mean()
    return total


def mvae_step(rounds: int) -> dict[str, Any]:
    """One training step of the poster's MVAE: 7 subsets batched, against the loop that re-encodes."""
    torch.manual_seed(0)
    model, batch = preset("poster").build(), digits.load("train", 64)
    # As `labkit.train` updates; lr 0, so that both ways see equal weights.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, amsgrad=True, fused=True)

    def loop() -> Tensor:
        model.zero_grad(set_to_none=True)
        noise = torch.randn(7, 64, 512, generator=torch.Generator().manual_seed(1))
        loss = powerset_loop(model, batch, noise, model.kl_weight(0))
        loss.backward()
        return loss

    def batched() -> Tensor:
        model.zero_grad(set_to_none=True)
        loss, _ = model.loss(batch, 0, torch.Generator().manual_seed(1))
        loss.backward()
        return loss

    def update(loss: Callable[[], Tensor]) -> None:
        loss()
        optimizer.step()

    torch.testing.assert_close(batched(), loop(), rtol=1e-5, atol=0)
    gradients = compare({"loop": loop, "batched": batched}, rounds)
    steps = compare({"loop": lambda: update(loop), "batched": lambda: update(batched)}, rounds)
    return {
        "what": "poster sizes (D = 512), batch 64, 7 subsets, float32, one thread",
        "forward_backward": gradients,
        "with_adam_update": steps,
    }


def render(rounds: int) -> dict[str, Any]:
    """Procedural digit images a second on one thread (a rate: there is nothing to compare it with)."""
    recipe = digits.Digits(n_train=2000)
    result = compare({"render": lambda: recipe.load("train")}, rounds)
    rate = 2 * recipe.n_train / (1e-3 * result["median_ms"]["render"])
    return {
        "what": "2,000 triplets (4,000 images and their speech), one thread",
        "images_per_second": round(rate),
    } | result


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


@torch.no_grad()
def flow_both_ways(rounds: int) -> dict[str, Any]:
    """Three modalities to latents and back at MOSI's shape, against one operation after the other."""
    config = FlowConfig(channels=32, modalities=3, steps=8, hidden=64, mixing="learned")
    torch.manual_seed(0)
    flows = config.build()
    for weight in flows.parameters():
        weight.add_(0.02 * torch.randn_like(weight))
    matrices, kept = bench_flow.plain_matrices(flows), flows.fold()
    result: dict[str, Any] = {
        "what": "forward and inverse of three modalities, 46 time steps of 32 channels, 8 steps of ActNorm, "
        "learned mixing and bounded coupling, float32, one thread, no gradient; folded: what does not depend "
        "on the data is computed in the call, kept: it was before",
    }
    for batch in (4, 64):
        x = torch.randn(3, batch, 46, 32)
        wide = x.mT.contiguous()

        def plain(wide: Tensor = wide) -> list[tuple[Tensor, Tensor, Tensor]]:
            made = [bench_flow.plain_forward(flows, matrices, m, wide[m]) for m in range(3)]
            return [
                (z, log_det, bench_flow.plain_inverse(flows, matrices, m, z))
                for m, (z, log_det) in enumerate(made)
            ]

        def ours(folded: Folded | None = None, x: Tensor = x) -> tuple[Tensor, Tensor, Tensor]:
            folded = folded or flows.fold()
            z, log_det = folded.forward(x)
            return z, log_det, folded.inverse(z)

        z, log_det, back = ours()
        for m, (plain_z, plain_log_det, plain_back) in enumerate(plain()):
            torch.testing.assert_close(z[m].mT, plain_z, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(log_det[m].sum(-1), plain_log_det, rtol=1e-3, atol=1e-2)
            torch.testing.assert_close(back[m].mT, plain_back, rtol=1e-3, atol=1e-4)
        row = compare({"plain": plain, "folded": ours, "kept": lambda: ours(kept)}, rounds)
        row["largest_error_of_the_inverse"] = float((back - x).abs().max())
        result[f"batch of {batch}"] = row
    return result


def waits(seconds: float, seed: int) -> dict[str, float]:
    """A point that needs no core: what is lost beside it is the engine's alone."""
    start = time.perf_counter()
    time.sleep(seconds)
    return {"took_s": time.perf_counter() - start}


def trains(steps: int, seed: int) -> dict[str, float]:
    """A point that needs a core: teacher, student and student alone of one seed, by `distil_loop`."""
    start = time.perf_counter()
    models = distil_loop(Gaussians(increase_gamma(4), seed=seed), steps)
    size = sum(float(model.weight.detach().abs().sum()) for model in models.values())
    return {"took_s": time.perf_counter() - start, "size": size}


def efficiency(took_s: Sequence[float], workers: int, wall_s: float) -> dict[str, Any]:
    """A sweep against ideal workers, which are there at once and lose nothing between two points.

    Args:
        took_s: Each point's own seconds, as its worker's clock saw them.
        workers: How many there were.
        wall_s: Seconds of the whole sweep.
    """
    ideal_s = sum(took_s) / workers
    return {
        "points": len(took_s),
        "point_s": round(statistics.median(took_s), 3),
        "workers": workers,
        "ideal_s": round(ideal_s, 2),
        "wall_s": round(wall_s, 2),
        "efficiency": round(ideal_s / wall_s, 3),
    }


def timed_sweep(
    fn: Callable[..., Any], setting: dict[str, Any], points: int, engine: Engine, workers: int,
    scheduler: str | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:  # fmt: skip
    """One sweep over seeds as a user calls it, with a store of its own, so that all is computed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"LABKIT_STORE": folder}),
    ):
        start = time.perf_counter()
        frame = sweep(
            fn, {name: [value] for name, value in setting.items()}, range(points), engine,
            scheduler=scheduler, workers=workers, progress=False,
        )  # fmt: skip
        wall_s = time.perf_counter() - start
    return efficiency(frame["took_s"].tolist(), workers, wall_s), frame


def sweep_engines(rounds: int) -> dict[str, Any]:
    """Sweeps on the engines of processes, against ideal workers; once each, whatever `rounds` says.

    ``starts``: the call starts its processes (and, with Dask, ends them), as `sweep` does by itself:
    start-up inside. ``there``: they are there and have imported what they need, as on a cluster that
    somebody runs: start-up outside. The plain loop is a fair measure on a quiet machine only: beside other
    work, one process and two get different shares of the cores.
    """
    from distributed import LocalCluster

    cores, half = os.cpu_count() or 1, 12
    result: dict[str, Any] = {
        "what": "efficiency = sum of the points' own seconds / workers / seconds of the sweep, by the clock; "
        "starts: the call starts its workers, there: they run already; of points that train also against a "
        "plain loop over them in one process, divided by the workers",
        "load_before": round(os.getloadavg()[0], 2),
    }
    kinds: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "waiting": (waits, {"seconds": 1.0}),
        "training": (trains, {"steps": 2400}),
    }
    for kind, (fn, setting) in kinds.items():
        rows: dict[str, Any] = {}
        frames: dict[str, pd.DataFrame] = {}
        trains(10, 0)  # torch's first optimizer takes a second to load

        def plain(seeds: range, fn: Any = fn, setting: Any = setting) -> list[dict[str, float]]:
            return [fn(**setting, seed=seed) for seed in seeds]

        alone = plain(range(half)) if kind == "training" else []
        name = "dask, starts"
        rows[name], frames[name] = timed_sweep(fn, setting, half * cores, "dask", cores)
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            where = cluster.scheduler_address
            timed_sweep(waits, {"seconds": 0.5}, 4, "dask", 2, where)
            timed_sweep(trains, {"steps": 10}, 4, "dask", 2, where)
            name = "dask, there"
            rows[name], frames[name] = timed_sweep(fn, setting, 2 * half, "dask", 2, where)
        get_reusable_executor().shutdown(wait=True)
        for name in ("local, starts", "local, there"):
            rows[name], frames[name] = timed_sweep(fn, setting, 2 * half, "local", 2)
        if kind == "waiting":  # as many as the promise of a killed worker is about
            name = "dask, starts, 100 points a worker"
            rows[name], _ = timed_sweep(fn, setting, 100 * cores, "dask", cores)
        else:
            alone += plain(range(half, 2 * half))
            point_s = statistics.fmean(point["took_s"] for point in alone)
            rows["plain loop"] = {"points": len(alone), "point_s": round(point_s, 3)}
            wanted = pd.Series([point["size"] for point in alone])
            for name, frame in frames.items():
                row, both = rows[name], min(len(frame), len(alone))
                torch.testing.assert_close(
                    torch.tensor(frame["size"][:both]), torch.tensor(wanted[:both])
                )
                ideal_s = point_s * row["points"] / row["workers"]
                row["against_plain_loop"] = round(ideal_s / row["wall_s"], 3)
        result[kind] = rows
    return result


BENCHMARKS = {
    "mvae_step": mvae_step,
    "render": render,
    "mfh_figures": mfh_figures,
    "mfh_algorithm1": mfh_algorithm1,
    "flow": flow_both_ways,
    "sweep": sweep_engines,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--rounds", default=15, show_default=True, help="Timed rounds of each way.")
@click.option(
    "--out", default=Path("figures/bench"), type=click.Path(path_type=Path), show_default=True
)
def main(names: tuple[str, ...], rounds: int, out: Path) -> None:
    """Run the benchmarks NAMES (all of them without names) on one thread."""
    torch.set_num_threads(1)
    for name in names or BENCHMARKS:
        result = BENCHMARKS[name](rounds) | {"machine": machine()}
        write_atomic(out / f"{name}.json", json.dumps(result, indent=2) + "\n")
        click.echo(f"{name}\n{json.dumps(result, indent=2)}")


if __name__ == "__main__":
    main()
