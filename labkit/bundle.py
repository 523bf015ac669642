"""The JSON bundle a notebook run leaves behind: its schema, its provenance, reading and writing.

One file a run, `<notebook>.<preset>.<source>.json`. The schema is enforced on writing and on
reading: a bundle that is there can be trusted to have every key, and no number in it is NaN.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit import LabkitError, __version__
from labkit.files import write_atomic

PRESETS = ("smoke", "quick", "full", "paper")
VERDICTS = ("reproduced", "corrected", "not supported", "not testable here")


def record(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly these keys, all of them required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string", "minLength": 1}
_SCALAR = {"type": ["string", "number", "boolean", "null"]}
_VALUE = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}

CLAIM = record(
    {
        "id": {"type": "string", "pattern": r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*$"},
        "text": _TEXT,
        "source": _TEXT,
        "paper": _VALUE,
        "ours": _VALUE,
        "verdict": {"enum": list(VERDICTS)},
        "note": {"type": "string"},
    }
)
METRIC = record(
    {
        "value": {"type": "number"},
        "unit": {"type": "string"},
        "seeds": {"type": "array", "items": {"type": "number"}, "minItems": 1},
        "spread": {"type": ["number", "null"]},
    }
)
PROVENANCE = record(
    {
        "notebook": {"type": "string", "pattern": r"^[\w-]+$"},
        "preset": {"enum": list(PRESETS)},
        "source": {"type": "string", "pattern": r"^[\w-]+$"},
        "seeds": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "device": _TEXT,
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "cpu_capability": _TEXT,
        "threads": {"type": "integer", "minimum": 1},
        "git": {
            "anyOf": [{"type": "null"}, record({"commit": _TEXT, "dirty": {"type": "boolean"}})]
        },
        "wall_s": {"type": "number", "minimum": 0},
        "date": _TEXT,
    }
)
SCHEMA = record(
    {
        "claims": {"type": "array", "items": CLAIM},
        "metrics": {"type": "object", "additionalProperties": METRIC},
        "state": {"type": "object"},
        "provenance": PROVENANCE,
    }
)


def validate(value: Any, what: str, schema: Mapping[str, Any] = SCHEMA) -> None:
    """Raise LabkitError unless `value` fits the schema and holds finite numbers only.

    Args:
        value: A bundle, or a part of one with its own `schema`.
        what: How the message calls it.
        schema: A JSON schema of this module.
    """
    import fastjsonschema

    broken = _not_finite(value)
    if broken is not None:
        path, number = broken
        raise LabkitError(
            f"{what}: {path} is {number}. A result must be a finite number: look at what made it, "
            "or leave it out and say so in a claim."
        )
    try:
        fastjsonschema.validate(dict(schema), value)
    except fastjsonschema.JsonSchemaValueException as error:
        given = "" if isinstance(error.value, (Mapping, list)) else f", got {error.value!r}"
        message = re.sub(r"^data\b[. ]?", "", error.message)
        raise LabkitError(f"{what}: {message}{given}.") from None


def plain(value: Any, what: str) -> Any:
    """Return `value` as JSON has it: tensors and arrays as numbers or lists, tuples as lists.

    Raises:
        LabkitError: for anything JSON has no word for, naming `what`.
    """
    if hasattr(value, "tolist"):  # torch and numpy alike, scalars included
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{what}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, what) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise LabkitError(
        f"{what}: {type(value).__name__} cannot be stored; give text, a number, a list of them, "
        "or None."
    )


def name(notebook: str, preset: str, source: str) -> str:
    """Return the stem that a run's bundle, page and expected values share."""
    return f"{notebook}.{preset}.{source}"


def write(bundle: dict[str, Any], folder: Path) -> Path:
    """Check a bundle and write it into `folder` under its own name; return the path."""
    validate(bundle, "results")
    p = bundle["provenance"]
    path = folder / f"{name(p['notebook'], p['preset'], p['source'])}.json"
    write_atomic(path, json.dumps(bundle, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read(path: Path) -> dict[str, Any]:
    """Read one bundle.

    Raises:
        LabkitError: if the file is not JSON or not a bundle; the message names the file.
    """
    try:
        bundle: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise LabkitError(f"{path} is not JSON ({error}); delete it and run again.") from error
    validate(bundle, str(path))
    return bundle


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Read every bundle in a folder, in the order notebook, preset, source."""
    bundles = [read(path) for path in folder.glob("*.json")]

    def order(bundle: dict[str, Any]) -> tuple[str, int, str]:
        p = bundle["provenance"]
        return p["notebook"], PRESETS.index(p["preset"]), p["source"]

    return sorted(bundles, key=order)


def machine(device: Any) -> dict[str, Any]:
    """Describe what computes: device, versions, CPU capability, threads and git commit.

    Args:
        device: The torch.device in use.
    """
    import numpy
    import torch

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "labkit": __version__,
        },
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "git": _git(Path(__file__).parents[1]),
    }


def _git(checkout: Path) -> dict[str, Any] | None:
    """Return the commit and whether the code differs from it; None outside a checkout."""
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _output("git", "-C", str(checkout), "rev-parse", "HEAD")
        # Figures made by the run before this one must not make this one look edited.
        changed = _output(
            "git", "-C", str(checkout), "status", "--porcelain", "--", "labkit", "notebooks"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def _output(*command: str) -> str:
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20, env=env)
    return run.stdout.strip()


def _not_finite(value: Any, path: str = "") -> tuple[str, float] | None:
    """Return the place and value of the first NaN or infinity, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return path, value
    if not isinstance(value, (Mapping, list)):
        return None
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        found = _not_finite(item, f"{path}.{key}" if path else str(key))
        if found:
            return found
    return None
