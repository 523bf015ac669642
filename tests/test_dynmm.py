"""DynMM, modality level: routed equals mixed, frozen stays frozen, costs push where they should."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.dynmm import ANSWERS, DynMM, DynmmConfig, GatesConfig, grouped
from labkit.models.experts import Expert, Maxout, Network, Task, task_loss
from labkit.models.gates import Relaxation, one_path
from labkit.train import TrainConfig, fit

TEXT, IMAGE = ("text", (6,)), ("image", (10,))
WORDS, SOUND = ("text", (7, 6)), ("audio", (7, 4))


def vectors(task: Task = "labels", outputs: int = 3, **changes: Any) -> DynmmConfig:
    cheap = Network((TEXT,), "mlp", ((8, 8),), (8,), outputs)
    dear = Network((TEXT, IMAGE), "maxout", ((8, 8), (12, 8)), (), outputs)
    gate = Network((TEXT, IMAGE), "mlp", ((),), (8,), 2, early=True)
    config = DynmmConfig((Expert(cheap, task), Expert(dear, task)), gate, (1.0, 8.0))
    return replace(config, **changes)


def sequences() -> DynmmConfig:
    small = {"layers": 2, "heads": 2, "inside": 16}
    cheap = Network((WORDS,), "transformer", ((8,),), (8,), 2, **small)
    dear = Network((WORDS, SOUND), "transformer", ((8,), (4,)), (8,), 2, **small)
    gate = Network((WORDS, SOUND), "transformer", ((4,),), (), 2, early=True, **small)
    return DynmmConfig((Expert(cheap, "classes"), Expert(dear, "classes")), gate, (1.0, 3.0))


def built(config: DynmmConfig, seed: int = 0) -> DynMM:
    torch.manual_seed(seed)
    model = config.build(*(expert.build() for expert in config.experts))
    for module in model.modules():  # as after some training: statistics that are no identity
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


def batch_of(config: DynmmConfig, n: int = 40, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shapes = config.gate.shapes
    x = {name: torch.randn(n, *shape, generator=generator) for name, shape in shapes.items()}
    task, outputs = config.experts[0].task, config.experts[0].network.outputs
    y = torch.randint(outputs, (n,), generator=generator)
    if task == "labels":
        y = (torch.rand(n, outputs, generator=generator) < 0.4).float()
    if task == "number":
        y = torch.randn(n, generator=generator)
    return Batch(x, y=y)


CONFIGS = {"vectors": vectors(), "sequences": sequences(), "number": vectors("number", 1)}


@pytest.mark.parametrize("path", ["all cheap", "all dear", "mixed", "chosen"])
@pytest.mark.parametrize("name", CONFIGS)
def test_routed_is_mixed_with_one_path(name: str, path: str) -> None:
    config = CONFIGS[name]
    model, batch = built(config), batch_of(config)
    given = {
        "all cheap": torch.zeros(40, dtype=torch.long), "all dear": torch.ones(40, dtype=torch.long),
        "mixed": torch.arange(40) * 7 % 3 % 2, "chosen": None,
    }[path]  # fmt: skip
    with torch.no_grad():
        said = model.answer(batch, given)
        mixed = model.mixed(batch, one_path(model.choose(batch)) if given is None
                            else torch.nn.functional.one_hot(given, 2).float())  # fmt: skip
    torch.testing.assert_close(said.logits, mixed, atol=1e-5, rtol=1e-5)
    if path == "chosen":
        assert 0 < said.path.sum() < 40, "both experts are asked"


def test_an_expert_that_nobody_chose_does_not_run_and_the_chosen_see_their_own_rows() -> None:
    config = vectors()
    model, batch, rows = built(config), batch_of(config), list[int]()
    model.experts[1].register_forward_pre_hook(lambda _, args: rows.append(len(args[0]["text"])))
    with torch.no_grad():
        model.answer(batch, torch.zeros(40, dtype=torch.long))
        assert rows == []
        path = torch.zeros(40, dtype=torch.long)
        path[[3, 17, 20]] = 1
        model.answer(batch, path)
    assert rows == [3]


def test_a_path_that_there_is_not_is_named() -> None:
    model, batch = built(vectors()), batch_of(vectors())
    with pytest.raises(ValueError, match="path must be below 2, got 2"):
        model.answer(batch, torch.full((40,), 2))


def test_what_an_expert_does_not_read_may_be_anything() -> None:
    model, batch = built(vectors()), batch_of(vectors())
    path = torch.zeros(40, dtype=torch.long)
    other = replace(batch, x=batch.x | {"image": torch.full((40, 10), 1e6)})
    with torch.no_grad():
        assert torch.equal(model.answer(batch, path).logits, model.answer(other, path).logits)


def test_kept_answers_train_the_same_gate_bit_for_bit() -> None:
    config = vectors()
    batch, train = batch_of(config, 200), TrainConfig(3, 50, 1e-2)
    plain, kept = built(config), built(config)
    plain.prepare = lambda batch: batch  # type: ignore[method-assign]
    fit(plain, batch, train, progress=False)
    rows = list[int]()
    kept.experts[1].register_forward_pre_hook(lambda _, args: rows.append(len(args[0]["text"])))
    fit(kept, batch, train, progress=False)
    assert rows == [200], "all samples once"
    assert kept.with_answers(batch).factors[ANSWERS].shape == (200, 2, 3)
    for mine, theirs in zip(plain.parameters(), kept.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_frozen_experts_keep_parameters_and_statistics_and_others_do_not() -> None:
    batch = batch_of(vectors(), 200)
    for frozen in (True, False):
        model = built(vectors(frozen=frozen))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        fit(model, batch, TrainConfig(2, 50, 1e-2), progress=False)
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        experts = {k for k in changed if k.startswith("experts")}
        assert any(k.startswith("gate") for k in changed)
        assert bool(experts) is not frozen
        if not frozen:
            assert any("running_mean" in k for k in experts)


def test_the_loss_is_task_and_weight_times_cost_and_official_cost_is_the_share_of_the_dear() -> (
    None
):
    batch, generator = batch_of(vectors()), torch.Generator()
    for resource, prices in (("official", [0.0, 1.0]), ("madds", [1 / 8, 1.0])):
        model = built(vectors(resource=resource, weight=0.3))
        total, parts = model.loss(batch, 0, generator)
        torch.testing.assert_close(total, parts["task"] + 0.3 * parts["cost"])
        dear = 1 - parts["first"]
        assert float(parts["cost"]) == pytest.approx(
            float(prices[0] * (1 - dear) + prices[1] * dear)
        )
    free = built(vectors(weight=0.0)).loss(batch, 0, generator)
    assert torch.equal(free[0].detach(), free[1]["task"])


def test_soft_gates_train_softly_and_are_judged_by_their_choice() -> None:
    config = vectors(relaxation=Relaxation(hard=False))
    model, batch, generator = built(config), batch_of(config), torch.Generator()
    soft = model.train().loss(batch, 0, generator)[1]["first"]
    hard = model.eval().loss(batch, 0, generator)[1]["first"]
    torch.testing.assert_close(soft, model.choose(batch).softmax(-1)[:, 0].mean().detach())
    torch.testing.assert_close(hard, one_path(model.choose(batch))[:, 0].mean())


@pytest.mark.parametrize("config", [vectors(), sequences()], ids=["vectors", "sequences"])
def test_many_gates_at_once_are_those_trained_alone(config: DynmmConfig) -> None:
    config = replace(config, gate=replace(config.gate, dropout=0.0))
    batch = batch_of(config, 120)
    experts = [expert.build().eval() for expert in config.experts]
    train, weights = TrainConfig(3, 40, 1e-2), (0.0, 0.3, 3.0)
    torch.manual_seed(5)
    many = GatesConfig(config, weights).build(*experts)
    kept = many.model.with_answers(batch)
    fit(many, kept, train, progress=False)
    for i, weight in enumerate(weights):
        torch.manual_seed(5)
        alone = replace(config, weight=weight).build(*experts)
        fit(alone, kept, train, progress=False)
        mine = many.one(i)
        assert mine.config.weight == weight
        torch.testing.assert_close(mine.choose(batch), alone.choose(batch), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(many.choose(batch)[i], mine.choose(batch), atol=1e-5, rtol=1e-5)


def test_a_dearer_second_expert_is_asked_less_from_always_to_never() -> None:
    """Text tells the first label of half of the samples, the image tells it of all."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(600, 3, generator=generator) < 0.5).float()
    clear = torch.arange(600) % 2 == 0
    text = torch.randn(600, 6, generator=generator) * 0.3
    text[:, :3] += torch.where(clear[:, None], 2.0, 0.0) * (2 * y - 1)
    image = torch.randn(600, 10, generator=generator) * 0.5
    image[:, :3] += 2 * y - 1
    batch = Batch({"text": text, "image": image}, y=y)
    torch.manual_seed(0)
    config = vectors(resource="official")
    experts = [expert.build() for expert in config.experts]
    for expert in experts:
        fit(expert, batch, TrainConfig(15, 50, 1e-2), progress=False)
    torch.manual_seed(0)
    many = GatesConfig(config, (0.0, 0.1, 0.3, 100.0)).build(*experts)
    fit(many, many.model.with_answers(batch), TrainConfig(15, 50, 1e-2), progress=False)
    share = many.choose(batch).argmax(-1).float().mean(1)
    assert share[0] > 0.9 and share[-1] == 0
    assert (share.diff() <= 0.02).all()
    chosen = many.choose(batch)[2].argmax(-1).bool()
    assert chosen[~clear].float().mean() > chosen[clear].float().mean() + 0.4
    never = many.one(3).answer(batch)
    assert torch.equal(never.logits, experts[0](batch.x))


