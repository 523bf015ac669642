"""What ships: loads fast, is what its file says, and can be made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from labkit import LabkitError, weights
from labkit.batch import Batch, add_noise
from labkit.cli import main
from labkit.data.digits import Digits
from labkit.train import TrainConfig


@pytest.fixture(scope="module")
def checked() -> dict[str, list[str]]:
    """What `weights.check` says of each model that ships: measured once."""
    return {name: weights.check(name) for name in weights.SHIPPED}


@pytest.mark.parametrize("name", list(weights.SHIPPED))
def test_what_ships_is_what_its_file_says(name: str, checked: dict[str, list[str]]) -> None:
    assert checked[name] == []
    said = weights.facts(name)
    every = said["held-out"]["farsi+kannada+speech"]["accuracy"]
    single = [said["held-out"][m]["accuracy"] for m in ("farsi", "kannada", "speech")]
    assert every > 0.9
    assert every > max(single) - 0.02
    assert said["config"]["latent"] == weights.SHIPPED[name].config.latent


def test_all_of_it_is_small() -> None:
    assert sum(p.stat().st_size for p in weights.FOLDER.glob("*.safetensors")) < 3e6


def test_a_loaded_model_is_shared_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    weights.load.cache_clear()
    model = weights.load("mvae2")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert weights.load("mvae2") is model
    assert not model.training
    with pytest.raises(ValueError, match="unknown weights 'mvae3'; labkit ships mvae2, mvae32"):
        weights.load("mvae3")


def test_damage_is_noticed_and_a_wrong_figure_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in weights.FOLDER.glob("mvae2.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    record = json.loads((tmp_path / "mvae2.json").read_text())
    record["held-out"]["speech"]["accuracy"] += 0.1
    (tmp_path / "mvae2.json").write_text(json.dumps(record))
    weights.load.cache_clear()
    (complaint,) = weights.check("mvae2")
    assert complaint.startswith("mvae2, speech visible: accuracy is")
    data = bytearray((tmp_path / "mvae2.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "mvae2.safetensors").write_bytes(data)
    weights.load.cache_clear()
    with pytest.raises(LabkitError, match="is damaged"):
        weights.load("mvae2")
    weights.load.cache_clear()


def test_making_writes_a_pair_that_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(
        weights.SHIPPED["mvae2"],
        data=Digits(n_train=128, n_val=10, n_test=50),
        fit=TrainConfig(1, 64, 1e-3),
    )
    monkeypatch.setitem(weights.SHIPPED, "tiny", small)
    path = weights.make("tiny", tmp_path)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    weights.load.cache_clear()
    assert path == tmp_path / "tiny.safetensors"
    assert weights.check("tiny") == []
    again = weights.load("tiny").state_dict()
    weights.load.cache_clear()
    weights.make("tiny", tmp_path)
    assert all(torch.equal(v, again[k]) for k, v in weights.load("tiny").state_dict().items())


def test_the_command_says_when_all_is_well(
    checked: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "check", checked.__getitem__)
    done = CliRunner().invoke(main, ["weights", "check"])
    assert (done.exit_code, done.output) == (0, "mvae2, mvae32: as their files say.\n")


def test_noise_makes_the_speech_expert_surer_and_the_product_wrong() -> None:
    """What notebook 01 tells of the noise sliders, for three draws of the noise."""
    model, held_out = weights.load("mvae2"), Digits(n_test=1000).load("test")
    speech = list(model.modalities).index("speech")

    def told(batch: Batch) -> tuple[float, float, float]:
        posterior = model.encode(batch)
        right = (model.decode_label(posterior.mean).argmax(-1) == held_out.y).double().mean()
        return (
            float(right),
            float(model.experts(batch)[1][speech].mean()),
            float(posterior.kl().mean()),
        )

    with torch.no_grad():
        clean, logvar, knowledge = told(held_out)
        assert clean == pytest.approx(0.937, abs=0.005)
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            noisy = told(add_noise(held_out, {"speech": 1.0}, generator))
            assert noisy[0] == pytest.approx(2 / 3, abs=0.04)
            assert noisy[1] < logvar - 0.2  # surer, where it knows nothing
            assert noisy[2] > knowledge
