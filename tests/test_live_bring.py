"""Your own model in the labs: it works when it fits, and says what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labkit.live import probe
from labkit.live.lab import Lab


class Net(nn.Module):
    """A model that knows nothing of labkit: a photo (1, 6, 5) and a sound (7,), two latents."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.hear = nn.Linear(30, 2), nn.Linear(7, 2)
        self.draw, self.speak = nn.Linear(2, 30), nn.Linear(2, 7)

    def encode(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        parts = [self.see(x["photo"].flatten(1))] if "photo" in x else []
        parts += [self.hear(x["sound"])] if "sound" in x else []
        mean = torch.stack(parts).mean(0)
        return mean, torch.zeros_like(mean)

    def decode(self, z: Tensor) -> dict[str, Tensor]:
        return {"photo": self.draw(z).sigmoid().view(-1, 1, 6, 5), "sound": self.speak(z)}


KINDS = {"photo": "image", "sound": "vector"}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().requires_grad_(False)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "photo": torch.rand(8, 1, 6, 5, generator=generator),
        "sound": torch.randn(8, 7, generator=generator),
    }


def test_both_labs_show_what_the_model_says(net: Net, batch: dict[str, Tensor]) -> None:
    mine = probe(net.encode, net.decode, KINDS, batch)
    assert isinstance(mine.missing, Lab)
    mine.missing.set(sample=3, sound=False)
    found = mine.missing.flush()
    mean, _ = net.encode({"photo": batch["photo"][3:4]})
    made = net.decode(mean)
    pixels = found["photo"]["pixels"]
    assert pixels.shape == (2, 1, 6, 5)
    torch.testing.assert_close(
        torch.from_numpy(pixels[1, 0]) / 255, made["photo"][0, 0].detach(), atol=0.5 / 254, rtol=0
    )
    assert found["photo"]["framed"].tolist() == [[1], [0]]
    torch.testing.assert_close(
        torch.from_numpy(found["sound"]["lines"][1]["y"]), made["sound"][0].detach()
    )
    assert mine.missing.metrics["knowledge"] == pytest.approx(
        0.5 * float(mean.square().sum()), rel=1e-4
    )
    assert set(mine.missing.metrics) == {"photo", "sound, missing", "knowledge"}

    mine.latent.set(index=1, amplitude=2.0, sample=0)
    z, _ = net.encode(batch)
    end = z[0] + 2 * z.std(0)[1] * torch.tensor([0.0, 1.0])
    last = mine.latent.flush()["sound"]["lines"][2]["y"]
    torch.testing.assert_close(torch.from_numpy(last), net.decode(end[None])["sound"][0].detach())


def test_nothing_visible_is_said_in_the_box(
    net: Net, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = probe(net.encode, net.decode, KINDS, batch)
    monkeypatch.delenv("LABKIT_STRICT")
    mine.missing.set(photo=False, sound=False)
    assert mine.missing.error.startswith("switch at least one modality on")


def test_states_are_read_by_the_lab_they_name(net: Net, batch: dict[str, Tensor]) -> None:
    lines = ["mine_missing?sample=2&photo=0", "mine_latent?index=0&amplitude=1.5"]
    mine = probe(net.encode, net.decode, KINDS, batch, states=lines)
    assert mine.missing.state == {"sample": 2, "photo": False, "sound": True}
    assert mine.latent.state["amplitude"] == 1.5


def test_a_latent_without_a_variance_and_a_colour_image_will_do(batch: dict[str, Tensor]) -> None:
    colour = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    mine = probe(
        lambda x: x["photo"].mean((2, 3)),
        lambda z: {"photo": z[:, :, None, None].expand(-1, -1, 4, 4)},
        {"photo": "image"}, {"photo": colour},
    )  # fmt: skip
    assert "knowledge" not in mine.missing.metrics
    assert mine.missing.flush()["photo"]["pixels"].shape == (2, 1, 4, 4)


def broken(**change: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    net, x = Net(), {"photo": torch.rand(8, 1, 6, 5), "sound": torch.randn(8, 7)}
    return {"encode": net.encode, "decode": net.decode, "modalities": KINDS, "batch": x} | change


SOUND = torch.randn(8, 7)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"modalities": {}}, "modalities is empty"),
        ({"modalities": {"photo": "picture"}}, "'photo' must be 'image' or 'vector', got 'picture'"),
        ({"modalities": {"my photo": "image"}}, "'my photo' needs a name of letters"),
        ({"modalities": {"smell": "vector"}}, "batch lacks the modality 'smell'; it has photo, sound"),
        ({"modalities": {"sound": "image"}}, r"'sound' is a image.*got \(7,\)"),
        ({"batch": {"photo": torch.rand(8, 1, 6, 5), "sound": SOUND[:3]}}, "'photo': 8, 'sound': 3"),
        ({"encode": lambda x: x["photo"]}, r"return a latent \(8, D\) when photo is visible, got"),
        ({"encode": lambda x: x["photo"].flatten(1)[:, :2]}, "encode fails when sound is visible: KeyError"),
        ({"encode": lambda x: torch.full((8, 2), torch.nan)}, "NaN or infinity when photo is visible"),
        ({"encode": lambda x: (torch.zeros(8, 2), 0)}, "a log-variance .* got int"),
        ({"decode": lambda z: z}, "decode must return a dict of modalities, got Tensor"),
        ({"decode": lambda z: {"photo": torch.zeros(len(z), 1, 6, 5)}}, "lacks the modality 'sound'"),
        ({"decode": lambda z: {"photo": torch.zeros(len(z), 6, 5)}},
         r"'photo' as \(8, 6, 5\), expected \(8, 1, 6, 5\)"),
        ({"decode": lambda z: {"photo": torch.full((len(z), 1, 6, 5), 7.0)}}, "from 7 to 7; an image"),
        ({"decode": lambda z: {"photo": torch.full((len(z), 1, 6, 5), torch.nan)}}, "NaN.* 'photo'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        probe(**broken(**change))
