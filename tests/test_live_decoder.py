"""The in-page decoder: what is stored, what is refused, and that the page computes what torch does."""

from __future__ import annotations

import base64
import copy
import json
import math
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wasmtime
from playwright.sync_api import Error, Page, sync_playwright
from torch import Tensor, nn

from labkit import LabkitError, doctor
from labkit.live import decoder
from labkit.live.decoder import Assets, Net, pack
from labkit.models import layers
from labkit.models.mvae import mlp

PAGE = Path(decoder.__file__).parent / "page"
WASM = (PAGE / "simd.wasm").read_bytes()
ACTIVATIONS = {
    "mish": nn.Mish(),
    "labkit's mish": layers.Mish(),
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
}
SIZES = {"one": (5, 3), "two": (2, 9, 6), "three": (7, 13, 8, 10), "four": (3, 5, 17, 4, 31)}
NEAR = (
    5e-6  # max |page - torch| in units of max(1, largest |output|): measured 2.2e-6; allowed 1e-4
)
BATCHES = (1, 7, 100, 300)  # 300: blocks of 128, 128 and 44 rows


def stack(sizes: Sequence[int], activation: nn.Module, seed: int = 0) -> nn.Sequential:
    """A net whose activations are neither tiny nor all saturated."""
    draw = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for into, out in pairwise(sizes):
        linear = nn.Linear(into, out)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(out, into, generator=draw) * 1.5 / math.sqrt(into))
            linear.bias.copy_(torch.randn(out, generator=draw))
        parts += [linear, activation]
    return nn.Sequential(*parts[:-1])


def latents(rows: int, width: int, seed: int = 1) -> Tensor:
    return 2 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def truth(net: Net, z: Tensor, dtype: str) -> Tensor:
    """What the page should compute: torch, with the weights rounded as they are stored."""
    module = copy.deepcopy(net.module).eval()
    for parameter in module.parameters():
        parameter.copy_(parameter.to(getattr(torch, dtype)))
    out = module(z)
    return {"sigmoid": out.sigmoid(), "softmax": out.softmax(-1), "identity": out}[net.output]


def every_size(activation: nn.Module) -> dict[str, Net]:
    nets = {name: Net(stack(sizes, activation)) for name, sizes in SIZES.items()}
    nets["four"] = Net(nets["four"].module, "sigmoid")
    nets["three"] = Net(nn.Sequential(nets["three"].module, activation), "softmax", (5, 2))
    return nets


# What is stored -----------------------------------------------------------------------------------


def read(assets: Assets, offset: int, shape: Sequence[int], dtype: str) -> np.ndarray:
    count = math.prod(shape)
    return np.frombuffer(assets.buffer, np.dtype(dtype), count, offset).reshape(shape)


def read_array(assets: Assets, name: str) -> np.ndarray:
    entry = assets.manifest["arrays"][name]
    return read(assets, entry["offset"], entry["shape"], entry["dtype"])


def read_and_run(assets: Assets, name: str, z: np.ndarray) -> np.ndarray:
    """Run a net from its manifest entry alone, in float64 (Mish and ReLU)."""
    net = assets.manifest["nets"][name]
    for layer in net["layers"]:
        weight = read(
            assets, layer["weight"], (layer["in"], layer["out"]), assets.manifest["weights"]
        )
        z = z @ weight.astype(np.float64)
        if layer["bias"] is not None:
            z = z + read(assets, layer["bias"], (layer["out"],), assets.manifest["weights"])
        if layer["activation"] == "mish":
            z = z * np.tanh(np.logaddexp(0, z))
        elif layer["activation"] == "relu":
            z = np.maximum(z, 0)
        else:
            assert layer["activation"] == "none"
    return {"identity": z, "sigmoid": 1 / (1 + np.exp(-z))}[net["output"]]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_manifest_and_buffer_hold_the_nets(dtype: Any) -> None:
    without_bias = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3, bias=False)
    )
    nets = {"digits": Net(mlp(5, 7, 12), "sigmoid", (3, 4)), "small": Net(without_bias)}
    assets = pack({}, nets, dtype)
    assert json.loads(json.dumps(assets.manifest)) == assets.manifest
    assert assets.manifest["bytes"] == len(assets.buffer)
    assert assets.manifest["nets"]["digits"]["shape"] == [3, 4]
    assert assets.manifest["nets"]["small"]["shape"] == [3]
    for name, net in nets.items():
        z = latents(20, assets.manifest["nets"][name]["inputs"])
        found = read_and_run(assets, name, z.double().numpy())
        np.testing.assert_allclose(found, truth(net, z, dtype), atol=2e-6)


