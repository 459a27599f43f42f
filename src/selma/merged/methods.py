"""The table of merge methods: how experts become one adapter. One row each, whatever it merges.

A method is a function of one layer: `(parts, **settings) → result`. `delta_methods` and
`rotation_methods` say what parts and results are. Another package adds a row by an entry point:

    [project.entry-points."selma.merge_methods"]
    mine = "my_package:METHOD"

This module loads no tensors: settings are checked before anything else is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from selma.config.merged import MergedConfig
from selma.config.section import Section
from selma.merged.settings import (
    Cut,
    Dare,
    DareOfSkews,
    DareTies,
    Knots,
    MethodSettings,
    Prune,
    Rescaled,
    Ties,
    TiesOfFactors,
    TiesOfSkews,
    Trimmed,
)
from selma.registry import Table

Space = Literal["deltas", "factors", "rotations"]
"""What a method merges: deltas of weights, their factors one by one (whose ranks must be equal), or
rotations."""

WeightRule = Literal["mean", "sum", "vote"]
"""What weights mean, and so what they are unless given. mean: shares of a mean, 1/T of T experts.
sum: experts add up, 1. vote: 1, the method divides by the weights of the experts that agree."""


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    function: Callable[..., Any] | str
    """(parts of one layer, **settings) → the layer's result. Or where the function is,
    "module:name", so that the table loads no tensors."""
    source: str
    """The paper or the program that it is from."""
    accepts: Space = "deltas"
    settings: type[Section] = MethodSettings
    """With their defaults; the class itself has none. They stand beside `merged.method`."""
    weights: WeightRule = "mean"
    ordered: bool = False
    """Whether the experts' order matters: then they are taken as they are handed in."""
    aligned: bool = False
    """Whether a Trimmed method's density counts entries in the basis that all experts share."""
    default_rank: Callable[[Iterable[int]], int] | None = None
    """A Cut method's rank where none is given, of the experts' ranks in the layer; None leaves
    factors whole, and cuts whole deltas to the sum."""
    orthogonal: bool = True
    """Of rotations: whether the function returns S; else it returns M itself, no rotation."""

    def __post_init__(self) -> None:
        clash = self.settings.model_fields.keys() & MergedConfig.model_fields.keys()
        if clash:
            raise ValueError(f"{self.name}: {sorted(clash)} are settings that every merge has")

    @property
    def rotates(self) -> bool:
        """Whether it merges rotations."""
        return self.accepts == "rotations"

    def default_weight(self, experts: int) -> float:
        """An expert's weight unless it is given."""
        return 1 / experts if self.weights == "mean" else 1.0

    def apply(self, parts: Sequence[Any], settings: Section) -> Any:
        """The function's result for one layer. What the driver does itself is not passed on."""
        driven = {
            name
            for section in (Cut, Trimmed, Rescaled)
            if isinstance(settings, section)
            for name in section.model_fields
        }
        options = {name: value for name, value in settings if name not in driven}
        function = self.function
        call: Callable[..., Any] = resolve_name(function) if isinstance(function, str) else function
        return call(parts, **options)


METHODS: Table[Method] = Table(
    "merge method",
    "selma.merge_methods",
    (
        Method(
            "mean_of_deltas",
            "selma.merged.delta_methods:weighted_deltas",
            "arXiv:2403.06952, its released code (set_adapters), with weights of sum 1",
        ),
        Method(
            "mean_of_factors",
            "selma.merged.delta_methods:weighted_factors",
            "arXiv:2403.06952, section 3.4 as written: A and B are averaged",
            accepts="factors",
        ),
        Method(
            "sum_of_deltas",
            "selma.merged.delta_methods:weighted_deltas",
            "task arithmetic, arXiv:2212.04089",
            settings=Cut,
            weights="sum",
        ),
        Method(
            "svd",
            "selma.merged.delta_methods:weighted_deltas",
            "the mean of the deltas, cut by Eckart and Young's theorem; the rank as PEFT has it",
            settings=Cut,
            default_rank=max,
        ),
        Method(
            "ties",
            "selma.merged.delta_methods:ties_of_deltas",
            "arXiv:2306.01708, on deltas",
            settings=Ties,
            weights="vote",
        ),
        Method(
            "ties_of_factors",
            "selma.merged.delta_methods:ties_of_factors",
            "PEFT's add_weighted_adapter, combination_type='ties'",
            accepts="factors",
            settings=TiesOfFactors,
            weights="vote",
        ),
        Method(
            "dare",
            "selma.merged.delta_methods:dare",
            "arXiv:2311.03099, then the mean",
            settings=Dare,
        ),
        Method(
            "dare_ties",
            "selma.merged.delta_methods:dare_ties",
            "arXiv:2311.03099 in place of TIES' trimming",
            settings=DareTies,
            weights="vote",
        ),
        Method(
            "magnitude_prune",
            "selma.merged.delta_methods:magnitude_prune",
            "TIES' trimming (arXiv:2306.01708) alone, then the mean",
            settings=Prune,
        ),
        Method(
            "knots",
            "selma.merged.delta_methods:knots",
            "arXiv:2410.19735",
            settings=Knots,
            weights="vote",
            aligned=True,
        ),
        Method(
            "mean_of_skews",
            "selma.merged.rotation_methods:mean_of_skews",
            "ours, docs/paper.md; rescaled after OrthoMerge",
            accepts="rotations",
            settings=Rescaled,
        ),
        Method(
            "mean_of_logs",
            "selma.merged.rotation_methods:mean_of_logs",
            "the log-Euclidean mean, on rotations",
            accepts="rotations",
            settings=Rescaled,
        ),
        Method(
            "product",
            "selma.merged.rotation_methods:product",
            "powers in a given order",
            accepts="rotations",
            weights="sum",
            ordered=True,
        ),
        Method(
            "karcher_mean",
            "selma.merged.rotation_methods:karcher_mean",
            "Karcher's mean of rotations (Manton 2004's iteration)",
            accepts="rotations",
            settings=Rescaled,
        ),
        Method(
            "chordal_mean",
            "selma.merged.rotation_methods:chordal_mean",
            "the projected arithmetic mean (Moakher 2002)",
            accepts="rotations",
            settings=Rescaled,
        ),
        Method(
            "mean_of_rotations",
            "selma.merged.rotation_methods:mean_of_rotations",
            "the rule of SELMA's released code, on the rotated weights",
            accepts="rotations",
            orthogonal=False,
        ),
        Method(
            "ties_of_skews",
            "selma.merged.rotation_methods:ties_of_skews",
            "arXiv:2306.01708, on skew matrices",
            accepts="rotations",
            settings=TiesOfSkews,
            weights="vote",
        ),
        Method(
            "dare_of_skews",
            "selma.merged.rotation_methods:dare_of_skews",
            "arXiv:2311.03099, on skew matrices",
            accepts="rotations",
            settings=DareOfSkews,
        ),
    ),
)
"""By `merged.method`."""
