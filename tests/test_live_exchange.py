"""Labs of the exchange: they show what the networks do, and only the state decides what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from labkit.batch import add_noise
from labkit.data.clips import CLASSES, MODALITIES, Clips, ceilings
from labkit.exchanging import measure, plan, reading
from labkit.exchanging.plan import Setting
from labkit.live import exchange, swapping, synergy
from labkit.live.lab import Lab
from labkit.live.pictures import metrics, to_bytes
from labkit.live.still import still
from labkit.models.backbones import Clip
from labkit.models.xnorm import Exchange, NormExchange, XNorm, XNormNet
from labkit.train import TrainConfig

CLIP, ANSWER, STEPS = (
    "the clip, and what tells; orange: to the right, purple: to the left",
    "the answer; blue: the true verb; ticks: as trained",
    "one map; added = gamma norm(x) + beta; orange: above 0, purple: below",
)  # fmt: skip
FILM, MAPS, HEADS, GAMMAS = (
    "frames; orange: to the right, purple: to the left",
    "a map of rgb behind site 0; orange: above 0, purple: below",
    "rgb's own head: probability moved", "the gamma that rgb is told, in this map",
)  # fmt: skip
BARS, CURVES, SEEDS = (
    "right answers; ticks: the most there can be", "right answers over the synergy",
    "every seed, from 0 to 100 %; line: the most there can be",
)  # fmt: skip
GRID, CLOSE, PRODUCT, FILLED, TRAINED = (
    "rows: handle, columns: movement; framed: close",
    "close, says the sum (handle, movement); ticks: true",
    "right cells over the weight of a product", "trained late fusion: light as far as it is right",
    "trained late fusion: right polarities; ticks: X-Norm",
)  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "exchange": {
        "row": 3, "pair": "rows", "handle": "left", "direction": "right", "frame": 0, "site": "1",
        "stream": "flow", "map": 5, "whose": "another", "other": 7, "norm": "instance", "pooled": True,
        "one_plus": True, "gamma": 0.5, "beta": 1.5, "network": "untrained", "noisy": "flow", "level": 0.7,
    },
    "swap": {
        "row": 4, "turned": True, "speed": "columns", "map": 1, "frame": 0, "noisy": "rgb", "level": 1.3,
    },
    "synergy": {"rho": 0.7},
    "xor": {"rgb_left": 1.0, "rgb_right": 0.5, "flow_left": 2.0, "flow_right": -2.0, "product": -0.3},
}  # fmt: skip


def frame(**more: float) -> pd.DataFrame:
    """A table as of `measure.rho_table`: late fusion falls with rho, X-Norm does not."""
    falls = dict(zip(synergy.WAYS, (0, 40, 50, 30, 0, 45), strict=True)) | more
    rows = [
        {"way": way, "seed": seed, "rho": rho, "accuracy": 95 - fall * rho + seed}
        for way, fall in falls.items() for rho in (1.0, 0.0, 0.5) for seed in (0, 1, 2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


BUILD: dict[str, Callable[..., Lab]] = {
    "exchange": exchange.exchange, "swap": swapping.swap, "xor": synergy.xor,
    "synergy": lambda setting, seed, **more: synergy.synergy(frame(), **more),
}  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Sizes at which a network is trained at once, in a store of its own; the sites differ in width."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    data = Clips(frames=2, size=12, n_train=32, n_val=16, n_test=24)
    yield Setting(data, tuple(data.shapes.items()), Clip((4, 6)), 8, TrainConfig(2, 16, 1e-3), 4)
    patch.undo()


def shown(lab: Lab, **state: Any) -> dict[str, Any]:
    return dict(lab.compute(lab.kind(**state)))


def xnorm(setting: Setting) -> XNormNet:
    net = reading.network(setting, "X-Norm", 0)
    assert isinstance(net, XNormNet)
    return net


def exchange_of(net: XNormNet, site: int) -> NormExchange:
    found = net.exchanges[str(site)]
    assert isinstance(found, NormExchange)
    return found


def white(pixels: np.ndarray) -> bool:
    return bool((pixels == 255).all())


# All labs ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILD)
def test_a_line_opens_its_state_and_what_is_shown_is_a_function_of_it(
    setting: Setting, name: str
) -> None:
    lab = BUILD[name](setting, 0)
    assert lab.spec["name"] == name and not lab.error
    assert CHANGES[name].keys() == {control["name"] for control in lab.spec["controls"]}
    first, names = lab.metrics, list(lab.flush())
    lab.set(**CHANGES[name])
    assert lab.kind.from_query(lab.now.to_query()) == lab.now
    again = BUILD[name](setting, 0, states=[lab.line])
    assert again.line == lab.line
    assert again.metrics == lab.metrics != first
    assert list(lab.flush()) == names, "the page keeps a place for each name"
    assert all(control["help"] for control in lab.spec["controls"])
    for values in lab.kind.PRESETS.values():
        assert {*values} <= CHANGES[name].keys()
        shown(lab, **values)
    question = lab.spec["question"]
    assert question["why"] and 0 <= question["answer"] < len({*question["options"]})
    lab.set(**question["then"])
    found = lab.flush()
    assert still(found, name)[:4] == b"\x89PNG"
    assert all(p["alt"] for p in found.values() if p["kind"] != "figures")
    for picture in found.values():
        if picture["kind"] == "bars":
            assert np.clip(picture["values"], 0, picture["high"]).tolist() == [*picture["values"]]
        if picture["kind"] == "curves":
            y = np.concatenate([line["y"] for line in picture["lines"]])
            assert picture["limits"][0] <= y.min() and y.max() <= picture["limits"][1]


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ("exchange?row=24", "row must be a whole number from 0 to 23, got 24"),
        ("exchange?gamma=3", "gamma must be a number from 0 to 2, got 3"),
        ("exchange?map=6", "map must be a whole number from 0 to 5, got 6"),
        ("exchange?site=2", "site must be one of 0, 1, got '2'"),
        (
            "exchange?network=new",
            "network must be one of trained, untrained, zero init, got",
        ),
        ("exchange?level=4", "level must be a number from 0 to 3.0, got 4"),
        ("swap?map=4", "map must be a whole number from 0 to 3, got 4"),
        ("swap?noisy=sound", "noisy must be one of rgb, flow, both, got 'sound'"),
        ("synergy?rho=1.5", "rho must be a number from 0.0 to 1.0, got 1.5"),
    ],
)
def test_a_bad_state_is_refused_with_what_is_allowed(
    setting: Setting, state: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        BUILD[state.partition("?")[0]](setting, 0, states=[state])


@pytest.mark.parametrize("name", ["exchange", "swap", "xor"])
def test_other_data_than_clips_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="setting.data must be Clips, got Affect"):
        BUILD[name](plan.affect("smoke"), 0)


def test_colours_say_the_sign_and_end_where_they_are_said_to() -> None:
    pixels = exchange.signed(torch.tensor([[0.0, 1.0], [-1.0, -9.0]]), 1.0)
    assert pixels.shape == (24, 24, 3)
    orange, purple = (np.array(c) / 255 for c in ((0xE0, 0x82, 0x14), (0x54, 0x27, 0x88)))
    np.testing.assert_allclose(pixels[:12, :12], 1)
    np.testing.assert_allclose(pixels[0, 23], orange, rtol=1e-6)
    np.testing.assert_allclose(pixels[23, 0], purple, rtol=1e-6)
    np.testing.assert_array_equal(pixels[23, 23], pixels[23, 0])
    half = exchange.signed(torch.full((30, 40), 0.5), 1.0)
    assert half.shape == (30, 40, 3), "large enough as it is"
    np.testing.assert_allclose(half[0, 0], (1 + orange) / 2, rtol=1e-6)
    assert exchange.scale_of(torch.zeros(3), torch.zeros(2)) == 1
    assert exchange.scale_of(torch.zeros(99), torch.tensor([-2.0])) == 2, "zeros do not count"


# The exchange --------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", [0, 1])
@pytest.mark.parametrize("stream", [0, 1])
def test_as_trained_is_what_the_network_does_and_nothing_said_is_its_cut(
    setting: Setting, site: int, stream: int
) -> None:
    lab, net, batch = exchange.exchange(setting, 0), xnorm(setting), reading.clip(setting, 0, 5)
    state = {"row": 5, "site": str(site), "stream": MODALITIES[stream], "map": 2}
    found = shown(lab, **state)
    said = net.predict(batch)[0].softmax(0)
    np.testing.assert_allclose(found[ANSWER]["values"], said, atol=1e-6)
    np.testing.assert_allclose(found[ANSWER]["marks"], said, atol=1e-6)
    happened = reading.told(net, batch).sites[site]
    before, after = happened.before[stream], happened.after[stream]
    change = 100 * float((after - before).norm() / before.norm())
    assert metrics(found)["changed"] == pytest.approx(change, rel=1e-4)
    silent = shown(lab, **state, gamma=0.0, beta=0.0)
    cut = net.predict(batch, cut=[(site, stream)])[0].softmax(0)
    np.testing.assert_allclose(silent[ANSWER]["values"], cut, atol=1e-6)
    assert float((cut - said).abs().max()) > 1e-4
    assert metrics(silent)["changed"] == 0
    x, *_, added, last = silent[STEPS]["pixels"][0]
    np.testing.assert_array_equal(x, last)
    assert white(added) and not white(x)
    plus = measure.parts(
        exchange_of(net, site), stream, before, before, Exchange(one_plus_gamma=True), (0.0, 0.0)
    )
    torch.testing.assert_close(plus.added, plus.normal)


@pytest.mark.parametrize(
    ("state", "how"),
    [
        ({"whose": "own"}, Exchange(own=True)), ({"pooled": True}, Exchange(pool=True)),
        ({"norm": "instance"}, Exchange(norm="instance")), ({"norm": "channel"}, Exchange(norm="channel")),
        ({"one_plus": True}, Exchange(one_plus_gamma=True)), ({"gamma": 0.0}, Exchange(only="beta")),
        ({"beta": 0.0}, Exchange(only="gamma")),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_switch_is_what_the_network_would_do_if_it_exchanged_so(
    setting: Setting, state: dict[str, Any], how: Exchange
) -> None:
    net, batch = xnorm(setting), reading.clip(setting, 0, 2)
    config = setting.config("X-Norm")
    assert isinstance(config, XNorm)
    other = replace(config, exchange=how).build().eval()
    other.load_state_dict(net.state_dict())
    lab = exchange.exchange(setting, 0)
    for stream in (0, 1):
        happened = reading.told(other, batch).sites[0]
        before, after = happened.before[stream][0], happened.after[stream][0]
        found = shown(lab, row=2, stream=MODALITIES[stream], map=1, frame=1, **state)
        change = 100 * float((after - before).norm() / before.norm())
        here = 100 * float((after[1] - before[1]).norm() / before[1].norm())
        assert metrics(found)["changed"] == pytest.approx(change, rel=1e-4)
        assert metrics(found)["map changed"] == pytest.approx(here, rel=1e-4)
        asked = measure.instead(net, batch, 0, stream, after[None])[0].softmax(0)
        np.testing.assert_allclose(found[ANSWER]["values"], asked, atol=1e-6)
        most = float(found[STEPS]["columns"][-1].partition("±")[2])
        drawn = exchange.signed(after[1, 1], most)
        np.testing.assert_allclose(found[STEPS]["pixels"][0, 5], to_bytes(drawn), atol=13)


def test_each_step_is_made_of_those_before(setting: Setting) -> None:
    net = xnorm(setting)
    site = reading.told(net, reading.clip(setting, 0, 1)).sites[0]
    how, times = Exchange(), (0.5, 2.0)
    found = measure.parts(exchange_of(net, 0), 0, site.before[0], site.before[1], how, times)
    gamma, beta = (x[0].view_as(found.x) for x in site.said[0] if x is not None)
    torch.testing.assert_close(found.gamma, 0.5 * gamma)
    torch.testing.assert_close(found.beta, 2 * beta)
    torch.testing.assert_close(found.added, found.gamma * found.normal + found.beta)
    torch.testing.assert_close(found.after, found.x + found.added)
    assert float(found.normal.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.normal.std()) == pytest.approx(1, abs=1e-3)


def test_statistics_are_of_what_is_normalised_together(setting: Setting) -> None:
    lab = exchange.exchange(setting, 0)
    layer, instance = (metrics(shown(lab, norm=norm, map=1)) for norm in ("layer", "instance"))
    for found in (layer, instance):
        assert found["norm(x) mean"] == 0
        assert found["norm(x) deviation"] == pytest.approx(1, abs=0.02)
    assert layer["here mean"] != 0
    assert instance["here mean"] == 0
    assert instance["here deviation"] == pytest.approx(1, abs=1e-3)
    pooled = shown(lab, pooled=True)[STEPS]["pixels"][0]
    gamma, beta = pooled[2], pooled[3]
    assert len(np.unique(gamma.reshape(-1, 3), axis=0)) == len(
        np.unique(beta.reshape(-1, 3), axis=0)
    ) == 1, "one number a map"  # fmt: skip


def test_another_clip_tells_its_own_and_the_same_clip_the_same(setting: Setting) -> None:
    lab = exchange.exchange(setting, 0)
    partner = shown(lab, row=2)
    assert metrics(shown(lab, row=2, whose="another", other=2)) == metrics(partner)
    other = shown(lab, row=2, whose="another", other=9)
    assert metrics(other)["changed"] != metrics(partner)["changed"]
    clip = reading.clip(setting, 0, 9)
    assert other[CLIP]["columns"][2] == "tells: flow of clip 9"
    flow = to_bytes(exchange.frame_of(clip, "flow", 1))
    np.testing.assert_array_equal(other[CLIP]["pixels"][0, 2], flow)
    np.testing.assert_array_equal(partner[CLIP]["pixels"][0, 2], partner[CLIP]["pixels"][0, 1])
    own = shown(lab, row=2, whose="own")[CLIP]
    np.testing.assert_array_equal(own["pixels"][0, 2], own["pixels"][0, 0])
    start = lab.kind().other  # type: ignore[attr-defined]
    directions = reading.held_out(setting, 0).factors["direction"]
    assert directions[start] != directions[0], "one that moves the other way"


def test_factors_change_what_is_shown_and_narrow_sites_count_maps_anew(setting: Setting) -> None:
    lab = exchange.exchange(setting, 0)
    left, right = (shown(lab, direction=side, pair="cross") for side in exchange.SIDES)
    np.testing.assert_array_equal(left[CLIP]["pixels"][0, 0], right[CLIP]["pixels"][0, 0])
    assert not np.array_equal(left[CLIP]["pixels"][0, 1], right[CLIP]["pixels"][0, 1])
    verbs = {CLASSES[2], CLASSES[3]}
    assert {
        found[CLIP]["alt"].partition(", ")[2].partition(";")[0] for found in (left, right)
    } == verbs
    assert metrics(shown(lab, map=5)) == metrics(shown(lab, map=1))
    assert metrics(shown(lab, site="1", map=5)) != metrics(shown(lab, site="1", map=1))
    frames = [shown(lab, frame=t, map=1)[STEPS]["pixels"] for t in (0, 1)]
    assert not np.array_equal(*frames)


@pytest.mark.parametrize("site", [0, 1])
def test_with_zero_init_training_begins_as_late_fusion_and_every_exchange_is_the_identity(
    setting: Setting, site: int
) -> None:
    zero, fresh = (reading.untrained(setting, w, 0) for w in ("X-Norm, zero init", "X-Norm"))
    late = reading.untrained(setting, "late", 0)
    late.load_state_dict({k: v for k, v in zero.state_dict().items() if "exchanges" not in k})
    batch = reading.held_out(setting, 0)
    assert torch.equal(zero.predict(batch), late.predict(batch)), "bit for bit"
    streams = {k: v for k, v in fresh.state_dict().items() if "exchanges" not in k}
    assert all(torch.equal(v, zero.state_dict()[k]) for k, v in streams.items()), (
        "all else is the same"
    )
    lab, clip = exchange.exchange(setting, 0), reading.clip(setting, 0, 5)
    for stream in MODALITIES:
        state = {"row": 5, "site": str(site), "stream": stream, "map": 2}
        found = shown(lab, **state, network="zero init")
        assert metrics(found)["changed"] == metrics(found)["map changed"] == 0
        x, _, gamma, beta, added, last = found[STEPS]["pixels"][0]
        np.testing.assert_array_equal(x, last)
        assert white(gamma) and white(beta) and white(added) and not white(x)
        np.testing.assert_allclose(
            found[ANSWER]["values"], late.predict(clip)[0].softmax(0), atol=1e-6
        )
        trained = xnorm(setting).predict(clip)[0].softmax(0)
        np.testing.assert_allclose(found[ANSWER]["marks"], trained, atol=1e-6)
        assert "Network: zero init." in found[ANSWER]["alt"]
        plus = shown(lab, **state, network="zero init", one_plus=True)
        assert metrics(plus)["changed"] > 0, "norm(x) is added"
        kick = shown(lab, **state, network="untrained")
        happened = reading.told(fresh, clip).sites[site]
        m = MODALITIES.index(stream)
        change = exchange.change_of(happened.before[m], happened.after[m])
        assert metrics(kick)["changed"] == pytest.approx(100 * change, rel=1e-4)
        assert change > 0.1, "as released, the beginning is a kick"


# Noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noisy", [*MODALITIES, "both"])
def test_noise_is_one_draw_that_a_level_scales_whatever_else_is_changed(
    setting: Setting, noisy: str
) -> None:
    test = reading.held_out(setting, 0)
    once = add_noise(test, 1.0, torch.Generator().manual_seed(0))
    for factors in ({}, {"direction": 1}, {"direction": 0, "pair": 3}):
        clean = reading.clip(setting, 0, 4, **factors)
        for level in (0.5, 2.0):
            seen = exchange.with_noise(setting, 0, "cpu", 4, clean, (noisy, level))
            for name in MODALITIES:
                added, unit = seen.x[name] - clean.x[name], (once.x[name] - test.x[name])[4:5]
                if noisy in (name, "both"):
                    torch.testing.assert_close(added, level * unit, atol=2e-6, rtol=0)
                    size = float(added.std() / test.x[name].abs().mean())
                    assert size == pytest.approx(level, rel=0.15)
                else:
                    assert torch.equal(seen.x[name], clean.x[name])
    silent = exchange.with_noise(setting, 0, "cpu", 4, clean, (noisy, 0.0))
    assert all(torch.equal(silent.x[name], clean.x[name]) for name in MODALITIES)


def test_what_is_noisy_is_shown_and_read_so(setting: Setting) -> None:
    lab, net = exchange.exchange(setting, 0), xnorm(setting)
    clean, other = reading.clip(setting, 0, 2), reading.clip(setting, 0, 9)
    plain = shown(lab, row=2, map=1)
    for noisy in (*MODALITIES, "both"):
        noise = (noisy, 1.5)
        found = shown(lab, row=2, map=1, noisy=noisy, level=1.5, whose="another", other=9)
        seen, teller = (
            exchange.with_noise(setting, 0, "cpu", row, clip, noise)
            for row, clip in ((2, clean), (9, other))
        )
        for k, (batch, name) in enumerate(((seen, "rgb"), (seen, "flow"), (teller, "flow"))):
            wanted = to_bytes(exchange.frame_of(batch, name, 1))
            np.testing.assert_array_equal(found[CLIP]["pixels"][0, k], wanted)
        said = net.predict(seen)[0].softmax(0)
        np.testing.assert_allclose(found[ANSWER]["marks"], said, atol=1e-6)
        before = net.predict(clean)[0].softmax(0)
        assert float((said - before).abs().max()) > 1e-4
        truth = exchange.truth_of(clean)
        assert metrics(found)["without noise"] == pytest.approx(float(before[truth]), abs=1e-6)
        assert f"Noise of 1.5 on {noisy}." in found[ANSWER]["alt"]
        both = shown(lab, row=2, map=1, noisy=noisy, level=1.5)
        np.testing.assert_allclose(both[ANSWER]["values"], said, atol=1e-6)
        silent = shown(lab, row=2, map=1, noisy=noisy, level=0.0)
        assert metrics(silent) == metrics(plain) and "Noise" not in silent[ANSWER]["alt"]
    assert metrics(plain)["without noise"] == pytest.approx(metrics(plain)["true verb"], abs=1e-6)


def test_a_noisy_rgb_stays_while_flow_is_turned(setting: Setting) -> None:
    lab, noise = swapping.swap(setting, 0), ("both", 1.0)
    found = shown(lab, row=3, turned=True, map=1, frame=1, noisy="both", level=1.0)
    own, now = (
        exchange.with_noise(setting, 0, "cpu", 3, reading.steered(setting, 0, 3, turned), noise)
        for turned in (False, True)
    )
    assert torch.equal(own.x["rgb"], now.x["rgb"])
    for k, (batch, name) in enumerate(((own, "rgb"), (own, "flow"), (now, "flow"))):
        wanted = [to_bytes(exchange.frame_of(batch, name, t)) for t in range(2)]
        np.testing.assert_array_equal(found[FILM]["pixels"][k], wanted)
    late, alone, both = found[MAPS]["pixels"]
    assert white(late[2]) and white(alone[2]) and not white(both[2])
    for way in swapping.RIVALS:
        bars = found[f"{swapping.SHORT[way]}; blue: true; ticks: before"]
        net = reading.network(setting, way, 0)
        for values, batch in ((bars["values"], now), (bars["marks"], own)):
            np.testing.assert_allclose(values, net.predict(batch)[0].softmax(0), atol=1e-6)
    assert "Noise of 1 on both." in found[FILM]["alt"]
    flow = shown(lab, row=3, turned=True, map=1, frame=1, noisy="flow", level=1.0)
    assert metrics(flow) != metrics(found)
    assert metrics(shown(lab, row=3, noisy="rgb")) == metrics(shown(lab, row=3))


# Swap ----------------------------------------------------------------------------------------------


def test_only_flow_is_steered(setting: Setting) -> None:
    own, same = reading.clip(setting, 0, 6), reading.steered(setting, 0, 6, False)
    assert all(torch.equal(own.x[name], same.x[name]) for name in MODALITIES)
    turned, fast = (reading.steered(setting, 0, 6, True, pair) for pair in (None, 3))
    for other in (turned, fast):
        assert torch.equal(other.x["rgb"], own.x["rgb"])
        assert int(other.factors["direction"]) == 1 - int(own.factors["direction"])
        assert own.y is not None and other.y is not None
        assert int(other.y) == int(own.y) ^ 1, "rho is 1: the other verb of the pair"
    assert torch.equal(turned.factors["speed"], own.factors["speed"])
    look = reading.clip(setting, 0, 6, pair=3)
    assert torch.equal(fast.factors["speed"], look.factors["speed"])
    assert not torch.equal(fast.x["flow"], turned.x["flow"])


def test_a_turned_flow_reaches_rgb_in_x_norm_alone(setting: Setting) -> None:
    lab = swapping.swap(setting, 0)
    before, found = shown(lab, row=3), shown(lab, row=3, turned=True, map=1, frame=1)
    rgb, flow, now = found[FILM]["pixels"]
    np.testing.assert_array_equal(rgb, before[FILM]["pixels"][0])
    np.testing.assert_array_equal(flow, before[FILM]["pixels"][2])
    assert not np.array_equal(flow, now)
    late, own, both = found[MAPS]["pixels"]
    assert white(late[2]) and white(own[2]) and not white(both[2])
    np.testing.assert_array_equal(late[0], late[1])
    assert not np.array_equal(both[0], both[1])
    moved = found[HEADS]["values"]
    assert moved[0] == moved[1] == 0 < moved[2]
    numbers = metrics(found)
    assert numbers["late maps"] == numbers["own maps"] == 0 < numbers["X-Norm maps"]
    gammas = found[GAMMAS]["pixels"]
    np.testing.assert_array_equal(gammas[0, 0], gammas[1, 0])
    assert not np.array_equal(gammas[0, 1], gammas[1, 1])
    maps = [
        measure.behind(xnorm(setting), reading.steered(setting, 0, 3, t), 0)[0][0]
        for t in (False, True)
    ]
    change = 100 * float((maps[1] - maps[0]).norm() / maps[0].norm())
    assert numbers["X-Norm maps"] == pytest.approx(change, rel=1e-4)


def test_answers_are_those_of_the_networks_before_and_now(setting: Setting) -> None:
    lab = swapping.swap(setting, 0)
    found, same = (shown(lab, row=1, turned=turned, speed="rows") for turned in (True, False))
    plain = shown(lab, row=1)
    for way in swapping.RIVALS:
        bars, net = (
            found[f"{swapping.SHORT[way]}; blue: true; ticks: before"],
            reading.network(setting, way, 0),
        )
        now = net.predict(reading.steered(setting, 0, 1, True, 2))[0].softmax(0)
        before = net.predict(reading.clip(setting, 0, 1))[0].softmax(0)
        np.testing.assert_allclose(bars["values"], now, atol=1e-6)
        np.testing.assert_allclose(bars["marks"], before, atol=1e-6)
        truth = exchange.truth_of(reading.steered(setting, 0, 1, True))
        assert bars["colors"].index(exchange.BLUE) == truth, "the verb as it is now"
        assert metrics(found)[swapping.SHORT[way]] == pytest.approx(float(now[truth]), abs=1e-6)
        still_there = plain[f"{swapping.SHORT[way]}; blue: true; ticks: before"]
        np.testing.assert_array_equal(still_there["values"], still_there["marks"])
    assert metrics(same) != metrics(plain), "speed alone is seen, too"


def test_many_turned_clips_are_counted_whole(setting: Setting) -> None:
    batch = reading.held_out(setting, 0)
    other = setting.recipe(0).look(
        "test", torch.arange(24), direction=1 - batch.factors["direction"]
    )
    for way in ("late", "X-Norm"):
        net, found = reading.network(setting, way, 0), measure.turned(setting, way, 0)
        right = [
            100 * float((net.predict(b).argmax(1) == b.y).double().mean()) for b in (batch, other)
        ]
        assert found["right"] == pytest.approx(right, abs=1e-4)
        said = [measure.heads(net, b).argmax(-1) for b in (batch, other)]
        assert found["heads"] == pytest.approx(
            (100 * (said[0] != said[1]).double().mean(1)).tolist()
        )
        mean = measure.heads(net, batch).mean(0)
        torch.testing.assert_close(mean, net.predict(batch))
    assert measure.turned(setting, "late", 0)["heads"][0] == 0
    why = swapping.swap(setting, 0).spec["question"]["why"]
    assert "gives another answer in 0 % (late), 0 % (X-Norm, own), " in why


# The dial ------------------------------------------------------------------------------------------


def test_the_dial_is_the_table_and_lines_between(setting: Setting) -> None:
    lab = synergy.synergy(frame())
    half, between = shown(lab, rho=0.5), shown(lab, rho=0.75)
    numbers = metrics(between)
    assert metrics(half)["late"] == pytest.approx(95 - 25 + 1)
    assert numbers["late"] == pytest.approx(95 - 37.5 + 1)
    assert numbers["ahead"] == pytest.approx(37.5)
    assert "lines between" in between[BARS]["alt"] and "lines between" not in half[BARS]["alt"]
    most = ceilings(0.75)
    wanted = [100 * most[name] for name in ("rgb", "flow", "late", "joint", "joint", "late")]
    np.testing.assert_allclose(between[BARS]["marks"], wanted, rtol=1e-6)
    assert between[BARS]["names"] == [*synergy.WAYS]
    curves = between[CURVES]
    at = [int(np.abs(curves["x"] - rho).argmin()) for rho in (0, 0.25, 0.5, 1)]
    assert curves["marker"] == 0.75 and curves["x"][at].tolist() == [0, 0.25, 0.5, 1]
    np.testing.assert_allclose(curves["lines"][0]["y"][at], [96, 83.5, 71, 46], rtol=1e-6)
    np.testing.assert_allclose(curves["lines"][-1]["y"][at], [100, 87.5, 75, 75], rtol=1e-6)
    dashes = [tuple(line["dash"]) for line in curves["lines"]]
    assert len({*dashes}) == len(dashes) == 5, "lines can be told apart without colours"
    why = lab.spec["question"]["why"]
    assert "late fusion has 46 % there" in why and "96 %" in why
    assert lab.spec["question"]["options"] == ("50 %", "75 %", "100 %")


def test_every_seed_is_a_dot_at_its_height() -> None:
    table = frame()
    table.loc[(table["way"] == "early") & (table["seed"] == 2), "accuracy"] = 20.0
    strip = shown(synergy.synergy(table), rho=0.5)[SEEDS]["pixels"][0, 3]
    color = np.array([0xE6, 0x9F, 0x00])
    y, x = np.nonzero((strip == color).all(-1))
    rows = [y[np.abs(x - middle) <= 4] for middle in (20 - 12.3, 20, 20 + 12.3)]
    heights = [synergy._height(v) for v in (80.0, 81.0, 20.0)]
    assert [round(float(each.mean())) for each in rows] == heights
    assert heights[2] > heights[0] + 40, "low is below"
    line = strip[synergy._height(100 * ceilings(0.5)["joint"]), 0]
    assert line.tolist() == [64] * 3


def test_a_table_that_lacks_something_is_refused() -> None:
    table = frame()
    with pytest.raises(ValueError, match="table has no way 'late'; it has rgb alone, flow alone, "):
        synergy.synergy(table[table["way"] != "late"])
    hole = (table["way"] == "early") & (table["rho"] == 0.5)
    with pytest.raises(ValueError, match="seed 1 lacks some"):
        synergy.synergy(table[~(hole & (table["seed"] == 1))])
    with pytest.raises(ValueError, match="'early' has others"):
        synergy.synergy(table[~hole])
    with pytest.raises(ValueError, match=r"two rhos or more, got \[0.5\]"):
        synergy.synergy(table[table["rho"] == 0.5])


# XOR -----------------------------------------------------------------------------------------------


def test_presets_get_two_three_and_four_cells() -> None:
    lab = synergy.xor()
    wanted = {"The direction alone": 2, "A lopsided sum": 3, "A product": 4}
    assert {*lab.kind.PRESETS} == {*wanted}
    for name, right in wanted.items():
        state = lab.kind.preset(name)
        found = dict(lab.compute(state))
        assert metrics(found)["right"] == right, name
        product = state.product  # type: ignore[attr-defined]
        assert metrics(found)["apart"] == pytest.approx(4 * product)
        curve = found[PRODUCT]
        at = int(np.abs(curve["x"] - product).argmin())
        assert curve["lines"][0]["y"][at] == right and curve["marker"] == product
        assert f"{right} of 4 cells" in found[GRID]["alt"]
    assert lab.now == lab.kind(), "a sum to begin with"
    then = lab.spec["question"]["then"]
    assert metrics(shown(lab, **then))["right"] == 3


def test_cells_show_what_is_said_and_whether_it_is_right() -> None:
    found = shown(synergy.xor(), rgb_left=-1.0, rgb_right=1.0, flow_left=0.0, flow_right=2.0)
    grid, bars = found[GRID], found[CLOSE]
    logits = torch.tensor([[-1.0, 1.0], [1.0, 3.0]])
    np.testing.assert_allclose(bars["values"], logits.sigmoid().flatten(), rtol=1e-5)
    assert bars["marks"].tolist() == [0, 1, 1, 0]
    assert [name[-1] for name in bars["names"]] == ["✓", "✓", "✓", "✗"]
    assert grid["rows"] == ["left: -1.0", "right: +1.0"]
    assert grid["columns"] == ["left: +0.0", "right: +2.0"]
    assert grid["framed"].tolist() == [[0, 1], [1, 1]], "close"
    right, wrong = (to_bytes(synergy._cell(ok)) for ok in (True, False))
    for h, d in synergy.CELLS:
        np.testing.assert_array_equal(grid["pixels"][h, d], wrong if h and d else right)
    assert (right.mean((0, 1)) > 150).all() and (wrong.mean((0, 1))[1:] < 120).all()
    even = shown(synergy.xor(), rgb_left=0.0, rgb_right=0.0, flow_left=0.0, flow_right=0.0)
    assert metrics(even)["right"] == 0 and "neither, wrong" in even[GRID]["alt"]


def test_trained_networks_stand_beside_the_paper_if_asked_for(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, beside = shown(synergy.xor()), shown(synergy.xor(setting, 0))
    assert {*beside} - {*alone} == {FILLED, TRAINED}
    late, other = (reading.by_cell(setting, way, 0) for way in ("late", "X-Norm"))
    np.testing.assert_allclose(beside[TRAINED]["values"], late.flatten(), rtol=1e-6)
    np.testing.assert_allclose(beside[TRAINED]["marks"], other.flatten(), rtol=1e-6)
    assert metrics(beside)["late"] == pytest.approx(100 * float(late.mean()))
    light = (beside[FILLED]["pixels"] == to_bytes(synergy.rgb(synergy.RIGHT))).all(-1).mean((2, 3))
    np.testing.assert_allclose(light, late, atol=0.5 / 24 + 1e-6)
    known = {"late": 0.25, "X-Norm": 0.75}
    monkeypatch.setattr(reading, "by_cell", lambda _, way, *more: torch.full((2, 2), known[way]))
    told = shown(synergy.xor(setting, 99))[TRAINED]
    assert told["values"].tolist() == [0.25] * 4 and told["marks"].tolist() == [0.75] * 4
