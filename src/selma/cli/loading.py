"""The settings that a command is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selma.config import RunConfig


def load(config: Path, folder: Path | None) -> RunConfig:
    """A run's settings. Sections of applications, which may stand beside them, are passed over."""
    from selma.applications.loading import load_config

    return load_config(config, folder=folder)
