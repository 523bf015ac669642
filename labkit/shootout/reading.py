"""What the shoot-out's table says: scores of each entry, and which of them nobody beats for as much."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from labkit.shootout.measure import ALL, CLEAN

# Score -> what it is the mean of.
SCORES: Mapping[str, str] = {
    "complete": "everything visible, no noise",
    "missing": "mean over all sets with something missing, no noise",
    "noisy": "everything visible, mean over noise on one modality or all, at each level",
    "both": "mean over all sets with something missing and all levels, noise on all",
}
OVERALL = "overall"  # the mean of the four
KEYS = ["data", "way", "gaps", "seed"]


def named(way: str, gaps: bool) -> str:
    """An entry's name: the method, and whether it was trained on gaps."""
    return f"{way}, gaps" if gaps and way != "MVAE" else way


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """Four scores of each entry and seed, and their mean.

    Args:
        table: Of `measure.table`.

    Returns:
        A row each ``data``, ``way``, ``gaps`` and ``seed``, in the order of the table: `SCORES` and `OVERALL`
        in %, ``floor`` in %, ``madds`` of an answer if everything is visible, ``weights``, and ``entry``, a
        name.

    Raises:
        ValueError: if the table is empty.
    """
    if table.empty:
        raise ValueError("table must have at least one row, got none")
    most = table.groupby("data")["visible"].transform(lambda names: max(names, key=len))
    whole, clean, every = table["visible"] == most, table["noisy"] == CLEAN, table["noisy"] == ALL
    chosen = {
        "complete": whole & clean, "missing": ~whole & clean, "noisy": whole & ~clean, "both": ~whole & every,
    }  # fmt: skip
    found = pd.DataFrame({
        name: table[rows].groupby(KEYS, sort=False)["accuracy"].mean() for name, rows in chosen.items()
    })  # fmt: skip
    found[OVERALL] = found[[*SCORES]].mean(axis=1)
    rest = table[whole & clean].set_index(KEYS)[["floor", "madds", "weights"]]
    found = found.join(rest).reset_index()
    found["entry"] = [named(*pair) for pair in zip(found["way"], found["gaps"], strict=True)]
    return found


def means(found: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds of `scores`, a row each ``data`` and ``entry``."""
    keys = ["data", "entry", "way", "gaps"]
    return found.drop(columns="seed").groupby(keys, sort=False).mean().reset_index()


def front(costs: Mapping[str, float], values: Mapping[str, float]) -> list[str]:
    """Names that are better than all that cost as little or less, the cheapest first."""
    kept: list[str] = []
    for name in sorted(costs, key=lambda name: (costs[name], -values[name])):
        if not kept or values[name] > values[kept[-1]]:
            kept.append(name)
    return kept


def fronts(found: pd.DataFrame, over: str = "madds", score: str = OVERALL) -> dict[str, list[str]]:
    """Data -> entries on the front of a cost and a score, means over seeds, the cheapest first."""
    rows = means(found)
    return {
        str(name): front(
            dict(zip(part["entry"], part[over], strict=True)),
            dict(zip(part["entry"], part[score], strict=True)),
        )
        for name, part in rows.groupby("data", sort=False)
    }  # fmt: skip


def beside(table: pd.DataFrame, mine: pd.DataFrame) -> pd.DataFrame:
    """Scores of a model of your own beside early fusion, trained both ways, and the best there is.

    Args:
        table: Of `measure.table`.
        mine: Of `measure.entered`, on the same data; the table's seeds are cut to its own.

    Returns:
        ``data``, ``entry``, `SCORES`, `OVERALL`, ``madds``: means over seeds, four rows or fewer a data set.
    """
    there = means(scores(table[table["seed"].isin(mine["seed"].unique())]))
    rows = []
    for name, own in means(scores(mine)).groupby("data", sort=False):
        part = there[there["data"] == name]
        chosen = {"early", "early, gaps", part.sort_values(OVERALL)["entry"].iloc[-1]}
        rows += [own, part[part["entry"].isin(chosen)]]
    return pd.concat(rows, ignore_index=True)[["data", "entry", *SCORES, OVERALL, "madds"]].round(1)


def agreement(
    found: pd.DataFrame, name: str, one: str = "complete", other: str = "missing"
) -> np.ndarray:
    """Spearman's rank correlation of two scores over the entries of one data set, one number a seed."""
    part = found[found["data"] == name]
    return np.array([
        rows[one].corr(rows[other], method="spearman") for _, rows in part.groupby("seed")
    ])  # fmt: skip
