"""The state of a lab: one frozen record that slider, notebook, command line and link share.

A lab declares its state as a frozen dataclass whose fields say how they may be set::

    @dataclass(frozen=True)
    class Probe(State):
        index: int = whole(0, 0, 31, "latent", "Which latent is pushed.")
        amplitude: float = number(3.0, 0.1, 1500, "amplitude", "How far.", log=True)
        visible: bool = toggle(True, "speech", "Is speech observed?")
        display: str = choice("sigmoid", ("sigmoid", "logits"), "display", "What a pixel shows.")

`State.from_query(state.to_query()) == state`, whatever the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlencode


def number(
    default: float, low: float, high: float, label: str, help: str, *,
    unit: str = "", log: bool = False, hidden: bool = False,
) -> Any:  # fmt: skip
    """A real number in [low, high]; `log`: the slider moves over its logarithm (low > 0)."""
    if not low < high or (log and low <= 0):
        raise ValueError(f"{label}: need low < high, and low > 0 with log; got {low}, {high}")
    control = {"kind": "number", "low": low, "high": high, "log": log}
    return _control(default, label, help, unit, hidden, control)


def whole(
    default: int, low: int, high: int, label: str, help: str, *,
    unit: str = "", hidden: bool = False,
) -> Any:  # fmt: skip
    """A whole number in {low, ..., high}."""
    control = {"kind": "whole", "low": low, "high": high}
    return _control(default, label, help, unit, hidden, control)


def toggle(default: bool, label: str, help: str) -> Any:
    """On or off."""
    return _control(default, label, help, "", False, {"kind": "toggle"})


def choice(default: str, options: Sequence[str], label: str, help: str) -> Any:
    """One of a few words."""
    return _control(default, label, help, "", False, {"kind": "choice", "options": [*options]})


def _control(
    default: Any, label: str, help: str, unit: str, hidden: bool, control: dict[str, Any]
) -> Any:
    said = {"label": label, "help": help, "unit": unit, "hidden": hidden}
    return field(default=default, metadata=control | said)


@dataclass(frozen=True)
class State:
    """Base of all states: checked when made, written as a query string, read back from one.

    Attributes:
        PRESETS: Name -> the fields that differ from the defaults.

    Raises:
        ValueError: if a field is outside its range; the message names it and what is allowed.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for each in fields(self):
            value = _checked(each.name, getattr(self, each.name), each.metadata)
            object.__setattr__(self, each.name, value)

    @classmethod
    def controls(cls) -> list[dict[str, Any]]:
        """How the page may set each field: a plain record a field, in order."""
        return [{"name": f.name, "default": f.default, **f.metadata} for f in fields(cls)]

    @classmethod
    def preset(cls, name: str) -> Self:
        """A named state."""
        if name not in cls.PRESETS:
            raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(cls.PRESETS)}")
        return cls(**cls.PRESETS[name])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The state with these fields, the others at their defaults."""
        names = [f.name for f in fields(cls)]
        for name in values:
            if name not in names:
                raise ValueError(f"unknown field {name!r}; this lab has {', '.join(names)}")
        return cls(**values)

    @classmethod
    def from_query(cls, query: str) -> Self:
        """Read what `to_query` wrote; fields that are not named keep their defaults.

        Raises:
            ValueError: on text that is no query, an unknown or repeated field, a value out of range.
        """
        text = query.strip().lstrip("?")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True) if text else []
        except ValueError:
            raise ValueError(f"a state reads name=value&name=value..., got {query!r}") from None
        given = dict(pairs)
        if len(given) < len(pairs):
            raise ValueError(f"a field is given twice in {query!r}")
        kinds = {f.name: f.metadata["kind"] for f in fields(cls)}
        return cls.from_dict({n: _parse(n, kinds.get(n), text) for n, text in given.items()})

    def to_query(self) -> str:
        """All fields as name=value&name=value..., exactly: numbers keep every digit."""
        return urlencode({
            name: int(value) if isinstance(value, bool) else value
            for name, value in asdict(self).items()
        })  # fmt: skip


def _parse(name: str, kind: str | None, text: str) -> Any:
    try:
        if kind == "toggle":
            return {"0": False, "1": True}[text]
        return {"whole": int, "number": float}.get(kind or "", str)(text)
    except (KeyError, ValueError):
        allowed = {"toggle": "0 or 1", "whole": "a whole number"}.get(kind or "", "a number")
        raise ValueError(f"{name} must be {allowed}, got {text!r}") from None


def _checked(name: str, value: Any, control: Mapping[str, Any]) -> Any:
    """The value in its own type, or a ValueError that says what is allowed."""
    kind = control["kind"]
    if kind == "toggle" and isinstance(value, bool):
        return value
    if kind == "choice" and value in control["options"]:
        return value
    if kind in ("whole", "number") and isinstance(value, (int, float)) and type(value) is not bool:
        exact = kind == "number" or (math.isfinite(value) and value == int(value))
        if exact and control["low"] <= value <= control["high"]:
            return int(value) if kind == "whole" else float(value)
    allowed = {
        "toggle": "True or False",
        "choice": "one of " + ", ".join(control.get("options", ())),
        "whole": f"a whole number from {control.get('low')} to {control.get('high')}",
        "number": f"a number from {control.get('low')} to {control.get('high')}",
    }[kind]
    raise ValueError(f"{name} must be {allowed}, got {value!r}")