def test_padding_is_not_seen() -> None:
    net = sequences().experts[1].network.build().eval()
    x = {name: torch.randn(3, 7, shape[1]) for name, shape in net.shapes.items()}
    for values in x.values():
        values[:, 4:] = 0
    short = {name: values[:, :4] for name, values in x.items()}
    torch.testing.assert_close(net(x), net(short), atol=1e-5, rtol=1e-5)
    silent = {name: torch.zeros_like(values) for name, values in x.items()}
    assert net(silent).isfinite().all()


def test_task_losses_are_those_of_the_textbook_for_a_stack_of_answers() -> None:
    logits = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    labels, classes = (torch.rand(5, 3) < 0.5).float(), torch.tensor([0, 2, 1, 1, 0])
    numbers = torch.randn(5)

    def each(found: Tensor, wanted: list[Tensor]) -> None:
        torch.testing.assert_close(found, torch.stack(wanted))

    bce, ce = nn.functional.binary_cross_entropy_with_logits, nn.functional.cross_entropy
    each(task_loss("labels", logits, labels), [bce(row, labels) for row in logits])
    each(task_loss("classes", logits, classes), [ce(row, classes) for row in logits])
    each(task_loss("number", logits[..., :1], numbers),
         [nn.functional.l1_loss(row[:, 0], numbers) for row in logits])  # fmt: skip
    with pytest.raises(ValueError, match=r"batch\.y is None"):
        task_loss("labels", logits, None)


