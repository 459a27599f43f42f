"""Manifests of finished items, and whether the files that they name are still what they say.

A file's sha256 is computed when it is first used in a process, and remembered for as long as its
inode, size and times stay what they are: to look again costs a `stat`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from selma.disk import failures, is_regular, read_regular, written
from selma.errors import DataError, SelmaError, WorkspaceError
from selma.plainfiles import plain_file

FILE, PLAN = "manifest.json", "plan.json"
SUPERSEDED = "superseded"
"""The run's folder of what was put aside."""
SELF = "sha256"
"""The entry with the digest of all other entries."""
PARENTS = "parents"
"""The entry with the digests of the items that this one was made of."""
ROWS = "rows"
"""The entry with what stands for the rows of large files, see `finished_rows`."""
MANY = 2**20
"""Bytes of a file of rows, of some 6,000, from which on it has such an entry."""
_ENTRIES = {"key", "recipe", "files", "summary", PARENTS, ROWS, SELF}
DEEPEST = 4
"""Folders between a file and its item's, at most."""
_REMEMBERED_MANIFESTS = 64
_PART = 2_000
"""Files of a manifest that are made text of at a time."""
_SMALL = 2**20
"""Bytes of a file that is read at once."""
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""A pipe is not waited for."""

State = tuple[int, int, int, int, int]
_digests: dict[State, str] = {}
_manifests: OrderedDict[Path, tuple[State, dict[str, Any] | None]] = OrderedDict()
_contents: ContextVar[bool] = ContextVar("contents are compared", default=True)


@contextmanager
def sizes_only() -> Iterator[None]:
    """While the block runs, files are held against their manifests by size alone: for a glance at a
    run, which uses nothing of it."""
    token = _contents.set(False)
    try:
        yield
    finally:
        _contents.reset(token)


def file_sha256(path: Path) -> str:
    """In hex, of the bytes that are there now. A pipe or a device is refused, not waited for."""
    with failures(path, task="read"), plain_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """In hex; a file is read again only if its inode, size or times are others."""
    with failures(path, task="read"):
        state = state_of(path.stat())
    if (digest := _digests.get(state)) is None:
        digest = _digests[state] = file_sha256(path)
    return digest


def forget() -> None:
    """Forget all digests, so that files are read again: as a new process would."""
    _digests.clear()
    _manifests.clear()


def canonical(value: Any) -> str:
    """The text whose digest stands for the value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own digest."""
    return {**manifest, SELF: _digest(manifest)}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in this folder; None where there is none, or none that a finished item has: of
    another shape, or with a digest that is not its own."""
    path = folder / FILE
    try:
        state = state_of(path.stat())
    except (OSError, ValueError):
        return None
    known = _manifests.get(path)
    if known is None or known[0] != state:
        known = (state, _parsed(path))
        _manifests[path] = known
        while len(_manifests) > _REMEMBERED_MANIFESTS:
            _manifests.popitem(last=False)
    _manifests.move_to_end(path)
    return known[1]


def contents_digest(manifest: Mapping[str, Any]) -> str:
    """What tells an item's files from others of the same recipe."""
    return _digest({"files": manifest["files"]})


def has_many_rows(entry: Mapping[str, Any]) -> bool:
    """Whether a file of rows, by its entry, is so large that rows are only read to be used."""
    return bool(entry["bytes"] >= MANY)


