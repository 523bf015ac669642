"""Content keys: they change with whatever can change a result, and with nothing else."""

from __future__ import annotations

import enum
import importlib
import itertools
import linecache
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from labkit import LabkitError, keys
from labkit.keys import content_key, describe, reachable_source

_clock = itertools.count(1_700_000_000)


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    widths: tuple[int, ...] = (3, 4)
    by_name: Any = None


def helper() -> int:
    return 1


# Describing settings ----------------------------------------------------------------------------


def test_describe_gives_plain_json_with_class_names() -> None:
    value = Outer(
        by_name={"b": Path("x") / "y", "a": [Colour.RED, torch.float32, np.int64(3), None]}
    )
    code: set[Any] = set()
    home = __name__
    assert describe(value, "config", code) == {
        "class": f"{home}.Outer",
        "inner": {"class": f"{home}.Inner", "rate": 0.5},
        "widths": [3, 4],
        "by_name": {
            "b": str(Path("x") / "y"),
            "a": [{"enum": f"{home}.Colour", "name": "RED"}, "torch.float32", 3, None],
        },
    }
    assert code == {Outer, Inner, Colour}
    assert describe({"f": helper, "s": {2, 1}}, "s", code)["s"] == [1, 2]
    assert helper in code


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            Outer(by_name=torch.zeros(2)),
            r"config\.by_name is a Tensor, which cannot be part of a key",
        ),
        (Outer(inner=object()), r"config\.inner is a object"),  # type: ignore[arg-type]
        ({1: 2}, "config is a dict.*string keys"),
        ([0, lambda: 1], r"config\[1\] is or holds .*<lambda>.*top level"),
    ],
)
def test_describe_refuses_what_could_change_unseen(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(value, "config")


def test_every_field_and_order_of_names_counts() -> None:
    base = Outer(by_name={"a": 1, "b": 2})
    others = [
        replace(base, inner=Inner(0.25)),
        replace(base, widths=(4, 3)),
        replace(base, widths=(3, 4, 5)),
        replace(base, by_name={"b": 2, "a": 1}),  # the order of modalities is their order in a mask
        replace(base, by_name={"a": 1.0, "b": 2}),
        replace(base, by_name={"a": True, "b": 2}),
        replace(base, by_name={"a": "1", "b": 2}),
    ]
    made = [content_key(describe(one, "config"), [Outer]) for one in (base, *others)]
    assert len(set(made)) == len(made)
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in made)
    assert made[0] == content_key(describe(replace(base), "config"), [Outer])


# The source code --------------------------------------------------------------------------------


def test_labkit_modules_are_followed_without_the_inert_ones() -> None:
    reached = reachable_source([], ["labkit.train", "labkit.store"])
    assert set(reached) >= {"labkit.train", "labkit.batch", "labkit.history", "labkit.checkpoint"}
    assert not set(reached) & {"labkit", "labkit.files", "labkit.store", "torch", "json"}
    assert __name__ in reachable_source([Outer, np.ndarray, torch.nn.Linear, dict], [])


MODEL = '''"""Docstring."""
import json, torch
from dataclasses import dataclass
from {helper} import add
from labkit.batch import Batch

@dataclass(frozen=True)
class Config:
    """Another."""
    width: int = 3

    @property
    def double(self):
        """Of the width."""
        return add(self.width, self.width)

    def build(self):  # a comment
        def inner(x):
            "inner docstring"
            return x if x in {{"a", "b"}} else None
        return inner(1)

    @torch.no_grad()
    def quiet(self):
        return 1
'''
HELPER = "def add(a, b):\n    return a + b\n"


def write(path: Path, text: str) -> None:
    """Write with a time of its own: edits of a test lie closer together than a file system's tick."""
    path.write_text(text)
    moment = next(_clock)
    os.utime(path, (moment, moment))


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ModuleType:
    """A model's module of the user, which imports a helper of the user."""
    unique = f"{abs(hash(request.node.nodeid)):x}"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write(tmp_path / f"helper_{unique}.py", HELPER)
    write(tmp_path / f"model_{unique}.py", MODEL.format(helper=f"helper_{unique}"))
    return importlib.import_module(f"model_{unique}")


def edit(module: ModuleType, change: Callable[[str], str]) -> None:
    path = Path(str(module.__file__))
    before = path.read_text()
    after = change(before)
    assert after != before
    write(path, after)


def key_of(module: ModuleType) -> str:
    return content_key({}, [module.Config])


def test_comments_docstrings_and_layout_do_not_count(module: ModuleType) -> None:
    before = key_of(module)
    assert set(reachable_source([module.Config])) == {
        module.__name__, module.add.__module__, "labkit.batch"
    }  # fmt: skip
    edit(module, lambda text: "# a new first line\n\n" + text.replace("# a comment", "# other"))
    edit(module, lambda text: text.replace("Another.", "A new docstring."))
    edit(module, lambda text: text.replace("Of the width.", "New.").replace("inner docstring", "."))
    edit(module, lambda text: text.replace("return inner(1)", "return (inner(\n            1))"))
    assert key_of(module) == before  # nor does it call the loaded code out of date


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("inner(1)", "inner(2)"),
        ("else None", "else 0"),
        ("add(self.width, self.width)", "add(self.width, 0)"),
        ("        return 1\n", "        return 2\n"),
    ],
)
def test_an_edited_line_counts_once_it_is_loaded(module: ModuleType, old: str, new: str) -> None:
    before = key_of(module)
    edit(module, lambda text: text.replace(old, new))
    with pytest.raises(LabkitError, match=r"model_.*\.py was edited after .* restart the kernel"):
        key_of(module)
    importlib.reload(module)
    assert key_of(module) != before
    edit(module, lambda text: text.replace(new, old))
    importlib.reload(module)
    assert key_of(module) == before


