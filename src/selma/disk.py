"""The one way to the disk: what is written is whole and flushed, what is read is a regular file,
and whatever the system refuses is one error with path, free space and advice."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from selma.errors import DataError, SelmaError, WorkspaceError
from selma.paths import AnyPath
from selma.plainfiles import plain_file

ADVICE = {
    errno.ENOSPC: "Free some space there",
    errno.EDQUOT: "Free some of your quota, or choose another folder",
    errno.EFBIG: "Raise the limit on a file's size (ulimit -f), or choose another file system",
    errno.EACCES: "Give yourself the right to read and write there",
    errno.EPERM: "Give yourself the right to read and write there",
    errno.EROFS: "Choose a folder on a file system that can be written to",
    errno.EMFILE: "Raise the limit on open files (ulimit -n)",
    errno.ENFILE: "Raise the system's limit on open files",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EIO: "Look at the system's log: the disk itself may fail",
}
"""What the system refuses a run whatever it does → what helps."""
NOT_OF_A_NAME = ADVICE.keys() - {errno.ENAMETOOLONG}
"""What it refuses whichever name is asked for."""
_SHORT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refusal(error: OSError, path: AnyPath | None = None, *, task: str = "used") -> SelmaError:
    """What the operating system refused, as our error: WorkspaceError for what `ADVICE` names and
    whatever is not written; else DataError (no file where there must be one)."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    names = list(dict.fromkeys(names)) or ([] if path is None else [str(path)])
    shown = " and ".join(name if len(name) < 300 else f"{name[:200]}..." for name in names)
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno not in ADVICE and task in ("read", "used"):
        return DataError(f"{shown} cannot be {task}: {reason}." if shown else f"{reason}.")
    advice, room = ADVICE.get(error.errno or 0, "Check space and rights"), ""
    if error.errno in _SHORT_OF_SPACE and names:
        room = _room(Path(names[0]))
    return WorkspaceError(
        f"{shown or 'Standard output, or a file,'} could not be {task}: {reason}{room}. {advice}, "
        "then run the same command again; nothing finished is lost."
    )


@contextmanager
def failures(
    path: Path | None = None, *, task: str = "written", advised: bool = False
) -> Iterator[None]:
    """What the system refuses while the block runs is `refusal`'s error. path: of what is worked on
    where the system does not say.  advised: only what `ADVICE` names; all else stays what it is."""
    try:
        yield
    except OSError as error:
        # Without a number it is a library's own, of the same class.
        if error.errno is None or (advised and error.errno not in ADVICE):
            raise
        raise refusal(error, path, task=task) from error


def _room(path: Path) -> str:
    folder = next((each for each in path.absolute().parents if each.is_dir()), None)
    try:
        free = None if folder is None else shutil.disk_usage(folder).free
    except OSError:
        free = None
    return "" if free is None else f" ({free / 2**20:,.1f} MiB are free there)"


