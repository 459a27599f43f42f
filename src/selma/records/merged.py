"""Stage 4 leaves one adapter."""

from __future__ import annotations

from pathlib import Path

from selma.records.record import Record

UNIFORM = "uniform"
"""The merge with uniform weights, where others were searched."""
TRIAL = "trial"
"""A merge that was only tried."""
MIXTURE_METHOD = "mixture"
"""The method of a `Merged` that is a mixture of the experts, trained and not merged."""
MIXTURE = "_mixture"
"""Its training among the experts."""


class Merged(Record):
    """All experts as one adapter; `folder` holds the same file as an expert's."""

    folder: Path
    key: str
    method: str
    weights: dict[str, float]
    """Skill → weight; of a mixture its mean share."""
    scale: float = 1.0
    """Factor of the merged adapter, if it was searched together with the weights."""
    uniform: Merged | None = None
    """The same merge with uniform weights, if searched weights scored better on dev prompts."""
