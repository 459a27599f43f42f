"""Read a config that may have sections of several applications, for one of them or for none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, overload

from selma import config, runfile
from selma.applications import APPLICATIONS
from selma.config import Run, RunConfig
from selma.workspace import STAGES


def sections() -> list[str]:
    """Names of all applications' sections."""
    return [row.section for row in APPLICATIONS.values() if row.section is not None]


@overload
def load_config(path: Path, *, folder: Path | None = None) -> RunConfig: ...
@overload
def load_config(path: Path, kind: type[Run], *, folder: Path | None = None) -> Run: ...
def load_config(path: Path, kind: Any = RunConfig, *, folder: Path | None = None) -> Any:
    """Load the settings in a YAML file (`config.load_config`) without the sections of other
    applications than that of `kind`. `folder` replaces the run's.

    Raises one ConfigError that lists the mistakes of all sections, also of those left out.
    """
    raw = config.read_mapping(path)
    config.parse_config(raw, _every_section(raw), origin=path, folder=path.parent)
    settings = config.load_config(path, kind, sections())
    return settings if folder is None else settings.model_copy(update={"folder": folder})


@overload
def read_run_file(root: Path) -> RunConfig: ...
@overload
def read_run_file(root: Path, kind: type[Run]) -> Run: ...
def read_run_file(root: Path, kind: Any = RunConfig) -> Any:
    """Read the settings of the run in `root`, whichever application wrote them last."""
    return runfile.read_run_file(root, kind, sections())


def check_config(path: Path, *, folder: Path | None = None) -> None:
    """Check all settings of a YAML file, those of applications included.

    Raises one ConfigError that lists all mistakes.
    """
    from selma.preflight import check

    raw = config.read_mapping(path)
    rows = [row for row in APPLICATIONS.values() if row.section in raw]
    settings = config.parse_config(raw, _every_section(raw), origin=path, folder=path.parent)
    if folder is not None:
        settings = settings.model_copy(update={"folder": folder})
    checks = [imported(row.mistakes) for row in rows if row.mistakes is not None]
    check(settings, mistakes=chain.from_iterable(find(settings, STAGES) for find in checks))


def _every_section(raw: Mapping[str, Any]) -> type[RunConfig]:
    """One class with all the sections that the settings have, to find all mistakes at once."""
    rows = [row for row in APPLICATIONS.values() if row.section in raw]
    classes = tuple(imported(row.settings) for row in rows if row.settings is not None)
    return type("Sections", classes, {}) if classes else RunConfig


def imported(dotted: str) -> Any:
    """Import the object that "module:name" names."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)
