"""A lab: one state, one pure function from state to pictures, and a page that shows them.

The page computes the pictures itself where it can (`page=`, from `assets`); the kernel computes them for
the rest, for headless runs, for the still, and for whatever is saved with the notebook. Both ways are
one function of the same `State`, in two languages, and tests hold them equal.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

from labkit.drawing import embedded
from labkit.ledger import metric
from labkit.live.decoder import Assets
from labkit.live.learning import Learner
from labkit.live.pictures import Picture, inline, metrics, packed
from labkit.live.state import State
from labkit.live.still import still

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("decoder.js", "draw.js", "labs.js", "view.js")

# `Lab.guess` without one: none yet, and what answers is covered; refused, or nothing was hidden.
ASKED, SHOWN = -2, -1

Compute = Callable[[Any], Mapping[str, Picture]]


@functools.cache
def script() -> str:
    """The page's modules as one: imports between them are dropped, and what they export."""
    lines = [
        line.removeprefix("export ") if not line.startswith("export default") else line
        for name in SCRIPTS
        for line in (PAGE / name).read_text(encoding="utf-8").splitlines()
        if not line.startswith("import ")
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Question:
    """Predict, then reveal.

    Args:
        text: What is asked.
        options: Answers to choose from.
        answer: Index of the right one.
        why: What to say beside the guess once it is made.
        then: Fields of the state to set then, so that the answer is seen.
        hides: Names of pictures, and of numbers, that would answer before anybody has guessed: the page
            covers them until a guess is made or refused, unless the lab opens at a state of its own.
    """

    text: str
    options: tuple[str, ...]
    answer: int
    why: str
    then: Mapping[str, Any] = field(default_factory=dict)
    hides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gesture:
    """What a pointer on a view sets.

    Args:
        fields: Pairs of state fields: (x, y) of each handle of a plane, or (row, column) of images.
        says: What the gesture does, for assistive technology.
        hover: A pointer without a button pressed shows what it would set, and sets nothing.
    """

    fields: tuple[tuple[str, str], ...]
    says: str
    hover: bool = False


class Lab(anywidget.AnyWidget):
    """A live lab, ready to be the last line of a cell.

    Attributes:
        pictures: What is shown, as it travels to the page; `flush()` returns it as arrays.
        error: What went wrong, as the page's error box says it; empty = nothing.
        guess: The answer that was chosen, as an index; -1 = shown without one; -2 = not yet.
        progress: Of a training that the lab watches: is it ``running``, and what to say (``text``).
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode((PAGE / "style.css").read_text(encoding="utf-8")).tag(sync=True)
    spec = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    pictures = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    guess = traitlets.Int(ASKED).tag(sync=True)
    progress = traitlets.Dict({"running": False, "text": ""}).tag(sync=True)

    learner: Learner | None = None
    _open: ClassVar[dict[str, Lab]] = {}

    def __init__(
        self,
        name: str,
        title: str,
        initial: State,
        compute: Compute,
        *,
        page: str | None = None,
        assets: Assets | None = None,
        facts: Mapping[str, Any] | None = None,
        gestures: Mapping[str, Gesture] | None = None,
        question: Question | None = None,
        states: Sequence[str] = (),
        learner: Learner | None = None,
    ) -> None:
        """Open a lab; one of the same name that was open before is closed.

        Args:
            name: Short name, the first word of its state lines.
            title: What stands above it.
            initial: Where it starts.
            compute: State -> view name -> picture (see `labkit.live.pictures`); pure.
            page: Name of the function in page/labs.js that computes the same; None = the kernel does.
            assets: Arrays and nets that function needs.
            facts: Plain values that function needs.
            gestures: View name -> what a pointer on it sets.
            question: To be answered before what would answer it is shown.
            states: State lines, as copied from labs; the one of this lab, if any, is where it starts.
            learner: Trains the model anew when the page's button is pressed.

        Raises:
            ValueError: if the state line is wrong; the message names the field. Or if the question hides
                what this lab does not show.
        """
        if (page is None) != (assets is None):
            raise ValueError("page and assets go together: give both, or neither")
        self.kind = type(initial)
        self.compute = compute
        self.assets = assets
        self.learner = learner
        self._lock = threading.Lock()
        self._newest: dict[str, int] = {}  # by view: one lab may be shown twice
        start = initial
        for line in states:
            lab, _, query = line.partition("?")
            start = self.kind.from_query(query) if lab == name else start
        controls = self.kind.controls()
        for control in controls:  # Reset goes back to where this lab started
            control["default"] = getattr(initial, control["name"])
        spec = {
            "name": name,
            "title": title,
            "controls": controls,
            "presets": {key: dict(values) for key, values in self.kind.PRESETS.items()},
            "page": page,
            "facts": dict(facts or {}),
            "gestures": {view: asdict(g) for view, g in (gestures or {}).items()},
            "question": asdict(question) if question else None,
            "trains": learner is not None,
        }
        super().__init__(
            _esm=script(),
            spec=spec,
            state=asdict(start),
            guess=ASKED if start == initial else SHOWN,
        )
        self._show()
        if question is not None and start == initial and not self.error:
            _check_hides(question.hides, self.pictures)
        self.observe(lambda _: self._show(), "state")
        self.on_msg(self._receive)
        before = Lab._open.pop(name, None)
        if before is not None:
            before.close()
        Lab._open[name] = self

    # State ------------------------------------------------------------------------------------

    @property
    def now(self) -> State:
        """The state as a checked record."""
        return self.kind.from_dict(self.state)

    def set(self, **changes: Any) -> None:
        """Change fields of the state, as a control would, and show all; a wrong value raises ValueError."""
        self.state = asdict(replace(self.now, **changes))
        self.guess = max(self.guess, SHOWN)

    def reset(self) -> None:
        """Go back to where the lab started."""
        self.state = {control["name"]: control["default"] for control in self.spec["controls"]}

    @property
    def line(self) -> str:
        """The state line: what the page's `Copy state` gives and `states=[...]` takes."""
        return f"{self.spec['name']}?{self.now.to_query()}"

    def flush(self) -> dict[str, Picture]:
        """The pictures of the current state, as arrays. Raises what `compute` raises."""
        return dict(self.compute(self.now))

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that the pictures show now."""
        return metrics(self.flush())

    # The page ---------------------------------------------------------------------------------

    def _show(self) -> None:
        """Keep `pictures` at the current state: for the still, and for what is saved."""
        try:
            travelling = inline(self.flush())
        except Exception as error:
            self.error = _say(error)
            if os.environ.get("LABKIT_STRICT") == "1":
                raise
        else:
            with self.hold_sync():
                self.error = ""
                self.pictures = travelling

    def _receive(self, _: Any, content: Mapping[str, Any], buffers: list[Any]) -> None:
        """Messages of the page: `ask` for pictures, `assets` to compute them itself, `ping`."""
        if content["type"] == "ping":
            self.send({"type": "pong", "seq": content["seq"]})
        elif content["type"] == "assets" and self.assets is not None:
            routine = (PAGE / "simd.wasm").read_bytes()
            self.send(
                {"type": "assets", "manifest": self.assets.manifest},
                [self.assets.buffer, routine],
            )
        elif content["type"] in ("train", "stop") and self.learner is not None:
            self.learner.start(self) if content["type"] == "train" else self.learner.stop()
        elif content["type"] == "ask":
            self._answer(content["view"], content["seq"], content["state"])

    def _answer(self, view: str, seq: int, state: Mapping[str, Any]) -> None:
        """Answer one request; one that a newer one has overtaken is answered without work."""
        with self._lock:
            newest = self._newest.get(view, 0)
            stale, self._newest[view] = seq < newest, max(seq, newest)
        reply: dict[str, Any] = {"type": "answer", "view": view, "seq": seq, "state": dict(state)}
        buffers: list[bytes] = []
        try:
            if not stale:
                pictures = self.compute(self.kind.from_dict(state))
                reply["pictures"], data = packed(pictures)
                buffers.append(data)
        except Exception as error:
            reply["error"] = _say(error)
            self.send(reply)
            if os.environ.get("LABKIT_STRICT") == "1":
                raise
        else:
            self.send(reply, buffers)

    def swap(self, compute: Compute, assets: Assets) -> None:
        """Go over to another model of the same shape (a snapshot of one that learns)."""
        self.compute, self.assets = compute, assets
        self.send({"type": "weights", "manifest": assets.manifest}, [assets.buffer])
        self._show()

    def close(self) -> None:
        """Free what the kernel and the page keep of this lab, its layout included."""
        if self.learner is not None:
            self.learner.stop()
        self.layout.close()
        super().close()

    # Without a page ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Lab({self.line})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and a still of its current state for pages in which no widget runs."""
        made: Any = super()._repr_mimebundle_(**kwargs)
        bundle, meta = made if isinstance(made, tuple) else (made or {}, {})
        shown = self.flush()
        data = still(shown, self.spec["title"], f"State: {self.line}.")
        alt = f"{self.spec['title']}. " + next((p["alt"] for p in shown.values() if p["alt"]), "")
        return {**bundle, "text/plain": repr(self), "text/html": embedded(data, alt, 960)}, meta


def _check_hides(hides: Sequence[str], pictures: Mapping[str, Any]) -> None:
    rows = [row["name"] for p in pictures.values() if p["kind"] == "figures" for row in p["rows"]]
    shown = [*pictures, *rows]
    for name in hides:
        if name not in shown:
            raise ValueError(
                f"hides must name what the lab shows, got {name!r}; it shows {', '.join(shown)}"
            )


def _say(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def numbers(*labs: Lab) -> dict[str, dict[str, Any]]:
    """What the labs show at their states, for the bundle of a notebook: ``lab.<name>.<number>``."""
    return {
        f"lab.{lab.spec['name']}.{row['name'].replace(' ', '_')}": metric(row["value"], row["unit"])
        for lab in labs
        for picture in lab.flush().values() if picture["kind"] == "figures"
        for row in picture["rows"]
    }  # fmt: skip
