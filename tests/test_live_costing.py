"""Labs of what a choice costs: the paper's constants to the last digit, and a clock that is read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from labkit import madds
from labkit.choosing import spending
from labkit.live import costing
from labkit.live.lab import Lab
from labkit.live.pictures import metrics
from labkit.live.still import still

MEASURED = {  # MAdds of a path and its gate by the paper's count, and the paper's constant in millions
    ("MM-IMDB", "E1"): (1_252_608, 1.25261), ("MM-IMDB", "E2"): (10_869_080, 10.86908),
    ("MOSEI", "E1"): (135_132_264, 135.13226), ("MOSEI", "E2"): (320_032_048, 320.03205),
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "bill": {"network": "MOSEI", "path": "both", "attention": True, "gate": False, "norms": False},
    "clock": {"share": 0.6, "rows": "32"},
}
BUILD: dict[str, Callable[..., Lab]] = {"bill": costing.bill, "clock": costing.clock}


def shown(lab: Lab, **state: Any) -> dict[str, Any]:
    return dict(lab.compute(lab.kind(**state)))


@pytest.mark.parametrize("name", BUILD)
def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costing, "clocked", lambda rows: spending.clocked(rows, 0.1))
    lab = BUILD[name]()
    assert lab.spec["name"] == name and not lab.error
    assert CHANGES[name].keys() == {control["name"] for control in lab.spec["controls"]}
    first = lab.metrics
    lab.set(**CHANGES[name])
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = BUILD[name](states=[lab.line])
    assert again.line == lab.line
    assert again.metrics == lab.metrics != first
    assert all(control["help"] for control in lab.spec["controls"])
    for values in lab.kind.PRESETS.values():
        assert {*values} <= CHANGES[name].keys()
        lab.set(**values)
        assert not lab.error
    lab.set(**lab.spec["question"]["then"])
    found = lab.flush()
    assert still(found, name)[:4] == b"\x89PNG"
    assert all(p["alt"] for p in found.values() if p["kind"] != "figures")
    with pytest.raises(ValueError, match="must be one of"):
        lab.set(**{"bill": {"network": "NYU"}, "clock": {"rows": "33"}}[name])


# The bill -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "path"), MEASURED)
def test_the_bill_is_the_papers_to_the_last_digit(network: str, path: str) -> None:
    wanted, constant = MEASURED[network, path]
    found = metrics(shown(costing.bill(), network=network, path=path))
    assert found["total"] == wanted
    assert found["the paper"] == round(1e6 * constant) and round(wanted / 1e6, 5) == constant


def test_a_soft_gate_costs_11_56_and_the_paper_counts_its_gate_twice() -> None:
    lab = costing.bill()
    found = metrics(shown(lab, network="MM-IMDB", path="both"))
    assert found["total"] == 11_558_744 and found["total"] + found["gate"] == 12_121_688
    assert found["the paper"] == 12_100_000
    assert "the paper" not in metrics(shown(lab, network="MOSEI", path="both"))


def test_toggles_count_what_they_say() -> None:
    lab = costing.bill()
    for path, attention in (("E1", 17_400_000), ("E2", 39_900_000), ("both", 57_300_000)):
        plain, counted = (
            metrics(shown(lab, network="MOSEI", path=path, attention=on)) for on in (False, True)
        )
        assert counted["total"] - plain["total"] == attention + 350_000
        assert plain["attention"] == counted["attention"] == attention + 350_000
    movies = {"network": "MM-IMDB"}
    full, gateless = (metrics(shown(lab, gate=on, **movies))["total"] for on in (True, False))
    assert full - gateless == 562_944
    assert full - metrics(shown(lab, norms=False, **movies))["total"] == 13_912
    parts = shown(lab, network="MOSEI", path="E2", attention=True)
    bars = parts["by part, million MAdds; ticks: as the paper counts"]
    assert bars["names"] == ["E2 vision", "E2 audio", "E2 text", "E2 head", "gate"]
    assert 1e6 * float(bars["values"].sum()) == pytest.approx(metrics(parts)["total"], rel=1e-6)
    assert float(bars["marks"].sum()) == pytest.approx(320.032048, rel=1e-6)


# The clock ----------------------------------------------------------------------------------------


def test_the_clock_is_read_once_and_promises_what_madds_do() -> None:
    times = spending.clocked(32, 0.1)
    assert times is spending.clocked(32, 0.1)
    assert len(times.routed) == len(times.promised) == len(spending.SHARES)
    assert min(times.everyone, *times.routed) > 0
    bills = spending.bills()["MM-IMDB"]
    cheap, dear, gate = (madds.total(bills[name]) for name in ("E1", "E2", "gate"))
    assert times.promised[0] / times.everyone == pytest.approx(
        (gate + cheap) / (gate + cheap + dear)
    )
    assert times.promised[-1] / times.everyone == pytest.approx(
        (gate + dear) / (gate + cheap + dear)
    )


def test_the_lab_shows_the_times_on_lines_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    routed = 10.0 + 100 * np.array(spending.SHARES)
    times = spending.Times(80.0, routed, 0.8 * routed)
    monkeypatch.setattr(costing, "clocked", lambda rows: times)
    found = metrics(shown(costing.clock(), share=0.3))
    assert found["routed"] == pytest.approx(40.0) and found["everybody"] == 80.0
    assert found["faster"] == pytest.approx(2.0) and found["promised"] == pytest.approx(80 / 32)
    assert found["break-even"] == pytest.approx(0.7)
    assert costing.break_even(routed, 300.0) is None
    assert costing.break_even(routed, 5.0) == 0.0
