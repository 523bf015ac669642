"""labkit: what does a multimodal model know when a modality is missing, noisy, costly or unequal?

Importing this package is cheap on purpose: torch, matplotlib and pandas are loaded by the modules
that use them, so that a command line answers at once.
"""

from __future__ import annotations

__version__ = "0.1.0"


class LabkitError(Exception):
    """An error a user can act on: its message says what was wrong and what to do next."""
