"""The parameters cell: what it may hold, and what may be put into it."""

from __future__ import annotations

import pytest

from labkit import LabkitError
from labkit.parameters import check, read

CELL = """\
preset: str = "quick"  # the size
gamma: float = 0.5  # a share, 0..1
steps: int = 10  # descent steps
seeds: list[int] = [0]  # one run each
noisy: bool = False  # add noise
clip: float | None = None  # gradient norm"""


def test_read_keeps_name_type_default_and_comment() -> None:
    declared = read(CELL)
    assert list(declared) == ["preset", "gamma", "steps", "seeds", "noisy", "clip"]
    assert str(declared["gamma"]) == "gamma: float = 0.5  # a share, 0..1"
    assert declared["seeds"].default == [0]


def test_read_takes_the_comment_of_a_value_that_spans_lines() -> None:
    assert read("a: list[int] = [\n    1,\n    2,\n]  # two")["a"].help == "two"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("gamma = 0.5", "not of the form"),
        ("gamma: float", "not of the form"),
        ("print(1)", "not of the form"),
        ("gamma: float = 1 / 2", "no literal"),
        ("gamma: float = 'half'", "does not fit"),
        ("gamma: Tensor = 0", "not a type labkit can check"),
    ],
)
def test_read_refuses_what_is_not_an_annotated_literal(line: str, complaint: str) -> None:
    with pytest.raises(LabkitError, match=complaint):
        read(line)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("gamma", "0.25", 0.25),
        ("gamma", 1, 1),
        ("steps", "12", 12),
        ("seeds", "0,1,2", [0, 1, 2]),
        ("seeds", "[3]", [3]),
        ("seeds", "3", [3]),
        ("noisy", "true", True),
        ("noisy", "True", True),
        ("clip", "null", None),
        ("clip", "None", None),
        ("preset", "1", "1"),
    ],
)
def test_check_reads_text_as_the_parameter_expects(
    name: str, given: object, wanted: object
) -> None:
    got = check(read(CELL), {name: given})[name]
    assert got == wanted
    assert type(got) is type(wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", "half"),
        ("gamma", True),
        ("steps", 1.5),
        ("steps", True),
        ("seeds", [0.5]),
        ("noisy", 1),
        ("clip", "loose"),
        ("preset", 3),
    ],
)
def test_check_refuses_a_wrong_type_and_lists_what_is_allowed(name: str, value: object) -> None:
    with pytest.raises(LabkitError, match=rf"(?s){name!r} must be .*gamma: float = 0.5  # a share"):
        check(read(CELL), {name: value})


def test_check_refuses_a_misspelt_name_and_lists_what_is_allowed() -> None:
    with pytest.raises(LabkitError, match=r"(?s)'gama'.*gamma: float = 0.5  # a share, 0..1"):
        check(read(CELL), {"gama": 0.5})
