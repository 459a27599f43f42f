"""What merge methods may be told: small sections, of which each row of `methods.METHODS` has one.

A section that inherits from Cut, Trimmed or Rescaled leaves that part of the work to the driver;
all other settings go to the method's function, by name.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from selma.config.section import Section, Seed

Density = Annotated[float, Field(gt=0, le=1)]


class MethodSettings(Section):
    """What one method may be told; fields' docstrings are the help of `selma merge`'s options."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Cut(MethodSettings):
    """The layer's result is cut to a rank, or within an error."""

    rank: PositiveInt | None = None
    """Cut each layer to this rank. None: svd takes the experts' largest, methods on whole deltas
    the sum of the experts' ranks, and the others need no cut."""
    max_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of a rank: the smallest in each layer that changes it by no more than this share."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Cut:
        if self.rank is not None and self.max_error is not None:
            raise ValueError("rank and max_error are two ways to say one thing; give one of them")
        return self


class Trimmed(MethodSettings):
    """Each part carries the magnitude that its entries must reach (`least`)."""

    density: Density = 0.2  # TIES' paper keeps the top 20 %
    """Share of entries kept: the largest of the expert's whole task vector."""

    @property
    def share_kept(self) -> float:
        """The density, or 1 where nothing is trimmed."""
        return self.density


class Rescaled(MethodSettings):
    """The rotation may be scaled after the merge."""

    rescale: bool = False
    """Rotate as far as the experts do on average, however much they disagree."""


class Ties(Trimmed, Cut):
    normalize: bool = True
    """Divide by the weights of the experts that agree, rather than add them up."""


class TiesOfFactors(MethodSettings):
    density: Density = 0.2
    """Share of entries kept: the largest of each factor."""


class Dare(Cut):
    density: Density = 0.5
    """Share of entries kept, drawn by chance."""
    seed: Seed = 0
    """Seed of what chance keeps."""


class DareTies(Dare):
    normalize: bool = True
    """Divide by the weights of the experts that agree, rather than add them up."""


class Prune(Trimmed, Cut):
    density: Density = 0.5


class Knots(Ties):
    consensus: Literal["ties", "mean"] = "ties"
    """How the experts are merged in the space that they are aligned in."""

    @property
    def share_kept(self) -> float:
        return 1.0 if self.consensus == "mean" else self.density

    @model_validator(mode="after")
    def _of_ties(self) -> Knots:
        if self.consensus == "mean" and self.model_fields_set & {"density", "normalize"}:
            raise ValueError(
                "density and normalize belong to consensus ties, but consensus is mean"
            )
        return self


class TiesOfSkews(Trimmed, Rescaled):
    normalize: bool = True
    """Divide by the weights of the experts that agree, rather than add them up."""


class DareOfSkews(Rescaled):
    density: Density = 0.5
    """Share of entries kept, drawn by chance."""
    seed: Seed = 0
    """Seed of what chance keeps."""
