"""Claims, verdicts and results: what a notebook asserts, and the record that outlives it.

A notebook opens a session, states claims as it goes, and ends with `results`, which shows one table
and stores one JSON bundle (see `labkit.bundle`). The bundle is the only thing that regression
reads: pictures and printed numbers are for people.

    ledger.session("01_missing_modalities", preset=preset, source=source, seeds=seeds)
    ledger.claim("mvae.order", "Seeing more never hurts", source="poster, Table 1",
                 paper="99.2 %", ours=0.981, holds=True)
    ledger.results({"accuracy": ledger.metric([0.97, 0.98, 0.98], "fraction")})
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit import LabkitError, bundle, tables
from labkit.bundle import VERDICTS
from labkit.files import cache_dir, write_atomic

MIME = "application/vnd.labkit.results+json"


@dataclass(frozen=True)
class Claim:
    """One sentence somebody made, and what we found.

    Attributes:
        id: Stable name, dotted lower case: `mvae.table1.order`.
        text: The claim in one sentence.
        source: Where it stands: paper or poster, table, figure or section.
        paper: The published value, or None where the source gives none.
        ours: The value measured here, or None where there is none.
        verdict: One of `labkit.bundle.VERDICTS`.
        note: A caveat, if the verdict needs one.
    """

    id: str
    text: str
    source: str
    paper: Any
    ours: Any
    verdict: str
    note: str = ""


@dataclass
class Session:
    """What one run of a notebook has said so far; made by `session`, read by `results`.

    `device` is where the run computes, as torch names it: "auto" has been resolved.
    """

    provenance: dict[str, Any]
    state: dict[str, Any]
    started: float
    device: str = "cpu"
    claims: dict[str, Claim] = field(default_factory=dict)

    def __str__(self) -> str:
        p = self.provenance
        versions = " · ".join(f"{name} {version}" for name, version in p["versions"].items())
        seeds = ", ".join(map(str, p["seeds"]))
        return (
            f"{p['notebook']} · {p['preset']} · {p['source']} · seeds {seeds} · {p['device']} · "
            f"{p['cpu_capability']} × {p['threads']} · {versions}"
        )

    __repr__ = __str__

    def bundle(self, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the record as it stands now, with these metrics."""
        took = {
            "wall_s": round(time.perf_counter() - self.started, 3),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return {
            "claims": [asdict(claim) for claim in self.claims.values()],
            "metrics": {name: dict(entry) for name, entry in metrics.items()},
            "state": self.state,
            "provenance": {**self.provenance, **took},
        }

    def _ipython_display_(self) -> None:
        """Show nothing: `session` has printed the line already."""


_session: Session | None = None


def session(
    notebook: str,
    *,
    preset: str,
    source: str = "procedural",
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    state: Mapping[str, Any] | None = None,
) -> Session:
    """Open the record of one notebook run and make its arithmetic repeatable.

    Sets one torch thread ($LABKIT_THREADS overrides it), deterministic algorithms on a GPU, drops the
    claims of an earlier run in this kernel, starts the clock, and prints one line of provenance.

    Args:
        notebook: The notebook's file name without its ending; names the bundle.
        preset: smoke, quick, full or paper.
        source: Data source: procedural or real.
        seeds: Seeds this run uses.
        device: auto, cpu, cuda, ...
        state: Settings worth keeping beside the numbers; JSON-able.

    Returns:
        The session. Nothing needs to be done with it.

    Raises:
        LabkitError: if a value is not allowed; the message names it.
    """
    global _session
    started = time.perf_counter()
    import torch

    from labkit.train import resolve_device

    where = resolve_device(device)
    # Sums over threads are ordered differently on each machine; one thread keeps them comparable.
    torch.set_num_threads(int(os.environ.get("LABKIT_THREADS", "1")))
    if (
        where.type != "cpu"
    ):  # one thread of a CPU repeats itself; asking costs two seconds of imports
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only so
        torch.use_deterministic_algorithms(True, warn_only=True)
    provenance = {
        "notebook": notebook,
        "preset": preset,
        "source": source,
        "seeds": [int(seed) for seed in seeds],
        **bundle.machine(where),
    }
    opened = Session(provenance, bundle.plain(dict(state or {}), "state"), started, str(where))
    bundle.validate(opened.bundle({}), f"session({notebook!r})")
    _session = opened
    print(opened)
    return opened


def current() -> Session:
    """Return the open session.

    Raises:
        LabkitError: if there is none.
    """
    if _session is None:
        raise LabkitError(
            "No ledger session is open. Run ledger.session(notebook, preset=...) first: it stands "
            "near the top of each notebook."
        )
    return _session


def claim(
    id: str,
    text: str,
    *,
    source: str,
    paper: Any,
    ours: Any,
    holds: bool | None = None,
    verdict: str | None = None,
    note: str = "",
    keep: bool = True,
) -> Claim:
    """Record what a source claims and whether it holds here; the same id again replaces it.

    Args:
        id: Stable dotted name in lower case, such as `mvae.table1.order`.
        text: The claim in one sentence.
        source: Where it stands: "poster, Table 1".
        paper: The published value: text, a number, a truth value, a list of them, or None.
        ours: Ours, likewise.
        holds: True is the verdict "reproduced", False "not supported".
        verdict: Says it outright, where neither fits: "corrected" or "not testable here".
        note: A caveat, if the verdict needs one.
        keep: False = judge it to show it, without a record: of what another run of record holds.

    Returns:
        The claim.

    Raises:
        LabkitError: if no session is open, or neither or a wrong verdict is given.
    """
    opened = current()
    if verdict is None and holds is not None:
        verdict = "reproduced" if holds else "not supported"
    if verdict not in VERDICTS:
        raise LabkitError(
            f"Claim {id!r}: give holds=True or holds=False, or a verdict out of "
            f"{', '.join(map(repr, VERDICTS))}; got verdict={verdict!r}."
        )
    made = Claim(
        id,
        text,
        source,
        bundle.plain(paper, f"claim {id!r}: paper"),
        bundle.plain(ours, f"claim {id!r}: ours"),
        verdict,
        note,
    )
    bundle.validate(asdict(made), f"Claim {id!r}", bundle.CLAIM)
    if keep:
        opened.claims[id] = made
    return made


def metric(values: float | Sequence[float], unit: str = "") -> dict[str, Any]:
    """Summarise a measured quantity over seeds.

    Args:
        values: One number, or one number a seed (a tensor or array will do).
        unit: nats, fraction, %, s, ...; empty for a pure number.

    Returns:
        value (the mean), unit, seeds (the values) and spread (the standard deviation over seeds
        with n - 1 in the denominator; None for a single value).

    Raises:
        LabkitError: if there is no value at all.
    """
    values = values.tolist() if hasattr(values, "tolist") else values
    numbers = [float(v) for v in (values if isinstance(values, Sequence) else [values])]
    if not numbers:
        raise LabkitError("metric(values): got no value; give one number or one a seed.")
    mean = sum(numbers) / len(numbers)
    spread = None
    if len(numbers) > 1:
        spread = math.sqrt(sum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1))
    return {"value": mean, "unit": unit, "seeds": numbers, "spread": spread}


