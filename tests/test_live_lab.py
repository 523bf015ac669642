"""Labs without a browser: states, messages, errors, stills and what is saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets
import numpy as np
import pytest
import torch

from labkit.live import pictures
from labkit.live.lab import ASKED, SHOWN, Gesture, Lab, Question, script
from labkit.live.pictures import Picture
from labkit.live.state import State, number, whole


@dataclass(frozen=True)
class Dial(State):
    PRESETS: ClassVar = {"High": {"level": 1.0}}

    level: float = number(0.5, 0, 1, "level", "How bright.")
    row: int = whole(0, 0, 3, "row", "Which row.", hidden=True)


def compute(state: Dial) -> Mapping[str, Picture]:
    if state.row == 3:
        raise RuntimeError("row 3 is broken")
    grid = np.full((2, 1, 4, 4), state.level)
    return {
        "image": pictures.images(grid, ["a", "b"], ["c"], "two squares", [[True], [False]]),
        "bars": pictures.bars(["x"], [state.level], "a bar"),
        "numbers": pictures.figures({"level": (state.level, "of 1")}),
    }


def make(**more: Any) -> Lab:
    return Lab("dial", "A dial", Dial(), compute, **more)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Messages that labs send to their pages."""
    found: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        Lab, "send", lambda self, content, buffers=None: found.append((content, buffers))
    )
    return found


def shown(lab: Lab) -> np.ndarray:
    pixels = lab.pictures["image"]["pixels"]
    return np.frombuffer(pixels["data"], np.uint8).reshape(pixels["shape"])


def test_setting_the_state_shows_it_and_what_is_saved_is_current() -> None:
    lab = make()
    assert lab.error == ""
    assert (shown(lab) == 128).all()
    lab.set(level=1.0)
    assert (shown(lab) == 255).all()
    assert lab.metrics == {"level": 1.0}
    lab.state = {"level": 0, "row": 1}  # as a page says it
    assert (shown(lab) == 0).all()
    assert lab.line == "dial?level=0.0&row=1"
    lab.reset()
    assert lab.now == Dial()
    assert lab.get_state()["state"] == {"level": 0.5, "row": 0}


def test_a_state_line_opens_the_lab_where_it_was_and_other_labs_lines_are_not_ours() -> None:
    lab = make(states=["other?x=3", "dial?level=0.25&row=2"])
    assert lab.now == Dial(level=0.25, row=2)
    lab.reset()
    assert lab.now == Dial()
    with pytest.raises(ValueError, match="level must be a number from 0 to 1, got 2"):
        make(states=["dial?level=2"])


def test_an_error_fails_a_strict_run_and_stands_in_the_box(
    monkeypatch: pytest.MonkeyPatch, sent: list[Any]
) -> None:
    lab = make()
    with pytest.raises(RuntimeError, match="row 3"):
        lab.set(row=3)
    assert lab.error == "RuntimeError: row 3 is broken"
    monkeypatch.delenv("LABKIT_STRICT")
    lab.reset()
    assert lab.error == ""
    lab.state = {"level": 7, "row": 0}
    assert "level must be a number from 0 to 1, got 7" in lab.error
    lab._receive(lab, {"type": "ask", "view": "v", "seq": 1, "state": {"level": 0, "row": 3}}, [])
    assert sent[-1][0]["error"] == "RuntimeError: row 3 is broken"
    lab.state = {"level": 0, "row": 3}
    with pytest.raises(RuntimeError, match="row 3"):
        lab.flush()


def test_a_page_that_asks_gets_the_pictures_of_the_state_it_asked_for(sent: list[Any]) -> None:
    lab = make()
    lab._receive(lab, {"type": "ask", "view": "v", "seq": 4, "state": {"level": 1, "row": 0}}, [])
    content, buffers = sent[-1]
    assert (content["type"], content["seq"], content["view"]) == ("answer", 4, "v")
    json.dumps(content)  # all that is not in the buffers is JSON
    pixels = content["pictures"]["image"]["pixels"]
    count = int(np.prod(pixels["shape"]))
    grid = np.frombuffer(buffers[0], pixels["dtype"], count, pixels["at"])
    assert (grid == 255).all()
    assert lab.now == Dial()  # asking changes nothing


