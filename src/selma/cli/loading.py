"""The settings that a command is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selma.config import RunConfig


def load(config: Path, folder: Path | None) -> RunConfig:
    """A run's settings, with the sections of applications that stand beside them."""
    from selma.applications.loading import load_config

    return load_config(config, folder=folder)
