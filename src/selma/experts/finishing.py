"""The end of a training: one checkpoint's adapter becomes the result, and the rest goes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.config.experts import TrainingConfig
from selma.disk import failures, make_folder, regular, written
from selma.errors import DataError
from selma.experts.learners import TrainedWeights
from selma.record_files import read_record, read_rows
from selma.records.experts import Expert
from selma.records.rows import Loss, StepScore
from selma.workspace import Item, append_line, read_lines, write_json

LOG = "loss.jsonl"
ENERGY = "energy.json"
SELECTION = "selection.jsonl"
REWARDS = "rewards.jsonl"
ROUNDS = "rounds"
"""Folder of what objectives that learn in rounds leave of each."""
STEPS = "steps"
"""Folder of the adapters at the checkpoints before the last, where they are kept."""


def checkpoint_scores(path: Path, score: Callable[[Path], float]) -> dict[int, float]:
    """Step → score of each checkpoint; a score that is on record is not asked for again."""
    from selma.experts.checkpoints import adapters

    record = path / SELECTION
    scores = {row["step"]: row["score"] for row in read_rows(record, StepScore, repair=True)}
    for step, folder in adapters(path / "checkpoints"):
        if step not in scores:
            value = float(score(folder))
            if not math.isfinite(value):
                raise DataError(
                    f"A checkpoint's score must be a number, but {value} came at step {step}."
                )
            append_line(record, {"step": step, "score": value})
            scores[step] = value
    return scores


def read_energies(experts: Sequence[Expert]) -> dict[str, Any]:
    """Skill → hyperspherical energy before and after, of experts that are rotations."""
    files = {expert.skill: expert.folder / ENERGY for expert in experts}
    return {
        skill: read_record(file, dict[str, Any]) for skill, file in files.items() if file.is_file()
    }


def finish(
    item: Item,
    config: TrainingConfig,
    weights: TrainedWeights,
    *,
    pairs: int,
    scores: Mapping[int, float],
    keep_adapters: bool = False,
) -> None:
    """Make the chosen checkpoint's adapter the item's, and remove the checkpoints.

    The best of the scores is chosen; without any, the last. Its energies are written beside it,
    where the kind of adapter has them; with `keep_adapters` the other checkpoints' adapters stay,
    each in its `step_folder`.
    """
    from selma.experts.checkpoints import adapters, checkpoint_folder

    # Of equal scores the earlier: it changed the base less.
    best = max(sorted(scores), key=lambda step: scores[step]) if scores else config.steps
    file = weights.file
    chosen = checkpoint_folder(item.path / "checkpoints", best) / file
    with regular(chosen) as source, written(item.path / file) as target:
        shutil.copyfileobj(source, target)
    losses = [row["loss"] for row in read_rows(item.path / LOG, Loss)]
    files = [item.path / file, item.path / LOG]
    for step, folder in adapters(item.path / "checkpoints") if keep_adapters else ():
        if step != best:
            copy = step_folder(item.path, step) / file
            make_folder(copy.parent)
            with failures(copy):
                shutil.copyfile(folder / file, copy)
            files.append(copy)
    if (energies := weights.energies(chosen)) is not None:
        write_json(item.path / ENERGY, energies)
        files.append(item.path / ENERGY)
    rounds, counts = round_files(item.path)
    files += rounds
    item.finish(
        files + ([item.path / SELECTION] if scores else []),
        {
            "pairs": pairs,
            "steps": config.steps,
            "chosen_step": best,
            "scores": {str(step): score for step, score in scores.items()},
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "skipped_steps": sum(loss is None for loss in losses),
            **counts,
        },
    )
    shutil.rmtree(item.path / "checkpoints")


def round_files(path: Path) -> tuple[list[Path], dict[str, int]]:
    """Files of an expert's rounds, and how many images these had; neither without rounds."""
    files = [file for file in sorted((path / ROUNDS).rglob("*")) if file.is_file()]
    rewarded = [file for file in files if file.name == REWARDS]
    if not rewarded:
        return files, {}
    images = sum(len(read_lines(file)) for file in rewarded)
    return files, {"rounds": len(rewarded), "images_generated": images, "images_judged": images}


def step_folder(folder: Path, step: int) -> Path:
    """The folder, in a trained item's, of the adapter of a checkpoint before the last."""
    return folder / STEPS / f"{step:06d}"
