"""The training loop: what it computes, what it refuses, and that a killed one ends the same."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from labkit import LabkitError
from labkit.batch import Batch
from labkit.checkpoint import Checkpoint, fingerprint
from labkit.history import Figures, History, sync
from labkit.train import TrainConfig, fit, isolated_rng, learning_rate, resolve_device

QUICK = TrainConfig(epochs=4, batch_size=16, lr=1e-2)


class Tiny(nn.Module):
    """A noisy linear classifier with dropout and a running mean: all kinds of state and chance."""

    def __init__(self, width: int = 5, pause: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, 3)
        self.pause = pause
        self.seen: list[tuple[bool, int]] = []

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append((self.training, step))
        time.sleep(self.pause)
        x = batch.x["a"]
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        logits = self.head(self.dropout(self.norm(x + 0.1 * noise)))
        cross_entropy = nn.functional.cross_entropy(logits, batch.y)
        penalty = self.head.weight.square().sum()
        return cross_entropy + 0.01 * penalty, {"ce": cross_entropy, "penalty": penalty}


def make_data(n: int = 70, seed: int = 0, device: str = "cpu") -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=generator)
    x = torch.randn(n, 5, generator=generator) + y[:, None]
    return Batch({"a": x}, y=y).to(device)


def make_model(seed: int = 0, **options: Any) -> Tiny:
    with isolated_rng(seed, torch.device("cpu")):
        return Tiny(**options)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {k: v.cpu().contiguous().numpy().tobytes() for k, v in model.state_dict().items()}


def without_times(history: History) -> History:
    return replace(history, epoch_seconds=[0.0] * history.epochs)


def quiet_fit(model: nn.Module, config: TrainConfig, **options: Any) -> History:
    return fit(model, make_data(), config, val=make_data(30, 1), progress=False, **options)


# What it computes -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "adamw", "sgd"])
def test_it_learns_and_the_history_is_complete(optimizer: Any) -> None:
    model = make_model()
    lr = 0.3 if optimizer == "sgd" else 0.03
    config = TrainConfig(epochs=15, batch_size=16, lr=lr, optimizer=optimizer, weight_decay=1e-4)
    history = quiet_fit(model, config)
    assert history.epochs == 15
    assert history.steps == 15 * 5  # ceil(70 / 16)
    assert set(history.train) == set(history.val) == {"total", "ce", "penalty"}
    assert {len(v) for v in [*history.train.values(), *history.val.values()]} == {15}
    assert history.train["ce"][-1] < 0.7 * history.train["ce"][0]
    assert history.val["ce"][-1] < 0.7
    assert history.best_epoch is None
    assert not model.training


def test_one_epoch_of_sgd_is_the_textbook_step() -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -2.0]))

        def loss(self, batch: Batch, step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
            return (batch.x["a"] @ self.w).square().mean(), {}

    model, x = Line(), torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    history = fit(
        model,
        Batch({"a": x}),
        TrainConfig(epochs=1, batch_size=2, lr=0.1, optimizer="sgd"),
        progress=False,
    )
    before = torch.tensor([1.0, -2.0])
    gradient = (2 * (x @ before)[:, None] * x).mean(0)
    torch.testing.assert_close(model.w.detach(), before - 0.1 * gradient)
    assert history.train["total"] == pytest.approx([float((x @ before).square().mean())])


def test_means_weigh_the_last_smaller_batch_by_its_samples() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def loss(self, batch: Batch, step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
            return self.w.sum() * 0 + batch.x["a"].mean(), {"ones": torch.ones(())}

    data = Batch({"a": torch.arange(10.0)[:, None]})
    config = TrainConfig(epochs=2, batch_size=4)
    history = fit(Mean(), data, config, val=data, progress=False)
    assert history.train["total"] == pytest.approx([4.5, 4.5])
    assert history.val == {"total": pytest.approx([4.5, 4.5]), "ones": pytest.approx([1, 1])}


def test_cosine_schedule_values() -> None:
    cosine = TrainConfig(lr=2.0, schedule="cosine")
    assert [learning_rate(cosine, step, 4) for step in range(4)] == pytest.approx(
        [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)]
    )
    assert learning_rate(TrainConfig(lr=0.5), 3, 4) == 0.5


def test_the_schedule_reaches_the_optimizer() -> None:
    """With a constant gradient of 1, plain SGD moves a weight by the sum of the learning rates."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def loss(self, batch: Batch, step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
            return -self.w, {}

    config = TrainConfig(epochs=2, batch_size=5, lr=1.0, optimizer="sgd", schedule="cosine")
    model = Constant()
    fit(model, Batch({"a": torch.zeros(10, 1)}), config, progress=False)
    assert float(model.w.detach()) == pytest.approx(1 + 0.853553 + 0.5 + 0.146447)


