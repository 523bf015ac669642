"""What is asked of Gaussian data in notebook 03: Figures 2 and 3, Table 2, and many teachers of one student.

A *run* is one draw of data with first weights of its own; seed s of a notebook stands for the runs
s * runs, ..., s * runs + runs - 1, so that seed 0 with 100 runs is what the paper averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from labkit.data.gaussians import (
    Gaussians,
    Stack,
    Venn,
    increase_alpha,
    increase_gamma,
    narrowed,
    stack,
)
from labkit.models import mfh
from labkit.models.mfh import Distillation
from labkit.progress import progress_line
from labkit.store import once

Answer = dict[str, Any]
SHARED, ALONE = (0, 2, 4, 6, 8, 10), (0, 10, 20, 30, 40)  # the points of Figures 2 and 3
TABLE2 = ((30, 10), (10, 5), (10, 10), (10, 20), (10, 30))  # latents of a alone, and shared
WAYS = ("random", "truth", "algorithm")  # of choosing the channels that a general teacher keeps
HIDDEN = (0, 2, 5, 10, 20, 40, 90)  # latents that nobody sees
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the teacher in the student's loss
TEMPERATURES = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Plan:
    """Sizes of one preset.

    Args:
        runs: Runs a seed, in the figures and in Table 2. The paper has 100 in Figure 2, 10 in Figure 3.
        teachers: Runs a seed for each of the many teachers.
    """

    runs: int
    teachers: int

    def seeds(self, seed: int) -> list[int]:
        """The runs of one seed."""
        return list(range(seed * self.runs, (seed + 1) * self.runs))

    def state(self) -> dict[str, int]:
        """The sizes as the ledger keeps them beside the numbers."""
        return asdict(self) | {"n_train": Gaussians.n_train, "n_test": Gaussians.n_test}


def sizes(preset: str) -> Plan:
    """Sizes of a preset: smoke (CI), quick (a laptop), full (the verdicts; the paper's numbers of runs).

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    plans = {"smoke": Plan(10, 5), "quick": Plan(30, 10), "full": Plan(100, 20)}
    plans["paper"] = plans["full"]
    if preset not in plans:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(plans)}")
    return plans[preset]


# One setting or many: three models a run ----------------------------------------------------------


def accuracies(
    settings: Sequence[Gaussians], seeds: Sequence[int], loss: Distillation
) -> dict[str, list[list[float]]]:
    """Teacher, student and the student alone: held-out accuracy in %, [R][S] each."""
    trained = mfh.crossmodal(stack(settings, seeds, "train"), seeds, loss)
    found = trained.accuracies(stack(settings, seeds, "test"))
    return {name: (100 * values).T.tolist() for name, values in found.items()}


def _ask(
    venns: Sequence[Venn], seeds: Sequence[int], loss: Distillation | None = None, **data: Any
) -> Answer:
    settings = tuple(Gaussians(venn, **data) for venn in venns)
    return once(accuracies, settings=settings, seeds=tuple(seeds), loss=loss or Distillation())


def figure2(plan: Plan, seed: int, hyperplane: str = "ones") -> Answer:
    """Figure 2, more in common at an equally good teacher: ``x`` is gamma [6]; `accuracies` [6][runs]."""
    venns = [increase_gamma(both) for both in SHARED]
    return {"x": [v.gamma for v in venns]} | _ask(venns, plan.seeds(seed), hyperplane=hyperplane)


def figure3(plan: Plan, seed: int, hyperplane: str = "ones") -> Answer:
    """Figure 3, a better teacher with nothing more in common: ``x`` is alpha [5]; `accuracies` [5][runs]."""
    venns = [increase_alpha(only_a) for only_a in ALONE]
    return {"x": [v.alpha for v in venns]} | _ask(venns, plan.seeds(seed), hyperplane=hyperplane)