def sync_folder(folder: Path) -> None:
    """Flush the folder's own entries to disk, so that none older is removed before."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> Path:
    """The folder, made with those above it where it is missing, each flushed into its parent."""
    with failures(path, task="made"):
        missing = [path] if not path.is_dir() else []
        missing += [parent for parent in path.parents if missing and not parent.is_dir()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in reversed(missing):
            sync_folder(folder.parent)
    return path


def move(path: Path, target: Path) -> None:
    """`path` becomes `target` in one rename, which is flushed in both folders; the target's folder
    is made."""
    make_folder(target.parent)
    with failures(target, task="moved"):
        os.replace(path, target)
        sync_folder(target.parent)
        sync_folder(path.parent)


def aside_of(path: Path) -> Path:
    """Where a file is written before it gets its name; a start that was killed may leave it."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """The file, open to be written, whole or not at all: aside, flushed to disk, renamed, folder
    flushed. What lies aside already is never written into or through, whatever it is.

    Of two that write one file at a time each writes its own, and the later one's stays. Raises
    WorkspaceError, with the old file as it was, for what the system refuses and for a folder in the
    way.
    """
    aside = aside_of(path)
    if _in_use(aside):
        aside = path.with_name(f".{path.name}.{os.getpid()}-{next(_NUMBERS)}.partial")
    with failures(path):
        make_way(path, aside)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with open(os.open(aside, flags, 0o666), "wb") as file:
            _locked(file.fileno())
            own = os.fstat(file.fileno())
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                if _is(aside, own):
                    aside.unlink()
                raise
        if not _is(aside, own):
            raise WorkspaceError(
                f"{path} could not be written: another program removed {aside}. Run the same "
                "command again; nothing finished is lost."
            )
        os.replace(aside, path)
        sync_folder(path.parent)


def make_way(path: Path, aside: Path) -> None:
    """Remove what lies where `path` is to be written aside: a link or a pipe itself, never what it
    leads to. Raises WorkspaceError for a folder, which may be somebody's."""
    if aside.is_dir() and not aside.is_symlink():
        raise WorkspaceError(
            f"{path} could not be written: {aside} beside it is a folder. Move that away, then run "
            "the same command again; nothing finished is lost."
        )
    aside.unlink(missing_ok=True)


_NUMBERS = count()


def _locked(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if somebody else has. Where there are no such
    locks, nobody has."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


def _in_use(aside: Path) -> bool:
    """Whether a process that lives is writing this file, rather than one that was killed."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(aside, flags)
    except OSError:
        return False
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)


def _is(path: Path, own: os.stat_result) -> bool:
    """Whether the file of this name is the one that this process made."""
    try:
        return os.path.samestat(path.lstat(), own)
    except OSError:
        return False


def write_bytes(path: Path, data: bytes) -> None:
    """The whole file or nothing; see `written`."""
    with written(path) as file:
        file.write(data)


@contextmanager
def folder_written(path: Path) -> Iterator[Path]:
    """An empty folder to be filled, which becomes `path` as a whole, or goes if the block fails;
    `path` must not be there. Its name aside is new: nothing of others lies in it."""
    make_folder(path.parent)
    with failures(path), TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
        aside = Path(place) / path.name
        aside.mkdir()
        yield aside
        os.replace(aside, path)
        sync_folder(path.parent)


def promote(aside: Path, path: Path) -> None:
    """A file that a library wrote as `aside` becomes `path`, flushed and in one rename."""
    with failures(path):
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)


def append_bytes(path: Path, data: bytes) -> None:
    """In one write at the file's end, flushed to disk before this returns; so is the name of a new
    file."""
    with failures(path):
        is_new = not path.exists()
        with open(path, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(path.parent)


@contextmanager
def regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open to be read. Raises what `refusal` makes of an OSError, and DataError for
    anything else: a pipe or a device would be waited for, or never end."""
    with failures(path, task="read"), plain_file(path) as file:
        yield file


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """All bytes of a regular file; see `regular`. Raises DataError for more than `most` of them."""
    with regular(path) as file:
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise DataError(f"{path} must have at most {most:,} bytes, but is larger. Remove it.")
    return data


def impossible(name: str) -> str:
    """Why there can be neither a file nor a folder of ours by this name; "" where there can."""
    if "\0" in name:
        return "no path has a NUL character"
    try:
        mode = Path(name).stat().st_mode
    except OSError as error:
        never = (errno.ENAMETOOLONG, errno.ELOOP)
        return f"{error.strerror}" if error.errno in never else ""
    except ValueError as error:  # half a character
        return str(error)
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "it is neither a file nor a folder"


def is_regular(path: Path) -> bool:
    """Whether there is a regular file, links followed; False, too, where that cannot be told (a
    link to itself, a name too long)."""
    try:
        return path.is_file()
    except (OSError, ValueError, RuntimeError):
        return False
