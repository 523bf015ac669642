"""Train a model while its lab stays alive: the training thread hands the view snapshots of the weights.

The thread copies the weights between two steps, where they are consistent, so nothing needs a lock; the
page swaps them in one move and goes on probing at its own speed.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.live.decoder import Assets
from labkit.train import TrainConfig, fit, isolated_rng

Rebuild = Callable[[Any], tuple[Callable[[Any], Any], Assets]]


class _Stopped(Exception):
    """The user pressed Stop."""


class _Watched(nn.Module):
    """A model that shows itself to `watch` before each step of its training."""

    def __init__(self, model: nn.Module, watch: Callable[[int], None]) -> None:
        super().__init__()
        self.model, self._watch = model, watch

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The model's own loss."""
        if self.training:
            self._watch(step)
        found: tuple[Tensor, dict[str, Tensor]] = self.model.loss(batch, step, generator)  # type: ignore[operator]
        return found


class Learner:
    """One training that can be started, watched and stopped from a lab.

    Args:
        config: Has `build()`, a model with fresh weights.
        data: Loads the training samples, called in the thread.
        fit: How to descend.
        rebuild: A model -> compute and assets of the lab, as at its opening.
        seed: Seed of weights and descent.
        every: Seconds between two snapshots, at least.
    """

    def __init__(
        self, config: Any, data: Callable[[], Batch], fit: TrainConfig, rebuild: Rebuild,
        seed: int = 0, every: float = 0.7,
    ) -> None:  # fmt: skip
        self.config, self.data, self.fit = config, data, fit
        self.rebuild, self.seed, self.every = rebuild, seed, every
        self.model: nn.Module | None = None
        self._thread: threading.Thread | None = None
        self._halt = threading.Event()

    @property
    def running(self) -> bool:
        """Is it training now?"""
        return self._thread is not None and self._thread.is_alive()

    def start(self, lab: Any) -> None:
        """Begin from fresh weights; does nothing while a training runs."""
        if self.running:
            return
        self._halt.clear()
        self._thread = threading.Thread(
            target=self._run, args=(lab,), daemon=True, name="labkit training"
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop at the next step; the lab keeps the weights it shows."""
        self._halt.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False if it has not come after `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.running

    def _run(self, lab: Any) -> None:
        try:
            lab.progress = {"running": True, "text": "Making the data ..."}
            data = self.data()
            with isolated_rng(self.seed, torch.device("cpu")):
                self.model = self.config.build()
            total = self.fit.epochs * -(-len(data) // self.fit.batch_size)
            shown = time.monotonic() - self.every

            def watch(step: int) -> None:
                nonlocal shown
                if self._halt.is_set():
                    raise _Stopped
                if time.monotonic() - shown >= self.every:
                    self._show(lab, f"Training: step {step} of {total}.", True)
                    shown = time.monotonic()

            fit(_Watched(self.model, watch), data, self.fit, seed=self.seed, progress=False)
            self._show(lab, f"Trained: {total} steps.", False)
        except _Stopped:
            lab.progress = {"running": False, "text": "Stopped. The lab shows the last snapshot."}
        except Exception as error:  # a thread has nobody to raise to: the box says it
            lab.progress = {"running": False, "text": ""}
            lab.error = f"Training failed: {type(error).__name__}: {error}"

    def _show(self, lab: Any, text: str, running: bool) -> None:
        assert self.model is not None
        lab.swap(*self.rebuild(copy.deepcopy(self.model).eval()))
        lab.progress = {"running": running, "text": text}