class Results:
    """The last cell of a notebook: a table to read and the bundle behind it.

    Attributes:
        bundle: What was stored; see `labkit.bundle.SCHEMA`.
        path: Where it was stored.
    """

    def __init__(self, bundle: dict[str, Any], path: Path) -> None:
        self.bundle = bundle
        self.path = path

    def __repr__(self) -> str:
        """Return the tables as text: no date, time or address, so that equal runs print alike."""
        return tables.text(self.bundle)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": tables.html(self.bundle), MIME: self.bundle}


def results(metrics: Mapping[str, Mapping[str, Any] | float]) -> Results:
    """Close the record: check it, store it in `figures_dir()`/results, and return it for display.

    Args:
        metrics: Name -> what `metric` returned, or a plain number without a unit.

    Returns:
        An object whose display is the table of claims and metrics.

    Raises:
        LabkitError: if no session is open, or a value is missing, NaN or infinite; named.
    """
    opened = current()
    entries = {
        name: value if isinstance(value, Mapping) else metric(value)
        for name, value in metrics.items()
    }
    for name, entry in entries.items():
        bundle.validate(dict(entry), f"Metric {name!r}", bundle.METRIC)
    made = opened.bundle(entries)
    return Results(made, bundle.write(made, figures_dir() / "results"))


def figures_dir() -> Path:
    """Return where figures and results of this run belong.

    Returns:
        $LABKIT_FIGURES, which `labkit reproduce` sets, or a folder of the user's cache: a notebook
        that somebody plays with never dirties the repository.
    """
    chosen = os.environ.get("LABKIT_FIGURES")
    return Path(chosen) if chosen else cache_dir() / "figures"


def write_markdown(results_dir: Path, path: Path) -> None:
    """Write the ledger of all stored bundles as one Markdown page.

    Args:
        results_dir: Folder of bundles.
        path: The page; replaced whole.
    """
    write_atomic(path, tables.markdown(bundle.read_all(results_dir)))
