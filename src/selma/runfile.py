"""run.json at the root of a run: its settings, and the versions that ran it last; those that made
an item are in its recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selma.config import RunConfig
from selma.config.places import map_paths, without_secrets
from selma.errors import WorkspaceError
from selma.texts import without_logins
from selma.versions import versions
from selma.workspace import DECIDING, Workspace, read_json, write_json

NAME = "run.json"
_PACKAGES = tuple(dict.fromkeys(name for names in DECIDING.values() for name in names))


def installed_versions() -> dict[str, str]:
    """Package → installed version, of those that can change a result. Imports none of them."""
    return versions(_PACKAGES)


def write_run_file(config: RunConfig, folder: Workspace) -> None:
    """Writes run.json, unless these very settings are there."""
    value = {"settings": portable(config, folder.root), "versions": installed_versions()}
    if read_json(folder.root / NAME) != value:
        write_json(folder.root / NAME, value)


def portable(config: RunConfig, root: Path) -> dict[str, Any]:
    """The settings as JSON, without what belongs to one machine alone.

    Paths start from the run's folder, so that both may move together; the folder itself, its store,
    where work is done and a password in a server's address are left out.
    """
    start = root.absolute()
    moved = map_paths(
        config,
        move=lambda name: Path(os.path.relpath(name, start)).as_posix(),
        is_folder=os.path.isdir,
    )
    settings: dict[str, Any] = _hidden(
        without_secrets(moved).model_dump(mode="json", exclude={"folder", "engine", "storage"})
    )
    return settings


def _hidden(value: Any) -> Any:
    """The settings without passwords of addresses that stand where no address is expected."""
    if isinstance(value, str):
        return without_logins(value)
    if isinstance(value, dict):
        return {_hidden(key): _hidden(entry) for key, entry in value.items()}
    return [_hidden(entry) for entry in value] if isinstance(value, list) else value


def read_settings(root: Path) -> dict[str, Any]:
    """The settings of the run in `root`, unchecked. Raises WorkspaceError if it is no run."""
    value = read_json(root / NAME)
    if value is None or not isinstance(value.get("settings"), dict):
        held = f"has no readable {NAME}" if root.is_dir() else "is a file"
        raise WorkspaceError(
            f"{root} must be the folder of a run, but {held if root.exists() else 'is missing'}. "
            f"Name another one, or let `selma run CONFIG --folder {root}` make it."
        )
    settings: dict[str, Any] = value["settings"]
    return settings