def test_clipping_bounds_the_step() -> None:
    free, clipped = make_model(), make_model()
    config = TrainConfig(epochs=1, batch_size=70, lr=1.0, optimizer="sgd")
    start = torch.cat([p.detach().flatten() for p in free.parameters()])
    for model, one in ((free, config), (clipped, replace(config, clip=1e-3))):
        quiet_fit(model, one)
    moved = [
        float((torch.cat([p.detach().flatten() for p in model.parameters()]) - start).norm())
        for model in (free, clipped)
    ]
    assert moved[0] > 0.05
    assert moved[1] == pytest.approx(1e-3, rel=1e-3)


def test_every_sample_is_seen_once_an_epoch_in_a_new_order() -> None:
    class Recorder(Tiny):
        def loss(self, batch: Batch, step: int, generator: torch.Generator) -> Any:
            if self.training:
                rows.extend(batch.x["a"][:, 0].tolist())
            return super().loss(batch, step, generator)

    rows: list[float] = []
    data = make_data(70)
    fit(Recorder(), data, replace(QUICK, epochs=2), progress=False)
    first, second = rows[:70], rows[70:]
    assert sorted(first) == sorted(second) == sorted(data.x["a"][:, 0].tolist())
    assert first != second


def test_modes_and_steps() -> None:
    model = make_model()
    quiet_fit(model, replace(QUICK, epochs=2))  # 5 batches to train, 2 to judge
    one_epoch = [True] * 5 + [False] * 2
    assert [training for training, _ in model.seen] == one_epoch * 2
    assert [step for training, step in model.seen if training] == list(range(10))
    assert [step for training, step in model.seen if not training] == [5, 5, 10, 10]


def test_frozen_parameters_stay() -> None:
    model = make_model()
    model.head.bias.requires_grad_(False)
    before = model.head.bias.detach().clone()
    quiet_fit(model, QUICK)
    assert torch.equal(model.head.bias, before)


def test_validation_draws_the_same_numbers_every_epoch() -> None:
    class Draw(Tiny):
        def loss(self, batch: Batch, step: int, generator: torch.Generator) -> Any:
            if not self.training:
                drawn.append((float(torch.rand((), generator=generator)), float(torch.rand(()))))
            return super().loss(batch, step, generator)

    drawn: list[tuple[float, float]] = []
    quiet_fit(Draw(), replace(QUICK, epochs=3))
    assert drawn[:2] == drawn[2:4] == drawn[4:]
    assert drawn[0] != drawn[1]


def test_equal_seeds_give_equal_bits_whatever_the_global_generator() -> None:
    models = [make_model() for _ in range(3)]
    histories = []
    for model, disturbance, seed in zip(models, (1, 2, 1), (0, 0, 1), strict=True):
        torch.manual_seed(disturbance)
        state = torch.get_rng_state()
        histories.append(without_times(quiet_fit(model, QUICK, seed=seed)))
        assert torch.equal(torch.get_rng_state(), state)  # and leaves it alone
    assert bits(models[0]) == bits(models[1]) != bits(models[2])
    assert histories[0] == histories[1] != histories[2]


