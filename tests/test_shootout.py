"""The study of notebook 09: who enters, who is asked what, and what the scores of a table are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from labkit import madds
from labkit.batch import Batch, add_noise, subsets
from labkit.data.affect import Affect
from labkit.data.clips import Clips
from labkit.models.backbones import Clip, Pictures, Steps
from labkit.models.blending import Blend
from labkit.models.dynmm import DynMM
from labkit.models.fusion import Early, Single
from labkit.models.misa import Misa
from labkit.models.mvae import Modality, MVAEConfig
from labkit.models.xnorm import XNorm
from labkit.shootout import measure, plan, reading
from labkit.shootout.beds import as_sequences
from labkit.shootout.entries import Entry, NearestMean
from labkit.shootout.measure import ALL, CLEAN
from labkit.shootout.plan import BARE, NEAREST, PAIRED, PREDICTOR, REGRESSION, Setting
from labkit.train import TrainConfig

Answer = Callable[[Batch], tuple[Tensor, Tensor]]


def sized(data: Any, shapes: Any, backbone: Any, classes: int) -> Setting:
    """A setting that trains in no time."""
    each = tuple(Modality(n, shape, "gaussian", 0.5, (8,), (8,)) for n, shape in shapes)
    return Setting(
        data, shapes, backbone, classes, shapes[0][0], TrainConfig(2, 16, 1e-3), TrainConfig(1, 16, 1e-3),
        MVAEConfig(each, 4, classes, (8,)),
    )  # fmt: skip


def two() -> Setting:
    data = Clips(frames=2, size=12, n_train=32, n_val=16, n_test=24)
    return sized(data, tuple(data.shapes.items()), Clip((4, 6)), 8)


def three() -> Setting:
    data = Affect(n_train=32, n_val=16, n_test=24, steps=4)
    shapes = tuple((name, (4, 8)) for name in ("language", "audio", "vision"))
    return sized(data, shapes, Steps((4, 6)), 5)


STUDIES = {"clips": two(), "affect": three()}
each_setting = pytest.mark.parametrize("name", STUDIES)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    patch.setattr("os.cpu_count", lambda: 1)  # train in this process
    torch.set_num_threads(1)  # before `same_arithmetic` of the first test
    yield
    patch.undo()


# Data whose right answers are known -----------------------------------------------------------------------

LABELS = {
    "train": [2, 2, 2, 2, 0, 1, 3],
    "val": [0, 1],
    "test": [2, 0, 1, 2, 3, 3, 2, 1, 0, 2],
}  # 2 is 40 %


@dataclass(frozen=True)
class Told:
    """Two modalities, of which `tells` is the label and `mute` is not; `gaps`: some of it is missing."""

    seed: int = 0
    gaps: bool = False

    def load(self, split: str, device: torch.device | str | None = None) -> Batch:
        y = torch.tensor(LABELS[split])
        g = torch.Generator().manual_seed(self.seed)
        x = {"tells": torch.nn.functional.one_hot(y, 4).float(),
             "mute": torch.randn(len(y), 3, generator=g)}  # fmt: skip
        observed = torch.ones(len(y), 2, dtype=torch.bool)
        if self.gaps:
            observed[1:4, 0] = False
        return Batch(x, observed, y)


TOLD = sized(Told(), (("tells", (4,)), ("mute", (3,))), Pictures((4,)), 4)


def oracle(batch: Batch) -> tuple[Tensor, Tensor]:
    """Reads the label where it can be seen; where it cannot, says 0."""
    seen = torch.where(batch.rows("tells"), batch.x["tells"], torch.eye(4)[:1])
    return seen, torch.ones(len(batch), dtype=torch.int64)


# Plan -----------------------------------------------------------------------------------------------------


def test_who_can_take_a_data_set_enters_it() -> None:
    ways = {name: setting.ways for name, setting in plan.studies("smoke").items()}
    assert [*ways] == ["clips", "affect", "digits"]
    for name, entries in ways.items():
        assert len(entries) == len(set(entries)) == 28 + (name == "clips"), name
        assert entries[-1] == ("MVAE", True) and ("MVAE", False) not in entries
    both = (
        "late", "early", "MISA", "MulT", "Gradient-Blending", "X-Norm", "DynMM", "DiCMoR's predictor",
        "DiCMoR",
    )  # fmt: skip
    assert ways["clips"] == (
        (NEAREST, False),
        ("rgb alone", False), ("flow alone", False), ("rgb taught", False), ("flow taught", False),
        *((way, gaps) for way in both[:2] for gaps in (False, True)), ("early, long", True),
        *((way, gaps) for way in both[2:3] for gaps in (False, True)), (BARE, True),
        *((way, gaps) for way in both[3:6] for gaps in (False, True)), ("X-Norm, long", True),
        *((way, gaps) for way in both[6:] for gaps in (False, True)),
        ("regression", False), ("paired flows", False), ("MVAE", True),
    )  # fmt: skip
    for name in ("affect", "digits"):
        assert not any(way == "X-Norm" for way, _ in ways[name]), "exchanges between two alone"
        assert {way for way, _ in ways[name][7:]} == {
            *both,
            "MVAE",
            "early, long",
            BARE,
            "regression",
            "paired flows",
        } - {"X-Norm"}
    assert [w for w, _ in ways["affect"]][1:7] == [
        f"{m} {role}" for role in ("alone", "taught") for m in ("language", "audio", "vision")
    ]


def test_who_reads_what() -> None:
    setting = STUDIES["affect"]
    assert setting.names == ("language", "audio", "vision")
    for way, _ in setting.ways:
        name, _, role = way.rpartition(" ")
        wanted = (name,) if role in ("alone", "taught") else setting.names
        assert setting.reads(way) == wanted, way
    assert STUDIES["clips"].reads("X-Norm") == ("rgb", "flow")


def test_a_network_of_the_bench_is_trained_on_gaps_or_not_and_all_else_is_alike() -> None:
    setting = STUDIES["clips"]
    for way in plan.FUSIONS:
        plain, gaps = setting.bench(way), setting.bench(way, True)
        assert (plain.hide, gaps.hide) == (0.0, 0.5)
        assert replace(gaps, hide=0.0) == plain
        assert plain.modalities == setting.modalities and plain.backbone == setting.backbone
        assert plain.classes == 8
    assert setting.bench("X-Norm") == XNorm(setting.modalities, setting.backbone, 8)
    alone: Any = setting.bench("flow alone")
    assert isinstance(alone, Single) and alone.only == "flow" and alone.hide == 0
    blend: Any = STUDIES["affect"].bench("Gradient-Blending")
    assert isinstance(blend, Blend) and blend.weights == (1.0,) * 4


def test_a_gate_has_the_cheap_method_first_and_its_price() -> None:
    for setting in STUDIES.values():
        for gaps in (False, True):
            config = setting.gated(gaps)
            cheap, dear = config.methods
            assert cheap == setting.bench(f"{setting.cheap} alone")
            assert dear == setting.bench("early", gaps) and dear.hide == (0.5 if gaps else 0)
            assert config.costs == (plan.price(cheap), plan.price(dear))
            assert 0 < config.costs[0] < config.costs[1]
            assert config.dynmm.gate.shapes == dict(setting.modalities)


def test_a_price_is_what_one_answer_multiplies() -> None:
    shapes = (("a", (5, 3)), ("b", (5, 2)))
    stream = 5 * 4 * 3 * 3  # steps, maps, channels and kernel
    head = 4 * 7 + 7 * 7 + 7 * 2
    single = Single(shapes, Steps((4,)), 2, 7, only="a")
    assert plan.price(single) == stream + head
    early = Early(shapes, Steps((4,)), 2, 7)
    assert plan.price(early) == stream + 5 * 4 * 2 * 3 + head + 4 * 7


def test_dicmor_reads_sequences() -> None:
    found = STUDIES["clips"].recovery()
    assert found.predictor.modalities == (("rgb", 3 * 144), ("flow", 2 * 144))
    assert (found.predictor.steps, found.predictor.classes) == (2, 8)
    batch = found.recipe(3).load("val")
    assert {name: tuple(x.shape) for name, x in batch.x.items()} == {
        "rgb": (16, 2, 432), "flow": (16, 2, 288),
    }  # fmt: skip
    clips = STUDIES["clips"].recipe(3).load("val")
    assert torch.equal(batch.x["rgb"][:, 1], clips.x["rgb"][:, :, 1].flatten(1))
    assert STUDIES["affect"].recovery().predictor.modalities[0] == ("language", 8)


def test_settings_have_a_seed_and_what_the_ledger_wants() -> None:
    setting = STUDIES["clips"]
    assert setting.recipe(5) == replace(setting.data, seed=5)
    assert setting.state() == {
        "epochs": 2, "lr": 1e-3, "flow_epochs": 1, "n_train": 32, "cheap": "rgb",
    }  # fmt: skip
    quick, full, paper = (plan.studies(preset) for preset in ("quick", "full", "paper"))
    assert full == paper != quick
    assert [*quick] == [*plan.studies("smoke")]


def test_who_is_given_time_is_trained_four_times_as_long_and_all_else_is_alike() -> None:
    setting = two()
    for long, way in plan.PATIENT.items():
        assert setting.bench(long, True) == setting.bench(way, True)
        patient, plain = (plan.trained(setting, each, True, 0) for each in (long, way))
        epochs = [run.meta["train"]["epochs"] for run in (patient, plain)]
        assert epochs == [4 * setting.fit.epochs, setting.fit.epochs]
        assert (long, False) not in setting.ways


@pytest.mark.parametrize("name", ["clips", "affect", "digits"])
def test_every_network_of_the_bench_answers_every_data_set(name: str) -> None:
    setting = plan.studies("smoke")[name]
    batch = setting.recipe(1).load("val")[:2]
    for way, gaps in setting.ways:
        if way in plan.FUSIONS or way.endswith(" alone"):
            net: Any = setting.bench(way, gaps).build().eval()  # type: ignore[attr-defined]
            assert net.predict(batch).shape == (2, setting.classes), way


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: plan.studies("huge"), "unknown preset 'huge'; choose one of smoke, quick, full, paper"),
        (lambda: plan.affect("huge"), "unknown preset 'huge'"),
        (lambda: plan.trained(two(), "magic", False, 0), "way and gaps must be one of: rgb alone; .*'magic'"),
        (lambda: plan.trained(two(), "MVAE", False, 0), r"MVAE \(gaps\); got 'MVAE', False"),
        (lambda: plan.trained(two(), "rgb alone", True, 0), "got 'rgb alone', True"),
        (lambda: plan.trained(three(), "X-Norm", False, 0), "got 'X-Norm', False"),
        (lambda: plan.trained(two(), NEAREST, False, 0), "be one of: rgb alone; .* got 'nearest mean'"),
        (lambda: Entry(three(), "rgb alone", False, 0), "got 'rgb alone', False"),
        (lambda: NearestMean(replace(Told().load("train"), y=None), 4), "train must have labels"),
    ],
)  # fmt: skip
def test_what_is_no_entry_is_named(run: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()


# Entries --------------------------------------------------------------------------------------------------


@each_setting
def test_every_entry_answers_whatever_is_visible_and_reads_nothing_else(name: str) -> None:
    """Trains all entries of one seed."""
    setting = STUDIES[name]
    test = setting.recipe(0).load("test")[:6]
    for way, gaps in setting.ways:
        entry, reads = Entry(setting, way, gaps, 0), setting.reads(way)
        assert way == NEAREST or not entry.model.training
        assert not any(p.requires_grad for p in entry.model.parameters())
        answers = []
        for mask in subsets(len(setting.names)):
            if not any(here and m in reads for m, here in zip(setting.names, mask, strict=True)):
                continue
            seen = test.with_observed(mask.expand(6, -1))
            logits, path = entry.answer(seen)
            assert logits.shape == (6, setting.classes) and logits.dtype == torch.float32
            assert (
                bool(logits.isfinite().all()) and path.shape == (6,) and path.dtype == torch.int64
            )
            wanted = {0, 1} if way == "DynMM" else {1}
            assert {*path.tolist()} <= wanted
            for value in (math.nan, 1e3):
                x = {m: torch.where(seen.rows(m), v, value) for m, v in seen.x.items()}
                other, where = entry.answer(replace(seen, x=x))
                assert torch.equal(logits, other) and torch.equal(path, where), (way, mask)
            answers.append(logits)
        counts = {m: 2 ** (len(setting.names) - 1) for m in setting.names}
        assert len(answers) == (counts[reads[0]] if len(reads) == 1 else 2 * counts[reads[0]] - 1)
        if len(reads) > 1 and way != "DynMM":  # which may look at one of them alone
            assert all(not torch.equal(answers[-1], one) for one in answers[:-1]), way


def test_entries_are_their_trained_networks() -> None:
    setting = STUDIES["clips"]
    test = setting.recipe(0).load("test")
    for way, gaps in (
        ("early", True),
        ("flow alone", False),
        ("flow taught", False),
        ("MVAE", True),
    ):
        run = plan.trained(setting, way, gaps, 0)
        model: Any = run.model
        with torch.no_grad():
            assert torch.equal(Entry(setting, way, gaps, 0).answer(test)[0], model.predict(test))
        assert run.key == plan.trained(setting, way, gaps, 0).key
        assert run.key != plan.trained(setting, way, gaps, 1).key
    plain, gaps_run = (plan.trained(setting, "early", gaps, 0) for gaps in (False, True))
    assert plain.key != gaps_run.key
    taught, alone = (plan.trained(setting, f"rgb {role}", False, 0) for role in ("taught", "alone"))
    assert taught.meta["parents"] == [plain.key]
    assert not torch.equal(
        Entry(setting, "rgb taught", False, 0).answer(test)[0],
        Entry(setting, "rgb alone", False, 0).answer(test)[0],
    )
    gate = plan.trained(setting, "DynMM", True, 0)
    assert gate.meta["parents"] == [alone.key, gaps_run.key]


@each_setting
def test_dicmor_and_its_predictor_answer_as_they_were_trained(name: str) -> None:
    setting = STUDIES[name]
    test = setting.recipe(0).load("test")
    batch = test.with_observed(subsets(len(setting.names))[torch.arange(len(test)) % 3])
    runs = {(way, gaps): plan.trained(setting, way, gaps, 0)
            for way in (PREDICTOR, "DiCMoR") for gaps in (False, True)}  # fmt: skip
    runs |= {(way, False): plan.trained(setting, way, False, 0) for way in (REGRESSION, PAIRED)}
    answers = {entry: Entry(setting, *entry, 0).answer(batch)[0] for entry in runs}
    with torch.no_grad():
        for entry, run in runs.items():
            model: Any = run.model
            said = model.predict(as_sequences(batch))
            assert torch.equal(answers[entry], said)
    for one, other in itertools.combinations(answers.values(), 2):
        assert (one - other).abs().max() > 1e-4, "six networks"
    for way in ("DiCMoR", REGRESSION, PAIRED):
        assert runs[way, False].meta["parents"] == [runs[PREDICTOR, False].key]
    assert runs["DiCMoR", True].meta["parents"] == [runs["DiCMoR", False].key]
    assert runs[PREDICTOR, True].meta["parents"] == []


@pytest.mark.parametrize("gaps", [False, True])
def test_a_gate_sends_no_sample_to_who_sees_nothing_of_it(gaps: bool) -> None:
    setting = STUDIES["clips"]
    entry = Entry(setting, "DynMM", gaps, 0)
    experts = [
        Entry(setting, "rgb alone", False, 0).answer, Entry(setting, "early", gaps, 0).answer
    ]  # fmt: skip
    test = setting.recipe(0).load("test")
    mask = subsets(2)[torch.arange(24) % 3]
    batch = test.with_observed(mask)
    for bias in (-50.0, 50.0):
        with torch.no_grad():  # a gate that likes one expert, whatever it sees
            gate = entry.model.gate.head[-1]
            gate.weight.zero_()
            gate.bias.copy_(torch.tensor([bias, -bias]))
        logits, path = entry.answer(batch)
        assert bool((path[~mask[:, 0]] == 1).all()), "rgb is missing: the cheap one is blind"
        assert {*path[mask[:, 0]].tolist()} == {0 if bias > 0 else 1}
        for i in range(24):
            wanted = experts[path[i]](batch[i : i + 1])[0]
            torch.testing.assert_close(logits[i : i + 1], wanted, rtol=1e-5, atol=1e-5)


def test_costs_are_of_one_answer_and_a_gate_pays_for_itself() -> None:
    setting = STUDIES["clips"]
    entries = {
        way: Entry(setting, way, False, 0) for way in ("rgb alone", "early", "DynMM", "MISA", "rgb taught")
    }  # fmt: skip
    found = {way: entry.costs() for way, entry in entries.items()}
    alone, early, gated = (found[way] for way in ("rgb alone", "early", "DynMM"))
    assert alone["madds"] == alone["cheap"] == plan.price(setting.bench("rgb alone"))
    assert early["madds"] == plan.price(setting.bench("early"))
    assert found["rgb taught"] == alone, "a teacher is no part of it"
    gate = (3 + 2) * 2 * 144 * 16 + 16 * 2
    assert gated["madds"] == early["madds"] + gate and gated["cheap"] == alone["madds"] + gate
    biases = 16 + 2
    assert gated["weights"] == alone["weights"] + early["weights"] + gate + biases
    batch = Batch({name: torch.zeros(1, *shape) for name, shape in setting.modalities})
    misa = entries["MISA"]
    assert found["MISA"]["madds"] > madds.counted(lambda: misa.answer(batch)), "LSTMs count"
    assert isinstance(entries["DynMM"].model, DynMM)


def test_the_nearest_mean_is_that_of_what_is_visible() -> None:
    """Means of `a` are 0 and 4, of `b` (0, 0) and (2, 2); deviations squared are 1 and 2."""
    x = {"a": torch.tensor([[-1.0], [1.0], [3.0], [5.0]]),
         "b": torch.tensor([[2.0, 0.0], [-2.0, 0.0], [2.0, 4.0], [2.0, 0.0]])}  # fmt: skip
    seen = torch.tensor([[True, True]]).repeat(6, 1)
    seen[4:, 0] = False
    hidden = torch.full((2, 1), math.nan)
    train = Batch(
        {"a": torch.cat((x["a"], hidden)), "b": torch.cat((x["b"], torch.tensor([[0.0, 0.0], [2.0, 2.0]])))},
        seen, torch.tensor([0, 0, 1, 1, 0, 1]),
    )  # fmt: skip
    model = NearestMean(train, 2)
    # b: squares of the distances from the means are 4, 0; 4, 0; 0, 4; 0, 4; none of the last two.
    assert model.spread == [pytest.approx(1.0), pytest.approx(16 / 12)]
    one = Batch(
        {"a": torch.tensor([[1.0], [1.0], [math.nan]]),
         "b": torch.tensor([[2.0, 2.0], [math.nan] * 2, [0, 0]])},
        torch.tensor([[True, True], [True, False], [False, True]]),
    )  # fmt: skip
    b = 4 * 12 / 16  # the mean square of 2 and 2, in deviations
    wanted = torch.tensor([[-1.0 - b, -9.0], [-1.0, -9.0], [0.0, -b]])
    torch.testing.assert_close(model.predict(one), wanted)
    assert not [p for p in model.parameters() if p.requires_grad]
    setting = STUDIES["affect"]
    entry, numbers = Entry(setting, NEAREST, False, 0), 3 * 4 * 8
    assert entry.costs() == {"weights": 5 * numbers, "madds": 5 * numbers, "cheap": 5 * numbers}
    found = measure.scored(setting, (NEAREST, False), (), 0)
    assert found["right"][0][-1] > found["floor"], "it learns a little"


# Asking ---------------------------------------------------------------------------------------------------


def test_conditions_are_no_noise_and_noise_on_each_and_on_all() -> None:
    assert measure.conditions(STUDIES["affect"], (0.5, 2.0)) == [
        (CLEAN, 0.0), ("language", 0.5), ("language", 2.0), ("audio", 0.5), ("audio", 2.0),
        ("vision", 0.5), ("vision", 2.0), (ALL, 0.5), (ALL, 2.0),
    ]  # fmt: skip
    assert measure.visible_names(STUDIES["affect"]) == [
        "language", "audio", "vision", "language+audio", "language+vision", "audio+vision",
        "language+audio+vision",
    ]  # fmt: skip
    assert measure.visible_names(TOLD) == ["tells", "mute", "tells+mute"]
    assert measure.levels("smoke") == measure.levels("quick") == (1.0,)
    assert measure.levels("full") == measure.levels("paper") == (0.5, 1.0, 2.0)


@pytest.mark.parametrize("rows", [512, 3])
def test_who_reads_the_label_is_right_where_it_is_visible(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(measure, "ROWS", rows)
    # The oracle that reads both says 0 where it is told nothing: 20 %. Who reads one alone is not asked then.
    both = measure.asked(TOLD, oracle, ("tells", "mute"), (), 0)
    assert both == {"right": [[100.0, 20.0, 100.0]], "dear": [[1, 1, 1]], "cheap": [[0, 0, 0]]}
    one = measure.asked(TOLD, oracle, ("tells",), (), 0)
    assert one == {"right": [[100.0, 40.0, 100.0]], "dear": [[1, 0, 1]], "cheap": [[0, 0, 0]]}
    other = measure.asked(TOLD, oracle, ("mute",), (), 0)
    assert other["right"] == [[40.0, 20.0, 20.0]] and other["dear"] == [[0, 1, 1]]
    nobody = measure.asked(TOLD, oracle, (), (), 0)
    assert nobody["right"] == [[40.0] * 3] and nobody["dear"] == [[0] * 3]


def test_what_a_sample_lacks_nobody_is_asked_about() -> None:
    setting = replace(TOLD, data=Told(gaps=True))  # rows 1 to 3, labels 0, 1 and 2, have no `tells`
    asked: list[Batch] = []

    def answer(batch: Batch) -> tuple[Tensor, Tensor]:
        if len(batch):
            asked.append(batch)
        return oracle(batch)

    found = measure.asked(setting, answer, ("tells",), (), 0)
    # 7 are read, and of the 3 others the one whose label is 2 is guessed.
    assert found["right"] == [[pytest.approx(80.0), pytest.approx(40.0), pytest.approx(80.0)]]
    assert found["dear"] == [[pytest.approx(0.7), 0.0, pytest.approx(0.7)]]
    assert [len(batch) for batch in asked] == [7, 7]
    assert all(bool(batch.observed.any(1).all()) for batch in asked)
    assert not asked[1].observed[:, 1].any(), "what it cannot read is not shown"
    both = measure.asked(setting, oracle, ("tells", "mute"), (), 0)
    # Labels of the rows that it is told nothing of are 0, 1, 2: one of three is said to be 0.
    assert both["right"][0][2] == pytest.approx(80.0) and both["dear"][0] == [
        pytest.approx(0.7),
        1,
        1,
    ]


def test_shares_of_two_experts_are_of_all_samples() -> None:
    def answer(batch: Batch) -> tuple[Tensor, Tensor]:
        logits, _ = oracle(batch)
        return logits, (logits.argmax(1) == 2).long()

    found = measure.asked(TOLD, answer, ("tells",), (), 0)
    assert found["dear"][0] == [pytest.approx(0.4), 0, pytest.approx(0.4)]
    assert found["cheap"][0] == [pytest.approx(0.6), 0, pytest.approx(0.6)]


def test_who_sees_nothing_says_the_most_frequent_label_of_training() -> None:
    assert measure.majority(TOLD, 0) == 2, "4 of 7"
    assert measure.floor(TOLD, 0) == 40.0

    def unasked(batch: Batch) -> tuple[Tensor, Tensor]:
        assert not len(batch)
        return torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64)

    for setting in STUDIES.values():
        blind = measure.asked(setting, unasked, (), (), 0)["right"][0]
        assert blind == [pytest.approx(measure.floor(setting, 0))] * len(blind)


# Noise ----------------------------------------------------------------------------------------------------


def watched(setting: Setting, levels: tuple[float, ...], seed: int) -> dict[Any, Batch]:
    """Condition -> what a method is shown of it, everything visible."""
    seen: list[Batch] = []

    def answer(batch: Batch) -> tuple[Tensor, Tensor]:
        seen.append(batch)
        return torch.zeros(len(batch), setting.classes), torch.ones(len(batch), dtype=torch.int64)

    measure.asked(setting, answer, setting.names, levels, seed)
    return dict(zip(measure.conditions(setting, levels), seen[2::3], strict=True))


def test_noise_is_the_same_for_every_method_and_level() -> None:
    first, again, other = (watched(TOLD, (0.5, 1.0, 2.0), seed) for seed in (0, 0, 1))
    test = Told().load("test")
    for condition, batch in first.items():
        for name in ("tells", "mute"):
            assert torch.equal(batch.x[name], again[condition].x[name]), "reproducible"
            added = batch.x[name] - test.x[name]
            if condition[0] in (ALL, name):
                unit = first[name, 1.0].x[name] - test.x[name]
                torch.testing.assert_close(added, condition[1] * unit, rtol=1e-5, atol=1e-5)
                assert (
                    not torch.equal(batch.x["tells"], other[condition].x["tells"]) or name == "mute"
                )
            else:
                assert torch.equal(batch.x[name], test.x[name]), "on no other"
        assert batch.y is not None and torch.equal(batch.y, torch.tensor(LABELS["test"]))
    wanted = add_noise(test, 2.0, torch.Generator().manual_seed(0))
    assert torch.equal(first[ALL, 2.0].x["tells"], wanted.x["tells"])
    size = (first[ALL, 2.0].x["tells"] - test.x["tells"]).std() / test.x["tells"].abs().mean()
    assert float(size) == pytest.approx(2, abs=0.8), "deviations over the mean magnitude, 40 draws"


def test_how_loud_a_level_is_by_hand() -> None:
    @dataclass(frozen=True)
    class Offset:
        seed: int = 0

        def load(self, split: str, device: Any = None) -> Batch:
            g = torch.Generator().manual_seed(1)
            x = {
                "near": torch.randn(500, 40, generator=g),
                "far": 10 + torch.randn(500, 40, generator=g),
            }
            y = torch.arange(500) % 4
            observed = torch.ones(500, 2, dtype=torch.bool)
            observed[:100, 1] = False
            return Batch(x, observed, y)

    setting = sized(Offset(), (("near", (40,)), ("far", (40,))), Pictures((4,)), 4)
    found = measure.loudness(setting, 0)
    assert found["near"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.02), (
        "mean magnitude of a normal"
    )
    assert found["far"] == pytest.approx(10, rel=0.02), "an offset counts as signal"
    table = measure.loudness_table({"first": setting, "again": setting}, 0)
    assert table["noise of level 1"].tolist() == [round(v, 1) for v in found.values()] * 2
    assert table["data"].tolist() == ["first"] * 2 + ["again"] * 2
    assert table["modality"].tolist() == ["near", "far"] * 2


def test_noise_costs_the_oracle_what_it_should() -> None:
    levels = (1e-3, 100.0)
    found = dict(
        zip(
            measure.conditions(TOLD, levels),
            measure.asked(TOLD, oracle, ("tells",), levels, 0)["right"],
            strict=True,
        )
    )
    test = Told().load("test")
    for condition, right in found.items():
        said = measure.noisy(test, condition, 0).x["tells"].argmax(1)
        wanted = 100 * float((said == test.y).double().mean())
        assert right == [pytest.approx(wanted), 40.0, pytest.approx(wanted)]
    assert found["mute", 100.0] == found[CLEAN, 0.0] == found["tells", 1e-3] == [100.0, 40.0, 100.0]
    assert found["tells", 100.0] == found[ALL, 100.0] != found[CLEAN, 0.0]


def test_one_modality_of_more_is_left_out() -> None:
    narrow = replace(STUDIES["affect"], modalities=STUDIES["affect"].modalities[:2])
    shown = watched(narrow, (), 0)[CLEAN, 0.0]
    assert shown.modalities == ("language", "audio")


# A table --------------------------------------------------------------------------------------------------


@each_setting
def test_a_row_is_what_its_entry_answers_and_pays(name: str) -> None:
    setting = STUDIES[name]
    levels, every = (1.0,), subsets(len(setting.names))
    test = setting.recipe(0).load("test")
    for way, gaps in (("early", True), (f"{setting.names[1]} alone", False), ("DynMM", True)):
        found = measure.scored(setting, (way, gaps), levels, 0)
        entry = Entry(setting, way, gaps, 0)
        costs, can = entry.costs(), torch.tensor([n in setting.reads(way) for n in setting.names])
        rows = measure.conditions(setting, levels)
        assert found["floor"] == measure.floor(setting, 0) and found["weights"] == costs["weights"]
        for i in (0, len(rows) - 1):
            for j, mask in enumerate(every):
                if not bool((mask & can).any()):
                    assert found["right"][i][j] == pytest.approx(found["floor"])
                    assert found["madds"][i][j] == 0, "who sees nothing computes nothing"
                    continue
                batch = measure.noisy(test, rows[i], 0).with_observed((mask & can).expand(24, -1))
                logits, path = entry.answer(batch)
                right = 100 * float((logits.argmax(1) == test.y).double().mean())
                assert found["right"][i][j] == pytest.approx(right)
                each = torch.where(path == 1, costs["madds"], costs["cheap"])
                assert found["madds"][i][j] == pytest.approx(float(each.mean()), rel=1e-6)


def test_a_table_has_a_row_for_each_entry_seed_condition_and_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = (
        ("flow alone", False),
        ("rgb alone", False),
        ("late", True),
        ("early", True),
        ("DynMM", True),
    )
    monkeypatch.setattr(Setting, "ways", property(lambda self: entries))
    studies = {
        "clips": STUDIES["clips"],
        "again": replace(STUDIES["clips"], cheap="rgb", classes=8),
    }
    table = measure.table(studies, (1.0,), (1, 0))
    assert [*table.columns] == [
        "way", "gaps", "seed", "visible", "noisy", "level", "accuracy", "floor", "madds", "weights", "data",
    ]  # fmt: skip
    assert len(table) == 2 * 5 * 2 * 4 * 3
    assert measure.ordered(STUDIES["clips"]) != [*entries], "trained in another order"
    part = table[table["data"] == "clips"]
    order = part[["way", "gaps"]].drop_duplicates().itertuples(index=False, name=None)
    assert tuple(order) == entries, "as in `ways`, whoever was trained first"
    assert {*part["seed"]} == {0, 1} and not part.isna().any(axis=None)
    keys = ["way", "gaps", "seed", "visible", "noisy", "level"]
    assert not part[keys].duplicated().any()
    for (way, gaps, seed), rows in part.groupby(["way", "gaps", "seed"]):
        found = measure.scored(STUDIES["clips"], (way, gaps), (1.0,), seed)
        assert rows["accuracy"].tolist() == [v for row in found["right"] for v in row]
        assert rows["visible"].tolist() == ["rgb", "flow", "rgb+flow"] * 4
        assert rows["noisy"].tolist() == [n for n in (CLEAN, "rgb", "flow", ALL) for _ in range(3)]
    assert table[table["data"] == "again"]["accuracy"].tolist() == part["accuracy"].tolist()


@each_setting
def test_those_come_first_that_others_build_on(name: str) -> None:
    setting = STUDIES[name]
    order = measure.ordered(setting)
    assert sorted(order) == sorted(setting.ways)
    place = {entry: i for i, entry in enumerate(order)}
    cheap = (f"{setting.cheap} alone", False)
    for gaps in (False, True):
        needed = max(place[cheap], place["early", gaps])
        assert needed < place["DynMM", gaps]
    for modality in setting.names:
        assert place["early", False] < place[f"{modality} taught", False]
    assert place[PREDICTOR, False] < 4, "DiCMoR is built on it, and waits for it"
    assert max(place.values()) == place["DiCMoR", True]
    assert min(place[way, False] for way in ("DiCMoR", REGRESSION, PAIRED)) > len(order) // 2


def test_bare_misa_is_misa_on_gaps_whose_conditions_weigh_nothing() -> None:
    setting = two()
    bare, whole = setting.bench(BARE, True), setting.bench("MISA", True)
    assert isinstance(bare, Misa)
    assert (bare.similar, bare.differ, bare.recover) == (0, 0, 0)
    assert replace(bare, similar=0.3, differ=0.1, recover=1.0) == whole
    assert (BARE, False) not in setting.ways


# A model of your own --------------------------------------------------------------------------------------


def test_a_model_of_ones_own_is_asked_the_same() -> None:
    made: list[Any] = []

    def make(setting: Setting, seed: int) -> Callable[[Batch], Tensor]:
        made.append((setting, seed))

        def predict(batch: Batch) -> Tensor:
            assert batch.modalities == setting.names
            for name in batch.modalities:
                assert not batch.x[name][~batch.observed[:, batch.column(name)]].any(), (
                    "zeros there"
                )
            return torch.cat((batch.x["tells"] - 0.5, batch.x["mute"][:, :0]), 1)

        return predict

    table = measure.entered("mine", {"told": TOLD}, make, lambda _: 70.0, (1.0,), (0, 1))
    assert made == [(TOLD, 0), (TOLD, 1)]
    assert len(table) == 2 * 4 * 3 and {*table["data"]} == {"told"} and {*table["way"]} == {"mine"}
    clean = table[table["noisy"] == CLEAN]
    assert clean["accuracy"].tolist() == [100.0, 20.0, 100.0] * 2, "all equal: the first class"
    assert {*table["floor"]} == {40.0} and {*table["madds"]} == {70.0}
    assert table["weights"].isna().all() and not table["gaps"].any()
    one = measure.entered("mine", {"told": TOLD}, make, lambda _: 70.0, (), (0,), reads=("tells",))
    assert one["accuracy"].tolist() == [100.0, 40.0, 100.0]
    assert one["madds"].tolist() == [70.0, 0.0, 70.0]
    assert [*reading.scores(table)["complete"]] == [100.0, 100.0]


@pytest.mark.parametrize(
    ("said", "shape"),
    [
        (lambda b: torch.zeros(len(b), 3), r"\(10, 3\)"),
        (lambda b: torch.zeros(len(b)), r"\(10,\)"),
        (lambda b: torch.zeros(4, len(b)), r"\(4, 10\)"),
    ],
)
def test_answers_of_another_shape_are_refused(said: Any, shape: str) -> None:
    with pytest.raises(ValueError, match=rf"must give \(10, 4\) for 10 samples, got {shape}"):
        measure.entered("mine", {"told": TOLD}, lambda *_: said, lambda _: 1.0, (), (0,))


def test_a_mixture_of_entries_means_their_probabilities() -> None:
    setting, both = STUDIES["clips"], (("early", True), ("late", False))
    answer = measure.mixture(*both)(setting, 0)
    batch = setting.recipe(0).load("test").with_observed(subsets(2)[torch.arange(24) % 3])
    each = torch.stack([Entry(setting, *entry, 0).answer(batch)[0].softmax(1) for entry in both])
    torch.testing.assert_close(answer(batch).exp(), each.mean(0))
    torch.testing.assert_close(answer(batch).exp().sum(1), torch.ones(24))
    same = measure.mixture(both[0])
    table = measure.entered("same", {"clips": setting}, same, lambda _: 1.0, (1.0,), (0,))
    found = measure.scored(setting, both[0], (1.0,), 0)
    assert table["accuracy"].tolist() == [v for row in found["right"] for v in row]
    costs = [Entry(setting, *entry, 0).costs()["madds"] for entry in both]
    assert measure.mixture_madds(*both)(setting) == sum(costs)
    wanted: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            measure, "Entry", lambda *given: wanted.append(given) or Entry(setting, *both[0], 0)
        )
        measure.mixture_madds(both[1], seed=5, device="cuda")(setting)
    assert wanted == [(setting, "late", False, 5, "cuda")]


# Scores ---------------------------------------------------------------------------------------------------


def rows_of(
    way: str, gaps: bool, seed: int, clean: tuple[float, ...], noise: Mapping[str, tuple[float, ...]],
    cost: float, data: str = "told",
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of a table of two modalities, a and b, at level 1; more levels: "all 2" and so on."""
    conditions = {f"{CLEAN} 0": clean, **noise}
    return [
        {
            "data": data, "way": way, "gaps": gaps, "seed": seed, "visible": visible,
            "noisy": key.split()[0], "level": float(key.split()[1]), "accuracy": accuracy, "floor": 25.0,
            "madds": cost * (1 + ("+" in visible)), "weights": 10 * cost,
        }
        for key, three in conditions.items()
        for visible, accuracy in zip(("a", "b", "a+b"), three, strict=True)
    ]  # fmt: skip


