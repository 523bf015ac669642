"""Notebooks as regression runs: `labkit reproduce`.

Finds notebooks, checks their parameters before anything runs (`labkit.parameters`), runs them here
or on a Dask scheduler (`labkit.runner`), and writes the ledger of all results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit import LabkitError
from labkit import parameters as parameter_cells
from labkit.cluster import connected
from labkit.ledger import write_markdown
from labkit.runner import Job, cells, run

# Seconds one cell may take. There is always a limit: papermill's own default is to wait for ever.
TIMEOUTS_S = {"smoke": 600, "quick": 1200, "full": 7200, "paper": 86400}


def repository() -> Path:
    """Return the checkout: around the working directory, or the one labkit is installed from.

    Raises:
        LabkitError: if there is none in either place.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parents[1]):
        if (folder / "notebooks" / "00_start_here.ipynb").is_file():
            return folder
    raise LabkitError(
        f"No notebooks found in or above {here}, nor beside the installed labkit. Run this inside "
        "a checkout of the repository, or name a notebook by its path."
    )


def find(names: Sequence[str | Path] = ()) -> list[Path]:
    """Return the notebooks of these names or paths; without any, all that take parameters.

    Raises:
        LabkitError: for a name that is not there; lists those that are.
    """
    if not names:
        there = sorted((repository() / "notebooks").glob("*.ipynb"))
        return [path for path in there if _tagged(path, "parameters")]
    return [_find(Path(name)) for name in names]


def has_real_data(notebook: Path) -> bool:
    """Say whether a notebook can run with ``source=real``: its parameters cell says if it cannot."""
    return not _tagged(notebook, "procedural-only")


def declared(notebook: Path) -> dict[str, parameter_cells.Parameter]:
    """Return the parameters a notebook declares.

    Raises:
        LabkitError: if it has not exactly one cell tagged `parameters`, or that cannot be read.
    """
    tagged = _tagged(notebook, "parameters")
    if len(tagged) != 1:
        raise LabkitError(f"{notebook.name} has {len(tagged)} cells tagged `parameters`, not one.")
    try:
        return parameter_cells.read(tagged[0].source)
    except LabkitError as error:
        raise LabkitError(f"{notebook.name}: {error}") from None


def reproduce(
    notebooks: Sequence[str | Path] = (),
    preset: str = "quick",
    source: str = "procedural",
    parameters: Mapping[str, Any] | None = None,
    figures_dir: Path | None = None,
    timeout_s: float | None = None,
    engine: str = "here",
    scheduler: str | None = None,
    env: Mapping[str, str] | None = None,
) -> list[Path]:
    """Run notebooks and keep their results, one HTML page each, and the ledger.

    Args:
        notebooks: Names or paths; none = all that take parameters.
        preset: smoke, quick, full or paper.
        source: procedural or real.
        parameters: Further parameters, by name; every notebook of the call must know them.
        figures_dir: Where results go; None = figures/ of the repository.
        timeout_s: Seconds one cell may take; None = by preset, see `TIMEOUTS_S`.
        engine: "here", one after the other, or "dask", one task each.
        scheduler: Address of a Dask scheduler; None = a cluster of this machine's cores.
        env: Environment variables for the kernels.

    Returns:
        The paths of the result bundles, in the order of the notebooks.

    Raises:
        LabkitError: before anything runs, for a wrong name, parameter or type, or if a notebook that is
            named has no real data and source is "real" (without names it is left out); afterwards, if any
            notebook failed, with one paragraph for each of those.
    """
    figures = (figures_dir or repository() / "figures").resolve()
    values = {**(parameters or {}), "preset": preset, "source": source}
    wanted = find(notebooks)
    if source == "real":
        unable = [path.stem for path in wanted if not has_real_data(path)]
        if notebooks and unable:
            raise LabkitError(
                f"{', '.join(unable)}: no real data; run it with --source procedural."
            )
        wanted = [path for path in wanted if has_real_data(path)]
    jobs = [
        Job(
            str(path),
            _checked(path, values),
            str(figures),
            timeout_s or TIMEOUTS_S[preset],
            env or {},
        )
        for path in wanted
    ]
    if not jobs:
        raise LabkitError("There is no notebook with a parameters cell to run.")
    runs = _on_dask(jobs, scheduler) if engine == "dask" else _here(jobs)
    failures = [message for message in runs if message]
    try:
        write_markdown(figures / "results", figures / "ledger.md")
    except LabkitError as error:  # one damaged bundle must not hide why a notebook failed
        failures.append(str(error))
    if failures:
        raise LabkitError("\n\n".join(failures))
    return [figures / "results" / f"{job.name}.json" for job in jobs]


def _here(jobs: Sequence[Job]) -> Iterator[str | None]:
    for job in jobs:
        yield _message(job)


def _message(job: Job) -> str | None:
    """Run a job; return why it failed, or None: a failure must not stop the others."""
    try:
        run(job)
    except LabkitError as error:
        return str(error)
    return None


def _on_dask(jobs: Sequence[Job], scheduler: str | None) -> list[str | None]:
    """Run each job as one task; workers need this repository at the same path."""
    with connected(scheduler, len(jobs)) as client:
        futures = [client.submit(_message, job, pure=False) for job in jobs]
        return [_outcome(future, job) for future, job in zip(futures, jobs, strict=True)]


def _outcome(future: Any, job: Job) -> str | None:
    """Give a task's message; a lost task is a message too and must not take the others with it."""
    try:
        message: str | None = future.result()
    except Exception as error:
        return f"{job.name}: the Dask task was lost ({type(error).__name__}: {error})."
    return message


def _checked(notebook: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return parameter_cells.check(declared(notebook), values)
    except LabkitError as error:
        raise LabkitError(f"{notebook.name}: {error}") from None


def _find(path: Path) -> Path:
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    if len(path.parts) > 1:
        raise LabkitError(f"There is no notebook at {path}.")
    there = {path.stem: path for path in sorted((repository() / "notebooks").glob("*.ipynb"))}
    if path.stem not in there:
        raise LabkitError(f"No notebook {str(path)!r}. There are: {', '.join(there)}.")
    return there[path.stem]


def _tagged(notebook: Path, tag: str) -> list[Any]:
    return [cell for cell in cells(notebook) if tag in cell.metadata.get("tags", [])]
