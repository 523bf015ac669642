"""The one record every data set yields and every model eats, and the two axes all systems share.

A `Batch` holds samples of several modalities, says which of them truly exist (`observed`), and
refuses to exist when it is wrong. The two axes of the whole lab live beside it: which modalities
are missing (`subsets`, `exact_rate`, `bernoulli`, `per_class`) and how noisy they are (`add_noise`).

Three words are kept apart everywhere in labkit:

* **observed** - the modality truly exists for this sample (a property of the data);
* **visible**  - a method may look at it (a mask of the method's own, always a part of observed);
* **target**   - a loss may be read from it (only ever where observed).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of several modalities, of which some may be missing.

    Args:
        x: Modality name -> values, shape (B, ...), floating point. The order of the names is the
            order of the columns of `observed`.
        observed: True where a modality exists. Shape (B, M), bool; None = everything exists.
        y: Labels, int64, or numbers, float32 or float64 and finite; None = unlabelled. Shape (B,); or
            (B, K) numbers, as of K labels that are 0 or 1 each; or (B, H, W) labels of pixels.
        factors: Ground truth of procedural data, name -> shape (B, ...).

    Raises:
        ValueError: if shapes, types or devices disagree, if a row has nothing observed, if an
            observed slot holds NaN, or if a number in `y` is not finite. What lies in a slot that is
            *not* observed is never looked at.
    """

    x: dict[str, Tensor]
    observed: Tensor = None  # type: ignore[assignment]  # None becomes all True below
    y: Tensor | None = None
    factors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_modalities(self.x)
        first = next(iter(self.x.values()))
        if cast("Tensor | None", self.observed) is None:
            everything = torch.ones(len(first), len(self.x), dtype=torch.bool, device=first.device)
            object.__setattr__(self, "observed", everything)
        _check_mask("observed", self.observed, len(first), self.modalities)
        labels = {} if self.y is None else {"y": self.y}
        for name, tensor in {"observed": self.observed, **labels, **self.factors}.items():
            if not isinstance(tensor, Tensor) or tensor.ndim < 1 or len(tensor) != len(first):
                raise ValueError(
                    f"{name} must be a tensor with {len(first)} rows, as x has; got {_say(tensor)}"
                )
            if tensor.device != first.device:
                raise ValueError(
                    f"{name} is on {tensor.device} but x is on {first.device}: use batch.to(device)"
                )
        if self.y is not None:
            _check_targets(self.y)
        for column, (name, values) in enumerate(self.x.items()):
            bad = values.isnan().flatten(1).any(1) & self.observed[:, column]
            if bad.any():
                row = int(bad.nonzero()[0])
                raise ValueError(
                    f"x[{name!r}] holds NaN in {int(bad.sum())} rows where it is observed "
                    f"(first: row {row}); mark them as missing in `observed`, or repair the data"
                )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the columns of `observed`."""
        return tuple(self.x)

    @property
    def device(self) -> torch.device:
        """Device that every tensor lies on."""
        return self.observed.device

    def __len__(self) -> int:
        return len(self.observed)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(values.shape[1:])}" for name, values in self.x.items())
        return f"Batch({len(self)} samples: {shapes}; on {self.device})"

    def __getitem__(self, index: slice | Tensor) -> Batch:
        """Rows chosen by a slice, an index tensor or a bool mask of shape (B,)."""
        if not isinstance(index, slice) and not (isinstance(index, Tensor) and index.ndim == 1):
            raise ValueError(
                f"index must be a slice or a one-dimensional tensor, got {_say(index)}"
            )
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def only(self, *names: str) -> Batch:
        """The batch with just these modalities, in the order given.

        Raises:
            ValueError: on an unknown name, or if a row would be left with nothing observed.
        """
        columns = [self.column(name) for name in names]
        return replace(
            self, x={name: self.x[name] for name in names}, observed=self.observed[:, columns]
        )

    def drop(self, *names: str) -> Batch:
        """The batch without these modalities (the opposite of `only`)."""
        for name in names:
            self.column(name)
        return self.only(*(name for name in self.x if name not in names))

    def with_observed(self, mask: Tensor) -> Batch:
        """The batch with fewer modalities observed: `mask` (B, M) bool, a part of `observed`.

        Raises:
            ValueError: if the mask has a wrong shape or type, empties a row, or claims a modality
                that does not exist.
        """
        _check_mask("mask", mask, len(self), self.modalities)
        if bool((mask & ~self.observed).any()):
            raise ValueError(
                "mask is True where the modality is not observed: it may only hide, never invent"
            )
        return replace(self, observed=mask)

    def aligned(self, shapes: Mapping[str, tuple[int, ...]]) -> Batch:
        """The batch as a model wants it: these modalities in this order, and nothing to stumble over.

        A modality that the batch lacks becomes one that is missing in every row, and whatever lies in
        a slot that is not observed (NaN, say) is replaced by zeros, so that it can reach no result.

        Args:
            shapes: Modality name -> shape of one sample.

        Raises:
            ValueError: on a modality that is not in `shapes`, or samples of another shape.
        """
        for name, values in self.x.items():
            if name not in shapes:
                raise ValueError(f"unknown modality {name!r}; this model knows {', '.join(shapes)}")
            if tuple(values.shape[1:]) != tuple(shapes[name]):
                raise ValueError(f"x[{name!r}] must have samples of shape {tuple(shapes[name])}, "
                                 f"got {tuple(values.shape[1:])}")  # fmt: skip
        some = next(iter(self.x.values()))
        x = {name: torch.where(self.rows(name), self.x[name], 0.0) if name in self.x
             else some.new_zeros(len(self), *shape) for name, shape in shapes.items()}  # fmt: skip
        absent = self.observed.new_zeros(len(self))
        observed = [
            self.observed[:, self.column(name)] if name in self.x else absent for name in shapes
        ]
        return self._with(x, torch.stack(observed, 1))

    def rows(self, name: str) -> Tensor:
        """Where a modality is observed, shaped to broadcast over its values: (B, 1, ...)."""
        return self.observed[:, self.column(name)].view(-1, *[1] * (self.x[name].ndim - 1))

    def column(self, name: str) -> int:
        """Column of a modality in `observed`.

        Raises:
            ValueError: on an unknown name; the message lists the known ones.
        """
        if name not in self.x:
            raise ValueError(
                f"unknown modality {name!r}; this batch has {', '.join(self.modalities)}"
            )
        return self.modalities.index(name)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `change` to every tensor."""
        y = None if self.y is None else change(self.y)
        factors = {name: change(values) for name, values in self.factors.items()}
        return self._with(
            {name: change(values) for name, values in self.x.items()},
            change(self.observed),
            y,
            factors,
        )

    def _with(self, x: dict[str, Tensor], observed: Tensor, *rest: Any) -> Batch:
        """A batch made of parts of this one.

        What came from a valid batch is valid: nothing is checked again, which keeps slicing free of
        the device syncs that the checks cost.
        """
        y, factors = rest or (self.y, self.factors)
        result = object.__new__(Batch)
        for name, value in {"x": x, "observed": observed, "y": y, "factors": factors}.items():
            object.__setattr__(result, name, value)
        return result


