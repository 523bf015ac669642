"""Compare results with what they were: the regression test of every notebook.

`notebooks/expected/<notebook>.<preset>.<source>.json` holds a value, a tolerance and the reason for
that tolerance per metric, and the verdict of each claim. A metric passes when it lies within
`atol + rtol * |value|` of its value. Nothing may be missing, and nothing may be there that is not
expected: a new metric is recorded on purpose or not at all.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import LabkitError, bundle, tables
from labkit.files import write_atomic

_CAPABILITIES = ["default", "avx2", "avx512"]
_THREADS = [1, 2]
# What a CPU nobody recorded on may add to the spread seen on those that were: half a percent, and
# where samples are counted, a few that change sides (smoke counts 200 to 300; the difference of two
# accuracies has a unit of its own, "points", and may be near 0).
_FLOOR_RTOL = 5e-3
_FLOOR_ATOL = {"fraction": 5e-3, "%": 1.5, "points": 0.5, "correlation": 0.03}
_TIME_UNITS = {"s", "ms", "min"}

_METRIC = bundle.record(
    {
        "value": {"type": "number"},
        "rtol": {"type": "number", "minimum": 0},
        "atol": {"type": "number", "minimum": 0},
        "reason": {"type": "string", "minLength": 1},
    }
)
SCHEMA = bundle.record(
    {
        "metrics": {"type": "object", "additionalProperties": _METRIC},
        # Metrics that must be there but have no value to compare: wall times.
        "required": {"type": "array", "items": {"type": "string"}},
        # null: the verdict differs between CPUs at this preset, so only the claim must be there.
        "claims": {
            "type": "object",
            "additionalProperties": {"enum": [*bundle.VERDICTS, None]},
        },
    }
)


def _floor(unit: str) -> float:
    """By the first word of a unit: what labs show goes on ("points from the teacher")."""
    return _FLOOR_ATOL.get(unit.split()[0].rstrip(":") if unit else "", 0.0)


@dataclass(frozen=True)
class Difference:
    """One thing that is not as expected."""

    where: str
    what: str
    expected: str
    got: str
    allowed: str = ""
    reason: str = ""


def check(
    results_dir: Path,
    expected_dir: Path,
    notebooks: Sequence[str] = (),
    preset: str | None = None,
) -> tuple[int, list[Difference]]:
    """Compare the bundles in one folder with the expected values in another.

    Args:
        results_dir: Where `labkit reproduce` wrote the bundles.
        expected_dir: Where the expected values are: notebooks/expected.
        notebooks: Compare these only, by name; none = all.
        preset: Compare this preset only; None = all.

    Returns:
        How many values were compared, and all differences; empty when everything is as expected.

    Raises:
        LabkitError: if there is nothing to compare: no expected values, or no results at all.
    """
    expected = [
        path
        for path in sorted(expected_dir.glob("*.json"))
        if (not notebooks or _parts(path)[0] in notebooks)
        and (preset is None or _parts(path)[1] == preset)
    ]
    if not expected:
        raise LabkitError(
            f"No expected values for this choice in {expected_dir}. Record them with: "
            "labkit check --record NOTEBOOK --preset smoke"
        )
    if not any((results_dir / path.name).is_file() for path in expected):
        commands = "\n".join(f"  {_command(path)}" for path in expected)
        raise LabkitError(f"No results to check in {results_dir}. Make them first:\n{commands}")
    compared, differences = 0, []
    for path in expected:
        wanted, result = _read(path), results_dir / path.name
        if not result.is_file():
            run = f"run: {_command(path)}"
            differences.append(Difference(path.stem, "results", "a bundle", "none", reason=run))
            continue
        compared += len(wanted["metrics"]) + len(wanted["claims"])
        differences += compare(path.stem, wanted, bundle.read(result))
    return compared, differences


def compare(where: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> list[Difference]:
    """Return the differences between expected values and one bundle."""
    differences = []
    metrics = got["metrics"]
    for name, wanted in expected["metrics"].items():
        allowed = wanted["atol"] + wanted["rtol"] * abs(wanted["value"])
        value = metrics[name]["value"] if name in metrics else None
        if value is None or abs(value - wanted["value"]) > allowed:
            shown = "missing" if value is None else f"{value:.6g}"
            differences.append(
                Difference(
                    where,
                    name,
                    f"{wanted['value']:.6g}",
                    shown,
                    f"± {allowed:.2g}",
                    wanted["reason"],
                )
            )
    for name in expected["required"]:
        if name not in metrics:
            differences.append(Difference(where, name, "any value", "missing"))
    for name in metrics.keys() - expected["metrics"].keys() - set(expected["required"]):
        value = f"{metrics[name]['value']:.6g}"
        differences.append(Difference(where, name, "not there", value, reason="a new metric"))
    verdicts = {claim["id"]: claim["verdict"] for claim in got["claims"]}
    for name, verdict in expected["claims"].items():
        found = verdicts.get(name, "missing")
        if found == "missing" or verdict not in (None, found):
            differences.append(Difference(where, name, verdict or "any verdict", found))
    for name in verdicts.keys() - expected["claims"].keys():
        differences.append(
            Difference(where, name, "not there", verdicts[name], reason="a new claim")
        )
    return sorted(differences, key=lambda difference: difference.what)


def report(differences: Sequence[Difference]) -> str:
    """Return differences as an aligned table."""
    head = ["run", "what", "expected", "got", "allowed", "reason"]
    rows = [[d.where, d.what, d.expected, d.got, d.allowed, d.reason] for d in differences]
    return tables.aligned(head, rows)


def record(
    notebook: str,
    preset: str = "smoke",
    source: str = "procedural",
    expected_dir: Path | None = None,
) -> Path:
    """Run a notebook as other CPUs would and write what it found as the expected values.

    The runs go over torch's CPU kernels ({default, avx2, avx512}, as far as this CPU goes) and one
    and two threads, each with an empty store. A metric's tolerance is three times the spread
    between them plus half a percent for CPUs that were not tried; a share of samples may move by
    0.005 in any case. A claim is held to its verdict only if all runs agree on it. Wall times must
    be there but are not compared.

    Args:
        notebook: Name or path.
        preset: Preset to record.
        source: Data source to record.
        expected_dir: Where to write; None = `expected` beside the notebook.

    Returns:
        The file written.
    """
    from labkit.reproduce import find, reproduce

    (path,) = find([notebook])
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for capability in _supported():
            for threads in _THREADS:
                folder = Path(scratch) / f"{capability}-{threads}"
                env = {
                    "ATEN_CPU_CAPABILITY": capability,
                    "LABKIT_THREADS": str(threads),
                    "LABKIT_STORE": str(folder / "store"),
                }
                (result,) = reproduce([path], preset, source, figures_dir=folder, env=env)
                runs.append(bundle.read(result))
    expected = summarise(runs)
    target = (expected_dir or path.parent / "expected") / (
        bundle.name(path.stem, preset, source) + ".json"
    )
    write_atomic(target, json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
    return target


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the expected values that several runs of one notebook imply.

    Raises:
        LabkitError: if the runs do not even have the same metrics.
    """
    first = runs[0]["metrics"]
    if any(run["metrics"].keys() != first.keys() for run in runs):
        raise LabkitError("The runs have different metrics: what is measured must not vary.")
    metrics, required = {}, []
    for name, entry in first.items():
        values = [run["metrics"][name]["value"] for run in runs]
        if entry["unit"] in _TIME_UNITS:
            required.append(name)
            continue
        spread = max(values) - min(values)
        seen = "agreed exactly" if spread == 0 else f"differed by up to {spread:.2g}"
        metrics[name] = {
            "value": (max(values) + min(values)) / 2,
            "rtol": _FLOOR_RTOL,
            "atol": max(3 * spread, _floor(entry["unit"])),
            "reason": f"{len(runs)} runs over CPU kernels and thread counts {seen}; three times that, "
            f"and {_FLOOR_RTOL:.1%} (of counted samples, a few) for other CPUs",
        }
    verdicts = [{claim["id"]: claim["verdict"] for claim in run["claims"]} for run in runs]
    claims = {
        id: verdict if all(other.get(id) == verdict for other in verdicts) else None
        for id, verdict in verdicts[0].items()
    }
    return {"metrics": metrics, "required": required, "claims": claims}


def _supported() -> list[str]:
    """Return the CPU kernels torch could use here, the plainest first."""
    import torch

    best = torch.backends.cpu.get_cpu_capability().lower()
    return _CAPABILITIES[: _CAPABILITIES.index(best) + 1] if best in _CAPABILITIES else ["default"]


def _read(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    bundle.validate(expected, str(path), SCHEMA)
    return expected


def _parts(path: Path) -> list[str]:
    return path.stem.split(".")


def _command(path: Path) -> str:
    notebook, preset, source = _parts(path)
    return f"labkit reproduce {notebook} --preset {preset} --source {source}"