def test_vectors_of_any_shape_are_read_as_one() -> None:
    net = Network((("text", (2, 3)), IMAGE), "mlp", ((4,), (4,))).build()
    x = {"text": torch.randn(5, 2, 3), "image": torch.randn(5, 10)}
    flat = Network((TEXT, IMAGE), "mlp", ((4,), (4,))).build()
    flat.load_state_dict(net.state_dict())
    assert torch.equal(net(x), flat({**x, "text": x["text"].flatten(1)}))


def test_a_network_without_encoder_is_no_linear_map() -> None:
    """ReLU stands between all layers of the head; none at an encoder's end."""
    gate = vectors().gate.build()
    assert [type(layer).__name__ for layer in gate.head] == ["Joined", "ReLU", "Linear"]
    assert len(gate.encoders[0]) == 0  # type: ignore[arg-type]
    x = {"text": torch.randn(4, 6), "image": torch.randn(4, 10)}
    first = nn.functional.linear(
        torch.cat((x["text"], x["image"]), 1), gate.head[0].weight, gate.head[0].bias
    )
    torch.testing.assert_close(gate(x), gate.head[2](first.relu()))
    assert not torch.allclose(gate({k: -v for k, v in x.items()}) - gate.head[-1].bias,
                              gate.head[-1].bias - gate(x))  # fmt: skip