def test_check_holds_torch_outputs_of_the_rounded_weights() -> None:
    learning = nn.Sequential(nn.Linear(2, 5), nn.Dropout(), nn.Tanh(), nn.Linear(5, 3)).train()
    nets = {"wide": Net(mlp(6, 9, 4), "softmax"), "narrow": Net(learning)}
    assets = pack({}, nets)
    z = torch.tensor(read_array(assets, assets.manifest["check"]["z"]))
    assert z.shape == (8, 6)
    assert z.std() > 0.5 and bool((z[0] == 0).all())
    for name, net in nets.items():
        expected = read_array(assets, assets.manifest["check"]["nets"][name])
        columns = z[:, : assets.manifest["nets"][name]["inputs"]]
        np.testing.assert_allclose(expected, truth(net, columns, "float16"), atol=1e-6)
    unrounded = truth(nets["narrow"], z[:, :2], "float32")
    expected = read_array(assets, assets.manifest["check"]["nets"]["narrow"])
    assert np.abs(expected - unrounded.numpy()).max() > 1e-5  # or the test above shows nothing


def test_arrays_are_stored_exactly_and_aligned() -> None:
    given = {
        "float": torch.randn(3, 5),
        "double": np.array([0.1, np.nan, np.inf]),
        "bfloat": torch.tensor([1.5], dtype=torch.bfloat16),
        "bool": torch.tensor([[True], [False], [True]]),
        "uint8": np.arange(256, dtype=np.uint8),
        "long": torch.tensor([-(2**31), 2**31 - 1]),
        "scalar": torch.tensor(7),
        "view": torch.arange(12.0).view(3, 4).T,
        "big-endian": np.array([1, 258], ">i4"),
        "empty": np.zeros((0, 4)),
    }
    assets = pack(given)
    kinds = {"float32", "int32", "uint8"}
    for name, array in given.items():
        found = read_array(assets, name)
        entry = assets.manifest["arrays"][name]
        assert entry["dtype"] in kinds
        assert entry["offset"] % 16 == 0
        expected = np.asarray(array.float() if name == "bfloat" else array)
        assert found.shape == expected.shape
        np.testing.assert_array_equal(
            found, expected.astype(np.float32) if expected.dtype.kind == "f" else expected
        )
    assert assets.manifest["arrays"]["bool"]["dtype"] == "uint8"
    assert assets.manifest["arrays"]["long"]["dtype"] == "int32"
    assert assets.manifest["nets"] == {}


def test_packing_after_training_gives_the_same_layout() -> None:
    model = mlp(3, 8, 5)
    before = pack({"points": torch.zeros(4, 2)}, {"net": Net(model)})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    after = pack({"points": torch.ones(4, 2)}, {"net": Net(model)})
    assert after.manifest == before.manifest
    assert after.buffer != before.buffer


def test_packing_leaves_the_module_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2)).double()
    before = copy.deepcopy(model.state_dict())
    assets = pack({}, {"net": Net(model)})
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    activations = [layer["activation"] for layer in assets.manifest["nets"]["net"]["layers"]]
    assert activations == ["relu", "none"]


def test_a_module_that_stands_at_two_places_counts_twice() -> None:
    mish = layers.Mish()
    linear = nn.Linear(4, 4)
    assets = pack({}, {"net": Net(nn.Sequential(linear, mish, nn.Sequential(linear, mish)))})
    activations = [layer["activation"] for layer in assets.manifest["nets"]["net"]["layers"]]
    assert activations == ["mish", "mish"]


# What is refused ----------------------------------------------------------------------------------


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def hooked() -> nn.Linear:
    linear = nn.Linear(3, 3)
    linear.register_forward_hook(lambda module, args, out: 2 * out)
    return linear


