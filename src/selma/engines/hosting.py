"""What runs in a worker's process: it keeps what was loaded, and does one task at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from selma import errors
from selma.engines.engine import Worker
from selma.errors import SelmaError
from selma.versions import versions
from selma.workspace import DECIDING

DONE, FAILED = "done", "failed"


class Host:
    """Lives as long as its process. threads: of PyTorch."""

    def __init__(self, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
        self._loaded: dict[Worker, Callable[[Any], Any]] = {}
        self._threads = threads

    def ready(self) -> dict[str, str]:
        """The versions of all that decides bytes, here."""
        return deciding_versions()

    def do(self, worker: Worker, task: Any) -> tuple[str, Any]:
        """(DONE, result), or (FAILED, (name of a SelmaError, its text)): pickled, an error would
        lose what its own constructor takes."""
        import torch

        torch.set_num_threads(self._threads)
        try:
            if worker not in self._loaded:
                if worker.alone or any(other.alone for other in self._loaded):
                    self._loaded.clear()
                self._loaded[worker] = worker.make(*worker.args)
            return DONE, self._loaded[worker](task)
        except SelmaError as error:
            return FAILED, (type(error).__name__, str(error))


def deciding_versions() -> dict[str, str]:
    """Package → installed version, of all packages that decide any stage's bytes."""
    return versions(sorted({name for names in DECIDING.values() for name in names}))


def result_of(outcome: tuple[str, Any]) -> Any:
    """What `do` returned as a result. Raises the SelmaError that the task raised."""
    state, value = outcome
    if state == DONE:
        return value
    name, text = value
    kind = getattr(errors, name, SelmaError)
    raise kind(text)
