"""Training's log, shown live in TensorBoard or Weights & Biases. It never becomes an artefact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selma import processes
from selma.config.experts import TrainingConfig
from selma.disk import make_folder
from selma.errors import ConfigError


@contextmanager
def tracked(
    config: TrainingConfig, folder: Path, *, title: str
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that takes each line of the log; it does nothing unless a tracker is set."""
    if config.tracker == "none" or not processes.main():
        yield lambda line: None
        return
    tracker = _started(config.tracker, folder, title)
    tracker.store_init_configuration({"skill": title, "learning_rate": config.learning_rate})
    try:
        yield lambda line: tracker.log(
            {key: value for key, value in line.items() if value is not None}, step=line["step"]
        )
    finally:
        tracker.finish()


def _started(name: str, folder: Path, title: str) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    PartialState()  # the trackers ask it whether they are in the main process
    make_folder(folder)
    try:
        tracker = (
            TensorBoardTracker(title, folder)
            if name == "tensorboard"
            else WandBTracker("selma", name=title, dir=str(folder))
        )
        tracker.main_process_only = False  # which process reports is decided above
        tracker.start()
    except ImportError as error:
        raise ConfigError(
            f"experts.tracker is {name!r}, but it is not installed. Run `pip install {name}`, or "
            "set experts.tracker to none."
        ) from error
    return tracker