def test_maxout_takes_the_larger() -> None:
    layer = Maxout(3, 4)
    x = torch.randn(5, 3)
    both = layer.linear(x).view(5, 4, 2)
    torch.testing.assert_close(layer(x), torch.maximum(both[..., 0], both[..., 1]))


def test_grouping_gives_each_row_its_own_answer_in_order() -> None:
    class Says(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number, self.shapes = number, {"x": (1,)}

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return 100 * self.number + x["x"]

    path = torch.tensor([2, 0, 2, 1, 0])
    said = grouped([Says(i) for i in range(4)], {"x": torch.arange(5.0)[:, None]}, path)
    assert said[:, 0].tolist() == [200, 1, 202, 103, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network((TEXT,), "tree", ((8,),)), "kind must be mlp, maxout or transformer"),  # type: ignore[arg-type]
        (lambda: Network((TEXT, IMAGE), "mlp", ((8,),)), "widths must be given for 2 encoders"),
        (lambda: Network((TEXT,), "transformer", ((10,),)), r"text must be \(steps, channels\)"),
        (lambda: Network((WORDS,), "transformer", ((8,),)), r"a multiple of heads \(5\)"),
        (
            lambda: Network((WORDS, ("audio", (9, 4))), "transformer", ((10,), (10,))),
            "as many steps",
        ),
        (lambda: Expert(vectors().experts[0].network, "rank"), "task must be labels, classes"),  # type: ignore[arg-type]
        (lambda: vectors(costs=(1.0,)), "costs must be 2 numbers above 0"),
        (lambda: vectors(costs=(1.0, 0.0)), "costs must be 2 numbers above 0"),
        (lambda: vectors(weight=-1.0), "weight must be at least 0"),
        (lambda: vectors(resource="euro"), "resource must be 'official' or 'madds'"),
        (lambda: vectors(gate=replace(vectors().gate, outputs=3)), "gate must have 2 outputs"),
        (lambda: vectors(experts=vectors().experts[:1]), "experts must be at least two"),
        (lambda: GatesConfig(vectors(), ()), "weights must be numbers of at least 0"),
        (lambda: GatesConfig(vectors(frozen=False), (0.1,)), "frozen must be True"),
        (lambda: vectors().build(vectors().experts[1].build()), "experts must be"),
    ],
)
def test_wrong_configurations_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# On a GPU ---------------------------------------------------------------------------------------------

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[
        pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CONFIGS)
def test_on_a_device_losses_and_answers_are_those_of_the_cpu(name: str, device: str) -> None:
    config = CONFIGS[name]
    model, batch = built(config), batch_of(config)
    path = torch.arange(40) % 2

    def on(place: str) -> list[Tensor]:
        there, here = copy.deepcopy(model).to(place), batch.to(place)
        with torch.no_grad():
            loss, parts = there.loss(here, 0, torch.Generator(place))
            found = [
                there.answer(here, path.to(place)).logits,
                there.choose(here),
                loss,
                parts["cost"],
            ]
        assert all(each.device.type == place for each in found)
        return [each.cpu() for each in found]

    torch.testing.assert_close(on(device), on("cpu"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("relaxation", [Relaxation(), Relaxation(gumbel=True), Relaxation(False)])
def test_gates_train_on_a_device_and_their_experts_stay(
    relaxation: Relaxation, device: str
) -> None:
    config = vectors(relaxation=relaxation)
    model = GatesConfig(config, (0.0, 30.0)).build(*built(config).experts).to(device)
    before = copy.deepcopy(model.model.experts.state_dict())
    batch = batch_of(config, 200).to(device)
    fit(model, batch, TrainConfig(20, 50, 2e-2), progress=False)
    for name, value in model.model.experts.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        dear = model.choose(batch).argmax(-1).double().mean(-1)
    assert dear.device.type == device and dear[1] < 0.1, "what costs 30 is not asked"
