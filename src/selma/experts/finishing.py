"""The end of a training: one checkpoint's adapter becomes the result, and the rest goes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.experts import TrainingConfig
from selma.errors import DataError
from selma.experts.training import LOG
from selma.records.experts import Expert
from selma.workspace import Item, append_line, promote, read_lines, write_json

ENERGY = "energy.json"
SELECTION = "selection.jsonl"
STEPS = "steps"
"""Folder of the adapters at the checkpoints before the last, where they are kept."""


def diagnostics(path: Path, judge: Callable[[Path], float]) -> dict[int, float]:
    """Step → score of each checkpoint; a score that is on record is not asked for again."""
    from selma.experts.checkpoints import adapters

    record = path / SELECTION
    scores = {row["step"]: row["score"] for row in read_lines(record, repair=True)}
    for step, folder in adapters(path / "checkpoints"):
        if step not in scores:
            score = float(judge(folder))
            if not math.isfinite(score):
                raise DataError(f"A score must be a number, but the judge gave {score} at {step}.")
            append_line(record, {"step": step, "score": score})
            scores[step] = score
    return scores


def read_energies(experts: Sequence[Expert]) -> dict[str, Any]:
    """Skill → hyperspherical energy before and after, of experts that are rotations."""
    files = {expert.skill: expert.folder / ENERGY for expert in experts}
    return {
        skill: json.loads(file.read_text("utf-8"))
        for skill, file in files.items()
        if file.is_file()
    }


def finish(
    item: Item,
    config: TrainingConfig,
    *,
    pairs: int,
    scores: Mapping[int, float],
    file: str = ADAPTER_FILE,
    look: Callable[[Path], Mapping[str, Any]] | None = None,
    keep_adapters: bool = False,
) -> None:
    """The chosen checkpoint's adapter becomes the item's; then the checkpoints go. What `look` says
    of the adapter is kept beside it, and with `keep_adapters` those of the other checkpoints, each
    in its `step_folder`."""
    from selma.experts.checkpoints import adapters, checkpoint_folder

    # Of equal scores the earlier: it changed the base less.
    best = max(sorted(scores), key=lambda step: scores[step]) if scores else config.steps
    chosen = checkpoint_folder(item.path / "checkpoints", best) / file
    aside = item.path / f".{file}.partial"
    shutil.copyfile(chosen, aside)
    promote(aside, item.path / file)
    losses = [row["loss"] for row in read_lines(item.path / LOG)]
    files = [item.path / file, item.path / LOG]
    for step, folder in adapters(item.path / "checkpoints") if keep_adapters else ():
        if step != best:
            kept = step_folder(item.path, step) / file
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, kept)
            files.append(kept)
    if look is not None:
        write_json(item.path / ENERGY, look(chosen))
        files.append(item.path / ENERGY)
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
        },
    )
    shutil.rmtree(item.path / "checkpoints")


def step_folder(folder: Path, step: int) -> Path:
    """Where the adapter of a checkpoint before the last lies, in a trained item's folder."""
    return folder / STEPS / f"{step:06d}"
