"""Networks for the page: arrays and stacks of linear layers in one buffer, which page/decoder.js runs.

A slider that asks the kernel for every picture waits for the network, the server and the browser's
message queue; a small decoder costs less to run where the picture is drawn. `pack` writes such nets as
a JSON manifest and one buffer, together with what torch makes of eight fixed latents, so that a page
compares itself with torch before it shows anything.

Weights travel as float16 (half the bytes; `float32` where that is too coarse). The stored outputs are
those of the *rounded* weights in float32 arithmetic: the page's check judges its arithmetic alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from labkit import LabkitError
from labkit.models.layers import Mish

ALIGNMENT = 16  # bytes; typed arrays in the page need 4 at least
LATENTS = 8  # latents of the page's check
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Mish: "mish",
    Mish: "mish",
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
}
_NOTHING = (nn.Identity, nn.Dropout)  # in evaluation
_OUTPUTS = {"sigmoid": torch.sigmoid, "softmax": lambda x: x.softmax(-1), "identity": lambda x: x}


@dataclass(frozen=True)
class Net:
    """A network for the page.

    Args:
        module: Stack (`nn.Sequential`, nested if you like) of `nn.Linear` and activations: Mish, ReLU,
            LeakyReLU, Tanh, Sigmoid, SiLU, GELU; Identity and Dropout do nothing there.
        output: What follows the last layer: ``sigmoid`` (pixels of Bernoulli logits), ``softmax`` over
            all outputs (class probabilities) or ``identity``.
        shape: Shape of one output, such as (28, 28); None = (outputs,).
    """

    module: nn.Module
    output: Literal["sigmoid", "identity", "softmax"] = "identity"
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Assets:
    """What a page needs: named arrays and nets in one buffer.

    Attributes:
        manifest: JSON-serialisable. ``arrays``: name -> dtype, shape, offset. ``nets``: name -> inputs,
            outputs, shape, output and layers, each with its sizes ``in`` and ``out``, the offsets of its
            weight (in, out) and bias (or null), and its activation. ``weights``: their dtype. ``check``:
            arrays with the latents z (8, largest inputs; a net takes its first columns) and each net's
            outputs for them. ``bytes``: the buffer's length. Offsets are in bytes, multiples of 16.
            Nothing in it depends on a value: the same names and layers give the same manifest.
        buffer: The numbers, little-endian.
    """

    manifest: dict[str, Any]
    buffer: bytes


def pack(
    arrays: Mapping[str, Tensor | np.ndarray],
    nets: Mapping[str, Net] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> Assets:
    """Write arrays and nets for page/decoder.js.

    Packing again after some training gives the same manifest with other numbers, a snapshot that the
    page swaps in at once. The nets are copied first, so training may go on meanwhile in another thread
    (hold a lock if a snapshot must lie between two steps).

    Args:
        arrays: Stored as float32 (any float), uint8 (bool and uint8) or int32 (other integers). No
            name may start with ``check/``.
        nets: Networks to run in the page.
        dtype: How weights are stored.

    Returns:
        Manifest and buffer.

    Raises:
        LabkitError: if a net is no stack of known layers, or has weights that are not finite or do not
            fit `dtype`; the message names the net and the layer.
        ValueError: if an array's type or values cannot be stored, or an argument is not allowed.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be 'float16' or 'float32', got {dtype!r}")
    buffer = _Buffer()
    stored = {}
    for name, array in arrays.items():
        if name.startswith("check/"):
            raise ValueError(f"array {name!r}: names that start with 'check/' are the page's own")
        stored[name] = buffer.array(_array(name, array))
    packed = {name: _Packed(name, net, dtype) for name, net in (nets or {}).items()}
    described = {name: net.describe(buffer) for name, net in packed.items()}
    z = _latents(max([net.inputs for net in packed.values()], default=1))
    stored["check/z"] = buffer.array(z.numpy())
    for name, net in packed.items():
        stored[f"check/{name}"] = buffer.array(net.outputs_for(z))
    manifest = {
        "bytes": len(buffer.data),
        "weights": dtype,
        "arrays": stored,
        "nets": described,
        "check": {"z": "check/z", "nets": {name: f"check/{name}" for name in packed}},
    }
    return Assets(manifest, bytes(buffer.data))


@dataclass
class _Buffer:
    data: bytearray = field(default_factory=bytearray)

    def put(self, values: np.ndarray) -> int:
        """Append values; returns their offset in bytes."""
        self.data += bytes(-len(self.data) % ALIGNMENT)
        offset = len(self.data)
        self.data += np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        return offset

    def array(self, values: np.ndarray) -> dict[str, Any]:
        offset = self.put(values)
        return {"dtype": values.dtype.name, "shape": list(values.shape), "offset": offset}


@dataclass(frozen=True)
class _Layer:
    path: str
    linear: nn.Linear
    activation: nn.Module | None