def teachers(plan: Plan, seed: int) -> Answer:
    """One student, 98 teachers: of 50 latents b shows ten; a shows 0 to 10 of these, and 0 to 40 others.

    Returns:
        ``only_a``, ``both``, ``gamma``, ``alpha`` of each teacher [98], and `accuracies` [98][teachers].
    """
    venns = [
        Venn(only_a, both, 10 - both, hidden=40 - only_a)
        for only_a in range(0, 41, 5) for both in range(11) if only_a + both
    ]  # fmt: skip
    named = {
        name: [getattr(v, name) for v in venns] for name in ("only_a", "both", "gamma", "alpha")
    }
    return named | _ask(venns, plan.seeds(seed)[: plan.teachers])


def students(plan: Plan, seed: int) -> Answer:
    """Many students, too: all that 20 latents can be shared out in steps of two, as `teachers`."""
    venns = [
        Venn(only_a, both, 20 - only_a - both)
        for only_a in range(0, 21, 2) for both in range(0, 21 - only_a, 2) if both or 0 < only_a < 20
    ]  # fmt: skip
    named = {name: [getattr(v, name) for v in venns] for name in ("alpha", "beta", "gamma")}
    return named | _ask(venns, plan.seeds(seed)[: plan.teachers])


def columns(found: Answer) -> dict[str, list[float]]:
    """What `teachers` found as a column each, with its unit: for a table or a board."""
    accuracy = {f"{name} (%)": torch.tensor(found[name]).mean(1).tolist()
                for name in ("teacher", "student")}  # fmt: skip
    return {
        "gain (points)": gains(found).mean(1).tolist(), **accuracy,
        "gamma": found["gamma"], "alpha": found["alpha"],
        "shared latents": found["both"], "latents of the teacher alone": found["only_a"],
    }  # fmt: skip


def ceilings(plan: Plan, seed: int) -> Answer:
    """Ten latents that both see among more and more that nobody sees; ``bayes``: what is possible, in %."""
    venns = [Venn(0, 10, 0, hidden=hidden) for hidden in HIDDEN]
    found = [_ask([venn], plan.seeds(seed)) for venn in venns]  # draws differ: one by one
    bayes = {"x": list(HIDDEN), "bayes": [100 * venn.bayes("b") for venn in venns]}
    return bayes | {name: [each[name][0] for each in found] for name in found[0]}


def knobs(plan: Plan, seed: int) -> list[Answer]:
    """The student's gain at gamma 0 and 1 for every weight of the teacher, reduction and temperature.

    Returns:
        Rows of ``weight``, ``reduction``, ``temperature``, and ``gain`` [2][runs] in points.
    """
    venns, rows = [increase_gamma(SHARED[0]), increase_gamma(SHARED[-1])], []
    kinds = [("mean", 1.0), *(("batchmean", temperature) for temperature in TEMPERATURES)]
    with progress_line("losses", len(kinds) * len(WEIGHTS), unit="loss") as bar:
        for reduction, temperature in kinds:
            for weight in WEIGHTS:
                loss = Distillation(1.0, weight, temperature, reduction)  # type: ignore[arg-type]
                gain = gains(_ask(venns, plan.seeds(seed), loss))
                rows.append({"weight": weight, "reduction": reduction, "temperature": temperature,
                             "gain": gain.tolist()})  # fmt: skip
                bar.update()
    return rows


def gains(found: Answer) -> Tensor:
    """What the teacher gave the student: accuracy with it minus without, points, (R, S)."""
    return torch.tensor(found["student"]) - torch.tensor(found["alone"])


# Where a student's weights lie --------------------------------------------------------------------


