"""Execute one notebook in a kernel of this interpreter, and leave its bundle and its page.

papermill does the work, with three things changed. The kernel is always the interpreter that runs
labkit, whatever kernels are installed elsewhere. nbclient's imitation of Output widgets is off: it
sends on the socket whose reply it awaits and now and then hangs for ever. Whether a run failed is
told by the exception it raised, never by metadata in the saved file, which says "completed" after a
killed kernel, too.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill import PapermillExecutionError, execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from labkit import LabkitError, bundle
from labkit.files import write_atomic


@dataclass(frozen=True)
class Job:
    """One run of one notebook; plain data, so that it can be sent to another machine.

    Attributes:
        notebook: Path of the notebook.
        parameters: Checked values, preset and source among them.
        figures: Folder for figures, results and pages.
        timeout_s: Seconds one cell may take.
        env: Environment variables for the kernel, on top of what is set where it runs.
    """

    notebook: str
    parameters: Mapping[str, Any]
    figures: str
    timeout_s: float
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Stem of the files this run writes."""
        p = self.parameters
        return bundle.name(Path(self.notebook).stem, p["preset"], p["source"])


def run(job: Job) -> None:
    """Execute one notebook; leaves its bundle and figures, its executed copy and one HTML page.

    Bundle and figures are made in a folder of their own and moved into place together at the end: a
    run that fails leaves those of the last good one alone.

    Raises:
        LabkitError: if a cell fails, exceeds its time or kills the kernel, or if the run ends
            without having written its bundle.
    """
    pages = Path(job.figures) / "html"
    pages.mkdir(parents=True, exist_ok=True)
    executed = pages / f"{job.name}.ipynb"
    code = [cell for cell in cells(Path(job.notebook)) if cell.cell_type == "code"]
    tracker = _Tracker(Path(job.notebook).stem, len([cell for cell in code if cell.source.strip()]))
    with TemporaryDirectory(dir=job.figures, prefix=".running-") as scratch:
        try:
            notebook = execute_notebook(
                job.notebook,
                str(executed),
                parameters=dict(job.parameters),
                engine_name="labkit",
                kernel_name="python3",
                language="python",
                progress_bar=False,
                execution_timeout=job.timeout_s,
                tracker=tracker,
                folder=str(Path(job.notebook).parent),
                env={
                    **os.environ,
                    **job.env,
                    "LABKIT_STRICT": "1",
                    "LABKIT_FIGURES": scratch,
                },
            )
        except PapermillExecutionError as error:
            raise LabkitError(
                f"{tracker.where} failed.\n{_last_frame(error)}{error.ename}: {error.evalue}\n"
                f"The executed copy is {executed}."
            ) from None
        except CellTimeoutError:
            print(file=sys.stderr)
            raise LabkitError(
                f"{tracker.where} took longer than {job.timeout_s:g} s and was stopped. Give it more "
                "with --timeout SECONDS, or take a smaller preset."
            ) from None
        except DeadKernelError:
            print(file=sys.stderr)
            raise LabkitError(
                f"{tracker.where}: the kernel died. Running out of memory is the usual reason; close "
                "other programs or take a smaller preset."
            ) from None
        if not (Path(scratch) / f"results/{job.name}.json").exists():
            raise LabkitError(
                f"{tracker.name} ran to its end but did not write results/{job.name}.json. Its session must "
                f"be named {tracker.name!r} and use the parameters `preset` and `source`; its last code cell "
                "must call ledger.results."
            )
        _publish(Path(scratch), Path(job.figures))
    write_atomic(pages / f"{job.name}.html", _page(notebook, job.name))


def _publish(made: Path, figures: Path) -> None:
    """Move what a run made into place, the bundle last: where it is, its figures are."""
    files = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.parts[0] == "results", path)):
        (figures / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / path, figures / path)


def cells(notebook: Path) -> list[Any]:
    """Return the cells of a notebook file."""
    found: list[Any] = nbformat.read(notebook, as_version=4).cells
    return found


class _ThisInterpreter(AsyncKernelManager):
    """Starts the kernel in the running interpreter instead of looking up an installed one."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        # It would warn at each start that it speaks TCP, which stays within this machine.
        command.append("--log-level=ERROR")
        return KernelSpec(argv=command, display_name="Python 3", language="python")


class _Client(PapermillNotebookClient):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # No mimic of Output widgets. As a keyword argument it would silently be ignored.
        self.widget_registry: dict[str, Any] = {}


class _Engine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        execution_timeout: float,
        start_timeout: float,
        tracker: _Tracker,
        env: Mapping[str, str],
        folder: str,
        **_: Any,
    ) -> None:
        client = _Client(
            nb_man,
            timeout=execution_timeout,
            startup_timeout=start_timeout,
            kernel_name=kernel_name,
            kernel_manager_class=_ThisInterpreter,
            store_widget_state=False,  # the page shows each view's still picture, not its widget
            on_cell_execute=tracker.started,
            on_cell_executed=tracker.finished,
        )
        # papermill writes the copy at the start and end of every cell, some 100 times: once will do,
        # when it is over, however it ends.
        copy_at, nb_man.output_path = nb_man.output_path, None
        try:
            client.execute(env=dict(env), cwd=folder)
        finally:
            nb_man.output_path = copy_at


papermill_engines.register("labkit", _Engine)


@dataclass
class _Tracker:
    """Tells on stderr which cell runs, and remembers it for the message if it never ends."""

    name: str
    total: int
    number: int = 0
    line: str = "the kernel's start"
    since: float = 0.0

    def started(self, cell: Any, cell_index: int) -> None:
        if _injected(cell):
            return
        self.number += 1
        self.line = cell.source.strip().splitlines()[0][:70]
        self.since = time.perf_counter()
        print(f"{self.name}  {self.number:>2}/{self.total}", end="", file=sys.stderr, flush=True)

    def finished(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        if _injected(cell):
            return
        took = time.perf_counter() - self.since
        print(f"  {took:7.1f} s  {self.line}", file=sys.stderr, flush=True)

    @property
    def where(self) -> str:
        return f"{self.name}: code cell {self.number} of {self.total} (`{self.line}`)"


def _injected(cell: Any) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def _last_frame(error: PapermillExecutionError) -> str:
    """Return the innermost place the traceback names, as a line of its own, or nothing."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    places = re.findall(r"^(?:File|Cell In) ?.*?(?:line \d+|:\d+).*$", text, flags=re.MULTILINE)
    return f"{places[-1]}\n" if places else ""


def _page(notebook: Any, title: str) -> str:
    """Return an executed notebook as one HTML file that needs no kernel, no widget library, no network."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    page = copy.deepcopy(notebook)
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = _mathml(cell.source)
    # embed_images would parse each inline tag by itself, and so tear MathML and <details> apart.
    exporter = HTMLExporter(require_js_url="", mathjax_url="")
    exporter.register_preprocessor(
        CoalesceStreamsPreprocessor, enabled=True
    )  # a bar: its last state
    html: str = exporter.from_notebook_node(page, {"metadata": {"name": title}})[0]
    return html


def _mathml(text: str) -> str:
    """Turn $...$ and $$...$$ into MathML, which every browser draws by itself."""
    from latex2mathml.converter import convert

    text = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1], display="block"), text, flags=re.DOTALL)
    return re.sub(r"\$([^$\n]+)\$", lambda m: convert(m[1]), text)
