"""Finished runs: found by content, made once, never half, never damaged, whatever is killed."""

from __future__ import annotations

import json
import math
import mmap
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from labkit import LabkitError, store
from labkit.batch import Batch
from labkit.progress import progress_line
from labkit.store import Run, fit_once, fitted, list_runs, once
from labkit.train import TrainConfig

TRAIN = TrainConfig(epochs=3, batch_size=16, lr=1e-2)


class Linear(nn.Module):
    """A linear classifier whose steps can be made slow, and which notes where it is trained."""

    def __init__(self, width: int, pause: float) -> None:
        super().__init__()
        self.body = nn.Linear(4, width)
        self.head = nn.Linear(width, 3)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.pause = pause

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training:
            self.steps += 1
            time.sleep(self.pause)
            if step == 0 and "TRAINED" in os.environ:
                with open(os.environ["TRAINED"], "a") as log:
                    log.write(f"{os.getpid()}\n")
        x = batch.x["a"]
        x = x + 0.1 * torch.randn(x.shape, generator=generator)
        loss = nn.functional.cross_entropy(self.head(self.body(x).relu()), batch.y)
        return loss, {"ce": loss}


@dataclass(frozen=True)
class LinearConfig:
    width: int = 5
    pause: float = 0.0

    def build(self) -> nn.Module:
        if "BUILT" in os.environ:
            with open(os.environ["BUILT"], "a") as log:
                log.write("x")
        return Linear(self.width, self.pause)


@dataclass(frozen=True)
class StudentConfig:
    """Starts from two parents: keeps the first frozen inside and copies the head of the second."""

    width: int = 5

    def build(self, teacher: nn.Module, elder: nn.Module) -> nn.Module:
        student = Linear(self.width, 0.0)
        student.teacher = teacher.requires_grad_(False)
        student.head.load_state_dict(elder.head.state_dict())
        return student


@dataclass(frozen=True)
class Points:
    n: int = 48
    seed: int = 0

    def load(self, split: str, device: Any = None) -> Batch:
        generator = torch.Generator().manual_seed(self.seed + {"train": 0, "val": 1}[split])
        y = torch.randint(3, (self.n,), generator=generator)
        x = torch.randn(self.n, 4, generator=generator) + y[:, None]
        return Batch({"a": x}, y=y).to(device or "cpu")


