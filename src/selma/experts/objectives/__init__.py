"""The objectives that experts can be trained by: each is a learner in a file, and a row here.

Another package adds one by an entry point of the group `selma.objectives` that names an
`Objective`; its settings are then those of `experts.objective` with the row's name as `kind`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from selma.config.experts import OBJECTIVE_GROUP, DenoisingObjective
from selma.config.preferences import DpoObjective
from selma.config.rewards import DdpoObjective, DpokObjective, NftObjective, PolicyObjective
from selma.config.section import Section
from selma.experts.learners import Learner, LearnerParts
from selma.experts.objectives import ddpo, denoising, dpo, dpok, nft
from selma.registry import Table


@dataclass(frozen=True)
class Objective:
    """One row: a loss, and how an expert learns by it."""

    name: str
    settings: type[Section]
    """Its section of the settings, whose `kind` is the name."""
    learner: Callable[[Any, LearnerParts], Learner]
    """(settings, parts) → what the loop trains."""
    images: Callable[[Any], int] = lambda settings: 1
    """(settings) → images that go through the denoiser with a gradient for each sample of a
    batch."""


def _guided(settings: PolicyObjective) -> int:
    """Guidance takes a second pass, without the text."""
    return 2 if settings.guidance > 1 else 1


OBJECTIVES = Table(
    "objective",
    OBJECTIVE_GROUP,
    [
        Objective("denoising", DenoisingObjective, denoising.learner),
        Objective("nft", NftObjective, nft.NftLearner),
        Objective("ddpo", DdpoObjective, ddpo.DdpoLearner, images=_guided),
        Objective("dpok", DpokObjective, dpok.DpokLearner, images=_guided),
        Objective("dpo", DpoObjective, dpo.learner, images=lambda settings: 2),
    ],
)
