"""What is trained for notebook 02: notebook 01's poster model, found again, and a two-latent map."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from labkit.data.digits import Digits
from labkit.missing import plan as missing
from labkit.models import mvae


@dataclass(frozen=True)
class Plan(missing.Plan):
    """Sizes of one preset and source; `missing.plan.train` trains it.

    Args:
        pushed: Held-out samples that are pushed along every direction.
        known: Held-out samples whose factors are compared with the latents (procedural data).
        rotations: Randomly rotated copies of the latents, the control of the scores.
    """

    pushed: int
    known: int
    rotations: int

    def recipe(self, kind: str, seed: int) -> Digits:
        """Data of one seed: those of notebook 01's "poster", for the map too."""
        return super().recipe("poster", seed)

    def config(self, kind: str) -> mvae.MVAEConfig:
        """The "poster" model of notebook 01; for "map" the teaching model with two latents."""
        poster = super().config("poster")
        if kind == "poster":
            return poster
        if kind != "map":
            raise ValueError(f"unknown kind {kind!r}; this plan knows poster, map")
        changes = {name: getattr(poster, name) for name in ("objective", "kl_weight", "kl_steps")}
        return mvae.preset("teaching2", **changes)

    def state(self) -> dict[str, int | float | str]:
        """The sizes as the ledger keeps them beside the numbers."""
        said = {k: v for k, v in super().state().items() if not k.startswith("importance")}
        own = {name: getattr(self, name) for name in ("pushed", "known", "rotations")}
        return said | own


def sizes(preset: str, source: Literal["procedural", "real"] = "procedural") -> Plan:
    """Sizes of a preset, smoke, quick, full or paper: those of notebook 01, so that its runs are found.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    base = missing.sizes(preset, source)
    pushed, known, rotations = {"smoke": (50, 1000, 2), "quick": (100, 2000, 3)}.get(
        preset, (200, 4000, 5)
    )
    shared = {field.name: getattr(base, field.name) for field in fields(base)}
    made = Plan(**shared, pushed=pushed, known=known, rotations=rotations)
    return replace(made, kinds=("poster", "map"))
