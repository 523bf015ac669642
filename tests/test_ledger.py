"""Claims, metrics, the bundle with its schema, and the tables made of it."""

from __future__ import annotations

import copy
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labkit import LabkitError, bundle, ledger, tables


@pytest.fixture
def open_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ledger.Session:
    monkeypatch.setenv("LABKIT_FIGURES", str(tmp_path))
    return ledger.session("01_tiny", preset="smoke", seeds=(0, 1), device="cpu", state={"k": 0.5})


def claim(id: str = "tiny.order", **changes: Any) -> ledger.Claim:
    given: dict[str, Any] = {"source": "Table 1", "paper": 0.9, "ours": 0.8, "holds": True}
    return ledger.claim(id, "More is better.", **{**given, **changes})


def test_results_store_exactly_the_promised_keys(
    open_session: ledger.Session, tmp_path: Path
) -> None:
    claim(note="one seed")
    shown = ledger.results({"accuracy": ledger.metric([0.5, 0.7], "fraction"), "n": 3})
    assert shown.path == tmp_path / "results" / "01_tiny.smoke.procedural.json"
    stored = json.loads(shown.path.read_text())
    assert stored == shown.bundle
    assert set(stored) == {"claims", "metrics", "state", "provenance"}
    assert stored["claims"] == [
        {
            "id": "tiny.order",
            "text": "More is better.",
            "source": "Table 1",
            "paper": 0.9,
            "ours": 0.8,
            "verdict": "reproduced",
            "note": "one seed",
        }
    ]
    assert stored["metrics"]["accuracy"] == {
        "value": pytest.approx(0.6, abs=1e-12),
        "unit": "fraction",
        "seeds": [0.5, 0.7],
        "spread": pytest.approx(math.sqrt(0.02), abs=1e-12),
    }
    assert stored["metrics"]["n"] == {"value": 3, "unit": "", "seeds": [3], "spread": None}
    assert stored["state"] == {"k": 0.5}
    assert set(stored["provenance"]) == set(bundle.PROVENANCE["required"])
    assert stored["provenance"]["threads"] == 1
    assert stored["provenance"]["versions"]["torch"] == torch.__version__
    assert list(tmp_path.joinpath("results").iterdir()) == [shown.path]


def test_session_sets_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_THREADS", "2")
    opened = ledger.session("tiny", preset="quick")
    assert opened.provenance["threads"] == torch.get_num_threads() == 2


def test_session_prints_one_line_of_provenance(capsys: pytest.CaptureFixture[str]) -> None:
    opened = ledger.session("tiny", preset="quick", source="real", seeds=(0, 1), device="cpu")
    printed = capsys.readouterr().out
    assert printed == f"{opened}\n"
    assert printed.startswith("tiny · quick · real · seeds 0, 1 · cpu · ")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"preset": "fast"}, "preset must be one of .*, got 'fast'"),
        ({"seeds": ()}, "seeds"),
        ({"notebook": "a/b"}, "a/b"),
    ],
)
def test_session_names_a_wrong_value(changes: dict[str, Any], complaint: str) -> None:
    given = {"notebook": "tiny", "preset": "smoke", "device": "cpu", **changes}
    with pytest.raises(LabkitError, match=complaint):
        ledger.session(**given)


def test_claims_and_results_need_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_session", None)
    with pytest.raises(LabkitError, match=r"ledger\.session"):
        claim()
    with pytest.raises(LabkitError, match=r"ledger\.session"):
        ledger.results({})


def test_a_new_session_forgets_claims_and_the_same_id_replaces(
    open_session: ledger.Session,
) -> None:
    claim("a", holds=True)
    claim("b", holds=np.bool_(False))
    claim("a", verdict="corrected")
    verdicts = {c["id"]: c["verdict"] for c in ledger.results({}).bundle["claims"]}
    assert verdicts == {"a": "corrected", "b": "not supported"}
    ledger.session("01_tiny", preset="smoke", device="cpu")
    assert ledger.results({}).bundle["claims"] == []


