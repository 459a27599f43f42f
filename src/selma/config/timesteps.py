"""How a training draws the timesteps that it learns from."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from selma.config.section import Section


class TimestepsConfig(Section):
    """The share u in (0, 1) of a noise schedule that a sample is trained at; 1 is noise alone
    (arXiv:2403.03206, section 3.1, where it is t)."""

    kind: Literal["uniform", "logit_normal", "mode"] = "uniform"
    mean: float = 0.0
    """Of logit_normal, u = sigmoid(N(mean, std²)): above 0 for more noise. Diffusers' scripts count
    from the other end, so that their mean has the other sign."""
    std: PositiveFloat = 1.0
    scale: float = 1.29
    """Of mode, u = 1 - v - scale (cos²(πv/2) - 1 + v) with v uniform."""
    shift: PositiveFloat = 1.0
    """u' = shift u / (1 + (shift - 1) u), for images larger than those that a base began with. A
    shift that the base's own schedule has is in its times already."""

    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    """How much a sample's loss counts, on straight lines to noise alone: σ⁻², or
    2 / (π (1 - 2σ + 2σ²)) (arXiv:2403.03206, section 3.1)."""

    @property
    def plain(self) -> bool:
        """Whether every timestep is as likely as any other."""
        return self.kind == "uniform" and self.shift == 1


UNIFORM = TimestepsConfig()
