"""How models are guided when they are compared, and which guidance is a model's best. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """How a model is guided when it generates."""

    guidance: float

    @classmethod
    def of(cls, guidance: float) -> Setting:
        """Less guidance than 1 is none."""
        return cls(max(guidance, 1.0))

    def __str__(self) -> str:
        return f"{self.guidance:g}"


Curve = Mapping[Setting, float]
"""A model's score on dev, 0-100, by how it is guided."""


def best(curve: Curve) -> Setting:
    """The setting with the highest score; of equal ones the lowest guidance."""
    return min(curve, key=lambda setting: (-curve[setting], setting.guidance))