def test_a_claim_that_is_not_kept_is_judged_and_no_more(
    open_session: ledger.Session,
) -> None:
    shown = ledger.claim("a.b", "x", source="s", paper=1, ours=2, holds=True, keep=False)
    assert shown.verdict == "reproduced"
    kept = ledger.claim("a.c", "x", source="s", paper=1, ours=2, holds=False)
    with pytest.raises(LabkitError, match="give holds=True"):
        ledger.claim("a.d", "x", source="s", paper=1, ours=2, keep=False)
    assert [*open_session.claims.values()] == [kept]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"holds": None}, "holds=True or holds=False"),
        ({"verdict": "true"}, "'reproduced', 'corrected', 'not supported', 'not testable here'"),
        ({"ours": float("nan")}, "'tiny.order': ours is nan"),
        ({"ours": object()}, "ours: object cannot be stored"),
        ({"source": ""}, "source"),
        ({"id": "Not Dotted"}, "id"),
    ],
)
def test_claim_refuses(
    changes: dict[str, Any], complaint: str, open_session: ledger.Session
) -> None:
    with pytest.raises(LabkitError, match=complaint):
        claim(**changes)


@pytest.mark.parametrize("bad", [math.nan, math.inf, [0.5, -math.inf]])
def test_a_metric_that_is_not_finite_is_named_and_nothing_is_written(
    bad: Any, open_session: ledger.Session, tmp_path: Path
) -> None:
    with pytest.raises(LabkitError, match="Metric 'elbo': .* (nan|inf|-inf)"):
        ledger.results({"fine": 1.0, "elbo": ledger.metric(bad, "nats")})
    assert not (tmp_path / "results").exists()


def test_a_metric_that_is_no_record_is_named(open_session: ledger.Session) -> None:
    with pytest.raises(LabkitError, match=r"Metric 'elbo': must contain \['unit'\]"):
        ledger.results({"elbo": {"value": 1.0, "seeds": [1.0], "spread": None}})


@pytest.mark.parametrize("values", [[1.0, 3.0], torch.tensor([1.0, 3.0]), np.array([1, 3])])
def test_metric_is_mean_and_sample_deviation(values: Any) -> None:
    made = ledger.metric(values, "s")
    assert made == {
        "value": 2.0,
        "unit": "s",
        "seeds": [1.0, 3.0],
        "spread": pytest.approx(math.sqrt(2), abs=1e-12),
    }


def test_metric_of_one_number_has_no_spread_and_of_none_is_an_error() -> None:
    assert ledger.metric(torch.tensor(2.0)) == {
        "value": 2.0,
        "unit": "",
        "seeds": [2.0],
        "spread": None,
    }
    with pytest.raises(LabkitError, match="no value"):
        ledger.metric([])


def test_figures_go_to_the_cache_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_FIGURES", str(tmp_path))
    assert ledger.figures_dir() == tmp_path
    monkeypatch.delenv("LABKIT_FIGURES")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    assert ledger.figures_dir() == tmp_path / "cache" / "figures"


def test_the_display_has_text_html_and_the_bundle(open_session: ledger.Session) -> None:
    ledger.claim("a", "A < B", source="<i>", paper="<b>", ours=[1, 2.5], holds=True, note="<u>")
    shown = ledger.results({"accuracy": 0.5})
    mime = shown._repr_mimebundle_()
    assert set(mime) == {"text/plain", "text/html", "application/vnd.labkit.results+json"}
    assert mime["application/vnd.labkit.results+json"] == shown.bundle
    caution = (
        "2 seeds: these verdicts are indications. "
        "A verdict of record needs three seeds or more (preset full)."
    )
    assert f"<p>{caution}</p>" in mime["text/html"]
    assert mime["text/plain"] == (
        f"{caution}\n\n"
        "claim  paper  ours    verdict\n"
        "-----  -----  ------  ------------\n"
        "A < B  <b>    1, 2.5  ✓ reproduced\n"
        "\n"
        "metric    value  ± sd  unit  seeds\n"
        "--------  -----  ----  ----  -----\n"
        "accuracy  0.5    –     –     1"
    )
    for text in ("A &lt; B", "&lt;i&gt;", "&lt;b&gt;", "&lt;u&gt;"):
        assert text in mime["text/html"]


