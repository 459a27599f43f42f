"""How models are guided when they are compared, and which guidance is a model's best. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """How a model is guided when it generates."""

    guidance: float
    rescaled: bool = False

    @classmethod
    def of(cls, guidance: float, *, rescaled: bool = False) -> Setting:
        """Less guidance than 1 is none, and without any there is nothing to rescale."""
        return cls(max(guidance, 1.0), rescaled and guidance > 1)

    def __str__(self) -> str:
        return f"{self.guidance:g}" + (" rescaled" if self.rescaled else "")


Curve = Mapping[Setting, float]
"""A model's score on dev, 0-100, by how it is guided."""


def offered(curve: Curve, which: str) -> Curve:
    """The part of the curve that is "plain", "rescaled" or "either"; no guidance is all of them."""
    return {
        setting: score
        for setting, score in curve.items()
        if which == "either" or setting.guidance == 1 or setting.rescaled == (which == "rescaled")
    }


def best(curve: Curve) -> Setting:
    """The setting with the highest score; of equal ones a plain one, and the lowest guidance."""
    return min(curve, key=lambda setting: (-curve[setting], setting.rescaled, setting.guidance))
