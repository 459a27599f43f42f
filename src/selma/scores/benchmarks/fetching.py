"""Download a benchmark's public files by https into a folder, and verify their checksums.

A file is written whole or not at all. If its sha256 is not known beforehand, it must at least be
readable as the benchmark, and its sum is kept beside it as `<file>.sha256`.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from selma.disk import regular
from selma.errors import ConfigError, DataError, FetchError
from selma.paths import AnyPath, as_path
from selma.plainfiles import plain_text
from selma.progress import progress
from selma.scores.benchmarks import BENCHMARKS, Benchmark
from selma.scores.benchmarks.layouts import RemoteFile
from selma.texts import legible
from selma.workspace import file_sha256, promote, write_bytes

_BLOCK = 1 << 16
_MOST_RECORD = 4096
"""Bytes of a checksum's file."""


@dataclass(frozen=True)
class Fetched:
    """One file in the folder."""

    path: Path
    sha256: str
    pinned: bool
    """The sum is the one that selma knows; otherwise it is that of the first download."""
    new: bool


def fetch(
    benchmark: Benchmark, folder: AnyPath, *, timeout_s: float = 30.0, longest_s: float = 600.0
) -> list[Fetched]:
    """Fetch the benchmark's files into `folder`; files with their checksum are not fetched again.

    timeout_s: for the server to answer or go on; longest_s: for one file in all. Raises FetchError
    (no network, refused, cut short, too large, not the file) with nothing written under the file's
    name and no empty folder left, and DataError if another file has this name: it is never
    overwritten.
    """
    folder = as_path(folder)
    new_folders = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return [
            _present(folder, file)
            or _bring(benchmark, file, folder, timeout_s=timeout_s, longest_s=longest_s)
            for file in benchmark.files
        ]
    finally:
        with suppress(OSError):  # one that holds something stays, and those around it
            for each in new_folders:
                each.rmdir()


def verify(benchmark: Benchmark, folder: AnyPath) -> list[Fetched]:
    """Read the benchmark's files in `folder` and compare their checksums.

    Raises DataError for a file that is missing, differs, or has no sum to compare with.
    """
    folder = as_path(folder)
    verified = []
    for file in benchmark.files:
        present = _present(folder, file)
        if present is None:
            raise DataError(
                f"{folder / file.name} is missing. Run `selma data fetch {benchmark.name} "
                f"--to {folder}`."
            )
        verified.append(present)
    return verified


def is_file_of(benchmark: Benchmark, path: Path) -> bool:
    """Whether this is one of the benchmark's files, whatever it is called, or a folder in which
    some of them lie and no other file has their names, by their checksums."""
    if path.is_dir():
        present = [file for file in benchmark.files if (path / file.name).exists()]
        return bool(present) and all(_is_whole(path, file) for file in present)
    return any(_is_whole(path.parent, replace(f, name=path.name)) for f in benchmark.files)


def _is_whole(folder: Path, file: RemoteFile) -> bool:
    try:
        return _present(folder, file) is not None
    except DataError:
        return False


def fetchables() -> list[Benchmark]:
    """The benchmarks that have files to fetch."""
    return [row for row in BENCHMARKS.values() if row.files]


def told(benchmark: Benchmark) -> list[str]:
    """A benchmark's name, layout, source, licence, and each file's address and checksum; of many
    files only how many they are."""
    lines = [
        f"{benchmark.name}: {benchmark.layout}",
        f"  source: {benchmark.source}",
        f"  licence: {benchmark.licence or 'not known'}",
    ]
    files = benchmark.files
    shown = files if len(files) <= _MOST_LISTED else files[:1]
    for file in shown:
        lines.append(f"  {file.url}")
        lines.append(f"    {_sum_of(file)}")
    if len(files) > len(shown):
        pinned = sum(file.sha256 is not None for file in files)
        lines.append(f"  and {len(files) - 1} more beside it; of all {pinned} the sha256 is known")
    return lines


_MOST_LISTED = 6


def _sum_of(file: RemoteFile) -> str:
    if file.sha256 is not None:
        return f"sha256 {file.sha256}"
    if file.git_blob is not None:
        return f"git blob {file.git_blob}"
    return "no checksum is known; that of the first download is kept"


def fetchable(name: str) -> Benchmark:
    """The benchmark of this name, if it has files to fetch. Raises ConfigError otherwise."""
    offered = {row.name: row for row in fetchables()}
    if name not in offered:
        raise ConfigError(f"A benchmark must be one of {', '.join(offered)}, but {name!r} came.")
    return offered[name]


def _present(folder: Path, file: RemoteFile) -> Fetched | None:
    """The file, if it exists; None if it does not. Raises DataError unless it has its checksum."""
    path = folder / file.name
    if not path.exists():
        return None
    if file.sha256 is None and file.git_blob is not None:
        return _present_by_blob(path, file.git_blob)
    wanted = file.sha256 or _recorded(path)
    if wanted is None:
        raise DataError(
            f"{path} is there, but nothing tells whether it is whole: it has no known checksum and "
            f"no {path.name}.sha256 beside it. Move it away to have it fetched."
        )
    digest = file_sha256(path)
    if digest != wanted:
        raise DataError(
            f"{path} must have the sha256 {wanted}, but has {digest}. It is another file or "
            "damaged; move it away to have it fetched again."
        )
    return Fetched(path, digest, pinned=file.sha256 is not None, new=False)


