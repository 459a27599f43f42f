"""Settings of stage 4: methods, what each has to be told, and the search for weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from selma.config.section import Section, mistake
from selma.errors import ConfigError

_CUT: dict[str, Any] = {"rank": None, "max_error": None}
MERGE_SETTINGS: dict[str, dict[str, Any]] = {
    "mean_of_deltas": {},
    "mean_of_factors": {},
    "sum_of_deltas": _CUT,
    "svd": _CUT,
    "ties": {"density": 0.2, "normalize": True, **_CUT},  # the paper's top 20 %
    "ties_of_factors": {"density": 0.2},
    "dare": {"density": 0.5, "seed": 0, **_CUT},
    "dare_ties": {"density": 0.5, "seed": 0, "normalize": True, **_CUT},
    "magnitude_prune": {"density": 0.5, **_CUT},
    "knots": {"density": 0.2, "normalize": True, "consensus": "ties", **_CUT},
}
"""Method → the settings that it has, with their defaults; `merged.methods` says what each does."""
ROTATION_SETTINGS: dict[str, dict[str, Any]] = {
    "mean_of_skews": {"rescale": False},
    "mean_of_logs": {"rescale": False},
    "karcher_mean": {"rescale": False},
    "chordal_mean": {"rescale": False},
    "product": {},
    "mean_of_rotations": {},
    "ties_of_skews": {"density": 0.2, "normalize": True, "rescale": False},
    "dare_of_skews": {"density": 0.5, "seed": 0, "rescale": False},
}
"""The same for experts that are rotations; `merged.rotation_methods` says what each does."""
METHOD_SETTINGS = MERGE_SETTINGS | ROTATION_SETTINGS
WEIGHT_ONE = {
    "sum_of_deltas", "ties", "ties_of_factors", "dare_ties", "knots", "product",
    "ties_of_skews",
}  # fmt: skip
"""Methods whose weights are 1 unless given: they add up, or divide by the weights themselves."""
ORDERED = {"product"}
"""Methods to which the experts' order matters: that of the skills, or of the files."""


class WeightSearch(Section):
    """Weights and scale by score: on the dev split, by `scores.choosing_judge`."""

    trials: Annotated[int, Field(ge=2)] = 32
    """How many merges are drawn and judged in all; the first has uniform weights. More can be
    added later, and those that are done are kept."""
    spread: PositiveFloat = 0.5
    """Step of the first trials, in the logarithm of the weights and of the scale."""
    scale: tuple[PositiveFloat, PositiveFloat] | None = (0.5, 2.0)
    """Bounds of the global scale, 1 among them; None leaves it at 1."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _around_one(self) -> WeightSearch:
        if self.scale is not None and not self.scale[0] < 1 < self.scale[1]:
            raise ValueError(f"scale must be bounds with 1 between them, but is {self.scale}")
        return self


class MergedConfig(Section):
    """One method and what it may be told; a setting that the method has not is an error."""

    method: Literal[
        "mean_of_deltas",
        "mean_of_factors",
        "sum_of_deltas",
        "svd",
        "ties",
        "ties_of_factors",
        "dare",
        "dare_ties",
        "magnitude_prune",
        "knots",
        "mean_of_skews",
        "mean_of_logs",
        "karcher_mean",
        "chordal_mean",
        "product",
        "mean_of_rotations",
        "ties_of_skews",
        "dare_of_skews",
    ] = "mean_of_deltas"
    """Those from mean_of_skews on are for experts that are rotations (oft, coft)."""
    weights: dict[str, float] | None = None
    """Skill → weight; None is 1/T for each of T experts, or 1 for the methods in WEIGHT_ONE."""
    scale: float = 1.0
    """Of the whole result. mergekit (and TIES' paper) call it lambda, which is taken as well."""
    rank: PositiveInt | None = None
    """Cut each layer to this rank. None: svd takes the experts' largest, methods on whole deltas
    the sum of the experts' ranks, and the others need no cut."""
    max_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of a rank: the smallest in each layer that changes it by no more than this share."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of entries that is kept: the largest of the whole task vector (ties, knots,
    magnitude_prune), of each factor (ties_of_factors), or drawn by chance (dare, dare_ties)."""
    normalize: bool | None = None
    """Divide by the weights of the experts that agree, rather than add them up."""
    consensus: Literal["ties", "mean"] | None = None
    """How knots merges in the space that it aligns."""
    seed: NonNegativeInt | None = None
    """Of dare's chance."""
    search: WeightSearch | None = None
    """Find weights and scale by score instead of giving them; None is off."""
    rescale: bool | None = None
    """Of rotations: turn as far as the experts do on average, however much they disagree."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the method is told, its defaults included."""
        defaults = METHOD_SETTINGS[self.method]
        given = {name: getattr(self, name) for name in defaults}
        return {name: defaults[name] if v is None else v for name, v in given.items()}

    @model_validator(mode="before")
    @classmethod
    def _mergekits_lambda(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "lambda" not in values:
            return values
        if "scale" in values:
            raise ValueError("scale and lambda are two names of one setting; give one of them")
        return {"scale" if name == "lambda" else name: v for name, v in values.items()}

    @model_validator(mode="after")
    def _of_the_method(self) -> MergedConfig:
        mistakes = list(self._mistakes())
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        for name in sorted({name for has in METHOD_SETTINGS.values() for name in has}):
            if getattr(self, name) is not None and name not in METHOD_SETTINGS[self.method]:
                having = [method for method, has in METHOD_SETTINGS.items() if name in has]
                yield f"{self.method} has no {name}, but {', '.join(having)} have"
        if self.search is not None and (self.weights is not None or self.scale != 1):
            yield "search finds weights and scale; leave both out"
        if self.rank is not None and self.max_error is not None:
            yield "rank and max_error are two ways to say one thing; give one of them"
        if self.consensus == "mean" and (self.density, self.normalize) != (None, None):
            yield "density and normalize belong to consensus ties, but consensus is mean"


def merged_config(given: dict[str, Any]) -> MergedConfig:
    """The merge's settings by themselves. Raises ConfigError with every mistake."""
    try:
        return MergedConfig.model_validate(given)
    except ValidationError as error:
        lines = [mistake(dict(found)) for found in error.errors()]
        raise ConfigError("The merge cannot start:\n" + "\n".join(lines)) from error


def numbers(text: str) -> list[float]:
    """The finite numbers of "0.5,0.3,0.2". Raises ConfigError."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise ConfigError(f"Weights must be numbers with commas between them, but {text!r} came.")
    return found