NOISE = {
    "a 1": (1.0, 2.0, 70.0), "a 2": (1.0, 2.0, 60.0), "b 1": (3.0, 4.0, 80.0), "b 2": (3.0, 4.0, 50.0),
    "all 1": (30.0, 20.0, 40.0), "all 2": (26.0, 24.0, 30.0),
}  # fmt: skip


def test_scores_are_the_means_that_they_say() -> None:
    table = pd.DataFrame([
        *rows_of("early", False, 0, (50.0, 40.0, 90.0), NOISE, 100.0),
        *rows_of("early", True, 0, (60.0, 70.0, 80.0), NOISE, 100.0),
        *rows_of("MVAE", True, 0, (10.0, 20.0, 30.0), NOISE, 7.0),
    ])  # fmt: skip
    found = reading.scores(table.sample(frac=1, random_state=0))
    first = reading.scores(table).set_index("entry")
    assert [*first.index] == ["early", "early, gaps", "MVAE"], "in the order of the table"
    both = (30 + 20 + 26 + 24) / 4
    noisy = (70 + 60 + 80 + 50 + 40 + 30) / 6
    wanted = {"complete": 90, "missing": 45, "noisy": noisy, "both": both}
    assert first.loc["early", [*reading.SCORES]].to_dict() == pytest.approx(wanted)
    assert first.loc["early", "overall"] == pytest.approx((90 + 45 + noisy + both) / 4)
    assert first.loc["early, gaps", "missing"] == 65 and first.loc["MVAE", "complete"] == 30
    assert first.loc["early", ["floor", "madds", "weights"]].tolist() == [25, 200, 1000]
    shuffled = found.set_index("entry").loc[[*first.index], [*first.columns]]
    pd.testing.assert_frame_equal(shuffled, first, check_exact=False)


