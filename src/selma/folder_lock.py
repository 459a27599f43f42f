"""The lock of a run folder, held by the kernel: it ends with its process, however that ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from selma.disk import make_folder
from selma.errors import WorkspaceError
from selma.plainfiles import MOST_SETTINGS, plain_bytes

LOCK = ".lock"
LOOKING_S = 10
"""How long a shard waits for others that are looking, too."""


@contextmanager
def locked_folder(root: Path) -> Iterator[None]:
    """Hold the folder, which is made, for this process alone.

    The file stays when the lock is released: to unlink it would let two processes lock two files of
    one name. What is written into it serves the message of a process that is refused, nothing else.
    Raises WorkspaceError if another process holds the folder, or if it cannot be locked.
    """
    with _held(root, LOCK):
        for shard in sorted(root.glob(f"{LOCK}-*-of-*")):
            with _held(root, shard.name):
                pass  # nobody has it
        yield


@contextmanager
def shard_of_folder(root: Path, number: int, count: int) -> Iterator[None]:
    """Hold one shard of the folder, whose other shards may be held by other processes. Raises
    WorkspaceError if another process holds the same one, or all of the folder."""
    with _held(root, f"{LOCK}-{number + 1}-of-{count}"):
        with shared_moment(root, wait_s=LOOKING_S):
            pass  # nobody has all of it
        yield


@contextmanager
def shared_moment(root: Path, *, wait_s: float) -> Iterator[None]:
    """Hold the folder for a moment, as its shards do one after another. Raises WorkspaceError if it
    is not to be had for so long."""
    with _held(root, LOCK, wait_s=wait_s):
        yield


@contextmanager
def _held(root: Path, name: str, *, wait_s: float = 0) -> Iterator[None]:
    path = root / name
    # Without the kernel's locks filelock would take a file's existence for one, which outlives its
    # process; such a file system is refused.
    lock = FileLock(path, fallback_to_soft=False, preserve_lock_file=True, on_acquired=_sign)
    make_folder(root)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise WorkspaceError(
            f"{root} is in use by {_owner(path)}. Wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise WorkspaceError(
            f"A run folder must be writable and on a file system with file locks, but {path} could "
            f"not be locked: {error.strerror or error}. Choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _sign(descriptor: int) -> None:
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    with suppress(OSError):  # a full disk: the lock holds without its owner's name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)


def _owner(path: Path) -> str:
    try:
        owner = json.loads(plain_bytes(path, most=MOST_SETTINGS))
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "another process"  # which has not signed yet