def weights(both: int, only_a: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Mean |weight| of every channel over the runs: of the ``teacher``, the ``student``, and it ``alone``."""
    data = stack([Gaussians(Venn(only_a, both, 10 - both, hidden=40 - only_a))], seeds, "train")
    trained = mfh.crossmodal(data, seeds)
    place = {"teacher": data.a.place[0, :-1], "student": data.b.place[0, :-1]}
    place["alone"] = place["student"]
    return {n: getattr(trained, n)[:, 0, at].abs().mean(0).tolist() for n, at in place.items()}


def profiles(plan: Plan, seed: int) -> dict[str, Answer]:
    """`weights` under a teacher that shares all it sees, and one that shares nothing."""
    wanted = {"all in common": (10, 0), "nothing in common": (0, 10)}
    return {
        name: once(weights, both=both, only_a=only_a, seeds=tuple(plan.seeds(seed)))
        for name, (both, only_a) in wanted.items()
    }


# Table 2: the teacher gives up what its student cannot see ------------------------------------------


def general_teacher(only_a: int, both: int, seeds: Sequence[int]) -> Answer:
    """One row of Table 2: a teacher of all channels, and of as many as are shared, chosen in three ways.

    Returns:
        ``regular`` -> teacher, student, alone, and random, truth, algorithm -> teacher, student: held-out
        accuracy in % [S]; ``swapped``: the regular student as the released script trains it, `swapped`;
        ``auc`` and ``precision`` of Algorithm 1 [S].
    """
    venn = Venn(only_a, both, 0)
    train, test = (stack([Gaussians(venn, script="modify")], seeds, s) for s in ("train", "test"))
    scores, _ = mfh.general_scores(train, mfh.joint(train, mfh.first_pair(train, seeds)))
    drawn = torch.stack(
        [torch.randperm(venn.channels_a, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )
    channels = dict(
        zip(WAYS, (drawn[:, :both], venn.shared, scores.topk(both, -1).indices), strict=True)
    )

    def percent(pair: Sequence[Stack]) -> dict[str, list[float]]:
        found = mfh.crossmodal(pair[0], seeds).accuracies(pair[1])
        return {name: (100 * values[:, 0]).tolist() for name, values in found.items()}

    found: Answer = {"regular": percent((train, test)), "swapped": swapped(train, test, seeds)}
    for way, chosen in channels.items():
        found[way] = percent([narrowed(data, chosen) for data in (train, test)])
    shared = torch.zeros(venn.channels_a, dtype=torch.bool).index_fill(0, venn.shared, True)
    found["auc"] = [float(roc_auc_score(shared, row)) for row in scores]
    found["precision"] = mfh.kept(scores, both)[:, shared].double().mean(1).tolist()
    return found


def swapped(train: Stack, test: Stack, seeds: Sequence[int]) -> list[float]:
    """The "regular KD" of `gauss/main_modify_gamma.py`, line 175, where two arguments are exchanged.

    The teacher, trained on a, is fed b; its student is trained on **a**, and tested on b.
    """
    starts = [[mfh.first_weights(50, g) for _ in range(2)]
              for g in (torch.Generator().manual_seed(seed + 1) for seed in seeds)]  # fmt: skip
    teacher, student = (torch.stack([s[i] for s in starts])[:, None].to(train.a.x) for i in (0, 1))
    a, b = (
        view.x.gather(2, view.place.expand(*view.x.shape[:2], -1)) for view in (train.a, train.b)
    )
    taught = mfh.descend(a, train.y, teacher)
    wrong = mfh.descend(a, train.y, student, losses=[Distillation()], teacher=taught @ b.mT)
    seen = test.b.x.gather(2, test.b.place.expand(*test.b.x.shape[:2], -1))
    return (100 * mfh.accuracy(seen, test.y, wrong)[:, 0]).tolist()


def table2(plan: Plan, seed: int) -> list[Answer]:
    """Every row of Table 2: `general_teacher`, with ``only_a``, ``both`` and ``gamma``."""
    rows = []
    with progress_line("rows of Table 2", len(TABLE2), unit="row") as bar:
        for only_a, both in TABLE2:
            found = once(general_teacher, only_a=only_a, both=both, seeds=tuple(plan.seeds(seed)))
            gamma = Venn(only_a, both, 0).gamma
            rows.append({"only_a": only_a, "both": both, "gamma": gamma, **found})
            bar.update()
    return rows