def test_each_data_set_has_an_everything_of_its_own_and_seeds_are_averaged_last() -> None:
    more = pd.DataFrame([
        {"data": "three", "way": "late", "gaps": False, "seed": 0, "visible": visible, "noisy": noisy,
         "level": level, "accuracy": accuracy, "floor": 20.0, "madds": 5.0, "weights": 6.0}
        for visible, accuracy in (("a+b", 10.0), ("c", 40.0), ("a+b+c", 99.0))
        for noisy, level in ((CLEAN, 0.0), (ALL, 1.0))
    ])  # fmt: skip
    table = pd.concat([
        pd.DataFrame(
            rows_of("late", False, 0, (50.0, 40.0, 90.0), NOISE, 1.0)
            + rows_of("late", False, 1, (50.0, 40.0, 80.0), NOISE, 3.0)
        ),
        more,
    ])  # fmt: skip
    found = reading.scores(table)
    assert found["complete"].tolist() == [90, 80, 99] and found["missing"].tolist() == [45, 45, 25]
    assert found["seed"].tolist() == [0, 1, 0]
    mean = reading.means(found)
    assert mean["complete"].tolist() == [85, 99] and mean["madds"].tolist() == [4, 5]
    assert "seed" not in mean and mean["entry"].tolist() == ["late", "late"]
    with pytest.raises(ValueError, match="table must have at least one row, got none"):
        reading.scores(table[:0])


