"""Notebook 06's verdicts: each rule holds where it should, and not a little beside it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from labkit.choosing import claims, plan

SETTING = plan.movies("smoke")
SHARES = [0.95, 0.6, 0.42, 0.31, 0.0]


def made(seeds: int = 5, **columns: Any) -> pd.DataFrame:
    """A table in which only what a test names differs: five gates, 3 points ahead of chance."""
    bill = SETTING.bill
    rows = []
    for seed in range(seeds):
        share = columns.get("share", SHARES)
        row: dict[str, Any] = {
            "seed": seed, "share": share, "experts": [60.0, 70.0, 65.0], "val_experts": [60.0, 70.0, 65.0],
            "chance": [60 + 10 * p for p in share], "score": [63 + 10 * p for p in share],
            "val": [63 + 10 * p for p in share], "soft": 73.0, "soft_madds": sum(bill.values()),
            "floor": 40.0,
            "madds": [bill["gate"] + (1 - p) * bill["cheap"] + p * bill["dear"] for p in share],
            "share_by_kind": {"easy": [p / 2 for p in share], "hard": [min(1, 2 * p) for p in share]},
        }  # fmt: skip
        rows.append(row | {k: v[seed] for k, v in columns.items() if k != "share"})
    return pd.DataFrame(rows)


def holds(claim: dict[str, Any]) -> bool:
    return claim.get("verdict") == "reproduced" or bool(claim.get("holds"))


def test_shares_fall_from_nearly_all_to_nobody() -> None:
    setting = SETTING
    assert holds(claims.falls(made(), "x", setting))
    for wrong in ([*SHARES[:-1], 0.01], [0.95, 0.4, 0.5, 0.3, 0.0]):
        assert claims.falls(made(share=wrong), "x", setting)["verdict"] == "not supported"
    fewer = claims.falls(made(share=[0.89, *SHARES[1:]]), "x", setting)
    assert fewer["verdict"] == "corrected", "without cost not everyone is sent"


def test_the_band_takes_gates_between_30_and_50_percent_or_the_nearest() -> None:
    assert claims.at_band(made(1)) == [[2, 3]]
    assert claims.at_band(made(1, share=[0.9, 0.7, 0.55, 0.1, 0.0])) == [[2]]


def test_chance_is_beaten_by_an_interval_above_0() -> None:
    assert holds(claims.beats_chance(made(), "x"))
    even = [[60 + 10 * p + gain for p in SHARES] for gain in (1.0, -1, 1, -1, 0.5)]
    assert claims.beats_chance(made(score=even), "x")["verdict"] == "not supported"
    below = made(experts=[[67.0, 70.0, 65.0]] + [[60.0, 70.0, 65.0]] * 4)
    assert claims.beats_chance(below, "x")["verdict"] == "not supported"
    assert claims.beats_chance(made(1), "x")["verdict"] == "not testable here"
    assert "+3.0 ± 0.0 points" in claims.beats_chance(made(), "x")["ours"]


def test_the_gate_that_saves_is_chosen_on_validation_and_judged_held_out() -> None:
    enough = [70.0, 69.8, 69.6, 62.0, 60.0]
    good = claims.saves(made(val=[enough] * 5, score=[enough] * 5), "x", SETTING)
    assert holds(good) and "0.4 points lost" in good["ours"]
    lucky = claims.saves(made(val=[enough] * 5, score=[[60.0] * 5] * 5), "x", SETTING)
    assert not holds(lucky) and "10.0 points lost" in lucky["ours"]
    none = claims.saves(made(val=[[50.0] * 5] * 5), "x", SETTING)
    assert not holds(none), "without a gate that fits, the dearest, which saves nothing"


def test_of_falling_weights_the_first_that_fails_ends_the_choice() -> None:
    again = [70.0, 69.8, 60.0, 69.9, 60.0]  # the fourth is lucky
    found = claims.saves(made(val=[again] * 5, score=[[70.0, 69.7, 1, 1, 1]] * 5), "x", SETTING)
    assert "0.3 points lost" in found["ours"]


def test_hard_ones_are_sent_in_every_seed() -> None:
    assert holds(claims.sees(made(), "x"))
    kinds = {"easy": [0.5] * 5, "hard": [0.4] * 5}
    usual = {"easy": [0.1] * 5, "hard": [0.4] * 5}
    assert not holds(claims.sees(made(share_by_kind=[usual] * 4 + [kinds]), "x"))
    three = {"plain": [0.1] * 5, "vague": [0.3] * 5, "sarcastic": [0.5] * 5}
    assert "40 against 10 %" in claims.sees(made(share_by_kind=[three] * 5), "x")["ours"]


@pytest.mark.parametrize(
    ("soft", "verdict"),
    [
        ([72.5] * 5, "reproduced"),
        ([71.0] * 5, "not supported"),
        ([70, 75, 70, 75, 72.5], "not testable here"),
    ],
)
def test_a_soft_gate_must_not_be_behind(soft: list[float], verdict: str) -> None:
    assert claims.soft(made(soft=soft), "x")["verdict"] == verdict


def test_at_the_same_price_chance_may_spend_what_the_gate_costs() -> None:
    bill = SETTING.bill
    ratios = [60 + 10 * r for r in claims.RATIOS]
    table = made(random=[ratios] * 5)
    dearer = (
        10 * bill["gate"] / (bill["dear"] - bill["cheap"])
    )  # points that chance buys with the gate's MAdds
    assert claims.gains_at_price(table, SETTING) == pytest.approx([3 - dearer] * 5)
    assert holds(claims.beats_chance_at_price(table, "x", SETTING))
    steep = made(random=[[60 + 100 * r for r in claims.RATIOS]] * 5)
    assert claims.beats_chance_at_price(steep, "x", SETTING)["verdict"] == "not supported"


def test_the_ledger_has_a_number_for_each_expert() -> None:
    found = claims.summary({"movies": made()})
    assert found["movies.dear"]["value"] == 70.0
    assert found["movies.gain_over_chance"]["seeds"] == pytest.approx([3.0] * 5)


@pytest.mark.parametrize(
    ("noisy", "verdict"), [([0.5, 0.45], "reproduced"), ([0.5, 0.35], "not supported")]
)
def test_noise_is_noticed_if_more_are_sent_in_every_seed(noisy: list[float], verdict: str) -> None:
    frame = pd.DataFrame({
        "seed": [0, 1], "share": [0.4, 0.4], "cheap": [70.0, 70.0], "noisy_share": noisy,
        "noisy_cheap": [60.0, 58.0], "blank_share": [0.8, 0.8],
    })  # fmt: skip
    found = claims.notices(frame, "x")
    assert found["verdict"] == verdict
    harmless = claims.notices(frame.assign(noisy_cheap=[70.0, 69.0]), "x")
    assert harmless["verdict"] == "not testable here", "nothing to notice"
    assert "40 % before" in found["ours"] and "11 points; 80 %" in found["ours"]
