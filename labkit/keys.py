"""Content keys: one hash of everything that a result depends on, the source code included.

A run found under its key can be trusted because the key covers the settings *and* the normalised
source of every module of ours that the settings reach, whatever comment or docstring is edited.
"Of ours" is what is neither Python's library nor an installed package: labkit, the files of the
user, and the classes and functions of a notebook.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import enum
import functools
import hashlib
import importlib.util
import inspect
import json
import linecache
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from labkit import LabkitError

_PLAIN = (bool, int, float, str, type(None))
# They carry results but have no part in them, so that mending them makes nothing anew.
_INERT = tuple(f"labkit{x}" for x in ("", ".files", ".progress", ".store", ".shelf", ".keys"))


def describe(value: Any, where: str, code: set[Any] | None = None) -> Any:
    """Turn settings into plain JSON, class names included.

    Args:
        value: Frozen dataclasses, lists, tuples, dicts with string keys, sets, numbers, strings,
            paths, enum members, dtypes, devices, classes and module-level functions, nested.
        where: What the value is called in an error message.
        code: Set that takes up every class and function met on the way.

    Raises:
        ValueError: on anything else, for it could change unseen.
    """
    code = set() if code is None else code
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, type | FunctionType):
        if "<" in value.__qualname__:
            raise ValueError(
                f"{where} is or holds {value.__qualname__}, which could read variables around it "
                f"unseen: define it at the top level of a module or notebook"
            )
        code.add(value)
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, enum.Enum):
        return {"enum": describe(type(value), where, code), "name": value.name}
    if is_dataclass(value):
        named = {f.name: getattr(value, f.name) for f in fields(value)}
        return {"class": describe(type(value), where, code), **_items(named, where, code)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return _items(value, where, code)
    if isinstance(value, list | tuple):
        return [describe(one, f"{where}[{i}]", code) for i, one in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((describe(one, where, code) for one in value), key=json.dumps)
    raise ValueError(
        f"{where} is a {type(value).__name__}, which cannot be part of a key; use numbers, strings,"
        f" tuples, dicts with string keys or dataclasses of these (tensors: give what made them)"
    )


def _items(named: dict[str, Any], where: str, code: set[Any]) -> dict[str, Any]:
    return {key: describe(value, f"{where}.{key}", code) for key, value in named.items()}


def content_key(record: Any, code: Iterable[Any], modules: Iterable[str] = ()) -> str:
    """Key of a described record together with all the source it can reach.

    Args:
        record: Plain JSON, from `describe`.
        code: Classes and functions that make the result.
        modules: Names of further modules that do.

    Returns:
        32 hexadecimal digits.

    Raises:
        LabkitError: if source cannot be found, or is not what this Python has loaded.
    """
    text = json.dumps([record, sorted(reachable_source(code, modules).items())])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def reachable_source(code: Iterable[Any], modules: Iterable[str] = ()) -> dict[str, str]:
    """Hash of each piece of source of ours that the code and the modules can reach.

    Returns:
        Name of a module, or of a class or function of a notebook -> SHA-256 of its normalised
        source (the syntax tree without docstrings).
    """
    waiting: list[Any] = [*modules, *code]
    pieces: dict[str, str] = {}
    while waiting:
        thing = waiting.pop()
        home = thing if isinstance(thing, str) else getattr(thing, "__module__", None) or "builtins"
        file = _file_of(home) if _is_ours(home) else None
        name = home if file else f"{home}.{getattr(thing, '__qualname__', '')}"
        if name in pieces or not _is_ours(home) or (file is None and isinstance(thing, str)):
            continue
        if file is not None:  # a file is hashed whole
            module = _read(home, file)
            pieces[name] = module.digest
            waiting += module.imports
        else:
            pieces[name], further = _read_from_notebook(thing)
            waiting += further
    return pieces


# Modules in files -------------------------------------------------------------------------------


class _Module(NamedTuple):
    digest: str
    imports: tuple[str, ...]
    compiled: frozenset[Any]  # the meaning of each function
    constants: dict[str, Any]  # NAME = literal


def _is_ours(name: str) -> bool:
    """Whether a module is neither Python's nor installed, and its code can change a result."""
    top = name.partition(".")[0]
    if top == "labkit":
        return name not in _INERT
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return False
    if top in sys.modules and _file_of(name) is None:
        return not hasattr(sys.modules[top], "__path__")  # a notebook, not a package without files
    file = _file_of(name)
    return file is not None and not {"site-packages", "dist-packages"} & set(file.parts)