def run_of(root: Path, config: Any = LinearConfig(), **options: Any) -> Run:
    settings = {"data": Points(), "train": TRAIN, "progress": False, "root": root, **options}
    return fit_once(config, **settings)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the calls of `LinearConfig.build`."""
    path = tmp_path / "built"
    monkeypatch.setenv("BUILT", str(path))
    return lambda: path.stat().st_size if path.exists() else 0


# Making and finding -----------------------------------------------------------------------------


def test_fitted_says_what_fit_once_would_find(tmp_path: Path) -> None:
    wanted = LinearConfig(), Points(), TRAIN
    assert not fitted(*wanted, root=tmp_path)
    run_of(tmp_path)
    assert fitted(*wanted, root=tmp_path)
    assert not fitted(*wanted, seed=1, root=tmp_path)
    assert not fitted(LinearConfig(width=6), *wanted[1:], root=tmp_path)


def test_made_once_then_found(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    first, second = run_of(root), run_of(root)
    assert (first.fresh, second.fresh) == (True, False)
    assert first.key == second.key == first.path.name
    assert bits(first.model) == bits(second.model)
    assert int(first.model.steps) == first.history.steps == 9
    assert first.history == second.history
    assert first.history.train["ce"][-1] < first.history.train["ce"][0]
    assert not first.model.training
    assert not second.model.training
    assert sorted(os.listdir(root)) == [first.key, f"{first.key}.lock"]
    assert sorted(os.listdir(first.path)) == ["model.safetensors", "run.json"]


def test_the_record_tells_how_it_was_made(tmp_path: Path) -> None:
    run = run_of(tmp_path, LinearConfig(width=7), seed=np.int64(3))
    meta = json.loads((run.path / "run.json").read_text())
    assert meta == run.meta
    assert meta["config"] == {"class": f"{__name__}.LinearConfig", "width": 7, "pause": 0.0}
    assert meta["data"] == {"class": f"{__name__}.Points", "n": 48, "seed": 0}
    assert meta["train"]["class"] == "labkit.train.TrainConfig"
    assert meta["train"]["epochs"] == 3
    assert (meta["key"], meta["seed"], meta["parents"], meta["device"]) == (run.key, 3, [], "cpu")
    assert meta["history"]["train"] == run.history.train
    assert meta["versions"]["torch"] == torch.__version__
    assert set(meta["files"]) == {"model.safetensors"}
    assert meta["seconds"] > 0
    listed = list_runs(tmp_path)
    assert [(one["key"], one["seed"], one["damaged"]) for one in listed] == [(run.key, 3, False)]


def test_the_result_does_not_depend_on_what_ran_before(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run_of(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert bits(run_of(tmp_path / "b").model) == bits(first.model)


def test_everything_that_counts_changes_the_key(tmp_path: Path) -> None:
    base = run_of(tmp_path)
    other = run_of(tmp_path, seed=1)
    changed: list[Run] = [
        other,
        run_of(tmp_path, LinearConfig(width=6)),
        run_of(tmp_path, data=Points(n=49)),
        run_of(tmp_path, data=Points(seed=1)),
        run_of(tmp_path, train=replace(TRAIN, lr=2e-2)),
        run_of(tmp_path, train=replace(TRAIN, clip=1.0)),
        run_of(tmp_path, StudentConfig(), parents=[base, other]),
        run_of(tmp_path, StudentConfig(), parents=[other, base]),
        run_of(tmp_path, StudentConfig(), parents=[base, base]),
    ]
    assert all(run.fresh for run in changed)
    assert len({base.key, *(run.key for run in changed)}) == 1 + len(changed)


def test_parents_are_given_as_copies_and_kept_inside(tmp_path: Path) -> None:
    teacher, elder = run_of(tmp_path), run_of(tmp_path, seed=1)
    before = bits(teacher.model)
    student = run_of(tmp_path, StudentConfig(), parents=[teacher, elder])
    again = run_of(tmp_path, StudentConfig(), parents=[teacher, elder])
    assert bits(teacher.model) == before
    assert all(parameter.requires_grad for parameter in teacher.model.parameters())
    assert bits(student.model.teacher) == before
    assert bits(again.model) == bits(student.model)
    assert student.meta["parents"] == [teacher.key, elder.key]


def test_it_goes_on_from_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run_of(tmp_path / "a")
    real, stop_at = Linear.loss, [7]

    def loss(self: Linear, batch: Batch, step: int, generator: torch.Generator) -> Any:
        if self.training and step == stop_at[0]:
            raise KeyboardInterrupt
        return real(self, batch, step, generator)

    monkeypatch.setattr("labkit.checkpoint.Checkpoint.is_cheap", True)
    with monkeypatch.context() as patch:
        patch.setattr(Linear, "loss", loss)
        # the code in memory is not what the file says: such a run would get a wrong name
        patch.setattr("labkit.keys._is_current", lambda *_: True)
        with pytest.raises(KeyboardInterrupt):
            run_of(tmp_path / "b")
        assert [run["kind"] for run in list_runs(tmp_path / "b")] == ["partial"]
        assert not list((tmp_path / "b").glob("*.saving"))
        stop_at[0] = 0  # would stop again if it started anew
        resumed = run_of(tmp_path / "b")
    assert resumed.key == undisturbed.key
    assert bits(resumed.model) == bits(undisturbed.model)
    assert resumed.history.train == undisturbed.history.train
    assert not list((tmp_path / "b").glob("*.partial"))


def test_settings_that_cannot_be_kept_are_named(tmp_path: Path) -> None:
    @dataclass
    class Mutable:
        def build(self) -> None: ...

    @dataclass(frozen=True)
    class Local:
        def build(self) -> None: ...

    for wrong in (Mutable(), {"width": 3}, LinearConfig, Points()):
        with pytest.raises(ValueError, match=r"config must be a frozen dataclass with build\(\)"):
            run_of(tmp_path, wrong)
    with pytest.raises(ValueError, match=r"data must be a frozen dataclass with load\(\)"):
        run_of(tmp_path, data=LinearConfig())
    with pytest.raises(ValueError, match="config is or holds .*Local.* top level"):
        run_of(tmp_path, Local())
    with pytest.raises(ValueError, match=r"config\.width is a Tensor"):
        run_of(tmp_path, LinearConfig(width=torch.ones(3)))  # type: ignore[arg-type]
    assert not os.listdir(tmp_path)


def test_tied_weights_are_kept(tmp_path: Path) -> None:
    run = run_of(tmp_path, TiedConfig())
    assert bits(run_of(tmp_path, TiedConfig()).model) == bits(run.model)


@dataclass(frozen=True)
class TiedConfig:
    def build(self) -> nn.Module:
        model = Linear(3, 0.0)
        model.register_parameter("tied", model.head.weight)
        return model


# Damage -----------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def rename_tensors(path: Path) -> None:
    """Wrong names under right hashes: what code that the key does not cover would leave."""
    weights = safetensors.torch.load_file(path.parent / "model.safetensors")
    renamed = {f"other.{name}": tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(renamed, path.parent / "model.safetensors")
    record = json.loads((path.parent / "run.json").read_text())
    (path.parent / "run.json").unlink()
    store.seal(path.parent, {k: v for k, v in record.items() if k not in ("files", "check")})


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink, rename_tensors])
@pytest.mark.parametrize("name", ["model.safetensors", "run.json"])
def test_damage_is_set_aside_and_made_again(
    tmp_path: Path, harm: Callable[[Path], None], name: str
) -> None:
    run = run_of(tmp_path)
    before = bits(run.model)
    for number in (1, 2):
        harm(run.path / name)
        with pytest.warns(UserWarning, match=rf"{run.key}-{number} and is made again"):
            again = run_of(tmp_path)
        assert again.fresh
        assert bits(again.model) == before
        assert not run_of(tmp_path).fresh
    assert len(list((tmp_path / "damaged").iterdir())) == 2
    assert [one["damaged"] for one in list_runs(tmp_path)].count(True) == 2


def test_an_empty_or_foreign_folder_is_damage(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    shutil.rmtree(run.path)
    run.path.mkdir()
    with pytest.warns(UserWarning, match="made again"):
        assert run_of(tmp_path).fresh


def test_leftovers_of_a_dead_process_are_cleaned(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    shutil.rmtree(run.path)
    saving = tmp_path / f"{run.key}.saving"
    saving.mkdir()
    (saving / "model.safetensors").write_bytes(b"half")
    (saving / "stray").write_bytes(b"of an older labkit")
    assert sorted(os.listdir(run_of(tmp_path).path)) == ["model.safetensors", "run.json"]
    assert not saving.exists()


# once -------------------------------------------------------------------------------------------

CALLS: list[Any] = []


def measure(*runs: Run, level: float = 0.0, config: Any = None, out: Any = None) -> Any:
    CALLS.append(level)
    return {"level": level, "steps": [int(run.model.steps) for run in runs], "out": out}


def scalars() -> Any:
    return {
        "np": np.float32(0.5), "int": np.int64(3), "bool": np.bool_(True), "torch": torch.tensor(2.5),
        "nan": math.nan, "inf": -math.inf, "none": None, "tuple": (1, "x", [np.float64(0.1)]), "é": "ü",
    }  # fmt: skip


def array() -> Any:
    return {"a": [1.0, {"b": np.zeros(3)}]}


def int_keys() -> Any:
    return {1: 2.0}


def fails() -> Any:
    CALLS.append("fails")
    raise RuntimeError("no luck")


@pytest.mark.usefixtures("_no_calls")
def test_once_computes_once(tmp_path: Path) -> None:
    run, other = run_of(tmp_path), run_of(tmp_path, seed=1)
    results = [once(measure, run, level=0.5, root=tmp_path) for _ in range(3)]
    assert results == [{"level": 0.5, "steps": [9], "out": None}] * 3
    assert len(CALLS) == 1
    for parents, settings in (
        ([other], {"level": 0.5}),
        ([run, other], {"level": 0.5}),
        ([other, run], {"level": 0.5}),
        ([run], {"level": 0.25}),
        ([run], {"level": 0.5, "config": LinearConfig()}),
        ([run], {"level": 0.5, "config": LinearConfig(width=9)}),
    ):
        before = len(CALLS)
        for _ in range(2):
            once(measure, *parents, root=tmp_path, **settings)
        assert len(CALLS) == before + 1
    swapped = once(measure, run, config=LinearConfig(), level=0.5, root=tmp_path)
    assert len(CALLS) == 7  # the order of keyword arguments does not count
    assert swapped["level"] == 0.5
    assert {one["kind"] for one in list_runs(tmp_path)} == {"fit", "once"}
    assert f"{__name__}.measure" in {one["config"] for one in list_runs(tmp_path)}


@pytest.fixture
def _no_calls() -> None:
    CALLS.clear()


def test_once_gives_plain_values_the_first_time_too(tmp_path: Path) -> None:
    for _ in range(2):
        result = once(scalars, root=tmp_path)
        assert math.isnan(result.pop("nan"))
        assert result == {
            "np": 0.5, "int": 3, "bool": True, "torch": 2.5, "inf": -math.inf, "none": None,
            "tuple": [1, "x", [0.1]], "é": "ü",
        }  # fmt: skip
        assert type(result["np"]) is float
        assert type(result["bool"]) is bool


@pytest.mark.usefixtures("_no_calls")
def test_once_refuses_clearly(tmp_path: Path) -> None:
    with pytest.raises(
        LabkitError, match=r"the result of array\['a'\]\[1\]\['b'\] is a ndarray.*tolist"
    ):
        once(array, root=tmp_path)
    with pytest.raises(LabkitError, match="the result of int_keys is a dict.*string keys"):
        once(int_keys, root=tmp_path)
    with pytest.raises(ValueError, match="fn is or holds .*<lambda>.* top level"):
        once(lambda: 1, root=tmp_path)
    with pytest.raises(ValueError, match="level is a Tensor"):
        once(measure, level=torch.ones(2), root=tmp_path)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no luck"):
            once(fails, root=tmp_path)
    assert CALLS == ["fails", "fails"]
    assert list_runs(tmp_path) == []
    assert not list(tmp_path.glob("*.saving"))


def test_once_survives_damage(tmp_path: Path) -> None:
    expected = once(measure, level=1.0, root=tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    flip(folder / "run.json")
    with pytest.warns(UserWarning, match="made again"):
        assert once(measure, level=1.0, root=tmp_path) == expected


# Several processes, and kills -------------------------------------------------------------------


def fork(work: Callable[[], Any]) -> int:
    """Run `work` in a child of this warm process; it exits 0, or 1 on any error or warning."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        print(f"child: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