class _Packed:
    """A private copy of a net with its weights rounded, and its layers in order."""

    def __init__(self, name: str, net: Net, dtype: str) -> None:
        if net.output not in _OUTPUTS:
            allowed = ", ".join(_OUTPUTS)
            raise ValueError(f"net {name!r}: output must be one of {allowed}; got {net.output!r}")
        self.net = net
        self.dtype = dtype
        self.module = copy.deepcopy(net.module).cpu().float().eval().requires_grad_(False)
        self.layers = _layers(name, self.module)
        self.inputs = self.layers[0].linear.in_features
        self.outputs = self.layers[-1].linear.out_features
        self.shape = (self.outputs,) if net.shape is None else tuple(net.shape)
        if math.prod(self.shape) != self.outputs:
            raise ValueError(
                f"net {name!r}: shape {self.shape} does not hold its {self.outputs} outputs"
            )
        for layer in self.layers:
            for parameter in layer.linear.parameters():
                _round(name, layer.path, parameter, dtype)

    def describe(self, buffer: _Buffer) -> dict[str, Any]:
        """Store the weights; returns the manifest's entry."""
        layers = []
        for layer in self.layers:
            weight, bias = layer.linear.weight, layer.linear.bias
            entry = {"in": layer.linear.in_features, "out": layer.linear.out_features}
            entry["weight"] = buffer.put(weight.T.numpy().astype(self.dtype))
            entry["bias"] = None if bias is None else buffer.put(bias.numpy().astype(self.dtype))
            layers.append(entry | _activation(layer.activation))
        sizes = {"inputs": self.inputs, "outputs": self.outputs, "shape": list(self.shape)}
        return sizes | {"output": self.net.output, "layers": layers}

    def outputs_for(self, z: Tensor) -> np.ndarray:
        """What torch makes of latents, with the rounded weights: (n, D or more) -> (n, outputs)."""
        return _OUTPUTS[self.net.output](self.module(z[:, : self.inputs])).numpy()


def _layers(name: str, module: nn.Module) -> list[_Layer]:
    """The stack as linear layers, each with the activation after it, or an error that says why not."""
    layers: list[_Layer] = []
    for path, part in _leaves(module):
        if type(part) is nn.Linear and not _hooked(part):
            if layers and layers[-1].linear.out_features != part.in_features:
                got = layers[-1].linear.out_features
                _refuse(name, path, part, f"takes {part.in_features} numbers and is given {got}")
            layers.append(_Layer(path, part, None))
        elif type(part) in _ACTIVATIONS and not _hooked(part):
            if not layers or layers[-1].activation is not None:
                _refuse(name, path, part, "does not come right after a Linear")
            layers[-1] = _Layer(layers[-1].path, layers[-1].linear, part)
        elif type(part) not in _NOTHING or _hooked(part):
            _refuse(name, path, part, "has hooks" if _hooked(part) else "is of no kind it knows")
    if not layers:
        _refuse(name, "", module, "has no Linear in it")
    return layers


def _leaves(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    # Not named_modules, which lists a module that stands at two places only once.
    if type(module).forward is nn.Sequential.forward and not _hooked(module):
        for key, part in module._modules.items():
            if part is not None:
                yield from _leaves(part, f"{path}.{key}" if path else key)
    else:
        yield path, module


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks or module._forward_hooks)


def _refuse(name: str, path: str, part: nn.Module, why: str) -> None:
    allowed = ", ".join(sorted({kind.__name__ for kind in _ACTIVATIONS}))
    nothing = " and ".join(kind.__name__ for kind in _NOTHING)
    raise LabkitError(
        f"net {name!r} cannot run in the page: layer {path or 'itself'} ({type(part).__name__}) {why}. "
        f"The page runs nn.Sequential stacks of Linear, each with at most one activation after it "
        f"({allowed}), and skips {nothing}; let the kernel compute other networks"
    )


def _activation(module: nn.Module | None) -> dict[str, Any]:
    if module is None:
        return {"activation": "none"}
    name = _ACTIVATIONS[type(module)]
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        name = "gelu_tanh"
    slope = {"slope": float(module.negative_slope)} if isinstance(module, nn.LeakyReLU) else {}
    return {"activation": name} | slope


def _round(name: str, path: str, parameter: Tensor, dtype: str) -> None:
    """Round a parameter in place to what is stored."""
    if not bool(parameter.isfinite().all()):
        raise LabkitError(f"net {name!r}, layer {path or 'itself'}: weights are not all finite")
    rounded = parameter.to(getattr(torch, dtype)).float()
    if not bool(rounded.isfinite().all()):
        largest = float(parameter.abs().max())
        raise LabkitError(
            f"net {name!r}, layer {path or 'itself'}: a weight of size {largest:.4g} does not fit "
            f'float16 (at most 65504); pack with dtype="float32"'
        )
    parameter.copy_(rounded)


def _array(name: str, array: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    values = np.asarray(array)
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            stored = values.astype(np.float32)
        exact = np.array_equal(np.isfinite(stored), np.isfinite(values))
    elif values.dtype.kind in "biu":
        stored = values.astype(np.uint8 if values.dtype in (bool, np.uint8) else np.int32)
        exact = np.array_equal(stored, values)
    else:
        raise ValueError(
            f"array {name!r} must hold floats, integers or booleans, got {values.dtype}"
        )
    if not exact:
        raise ValueError(f"array {name!r} holds numbers beyond the range of {stored.dtype}")
    return stored


def _latents(width: int) -> Tensor:
    """Latents of the check (LATENTS, width): the origin, a prior draw each, and one far out."""
    z = torch.randn(LATENTS, width, generator=torch.Generator().manual_seed(0))
    z[0] = 0
    z[-1] *= 3
    return z
