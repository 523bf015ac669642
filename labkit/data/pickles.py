"""Pickles of numpy arrays, read without running anything.

A pickle is a program: an ordinary reader calls whatever the file names. This one follows the instructions
itself, and of them only those that put numbers, text and containers together. Of the functions that a file
may name it knows the five with which numpy writes arrays, and for each it has a few lines of its own, which
take bytes of plain numbers and text. Whatever else a file asks for is refused, with its name. What is left to
a hostile file is to be too large for the memory.

Source:
    The instructions are as Python's `pickletools` describes and decodes them.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from labkit import LabkitError


def damaged(path: Path, found: str, allowed: str) -> LabkitError:
    """The error for a file that cannot be read; `labkit data get` fetches no pickles."""
    return LabkitError(
        f"{path} is damaged or not the file it should be: found {found}; allowed is {allowed}. "
        f"Delete it and get it again from where it is published."
    )


def read_pickle(path: Path) -> Any:
    """Read a pickle of numpy arrays in dicts, lists, tuples and the like; run nothing that is in it.

    Args:
        path: The file, of any protocol.

    Returns:
        What was pickled, with each array as an `Array`. Lists in arrays of objects, which may hold text,
        numbers, arrays and containers of them, are left as they are.

    Raises:
        LabkitError: if the file asks for anything else (the message names it), or is damaged.
    """
    try:
        with path.open("rb") as file:
            return _follow(file, path)
    except (LabkitError, FileNotFoundError):
        raise
    except Exception as error:  # a damaged file can be wrong in any way
        found = f"no readable pickle ({type(error).__name__}: {error})"
        raise damaged(path, found, "a whole pickle of numpy arrays") from error


def _follow(file: BinaryIO, path: Path) -> Any:
    """Follow the instructions of a pickle, as `pickletools` describes them, up to its end."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def taken(count: int) -> list[Any]:
        items = stack[len(stack) - count :] if count <= len(stack) else []
        if len(items) < count:
            raise ValueError("an instruction without what it works on")
        del stack[len(stack) - count :]
        return items

    argument: Any
    for instruction, argument, _ in pickletools.genops(file):
        name = instruction.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _FIXED or name in _MARKED:
            items = taken(_FIXED[name] if name in _FIXED else len(stack) - marks.pop())
            if name in _MADE:
                stack.append(_MADE[name](items))
            else:
                _extend(stack[-1], name, items)
        elif name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            asked = argument.split(" ", 1) if argument is not None else taken(2)
            stack.append(_known(path, *asked))
        elif name == "REDUCE":
            function, arguments = taken(2)
            if not any(function is known for known in _KNOWN.values()):
                raise ValueError(f"a call of {type(function).__name__}")
            stack.append(function(*arguments))
        elif name == "BUILD":
            (state,) = taken(1)
            if not isinstance(stack[-1], _Type | Array):
                raise ValueError(f"a state for {type(stack[-1]).__name__}")
            stack[-1].build(*state)
        elif name == "STOP":
            (result,) = stack
            return result
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the instruction {name}, which makes more than arrays")
    raise EOFError("no end")


def _known(path: Path, module: Any, name: Any) -> Callable[..., Any] | str:
    asked = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # as numpy 2 calls it
    if asked == _NDARRAY:
        return _NDARRAY
    if asked not in _KNOWN:
        raise LabkitError(
            f"{path} was not read: it asks for {module}.{name}. Allowed are numpy arrays of numbers and text "
            f"in dicts, lists and tuples. Nothing in it was run; get the file again from those who made it, "
            f"and do not open it with pickle or numpy."
        )
    return _KNOWN[asked]


def _extend(container: Any, name: str, items: list[Any]) -> None:
    if name.startswith("APPEND") and isinstance(container, list):
        container.extend(items)
    elif name.startswith("SETITEM") and isinstance(container, dict):
        container.update(_pairs(items))
    elif name == "ADDITEMS" and isinstance(container, set):
        container.update(_plain(items))
    else:
        raise ValueError(f"items for {type(container).__name__}")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_plain(items[::2]), items[1::2], strict=True))


