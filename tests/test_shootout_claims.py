"""Claims of notebook 09: each verdict follows its rule, and turns where the rule says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from labkit import bundle
from labkit.ledger import VERDICTS
from labkit.shootout import claims
from labkit.shootout.plan import PREDICTOR, Setting
from labkit.shootout.reading import OVERALL, SCORES

YES, NO, UNKNOWN = "reproduced", "not supported", "not testable here"
TWICE = claims.TRAINED_TWICE
choosing = partial(claims.choosing, cheap="rgb")
PLAIN = {
    "nearest mean": 30.0, "rgb alone": 50.0, "flow alone": 40.0, "rgb taught": 52.0, "flow taught": 42.0,
    **dict.fromkeys(TWICE, 70.0), "DynMM": 70.0, "DiCMoR": 71.0,
}  # fmt: skip
Changes = Mapping[tuple[str, str], float | Sequence[float]]


def ours(claim: dict[str, Any]) -> str:
    """What was found, without how many seeds agree."""
    return str(claim["ours"]).partition("; so in ")[0]


def scores(seeds: int = 3, changes: Changes | None = None) -> pd.DataFrame:
    """Rows as of `reading.scores`: all methods alike, trained on gaps 10 points better where some is missing.

    Args:
        seeds: How many.
        changes: (entry, column) -> its value, or one a seed.
    """
    entries = {
        **{name: dict.fromkeys(SCORES, value) for name, value in PLAIN.items()},
        **{f"{way}, gaps": dict.fromkeys(SCORES, 70.0) | {"missing": 80.0}
           for way in (*TWICE, "DynMM", "DiCMoR")},
        "MISA, bare, gaps": dict.fromkeys(SCORES, 69.0) | {"missing": 79.0},
        "regression": dict.fromkeys(SCORES, 70.0), "paired flows": dict.fromkeys(SCORES, 70.0),
        "early, long, gaps": dict.fromkeys(SCORES, 69.0),
        "X-Norm, long, gaps": dict.fromkeys(SCORES, 70.0), "MVAE": dict.fromkeys(SCORES, 65.0),
    }  # fmt: skip
    rows = [
        {
            "data": "clips", "way": entry.removesuffix(", gaps"), "gaps": entry.endswith((", gaps", "MVAE")),
            "seed": seed, **values, OVERALL: float(np.mean([*values.values()])), "floor": 12.5,
            "madds": {"DynMM, gaps": 50.0, "rgb alone": 20.0}.get(entry, 100.0), "weights": 1000.0,
            "entry": entry,
        }
        for entry, values in entries.items() for seed in range(seeds)
    ]  # fmt: skip
    found = pd.DataFrame(rows)
    for (entry, column), value in (changes or {}).items():
        here = found["entry"] == entry
        found.loc[here, column] = value if isinstance(value, float | int) else [*value][:seeds]
    return found


def apart(found: pd.DataFrame) -> pd.DataFrame:
    """The same with no two entries alike, so that they can be ranked."""
    place = found.groupby("data").cumcount()
    return found.assign(missing=found["missing"] + place, complete=found["complete"] + place)


def alone(seeds: int = 3, **changed: float | Sequence[float]) -> pd.DataFrame:
    """Rows of a table: one modality visible, an MVAE beside a network of that modality."""
    right: dict[str, Any] = {
        "rgb": 50.0,
        "flow": 40.0,
        "rgb_alone": 50.0,
        "flow_alone": 40.0,
    } | changed
    rows = [
        {"data": "clips", "way": way, "seed": seed, "visible": visible, "noisy": noisy,
         "accuracy": 0.0 if noisy == "all" else value if isinstance(value, float) else value[seed]}
        for visible in ("rgb", "flow", "rgb+flow") for noisy in ("nothing", "all")
        for way, value in (("MVAE", right.get(visible, 99.0)), ("rgb alone", right["rgb_alone"]),
                           ("flow alone", right["flow_alone"]))
        for seed in reversed(range(seeds))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def all_of(way: str, column: str, value: float | Sequence[float]) -> dict[tuple[str, str], Any]:
    """The same change of every method that is trained twice, as it is trained on `way`."""
    return {(f"{name}{way}", column): value for name in TWICE}


def verdicts(rule: Any, *changes: Changes) -> list[str]:
    return [rule(scores(3, each), "clips")["verdict"] for each in changes]


# Each rule, on both sides of its threshold ----------------------------------------------------------------


def test_plain_fusion_on_gaps_has_to_beat_the_best_that_was_not_in_every_seed() -> None:
    base = claims.gaps(scores(), "clips")
    assert base["verdict"] == YES
    assert ours(base) == (
        "+9.0 ± 0.0 points from the best of each seed, DiCMoR in the mean; a method gains +10.0 ± 0.0 points"
    )
    best, early = ("MISA", "missing"), ("early, gaps", "missing")
    found = verdicts(
        claims.gaps, {best: 79.875}, {best: 80.0}, {early: 71.125}, {early: 71.0},
        {best: [90.0, 60.0, 60.0], ("late", "missing"): [60.0, 90.0, 60.0]},
    )  # fmt: skip
    assert found == [YES, NO, YES, NO, NO]
    said = claims.gaps(scores(3, {best: [90.0, 60.0, 90.0]}), "clips")["ours"]
    assert said.startswith("-3.7 ± ") and "MISA in the mean; a method gains +8.6 ± " in said
    every = [{(way, "missing"): 99.0} for way in ("DynMM", "regression", "nearest mean")]
    assert verdicts(claims.gaps, *every) == [NO, NO, NO], "whoever missed nothing"
    one = [{(f"rgb {role}", "missing"): 99.0} for role in ("alone", "taught")]
    assert verdicts(claims.gaps, *one) == [YES, YES], "but for those that read one modality"
    assert "12 entries" in base["note"]
    few = scores()
    few = few[~few["entry"].isin(["X-Norm", "X-Norm, gaps", "MISA"])]
    assert "10 entries" in claims.gaps(few, "clips")["note"]


def test_three_points_are_what_training_on_gaps_may_cost_the_worst() -> None:
    key = ("MISA, gaps", "complete")
    found = verdicts(
        claims.price, {}, {key: 67.0}, {key: 66.875}, {key: [70.0, 70.0, 66.0]},
        {key: 69.0, ("late, gaps", "complete"): [66.0, 70.0, 70.0]},
    )  # fmt: skip
    assert found == [YES, YES, NO, NO, NO]
    other = {key: 68.0, ("late, gaps", "complete"): [66.0, 70.0, 70.0]}
    assert verdicts(claims.price, other) == [YES], "the worst is so in its mean"
    said = ours(claims.price(scores(3, {key: 63.0}), "clips"))
    assert said == "-1.0 ± 0.0 points in the mean over methods; worst -7.0 ± 0.0 points (MISA)"


def test_time_has_to_give_back_what_gaps_cost() -> None:
    whole, some = ("X-Norm, long, gaps", "complete"), ("X-Norm, long, gaps", "missing")
    won = {whole: 67.0, some: 70.125}
    found = verdicts(
        claims.patience, won, {**won, whole: 66.875}, {**won, some: 70.0}, {**won, whole: [70.0, 70.0, 60.0]},
        {**won, some: [99.0, 99.0, 69.0]},
    )  # fmt: skip
    assert found == [YES, NO, NO, NO, NO]
    assert ours(claims.patience(scores(3, won), "clips")) == (
        "-3.0 ± 0.0 points with everything visible, +0.1 ± 0.0 points with something missing; "
        "-2.0 ± 0.0 points and +1.1 ± 0.0 points from early fusion, given as much"
    )


def test_conditions_have_to_help_on_gaps() -> None:
    key = ("MISA, bare, gaps", "complete")
    assert verdicts(claims.conditions, {}, {key: 71.0}, {key: 75.0}) == [YES, NO, NO]
    assert ours(claims.conditions(scores(3, {key: 71.0}), "clips")) == (
        "-1.0 ± 0.0 points with everything visible, +1.0 ± 0.0 points with something missing"
    )


def test_recovering_has_to_be_ahead_of_its_predictor_trained_on_gaps() -> None:
    key = ("DiCMoR, gaps", "missing")
    found = verdicts(claims.recovering, {key: 80.0}, {key: 80.125}, {key: [81.0, 81.0, 79.0]})
    assert found == [NO, YES, NO]
    assert verdicts(claims.recovering, {("DiCMoR", "missing"): 99.0}) == [NO]
    rival = {key: 81.0, (f"{PREDICTOR}, gaps", "missing"): 82.0}
    assert verdicts(claims.recovering, rival) == [NO]
    early = {key: 81.0, ("early, gaps", "missing"): 82.0}
    assert verdicts(claims.recovering, early) == [YES], "which has other streams"


def test_a_generalist_may_lose_three_points_to_each_specialist() -> None:
    found = {
        name: claims.generalist(scores(), table, "clips")
        for name, table in {
            "even": alone(), "at": alone(flow=37.0), "below": alone(flow=36.875),
            "other": alone(rgb=46.0, flow=60.0), "most": alone(rgb=[50.0, 50.0, 40.0]),
            "order": alone(rgb=[10.0, 50.0, 90.0], rgb_alone=[10.0, 50.0, 90.0]),
        }.items()
    }  # fmt: skip
    assert {name: each["verdict"] for name, each in found.items()} == {
        "even": YES, "at": YES, "below": NO, "other": NO, "most": NO, "order": YES,
    }  # fmt: skip
    assert ours(found["other"]).endswith("; worst -4.0 (rgb)")
    assert found["at"]["ours"].startswith("-1.5 ± 0.0 points")


def test_a_gate_has_to_choose_and_to_be_as_right_for_a_fifth_less() -> None:
    right, cost = ("DynMM, gaps", "complete"), ("DynMM, gaps", "madds")
    found = verdicts(
        choosing, {}, {right: 69.0}, {right: 68.875}, {cost: 75.0}, {cost: 81.25},
        {right: 99.0, cost: 90.0}, {right: [69.0, 60.0, 70.0]}, {cost: [50.0, 99.0, 99.0]},
    )  # fmt: skip
    assert found == [YES, YES, NO, YES, NO, NO, NO, NO]
    # From 50 % for 20 to 70 % for 100: for 50 there are 57.5 % by lot.
    assert ours(choosing(scores(), "clips")) == (
        "+0.0 ± 0.0 points from the dear expert, 50 % of its MAdds saved; +12.5 ± 0.0 points from chance at "
        "the same price"
    )
    always = {("rgb alone", "complete"): 70.0, cost: 20.0}
    assert verdicts(choosing, always) == [NO], (
        "who always takes as good a cheap one does not choose"
    )
    dearer = {("early, gaps", "madds"): 60.0}
    assert verdicts(choosing, dearer) == [NO], "of what its dear expert costs"
    some = {right: [70.0, 70.0, 90.0], ("rgb alone", "complete"): 90.0}
    assert verdicts(choosing, some) == [NO], "the interval has to be above chance"


def test_a_teacher_has_to_help_in_the_mean() -> None:
    key, other = ("rgb taught", "complete"), ("flow taught", "complete")
    found = verdicts(
        claims.taught, {}, {key: 48.0}, {key: 48.125}, {key: 40.0, other: 49.0},
        {key: 50.0, other: [41.0, 41.0, 39.0]}, {key: [51.0, 52.0, 51.5], other: 40.0},
    )  # fmt: skip
    assert found == [YES, NO, YES, NO, NO, YES]
    assert ours(claims.taught(scores(), "clips")) == "+2.0 ± 0.0 points; rgb +2.0, flow +2.0"


def test_blending_has_to_be_ahead_of_joint_training() -> None:
    key = ("Gradient-Blending", "complete")
    found = verdicts(claims.blending, {key: 70.0}, {key: 70.125}, {key: [71.0, 71.0, 69.0]})
    assert found == [NO, YES, NO]
    assert verdicts(claims.blending, {("Gradient-Blending, gaps", "complete"): 99.0}) == [NO]


def test_a_ranking_has_to_agree_by_seven_tenths() -> None:
    def ranked(
        missing: Sequence[int], gaps: Sequence[int] = range(5), seeds: int = 3
    ) -> pd.DataFrame:
        names = ("late", "early", "MISA", "MulT", "DynMM")
        rows = [
            {"data": "clips", "entry": name, "seed": seed, "complete": i, "missing": order[i] + 50 * on,
             "gaps": on}
            for on, order in ((False, missing), (True, gaps))
            for i, name in enumerate(names) for seed in range(seeds)
        ]  # fmt: skip
        rows += [
            {"data": "clips", "entry": f"rgb {role}", "seed": seed, "complete": 99 * k, "missing": -k,
             "gaps": False}
            for k, role in enumerate(("alone", "taught")) for seed in range(seeds)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    # Of five ranks, with squares of 4 and 8 in sum: 1 - 6 * 4 / 120 = 0.8 and 1 - 6 * 8 / 120 = 0.6.
    same, just, less = ranked([0, 1, 2, 3, 4]), ranked([1, 0, 3, 2, 4]), ranked([2, 1, 0, 3, 4])
    assert claims.ranking(same, "clips")["verdict"] == YES
    rest = " and, trained on gaps, +1.00 (+1.00 to +1.00)"
    assert ours(claims.ranking(just, "clips")) == f"rank correlation +0.80 (+0.80 to +0.80){rest}"
    assert ours(claims.ranking(less, "clips")) == f"rank correlation +0.60 (+0.60 to +0.60){rest}"
    other = claims.ranking(ranked(range(5), [2, 1, 0, 3, 4]), "clips")
    assert other["verdict"] == NO and "trained on gaps, +0.60" in other["ours"], (
        "both have to agree"
    )
    assert claims.ranking(just, "clips")["verdict"] == YES
    assert claims.ranking(less, "clips")["verdict"] == NO
    at = ranked([1, 2, 0, 3, 4])
    assert claims.ranking(at, "clips")["ours"].startswith("rank correlation +0.70")
    assert claims.ranking(at, "clips")["verdict"] == YES
    mixed = pd.concat([same, less.assign(seed=less["seed"] + 5)])
    assert claims.ranking(mixed, "clips")["verdict"] == NO, "half is not most"
    assert claims.ranking(ranked([4, 3, 2, 1, 0]), "clips")["verdict"] == NO


def test_whatever_sees_all_has_to_beat_the_nearest_mean() -> None:
    base = claims.floor(scores(), "clips")
    assert base["verdict"] == YES and base["ours"].startswith("0 of 24 do not; the mean lead is +")
    equal = scores(3, {("late", OVERALL): 30.0})
    found = claims.floor(equal, "clips")
    assert found["verdict"] == NO and "1 of 24 do not (late)" in found["ours"]
    assert verdicts(claims.floor, {("late", OVERALL): 30.125}) == [YES]
    assert verdicts(claims.floor, {("late", OVERALL): [40.0, 40.0, 20.0]}) == [NO]
    some = claims.floor(scores(3, {("late", OVERALL): [40.0, 40.0, 20.0]}), "clips")["ours"]
    assert some.startswith("1 of 24 do not (late)") and some.endswith("so in 2 of 3 seeds")
    single = {("rgb alone", OVERALL): 0.0, ("flow taught", OVERALL): 0.0}
    assert verdicts(claims.floor, single) == [YES], "of one modality nobody asks that"


# Seeds ----------------------------------------------------------------------------------------------------

RULES = (
    "floor",
    "gaps",
    "price",
    "patience",
    "conditions",
    "recovering",
    "choosing",
    "taught",
    "blending",
    "ranking",
)


@pytest.mark.parametrize("rule", RULES)
def test_one_seed_carries_no_verdict(rule: str) -> None:
    found = (choosing if rule == "choosing" else getattr(claims, rule))(apart(scores(1)), "clips")
    assert found["verdict"] == UNKNOWN
    assert "±" not in found["ours"] and "nan" not in found["ours"]
    assert claims.generalist(scores(1), alone(1), "clips")["verdict"] == UNKNOWN


@pytest.mark.parametrize(
    ("each", "verdict"),
    [
        ([True] * 3, YES), ([True, True, False], NO), ([True, False, False], NO), ([False] * 3, NO),
        ([True, False], NO), ([True, True], YES), ([True], UNKNOWN), ([False], UNKNOWN),
    ],
)  # fmt: skip
def test_a_verdict_is_of_all_seeds(each: list[bool], verdict: str) -> None:
    key = ("Gradient-Blending", "complete")
    right = [71.0 if ahead else 69.0 for ahead in each]
    found = claims.blending(scores(len(each), {key: right}), "clips")
    assert found["verdict"] == verdict
    said = f"; so in {sum(each)} of {len(each)} seeds" if len(each) > 1 else ""
    assert found["ours"] == ours(found) + said


def test_seeds_are_compared_with_themselves() -> None:
    found = scores(3, {("Gradient-Blending", "complete"): [11.0, 51.0, 91.0], ("early", "complete"): [
        10.0, 50.0, 90.0]})  # fmt: skip
    shuffled = found.sample(frac=1, random_state=1)
    assert ours(claims.blending(shuffled, "clips")) == "+1.0 ± 0.0 points"
    values = claims.by_seed(shuffled, "clips", "early", "complete")
    assert values.tolist() == [10.0, 50.0, 90.0]
    with pytest.raises(
        ValueError, match="entry must be one of nearest mean, rgb alone, .*; got 'magic'"
    ):
        claims.by_seed(found, "clips", "magic", "complete")


# All of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["affect", "digits", "UTD-MHAD", "MOSI"])
def test_every_claim_is_made_of_every_data_set(name: str) -> None:
    found = scores()
    other = found[~found["way"].eq("X-Norm")].assign(data=name)
    both = pd.concat([found, other])
    table = pd.concat([alone(), alone().assign(data=name)])
    made = claims.all_claims(
        {data: cast(Setting, SimpleNamespace(cheap="rgb", names=names))
         for data, names in (("clips", ("rgb", "flow")), (name, ("one", "two", "three")))},
        apart(both), table,
    )  # fmt: skip
    ids = [claim["id"] for claim in made]
    assert len(set(ids)) == len(ids) == 11 + 10
    assert sum("patience" in each for each in ids) == 1, "where X-Norm is"
    for claim in made:
        bundle.validate(claim, claim["id"], bundle.CLAIM)
        data = {"clips": "clips", name.lower(): name}[claim["id"].split(".")[1]]
        assert claim["text"].startswith(f"{data}: ") and claim["verdict"] in VERDICTS
        assert claim.keys() == {"id", "text", "source", "paper", "ours", "verdict", "note"}
        assert "Rule: " in claim["note"]
        assert claim["note"].endswith(("in every seed", "95 % interval over seeds lies above 0"))
        assert "  " not in claim["note"] and ",," not in claim["note"] and ":," not in claim["note"]
        leaked = name == "MOSI" == data and claim["id"].endswith(("taught", "blending"))
        assert ("learnt from the labels" in claim["note"]) == leaked


def test_a_summary_has_every_score_and_who_is_on_the_front() -> None:
    found = scores(2, {("MVAE", OVERALL): [80.0, 90.0], ("MVAE", "madds"): 60.0})
    told = claims.summary(found)
    assert told["clips, MVAE: overall"]["seeds"] == [80.0, 90.0]
    assert told["clips, MVAE: complete"]["seeds"] == [65.0, 65.0]
    assert told["clips, early, gaps: MAdds"]["seeds"] == [100.0, 100.0]
    assert told["clips: floor"]["seeds"] == [12.5, 12.5]
    front = told["clips: on the front"]["seeds"]
    assert front == [3, 3], "rgb alone, the gate, and the MVAE"
    assert len(told) == 6 * found["entry"].nunique() + 2
