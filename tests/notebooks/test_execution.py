"""Every committed notebook runs, prints what it printed, finds what it found - and would notice.

Three runs at smoke size, each in a process of its own: from a copy of the repository (results must
be as expected), by nbval on copies of the files (marked cells must print the same), and from a copy
in which the product of experts is broken (results must not be as expected).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMPUTING = sorted(
    path.name.split(".")[0] for path in (ROOT / "notebooks" / "expected").glob("*.smoke.*.json")
)
TIMEOUT_S = 900
# Lets hidden experts into the product, with unit precision: what is missing reaches the result.
MUTATION = ("torch.where(here, -logvar, -math.inf)", "torch.where(here, -logvar, 0.0)")

pytestmark = [pytest.mark.slow, pytest.mark.notebook]


class Copy:
    """A copy of the package and the notebooks, with figures of its own, and a store unless one is given."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        self.folder = folder
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "labkit", folder / "labkit", ignore=skip)
        shutil.copytree(ROOT / "notebooks", folder / "notebooks")
        self.env = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "LABKIT_STORE": str(store or folder / "store"),
        }

    def mutate(self, module: str, old: str, new: str) -> None:
        path = self.folder / "labkit" / module
        source = path.read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{module} has no single place to break: {old}"
        path.write_text(source.replace(old, new), encoding="utf-8")

    def labkit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("-m", "labkit", *arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def nbval(self, notebook: Path) -> subprocess.CompletedProcess[str]:
        """Run every cell in the order of the file; compare what marked cells print."""
        options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
        plain = ["-p", "no:cacheprovider", "--rootdir", str(self.folder), "-c", os.devnull]
        return self._run("-m", "pytest", *options, *plain, str(notebook))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Copy:
    return Copy(tmp_path_factory.mktemp("repository"), shelf)


def demand(run: subprocess.CompletedProcess[str]) -> None:
    """Fail with the end of what a process said, if it failed."""
    if run.returncode:
        pytest.fail((run.stdout + run.stderr)[-3000:], pytrace=False)


def set_to_smoke(path: Path) -> int:
    """Set the parameters cell of a notebook file to smoke; return how many code cells it has."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source, count = re.subn(
                r'^(preset: str = )"\w+"', r'\1"smoke"', cell.source, flags=re.MULTILINE
            )
            assert count == 1
    nbformat.write(notebook, path)
    return len(code)


@pytest.mark.parametrize("name", COMPUTING)
def test_smoke_results_are_as_expected(name: str, copy: Copy) -> None:
    demand(copy.labkit("reproduce", name, "--preset", "smoke"))
    demand(copy.labkit("check", name, "--preset", "smoke"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_marked_cells_print_the_same(path: Path, copy: Copy) -> None:
    parameterised = copy.folder / "notebooks" / path.name
    cells = set_to_smoke(parameterised)
    run = copy.nbval(parameterised)
    demand(run)
    assert f"{cells} passed" in run.stdout


def test_a_broken_product_of_experts_is_noticed(tmp_path: Path) -> None:
    name = "01_missing_modalities"  # one notebook will do: it trains from nothing, a minute each
    broken = Copy(tmp_path)
    broken.mutate("models/mvae.py", *MUTATION)
    broken.labkit("reproduce", name, "--preset", "smoke")  # may fail, if the notebook notices
    check = broken.labkit("check", name, "--preset", "smoke")
    assert check.returncode == 1, check.stdout


def test_nbval_would_notice_another_output(copy: Copy, tiny: Callable[..., Path]) -> None:
    path = tiny("# NBVAL_CHECK_OUTPUT\nprint(preset)", session="1", results="2")
    set_to_smoke(path)
    notebook: Any = nbformat.read(path, as_version=4)
    cell = notebook.cells[3]
    cell.execution_count = 3
    for printed, status in [("smoke\n", 0), ("quick\n", 1)]:
        cell.outputs = [nbformat.v4.new_output("stream", text=printed)]
        nbformat.write(notebook, path)
        assert copy.nbval(path).returncode == status


def test_the_copy_is_what_runs(tmp_path: Path) -> None:
    """Without this the negative control could break a package that nobody imports."""
    copied = Copy(tmp_path)
    copied.mutate("__init__.py", '__version__ = "', '__version__ = "copied-')
    assert "copied-" in copied.labkit("--version").stdout