@pytest.mark.slow
def test_two_processes_train_once(tmp_path: Path, alone: Callable[..., str]) -> None:
    alone(three_processes_want_one_run, tmp_path)


def three_processes_want_one_run(folder: str) -> None:
    root, trained, built, said = (
        Path(folder, name) for name in ("root", "trained", "built", "said")
    )
    slow = LinearConfig(pause=0.02)
    run_of(Path(folder, "warm"))  # the first optimizer loads half of torch: not in a child
    os.environ.update(TRAINED=str(trained), BUILT=str(built))
    start = time.time() + 0.3

    def work() -> None:
        sys.stderr = open(said, "a", buffering=1)  # noqa: SIM115
        time.sleep(max(0.0, start - time.time()))
        run_of(root, slow)

    children = [fork(work) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0], said.read_text()
    assert len(trained.read_text().split()) == 1
    assert built.stat().st_size == 4  # to train, and once each to read
    assert said.read_text().count("another process is making run") == 2
    assert run_of(root, slow).fresh is False


class Killer:
    """Kills a child that makes a run, at a random moment or at a chosen call of the system.

    The child tells in shared memory where it is: 0 before the fit, 1 in it, 2 saving, 3 after.
    """

    CALLS = ("fsync", "replace", "rename")

    def __init__(self, root: Path, config: LinearConfig) -> None:
        self.root, self.config = root, config
        self.shared = mmap.mmap(-1, 8)
        self.landed: Counter[str] = Counter()

    def child(self, at: int = -1, how: str = "before") -> int:
        """Start a child that kills itself before, in or after its `at`-th system call."""
        self.shared[0] = self.shared[1] = 0

        def work() -> None:
            fit = store.fit
            store.fit = lambda *a, **k: (self._note(1), fit(*a, **k), self._note(2))[1]
            for name in self.CALLS:
                self._hook(name, at, how)
            run_of(self.root, self.config)
            self._note(3)

        return fork(work)

    def _note(self, phase: int) -> None:
        self.shared[0] = phase

    def _hook(self, name: str, at: int, how: str) -> None:
        real = getattr(os, name)

        def hooked(*args: Any) -> Any:
            number = self.shared[1]
            self.shared[1] = number + 1
            if number == at and how == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if (
                number == at
                and how == "torn"
                and name == "fsync"
                and os.path.isfile(f"/proc/self/fd/{args[0]}")
            ):
                os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args)
            if number == at and how != "before":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, name, hooked)

    def finish(self, child: int) -> None:
        """Wait for a child, note where it died, and judge what the store now offers."""
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, "an error or a warning in the child"
        where = ("before the fit", "in the fit", "saving", "after")[self.shared[0]]
        self.landed[where if os.WIFSIGNALED(status) else "not killed"] += 1
        for folder in self.root.iterdir():
            if folder.is_dir() and "." not in folder.name:  # what it offers is whole
                assert store.verified(folder)["history"]["steps"] == 9
        assert not (self.root / "damaged").exists()


