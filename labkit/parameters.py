"""The parameters cell of a notebook: what may be set from outside, and to what.

A notebook says what can be set in one cell tagged `parameters`, made of annotated literals with a
comment each:

    gamma: float = 0.5  # share of modality-general information, 0..1

papermill passes an unknown name on with a log line and never looks at types. Here a misspelt name
or a value of the wrong type is an error that lists what is allowed.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labkit import LabkitError


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell.

    Attributes:
        name: What it is called.
        annotation: Its type as written: int, float, str, bool, list[...], or a union with None.
        default: The value the notebook has on opening.
        help: The comment at the end of the line.
    """

    name: str
    annotation: str
    default: Any
    help: str

    def __str__(self) -> str:
        return f"{self.name}: {self.annotation} = {self.default!r}  # {self.help}"


def read(source: str) -> dict[str, Parameter]:
    """Return the parameters that the source of a parameters cell declares.

    Raises:
        LabkitError: if a line is anything but `name: type = literal`, or its default does not fit
            its type.
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = {}
    for node in ast.parse(source).body:
        line = ast.get_source_segment(source, node)
        if not (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
        ):
            raise LabkitError(f"Parameters cell: {line!r} is not of the form `name: type = value`.")
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise LabkitError(f"Parameters cell: the value in {line!r} is no literal.") from None
        parameter = Parameter(
            node.target.id,
            ast.unparse(node.annotation),
            default,
            comments.get(node.end_lineno or 0, ""),
        )
        if not _fits(default, node.annotation):
            raise LabkitError(f"Parameters cell: the value in {line!r} does not fit its type.")
        found[parameter.name] = parameter
    return found


def check(allowed: Mapping[str, Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with text turned into what each parameter expects.

    Args:
        allowed: What `read` found.
        values: Name -> value. Text is read as JSON or a Python literal where the parameter is not
            text itself: "0,1,2" for a list, "true" for a truth value.

    Raises:
        LabkitError: for an unknown name or a value that does not fit; lists all that is allowed.
    """
    menu = "\n".join(f"  {parameter}" for parameter in allowed.values())
    checked = {}
    for name, value in values.items():
        if name not in allowed:
            raise LabkitError(f"Unknown parameter {name!r}. Allowed are:\n{menu}")
        annotation = ast.parse(allowed[name].annotation, mode="eval").body
        read_value = value
        if isinstance(value, str) and not _fits(value, annotation):
            read_value = _literal(value)
        if not isinstance(read_value, list) and _fits([read_value], annotation):
            read_value = [read_value]  # -p seeds=0 means the list of one
        if not _fits(read_value, annotation):
            raise LabkitError(
                f"Parameter {name!r} must be {allowed[name].annotation}, got {value!r}. "
                f"Allowed are:\n{menu}"
            )
        checked[name] = read_value
    return checked


def _literal(text: str) -> Any:
    for reader in (json.loads, ast.literal_eval):
        try:
            value = reader(text)
        except (ValueError, SyntaxError):
            continue
        return list(value) if isinstance(value, tuple) else value
    return text


def _fits(value: Any, annotation: ast.expr) -> bool:
    """Tell whether a value is of the type that an annotation names."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(_fits(v, item) for v in value)
        case ast.Name(id="float"):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="str"):
            return isinstance(value, str)
    raise LabkitError(
        f"Parameters cell: {ast.unparse(annotation)} is not a type labkit can check; use int, "
        "float, str, bool, list[...] or a union of them with None."
    )
