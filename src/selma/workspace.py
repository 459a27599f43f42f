"""The run folder: paths, what is done, what made it, whole-or-nothing writes.

An *item* is one folder that is made by one recipe (settings, parents, versions) and finished by its
manifest, written last. A folder that another recipe left is moved to `superseded/`: never mixed,
never lost. Manifests hold no times, so equal recipes leave equal bytes; times go to the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from selma import processes
from selma.errors import DataError, WorkspaceError
from selma.folder_lock import locked_folder
from selma.paths import AnyPath, as_path

PROMPTS, IMAGES, EXPERTS = "1-prompts", "2-images", "3-experts"
MERGED, SCORES, REPORT = "4-merged", "5-scores", "6-report"
STAGES = (PROMPTS, IMAGES, EXPERTS, MERGED, SCORES, REPORT)

_PLAN_ASIDE = ".plan.json.partial"  # as `write_bytes` names it


def without_empty(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without its entries that are None or an empty list or mapping.

    What is off leaves no trace, so that results without it stay what they are when it is added to a
    recipe. False, 0 and "" are values; inside an entry nothing is left out.
    """
    return {
        name: value
        for name, value in recipe.items()
        if not (value is None or (isinstance(value, Mapping | list | tuple) and not value))
    }


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """16 hex digits that change with anything in the recipe (JSON values only) that is not empty;
    see `without_empty`."""
    return hashlib.sha256(_canonical(without_empty(recipe)).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """The whole file or nothing: written aside, flushed to disk, renamed, folder flushed."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise WorkspaceError(
            f"{path} could not be written: {error.strerror}. Check space and rights, then run "
            "the same command again; nothing finished is lost."
        ) from error


def write_json(path: AnyPath, value: Any) -> None:
    path = as_path(path)
    write_bytes(
        path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the item in this folder; {} if it is not finished."""
    return read_json(folder / "manifest.json") or {}


def promote(aside: Path, path: Path) -> None:
    """A file that a library wrote as `aside` becomes `path`, flushed and in one rename."""
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """One JSON line, flushed to disk before this returns."""
    append_lines(path, [value])


def append_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines in one write, flushed to disk before this returns: one wait for the disk."""
    lines = [json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n" for value in values]
    with open(path, "ab") as file:
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, *, repair: bool = False) -> list[dict[str, Any]]:
    """The JSON objects of a JSON-lines file; [] if there is none.

    With `repair`, a torn last line (a crash while appending) is cut off the file. Any other damage
    is a DataError with its line number.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    if repair and data and not data.endswith(b"\n"):
        data = data[: data.rfind(b"\n") + 1]
        write_bytes(path, data)
    rows = []
    # Not splitlines: it also splits at U+2028 and its like, which may stand inside a prompt.
    text = data.decode("utf-8", errors="replace").removesuffix("\n")
    for number, line in enumerate(text.split("\n") if text else (), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number} must be one JSON object, but is {line[:80]!r}. "
                "Remove the file to have it made again."
            )
        rows.append(row)
    return rows


def inside(root: Path, name: str) -> Path:
    """`root/name`, refused if it would leave the root (.., absolute, links, drive letters)."""
    if "\0" in name or not name.strip():
        raise DataError(f"A file name must be printable and not empty, but {name!r} came.")
    path = (root / name).resolve()
    if Path(name).is_absolute() or ":" in name or not path.is_relative_to(root.resolve()):
        raise DataError(f"Files must lie inside {root}, but {name!r} leads out of it.")
    return path


