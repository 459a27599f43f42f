"""Read a config that may have sections of several applications, for one of them or for none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, overload

from selma import config, runfile
from selma.applications import APPLICATIONS, Application
from selma.config import Run, RunConfig
from selma.config.guides import GuideSettings
from selma.disk import is_regular
from selma.errors import ConfigError, WorkspaceError
from selma.paths import AnyPath, as_path
from selma.records.data_sets import DataSet
from selma.workspace import STAGES


@overload
def load_config(path: AnyPath, *, folder: AnyPath | None = None) -> RunConfig: ...
@overload
def load_config(path: AnyPath, kind: type[Run], *, folder: AnyPath | None = None) -> Run: ...
def load_config(path: AnyPath, kind: Any = RunConfig, *, folder: AnyPath | None = None) -> Any:
    """Load the settings in a YAML file (`config.load_config`), of `kind` and with every section of
    an application that the file has. `folder` replaces the run's.

    Raises one ConfigError that lists the mistakes of all sections.
    """
    path = as_path(path)
    folder = None if folder is None else as_path(folder)
    raw = config.read_mapping(path)
    if (own := _own_file(path)) is not None:
        raise ConfigError(f"{path} has {own.mark}, so that it is a file for `{own.takes}`.")
    every = _every_section(raw, kind)
    settings = config.parse_config(raw, every, origin=path, folder=path.parent)
    settings = settings if folder is None else settings.model_copy(update={"folder": folder})
    if (owner := _owner(settings.run_folder)) is not None:
        raise ConfigError(
            f"folder: {settings.run_folder} is of `{owner.takes}`. Give the run another name or "
            "folder."
        )
    return settings


@overload
def read_run_file(root: AnyPath) -> RunConfig: ...
@overload
def read_run_file(root: AnyPath, kind: type[Run]) -> Run: ...
def read_run_file(root: AnyPath, kind: Any = RunConfig) -> Any:
    """Read the settings of the run in `root`, whichever application wrote them last."""
    root = as_path(root)
    if (owner := _owner(root)) is not None:
        raise WorkspaceError(
            f"{root} must be the folder of a run, but is of `{owner.takes}`, whose --dry-run shows "
            "what is there."
        )
    raw = runfile.read_settings(root)
    every = _every_section(raw, kind)
    settings = config.parse_config(raw, every, origin=root / runfile.NAME, folder=root)
    return settings.model_copy(update={"folder": root})


def check_config(path: AnyPath, *, folder: AnyPath | None = None) -> None:
    """Check all settings of a YAML file, those of applications included.

    Raises one ConfigError that lists all mistakes.
    """
    from selma.preflight import check

    path = as_path(path)
    folder = None if folder is None else as_path(folder)
    if (own := _own_file(path)) is not None and own.check is not None:
        imported(own.check)(path, folder=folder)
        return
    settings = load_config(path, folder=folder)
    rows = [row for row in APPLICATIONS.values() if row.section in type(settings).model_fields]
    checks = [imported(row.mistakes) for row in rows if row.mistakes is not None]
    check(settings, mistakes=chain.from_iterable(find(settings, STAGES) for find in checks))


def runs_of(path: AnyPath) -> dict[str, RunConfig]:
    """Name → settings of each run that a YAML file describes; most have one."""
    path = as_path(path)
    if (own := _own_file(path)) is not None and own.runs is not None:
        runs: dict[str, RunConfig] = imported(own.runs)(path)
        return runs
    settings = load_config(path)
    return {settings.name: settings}


def guides_of(path: AnyPath) -> dict[str, GuideSettings]:
    """Name → guide of each run that a YAML file describes, of those that have any."""
    path = as_path(path)
    if (own := _own_file(path)) is None or own.guides is None:
        return {}
    guides: dict[str, GuideSettings] = imported(own.guides)(path)
    return guides


def _own_file(path: Path) -> Application | None:
    """The application that has files of this kind; None for a run's settings."""
    marks = config.read_mapping(path).keys()
    return next((row for row in APPLICATIONS.values() if row.mark in marks), None)


def _owner(folder: Path) -> Application | None:
    """The application whose command made the folder, in its own layout; None for a run's."""
    rows = [row for row in APPLICATIONS.values() if row.leaves is not None]
    return next((row for row in rows if is_regular(folder / str(row.leaves))), None)


def _every_section(raw: Mapping[str, Any], kind: type[RunConfig]) -> type[RunConfig]:
    """`kind` with all the sections that the settings have, to find all mistakes at once."""
    rows = [row for row in APPLICATIONS.values() if row.section in raw]
    classes = [imported(row.settings) for row in rows if row.settings is not None]
    others = [section for section in classes if section is not kind]
    return type("Sections", (*others, kind), {}) if others else kind


def data_sets() -> list[DataSet]:
    """The data sets that applications read and that nobody may pass on."""
    named = (row.data_sets for row in APPLICATIONS.values() if row.data_sets is not None)
    return [data_set for rows in named for data_set in imported(rows)]


def imported(dotted: str) -> Any:
    """Import the object that "module:name" names. Raises ConfigError."""
    module, _, name = dotted.partition(":")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # another package's code may fail in any way
        raise ConfigError(
            f"{dotted}, which an application names, cannot be loaded: "
            f"{type(error).__name__}: {error}."
        ) from error
