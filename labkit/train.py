"""The one training loop of the lab: every model descends through `fit`.

Three properties matter more than features. The data lies on the model's device and the figures of
an epoch stay there until its end, so that a step never waits for the host. All random numbers of
an epoch come from seeds made of (seed, epoch), so that an epoch is a pure function of the state
before it. And that state fits into one small file: a killed `fit` that is called again ends with
the same bits as one that was never disturbed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from labkit import LabkitError
from labkit.batch import Batch
from labkit.checkpoint import Checkpoint, Packed, fingerprint
from labkit.history import Figures, History, not_finite, sync
from labkit.progress import progress_line

Optimizer = Literal["adam", "amsgrad", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class TrainConfig:
    """How to descend.

    Args:
        epochs: Passes over the training data, at least 1.
        batch_size: Samples a step; the last batch of an epoch may be smaller.
        lr: Learning rate of the first step.
        optimizer: `amsgrad` is Adam with the AMSGrad bound; `sgd` has no momentum.
        weight_decay: Added to the gradient (adam, amsgrad, sgd) or taken off the weights (adamw).
        schedule: `cosine` falls from `lr` towards 0 over all steps.
        clip: Largest norm of the gradient of all parameters together; None = any.
        patience: Stop after this many epochs without progress of `monitor`, and go back to the
            best weights; None = run all epochs and keep the last weights.
        min_delta: What counts as progress: lower than the best so far by more than this.
        monitor: The validation figure to watch: `total` or a part that the loss names.

    Raises:
        ValueError: on a setting outside its range; the message names it.
    """

    epochs: int = 12
    batch_size: int = 256
    lr: float = 1e-3
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    clip: float | None = None
    patience: int | None = None
    min_delta: float = 0.0
    monitor: str = "total"

    def __post_init__(self) -> None:
        whole = "a whole number, 1 or more"
        for name in ("epochs", "batch_size") + (() if self.patience is None else ("patience",)):
            value = getattr(self, name)
            _require(name, value, type(value) is int and value >= 1, whole)
        for name in ("lr",) + (() if self.clip is None else ("clip",)):
            value = getattr(self, name)
            _require(name, value, _is_number(value) and value > 0, "a number above 0")
        for name in ("weight_decay", "min_delta"):
            value = getattr(self, name)
            _require(name, value, _is_number(value) and value >= 0, "a number, 0 or more")
        allowed = {"optimizer": get_args(Optimizer), "schedule": get_args(Schedule)}
        for name, choices in allowed.items():
            value = getattr(self, name)
            _require(name, value, value in choices, "one of " + ", ".join(choices))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _require(name: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {allowed}; got {value!r}")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device to work on; `auto` is the GPU if there is one.

    Raises:
        ValueError: on an unknown device, or `cuda` where PyTorch finds none.
    """
    found = torch.cuda.device_count()
    try:
        wanted = torch.device(device if device != "auto" else "cuda" if found else "cpu")
    except (RuntimeError, TypeError):
        wanted = torch.device("meta")  # refused below, with our message
    if wanted.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<number>; got {str(device)!r}")
    if wanted.type == "cpu":
        return torch.device("cpu")
    index = wanted.index
    if not found or (index or 0) >= found:
        raise ValueError(f"device is {str(device)!r}, but PyTorch finds {found} GPUs: use auto")
    return torch.device("cuda", torch.cuda.current_device() if index is None else index)


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step (from 0): constant, or lr/2 (1 + cos(pi step / total_steps))."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * step / total_steps))


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which initialisers and dropout use; put them back after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _seed_global(seed, device)
        yield


