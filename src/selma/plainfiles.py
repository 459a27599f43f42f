"""Files that others name: regular ones of bounded size, since a pipe never ends and a disk fills
the memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

MOST_SETTINGS = 16_000_000
"""Bytes of a network's settings, which may name each layer."""

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def plain_bytes(path: Path, *, most: int) -> bytes:
    """The file's content. Raises OSError, with the reason as its `strerror`, unless it is a regular
    file of at most `most` bytes; nothing is waited for."""
    with plain_file(path) as file:
        # Files of /proc tell no size, and others grow while they are read.
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else None
    if data is None or len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {_size(most)}", str(path))
    return data


def plain_head(path: Path, *, most: int) -> bytes:
    """The first bytes of a regular file. Raises OSError as `plain_bytes`."""
    with plain_file(path) as file:
        return file.read(most)


def plain_text(path: Path, *, most: int, encoding: str = "utf-8") -> str:
    """The file's text. Raises as `plain_bytes`, and ValueError where it is no such text."""
    text = plain_bytes(path, most=most).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def plain_file(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open to be read. Raises OSError as `plain_bytes`."""
    # Opening a pipe would wait for whoever writes into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with open(descriptor, "rb") as file:
        if kind := next((kind for is_kind, kind in _KINDS if is_kind(mode)), None):
            raise OSError(errno.EINVAL, f"it is {kind}, and must be a regular file", str(path))
        yield file


def _size(count: int) -> str:
    for name, unit in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"
