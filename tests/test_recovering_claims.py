"""Notebook 05's verdicts: each rule holds where it should, and not a little beside it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from labkit.recovering import claims
from labkit.recovering.plan import FILLS, WAYS


def made(**means: list[float]) -> pd.DataFrame:
    """A table in which only what a test names differs: accuracies of ways, one a seed."""
    rows = []
    for way in WAYS:
        values = means.get(way.replace(" ", "_").replace(",", "").replace("-", "_"), [60.0] * 3)
        for seed, value in enumerate(values):
            rates = [[value - 3 * step] * 2 for step in range(8)]
            rows.append(
                {
                    "way": way,
                    "seed": seed,
                    "mean": value,
                    "random": rates,
                    "fixed": [value] * 6 + [80.0],
                }
            )
    return pd.DataFrame(rows)


def gap(**columns: list[float]) -> pd.DataFrame:
    """As `made`: ``class_prior_swd=[...]``."""
    rows = []
    for way in FILLS[1:-1]:
        row: dict[str, Any] = {"swd": 0.5, "cosine": 0.1, "spread": 1.0, "agreement": 30.0}
        for seed in range(3):
            name = way.replace(" ", "_").replace(",", "").replace("-", "_")
            changed = {c: columns[f"{name}_{c}"][seed] for c in row if f"{name}_{c}" in columns}
            rows.append({"way": way, "seed": seed, **row, **changed})
    return pd.DataFrame(rows)


def test_a_prior_needs_its_margins_in_every_seed() -> None:
    enough = {"class_prior": [72.0, 71, 70], "single_prior": [60.0, 60, 60]}
    agrees = gap(class_prior_agreement=[61.0, 62, 63])
    assert claims.priors(made(**enough), agrees)["holds"]
    assert not claims.priors(made(**enough | {"class_prior": [72.0, 71, 69.9]}), agrees)["holds"]
    assert not claims.priors(made(**enough), gap(class_prior_agreement=[61.0, 62, 59]))["holds"]


@pytest.mark.parametrize(
    ("claim", "good", "bad", "says"),
    [
        (claims.mixing, {"class_prior": [71.0] * 3}, {"class_prior": [71.0, 71, 69]}, "corrected"),
        (claims.filling, {"class_prior": [68.0] * 3}, {"class_prior": [68.0, 68, 67.9]}, True),
        (claims.rates, {"class_prior": [61.0] * 3}, {"class_prior": [61.0, 61, 60]}, True),
    ],
)
def test_margins_against_one_other_way(claim: Any, good: Any, bad: Any, says: Any) -> None:
    def verdict(found: dict[str, Any]) -> Any:
        return found.get("verdict", found.get("holds"))

    assert verdict(claim(made(**good))) == says
    assert verdict(claim(made(**bad))) in ("not supported", False)


def test_a_curve_that_rises_is_not_a_curve_that_falls() -> None:
    table = made(class_prior=[70.0] * 3)
    rows = table["way"] == "class prior"
    table.loc[rows, "random"] = table.loc[rows, "random"].map(
        lambda rates: [*rates[:4], rates[2], *rates[5:]]
    )
    assert not claims.rates(table)["holds"]


def test_a_gap_needs_a_third_in_every_seed() -> None:
    assert claims.gap(gap(class_prior_swd=[0.16, 0.1, 0.1]))["holds"]
    assert not claims.gap(gap(class_prior_swd=[0.17, 0.1, 0.1]))["holds"]


def test_after_the_last_stage_the_rule_is_the_same() -> None:
    assert claims.last_stage(gap(class_prior_tuned_swd=[0.16, 0.1, 0.1]))["holds"]
    late = gap(class_prior_swd=[0.1] * 3, class_prior_tuned_swd=[0.17, 0.1, 0.1])
    assert not claims.last_stage(late)["holds"]


def test_pairing_has_to_close_half_of_the_distance() -> None:
    table = {"class_prior": [70.0] * 3, "single_prior": [60.0] * 3}
    assert claims.pairing(made(**table, single_prior_paired=[65.0] * 3), gap())["holds"]
    assert not claims.pairing(made(**table, single_prior_paired=[65.0, 65, 64.9]), gap())["holds"]


def test_a_flows_own_answer_may_be_three_points_behind() -> None:
    def found(rate: float) -> bool:
        insides = {"class prior": [{"classify": [rate] * 6 + [0.0]}] * 3}
        return bool(claims.own_answer(insides, made(class_prior=[70.0] * 3))["holds"])

    assert found(67.0)
    assert not found(66.9)


def test_other_ways_are_beaten_by_an_interval_above_0() -> None:
    def verdicts(table: pd.DataFrame, name: str) -> set[str]:
        found = claims.against(table, name, 4.0)
        ways = ("zeros", "regression", "mvae", "modality_dropout")
        tuned = ("modality_dropout", "half_identity_tuned")
        assert [claim["id"].split(".")[2] for claim in found] == [
            *(f"against_{way}" for way in ways), *(f"tuned_against_{way}" for way in tuned)
        ]  # fmt: skip
        return {claim["verdict"] for claim in found}

    ahead = [63.0, 63.5, 64]
    assert verdicts(made(class_prior=ahead, class_prior_tuned=ahead), "UTD-MHAD") == {"reproduced"}
    assert verdicts(made(class_prior=[59.0, 61, 64]), "MOSI") == {"not supported"}
    assert verdicts(made().query("seed == 0"), "MOSI") == {"not testable here"}
    behind = claims.against(made(class_prior=[61.0] * 3, modality_dropout=[63.0] * 3), "MOSI", 4.0)
    assert "61.0 against 63.0 %: -2.0 ± 0.0" in behind[3]["ours"]
    tuned = made(class_prior_tuned=[62.0, 63, 64], half_identity_tuned=[61.0, 62, 63])
    *_, dropout, released = claims.against(tuned, "actions", 4.0)
    assert "63.0 against 60.0 %: +3.0" in dropout["ours"]
    assert "63.0 against 62.0 %: +1.0 ± 0.0" in released["ours"]


def test_the_released_flow_is_half_an_identity_and_one_affine_map() -> None:
    found = claims.half_passes()
    assert found["unchanged"] == 16
    assert found["bend"] < 1e-10
    assert claims.collapse(found)["verdict"] == "corrected"
    assert claims.collapse({"unchanged": 0.0, "bend": 1e-12})["verdict"] == "not supported"
    assert claims.collapse({"unchanged": 16.0, "bend": 0.1})["verdict"] == "not supported"


def test_asked_for_nothing_missing_the_released_rule_hides_two_thirds() -> None:
    claim = claims.rule_of_batches()
    assert claim["verdict"] == "corrected"
    assert "asked for 0.0: 66.1 % missing" in claim["ours"]
