"""The rounds of objectives that learn from an expert's own images, as the one loop sees them.

    3-experts/<skill>/rounds/000001/rewards.jsonl    every image of the round with its reward
    3-experts/<skill>/rounds/000001/<image>.png      some of them
    3-experts/<skill>/checkpoints/round-000001.safetensors    what its steps learn from

A round follows from the weights at its start alone, so that it is made again where it was cut
short; there is a checkpoint after its last step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from selma import processes
from selma.errors import ConfigError, DataError
from selma.experts.finishing import ROUNDS

if TYPE_CHECKING:
    from torch import nn

    from selma.experts.learners import Learner

Tell = Callable[[str], None]
"""Shows how far a round is."""


class RoundLearner(Protocol):
    """What a learner has beside `Learner` if it learns in rounds."""

    updates_per_round: int

    def begin_round(
        self, files: RoundFiles, parameters: Mapping[str, nn.Parameter], tell: Tell
    ) -> None:
        """Make what the round's steps learn from by the weights as they are, or read it."""
        ...

    def image_names(self) -> Sequence[str]:
        """The images of this round, which the indices of its batches mean."""
        ...


class RoundFiles:
    """Where a round's files are, in the folder of an expert."""

    def __init__(self, path: Path, number: int) -> None:
        self.expert, self.number = path, number
        self.folder = path / ROUNDS / f"{number:06d}"

    def state(self, name: str = "round", *, back: int = 0) -> Path:
        """A file that lasts as long as the round; `back`: of an earlier round."""
        return self.expert / "checkpoints" / f"{name}-{self.number - back:06d}.safetensors"


class Rounds:
    """The rounds of a learner, if it has any."""

    def __init__(
        self, learner: Learner, path: Path, parameters: Mapping[str, nn.Parameter], *, start: int
    ) -> None:
        """start: how many steps are done. What a training that went further left is removed."""
        self.path, self.parameters = path, parameters
        steps: int | None = getattr(learner, "updates_per_round", None)
        self.steps, self.begun = steps, 0
        self.learner: RoundLearner | None = learner if steps else None  # type: ignore[assignment]
        if steps and processes.count() > 1:
            raise ConfigError(
                "An objective that learns in rounds trains an expert in one process; set "
                "experts.spread to experts."
            )
        if steps:
            self._keep(start // steps + 1)

    def before(self, step: int, tell: Tell) -> None:
        """Begin the round of step 1, 2, ... unless it has begun."""
        if self.learner is None or self.steps is None:
            return
        number = (step - 1) // self.steps + 1
        if number != self.begun:
            files = RoundFiles(self.path, number)
            if (step - 1) % self.steps and not files.state().exists():
                raise DataError(
                    f"{files.state()} must hold what round {number} learns from, but is missing. "
                    f"Remove {self.path} to train this expert anew."
                )
            self.learner.begin_round(files, self.parameters, tell)
            self.begun = number

    def end_with(self, step: int) -> bool:
        """Whether a round has its last step then."""
        return self.steps is not None and step % self.steps == 0

    def names(self, names: Sequence[str]) -> Sequence[str]:
        """What the indices of a batch mean; `names` without rounds."""
        return names if self.learner is None else self.learner.image_names()

    def _keep(self, last: int) -> None:
        """Remove all rounds after this one, which begins with the weights as they are now."""
        for path in (self.path / ROUNDS).glob("[0-9]*"):
            if int(path.name) > last:
                shutil.rmtree(path)
        for path in (self.path / "checkpoints").glob("*-*.safetensors"):
            if int(path.stem.rpartition("-")[2]) > last:
                path.unlink()