def faults(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """File of the item → what is wrong with it: nothing, for an item that is whole."""
    top, is_sound = f"{folder}/", _is_this_file if _contents.get() else _is_of_this_size
    wrong = {
        name: _fault(folder / name, entry)
        for name, entry in manifest["files"].items()
        if not is_sound(top + name, entry)
    }
    return {name: fault for name, fault in wrong.items() if fault}


def _is_of_this_size(path: str, entry: Mapping[str, Any]) -> bool:
    """Whether it is a regular file of its size. No more than one look, at a path that is a text, as
    there may be a million; what is wrong, and all that is odd, `_fault` tells."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == entry["bytes"]


def _is_this_file(path: str, entry: Mapping[str, Any]) -> bool:
    """As `_is_of_this_size`, and of its sha256, which is remembered. Large files are left to
    `_fault`."""
    if entry["bytes"] > _SMALL:
        return False
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError):
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry["bytes"]:
            return False
        state, wanted = state_of(status), entry["sha256"]
        if (digest := _digests.get(state)) is None:
            digest = hashlib.sha256(os.read(descriptor, status.st_size + 1)).hexdigest()
            if digest == wanted:
                _digests[state] = wanted  # the same text: a million have 100 MB
        return bool(digest == wanted)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def verified(path: Path, *, raises: type[SelmaError] = DataError) -> Path:
    """The path itself. Raises `raises` if it is a file of a finished item and not what the
    item's manifest says; files of nobody's manifest pass.

    Whatever reads a file of a run by its path comes by here: rows, records, images, adapters.
    """
    if (entry := _entry(path, raises)) is not None and (fault := _fault(path, entry)):
        raise raises(
            f"{path} is damaged: {fault}. The command that made it makes it again; or restore it "
            "from a copy."
        )
    return path


def all_faults(root: Path) -> Iterator[tuple[Path, str]]:
    """(file, what is wrong with it) of finished items in the folder, superseded ones aside. Raises
    the error of a folder that cannot be read: what is not looked at is not sound."""
    for path in _named_so(root):
        if not _is_of_an_item(path) or SUPERSEDED in path.relative_to(root).parts:
            continue
        manifest = read_manifest(path.parent)
        if manifest is None:
            yield path, NO_MANIFEST
            continue
        plan = {"key": manifest["key"], "recipe": manifest["recipe"]}
        if json_value(path.with_name(PLAN)) != plan:
            yield path.with_name(PLAN), NO_MANIFEST
        for name, entry in manifest["files"].items():
            try:
                fault = _fault(path.parent / name, entry)
            except SelmaError as error:
                fault = f"it cannot be verified: {error}"
            if fault:
                yield path.parent / name, fault


def _named_so(root: Path) -> list[Path]:
    """What has a manifest's name, in order."""

    def refused(error: OSError) -> None:
        with failures(Path(error.filename or root), task="read"):
            raise error

    walked = os.walk(root, onerror=refused)
    return sorted(Path(place, FILE) for place, names, files in walked if FILE in (*files, *names))


NO_MANIFEST = "it is not what was written"


def _is_of_an_item(path: Path) -> bool:
    """Whether a manifest is one of ours, in whatever state, rather than one of something else."""
    return os.path.lexists(path.with_name(PLAN)) and os.path.lexists(path)


def _fault(path: Path, entry: Mapping[str, Any]) -> str:
    if not is_regular(path):
        return "it is missing" if not os.path.lexists(path) else "it is no regular file"
    with failures(path, task="read"):
        size = path.stat().st_size
    if size != entry["bytes"]:
        return f"it has {size} bytes, but its manifest says {entry['bytes']}"
    if _contents.get() and remembered_sha256(path) != entry["sha256"]:
        return "its sha256 is not the manifest's"
    return ""


def _entry(path: Path, raises: type[SelmaError]) -> Mapping[str, Any] | None:
    absolute = path.absolute()
    for folder in absolute.parents[:DEEPEST]:
        manifest = read_manifest(folder)
        if manifest is None and _is_of_an_item(folder / FILE):
            raise raises(
                f"{folder / FILE} is damaged: {NO_MANIFEST}, so that {path} cannot be verified. "
                "The command that made it makes it again; or restore it from a copy."
            )
        entry = manifest and manifest["files"].get(absolute.relative_to(folder).as_posix())
        if entry:
            return dict(entry)
    return None


def _parsed(path: Path) -> dict[str, Any] | None:
    value = json_value(path)
    return value if _is_manifest(value) else None


def json_value(path: Path) -> Any:
    """The JSON in a regular file; None where there is none that can be read."""
    try:
        return json.loads(read_regular(path))
    except (DataError, WorkspaceError, ValueError, RecursionError):
        return None


def _is_manifest(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        return False
    parts = [value.get(name) for name in ("files", "recipe", "summary")]
    parts += [value.get(name, {}) for name in (PARENTS, ROWS)]
    if not all(isinstance(each, dict) for each in parts):
        return False
    if not all(
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
        for entry in value["files"].values()
    ):
        return False
    if not all(
        isinstance(facts, dict)
        and isinstance(facts.get("count"), int)
        and facts["count"] >= 0
        and isinstance(facts.get("digest"), str)
        for facts in value.get(ROWS, {}).values()
    ):
        return False
    if not value.keys() <= _ENTRIES:  # a name that is damaged
        return False
    own = value.get(SELF)  # earlier manifests have none
    return own is None or own == _digest({key: value[key] for key in value if key != SELF})


def _digest(manifest: Mapping[str, Any]) -> str:
    """sha256 of `canonical`, of which no more than a part is in memory."""
    digest = hashlib.sha256()
    for part in _canonical_parts(manifest):
        digest.update(part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _canonical_parts(manifest: Mapping[str, Any]) -> Iterator[str]:
    # The other entries' names come after this one, in order.
    files, others = manifest["files"], {k: v for k, v in manifest.items() if k != "files"}
    yield '{"files": {'
    for number, part in enumerate(_parts_of(files)):
        yield (", " if number else "") + canonical(part)[1:-1]
    yield "}, " + canonical(others)[1:] if others else "}}"


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, signed, as `workspace.write_json` would; of its files no more than a part
    is text in memory."""
    with_digest = signed(manifest)
    text = _indented({**with_digest, "files": {}}) + "\n"
    before, after = text.split('"files": {}', 1) if with_digest["files"] else (text, "")
    with written(folder / FILE) as out:
        out.write(before.encode())
        if with_digest["files"]:
            out.write(b'"files": {')
            for number, part in enumerate(_parts_of(with_digest["files"])):
                lines = _indented({"files": part}).split("\n")[2:-2]
                out.write((",\n" if number else "\n").encode() + "\n".join(lines).encode())
            out.write(b"\n }")
            out.write(after.encode())


def _indented(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


def _parts_of(files: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The files in their order, some thousands at a time."""
    names = sorted(files)
    for start in range(0, len(names), _PART):
        yield {name: files[name] for name in names[start : start + _PART]}


def state_of(status: os.stat_result) -> State:
    # The time of the last change cannot be set back, unlike that of the last writing.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
