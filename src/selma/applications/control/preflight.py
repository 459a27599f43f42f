"""Mistakes in the settings of `selma control` that show before a model library is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from selma.applications.control.settings import BranchNetwork, ControlRun, label_of
from selma.preflight import block_mistakes


def mistakes(config: ControlRun, make: Sequence[str]) -> Iterator[str]:
    """What keeps the stages in `make` from starting."""
    control = config.control
    folder = getattr(control.data.source, "folder", None)
    if folder is not None and not Path(folder).is_dir():
        yield f"control.data.source.folder: {folder} must be a folder, but is missing."
    if control.scores.palette is not None and not Path(control.scores.palette).is_file():
        yield f"control.scores.palette: {control.scores.palette} must be a file, but is missing."
    if isinstance(control.network, BranchNetwork):
        for mistake in block_mistakes(control.network.adapter, config.base.model):
            yield f"control.network, {label_of(control.network)}: {mistake}"
