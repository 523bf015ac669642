"""Finished runs on disk, found again by what made them.

A run is a folder named after its content key: `model.safetensors` and a `run.json` that holds the
SHA-256 of every file, itself included. It is written beside its place, flushed and renamed, so that
it is whole or absent; a lock lets one process at a time make it; and nothing is given back that has
not been checked. What a killed training has kept lies in `<key>.partial` until it goes on.
"""

from __future__ import annotations

import copy
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from labkit import LabkitError, __version__
from labkit.files import sync_folder, write_atomic
from labkit.history import History
from labkit.keys import content_key, describe
from labkit.shelf import (
    DamagedError,
    clean,
    list_runs,
    locked,
    seal,
    set_aside,
    store_root,
    verified,
)
from labkit.train import TrainConfig, fit, isolated_rng, resolve_device

__all__ = ["DamagedError", "Run", "clean", "fit_once", "list_runs", "once", "store_root"]

WEIGHTS = "model.safetensors"
_TRAINING = ("labkit.train", "labkit.batch")  # what every fit depends on


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training.

    Attributes:
        key: Its content key.
        path: Its folder.
        model: The trained module, in eval mode, on the device asked for.
        history: What `fit` returned.
        meta: All of `run.json`: configs, seed, parents, device, versions, seconds, hashes.
        fresh: True if it was trained by this call, False if it was found.
    """

    key: str
    path: Path
    model: nn.Module
    history: History
    meta: dict[str, Any]
    fresh: bool


def fit_once(
    config: Any,
    data: Any,
    train: TrainConfig,
    seed: int = 0,
    parents: Sequence[Run] = (),
    *,
    device: str | torch.device = "cpu",
    root: Path | None = None,
    progress: bool = True,
) -> Run:
    """Give the finished run of these settings, training it only if it does not exist.

    The run is found by its content: the settings, the parents and the source code that they reach.
    A comment or a docstring may change, anything else trains anew. A training that was killed
    goes on; of two processes that want the same run one trains and the other waits.

    Args:
        config: Frozen dataclass of the model. `config.build(*models)` makes it, where `models` are
            copies of the parents' models; the weights drawn there depend on `seed` alone.
        data: Frozen dataclass with `.load(split, device)`; `train` and `val` are read.
        train: How to descend.
        seed: Seed of the weights and of the descent.
        parents: Runs that this one starts from: a teacher, frozen experts.
        device: Where to train, and where the model of the result lies.
        root: Folder of the runs (see `store_root`).
        progress: Show a progress line while training.

    Raises:
        ValueError: if a setting cannot be part of a key, or config or data is no frozen
            dataclass with its method; the message names it.
        LabkitError: from `fit`, or if the weights saved cannot be read back.

    Warns:
        UserWarning: if a damaged run was found, set aside and made again.
    """
    place, kept = resolve_device(device), store_root(root)
    key, settings = _identity(config, data, train, seed, parents)

    def build() -> nn.Module:
        models = [copy.deepcopy(parent.model).to(place) for parent in parents]
        with isolated_rng(int(seed), torch.device("cpu")):
            return config.build(*models).to(place)

    def make(folder: Path) -> dict[str, Any]:
        model = build()
        splits = {name: data.load(name, device=place) for name in ("train", "val")}
        checkpoint = kept / f"{key}.partial" / "checkpoint.safetensors"
        history = fit(
            model, splits["train"], train, val=splits["val"], seed=int(seed),
            checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
        _save_weights(model, folder / WEIGHTS)
        return {"history": history.to_dict(), "device": _device_name(place)}

    def read(folder: Path, meta: dict[str, Any]) -> Run:
        model = build()
        _load_weights(model, folder / WEIGHTS)
        return Run(key, folder, model.eval(), History(**meta["history"]), meta, fresh=False)

    run, fresh = _kept(kept, key, settings, make, read)
    return replace(run, fresh=fresh)


def fitted(
    config: Any,
    data: Any,
    train: TrainConfig,
    seed: int = 0,
    parents: Sequence[Run] = (),
    *,
    root: Path | None = None,
) -> bool:
    """Say whether `fit_once` would find the run of these settings (its bytes are checked on reading)."""
    return (store_root(root) / _identity(config, data, train, seed, parents)[0]).exists()


def _identity(
    config: Any, data: Any, train: TrainConfig, seed: int, parents: Sequence[Run]
) -> tuple[str, dict[str, Any]]:
    """The content key of a fit, and the settings that it stands for."""
    _require_record("config", config, "build")
    _require_record("data", data, "load")
    code: set[Any] = set()
    settings = {
        "kind": "fit",
        "config": describe(config, "config", code),
        "data": describe(data, "data", code),
        "train": describe(train, "train", code),
        "seed": int(seed),
        "parents": [parent.key for parent in parents],
    }
    return content_key(settings, code, _TRAINING), settings


def once(fn: Callable[..., Any], *parents: Run, root: Path | None = None, **settings: Any) -> Any:
    """Give the result of `fn(*parents, **settings)`, computing it only if it is not kept.

    It is found by the name of `fn`, the source code that `fn` and the settings reach, the parents
    and the settings.

    Args:
        fn: A function at the top level of a module or notebook. Its result is made of dicts with
            string keys, lists, tuples, strings, numbers (NumPy's and PyTorch's scalars too), True,
            False and None; NaN and infinity are allowed.
        parents: Runs that it reads.
        root: Folder of the runs (see `store_root`).
        settings: Its keyword arguments, as `fit_once` allows for a config.

    Returns:
        The result as plain JSON gives it back (tuples are lists), the first time too.

    Raises:
        ValueError: if `fn` or a setting cannot be part of a key.
        LabkitError: if the result is not what is allowed; the message says where.
    """
    key, record = _question(fn, parents, settings)

    def make(folder: Path) -> dict[str, Any]:
        return {"result": _plain(fn(*parents, **settings), f"the result of {fn.__qualname__}")}

    return _kept(store_root(root), key, record, make, _result)[0]


def answered(fn: Callable[..., Any], *, root: Path | None = None, **settings: Any) -> bool:
    """Say whether `once` would find the result of these settings (its bytes are checked on reading)."""
    return (store_root(root) / _question(fn, (), settings)[0]).exists()


def answer(
    fn: Callable[..., Any], result: Any, *, root: Path | None = None, **settings: Any
) -> Any:
    """Keep a result of `fn(**settings)` that was computed elsewhere, where `once` will find it.

    Returns:
        The result as `once` gives it: what was kept before, if something was.

    Raises:
        ValueError, LabkitError: as `once`.
    """
    key, record = _question(fn, (), settings)
    plain = {"result": _plain(result, f"the result of {fn.__qualname__}")}
    return _kept(store_root(root), key, record, lambda _: plain, _result)[0]


def _question(
    fn: Callable[..., Any], parents: Sequence[Run], settings: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The content key of a call, and what it stands for."""
    code: set[Any] = set()
    record = {
        "kind": "once",
        "config": describe(fn, "fn", code),
        "settings": {k: describe(settings[k], k, code) for k in sorted(settings)},
        "parents": [parent.key for parent in parents],
    }
    return content_key(record, code), record