def fit(
    model: nn.Module,
    train: Batch,
    config: TrainConfig,
    *,
    val: Batch | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place and leave it in eval mode.

    The loss is `model.loss(batch, step, generator) -> (total, parts)`; steps count from 0. What a model
    needs to compute once of each sample it may do in `model.prepare(batch) -> batch`, before the first
    step: frozen parts, for one. On a CUDA device the forward pass runs under bf16 autocast. Equal
    arguments on the same machine with the same number of threads give equal bits; the global generators
    are left as they were.

    Args:
        model: Module with parameters to train; those without `requires_grad` stay as they are.
        train: Training data; moved to the model's device once.
        config: How to descend.
        val: Validation data: seen in eval mode, with the same random numbers after every epoch.
        seed: Seed of shuffling, of the generator given to the loss and of dropout.
        checkpoint: File to go on from after a kill, used by one `fit` at a time. It is written at
            ends of epochs, so seldom that it costs about 5 % of the time at most, and removed at
            the end. One that is damaged or of another fit is ignored with a warning.
        progress: Show a line on stderr (never if $LABKIT_PROGRESS is 0).

    Returns:
        The history, synced from the device once an epoch.

    Raises:
        ValueError: on empty data, a model with nothing to train, `patience` without `val`, or a
            `monitor` that the loss does not name.
        LabkitError: if the loss or the weights stop being finite; the message says where.
    """
    _check_arguments(model, train, config, val)
    device = next(model.parameters()).device
    train, val = train.to(device), None if val is None else val.to(device)
    descent = _Descent(model, config, len(train), seed)
    saved = None
    if checkpoint is not None:
        identity = fingerprint(asdict(config), seed, model.state_dict(), train, val)
        saved = Checkpoint(checkpoint, identity)
        descent.unpack(saved.load())
    prepare: Any = getattr(model, "prepare", None)
    if prepare is not None:
        train, val = prepare(train), None if val is None else prepare(val)
    task, steps = type(model).__name__, descent.total_steps
    line = progress_line(task, steps, done=descent.history.steps, unit="step", wanted=progress)
    with isolated_rng(seed, device), line:
        while not descent.finished:
            descent.epoch(train, val, line)
            if saved is not None and saved.is_cheap and not descent.finished:
                saved.save(*descent.pack())
    if descent.best is not None:
        model.load_state_dict(descent.best)
    if saved is not None:
        saved.remove()
    model.eval()
    return descent.history


def _check_arguments(
    model: nn.Module, train: Batch, config: TrainConfig, val: Batch | None
) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model has no parameter to train: each one is frozen, or there is none")
    if len(train) == 0:
        raise ValueError("train is empty: it needs at least one sample")
    if val is not None and len(val) == 0:
        raise ValueError("val is empty: leave it out or give it at least one sample")
    if config.patience is not None and val is None:
        raise ValueError(f"patience is {config.patience}, which needs val to judge progress by")


class _Descent:
    """A model on its way down: everything that an epoch changes."""

    def __init__(self, model: nn.Module, config: TrainConfig, samples: int, seed: int) -> None:
        self.model, self.config, self.seed = model, config, seed
        self.device = next(model.parameters()).device
        self.total_steps = config.epochs * math.ceil(samples / config.batch_size)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(self.parameters, config)
        self.history = History()
        self.best: dict[str, Tensor] | None = None

    @property
    def finished(self) -> bool:
        """All epochs are done, or patience has run out."""
        done, best = self.history.epochs, self.history.best_epoch
        if self.config.patience is not None and best is not None:
            return done >= min(self.config.epochs, best + 1 + self.config.patience)
        return done >= self.config.epochs

    def epoch(self, train: Batch, val: Batch | None, line: Any) -> None:
        """One pass over `train`, then one over `val`, then the only sync with the device."""
        started, number = time.perf_counter(), self.history.epochs
        order = torch.randperm(len(train), generator=_generator("cpu", self.seed, "order", number))
        generator = self._random_numbers("train", number)
        seen, judged = Figures(), Figures()
        self.model.train()
        for chosen in order.to(self.device, non_blocking=True).split(self.config.batch_size):
            self._step(train[chosen], generator, seen)
            line.update()
        if val is not None:
            self._validate(val, judged)
        norm = torch.nn.utils.get_total_norm([weights.detach() for weights in self.parameters])
        self._record(seen, judged, weights=sync(seen, judged, extra=norm))
        self.history.epoch_seconds.append(time.perf_counter() - started)
        last = {"loss": self.history.train, "val": self.history.val}
        line.set_postfix({k: v["total"][-1] for k, v in last.items() if v}, refresh=False)

    def _step(self, batch: Batch, generator: torch.Generator, figures: Figures) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.history.steps, self.total_steps)
        total, parts = self._loss(batch, generator)
        figures.add(total, parts, len(batch))
        self.optimizer.zero_grad()
        total.backward()
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()
        self.history.steps += 1

    @torch.no_grad()
    def _validate(self, val: Batch, figures: Figures) -> None:
        self.model.eval()
        generator = self._random_numbers("val", 0)  # the same numbers each time: epochs compare
        for start in range(0, len(val), self.config.batch_size):
            batch = val[start : start + self.config.batch_size]
            figures.add(*self._loss(batch, generator), len(batch))

    def _loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss: Any = self.model.loss  # nn.Module declares any attribute to be a Tensor
        on_gpu = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            return loss(batch, self.history.steps, generator)

    def _random_numbers(self, purpose: str, epoch: int) -> torch.Generator:
        _seed_global(_mix(self.seed, f"global {purpose}", epoch), self.device)
        return _generator(self.device, self.seed, purpose, epoch)

    def _record(self, seen: Figures, judged: Figures, weights: float) -> None:
        """Check the figures of an epoch and keep their means; note the best epoch."""
        epoch = self.history.epochs
        for step, row in enumerate(seen.rows, self.history.steps - len(seen.rows)):
            self._demand_finite(f"the loss of epoch {epoch}, step {step}", row)
        for row in judged.rows:
            self._demand_finite(f"the validation loss after epoch {epoch}", row)
        self._demand_finite(f"the norm of the weights after epoch {epoch}", {"total": weights})
        for kept, figures in ((self.history.train, seen), (self.history.val, judged)):
            for name, mean in figures.means().items():
                kept.setdefault(name, []).append(mean)
        if self.config.patience is not None:
            self._judge(epoch)

    def _demand_finite(self, what: str, figures: dict[str, float]) -> None:
        """Raise if the total is not finite; parts may be NaN, for example for an empty subset."""
        if not math.isfinite(figures["total"]):
            raise LabkitError(
                f"{what} (counted from 0) is not finite: {not_finite(figures)}. "
                f"Lower lr (now {self.config.lr:g}), set clip (now {self.config.clip}), "
                f"or look for extreme values in the data"
            )

    def _judge(self, epoch: int) -> None:
        name, best = self.config.monitor, self.history.best_epoch
        if name not in self.history.val:
            raise ValueError(f"monitor must be one of {', '.join(self.history.val)}; got {name!r}")
        watched = self.history.val[name]
        self._demand_finite(f"the monitor after epoch {epoch}", {"total": watched[epoch]})
        if best is None or watched[epoch] < watched[best] - self.config.min_delta:
            self.history.best_epoch = epoch
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def pack(self) -> Packed:
        """Everything that the next epoch depends on, as plain values and named tensors."""
        groups = {"model": self.model.state_dict(), "best": self.best or {}}
        for index, slots in self.optimizer.state_dict()["state"].items():
            groups[f"optimizer {index}"] = {k: v for k, v in slots.items() if v is not None}
        tensors = {f"{g}/{k}": v for g, group in groups.items() for k, v in group.items()}
        return {"history": self.history.to_dict()}, tensors

    def unpack(self, packed: Packed | None) -> None:
        """Go on from what `pack` gave; None = from the start."""
        if packed is None:
            return
        state, tensors = packed
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, key = name.partition("/")
            groups.setdefault(group, {})[key] = tensor
        self.model.load_state_dict(groups.pop("model"))
        self.best = groups.pop("best", None)
        slots = {int(group.removeprefix("optimizer ")): held for group, held in groups.items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.history = History(**state["history"])


def _optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    # fused: one kernel a step; it halves a small model's step on a CPU and never reads back
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, **common)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **common)
    return torch.optim.Adam(parameters, amsgrad=config.optimizer == "amsgrad", **common)


def _mix(seed: int, purpose: str, epoch: int) -> int:
    """A seed of its own for each purpose and epoch: neighbouring seeds must not share numbers."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _generator(device: torch.device | str, seed: int, purpose: str, epoch: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(_mix(seed, purpose, epoch))


def _seed_global(seed: int, device: torch.device) -> None:
    torch.random.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
