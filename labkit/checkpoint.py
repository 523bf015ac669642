"""One small file that lets a killed training go on: safetensors, never pickle.

The file carries its own check: a digest of every byte that will be used. What is half written,
bit-rotten or of another training is told apart before it can touch a model.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.files import remove_with_leftovers, write_atomic

Packed = tuple[dict[str, Any], dict[str, Tensor]]


def fingerprint(*things: Any) -> str:
    """Digest of settings and data: equal only for equal values, names, types and devices.

    Args:
        things: JSON-able values, mappings of name -> tensor, or batches.
    """
    digest = hashlib.sha256(f"torch {torch.__version__}".encode())
    for thing in things:
        parts = [thing]
        if isinstance(thing, Batch):
            parts = [thing.x, thing.factors, {"observed": thing.observed, "y": thing.y}]
        for part in parts:
            named = part if isinstance(part, Mapping) else {"": part}
            digest.update(json.dumps([[k, _form(v)] for k, v in named.items()]).encode())
            for tensor in named.values():
                if isinstance(tensor, Tensor):
                    digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _form(value: Any) -> Any:
    """Type, shape and device of a tensor; another value as it is."""
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), value.device.type]
    return value


class Checkpoint:
    """The file at `path`, for the training that `identity` stands for.

    Args:
        path: File of one training at a time; folders are made.
        identity: Digest of all that the training was started with.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = Path(path), identity
        self._cost, self._ended = 0.0, float("-inf")

    @property
    def is_cheap(self) -> bool:
        """Writing now would cost less than a twentieth of the time since the last writing."""
        return time.perf_counter() - self._ended >= 20 * self._cost

    def save(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the state (JSON-able) and the tensors, whole or not at all."""
        started = time.perf_counter()
        # a copy each: safetensors refuses tied weights, which share their memory
        flat = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
        record = {"identity": self.identity, "state": state}
        metadata = {"record": json.dumps(record), "check": fingerprint(record, _sorted(flat))}
        write_atomic(self.path, safetensors.torch.save(flat, metadata))
        self._ended = time.perf_counter()
        self._cost = self._ended - started

    def load(self) -> Packed | None:
        """Return what `save` was given, or None if there is nothing that can be used.

        Warns:
            UserWarning: if the file is damaged or belongs to another training.
        """
        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            record = json.loads(metadata["record"])
            whole = metadata["check"] == fingerprint(record, _sorted(tensors))
            identity = record["identity"]
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self._ignore("is damaged")
            return None
        if identity != self.identity:
            self._ignore("belongs to a training with other settings, data or weights")
            return None
        return record["state"], tensors

    def remove(self) -> None:
        """Delete the file and whatever a killed `save` left beside it."""
        remove_with_leftovers(self.path)

    def _ignore(self, why: str) -> None:
        warnings.warn(
            f"checkpoint {self.path} {why}: it is ignored and the training starts anew",
            stacklevel=4,
        )


def _sorted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(sorted(tensors.items()))
