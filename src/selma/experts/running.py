"""One trained item of a run: what was not trained yet is, and its chosen checkpoint becomes it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selma import processes
from selma.config.experts import TrainingConfig
from selma.experts.finishing import checkpoint_scores, finish
from selma.experts.learners import Learner
from selma.experts.tracking import tracked
from selma.experts.training import fit, share_size
from selma.workspace import EXPERTS, Item, Workspace


def train_item(
    item: Item,
    learner: Callable[[], Learner],
    config: TrainingConfig,
    folder: Workspace,
    *,
    title: str,
    names: Callable[[], Sequence[str]],
    made_by: Mapping[str, Any],
    journal: Mapping[str, Any],
    dev_score: Callable[[Path], float] | None = None,
    keep_adapters: bool = False,
) -> None:
    """Train the item unless it is done; a training that was stopped goes on.

    `learner` loads the model and encodes what it needs, `names` are the samples' ids; both are
    called only if something is missing. title: what a tracker calls the training.  made_by: goes
    into the adapter's file, beside the item's key.  journal: what its line in the run's journal
    says.

    `dev_score` maps an adapter's folder to a score, higher is better, by which a checkpoint is
    chosen; without it the last is taken. `keep_adapters` keeps those of the other checkpoints.
    Raises TrainingDiverged, with the last checkpoint kept.
    """
    if item.done:
        shutil.rmtree(item.path / "checkpoints", ignore_errors=True)  # if killed just before
        return
    share_size(config)  # what is refused is refused before anything is begun
    path, started = item.begin(), time.monotonic()
    ready, ids = learner(), names()
    with tracked(config, folder.root / "tracking", title=title) as on_step:
        fit(
            ready,
            config,
            path,
            made_by={**made_by, "key": item.key},
            on_step=on_step,
            names=ids,
            keep_adapters=keep_adapters or dev_score is not None,
        )
    with processes.main_first(dev_score) as score:
        if not item.done:
            finish(
                item,
                config,
                ready.weights,
                pairs=len(ids),
                scores={} if score is None else checkpoint_scores(path, score),
                keep_adapters=keep_adapters,
            )
    folder.journal(EXPERTS, **journal, seconds=round(time.monotonic() - started, 3))