@pytest.mark.parametrize(
    ("module", "where"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.LayerNorm(4))), r"layer 1\.0 \(LayerNorm\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softplus()), r"layer 1 \(Softplus\) is of no kind"),
        (nn.Sequential(nn.Linear(3, 4), Doubled(nn.ReLU())), r"layer 1 \(Doubled\)"),
        (Scaled(3, 4), r"layer itself \(Scaled\)"),
        (nn.Sequential(nn.ReLU(), nn.Linear(3, 4)), r"layer 0 \(ReLU\) does not come right after"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh()), r"layer 2 \(Tanh\) does not come"),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 4)), r"layer 1 \(Linear\) takes 5 .* given 4"),
        (nn.Sequential(nn.Linear(3, 3), hooked()), r"layer 1 \(Linear\) has hooks"),
        (nn.Sequential(nn.Identity()), r"\(Sequential\) has no Linear"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_what_is_no_plain_stack_is_refused(module: nn.Module, where: str) -> None:
    with pytest.raises(LabkitError, match=f"net 'face' cannot run in the page: .*{where}") as error:
        pack({}, {"face": Net(module)})
    assert "Linear" in str(error.value) and "Mish" in str(error.value)  # what is allowed
    assert "let the kernel compute" in str(error.value)  # and what else can be done


def test_weights_that_do_not_fit_are_refused() -> None:
    model = mlp(3, 4, 2)
    with torch.no_grad():
        model[2].weight[0, 0] = 65520  # rounds to infinity in float16; 65519 would not
    with pytest.raises(LabkitError, match=r"net 'n', layer 2: .*6.552e\+04.*dtype=\"float32\""):
        pack({}, {"n": Net(model)})
    pack({}, {"n": Net(model)}, dtype="float32")
    with torch.no_grad():
        model[0].bias[1] = math.nan
    with pytest.raises(LabkitError, match="net 'n', layer 0: weights are not all finite"):
        pack({}, {"n": Net(model)}, dtype="float32")


def test_bad_arguments_are_refused() -> None:
    net = Net(mlp(2, 3))
    with pytest.raises(ValueError, match=r"shape \(2, 2\) does not hold its 3 outputs"):
        pack({}, {"n": Net(net.module, shape=(2, 2))})
    with pytest.raises(ValueError, match="output must be one of sigmoid, softmax, identity"):
        pack({}, {"n": Net(net.module, "tanh")})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype must be 'float16' or 'float32', got 'int8'"):
        pack({}, {"n": net}, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="array 'check/z'"):
        pack({"check/z": np.zeros(1)})
    with pytest.raises(ValueError, match="array 'a' must hold floats, integers or booleans"):
        pack({"a": np.array(["text"])})
    with pytest.raises(ValueError, match="array 'a' holds numbers beyond the range of int32"):
        pack({"a": torch.tensor([2**31])})
    with pytest.raises(ValueError, match="array 'a' holds numbers beyond the range of float32"):
        pack({"a": np.array([1e300])})


# The WebAssembly routine --------------------------------------------------------------------------


def test_the_binary_is_what_the_text_says() -> None:
    assert wasmtime.wat2wasm((PAGE / "simd.wat").read_text()) == WASM


class Routine:
    """simd.wasm in wasmtime, with float32 numbers put into its memory and read from it."""

    def __init__(self) -> None:
        self.store = wasmtime.Store()
        module = wasmtime.Module(self.store.engine, WASM)
        self.exports = wasmtime.Instance(self.store, module, []).exports(self.store)
        self.memory: Any = self.exports["memory"]
        self.memory.grow(self.store, 64)

    def __call__(self, name: str, *args: int) -> None:
        self.exports[name](self.store, *args)  # type: ignore[operator]

    def put(self, address: int, values: np.ndarray) -> int:
        self.memory.write(self.store, values.astype("<f4").tobytes(), address)
        return address + 4 * values.size

    def get(self, address: int, *shape: int) -> np.ndarray:
        end = address + 4 * math.prod(shape)
        return np.frombuffer(self.memory.read(self.store, address, end), "<f4").reshape(shape)


@pytest.mark.parametrize(
    ("rows", "into", "out"), [(4, 1, 8), (8, 9, 16), (100, 32, 256), (12, 33, 40)]
)
def test_linear_in_wasmtime_is_numpys(rows: int, into: int, out: int) -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(rows, into)), rng.normal(size=(into, out)), rng.normal(size=out)
    stride = -(-into // 8) * 8
    padded = np.full((rows, stride), np.nan)  # what pads a row is never read
    padded[:, :into] = x
    panels = w.reshape(into, out // 8, 8).transpose(1, 0, 2)
    routine = Routine()
    at_w = routine.put(0, padded)
    at_b = routine.put(at_w, panels)
    at_y = routine.put(at_b, b) + 16
    routine.put(at_y - 16, np.full(rows * out + 8, 5.0))
    routine("linear", 0, at_w, at_b, at_y, rows, into, out)
    single = [part.astype(np.float32).astype(np.float64) for part in (x, w, b)]
    np.testing.assert_allclose(
        routine.get(at_y, rows, out), single[0] @ single[1] + single[2], rtol=0, atol=2e-5
    )
    around = (routine.get(at_y - 16, 4), routine.get(at_y + 4 * rows * out, 4))
    assert all((part == 5).all() for part in around)  # nothing else is written


def test_mish_and_sigmoid_in_wasmtime_are_torchs() -> None:
    x = np.concatenate([np.linspace(-120, 120, 100_000), np.linspace(-2, 2, 9_999), [0.0]])
    x = x.astype(np.float32)
    exact = torch.tensor(x, dtype=torch.float64)
    routine = Routine()
    for name, expected in (
        ("mish", torch.nn.functional.mish(exact)),
        ("sigmoid", exact.sigmoid()),
    ):
        routine.put(16, np.concatenate([x, [5.0]]))
        routine(name, 16, len(x))
        found = routine.get(16, len(x)).astype(np.float64)
        # 3 units in the last place, measured 2; far below 0 Mish ends at e^-87, not at 0
        np.testing.assert_allclose(found, expected, rtol=4e-7, atol=1e-35)
        assert routine.get(16 + 4 * len(x), 1) == 5


# The page -----------------------------------------------------------------------------------------

LOAD = """async (source) => {
  window.bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  window.floats = (text) => new Float32Array(bytes(text).buffer);
  window.text = (floats) => {
    const given = new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
    return btoa(Array.from(given, (byte) => String.fromCharCode(byte)).join(""));
  };
  window.decoder = await import("data:text/javascript;base64," + source);
}"""

COMPUTE = """async ([manifest, buffer, wasm, latents, batches]) => {
  const assets = await decoder.openAssets(manifest, bytes(buffer), wasm && bytes(wasm));
  const found = { difference: assets.difference, simd: assets.simd, reason: assets.reason, nets: {} };
  for (const [name, net] of Object.entries(assets.nets)) {
    const zs = floats(latents[name]), first = (n) => zs.subarray(0, n * net.inputs);
    found.nets[name] = batches.map((n) => [text(net.many(first(n), n)), text(net.plainMany(first(n), n))]);
    found.nets[name].push([text(net.one(first(1)))]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=doctor.browser(), args=["--no-sandbox"])
        opened = chromium.new_page()
        opened.evaluate(LOAD, encoded((PAGE / "decoder.js").read_bytes()))
        yield opened
        chromium.close()


def encoded(data: bytes | Tensor) -> str:
    return base64.b64encode(data.numpy().tobytes() if isinstance(data, Tensor) else data).decode()


def decoded(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32)


def run(page: Page, nets: dict[str, Net], dtype: Any = "float16", wasm: bytes | None = WASM) -> Any:
    """Compute every batch in the page by all three methods, and compare each with torch.

    Returns:
        What the page said of itself, and ``off``: max |page - torch| / max(1, largest |torch|).
    """
    assets = pack({}, nets, dtype)
    sizes = {name: entry["inputs"] for name, entry in assets.manifest["nets"].items()}
    z = {name: latents(max(BATCHES), size) for name, size in sizes.items()}
    given = {name: encoded(rows) for name, rows in z.items()}
    routine = None if wasm is None else encoded(wasm)
    buffer = encoded(assets.buffer)
    found = page.evaluate(COMPUTE, [assets.manifest, buffer, routine, given, list(BATCHES)])
    found["off"] = 0.0
    for name, net in nets.items():
        expected = truth(net, z[name], dtype)
        scale = max(1.0, expected.abs().max().item())
        for n, results in zip([*BATCHES, 1], found["nets"][name], strict=True):
            for result in results:
                difference = decoded(result).view(n, -1) - expected[:n]
                off = difference.abs().max().nan_to_num(math.inf).item()
                found["off"] = max(found["off"], off / scale)
    return found


@pytest.mark.browser
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_page_equals_torch(page: Page, activation: str, dtype: str) -> None:
    found = run(page, every_size(ACTIVATIONS[activation]), dtype)
    print(f"{activation} {dtype}: {found['off']:.1e}, its own check {found['difference']:.1e}")
    assert found["simd"] and found["reason"] == ""
    assert found["off"] < NEAR
    assert 0 < found["difference"] < 1e-5


@pytest.mark.browser
@pytest.mark.parametrize("output", ["sigmoid", "softmax", "identity"])
def test_teaching_decoder_in_the_page_equals_torch(page: Page, output: Any) -> None:
    torch.manual_seed(0)
    model = mlp(32, 256, 256, 784)
    with torch.no_grad():
        model[-1].weight.mul_(20)  # pixels of all greys
    found = run(page, {"digit": Net(model, output, (28, 28))})
    print(f"{output}: {found['off']:.1e}")
    assert found["simd"]
    assert found["off"] < NEAR


@pytest.mark.browser
def test_large_numbers_do_not_overflow(page: Page) -> None:
    """e^x is infinite from 89 on in float32 and from 710 on in JavaScript."""
    nets = {}
    for name, activation in ACTIVATIONS.items():
        net = stack((2, 6, 6), activation)
        with torch.no_grad():
            net[0].weight.mul_(1e4)
            net[2].weight.mul_(30)
        nets |= {
            f"{name} {output}": Net(net, output) for output in ("softmax", "sigmoid", "identity")
        }
    assert run(page, nets)["off"] < NEAR


@pytest.mark.browser
@pytest.mark.parametrize("wasm", [None, b"not WebAssembly", wasmtime.wat2wasm("(module)")])
def test_without_the_routine_the_page_computes_in_plain_javascript(
    page: Page, wasm: bytes | None
) -> None:
    found = run(page, every_size(nn.Mish()), wasm=wasm)
    assert found["simd"] is False
    assert found["reason"]
    assert found["off"] < NEAR


WRONG = {  # in the text -> what stands there instead
    "lanes of another column": ("(local.get $r2))", "(local.get $r1))"),
    "a column too far": ("(v128.store offset=16 (local.get $to)", "(v128.store offset=32 (local.get $to)"),
    "an input left out": ("(local.set $i (local.get $in))", "(local.set $i (i32.const 1))"),
    "a coarse exponential": ("1.6666665459e-1", "1.5e-1"),
    "written over the weights": ("(v128.store (local.get $to) (", "(v128.store (local.get $w) ("),
    "out of bounds": ("(local.set $panel (local.get $w))", "(local.set $panel (i32.const -64))"),
}  # fmt: skip


@pytest.mark.browser
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_routine_is_found_and_not_used(page: Page, fault: str) -> None:
    text = (PAGE / "simd.wat").read_text()
    right, wrong = WRONG[fault]
    assert right in text
    found = run(page, every_size(nn.Mish()), wasm=wasmtime.wat2wasm(text.replace(right, wrong)))
    assert found["simd"] is False
    assert "off by" in found["reason"] or "out of bounds" in found["reason"]
    assert found["off"] < NEAR  # nor has it spoilt the weights


@pytest.mark.browser
def test_every_float16_arrives_exactly(page: Page) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    every = every[every.isfinite()]
    linear = nn.Linear(1, len(every), bias=False)
    with torch.no_grad():
        linear.weight[:, 0] = every
    assets = pack({}, {"net": Net(linear)})
    found = page.evaluate(
        """async ([manifest, buffer]) => {
          const { nets } = await decoder.openAssets(manifest, bytes(buffer), null);
          return text(nets.net.one([1]));
        }""",
        [assets.manifest, encoded(assets.buffer)],
    )
    assert len(every) == 63488
    assert torch.equal(decoded(found), every.float())


@pytest.mark.browser
def test_arrays_arrive_exactly_from_any_kind_of_buffer(page: Page) -> None:
    arrays = {
        "points": torch.randn(3, 2),
        "classes": torch.tensor([3, 1, 2]),
        "seen": torch.tensor([True, False]),
    }
    assets = pack(arrays, {"net": Net(mlp(2, 3))})
    found = page.evaluate(
        """async ([manifest, buffer]) => {
          const whole = bytes(buffer), shifted = new Uint8Array(whole.length + 3);
          shifted.set(whole, 3);
          const found = [];
          for (const given of [whole, whole.buffer, new DataView(shifted.buffer, 3)]) {
            const { arrays } = await decoder.openAssets(manifest, given, null);
            new Uint8Array(given.buffer ?? given).fill(7); // the page has its own copy
            found.push(["points", "classes", "seen"].map((name) => arrays[name]).map(
              ({ data, shape }) => [data.constructor.name, [...data], shape]));
            whole.set(bytes(buffer));
          }
          return found;
        }""",
        [assets.manifest, encoded(assets.buffer)],
    )
    expected = [
        ["Float32Array", arrays["points"].flatten().tolist(), [3, 2]],
        ["Int32Array", [3, 1, 2], [3]],
        ["Uint8Array", [1, 0], [2]],
    ]
    assert found == [expected] * 3


@pytest.mark.browser
@pytest.mark.parametrize("wasm", [WASM, None], ids=["simd", "plain"])
def test_swap_replaces_weights_and_arrays(page: Page, wasm: bytes | None) -> None:
    z = latents(5, 3)
    nets = [Net(stack((3, 9, 4), nn.Mish(), seed)) for seed in range(2)]
    snapshots = [pack({"step": torch.tensor([i])}, {"net": net}) for i, net in enumerate(nets)]
    found = page.evaluate(
        """async ([[first, second], z, wasm]) => {
          const zs = floats(z), open = decoder.openAssets(first[0], bytes(first[1]), wasm && bytes(wasm));
          const assets = await open, net = assets.nets.net;
          const look = () => [text(net.many(zs, 5)), text(net.plainMany(zs, 5)), assets.arrays.step.data[0]];
          const before = look();
          assets.swap(second[0], bytes(second[1]));
          return { before, after: look(), simd: assets.simd, difference: assets.difference };
        }""",
        [
            [[each.manifest, encoded(each.buffer)] for each in snapshots],
            encoded(z),
            wasm and encoded(wasm),
        ],
    )
    assert found["simd"] is (wasm is not None)
    assert found["difference"] < NEAR
    for step, (net, when) in enumerate(zip(nets, ("before", "after"), strict=True)):
        many, plain, number = found[when]
        assert number == step
        for result in (many, plain):
            torch.testing.assert_close(
                decoded(result).view(5, 4), truth(net, z, "float16"), rtol=0, atol=NEAR
            )


@pytest.mark.browser
def test_swap_refuses_another_layout_and_keeps_what_was_open(page: Page) -> None:
    def snapshot(hidden: int = 6, points: int = 4, dtype: Any = "float16", **more: Net) -> Assets:
        net = Net(stack((2, hidden, 3), nn.Tanh()))
        return pack({"points": torch.zeros(points)}, {"net": net} | more, dtype)

    damaged = bytearray((right := snapshot()).buffer)
    struct.pack_into("<e", damaged, right.manifest["nets"]["net"]["layers"][1]["weight"], 50.0)
    others = [snapshot(hidden=7), snapshot(points=5), snapshot(more=Net(mlp(2, 3))),
              snapshot(dtype="float32"), Assets(right.manifest, bytes(damaged)),
              Assets(right.manifest, right.buffer[:-4])]  # fmt: skip
    found = page.evaluate(
        """async ([manifest, buffer, others, wasm]) => {
          const assets = await decoder.openAssets(manifest, bytes(buffer), bytes(wasm));
          const zs = Float32Array.of(1, 2, 3, 4), before = text(assets.nets.net.many(zs, 2)), errors = [];
          for (const [manifest, buffer] of others) {
            try { assets.swap(manifest, bytes(buffer)); } catch (error) { errors.push(error.message); }
          }
          const after = text(assets.nets.net.many(zs, 2));
          return { errors, same: before === after, simd: assets.simd, difference: assets.difference };
        }""",
        [right.manifest, encoded(right.buffer), [[o.manifest, encoded(o.buffer)] for o in others],
         encoded(WASM)],
    )  # fmt: skip
    expected = ['nets differ in "net"', 'arrays differ in "points"', 'nets differ in "more"',
                "stored otherwise", 'decoder "net" in plain JavaScript is off by', "bytes"]  # fmt: skip
    assert len(found["errors"]) == len(expected)
    for error, words in zip(found["errors"], expected, strict=True):
        assert words in error
    assert found["same"] and found["simd"]
    assert found["difference"] < NEAR


@pytest.mark.browser
def test_a_damaged_buffer_does_not_open(page: Page) -> None:
    assets = pack({}, {"net": Net(stack((3, 9, 4), nn.Mish()))})
    layers = assets.manifest["nets"]["net"]["layers"]
    for offset in (layers[0]["weight"] + 2 * 5, layers[1]["bias"] + 2 * 3):
        damaged = bytearray(assets.buffer)
        damaged[offset + 1] ^= 0b01000000  # the exponent's highest bit
        with pytest.raises(Error, match='decoder "net" in plain JavaScript is off by'):
            page.evaluate(
                COMPUTE, [assets.manifest, encoded(bytes(damaged)), encoded(WASM), {}, []]
            )
    assets = pack({}, {"net": Net(mlp(3, 4))}, "float32")
    damaged = bytearray(assets.buffer)
    struct.pack_into("<f", damaged, assets.manifest["nets"]["net"]["layers"][0]["bias"], math.nan)
    with pytest.raises(Error, match="is off by NaN from torch"):
        page.evaluate(COMPUTE, [assets.manifest, encoded(bytes(damaged)), encoded(WASM), {}, []])
    with pytest.raises(Error, match=r"the assets have \d+ bytes, their manifest says \d+"):
        page.evaluate(COMPUTE, [assets.manifest, encoded(assets.buffer[:-2]), None, {}, []])


@pytest.mark.browser
def test_results_are_views_that_the_next_call_of_that_method_overwrites(page: Page) -> None:
    assets = pack({}, {"net": Net(stack((2, 5, 3), nn.Mish()))})
    found = page.evaluate(
        """async ([manifest, buffer, wasm]) => {
          const { nets: { net } } = await decoder.openAssets(manifest, bytes(buffer), bytes(wasm));
          const zs = Float32Array.of(1, 2, 3, 4), one = net.one(zs.subarray(0, 2)), many = net.many(zs, 2);
          const kept = [...one, ...many];
          net.plainMany(Float32Array.of(9, 9, 9, 9), 2);
          const errors = [];
          for (const bad of [() => net.one(zs), () => net.many(zs, 3), () => net.plainMany(zs, 1)]) {
            try { bad(); } catch (error) { errors.push(error.message); }
          }
          const untouched = [...one, ...many].every((value, i) => value === kept[i]);
          const shared = net.one(zs.subarray(2)).buffer === one.buffer, shape = net.shape;
          return { untouched, shared, shape, none: net.many(new Float32Array(0), 0).length, errors };
        }""",
        [assets.manifest, encoded(assets.buffer), encoded(WASM)],
    )
    assert found["untouched"] and found["shared"]
    assert found["shape"] == [3] and found["none"] == 0
    assert found["errors"][0] == 'decoder "net" takes 1 x 2 numbers, got 4'
    assert len(found["errors"]) == 3


def test_names_of_the_script_are_its_own() -> None:
    """Scripts of the page are joined into one module: what stands at the top level must not clash."""
    lines = (PAGE / "decoder.js").read_text().splitlines()
    named = re.compile(r"(?:export )?(?:async )?(?:function|class|const|let|var) (\w+)")
    top = [match[1] for line in lines if (match := named.match(line))]
    assert len(top) > 10
    assert [name for name in top if not re.match("decoder|Decoder|DECODER", name)] == ["openAssets"]
    assert not [line for line in lines if line.startswith("import")]
    assert [line.split("(")[0] for line in lines if line.startswith("export")] == [
        "export async function openAssets"
    ]