def test_early_stopping_restores_the_best_weights() -> None:
    class Valley(nn.Module):
        """Walks down to a validation minimum at w = 3 and up again, one unit an epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def loss(self, batch: Batch, step: int, generator: torch.Generator) -> tuple[Tensor, dict]:
            if self.training:
                return -self.w, {"gap": self.w.detach()}
            return self.w * 0, {"gap": (self.w - 3).abs()}

    data = Batch({"a": torch.zeros(8, 1)})
    config = TrainConfig(
        epochs=20, batch_size=8, lr=1.0, optimizer="sgd", patience=2, monitor="gap"
    )
    model = Valley()
    history = fit(model, data, config, val=data, progress=False)
    assert float(model.w.detach()) == 3.0
    assert history.best_epoch == 2
    assert history.epochs == 5
    assert history.val["gap"] == [2.0, 1.0, 0.0, 1.0, 2.0]

    demanding = Valley()  # it gains 2 in all: that does not count as progress
    history = fit(demanding, data, replace(config, min_delta=2.0), val=data, progress=False)
    assert (history.best_epoch, history.epochs) == (0, 3)

    all_epochs = Valley()  # best weights are restored too if the epochs run out first
    fit(all_epochs, data, replace(config, epochs=4), val=data, progress=False)
    assert float(all_epochs.w.detach()) == 3.0

    last = Valley()
    history = fit(last, data, replace(config, patience=None, epochs=5), val=data, progress=False)
    assert (float(last.w.detach()), history.best_epoch) == (5.0, None)


def test_one_sync_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever brings a tensor's value to the host waits for a GPU: it happens once an epoch."""
    calls: Counter[str] = Counter()
    readers = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "nonzero")
    for name in readers:
        real = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, _name: str = name, _real: Any = real) -> Any:
            calls[_name] += 1
            return _real(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    data, val = make_data(), make_data(30, 1)
    for optimizer in ("adam", "amsgrad", "adamw", "sgd"):
        calls.clear()
        config = replace(QUICK, epochs=3, optimizer=optimizer, clip=1.0, schedule="cosine")
        fit(make_model(), data, replace(config, patience=5), val=val, progress=False)
        assert calls == {"tolist": 3}, optimizer


# What it refuses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", -1),
        ("batch_size", True),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", "fast"),
        ("weight_decay", -1e-3),
        ("min_delta", float("inf")),
        ("clip", 0),
        ("patience", 0),
        ("optimizer", "adagrad"),
        ("schedule", "linear"),
    ],
)
def test_invalid_settings_name_the_argument(name: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*{bad}"):
        TrainConfig(**{name: bad})


def test_invalid_arguments() -> None:
    empty = make_data()[:0]
    with pytest.raises(ValueError, match="train is empty"):
        fit(make_model(), empty, QUICK)
    with pytest.raises(ValueError, match="val is empty"):
        fit(make_model(), make_data(), QUICK, val=empty)
    with pytest.raises(ValueError, match="patience is 3, which needs val"):
        fit(make_model(), make_data(), replace(QUICK, patience=3))
    frozen = make_model().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        fit(frozen, make_data(), QUICK)
    with pytest.raises(ValueError, match="monitor must be one of total, ce, penalty; got 'f1'"):
        quiet_fit(make_model(), replace(QUICK, patience=1, monitor="f1"))


def test_resolve_device() -> None:
    assert resolve_device("cpu") == resolve_device(torch.device("cpu", 0)) == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for bad in ("gpu", "meta", "cuda:x"):
        with pytest.raises(ValueError, match=f"device must be auto, cpu, cuda.*got '{bad}'"):
            resolve_device(bad)
    with pytest.raises(ValueError, match="PyTorch finds [0-9]+ GPUs"):
        resolve_device("cuda:99")


class Breaks(Tiny):
    """Spoils one figure, or the weights, at one step."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__()
        self.at, self.what = at, what

    def loss(self, batch: Batch, step: int, generator: torch.Generator) -> Any:
        total, parts = super().loss(batch, step, generator)
        if step != self.at:
            return total, parts
        if self.what == "weights":  # a finite loss whose gradient is not finite
            return total + (self.head.weight.sum() * 0).sqrt(), parts
        parts["penalty"] = parts["penalty"] * math.nan
        harmless = self.what == "part" or (self.what == "validation" and self.training)
        return total * (1.0 if harmless else math.inf), parts


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(
        LabkitError, match=r"epoch 1, step 7 .*: total = inf, penalty = nan\. Lower lr"
    ):
        quiet_fit(Breaks(7, "loss"), QUICK)
    with pytest.raises(LabkitError, match=r"validation loss after epoch 1 .*total = inf"):
        quiet_fit(Breaks(10, "validation"), QUICK)
    with pytest.raises(LabkitError, match=r"norm of the weights after epoch 3 "):
        fit(Breaks(19, "weights"), make_data(), QUICK, progress=False)  # the very last step
    config = replace(QUICK, patience=1, monitor="penalty")
    with pytest.raises(LabkitError, match=r"monitor after epoch 0 "):
        quiet_fit(Breaks(5, "part"), config)
    history = quiet_fit(
        Breaks(7, "part"), QUICK
    )  # a part alone may be: an empty subset has no mean
    assert math.isnan(history.train["penalty"][1])


def test_figures_that_are_no_figures() -> None:
    figures, one = Figures(), torch.ones(())
    figures.add(one, {"a": one}, 2)
    with pytest.raises(LabkitError, match=r"same parts for every batch.*'b'.*after.*'a'"):
        figures.add(one, {"b": one}, 2)
    with pytest.raises(LabkitError, match="'total'"):
        Figures().add(one, {"total": one}, 2)
    with pytest.raises(LabkitError, match=r"a has shape \(2,\)"):
        Figures().add(one, {"a": torch.ones(2)}, 2)
    with pytest.raises(LabkitError, match=r"a has 0\.5"):
        Figures().add(one, {"a": 0.5}, 2)  # type: ignore[dict-item]


def test_sync_keeps_figures_apart_and_in_full_precision() -> None:
    exact = 1 + 2**-40  # lost in float32
    left, right = Figures(), Figures()
    left.add(torch.tensor(exact, dtype=torch.float64), {"n": torch.tensor(3)}, 1)
    left.add(torch.tensor(2.0, dtype=torch.float64), {"n": torch.tensor(5)}, 3)
    right.add(torch.tensor(7.0), {}, 1)
    assert sync(left, Figures(), right, extra=torch.tensor(9.0)) == 9.0
    assert left.rows == [{"total": exact, "n": 3.0}, {"total": 2.0, "n": 5.0}]
    assert left.means()["n"] == 4.5
    assert right.rows == [{"total": 7.0}]
    assert Figures().means() == {}


# The progress line ------------------------------------------------------------------------------


def progress_text(monkeypatch: pytest.MonkeyPatch, model: Tiny, **options: Any) -> str:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    fit(model, make_data(), QUICK, **options)
    return text.getvalue()


def test_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_PROGRESS", raising=False)
    shown = progress_text(monkeypatch, make_model(), val=make_data(9))
    assert "Tiny: 100%" in shown
    assert "20/20" in shown
    assert "loss=" in shown
    assert "val=" in shown
    assert progress_text(monkeypatch, make_model(), progress=False) == ""
    monkeypatch.setenv("LABKIT_PROGRESS", "0")
    assert progress_text(monkeypatch, make_model()) == ""


@pytest.mark.slow
def test_progress_never_loads_a_widget() -> None:
    """In a process of its own: other tests load papermill, which loads tqdm.auto."""
    code = (
        "import sys, labkit.train; sys.exit(bool({'tqdm.notebook', 'tqdm.auto'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Going on after a kill --------------------------------------------------------------------------


class Stop(BaseException):
    """Stands for SIGKILL inside one process: nothing catches it."""


class Stopping(Tiny):
    stop_at = -1

    def loss(self, batch: Batch, step: int, generator: torch.Generator) -> Any:
        if self.training and step == self.stop_at:
            raise self.error
        return super().loss(batch, step, generator)

    error: BaseException = Stop()


@pytest.fixture
def _kept_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of a few milliseconds are not worth a checkpoint each; here they are."""
    monkeypatch.setattr(Checkpoint, "is_cheap", True)


CONFIGS = {
    "adam": replace(QUICK, patience=2, schedule="cosine"),
    "amsgrad": replace(QUICK, optimizer="amsgrad", clip=0.5),
    "adamw": replace(QUICK, optimizer="adamw", weight_decay=0.1, patience=1, lr=0.3),
    "sgd": replace(QUICK, optimizer="sgd"),
}


def stopping(at: int, error: BaseException | None = None) -> Stopping:
    with isolated_rng(0, torch.device("cpu")):
        model = Stopping()
    model.stop_at, model.error = at, error or Stop()
    return model


@pytest.mark.usefixtures("_kept_every_epoch")
@pytest.mark.parametrize("optimizer", CONFIGS)
@pytest.mark.parametrize("step", [0, 5, 7, 12, 19])
def test_resumed_ends_bit_identical(tmp_path: Path, optimizer: str, step: int) -> None:
    config, path = CONFIGS[optimizer], tmp_path / "deep" / "checkpoint"
    undisturbed, resumed = stopping(-1), stopping(-1)
    expected = quiet_fit(undisturbed, config)
    if expected.steps > step:  # early stopping may end before
        with pytest.raises(Stop):
            quiet_fit(stopping(step), config, checkpoint=path)
        assert path.exists() == (step >= 5)
    history = quiet_fit(resumed, config, checkpoint=path)
    assert bits(resumed) == bits(undisturbed)
    assert without_times(history) == without_times(expected)
    if step == 12 and expected.steps > step:  # two epochs of five steps had been kept
        assert next(s for training, s in resumed.seen if training) == 10
    assert not path.exists()


@pytest.mark.usefixtures("_kept_every_epoch")
def test_interrupted_twice_and_by_hand(tmp_path: Path) -> None:
    path, undisturbed, resumed = tmp_path / "c", stopping(-1), stopping(-1)
    quiet_fit(undisturbed, QUICK)
    for step in (6, 13):
        with pytest.raises(KeyboardInterrupt):
            quiet_fit(stopping(step, KeyboardInterrupt()), QUICK, checkpoint=path)
    quiet_fit(resumed, QUICK, checkpoint=path)
    assert resumed.seen[0] == (True, 10)
    assert bits(resumed) == bits(undisturbed)


def test_tied_weights_and_odd_layouts_survive(tmp_path: Path) -> None:
    def build(at: int) -> Stopping:
        model = stopping(at)
        model.register_parameter("tied", model.head.weight)
        model.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
        model.register_buffer("empty", torch.zeros(0, 3))
        return model

    path, undisturbed, resumed = tmp_path / "c", build(-1), build(-1)
    quiet_fit(undisturbed, QUICK)
    with pytest.raises(Stop):
        quiet_fit(build(7), QUICK, checkpoint=path)
    quiet_fit(resumed, QUICK, checkpoint=path)
    assert bits(resumed) == bits(undisturbed)


def interrupted(path: Path) -> bytes:
    """Leave a checkpoint of two epochs at `path`."""
    with pytest.raises(Stop):
        quiet_fit(stopping(12), QUICK, checkpoint=path)
    return path.read_bytes()


def test_a_damaged_checkpoint_is_ignored(tmp_path: Path) -> None:
    path, undisturbed = tmp_path / "c", stopping(-1)
    quiet_fit(undisturbed, QUICK)
    whole = interrupted(path)
    places = [0, 9, 200, len(whole) // 2, len(whole) - 1]
    spoiled = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in places]
    for content in (*spoiled, b"", whole[:-1], whole[: len(whole) // 2], b"not safetensors" * 9):
        path.write_bytes(content)
        resumed = stopping(-1)
        with pytest.warns(UserWarning, match="is damaged: it is ignored"):
            quiet_fit(resumed, QUICK, checkpoint=path)
        assert resumed.seen[0] == (True, 0)
        assert bits(resumed) == bits(undisturbed)


def test_every_flipped_byte_of_a_checkpoint_is_noticed_or_harmless(tmp_path: Path) -> None:
    saved = Checkpoint(tmp_path / "c", "me")
    state, tensors = {"history": [1.5, math.inf]}, {"b": torch.arange(3), "a": torch.ones(2, 2)}
    saved.save(state, tensors)
    whole = saved.path.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        saved.path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = saved.load()
        noticed += loaded is None
        assert (loaded is None) == bool(caught)
        if loaded is not None:  # padding of the header: nothing that is used has changed
            assert loaded[0] == state
            assert all(torch.equal(loaded[1][name], tensors[name]) for name in tensors)
    assert noticed > 0.9 * len(whole)


@pytest.mark.parametrize("changed", ["config", "seed", "train", "val", "weights", "labels"])
def test_a_checkpoint_of_another_training_is_ignored(tmp_path: Path, changed: str) -> None:
    path = tmp_path / "c"
    interrupted(path)
    model, train, val, config, seed = stopping(-1), make_data(), make_data(30, 1), QUICK, 0
    if changed == "config":
        config = replace(config, lr=0.02)
    elif changed == "seed":
        seed = 1
    elif changed == "train":
        train.x["a"][3, 3] += 1
    elif changed == "val":
        val = val[:-1]
    elif changed == "labels":
        assert train.y is not None
        train.y[0] = (train.y[0] + 1) % 3
    else:
        model.head.bias.data[0] += 1
    with pytest.warns(UserWarning, match="belongs to a training with other settings"):
        fit(model, train, config, val=val, seed=seed, checkpoint=path, progress=False)
    assert model.seen[0] == (True, 0)


def test_a_checkpoint_holds_no_pickle_and_is_removed_with_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "c"
    interrupted(path)
    assert set(safetensors.torch.load_file(path)) >= {"model/head.weight", "optimizer 0/exp_avg"}
    (tmp_path / ".c.123-abc.tmp").write_bytes(b"left by a kill inside a save")
    (tmp_path / "neighbour").write_text("stays")
    quiet_fit(stopping(-1), QUICK, checkpoint=path)
    assert os.listdir(tmp_path) == ["neighbour"]


def test_checkpoints_are_written_only_while_cheap(tmp_path: Path) -> None:
    saved = Checkpoint(tmp_path / "c", "me")
    assert saved.is_cheap  # nothing is known yet
    saved.save({}, {"a": torch.zeros(3)})
    saved._cost = 1e6
    assert not saved.is_cheap
    saved._cost = 0.0
    assert saved.is_cheap


def test_fingerprint_tells_everything_apart() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(3, 2)
    batch = make_data(4)
    things: list[tuple[Any, ...]] = [
        (1,), (1.0,), ("1",), (None,), (True,), ({"lr": 1},), ({"lr": 2},),
        ({"a": a},), ({"a": b},), ({"b": a},), ({"a": a.double()},), ({"a": a - 1},), ({"a": -a},),
        (batch,), (batch.with_observed(batch.observed.clone()), 0), (batch, None), (None, batch),
        (Batch(batch.x),), (Batch(batch.x, factors={"a": batch.x["a"]}),),
    ]  # fmt: skip
    digests = [fingerprint(*thing) for thing in things]
    assert len(set(digests)) == len(digests)
    assert fingerprint(make_data(4), 0) == fingerprint(make_data(4), 0)


@pytest.mark.slow
def test_killed_process_resumes_bit_identical(tmp_path: Path, alone: Callable[..., str]) -> None:
    alone(kill_and_resume, tmp_path / "c")


def kill_and_resume(checkpoint: str) -> None:
    """A real SIGKILL in the middle of an epoch, in a forked child."""
    path, config = Path(checkpoint), replace(QUICK, epochs=6)
    undisturbed, resumed = make_model(), make_model()
    quiet_fit(undisturbed, config)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            quiet_fit(make_model(pause=0.02), config, checkpoint=path)
        os._exit(0)
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(0.03)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    quiet_fit(resumed, config, checkpoint=path)
    assert 0 < resumed.seen[0][1] < 30  # it went on, and there was something left to do
    assert bits(resumed) == bits(undisturbed)


# GPU --------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_on_a_gpu_it_agrees_with_the_cpu_and_waits_once_an_epoch() -> None:
    class Quiet(Tiny):
        def loss(self, batch: Batch, step: int, generator: torch.Generator) -> Any:
            logits = self.head(self.norm(batch.x["a"]))
            dtypes.add(logits.dtype)
            loss = nn.functional.cross_entropy(logits, batch.y)
            return loss, {"draw": torch.rand((), generator=generator, device=logits.device)}

    dtypes: set[torch.dtype] = set()
    histories = {}
    for device in ("cpu", "cuda"):
        with isolated_rng(0, torch.device("cpu")):
            model = Quiet().to(device)
        data, val = make_data(device=device), make_data(30, 1, device=device)
        fit(model, data, replace(QUICK, epochs=1), progress=False)  # lazy set-up may wait
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            histories[device] = fit(model, data, QUICK, val=val, progress=False)
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchroniz" in str(w.message)]
    assert len(waits) <= QUICK.epochs, [str(w.message) for w in waits]
    assert dtypes == {torch.float32, torch.bfloat16}
    cpu, gpu = (histories[device].val["total"][-1] for device in ("cpu", "cuda"))
    assert gpu == pytest.approx(cpu, rel=0.05)  # bf16 has 8 bits of mantissa
