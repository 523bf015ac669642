"""What a committed notebook must look like. As a command: hygiene.py NOTEBOOK ..."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from labkit import LabkitError, parameters

MAP = "00_start_here"
MAX_CODE_CELLS = 25
MAX_LINES = 25
MAX_BYTES = 200_000
CHECKED = "# NBVAL_CHECK_OUTPUT"

# Output widgets (and interact, which makes them) hang headless runs; notebook progress bars are
# widgets, too; a script from a content network is a blank box in a class room without network.
BANNED_NAMES = {"Output", "interact", "interactive", "interactive_output", "interact_manual"}
BANNED_MODULES = {"tqdm.notebook", "tqdm.auto", "pickle"}
BANNED_TEXT = re.compile(r"\bcdn\b|cdnjs|unpkg|jsdelivr|esm\.sh|allow_pickle=True", re.IGNORECASE)
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/~])/(?:home|Users|root|tmp|work|mnt|opt|var|usr|data|private)/|\b[A-Za-z]:\\\\?\w"
)


def problems(path: Path) -> list[str]:
    """Return everything that is wrong with a notebook, in the order of its cells."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [f"no valid notebook: {error}"]
    return [*_whole(path, notebook), *_parts(path.stem, notebook), *_cells(notebook)]


def banned(source: str) -> Iterator[str]:
    """Yield what the ban list has against a piece of Python."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in BANNED_NAMES:
                yield f"{name} is banned: it hangs headless runs"
            case ast.ImportFrom(names=names) if {n.name for n in names} & BANNED_NAMES:
                yield f"{[n.name for n in names]} is banned: it hangs headless runs"
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(f"{node.module}.{n.name}" for n in node.names)]
        for module in BANNED_MODULES.intersection(modules):
            yield f"{module} is banned"
    if found := BANNED_TEXT.search(source):
        yield f"{found[0]!r} is banned"


def _whole(path: Path, notebook: Any) -> Iterator[str]:
    if path.stat().st_size >= MAX_BYTES:
        yield f"{path.stat().st_size} bytes; at most {MAX_BYTES}"
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        yield f"nbformat {notebook.nbformat}.{notebook.nbformat_minor}, not 4.5: cells need ids"
    if extra := set(notebook.metadata) - {"kernelspec", "language_info"}:
        yield f"metadata to strip: {sorted(extra)}"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel must be python3, which every installation has"
    if "version" in notebook.metadata.get("language_info", {}):
        yield "metadata to strip: language_info.version"
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell must be markdown and begin with a title"
    # From the file itself: nbformat gives cells with the same id new ones on reading.
    ids = [cell.get("id") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    if len(set(ids)) < len(ids):
        yield "cell ids are not unique"


def _parts(stem: str, notebook: Any) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code:
        yield "has no code cell"
        return
    if len(code) > MAX_CODE_CELLS:
        yield f"{len(code)} code cells; at most {MAX_CODE_CELLS}, split it in two"
    if not any(CHECKED in cell.source.splitlines() for cell in code):
        yield f"no cell is marked {CHECKED!r}: nothing it prints would be compared"
    tagged = {tag: [c for c in code if tag in _tags(c)] for tag in ("parameters", "results")}
    if stem == MAP and not any(tagged.values()):
        if any(re.search(r"\bledger\b|\bfit(_once)?\(", cell.source) for cell in code):
            yield "the map computes: that needs parameters and results cells, in another notebook"
        return
    for tag, cells in tagged.items():
        if len(cells) != 1:
            yield f"{len(cells)} cells are tagged {tag!r}, not one"
    if tagged["results"] and (
        code[-1] not in tagged["results"] or "results(" not in code[-1].source
    ):
        yield "the last code cell must be the one tagged 'results' and call ledger.results"
    if len(tagged["parameters"]) == 1:
        yield from _parameters(tagged["parameters"][0].source)


def _parameters(source: str) -> Iterator[str]:
    try:
        declared = parameters.read(source)
    except LabkitError as error:
        yield str(error)
        return
    for name, kind in {
        "preset": "str",
        "source": "str",
        "seeds": "list[int]",
        "device": "str",
    }.items():
        if name not in declared or declared[name].annotation != kind:
            yield f"the parameters cell must declare {name}: {kind}"
    if "preset" in declared and declared["preset"].default != "quick":
        yield "preset must be 'quick' as committed"
    yield from (f"parameter {p.name} has no comment" for p in declared.values() if not p.help)


def _cells(notebook: Any) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells):
        here = f"cell {number} ({cell.get('id')}): "
        if extra := set(cell.metadata) - {"tags", "jupyter"}:
            yield here + f"metadata to strip: {sorted(extra)}"
        if ABSOLUTE_PATH.search(cell.source):
            yield here + "an absolute path"
        if cell.cell_type != "code":
            continue
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            yield here + f"{lines} lines; at most {MAX_LINES}"
        marked = CHECKED in cell.source.splitlines()
        if "NBVAL_" in cell.source.replace(CHECKED, "") or (CHECKED in cell.source and not marked):
            yield here + f"the only mark allowed is {CHECKED!r}, alone on its line"
        if marked and not (cell.outputs and cell.execution_count):
            yield here + "marked for comparison but without output and count: it would pass unread"
        if not marked and (cell.outputs or cell.execution_count):
            yield here + "has saved outputs; strip them"
        try:
            yield from (here + complaint for complaint in banned(cell.source))
        except SyntaxError:
            yield here + "not plain Python; shell lines and magics do not belong in a notebook"


def _tags(cell: Any) -> list[str]:
    tags: list[str] = cell.metadata.get("tags", [])
    return tags


if __name__ == "__main__":
    found = {name: problems(Path(name)) for name in sys.argv[1:]}
    for name, complaints in found.items():
        for complaint in complaints:
            print(f"{name}: {complaint}")
    sys.exit(any(found.values()))