# Missing patterns -------------------------------------------------------------------------------


def subsets(modalities: int) -> Tensor:
    """All non-empty subsets of `modalities` modalities: singles first, everything last.

    Returns:
        Bool mask, shape (2^M - 1, M), True = in the subset.

    Raises:
        ValueError: unless 1 <= modalities <= 16 (65,535 subsets).
    """
    if not 1 <= modalities <= 16:
        raise ValueError(f"modalities must be between 1 and 16, got {modalities}")
    sizes = range(1, modalities + 1)
    chosen = [subset for size in sizes for subset in combinations(range(modalities), size)]
    return torch.tensor([[i in subset for i in range(modalities)] for subset in chosen])


def subset_name(subset: Sequence[bool] | Tensor, modalities: Sequence[str]) -> str:
    """Readable name of one subset: `farsi+speech`."""
    return (
        "+".join(name for name, here in zip(modalities, subset, strict=True) if here) or "nothing"
    )


def exact_rate(n: int, modalities: int, rate: float, generator: torch.Generator) -> Tensor:
    """Hide exactly round(rate * n * M) of the n x M slots, keeping at least one in every row.

    One slot a row, drawn uniformly, is never hidden; the hidden ones are drawn without replacement
    from the rest. The missing rate is the share of hidden slots, MR = 1 - kept / (n M) (DiCMoR,
    ICCV 2023, section 4.1); it can therefore not exceed (M - 1) / M.

    Returns:
        Observed mask, shape (n, M), bool, on the generator's device.

    Raises:
        ValueError: if `rate` is not in [0, (M - 1) / M].
    """
    highest = (modalities - 1) / modalities
    if not 0 <= rate <= highest + 1e-9:
        raise ValueError(
            f"rate must lie in [0, {highest:.4g}] so that each row keeps a modality, got {rate}"
        )
    device = generator.device
    kept = torch.randint(modalities, (n, 1), generator=generator, device=device)
    order = torch.rand(n, modalities, generator=generator, device=device).scatter_(1, kept, 2.0)
    hidden = order.flatten().argsort()[: round(rate * n * modalities)]  # kept slots (2.0) sort last
    observed = torch.ones(n * modalities, dtype=torch.bool, device=device)
    observed[hidden] = False
    return observed.view(n, modalities)