@pytest.mark.slow
def test_killed_at_every_write_of_a_run(tmp_path: Path, alone: Callable[..., str]) -> None:
    alone(kill_at_every_write, tmp_path)


def kill_at_every_write(folder: str) -> None:
    """Every fsync, replace and rename of a whole run, killed before it and after it."""
    undisturbed = run_of(Path(folder, "calm"))
    killer = Killer(Path(folder, "root"), LinearConfig())
    killer.root.mkdir()
    killer.finish(killer.child())
    total = killer.shared[1]
    assert total >= 3 + 2 * 3 + 2  # a checkpoint, two files, the run's name and its folder's list
    store.clean(killer.root)
    for at in range(total):
        for how in ("before", "torn", "after"):
            killer.finish(killer.child(at, how))
            if killer.shared[0] == 3:
                store.clean(killer.root)
    run = run_of(killer.root)
    assert bits(run.model) == bits(undisturbed.model)
    assert killer.landed["saving"] > 10


def test_a_fork_killed_while_it_draws_its_progress_stops_nobody(alone: Callable[..., str]) -> None:
    assert alone(progress_after_a_kill, limit=30) == "drawn"


def progress_after_a_kill() -> None:
    lock = progress_line("fit", 1, unit="epoch").get_lock()

    def dies_drawing() -> None:
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(fork(dies_drawing), 0)
    with progress_line("fit", 1, unit="epoch") as line:
        line.update()
    print("drawn", end="")


