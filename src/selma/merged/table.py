"""All methods of merging in one table: of changes that are added, and of rotations."""

from __future__ import annotations

from selma.merged.methods import METHODS, Method
from selma.merged.rotation_methods import TURNING_METHODS, TurningMethod

ALL_METHODS: dict[str, Method | TurningMethod] = {**METHODS, **TURNING_METHODS}
"""By `merged.method`."""