def bernoulli(
    n: int, modalities: int, missing: float | Sequence[float], generator: torch.Generator
) -> Tensor:
    """Each modality is missing independently with its probability, given that one at least is kept.

    The condition is exact: a row's pattern is drawn from the 2^M - 1 non-empty patterns with their
    conditional probabilities (not by giving one back to empty rows, which would bias the rates).

    Args:
        n: Rows.
        modalities: Number of modalities M.
        missing: Probability of being missing, one number or one a modality.
        generator: Draws the patterns.

    Returns:
        Observed mask, shape (n, M), bool.

    Raises:
        ValueError: if a probability lies outside [0, 1], or all of them are 1.
    """
    p = torch.as_tensor(missing, dtype=torch.float64).expand(modalities)
    return draw_patterns(p.expand(n, modalities), generator)


def per_class(y: Tensor, missing: Tensor, generator: torch.Generator) -> Tensor:
    """Missing not at random: the probability of being missing depends on the class.

    Args:
        y: Class labels, shape (B,), int64.
        missing: Probability of being missing, shape (classes, M).
        generator: Draws the patterns.

    Returns:
        Observed mask, shape (B, M), bool; each row keeps at least one, as in `bernoulli`.

    Raises:
        ValueError: if a label has no row in `missing`, or a probability is not allowed.
    """
    missing = torch.as_tensor(missing, dtype=torch.float64)
    if missing.ndim != 2:
        raise ValueError(
            f"missing must have shape (classes, modalities), got {tuple(missing.shape)}"
        )
    if len(y) and (int(y.min()) < 0 or int(y.max()) >= len(missing)):
        raise ValueError(
            f"y must lie in 0..{len(missing) - 1}, the rows of missing; got {int(y.min())}..{int(y.max())}"
        )
    return draw_patterns(missing.to(y.device)[y], generator)