def _present_by_blob(path: Path, wanted: str) -> Fetched:
    blob = git_blob(path)
    if blob != wanted:
        raise DataError(
            f"{path} must be git's blob {wanted}, but is {blob}. It is another file or damaged; "
            "move it away to have it fetched again."
        )
    return Fetched(path, file_sha256(path), pinned=True, new=False)


def git_blob(path: Path) -> str:
    """What git calls a file of this content: `git hash-object FILE`."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _recorded(path: Path) -> str | None:
    try:
        words = plain_text(path.with_name(f"{path.name}.sha256"), most=_MOST_RECORD).split()
    except (OSError, UnicodeDecodeError):
        return None
    return words[0] if words else None


def _bring(
    benchmark: Benchmark, file: RemoteFile, folder: Path, *, timeout_s: float, longest_s: float
) -> Fetched:
    path = folder / file.name
    # The name stays, since layouts are recognised by it; the folder is new, so that nothing of
    # others lies in it, and no link leads out of it.
    with TemporaryDirectory(prefix=".partial-", dir=folder) as place:
        aside = Path(place) / file.name
        aside.parent.mkdir(parents=True, exist_ok=True)
        digest = _download(file, aside, timeout_s=timeout_s, longest_s=longest_s)
        pinned = _is_pinned(file, aside, digest)
        if not pinned:
            _readable(benchmark, file, aside)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not pinned:
            write_bytes(path.with_name(f"{path.name}.sha256"), f"{digest}  {path.name}\n".encode())
        promote(aside, path)
    return Fetched(path, digest, pinned=pinned, new=True)


def _is_pinned(file: RemoteFile, aside: Path, digest: str) -> bool:
    """Whether a checksum of the file is known; raises FetchError if this is another file."""
    if file.sha256 is not None:
        known, wanted, came = "the sha256", file.sha256, digest
    elif file.git_blob is not None:
        known, wanted, came = "git's blob", file.git_blob, git_blob(aside)
    else:
        return False
    if came != wanted:
        raise FetchError(
            f"{file.url} must have {known} {wanted}, but what came has {came}: it was changed on "
            "its way or at its source. Nothing was written; get it by another way and name its "
            "path."
        )
    return True


def _download(file: RemoteFile, aside: Path, *, timeout_s: float, longest_s: float) -> str:
    """Download the file to `aside`, and return its sha256."""
    digest, count, until = hashlib.sha256(), 0, time.monotonic() + longest_s
    request = urllib.request.Request(file.url, headers={"User-Agent": "selma"})
    try:
        with _opener(file.url).open(request, timeout=timeout_s) as answer, aside.open("wb") as out:
            length = answer.headers.get("Content-Length", "")
            promised = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
            _check_size(file, promised or 0)
            with progress(file.name, total=promised or file.max_bytes) as bar:
                # read1 returns what has come, so that a slow drip cannot outlast the limit.
                while block := answer.read1(_BLOCK):
                    digest.update(block)
                    out.write(block)
                    count += len(block)
                    _check_size(file, count)
                    bar(len(block))
                    if time.monotonic() > until:
                        raise FetchError(f"{file.url} took longer than {longest_s:g} s.{_ELSE}")
            if promised is not None and count != promised:
                raise FetchError(
                    f"{file.url} was cut short: {count} of {promised} bytes came.{_ELSE}"
                )
    except urllib.error.HTTPError as error:
        with error:
            raise FetchError(
                f"{file.url} answered {error.code} {legible(str(error.reason))[:100]}.{_ELSE}"
            ) from None
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{file.url} could not be fetched: {_why(error)}.{_ELSE}") from error
    return digest.hexdigest()


_ELSE = (
    " Nothing was written. Run the same command again, or, where there is no network, bring the "
    "file by another way and name its path."
)


def _why(error: Exception) -> str:
    reason: Any = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, socket.gaierror):
        return "its server was not found; there may be no network"
    return str(reason) or type(reason).__name__


def _check_size(file: RemoteFile, count: int) -> None:
    if count > file.max_bytes:
        raise FetchError(
            f"{file.url} must have at most {file.max_bytes} bytes, but has {count} or more: it is "
            "not the file that it was."
        )


def _readable(benchmark: Benchmark, file: RemoteFile, aside: Path) -> None:
    if not file.alone:
        return
    try:
        if not benchmark.recognises(aside):
            raise DataError(f"it is not {benchmark.layout}")
        if benchmark.read is not None:
            benchmark.read(aside)
    except DataError as error:
        raise FetchError(
            f"What {file.url} sent is not the file: {error} Nothing was written."
        ) from error


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Follows a redirect within the server that is asked, never to another one."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if _origin(newurl) != _origin(req.full_url):
            with suppress(OSError):
                fp.close()
            raise FetchError(
                f"{req.full_url} leads to another server, {legible(newurl)[:200]}, which is not "
                f"asked.{_ELSE}"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _opener(url: str) -> urllib.request.OpenerDirector:
    if urlsplit(url).scheme not in ("https", "http"):
        raise FetchError(f"Files are fetched by https, but {url} came.")
    return urllib.request.build_opener(_SameServer)


def describe(files: Sequence[Fetched]) -> list[str]:
    """Two lines for each file: its path and sum, and whether the sum is known to be right."""
    lines = []
    for file in files:
        state = "fetched" if file.new else "there"
        lines.append(f"{file.path} ({state}), sha256 {file.sha256}")
        lines.append(
            "  is the file that selma knows."
            if file.pinned
            else f"  selma knows no checksum of this file; this one is kept in {file.path.name}."
            "sha256: compare it with another source."
        )
    return lines