def _result(_: Path, meta: dict[str, Any]) -> Any:
    return meta["result"]


def _require_record(name: str, value: Any, method: str) -> None:
    frozen = is_dataclass(value) and getattr(value, "__dataclass_params__").frozen  # noqa: B009
    if isinstance(value, type) or not frozen or not callable(getattr(value, method, None)):
        raise ValueError(f"{name} must be a frozen dataclass with {method}(); got {value!r:.80}")


# Making and finding -----------------------------------------------------------------------------


def _kept(
    root: Path,
    key: str,
    settings: dict[str, Any],
    make: Callable[[Path], dict[str, Any]],
    read: Callable[[Path, dict[str, Any]], Any],
) -> tuple[Any, bool]:
    """Read the run `key`, or make it under its lock. Returns it and whether it was made."""
    folder = root / key
    if folder.exists():
        try:
            return read(folder, verified(folder)), False
        except DamagedError:
            pass  # or just being removed by another process: judged again under the lock
    with locked(root, key):
        if folder.exists():
            try:
                return read(folder, verified(folder)), False
            except DamagedError as damage:
                set_aside(folder, damage)
        saving = root / f"{key}.saving"
        shutil.rmtree(saving, ignore_errors=True)  # of a process that died: we hold the lock
        saving.mkdir()
        try:
            started = time.perf_counter()
            made = make(saving)
            about = _origin(time.perf_counter() - started)
            seal(saving, {"key": key, **settings, **made, **about})
            os.rename(saving, folder)
        except BaseException:  # the checkpoint stays, half of a result does not
            shutil.rmtree(saving, ignore_errors=True)
            raise
        sync_folder(root)
        shutil.rmtree(root / f"{key}.partial", ignore_errors=True)
        return read(folder, verified(folder)), True


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _save_weights(model: nn.Module, path: Path) -> None:
    # a copy each: safetensors refuses tied weights, which share their memory
    state = model.state_dict()
    weights = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}
    write_atomic(path, safetensors.torch.save(weights))


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, OSError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{path.name} does not fit the model: {error}") from error


def _origin(seconds: float) -> dict[str, Any]:
    """Where and when a run was made."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "versions": {**versions, "numpy": np.__version__, "labkit": __version__},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _plain(value: Any, where: str) -> Any:
    """Turn a result into what JSON gives back."""
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.ndim == 0):
        value = value.item()
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one, f"{where}[{i}]") for i, one in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(one, f"{where}[{key!r}]") for key, one in value.items()}
    raise LabkitError(
        f"{where} is a {type(value).__name__}; a kept result is made of dicts with string keys, "
        f"lists, strings and numbers (arrays and tensors: use .tolist())"
    )