@pytest.mark.parametrize(
    ("costs", "values", "wanted"),
    [
        ({"a": 1, "b": 2, "c": 3}, {"a": 10, "b": 20, "c": 30}, ["a", "b", "c"]),
        ({"a": 3, "b": 2, "c": 1}, {"a": 30, "b": 20, "c": 10}, ["c", "b", "a"]),
        ({"a": 1, "b": 2, "c": 3}, {"a": 10, "b": 5, "c": 30}, ["a", "c"]),
        ({"a": 1, "b": 2}, {"a": 10, "b": 10}, ["a"]),  # as good for more is no better
        ({"a": 1, "b": 1}, {"a": 10, "b": 20}, ["b"]),  # of equals in cost the better
        ({"a": 1, "b": 1}, {"a": 10, "b": 10}, ["a"]),  # of equals in all the first
        ({"a": 0, "b": 1}, {"a": -1, "b": -2}, ["a"]),
        ({}, {}, []),
    ],
)
def test_the_front_is_who_nobody_beats_for_as_much(
    costs: dict[str, float], values: dict[str, float], wanted: list[str]
) -> None:
    assert reading.front(costs, values) == wanted
    for name in costs:
        beaten = any(
            costs[other] <= costs[name] and values[other] >= values[name]
            and (costs[other], values[other]) != (costs[name], values[name])
            for other in costs
        )  # fmt: skip
        assert beaten == (name not in wanted) or (costs[name], values[name]) in {
            (costs[w], values[w]) for w in wanted
        }


