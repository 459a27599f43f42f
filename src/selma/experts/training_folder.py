"""What a training leaves while it runs: a line of the log for each step, and checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from torch import nn

from selma import processes
from selma.adapters.files import Lineage
from selma.config.experts import TrainingConfig
from selma.disk import failures, make_folder, read_regular, sync_folder
from selma.errors import DataError, WorkspaceError
from selma.experts import checkpoints
from selma.experts.finishing import LOG
from selma.experts.learners import Learner
from selma.experts.optimizing import Optimization
from selma.record_files import json_text
from selma.workspace import write_bytes


class TrainingFolder:
    """`loss.jsonl` and `checkpoints/`. Of several processes the main one writes, and all read."""

    def __init__(
        self,
        path: Path,
        learner: Learner,
        config: TrainingConfig,
        *,
        made_by: Mapping[str, Any],
        keep_adapters: bool,
    ) -> None:
        self.log_path, self.checkpoints = path / LOG, path / "checkpoints"
        self.learner, self.config = learner, config
        self.made_by, self.keep_adapters = made_by, keep_adapters

    def due(self, step: int) -> bool:
        """Whether the settings ask for a checkpoint after this step."""
        return step % self.config.checkpoint_every == 0 or step == self.config.steps

    def resume(self, parameters: Mapping[str, nn.Parameter], optimization: Optimization) -> int:
        """The step of the newest complete checkpoint, from which everything is put back; 0 if
        there is none. What came after it is removed.

        Raises WorkspaceError unless all processes see the same checkpoint.
        """
        make_folder(self.checkpoints)
        newest, step = checkpoints.newest(self.checkpoints), 0
        if newest is not None:
            weights = self.learner.weights
            tensors = weights.read(newest.path / weights.file)
            checkpoints.restore(newest, tensors, factors=parameters, optimization=optimization)
            step = newest.step
        _require_agreement(step, self.checkpoints)
        if processes.main():
            checkpoints.drop(
                self.checkpoints, unless=lambda n: n == step or (n < step and self.due(n))
            )
            _cut_log(self.log_path, step)
        return step

    @contextmanager
    def log(self) -> Iterator[TextIO]:
        """The log, open to be added to."""
        path = self.log_path if processes.main() else os.devnull
        is_new = not self.log_path.exists()
        with failures(self.log_path), open(path, "a", encoding="utf-8") as file:
            if is_new and processes.main():
                sync_folder(self.log_path.parent)
            yield file

    def save(
        self,
        step: int,
        parameters: Mapping[str, nn.Parameter],
        optimization: Optimization,
        log: TextIO,
    ) -> None:
        """Write the checkpoint after this step, and remove what it makes superfluous."""
        if not processes.main():
            return
        os.fsync(log.fileno())  # a checkpoint promises its log
        weights = self.learner.weights
        lineage = Lineage(
            base=self.learner.model.fingerprint, made_by={**self.made_by, "step": step}
        )
        checkpoints.write(
            self.checkpoints,
            step=step,
            factors=parameters,
            optimization=optimization,
            file=weights.file,
            save=partial(weights.save, parameters=parameters, lineage=lineage),
        )
        if self.due(step):  # one that a signal asked for goes when the next is there
            checkpoints.drop(self.checkpoints, unless=self.due)
        checkpoints.tidy(self.checkpoints, keep_adapters=self.keep_adapters)


def write_line(log: TextIO, line: Mapping[str, Any]) -> None:
    """Add a line to the log, for others to see at once."""
    log.write(json_text(line) + "\n")
    log.flush()


def _require_agreement(step: int, root: Path) -> None:
    """Raises WorkspaceError unless every process found the same checkpoint."""
    steps = processes.gathered(step)
    if len(set(steps)) > 1:
        raise WorkspaceError(
            f"Each process must see the same checkpoints in {root}, but they found steps {steps}. "
            "Wait until their disks agree, then run the same command again."
        )


def _cut_log(path: Path, steps: int) -> None:
    """Cut the log to what it was at the checkpoint: what came after is trained, and logged, again.

    Raises DataError if it has fewer lines than the checkpoint has steps.
    """
    lines = read_regular(path).splitlines(keepends=True) if path.exists() else []
    if len(lines) < steps:
        raise DataError(
            f"{path} must have a line for each of {steps} steps, but has {len(lines)}. Remove "
            f"{path.parent} to train this expert anew."
        )
    write_bytes(path, b"".join(lines[:steps]))
