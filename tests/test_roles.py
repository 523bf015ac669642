"""Methods of the bench as students and as experts: the same losses and answers, in another role."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch, subsets
from labkit.models.backbones import Steps
from labkit.models.dynmm import ANSWERS
from labkit.models.experts import Network, task_loss
from labkit.models.fusion import Early, Late, Single
from labkit.models.mfh import Distillation
from labkit.models.misa import Misa
from labkit.models.roles import TEACHER, Gated, Seat, SeatNet, Taught, TaughtNet
from labkit.train import TrainConfig, fit

SHAPES = {"rgb": (4, 3), "flow": (4, 2)}
BASE: dict[str, Any] = {
    "modalities": tuple(SHAPES.items()), "backbone": Steps((4, 6)), "classes": 3, "hidden": 8,
}  # fmt: skip
STUDENT, EARLY = Single(**BASE, only="flow"), Early(**BASE)
GATE = Network(BASE["modalities"], "mlp", ((),), (6,), 2, early=True)
GATED = Gated((Single(**BASE), EARLY), GATE, (10.0, 30.0))


def samples(n: int = 8, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(n, *shape, generator=g) for m, shape in SHAPES.items()}
    return Batch(x, y=torch.arange(n) % 3, factors={"number": torch.arange(n)})


def built(config: Any, seed: int = 0) -> Any:
    """A network in eval mode, its statistics moved from where they start."""
    torch.manual_seed(seed)
    net = config.build().eval()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.3)
    return net


def taught(teacher: Any = None, /, **loss: Any) -> Any:
    torch.manual_seed(1)
    return Taught(STUDENT, Distillation(reduction="batchmean", **loss)).build(teacher)


def said(net: TaughtNet, *logits: list[float]) -> Any:
    """The same student, with these logits whatever it sees."""
    net.predict = lambda batch: torch.tensor(logits)  # type: ignore[method-assign]
    return net


# A student --------------------------------------------------------------------------------------------

LN2, LN3 = math.log(2), math.log(3)
# Students say (1/2, 1/2) and (3/4, 1/4); teachers (3/4, 1/4) and (1/3, 2/3). Labels are 0 and 1.
PAIR = Batch(
    {m: torch.ones(2, *shape) for m, shape in SHAPES.items()}, y=torch.tensor([0, 1]),
    factors={TEACHER: torch.tensor([[LN3, 0.0], [0.0, LN2]])},
)  # fmt: skip
ENTROPY = (math.log(2) + math.log(4)) / 2
APART = (
    0.75 * math.log(1.5) + 0.25 * math.log(0.5) + math.log(4 / 9) / 3 + 2 * math.log(8 / 3) / 3
) / 2


def softer(logit: float) -> list[float]:
    """Probabilities of (logit, 0) at temperature 2."""
    first = math.exp(logit / 2) / (math.exp(logit / 2) + 1)
    return [first, 1 - first]


def divergence(teacher: list[float], student: list[float]) -> float:
    return sum(q * math.log(q / p) for q, p in zip(teacher, student, strict=True))


APART_2 = (divergence(softer(LN3), [0.5, 0.5]) + divergence(softer(-LN2), softer(LN3))) / 2


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        (Distillation(reduction="batchmean"), ENTROPY + APART),
        (Distillation(labels=2.0, teacher=0.0), 2 * ENTROPY),
        (Distillation(labels=0.0, teacher=3.0, reduction="batchmean"), 3 * APART),
        (Distillation(reduction="mean"), ENTROPY + APART / 2),
        (Distillation(0.0, 1.0, 2.0, "batchmean"), APART_2),
    ],
)
def test_a_students_loss_is_that_of_labels_and_teacher(loss: Distillation, wanted: float) -> None:
    net = said(Taught(replace(STUDENT, classes=2), loss).build(), [0.0, 0.0], [LN3, 0.0])
    found, parts = net.loss(PAIR, 0, torch.Generator())
    assert float(found) == pytest.approx(wanted, rel=1e-6)
    assert float(parts["accuracy"]) == 0.5


def test_labels_and_teacher_weigh_alike_unless_told_otherwise() -> None:
    assert Taught(STUDENT).loss == Distillation(1.0, 1.0, 1.0, "batchmean")
    same = said(taught(), *PAIR.factors[TEACHER].tolist())
    entropy = F.cross_entropy(PAIR.factors[TEACHER], PAIR.y)
    assert torch.equal(same.loss(PAIR, 0, torch.Generator())[0], entropy), "a student that agrees"


def test_without_weight_a_teacher_changes_nothing() -> None:
    net = taught(built(EARLY), teacher=0.0)
    batch = net.prepare(samples())
    torch.manual_seed(1)
    plain = STUDENT.build()
    assert all(
        torch.equal(one, other)
        for one, other in zip(net.parameters(), plain.parameters(), strict=True)
    )
    for mode in (False, True):
        slopes = []
        for each in (net, plain):
            each.train(mode).zero_grad()
            torch.manual_seed(2)
            loss, parts = each.loss(batch, 0, torch.Generator())
            loss.backward()
            slopes.append([loss, parts["accuracy"], *(p.grad for p in each.parameters())])
        assert all(torch.equal(one, other) for one, other in zip(*slopes, strict=True))
    assert (
        net.loss(batch, 0, torch.Generator())[0]
        != taught(built(EARLY)).train().loss(batch, 0, torch.Generator())[0]
    ), "with weight it does"


def test_a_teacher_is_no_part_of_its_student_and_stays_as_it_was() -> None:
    teacher = built(EARLY)
    net = taught(teacher)
    assert net.state_dict().keys() == {f"net.{name}" for name in STUDENT.build().state_dict()}
    own = {id(p) for p in net.parameters()}
    assert not own & {id(p) for p in teacher.parameters()} and len(own) == len(
        [*net.net.parameters()]
    )
    batch, told = samples(), teacher.predict(samples()).detach()
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.add_(1.0)
    teacher.train()
    net.train()
    for _ in range(2):  # statistics of a network in training mode would move
        assert torch.equal(net.prepare(batch).factors[TEACHER], told), "it has a copy, in eval mode"
    fit(net, batch, TrainConfig(2, 4, 1e-2), progress=False)
    assert torch.equal(net.prepare(batch).factors[TEACHER], told)
    alone = taught()
    alone.load_state_dict(net.state_dict())
    assert torch.equal(alone.eval().predict(batch), net.eval().predict(batch)), "needed no more"


def test_a_teacher_answers_each_sample_once_and_sees_what_its_student_does_not() -> None:
    teacher = built(EARLY)
    batch = samples(1030)  # more than one piece
    prepared = taught(teacher).prepare(batch)
    torch.testing.assert_close(
        prepared.factors[TEACHER], teacher.predict(batch), rtol=1e-5, atol=1e-6
    )
    assert not prepared.factors[TEACHER].requires_grad
    assert torch.equal(prepared.factors["number"], batch.factors["number"])
    assert all(prepared.x[name] is batch.x[name] for name in SHAPES)
    blind = replace(batch, x={**batch.x, "rgb": torch.zeros_like(batch.x["rgb"])})
    told = taught(teacher).prepare(blind)
    assert not torch.allclose(told.factors[TEACHER], prepared.factors[TEACHER])
    net = taught(teacher).eval()
    assert torch.equal(net.predict(blind), net.predict(batch))


def test_a_student_learns_what_its_teacher_says() -> None:
    teacher = built(Single(**BASE, only="flow"), 5)
    with torch.no_grad():
        teacher.head[-1].weight.mul_(20)
    batch, net = samples(64), taught(teacher, labels=0.0)
    before = (net.eval().predict(batch).argmax(1) == teacher.predict(batch).argmax(1)).sum()
    history = fit(net, batch, TrainConfig(20, 16, 1e-2), seed=0, progress=False)
    after = (net.eval().predict(batch).argmax(1) == teacher.predict(batch).argmax(1)).sum()
    assert history.train["total"][-1] < 0.5 * history.train["total"][0]
    assert int(after) > int(before) and int(after) >= 48


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Taught(replace(STUDENT, classes=None)), "student must answer with classes"),
        (lambda: taught().prepare(samples()), r"teacher is missing: build\(teacher\)"),
        (lambda: fit(taught(), samples(), TrainConfig(1, 4), progress=False), "teacher is missing"),
        (lambda: taught(built(EARLY)).loss(samples(), 0, torch.Generator()), "see TaughtNet.prepare"),
        (lambda: taught().loss(replace(PAIR, y=None), 0, torch.Generator()), "must have labels"),
    ],
)  # fmt: skip
def test_what_a_student_lacks_is_named(run: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()


# An expert --------------------------------------------------------------------------------------------

WAYS: dict[str, Any] = {
    "early": EARLY, "late": Late(**BASE), "misa": Misa(**BASE, inside=4, width=8, feed=16),
}  # fmt: skip


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_an_expert_takes_zeros_for_missing(config: Any) -> None:
    net = built(config)
    seat, whole = SeatNet(Seat(config), net), samples(9)
    batch = whole.with_observed(subsets(2).repeat(3, 1))
    x = batch.aligned(SHAPES).x
    assert torch.equal(seat(x), net.predict(batch)), "equals the network that is told"
    assert not torch.allclose(seat(x), net.predict(replace(batch, x=x, observed=whole.observed)))
    assert torch.equal(seat(whole.x), net.predict(whole))
    assert torch.equal(seat({**x, "sound": torch.ones(9, 7)}), seat(x)), "others are not read"
    nothing = {name: torch.zeros_like(values) for name, values in x.items()}
    told = net.predict(Batch(nothing))
    assert torch.equal(seat(nothing), told), "where all are zeros, all count as observed"
    one = {name: values.clone() for name, values in nothing.items()}
    one["rgb"][:, 2, 1] = 1e-20  # a single number that is not zero
    hidden = Batch(one, torch.tensor([[True, False]]).repeat(9, 1))
    assert torch.equal(seat(one), net.predict(hidden))


def test_an_expert_of_one_modality_reads_that_alone() -> None:
    net, batch = built(STUDENT), samples()
    seat = SeatNet(Seat(STUDENT), net)
    assert seat.shapes == {"flow": (4, 2)} and SeatNet(Seat(EARLY), built(EARLY)).shapes == SHAPES
    assert torch.equal(seat({"flow": batch.x["flow"]}), net.predict(batch))
    blind = {"rgb": batch.x["rgb"], "flow": torch.zeros_like(batch.x["flow"])}
    assert torch.equal(seat(blind), net.predict(replace(batch, x=blind)))


def test_an_expert_of_one_modality_learns_from_samples_of_more() -> None:
    net, batch = Seat(Single(**BASE, only="rgb")).build(), samples()
    net.eval()
    loss, _ = net.loss(batch, 0, torch.Generator())
    assert loss == task_loss("classes", net({"rgb": batch.x["rgb"]}), batch.y)


def test_a_student_is_taught_with_gaps_if_it_is_told_to() -> None:
    torch.manual_seed(1)
    net = Taught(replace(EARLY, hide=0.5)).build(EARLY.build()).eval()
    batch = net.prepare(samples())
    first, again, other = (
        net.loss(batch, 0, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_an_experts_loss_is_the_tasks() -> None:
    seat: Any = Seat(EARLY).build().eval()
    batch = samples().with_observed(subsets(2)[torch.arange(8) % 3])
    loss, parts = seat.loss(batch, 0, torch.Generator())
    torch.testing.assert_close(loss, F.cross_entropy(seat.net.predict(batch), batch.y))
    assert parts == {} and seat.expert == Seat(EARLY)


# A gate before them -----------------------------------------------------------------------------------


def gated() -> tuple[Any, tuple[Any, Any]]:
    methods = built(GATED.methods[0], 3), built(EARLY, 4)
    torch.manual_seed(5)
    return GATED.build(*methods).eval(), methods


def test_a_gate_in_the_words_of_dynmm() -> None:
    config = GATED.dynmm
    assert config.experts == (Seat(Single(**BASE)), Seat(EARLY))
    assert (config.gate, config.costs, config.weight) == (GATE, (10.0, 30.0), 0.1)
    assert config.resource == "official" and config.frozen
    assert config.prices.tolist() == [0.0, 1.0]
    dear = replace(GATED, resource="madds", weight=0.5).dynmm
    assert dear.weight == 0.5
    torch.testing.assert_close(dear.prices, torch.tensor([1 / 3, 1.0]))


def test_a_gate_has_copies_of_trained_methods() -> None:
    model, methods = gated()
    batch, before = samples(), copy.deepcopy(model.state_dict())
    for seat, net in zip(model.experts, methods, strict=True):
        assert torch.equal(seat(batch.x), net.predict(batch))
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("gate.") for name in trained), "experts stay as they are"
    model.train()
    assert model.gate.training and not any(seat.training for seat in model.experts)
    fit(model, batch, TrainConfig(2, 4, 1e-2), progress=False)
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved and moved <= {*trained}
    torch.manual_seed(5)
    untrained = GATED.build()
    assert [seat.expert for seat in untrained.experts] == [*GATED.dynmm.experts]


@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "with gaps"])
def test_each_sample_gets_its_own_experts_answer(gaps: bool) -> None:
    """Samples of one path run together: up to rounding, 1e-5, what each expert says of it alone."""
    model, (cheap, dear) = gated()
    path = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1])
    batch = samples(9)
    if gaps:
        seen = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
        seen = torch.cat((seen, seen, seen[:1]))
        batch = batch.with_observed(seen | (path == 0)[:, None] & torch.tensor([True, False]))
    found = model.answer(batch, path)
    assert torch.equal(found.path, path)
    for i in range(9):
        wanted = (cheap, dear)[path[i]].predict(batch[i : i + 1])
        torch.testing.assert_close(found.logits[i : i + 1], wanted, rtol=1e-5, atol=1e-5)
    for one, net in ((0, cheap), (1, dear)):
        if one == 0 and gaps:
            continue  # what it reads is missing in some rows
        whole = model.answer(batch, torch.full_like(path, one)).logits
        torch.testing.assert_close(whole, net.predict(batch), rtol=1e-5, atol=1e-5)
    wrong = model.answer(batch, 1 - path).logits if not gaps else None
    assert wrong is None or not torch.allclose(wrong, found.logits, atol=1e-3)
    chosen = model.answer(batch)
    assert torch.equal(chosen.path, model.choose(batch).argmax(1))


def test_a_gates_loss_is_task_and_cost() -> None:
    model, _ = gated()
    with torch.no_grad():
        model.gate.head[-1].weight.zero_()
        model.gate.head[-1].bias.copy_(torch.tensor([0.0, 5.0]))
    batch = samples().with_observed(torch.tensor([[True, True], [True, False]]).repeat(4, 1))
    prepared = model.prepare(batch)
    answers: Tensor = prepared.factors[ANSWERS]
    each = [seat(batch.aligned(SHAPES).x) for seat in model.experts]
    torch.testing.assert_close(answers, torch.stack(each, 1))
    for which, bias in enumerate(([5.0, 0.0], [0.0, 5.0])):
        with torch.no_grad():
            model.gate.head[-1].bias.copy_(torch.tensor(bias))
        loss, parts = model.loss(prepared, 0, torch.Generator())
        task = task_loss("classes", answers[:, which], batch.y)
        assert float(parts["cost"]) == which and float(parts["first"]) == 1 - which
        torch.testing.assert_close(loss, task + 0.1 * which, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "methods",
    [
        lambda: (built(EARLY), built(Single(**BASE))),  # the wrong way round
        lambda: (built(Single(**BASE)),),
        lambda: (built(Single(**BASE)), built(replace(EARLY, hide=0.5))),
        lambda: (built(STUDENT), built(EARLY)),
    ],
)
def test_other_methods_are_refused(methods: Any) -> None:
    with pytest.raises(ValueError, match="methods must be .*, got"):
        GATED.build(*methods())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: replace(GATED, costs=(1.0,)).build(), r"costs must be 2 numbers above 0, got \(1.0,\)"),
        (lambda: replace(GATED, costs=(0.0, 1.0)).build(), "costs must be 2 numbers above 0"),
        (lambda: replace(GATED, weight=-1.0).build(), "weight must be at least 0, got -1.0"),
        (lambda: replace(GATED, gate=replace(GATE, outputs=3)).build(), "gate must have 2 outputs"),
        (lambda: replace(GATED, methods=(EARLY,), costs=(1.0,)).build(), "experts must be at least two"),
    ],
)  # fmt: skip
def test_a_gate_that_does_not_fit_is_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
