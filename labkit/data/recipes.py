"""What all recipes of data have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labkit.data.actions import SUBJECTS, Actions


def seeded(data: Any, seed: int) -> Any:
    """A recipe with this seed; of UTD-MHAD, another subject is held out from training.

    Args:
        data: Recipe with a `seed`, or with `actions` that have one.
        seed: Replaces it.
    """
    if hasattr(data, "actions"):
        return replace(data, actions=seeded(data.actions, seed))
    if isinstance(data, Actions) and data.source == "real":
        return replace(data, seed=seed, held_out=SUBJECTS[seed % len(SUBJECTS)])
    return replace(data, seed=seed)