def test_code_outside_of_functions_counts(module: ModuleType) -> None:
    keys_seen = {key_of(module)}
    for line in ("EPSILON = 1e-5", "EPSILON = 1e-6", "LOG: list[int] = []", "if EPSILON: pass"):
        edit(module, lambda text, line=line: f"{text}\n{line}\n")
        if hasattr(module, "EPSILON") and line == "EPSILON = 1e-6":
            with pytest.raises(LabkitError, match=r"model_.*\.py was edited"):
                key_of(module)
        importlib.reload(module)
        keys_seen.add(key_of(module))
    assert len(keys_seen) == 5
    module.LOG.append(1)  # what may change while running is not taken for an edit
    assert key_of(module) in keys_seen


def test_an_imported_helper_counts(module: ModuleType) -> None:
    before = key_of(module)
    helping = sys.modules[module.add.__module__]
    edit(helping, lambda text: text.replace("a + b", "a - b"))
    with pytest.raises(LabkitError, match=r"helper_.*\.py was edited"):
        key_of(module)
    importlib.reload(helping)
    assert key_of(module) != before


def test_relative_and_late_imports_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package_of_test_keys"
    (package / "deep").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "deep/__init__.py": "from .late import f",
        "deep/late.py": "def f(): pass",
        "base.py": "class Base: pass",
        "side.py": "import no_such_module_anywhere",
        "model.py": "from . import side_effect_free, base\nfrom .base import Base\n"
        "def build():\n    from .deep import f\n    import package_of_test_keys.side\n",
    }.items():
        write(package / name, text)
    monkeypatch.syspath_prepend(tmp_path)
    prefix = package.name
    assert set(reachable_source([], [f"{prefix}.model"])) == {
        f"{prefix}{rest}"
        for rest in ("", ".model", ".base", ".side", ".deep", ".deep.late")
    }  # fmt: skip
    assert f"{prefix}.side" not in sys.modules  # nothing was imported to find out


# Notebooks --------------------------------------------------------------------------------------

CELLS = [
    "import math\nimport numpy as np\nfrom torch import nn, exp\nfrom labkit.batch import Batch\n",
    "SCALE = 2.0\nNAMES = ['a', 'b']\nunused = object()\n",
    "def half(x):\n    '''Docstring.'''\n    return x / 2 * SCALE  # comment\n",
    "class Net(nn.Module):\n    def loss(self, batch: Batch):\n        return half(exp(batch)), NAMES\n",
    "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Bare:\n    a: int = 1\n"
    "@dataclass(frozen=True)\nclass Config(Bare):\n    width: int = 1\n"
    "    def build(self):\n        return [Net() for _ in range(self.width)]\n",
]


def notebook(cells: list[str], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Run cells as IPython does: a module without a file, sources known to linecache only."""
    kernel = ModuleType("kernel_of_test_keys")
    monkeypatch.setitem(sys.modules, kernel.__name__, kernel)
    for source in cells:
        name = f"<cell {next(_clock)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), vars(kernel))
    return kernel


@pytest.mark.parametrize(
    ("cell", "old", "new", "counts"),
    [
        (4, "width: int = 1", "width: int = 2", True),
        (4, "range(self.width)", "range(1)", True),
        (3, "NAMES\n", "NAMES[0]\n", True),
        (2, "x / 2", "x / 3", True),
        (1, "SCALE = 2.0", "SCALE = 3.0", True),
        (1, "'b'", "'c'", True),
        (2, "# comment", "# another", False),
        (2, "Docstring.", "Another.", False),
        (1, "object()", "1", False),
        (0, "import math", "import math, json", False),
    ],
)
def test_what_a_notebook_defines_counts(
    cell: int, old: str, new: str, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(notebook(CELLS, monkeypatch))
    assert key_of(notebook(CELLS, monkeypatch)) == before
    assert old in CELLS[cell]
    changed = [*CELLS[:cell], CELLS[cell].replace(old, new), *CELLS[cell + 1 :]]
    assert (key_of(notebook(changed, monkeypatch)) != before) == counts


def test_what_a_notebook_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = notebook(CELLS, monkeypatch)
    home = kernel.__name__
    reached = reachable_source([kernel.Config])
    assert {f"{home}.{name}" for name in ("Config", "Bare", "Net", "half")} == set(reached)
    function = notebook([*CELLS, "def f(run):\n    return Batch(run)\n"], monkeypatch).f
    assert "labkit.batch" in reachable_source([function])


def test_a_global_that_cannot_be_hashed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = ["import torch\nweights = torch.zeros(3)\n", "def f():\n    return weights.sum()\n"]
    kernel = notebook(cells, monkeypatch)
    with pytest.raises(ValueError, match=r"the global 'weights', used by f, is a Tensor"):
        reachable_source([kernel.f])


def test_source_that_is_nowhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = ModuleType("kernel_without_source")
    monkeypatch.setitem(sys.modules, kernel.__name__, kernel)
    exec("def f(): pass", vars(kernel))
    with pytest.raises(LabkitError, match="source of f cannot be found: put it into a file"):
        reachable_source([kernel.f])


def test_import_hooks_are_not_called_stale() -> None:
    """pytest rewrites the asserts of this very module, so its code differs from its file."""
    assert keys._is_current(sys.modules[__name__], keys._Module("", (), frozenset(), {}), __file__)