def test_fronts_are_of_means_over_seeds_in_any_cost_and_score() -> None:
    table = pd.DataFrame([
        row
        for seed in (0, 1)
        for way, gaps, whole, cost in (
            ("late", False, 60 + 20 * seed, 3.0), ("early", True, 75 - 20 * seed, 2.0),
            ("MISA", False, 66.0, 4.0),
        )
        for row in rows_of(way, gaps, seed, (50.0, 40.0, whole), NOISE, cost)
    ])  # fmt: skip
    found = reading.scores(table.assign(weights=5.0))
    assert reading.fronts(found) == {"told": ["early, gaps", "late"]}
    assert reading.fronts(found, "weights") == {"told": ["late"]}
    assert reading.fronts(found, score="missing") == {"told": ["early, gaps"]}


def test_agreement_is_spearmans_of_each_seed() -> None:
    found = pd.DataFrame({
        "data": ["a"] * 8 + ["b"] * 2, "seed": [0] * 4 + [1] * 4 + [0] * 2,
        "complete": [1, 2, 3, 4, 1, 2, 3, 4, 1, 2], "missing": [1, 20, 400, 30, 9, 3, 2, 1, 5, 9],
        "noisy": [1, 1, 2, 2, 7, 8, 9, 10, 0, 1],
    })  # fmt: skip
    np.testing.assert_allclose(reading.agreement(found, "a"), [1 - 6 * 2 / (4 * 15), -1])
    np.testing.assert_allclose(reading.agreement(found, "b"), [1])
    ties = reading.agreement(found, "a", "complete", "noisy")
    np.testing.assert_allclose(ties, [2 / math.sqrt(5), 1])  # ranks 1.5, 1.5, 3.5, 3.5