class _Tags(HTMLParser):
    """Collects the tags of a fragment and whether they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(" ".join([tag, *(f"{k}={v}" for k, v in attrs if k == "scope")]))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_html_is_a_table_that_a_screen_reader_can_walk(open_session: ledger.Session) -> None:
    for number, verdict in enumerate(bundle.VERDICTS):
        claim(f"c{number}", verdict=verdict, holds=None)
    text = tables.html(ledger.results({"accuracy": 0.5}).bundle)
    tags = _Tags(text)
    assert tags.open == []
    assert tags.seen.count("caption") == 2
    assert tags.seen.count("th scope=col") == 4 + 5
    assert tags.seen.count("th scope=row") == 4 + 1
    for verdict in bundle.VERDICTS:  # the word stands there, the symbol is decoration
        assert f"</span> {verdict}</span>" in text
    assert text.count('aria-hidden="true"') == 4


@pytest.mark.parametrize("count", [tables.MANY, tables.MANY + 1])
def test_many_metrics_are_folded_and_claims_are_not(
    open_session: ledger.Session, tmp_path: Path, count: int
) -> None:
    claim("c", verdict="reproduced", holds=None)
    made = ledger.results({f"m{i}": 0.5 for i in range(count)}).bundle
    text, page = tables.html(made), tables.markdown([made])
    assert _Tags(text).open == []
    if count == tables.MANY:
        assert "details" not in text and "details" not in page
        return
    before, folded = text.split(f"<details><summary>{count} metrics</summary>")
    assert "Claims" in before and folded.endswith("</details>") and ">m0<" in folded
    assert f"<details>\n<summary>{count} metrics</summary>\n\n| metric |" in page
    assert "| 1 |\n\n</details>\n" in page and page.index("reproduced |") < page.index("<details>")


def test_badges_can_be_read_and_told_apart_without_colour() -> None:
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    assert set(tables._BADGES) == set(bundle.VERDICTS)
    symbols = {symbol for symbol, _, _ in tables._BADGES.values()}
    assert len(symbols) == len(tables._BADGES)
    for _, back, fore in tables._BADGES.values():
        dark, light = sorted([luminance(back), luminance(fore)])
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


def test_the_ledger_page_groups_runs_and_counts_verdicts(
    open_session: ledger.Session, tmp_path: Path
) -> None:
    claim("a", holds=True)
    claim("b", holds=False, ours="a | b")
    ledger.results({"accuracy": ledger.metric([0.5, 0.7], "fraction")})
    ledger.session("01_tiny", preset="full", source="real", device="cpu")
    ledger.results({})
    ledger.session("00_first", preset="quick", device="cpu")
    ledger.results({})
    ledger.write_markdown(tmp_path / "results", tmp_path / "ledger.md")
    page = (tmp_path / "ledger.md").read_text()
    heads = [line for line in page.splitlines() if line.startswith("#")]
    assert heads == [
        "# Ledger",
        "## 00_first",
        "### quick, procedural",
        "## 01_tiny",
        "### smoke, procedural",
        "### full, real",
    ]
    assert "| 01_tiny | smoke | procedural | 1 | 0 | 1 | 0 |" in page
    assert "| More is better. | Table 1 | 0.9 | a \\| b | ✗ not supported |" in page
    assert "| accuracy | 0.6 | 0.1414 | fraction | 2 |" in page


def test_a_bundle_that_lost_a_key_is_refused_on_reading(
    open_session: ledger.Session, tmp_path: Path
) -> None:
    shown = ledger.results({"accuracy": 0.5})
    for key in shown.bundle:
        damaged = copy.deepcopy(shown.bundle)
        del damaged[key]
        shown.path.write_text(json.dumps(damaged))
        with pytest.raises(LabkitError, match=rf"{shown.path.name}: must contain \['{key}'\]"):
            bundle.read(shown.path)
    shown.path.write_text("{")
    with pytest.raises(LabkitError, match="is not JSON"):
        bundle.read(shown.path)
