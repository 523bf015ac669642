"""Committed notebooks are clean, and the checks that say so can fail."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCRIPT = Path(__file__).with_name("hygiene.py")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hygiene", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hygiene = _load()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_are_clean(path: Path) -> None:
    assert hygiene.problems(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_readme_and_map_name_every_notebook(path: Path) -> None:
    assert f"`{path.stem}`" in (ROOT / "README.md").read_text()
    if path.stem != hygiene.MAP:
        assert f"({path.name})" in (ROOT / "notebooks" / f"{hygiene.MAP}.ipynb").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_but_the_map_has_expected_smoke_results(path: Path) -> None:
    expected = ROOT / "notebooks" / "expected" / f"{path.stem}.smoke.procedural.json"
    assert expected.is_file() == (path.stem != hygiene.MAP)


def test_every_expected_file_belongs_to_a_notebook() -> None:
    stems = {path.stem for path in NOTEBOOKS}
    orphans = [
        path.name
        for path in (ROOT / "notebooks" / "expected").glob("*.json")
        if path.name.split(".")[0] not in stems
    ]
    assert orphans == []


Change = Callable[[Any], Any]


def _last_code(source: str) -> Change:
    return lambda nb: nb.cells[-1].update(source=source)


def _edit(index: int, **values: Any) -> Change:
    return lambda nb: nb.cells[index].update(values)


def _parameters(old: str, new: str) -> Change:
    return lambda nb: nb.cells[1].update(source=nb.cells[1].source.replace(old, new))


BROKEN: dict[str, tuple[Change, str]] = {
    "no title": (_edit(0, source="Tiny"), "begin with a title"),
    "same ids": (lambda nb: nb.cells[2].update(id="cell-0"), "not unique|no valid notebook"),
    "two parameter cells": (
        lambda nb: nb.cells[2].metadata.update(tags=["parameters"]),
        "2 cells are tagged 'parameters'",
    ),
    "no results cell": (lambda nb: nb.cells[-1].metadata.update(tags=[]), "0 cells .* 'results'"),
    "results not last": (
        lambda nb: nb.cells.append(nbformat.v4.new_code_cell("1", id="after")),
        "last code cell",
    ),
    "results not called": (_last_code("2"), "call ledger.results"),
    "no preset": (_parameters("preset", "size"), "must declare preset: str"),
    "committed at full": (_parameters('"quick"', '"full"'), "must be 'quick'"),
    "untyped": (_parameters("gain: float", "gain"), "not of the form"),
    "no comment": (_parameters("  # what the tiny notebook multiplies by", ""), "has no comment"),
    "saved output": (_edit(2, execution_count=3), "strip them"),
    "marked without output": (_edit(3, outputs=[]), "would pass unread"),
    "marked without count": (_edit(3, execution_count=None), "would pass unread"),
    "nothing compared": (_edit(3, source="1", outputs=[], execution_count=None), "no cell is mark"),
    "mark with a tail": (_edit(3, source="# NBVAL_CHECK_OUTPUT please\n1"), "alone on its line"),
    "other mark": (_edit(2, source="# NBVAL_SKIP\n1"), "only mark allowed"),
    "widgets": (lambda nb: nb.metadata.update(widgets={}), "metadata to strip"),
    "papermill": (lambda nb: nb.cells[2].metadata.update(papermill={}), "metadata to strip"),
    "other kernel": (lambda nb: nb.metadata.kernelspec.update(name="conda"), "must be python3"),
    "long cell": (_edit(2, source="x = 1\n" * 26), "26 lines"),
    "many cells": (
        lambda nb: nb.cells.extend(nbformat.v4.new_code_cell("1", id=f"x{i}") for i in range(25)),
        "code cells; at most 25",
    ),
    "large": (_edit(0, source="# T\n" + "x" * 200_000), "at most 200000"),
    "path": (_edit(2, source='open("/tmp/x")'), "absolute path"),
    "shell": (_edit(2, source="!ls"), "not plain Python"),
    "output widget": (_edit(2, source="import ipywidgets as w\nw.Output()"), "Output is banned"),
    "interact": (_edit(2, source="from ipywidgets import interact"), "banned"),
    "bar": (_edit(2, source="from tqdm.notebook import tqdm"), "tqdm.notebook is banned"),
    "auto bar": (_edit(2, source="from tqdm import auto"), "tqdm.auto is banned"),
    "content network": (_edit(2, source='"https://cdn.example"'), "'cdn' is banned"),
}


@pytest.fixture
def clean(tiny: Callable[..., Path]) -> Path:
    path = tiny("# NBVAL_CHECK_OUTPUT\nprint(1)")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].execution_count = 3
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    nbformat.write(notebook, path)
    return path


def test_the_clean_notebook_is_clean(clean: Path) -> None:
    assert hygiene.problems(clean) == []


@pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")
@pytest.mark.parametrize("fault", BROKEN)
def test_each_fault_is_found(fault: str, clean: Path) -> None:
    change, complaint = BROKEN[fault]
    notebook = nbformat.read(clean, as_version=4)
    change(notebook)
    clean.write_text(json.dumps(notebook))  # nbformat's own writer would mend some faults
    found = hygiene.problems(clean)
    assert any(re.search(complaint, problem) for problem in found), found


def test_a_map_may_do_without_parameters_but_not_compute(clean: Path) -> None:
    notebook = nbformat.read(clean, as_version=4)
    notebook.cells = [notebook.cells[0], notebook.cells[3]]
    path = clean.with_name(f"{hygiene.MAP}.ipynb")
    nbformat.write(notebook, path)
    assert hygiene.problems(path) == []
    notebook.cells.append(nbformat.v4.new_code_cell("fit_once(config, data)", id="fit"))
    nbformat.write(notebook, path)
    assert "the map computes" in hygiene.problems(path)[0]


@pytest.mark.slow
def test_as_a_command_it_fails_on_a_fault(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(clean)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out == ""
    clean.write_text(clean.read_text().replace("# Tiny", "Tiny"))
    command = [sys.executable, str(SCRIPT), str(clean)]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "begin with a title" in failed.stdout