def test_a_model_of_ones_own_stands_beside_early_fusion_and_the_best() -> None:
    table = pd.DataFrame([
        row
        for seed in (0, 1, 2)
        for way, gaps, whole in (("early", False, 70.0), ("early", True, 60.0), ("MISA", True, 90.0),
                                 ("late", False, 50.0))
        for row in rows_of(way, gaps, seed, (50.0, 40.0, whole + 30 * (seed == 2)), NOISE, 2.0)
    ])  # fmt: skip
    mine = pd.DataFrame(rows_of("mine", False, 1, (10.0, 20.0, 33.3), NOISE, 1.0))
    found = reading.beside(table, mine)
    assert found["entry"].tolist() == ["mine", "early", "early, gaps", "MISA, gaps"]
    assert found["complete"].tolist() == [33.3, 70.0, 60.0, 90.0], "of its seeds alone"
    assert found["madds"].tolist() == [2, 4, 4, 4]


# What went wrong once -------------------------------------------------------------------------------------


def test_real_digits_recover_what_is_missing_too() -> None:
    recovery = plan.digits("smoke", "real").recovery()
    assert recovery.recipe(3).seed == 3


def test_nobody_is_asked_about_no_sample() -> None:
    sizes = []

    def answer(batch: Batch) -> tuple[Tensor, Tensor]:
        sizes.append(len(batch))
        return torch.zeros(len(batch), STUDIES["clips"].classes), torch.ones(
            len(batch), dtype=torch.int64
        )

    measure.asked(STUDIES["clips"], answer, ("rgb",), (), 0)
    assert sizes and min(sizes) > 0


def test_a_mixture_is_of_entries_that_read_everything() -> None:
    make = measure.mixture(("late", True), ("rgb alone", False))
    with pytest.raises(
        ValueError, match="entries must read all of rgb, flow; 'rgb alone' does not"
    ):
        make(STUDIES["clips"], 0)


def test_a_nearest_mean_answers_whatever_it_has_learnt_from() -> None:
    x = {"a": torch.ones(4, 2), "b": torch.full((4, 3), torch.nan)}
    seen = torch.tensor([[True, False]] * 4)
    train = Batch(x, seen, torch.tensor([0, 0, 2, 2]))
    net = NearestMean(train, 4)
    said = net.predict(Batch({"a": torch.zeros(2, 2), "b": torch.zeros(2, 3)}))
    assert bool(said[:, [0, 2]].isfinite().all())
    assert said[:, [1, 3]].max() < said[:, [0, 2]].min(), "who never was in training is no answer"


def test_what_is_no_entry_is_none_even_if_it_needs_no_training() -> None:
    with pytest.raises(ValueError, match="way and gaps must be one of"):
        Entry(STUDIES["clips"], "nearest mean", True, 0)