def draw_patterns(missing: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a non-empty pattern for each row of probabilities of being missing (n, M) -> observed (n, M).

    The workhorse of `bernoulli` and `per_class`; 0.5 everywhere draws uniformly from all subsets.
    """
    if bool(((missing < 0) | (missing > 1) | missing.isnan()).any()):
        raise ValueError(
            f"missing must hold probabilities in [0, 1], got {missing.min():.4g}..{missing.max():.4g}"
        )
    missing = missing.to(generator.device)
    patterns = subsets(missing.shape[1]).to(generator.device)  # (S, M)
    chance = torch.where(patterns, 1 - missing[:, None, :], missing[:, None, :]).prod(-1)  # (n, S)
    if bool((chance.sum(1) <= 0).any()):
        raise ValueError("missing is 1 for every modality of some row: nothing could ever be kept")
    drawn = (
        torch.multinomial(chance, 1, generator=generator)[:, 0]
        if len(chance)
        else torch.zeros(0, dtype=torch.int64)
    )
    return patterns[drawn]


# Noise ------------------------------------------------------------------------------------------


def add_noise(
    batch: Batch, level: float | Mapping[str, float], generator: torch.Generator
) -> Batch:
    """Add Gaussian noise whose standard deviation is `level` x mean|x| of the modality.

    The scale is measured over the observed samples of this batch, as DynMM's noise test does
    (CVPR-W 2023, eval.py); level 0 returns the values unchanged. Every modality draws its own
    noise whatever the other levels are, so that switching one on does not change another.

    Args:
        batch: Samples.
        generator: Draws the noise.
        level: Relative noise level, one number for all modalities or modality name -> level
            (a modality not named keeps its values).

    Raises:
        ValueError: on a negative level or an unknown modality.
    """
    levels = dict(level) if isinstance(level, Mapping) else dict.fromkeys(batch.modalities, level)
    for name, value in levels.items():
        batch.column(name)
        if not value >= 0:
            raise ValueError(f"level of {name!r} must be >= 0, got {value}")
    noisy = {}
    for name, values in batch.x.items():
        noise = torch.randn(
            values.shape, dtype=values.dtype, device=batch.device, generator=generator
        )
        here = batch.rows(name)
        size = torch.where(here, values, 0).abs().sum() / (
            here.sum() * values.shape[1:].numel()
        ).clamp(min=1)
        noisy[name] = values + levels.get(name, 0.0) * size * noise if levels.get(name) else values
    return replace(batch, x=noisy)


# Checks -----------------------------------------------------------------------------------------


def _check_modalities(x: Any) -> None:
    if not isinstance(x, dict) or not x:
        raise ValueError(f"x must be a non-empty dict of modality name -> tensor, got {_say(x)}")
    rows = {}
    for name, values in x.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"modality names must be non-empty strings, got {name!r}")
        if not isinstance(values, Tensor) or values.ndim < 2 or not values.is_floating_point():
            raise ValueError(
                f"x[{name!r}] must be a floating-point tensor of shape (B, ...), got {_say(values)}"
            )
        rows[name] = len(values)
    if len(set(rows.values())) > 1:
        raise ValueError(f"all modalities must have the same number of rows, got {rows}")
    if len({values.device for values in x.values()}) > 1:
        raise ValueError(
            f"all modalities must be on one device, got { {n: str(v.device) for n, v in x.items()} }"
        )


def _check_targets(y: Tensor) -> None:
    """Class labels, one a sample or a pixel, or finite numbers, one a sample or several."""
    shapes = {torch.int64: (1, 3), torch.float32: (1, 2), torch.float64: (1, 2)}
    if y.ndim not in shapes.get(y.dtype, ()):
        raise ValueError(
            "y must be int64 class labels of shape (B,) or (B, H, W), or float32 or float64 numbers of "
            f"shape (B,) or (B, K); got {_say(y)}"
        )
    if y.is_floating_point() and bool((bad := ~y.isfinite().view(len(y), -1).all(1)).any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"y must hold finite numbers; {int(bad.sum())} rows do not (first: row {row}, {y[row].tolist()})"
        )


def _check_mask(argument: str, mask: Any, rows: int, modalities: Sequence[str]) -> None:
    """A mask over samples and modalities: bool, of the right shape, no row empty."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(f"{argument} must be a bool tensor (True = present), got {_say(mask)}")
    if mask.shape != (rows, len(modalities)):
        raise ValueError(
            f"{argument} must have shape ({rows}, {len(modalities)}), a column each for "
            f"{', '.join(modalities)}; got {tuple(mask.shape)}"
        )
    empty = ~mask.any(1)
    if bool(empty.any()):
        raise ValueError(
            f"{argument} leaves {int(empty.sum())} rows with nothing observed "
            f"(first: row {int(empty.nonzero()[0])}); every row needs at least one modality"
        )


def _say(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]