@pytest.mark.slow
def test_a_hundred_kills(
    tmp_path: Path, alone: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = alone(kill_a_hundred_times, tmp_path)
    with capsys.disabled():
        print(f"\n{said.strip()}")


def kill_a_hundred_times(folder: str) -> None:
    config = LinearConfig(pause=0.008)
    undisturbed = run_of(Path(folder, "calm"), config)
    killer = Killer(Path(folder, "root"), config)
    killer.root.mkdir()
    started = time.perf_counter()
    killer.finish(killer.child())
    whole, total = time.perf_counter() - started, killer.shared[1]
    store.clean(killer.root)
    chance, runs = random.Random(0), 0
    started = time.perf_counter()
    while killer.landed.total() - killer.landed["not killed"] < 100:
        assert time.perf_counter() - started < 240
        if chance.random() < 0.3:  # aimed at a write
            child = killer.child(
                chance.randrange(total), chance.choice(("before", "torn", "after"))
            )
        else:
            child = killer.child()
            time.sleep(chance.random() * whole)
            os.kill(child, signal.SIGKILL)
        killer.finish(child)
        if (killer.root / undisturbed.key).exists() and chance.random() < 0.7:
            run = run_of(killer.root, config)
            assert not run.fresh
            assert bits(run.model) == bits(undisturbed.model)
            runs += 1
            store.clean(killer.root)
    seconds = time.perf_counter() - started
    run = run_of(killer.root, config)
    assert bits(run.model) == bits(undisturbed.model)
    assert run.history.train == undisturbed.history.train
    assert run.history.val == undisturbed.history.val
    assert min(killer.landed["in the fit"], killer.landed["saving"]) >= 10
    print(f"100 kills in {seconds:.0f} s, {runs} runs: {dict(killer.landed)}")