def _plain(items: list[Any]) -> list[Any]:
    """Keys and members; a hash of nested tuples may run out of stack."""
    if wrong := [item for item in items if not isinstance(item, str | bytes | int | float | None)]:
        raise ValueError(f"{type(wrong[0]).__name__} as a key or in a set")
    return items


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
# How many things these take from the stack; the others take all since the mark.
_FIXED = {"APPEND": 1, "SETITEM": 2, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARKED = {"APPENDS", "SETITEMS", "ADDITEMS", "LIST", "DICT", "TUPLE", "FROZENSET"}
_MADE: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list, "DICT": _pairs, "FROZENSET": lambda items: frozenset(_plain(items)),
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), tuple),
}  # fmt: skip


class _Type:
    """A numpy type: numbers of a fixed size, text, or None for objects."""

    __slots__ = ("code", "dtype")

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str) or re.fullmatch(r"[<>|=]?([biufSU]\d{1,7}|O8?)", code) is None:
            raise ValueError(f"arrays of type {code!r:.40}, which this reader does not know")
        self.code = code.lstrip("<>|=")
        self.dtype = None if self.code[0] == "O" else np.dtype(code)

    def build(self, version: Any, order: Any, *rest: Any) -> None:
        """Numpy's version, byte order, subtype, names, fields, size, alignment, flags."""
        if order not in ("<", ">", "|", "=") or rest[:3] != (None, None, None):
            raise ValueError("arrays of records, which this reader does not know")
        if self.dtype is not None:
            self.dtype = self.dtype.newbyteorder(order)


class Array:
    """An array of a pickle: `values` is a numpy array, or a list if it holds objects."""

    __slots__ = ("values",)

    values: NDArray[Any] | list[Any] | None

    def __init__(self) -> None:
        self.values = None

    def build(self, version: Any, shape: Any, kind: Any, fortran: Any, content: Any) -> None:
        """Numpy's version, shape, type, whether in Fortran's order, bytes or list."""
        self.fill(shape, kind, bool(fortran), content)

    def fill(self, shape: Any, kind: Any, fortran: bool, content: Any) -> None:
        """Take bytes, or a list of objects, as values of this shape and type."""
        if not isinstance(kind, _Type) or not isinstance(shape, tuple):
            raise ValueError("an array without type or shape")
        if any(type(length) is not int or length < 0 for length in shape):
            raise ValueError(f"an array of shape {shape}")
        if kind.dtype is None:
            if not isinstance(content, list) or len(content) != math.prod(shape):
                raise ValueError(f"an array of objects without a list of {shape} of them")
            self.values = content
        elif not isinstance(content, bytes | bytearray):
            raise ValueError(f"an array of {type(content).__name__}, not of bytes")
        elif 0 in shape:
            self.values = np.zeros(shape, kind.dtype)
        else:
            flat: NDArray[Any] = np.frombuffer(content, kind.dtype)
            self.values = flat.reshape(shape, order="F" if fortran else "C")


_NDARRAY = "numpy.ndarray"  # a name and no more: no class is ever at hand


def _reconstruct(kind: Any, *_: Any) -> Array:
    if kind != _NDARRAY:
        raise ValueError(f"an array of class {kind!r:.40}")
    return Array()


def _frombuffer(content: Any, kind: Any, shape: Any, order: Any, axes: Any = ()) -> Array:
    """Protocol 5; in order "K" the axes stand in another order, `axes` bring them back."""
    array = Array()
    array.fill(shape, kind, order == "F", content)
    if order == "K" and isinstance(array.values, np.ndarray):
        array.values = array.values.transpose(axes)
    elif order not in ("C", "F"):
        raise ValueError(f"an array in the order {order!r:.10}")
    return array


def _scalar(kind: Any, content: Any) -> Any:
    if not isinstance(kind, _Type) or kind.dtype is None or not isinstance(content, bytes):
        raise ValueError("a number without type or bytes")
    (value,) = np.frombuffer(content, kind.dtype).tolist()
    return value


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"text in the encoding {encoding!r:.40}, allowed is 'latin1'")
    return text.encode("latin-1")


_KNOWN: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
}
