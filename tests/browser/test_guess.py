"""Predict, then reveal: what would answer the question is covered until somebody has guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

DIAL = """\
from dataclasses import dataclass
from labkit.live import pictures
from labkit.live.lab import Lab, Question
from labkit.live.state import State, number

@dataclass(frozen=True)
class Dial(State):
    level: float = number(0.5, 0, 1, "level", "How bright.")

def compute(state):
    return {
        "half": pictures.bars(["x"], [state.level / 2], "a bar"),
        "double": pictures.bars(["x"], [2 * state.level], "a bar"),
        "numbers": pictures.figures({"halved": (state.level / 2, ""), "doubled": (2 * state.level, "")}),
    }

def ask(name, hides=("double", "doubled"), **more):
    question = Question("What is twice the level?", ("a half", "two"), 1, "Twice 1.", then={"level": 1.0},
                        hides=hides)
    return Lab(name, "A dial", Dial(), compute, question=question, **more)
"""
NAMES = ("guess", "skip", "line", "sent")


@pytest.fixture(scope="module")
def page(open_notebook: Callable[..., Page]) -> Iterator[Page]:
    cells = [
        DIAL,
        *(f"ask('{name}')" for name in NAMES[:3]),
        "ask('sent', states=['sent?level=0.25'])",
        "ask('all', hides=('numbers',))",
        "two = ask('two')\ntwo",
        "two",
        "ask('silent')",
    ]
    opened = open_notebook("guess", *cells, wait_for=".labkit[data-lab='silent'] canvas")
    yield opened
    assert opened.watched.errors == []  # type: ignore[attr-defined]


def lab(page: Page, name: str) -> Locator:
    place = page.locator(f".labkit[data-lab='{name}']")
    place.scroll_into_view_if_needed()
    return place


def is_open(place: Locator) -> bool:
    """Whether the answer can be seen; what does not answer always can."""
    assert place.locator("[data-view='half'] canvas").is_visible()
    assert place.locator("li", has_text="halved").locator("span").is_visible()
    view = place.locator("[data-view='double'] canvas").is_visible()
    assert place.locator("li", has_text="doubled").locator("span").is_visible() == view
    return view


def test_a_guess_uncovers_the_answer_and_stays(page: Page) -> None:
    place = lab(page, "guess")
    assert not is_open(place)
    place.locator("input[type='range']").press("ArrowRight")
    assert not is_open(place), "a control does not answer for anybody"
    place.get_by_role("button", name="Reveal").click()
    assert not is_open(place), "nothing was guessed"
    place.get_by_label("a half").check()
    assert not is_open(place)
    place.get_by_role("button", name="Reveal").click()
    assert is_open(place)
    said = place.locator(".lk-question [role='status']")
    assert said.inner_text() == "Your guess: a half. Rather: two. Twice 1."
    assert said.evaluate("p => p === document.activeElement"), "a keyboard goes on from here"
    assert place.locator(".lk-line input").input_value() == "guess?level=1"


def test_nobody_has_to_guess(page: Page) -> None:
    place = lab(page, "skip")
    assert not is_open(place)
    place.get_by_role("button", name="Show without a guess").press("Enter")
    assert is_open(place)
    assert place.get_by_role("button", name="Show without a guess").count() == 0
    assert place.locator("[type='radio']").first.evaluate("r => r === document.activeElement")
    assert place.get_by_role("button", name="Reveal").is_visible(), "one may guess yet"
    assert place.locator(".lk-line input").input_value() == "skip?level=0.5"


def test_a_state_that_was_sent_shows_what_it_shows(page: Page) -> None:
    assert is_open(lab(page, "sent"))
    place = lab(page, "line")
    assert not is_open(place)
    line = place.locator(".lk-line input")
    line.fill("line?level=0.75")
    line.press("Enter")
    assert is_open(place)


def test_every_view_of_a_lab_knows_the_guess(page: Page) -> None:
    views = page.locator(".labkit[data-lab='two']")
    views.last.scroll_into_view_if_needed()
    assert views.count() == 2
    assert not is_open(views.first) and not is_open(views.last)
    views.first.get_by_label("two").check()
    views.first.get_by_role("button", name="Reveal").click()
    assert is_open(views.first) and is_open(views.last)
    words = [view.locator(".lk-question [role='status']").inner_text() for view in views.all()]
    assert words == ["Your guess: two. Yes. Twice 1."] * 2


def test_words_of_all_pictures_are_silent_while_the_lab_asks(page: Page) -> None:
    place = lab(page, "silent")
    half = place.locator("[data-view='half'] canvas")
    page.wait_for_timeout(300)  # words come when the picture stands still
    assert half.get_attribute("aria-label") == "half"
    place.get_by_role("button", name="Show without a guess").click()
    page.wait_for_timeout(300)
    assert half.get_attribute("aria-label") == "half. a bar"


def test_all_numbers_can_be_covered_at_once(page: Page) -> None:
    place = lab(page, "all")
    assert place.locator("li span").count() == 2
    assert all(span.is_hidden() for span in place.locator("li span").all())
    assert all(canvas.is_visible() for canvas in place.locator("canvas").all())
    place.get_by_role("button", name="Show without a guess").click()
    assert all(span.is_visible() for span in place.locator("li span").all())


def test_a_covered_lab_has_nothing_serious_for_axe(open_notebook: Callable[..., Page]) -> None:
    opened = open_notebook(
        "covered", DIAL, "ask('covered')", wait_for=".labkit[data-lab='covered'] canvas"
    )
    assert not is_open(lab(opened, "covered"))
    found = Axe().run(opened, context=".labkit")
    assert [
        v["id"] for v in found.response["violations"] if v["impact"] in ("serious", "critical")
    ] == []