def _file_of(name: str) -> Path | None:
    """Source file of a module, found without importing anything; None if there is none."""
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    package, _, last = name.rpartition(".")
    if module is None and package:
        parent = _file_of(package)
        if parent is None or parent.name != "__init__.py":
            return None
        choices = (parent.parent / f"{last}.py", parent.parent / last / "__init__.py")
        return next((choice for choice in choices if choice.is_file()), None)
    if module is None:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec is not None else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _read(name: str, file: Path) -> _Module:
    stat = file.stat()
    module = _parse(name, file, stat.st_mtime_ns, stat.st_size)
    loaded = sys.modules.get(name)
    if loaded is not None and not _is_current(loaded, module, str(file)):
        raise LabkitError(
            f"{file.name} was edited after this Python had loaded it, so that a run would be named "
            f"after code that did not make it: restart the kernel, or reload {name}"
        )
    return module


@functools.lru_cache(maxsize=512)
def _parse(name: str, file: Path, _time: int, _size: int) -> _Module:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    compiled = frozenset(_meaning(code) for code in _nested(compile(tree, str(file), "exec")))
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imports = tuple(dict.fromkeys(_imports(tree, package)))
    constants = dict(_constants(tree))
    return _Module(_normalised(tree), imports, compiled, constants)


def _normalised(tree: ast.AST) -> str:
    """Hash of a syntax tree without comments, layout and docstrings."""
    for node in ast.walk(tree):
        has_body = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, has_body) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Names of the modules that a module imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(start, package) if node.level else start
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if _is_ours(base) and _file_of(inner) else base


# Is what is loaded what is in the file? ---------------------------------------------------------


def _is_current(loaded: ModuleType, module: _Module, file: str) -> bool:
    """Whether each function and each constant of a loaded module is the one in its file.

    Import hooks (pytest's, for one) load other code than the file has on purpose: not judged.
    """
    if type(getattr(loaded, "__loader__", None)) is not SourceFileLoader:
        return True
    live = (function.__code__ for function in _functions(loaded))
    known = all(_meaning(code) in module.compiled for code in live if code.co_filename == file)
    return known and all(vars(loaded).get(k, v) == v for k, v in module.constants.items())


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """The assignments NAME = literal of a module; mutable values may change and do not count."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            with contextlib.suppress(ValueError, TypeError):
                value = ast.literal_eval(node.value)
                if isinstance(target, ast.Name) and target.id.isupper():
                    hash(value)
                    yield target.id, value


def _functions(owner: Any) -> Iterator[FunctionType]:
    """Functions of a module or class, those of its classes and under its decorators included."""
    for value in list(vars(owner).values()):
        value = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        if isinstance(value, FunctionType):
            yield inspect.unwrap(value)
        elif isinstance(value, type) and value.__module__ == (
            owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
        ):
            yield from _functions(value)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _meaning(code: CodeType) -> Any:
    """What a code object does, whatever its line numbers and its docstring (constant 0)."""
    constants = code.co_consts
    if constants and isinstance(constants[0], str | None):
        constants = constants[1:]
    inner = tuple(_meaning(c) if isinstance(c, CodeType) else (type(c), c) for c in constants)
    return code.co_qualname, code.co_argcount, code.co_code, code.co_names, inner


# Classes and functions of a notebook ------------------------------------------------------------


def _read_from_notebook(thing: Any) -> tuple[str, list[Any]]:
    """Hash of the source of a class or function of a notebook, and what of ours it uses."""
    owner = sys.modules[thing.__module__]
    functions = [inspect.unwrap(thing)] if isinstance(thing, FunctionType) else [*_functions(thing)]
    codes = [f.__code__ for f in functions if f.__code__.co_filename != "<string>"]
    used: dict[str, Any] = {}
    for code in (inner for outer in codes for inner in _nested(outer)):
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL" and step.argval in vars(owner):
                used[step.argval] = vars(owner)[step.argval]
    further: list[Any] = list(getattr(thing, "__bases__", ()))
    settled: dict[str, Any] = {}
    for name, value in sorted(used.items()):
        if isinstance(value, ModuleType):
            further.append(value.__name__)
        elif isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
            further.append(value)
        else:
            where = f"the global {name!r}, used by {thing.__qualname__},"
            settled[name] = describe(value, where)
    text = _cell_source(thing, codes) + json.dumps(settled)
    return hashlib.sha256(text.encode()).hexdigest(), further


def _cell_source(thing: Any, codes: list[CodeType]) -> str:
    """Normalised source of a class or function from its cell; a bare record of fields has none."""
    for code in codes:
        cell = ast.parse("".join(linecache.getlines(code.co_filename)))
        for node in reversed(cell.body):
            if getattr(node, "name", None) == thing.__name__:
                return _normalised(node)
    if codes or isinstance(thing, FunctionType):
        raise LabkitError(f"the source of {thing.__qualname__} cannot be found: put it into a file")
    return ""
