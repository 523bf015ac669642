"""States of labs: in range, exact on the way through a link, clear when wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.live.state import State, choice, number, toggle, whole


@dataclass(frozen=True)
class Probe(State):
    PRESETS: ClassVar = {"Figure 3": {"index": 7, "amplitude": 1500}}

    index: int = whole(0, 0, 31, "latent", "Which latent is pushed.")
    amplitude: float = number(3.0, 0.1, 1500, "amplitude", "How far.", log=True, unit="sd")
    speech: bool = toggle(True, "speech", "Is speech visible?")
    display: str = choice("sigmoid", ("sigmoid", "raw & logits"), "display", "What pixels show.")


@given(
    index=st.integers(0, 31),
    amplitude=st.floats(0.1, 1500),
    speech=st.booleans(),
    display=st.sampled_from(["sigmoid", "raw & logits"]),
)
def test_a_state_survives_the_way_through_a_link_and_through_json(**values: Any) -> None:
    state = Probe(**values)
    assert Probe.from_query(state.to_query()) == state
    assert Probe.from_query("?" + state.to_query() + "\n") == state
    assert Probe.from_dict(json.loads(json.dumps(values))) == state


def test_what_is_not_named_keeps_its_default_and_whole_floats_are_whole() -> None:
    assert Probe.from_query("") == Probe()
    assert Probe.from_query("speech=0") == Probe(speech=False)
    made = Probe(index=3.0, amplitude=3)  # as JavaScript says it
    assert (type(made.index), type(made.amplitude)) == (int, float)
    assert Probe.preset("Figure 3") == Probe(index=7, amplitude=1500.0)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("index=32", "index must be a whole number from 0 to 31, got 32"),
        ("index=1.5", "index must be a whole number, got '1.5'"),
        ("amplitude=nan", "amplitude must be a number from 0.1 to 1500, got nan"),
        ("amplitude=far", "amplitude must be a number, got 'far'"),
        ("speech=yes", "speech must be 0 or 1, got 'yes'"),
        ("display=jpeg", "display must be one of sigmoid, raw & logits, got 'jpeg'"),
        ("indx=3", "unknown field 'indx'; this lab has index, amplitude, speech, display"),
        ("index=1&index=2", "given twice"),
        ("hello", "name=value"),
    ],
)
def test_a_wrong_link_says_what_is_allowed(query: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Probe.from_query(query)


@pytest.mark.parametrize("wrong", [{"index": True}, {"speech": 1}, {"index": float("inf")}])
def test_values_of_a_wrong_type_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Probe(**wrong)


def test_controls_are_plain_records_and_ranges_make_sense() -> None:
    assert json.loads(json.dumps(Probe.controls())) == Probe.controls()
    assert [c["name"] for c in Probe.controls()] == ["index", "amplitude", "speech", "display"]
    with pytest.raises(ValueError, match="low > 0"):
        number(1, 0, 10, "amplitude", "", log=True)
    with pytest.raises(ValueError, match="unknown preset 'x'; choose one of Figure 3"):
        Probe.preset("x")