class Item:
    """One folder made by one recipe. `begin`, fill `path`, `finish`."""

    def __init__(
        self,
        root: Path,
        name: str,
        recipe: Mapping[str, Any],
        *,
        beginning: Callable[[], None] | None = None,
    ) -> None:
        self.root = root
        self.name = name
        self.beginning = beginning
        self.path = root / name
        self.recipe = recipe
        self.key = recipe_key(recipe)

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """What `finish` wrote, if this very recipe was finished and every file is there in its
        full size; else None."""
        manifest = read_json(self.path / "manifest.json")
        if manifest is None or manifest.get("key") != self.key:
            return None
        for name, entry in manifest["files"].items():
            file = self.path / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                return None
        return manifest

    @property
    def done(self) -> bool:
        return self.manifest is not None

    @property
    def summary(self) -> dict[str, Any]:
        """The counts given to `finish`; only of a finished item."""
        if self.manifest is None:
            raise WorkspaceError(f"{self.path} is not finished; run its stage first.")
        return self.manifest["summary"]

    def verify(self) -> None:
        """Read every file and compare its sha256 with the manifest. Raises WorkspaceError."""
        if self.manifest is None:
            raise WorkspaceError(f"{self.path} is not finished; run its stage first.")
        for name, entry in self.manifest["files"].items():
            if file_sha256(self.path / name) != entry["sha256"]:
                raise WorkspaceError(
                    f"{self.path / name} is damaged: its sha256 is not the manifest's. "
                    f"Remove {self.path} and run again."
                )

    def begin(self, *, guests: Collection[str] = ()) -> Path:
        """The folder, ready to be filled or filled further.

        What another recipe left in it is moved to `superseded/`, except `guests`: names in it that
        are not the item's own. Of several processes the main one begins, and all return.
        """
        if processes.main():
            if self.beginning:
                self.beginning()
            self._begin(guests)
        processes.wait()
        self.__dict__.pop("manifest", None)
        return self.path

    def _begin(self, guests: Collection[str]) -> None:
        plan = read_json(self.path / "plan.json")
        if self.path.exists() and (plan is None or plan.get("key") != self.key):
            names = {file.name for file in self.path.iterdir()}
            if plan is None and names <= {_PLAN_ASIDE, *guests}:
                pass  # killed between making the folder and having written the plan
            else:
                superseded = self._supersede(str((plan or {}).get("key", "unknown")))
                self.path.mkdir()
                for name in names.intersection(guests):
                    os.replace(superseded / name, self.path / name)
        self.path.mkdir(parents=True, exist_ok=True)
        if plan is None or plan.get("key") != self.key:
            write_json(self.path / "plan.json", {"key": self.key, "recipe": self.recipe})
        (self.path / "manifest.json").unlink(missing_ok=True)

    def finish(self, files: Iterable[Path], summary: Mapping[str, Any]) -> None:
        """Write the manifest, after which the item is done. Of several processes the main one
        writes it, when all have come here."""
        processes.wait()
        if processes.main():
            self._finish(files, summary)
        processes.wait()
        self.__dict__.pop("manifest", None)

    def _finish(self, files: Iterable[Path], summary: Mapping[str, Any]) -> None:
        entries = {
            file.relative_to(self.path).as_posix(): {
                "bytes": file.stat().st_size,
                "sha256": file_sha256(file),
            }
            for file in sorted(files)
        }
        write_json(
            self.path / "manifest.json",
            {
                "key": self.key,
                "recipe": self.recipe,
                "files": entries,
                "summary": dict(summary),
            },
        )

    def _supersede(self, old_key: str) -> Path:
        for number in range(1000):
            suffix = old_key if number == 0 else f"{old_key}-{number}"
            target = self.root / "superseded" / f"{self.name.replace('/', '_')}-{suffix}"
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.path, target)
                return target
        raise WorkspaceError(f"{self.root / 'superseded'} is full; remove what is not needed.")


class Workspace:
    """One run's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()  # as `inside` gives paths, so that they can be compared
        self.beginning: Callable[[], None] | None = None
        """Called before an item is begun."""

    def item(self, stage: str, *names: str, recipe: Mapping[str, Any]) -> Item:
        """The item `root/stage/names...`, whose recipe is what its key depends on: all that is not
        empty. Nothing is created before `begin`."""
        name = "/".join((stage, *names))
        inside(self.root, name)
        plain = json.loads(_canonical(without_empty(recipe)))
        return Item(self.root, name, plain, beginning=self.beginning)

    def folder_of(self, stage: str, *names: str) -> Path:
        """Where the item of these names lies that was last asked for, by whatever recipe."""
        return inside(self.root, "/".join((stage, *names)))

    def journal(self, stage: str, **facts: Any) -> None:
        """Add a line to the run's journal: times, costs, whatever is not part of a result. Of
        several processes only the main one does."""
        if not processes.main():
            return
        self.root.mkdir(parents=True, exist_ok=True)
        append_line(self.root / "journal.jsonl", {"time": time.time(), "stage": stage, **facts})

    def read_journal(self) -> list[dict[str, Any]]:
        return read_lines(self.root / "journal.jsonl", repair=processes.main())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process, or for one run's processes together, of which the main
        one has the lock; see `locked_folder`."""
        processes.wait()  # so that all are joined, and end if the main process finds it taken
        if not processes.main():
            processes.wait()
            yield
            return
        with locked_folder(self.root):
            processes.wait()
            yield


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def sync_folder(folder: Path) -> None:
    """Flush the folder's own entries to disk, so that none older is removed before."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