def test_a_request_that_a_newer_one_overtook_is_answered_without_work(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, count = make(), []
    monkeypatch.setattr(lab, "compute", lambda state: count.append(1) or compute(state))
    ask = {"type": "ask", "view": "v", "state": {"level": 1, "row": 0}}
    lab._receive(lab, ask | {"seq": 2}, [])
    lab._receive(lab, ask | {"seq": 1}, [])
    assert len(count) == 1
    assert sent[-1][0]["seq"] == 1  # the place in the page becomes free
    assert "pictures" not in sent[-1][0]
    lab._receive(lab, ask | {"seq": 1, "view": "another"}, [])
    assert len(count) == 2  # a second view counts for itself
    lab._receive(lab, {"type": "ping", "seq": 9}, [])
    assert sent[-1][0] == {"type": "pong", "seq": 9}


def test_opening_a_lab_again_closes_the_one_before() -> None:
    before = make()
    count = len(ipywidgets.Widget.get_manager_state()["state"])
    for _ in range(3):
        lab = make()
    assert before.comm is None
    assert lab.comm is not None
    assert len(ipywidgets.Widget.get_manager_state()["state"]) == count


def test_a_lab_without_a_page_is_a_still_with_words(sent: list[Any]) -> None:
    lab = make(question=Question("Which?", ("a", "b"), 0, "Because."))
    bundle, _ = lab._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == repr(lab) == "Lab(dial?level=0.5&row=0)"
    assert 'alt="A dial. two squares"' in bundle["text/html"]
    assert bundle == lab._repr_mimebundle_()[0]  # the same picture, to the byte
    lab.set(level=1.0)
    assert bundle["text/html"] != lab._repr_mimebundle_()[0]["text/html"]


def test_who_opens_or_sets_a_state_has_not_to_guess() -> None:
    asked = Question("Which?", ("a", "b"), 0, "Because.", hides=("bars",))
    assert make(question=asked).guess == ASKED
    assert make(question=asked, states=["dial?level=0.25"]).guess == SHOWN
    assert make(question=asked, states=["other?level=0.25"]).guess == ASKED
    lab = make(question=asked)
    lab.set(level=1.0)
    assert lab.guess == SHOWN
    lab.guess = 1  # as a page says it
    lab.set(level=0.0)
    assert lab.guess == 1


def test_a_question_hides_only_what_the_lab_shows() -> None:
    lab = make(question=Question("Which?", ("a", "b"), 0, "Because.", hides=("bars", "level")))
    assert list(lab.spec["question"]["hides"]) == ["bars", "level"]
    with pytest.raises(
        ValueError, match="hides must name .* got 'levels'; it shows image, bars, numbers, level"
    ):
        make(question=Question("Which?", ("a", "b"), 0, "Because.", hides=("levels",)))


def test_page_and_assets_go_together() -> None:
    with pytest.raises(ValueError, match="page and assets go together"):
        make(page="fusion")


def test_the_page_is_one_script_without_imports_that_reaches_nowhere() -> None:
    text = script()
    assert "import " not in [line[:7] for line in text.splitlines()]
    assert text.count("export default") == 1
    assert "http" not in text
    assert Gesture((("x", "y"),), "moves").hover is False


def test_pictures_refuse_what_does_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"pixels must be \(rows, columns, height, width\), got \(4, 4\)"
    ):
        pictures.images(np.zeros((4, 4)), [], [], "")
    with pytest.raises(ValueError, match="rows must be 2 labels or none, got 1"):
        pictures.images(np.zeros((2, 1, 4, 4)), ["a"], [], "")
    with pytest.raises(ValueError, match=r"framed must be \(2, 1\), got \(1, 2\)"):
        pictures.images(np.zeros((2, 1, 4, 4)), [], [], "", [[True, False]])
    with pytest.raises(ValueError, match="values must be one for each of 2 names"):
        pictures.bars(["a", "b"], [1.0], "")
    with pytest.raises(ValueError, match="line 'a' must have"):
        pictures.curves([0, 1], [pictures.line("a", [1])], "x", "y", "")
    with pytest.raises(ValueError, match="3 points need as many classes, got 2"):
        pictures.plane("", points=np.zeros((3, 2)), classes=[0, 1])


def test_grey_is_rounded_half_up_and_clipped() -> None:
    values = torch.tensor([-1.0, 0.0, 0.5 / 255, 0.499 / 255, 1.0, 2.0])
    assert pictures.to_bytes(values).tolist() == [0, 0, 1, 0, 255, 255]


def test_arrays_travel_in_one_buffer_or_where_they_stood() -> None:
    record = {
        "flags": np.arange(3, dtype=np.uint8),  # what follows is not aligned
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": [{"c": np.zeros(0, np.uint8)}],
    }
    coded, data = pictures.packed(record)
    assert coded["a"] == {"dtype": "float32", "shape": [2, 3], "at": 3}
    assert coded["b"][0]["c"]["shape"] == [0]
    assert np.frombuffer(data, np.float32, 6, 3).tolist() == [0, 1, 2, 3, 4, 5]
    inline = pictures.inline(record)["a"]
    assert inline == {"dtype": "float32", "shape": [2, 3], "data": record["a"].tobytes()}
